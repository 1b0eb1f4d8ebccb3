"""Drawing: the layout as data, then the files."""
import random
import sys
import time

import pytest

from helpers.networks import GENOTYPES
from nasnet_zoo import GenotypeWarning, load_genotype
from nasnet_zoo.drawing import BLOCK_WIDTH, COLOURS, MAX_INCHES, Layout, draw, lay_out
from nasnet_zoo.genotype.operations import COMBINE_NAMES, FAMILIES, OP_NAMES, OPERATIONS
from nasnet_zoo.genotype.schema import Cell

matplotlib = pytest.importorskip('matplotlib')


def random_genotype(seed: int, blocks: int, inputs: int, outputs: int = 1, reach: int = 80) -> dict:
    """Cells in which each block reads among the `reach` newest states, and every operation and combine comes up."""
    rng = random.Random(seed)

    def cell():
        states, made, read = [f'h{k}' for k in range(inputs)], [], set()
        for i in range(blocks):
            sides = {side: [rng.choice(OP_NAMES), rng.choice(states[-reach:])] for side in ('left', 'right')}
            sides['left'][0] = OP_NAMES[i % len(OP_NAMES)]
            made.append({**sides, 'combine': COMBINE_NAMES[i % len(COMBINE_NAMES)]})
            read.update(state for op, state in sides.values() if OPERATIONS[op].reads_state)
            states.append(f'b{i}')
        loose = [state for state in states[inputs:] if state not in read] + ['h0']
        return {'blocks': made, 'outputs': [loose[k::outputs] or ['h0'] for k in range(outputs)]}

    return {'format': 1, 'name': 'random', 'inputs': inputs, 'normal': cell(), 'reduction': cell()}


def one_block(**cell) -> dict:
    block = {'left': ['identity', 'h0'], 'right': ['conv_3x3', 'h1']}
    cell = {'blocks': [block, {**block, 'combine': 'concat'}], **cell}
    return {'format': 1, 'name': 'small', 'normal': cell, 'reduction': cell}


CELLS = {f'{name}.{kind}': cell for name in GENOTYPES for kind, cell in load_genotype(name).cells.items()}
for _i, _arguments in enumerate([(1, 10, 2), (2, 17, 4, 2), (3, 24, 1), (4, 30, 16, 5), (5, 20, 3, 1, 2)]):
    CELLS[f'random{_i}'] = load_genotype(random_genotype(*_arguments)).normal


@pytest.fixture(scope='module', params=CELLS)
def placed(request):
    cell = CELLS[request.param]
    return cell, lay_out(cell)


def overlap(a, b, slack: float = 1e-6) -> bool:
    """Whether two rectangles (left, right, bottom, top) have points inside both."""
    return all(a[i] < b[i + 1] - slack and b[i] < a[i + 1] - slack for i in (0, 2))


def rectangle(box):
    return box.x - box.width / 2, box.x + box.width / 2, box.bottom, box.top


def edges(layout: Layout):
    return sorted((line.source, line.target) for line in layout.lines)


def expected_edges(cell: Cell):
    for block in (state for state in cell.live if state[0] == 'b'):
        yield from ((state, f'{block}.{side}') for side, state in cell.blocks[int(block[1:])].reading.items())
        yield from ((f'{block}.{side}', block) for side in ('left', 'right'))
    for k, output in enumerate(cell.outputs):
        yield from ((state, f'out{k}') for state in output)
        if len(output) > 1:
            yield f'out{k}', f'out{k}.state'


def test_every_live_edge_and_no_other_is_drawn(placed):
    cell, layout = placed
    assert edges(layout) == sorted(expected_edges(cell))


def test_boxes_do_not_overlap(placed):
    rectangles = [rectangle(box) for box in placed[1].boxes.values()]
    assert not any(overlap(a, b) for i, a in enumerate(rectangles) for b in rectangles[:i])


def test_lines_go_up_from_box_to_box(placed):
    boxes = placed[1].boxes
    for line in placed[1].lines:
        heights = [y for _, y in line.points]
        assert all(low < high for low, high in zip(heights, heights[1:]))
        for (x, y), box, edge in ((line.points[0], boxes[line.source], 'top'),
                                  (line.points[-1], boxes[line.target], 'bottom')):
            assert y == pytest.approx(getattr(box, edge)) and abs(x - box.x) <= box.width / 2


def test_no_line_runs_over_a_box(placed):
    rectangles = [rectangle(box) for box in placed[1].boxes.values()]
    for line in placed[1].lines:
        for i, ((x0, y0), (x1, y1)) in enumerate(zip(line.points, line.points[1:])):
            assert i % 2 == 0 or x0 == x1
            stretch = min(x0, x1) - 0.05, max(x0, x1) + 0.05, y0, y1
            assert not any(overlap(stretch, box) for box in rectangles)


def test_labels_and_colours_tell_what_it_is(placed):
    cell, layout = placed
    for state in (state for state in cell.live if state[0] == 'b'):
        block = cell.blocks[int(state[1:])]
        for side in ('left', 'right'):
            op, box = getattr(block, side)[0], layout.boxes[f'{state}.{side}']
            words = box.label.replace('iden\ntity', 'identity').replace('factor.', 'factorized').split()
            assert all(word in op for word in words) and box.colour in op and box.colour in COLOURS
        assert layout.boxes[state].label.replace('\n', '_').replace(' ', '_') == block.combine
        if block.combine == 'concat':  # its operands have an order
            assert layout.boxes[f'{state}.left'].x < layout.boxes[f'{state}.right'].x


def test_every_family_has_a_colour():
    assert set(FAMILIES) <= set(COLOURS) and len(set(COLOURS.values())) == len(COLOURS)


def test_labels_are_distinct():
    cells = load_genotype(random_genotype(0, 34, 2)).cells.values()
    looks = {}
    for cell in cells:
        layout = lay_out(cell)
        for i, block in enumerate(cell.blocks):
            for side in ('left', 'right'):
                box = layout.boxes[f'b{i}.{side}']
                looks.setdefault((box.label, box.colour), set()).add(getattr(block, side)[0])
    assert len(looks) == len(OP_NAMES) and all(len(ops) == 1 for ops in looks.values())


def test_nasnet_a_normal_stands_as_in_figure_4():
    boxes = lay_out(load_genotype('nasnet_a').normal).boxes
    order = sorted((f'b{i}' for i in range(5)), key=lambda name: boxes[name].x)
    assert order[:3] == ['b4', 'b0', 'b2'] and len({boxes[name].y for name in order}) == 1
    assert boxes['out0'].width > 4 * BLOCK_WIDTH and boxes['out0'].label == 'filter concat'
    assert boxes['h0'].x < boxes['h1'].x
    assert [boxes[name].label for name in ('h0', 'h1', 'out0.state')] == ['$h_i$', '$h_{i-1}$', '$h_{i+1}$']


def test_nasnet_b_has_four_outputs_without_concatenation():
    for cell in load_genotype('nasnet_b').cells.values():
        boxes = lay_out(cell).boxes
        assert [boxes[f'out{k}'].label for k in range(4)] == [f'output {k}' for k in range(4)]
        assert not any(box.label == 'filter concat' for box in boxes.values())


def test_dead_blocks_are_not_drawn():
    with pytest.warns(GenotypeWarning):
        cell = load_genotype(one_block(outputs=[['b1']])).normal
    assert {name.partition('.')[0] for name in lay_out(cell).boxes} == {'h0', 'h1', 'b1', 'out0'}
    with pytest.warns(GenotypeWarning):
        cell = load_genotype(one_block(outputs=[['h1']])).normal
    assert edges(lay_out(cell)) == [('h1', 'out0')]


def test_what_only_the_classifier_reads_is_drawn():
    layout = lay_out(load_genotype(one_block(outputs=[['b1', 'h0']], head=['h0', 'h1', 'b0', 'b1'])).normal)
    assert ('b0', 'head') in edges(layout) and layout.boxes['head'].label == 'classifier'


def test_layout_is_deterministic():
    cell = CELLS['random0']
    assert lay_out(cell) == lay_out(cell)


@pytest.mark.parametrize('genotype', ['nasnet_a', 'nasnet_c', random_genotype(0, 17, 16, 2)])
def test_words_fit_into_their_boxes_and_the_picture(genotype):
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.patches import FancyBboxPatch
    if isinstance(genotype, dict):
        genotype['name'], genotype['source'] = 'W' * 100, 'long ' * 200
    figure = draw(genotype)
    renderer = FigureCanvasAgg(figure).get_renderer()
    boxes = [patch.get_window_extent(renderer) for patch in figure.findobj(FancyBboxPatch)]
    hits = 0
    for text in figure.axes[0].texts:
        extent = text.get_window_extent(renderer)
        around = [box for box in boxes if box.contains(*extent.get_points().mean(0))]
        hits += len(around)
        for outer in around or [figure.bbox]:
            assert outer.containsx(extent.x0) and outer.containsx(extent.x1)
            assert outer.containsy(extent.y0) and outer.containsy(extent.y1), text.get_text()
    assert hits >= len(boxes)
    assert not any(box.overlaps(extent) for box in boxes for extent in (
        text.get_window_extent(renderer) for text in figure.axes[0].texts[:2]))


@pytest.mark.parametrize('suffix', ['.png', '.svg', '.pdf', '.SVG'])
def test_files_are_the_same_whatever_the_settings(suffix, tmp_path):
    starts = {'.png': b'\x89PNG', '.svg': b'<?xml', '.pdf': b'%PDF'}
    draw('nasnet_b', tmp_path / f'a{suffix}', dpi=50)
    with matplotlib.rc_context({'font.size': 30, 'axes.facecolor': 'red', 'svg.fonttype': 'none',
                                'lines.linewidth': 9, 'patch.edgecolor': 'red', 'text.parse_math': True}):
        settings = dict(matplotlib.rcParams)
        draw('nasnet_b', str(tmp_path / f'b{suffix}'), dpi=50)
        assert dict(matplotlib.rcParams) == settings
    written = (tmp_path / f'a{suffix}').read_bytes()
    assert written == (tmp_path / f'b{suffix}').read_bytes()
    assert written.startswith(starts[suffix.lower()]) and len(written) > 5000


@pytest.mark.parametrize('path', ['cell.jpg', 'cell', 'svg', 'cell.svg.gz'])
def test_unknown_suffix(path, tmp_path):
    with pytest.raises(ValueError, match=r'\.svg, \.png, \.pdf'):
        draw('nasnet_a', tmp_path / path)
    assert not list(tmp_path.iterdir())


@pytest.mark.filterwarnings('ignore:Glyph')
@pytest.mark.parametrize('source', [
    '$\\frac{', 'a $x_1^2$ b', '_^{}\\', '\u6f22\u5b57 \U0001f600', 'x\x00y\x1b[0m\n\n\t', '', 'w' * 1000])
def test_source_is_text_and_nothing_else(source, tmp_path):
    figure = draw({**random_genotype(0, 2, 2), 'name': 'a_b_.-', 'source': source}, tmp_path / 'cell.svg', dpi=50)
    name, shown = (text.get_text() for text in figure.axes[0].texts[:2])
    assert name == 'a_b_.-' and shown.count('\n') < 2
    assert shown.replace('\n', ' ') == ' '.join(source.replace('\x00', ' ').replace('\x1b', ' ').split()) or len(
        source) == 1000


@pytest.mark.parametrize('reach, inputs, outputs', [(80, 16, 16), (1, 1, 1)], ids=['wide', 'tall'])
def test_the_largest_cells_stay_bounded(reach, inputs, outputs):
    start = time.process_time()
    figure = draw(random_genotype(6, 64, inputs, outputs, reach))
    assert time.process_time() - start < 5  # writing it takes about as long again
    assert max(figure.get_size_inches()) <= MAX_INCHES + 1e-6


def test_needs_neither_pyplot_nor_a_display(monkeypatch):
    monkeypatch.setitem(sys.modules, 'matplotlib.pyplot', None)
    monkeypatch.delenv('DISPLAY', raising=False)
    assert draw('nasnet_a').get_facecolor() == (1, 1, 1, 1)


def test_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, 'matplotlib', None)
    with pytest.raises(ImportError, match=r'pip install "nasnet-zoo\[draw\]"'):
        draw('nasnet_a')

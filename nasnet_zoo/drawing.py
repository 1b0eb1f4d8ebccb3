"""Draws the two cells of a genotype in the style of figures 4, 7 and 8 of the NASNet paper (arXiv:1707.07012).

:func:`lay_out` places the boxes and lines of a cell, as plain data, and :func:`draw` paints both cells with matplotlib.
The layout follows Sugiyama's method: depth determines the row, barycentres determine the order within a row. A line
that passes a row has a place of its own in it, so that no line crosses a box.
"""
import math
import os
import random
import textwrap
from bisect import bisect_right, insort
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, List, Mapping, Optional, Sequence, Tuple, Union

from .extras import require
from .files import atomic_write
from .genotype.loader import load_genotype
from .genotype.operations import COMBINES, OPERATIONS
from .genotype.schema import Block, Cell, Genotype

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ['draw', 'lay_out', 'Box', 'Line', 'Layout']

# Tints of Okabe and Ito's palette, which colour-blind readers can distinguish. Black text is legible on all of them.
# The keys are those of `genotype.operations.FAMILIES`, and 'state'.
COLOURS = {
    'state': '#ffffff', 'sep': '#f6cf71', 'conv': '#9fd0f0', 'pool': '#d98fbd', 'identity': '#d9d9d9',
    'none': '#f4f4f4', 'combine': '#7cc9a0', 'concat': '#cfeab8',
}
INK = '#333333'

# Lengths, in units of the layout.
OP_WIDTH, OP_HEIGHT, OP_GAP = 0.86, 0.72, 0.1
BLOCK_WIDTH = 2 * OP_WIDTH + OP_GAP
STATE_WIDTH, STATE_HEIGHT, COMBINE_WIDTH, COMBINE_HEIGHT, RISE = 1., 0.56, 1.4, 0.56, 0.36
ROW_HEIGHT = OP_HEIGHT + RISE + COMBINE_HEIGHT
BOX_GAP, LINE_GAP, FOOT_GAP = 0.36, 0.22, 0.4
FONT_SIZE, MATH_SIZE, LINE_WIDTH, HEAD = 0.27, 0.36, 0.035, 0.15
STRAIGHTNESS = 4  # weight of a line that passes a row, relative to a line that ends there
UNIT_INCHES, MAX_INCHES = 0.55, 40.  # drawings larger than MAX_INCHES are scaled down

SAVE_OPTIONS = {  # by suffix; without a date, so that the same genotype gives the same bytes
    '.svg': dict(metadata={'Date': None}),
    '.png': dict(),
    '.pdf': dict(metadata={'CreationDate': None}),
}

Point = Tuple[float, float]


@dataclass(frozen=True)
class Box:
    """A box: its centre, its size, its text, and the key of its colour."""
    x: float
    y: float
    width: float
    height: float
    label: str
    colour: str

    @property
    def bottom(self) -> float:
        return self.y - self.height / 2

    @property
    def top(self) -> float:
        return self.y + self.height / 2


@dataclass(frozen=True)
class Line:
    """An arrow from the top of one box to the bottom of another. Its even segments lean, its odd ones are vertical."""
    source: str
    target: str
    points: Tuple[Point, ...]


@dataclass(frozen=True)
class Layout:
    """Lines of a cell, and its boxes by name: ``h0``, ``b0``, its operations ``b0.left`` and ``b0.right``, ``out0``."""
    boxes: Dict[str, Box]
    lines: Tuple[Line, ...]

    @property
    def extent(self) -> Tuple[float, float, float]:
        """Left, right and top of the drawing; the bottom is 0."""
        xs = [x for line in self.lines for x, _ in line.points]
        xs += [box.x + side * box.width / 2 for box in self.boxes.values() for side in (-1, 1)]
        return min(xs), max(xs), max(box.top for box in self.boxes.values())


def _spread(wanted: Sequence[float], gaps: Sequence[float], weights: Sequence[float]) -> List[float]:
    """Return the positions closest to `wanted` (weighted least squares) that keep their order and `gaps` between them.

    The solution is exact: without the running sum of the gaps, this is isotonic regression, which pooling adjacent
    violators solves.
    """
    shifts = [0., *accumulate(gaps)]
    pools: List[Tuple[float, float, int]] = []  # mean, weight, members
    for want, shift, weight in zip(wanted, shifts, weights):
        mean, members = want - shift, 1
        while pools and pools[-1][0] > mean:
            other, other_weight, other_members = pools.pop()
            mean = (mean * weight + other * other_weight) / (weight + other_weight)
            weight, members = weight + other_weight, members + other_members
        pools.append((mean, weight, members))
    means = [mean for mean, _, members in pools for _ in range(members)]
    return [mean + shift for mean, shift in zip(means, shifts)]


class _Rows:
    """The rows of a cell: inputs in row 0, each block above the states it reads, sinks (the outputs) at the top.

    The items of a row are the states and sinks whose `home` is this row, and the states that pass it on their way up.
    """

    def __init__(self, cell: Cell) -> None:
        self.cell = cell
        blocks = [f'b{i}' for i in range(len(cell.blocks)) if f'b{i}' in cell.live]
        self.reads = {block: list(cell.blocks[int(block[1:])].reading.values()) for block in blocks}
        self.sinks = {f'out{k}': list(output) for k, output in enumerate(cell.outputs)}
        read = {state for states in [*self.reads.values(), *self.sinks.values()] for state in states}
        if not read.issuperset(blocks):
            self.sinks['head'] = [block for block in blocks if block not in read]  # only the classifier reads them
        self.reads.update(self.sinks)

        self.home = dict.fromkeys(sorted((s for s in read if s[0] == 'h'), key=lambda s: int(s[1:])), 0)
        most, count = max(5, math.isqrt(len(blocks))), [0] * (len(blocks) + 2)  # blocks in a row
        for block in blocks:
            row = 1 + max((self.home[state] for state in self.reads[block]), default=0)
            while count[row] == most:  # the row is full
                row += 1
            self.home[block] = row
            count[row] += 1
        top = 1 + max(self.home.values())
        self.home.update(dict.fromkeys(self.sinks, top))
        last = {state: self.home[reader] for reader in sorted(self.reads, key=self.home.get)
                for state in self.reads[reader]}
        self.rows = [[item for item, home in self.home.items() if home == row or home < row < last.get(item, 0)]
                     for row in range(top + 1)]

    def width(self, item: str, row: int) -> float:
        """Return the width of an item; that of a line is 0."""
        if self.home[item] != row:
            return 0.
        if item in self.sinks:
            return max(BLOCK_WIDTH, FOOT_GAP * len(self.sinks[item]))
        return STATE_WIDTH if row == 0 else BLOCK_WIDTH

    def feet(self, item: str, row: int, below: Mapping[str, float]) -> List[Tuple[str, float]]:
        """Return the states from which lines lead to an item, and where they enter it, relative to its centre."""
        if self.home[item] != row:
            return [(item, 0.)]
        states = self.reads[item]
        if item not in self.sinks:
            offsets = self.offsets(item, below)
            return [(state, offsets[side]) for side, state in self.cell.blocks[int(item[1:])].reading.items()]
        if len(self.sinks) == 1 and len(states) > 1:  # a box as wide as the cell: lines go straight up
            centre = (min(below.values()) + max(below.values())) / 2
            return [(state, below[state] - centre) for state in states]
        middle = (len(states) - 1) / 2
        return [(state, FOOT_GAP * (i - middle)) for i, state in enumerate(sorted(states, key=below.get))]

    def offsets(self, item: str, below: Mapping[str, float]) -> Dict[str, float]:
        """Return where the operations of a block stand, relative to its centre, by side."""
        block, offset = self.cell.blocks[int(item[1:])], (OP_WIDTH + OP_GAP) / 2
        states = self.reads[item]
        if COMBINES[block.combine].is_symmetric and len(states) == 2 and below[states[0]] > below[states[1]]:
            offset = -offset  # swapping the operands saves a crossing
        return dict(left=-offset, right=offset)

    def place(self, row: int, order: Sequence[str], wanted: Mapping[str, float]) -> Dict[str, float]:
        """Return positions for a row in the given order, as close to the wanted ones as possible."""
        widths = [self.width(item, row) for item in order]
        gaps = [(a + b) / 2 + (BOX_GAP if a and b else LINE_GAP) for a, b in zip(widths, widths[1:])]
        weights = [1. if width else STRAIGHTNESS for width in widths]
        return dict(zip(order, _spread([wanted[item] for item in order], gaps, weights)))

    def settle(self, xs: List[Dict[str, float]]) -> None:
        """Sweep down and up once, moving each item so that its lines are straight. The inputs keep their order."""
        for row in range(len(xs) - 2, -1, -1):
            aims: Dict[str, List[float]] = {item: [] for item in xs[row]}
            for item, x in xs[row + 1].items():
                for source, offset in self.feet(item, row + 1, xs[row]):
                    aims[source] += [x + offset] * (1 if self.home[item] == row + 1 else STRAIGHTNESS)
            wanted = {item: sum(aim) / len(aim) for item, aim in aims.items()}
            xs[row] = self.place(row, sorted(wanted, key=wanted.get) if row else self.rows[0], wanted)
        for row in range(1, len(xs)):
            aims = {item: [xs[row - 1][source] - offset for source, offset in self.feet(item, row, xs[row - 1])]
                    for item in xs[row]}
            wanted = {item: sum(aim) / len(aim) if aim else xs[row][item] for item, aim in aims.items()}
            xs[row] = self.place(row, sorted(wanted, key=wanted.get), wanted)

    def cost(self, xs: Sequence[Mapping[str, float]]) -> Tuple[int, float]:
        """Return the number of crossings and the total horizontal extent of the lines."""
        crossings, lean = 0, 0.
        for row in range(1, len(xs)):
            ends = sorted((xs[row - 1][source], x + offset, 1 if self.home[item] == row else STRAIGHTNESS)
                          for item, x in xs[row].items() for source, offset in self.feet(item, row, xs[row - 1]))
            seen: List[float] = []
            for low, high, weight in ends:
                crossings += len(seen) - bisect_right(seen, high)
                insort(seen, high)
                lean += abs(high - low) * weight
        return crossings, round(lean, 3)  # so that rounding errors do not break ties

    def arrange(self, starts: int = 16, sweeps: int = 10) -> List[Dict[str, float]]:
        """Return positions for all rows: the best result of sweeps from several random orders (with a fixed seed)."""
        rng, orders, found = random.Random(0), list(self.rows), []
        for _ in range(starts):
            xs = [self.place(row, order, dict.fromkeys(order, 0.)) for row, order in enumerate(orders)]
            for _ in range(sweeps):
                self.settle(xs)
                found.append((self.cost(xs), list(xs)))
            orders[1:] = [rng.sample(order, len(order)) for order in orders[1:]]
        return min(found, key=lambda candidate: candidate[0])[1]


def lay_out(cell: Cell) -> Layout:
    """Place the live parts of a cell, from the bottom up. Inputs are at y = 0; x has an arbitrary origin."""
    rows = _Rows(cell)
    boxes: Dict[str, Box] = {}
    lines: List[Line] = []
    paths: Dict[str, Tuple[Point, ...]] = {}  # each state's way up so far
    floor, below = 0., {}
    for row, xs in enumerate(rows.arrange()):
        feet = {item: rows.feet(item, row, below) if row else [] for item in xs}
        lean = max((abs(xs[item] + offset - below[source]) for item in xs for source, offset in feet[item]), default=0.)
        floor += min(0.6 + 0.14 * lean, 2.) if row else 0.  # lines that lean more need more room
        reached = dict(paths)
        for item, x in xs.items():
            if rows.home[item] != row:
                paths[item] = (*reached[item], (x, floor), (x, floor + ROW_HEIGHT))
                continue
            entries = [item] * len(feet[item])
            if row == 0:
                made = {item: _state_box(x, floor, '$h_i$' if item == 'h0' else f'$h_{{i-{item[1:]}}}$')}
            elif item in rows.sinks:
                label = '$h_{i+1}$' if len(cell.outputs) == 1 else f'output {item[3:]}'
                label = 'classifier' if item == 'head' else label
                span = max(below.values()) - min(below.values()) + BLOCK_WIDTH
                made = _sink_boxes(item, x, floor, label, len(rows.sinks[item]),
                                   span if len(rows.sinks) == 1 else rows.width(item, row))
            else:
                block = cell.blocks[int(item[1:])]
                made = _block_boxes(item, x, floor, block, rows.offsets(item, below))
                entries = [f'{item}.{side}' for side in block.reading]
            lines += [Line(source, entry, (*reached[source], (x + offset, floor)))
                      for entry, (source, offset) in zip(entries, feet[item])]
            boxes.update(made)
            paths[item] = ((x, made[item].top),)
        floor, below = floor + (ROW_HEIGHT if row else STATE_HEIGHT), xs
    for name, box in boxes.items():  # short lines: from operations to their combination, from concatenation to output
        whole, _, part = name.partition('.')
        if part:
            lower, upper = (whole, name) if part == 'state' else (name, whole)
            lines.append(Line(lower, upper, ((box.x, boxes[lower].top), (box.x, boxes[upper].bottom))))
    return Layout(boxes, tuple(lines))


def _state_box(x: float, floor: float, label: str) -> Box:
    return Box(x, floor + STATE_HEIGHT / 2, STATE_WIDTH if '$' in label else 1.5, STATE_HEIGHT, label, 'state')


def _sink_boxes(item: str, x: float, floor: float, label: str, states: int, width: float) -> Dict[str, Box]:
    """Return the box of an output, above that of a concatenation if it consists of several states."""
    if states == 1:
        return {item: _state_box(x, floor, label)}
    concat = Box(x, floor + COMBINE_HEIGHT / 2, width, COMBINE_HEIGHT, 'filter concat', 'concat')
    return {item: concat, f'{item}.state': _state_box(x, concat.top + RISE, label)}


def _block_boxes(item: str, x: float, floor: float, block: Block, offsets: Mapping[str, float]) -> Dict[str, Box]:
    """A block's two operations and, above them, their combination."""
    combine = COMBINES[block.combine]
    width = BLOCK_WIDTH if '\n' in combine.label else COMBINE_WIDTH
    y = floor + ROW_HEIGHT - COMBINE_HEIGHT / 2
    boxes = {item: Box(x, y, width, COMBINE_HEIGHT, combine.label, combine.family)}
    for side, (op, _) in zip(offsets, block.edges):
        row = OPERATIONS[op]
        y = floor + OP_HEIGHT / 2
        boxes[f'{item}.{side}'] = Box(x + offsets[side], y, OP_WIDTH, OP_HEIGHT, row.label, row.family)
    return boxes


def draw(
        genotype: Union[str, os.PathLike, Mapping[str, Any], Genotype],
        path: Optional[Union[str, os.PathLike]] = None,
        dpi: float = 150,
) -> 'Figure':
    """Draw the normal and the reduction cell of a genotype side by side.

    Args:
        genotype: The name of a built-in genotype, a path, JSON data or a genotype; see ``load_genotype``.
        path: The file to write. Its suffix (.svg, .png or .pdf) determines the format. The same genotype always gives
            the same bytes.
        dpi: Dots per inch, for .png.

    Returns:
        The ``matplotlib.figure.Figure``.

    Raises:
        ValueError: If the suffix is another one, or if the genotype is invalid.
        ImportError: If matplotlib is not installed.
    """
    suffix = Path(path).suffix.lower() if path is not None else None
    if suffix not in (None, *SAVE_OPTIONS):
        raise ValueError(f'cannot draw to {os.fspath(path)!r}: the suffix must be one of {", ".join(SAVE_OPTIONS)}')
    require('drawing', 'draw')
    from matplotlib import style
    genotype = load_genotype(genotype)
    # The user's settings of matplotlib must not change the drawing; they are restored afterwards.
    with style.context(['default', {'svg.hashsalt': 'nasnet-zoo', 'svg.fonttype': 'path'}], after_reset=True):
        figure = _paint(genotype, dpi)
        if path is not None:
            with atomic_write(path) as part:
                figure.savefig(part, dpi=dpi, format=suffix[1:], **SAVE_OPTIONS[suffix])
    return figure


def _paint(genotype: Genotype, dpi: float):
    """Return the figure: a title and, below it, the cells on a common base line."""
    from matplotlib.figure import Figure
    layouts = [lay_out(cell) for cell in genotype.cells.values()]
    extents = [layout.extent for layout in layouts]
    margin, between, head, foot = 0.4, 1.4, 1.8, 1.1
    inside = sum(right - left for left, right, _ in extents) + between * (len(extents) - 1)
    width = max(inside + 2 * margin, 9.)
    height = max(top for *_, top in extents) + head + foot
    unit = min(UNIT_INCHES, MAX_INCHES / max(width, height))
    figure = Figure(figsize=(width * unit, height * unit), dpi=dpi, facecolor='white')
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(-foot, height - foot))
    axes.set_axis_off()

    def write(x, y, text, size, **kwargs):
        axes.text(x, y, text, fontsize=size * unit * 72, **{'ha': 'center', 'parse_math': False, **kwargs})

    source = ''.join(c if c.isprintable() else ' ' for c in genotype.source or '')
    source = textwrap.wrap(source, int((width - 2 * margin) / (0.6 * FONT_SIZE)), max_lines=2, placeholder=' …')
    size = min(0.5, (width - 2 * margin) / (1.2 * _text_width(genotype.name)))  # bold is a fifth wider
    write(width / 2, height - foot - 0.65, genotype.name, size, weight='bold')
    write(width / 2, height - foot - 0.85, '\n'.join(source), FONT_SIZE, color=INK, va='top')
    x = (width - inside) / 2
    for kind, layout, (left, right, _) in zip(genotype.cells, layouts, extents):
        _paint_cell(axes, write, layout, x - left, LINE_WIDTH * unit * 72)
        write(x + (right - left) / 2, -0.75, f'{kind.capitalize()} Cell', 0.38)
        x += right - left + between
    return figure


def _paint_cell(axes, write, layout: Layout, shift: float, line_width: float) -> None:
    """Paint the lines, arrow heads, boxes and texts of a cell, moved to the right by `shift`."""
    from matplotlib.patches import FancyBboxPatch, PathPatch, Polygon
    from matplotlib.path import Path as Curve
    # Lines from the same state share segments; each segment is painted once.
    stretches = dict.fromkeys(ends for line in layout.lines for ends in zip(line.points, line.points[1:]))
    tips = {line.points[-1] for line in layout.lines}
    for (x0, y0), (x1, y1) in stretches:
        arrives = (x1, y1) in tips
        x0, x1, neck = x0 + shift, x1 + shift, y1 - HEAD * 0.7 if arrives else y1
        if arrives:
            head = [(x1, y1), (x1 - HEAD / 2, y1 - HEAD), (x1, neck), (x1 + HEAD / 2, y1 - HEAD)]
            axes.add_artist(Polygon(head, facecolor=INK, edgecolor='none', zorder=2))
        middle = (y0 + neck) / 2
        curve = Curve([(x0, y0), (x0, middle), (x1, middle), (x1, neck)], [Curve.MOVETO] + [Curve.CURVE4] * 3)
        axes.add_artist(PathPatch(curve, fill=False, edgecolor=INK, linewidth=line_width, capstyle='round', zorder=1))
    for box in layout.boxes.values():
        x = box.x + shift
        axes.add_artist(FancyBboxPatch(
            (x - box.width / 2, box.bottom), box.width, box.height, boxstyle='round,pad=0,rounding_size=0.12',
            facecolor=COLOURS[box.colour], edgecolor=INK, linewidth=line_width, zorder=3))
        if box.label.startswith('$'):  # the layout's own text, never the genotype's
            write(x, box.y, box.label, MATH_SIZE, zorder=4, parse_math=True, va='center_baseline')
            continue
        words = box.label.split('\n')
        size = min(FONT_SIZE, box.height / len(words) / 1.25, (box.width - 0.1) / max(map(_text_width, words)))
        for i, word in enumerate(words):  # each line on its own base line, so that 'sep' and 'max' are level
            write(x, box.y + ((len(words) - 1) / 2 - i) * size * 1.15 - 0.33 * size, word, size, zorder=4)


@cache
def _text_width(text: str) -> float:
    """Return the width of a text in the default font at size 1."""
    from matplotlib.textpath import TextPath
    return TextPath((0, 0), text, size=1).get_extents().width

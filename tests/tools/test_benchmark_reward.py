"""The benchmark of rewards."""
import json
import sys

import numpy as np
import pytest
from scipy import stats

from helpers.paths import DATA
from helpers.tools import import_tool
from nasnet_zoo import load_genotype
from nasnet_zoo.search.protocols import REWARDS

pytest.importorskip('sklearn', reason='the digits come with scikit-learn')
TINY = dict(tiny=dict(num_cells=1, cell_filters=2, limit_train=300, reward='val_loss', recipe=dict(
    epochs=1, batch_size=100, lr=0.1, pad=1, flip=False)))
DARTS = [['sep_conv_3x3', 0], ['sep_conv_3x3', 0], ['max_pool_3x3', 2], ['skip_connect', 1]]  # two nodes
CELLS = [dict(genotype=load_genotype('nasnet_c').to_dict(), accuracy=0.9),
         dict(genotype=load_genotype('amoebanet_a').to_dict(), accuracy=0.8)]


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Runs the tool in a folder with a file of protocols, and returns what it has printed and whether it failed."""
    (tmp_path / 'protocols.json').write_text(json.dumps(TINY), encoding='utf-8')
    monkeypatch.chdir(tmp_path)

    def main(*options):
        monkeypatch.setattr(sys, 'argv', ['benchmark_reward.py', '--cells', 'cells.json', '--data', 'digits',
                                          '--protocols', 'protocols.json', '--out', 'out.json', *options])
        try:
            import_tool('benchmark_reward').main()
            failed = False
        except SystemExit:
            failed = True
        return *capsys.readouterr(), failed
    return main


def test_cells_are_rated_once(tmp_path, run):
    out = tmp_path / 'out.json'
    (tmp_path / 'cells.json').write_text(json.dumps(dict(cells=CELLS)), encoding='utf-8')
    _, stderr, failed = run('--protocol', 'tiny', '--limit', '1')
    assert not failed and 'tiny: 1 cells, about' in stderr
    before = json.loads(out.read_text(encoding='utf-8'))
    stdout, stderr, failed = run('--protocol', 'tiny', '--protocol', 'synflow', '--protocol', 'tiny+synflow',
                                 '--protocol', 'tiny:accuracy-synflow', '--protocol=-synflow', '--plot', 'plot.png')
    assert not failed and 'tiny: 1 cells, about' in stderr and 'synflow' in stdout
    found = json.loads(out.read_text(encoding='utf-8'))
    assert found['count'] == 2 and found['cells'][0]['rewards']['tiny'] == before['cells'][0]['rewards']['tiny']
    assert all(0 < row['rewards']['tiny'] < 1 and row['rewards']['synflow'] > 0 for row in found['cells'])
    assert set(found['spearman']) == {'parameters', 'mult_adds', 'longest_chain', 'operation_counts', 'tiny', 'synflow',
                                      'tiny+synflow', 'tiny:accuracy-synflow', '-synflow',
                                      *(f'tiny:{reward}' for reward in REWARDS)}
    assert all(row['rewards']['tiny:val_loss'] == row['rewards']['tiny'] for row in found['cells'])
    assert found['seconds']['tiny'] > found['seconds']['synflow'] > 0
    assert (tmp_path / 'plot.png').stat().st_size > 5000
    _, stderr, failed = run('--protocol', 'tiny', '--half', 'report')
    half = json.loads(out.read_text(encoding='utf-8'))
    assert not failed and 'about' not in stderr and half['count'] == 1 and len(half['cells']) == 2


def test_a_reward_may_count_from_the_highest():
    tool = import_tool('benchmark_reward')
    assert tool.parts_of('-a+b:c-d') == [(-1., 'a'), (1., 'b:c'), (-1., 'd')]
    rows = [dict(accuracy=i, parameters=i % 3, mult_adds=i % 4, longest_chain=i % 5, counts={'x': i % 2},
                 rewards=dict(a=float(i), b=float(i * 7 % 5), c=None), seconds=dict(a=1., b=2.)) for i in range(8)]
    found = tool.summarise(rows, ['a', '-a', 'a-b', '-c'])
    assert found['spearman']['a'] == pytest.approx(1) and found['spearman']['-a'] == pytest.approx(-1)
    assert found['spearman']['a-b'] == pytest.approx(
        stats.spearmanr([i - stats.rankdata([i * 7 % 5 for i in range(8)])[i] for i in range(8)], range(8))[0])
    assert found['spearman']['-c'] is None and found['seconds']['a-b'] == 3


@pytest.mark.parametrize('content, options, message', [
    ('{', [], 'cannot be read'),
    ('{"cells": []}', [], 'with at least one cell'),
    ('[{"accuracy": 1}]', [], 'cells[0]: needs "genotype"'),
    (json.dumps([dict(cell=DARTS, accuracy=None)]), [], 'cells[0]: accuracy: must be a number, not None'),
    (json.dumps([dict(cell=DARTS, accuracy=1)] * 2), [], 'cells[1]: is the same cell as cells[0]; list each cell once'),
    (json.dumps([dict(cell=[['luck', 0]] * 4, accuracy=1)]), [], 'cells[0]:'),
    (json.dumps([dict(cell=DARTS, accuracy=10 ** 400)]), [], 'cells[0]: accuracy: must be a number, not 1000'),
    ('[]', ['--limit', '-1'], '--limit, --sample, --img-size: at least 1'),
    ('[]', ['--cost-target', '9'], '--match-below, --cost-target: need --match'),
    ('[]', ['--plot', 'plot.txt'], '--plot: a .png, .svg or .pdf file'),
    (json.dumps([dict(cell=DARTS, accuracy=1)]), ['--protocol', 'luck'], "there is no 'luck'; known: quick"),
    (json.dumps([dict(cell=DARTS, accuracy=1)]), ['--protocol', 'tiny:luck'], 'the rewards of a training are accuracy'),
    (json.dumps([dict(cell=DARTS, accuracy=1)]), ['--out', 'protocols.json'], 'is not a file of this tool')])
def test_what_is_wrong_is_named(tmp_path, run, content, options, message):
    (tmp_path / 'cells.json').write_text(content, encoding='utf-8')
    _, stderr, failed = run('--protocol', 'tiny', *options)
    assert failed and message in stderr.splitlines()[-1]


@pytest.mark.parametrize('protocols, message', [
    (dict(data={}), 'protocols.json: data: has a meaning already; choose another name'),
    (dict(synflow={}), 'protocols.json: synflow: has a meaning already'),
    ({'a+b': {}}, 'protocols.json: a+b: has a meaning already'), ({'a-b': {}}, 'protocols.json: a-b: has a meaning'),
    (dict(mine=dict(num_cells=0)), 'protocols.json: mine: num_cells: ')])
def test_wrong_protocols_are_named(tmp_path, run, protocols, message):
    (tmp_path / 'protocols.json').write_text(json.dumps(protocols), encoding='utf-8')
    _, stderr, failed = run('--protocol', 'quick')
    assert failed and message in stderr.splitlines()[-1]


def test_other_settings_are_refused(tmp_path):
    tool = import_tool('benchmark_reward')
    (tmp_path / 'out.json').write_text(json.dumps(dict(settings=dict(quick=1), cells=[])), encoding='utf-8')
    with pytest.raises(ValueError, match='with other settings of quick; choose another --out'):
        tool.start_or_resume(tmp_path / 'out.json', dict(quick=2))


def test_cells_of_darts_are_read(tmp_path):
    tool = import_tool('benchmark_reward')
    path = tmp_path / 'cells.json'
    path.write_text(json.dumps([dict(cell=DARTS, accuracy=80.)]), encoding='utf-8')
    (genotype, accuracy), = tool.read_cells(path)
    assert accuracy == 80. and genotype.normal == genotype.reduction and len(genotype.normal.blocks) == 2
    assert genotype.normal.blocks[0].edges == (('sep_conv_3x3', 'h1'), ('sep_conv_3x3', 'h1'))


@pytest.mark.skipif(not (DATA / 'nb301').exists(), reason='needs the surrogate: NASNET_ZOO_DATA=FOLDER')
def test_cells_with_predictions(tmp_path):
    tool = import_tool('benchmark_reward')
    rows = tool.sample_nb301(DATA / 'nb301', 3, 1)
    (tmp_path / 'cells.json').write_text(json.dumps(dict(cells=rows)), encoding='utf-8')
    cells = tool.read_cells(tmp_path / 'cells.json')
    assert len(cells) == 4 and max(cells, key=lambda cell: cell.accuracy).genotype.name == 'good-0'


def test_results_are_not_overwritten(tmp_path, monkeypatch, capsys):
    tool = import_tool('benchmark_reward')
    (tmp_path / 'out.json').write_text('{}', encoding='utf-8')
    monkeypatch.setattr(sys, 'argv', ['tool', '--nb301', str(tmp_path), '--out', str(tmp_path / 'out.json')])
    with pytest.raises(SystemExit):
        tool.main()
    assert 'exists already; choose another --out' in capsys.readouterr().err


def test_partial_correlation():
    """For one control it is (r_xy - r_xz r_yz) / sqrt((1 - r_xz²) (1 - r_yz²))."""
    statistics = import_tool('reward_statistics')
    x, y, z = np.random.default_rng(0).normal(size=(3, 30)) + np.random.default_rng(1).normal(size=30)
    xy, xz, yz = (stats.spearmanr(a, b).statistic for a, b in ((x, y), (x, z), (y, z)))
    expected = (xy - xz * yz) / ((1 - xz ** 2) * (1 - yz ** 2)) ** 0.5
    assert statistics.partial_spearman(x, y, [z]) == pytest.approx(expected)
    assert statistics.spearman(x, y) == pytest.approx(xy)
    assert statistics.kendall(x, y) == pytest.approx(stats.kendalltau(x, y).statistic)
    assert statistics.partial_spearman(x, y, [x]) is None and statistics.spearman([1., 2.], [1., 2.]) is None
    holes = [None, *x[1:]]
    assert statistics.spearman(holes, y) == pytest.approx(stats.spearmanr(x[1:], y[1:]).statistic)


def test_predictions_of_ridge_regression_do_not_know_the_cell():
    statistics = import_tool('reward_statistics')
    counts = [dict(a=i % 3, b=i % 2) for i in range(12)]
    accuracy = [0.1 * row['a'] + 0.3 * row['b'] for row in counts]
    found = statistics.ridge_predictions(counts, accuracy)
    assert np.corrcoef(found, accuracy)[0, 1] > 0.95
    changed = statistics.ridge_predictions(counts, [9., *accuracy[1:]])
    assert changed[0] == pytest.approx(found[0], abs=1e-9), 'its own accuracy does not count'


def test_structure_of_cells():
    statistics = import_tool('reward_statistics')
    cell = dict(blocks=[dict(left=['sep_conv_3x3', 'h0'], right=['identity', 'h1']),
                        dict(left=['dil_conv_3x3', 'b0'], right=['conv_1x1', 'h0'])], outputs=[['b1']])
    genotype = load_genotype(dict(format=1, name='x', inputs=2, normal=cell, reduction=dict(
        blocks=[dict(left=['max_pool_3x3', 'h0'], right=['identity', 'h1'])], outputs=[['b0']])))
    assert statistics.longest_chain(genotype) == 3
    assert statistics.operation_counts(genotype)['normal sep_conv_3x3'] == 1
    assert statistics.mean_ranks([[3., 1., None], [10., 30., 20.]]) == [1.5, 1.5, None]

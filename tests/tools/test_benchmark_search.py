"""The yardstick for samplers."""
import json
import subprocess
import sys

import pytest

from helpers.paths import DATA, ROOT
from helpers.tools import import_tool

NB301 = DATA / 'nb301'
pytestmark = pytest.mark.skipif(not NB301.exists(), reason='needs the surrogate: NASNET_ZOO_DATA=FOLDER')
TOOL = [sys.executable, ROOT / 'tools' / 'benchmark_search.py', '--nb301', NB301]


def test_levels():
    """DARTS-V2 as published for the surrogate, and a cell of separable convolutions only."""
    code = f'''
import sys
sys.path[:0] = {[str(ROOT / "tools"), str(ROOT / "tests")]!r}
from pathlib import Path
from benchmark_search import Surrogate
from helpers.darts import V2
from nasnet_zoo.genotype.importer import import_genotype
from nasnet_zoo.search.space import darts_space
surrogate, space = Surrogate(Path({str(NB301)!r})), darts_space()
plain = space.tokens({{
    name: 'sep_conv_3x3' if name.endswith('op') else options[0] for name, options in space.decisions}})
print(surrogate(import_genotype(V2)), surrogate(space.genotype(plain)))
'''
    v2, plain = map(float, subprocess.check_output([sys.executable, '-c', code], text=True).split())
    assert v2 == pytest.approx(0.929, abs=1e-3) and plain == pytest.approx(0.931, abs=2e-3)


def run(*options, ok=True):
    process = subprocess.run([*TOOL, *map(str, options)], capture_output=True, text=True)
    assert (process.returncode == 0) == ok, process.stderr
    return process


def test_what_is_written(tmp_path):
    out, names = tmp_path / 'best.json', ['ppo', 'random', 'evolution', 'tpe']
    options = '--trials', 30, '--first-seed', 100, '--workers', 2, '--out', out
    first = run(*options, '--samplers', 'random,evolution', '--seeds', 1)
    assert '2 of 2 runs are to do' in first.stderr and '30 cells' in first.stdout
    before = json.loads(out.read_text(encoding='utf-8'))['runs']['random']['100']
    second = run(*options, '--samplers', ','.join(names), '--seeds', 2, '--plot', tmp_path / 'best.png')
    assert '6 of 8 runs are to do' in second.stderr, 'what was done before is kept'
    content = json.loads(out.read_text(encoding='utf-8'))
    assert content['settings'] == dict(space='darts', trials=30, noise=0., outstanding=1)
    assert content['runs']['random']['100'] == before
    assert content['summary'].keys() == content['runs'].keys() == set(names)
    for name in names:
        runs = content['runs'][name]
        assert runs.keys() == {'100', '101'}
        assert all(0.92 < run['named']['30'] == run['best'][-1][1] < 0.95 for run in runs.values())
        assert (content['summary'][name]['30']['p'] is None) == (name == 'evolution')
    assert (tmp_path / 'best.png').stat().st_size > 5000


def test_noise_and_outstanding_proposals(tmp_path):
    """The value of a cell has no noise, whichever cell is named."""
    out = tmp_path / 'noisy.json'
    options = '--samplers', 'random', '--trials', 30, '--seeds', 3, '--workers', 2, '--out', out
    run(*options, '--noise', 0.02, '--outstanding', 8)
    content = json.loads(out.read_text(encoding='utf-8'))
    runs = content['runs']['random'].values()
    assert content.keys() == {'settings', 'runs', 'summary', 'luckiest'}
    values = [[dict(run['best'])[max(dict(run['best']))], run['named']['30'], run['luckiest']['30']] for run in runs]
    assert all(best >= max(named, lucky) for best, named, lucky in values)
    assert any(best > lucky for best, _, lucky in values), 'noise decides'
    assert 'contains other results' in run(*options, '--noise', 0.01, ok=False).stderr


def test_a_budget_that_a_search_has_not_reached(capsys):
    tool = import_tool('benchmark_search')
    found = tool.summary(dict(tpe=[{'30': 0.9}, {'30': None}], evolution=[{'30': 0.9}] * 2), ['30'])
    assert found['tpe']['30'] == dict(mean=None, sd=None, p=None) and found['evolution']['30']['mean'] == 0.9
    tool.show('the best cell', found, ['30'])
    assert '0.9000' in capsys.readouterr().out


@pytest.mark.parametrize('options, message', [
    (['--out', 'broken.json'], 'broken.json'),
    (['--out', 'x.json', '--samplers', 'ppo,luck'], "there is no 'luck'"),
    (['--out', 'x.json', '--nb301', '.'], 'has no model'),
    (['--out', 'x.json', '--noise', '-1'], '--noise: must not be negative'),
    (['--out', 'x.json', '--outstanding', '0'], '--outstanding: must be')])
def test_wrong_options_are_named(options, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'broken.json').write_text('{', encoding='utf-8')
    monkeypatch.setattr(sys, 'argv', ['benchmark_search.py', '--nb301', str(NB301), *options])
    with pytest.raises(SystemExit, match='2'):
        import_tool('benchmark_search').main()
    assert message in capsys.readouterr().err

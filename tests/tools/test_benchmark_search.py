"""The yardstick for samplers."""
import json
import subprocess
import sys

import pytest

from helpers.paths import DATA, ROOT

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


def test_what_is_written(tmp_path):
    out = tmp_path / 'best.json'
    subprocess.run([*TOOL, '--samplers', 'ppo,random,evolution,tpe', '--trials', '30', '--seeds', '2', '--first-seed',
                    '100', '--out', out, '--plot', tmp_path / 'best.png'], check=True, capture_output=True)
    best = json.loads(out.read_text(encoding='utf-8'))
    assert list(best) == ['ppo', 'random', 'evolution', 'tpe']
    assert all(set(row) == {'30'} and len(row['30']) == 2 for row in best.values())
    assert all(0.92 < value < 0.95 for row in best.values() for value in row['30'])
    assert (tmp_path / 'best.png').stat().st_size > 5000


def test_what_is_missing_is_named(tmp_path):
    wrong = (['--samplers', 'ppo,luck'], "there is no 'luck'"), (['--nb301', tmp_path], 'has no model')
    for options, message in wrong:
        process = subprocess.run([*TOOL, '--out', tmp_path / 'x.json', *options], capture_output=True, text=True)
        assert process.returncode == 2 and message in process.stderr

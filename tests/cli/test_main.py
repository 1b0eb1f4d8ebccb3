"""The command works whatever the encoding of the terminal or the pipe is."""
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from helpers.platforms import posix_only

ASCII = dict(LC_ALL='C', PYTHONUTF8='0', PYTHONCOERCECLOCALE='0')


RUN = '''
import json, sys
from nasnet_zoo.cli import app
for args in json.loads(sys.argv[1]):
    code = app(args, standalone_mode=False)
    if code:
        sys.exit(code)
'''


def run(folder, *commands, umask=-1, **env):
    done = subprocess.run(
        [sys.executable, '-c', RUN, json.dumps(commands)], cwd=folder, capture_output=True, timeout=240, umask=umask,
        env={**os.environ, 'NASNET_ZOO_CACHE': str(folder / 'cache'), **env})
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize('env', [ASCII, dict(PYTHONIOENCODING='cp1252')])
def test_what_cannot_be_encoded_is_escaped(tmp_path, env):
    code, out, err = run(tmp_path, ['--help'], ['describe', '猫 Käfer.json'], **env)
    assert code == 1 and b'describe' in out
    assert err.startswith(b'error: ') and len(err.splitlines()) == 1 and b'Traceback' not in err


@pytest.mark.slow
@posix_only
def test_files_have_the_bytes_of_utf_8_and_the_permissions_of_the_umask(tmp_path):
    pytest.importorskip('matplotlib')
    pytest.importorskip('optuna')
    generator = np.random.default_rng(0)
    for name in ('train/Käfer', 'train/猫', 'test/Käfer', 'test/猫'):
        (tmp_path / 'pets' / name).mkdir(parents=True)
        for i in range(4):
            Image.fromarray(generator.integers(0, 256, (8, 8, 3), np.uint8)).save(tmp_path / 'pets' / name / f'{i}.png')
    found = {}
    for name, umask, env in (('utf8', 0o022, dict(PYTHONUTF8='1')), ('ascii', 0o027, ASCII)):
        (tmp_path / name).mkdir()
        code, _, err = run(
            tmp_path / name,
            ['train', 'nasnet_b', '--num-cells', '1', '--cell-filters', '4', '--stem', 'cifar', '--data', '../pets',
             '--epochs', '1', '--batch-size', '4', '--out', 'run'],
            ['export', './run', '--out', 'bundle', '--timestamp', '2020-01-01T00:00:00+00:00'],
            ['classify', 'bundle/model.onnx', '../pets/test'],
            ['validate', './run', '--data', '../pets', '--record'],
            ['push', './run', 'me/pets', '--dry-run'],
            ['search', '--data', '../pets', '--trials', '2', '--epochs', '1', '--num-cells', '1', '--cell-filters', '2',
             '--batch-size', '2', '--val-share', '0.5', '--out', 'search'],
            ['describe', 'nasnet_b', '--draw', 'cells.svg'], umask=umask, **env)
        assert code == 0, err
        modes = {path: path.stat().st_mode & 0o777 for path in (tmp_path / name).rglob('*')}
        assert modes == {path: (0o777 if path.is_dir() else 0o666) & ~umask for path in modes}
        assert {path.parts[len(tmp_path.parts) + 1] for path in modes} == {
            'run', 'bundle', 'cache', 'search', 'cells.svg'}
        found[name] = {path: (tmp_path / name / path).read_bytes() for path in (
            'run/config.json', 'run/genotype.json', 'run/cells.svg', 'run/README.md', 'run/run.json',
            'bundle/labels.txt', 'bundle/model.onnx')}
    assert found['utf8']['bundle/labels.txt'].decode() == 'Käfer\n猫\n'
    assert found['ascii'] == found['utf8']

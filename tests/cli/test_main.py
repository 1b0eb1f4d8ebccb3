"""The command works whatever the encoding of the terminal or the pipe is."""
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

ASCII = dict(LC_ALL='C', PYTHONUTF8='0', PYTHONCOERCECLOCALE='0')


RUN = '''
import json, sys
from nasnet_zoo.cli import app
for args in json.loads(sys.argv[1]):
    code = app(args, standalone_mode=False)
    if code:
        sys.exit(code)
'''


def run(folder, *commands, **env):
    done = subprocess.run(
        [sys.executable, '-c', RUN, json.dumps(commands)], cwd=folder, capture_output=True, timeout=240,
        env={**os.environ, 'NASNET_ZOO_CACHE': str(folder / 'cache'), **env})
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize('env', [ASCII, dict(PYTHONIOENCODING='cp1252')])
def test_what_cannot_be_encoded_is_escaped(tmp_path, env):
    code, out, err = run(tmp_path, ['--help'], ['describe', '猫 Käfer.json'], **env)
    assert code == 1 and b'describe' in out
    assert err.startswith(b'error: ') and len(err.splitlines()) == 1 and b'Traceback' not in err


@pytest.mark.skipif(sys.platform == 'win32', reason='locales of POSIX')
def test_files_are_the_same_bytes_in_every_locale(tmp_path):
    pytest.importorskip('matplotlib')
    generator = np.random.default_rng(0)
    for name in ('train/Käfer', 'train/猫', 'test/Käfer', 'test/猫'):
        (tmp_path / 'pets' / name).mkdir(parents=True)
        for i in range(4):
            Image.fromarray(generator.integers(0, 256, (8, 8, 3), np.uint8)).save(tmp_path / 'pets' / name / f'{i}.png')
    found = {}
    for name, env in dict(utf8=dict(PYTHONUTF8='1'), ascii=ASCII).items():
        (tmp_path / name).mkdir()
        code, _, err = run(
            tmp_path / name,
            ['train', 'nasnet_b', '--num-cells', '1', '--cell-filters', '4', '--stem', 'cifar', '--data', '../pets',
             '--epochs', '1', '--batch-size', '4', '--out', 'run'],
            ['export', './run', '--out', 'bundle', '--timestamp', '2020-01-01T00:00:00+00:00'],
            ['classify', 'bundle/model.onnx', '../pets/test'],
            ['validate', './run', '--data', '../pets', '--record'],
            ['push', './run', 'me/pets', '--dry-run'], **env)
        assert code == 0, err
        found[name] = {path: (tmp_path / name / path).read_bytes() for path in (
            'run/config.json', 'run/genotype.json', 'run/cells.svg', 'run/README.md', 'run/run.json',
            'bundle/labels.txt', 'bundle/model.onnx')}
    assert found['utf8']['bundle/labels.txt'].decode() == 'Käfer\n猫\n'
    assert found['ascii'] == found['utf8']

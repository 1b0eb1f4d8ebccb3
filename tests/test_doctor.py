"""What the doctor finds."""
import importlib.util
import json
import re
import sys
import tomllib

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from helpers.paths import ROOT
from nasnet_zoo import __version__, doctor
from nasnet_zoo.cli import app
from nasnet_zoo.deploy.session import SessionError

PROJECT = tomllib.loads((ROOT / 'pyproject.toml').read_text(encoding='utf-8'))['project']


def package_name(requirement):
    return re.match(r'[\w.-]+', requirement)[0]


@pytest.fixture(scope='module')
def report():
    return doctor.diagnose()


def test_report(report):
    assert json.loads(json.dumps(report)) == report
    assert report['version'] == __version__ and report['weights'] == 4 and report['genotypes'] >= 18
    assert report['packages']['torch'] and report['extras'].keys() == report['extras'].keys() & PROJECT[
        'optional-dependencies'].keys()
    works = {(row['runtime'], row['device']): row['works'] for row in report['runtimes']}
    assert works['PyTorch', 'cpu'] and works['ONNX Runtime', 'cpu']
    assert all(row['works'] != bool(row['reason']) for row in report['runtimes'])


def test_known_packages_are_the_dependencies():
    named = {package_name(requirement) for requirement in PROJECT['dependencies']}
    assert named - {'filelock', 'platformdirs'} <= set(doctor._PACKAGES)


def test_all_commands_are_known():
    known = {command.split()[0] for command in doctor.COMMANDS}
    assert known == set(typer.main.get_command(app).commands) - {'doctor'}


def test_a_provider_that_does_not_work(monkeypatch):
    class Broken:
        def run(self, x):
            return np.zeros_like(x)

    def open_broken(runtime, model, provider):
        if provider != 'cpu':
            raise SessionError('no such library')
        return Broken()
    monkeypatch.setattr(doctor, 'open_session', open_broken)
    reasons = {row['device']: row['reason'] for row in doctor._try_runtimes() if row['runtime'] == 'ONNX Runtime'}
    assert reasons['cuda'] == 'no such library' and reasons['cpu'] == 'it computes [[0.0, 0.0]] instead of [[0, 2]]'


def test_caches(tmp_path, monkeypatch):
    monkeypatch.setenv('NASNET_ZOO_CACHE', str(tmp_path))
    (tmp_path / 'sub').mkdir()
    (tmp_path / 'sub' / 'file').write_bytes(b'12345')
    (tmp_path / 'link').symlink_to(tmp_path / 'sub' / 'file')
    assert doctor._caches()['images'] == dict(path=str(tmp_path), bytes=5, writable=True)
    monkeypatch.setenv('NASNET_ZOO_CACHE', str(tmp_path / 'not' / 'there'))
    assert doctor._caches()['images'] == dict(path=str(tmp_path / 'not' / 'there'), bytes=0, writable=True)


def test_missing_packages_are_named(monkeypatch):
    """Commands end with the extra to install, and the doctor lists them."""
    find_spec = importlib.util.find_spec
    monkeypatch.setattr('nasnet_zoo.extras.find_spec', lambda name: None if name == 'optuna' else find_spec(name))
    for command in (['search', '--out', 'x'], ['compare', 'nasnet_a', 'nasnet_b', '--out', 'x'], ['report', 'x']):
        result = CliRunner().invoke(app, command)
        assert result.exit_code == 1 and 'needs optuna: pip install "nasnet-zoo[search]"' in result.stderr
    result = CliRunner().invoke(app, ['demo', '--out', 'x'])
    assert result.exit_code == 1 and result.stderr == 'error: the demo needs optuna: pip install "nasnet-zoo[demo]"\n'
    monkeypatch.setattr(doctor, '_try_runtimes', lambda: [dict(
        runtime='ONNX Runtime', device='cuda', works=False, reason='no library')])
    result = CliRunner().invoke(app, ['doctor'])
    assert result.exit_code == 0 and 'search: needs optuna: pip install "nasnet-zoo[search]"' in result.stdout
    assert 'ONNX Runtime on cuda: fails: no library' in result.stdout and __version__ in result.stdout
    assert sys.version.split()[0] in result.stdout

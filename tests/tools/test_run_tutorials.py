"""The notebooks of docs/tutorials: what they name exists, and they run, in a small version."""
import ast
import importlib
import json
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
import typer

from helpers.paths import ROOT
from nasnet_zoo.cli import app

FOLDER = ROOT / 'docs' / 'tutorials'
MAX_BYTES = 300_000
SMALL = {  # the notebooks, and the values of their parameters with which they are executed
    'fine_tune_and_deploy': dict(TRAIN_PER_CLASS=2, TEST_PER_CLASS=2, EPOCHS=1),
    'own_genotype': dict(CELL_FILTERS=4, EPOCHS=1),
    'search_and_compare': dict(
        DATA='digits', TRAIN_PER_CLASS=20, TEST_PER_CLASS=10, TRIALS=2, CHILD_EPOCHS=1, FINALISTS=1, FINAL_EPOCHS=1,
        SEEDS=2, COMPARE_EPOCHS=1, WORKERS=1),
}


def cells(name, kind='code'):
    """The cells of a kind, as pairs of source and tags."""
    notebook = json.loads((FOLDER / f'{name}.ipynb').read_text(encoding='utf-8'))
    return [(''.join(cell['source']), cell['metadata'].get('tags', []))
            for cell in notebook['cells'] if cell['cell_type'] == kind]


def parameters(name):
    """The names that the cell tagged ``parameters`` assigns, with their values."""
    source, = (source for source, tags in cells(name) if 'parameters' in tags)
    return {node.targets[0].id: ast.literal_eval(node.value) for node in ast.parse(source).body}


def python(name):
    """All Python code, without magics and commands."""
    for source, _ in cells(name):
        if not source.startswith(('!', '%%')):
            yield ast.parse(re.sub('^%.*$', '', source, flags=re.MULTILINE))


def command_lines(name):
    """The arguments of each nasnet-zoo command, in code and in text, with the values of the parameters in them."""
    values = parameters(name)
    code = '\n'.join(source for source, _ in cells(name)).replace('\\\n', ' ')
    text = '\n'.join(source for source, _ in cells(name, 'markdown')).replace('\\\n', ' ')
    for line in [*re.findall('^!nasnet-zoo (.*)$', code, re.MULTILINE),
                 *re.findall('^    nasnet-zoo (.*)$', text, re.MULTILINE)]:
        line = re.sub(r'\{([^}]+)\}', lambda match: str(values.get(match[1], 'a_path')), line.split(' > ')[0])
        yield shlex.split(line)


def test_all_notebooks_are_tested():
    assert sorted(path.stem for path in FOLDER.glob('*.ipynb')) == sorted(SMALL)


@pytest.mark.parametrize('name', SMALL)
def test_notebook(name):
    path = FOLDER / f'{name}.ipynb'
    content = path.read_text(encoding='utf-8')
    pytest.importorskip('nbformat', reason='checks the format').validate(json.loads(content))
    assert len(content.encode()) < MAX_BYTES
    assert not re.search(r'"execution_count": [0-9]|site-packages|/home/|/tmp/|Traceback', content)
    code = [cell for cell in json.loads(content)['cells'] if cell['cell_type'] == 'code']
    assert sum(bool(cell['outputs']) for cell in code) >= len(code) - 4, 'tools/run_tutorials.py stores the outputs'
    repository = tomllib.loads((ROOT / 'pyproject.toml').read_text(encoding='utf-8'))['project']['urls']['Repository']
    place = repository.removeprefix('https://github.com/')
    title = cells(name, 'markdown')[0][0]
    assert title.startswith('# ') and title.count('colab-badge.svg') == 1
    assert f'](https://colab.research.google.com/github/{place}/blob/main/docs/tutorials/{name}.ipynb)' in title
    assert [tags for source, tags in cells(name) if source.startswith('%pip install')] == [['skip-execution']]
    assert set(SMALL[name]) <= set(parameters(name))


@pytest.mark.parametrize('name', SMALL)
def test_what_a_notebook_names_exists(name):
    for text, _ in cells(name, 'markdown'):
        for target in re.findall(r'\]\(([^)#\s]+)', text):
            assert target.startswith('https://') or (FOLDER / target).exists(), target
    for node in (node for tree in python(name) for node in ast.walk(tree)):
        if isinstance(node, ast.ImportFrom) and node.module.startswith('nasnet_zoo'):
            assert all(hasattr(importlib.import_module(node.module), alias.name) for alias in node.names)
        elif isinstance(node, ast.Attribute) and ast.unparse(node.value) == 'nasnet_zoo':
            assert node.attr in importlib.import_module('nasnet_zoo').__all__
    commands = typer.main.get_command(app).commands
    lines = list(command_lines(name))
    assert lines
    for command, *rest in lines:
        commands[command].make_context(command, rest)  # raises UsageError for an unknown or a malformed option


def write_fashion_mnist(folder, per_class=2):
    """Write a stand-in for Fashion-MNIST where torchvision keeps its files, so that it downloads nothing."""
    folder.mkdir(parents=True)
    labels = np.tile(np.arange(10, dtype=np.uint8), per_class)
    images = np.random.default_rng(0).integers(0, 256, (len(labels), 28, 28), np.uint8)
    for part in 'train', 't10k':
        for kind, data in ('images-idx3', images), ('labels-idx1', labels):
            header = np.array([0x800 + data.ndim, *data.shape], '>i4').tobytes()
            (folder / f'{part}-{kind}-ubyte').write_bytes(header + data.tobytes())


@pytest.mark.slow
@pytest.mark.parametrize('name', SMALL)
def test_a_small_version_runs(name, tmp_path):
    for package in 'nbclient', 'ipykernel', 'matplotlib', 'sklearn', 'optuna':
        pytest.importorskip(package, reason='the notebooks need it')
    write_fashion_mnist(tmp_path / 'work' / 'data' / 'FashionMNIST' / 'raw')
    settings = [f'--set={key}={value}' for key, value in SMALL[name].items()]
    subprocess.run([sys.executable, ROOT / 'tools' / 'run_tutorials.py', name, *settings,
                    '--folder', tmp_path / 'work', '--out', tmp_path], check=True)
    executed = json.loads(Path(tmp_path, f'{name}.ipynb').read_text(encoding='utf-8'))
    code = [cell for cell in executed['cells'] if cell['cell_type'] == 'code']
    assert [''.join(cell['source']) for cell in code] == [source for source, _ in cells(name)], 'the sizes are kept'
    assert sum(bool(cell['outputs']) for cell in code) >= len(code) - 4

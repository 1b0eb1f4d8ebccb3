"""README and docs: their links lead somewhere, their code runs, and the commands and tools take their command lines."""
import ast
import contextlib
import csv
import importlib
import re
import shlex
import shutil
import sys
import types
from pathlib import Path

import pytest
import typer

from helpers.paths import ROOT
from helpers.tools import import_tool, skip_unless_all_tools_can_be_imported
from nasnet_zoo import describe, optimize_for_inference
from nasnet_zoo.cli import app
from nasnet_zoo.deploy.layouts import LAYOUTS
from nasnet_zoo.network.stems import STEMS

PAGES = sorted([*ROOT.glob('*.md'), *ROOT.glob('docs/**/*.md'), *ROOT.glob('genotypes/*.md')])
RUNNABLE = {'README.md': [0, 1], 'docs/quick_start.md': [0], 'docs/models.md': [0, 1],
            'docs/dense_prediction.md': [0]}  # page: blocks that need no files
COMMANDS = typer.main.get_command(app).commands


def ids(page):
    return str(page.relative_to(ROOT))


def read(page):
    return (ROOT / page).read_text(encoding='utf-8')


def python_blocks(page):
    return re.findall(r'^```python\n(.*?)^```', read(page), re.MULTILINE | re.DOTALL)


def command_lines(start):
    """Each line of an indented block that starts so, with its continuations, and each such command with an argument
    within a sentence, as page and arguments."""
    for page in PAGES:
        text = read(page).replace('\\\n', ' ')
        for line in [*re.findall(rf'^ {{4,}}{start}(.*?)(?: {{2,}}#.*)?$', text, re.MULTILINE),
                     *re.findall(rf'`{start}([a-z]+\s[^-`][^`]*)`', text)]:
            words = [word for word in shlex.split(line.split(' > ')[0]) if not word.startswith('$')]
            yield pytest.param(words[:-1] if words[-1] == '…' else words, id=f'{ids(page)}: {line[:60]}')


# Links

def anchors(page):
    """The anchors of a page, as GitHub makes them from its headings; `<a id=…>` adds others."""
    text = re.sub(r'^```.*?^```', '', read(page), flags=re.MULTILINE | re.DOTALL)
    found = set(re.findall(r'<a id="([^"]+)"', text))
    for heading in re.findall(r'^#+ (.*)$', text, re.MULTILINE):
        found.add(re.sub(r'[^\w\- ]', '', heading.lower()).replace(' ', '-'))
    return found


@pytest.mark.parametrize('page', PAGES, ids=ids)
def test_links_lead_somewhere(page):
    for target, anchor in re.findall(r'\]\(([^)#\s]*)(?:#([^)\s]+))?\)', read(page)):
        if not target.startswith(('http://', 'https://')):
            path = (page.parent / target).resolve() if target else page
            assert path.exists(), f'{ids(page)} links to {target}'
            assert not anchor or anchor in anchors(path), f'{ids(page)} links to {target}#{anchor}'


def test_pages_are_in_the_index():
    index = read('docs/README.md')
    for page in ROOT.glob('docs/*.md'):
        assert page.name == 'README.md' or f']({page.name})' in index, f'docs/README.md lacks {page.name}'


# Command lines

@pytest.mark.parametrize('arguments', list(command_lines('nasnet-zoo ')))
def test_command_lines_are_understood(arguments):
    name, *rest = arguments
    if name.startswith('--'):
        assert name in {option for parameter in typer.main.get_command(app).params for option in parameter.opts}
        return
    assert name in COMMANDS, f'there is no command {name!r}'
    COMMANDS[name].make_context(name, rest)  # raises UsageError for an unknown or a malformed option


@pytest.mark.parametrize('arguments', list(command_lines('python tools/')))
def test_command_lines_of_tools_are_understood(arguments):
    source, rest = read(f'tools/{arguments[0]}'), arguments[1:]
    command = re.search(r"app\(\['(\w+)', \*sys\.argv", source)
    if command:
        COMMANDS[command[1]].make_context(command[1], rest)
    elif 'def make_parser(' in source:
        try:
            tool = import_tool(arguments[0].removesuffix('.py'))
        except ImportError as error:
            pytest.skip(f'the tool cannot be imported: {error}')
        tool.make_parser().parse_args(rest)  # exits if something is wrong
    else:
        assert not rest, f'{arguments[0]} takes no options'


def test_options_in_the_text_exist():
    """Every option in the running text is one of a command or of a tool, as the reference lists them."""
    skip_unless_all_tools_can_be_imported()
    reference = import_tool('site_reference')
    known = set(re.findall(r'`(--[a-z0-9-]+)', reference.command_page() + reference.tools_page()))
    known |= {option for parameter in typer.main.get_command(app).params for option in parameter.opts} | {'--help'}
    for page in PAGES:
        if page.name != 'CHANGELOG.md':  # older options, too
            for option in re.findall(r'`(?:nasnet-zoo [a-z]+ )?(--[a-z][a-z0-9-]+)', read(page)):
                assert option in known, f'{ids(page)}: no command and no tool has {option}'


# Code

@pytest.mark.parametrize('page', [page for page in PAGES if python_blocks(page)], ids=ids)
def test_code_names_what_exists(page):
    """Every Python block can be parsed, and what it takes from the package is there, also where it needs files."""
    for block in python_blocks(page):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and node.module.split('.')[0] == 'nasnet_zoo':
                module = importlib.import_module(node.module)
                assert all(hasattr(module, alias.name) for alias in node.names), ast.unparse(node)
            elif isinstance(node, ast.Attribute) and ast.unparse(node.value) == 'nasnet_zoo':
                assert hasattr(importlib.import_module('nasnet_zoo'), node.attr), ast.unparse(node)


def execute(code, names=None):
    names = {} if names is None else names
    exec(compile(code, 'docs', 'exec'), names)
    return names


def test_grad_cam_runs(tmp_path):
    pytest.importorskip('pytorch_grad_cam', reason='the code needs grad-cam')
    test_code_runs('docs/models.md', 2, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize('block', [1, 2])
def test_dense_prediction_with_a_searched_cell(block, tmp_path):
    pytest.importorskip('segmentation_models_pytorch', reason='the code needs pip install -e .[dense]')
    shutil.copy(ROOT / 'genotypes' / 'darts_v2.json', tmp_path / 'cell.json')
    test_code_runs('docs/dense_prediction.md', block, tmp_path)


@pytest.mark.parametrize(('page', 'block'), [(page, block) for page, blocks in RUNNABLE.items() for block in blocks])
def test_code_runs(page, block, tmp_path):
    pytest.importorskip('matplotlib', reason='the code draws a picture')
    code = python_blocks(page)[block]
    assert re.search(r'^import .*\bnasnet_zoo\b', code, re.MULTILINE), 'the models must be registered with timm'
    with contextlib.chdir(tmp_path):
        execute(code)


def test_every_block_of_the_readme_runs():
    assert RUNNABLE['README.md'] == list(range(len(python_blocks('README.md'))))


# The worked examples of docs/architecture.md; tests/genotype/test_operations.py runs "Adding an operation"

def worked_example(heading):
    section = read('docs/architecture.md').split(f'\n## {heading}\n')[1].split('\n## ')[0]
    return re.findall(r'^```python\n(.*?)^```', section, re.MULTILINE | re.DOTALL)


def test_adding_a_stem(monkeypatch):
    import torch
    monkeypatch.setitem(STEMS, 'half', None)  # so it is deleted again
    block, = worked_example('Adding a stem')
    model = execute(block)['model'].eval()
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        logits = model(images)
        assert logits.shape == (2, 200)
        torch.testing.assert_close(optimize_for_inference(model)(images), logits, rtol=1e-4, atol=1e-4)
    assert model.feature_info[0]['reduction'] == 2
    report = describe('nasnet_a', num_cells=1, cell_filters=8, stem='half', num_classes=200)
    assert report['params'] == sum(p.numel() for p in model.parameters())


def test_adding_a_sampler(monkeypatch):
    optuna = pytest.importorskip('optuna', reason='searches need it')
    from nasnet_zoo.search import SearchConfig
    from nasnet_zoo.search.samplers import SAMPLERS
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    monkeypatch.setitem(SAMPLERS, 'climb', None)
    sampler, row = worked_example('Adding a sampler')
    module = types.ModuleType('nasnet_zoo.search.samplers.climb')
    monkeypatch.setitem(sys.modules, module.__name__, module)
    names = execute(sampler, vars(module))
    assert names['study'].best_value >= 4  # 16 operations, of which one in seven is a max pool at random
    execute(row)
    assert SearchConfig(out='x', sampler='climb').sampler == 'climb'
    space, study = names['space'], optuna.create_study(direction='maximize')
    for _ in range(3):  # a study that is resumed twice
        study.sampler = SAMPLERS['climb'].resolve()(space, 0, 'fast', len(study.trials), None)
        study.optimize(names['count_pools'], n_trials=10)
    assert [trial.params for trial in study.trials] == [trial.params for trial in names['study'].trials]


def test_adding_a_layout(monkeypatch, tmp_path):
    monkeypatch.setitem(LAYOUTS, 'json', None)
    monkeypatch.chdir(tmp_path)
    block, = worked_example('Adding a layout')
    execute(block)
    assert {path.name for path in Path('deploy', 'cells').iterdir()} == {
        'model.onnx', 'labels.txt', 'genotype.json', 'manifest.json', 'preprocessing.json'}
    assert '"input_size": [' in Path('deploy', 'cells', 'preprocessing.json').read_text(encoding='utf-8')


# What README says

def test_readme():
    text = read('README.md')
    assert len(text.splitlines()) <= 100
    assert re.findall(r'^    (.*?)  ', text, re.MULTILINE)[:2] == ['make demo', 'make test']
    with open(ROOT / 'docs' / 'results' / 'results-cifar10-jpeg.csv', encoding='utf-8', newline='') as file:
        for row in csv.DictReader(file):
            assert f'| `{row["model"].split(".")[0]}` | CIFAR-10 (JPEG) | {row["top1"]} %' in text

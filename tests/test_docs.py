"""README and docs: their links lead somewhere, their code runs, and the command takes their command lines."""
import re
import shlex
import shutil
import subprocess
import sys

import pytest
import typer

from helpers.paths import ROOT
from nasnet_zoo.cli import app

PAGES = sorted([*ROOT.glob('*.md'), *ROOT.glob('docs/**/*.md'), *ROOT.glob('genotypes/*.md')])
RUNNABLE = {'README.md': [0], 'docs/quick_start.md': [0], 'docs/models.md': [0, 1],
            'docs/dense_prediction.md': [0]}  # page: blocks that need no files


def ids(page):
    return str(page.relative_to(ROOT))


def command_lines():
    """Each ``nasnet-zoo …`` line of an indented block, with its continuations, as page and arguments."""
    for page in PAGES:
        text = page.read_text(encoding='utf-8').replace('\\\n', ' ')
        for line in re.findall(r'^    nasnet-zoo (.*?)(?: {2,}#.*)?$', text, re.MULTILINE):
            yield pytest.param(shlex.split(line.split(' > ')[0]), id=f'{ids(page)}: {line[:60]}')


@pytest.mark.parametrize('page', PAGES, ids=ids)
def test_links_lead_somewhere(page):
    for target in re.findall(r'\]\(([^)#\s]+)', page.read_text(encoding='utf-8')):
        if not target.startswith(('http://', 'https://')):
            assert (page.parent / target).exists(), f'{ids(page)} links to {target}'


def test_pages_are_in_the_index():
    index = (ROOT / 'docs' / 'README.md').read_text(encoding='utf-8')
    for page in ROOT.glob('docs/*.md'):
        assert page.name == 'README.md' or f']({page.name})' in index, f'docs/README.md lacks {page.name}'


@pytest.mark.parametrize('arguments', list(command_lines()))
def test_command_lines_are_understood(arguments):
    command = typer.main.get_command(app)
    name, *rest = arguments
    if name.startswith('--'):
        assert name in {option for parameter in command.params for option in parameter.opts}
        return
    assert name in command.commands, f'there is no command {name!r}'
    command.commands[name].make_context(name, rest)  # raises UsageError for an unknown or a malformed option


def test_grad_cam_runs(tmp_path):
    pytest.importorskip('pytorch_grad_cam', reason='the code needs grad-cam')
    test_code_runs('docs/models.md', 2, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize('block', [1, 2])
def test_dense_prediction_with_a_searched_cell(block, tmp_path):
    pytest.importorskip('segmentation_models_pytorch', reason='the code needs pip install -e .[dense]')
    shutil.copy(ROOT / 'docs' / 'results' / 'search' / 'ppo' / 'cell.json', tmp_path)
    test_code_runs('docs/dense_prediction.md', block, tmp_path)


@pytest.mark.parametrize(('page', 'block'), [(page, block) for page, blocks in RUNNABLE.items() for block in blocks])
def test_code_runs(page, block, tmp_path):
    pytest.importorskip('matplotlib', reason='the code draws a picture')
    code = (ROOT / page).read_text(encoding='utf-8').split('```python\n')[block + 1].split('```')[0]
    subprocess.run([sys.executable, '-c', code], cwd=tmp_path, check=True)

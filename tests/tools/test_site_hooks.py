"""The documentation site: what mkdocs makes of the pages, and of a notebook."""
import json
import os
import posixpath
import re
import subprocess
import sys
from types import SimpleNamespace
from urllib.parse import unquote

import pytest

from helpers.paths import ROOT
from helpers.tools import import_tool

pytest.importorskip('material', reason='the site needs pip install -e .[docs]')
pytest.importorskip('mkdocstrings', reason='the site needs pip install -e .[docs]')
CONFIG = SimpleNamespace(
    docs_dir=str(ROOT / 'docs'), site_dir='site', use_directory_urls=True, repo_url='https://example.org/zoo',
    plugins=SimpleNamespace(_current_plugin='hooks'))


@pytest.fixture(scope='module')
def hooks():
    return import_tool('site_hooks')


@pytest.mark.parametrize(('source', 'address'), [
    ('README.md', 'index.html'), ('docs/search.md', 'search/index.html'), ('MODEL_CARD.md', 'model_card/index.html'),
    ('docs/results/README.md', 'results/index.html'), ('genotypes/README.md', 'genotypes/index.html'),
    ('docs/results/nb301/best.png', 'results/nb301/best.png')])
def test_addresses(hooks, source, address):
    assert hooks._address(source, CONFIG) == address


def test_links_and_pictures(hooks):
    from mkdocs.structure.files import Files
    files = Files(hooks._files(CONFIG))
    assert not files.get_file_from_path('docs/README.md') and not files.get_file_from_path('docs/theme/site.css')
    page = SimpleNamespace(file=files.get_file_from_path('docs/gpu.md'), parent=object())
    for text, expected in {
            '[a](models.md#weights) [b](results/gpu/training.txt)': None, '[c](https://example.com/x)': None,
            '[d](../tools/train.py)': '[d](https://example.org/zoo/blob/main/tools/train.py)',
            '[e](results/inference)': '[e](https://example.org/zoo/tree/main/docs/results/inference)',
            '[f](nowhere.md)': None,  # which mkdocs reports
            '[![Colab](https://example.com/badge.svg)](https://example.com/x)': '[Colab](https://example.com/x)'}.items():
        assert hooks.on_page_markdown(text, page, CONFIG, files) == (expected or text)


def test_roles_of_docstrings_become_links(hooks):
    html = hooks.on_page_content('See :class:<code>~nasnet_zoo.Skeleton</code>, :data:<code>PASSES</code>.')
    assert html == ('See <autoref optional identifier="nasnet_zoo.network.skeleton.Skeleton"><code>Skeleton</code>'
                    '</autoref>, <autoref optional identifier="PASSES"><code>PASSES</code></autoref>.')


def test_notebooks(hooks, tmp_path, monkeypatch):
    pytest.importorskip('nbconvert', reason='the site needs pip install -e .[docs]')
    monkeypatch.setattr(hooks, 'ROOT', tmp_path)
    assert list(hooks._notebooks(CONFIG)) == []
    png = 'iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=='
    cells = [dict(cell_type='markdown', id='a', metadata={}, source='# Title\n\n[guide](../search.md)'),
             dict(cell_type='code', id='b', metadata={}, source='print(1)', execution_count=1, outputs=[
                 dict(output_type='stream', name='stdout', text='1\n'),
                 dict(output_type='display_data', metadata={}, data={'image/png': png})])]
    folder = tmp_path / 'docs' / 'tutorials'
    folder.mkdir(parents=True)
    (folder / 'own.ipynb').write_text(json.dumps(dict(
        cells=cells, metadata=dict(language_info=dict(name='python')), nbformat=4, nbformat_minor=5)), encoding='utf-8')
    page, picture = hooks._notebooks(CONFIG)
    assert (page.src_uri, page.dest_uri) == ('docs/tutorials/own.md', 'tutorials/own/index.html')
    assert '```python\nprint(1)\n```' in page.content_string and '    1\n' in page.content_string
    assert posixpath.dirname(picture.dest_uri) == 'tutorials/own_files' and picture.content_bytes.startswith(b'\x89PNG')
    assert f'({picture.src_uri.removeprefix("docs/tutorials/")})' in page.content_string


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_site(tmp_path):
    """``make docs``: mkdocs finds nothing wrong, every link leads somewhere, and nothing comes from another server."""
    environment = dict(os.environ, PYTHONPATH=str(ROOT), SITE_URL='https://example.org/zoo/', NO_MKDOCS_2_WARNING='1')
    result = subprocess.run([sys.executable, '-m', 'mkdocs', 'build', '--site-dir', tmp_path], cwd=ROOT,
                            env=environment, capture_output=True, text=True, encoding='utf-8')
    assert result.returncode == 0, result.stderr
    pages = sorted(tmp_path.rglob('index.html'))
    assert len(pages) > 25
    for page in pages:
        text = page.read_text(encoding='utf-8')
        for tag, address in re.findall(r'<([^>]*?) (?:href|src)="([^"#]+)', text):
            if '://' in address:
                assert tag.split()[0] == 'a' or tag == 'link rel="canonical"', f'{page}: loads {address}'
            else:
                assert (page.parent / unquote(address)).exists(), f'{page.relative_to(tmp_path)}: {address}'
        assert ':class:' not in text
    commands = tmp_path / 'reference' / 'commands' / 'index.html'
    assert 'Learning rate at the start' in commands.read_text(encoding='utf-8')

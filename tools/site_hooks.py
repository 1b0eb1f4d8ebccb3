"""What mkdocs calls to build the documentation site; see mkdocs.yml. The pages stay where they are in the repository.

The address of a file in the repository, relative to its root, is also its address for mkdocs, so that links between
pages hold in both places. Links to files that are not on the site lead to the repository on the web.
"""
import posixpath
import re
import tomllib
from pathlib import Path
from typing import Any, Dict, Iterator, Match

import site_reference
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
TUTORIALS = 'docs/tutorials'
BRANCH = 'main'

_inserted: Dict[str, str] = {}  # HTML by the comment that stands for it
_PUBLIC = {f'{module}.{name}': path for module in site_reference.public_modules()
           for name, path in site_reference.public_objects(module).items()}


def on_config(config: MkDocsConfig) -> None:
    """Add the address of the repository, and the tutorials to the navigation."""
    project = tomllib.loads((ROOT / 'pyproject.toml').read_text(encoding='utf-8'))['project']
    config.repo_url, config.repo_name = project['urls']['Repository'], 'GitHub'
    config.edit_uri = f'edit/{BRANCH}/'
    config.site_description = project['description']
    tutorials = [f'{TUTORIALS}/{path.stem}.md' for path in sorted((ROOT / TUTORIALS).glob('*.ipynb'))]
    config.nav = [{'Tutorials': tutorials} if entry == {'Tutorials': TUTORIALS} else entry for entry in config.nav or []
                  if tutorials or entry != {'Tutorials': TUTORIALS}]


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Replace the files of docs/ by those of the whole repository that belong to the site, and add generated ones."""
    ours = Path(config.docs_dir)
    return Files([*(file for file in files if file.src_dir is None or Path(file.src_dir) != ours),
                  *_files(config), *_notebooks(config), *_generated(config)])


def _files(config: MkDocsConfig) -> Iterator[File]:
    """Yield the pages and the files beside them."""
    theme = ROOT / 'docs' / 'theme'
    docs = (path for path in sorted((ROOT / 'docs').rglob('*')) if path.is_file() and theme not in path.parents)
    for path in [*sorted(ROOT.glob('*.md')), ROOT / 'genotypes' / 'README.md', *docs]:
        source = path.relative_to(ROOT).as_posix()
        if source != 'docs/README.md' and path.suffix != '.ipynb':  # the former is the navigation on GitHub
            yield File(source, str(ROOT), config.site_dir, config.use_directory_urls, dest_uri=_address(source, config))


def _address(source: str, config: MkDocsConfig) -> str:
    """Return the address of a file of the repository on the site: without docs/, and in lower case at the root."""
    place = source.removeprefix('docs/')
    if source.endswith('.md') and '/' not in source and source != 'README.md':
        place = source.lower()
    return File(place, str(ROOT), config.site_dir, config.use_directory_urls).dest_uri


def _notebooks(config: MkDocsConfig) -> Iterator[File]:
    """Yield the tutorials as pages, with the results that are stored in the notebooks, and the pictures in these."""
    for path in sorted((ROOT / TUTORIALS).glob('*.ipynb')):
        from nbconvert import MarkdownExporter
        text, resources = MarkdownExporter().from_filename(
            str(path), resources=dict(output_files_dir=f'{path.stem}_files'))
        page = File.generated(config, f'{TUTORIALS}/{path.stem}.md', content=text)
        page.dest_uri = _address(page.src_uri, config)
        yield page
        for name, picture in resources['outputs'].items():
            file = File.generated(config, f'{TUTORIALS}/{name}', content=picture)
            file.dest_uri = _address(file.src_uri, config)
            yield file


def _generated(config: MkDocsConfig) -> Iterator[File]:
    """Yield the pages that are written from the code."""
    gallery, parts = site_reference.gallery_page()
    _inserted.update(parts)
    pages = {'commands': site_reference.command_page(), 'tools': site_reference.tools_page(),
             'extension_points': site_reference.extension_page(), 'gallery': gallery}
    pages.update({module: site_reference.python_page(module) for module in site_reference.public_modules()})
    for name, text in pages.items():
        yield File.generated(config, f'reference/{name}.md', content=text)


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let links to files that are not on the site lead to the repository, and load no pictures from other servers."""
    folder = posixpath.dirname(page.file.src_uri)
    if page.parent is None:  # it is alone on its tab
        page.meta['hide'] = ['navigation']

    def locate(match: Match) -> str:
        target = posixpath.normpath(posixpath.join(folder, match[1]))
        if target.endswith('.ipynb') and files.get_file_from_path(f'{target[:-6]}.md'):
            return f']({match[1][:-6]}.md'
        if '://' in match[1] or files.get_file_from_path(target) or not (ROOT / target).exists():
            return match[0]
        return f']({config.repo_url}/{"tree" if (ROOT / target).is_dir() else "blob"}/{BRANCH}/{target}'

    markdown = re.sub(r'!\[([^\]]*)\]\(https?://[^)]*\)', r'\1', markdown)
    return re.sub(r'\]\(([^)#\s]+)', locate, markdown)


def on_page_content(html: str, **unused: Any) -> str:
    """Insert the cells of the gallery, and turn the roles of docstrings, such as :class:`~a.b.C`, into links."""
    def link(match: Match) -> str:
        path = match[1].lstrip('~')
        shown = path.rpartition('.')[2] if match[1].startswith('~') else path
        return f'<autoref optional identifier="{_PUBLIC.get(path, path)}"><code>{shown}</code></autoref>'

    html = re.sub(r'(?<=\d) %(?=[^<>]*</td>)', '&nbsp;%', html)  # narrow columns break lines there
    html = re.sub(r'<!-- genotype [\w.-]+ -->', lambda match: _inserted[match[0]], html)
    return re.sub(r':(?:attr|class|data|func|meth|mod):<code>(~?[\w.]+)</code>', link, html)

"""The pages that are generated from the code: nothing that is public is left out, and texts are shown as texts."""
import argparse
import re
from pathlib import Path

import typer

import nasnet_zoo
import nasnet_zoo.hub
import nasnet_zoo.search
from helpers.tools import import_tool, skip_unless_all_tools_can_be_imported
from nasnet_zoo.cli import app
from nasnet_zoo.search import SearchConfig

reference = import_tool('site_reference')


def test_every_command_and_option_is_listed():
    page = reference.command_page()
    for name, command in typer.main.get_command(app).commands.items():
        section = page.split(f'\n## {name}\n')[1].split('\n## ')[0]
        for parameter in command.params:
            for option in parameter.opts if parameter.param_type_name == 'option' else [parameter.metavar]:
                assert f'| `{option}' in section, f'{name} {option}'
    assert re.search(r'\| `--lr \S+` \| Learning rate at the start of .*\. \(default: 0\.025\) \|\n', page)
    assert '(default: 256)' in page.split('\n## validate\n')[1].split('\n## ')[0]  # an option that is written by hand
    assert '```text\nnasnet-zoo train NAME_OR_JSON [OPTIONS]\n```' in page
    assert page.index('**Training recipe**') > page.index('**Options**')


def test_texts_are_escaped():
    option = reference.Option(['--a'], 'a|b <c> *d* [e] f_g\nh', True, 'Options')
    assert r'| `--a` | a\|b &lt;c> \*d\* \[e\] f\_g h **Required.** |' in list(reference.option_tables([option]))


def test_options_of_a_parser():
    parser = argparse.ArgumentParser(prog='x')
    parser.add_argument('files', nargs='+', help='what to read')
    parser.add_argument('--count', type=int, default=3, help='number of files, 100 %% by default')
    parser.add_argument('--kind', choices=['a', 'b'], required=True)
    parser.add_argument('--quick', action='store_true')
    parser.add_argument('--out', type=Path, default=Path('here'), help='where to')
    assert [tuple(option) for option in reference._tool_options(parser)] == [
        (['FILES'], 'what to read', True, 'Arguments'),
        (['--count INT'], 'number of files, 100 % by default', False, 'Options'),
        (['--kind {a,b}'], '', True, 'Options'), (['--quick'], '', False, 'Options'),
        (['--out PATH'], 'where to (default: here)', False, 'Options')]


def test_tools():
    skip_unless_all_tools_can_be_imported()
    page = reference.tools_page()
    assert {'benchmark', 'benchmark_gpu', 'benchmark_search', 'reliability', 'ship', 'train_zoo'} <= set(
        re.findall(r'^## (\w+)\.py$', page, re.MULTILINE))
    assert '### benchmark.py infer' in page and '| `--minutes FLOAT` |' in page
    assert '    python tools/ship.py runs/b nasnet_b_cifar_small --data …' in page


def test_every_public_name_is_documented():
    modules = {'nasnet_zoo': nasnet_zoo, 'nasnet_zoo.search': nasnet_zoo.search, 'nasnet_zoo.hub': nasnet_zoo.hub}
    assert reference.public_modules() == list(modules)
    for name, module in modules.items():
        page = reference.python_page(name)
        assert re.findall(r'^      heading: (\w+)$', page, re.MULTILINE) == list(module.__all__)
        for path in re.findall(r'^::: (\S+)$', page, re.MULTILINE):
            found = getattr(module, path.rpartition('.')[2])
            assert found.__doc__, f'{path} has no docstring'
            assert path == f'{found.__module__}.{found.__qualname__}'


def test_extension_points():
    page = reference.extension_page()
    assert re.findall(r'^::: (\S+)$', page, re.MULTILINE) == list(reference.EXTENSION_POINTS)
    assert '**Fields of `ExportConfig`**' in page and '| `layout` | `\'plain\'` | Arrangement of the files.' in page


def test_fields_of_settings():
    page = reference.python_page('nasnet_zoo.search').split('**Fields of `SearchConfig`**')[1].split(':::')[0]
    assert set(re.findall(r'^\| `(\w+)` \|', page, re.MULTILINE)) == set(SearchConfig.model_fields)
    assert '| `trials` | `100` | Number of different children' in page
    assert '| `sampler` | `\'gp\'` | Algorithm that proposes cells. One of: gp, ppo,' in page


def test_gallery(monkeypatch):
    monkeypatch.setattr(reference, 'show_genotype', lambda genotype: ['<p>', genotype.name, '</p>'])
    page, parts = reference.gallery_page.__wrapped__()  # without the cache
    names = nasnet_zoo.list_genotypes()
    assert re.findall(r'\n## (\w+)\n\n<!-- genotype \1 -->\n', page) == names
    assert list(parts) == [f'<!-- genotype {name} -->' for name in names]
    assert parts['<!-- genotype nasnet_c -->'] == '<div class="gallery" data-search-exclude><p>nasnet_c</p></div>'

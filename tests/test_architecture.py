"""The structure that docs/architecture.md promises: layers, no cycles, short files and functions, mirrored tests.

The checkers are in helpers/structure.py and are tested here on made-up sources.
"""
import ast
from pathlib import Path

import pytest

from helpers.paths import ROOT, TESTS
from helpers.structure import (
    Function,
    encoding_problems,
    find_cycle,
    functions,
    imports,
    layer_of,
    layer_problems,
    modules,
    read_layers,
    size_problems,
)

PACKAGE = 'nasnet_zoo'
LAYERS = read_layers((ROOT / 'docs' / 'architecture.md').read_text(encoding='utf-8'))
SOURCES = modules(ROOT / PACKAGE)
PACKAGES = {module for module in SOURCES if (ROOT.joinpath(*module.split('.')) / '__init__.py').exists()}
IMPORTS = imports(SOURCES, PACKAGES)
# A search runs on many machines, and its children need no code that exports or uploads.
NOT_FOR_SEARCH = ('graph', 'deploy', 'hub.publish')
WHOLE_PACKAGE_TESTS = {'test_architecture', 'test_docs', 'test_package', 'test_typing'}


def report(problems):
    assert not problems, '\n'.join(problems)


def in_layers(name, layers):
    return any(name == f'{PACKAGE}.{layer}' or name.startswith(f'{PACKAGE}.{layer}.') for layer in layers)


# The package

def test_every_module_is_in_a_layer_and_every_layer_has_a_module():
    layers = {module: layer_of(module, LAYERS, PACKAGE) for module in SOURCES if module != PACKAGE}
    assert [module for module, layer in layers.items() if layer is None] == []
    assert [layer for layer in LAYERS if layer not in layers.values()] == []
    assert len(set(LAYERS)) == len(LAYERS)


def test_imports_point_at_earlier_layers():
    assert len(IMPORTS) > 100
    report(layer_problems(IMPORTS, LAYERS, PACKAGE, PACKAGES))


def test_no_module_imports_itself_through_others():
    assert ' -> '.join(find_cycle(IMPORTS)) == ''


def test_search_needs_no_code_for_deployment():
    found = [f'{module}, line {line}: imports {target}' for module, line, target in IMPORTS
             if in_layers(module, ['search']) and in_layers(target, NOT_FOR_SEARCH)]
    report(found)


def test_nothing_imports_the_tools():
    report([f'{path}: imports {name}' for path in (ROOT / PACKAGE).rglob('*.py') for name in imported_names(path)
            if name.split('.')[0] == 'tools'])


@pytest.mark.parametrize('module', SOURCES)
def test_files_and_functions_are_short(module):
    max_arguments = None if in_layers(module, ['cli']) else 14
    report(size_problems(module, SOURCES[module], (400, 40, max_arguments)))


@pytest.mark.parametrize('path', sorted((ROOT / 'tools').rglob('*.py')), ids=lambda path: path.stem)
def test_functions_of_tools_are_short(path):
    report(size_problems(f'tools/{path.name}', path.read_text(encoding='utf-8'), (None, 40, 14)))


# The tests

def test_every_text_file_is_opened_with_an_encoding():
    paths = [path for folder in (PACKAGE, 'tools', 'tests') for path in (ROOT / folder).rglob('*.py')]
    report([problem for path in paths
            for problem in encoding_problems(path.relative_to(ROOT), path.read_text(encoding='utf-8'))])


def imported_names(path):
    """The names of all modules that a file imports, and of what it takes from them; relative ones without dots."""
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ('.'.join(filter(None, [node.module, alias.name])) for alias in node.names)


def is_test_module(name):
    """Whether a dotted name is that of a test file, or of something in one."""
    first, *rest = name.split('.')
    return first == 'tests' or first.startswith('test_') or (
        (TESTS / first).is_dir() and any(part.startswith('test_') for part in rest))


def test_test_files_do_not_import_each_other():
    paths = list(TESTS.rglob('*.py'))
    assert len(paths) > 20
    report([f'{path.relative_to(ROOT)}: imports {name}' for path in paths for name in imported_names(path)
            if is_test_module(name)])


def has_counterpart(path, root=ROOT):
    """Whether a test file has the name of a module, a package or a script: tests/a/test_b.py of nasnet_zoo/a/b."""
    *folders, _ = path.relative_to(root / 'tests').parts
    place = root / 'tools' if folders[:1] == ['tools'] else root.joinpath(PACKAGE, *folders)
    name = path.stem.removeprefix('test_')
    return (place / f'{name}.py').exists() or (place / name / '__init__.py').exists()


def test_tests_mirror_the_package():
    report([f'{path.relative_to(ROOT)}: there is no module of that name' for path in sorted(TESTS.rglob('test_*.py'))
            if not has_counterpart(path) and not (path.parent == TESTS and path.stem in WHOLE_PACKAGE_TESTS)])


# The checkers, on made-up sources

MADE_UP = {
    'zoo': 'from .low import base\nfrom .high import top\n',
    'zoo.low': '',
    'zoo.low.base': 'import os\n',
    'zoo.low.other': 'from .base import a\nfrom . import base\n',
    'zoo.high': '',
    'zoo.high.top': 'from ..low import base\nimport zoo.low.base\nimport numpy\n',
    'zoo.high.last': 'from .top import x\n',
}
MADE_UP_PACKAGES = {'zoo', 'zoo.low', 'zoo.high'}
MADE_UP_LAYERS = ['low', 'high.top', 'high.last']


def made_up(module, source):
    found = imports({**MADE_UP, module: source}, MADE_UP_PACKAGES)
    return found, layer_problems(found, MADE_UP_LAYERS, 'zoo', MADE_UP_PACKAGES)


def test_made_up_imports_are_found():
    found, problems = made_up('zoo.low.other', '')
    assert [tuple(row) for row in found] == [
        ('zoo', 1, 'zoo.low.base'), ('zoo', 2, 'zoo.high.top'), ('zoo.high.top', 1, 'zoo.low.base'),
        ('zoo.high.top', 2, 'zoo.low.base'), ('zoo.high.last', 1, 'zoo.high.top')]
    assert problems == []
    assert find_cycle(found) == []


@pytest.mark.parametrize('source, match', [
    ('from ..high.top import x', 'layer high.top comes after low'),
    ('from ..high import top', 'layer high.top comes after low'),
    ('from ..high import name', 'layer high.top comes after low'),
    ('import zoo.high.last as last', 'layer high.last comes after low'),
    ('from zoo.high.top import x', 'layer high.top comes after low'),
    ('def f():\n    if True:\n        from ..high.top import x', 'zoo.low.base, line 3: imports zoo.high.top, but'),
    ('if TYPE_CHECKING:\n    from ..high import top', 'layer high.top comes after low'),
    ("importlib.import_module('..high.top', __package__)", 'layer high.top comes after low'),
    ("import_module('zoo.high.top')", 'layer high.top comes after low'),
    ('import zoo', 'imports zoo, which only re-exports'),
    ('from zoo import x', 'imports zoo, which only re-exports'),
    ('from .. import x', 'imports zoo, which only re-exports'),
    ('from . import name', "the module's own package"),
    ('from zoo.strange import x', 'which is in no layer'),
])
def test_made_up_import_that_points_upwards(source, match):
    _, problems = made_up('zoo.low.base', source)
    assert len(problems) == 1
    assert match in problems[0]


def test_made_up_main():
    assert made_up('zoo.low.__main__', 'from . import name')[1] == []
    assert len(made_up('zoo.low.__main__', 'from ..high import top')[1]) == 1


def test_made_up_cycles():
    found, problems = made_up('zoo.low.base', 'def f():\n    from . import other\n')
    assert problems == []
    assert find_cycle(found) == ['zoo.low.base', 'zoo.low.other', 'zoo.low.base']
    assert find_cycle(imports({'a': 'import a'}, set())) == ['a', 'a']


def test_made_up_layers():
    assert layer_of('zoo.high', MADE_UP_LAYERS, 'zoo') == 'high.top'
    assert layer_of('zoo.high.last', MADE_UP_LAYERS, 'zoo') == 'high.last'
    assert layer_of('zoo.lower', MADE_UP_LAYERS, 'zoo') is None
    text = '# A\n```\nnot this\n```\n## Layers\nSome words.\n\n```text\nfiles   what for\n\nhub.folder x\n```\n'
    assert read_layers(text + '```\nnor this\n```\n') == ['files', 'hub.folder']
    with pytest.raises(ValueError, match='no fenced block'):
        read_layers('# A\n```\nnot this\n```\n')


@pytest.mark.parametrize('call, is_problem', [
    ('path.read_text()', True), ("path.read_text(encoding='utf-8')", False), ("(a / b).write_text('x')", True),
    ("path.open('a')", True), ("path.open('rb')", False), ("path.open('a', encoding='utf-8')", False),
    ('path.open()', True), ('Image.open(path)', False), ("tarfile.open(path, 'w')", False), ('f.open(**how)', False)])
def test_made_up_text_files(call, is_problem):
    assert encoding_problems('file.py', call) == (
        [f'file.py, line 1: {call.split("(")[-2].split(".")[-1]} names no encoding'] if is_problem else [])


def test_made_up_functions():
    source = '''
class A(Model):
    a: int = Field(1)
    @decorated(
        1)
    def method(self, a, /, b, *args, c=1, **kwargs):
        """Of several

        lines.
        """
        # a comment

        def inner(self, x): return x
        return inner
async def lone(cls): """One line."""
'''
    assert functions(source) == [
        Function('method', 6, 5, 3), Function('inner', 13, 1, 2), Function('lone', 15, 0, 1)]


def test_made_up_sizes():
    body = 'def f(a, b):\n' + '    a = b\n' * 39
    assert size_problems('x', body, (40, 40, 2)) == []
    assert size_problems('x', body + '    return a\n', (40, 40, 1)) == [
        'x: has 41 lines, at most 40 are allowed', 'x, line 1: f has 41 lines, at most 40 are allowed',
        'x, line 1: f takes 2 arguments, at most 1 are allowed']
    assert size_problems('x', body + '    return a\n', (None, 41, None)) == []


def test_made_up_tests(tmp_path):
    for name in ('nasnet_zoo/cell/__init__.py', 'nasnet_zoo/network/ops.py', 'tools/run.py'):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    places = {'tests/test_cell.py': True, 'tests/network/test_ops.py': True, 'tests/tools/test_run.py': True,
              'tests/test_ops.py': False, 'tests/network/test_cell.py': False, 'tests/test_run.py': False}
    assert {place: has_counterpart(Path(tmp_path / place), tmp_path) for place in places} == places
    (tmp_path / 'file.py').write_text(
        'from .test_a import x\nfrom network import test_b\nimport helpers.paths', encoding='utf-8')
    assert list(map(is_test_module, imported_names(tmp_path / 'file.py'))) == [True, True, False]
    assert is_test_module('tests.helpers')

"""The public names are typed: what type checkers see of them is what is there, and the examples use all of them.

``make lint`` runs the type checker on the package and on ``tests/typed``.
"""
import ast
import inspect

import pytest

import nasnet_zoo
from helpers.paths import ROOT

SOURCE = ROOT / 'nasnet_zoo' / '__init__.py'
# Functions, and the constructors of classes that users create. The others come from functions, or take fields.
CALLED = [name for name in nasnet_zoo.__all__ if not inspect.isclass(getattr(nasnet_zoo, name))] + ['Classifier']


def imported(nodes):
    """Module by imported name of the ``from … import`` statements among nodes."""
    return {alias.asname or alias.name: '.' * node.level + (node.module or '')
            for node in nodes if isinstance(node, ast.ImportFrom) for alias in node.names}


def test_type_checkers_see_the_lazy_names():
    blocks = [node.body for node in ast.parse(SOURCE.read_text(encoding='utf-8')).body
              if isinstance(node, ast.If) and ast.unparse(node.test) == 'TYPE_CHECKING']
    assert len(blocks) == 1
    assert imported(blocks[0]) == nasnet_zoo._LAZY


def test_all_names_are_there():
    eager = imported(ast.parse(SOURCE.read_text(encoding='utf-8')).body)
    own = {name for name, module in eager.items() if module.startswith('.')} - {'__version__', 'zoo'}
    assert set(nasnet_zoo.__all__) == own | set(nasnet_zoo._LAZY)
    assert nasnet_zoo.__all__ == sorted(set(nasnet_zoo.__all__))
    assert set(nasnet_zoo.__all__) <= set(dir(nasnet_zoo))
    with pytest.raises(AttributeError, match="has no attribute 'Genotyp'"):
        nasnet_zoo.Genotyp  # noqa: B018


def test_the_examples_use_every_public_name():
    tree = ast.parse((ROOT / 'tests' / 'typed' / 'examples.py').read_text(encoding='utf-8'))
    names = imported(ast.walk(tree))
    assert {name for name, module in names.items() if module == 'nasnet_zoo'} == set(nasnet_zoo.__all__)
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    assert set(nasnet_zoo.__all__) <= used


@pytest.mark.parametrize('name', CALLED)
def test_signatures_are_complete(name):
    function = getattr(nasnet_zoo, name)
    signature = inspect.signature(function.__init__ if inspect.isclass(function) else function)
    assert signature.return_annotation is not inspect.Signature.empty
    assert [parameter.name for parameter in signature.parameters.values()
            if parameter.annotation is inspect.Parameter.empty and parameter.name != 'self'] == []


def test_the_package_is_marked_as_typed():
    assert (ROOT / 'nasnet_zoo' / 'py.typed').exists()

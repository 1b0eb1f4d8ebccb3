"""The space of a search, built-in or from a file."""
import re

import pytest

from helpers.paths import ROOT
from nasnet_zoo.search.errors import SearchError
from nasnet_zoo.search.make_space import make_space
from nasnet_zoo.search.space import DARTS_OPS, PAPER_OPS, Space, darts_space, nasnet_space

OWN = '''
from nasnet_zoo.search import Decision, Space

OPS = ('sep_conv_3x3', 'sep_conv_5x5', 'max_pool_3x3')
number = 5


def pairs(blocks=2, ops=OPS):
    def build(choices):
        cell = dict(blocks=[dict(left=[choices[f'b{i}'], 'h0'], right=['identity', 'h1']) for i in range(blocks)],
                    outputs=[[f'b{i}' for i in range(blocks)]])
        return dict(inputs=2, normal=cell, reduction=cell)
    return Space(f'pairs-{blocks}', [Decision(f'b{i}', ops) for i in range(blocks)], build)


fixed = pairs()
needs_more = lambda width: None
returns_a_list = lambda: []
any_ops = lambda ops: Space('any', [('a', ops)], dict)


def divides():
    return 1 / 0


empty = Space('empty', [('a', 'xy')], dict)
misspelt = Space('misspelt', [('a', 'xy')], lambda choices: pairs()._build(dict(b0=choices['b'], b1='identity')))
unknown = Space('unknown', [('a', 'xy')], lambda choices: pairs()._build(dict(b0='warp', b1='identity')))
calls = []
moody = Space('moody', [('a', 'xy')], lambda choices: calls.append(0) or pairs()._build(
    dict(b0=('sep_conv_3x3', 'sep_conv_5x5')[len(calls) % 5 == 0], b1='sep_conv_3x3')))
'''


@pytest.fixture(scope='module')
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp('own') / 'own.py'
    path.write_text(OWN, encoding='utf-8')
    return path


def test_built_in_spaces():
    assert make_space('nasnet').fingerprint == nasnet_space().fingerprint
    assert make_space('darts', 2).fingerprint == darts_space(2).fingerprint
    fewer = make_space('nasnet', 3, ['conv_1x1', 'max_pool_7x7'])
    ops = tuple(op for op in PAPER_OPS if op not in ('conv_1x1', 'max_pool_7x7'))
    assert fewer.fingerprint == nasnet_space(3, ops).fingerprint != nasnet_space(3).fingerprint
    assert make_space('darts', None, DARTS_OPS[2:]).decisions[0].options == DARTS_OPS[:2]


def test_a_space_or_a_function_in_a_file(file):
    assert isinstance(make_space(f'{file}:fixed'), Space)
    assert make_space(f'{file}:pairs').fingerprint == make_space(f'{file}:fixed').fingerprint
    assert len(make_space(f'{file}:pairs', 3, ['sep_conv_5x5']).decisions) == 3
    assert make_space(f'{file}:pairs', None, ['sep_conv_5x5']).sizes == (2, 2)


@pytest.mark.parametrize('name, blocks, forbidden, message', [
    ('nasnet', None, ['sep_conv_3x4'], "--forbid-op: nasnet has no operation 'sep_conv_3x4'; did you mean 'sep_conv_3"),
    ('darts', None, ['conv_1x1'], "--forbid-op: darts has no operation 'conv_1x1'"),
    ('darts', None, DARTS_OPS[1:], 'darts has 7 operations, and only 1 of them is not forbidden; at least two'),
    ('{file}:fixed', 3, [], '--blocks: {file}:fixed is a Space; it must be a function that takes \'blocks\''),
    ('{file}:fixed', None, ['sep_conv_3x3'], '--forbid-op: {file}:fixed is a Space; it must be a function that'),
    ('{file}:any_ops', None, ['x'], "--forbid-op: the parameter 'ops' of {file}:any_ops has no default"),
    ('{file}:divides', 3, [], "--blocks: {file}:divides is a function without the parameter 'blocks'"),
    ('{file}:pairs', None, ['conv_1x1'], "pairs has no operation 'conv_1x1'; known: sep_conv_3x3, sep_conv_5x5, max"),
    ('{file}:pears', None, [], "space: {file} has no 'pears'; did you mean 'pairs'?"),
    ('{file}:number', None, [], 'space: {file}:number is an object of type int, not a Space'),
    ('{file}:returns_a_list', None, [], 'space: {file}:returns_a_list returns an object of type list, not a Space'),
    ('{file}:divides', None, [], 'space: {file}, line 23: ZeroDivisionError: division by zero'),
    ('{file}:needs_more', None, [], 'space: {file}: TypeError: .*missing 1 required positional argument'),
    ('{file}:misspelt', None, [], "space: {file}, line 27: KeyError: 'b'"),
    ('{file}:unknown', None, [], "space: {file}:unknown builds an invalid cell: .*unknown operation 'warp'"),
    ('{file}:moody', None, [], 'space: {file}:moody builds another cell when it gets the same choices again'),
    ('{file}:empty', None, [], 'space: {file}:empty builds an invalid cell: '),
    ('nowhere.py:space', None, [], 'space: nowhere.py: there is no such file')])
def test_what_is_refused(file, name, blocks, forbidden, message):
    with pytest.raises(SearchError) as caught:
        make_space(name.format(file=file), blocks, forbidden)
    expected = re.escape(message.format(file=file)).replace(r'\.\*', '.*')
    assert re.match(f'.*{expected}', str(caught.value)), str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize('text, message', [
    ('x = 1\nspace = = 2', 'line 2: SyntaxError: invalid syntax'), ('import sys\nsys.exit(3)', 'line 2: SystemExit: 3'),
    ('import nowhere', "line 1: ModuleNotFoundError: No module named 'nowhere'"),
    ('def f():\n    raise KeyError\nf()', 'line 2: KeyError'), ('x = 1', "has no 'space'; it has neither a Space nor")])
def test_files_that_cannot_be_imported(tmp_path, text, message, monkeypatch):
    (tmp_path / 'wrong.py').write_text(text, encoding='utf-8')
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SearchError, match=f'^space: wrong.py(, | ){message}'):
        make_space('wrong.py:space')


def test_the_example_in_the_guide(tmp_path):
    guide = (ROOT / 'docs' / 'search.md').read_text(encoding='utf-8')
    file, name = re.search(r'--space (\w+\.py):(\w+)', guide).groups()
    code = next(block for block in guide.split('```python\n') if f'def {name}(' in block).split('```')[0]
    (tmp_path / file).write_text(code, encoding='utf-8')
    space = make_space(f'{tmp_path / file}:{name}', 2, ['sep_conv_5x5'])
    tokens = [size - 1 for size in space.sizes]
    genotype = space.genotype(tokens)
    assert len(genotype.normal.blocks) == 2 and space.find(genotype) == tuple(tokens)

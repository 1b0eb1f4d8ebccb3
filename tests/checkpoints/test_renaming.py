"""The engine that translates names, by a made-up table; the tables of the code bases are tested with their networks."""
import re
from types import SimpleNamespace

import pytest

from nasnet_zoo.checkpoints.renaming import NameTable, find_cell_positions, rename

TABLE = NameTable(
    code_bases=('made up',),
    cell=re.compile(r'(?P<before>x?)(?P<kind>stem|pool|)(?P<number>\d+)/(?P<after>.+)'),
    cell_groups={'stem': 'stem', '': 'normal', 'pool': 'reduction'},
    rules=((r'(cells\.\d+)\.x', r'\1.aside.'), (r'^in$', 'entrance'), (r'^entrance$', 'stem.weight')),
    alternatives=((r'\.norm$', '.deep.norm'),),
)
CELLS = [SimpleNamespace(kind=kind, in_stem=i == 0)
         for i, kind in enumerate(('reduction', 'normal', 'reduction', 'normal', 'normal'))]
NAMES = ['9/a', 'pool1/a', '1/a', '1/b', 'stem0/a', 'x2/a', 'in', 'stranger', '2/norm', '9/norm']


def test_cells_are_those_of_the_plan():
    assert find_cell_positions(TABLE, NAMES, CELLS) == {
        'stem0/a': 0, '1/a': 1, '1/b': 1, 'pool1/a': 2, 'x2/a': 3, '2/norm': 3, '9/a': 4, '9/norm': 4}
    assert find_cell_positions(TABLE, ['in', 'stranger'], CELLS) == {}


def test_reductions_may_be_counted_among_the_normal_cells():
    names = ['stem0/a', *(f'{number}/a' for number in (0, 1, 2, 3))]
    assert find_cell_positions(TABLE, names, CELLS) == dict(zip(names, range(5)))


@pytest.mark.parametrize('names, match', [
    ([*NAMES, '12/a'], 'have 4 normal cells, the model has 3'),
    ([name for name in NAMES if not name.startswith('9')], 'have 2 normal cells, the model has 3'),
    ([*NAMES, 'pool7/a'], 'have 2 reduction cells, the model has 1'),
])
def test_another_number_of_cells_is_refused(names, match):
    with pytest.raises(ValueError, match=match):
        find_cell_positions(TABLE, names, CELLS)


def test_rules_apply_in_order_and_unknown_names_stay():
    renamed = rename(TABLE, NAMES, (), CELLS)
    assert renamed['in'] == 'stem.weight'
    assert renamed['stranger'] == 'stranger'
    assert (renamed['1/b'], renamed['x2/a']) == ('cells.1.b', 'cells.3.aside.a')
    assert list(renamed) == NAMES


def test_an_alternative_needs_a_tensor_of_that_name():
    renamed = rename(TABLE, NAMES, {'cells.3.norm', 'cells.4.deep.norm'}, CELLS)
    assert (renamed['2/norm'], renamed['9/norm']) == ('cells.3.norm', 'cells.4.deep.norm')
    assert rename(TABLE, NAMES, (), CELLS)['9/norm'] == 'cells.4.norm'


def test_numbers_are_matched_in_order():
    table = TABLE._replace(rules=((r'\.layer', '.conv#'), (r'^out', 'out.#')))
    names = ['1/layer2', '1/layer5', '9/layer5', 'out3', 'out1']
    ours = {'cells.0.conv0', 'cells.0.conv1', 'cells.0.conv1.bias', 'cells.1.conv3', 'out.7.weight'}
    assert rename(table, names, ours, CELLS[1:3]) == {
        '1/layer2': 'cells.0.conv0', '1/layer5': 'cells.0.conv1', '9/layer5': 'cells.1.conv3',
        'out1': 'out.7', 'out3': 'out.#3'}


def test_recognizes():
    assert TABLE.recognizes(['in', 'pool1/a'])
    assert not TABLE.recognizes(['in', 'stranger'])

"""The engine that translates names, by a made-up table; the tables of the code bases are tested with their networks."""
import re

from nasnet_zoo.checkpoints.renaming import NameTable, find_cell_positions, rename

TABLE = NameTable(
    code_bases=('made up',),
    cell=re.compile(r'(?P<before>x?)(?P<kind>stem|pool|)(?P<number>\d+)/(?P<after>.+)'),
    cell_order={'stem': (1, -10), '': (1, 0), 'pool': (1, 0.5)},
    rules=((r'(cells\.\d+)\.x', r'\1.aside.'), (r'^in$', 'entrance'), (r'^entrance$', 'stem.weight')),
    alternatives=((r'\.norm$', '.deep.norm'),),
)
NAMES = ['9/a', 'pool1/a', '1/a', '1/b', 'stem0/a', 'x2/a', 'in', 'stranger', '2/norm', '9/norm']


def test_cells_are_counted_from_stem_to_classifier():
    assert find_cell_positions(TABLE, NAMES) == {
        'stem0/a': 0, '1/a': 1, '1/b': 1, 'pool1/a': 2, 'x2/a': 3, '2/norm': 3, '9/a': 4, '9/norm': 4}
    assert find_cell_positions(TABLE, ['in', 'stranger']) == {}


def test_rules_apply_in_order_and_unknown_names_stay():
    renamed = rename(TABLE, NAMES, ())
    assert renamed['in'] == 'stem.weight'
    assert renamed['stranger'] == 'stranger'
    assert (renamed['1/b'], renamed['x2/a']) == ('cells.1.b', 'cells.3.aside.a')
    assert list(renamed) == NAMES


def test_an_alternative_needs_a_tensor_of_that_name():
    renamed = rename(TABLE, NAMES, {'cells.3.norm', 'cells.4.deep.norm'})
    assert (renamed['2/norm'], renamed['9/norm']) == ('cells.3.norm', 'cells.4.deep.norm')
    assert rename(TABLE, NAMES, ())['9/norm'] == 'cells.4.norm'


def test_recognizes():
    assert TABLE.recognizes(['in', 'pool1/a'])
    assert not TABLE.recognizes(['in', 'stranger'])

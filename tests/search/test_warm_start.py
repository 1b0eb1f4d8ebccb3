"""Known cells that are evaluated first."""
import optuna
import pytest

from helpers.darts import PC_DARTS_CIFAR, V2
from nasnet_zoo import import_genotype
from nasnet_zoo.search import EvolutionSampler
from nasnet_zoo.search.errors import SearchError
from nasnet_zoo.search.space import Decision, Space, darts_space, nasnet_space
from nasnet_zoo.search.warm_start import enqueue, find_cells


@pytest.fixture
def cells(tmp_path):
    paths = []
    for i, text in enumerate((V2, PC_DARTS_CIFAR)):
        paths.append(str(tmp_path / f'{i}.json'))
        import_genotype(text).save(paths[-1])
    return paths


def test_each_cell_is_evaluated_once(cells):
    """Also if the search is interrupted between them, and others are added when it is resumed."""
    space = darts_space()
    first, both = find_cells(cells[:1], space, [], print), find_cells(cells, space, [], print)
    study = optuna.create_study(sampler=EvolutionSampler(space, 0), direction='maximize')
    enqueue(study, first)
    asked = [space.suggest(study.ask())]
    enqueue(study, both)
    enqueue(study, both)
    asked += [space.suggest(study.ask()) for _ in range(2)]
    assert [space.choices(tokens) for tokens in asked[:2]] == [cell.choices for cell in both]
    assert asked[2] not in asked[:2] and len(study.trials) == 3


def test_other_outputs_are_reported(cells):
    lines = []
    find_cells(['nasnet_a'], nasnet_space(), [], lines.append)
    find_cells(cells, darts_space(), [], lines.append)
    assert len(lines) == 1 and 'nasnet_a is evaluated as nasnet-5 writes it: with the same blocks' in lines[0]


@pytest.mark.parametrize('name, space, forbidden, message', [
    ('nasnet_a', darts_space(), [], 'normal: has 5 blocks .*; nasnet_a is in --space nasnet --blocks 5$'),
    ('nasnet_a', nasnet_space(4), [], 'nasnet_a is in --space nasnet --blocks 5$'),
    (0, nasnet_space(), [], 'normal: has 4 blocks .*; imported is in --space darts --blocks 4$'),
    ('nasnet_b', nasnet_space(), [], 'inputs: is 4; in nasnet-5 it is 2; no built-in space contains nasnet_b$'),
    ('nasnet_a', nasnet_space(5, ('identity', 'conv_1x1')), [], "left_op 'sep_conv_5x5' is not in nasnet-5; nasnet_a"),
    ('nasnet_a', nasnet_space(), ['sep_conv_5x5'],
     r'nasnet_a: normal.blocks\[.\].\w+ is sep_conv_5x5, which --forbid-op leaves out of the space$')])
def test_cells_that_are_not_in_the_space(cells, name, space, forbidden, message):
    with pytest.raises(SearchError, match=f'^--warm-start: .*{message}'):
        find_cells([name if isinstance(name, str) else cells[name]], space, forbidden, print)


def test_parse_functions_that_are_wrong():
    def build(choices):
        return nasnet_space().genotype([['x', 'y'].index(choices['a'])] * 50).to_dict()
    for parse, message in ((lambda genotype: dict(a='x'), 'returns the choices of another cell'),
                           (lambda genotype: {}['a'], "fails with KeyError: 'a'")):
        with pytest.raises(SearchError, match=f'--warm-start: nasnet_a: the parse function of own {message}'):
            find_cells(['nasnet_a'], Space('own', [Decision('a', 'xy')], build, parse), [], print)

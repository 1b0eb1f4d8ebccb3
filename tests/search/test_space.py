"""Search spaces: decisions to genotypes and back."""
import copy
import pickle
import random

import optuna
import pytest

from nasnet_zoo import compile_genotype, load_genotype
from nasnet_zoo.search.space import DARTS_OPS, PAPER_OPS, Decision, Space, SpaceError, darts_space, nasnet_space

WITH_NORMS = ('add', 'concat', 'add_layer_norm', 'add_instance_norm')
ALL = [nasnet_space(), nasnet_space(4, combines=WITH_NORMS), nasnet_space(2, ('identity', 'conv_1x1'), ('add',)),
       darts_space(), darts_space(2, DARTS_OPS[:3])]


def draws(space, count=20):
    rng = random.Random(space.name)
    return [tuple(rng.randrange(size) for size in space.sizes) for _ in range(count)]


@pytest.mark.parametrize('space', ALL, ids=lambda space: f'{space.name} {len(space.decisions)}')
def test_tokens_to_genotype_and_back(space):
    for tokens in draws(space):
        genotype = space.genotype(tokens, 'child', search={'seed': 1})
        assert genotype.name == 'child' and genotype.search == {'seed': 1}
        assert space.find(load_genotype(genotype.to_dict())) == tokens
        assert space.tokens(space.choices(tokens)) == tokens
        for cell in genotype.cells.values():
            assert len(cell.live - {'h0', 'h1'}) == len(cell.blocks), 'no block is for nothing'
    compile_genotype(genotype, num_cells=1, cell_filters=2, stem='cifar', num_classes=3)


@pytest.mark.parametrize('space', ALL[1:], ids=lambda space: f'{space.name} {len(space.decisions)}')
def test_spaces_can_be_copied(space):
    for copied in (pickle.loads(pickle.dumps(space)), copy.deepcopy(space)):
        assert copied.fingerprint == space.fingerprint
        genotype = space.genotype(draws(space, 1)[0])
        assert copied.genotype(draws(space, 1)[0]) == genotype and copied.find(genotype) == draws(space, 1)[0]


def test_trials_of_every_kind_suggest():
    space, tokens = darts_space(2), draws(darts_space(2), 1)[0]
    params = space.choices(tokens)
    complete = optuna.trial.create_trial(params=params, distributions=space.distributions, value=1.)
    study = optuna.create_study()
    study.add_trial(complete)
    for trial in (optuna.trial.FixedTrial(params), complete, study.trials[0], study.best_trial):
        assert space.suggest(trial) == tokens
    study.enqueue_trial(params)
    assert space.suggest(study.ask(space.distributions)) == tokens
    with pytest.raises(ValueError, match=f"'{space.decisions[0].name}' is not found"):
        space.suggest(optuna.trial.FixedTrial({}))


def test_sizes_are_the_papers():
    """2 x 5 B decisions: two states, two operations and how to combine them, a block."""
    space = nasnet_space()
    assert len(space.decisions) == 2 * 5 * 5 and len(PAPER_OPS) == 13
    assert space.sizes[:10] == (2, 2, 13, 13, 2, 3, 3, 13, 13, 2)
    assert darts_space().sizes[:11] == (7, 7, 3, 7, 7, 6, 7, 7, 10, 7, 7), 'the first node has no choice of states'


def test_outputs_are_the_blocks_that_nothing_reads():
    space = nasnet_space(3)
    choices = space.choices([0] * len(space.decisions))
    choices.update({'normal.b1.left_state': 'b0', 'normal.b1.right_state': 'h1'})
    genotype = space.genotype(space.tokens(choices))
    assert genotype.normal.outputs == (('b1', 'b2'),) and genotype.reduction.outputs == (('b0', 'b1', 'b2'),)


def test_published_cells_are_in_their_spaces():
    tokens = nasnet_space().find(load_genotype('nasnet_a'))
    found = nasnet_space().genotype(tokens)
    assert found.normal.blocks == load_genotype('nasnet_a').normal.blocks
    assert found.normal.outputs[0] == ('b0', 'b1', 'b2', 'b3', 'b4'), 'without h1, which the paper adds'
    with pytest.raises(SpaceError, match='nasnet_b: inputs: is 4; in nasnet-5 it is 2'):
        nasnet_space().find(load_genotype('nasnet_b'))
    with pytest.raises(SpaceError, match='normal: has 4 blocks and 1 outputs; in nasnet-5 a cell has 5 and 1'):
        nasnet_space().find(load_genotype('nasnet_c'))
    with pytest.raises(SpaceError, match="nasnet_c: normal.blocks.1.: combine 'add_instance_norm' is not in nasnet-4"):
        nasnet_space(4).find(load_genotype('nasnet_c'))
    assert nasnet_space(4, combines=WITH_NORMS).find(load_genotype('nasnet_c'))


def test_fingerprints_tell_spaces_apart():
    assert len({space.fingerprint for space in ALL}) == len(ALL)
    assert nasnet_space().fingerprint == nasnet_space().fingerprint


def test_a_space_of_ones_own():
    """The example in the docstring."""
    ops = ('sep_conv_3x3', 'max_pool_3x3')
    space = Space('pairs', [Decision('left', ops), ('right', ops)], build=lambda choices: dict(
        inputs=1, normal=(cell := dict(
            blocks=[dict(left=[choices['left'], 'h0'], right=[choices['right'], 'h0'])], outputs=[['b0']])),
        reduction=cell))
    assert space.genotype([0, 1]).normal.blocks[0].right == ('max_pool_3x3', 'h0')
    with pytest.raises(SpaceError, match='give Space a parse function'):
        space.find(load_genotype('nasnet_a'))


@pytest.mark.parametrize('call, message', [
    (lambda: darts_space().choices([0]), 'darts-4: .0. are not the indices of an option for each of the 22'),
    (lambda: darts_space().choices([7] * 22), 'are not the indices'),
    (lambda: darts_space().tokens({'normal.b0.left_op': 'sep_conv_9x9'}), "b0.left_op has no option 'sep_conv_9x9'"),
    (lambda: darts_space().tokens({}), 'darts-4: there is no choice for normal.b0.left_op'),
    (lambda: Space('numbers', [('a', (3, 5))], dict), 'must be strings, and 3 is an object of type int'),
    (lambda: Space(4, [('a', 'xy')], dict), 'must be strings, and 4 is an object of type int'),
    (lambda: Space('twice', [('a', 'xy'), ('a', 'xy')], dict), 'decisions: a; each decision needs a unique name'),
    (lambda: Space('one', [('a', ('x',))], dict), 'at least two different options'),
    (lambda: Space('none', [], dict), 'there are none')])
def test_what_is_no_space(call, message):
    with pytest.raises(ValueError, match=message):
        call()

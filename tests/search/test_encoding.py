"""Children as counts of what their genotypes consist of."""
import json
import random
from dataclasses import replace

import numpy as np
import pytest

from nasnet_zoo.genotype.operations import COMBINES
from nasnet_zoo.genotype.schema import KINDS
from nasnet_zoo.search.encoding import Encoder, squared_distances
from nasnet_zoo.search.space import Space, darts_space, nasnet_space

OPS = ('sep_conv_3x3', 'max_pool_3x3')


def of_one_input(choices):
    """A space of genotypes with one input and two outputs."""
    cell = dict(blocks=[dict(left=[choices['op'], 'h0'], right=['identity', choices['state']], combine='concat'),
                        dict(left=['identity', 'b0'], right=['identity', 'h0'])],
                outputs=[['b0', 'h0'], [choices['output']]], head=['b1'])
    return dict(inputs=1, normal=cell, reduction=cell)


def without_cells(choices):
    return dict(choices, nested=dict(list=[1, [choices['x']]]))


SPACES = [
    nasnet_space(), nasnet_space(2, OPS, ('add', 'concat', 'add_layer_norm')), darts_space(), darts_space(1),
    Space('one input', [('op', OPS), ('state', ('h0', 'h1')), ('output', ('b0', 'b1'))], of_one_input),
    Space('letters', [('x', 'abc'), ('y', 'ab')], without_cells)]
EVERY = pytest.mark.parametrize('space', SPACES, ids=lambda space: f'{space.name} {len(space.decisions)}')


def draws(space, count=30):
    rng = random.Random(space.name)
    return [tuple(rng.randrange(size) for size in space.sizes) for _ in range(count)]


def with_operands(data, order):
    """The genotype with the operands of each block in another order."""
    def block(old):
        left, right = order([old['left'], old['right']])
        return dict(old, left=left, right=right)
    return {key: dict(value, blocks=[block(old) for old in value['blocks']]) if key in KINDS else value
            for key, value in data.items()}


def distances(encoder, children):
    counts = encoder.counts([encoder.encode(tokens) for tokens in children])
    return squared_distances(counts, counts)


@EVERY
def test_children_are_told_apart_but_for_the_order_of_operands(space):
    encoder = Encoder(space)
    encodings = {json.dumps(with_operands(space.build(tokens), sorted)): encoder.encode(tokens)
                 for tokens in draws(space) * 2}
    assert len(set(encodings.values())) == len(encodings) > 1
    other = Encoder(Space('swapped', space.decisions, lambda choices: with_operands(
        space.build(space.tokens(choices)), reversed)))
    for one, another in zip(distances(encoder, draws(space)), distances(other, draws(space))):
        assert np.array_equal(one, another)


@EVERY
def test_distances_are_those_of_counts(space):
    encoder = Encoder(space)
    encodings = [encoder.encode(tokens) for tokens in draws(space)]
    counts = encoder.counts(encodings)
    for group, found in zip(counts, squared_distances(counts, counts)):
        expected = ((group[:, None] - group[None]) ** 2).sum(-1)
        assert np.array_equal(found, expected)
    total = sum(squared_distances(counts, counts))
    same = np.array([[a == b for b in encodings] for a in encodings])
    assert ((total == 0) == same).all(), 'two children are at the same place if and only if their encodings are equal'


@pytest.mark.parametrize('space', SPACES[:4], ids=lambda space: f'{space.name} {len(space.decisions)}')
def test_every_edge_is_counted_once(space):
    encoder = Encoder(space)
    counts = encoder.counts([encoder.encode(tokens) for tokens in draws(space)])
    for kind, group in zip(KINDS, counts[2::3]):
        for row, tokens in zip(group, draws(space), strict=True):
            assert row.sum() == 2 * len(space.build(tokens)[kind]['blocks'])


def test_the_same_cells_have_the_same_digest():
    """Of children with equal encodings the architecture is the same."""
    space = nasnet_space(1, OPS)
    encoder, digests = Encoder(space), {}
    for tokens in draws(space, 200):
        digests.setdefault(encoder.encode(tokens), set()).add(space.genotype(tokens).architecture_digest)
    assert len(digests) > 50 and all(len(same) == 1 for same in digests.values())


def test_operands_of_a_combine_that_depends_on_their_order(monkeypatch):
    gate = replace(COMBINES['concat'], name='gate', is_symmetric_up_to_channels=False)
    monkeypatch.setitem(COMBINES, 'gate', gate)
    cell = dict(outputs=[['b0']])

    def build(choices):
        edges = [['identity', 'h0'], ['sep_conv_3x3', 'h1']][::1 if choices['order'] == 'a' else -1]
        blocks = [dict(left=edges[0], right=edges[1], combine=choices['combine'])]
        return dict(normal=dict(cell, blocks=blocks), reduction=dict(cell, blocks=blocks))
    encoder = Encoder(Space('order', [('order', 'ab'), ('combine', ('add', 'gate'))], build))
    assert encoder.encode((0, 0)) == encoder.encode((1, 0)) and encoder.encode((0, 1)) != encoder.encode((1, 1))


def test_features_that_are_met_later():
    """Their columns are added, and the distances stay the same."""
    space = nasnet_space()
    encoder = Encoder(space)
    first, second = draws(space, 5), draws(space, 30)[5:]
    early = encoder.counts([encoder.encode(tokens) for tokens in first])
    late = encoder.counts([encoder.encode(tokens) for tokens in second])
    again = encoder.counts([encoder.encode(tokens) for tokens in first])
    assert late[2].shape[1] > early[2].shape[1]
    for pair in ((early, late), (again, late)):
        assert np.array_equal(squared_distances(*pair), squared_distances(again, late))
        assert np.array_equal(squared_distances(*pair[::-1]), squared_distances(late, again))

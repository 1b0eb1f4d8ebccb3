"""Networks of equal cost."""
from functools import cache

import pytest

from helpers.networks import GENOTYPES
from nasnet_zoo import compile_genotype, describe, load_genotype
from nasnet_zoo.search.match import MATCHES, MatchError, matched_filters, reference_cost

ARGS = dict(num_cells=1, cell_filters=8, stem='cifar', num_classes=10, img_size=16)


@cache
def cost(name, match, filters):
    return describe(name, **dict(ARGS, cell_filters=filters))[match]


@pytest.mark.parametrize('match', MATCHES)
def test_reference_is_nasnet_a(match):
    assert reference_cost(match, **ARGS) == cost('nasnet_a', match, 8)
    assert matched_filters(load_genotype('nasnet_a'), match, reference_cost(match, **ARGS), **ARGS) == 8


@pytest.mark.parametrize('name', GENOTYPES)
def test_nearest_width(name):
    """No other width is nearer to the target, and none that is below it is larger."""
    target = reference_cost('params', **ARGS)
    for below in (False, True):
        filters = matched_filters(load_genotype(name), 'params', target, below, **ARGS)
        costs = {width: cost(name, 'params', width) for width in (filters - 1, filters, filters + 1)}
        allowed = [width for width in costs if not below or costs[width] <= target]
        assert filters == min(allowed, key=lambda width: abs(costs[width] - target))


def test_the_start_does_not_matter():
    genotype = load_genotype('pnasnet5')
    found = {matched_filters(genotype, 'macs', 2e6, **dict(ARGS, cell_filters=start)) for start in (1, 8, 100)}
    assert len(found) == 1
    model = compile_genotype(genotype, **dict(ARGS, cell_filters=found.pop()))
    assert sum(p.numel() for p in model.parameters()) > 0


@pytest.mark.parametrize('target, below', [(100., True), (100., False)])
def test_a_target_that_cannot_be_met(target, below):
    with pytest.raises(MatchError, match='nasnet_a: has [0-9,]+ parameters even with a single filter, which is more'):
        matched_filters(load_genotype('nasnet_a'), 'params', target, below, **ARGS)

"""Networks of equal cost: how wide they must be, so that a comparison compares their cells and not their sizes."""
import math
from functools import cache
from typing import Any, Dict, NamedTuple

from ..description import describe
from ..genotype.loader import load_genotype
from ..genotype.schema import Genotype
from ..zoo import build

__all__ = ['MATCHES', 'MatchError', 'matched_filters', 'reference_cost']


class MatchError(ValueError):
    """No width gives a network the wanted cost. The message says why."""


class _Match(NamedTuple):
    """A cost by which networks are matched.

    Attributes:
        description: One line for help texts.
        unit: What it is a number of.
    """
    description: str
    unit: str


MATCHES: Dict[str, _Match] = {
    'params': _Match('the same number of parameters', 'parameters'),
    'macs': _Match('the same number of mult-adds for one image', 'mult-adds'),
}


def _cost(genotype: Genotype, match: str, network_args: Dict[str, Any]) -> int:
    """Return the cost of a network by the name of a match."""
    if match == 'params':  # describe() would count mult-adds as well, which takes several times as long
        return sum(p.numel() for p in build(genotype, **network_args, device='meta').parameters())
    return describe(genotype, **network_args)[match]


def reference_cost(match: str, **network_args: Any) -> int:
    """Return the cost of a network with the cells of NASNet-A.

    Args:
        match: A name in :data:`MATCHES`.
        **network_args: Arguments of ``compile_genotype``.
    """
    return _cost(load_genotype('nasnet_a'), match, network_args)


def matched_filters(
        genotype: Genotype, match: str, target: float, below: bool = False, **network_args: Any,
) -> int:
    """Return the number of filters in the cells of the first stage that brings the cost nearest to `target`.

    The cost grows with the number of filters, by steps of about a fifth for networks of 100,000 parameters.

    Args:
        genotype: The cells.
        match: What to match, a name in :data:`MATCHES`.
        target: The wanted cost.
        below: Choose the nearest cost that is not above the target.
        **network_args: Other arguments of ``compile_genotype``. ``cell_filters`` is the width to start from.

    Raises:
        MatchError: If the network costs more than `target` with a single filter, and `below` is set or it costs more
            than twice as much.
    """
    @cache
    def cost(filters: int) -> int:
        return _cost(genotype, match, dict(network_args, cell_filters=filters))

    start = network_args.pop('cell_filters')
    filters = max(1, round(start * math.sqrt(target / cost(start))))  # most weights connect filters with filters
    while filters > 1 and cost(filters) > target:
        filters -= 1
    while cost(filters + 1) <= target:
        filters += 1
    if cost(filters) > (target if below else 2 * target):
        raise MatchError(f'{genotype.name}: has {cost(filters):,} {MATCHES[match].unit} even with a single filter, '
                         f'which is more than the target of {target:,.0f}')
    if not below and cost(filters + 1) - target < target - cost(filters):
        filters += 1
    return filters

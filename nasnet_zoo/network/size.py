"""How wide and how large a network will be, computed before memory is taken for it."""
import math
import reprlib

from ..genotype.schema import Genotype
from .skeleton import Skeleton

__all__ = ['first_filters', 'check_model_size']

MAX_PARAMETERS = 4_000_000_000
MAX_CELL_BLOCKS = 2048


def first_filters(genotype: Genotype, skeleton: Skeleton, filters: int) -> int:
    """Return the filters F of the first stage's cells with which the penultimate layer is `filters` wide.

    Raises:
        ValueError: If no whole number F gives this width. The message names the nearest widths that work.
    """
    if isinstance(filters, bool) or not isinstance(filters, int) or filters < 1:
        raise ValueError(f'filters: must be a positive whole number, not {reprlib.repr(filters)}')
    last = skeleton.positions()[-1]
    head = genotype.cells[last.kind]
    unit = head.width(head.head_states) * 2 ** last.stage
    if filters % unit:
        near = [f for f in (filters // unit, filters // unit + 1) if f]
        raise ValueError(
            f'filters: must be a multiple of {unit} for {genotype.name}, not {filters}; the nearest are '
            + ' and '.join(f'{unit * f} (cell_filters={f})' for f in near))
    return filters // unit


def check_model_size(genotype: Genotype, skeleton: Skeleton, num_classes: int, aux_head: bool) -> None:
    """Check that a network does not have billions of parameters.

    The number of parameters is an upper estimate: two operations of 2 F² for each block, and a projection for each
    input of a cell.

    Raises:
        ValueError: If the network is too large. The message names the argument to reduce.
    """
    depth = 'num_layers' if skeleton.num_layers else 'num_cells'
    blocks = skeleton.depth * max(len(cell.blocks) for cell in genotype.cells.values())
    if blocks > MAX_CELL_BLOCKS:
        raise ValueError(f'{depth}: {genotype.name} with {depth}={getattr(skeleton, depth)} has {blocks} blocks, over '
                         f'{MAX_CELL_BLOCKS}; choose a smaller value')
    in_squares = max(
        4 * len(cell.blocks) + genotype.inputs * max(map(cell.width, cell.outputs)) for cell in genotype.cells.values())
    widest = 4 * skeleton.cell_filters
    head = max(cell.width(cell.head_states) for cell in genotype.cells.values()) * widest
    estimates = dict(
        cell_filters=skeleton.depth * in_squares * widest ** 2,
        stem_filters=genotype.inputs * skeleton.stem_width * widest,
        num_classes=2 * head * num_classes,
        img_size=(math.prod(skeleton.aux_filters) * math.prod(skeleton.feature_size(skeleton.plain_stride // 2)) // 9
                  * aux_head),
    )
    for name, estimate in estimates.items():
        if estimate > MAX_PARAMETERS:
            raise ValueError(f'{name}: {genotype.name} of this size may have {estimate:,} parameters, over '
                             f'{MAX_PARAMETERS:,}; choose a smaller value')

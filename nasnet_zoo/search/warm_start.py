"""Known cells that a search evaluates first, so that its sampler learns from them."""
from typing import Callable, List, NamedTuple, Sequence, Tuple

import optuna

from ..genotype.loader import load_genotype
from ..genotype.schema import KINDS, Genotype, GenotypeError
from .errors import SearchError
from .space import SPACES, Choices, Space, SpaceError
from .study import batched_writes

__all__ = ['WarmStart', 'enqueue', 'find_cells', 'find_tokens']


class WarmStart(NamedTuple):
    """A known cell that is evaluated first.

    Attributes:
        name: What the user wrote.
        choices: Its choices in the space of the search.
    """
    name: str
    choices: Choices


def find_cells(
        names: Sequence[str], space: Space, forbidden: Sequence[str], log: Callable[[str], None]) -> List[WarmStart]:
    """Find cells in a space.

    Args:
        names: Files, or names of built-in genotypes.
        space: The space of the search.
        forbidden: Operations that the user has left out of the space.
        log: Called with a line for each cell that the space can only express with other outputs or fitting.

    Raises:
        SearchError: If a cell is not in the space. The message says which part of it does not fit, and names a built-in
            space that contains the cell.
    """
    found = []
    for name in names:
        genotype = load_genotype(name)
        _check_operations(genotype, forbidden)
        try:
            tokens = find_tokens(genotype, space, '--warm-start')
        except SpaceError as error:
            raise SearchError(f'--warm-start: {error}{_where(genotype)}') from None
        written = space.genotype(tokens)
        if not _same_blocks(written, genotype):
            raise SearchError(f'--warm-start: {genotype.name}: the parse function of {space.name} returns the choices '
                              'of another cell; a SpaceError should say why this one is not in the space')
        if written.architecture_digest != genotype.architecture_digest:
            log(f'{genotype.name} is evaluated as {space.name} writes it: with the same blocks, but with other outputs '
                'or another "fit"')
        found.append(WarmStart(name, space.choices(tokens)))
    return found


def find_tokens(genotype: Genotype, space: Space, option: str) -> Tuple[int, ...]:
    """Return the tokens of a genotype in a space, which may be one of the user's own.

    Args:
        genotype: The cell.
        space: The space.
        option: The option that messages name.

    Raises:
        SpaceError: If the cell is not in the space.
        SearchError: If the parse function of the space fails.
    """
    try:
        return space.find(genotype)
    except SpaceError:
        raise
    except Exception as error:
        raise SearchError(f'{option}: {genotype.name}: the parse function of {space.name} fails with '
                          f'{type(error).__name__}: {error}') from None


def enqueue(study: optuna.Study, cells: Sequence[WarmStart]) -> None:
    """Let the next trials of a study be these cells, except for those that it has already."""
    with batched_writes(study):
        for cell in cells:
            study.enqueue_trial(cell.choices, skip_if_exists=True)


def _check_operations(genotype: Genotype, forbidden: Sequence[str]) -> None:
    for kind, cell in genotype.cells.items():
        for i, block in enumerate(cell.blocks):
            for side, (op, _) in zip(('left', 'right'), block.edges):
                if op in forbidden:
                    raise SearchError(f'--warm-start: {genotype.name}: {kind}.blocks[{i}].{side} is {op}, which '
                                      '--forbid-op leaves out of the space')


def _same_blocks(written: Genotype, genotype: Genotype) -> bool:
    """Return whether two genotypes would be the same architecture if they had the same outputs and the same fitting."""
    rest, blocks = written.to_dict(), genotype.to_dict()
    try:
        changed = load_genotype({**rest, **{kind: dict(rest[kind], blocks=blocks[kind]['blocks']) for kind in KINDS}})
    except GenotypeError:  # it has fewer blocks
        return False
    return changed.architecture_digest == written.architecture_digest


def _where(genotype: Genotype) -> str:
    """Return which built-in space contains a genotype, as the end of an error message."""
    count = len(genotype.normal.blocks)
    for name, make in SPACES.items():
        try:
            make(blocks=count).find(genotype)
        except SpaceError:
            continue
        return f'; {genotype.name} is in --space {name} --blocks {count}'
    return f'; no built-in space contains {genotype.name}'

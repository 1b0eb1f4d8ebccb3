"""The last stage of a search, in which its best children are trained again, for longer."""
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Callable, Dict, List, NamedTuple, Sequence

from ..files import write_json
from ..genotype.schema import Genotype
from .errors import ChildError
from .folder import read_json
from .pool import ChildPool, completed

__all__ = ['Finalist', 'train_finalists']


class Finalist(NamedTuple):
    """A child that is trained again.

    Attributes:
        number: The number of its trial.
        value: Its accuracy in the search.
        genotype: Its cells.
    """
    number: int
    value: float
    genotype: Genotype


def train_finalists(
        path: Path, finalists: Sequence[Finalist], pool: ChildPool, epochs: int, val_seed: int,
        log: Callable[[str], None],
) -> List[Dict[str, Any]]:
    """Train the best children again, and keep the results in a file from which the training is resumed.

    Args:
        path: ``finals.json`` of the search. Children that it lists with the same number of epochs are not
            trained again. Rows that were measured on other held-out images are left out.
        finalists: The children.
        pool: Workers that train for `epochs`. They are closed at the end.
        epochs: Number of epochs.
        val_seed: Seed of the choice of the held-out images.
        log: Called with a line for each child.

    Returns:
        A row for each child that has an accuracy, as JSON data.
    """
    rows = read_json(path) if path.exists() else []
    rows = [row for row in rows if 'accuracy' in row  # those that failed are tried again
            and row.get('val_seed', 0) == val_seed]  # earlier versions held out the images of the search
    known = {row['architecture'] for row in rows if row['epochs'] == epochs}
    todo = [one for one in finalists if one.genotype.architecture_digest not in known]
    try:
        for finalist, future in completed(lambda one: pool.submit(one.genotype), pool.size, todo):
            rows.append(dict(_row(finalist, future, pool, epochs, log), val_seed=val_seed))
            write_json(path, rows)
    finally:
        pool.close()
    wanted = {one.genotype.architecture_digest for one in finalists}
    return [row for row in rows if row['architecture'] in wanted and row['epochs'] == epochs and 'accuracy' in row]


def _row(
        finalist: Finalist, future: Future, pool: ChildPool, epochs: int, log: Callable[[str], None],
) -> Dict[str, Any]:
    """Return the row of a finished child: what was measured, or the reason why it failed."""
    row = dict(number=finalist.number, architecture=finalist.genotype.architecture_digest, epochs=epochs,
               child_value=finalist.value)
    try:
        row.update(pool.result(future)._asdict())
        log(f'child {finalist.number}: {finalist.value:.2%} in the search, {row["accuracy"]:.2%} after longer training')
    except ChildError as error:
        row.update(reason=str(error))
        log(f'child {finalist.number}: {error}')
    return row

"""The last stage of a search, in which its best children are trained again, for longer."""
import shutil
from concurrent.futures import Future
from pathlib import Path
from statistics import fmean
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence

from ..files import remove_partial_files, write_json
from ..genotype.schema import Genotype
from .config import ChildSettings
from .errors import ChildError, SearchError
from .evaluator import Evaluation, ImageSource, make_evaluator
from .folder import read_json
from .pool import ChildPool, Evaluate, completed
from .pruning import ShouldPrune

__all__ = ['FinalRun', 'Finalist', 'make_final_evaluator', 'mean_results', 'read_runs', 'train_finalists']

# Entries of each row of finals.json, and further ones of a row that has an accuracy
_ENTRIES, _MEASURED = ('number', 'architecture', 'epochs', 'child_value'), ('params', 'macs', 'seconds')


class Finalist(NamedTuple):
    """A child that is trained again.

    Attributes:
        number: The number of its trial.
        accuracy: Its accuracy in the search.
        genotype: Its cells.
    """
    number: int
    accuracy: float
    genotype: Genotype


class FinalRun(NamedTuple):
    """A training run of a finalist.

    Attributes:
        genotype: The cells.
        seed: The seed of the weights and of the augmentation.
    """
    genotype: Genotype
    seed: int


def make_final_evaluator(source: ImageSource, settings: ChildSettings, checkpoints: str) -> Evaluate:
    """Return the function of a worker that trains finalists. It takes a :class:`FinalRun`.

    Args:
        source: The images.
        settings: How the finalists are built and trained.
        checkpoints: The folder with the checkpoints of runs that were interrupted. On a machine that does not have it,
            no checkpoints are written. (A Path of Windows could not be sent to a cluster.)
    """
    evaluator = make_evaluator(source, settings)

    def evaluate(run: FinalRun, should_prune: Optional[ShouldPrune] = None) -> Evaluation:
        return evaluator.with_seed(run.seed)(run.genotype, should_prune, Path(checkpoints))
    return evaluate


def train_finalists(
        path: Path, checkpoints: Path, finalists: Sequence[Finalist], pool: ChildPool, epochs: int,
        seeds: Sequence[int], val_seed: int, log: Callable[[str], None],
) -> List[Dict[str, Any]]:
    """Train the best children again, and keep the results in a file from which the training is resumed.

    Args:
        path: ``finals.json`` of the search, with a row for each training run. Runs that it lists with the same number
            of epochs are not repeated. Rows that were measured on other held-out images are left out.
        checkpoints: The folder for checkpoints of this search. It is created, and removed when no run is left to do.
        finalists: The children.
        pool: Workers that train for `epochs`, made by :func:`make_final_evaluator`. They are closed at the end.
        epochs: Number of epochs.
        seeds: The seeds with which each child is trained.
        val_seed: Seed of the choice of the held-out images.
        log: Called with a line for each training run.

    Returns:
        A row for each child that has an accuracy, as :func:`mean_results` returns it.

    Raises:
        SearchError: If a checkpoint cannot be written.
    """
    rows = read_runs(path)
    rows = [dict(row, seed=row.get('seed', seeds[0]))  # earlier versions had a single one
            for row in rows if 'accuracy' in row  # those that failed are tried again
            and row.get('val_seed', 0) == val_seed]  # earlier versions held out the images of the search
    # A child has another number if its trial was lost with a damaged journal and it was trained again.
    current = {one.genotype.architecture_digest: dict(number=one.number, child_value=one.accuracy) for one in finalists}
    renumbered = [dict(row, **current.get(row['architecture'], {})) for row in rows]
    if renumbered != rows:
        rows = renumbered
        write_json(path, rows)
    known = {(row['architecture'], row['seed']) for row in rows if row['epochs'] == epochs}
    todo = [(one, seed) for seed in seeds for one in finalists
            if (one.genotype.architecture_digest, seed) not in known]
    try:
        checkpoints.mkdir(exist_ok=True)
        remove_partial_files(checkpoints)
        for (one, seed), future in completed(
                lambda run: pool.submit(FinalRun(run[0].genotype, run[1])), pool.size, todo):
            name = f'child {one.number}' + (f' with seed {seed}' if len(seeds) > 1 else '')
            rows.append(dict(_row(one, future, pool, epochs, name, log), seed=seed, val_seed=val_seed))
            write_json(path, rows)
    finally:
        pool.close()
    if all('accuracy' in row for row in rows):  # those that failed are tried again
        shutil.rmtree(checkpoints, ignore_errors=True)
    return mean_results([row for row in rows if row['architecture'] in current and row['epochs'] == epochs
                         and row['seed'] in seeds and 'accuracy' in row])


def read_runs(path: Path) -> List[Dict[str, Any]]:
    """Read ``finals.json``: a row for each training run. Without the file there are none.

    Raises:
        SearchError: If the file is damaged.
    """
    rows = read_json(path) if path.exists() else []
    fix = 'restore it from a copy, or remove it; the best children are then trained again with --resume'
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise SearchError(f'{path}: is not a list of training runs; {fix}')
    for i, row in enumerate(rows):
        for name in (*_ENTRIES, *(_MEASURED if 'accuracy' in row else ())):
            if name not in row:
                raise SearchError(f'{path}: row {i} has no {name!r}; {fix}')
    return rows


def mean_results(rows: Sequence[Dict[str, Any]]) -> List[Dict[str, Any]]:
    """Return a row for each child, given rows of training runs: the first run's with the mean ``accuracy`` and
    ``reward`` of all its runs, their ``accuracies`` and ``seeds``, and their ``seconds`` in total."""
    runs: Dict[str, List[Dict[str, Any]]] = {}
    for row in rows:
        runs.setdefault(row['architecture'], []).append(row)
    results = []
    for found in runs.values():
        accuracies = [row['accuracy'] for row in found]
        result = {name: value for name, value in found[0].items() if name not in ('seed', 'rewards')}
        results.append(dict(
            result, accuracy=fmean(accuracies), reward=fmean(accuracies), accuracies=accuracies,
            seeds=[row.get('seed', 0) for row in found], seconds=sum(row['seconds'] for row in found)))
    return results


def _row(
        finalist: Finalist, future: Future, pool: ChildPool, epochs: int, name: str, log: Callable[[str], None],
) -> Dict[str, Any]:
    """Return the row of a finished training run: what was measured, or the reason why it failed."""
    row = dict(number=finalist.number, architecture=finalist.genotype.architecture_digest, epochs=epochs,
               child_value=finalist.accuracy)
    try:
        row.update(pool.result(future)._asdict())
        log(f'{name}: {finalist.accuracy:.2%} in the search, {row["accuracy"]:.2%} after longer training')
    except ChildError as error:
        row.update(reason=str(error))
        log(f'{name}: {error}')
    except OSError as error:
        raise SearchError(f'{name}: a checkpoint cannot be written: {error}; free some space and continue with '
                          '--resume') from None
    return row

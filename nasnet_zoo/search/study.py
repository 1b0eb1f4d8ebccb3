"""The Optuna study of a search. It records every trial and is the whole state of the search."""
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Callable, ContextManager, Dict, Iterator, List, NamedTuple, Optional, Sequence, Union

import optuna
from optuna.trial import FrozenTrial, TrialState

from ..checked import first_line
from ..genotype.schema import Genotype
from .errors import SearchError
from .folder import read_search, upgrade_settings
from .journal import BatchedJournalStorage, has_records, remove_damaged_end
from .objectives import combined_reward
from .optuna_internals import get_storage
from .space import Space

__all__ = ['StudySettings', 'batched_writes', 'check_cells', 'check_storage', 'child_rows', 'evaluated_trials',
           'is_evaluated', 'open_stored_study', 'open_study', 'rebuild_cell', 'storage_failures_reported']

COMPARED_CELLS = 20  # number of recorded cells that are built again when a search is resumed


class StudySettings(NamedTuple):
    """The settings with which a study is created and must be resumed.

    Attributes:
        sampler: Creates the sampler, given the number of trials that the study already has.
        settings: The settings that all children of the study have in common, as JSON data.
        reused: Finished trials to add, except for those whose architecture the study has already.
        directions: The direction of each objective.
        pruner: Optuna's pruner; None to prune nothing.
    """
    sampler: Callable[[int], optuna.samplers.BaseSampler]
    settings: Dict[str, Any] = {}
    reused: Sequence[FrozenTrial] = ()
    directions: Sequence[str] = ('maximize',)
    pruner: Optional[optuna.pruners.BasePruner] = None


def batched_writes(study: optuna.Study) -> ContextManager[None]:
    """Return a context in which all records of a study are written at once, if its storage supports that."""
    storage = get_storage(study)
    return storage.journal.batch() if isinstance(storage, BatchedJournalStorage) else nullcontext()


def open_study(
        folder: Path,
        name: str,
        storage: Optional[str] = None,
        create: Optional[StudySettings] = None,
) -> optuna.Study:
    """Open the study of a search, in the journal of its folder or in another storage.

    The journal is the default because it takes a fifth of SQLite's time to ask for and tell a trial.

    Args:
        folder: The folder of the search, with ``study.log``.
        name: The name of the study.
        storage: The URL of another storage, as Optuna takes it.
        create: Create the study if it does not exist. Without it the study must exist, and is only read.

    Raises:
        SearchError: If there is no such study, if it has other settings, or if the storage cannot be used.
    """
    path = folder / 'study.log'
    if create is None and storage is None and not path.exists():
        raise SearchError(f'{folder}: there is no search here')
    if create is not None and storage is None:
        remove_damaged_end(path)
    try:
        backend = storage or BatchedJournalStorage(path)
        if create is None:
            return optuna.load_study(study_name=name, storage=backend)
        study = optuna.create_study(
            study_name=name, storage=backend, directions=create.directions, load_if_exists=True,
            pruner=create.pruner or optuna.pruners.NopPruner())
    except KeyError:
        raise SearchError(f'{folder}: there is no search here') from None
    except SearchError:
        raise
    except Exception as error:  # SQLAlchemy, Redis and JSON raise errors of their own
        raise _unusable(storage or path, error) from None
    _check_settings(study, create.settings, storage or path)
    _add_missing(study, create.reused)
    study.sampler = create.sampler(len(study.get_trials(deepcopy=False)))
    return study


def open_stored_study(folder: Path, storage: Optional[str] = None) -> Optional[optuna.Study]:
    """Open the study of a search, which may be running, to read it.

    Args:
        folder: The folder of the search.
        storage: The URL of the storage. It is only used if the search was started with one.

    Returns:
        The study, or None if the search has only just begun.

    Raises:
        SearchError: If there is no search, or its trials are in another storage.
    """
    content = read_search(folder / 'search.json')
    if not content['settings'].get('own_storage'):
        return open_study(folder, content['study']) if has_records(folder / 'study.log') else None
    if storage is None:
        raise SearchError(f'{folder}: the trials of this search are in another storage; add --storage URL')
    return open_study(folder, content['study'], storage)


def _check_settings(study: optuna.Study, settings: Dict[str, Any], place: Union[str, Path]) -> None:
    """Store the settings in a new study, and compare them with those of an existing one."""
    stored = study.user_attrs.get('settings')
    if stored is None and not study.get_trials(deepcopy=False):
        study.set_user_attr('settings', settings)
    elif stored is None or stored != settings and upgrade_settings(stored) != settings:
        raise SearchError(f'{place}: the study {study.study_name!r} has other settings; choose another --out')


def _add_missing(study: optuna.Study, trials: Sequence[FrozenTrial]) -> None:
    """Add finished trials to a study, except for those whose architecture it has already."""
    known = {trial.user_attrs['architecture'] for trial in evaluated_trials(study)}
    with batched_writes(study):
        for trial in trials:
            if trial.user_attrs['architecture'] not in known:
                study.add_trial(trial)
                known.add(trial.user_attrs['architecture'])


def check_cells(study: optuna.Study, space: Space, out: Path) -> None:
    """Compare the newest cells of a study with what the space makes of their choices now.

    The fingerprint of a space does not cover the function that builds its cells, which a user may have changed.

    Raises:
        SearchError: If a cell differs.
    """
    trials = [trial for trial in study.get_trials(deepcopy=False)
              if 'architecture' in trial.user_attrs and trial.state != TrialState.FAIL]  # which may have no valid cell
    for trial in trials[-COMPARED_CELLS:]:
        rebuild_cell(trial, space, str(out), 'restore it, or choose another --out')


def rebuild_cell(trial: FrozenTrial, space: Space, place: str, fix: str) -> Genotype:
    """Return the cell of a trial, named by its number.

    Args:
        trial: A trial with an ``architecture``.
        space: The space that it was proposed in.
        place: The beginning of the error message.
        fix: The end of the error message.

    Raises:
        SearchError: If the space builds another cell from the choices than before, or none.
    """
    try:
        genotype = space.genotype(space.tokens(trial.params), f'child-{trial.number}')
    except Exception as error:  # a space of one's own may raise anything
        raise SearchError(f'{place}: the space {space.name} has changed: it cannot build child {trial.number} any '
                          f'more: {type(error).__name__}: {error}; {fix}') from None
    if genotype.architecture_digest != trial.user_attrs['architecture']:
        raise SearchError(f'{place}: the space {space.name} has changed: it builds another cell from the choices of '
                          f'child {trial.number} than before; {fix}')
    return genotype


@contextmanager
def storage_failures_reported() -> Iterator[None]:
    """Raise a SearchError if the storage of a study fails inside of this context, for example a lost database."""
    try:
        yield
    except optuna.exceptions.StorageInternalError as error:
        raise SearchError(f'the storage of the trials has failed: {first_line(error)}; continue with --resume when it '
                          'works again') from None


def check_storage(storage: str) -> None:
    """Connect to a storage.

    Raises:
        SearchError: If that fails.
    """
    try:
        optuna.storages.get_storage(storage)
    except Exception as error:  # SQLAlchemy and Redis raise errors of their own
        raise _unusable(storage, error) from None


def _unusable(storage: Union[str, Path], error: Exception) -> SearchError:
    return SearchError(f'{storage}: cannot be used as a storage: {first_line(error)}')


def evaluated_trials(study: optuna.Study) -> List[FrozenTrial]:
    """Return the trials whose children were trained, pruned or failed, one for each architecture."""
    return [trial for trial in study.get_trials(deepcopy=False) if is_evaluated(trial)]


def is_evaluated(trial: FrozenTrial) -> bool:
    """Return whether a child was trained, pruned or failed, and the trial is neither a duplicate nor interrupted."""
    return (trial.state.is_finished() and 'architecture' in trial.user_attrs
            and not trial.user_attrs.keys() & {'interrupted', 'duplicate_of'})


def child_rows(trials: Sequence[FrozenTrial], cost_target: Optional[float] = None) -> List[Dict[str, Any]]:
    """Return the figures of all children that were trained, pruned or failed, for loggers.

    The children are counted in the order in which they finished, since services refuse steps that go back. A pruned or
    failed child has no reward and no cost. The cost target is needed if the study has a second objective.
    """
    rows: List[Dict[str, Any]] = []
    best: Optional[float] = None
    for trial in sorted(filter(is_evaluated, trials), key=lambda trial: trial.datetime_complete):
        reward = combined_reward(trial.values, cost_target) if trial.state == TrialState.COMPLETE else None
        best = max((known for known in (reward, best) if known is not None), default=None)
        rows.append(dict(child=len(rows) + 1, trial=trial.number, reward=reward, best_reward=best, **{
            name: trial.user_attrs.get(name) for name in ('accuracy', 'params', 'macs', 'latency', 'seconds')}))
    return rows

"""The study of a search: Optuna's record of every trial, which is a search's whole state."""
import os
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Callable, ContextManager, Dict, Iterator, List, Optional, Sequence, Union

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import TrialState

__all__ = ['SearchError', 'open_study', 'check_storage', 'batched_writes', 'finished_children']


class SearchError(ValueError):
    """A search that cannot begin or go on, and why."""


class _Journal(JournalFileBackend):
    """Optuna's journal file, which can write many records at once: a trial has one for each of its parameters, and
    each alone costs an fsync."""

    def __init__(self, path: Path) -> None:
        super().__init__(str(path), JournalFileOpenLock(str(path)))
        self._pending: Optional[List[Dict[str, Any]]] = None
        self._first = 0  # number of the first pending record
        self._broken = False

    @contextmanager
    def together(self) -> Iterator[None]:
        """Records made inside are written at its end. Only for a process that alone writes to the journal."""
        self._pending, self._first = [], -1
        try:
            yield
        finally:
            pending, self._pending = self._pending, None
            if pending:
                self.append_logs(pending)
                for _ in super().read_logs(self._first):  # it learns where they stand in the file
                    pass

    def append_logs(self, logs: List[Dict[str, Any]]) -> None:
        if self._pending is not None:
            self._pending += logs
            return
        if self._broken:
            raise OSError(f'{self._file_path}: could not be written to before')
        size = os.path.getsize(self._file_path)
        try:
            super().append_logs(logs)
        except OSError:  # a full disk: half a line would glue the next one to it
            self._broken = True
            os.truncate(self._file_path, size)
            raise

    def read_logs(self, log_number_from: int) -> Iterator[Dict[str, Any]]:
        if self._pending is None:
            return super().read_logs(log_number_from)
        if self._first < 0:
            self._first = log_number_from
        return iter(self._pending[log_number_from - self._first:])


def batched_writes(study: optuna.Study) -> ContextManager[None]:
    """One write for all that is told to a study inside, where its storage can."""
    backend = getattr(study._storage, '_backend', None)
    return backend.together() if isinstance(backend, _Journal) else nullcontext()


def open_study(
        folder: Path,
        name: str,
        storage: Optional[str] = None,
        sampler: Optional[Callable[[int], optuna.samplers.BaseSampler]] = None,
        settings: Optional[Dict[str, Any]] = None,
        directions: Sequence[str] = ('maximize',),
        pruner: Optional[optuna.pruners.BasePruner] = None,
) -> optuna.Study:
    """The study of a search's folder, in its journal or in another storage.

    The journal is the default: asking and telling take a fifth of the time that SQLite takes.

    Args:
        folder: It has the journal.
        name: Of the study.
        storage: Optuna's URL.
        sampler: Makes the sampler, from the number of trials that there are.
        settings: What the study's children have in common, JSON data; a new study is made for them. Without them only
            an existing one is opened.
        directions: Of each objective.
        pruner: Optuna's; none by default.

    Raises:
        SearchError: Where there is none, where it is of other settings, and where the storage cannot be used.
    """
    path = folder / 'study.log'
    if settings is None and storage is None and not path.exists():
        raise SearchError(f'{folder}: there is no search here')
    if settings is not None and storage is None:
        _cut_off_half_line(path)
    try:
        kept = storage or JournalStorage(_Journal(path))
        if settings is None:
            return optuna.load_study(study_name=name, storage=kept)
        study = optuna.create_study(study_name=name, storage=kept, directions=directions, load_if_exists=True,
                                    pruner=pruner or optuna.pruners.NopPruner())
    except KeyError:
        raise SearchError(f'{folder}: there is no search here') from None
    except Exception as error:  # SQLAlchemy, Redis and JSON have their own
        raise _unusable(storage or path, error) from None
    known = study.user_attrs.get('settings')
    if known is None and not study.get_trials(deepcopy=False):
        study.set_user_attr('settings', settings)
    elif known != settings:
        raise SearchError(f'{storage or path}: has a study {name!r} of other settings; call --out otherwise')
    study.sampler = sampler(len(study.get_trials(deepcopy=False)))
    return study


def check_storage(storage: str) -> None:
    """Try whether a storage answers.

    Raises:
        SearchError: Where it does not.
    """
    try:
        optuna.storages.get_storage(storage)
    except Exception as error:  # SQLAlchemy and Redis have their own
        raise _unusable(storage, error) from None


def _unusable(storage: Union[str, Path], error: Exception) -> SearchError:
    return SearchError(f'{storage}: cannot be used as a storage: {str(error).splitlines()[0]}')


def _cut_off_half_line(path: Path) -> None:
    """A journal that was cut off in the middle of a line, by a full disk, would glue the next one to it."""
    if path.exists():
        content = path.read_bytes()
        if content and not content.endswith(b'\n'):
            with path.open('r+b') as file:
                file.truncate(content.rfind(b'\n') + 1)


def finished_children(study: optuna.Study) -> List[Dict[str, Any]]:
    """``number``, ``value`` (the accuracy) and ``architecture`` of each finished child, as JSON data, with what else is
    known of it. Duplicates, which were not trained again, are left out."""
    return [dict(number=trial.number, value=trial.values[0], **trial.user_attrs) for trial in study.get_trials(
        deepcopy=False, states=(TrialState.COMPLETE,)) if 'duplicate_of' not in trial.user_attrs]

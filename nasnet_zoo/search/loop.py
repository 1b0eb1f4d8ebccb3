"""Ask, evaluate, tell: a search as a folder that can be left at any moment and gone on with.

The study, Optuna's journal of every trial, is the whole state of a search.
"""
import multiprocessing
import os
import threading
import time
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import FrozenTrial, TrialState

from ..genotype import Genotype
from .evaluator import ChildError, Evaluation
from .space import Space

__all__ = ['SearchError', 'Search', 'Progress', 'LocalWorkers', 'open_study', 'finished_children']

MAX_REPEATS = 500  # trials in a row that are nothing new, before a search gives up or waits for what is under way


class SearchError(ValueError):
    """A search that cannot begin or go on, and why."""


class Progress(NamedTuple):
    """How far a search is.

    Attributes:
        finished, trials: Children that were trained or failed, and how many are wanted.
        failed: Of them, those that gave no accuracy.
        best: The highest value so far; None before the first.
        per_hour: Children an hour, in this process.
        failures: The last reasons.
    """
    finished: int
    trials: int
    failed: int
    best: Optional[float]
    per_hour: float
    failures: Sequence[str]


def open_study(
        folder: Path,
        storage: Optional[str] = None,
        sampler: Optional[Callable[[int], optuna.samplers.BaseSampler]] = None,
        settings: Optional[Dict[str, Any]] = None,
) -> optuna.Study:
    """The study of a search's folder, in its journal or in another storage.

    The journal is the default: asking and telling take a fifth of the time that SQLite takes.

    Args:
        folder: It gives the study its name.
        storage: Optuna's URL.
        sampler: Makes the sampler, from the number of trials that there are.
        settings: What the study's children have in common, JSON data; a new study is made for them. Without them only
            an existing one is opened.

    Raises:
        SearchError: Where there is none, where it is of other settings, and where the storage cannot be used.
    """
    name, path = folder.resolve().name, folder / 'study.log'
    if settings is None and storage is None and not path.exists():
        raise SearchError(f'{folder}: there is no search here')
    if settings is not None and storage is None:
        _cut_off_half_line(path)
    try:
        kept = storage or JournalStorage(JournalFileBackend(str(path), lock_obj=JournalFileOpenLock(str(path))))
        if settings is None:
            return optuna.load_study(study_name=name, storage=kept)
        study = optuna.create_study(study_name=name, storage=kept, direction='maximize', load_if_exists=True)
    except KeyError:
        raise SearchError(f'{folder}: there is no search here') from None
    except Exception as error:  # SQLAlchemy, Redis and JSON have their own
        raise SearchError(f'{storage or path}: cannot be used as a storage: {str(error).splitlines()[0]}') from None
    known = study.user_attrs.get('settings')
    if known is None and not study.get_trials(deepcopy=False):
        study.set_user_attr('settings', settings)
    elif known != settings:
        raise SearchError(f'{storage or path}: has a study {name!r} of other settings; call --out otherwise')
    study.sampler = sampler(len(study.get_trials(deepcopy=False)))
    return study


def _cut_off_half_line(path: Path) -> None:
    """A journal that was cut off in the middle of a line, by a full disk, would glue the next one to it."""
    if path.exists():
        content = path.read_bytes()
        if content and not content.endswith(b'\n'):
            with path.open('r+b') as file:
                file.truncate(content.rfind(b'\n') + 1)


def finished_children(study: optuna.Study) -> List[Dict[str, Any]]:
    """``number``, ``value`` and ``architecture`` of each finished child, as JSON data, with what else is known of it.
    Duplicates, which were not trained again, are left out."""
    return [dict(number=trial.number, value=trial.value, **trial.user_attrs) for trial in study.get_trials(
        deepcopy=False, states=(TrialState.COMPLETE,)) if 'duplicate_of' not in trial.user_attrs]


_evaluate: Callable[[Genotype], Evaluation]  # of a worker's process


def _begin(make: Callable[[], Callable[[Genotype], Evaluation]], threads: int) -> None:
    global _evaluate
    import torch

    from ..training import keep_freed_memory
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    keep_freed_memory()
    _evaluate = make()


def _end_with_parent() -> None:
    """A killed search must not leave workers behind: the queue they wait for never ends."""
    multiprocessing.parent_process().join()
    os._exit(1)


def _work(genotype: Genotype) -> Evaluation:
    return _evaluate(genotype)


class LocalWorkers:
    """Processes that share this machine's cores. Each evaluates a child at a time and is replaced if it dies.

    Args:
        make: Makes an evaluator, once a process; it must be picklable.
        size: How many.
    """

    MAX_DEATHS = 3  # in a row; then it is not the children's fault

    def __init__(self, make: Callable[[], Callable[[Genotype], Evaluation]], size: int) -> None:
        self.size, self._make, self._deaths = size, make, 0
        self._idle = [self._new() for _ in range(size)]
        self._busy: Dict[Future, Executor] = {}

    def _new(self) -> Executor:
        threads = max(1, (os.cpu_count() or 1) // self.size)
        return ProcessPoolExecutor(  # of one, so that a death is known to be its child's
            1, multiprocessing.get_context('spawn'), initializer=_begin, initargs=(self._make, threads))

    def submit(self, genotype: Genotype) -> Future:
        """Have a child evaluated; there must be an idle worker."""
        worker = self._idle.pop()
        try:
            future = worker.submit(_work, genotype)
        except BrokenProcessPool:  # it died while it was idle
            worker = self._new()
            future = worker.submit(_work, genotype)
        self._busy[future] = worker
        return future

    def result(self, future: Future) -> Evaluation:
        """What became of a child that is done; its worker is idle again.

        Raises:
            ChildError: For a child that gives no accuracy.
            SearchError: Where one worker after the other dies.
        """
        worker = self._busy.pop(future)
        try:
            found = future.result()
            self._deaths = 0
            return found
        except ChildError:
            self._deaths = 0
            raise
        except BrokenProcessPool:
            worker = self._new()
            self._deaths += 1
            if self._deaths >= self.MAX_DEATHS:
                raise SearchError(f'{self._deaths} workers died one after the other; is there too little memory, or '
                                  'do their data not load?') from None
            raise ChildError('its worker died, perhaps for lack of memory') from None
        finally:
            self._idle.append(worker)

    def close(self) -> None:
        """End the processes, what they are doing included."""
        for worker in [*self._idle, *self._busy.values()]:
            for process in list((worker._processes or {}).values()):
                process.kill()  # a child may take hours, and what it has so far is worth nothing
            worker.shutdown(wait=False, cancel_futures=True)


class Search:
    """A study, the children of a space, and workers that evaluate them.

    Args:
        study: From :func:`open_study`. What a killed process left unfinished in it is asked for again.
        space: The children.
        workers: Evaluate them, see :class:`LocalWorkers`.
    """

    def __init__(self, study: optuna.Study, space: Space, workers: LocalWorkers) -> None:
        self.study, self.space, self.workers = study, space, workers
        self._requeue()
        self._known: Dict[str, FrozenTrial] = {}  # of each architecture the trial that was evaluated
        for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.FAIL)):
            if 'architecture' in trial.user_attrs and not trial.user_attrs.keys() & {'interrupted', 'duplicate_of'}:
                self._known[trial.user_attrs['architecture']] = trial

    def _requeue(self) -> None:
        """Ask again for what was running when a process was killed. The new trial comes first: a kill in between loses
        nothing, and leaves a trial that is known to be asked for again."""
        trials = self.study.get_trials(deepcopy=False)
        again = {trial.user_attrs.get('again_for') for trial in trials}
        for trial in trials:
            if trial.state == TrialState.RUNNING:
                params = trial.system_attrs.get('fixed_params') or trial.params
                if trial.number not in again and len(params) == len(self.space.decisions):
                    self.study.enqueue_trial(dict(params), user_attrs=dict(again_for=trial.number))
                self.study._storage.set_trial_user_attr(trial._trial_id, 'interrupted', True)
                self.study.tell(trial.number, state=TrialState.FAIL)

    def run(self, trials: int, on_progress: Optional[Callable[[Progress], None]] = None) -> None:
        """Evaluate children until `trials` different ones have been trained or have failed, earlier runs' included.

        Raises:
            SearchError: Where the sampler has nothing new to say, and where the workers cannot work.
        """
        begun, before, repeats = time.perf_counter(), len(self._known), 0
        running: Dict[Future, List[optuna.Trial]] = {}  # the trials of one architecture; the first is evaluated
        try:
            while len(self._known) < trials:
                while len(running) < min(self.workers.size, trials - len(self._known)) and repeats < MAX_REPEATS:
                    repeats = 0 if self._ask(running) else repeats + 1
                if not running:
                    raise SearchError(f'{repeats} trials in a row were no new children, and there are only '
                                      f'{len(self._known)}: the space or the sampler has no more to give')
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                repeats = 0  # whoever learns may now think of something else
                faults = [self._tell(future, running.pop(future)) for future in done]
                if on_progress:
                    on_progress(self._progress(trials, before, time.perf_counter() - begun))
                for fault in filter(None, faults):
                    raise fault
        finally:
            self.workers.close()

    def _ask(self, running: Dict[Future, List[optuna.Trial]]) -> bool:
        """Begin a trial; what is known or under way already is not evaluated again, and the answer is False."""
        trial = self.study.ask()
        genotype = self.space.genotype(self.space.suggest(trial))
        architecture = genotype.architecture_digest
        trial.set_user_attr('architecture', architecture)
        if architecture in self._known:
            self._tell_as(trial, self._known[architecture])
            return False
        twins = next((twins for twins in running.values() if twins[0].user_attrs['architecture'] == architecture), None)
        if twins:
            twins.append(trial)
            return False
        running[self.workers.submit(genotype)] = [trial]
        return True

    def _tell(self, future: Future, trials: Sequence[optuna.Trial]) -> Optional[SearchError]:
        """Keep what became of a child. Returns an error where it is not the child's fault."""
        first, *twins = trials
        fault = None
        try:
            found = self.workers.result(future)
            for name, fact in found._asdict().items():
                if name != 'accuracy':
                    first.set_user_attr(name, fact)
            told = self.study.tell(first, found.accuracy)
        except Exception as error:
            is_childs = isinstance(error, ChildError)
            reason = str(error) if is_childs else f'{type(error).__name__}: {error}'
            fault = None if is_childs else SearchError(f'child {first.number}: {reason}')
            first.set_user_attr('reason', reason)
            told = self.study.tell(first, state=TrialState.FAIL)
        self._known[told.user_attrs['architecture']] = told
        for twin in twins:
            self._tell_as(twin, told)
        return fault

    def _tell_as(self, trial: optuna.Trial, known: FrozenTrial) -> None:
        """End a trial as another of the same architecture ended."""
        trial.set_user_attr('duplicate_of', known.number)
        if known.value is None:
            self.study.tell(trial, state=TrialState.FAIL)
        else:
            self.study.tell(trial, known.value)

    def _progress(self, trials: int, before: int, seconds: float) -> Progress:
        values = [trial.value for trial in self._known.values() if trial.value is not None]
        failures = [trial.user_attrs['reason'] for trial in self._known.values() if trial.value is None]
        done = len(self._known)
        rate = (done - before) / seconds
        return Progress(done, trials, len(failures), max(values, default=None), 3600 * rate, failures[-3:])

"""Ask, evaluate, tell: a search that can be left at any moment and gone on with."""
import threading
import time
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple, Union

import optuna
from optuna.trial import FrozenTrial, TrialState

from ..genotype.schema import Genotype
from .evaluator import ChildError, Pruned
from .space import Space
from .study import SearchError, batched_writes
from .workers import Judge, LocalWorkers, RayWorkers, WorkerDied

__all__ = ['Search', 'Progress']

MAX_REPEATS = 500  # trials in a row that are nothing new, before a search gives up or waits for what is under way
MAX_DEATHS = 3  # of workers in a row; then it is not the children's fault


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


class Search:
    """A study, the children of a space, and workers that evaluate them.

    Args:
        study: From :func:`~nasnet_zoo.search.study.open_study`. What a killed process left unfinished in it is asked
            for again. A study of two objectives is told the accuracy and `cost`.
        space: The children.
        workers: Evaluate them.
        cost: The second objective, a field of :class:`~nasnet_zoo.search.evaluator.Evaluation`.
    """

    def __init__(self, study: optuna.Study, space: Space, workers: Union[LocalWorkers, RayWorkers],
                 cost: Optional[str] = None) -> None:
        self.study, self.space, self.workers, self.cost = study, space, workers, cost
        self._lock = threading.Lock()  # of the study: workers' reports come in threads
        self._known: Dict[str, FrozenTrial] = {}  # of each architecture the trial that was evaluated
        self._under_way: Dict[str, List[optuna.Trial]] = {}  # the trials of one architecture; the first is evaluated
        self._begun: Dict[int, optuna.Trial] = {}  # those first ones, by number
        self._best: Optional[float] = None
        self._reasons: List[str] = []  # of children that failed
        self._deaths = 0  # of workers, one after the other
        with batched_writes(study):
            self._requeue()
        for trial in study.get_trials(deepcopy=False):
            if (trial.state.is_finished() and 'architecture' in trial.user_attrs
                    and not trial.user_attrs.keys() & {'interrupted', 'duplicate_of'}):
                self._note(trial)

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
        prunes = not isinstance(self.study.pruner, optuna.pruners.NopPruner)
        judge = Judge(self._gives_up, self.workers.host) if prunes else None
        running: Dict[Future, str] = {}  # the architecture that is evaluated
        try:
            while len(self._known) < trials:
                while len(running) < min(self.workers.size, trials - len(self._known)) and repeats < MAX_REPEATS:
                    with self._lock, batched_writes(self.study):
                        trial, genotype = self._ask()
                    if trial is None:
                        repeats += 1
                        continue
                    repeats = 0
                    future = self.workers.submit(genotype, judge.report(trial.number) if judge else None)
                    running[future] = genotype.architecture_digest
                if not running:
                    raise SearchError(f'{repeats} trials in a row were no new children, and there are only '
                                      f'{len(self._known)}: the space or the sampler has no more to give')
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                repeats = 0  # whoever learns may now think of something else
                with self._lock, batched_writes(self.study):
                    faults = [self._tell(future, running.pop(future)) for future in done]
                if on_progress:
                    on_progress(self._progress(trials, before, time.perf_counter() - begun))
                for fault in filter(None, faults):
                    raise fault
                if judge and judge.fault:
                    raise SearchError(f'pruning: {type(judge.fault).__name__}: {judge.fault}')
        finally:
            if judge:
                judge.close()
            self.workers.close()

    def _ask(self) -> Tuple[Optional[optuna.Trial], Genotype]:
        """Begin a trial. What is known or under way already is not evaluated again, and there is none."""
        trial = self.study.ask()
        genotype = self.space.genotype(self.space.suggest(trial))
        architecture = genotype.architecture_digest
        trial.set_user_attr('architecture', architecture)
        if architecture in self._known:
            self._tell_as(trial, self._known[architecture])
            return None, genotype
        twins = self._under_way.setdefault(architecture, [])
        twins.append(trial)
        if len(twins) > 1:
            return None, genotype
        self._begun[trial.number] = trial
        return trial, genotype

    def _gives_up(self, number: int, epoch: int, accuracy: float) -> bool:
        with self._lock:
            trial = self._begun.get(number)
            if trial is None:  # its worker was given up meanwhile
                return True
            trial.report(accuracy, epoch)
            return trial.should_prune()

    def _tell(self, future: Future, architecture: str) -> Optional[SearchError]:
        """Keep what became of a child. Returns an error where it is not the child's fault: then the trial is left as it
        is, and asked for again when the search goes on."""
        first, *twins = self._under_way.pop(architecture)
        del self._begun[first.number]
        try:
            found = self.workers.result(future)
            self._deaths = 0
            for name, fact in found._asdict().items():
                if name != 'accuracy' and fact is not None:
                    first.set_user_attr(name, fact)
            told = self.study.tell(
                first, found.accuracy if self.cost is None else [found.accuracy, getattr(found, self.cost)])
        except ChildError as error:
            self._deaths = self._deaths + 1 if isinstance(error, WorkerDied) else 0
            if self._deaths >= MAX_DEATHS:
                return SearchError(f'{self._deaths} workers died one after the other; is there too little memory, or '
                                   'do their data not load?')
            first.set_user_attr('reason', str(error))
            told = self.study.tell(
                first, state=TrialState.PRUNED if isinstance(error, Pruned) else TrialState.FAIL)
        except Exception as error:
            return SearchError(f'child {first.number}: {type(error).__name__}: {error}')
        self._note(told)
        for twin in twins:
            self._tell_as(twin, told)
        return None

    def _tell_as(self, trial: optuna.Trial, known: FrozenTrial) -> None:
        """End a trial as another of the same architecture ended."""
        trial.set_user_attr('duplicate_of', known.number)
        if known.state == TrialState.COMPLETE:
            self.study.tell(trial, known.values)
        else:
            self.study.tell(trial, state=known.state)

    def _note(self, told: FrozenTrial) -> None:
        self._known[told.user_attrs['architecture']] = told
        if told.state == TrialState.COMPLETE:
            self._best = told.values[0] if self._best is None else max(self._best, told.values[0])
        elif told.state == TrialState.FAIL:
            self._reasons.append(told.user_attrs['reason'])

    def _progress(self, trials: int, before: int, seconds: float) -> Progress:
        done = len(self._known)
        return Progress(done, trials, len(self._reasons), self._best, 3600 * (done - before) / seconds,
                        self._reasons[-3:])

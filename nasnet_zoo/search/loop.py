"""The loop of a search: ask for a child, evaluate it, tell the sampler. It can be interrupted at any moment."""
import math
import threading
import time
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import ExitStack
from typing import Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple

import optuna
from optuna.trial import FrozenTrial, TrialState, create_trial

from ..genotype.schema import Genotype
from .errors import ChildError, NothingNew, Pruned, SearchError, WorkerDied
from .objectives import combined_reward
from .optuna_internals import set_trial_user_attr
from .pool import ChildPool
from .pruning import PruningServer
from .samplers.history import NOTES
from .space import Space
from .study import batched_writes, evaluated_trials

__all__ = ['Progress', 'Search']

MAX_REPEATS = 500  # after so many trials in a row without a new architecture, no more are asked for
MAX_DEATHS = 3  # after so many workers have died in a row, the search ends: it is unlikely to be due to the children


class Progress(NamedTuple):
    """The progress of a search.

    Attributes:
        finished: Number of children that were trained or failed.
        trials: Number of children that are wanted.
        failed: Number of children that failed.
        best: The highest reward so far; None before the first.
        per_hour: Children per hour, in this process.
        failures: The last reasons why children failed.
        durations: Training time in seconds of each child that has an accuracy.
        seconds_left: How long the search will still take, the final training included; None if that is not known.
    """
    finished: int
    trials: int
    failed: int
    best: Optional[float]
    per_hour: float
    failures: Sequence[str]
    durations: Sequence[float] = ()
    seconds_left: Optional[float] = None


class Search:
    """A study, the space of its children, and the workers that evaluate them.

    Children that were running when an earlier process was killed are asked for again.

    Args:
        study: From :func:`~nasnet_zoo.search.study.open_study`. If it has two objectives, the second is `objective`.
        space: The search space.
        pool: The workers. They are closed when the search ends.
        objective: The second objective, a name in :data:`~nasnet_zoo.search.objectives.OBJECTIVES`.
        cost_target: The cost with which that of the children is combined, see
            :func:`~nasnet_zoo.search.objectives.combined_reward`.
    """

    def __init__(
            self, study: optuna.Study, space: Space, pool: ChildPool, objective: Optional[str] = None,
            cost_target: Optional[float] = None) -> None:
        self.study, self.space, self.pool = study, space, pool
        self.objective, self.cost_target = objective, cost_target
        self._study_lock = threading.Lock()  # pruning questions are answered in threads
        self._known: Dict[str, FrozenTrial] = {}  # architecture: the trial that was evaluated
        self._waiting: Dict[str, List[optuna.Trial]] = {}  # architecture: its trials; the first one is being evaluated
        self._evaluating: Dict[int, optuna.Trial] = {}  # the first of these trials, by its number
        self._best: Optional[float] = None
        self._failures: List[str] = []  # the reasons why children failed
        self._durations: List[float] = []  # seconds of each child that has an accuracy
        self._deaths = 0  # workers that died since the last child was evaluated
        with batched_writes(study):
            self._requeue_interrupted()
        for trial in evaluated_trials(study):
            self._remember(trial)

    def _requeue_interrupted(self) -> None:
        """Enqueue the trials that were running when a process was killed, with what our samplers noted about them.

        The new trial is written first, so a kill in between loses nothing, and the next process finds out from
        ``again_for`` that the trial was enqueued already.
        """
        trials = self.study.get_trials(deepcopy=False)
        enqueued = {trial.user_attrs.get('again_for') for trial in trials}
        for trial in trials:
            if trial.state == TrialState.RUNNING:
                params = {**trial.system_attrs.get('fixed_params', {}), **trial.params}
                if trial.number not in enqueued and len(params) == len(self.space.decisions):
                    notes = {name: value for name, value in trial.system_attrs.items() if name == NOTES}
                    self.study.add_trial(create_trial(
                        state=TrialState.WAITING, system_attrs=dict(notes, fixed_params=params),
                        user_attrs=dict(again_for=trial.number)))
                set_trial_user_attr(self.study, trial, 'interrupted', True)
                self.study.tell(trial.number, state=TrialState.FAIL)

    def run(self, trials: int, on_progress: Optional[Callable[[Progress], None]] = None) -> None:
        """Evaluate children until `trials` different ones were trained or have failed, in this process or before.

        `on_progress` is called at the beginning and after each child.

        Raises:
            NothingNew: If the sampler proposes only known children.
            SearchError: If the workers cannot evaluate.
        """
        started, before = time.perf_counter(), len(self._known)
        running: Dict[Future, str] = {}  # the architectures that are being evaluated
        with ExitStack() as stack:
            stack.callback(self.pool.close)
            server = self._start_pruning_server(stack)
            if on_progress:
                on_progress(self._progress(trials, before, time.perf_counter() - started))
            while len(self._known) < trials:
                self._submit(running, trials, server)
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                with self._study_lock, batched_writes(self.study):
                    errors = [self._tell(future, running.pop(future)) for future in done]
                if on_progress:
                    on_progress(self._progress(trials, before, time.perf_counter() - started))
                for error in filter(None, errors):
                    raise error
                if server and server.error:
                    raise SearchError(f'pruning: {type(server.error).__name__}: {server.error}')

    def trials(self) -> List[FrozenTrial]:
        """Return all trials of the study, by number. Other threads may call this during :meth:`run`."""
        with self._study_lock:
            return self.study.get_trials(deepcopy=False)

    def _start_pruning_server(self, stack: ExitStack) -> Optional[PruningServer]:
        """Start to answer pruning questions, until `stack` is closed. Return None if the study prunes nothing."""
        if isinstance(self.study.pruner, optuna.pruners.NopPruner):
            return None
        server = PruningServer(self._should_prune, self.pool.host)
        stack.callback(server.close)
        return server

    def _submit(self, running: Dict[Future, str], trials: int, server: Optional[PruningServer]) -> None:
        """Ask for children until all workers are busy, or no more are wanted or proposed."""
        repeats = 0
        while len(running) < min(self.pool.size, trials - len(self._known)) and repeats < MAX_REPEATS:
            with self._study_lock, batched_writes(self.study):
                asked = self._ask()
            if asked is None:
                repeats += 1
                continue
            repeats, (trial, genotype) = 0, asked
            future = self.pool.submit(genotype, server.should_prune(trial.number) if server else None)
            running[future] = genotype.architecture_digest
        if not running and len(self._known) < trials:
            raise NothingNew(f'none of the last {repeats} trials was a new, valid child: the search space has no '
                             f'others than the {len(self._known)} known ones, or the sampler does not find them')

    def _ask(self) -> Optional[Tuple[optuna.Trial, Genotype]]:
        """Ask for a trial. If its architecture is known, being evaluated or invalid, there is nothing to evaluate."""
        trial = self.study.ask()
        tokens = self.space.suggest(trial)
        genotype, reason = None, ''
        try:
            genotype = self.space.genotype(tokens)
        except Exception as error:  # a space of one's own may raise anything
            reason = f'the space cannot build it: {type(error).__name__}: {error}'
        architecture = genotype.architecture_digest if genotype else f'invalid-{"-".join(map(str, tokens))}'
        trial.set_user_attr('architecture', architecture)
        if architecture in self._known:
            self._tell_duplicate(trial, self._known[architecture])
            return None
        if genotype is None:  # the child counts as one that has failed
            trial.set_user_attr('reason', reason)
            self._remember(self.study.tell(trial, state=TrialState.FAIL))
            return None
        waiting = self._waiting.setdefault(architecture, [])
        waiting.append(trial)
        if len(waiting) > 1:
            return None
        self._evaluating[trial.number] = trial
        return trial, genotype

    def _should_prune(self, number: int, epoch: int, reward: float) -> bool:
        with self._study_lock:
            trial = self._evaluating.get(number)
            if trial is None:  # the search has given up the worker of this trial
                return True
            trial.report(reward, epoch)
            return trial.should_prune()

    def _tell(self, future: Future, architecture: str) -> Optional[SearchError]:
        """Tell the study the result of a child, and of its duplicates.

        Returns:
            An error if something other than the child failed. Then the trial stays unfinished, and is asked for again
            when the search is resumed.
        """
        first, *duplicates = self._waiting.pop(architecture)
        del self._evaluating[first.number]
        failure: Optional[ChildError] = None
        try:
            found = self.pool.result(future)
            if math.isnan(found.reward):  # Optuna would record a failure without a reason
                raise ChildError(f'the reward is {found.reward}: the network has diverged')
        except ChildError as error:
            failure = error
        except Exception as error:
            return SearchError(f'child {first.number}: {type(error).__name__}: {error}')
        self._deaths = self._deaths + 1 if isinstance(failure, WorkerDied) else 0
        if self._deaths >= MAX_DEATHS:
            return SearchError(f'{self._deaths} workers died in a row; perhaps there is too little memory, or the data '
                               'cannot be loaded')
        if failure:
            first.set_user_attr('reason', str(failure))
            told = self.study.tell(first, state=TrialState.PRUNED if isinstance(failure, Pruned) else TrialState.FAIL)
        else:
            for name, measured in found._asdict().items():
                if name != 'reward' and measured is not None:
                    first.set_user_attr(name, measured)
            cost = [] if self.objective is None else [getattr(found, self.objective)]
            told = self.study.tell(first, [found.reward, *cost])
        self._remember(told)
        for trial in duplicates:
            self._tell_duplicate(trial, told)
        return None

    def _tell_duplicate(self, trial: optuna.Trial, known: FrozenTrial) -> None:
        """Finish a trial with the result of another trial of the same architecture."""
        trial.set_user_attr('duplicate_of', known.number)
        if known.state == TrialState.COMPLETE:
            self.study.tell(trial, known.values)
        else:
            self.study.tell(trial, state=known.state)

    def _remember(self, told: FrozenTrial) -> None:
        self._known[told.user_attrs['architecture']] = told
        if told.state == TrialState.COMPLETE:
            reward = combined_reward(told.values, self.cost_target)
            self._best = reward if self._best is None else max(self._best, reward)
            self._durations += [told.user_attrs['seconds']] if 'seconds' in told.user_attrs else []
        elif told.state == TrialState.FAIL:
            self._failures.append(told.user_attrs.get('reason', 'unknown reason'))

    def _progress(self, trials: int, before: int, seconds: float) -> Progress:
        finished = len(self._known)
        per_hour = 3600 * (finished - before) / max(seconds, 1e-9)  # a coarse clock may not have moved yet
        return Progress(finished, trials, len(self._failures), self._best, per_hour, self._failures[-3:],
                        self._durations)

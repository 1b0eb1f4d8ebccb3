"""What our samplers have in common: they replay a study, and propose whole children."""
import random
import threading
from datetime import datetime
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Set, Tuple

from optuna import Study
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from ..optuna_internals import get_all_trials, get_study_attrs, set_study_attr, set_trial_attr
from ..space import Choices, Space, SpaceError

__all__ = ['MAX_DRAWS', 'FinishedTrial', 'Reward', 'SpaceSampler', 'Tokens']

MAX_DRAWS = 50  # attempts to propose a child that was not proposed before; then a known one is proposed
Tokens = Tuple[int, ...]
Reward = Optional[Callable[[FrozenTrial], float]]
_ATTR = 'nasnet_zoo'  # the system attribute of studies and trials


class FinishedTrial(NamedTuple):
    """A finished trial as a sampler sees it.

    Attributes:
        when: When it finished.
        number: The number of the trial.
        tokens: The choices.
        reward: Higher is better.
        notes: What :meth:`SpaceSampler.propose` returned with it; empty if the trial was enqueued or comes from
            another sampler.
    """
    when: datetime
    number: int
    tokens: Tokens
    reward: float
    notes: Dict[str, Any]


class SpaceSampler(BaseSampler):
    """Base class of samplers that propose whole children of a search space.

    A subclass implements :meth:`learn` and :meth:`propose`, and extends :attr:`settings` by its own. A proposal must be
    a function of the seed, of the number of the trial, and of what was proposed and has finished before it, in the
    order of completion. Then a study that is resumed by another process continues as if it had not been interrupted.

    Trials that failed or were pruned are not learned from. A trial that was enqueued keeps its choices. Parameters that
    do not belong to the space are drawn at random. The study stores the seed and the fingerprint of the space, and can
    only be resumed with the same. A sampler can be used for one study only.

    Args:
        space: The search space.
        seed: The seed; a random one by default.
        reward: Computes a number from a finished trial; higher is better. By default it is the trial's value, with the
            opposite sign if the study minimises it. It is required for a study of several objectives.
    """

    def __init__(self, space: Space, seed: Optional[int] = None, reward: Reward = None) -> None:
        self.space, self.seed, self.reward = space, seed, reward
        self._independent = RandomSampler(seed)
        self._distributions = {name: CategoricalDistribution(options) for name, options in space.decisions}
        self._study_name: Optional[str] = None  # of the study that the attributes below describe
        self._lock = threading.Lock()  # Study.optimize(n_jobs=…) asks from several threads
        self._seen_trials = 0  # number of trials seen so far
        self._unfinished: Set[int] = set()  # numbers of those that had not finished then
        self._proposed: Set[Tokens] = set()  # proposals so far, finished or not

    def learn(self, child: FinishedTrial) -> None:
        """Learn from a finished trial. Called in the order of completion."""
        raise NotImplementedError

    def propose(self, number: int) -> Tuple[Tokens, Dict[str, Any]]:
        """Return the tokens of trial `number`, and JSON data to store with the trial."""
        raise NotImplementedError

    @property
    def settings(self) -> Dict[str, Any]:
        """What a study must be resumed with, as JSON data."""
        return dict(sampler=type(self).__name__, space=self.space.fingerprint)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> Dict[str, BaseDistribution]:
        return self._distributions

    def sample_relative(
            self, study: Study, trial: FrozenTrial, search_space: Dict[str, BaseDistribution],
    ) -> Dict[str, Any]:
        with self._lock:
            return self._sample(study, trial)

    def _sample(self, study: Study, trial: FrozenTrial) -> Choices:
        self._check_study(study)
        self._replay(study)
        if trial.system_attrs.get('fixed_params'):  # enqueued
            return {}
        tokens, notes = self.propose(trial.number)
        self._proposed.add(tokens)
        set_trial_attr(study, trial, _ATTR, dict(notes, tokens=list(tokens)))
        return self.space.choices(tokens)

    def sample_independent(self, study: Study, trial: FrozenTrial, name: str, distribution: BaseDistribution) -> Any:
        return self._independent.sample_independent(study, trial, name, distribution)

    def reseed_rng(self) -> None:
        self._independent.reseed_rng()

    def _check_study(self, study: Study) -> None:
        """Take the seed of a study, or store ours in it.

        Raises:
            SpaceError: If the study has another space, sampler or seed.
            ValueError: If the study has several objectives and there is no `reward`, or if it is a second study.
        """
        if study.study_name == self._study_name:
            return
        if self._study_name is not None:
            raise ValueError(f'{study.study_name}: this sampler belongs to the study {self._study_name}; '
                             'make another sampler for this study')
        if self.reward is None and len(study.directions) > 1:
            raise ValueError(f'{study.study_name}: has {len(study.directions)} objectives; pass `reward`, which '
                             'computes the number to maximise')
        stored = get_study_attrs(study).get(_ATTR)
        if stored is None:
            if self.seed is None:
                self.seed = random.SystemRandom().randrange(2 ** 31)
            set_study_attr(study, _ATTR, dict(self.settings, seed=self.seed))
        else:
            old, new = dict(stored), dict(self.settings, seed=stored['seed'] if self.seed is None else self.seed)
            changed = [name for name in {**old, **new} if old.get(name) != new.get(name)]
            if changed:
                values = ', '.join(f'{name}={old.get(name)}' for name in changed)
                raise SpaceError(f'{study.study_name}: was started with another {", ".join(changed)}; continue with '
                                 f'{values}, or start another study')
            self.seed = stored['seed']
        self._study_name = study.study_name

    def _replay(self, study: Study) -> None:
        """Learn from the trials that have finished since the last call."""
        trials = get_all_trials(study)
        finished: List[FinishedTrial] = []
        for number in [*self._unfinished, *range(self._seen_trials, len(trials))]:
            trial = trials[number]
            notes = trial.system_attrs.get(_ATTR, {})
            if 'tokens' in notes:
                self._proposed.add(tuple(notes['tokens']))
            if not trial.state.is_finished():
                self._unfinished.add(number)
                continue
            self._unfinished.discard(number)
            if trial.state == TrialState.COMPLETE:
                try:
                    tokens = self.space.tokens(trial.params)
                except SpaceError:
                    continue  # its parameters do not belong to the space
                finished.append(
                    FinishedTrial(trial.datetime_complete, number, tokens, self._reward(study, trial), notes))
        self._seen_trials = len(trials)
        for child in sorted(finished, key=lambda child: (child.when, child.number)):
            self._proposed.add(child.tokens)
            self.learn(child)

    def _reward(self, study: Study, trial: FrozenTrial) -> float:
        if self.reward:
            return self.reward(trial)
        return -trial.value if study.directions[0] == StudyDirection.MINIMIZE else trial.value

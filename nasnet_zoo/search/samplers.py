"""The controller, and evolution, as Optuna samplers: for our own loop and for anybody's study."""
import random
import threading
from collections import deque
from datetime import datetime
from typing import Any, Callable, Deque, Dict, List, NamedTuple, Optional, Sequence, Set, Tuple, Union

import numpy as np
import torch
from optuna import Study
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from .ppo import PPO, PRESETS, Learner, Sample
from .space import Choices, Space, SpaceError

__all__ = ['SpaceSampler', 'PPOSampler', 'EvolutionSampler', 'Finished']

MAX_DRAWS = 50  # of a child that was not asked for before; then one that was must do
Tokens = Tuple[int, ...]


class Finished(NamedTuple):
    """A finished trial, as a sampler sees it."""
    when: datetime
    number: int
    tokens: Tokens
    reward: float  # higher is better
    facts: Dict[str, Any]  # what `propose` returned for it; empty for a trial that was enqueued or came from elsewhere


class SpaceSampler(BaseSampler):
    """Proposes whole children of a search space, from the seed, the trial's number, and what was asked and has finished
    before it, in the order of completion.

    Trials that failed or were pruned teach nothing. A trial that was enqueued keeps its choices. Parameters beyond the
    space's are drawn at random. The study keeps the seed and the fingerprint of the space, so that it can be gone on
    with by another process and in no other space. A sampler is of one study.

    Args:
        space: The children.
        seed: A random one by default.
        reward: From a finished trial to a number, higher is better; by default its value, with the sign turned where
            the study minimises. A study of several objectives needs one.
    """

    def __init__(
            self,
            space: Space,
            seed: Optional[int] = None,
            reward: Optional[Callable[[FrozenTrial], float]] = None,
    ) -> None:
        self.space, self.seed, self.reward = space, seed, reward
        self._independent = RandomSampler(seed)
        self._distributions = {name: CategoricalDistribution(options) for name, options in space.decisions}
        self._study: Optional[str] = None  # what is known below is of this one
        self._lock = threading.Lock()  # optimize(n_jobs=…) asks from several threads
        self._count = 0  # of the study's trials that were looked at
        self._open: Set[int] = set()  # numbers of those that had not ended then
        self._asked: Set[Tokens] = set()  # whatever became of them

    def learn(self, child: Finished) -> None:
        """Take a child that has finished. They come in the order of completion."""
        raise NotImplementedError

    def propose(self, number: int) -> Tuple[Tokens, Dict[str, Any]]:
        """Tokens of trial `number`, and JSON data to keep with it."""
        raise NotImplementedError

    @property
    def settings(self) -> Dict[str, Any]:
        """What a study must be gone on with, JSON data."""
        return dict(sampler=type(self).__name__, space=self.space.fingerprint)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> Dict[str, BaseDistribution]:
        return self._distributions

    def sample_relative(
            self, study: Study, trial: FrozenTrial, search_space: Dict[str, BaseDistribution],
    ) -> Dict[str, Any]:
        with self._lock:
            return self._sample(study, trial)

    def _sample(self, study: Study, trial: FrozenTrial) -> Choices:
        self._check(study)
        self._catch_up(study)
        if trial.system_attrs.get('fixed_params'):
            return {}
        tokens, facts = self.propose(trial.number)
        self._asked.add(tokens)
        study._storage.set_trial_system_attr(  # as Optuna's own samplers keep what they must know again
            trial._trial_id, 'nasnet_zoo', dict(facts, tokens=list(tokens)))
        return self.space.choices(tokens)

    def sample_independent(self, study: Study, trial: FrozenTrial, name: str, distribution: BaseDistribution) -> Any:
        return self._independent.sample_independent(study, trial, name, distribution)

    def reseed_rng(self) -> None:
        self._independent.reseed_rng()

    def _check(self, study: Study) -> None:
        """Take the study's seed, or give it ours.

        Raises:
            SpaceError: For a study of another space or sampler.
            ValueError: For several objectives and no reward.
        """
        if study.study_name == self._study:
            return
        if self._study is not None:
            raise ValueError(f'{study.study_name}: this sampler is of study {self._study}; make another for this one')
        if self.reward is None and len(study.directions) > 1:
            raise ValueError(f'{study.study_name}: has {len(study.directions)} objectives; say by `reward` which '
                             'single number to raise')
        kept = study._storage.get_study_system_attrs(study._study_id).get('nasnet_zoo')
        if kept is None:
            if self.seed is None:
                self.seed = random.SystemRandom().randrange(2 ** 31)
            study._storage.set_study_system_attr(study._study_id, 'nasnet_zoo', dict(self.settings, seed=self.seed))
        else:
            old, new = dict(kept), dict(self.settings, seed=kept['seed'] if self.seed is None else self.seed)
            changed = [name for name in {**old, **new} if old.get(name) != new.get(name)]
            if changed:
                raise SpaceError(f'{study.study_name}: was begun with another {", ".join(changed)}; go on with '
                                 f'{", ".join(f"{name}={old.get(name)}" for name in changed)}, or begin another study')
            self.seed = kept['seed']
        self._study = study.study_name

    def _catch_up(self, study: Study) -> None:
        """Learn from the trials that have ended since the last time."""
        # By number, and all: Hyperband shows a sampler only the trials of a bracket.
        trials = study._storage.get_all_trials(study._study_id, deepcopy=False)
        finished = []
        for number in [*self._open, *range(self._count, len(trials))]:
            trial = trials[number]
            facts = trial.system_attrs.get('nasnet_zoo', {})
            if 'tokens' in facts:
                self._asked.add(tuple(facts['tokens']))
            if not trial.state.is_finished():
                self._open.add(number)
                continue
            self._open.discard(number)
            if trial.state == TrialState.COMPLETE:
                try:
                    tokens = self.space.tokens(trial.params)
                except SpaceError:
                    continue  # somebody else's trial
                finished.append(Finished(trial.datetime_complete, number, tokens, self._reward(study, trial), facts))
        self._count = len(trials)
        for child in sorted(finished, key=lambda child: (child.when, child.number)):
            self._asked.add(child.tokens)
            self.learn(child)

    def _reward(self, study: Study, trial: FrozenTrial) -> float:
        if self.reward:
            return self.reward(trial)
        return -trial.value if study.directions[0] == StudyDirection.MINIMIZE else trial.value


class EvolutionSampler(SpaceSampler):
    """Regularised evolution (arXiv:1802.01548, algorithm 1): a child of the best of a few among the youngest.

    A mutation changes one decision; a child that was asked for before is mutated again.

    Args:
        population: So many of the last to finish are alive; before there are as many, children are random.
        tournament: Drawn from them, without replacement.
    """

    def __init__(self, space: Space, seed: Optional[int] = None, population: int = 30, tournament: int = 10,
                 reward: Optional[Callable[[FrozenTrial], float]] = None) -> None:
        super().__init__(space, seed, reward)
        self.population, self.tournament = population, tournament
        self._alive: Deque[Finished] = deque(maxlen=population)

    @property
    def settings(self) -> Dict[str, Any]:
        return dict(super().settings, population=self.population, tournament=self.tournament)

    def learn(self, child: Finished) -> None:
        self._alive.append(child)

    def propose(self, number: int) -> Tuple[Tokens, Dict[str, Any]]:
        rng = random.Random(f'{self.seed}/{number}')
        sizes = self.space.sizes
        if len(self._alive) < self.population:
            return tuple(rng.randrange(size) for size in sizes), {}
        parent = max(rng.sample(self._alive, min(self.tournament, self.population)), key=lambda child: child.reward)
        tokens = list(parent.tokens)
        for _ in range(MAX_DRAWS):
            i = rng.randrange(len(tokens))
            tokens[i] = (tokens[i] + rng.randrange(1, sizes[i])) % sizes[i]
            if tuple(tokens) not in self._asked:
                break
        return tuple(tokens), dict(parent=parent.number)


class PPOSampler(SpaceSampler):
    """The paper's controller, trained by PPO with each batch of trials as they finish.

    A study that is gone on with is told to a new controller again, in the order in which its trials finished, and ends
    at the same policy: first weights, batches and draws are functions of the seed and of trial numbers.

    Args:
        settings: A name of :data:`~nasnet_zoo.search.ppo.PRESETS`, ``paper`` or ``fast``, or settings.
    """

    def __init__(self, space: Space, settings: Union[str, PPO] = 'fast', seed: Optional[int] = None,
                 reward: Optional[Callable[[FrozenTrial], float]] = None) -> None:
        super().__init__(space, seed, reward)
        if isinstance(settings, str) and settings not in PRESETS:
            raise ValueError(f'settings: there is no preset {settings!r}; known: {", ".join(PRESETS)}')
        self.ppo = PRESETS[settings] if isinstance(settings, str) else settings
        self._learner: Optional[Learner] = None
        self._news: Dict[str, Any] = {}  # of the last update, for the next trial to keep
        self._drawn: Dict[int, Tuple[List[int], List[float]]] = {}  # by the present policy, by number

    @property
    def settings(self) -> Dict[str, Any]:
        return dict(super().settings, **self.ppo._asdict())

    @property
    def learner(self) -> Learner:
        """The controller and its diagnostics."""
        if self._learner is None:
            self._learner = Learner(self.space.sizes, self.ppo, self.seed)
        return self._learner

    def learn(self, child: Finished) -> None:
        log_probs = child.facts.get('log_probs') or self.learner.log_probs(child.tokens)
        if self.learner.tell(Sample(child.tokens, log_probs, child.reward)):
            self._drawn.clear()
            self._news = dict(diagnostics=self.learner.diagnostics)

    def propose(self, number: int) -> Tuple[Tokens, Dict[str, Any]]:
        if number not in self._drawn:  # its neighbours are wanted soon, and a batch costs little more than one
            first = number // self.ppo.batch * self.ppo.batch  # always the same: the last bit depends on the neighbours
            numbers = range(first, first + self.ppo.batch)
            self._drawn.update(zip(numbers, self._draw([(n, 0) for n in numbers])))
        tokens, log_probs = self._drawn[number]
        if self.ppo.novel and tuple(tokens) in self._asked:
            draws = self._draw([(number, attempt) for attempt in range(1, MAX_DRAWS)])
            tokens, log_probs = next((draw for draw in draws if tuple(draw[0]) not in self._asked), draws[-1])
        news, self._news = self._news, {}
        return tuple(tokens), dict(news, log_probs=log_probs, update=self.learner.updates)

    def _draw(self, keys: Sequence[Tuple[int, int]]) -> List[Tuple[List[int], List[float]]]:
        """Tokens and log-probabilities for each number and attempt."""
        uniforms = np.stack([np.random.default_rng([self.seed, *key]).random(len(self.space.sizes)) for key in keys])
        tokens, log_probs = self.learner.controller.sample(torch.from_numpy(uniforms).float())
        return list(zip(tokens.tolist(), log_probs.tolist()))

"""What our samplers have in common: they replay a study, and propose whole children."""
import random
import threading
import zlib
from contextlib import contextmanager
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Tuple

from optuna import Study
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial

from ..optuna_internals import get_study_attrs, get_study_key, set_study_attr, set_trial_attr
from ..space import Space, SpaceError
from .history import NOTES, FinishedTrial, History, Tokens

__all__ = ['MAX_DRAWS', 'FinishedTrial', 'Options', 'Reward', 'SpaceSampler', 'Tokens']

MAX_DRAWS = 50  # attempts to propose a child that was not proposed before; then a known one is proposed
Options = Sequence[Sequence[int]]
"""For each decision the tokens that may be proposed, in ascending order; at least one."""
Reward = Optional[Callable[[FrozenTrial], float]]


class SpaceSampler(BaseSampler):
    """Base class of samplers that propose whole children of a search space.

    A subclass implements :meth:`start`, :meth:`learn` and :meth:`propose`, and extends :attr:`settings` by its own. A
    proposal must be a function of the seed, of the number of the trial, and of what was proposed and has finished
    before it, in the order in which :meth:`learn` was called. Then a study that is resumed by another process continues
    as if it had not been interrupted. (A trial that was running is repeated with a new number, and those after it have
    other numbers, too.)

    Parameters that Optuna or the caller has fixed keep their values, and the rest of the child is proposed to go with
    them: parameters of an enqueued trial, and those that another sampler such as Optuna's ``PartialFixedSampler``
    decides. If the objective asks for a decision with fewer options than the space has, only these are proposed; if it
    leaves out a decision, the child counts as if the decision had been made as proposed. Parameters that do not belong
    to the space are drawn at random.

    Trials that failed, were pruned or have an infinite reward are not learned from. The study stores the seed and the
    fingerprint of the space, and can only be resumed with the same.

    A sampler can be copied and pickled. Attributes whose names begin with an underscore are what it knows about a
    study. They are not part of a copy, which replays the study when it is asked for the first time. In the same way a
    sampler can be used for one study after another.

    Args:
        space: The search space.
        seed: The seed; a random one for each study by default.
        reward: Computes a number from a finished trial; higher is better. By default it is the trial's value, with the
            opposite sign if the study minimises it. It is required for a study of several objectives.
    """
    _study: Optional[Tuple[BaseStorage, int]] = None  # the study that the attributes below describe
    _history: History
    _seed: int  # the seed of the study

    def __init__(self, space: Space, seed: Optional[int] = None, reward: Reward = None) -> None:
        self.space, self.seed, self.reward = space, seed, reward
        self._lock = threading.RLock()  # Study.optimize(n_jobs=…) asks from several threads

    def __getstate__(self) -> Dict[str, Any]:
        return {name: value for name, value in vars(self).items() if not name.startswith('_')}

    def __setstate__(self, state: Dict[str, Any]) -> None:
        vars(self).update(state)
        self._lock = threading.RLock()

    def start(self) -> None:
        """Forget all trials. Called before the first trial of a study is learned from."""
        raise NotImplementedError

    def learn(self, child: FinishedTrial) -> None:
        """Learn from a finished trial. Called in the order of completion."""
        raise NotImplementedError

    def propose(self, number: int, options: Options) -> Tuple[Tokens, Dict[str, Any]]:
        """Return the tokens of trial `number`, and JSON data to store with the trial.

        Args:
            number: The number of the trial.
            options: For each decision the tokens that may be proposed. Unless something is fixed, these are all of
                them. At least one decision has more than one.
        """
        raise NotImplementedError

    @property
    def settings(self) -> Dict[str, Any]:
        """What a study must be resumed with, as JSON data."""
        return dict(sampler=type(self).__name__, space=self.space.fingerprint)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> Dict[str, BaseDistribution]:
        with self._following(study):
            if len(self._history.distributions) < len(self.space.decisions):
                self._replay(study)
            known = dict(self._history.distributions)
        space = {name: known.get(name) or CategoricalDistribution(words) for name, words in self.space.decisions}
        # Something else that has the name of a decision does not belong to the space.
        return {name: space[name] for name, words in self.space.decisions if _common(words, space[name])}

    def sample_relative(
            self, study: Study, trial: FrozenTrial, search_space: Dict[str, BaseDistribution],
    ) -> Dict[str, Any]:
        with self._following(study):
            self._replay(study)
            options = self._options(study, trial, search_space)
            # A trial that repeats an interrupted one has its notes.
            notes: Dict[str, Any] = {**trial.system_attrs.get(NOTES, {}), **self._history.new_places()}
            tokens = tuple(tokens[0] for tokens in options)
            if any(len(tokens) > 1 for tokens in options):
                tokens, proposal = self.propose(trial.number, options)
                self._history.proposed.add(tokens)
                notes.update(proposal, tokens=list(tokens))
            set_trial_attr(study, trial, NOTES, notes)
            if not self._history.distributions and len(search_space) == len(self.space.decisions):
                # Nobody knows yet whether the objective leaves out options, but sample_independent will be told.
                return {}
        choices = self.space.choices(tokens)
        return {name: choices[name] for name, distribution in search_space.items()
                if name in choices and _common([choices[name]], distribution)}

    def sample_independent(self, study: Study, trial: FrozenTrial, name: str, distribution: BaseDistribution) -> Any:
        if any(name == decision.name for decision in self.space.decisions):
            proposed = trial.system_attrs.get(NOTES, {}).get('tokens')
            if proposed and (common := _common([self.space.choices(proposed)[name]], distribution)):
                return common[0]
        with self._following(study):
            seed = zlib.crc32(f'{self._seed}/{trial.number}/{name}'.encode())
        return RandomSampler(seed).sample_independent(study, trial, name, distribution)

    def _options(self, study: Study, trial: FrozenTrial, search_space: Dict[str, BaseDistribution]) -> Options:
        """Return the tokens that may be proposed. A decision whose value is unknown or not an option is not limited."""
        decided = {**trial.system_attrs.get('fixed_params', {}), **trial.params}
        options: List[Sequence[int]] = []
        for name, words in self.space.decisions:
            allowed: Sequence[str] = words
            if name in decided:
                allowed = [decided[name]]
            elif name in search_space:
                allowed = _common(words, search_space[name])
            elif study.sampler is not self:  # a sampler that contains this one has another value for the parameter
                distribution = self._history.distributions.get(name) or CategoricalDistribution(words)
                allowed = [study.sampler.sample_independent(study, trial, name, distribution)]
            every = range(len(words))
            options.append([token for token in every if words[token] in allowed] or every)
        return options

    @contextmanager
    def _following(self, study: Study) -> Iterator[None]:
        """Hold the lock, and let what was learned be about this study. After an error the study is replayed."""
        with self._lock:
            try:
                if self._study != get_study_key(study):
                    self._seed, self._history = self._agree_on_seed(study), History(self.space)
                    self.start()
                    self._study = get_study_key(study)
                yield
            except BaseException:
                self._study = None
                raise

    def _agree_on_seed(self, study: Study) -> int:
        """Return the seed of a study, or store ours in it.

        Raises:
            SpaceError: If the study has another space, sampler or seed.
        """
        stored = get_study_attrs(study).get(NOTES)
        if stored is None:
            seed = random.SystemRandom().randrange(2 ** 31) if self.seed is None else self.seed
            set_study_attr(study, NOTES, dict(self.settings, seed=seed))
            return seed
        old, new = dict(stored), dict(self.settings, seed=stored['seed'] if self.seed is None else self.seed)
        changed = [name for name in {**old, **new} if old.get(name) != new.get(name)]
        if changed:
            values = ', '.join(f'{name}={old.get(name)}' for name in changed)
            raise SpaceError(f'{study.study_name}: was started with another {", ".join(changed)}; continue with '
                             f'{values}, or start another study')
        return stored['seed']

    def _replay(self, study: Study) -> None:
        """Learn from the trials that have finished since the last call.

        Raises:
            ValueError: If the study has several objectives and there is no `reward`.
        """
        if self.reward is None and len(study.directions) > 1:
            raise ValueError(f'{study.study_name}: has {len(study.directions)} objectives; pass `reward`, which '
                             'computes the number to maximise')
        sign = -1 if study.directions[0] == StudyDirection.MINIMIZE else 1
        for child in self._history.read(study, self.reward or (lambda trial: sign * trial.value)):
            self.learn(child)


def _common(words: Sequence[str], distribution: BaseDistribution) -> List[str]:
    """Return which of the words a distribution can give."""
    choices = distribution.choices if isinstance(distribution, CategoricalDistribution) else ()
    return [word for word in words if word in choices]

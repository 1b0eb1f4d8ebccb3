"""The trials of a study as a sampler sees them, in an order that does not depend on the clock."""
import math
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Set, Tuple

from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState

from ..optuna_internals import get_all_trials
from ..space import Space, SpaceError

__all__ = ['NOTES', 'FinishedTrial', 'History', 'Tokens']

Tokens = Tuple[int, ...]
NOTES = 'nasnet_zoo'  # the system attribute in which a sampler keeps its notes about a trial
MAX_LISTED = 5000  # trials that the notes of one proposal list: MySQL limits an attribute to 64 kB


class FinishedTrial(NamedTuple):
    """A finished trial as a sampler sees it.

    Attributes:
        number: The number of the trial.
        tokens: The choices. A decision that the objective did not ask for has the token that was proposed.
        reward: Higher is better.
        notes: What the sampler returned with its proposal. Empty if other choices were evaluated than the proposed
            ones, or if the trial was enqueued or comes from another sampler.
        given: Whether the whole child was enqueued: it is a known cell, or one that the user wants to be evaluated.
    """
    number: int
    tokens: Tokens
    reward: float
    notes: Dict[str, Any]
    given: bool = False


class History:
    """The trials of one study, which are read again before each proposal.

    Trials are learned from in the order in which they finished, which must be the same when the study is resumed. The
    times that Optuna stores do not tell this order: the clock may have been set back. Therefore each proposal stores
    the numbers of the trials that were first learned from before it, and how many were learned from before these. Of
    the trials that finish between two proposals, the one with the lowest number comes first.

    In studies of earlier versions, which lack these notes, trials are ordered by the time of their completion.

    Args:
        space: The search space.

    Attributes:
        proposed: The choices of all trials that are finished or were proposed.
        pending: For each trial that has not finished, by number, its choices, if they are known.
        distributions: For each decision that a trial has asked for, the distribution that it gave.
    """

    def __init__(self, space: Space) -> None:
        self.proposed: Set[Tokens] = set()
        self.pending: Dict[int, Tokens] = {}
        self.distributions: Dict[str, BaseDistribution] = {}
        self._space, self._names = space, {decision.name for decision in space.decisions}
        self._read = 0  # number of trials that were read so far
        self._unfinished: Set[int] = set()  # numbers of those that had not finished then
        self._keeps_order = False  # whether a proposal has stored the order
        self._places = 0  # number of trials whose place in the order is stored
        self._unplaced: List[int] = []  # the others that were learned from, in order
        self._given: Set[int] = set()  # numbers of the trials that were enqueued as a whole

    def read(self, study: Study, reward: Callable[[FrozenTrial], float]) -> List[FinishedTrial]:
        """Return the trials that have finished since the last call, in the order in which to learn from them."""
        trials = get_all_trials(study)
        self.pending.clear()
        places: Dict[int, int] = {}
        finished: List[FinishedTrial] = []
        for number in [*self._unfinished, *range(self._read, len(trials))]:
            trial = trials[number]
            self._read_notes(trial, places)
            if not trial.state.is_finished():
                self._unfinished.add(number)
                tokens = self._tokens({**trial.system_attrs.get('fixed_params', {}), **trial.params}, trial)
                if tokens is not None:
                    self.pending[number] = tokens
                continue
            self._unfinished.discard(number)
            child = self._child(trial, reward) if trial.state == TrialState.COMPLETE else None
            if child is not None:
                finished.append(child)
        self._read = len(trials)

        def order(child: FinishedTrial) -> Tuple[float, float, int]:
            completed = None if self._keeps_order else trials[child.number].datetime_complete
            return places.get(child.number, math.inf), completed.timestamp() if completed else 0., child.number
        finished.sort(key=order)
        self._unplaced += [child.number for child in finished if child.number not in places]
        self.proposed.update(child.tokens for child in finished)
        return finished

    def new_places(self) -> Dict[str, Any]:
        """Return the notes with which the next proposal stores the order of the trials that were learned from."""
        listed, self._unplaced = self._unplaced[:MAX_LISTED], self._unplaced[MAX_LISTED:]
        notes = dict(learned=listed, learned_before=self._places)
        self._places += len(listed)
        self._keeps_order = True
        return notes

    def _read_notes(self, trial: FrozenTrial, places: Dict[int, int]) -> None:
        notes = trial.system_attrs.get(NOTES, {})
        # A search enqueues a trial again that was interrupted; it counts as given only if that one was given.
        if (trial.system_attrs.get('fixed_params', {}).keys() >= self._names
                and trial.user_attrs.get('again_for') in {None, *self._given}):
            self._given.add(trial.number)
        if 'tokens' in notes:
            self.proposed.add(tuple(notes['tokens']))
        if 'learned' in notes:
            self._keeps_order = True
            for place, number in enumerate(notes['learned'], notes['learned_before']):
                places.setdefault(number, place)
                self._places = max(self._places, place + 1)
        if len(self.distributions) < len(self._names):
            self.distributions.update((name, trial.distributions[name]) for name in trial.distributions
                                      if name in self._names and name not in self.distributions)

    def _child(self, trial: FrozenTrial, reward: Callable[[FrozenTrial], float]) -> Optional[FinishedTrial]:
        """Return what there is to learn from a completed trial, or None if it is not a child of the space."""
        tokens = self._tokens(trial.params, trial)
        if tokens is None:
            return None
        value = reward(trial)
        if not math.isfinite(value):
            return None
        notes = trial.system_attrs.get(NOTES, {})
        return FinishedTrial(trial.number, tokens, value, notes if tokens == tuple(notes.get('tokens', ())) else {},
                             trial.number in self._given)

    def _tokens(self, params: Dict[str, Any], trial: FrozenTrial) -> Optional[Tokens]:
        """Return the choices that a trial was proposed with, with `params` in their place; None if some are missing."""
        proposed = trial.system_attrs.get(NOTES, {}).get('tokens')
        try:
            return self._space.tokens({**(self._space.choices(proposed) if proposed else {}), **params})
        except SpaceError:
            return None

"""Hill climbing with restarts."""
import random
from collections import Counter
from typing import Any, Dict, List, Optional, Tuple

from ..space import Space
from .base import FinishedTrial, Options, Reward, SpaceSampler, Tokens
from .moves import changed, draw, first_new, free_decisions, restricted

__all__ = ['LocalSearchSampler', 'build_local']


class LocalSearchSampler(SpaceSampler):
    """Hill climbing, which changes one decision of the best child at a time (arXiv:2005.02960 compares variants).

    The first children are random. Then each proposal is a neighbour of the best child, until so many neighbours of it
    have been evaluated without a better one among them; then it is one of the best child of which fewer have been
    evaluated. So the search climbs from another hill when it is at a peak, and several workers can climb together.

    The notes of a proposal have ``parent``, the number of the trial of which it is a neighbour.

    Args:
        space: The search space.
        seed: The seed; a random one by default.
        num_random: Number of random children, at least one.
        patience: Number of neighbours of a child that are evaluated.
        reward: See :class:`~nasnet_zoo.search.samplers.base.SpaceSampler`.
    """

    def __init__(
            self,
            space: Space,
            seed: Optional[int] = None,
            num_random: int = 20,
            patience: int = 12,
            reward: Reward = None,
    ) -> None:
        super().__init__(space, seed, reward)
        self.num_random, self.patience = num_random, patience

    @property
    def settings(self) -> Dict[str, Any]:
        return dict(super().settings, num_random=self.num_random, patience=self.patience)

    def start(self) -> None:
        self._children: List[FinishedTrial] = []
        self._evaluated: Counter = Counter()  # number of neighbours, by the number of the trial

    def learn(self, child: FinishedTrial) -> None:
        self._children.append(child)
        if 'parent' in child.notes:
            self._evaluated[child.notes['parent']] += 1

    def propose(self, number: int, options: Options) -> Tuple[Tokens, Dict[str, Any]]:
        rng, proposed = random.Random(f'{self._seed}/{number}'), self._history.proposed
        hills = [child for child in self._children if self._evaluated[child.number] < self.patience]
        if len(self._children) < self.num_random or not hills:
            return first_new(lambda: draw(rng, options), proposed.__contains__), {}
        parent = max(hills, key=lambda child: child.reward)
        tokens, free = restricted(rng, parent.tokens, options), free_decisions(options)
        return first_new(lambda: changed(rng, tokens, options, [rng.choice(free)]), proposed.__contains__), dict(
            parent=parent.number)


def build_local(space: Space, seed: int, preset: str, trials: int, reward: Reward) -> LocalSearchSampler:
    """Return the sampler of a search, see :data:`~nasnet_zoo.search.samplers.SAMPLERS`."""
    return LocalSearchSampler(space, seed, reward=reward)

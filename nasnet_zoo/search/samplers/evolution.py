"""Regularized evolution."""
import random
from collections import deque
from typing import Any, Deque, Dict, Optional, Tuple

from ..space import Space
from .base import MAX_DRAWS, FinishedTrial, Options, Reward, SpaceSampler, Tokens
from .moves import change, draw, free_decisions, restricted

__all__ = ['EvolutionSampler', 'build_evolution']


class EvolutionSampler(SpaceSampler):
    """Regularized evolution (arXiv:1802.01548, algorithm 1).

    The parent is the best of a random sample of the population; a mutation changes one decision. If the result was
    proposed before, it is mutated again.

    Args:
        space: The search space.
        seed: The seed; a random one by default.
        population: Size of the population, which consists of the trials that finished last. Until there are so many,
            children are drawn at random, unless a known cell was enqueued and has finished: then the trials so far are
            the population. On NAS-Bench-301 that is better even if the known cell is a bad one.
        tournament: Size of the random sample.
        reward: See :class:`~nasnet_zoo.search.samplers.base.SpaceSampler`.
    """

    def __init__(
            self,
            space: Space,
            seed: Optional[int] = None,
            population: int = 30,
            tournament: int = 10,
            reward: Reward = None,
    ) -> None:
        super().__init__(space, seed, reward)
        self.population, self.tournament = population, tournament

    @property
    def settings(self) -> Dict[str, Any]:
        return dict(super().settings, population=self.population, tournament=self.tournament)

    def start(self) -> None:
        self._alive: Deque[FinishedTrial] = deque(maxlen=self.population)
        self._was_given = False  # whether a known cell has finished

    def learn(self, child: FinishedTrial) -> None:
        self._alive.append(child)
        self._was_given |= child.given

    def propose(self, number: int, options: Options) -> Tuple[Tokens, Dict[str, Any]]:
        rng = random.Random(f'{self._seed}/{number}')
        if len(self._alive) < self.population and not self._was_given:
            return draw(rng, options), {}
        parent = max(rng.sample(self._alive, min(self.tournament, len(self._alive))), key=lambda child: child.reward)
        tokens, free = restricted(rng, parent.tokens, options), free_decisions(options)
        for _ in range(MAX_DRAWS):
            change(rng, tokens, rng.choice(free), options)
            if tuple(tokens) not in self._history.proposed:
                break
        return tuple(tokens), dict(parent=parent.number)


def build_evolution(space: Space, seed: int, preset: str, trials: int, reward: Reward) -> EvolutionSampler:
    """Return the sampler of a search, see :data:`~nasnet_zoo.search.samplers.SAMPLERS`."""
    return EvolutionSampler(space, seed, reward=reward)

"""Bayesian optimization: a Gaussian process predicts rewards, and the most promising children are proposed."""
import random
from math import ceil
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
import torch

from ..encoding import Encoding, EncodingCache
from ..gaussian_process import MAX_CHILDREN, GaussianProcess, Hyperparameters, fit_hyperparameters, select
from ..space import Space
from .base import FinishedTrial, Options, Reward, SpaceSampler, Tokens
from .moves import changed, crossed, draw, first_new, free_decisions, restricted

__all__ = ['GPSampler', 'build_gp']

BATCH = 10  # the pool is renewed after so many more children
GROWTH = 1.5  # the hyperparameters are fitted again whenever the number of children has grown by this factor
NUM_PARENTS, NUM_VARIANTS, NUM_RANDOM, ROUNDS = 20, 100, 100, 8  # see GPSampler._new_pool()
MAX_CHANGES, CROSSOVER = 3, 0.3


class _Candidate(NamedTuple):
    """A child that may be proposed.

    Attributes:
        tokens: Its choices.
        encoding: Its encoding.
        parent: The number of the trial that it descends from; None if it is random.
    """
    tokens: Tokens
    encoding: Encoding
    parent: Optional[int]


class _Pool(NamedTuple):
    """Candidates, and what is known about them.

    Attributes:
        process: The process, given the children that had finished when the pool was made.
        size: The number of these children.
        options: The tokens that the candidates may have.
        candidates: The candidates.
        counts: Their counts.
        whitened: What ``process.whiten`` returns for them.
    """
    process: GaussianProcess
    size: int
    options: Options
    candidates: List[_Candidate]
    counts: List[np.ndarray]
    whitened: torch.Tensor


class GPSampler(SpaceSampler):
    """Bayesian optimization with a Gaussian process over the cells' graphs.

    The first children are random. Then the sampler proposes the child with the highest upper confidence bound, the mean
    of the process plus a multiple of its standard deviation, in a pool of candidates: variants of the best children,
    random ones, and variants of the most promising candidates. Children that are being evaluated by other workers count
    as if they had the predicted reward, so that workers evaluate different children.

    The pool is renewed after every ten finished children, and the hyperparameters are fitted again when there are half
    as many again. Both depend only on the seed and on the children that had finished by then, in the order in which
    they were learned from. Therefore a resumed study computes the same pool, and makes the same proposals.

    The notes of a proposal have ``predicted``, the mean and the standard deviation of the reward that was expected, and
    ``parent``, the number of the trial from which the child descends, or None for a random child.

    Args:
        space: The search space.
        seed: The seed; a random one by default.
        num_random: Number of children that must have finished before the process is used, at least one.
        exploration: Number of standard deviations that are added to the mean.
        reward: See :class:`~nasnet_zoo.search.samplers.base.SpaceSampler`.
    """

    def __init__(
            self,
            space: Space,
            seed: Optional[int] = None,
            num_random: int = 20,
            exploration: float = 2.5,
            reward: Reward = None,
    ) -> None:
        super().__init__(space, seed, reward)
        if num_random < 1:
            raise ValueError(f'num_random: must be at least 1, not {num_random}')
        self.num_random, self.exploration = num_random, exploration

    @property
    def settings(self) -> Dict[str, Any]:
        return dict(super().settings, num_random=self.num_random, exploration=self.exploration)

    def start(self) -> None:
        self._encodings = EncodingCache(self.space)  # of all trials
        self._encoder = self._encodings.encoder  # for candidates, which are too many to be remembered
        self._children: List[FinishedTrial] = []
        self._fitted: Tuple[int, Hyperparameters] = 0, Hyperparameters()  # to so many children
        self._pool: Optional[_Pool] = None

    def learn(self, child: FinishedTrial) -> None:
        self._children.append(child)

    def propose(self, number: int, options: Options) -> Tuple[Tokens, Dict[str, Any]]:
        pending = [tokens for _, tokens in sorted(self._history.pending.items())]
        seen = {self._encodings.encode(tokens) for tokens in [*self._history.proposed, *pending]}
        if len(self._children) >= self.num_random:
            pool = self._current_pool(options)
            mean, deviation = self._predict(pool, pending)
            for i in _descending(self._bounds(pool.process, mean, deviation)):
                candidate = pool.candidates[i]
                if candidate.encoding not in seen:
                    return candidate.tokens, dict(
                        predicted=[float(mean[i]), float(deviation[i])], parent=candidate.parent)
        rng = random.Random(f'{self._seed}/{number}')
        return first_new(lambda: draw(rng, options), lambda tokens: self._encodings.encode(tokens) in seen), {}

    def _predict(self, pool: _Pool, pending: Sequence[Tokens]) -> Tuple[np.ndarray, np.ndarray]:
        """Return mean and standard deviation of each candidate, given all that is known by now."""
        new = self._children[pool.size:]
        return pool.process.moments_given(
            pool.counts, pool.whitened, self._encodings.counts(child.tokens for child in new),
            [child.reward for child in new], self._encodings.counts(pending))

    def _bounds(self, process: GaussianProcess, mean: np.ndarray, deviation: np.ndarray) -> np.ndarray:
        """Return upper confidence bounds, standardised."""
        return (mean + self.exploration * deviation - process.shift) / process.scale

    def _current_pool(self, options: Options) -> _Pool:
        size = self.num_random + (len(self._children) - self.num_random) // BATCH * BATCH
        if self._pool is None or (self._pool.size, self._pool.options) != (size, options):
            self._pool = self._new_pool(size, options)
        return self._pool

    def _new_pool(self, size: int, options: Options) -> _Pool:
        """Return variants of the best of the first `size` children, random children, and variants of the best of these.

        The latter are made in several rounds, each from the candidates with the highest bounds so far.
        """
        rng, process = random.Random(f'{self._seed}/pool/{size}'), self._new_process(size)
        finished = {self._encodings.encode(child.tokens): child for child in self._children[:size]}
        best = sorted(finished, key=lambda encoding: -finished[encoding].reward)[:NUM_PARENTS]
        parents = [_Candidate(tuple(restricted(rng, finished[encoding].tokens, options)), encoding,
                              finished[encoding].number) for encoding in best]
        new = [self._candidate(draw(rng, options)) for _ in range(NUM_RANDOM)]
        candidates: List[_Candidate] = []
        known, whitened, bounds = set(finished), [], np.empty(0)
        for _ in range(ROUNDS + 1):
            new += self._variants(rng, parents, options)
            added = list({one.encoding: one for one in new if one.encoding not in known}.values())
            candidates += added
            known.update(one.encoding for one in added)
            whitened.append(process.whiten(self._encoder.counts([one.encoding for one in added])))
            bounds = np.append(bounds, self._bounds(process, *process.moments(whitened[-1])))
            parents, new = [candidates[i] for i in _descending(bounds)[:NUM_PARENTS]], []
        counts = self._encoder.counts([one.encoding for one in candidates])
        return _Pool(process, size, options, candidates, counts, torch.cat(whitened, dim=1))

    def _variants(self, rng: random.Random, parents: Sequence[_Candidate], options: Options) -> List[_Candidate]:
        """Return children of some parents, with one to three random changes, some of them after a crossover."""
        variants, free = [], free_decisions(options)
        for _ in range(NUM_VARIANTS if parents else 0):
            parent, other = rng.choice(parents), rng.choice(parents)
            tokens = crossed(rng, parent.tokens, other.tokens) if rng.random() < CROSSOVER else parent.tokens
            decisions = rng.sample(free, min(rng.randint(1, MAX_CHANGES), len(free)))
            variants.append(self._candidate(changed(rng, tokens, options, decisions), parent.parent))
        return variants

    def _candidate(self, tokens: Tokens, parent: Optional[int] = None) -> _Candidate:
        return _Candidate(tokens, self._encoder.encode(tokens), parent)

    def _new_process(self, size: int) -> GaussianProcess:
        """Return the process given the first `size` children."""
        fitted = self.num_random
        while ceil(fitted * GROWTH) <= size:
            fitted = ceil(fitted * GROWTH)
        rewards = np.array([child.reward for child in self._children[:size]])
        if self._fitted[0] != fitted:
            counts = self._encodings.counts(child.tokens for child in self._children[:fitted])
            self._fitted = fitted, fit_hyperparameters(counts, rewards[:fitted])
        chosen = select(rewards, MAX_CHILDREN)
        return GaussianProcess(
            self._encodings.counts(self._children[i].tokens for i in chosen), rewards[chosen], self._fitted[1])


def _descending(bounds: np.ndarray) -> np.ndarray:
    """Return the indices of bounds, that of the highest one first. Rounding keeps the last bit from deciding ties."""
    return np.argsort(-bounds.round(9), kind='stable')


def build_gp(space: Space, seed: int, preset: str, trials: int, reward: Reward) -> GPSampler:
    """Return the sampler of a search, see :data:`~nasnet_zoo.search.samplers.SAMPLERS`."""
    return GPSampler(space, seed, reward=reward)

"""A Gaussian process that predicts the rewards of children from the counts of their features."""
import copy
from typing import List, NamedTuple, Optional, Sequence, Tuple, Union

import numpy as np
import torch

from .encoding import GROUPS, squared_distances

__all__ = ['MAX_CHILDREN', 'GaussianProcess', 'Hyperparameters', 'fit_hyperparameters', 'select']

Counts = Sequence[np.ndarray]
"""For each group of features an array [children, features], see :meth:`~nasnet_zoo.search.encoding.Encoder.counts`."""

Rewards = Union[Sequence[float], np.ndarray]

MAX_CHILDREN = 1500  # that a process is given, because its time grows with the third power; see select()
_STEPS, _LR = 40, 0.1  # of Adam
_PRIOR_VARIANCE = 4.


class Hyperparameters(NamedTuple):
    """Natural logarithms of the parameters of the kernel. The defaults are the means of their prior.

    Attributes:
        scales: For each group of features the weight of its squared distances.
        amplitude: The variance of the process.
        noise: The variance of the noise of a reward.
    """
    scales: Tuple[float, ...] = (-3.5,) * GROUPS
    amplitude: float = 0.
    noise: float = -3.


class _Block(NamedTuple):
    """Children that a process was given together, n of them.

    Attributes:
        counts: Their counts.
        above: Their covariances with the children before them, multiplied by the inverse Cholesky factor of these,
            float64 [children before, n]. Transposed, these are rows of the Cholesky factor of all children.
        factor: The rest of these rows, a lower triangle, float64 [n, n].
    """
    counts: Counts
    above: torch.Tensor
    factor: torch.Tensor


class GaussianProcess:
    """A Gaussian process over children, given the rewards of some.

    The covariance of two children is ``a * exp(-sum_g w_g * d_g)``, where ``d_g`` is the squared distance of their
    counts of group g, and a reward is the value of the process with independent noise. Rewards are standardised, so
    their scale does not matter. See Rasmussen and Williams, Gaussian Processes for Machine Learning, chapter 2.

    All computations are in float64, and a function of the arguments to the last bit on one machine with one number of
    threads.

    Args:
        counts: The children of known reward, see :meth:`~nasnet_zoo.search.encoding.Encoder.counts`.
        rewards: Their rewards; at least one.
        hyperparameters: By default those that :func:`fit_hyperparameters` finds for these children.
    """

    def __init__(
            self,
            counts: Counts,
            rewards: Rewards,
            hyperparameters: Optional[Hyperparameters] = None,
    ) -> None:
        values = np.asarray(rewards, dtype=np.float64)
        self.hyperparameters = hyperparameters or fit_hyperparameters(counts, values)
        self.shift, self.scale = values.mean(), values.std() or 1.
        self._blocks: Tuple[_Block, ...] = ()
        self._whitened_rewards = torch.zeros(0, dtype=torch.float64)
        self._add(counts, values)

    def __len__(self) -> int:
        return sum(len(block.factor) for block in self._blocks)

    def extend(self, counts: Counts, rewards: Rewards, pending: Optional[Counts] = None) -> 'GaussianProcess':
        """Return the process given more children, at the cost of a few, with unchanged hyperparameters and scale.

        Args:
            counts: Further children of known reward; perhaps none.
            rewards: Their rewards.
            pending: Children whose reward is not known yet. They count as if they had the predicted rewards: they
                reduce the standard deviation of similar children and leave the means as they are.
        """
        new = copy.copy(self)
        new._add(counts if pending is None else _stack(counts, pending), np.asarray(rewards, dtype=np.float64))
        return new

    def _add(self, counts: Counts, rewards: np.ndarray) -> None:
        """Add children, of which the first ones have these rewards, and the others the predicted ones."""
        above = self.whiten(counts)
        covariance = self._covariance(counts, counts)
        covariance.diagonal().add_(np.exp(self.hyperparameters.noise))
        block = _Block(counts, above, torch.linalg.cholesky(covariance - above.T @ above))
        known = len(rewards)
        values = torch.from_numpy((rewards - self.shift) / self.scale)
        surprise = values - self._whitened_rewards @ above[:, :known]
        self._blocks += block,
        self._whitened_rewards = torch.cat([
            self._whitened_rewards, _solve(block.factor[:known, :known], surprise[:, None])[:, 0],
            torch.zeros(len(block.factor) - known, dtype=torch.float64)])

    def whiten(self, counts: Counts, known: Optional[torch.Tensor] = None) -> torch.Tensor:
        """Return the covariances of these children with the known ones, multiplied by the inverse Cholesky factor.

        This is what is expensive about a prediction.

        Args:
            counts: Some children, n of them.
            known: What this method returned for the same children before the process was extended.

        Returns:
            float64 [children that the process was given, n].
        """
        whitened = torch.zeros(0, len(counts[0]), dtype=torch.float64) if known is None else known
        for block in self._blocks:
            if len(block.above) >= len(whitened):
                rest = self._covariance(block.counts, counts) - block.above.T @ whitened
                whitened = torch.cat([whitened, _solve(block.factor, rest)])
        return whitened

    def moments(self, whitened: torch.Tensor) -> Tuple[np.ndarray, np.ndarray]:
        """Return mean and standard deviation of children, without noise, in the unit of the rewards; float64 [n].

        Args:
            whitened: What :meth:`whiten` returns for these children.
        """
        mean = (self._whitened_rewards @ whitened).numpy()
        variance = np.exp(self.hyperparameters.amplitude) - (whitened ** 2).sum(0).numpy()
        return self.shift + self.scale * mean, self.scale * np.sqrt(variance.clip(1e-12))

    def moments_given(
            self, counts: Counts, whitened: torch.Tensor, new: Counts, rewards: Rewards, pending: Counts,
    ) -> Tuple[np.ndarray, np.ndarray]:
        """Return mean and standard deviation of children as they are once the process is extended.

        Args:
            counts: The children.
            whitened: What :meth:`whiten` returns for them.
            new, rewards, pending: See :meth:`extend`. Both sets may be empty.
        """
        if not len(new[0]) and not len(pending[0]):
            return self.moments(whitened)
        process = self.extend(new, rewards, pending)
        return process.moments(process.whiten(counts, whitened))

    def predict(self, counts: Counts) -> Tuple[np.ndarray, np.ndarray]:
        """Return mean and standard deviation of children, without noise, in the unit of the rewards; float64 [n]."""
        return self.moments(self.whiten(counts))

    def _covariance(self, a: Counts, b: Counts) -> torch.Tensor:
        exponent = np.full((len(a[0]), len(b[0])), self.hyperparameters.amplitude)
        for scale, distances in zip(self.hyperparameters.scales, squared_distances(a, b)):
            exponent -= np.multiply(distances, np.exp(scale), dtype=np.float64)
        return torch.from_numpy(np.exp(exponent, out=exponent))


def fit_hyperparameters(counts: Counts, rewards: Rewards, max_children: int = 300) -> Hyperparameters:
    """Return the hyperparameters of the highest posterior probability, as far as 40 steps of Adam get from the prior.

    The logarithms have independent normal priors of variance 4, whose means are the defaults of
    :class:`Hyperparameters`.

    Args:
        counts: Some children, see :meth:`~nasnet_zoo.search.encoding.Encoder.counts`.
        rewards: Their rewards.
        max_children: If there are more children, :func:`select` chooses so many, because the time grows with the third
            power of their number.
    """
    chosen = select(rewards, max_children)
    values, counts = np.asarray(rewards, dtype=np.float64)[chosen], [group[chosen] for group in counts]
    standardised = torch.from_numpy((values - values.mean()) / (values.std() or 1.))
    distances = torch.from_numpy(np.stack(squared_distances(counts, counts)).astype(np.float64))
    start = Hyperparameters()
    prior = torch.tensor([*start.scales, start.amplitude, start.noise], dtype=torch.float64)
    logs = torch.nn.Parameter(prior.clone())
    optimizer = torch.optim.Adam([logs], lr=_LR)
    for _ in range(_STEPS):
        logs.grad = _gradient(logs.detach(), distances, standardised) + (logs.detach() - prior) / _PRIOR_VARIANCE
        optimizer.step()
    return Hyperparameters(tuple(logs[:GROUPS].tolist()), *logs[GROUPS:].tolist())


def _gradient(logs: torch.Tensor, distances: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Return the gradient of the negative log likelihood (Rasmussen and Williams, equation 5.9)."""
    *scales, amplitude, noise = logs.exp()
    signal = amplitude * torch.exp(-sum(scale * group for scale, group in zip(scales, distances)))
    covariance = signal + noise * torch.eye(len(signal), dtype=torch.float64)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(covariance))
    alpha = inverse @ values
    outer = inverse - alpha[:, None] * alpha
    weighted = outer * signal
    of_scales = [-scale * (weighted * group).sum() for scale, group in zip(scales, distances)]
    return torch.stack([*of_scales, weighted.sum(), noise * outer.trace()]) / 2


def select(rewards: Rewards, count: int) -> np.ndarray:
    """Return the indices of at most `count` rewards in ascending order: half the best ones, half random others."""
    values = np.asarray(rewards)
    if len(values) <= count:
        return np.arange(len(values))
    order = np.argsort(-values, kind='stable')
    best, others = order[:count // 2], order[count // 2:]
    return np.sort(np.r_[best, np.random.default_rng(len(values)).choice(others, count - len(best), replace=False)])


def _stack(a: Counts, b: Counts) -> List[np.ndarray]:
    """Return the counts of both sets of children. Those of features that a set lacks are zero."""
    stacked = []
    for above, below in zip(a, b):
        width = max(above.shape[1], below.shape[1])
        stacked.append(np.concatenate([
            np.pad(group, [(0, 0), (0, width - group.shape[1])]) for group in (above, below)]))
    return stacked


def _solve(factor: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    return torch.linalg.solve_triangular(factor, right, upper=False)

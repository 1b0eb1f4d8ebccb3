"""A Gaussian process that predicts the rewards of children from the counts of their features."""
import copy
from typing import List, NamedTuple, Optional, Sequence, Tuple, Union

import numpy as np
import torch

from .encoding import GROUPS, squared_distances

__all__ = ['GaussianProcess', 'Hyperparameters', 'fit_hyperparameters', 'select']

Counts = Sequence[np.ndarray]
"""For each group of features an array [children, features], see :meth:`~nasnet_zoo.search.encoding.Encoder.counts`."""

Rewards = Union[Sequence[float], np.ndarray]

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
        self._counts = list(counts)
        self._factor = torch.linalg.cholesky(self._covariance(counts, counts, is_same=True))  # lower triangle
        self._whitened_rewards = _solve(self._factor, self._standardised(values)[:, None])[:, 0]

    def __len__(self) -> int:
        return len(self._factor)

    def extend(self, counts: Counts, rewards: Rewards, pending: Optional[Counts] = None) -> 'GaussianProcess':
        """Return the process given more children, at the cost of a few, with unchanged hyperparameters and scale.

        Args:
            counts: Further children of known reward; perhaps none.
            rewards: Their rewards.
            pending: Children whose reward is not known yet. They count as if they had the predicted rewards: they
                reduce the standard deviation of similar children and leave the means as they are.
        """
        new = copy.copy(self)
        more = list(counts) if pending is None else _stack(counts, pending)
        cross = self.whiten(more)
        factor = torch.linalg.cholesky(self._covariance(more, more, is_same=True) - cross.T @ cross)
        before, after = len(self), len(self) + len(factor)
        new._factor = torch.zeros(after, after, dtype=torch.float64)
        new._factor[:before, :before] = self._factor
        new._factor[before:, :before], new._factor[before:, before:] = cross.T, factor
        known = len(rewards)
        residuals = self._standardised(rewards) - cross[:, :known].T @ self._whitened_rewards
        new._whitened_rewards = torch.cat([
            self._whitened_rewards, _solve(factor[:known, :known], residuals[:, None])[:, 0],
            torch.zeros(len(factor) - known, dtype=torch.float64)])
        new._counts = _stack(self._counts, more)
        return new

    def whiten(self, counts: Counts, known: Optional[torch.Tensor] = None) -> torch.Tensor:
        """Return the covariances of the given children with these ones, multiplied by the inverse Cholesky factor.

        Args:
            counts: Some children, n of them.
            known: What this method returned for the same children before the process was extended.

        Returns:
            float64 [children of known reward, n]. This is what is expensive about a prediction.
        """
        rows = 0 if known is None else len(known)
        cross = self._covariance([group[rows:] for group in self._counts], counts)
        if known is None:
            return _solve(self._factor, cross)
        rest = cross - self._factor[rows:, :rows] @ known
        return torch.cat([known, _solve(self._factor[rows:, rows:], rest)])

    def moments(self, whitened: torch.Tensor) -> Tuple[np.ndarray, np.ndarray]:
        """Return mean and standard deviation of children, without noise, in the unit of the rewards; float64 [n].

        Args:
            whitened: What :meth:`whiten` returns for these children.
        """
        mean = (self._whitened_rewards @ whitened).numpy()
        variance = np.exp(self.hyperparameters.amplitude) - (whitened ** 2).sum(0).numpy()
        return self.shift + self.scale * mean, self.scale * np.sqrt(variance.clip(1e-12))

    def predict(self, counts: Counts) -> Tuple[np.ndarray, np.ndarray]:
        """Return mean and standard deviation of children, without noise, in the unit of the rewards; float64 [n]."""
        return self.moments(self.whiten(counts))

    def _standardised(self, rewards: Rewards) -> torch.Tensor:
        return torch.from_numpy((np.asarray(rewards, dtype=np.float64) - self.shift) / self.scale)

    def _covariance(self, a: Counts, b: Counts, is_same: bool = False) -> torch.Tensor:
        scales, amplitude, noise = self.hyperparameters
        exponent = np.tensordot(np.exp(scales), squared_distances(a, b), 1)
        covariance = torch.from_numpy(np.exp(amplitude - exponent))
        if is_same:
            covariance.diagonal().add_(np.exp(noise))
        return covariance


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
    distances = torch.from_numpy(squared_distances(counts, counts))
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

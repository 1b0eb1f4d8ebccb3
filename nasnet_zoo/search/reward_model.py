"""What the controller learns from besides finished children: a model that predicts their rewards."""
from typing import Collection, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
import torch
from torch.nn import functional as F

from .controller import Controller
from .encoding import Encoding, EncodingCache
from .gaussian_process import Counts, GaussianProcess, Hyperparameters, fit_hyperparameters, select
from .ppo import Sample
from .ppo_settings import ModelSettings
from .space import Space

__all__ = ['Candidates', 'Proposal', 'RewardModel', 'restrict_to_edits']

Tokens = Tuple[int, ...]

_GROWTH = 1.5  # the hyperparameters are fitted again when the number of children has grown by this factor
_MAX_EDITED = 3  # decisions of a child


class Candidates(NamedTuple):
    """Different children that may be proposed; P of them.

    Attributes:
        children: Their choices.
        log_probs: The log-probability of each choice under the policy, [P, decisions].
        encodings: Their encodings.
        counts: Their counts, see :meth:`~nasnet_zoo.search.encoding.Encoder.counts`.
        whitened: What the process has computed about them, see
            :meth:`~nasnet_zoo.search.gaussian_process.GaussianProcess.whiten`.
    """
    children: List[Tokens]
    log_probs: torch.Tensor
    encodings: List[Encoding]
    counts: Counts
    whitened: torch.Tensor


class Proposal(NamedTuple):
    """The candidate that was chosen.

    Attributes:
        tokens: Its choices.
        log_probs: The log-probability of each choice under the policy.
        predicted: Mean and standard deviation of its reward.
    """
    tokens: Tokens
    log_probs: List[float]
    predicted: List[float]


class RewardModel:
    """A Gaussian process that predicts the rewards of children by upper confidence bounds.

    Args:
        space: The search space.
        settings: The settings of the model.
    """

    def __init__(self, space: Space, settings: ModelSettings) -> None:
        self.settings = settings
        self._encodings = EncodingCache(space)
        self._hyperparameters: Optional[Hyperparameters] = None
        self._fitted = 0  # number of children to which the hyperparameters were fitted
        self._process: GaussianProcess  # once there are enough children
        self._samples: List[Sample] = []  # those that there were when the process was made

    @property
    def is_ready(self) -> bool:
        """Whether there have been enough finished children."""
        return self._fitted > 0

    def fit(self, samples: Sequence[Sample]) -> None:
        """Predict from these finished children from now on, if there are enough of them."""
        if len(samples) < self.settings.first:
            return
        self._samples = list(samples)
        self._encodings.keep_only(sample.tokens for sample in samples)  # not those that were only imagined
        counts = self._encodings.counts(sample.tokens for sample in samples)
        rewards = [sample.reward for sample in samples]
        if len(samples) >= _GROWTH * self._fitted:
            self._hyperparameters, self._fitted = fit_hyperparameters(counts, rewards), len(samples)
        known = select(rewards, self.settings.known)
        self._process = GaussianProcess(
            [group[known] for group in counts], np.array(rewards)[known], self._hyperparameters)

    def predict(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return the upper confidence bounds, float64 [B], of children that are given as int64 [B, decisions]."""
        return self._bounds(*self._process.predict(self._encodings.counts(_rows(tokens))))

    def candidates(self, controller: Controller, allowed: torch.Tensor, rng: np.random.Generator) -> Candidates:
        """Return children that the controller draws: whole ones, edited good ones, and edited candidates.

        Args:
            controller: The policy.
            allowed: Which options may be chosen, bool [1, decisions, options].
            rng: The source of random numbers.
        """
        settings = self.settings
        best = sorted(self._samples, key=lambda sample: -sample.reward)[:settings.elite]
        edits = restrict_to_edits(torch.tensor([sample.tokens for sample in best]), settings.edits, allowed, rng)
        found = self._draw(controller, torch.cat([allowed.expand(settings.draws, -1, -1), edits]), rng)
        for _ in range(settings.rounds):
            tokens, *_, bounds = found
            promising = tokens[bounds.argsort(descending=True, stable=True)[:settings.elite]]
            edits = restrict_to_edits(promising, settings.edits, allowed, rng)
            found = tuple(map(torch.cat, zip(found, self._draw(controller, edits, rng))))
        tokens, log_probs, whitened, _ = found
        children = _rows(tokens)
        # Equal children are listed once.
        rows = {self._encodings.encode(child): row for row, child in enumerate(children)}
        encodings, kept = list(rows), list(rows.values())
        return Candidates([children[row] for row in kept], log_probs[kept], encodings,
                          self._encodings.encoder.counts(encodings), whitened[kept].T)

    def choose(
            self, candidates: Candidates, samples: Sequence[Sample], pending: Sequence[Tokens],
            proposed: Collection[Tokens],
    ) -> Optional[Proposal]:
        """Return the candidate of the highest bound that differs from all known children; None if there is no such one.

        Args:
            candidates: What :meth:`candidates` has returned.
            samples: All finished children, those with which the process was fitted first.
            pending: Children whose reward is not known yet.
            proposed: All children that have been proposed or are finished.
        """
        new = samples[len(self._samples):]
        mean, deviation = self._process.moments_given(
            candidates.counts, candidates.whitened, self._encodings.counts(sample.tokens for sample in new),
            [sample.reward for sample in new], self._encodings.counts(pending))
        known = {self._encodings.encode(child) for child in [*proposed, *pending]}
        is_new = torch.tensor([encoding not in known for encoding in candidates.encodings])
        if not is_new.any():
            return None
        best = int(torch.where(is_new, self._bounds(mean, deviation), -torch.inf).argmax())
        return Proposal(candidates.children[best], candidates.log_probs[best].tolist(),
                        [float(mean[best]), float(deviation[best])])

    def _draw(
            self, controller: Controller, allowed: torch.Tensor, rng: np.random.Generator,
    ) -> Tuple[torch.Tensor, ...]:
        """Draw a child for each row of `allowed`. Return tokens, log-probabilities, whitened covariances and bounds."""
        uniforms = torch.from_numpy(rng.random(allowed.shape[:2])).float()
        tokens, log_probs = controller.sample(uniforms, allowed)
        whitened = self._process.whiten(self._encodings.counts(_rows(tokens)))
        return tokens, log_probs, whitened.T, self._bounds(*self._process.moments(whitened))

    def _bounds(self, mean: np.ndarray, deviation: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(mean + self.settings.deviations * deviation)


def _rows(tokens: torch.Tensor) -> List[Tokens]:
    """Return the rows of a matrix, which can be hashed."""
    return list(map(tuple, tokens.tolist()))


def restrict_to_edits(
        children: torch.Tensor, count: int, allowed: torch.Tensor, rng: np.random.Generator,
) -> torch.Tensor:
    """Return which options remain for `count` edits of some children, bool [count, decisions, options].

    In each edit one to three decisions of a child must change, and the others must not.

    Args:
        children: int64 [children, decisions].
        count: Number of edits.
        allowed: Which options may be chosen at all, bool [1, decisions, options].
        rng: The source of random numbers.
    """
    kept = F.one_hot(children[torch.from_numpy(rng.integers(len(children), size=count))], allowed.shape[-1]).bool()
    is_free = allowed.sum(-1) > 1
    places = torch.where(is_free, torch.from_numpy(rng.random(kept.shape[:2])), torch.inf).argsort(-1).argsort(-1)
    is_changed = is_free & (places < torch.from_numpy(rng.integers(1, _MAX_EDITED + 1, size=(count, 1))))
    remaining = torch.where(is_changed[..., None], allowed & ~kept, allowed & kept)
    # A child from the time before something was fixed may have an option that is no longer allowed.
    return torch.where(remaining.any(-1, keepdim=True), remaining, allowed)

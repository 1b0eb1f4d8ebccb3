"""Proximal policy optimization of the controller, in the order of arXiv:1707.06347 (algorithm 1)."""
from typing import Callable, Dict, List, NamedTuple, Sequence, Tuple

import numpy as np
import torch

from .controller import Controller
from .ppo_settings import PPOSettings

__all__ = ['Learner', 'Sample']


class Sample(NamedTuple):
    """A finished child.

    Attributes:
        tokens: Its choices.
        log_probs: The log-probability of each token under the policy that drew it.
        reward: Higher is better.
    """
    tokens: Tuple[int, ...]
    log_probs: Sequence[float]
    reward: float


class Learner:
    """A controller that learns from children in the order in which they finish.

    Its state is a function of the seed and of the samples that it was given, so giving it the same samples again
    restores it.

    Args:
        sizes: The number of options of each decision.
        settings: The settings of PPO.
        seed: The seed of the initial weights.
    """

    def __init__(self, sizes: Sequence[int], settings: PPOSettings, seed: int) -> None:
        self.settings, self.seed, self.num_decisions = settings, seed, len(sizes)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.controller = Controller(sizes)
        self.optimizer = torch.optim.Adam(self.controller.parameters(), lr=settings.lr, eps=1e-5)
        self.samples: List[Sample] = []
        self.updates = 0
        self.baseline = 0.
        self.diagnostics: Dict[str, float] = {}

    def tell(self, sample: Sample) -> bool:
        """Take a finished child. Return whether it completed a batch, on which the controller was then updated."""
        self.samples.append(sample)
        if len(self.samples) % self.settings.batch:
            return False
        self._update(self.samples[-self.settings.batch:])
        self.updates += 1
        return True

    def log_probs(self, tokens: Sequence[int]) -> List[float]:
        """Return the log-probabilities of given tokens under the current policy."""
        tokens = torch.tensor([tokens])
        with torch.inference_mode():
            return self.controller(tokens).gather(-1, tokens[..., None])[0, :, 0].tolist()

    def imagine(self, predict: Callable[[torch.Tensor], torch.Tensor], updates: int, batch: int) -> None:
        """Make PPO updates on children whose rewards are predicted, which the current policy draws for each update.

        Args:
            predict: Computes rewards [B] from tokens, int64 [B, decisions].
            updates: Number of updates.
            batch: Number of children for each of them.
        """
        rng = np.random.default_rng([self.seed, self.updates, 0, 1])  # the draws of children have shorter keys
        for _ in range(updates):
            uniforms = torch.from_numpy(rng.random((batch, self.num_decisions))).float()
            tokens, log_probs = self.controller.sample(uniforms)
            rewards = predict(tokens)
            self._make_passes(tokens, log_probs, _normal_ranks(rewards, rewards).float()[:, None])

    def _shaped_rewards(self, batch: Sequence[Sample]) -> torch.Tensor:
        rewards = torch.tensor([sample.reward for sample in batch], dtype=torch.float64)
        if not self.settings.ranks:
            return rewards
        return _normal_ranks(rewards, torch.tensor([sample.reward for sample in self.samples], dtype=torch.float64))

    def _update(self, batch: Sequence[Sample]) -> None:
        """Learn from a batch of finished children."""
        rewards = self._shaped_rewards(batch)
        diagnostics = self._make_passes(
            torch.tensor([sample.tokens for sample in batch]), torch.tensor([sample.log_probs for sample in batch]),
            self._advantages(rewards))
        variance = rewards.var(correction=0)
        explained = float(1 - (rewards - self.baseline).var(correction=0) / variance) if variance else 0.
        self.diagnostics = dict(diagnostics, baseline=self.baseline, explained_variance=explained,
                                reward=sum(sample.reward for sample in batch) / len(batch))

    def _make_passes(
            self, tokens: torch.Tensor, old_log_probs: torch.Tensor, advantages: torch.Tensor,
    ) -> Dict[str, float]:
        """Make several passes over a batch with the clipped objective (arXiv:1707.06347, equations 7 and 9).

        Args:
            tokens: The choices, int64 [B, decisions].
            old_log_probs: The log-probability of each token under the policy that drew it, [B, decisions].
            advantages: [B, 1].

        Returns:
            Diagnostics of the last pass, named as in CleanRL.
        """
        settings = self.settings
        best = sorted(self.samples, key=lambda sample: -sample.reward)[:settings.replay]
        examples = torch.tensor([sample.tokens for sample in best]) if best else None
        for _ in range(settings.epochs):
            options = self.controller(tokens)
            log_ratio = options.gather(-1, tokens[..., None])[..., 0] - old_log_probs
            ratio = log_ratio.exp()
            clipped = ratio.clamp(1 - settings.clip, 1 + settings.clip)
            gain = torch.minimum(ratio * advantages, clipped * advantages).mean()
            entropy = -(options.exp() * options.clamp(min=-1e3)).sum(-1).mean()
            objective = gain + settings.entropy_weight * entropy
            if examples is not None:
                likelihood = self.controller(examples).gather(-1, examples[..., None]).mean()
                objective = objective + settings.replay_weight * likelihood
            self.optimizer.zero_grad()
            (-objective).backward()
            torch.nn.utils.clip_grad_norm_(self.controller.parameters(), settings.max_grad_norm)
            self.optimizer.step()
        with torch.no_grad():
            return dict(
                policy_loss=-gain.item(), entropy=entropy.item(), approx_kl=((ratio - 1) - log_ratio).mean().item(),
                clipfrac=((ratio - 1).abs() > settings.clip).float().mean().item())

    def _advantages(self, rewards: torch.Tensor) -> torch.Tensor:
        """Return the rewards minus the baseline, [B, 1], and then update the baseline."""
        if self.updates == 0 and not self.settings.ranks:
            self.baseline = rewards.mean().item()
        advantages = (rewards - self.baseline).float()[:, None]
        if not self.settings.ranks:  # the mean of ranks is constant
            for reward in rewards.tolist():
                self.baseline += (1 - self.settings.baseline_decay) * (reward - self.baseline)
        return advantages


def _normal_ranks(rewards: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    """Return the ranks of rewards among the known ones, which include them, as normal deviates."""
    below = (known < rewards[:, None]).sum(1) + 0.5 * (known == rewards[:, None]).sum(1)
    return torch.special.ndtri(below / len(known))

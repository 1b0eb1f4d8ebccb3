"""Proximal policy optimisation of the controller, in the order of arXiv:1707.06347."""
from typing import Dict, List, NamedTuple, Sequence

import torch

from .controller import Controller

__all__ = ['PPO', 'PRESETS', 'Sample', 'Learner']


class PPO(NamedTuple):
    """Settings. The defaults are the paper's (appendix A.1); it does not give `clip` and `epochs`.

    Attributes:
        lr: Adam's rate.
        entropy_weight: Of the mean entropy of a decision, in nats, in the objective.
        baseline_decay: Of the moving average of rewards that is subtracted from each.
        batch: Children an update.
        epochs: Passes over them.
        clip: How far the ratio of new to old probability may be from 1 to count.
        max_grad_norm: Bound of the gradient.
        ranks: Whether the reward is the child's rank among all before it, as a normal deviate, and not its accuracy:
            accuracies of good cells differ in the third digit.
        replay: The best so many children of all are learnt again with each update, as examples; 0 for none.
        replay_weight: Of their mean log-probability in the objective.
        novel: Whether a cell that was asked for before is drawn again.
    """
    lr: float = 3.5e-4
    entropy_weight: float = 1e-5
    baseline_decay: float = 0.95
    batch: int = 20
    epochs: int = 4
    clip: float = 0.2
    max_grad_norm: float = 0.5
    ranks: bool = False
    replay: int = 0
    replay_weight: float = 0.
    novel: bool = False


PRESETS = {
    'paper': PPO(),
    'fast': PPO(lr=3e-3, entropy_weight=0.05, batch=10, epochs=2, ranks=True, replay=20, replay_weight=0.5, novel=True),
}


class Sample(NamedTuple):
    """A child: its tokens, the log-probability of each when it was drawn, and its reward (higher is better)."""
    tokens: Sequence[int]
    log_probs: Sequence[float]
    reward: float


class Learner:
    """A controller that learns from children in the order in which they are finished.

    Its state is a function of `seed` and of the samples it was given, so it is rebuilt by giving it the same again.
    """

    def __init__(self, sizes: Sequence[int], settings: PPO, seed: int) -> None:
        self.settings = settings
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.controller = Controller(sizes)
        self.optimizer = torch.optim.Adam(self.controller.parameters(), lr=settings.lr, eps=1e-5)
        self.samples: List[Sample] = []
        self.updates = 0
        self.baseline = 0.
        self.diagnostics: Dict[str, float] = {}

    def tell(self, sample: Sample) -> bool:
        """Take a finished child; True if it completes a batch, from which the controller then has learnt."""
        self.samples.append(sample)
        if len(self.samples) % self.settings.batch:
            return False
        self._update(self.samples[-self.settings.batch:])
        self.updates += 1
        return True

    def log_probs(self, tokens: Sequence[int]) -> List[float]:
        """Of choices that were not drawn, under the present policy."""
        tokens = torch.tensor([tokens])
        with torch.inference_mode():
            return self.controller(tokens).gather(-1, tokens[..., None])[0, :, 0].tolist()

    def _rewards(self, batch: Sequence[Sample]) -> torch.Tensor:
        rewards = torch.tensor([sample.reward for sample in batch], dtype=torch.float64)
        if not self.settings.ranks:
            return rewards
        known = torch.tensor([sample.reward for sample in self.samples], dtype=torch.float64)
        below = (known < rewards[:, None]).sum(1) + 0.5 * (known == rewards[:, None]).sum(1)
        return torch.special.ndtri(below / len(known))

    def _update(self, batch: Sequence[Sample]) -> None:
        settings = self.settings
        tokens = torch.tensor([sample.tokens for sample in batch])
        old = torch.tensor([sample.log_probs for sample in batch])
        rewards = self._rewards(batch)
        if self.updates == 0 and not settings.ranks:
            self.baseline = rewards.mean().item()
        advantages = (rewards - self.baseline).float()[:, None]
        if not settings.ranks:  # ranks have their mean, and it does not move
            for reward in rewards.tolist():
                self.baseline += (1 - settings.baseline_decay) * (reward - self.baseline)
        best = sorted(self.samples, key=lambda sample: -sample.reward)[:settings.replay]
        examples = torch.tensor([sample.tokens for sample in best]) if best else None
        for _ in range(settings.epochs):
            options = self.controller(tokens)
            new = options.gather(-1, tokens[..., None])[..., 0]
            log_ratio = new - old
            ratio = log_ratio.exp()
            clipped = ratio.clamp(1 - settings.clip, 1 + settings.clip)
            gain = torch.minimum(ratio * advantages, clipped * advantages).mean()
            entropy = -(options.exp() * options.clamp(min=-1e3)).sum(-1).mean()
            objective = gain + settings.entropy_weight * entropy
            if examples is not None:
                likely = self.controller(examples).gather(-1, examples[..., None]).mean()
                objective = objective + settings.replay_weight * likely
            self.optimizer.zero_grad()
            (-objective).backward()
            torch.nn.utils.clip_grad_norm_(self.controller.parameters(), settings.max_grad_norm)
            self.optimizer.step()
        with torch.no_grad():
            spread = rewards.var(correction=0)
            self.diagnostics = dict(  # CleanRL's names
                policy_loss=-gain.item(), entropy=entropy.item(), approx_kl=((ratio - 1) - log_ratio).mean().item(),
                clipfrac=((ratio - 1).abs() > settings.clip).float().mean().item(), baseline=self.baseline,
                explained_variance=float(1 - (rewards - self.baseline).var(correction=0) / spread) if spread else 0.,
                reward=sum(sample.reward for sample in batch) / len(batch))

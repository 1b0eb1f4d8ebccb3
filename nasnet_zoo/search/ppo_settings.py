"""Settings of the PPO controller, apart from the controller so that listing the presets is cheap."""
from typing import Dict, NamedTuple, Optional

__all__ = ['PRESETS', 'ModelSettings', 'PPOSettings']


class ModelSettings(NamedTuple):
    """Settings of model-based policy optimization (compare arXiv:1906.08253): PPO on predicted rewards.

    The model is a Gaussian process. The prediction of a child is its upper confidence bound.

    Attributes:
        first: Number of finished children from which on the model is used.
        deviations: Number of standard deviations that the upper confidence bound is above the mean.
        updates: Number of PPO updates on imagined children after each update on real ones.
        batch: Number of imagined children per update.
        draws: Number of whole children that the controller draws as candidates for the next batch of children.
        edits: Number of candidates that are edited children: the controller draws one to three decisions of a good
            child anew.
        rounds: Number of times that the best candidates are edited in the same way.
        elite: Number of good children, and of best candidates, that are edited.
        known: Maximum number of finished children that the model is given.
    """
    first: int = 20
    deviations: float = 2.
    updates: int = 2
    batch: int = 64
    draws: int = 50
    edits: int = 100
    rounds: int = 3
    elite: int = 20
    known: int = 1000


class PPOSettings(NamedTuple):
    """Settings of PPO. The defaults are the paper's (appendix A.1), which does not state `clip` and `epochs`.

    Attributes:
        lr: Learning rate of Adam.
        entropy_weight: Weight of a child's entropy, in nats, in the objective.
        baseline_decay: Decay of the moving average of rewards that is subtracted from each reward.
        batch: Number of children per update.
        epochs: Number of passes over the batch in an update.
        clip: How far the ratio of new to old probability may differ from 1 before it is clipped.
        max_grad_norm: Largest norm of the gradient.
        ranks: Replace each reward by its rank among all rewards so far, as a normal deviate. The accuracies of good
            cells differ in the third digit only.
        replay: Number of the best children so far that are learned again as examples in each update; 0 for none.
        replay_weight: Weight of the examples' mean log-probability in the objective.
        novel: Draw again if a cell was proposed before.
        model: Learn from predicted rewards, too; None for real ones only.
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
    model: Optional[ModelSettings] = None


_FAST = PPOSettings(
    lr=3e-3, entropy_weight=0.05, batch=10, epochs=2, ranks=True, replay=20, replay_weight=0.5, novel=True)

PRESETS: Dict[str, PPOSettings] = {
    'model': _FAST._replace(model=ModelSettings()),  # for up to a few thousand children
    'fast': _FAST,  # for hundreds of children; proposals take less time
    'paper': PPOSettings(),  # for tens of thousands of children
}

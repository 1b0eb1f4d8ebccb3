"""Settings of the PPO controller, apart from the controller so that listing the presets is cheap."""
from typing import Dict, NamedTuple

__all__ = ['PRESETS', 'PPOSettings']


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


PRESETS: Dict[str, PPOSettings] = {
    'paper': PPOSettings(),  # for tens of thousands of children
    'fast': PPOSettings(  # for hundreds of children
        lr=3e-3, entropy_weight=0.05, batch=10, epochs=2, ranks=True, replay=20, replay_weight=0.5, novel=True),
}

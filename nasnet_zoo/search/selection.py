"""Which children of a search are the best: their rewards are noisy, and the highest one is often the luckiest."""
from typing import List, Sequence

import numpy as np

from .encoding import Encoder
from .gaussian_process import MAX_CHILDREN, GaussianProcess, Rewards, select
from .space import Space

__all__ = ['fitted_means', 'rank_children']


def fitted_means(space: Space, children: Sequence[Sequence[int]], rewards: Rewards) -> np.ndarray:
    """Return the reward that each child has according to a Gaussian process that is given all rewards, float64 [n].

    The process shares what is known about similar children, and so removes most of the noise of a reward.

    Args:
        space: The search space.
        children: The tokens of the children; at least one child.
        rewards: Their rewards.
    """
    encoder = Encoder(space)
    counts = encoder.counts([encoder.encode(tokens) for tokens in children])
    chosen = select(rewards, MAX_CHILDREN)
    process = GaussianProcess([group[chosen] for group in counts], np.asarray(rewards)[chosen])
    return process.predict(counts)[0]


def rank_children(space: Space, children: Sequence[Sequence[int]], rewards: Rewards) -> List[int]:
    """Return the indices of children by :func:`fitted_means`, that of the best child first."""
    return np.argsort(-fitted_means(space, children, rewards).round(12), kind='stable').tolist()

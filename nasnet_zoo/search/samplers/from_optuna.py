"""Optuna's own samplers."""
from typing import Any

import numpy as np
from optuna.samplers import NSGAIISampler, RandomSampler, TPESampler

from ..space import Space

__all__ = ['build_nsga2', 'build_random', 'build_tpe']


def build_random(space: Space, seed: int, preset: str, trials: int, reward: Any) -> RandomSampler:
    """Return random search, see :data:`~nasnet_zoo.search.samplers.SAMPLERS`."""
    return RandomSampler(_seed(seed, trials))


def build_tpe(space: Space, seed: int, preset: str, trials: int, reward: Any) -> TPESampler:
    """Return TPE, see :data:`~nasnet_zoo.search.samplers.SAMPLERS`."""
    return TPESampler(seed=_seed(seed, trials))


def build_nsga2(space: Space, seed: int, preset: str, trials: int, reward: Any) -> NSGAIISampler:
    """Return NSGA-II, see :data:`~nasnet_zoo.search.samplers.SAMPLERS`."""
    return NSGAIISampler(seed=_seed(seed, trials))


def _seed(seed: int, trials: int) -> int:
    """Return the seed of a sampler that continues after so many trials: other random numbers than before, and other
    ones than in searches with other seeds."""
    return int(np.random.SeedSequence([seed, trials]).generate_state(1)[0]) if trials else seed

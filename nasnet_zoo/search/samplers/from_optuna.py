"""Optuna's own samplers."""
from typing import Any

from optuna.samplers import NSGAIISampler, RandomSampler, TPESampler

from ..space import Space

__all__ = ['build_nsga2', 'build_random', 'build_tpe']


def build_random(space: Space, seed: int, preset: str, trials: int, reward: Any) -> RandomSampler:
    """Return random search, see :data:`~nasnet_zoo.search.samplers.SAMPLERS`."""
    return RandomSampler(seed + trials)


def build_tpe(space: Space, seed: int, preset: str, trials: int, reward: Any) -> TPESampler:
    """Return TPE, see :data:`~nasnet_zoo.search.samplers.SAMPLERS`."""
    return TPESampler(seed=seed + trials)


def build_nsga2(space: Space, seed: int, preset: str, trials: int, reward: Any) -> NSGAIISampler:
    """Return NSGA-II, see :data:`~nasnet_zoo.search.samplers.SAMPLERS`."""
    return NSGAIISampler(seed=seed + trials)

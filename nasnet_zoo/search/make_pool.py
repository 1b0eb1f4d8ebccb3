"""Makes the workers of a search or of a comparison, on this machine or on a Ray cluster."""
from typing import Optional, Protocol, Union

from .pool import MakeEvaluate
from .pool_local import LocalPool
from .pool_ray import RayPool

__all__ = ['make_pool']


class _Config(Protocol):
    """What the settings of a search and of a comparison say about workers."""
    ray: Optional[str]
    cpus_per_child: float
    gpus_per_child: float


def make_pool(make: MakeEvaluate, config: _Config, size: Optional[int]) -> Union[LocalPool, RayPool]:
    """Return workers.

    Args:
        make: Creates the function of a worker, in its process.
        config: The settings.
        size: Number of workers. The default is 1 or, on a Ray cluster, as many as fit.
    """
    if config.ray is None:
        return LocalPool(make, size or 1)
    return RayPool(make, config.ray, size, config.cpus_per_child, config.gpus_per_child)

"""Comparison of what was made of a network with the network itself."""
import copy
from typing import Optional

import numpy as np
import torch
from torch import nn

from ..network.nasnet import NASNet
from .ir import Node, Size
from .to_torch import to_module

__all__ = ['TOLERANCE', 'DifferenceError', 'check_finite', 'check_module', 'relative_difference']

TOLERANCE = 1e-5  # largest relative difference of results in float32
_NUM_IMAGES = 2  # two images show a mistake that mixes up the images of a batch; all else is seen in one
_ROUNDING = 4  # a module's distance from exact results may be this many times the network's


class DifferenceError(RuntimeError):
    """What was made of a network does not compute what the network does."""


def relative_difference(got: np.ndarray, expected: np.ndarray) -> float:
    """The norm of the difference over the norm of what is expected; 0 if both are zeros."""
    difference, norm = (float(np.linalg.norm(np.asarray(x, np.float64))) for x in (got - expected, expected))
    if difference == 0:
        return 0.
    return difference / norm if norm else float('inf')


def check_finite(model: nn.Module, results: np.ndarray, images: str = 'random images') -> None:
    """Raise ValueError if results of a network are not all finite. The message names a tensor that is to blame."""
    if np.isfinite(results).all():
        return
    bad = [name for name, tensor in model.state_dict().items()
           if tensor.is_floating_point() and not tensor.isfinite().all()]
    reason = f'model.{bad[0]} contains such values' if bad else 'its features grow too large'
    raise ValueError(f'model: returns NaN or infinite values for {images}: {reason}')


def check_module(model: NASNet, module: nn.Module, graph: Node, size: Optional[Size]) -> None:
    """Check, on two random images, that a module made of a network computes what the network does.

    In float32, the relative difference may be :data:`TOLERANCE`. Where it is larger, rounding may be the reason, in
    float16 almost always and in float32 for some statistics of batch norms. Then the same is computed in float64, where
    rounding is no excuse, and the module must come as close to these results as the network does.

    Args:
        model: The network, in evaluation mode.
        module: What was made of it.
        graph: The graph that the module was written from.
        size: Height and width of the images. For None they are as small as the network takes, and have even rows and
            odd columns at each stride, so that both cases of SAME padding are seen.

    Raises:
        DifferenceError: If the module computes something else.
        ValueError: If the network cannot compute images of this size, or returns NaN for them.
    """
    stride = model.skeleton.output_stride
    height, width = size or (2 * stride, 2 * stride + 1)
    images = torch.randn(_NUM_IMAGES, model.in_chans, height, width, generator=torch.Generator().manual_seed(0))
    parameter = next(model.parameters())
    try:
        expected = _run(model, images.to(parameter))
    except RuntimeError as error:
        raise ValueError(f'model: cannot compute images of {height} x {width}: {error}') from error
    check_finite(model, expected)
    got = _run(module, images.to(parameter))
    difference = relative_difference(got, expected)
    if difference <= TOLERANCE or np.isfinite(got).all() and _is_rounding(model, graph, images, got, expected):
        return
    raise DifferenceError(
        f'model: on random images of {height} x {width}, the relative difference of the module from the network is '
        f'{difference:.1e}, more than {TOLERANCE}; does a method `lower` or a row of '
        'nasnet_zoo.graph.lower.LOWERINGS compute something else than its module? check=False skips this comparison')


def _run(module: nn.Module, images: torch.Tensor) -> np.ndarray:
    with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
        return module(images).cpu().double().numpy()


def _is_rounding(
        model: NASNet, graph: Node, images: torch.Tensor, got: np.ndarray, expected: np.ndarray) -> bool:
    """Whether a graph is that of the network, and a module of it comes as close to exact results as the network."""
    tensors = {id(value): value.detach() for module in model.modules() for value in vars(module).values()
               if isinstance(value, torch.Tensor)}  # such as pruned weights, which cannot be copied
    device = next(model.parameters()).device
    if device.type != 'cuda':  # not every accelerator computes in float64
        device = torch.device('cpu')
    images = images.to(device, torch.float64)
    exact = _run(copy.deepcopy(model, tensors).to(device, torch.float64), images)
    from_graph = _run(to_module(graph, device, torch.float64), images)
    return (relative_difference(from_graph, exact) <= TOLERANCE
            and relative_difference(got, exact) <= _ROUNDING * relative_difference(expected, exact))

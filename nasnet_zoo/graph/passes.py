"""The passes that make a trained network faster without changing what it computes, and the functions that run them.

docs/performance.md says what each pass is worth, and what was tried and dropped.
"""
from typing import Callable, Collection, Dict, NamedTuple, Optional, Tuple, Union

from timm.layers import to_2tuple
from torch import fx

from ..checked import Checked, suggest
from ..network.nasnet import NASNet
from ..network.skeleton import ImageSize
from .ir import Node, Size, rewrite
from .lower import lower
from .rewrites.equivalents import add_as_identity_conv, avg_pool_as_depthwise_conv, pointwise_conv_as_matmul
from .rewrites.folding import fold_norms, sink_scale
from .rewrites.layout import fix_padding, pad_channels
from .rewrites.reductions import fuse_reductions, split_reductions_at_blocks
from .rewrites.sharing import drop_zeros, eliminate_common_subexpressions, push_relu_through_concat
from .targets import TARGETS

__all__ = ['PASSES', 'Pass', 'apply_passes', 'optimize_for_inference']


class Pass(NamedTuple):
    """An exact rewrite of a graph.

    Attributes:
        apply: From a graph, and the height and width of the images or None for any, to the rewritten graph.
        makes: Kinds of operation that may be in its result although they were not in the graph before.
    """
    apply: Callable[[Node, Optional[Size]], Node]
    makes: Tuple[str, ...] = ()


PASSES: Dict[str, Pass] = {row.apply.__name__: row for row in (  # in the order in which they run
    Pass(drop_zeros),
    Pass(fold_norms),
    Pass(split_reductions_at_blocks, makes=('conv', 'add')),
    Pass(fuse_reductions),
    Pass(push_relu_through_concat),
    Pass(eliminate_common_subexpressions),
    Pass(sink_scale, makes=('affine',)),
    Pass(fix_padding, makes=('affine',)),
    Pass(pad_channels),
    Pass(avg_pool_as_depthwise_conv, makes=('conv', 'scale_pixels')),
    Pass(add_as_identity_conv, makes=('conv',)),
    Pass(pointwise_conv_as_matmul, makes=('pointwise',)),
)}


def apply_passes(
        graph: Node,
        target: str,
        size: Optional[Size] = None,
        passes: Optional[Collection[str]] = None,
) -> Node:
    """Rewrite a graph by passes, in the order of :data:`PASSES`.

    Args:
        graph: What :func:`nasnet_zoo.graph.lower.lower` returned.
        target: A name in :data:`nasnet_zoo.graph.targets.TARGETS`.
        size: Height and width of the images; None for any.
        passes: Names in :data:`PASSES`, in any order; by default those that pay on the target.

    Raises:
        ValueError: For an unknown target or pass, and for a pass whose result the target cannot write.
    """
    if target not in TARGETS:
        raise ValueError(f'target: unknown target {target!r}; {suggest(target, TARGETS)}')
    names = TARGETS[target].passes if passes is None else passes
    _check_passes(names, target)
    for name, pass_ in PASSES.items():
        if name in names:
            graph = pass_.apply(graph, size)
    return graph


def _check_passes(names: Collection[str], target: str) -> None:
    """Raise ValueError for the first name that is no pass, or one whose result the target cannot write."""
    if isinstance(names, str):
        raise ValueError(f'passes: must be a list of names, not the string {names!r}')
    for name in names:
        if name not in PASSES:
            raise ValueError(f'passes: unknown pass {name!r}; {suggest(name, PASSES)}')
        unwritable = sorted(set(PASSES[name].makes) - TARGETS[target].kinds)
        if unwritable:
            raise ValueError(f'passes: {name} makes operations of the kind {", ".join(unwritable)}, which '
                             f'{target} cannot run; leave this pass out')


class _Options(Checked):
    img_size: Optional[ImageSize]


def optimize_for_inference(
        model: NASNet,
        img_size: Union[int, Tuple[int, int], None] = None,
        passes: Optional[Collection[str]] = None,
        *,
        check: bool = True,
) -> fx.GraphModule:
    """Make a faster module for inference, straight-line code of PyTorch's own functions.

    Args:
        model: A network in evaluation mode. It is not changed; the module has a copy of its weights, on the same device
            and in the same type.
        img_size: Height and width that all images will have, or the side of square ones; None for any size. A known
            size makes the module faster, because all padding is known.
        passes: Names in :data:`PASSES`; by default those that pay on the model's device.
        check: Compare the module with the model on two random images, of ``img_size`` or else of the smallest useful
            size, before it is returned.

    Returns:
        A module from images [B, in_chans, H, W] to what ``model`` returns, within 1e-5 of it in float32 (norm of the
        difference over norm). It cannot be trained. It raises ValueError for images of another size than ``img_size``.

    Raises:
        TypeError: For a model or a layer that cannot be lowered (see :func:`nasnet_zoo.graph.lower.lower`).
        ValueError: For a network in training mode or one that returns NaN, an impossible size, an unknown pass, and a
            pass whose result PyTorch cannot run.
        DifferenceError: If the module computes something else than the model (see
            :func:`nasnet_zoo.graph.compare.check_module`).
    """
    from .compare import check_module
    from .to_torch import to_module
    weight = next(model.parameters())
    _Options(img_size=img_size)
    size = None if img_size is None else to_2tuple(img_size)
    graph = lower(model)
    if size:
        graph = rewrite(graph, lambda node: node.then('check_size', size=size) if node.op == 'input' else node)
    graph = apply_passes(graph, 'torch_cpu' if weight.is_cpu else 'torch_gpu', size, passes)
    module = to_module(graph, weight.device, weight.dtype)
    if check:
        check_module(model, module, graph, size)
    return module

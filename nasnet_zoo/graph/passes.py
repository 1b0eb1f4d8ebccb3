"""Exact rewrites of a trained network for speed.

Each pass is a rule over the graph of graph.py: a node whose inputs are rewritten comes in, and what takes its place
goes out. docs/performance.md has what each is worth, and what was tried and dropped.
"""
import math
from collections import Counter
from typing import Any, Callable, Collection, Dict, NamedTuple, Optional, Sequence, Tuple, Union

import torch
from timm.layers import to_2tuple
from torch import fx
from torch.nn import functional as F

from ..network.nasnet import NASNet
from .ir import NO_PADDING, SAME, Node, ordered, rewrite, window
from .lower import lower

__all__ = ['PASSES', 'apply_passes', 'optimize_for_inference']

Size = Optional[Tuple[int, int]]  # height and width of the images; None for any
_BLOCK = 16  # channels in a vector of AVX-512, by which ONNX Runtime lays features out; AVX2's 8 divides it


def optimize_for_inference(
        model: NASNet,
        img_size: Union[int, Tuple[int, int], None] = None,
        passes: Optional[Collection[str]] = None,
) -> fx.GraphModule:
    """The same network as straight-line code of PyTorch's own functions, faster and not for training.

    Args:
        model: In evaluation mode. It is not changed; its weights are copied, to the same device and type.
        img_size: Height and width, or a side, that images will have, which fixes all padding; None for any.
        passes: Names of :data:`PASSES` to apply; by default all that suit PyTorch on the model's device.

    Returns:
        A module from images [B, in_chans, H, W] to what ``model`` returns, within 1e-5 of it in float32 (norm of the
        difference over norm). It needs no class of ours; given another size than ``img_size`` it raises ValueError.

    Raises:
        ValueError: For a network in training mode, and for an unknown pass.
    """
    from .to_torch import to_module
    weight = next(model.parameters())
    size = None if img_size is None else to_2tuple(img_size)
    graph = lower(model)
    if size:
        graph = rewrite(graph, lambda node: Node('check_size', (node,), attrs=dict(size=size)) if (
            node.op == 'input') else node)
    graph = apply_passes(graph, 'cpu' if weight.is_cpu else 'cuda', size, passes)
    return to_module(graph, weight.device, weight.dtype)


def apply_passes(graph: Node, where: str, size: Size = None, passes: Optional[Collection[str]] = None) -> Node:
    """A graph after the passes in `passes`, by default all that suit, in the order of :data:`PASSES`.

    Args:
        graph: Made by :func:`nasnet_zoo.graph.ir.lower`.
        where: 'cpu' or 'cuda' for PyTorch there, 'onnx' for ONNX Runtime, 'int8' for it after quantisation.
        size: Of the images, if it is fixed.
        passes: Names.
    """
    unknown = set(passes or ()) - set(PASSES)
    if unknown:
        raise ValueError(f'passes: {", ".join(sorted(unknown))}: there are {", ".join(PASSES)}')
    for name, pass_ in PASSES.items():
        if name in passes if passes is not None else where in pass_.where:
            graph = pass_.apply(graph, size)
    return graph


def fold_norms(graph: Node, size: Size) -> Node:
    """A batch norm behind a convolution becomes part of its weights, one behind a concatenation part of its parts'."""
    def rule(node: Node) -> Node:
        if node.op != 'affine':
            return _take_affine(node)
        x, scale, shift = node.inputs[0], node.params['scale'], node.params['shift']
        if x.op == 'conv':
            return x.replace(params=dict(
                weight=x.params['weight'] * scale[:, None, None, None], bias=x.params['bias'] * scale + shift))
        if x.op == 'concat' and all(part.op == 'conv' for part in x.inputs):
            widths = [part.channels for part in x.inputs]
            return x.replace([rule(node.replace([part], dict(scale=a, shift=b))) for part, a, b in zip(
                x.inputs, scale.split(widths), shift.split(widths))])
        return node
    return rewrite(graph, rule)


def _take_affine(node: Node) -> Node:
    """A convolution or linear layer that scales and shifts its input itself, as far as this is exact."""
    x = node.inputs[0] if node.inputs else node
    if node.op not in ('conv', 'linear') or x.op != 'affine':
        return node
    weight, shift = node.params['weight'], x.params['shift']
    if shift.any() and not (node.is_ungrouped_conv and node.attrs['padding'] == NO_PADDING):
        return node  # padding is not shifted
    is_depthwise = node.op == 'conv' and not node.is_ungrouped_conv
    scale, shift = (values.reshape(-1, *[1] * (weight.ndim - 1 if is_depthwise else weight.ndim - 2))
                    for values in (x.params['scale'], shift))
    bias = node.params['bias'] + (0 if is_depthwise else (weight * shift).flatten(1).sum(1))
    return node.replace(x.inputs, dict(weight=weight * scale, bias=bias))


def _strided_paths(node: Node) -> bool:
    """Whether a node is the two strided paths of a factorized reduction, side by side."""
    if node.op != 'concat' or len(node.inputs) != 2 or not all(x.is_ungrouped_conv for x in node.inputs):
        return False
    first, second = node.inputs
    kernels = [tuple(x.params['weight'].shape[2:]) for x in node.inputs]
    return (first.inputs == second.inputs and kernels == [(1, 1), (2, 2)] and second.attrs['padding'] == SAME
            and first.attrs['stride'] == second.attrs['stride'] == (2, 2))


def split_reductions_at_blocks(graph: Node, size: Size) -> Node:
    """The strided paths of a factorized reduction are cut where ONNX Runtime's blocks of channels end; the block that
    both have channels in is a sum, which it adds in passing.

    The path that is a pixel off picks its pixels first, by a depthwise convolution, which keeps the layout.
    """
    def rule(node: Node) -> Node:
        if not _strided_paths(node):
            return node
        first, second = node.inputs
        picked = _depthwise(second.inputs[0], [[0., 0.], [0., 1.]], second.attrs['stride'], SAME)
        second = first.replace([picked], dict(weight=second.params['weight'][:, :, 1:, 1:], bias=second.params['bias']),
                           stride=(1, 1))
        a, last = first.channels, node.channels
        low, high = a // _BLOCK * _BLOCK, min(-(-a // _BLOCK) * _BLOCK, last)
        parts = []
        if low:
            parts.append(_rows(first, 0, low))
        if low < high:
            parts.append(Node('add', (_rows(first, low, high), _rows(second, low - a, high - a))))
        if high < last:
            parts.append(_rows(second, high - a, last - a))
        return Node('concat', tuple(parts)) if len(parts) > 1 else parts[0]
    return rewrite(graph, rule)


def _depthwise(x: Node, kernel: Sequence[Sequence[float]], stride: Tuple[int, int], padding: Any) -> Node:
    """The convolution of each channel by the same kernel."""
    weight = torch.tensor(kernel, dtype=torch.float64).repeat(x.channels, 1, 1, 1)
    return Node('conv', (x,), dict(weight=weight, bias=0 * weight[:, 0, 0, 0]), dict(
        stride=stride, dilation=(1, 1), groups=x.channels, padding=padding))


def _rows(conv: Node, start: int, end: int) -> Node:
    """Output channels of a convolution from `start` to `end`; those that it does not have are zeros."""
    before, after = max(0, -start), max(0, end - conv.channels)
    return conv.replace(params={
        name: F.pad(value[max(0, start):end], [0, 0] * (value.ndim - 1) + [before, after])
        for name, value in conv.params.items()})


def fuse_reductions(graph: Node, size: Size) -> Node:
    """The strided paths of a factorized reduction become one convolution with a 2x2 kernel."""
    def rule(node: Node) -> Node:
        if not _strided_paths(node):
            return node
        first, second = node.inputs
        weight = torch.cat([F.pad(first.params['weight'], (0, 1, 0, 1)), second.params['weight']])
        return second.replace(params=dict(weight=weight, bias=torch.cat([x.params['bias'] for x in node.inputs])))
    return rewrite(graph, rule)


def push_relu_through_concat(graph: Node, size: Size) -> Node:
    """A concatenation is rectified part by part, which a part's convolution or addition does in passing."""
    def rule(node: Node) -> Node:
        if node.op == 'relu' and node.inputs[0].op == 'concat':
            return node.inputs[0].replace([Node('relu', (part,)) for part in node.inputs[0].inputs])
        return node
    return rewrite(graph, rule)


def eliminate_common_subexpressions(graph: Node, size: Size) -> Node:
    """The same operation on the same tensor is computed once, and what is rectified is not rectified again."""
    known: Dict[Any, Node] = {}

    def rule(node: Node) -> Node:
        if node.op == 'relu' and node.inputs[0].op == 'relu':
            return node.inputs[0]
        key = (node.op, node.inputs, tuple((name, id(value)) for name, value in node.params.items()),
               tuple(node.attrs.items()))
        return known.setdefault(key, node)
    return rewrite(graph, rule)


def sink_scale(graph: Node, size: Size) -> Node:
    """x + x, of a pool that a cell adds to itself, is twice x, and the weights of the readers take the 2 up: behind
    rectifiers, pools and concatenations. Doubling changes no digit."""
    def rule(node: Node) -> Node:
        scaled = [x.op == 'affine' and not x.params['shift'].any() and (x.params['scale'] > 0).all()
                  for x in node.inputs]
        if node.op == 'add' and node.inputs[0] is node.inputs[1]:
            two = torch.full((node.channels,), 2., dtype=torch.float64)
            return Node('affine', node.inputs[:1], dict(scale=two, shift=0 * two))
        if not any(scaled):
            return node
        if node.op in ('relu', 'avg_pool', 'max_pool', 'global_pool', 'flatten'):
            return node.inputs[0].replace([node.replace(node.inputs[0].inputs)])
        if node.op == 'concat':
            scale = torch.cat([x.params['scale'] if is_scaled else torch.ones(x.channels, dtype=torch.float64)
                               for x, is_scaled in zip(node.inputs, scaled)])
            parts = [x.inputs[0] if is_scaled else x for x, is_scaled in zip(node.inputs, scaled)]
            return Node('affine', (node.replace(parts),), dict(scale=scale, shift=0 * scale))
        return _take_affine(node)
    return rewrite(graph, rule)


def fix_padding(graph: Node, size: Size) -> Node:
    """Where the images' size is known, so is all padding."""
    def rule(node: Node, before: Tuple[int, int]) -> Node:
        if 'padding' in node.attrs:
            return node.replace(padding=_padding(node, before))
        if node.op == 'group_norm':
            if node.channels // node.attrs['groups'] * before[0] * before[1] == 1:
                return Node('affine', node.inputs, dict(scale=node.params['weight'], shift=node.params['bias']))
            return node.replace(any_size=False)
        return node
    return _rewrite_sized(graph, size, rule)


def _rewrite_sized(graph: Node, size: Size, rule: Callable[[Node, Tuple[int, int]], Node]) -> Node:
    """The graph rewritten by a rule that also wants the height and width of a node's input; as it is for any size."""
    if size is None:
        return graph
    sizes: Dict[Node, Tuple[int, int]] = {}

    def sized(node: Node) -> Node:
        before = sizes[node.inputs[0]] if node.inputs else size
        new = rule(node, before)
        sizes[new] = _size_after(node, before)
        return new
    return rewrite(graph, sized)


def _padding(node: Node, size: Tuple[int, int]) -> Tuple[int, ...]:
    """Of top, left, bottom and right, for an input of this height and width."""
    if node.attrs['padding'] != SAME:
        return node.attrs['padding']
    rows, columns = (k - s + n % s for n, k, s in zip(size, *window(node)))
    return rows // 2, columns // 2, rows - rows // 2, columns - columns // 2


def _size_after(node: Node, size: Tuple[int, int]) -> Tuple[int, int]:
    if node.op == 'global_pool':
        return 1, 1
    if 'padding' not in node.attrs:
        return size
    top, left, bottom, right = _padding(node, size)
    padded = size[0] + top + bottom, size[1] + left + right
    return padded if node.op == 'pad' else tuple((n - k) // s + 1 for n, k, s in zip(padded, *window(node)))


def pad_channels(graph: Node, size: Size) -> Node:
    """Features get channels of zeros up to a whole number of vectors.

    ONNX Runtime keeps features in blocks of a vector's channels, but not through a concatenation of parts that are not
    whole blocks: there it would change the layout, and back.
    """
    real: Dict[Node, torch.Tensor] = {}  # which channels of a node are more than padding

    def rule(node: Node) -> Node:
        masks, params = [real[x] for x in node.inputs], node.params
        if node.is_ungrouped_conv:
            mask = torch.arange(-(-node.channels // _BLOCK) * _BLOCK) < node.channels
            weight = params['weight'].new_zeros(len(mask), len(masks[0]), *params['weight'].shape[2:])
            weight[mask.nonzero(), masks[0].nonzero().T] = params['weight']
            node = node.replace(params=dict(weight=weight, bias=_spread(params['bias'], mask)))
        elif node.op == 'linear':
            mask = torch.ones(node.channels, dtype=torch.bool)
            node = node.replace(params=dict(weight=_spread(params['weight'].T, masks[0]).T))
        elif node.op == 'concat':
            mask = torch.cat(masks)
        else:  # each channel by itself
            mask = masks[0] if masks else torch.ones(node.channels, dtype=torch.bool)
            groups = node.attrs.get('groups')
            if any(not torch.equal(mask, other) for other in masks) or (groups == 1 and not mask.all()):
                raise _Inapplicable
            node = node.replace(params={name: _spread(value, mask) if len(value) > 1 else value
                                    for name, value in params.items()},
                            **({} if groups is None else dict(groups=len(mask) if groups > 1 else 1)))
        real[node] = mask
        return node
    try:
        padded = rewrite(graph, rule)
    except _Inapplicable:
        return graph
    return padded if real[padded].all() else graph


class _Inapplicable(Exception):
    """A layer norm, or an addition of parts padded in different places: a graph to be left as it is."""


def _spread(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Rows of `values` where `mask` is true, zeros elsewhere."""
    spread = values.new_zeros(len(mask), *values.shape[1:])
    spread[mask] = values
    return spread


def avg_pool_as_depthwise_conv(graph: Node, size: Size) -> Node:
    """An average pool becomes a depthwise convolution, whose results at the border are divided by fewer pixels.

    ONNX Runtime's average pool of int8 takes several times as long.
    """
    def rule(node: Node, before: Tuple[int, int]) -> Node:
        if node.op != 'avg_pool':
            return node
        kernel, stride = window(node)
        top, left, bottom, right = padding = _padding(node, before)
        mean = [[1 / math.prod(kernel)] * kernel[1]] * kernel[0]
        conv = _depthwise(node.inputs[0], mean, stride, padding)
        inside = F.pad(torch.ones(1, 1, *before, dtype=torch.float64), (left, right, top, bottom))
        factor = 1 / F.avg_pool2d(inside, kernel, stride)[0, 0]
        return conv if (factor == 1).all() else Node('scale_pixels', (conv,), dict(factor=factor))
    return _rewrite_sized(graph, size, rule)


def add_as_identity_conv(graph: Node, size: Size) -> Node:
    """A sum that no convolution adds in passing becomes a depthwise 1x1 convolution that does, and rectifies too.

    ONNX Runtime adds into the buffer of an addend that nothing else reads; another has to be copied.
    """
    nodes = ordered(graph)
    readers = Counter(x for node in nodes for x in node.inputs)
    originals = iter(nodes)  # a rewrite takes them in this order

    def rule(node: Node) -> Node:
        alone = [readers[x] == 1 for x in next(originals).inputs]
        if node.op != 'add' or not any(alone) or any(x.is_ungrouped_conv and a for x, a in zip(node.inputs, alone)):
            return node
        into, other = node.inputs if alone[0] else node.inputs[::-1]
        return node.replace([_depthwise(other, [[1.]], (1, 1), NO_PADDING), into])
    return rewrite(graph, rule)


def pointwise_conv_as_matmul(graph: Node, size: Size) -> Node:
    """A 1x1 convolution becomes a product of matrices, which PyTorch has quicker code for on a CPU."""
    def rule(node: Node) -> Node:
        weight = node.params.get('weight')
        if node.is_ungrouped_conv and weight.shape[2:] == (1, 1) and node.attrs['stride'] == (1, 1):
            return Node('pointwise', node.inputs, dict(node.params, weight=weight.flatten(1)))
        return node
    return rewrite(graph, rule)


class Pass(NamedTuple):
    """A rewrite of a graph, given the images' size, and where it pays: of 'cpu', 'cuda', 'onnx' and 'int8'."""
    apply: Callable[[Node, Size], Node]
    where: Tuple[str, ...] = ('cpu', 'cuda', 'onnx', 'int8')


PASSES: Dict[str, Pass] = {
    'fold_norms': Pass(fold_norms),
    'split_reductions_at_blocks': Pass(split_reductions_at_blocks, ('onnx',)),
    'fuse_reductions': Pass(fuse_reductions, ('cpu', 'cuda', 'int8')),
    'push_relu_through_concat': Pass(push_relu_through_concat),
    'eliminate_common_subexpressions': Pass(eliminate_common_subexpressions),
    'sink_scale': Pass(sink_scale),
    'fix_padding': Pass(fix_padding),
    'pad_channels': Pass(pad_channels, ('onnx', 'int8')),
    'avg_pool_as_depthwise_conv': Pass(avg_pool_as_depthwise_conv, ('int8',)),
    'add_as_identity_conv': Pass(add_as_identity_conv, ('onnx',)),
    'pointwise_conv_as_matmul': Pass(pointwise_conv_as_matmul, ('cpu',)),
}

"""Scales and shifts become part of the weights next to them."""
from typing import Optional

import torch

from ..ir import NO_PADDING, ChannelFlow, Node, Size, rewrite

__all__ = ['fold_norms', 'sink_scale']


def fold_norms(graph: Node, size: Optional[Size]) -> Node:
    """Fold batch norms into convolutions.

        conv → affine                  →  conv
        concat(conv, …) → affine       →  concat(conv, …)
        affine → conv, affine → linear →  conv, linear

    A batch norm at inference is an affine operation, which reads and writes a whole feature map for one multiplication
    a number. A convolution that multiplies by other weights computes the same at no cost.
    """
    def rule(node: Node) -> Node:
        if node.op != 'affine':
            return _absorb_affine(node)
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


def sink_scale(graph: Node, size: Optional[Size]) -> Node:
    """Move scales behind other operations, up to weights that can absorb them.

        x + x                           →  affine(2, x)
        affine(s, 0) → relu             →  relu → affine(s, 0)       and so for every homogeneous operation, s > 0
        concat(affine(s, 0, x), y)      →  concat(x, y) → affine([s, 1], 0)
        affine(s, 0) → conv             →  conv

    A cell that adds a pool to itself, as NASNet-A's does, then computes no sum. Doubling changes no digit.
    """
    def rule(node: Node) -> Node:
        if node.op == 'add' and node.inputs[0] is node.inputs[1]:
            two = torch.full((node.channels,), 2., dtype=torch.float64)
            return node.inputs[0].then('affine', dict(scale=two, shift=0 * two))
        is_scaled = [_is_positive_scale(x) for x in node.inputs]
        if not any(is_scaled):
            return node
        if node.kind.is_homogeneous(node):
            return node.inputs[0].replace([node.replace(node.inputs[0].inputs)])
        if node.op == 'concat':
            scale = torch.cat([x.params['scale'] if scaled else torch.ones(x.channels, dtype=torch.float64)
                               for x, scaled in zip(node.inputs, is_scaled)])
            parts = [x.inputs[0] if scaled else x for x, scaled in zip(node.inputs, is_scaled)]
            return node.replace(parts).then('affine', dict(scale=scale, shift=0 * scale))
        return _absorb_affine(node)
    return rewrite(graph, rule)


def _is_positive_scale(node: Node) -> bool:
    return node.op == 'affine' and not node.params['shift'].any() and bool((node.params['scale'] > 0).all())


def _absorb_affine(node: Node) -> Node:
    """affine → conv or linear  →  conv or linear, as far as this is exact."""
    is_dense = node.flow is ChannelFlow.DENSE
    if not (is_dense or node.is_depthwise_conv) or node.inputs[0].op != 'affine':
        return node
    x = node.inputs[0]
    weight, scale, shift = node.params['weight'], x.params['scale'], x.params['shift']
    if shift.any() and not (is_dense and node.attrs.get('padding', NO_PADDING) == NO_PADDING):
        return node  # a shift does not reach the padding
    # Channels of the input are the first axis of a depthwise weight, the second of a dense one.
    shape = [-1] + [1] * (weight.ndim - (2 if is_dense else 1))
    scale, shift = scale.reshape(shape), shift.reshape(shape)
    bias = node.params['bias'] + (weight * shift).flatten(1).sum(1) if is_dense else node.params['bias']
    return node.replace(x.inputs, dict(weight=weight * scale, bias=bias))

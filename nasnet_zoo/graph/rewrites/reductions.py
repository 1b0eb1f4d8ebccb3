"""Faster forms of a factorized reduction, which halves height and width.

A factorized reduction is two 1x1 convolutions of stride 2, of which the second reads pixels one row and one column
further: lowered, ``concat(conv 1x1, conv 2x2)``, where the 2x2 kernel has only its last pixel other than zero.
"""
from typing import Optional

import torch
from torch.nn import functional as F

from ..ir import SAME, Node, Size, depthwise_conv, rewrite
from .layout import ONNX_RUNTIME_BLOCK

__all__ = ['fuse_reductions', 'split_reductions_at_blocks']


def fuse_reductions(graph: Node, size: Optional[Size]) -> Node:
    """Compute both paths of a factorized reduction by one convolution.

        concat(conv 1x1 stride 2, conv 2x2 stride 2)  →  conv 2x2 stride 2

    One large convolution and no concatenation, for up to four times the multiplications.
    """
    def rule(node: Node) -> Node:
        if not _is_factorized_reduction(node):
            return node
        first, second = node.inputs
        weight = torch.cat([F.pad(first.params['weight'], (0, 1, 0, 1)), second.params['weight']])
        return second.replace(params=dict(weight=weight, bias=torch.cat([x.params['bias'] for x in node.inputs])))
    return rewrite(graph, rule)


def split_reductions_at_blocks(graph: Node, size: Optional[Size]) -> Node:
    """Split the paths of a factorized reduction where ONNX Runtime's blocks of channels end.

        concat(conv 1x1 stride 2, conv 2x2 stride 2)
            →  concat(conv 1x1 stride 2, conv 1x1 stride 2 + conv 1x1(y), conv 1x1(y)),  y = depthwise conv 2x2 stride 2

    Each part of the concatenation is a whole number of blocks, so that ONNX Runtime need not change the layout of the
    features. Both paths have channels in the block in the middle: there, each has zeros for the channels of the other,
    and the sum costs nothing, because the second convolution adds its result to the first one's. The depthwise
    convolution picks every second pixel, also without a change of layout.
    """
    def rule(node: Node) -> Node:
        if not _is_factorized_reduction(node):
            return node
        first, second = node.inputs
        picked = depthwise_conv(second.inputs[0], [[0., 0.], [0., 1.]], second.attrs['stride'], SAME)
        second = first.replace([picked], dict(weight=second.params['weight'][:, :, 1:, 1:], bias=second.params['bias']),
                               stride=(1, 1))
        border, end = first.channels, node.channels  # the first path ends at `border`, the second at `end`
        low = border // ONNX_RUNTIME_BLOCK * ONNX_RUNTIME_BLOCK
        high = min(-(-border // ONNX_RUNTIME_BLOCK) * ONNX_RUNTIME_BLOCK, end)
        parts = []
        if low:
            parts.append(_output_channels(first, 0, low))
        if low < high:
            parts.append(Node('add', (_output_channels(first, low, high),
                                      _output_channels(second, low - border, high - border))))
        if high < end:
            parts.append(_output_channels(second, high - border, end - border))
        return Node('concat', tuple(parts)) if len(parts) > 1 else parts[0]
    return rewrite(graph, rule)


def _is_factorized_reduction(node: Node) -> bool:
    if node.op != 'concat' or len(node.inputs) != 2 or not all(x.is_ungrouped_conv for x in node.inputs):
        return False
    first, second = node.inputs
    kernels = [tuple(x.params['weight'].shape[2:]) for x in node.inputs]
    return (first.inputs == second.inputs and kernels == [(1, 1), (2, 2)] and second.attrs['padding'] == SAME
            and first.attrs['stride'] == second.attrs['stride'] == (2, 2))


def _output_channels(conv: Node, start: int, end: int) -> Node:
    """The convolution that computes output channels `start` to `end` only; channels that `conv` lacks are zeros."""
    before, after = max(0, -start), max(0, end - conv.channels)
    return conv.replace(params={
        name: F.pad(value[max(0, start):end], [0, 0] * (value.ndim - 1) + [before, after])
        for name, value in conv.params.items()})

"""Shapes that runtimes handle fast: padding that is known in advance, and whole blocks of channels."""
import math
from typing import Dict, List, Optional, Tuple

import torch

from ..ir import ChannelFlow, Node, Size, fixed_padding, rewrite, rewrite_sized

__all__ = ['ONNX_RUNTIME_BLOCK', 'fix_padding', 'pad_channels']

ONNX_RUNTIME_BLOCK = 16  # channels that ONNX Runtime stores together with AVX-512; a multiple of AVX2's 8


def fix_padding(graph: Node, size: Optional[Size]) -> Node:
    """Replace what depends on the size of the images, where that is known.

        padding SAME                    →  padding (top, left, bottom, right)
        group_norm of a single number   →  affine
        group_norm of any other group   →  group_norm with any_size False

    Kernels that take fixed padding pad as they read, and no operation has to look at shapes at run time.
    """
    def rule(node: Node, size_before: Size) -> Node:
        if 'padding' in node.attrs:
            return node.replace(padding=fixed_padding(node, size_before))
        if node.op == 'group_norm':
            pixels = math.prod(-(-n // d) for n, d in zip(size_before, node.attrs['dilation']))
            if node.channels // node.attrs['groups'] * pixels == 1:
                return Node('affine', node.inputs, dict(scale=node.params['weight'], shift=node.params['bias']))
            return node.replace(any_size=False)
        return node
    return rewrite_sized(graph, size, rule)


def pad_channels(graph: Node, size: Optional[Size]) -> Node:
    """Pad the channels of features with zeros up to a whole number of blocks.

        conv 44 → 44, concat, …  →  conv 48 → 48, concat, …

    ONNX Runtime keeps features in blocks of channels. A concatenation of parts that are not whole blocks would change
    the layout, and the next convolution would change it back. A graph stays as it is if an operation mixes channels in
    another way than a weighted sum, such as a layer norm, or adds features that are padded in different places.
    """
    is_real: Dict[Node, torch.Tensor] = {}  # for each channel of a node: False if it is padding

    def rule(node: Node) -> Node:
        new, mask = _pad_node(node, [is_real[x] for x in node.inputs])
        is_real[new] = mask
        return new
    try:
        padded = rewrite(graph, rule)
    except _CannotPad:
        return graph
    return padded if is_real[padded].all() else graph


class _CannotPad(Exception):
    """A graph whose channels cannot be padded."""


def _pad_node(node: Node, masks: List[torch.Tensor]) -> Tuple[Node, torch.Tensor]:
    """The node for inputs that are padded as `masks` say, and the mask of its own channels."""
    flow = node.flow
    if flow is ChannelFlow.DENSE:
        return _pad_dense(node, masks[0])
    if flow is ChannelFlow.JOINED:
        return node, torch.cat(masks)
    if all(mask.all() for mask in masks):
        return node, torch.ones(node.channels, dtype=torch.bool)
    if flow is not ChannelFlow.EACH or any(not torch.equal(masks[0], other) for other in masks):
        raise _CannotPad
    groups = dict(groups=len(masks[0])) if 'groups' in node.attrs else {}
    node = node.replace(params={
        name: _insert_zeros(node.params[name], masks[0]) for name in node.kind.params_per_channel}, **groups)
    if not node.kind.keeps_zeros(node):
        raise _CannotPad
    return node, masks[0]


def _pad_dense(node: Node, mask: torch.Tensor) -> Tuple[Node, torch.Tensor]:
    """Zero weights for input channels that are padding, and more output channels if these are features."""
    width = -(-node.channels // ONNX_RUNTIME_BLOCK) * ONNX_RUNTIME_BLOCK if node.rank == 4 else node.channels
    mask_after = torch.arange(width) < node.channels
    weight = _insert_zeros(_insert_zeros(node.params['weight'].transpose(0, 1), mask).transpose(0, 1), mask_after)
    return node.replace(params=dict(weight=weight, bias=_insert_zeros(node.params['bias'], mask_after))), mask_after


def _insert_zeros(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """A tensor whose first axis is as long as `mask`: `values` where it is true, zeros elsewhere."""
    padded = values.new_zeros(len(mask), *values.shape[1:])
    padded[mask] = values
    return padded

"""Operations replaced by others that compute the same and that a runtime has quicker code for."""
import math
from collections import Counter
from typing import Optional

import torch
from torch.nn import functional as F

from ..ir import NO_PADDING, Node, Size, depthwise_conv, fixed_padding, ordered, rewrite, rewrite_sized

__all__ = ['add_as_identity_conv', 'avg_pool_as_depthwise_conv', 'pointwise_conv_as_matmul']


def avg_pool_as_depthwise_conv(graph: Node, size: Optional[Size]) -> Node:
    """Compute average pools as depthwise convolutions, where the size of the images is known.

        avg_pool  →  depthwise conv → scale_pixels

    ONNX Runtime's average pool of int8 features takes several times as long as such a convolution. The factors make up
    for the border, where the mean is over fewer pixels; without padding there are none.
    """
    def rule(node: Node, size_before: Size) -> Node:
        if node.op != 'avg_pool':
            return node
        kernel, stride, dilation = (node.attrs[name] for name in ('kernel', 'stride', 'dilation'))
        top, left, bottom, right = padding = fixed_padding(node, size_before)
        mean = [[1 / math.prod(kernel)] * kernel[1]] * kernel[0]
        conv = depthwise_conv(node.inputs[0], mean, stride, padding, dilation)
        ones = F.pad(torch.ones(1, 1, *size_before, dtype=torch.float64), (left, right, top, bottom))
        factor = 1 / F.conv2d(ones, ones.new_tensor(mean)[None, None], stride=stride, dilation=dilation)[0, 0]
        has_border = not torch.allclose(factor, torch.ones_like(factor), rtol=1e-12)
        return conv.then('scale_pixels', dict(factor=factor)) if has_border else conv
    return rewrite_sized(graph, size, rule)


def add_as_identity_conv(graph: Node, size: Optional[Size]) -> Node:
    """Compute sums as convolutions by 1 that add to the other operand.

        x + y  →  depthwise conv 1x1 by 1 (y) + x      where neither is a convolution that only this sum reads

    ONNX Runtime lets a convolution add its result to a buffer that nothing else reads, and apply a ReLU as well, in one
    go. Its addition alone would read and write everything once more.
    """
    nodes = ordered(graph)
    readers = Counter(x for node in nodes for x in node.inputs)
    originals = iter(nodes)  # `rewrite` goes through the nodes in this order

    def rule(node: Node) -> Node:
        is_only_reader = [readers[x] == 1 for x in next(originals).inputs]
        if node.op != 'add' or node.rank != 4 or not any(is_only_reader):
            return node
        if any(x.is_ungrouped_conv and only for x, only in zip(node.inputs, is_only_reader)):
            return node
        buffer, other = node.inputs if is_only_reader[0] else node.inputs[::-1]
        return node.replace([depthwise_conv(other, [[1.]], (1, 1), NO_PADDING), buffer])
    return rewrite(graph, rule)


def pointwise_conv_as_matmul(graph: Node, size: Optional[Size]) -> Node:
    """Compute 1x1 convolutions as products of matrices.

        conv 1x1 stride 1  →  pointwise

    On a CPU, PyTorch has quicker code for products of matrices than for 1x1 convolutions of small features.
    """
    def rule(node: Node) -> Node:
        if not node.is_ungrouped_conv or node.params['weight'].shape[2:] != (1, 1):
            return node
        if node.attrs['stride'] != (1, 1) or any(fixed_padding(node, (1, 1))):
            return node
        return Node('pointwise', node.inputs, dict(node.params, weight=node.params['weight'].flatten(1)))
    return rewrite(graph, rule)

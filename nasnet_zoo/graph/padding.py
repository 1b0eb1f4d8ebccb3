"""Takes padding that stands before a convolution or pool into it, where that computes the same."""
from torch.nn import functional as F

from .ir import NO_PADDING, SAME, Node, rewrite, window

__all__ = ['fold_padding']

SHIFT = (-1, -1, 1, 1)  # drops the first row and column, and adds zeros after the last ones
_OUTSIDE = dict(conv=0., max_pool=float('-inf'))  # what padding of the operation itself amounts to


def fold_padding(graph: Node) -> Node:
    """Return the graph in which convolutions and maximum pools do the padding that stands before them."""
    return rewrite(graph, _fold)


def _fold(node: Node) -> Node:
    pad = node.inputs[0] if node.op in _OUTSIDE and node.attrs['padding'] == NO_PADDING else None
    if pad is None or pad.op != 'pad' or pad.attrs['value'] != _OUTSIDE[node.op]:
        return node
    kernel, stride = window(node)
    is_dilated = node.attrs.get('dilation', (1, 1)) != (1, 1)  # ONNX has no SAME with a dilation
    if pad.attrs['padding'] == SAME and (pad.attrs['kernel'], pad.attrs['stride']) == (kernel, stride) and (
            not is_dilated):
        return node.replace(pad.inputs, padding=SAME)
    if pad.attrs['padding'] == SHIFT and node.op == 'conv' and (kernel, stride) == ((1, 1), (2, 2)):
        # The next pixel in both directions is the last of a 2x2 kernel; SAME padding is what lies beyond the border.
        return node.replace(pad.inputs, dict(weight=F.pad(node.params['weight'], (1, 0, 1, 0))), padding=SAME)
    return node

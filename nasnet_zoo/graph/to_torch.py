"""Writes a graph as a plain PyTorch module."""
from collections import Counter
from typing import Any, Callable, Dict, List, Optional, Tuple

import torch
from torch import fx, nn
from torch.nn import functional as F

from ..network.dilation import avg_pool_dilated, group_norm_dilated, pad_dilated
from ..network.ops import avg_pool_same, pad_same
from .ir import NO_PADDING, SAME, DilatedSame, Node, check_kinds, ordered, window

__all__ = ['WRITERS', 'to_module']


def to_module(graph: Node, device: torch.device, dtype: torch.dtype) -> fx.GraphModule:
    """The graph as straight-line code of PyTorch's own functions, for inference only. Its features are channels-last.

    Raises:
        ValueError: For a graph with an operation that PyTorch has no writer for.
    """
    check_kinds(graph, WRITERS, 'PyTorch')
    root, program, results = nn.Module(), fx.Graph(), {}
    nodes = ordered(graph)
    readers = Counter(x for node in nodes for x in node.inputs)
    for i, node in enumerate(nodes):
        tensors = {}
        for name, value in node.params.items():
            value = value.to(device, dtype)
            if value.ndim == 4:
                value = value.contiguous(memory_format=torch.channels_last)
            root.register_parameter(f'{node.op}_{i}_{name}', nn.Parameter(value, requires_grad=False))
            tensors[name] = program.get_attr(f'{node.op}_{i}_{name}')
        inputs = [results[x] for x in node.inputs]
        if node.inputs and node.inputs[0].op == 'input':
            inputs = [program.call_method('contiguous', (x,), dict(memory_format=torch.channels_last)) for x in inputs]
        may_overwrite = bool(node.inputs) and readers[node.inputs[0]] == 1 and node.inputs[0].op in _NEW_TENSORS
        results[node] = WRITERS[node.op](_Call(program, node, inputs, tensors, may_overwrite))
    program.output(results[graph])
    return fx.GraphModule(root, program, 'NASNetForInference')


class _Call:
    """What a writer needs to write a node: the program, the values that it reads, and its attributes.

    Calling it adds a call of a function to the program.
    """

    def __init__(self, program: fx.Graph, node: Node, inputs: List[fx.Node], tensors: Dict[str, fx.Node],
                 may_overwrite: bool) -> None:
        self.program, self.inputs, self.tensors, self.may_overwrite = program, inputs, tensors, may_overwrite
        self.attrs, self.window = node.attrs, window(node) if 'padding' in node.attrs else None

    def __call__(self, function: Callable, *args: Any) -> fx.Node:
        node = self.program.call_function(function, args)
        if function.__module__.startswith(__package__.partition('.')[0] + '.'):
            node.meta['is_wrapped'] = True  # unpickling traces the program again, but must not trace into our functions
        return node

    def pad(self, value: float, x: Optional[fx.Node] = None) -> fx.Node:
        """The input, or `x`, with the padding around it."""
        x, padding = x or self.inputs[0], self.attrs['padding']
        if isinstance(padding, DilatedSame):
            return self(pad_dilated, x, list(self.attrs['kernel']), *map(list, padding), value)
        if padding == SAME:
            return self(pad_same, x, *map(list, self.window), value)
        top, left, bottom, right = padding
        return self(F.pad, x, [left, right, top, bottom], 'constant', value)

    def pad_if_uneven(self, value: float = 0., limit: float = float('inf')) -> Tuple[fx.Node, List[int]]:
        """The input and the padding that remains for PyTorch's function.

        The function pads opposite sides equally, and by at most `limit` pixels.
        """
        padding = self.attrs['padding']
        if not isinstance(padding, (str, DilatedSame)) and padding[:2] == padding[2:] and max(padding) <= limit:
            return self.inputs[0], list(padding[:2])
        return self.pad(value), [0, 0]


def _conv(call: _Call) -> fx.Node:
    x, padding = call.pad_if_uneven()
    attrs = call.attrs
    return call(torch.conv2d, x, call.tensors['weight'], call.tensors['bias'], list(attrs['stride']), padding,
                list(attrs['dilation']), attrs['groups'])


def pointwise(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """A 1x1 convolution of channels-last features [B, C, H, W] as a product of matrices."""
    return F.linear(x.permute(0, 2, 3, 1), weight, bias).permute(0, 3, 1, 2)


def _avg_pool(call: _Call) -> fx.Node:
    args, padding = (call.inputs[0], *map(list, call.window)), call.attrs['padding']
    if padding == SAME:
        return call(avg_pool_same, *args)
    is_uneven = isinstance(padding, DilatedSame) or padding[:2] != padding[2:]
    if call.attrs['dilation'] != (1, 1) or is_uneven and call.attrs['stride'] == (1, 1):
        return _avg_pool_dilated(call)
    top, left, bottom, right = padding
    # At stride 2, PyTorch's `ceil_mode` is padding at the bottom and right that the mean leaves out.
    return call(F.avg_pool2d, *args, [top, left], is_uneven, False)


def _avg_pool_dilated(call: _Call) -> fx.Node:
    """The mean over all pixels, divided by the fraction of them that are not padding."""
    args = list(call.attrs['kernel']), list(call.attrs['dilation'])
    if call.attrs['padding'] == NO_PADDING:
        return call(avg_pool_dilated, call.inputs[0], *args)
    inside = call.pad(0., call(ones_like, call.inputs[0]))
    return call(torch.div, call(avg_pool_dilated, call.pad(0.), *args), call(avg_pool_dilated, inside, *args))


def ones_like(x: torch.Tensor) -> torch.Tensor:
    """A channel of ones for features [B, C, H, W]."""
    return torch.ones_like(x[:1, :1])


def _max_pool(call: _Call) -> fx.Node:
    x, padding = call.pad_if_uneven(float('-inf'), limit=min(call.attrs['kernel']) // 2)
    sizes = [list(call.attrs[name]) for name in ('kernel', 'stride')]
    return call(F.max_pool2d, x, *sizes, padding, list(call.attrs['dilation']))


def affine(x: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    """x * scale + shift, for each channel of [B, C, H, W] or [B, C]."""
    shape = [-1] + [1] * (x.ndim - 2)
    return x * scale.reshape(shape) + shift.reshape(shape)


def group_norm(x: torch.Tensor, groups: int, weight: torch.Tensor, bias: torch.Tensor, eps: float) -> torch.Tensor:
    """A group norm; only scale and shift where a group is a single number, which cannot be normalised."""
    if x.shape[1] // groups * x.shape[2] * x.shape[3] == 1:
        return affine(x, weight, bias)
    return torch.group_norm(x, groups, weight, bias, eps)


def _group_norm(call: _Call) -> fx.Node:
    attrs, args = call.attrs, (call.tensors['weight'], call.tensors['bias'], call.attrs['eps'])
    if attrs['dilation'] != (1, 1):
        return call(group_norm_dilated, call.inputs[0], attrs['groups'], *args, list(attrs['dilation']))
    return call(group_norm, call.inputs[0], attrs['groups'], *args)


def check_size(x: torch.Tensor, size: Tuple[int, int]) -> torch.Tensor:
    """The images [B, C, H, W] as they are; ValueError if they do not have this height and width."""
    if tuple(x.shape[2:]) != tuple(size):
        raise ValueError(f'this module was made for images of {size[0]} x {size[1]}, not {list(x.shape[2:])}; '
                         'call optimize_for_inference(model) without img_size to allow any size')
    return x


# Kinds whose result is a tensor of its own, of which nothing else is a view: a ReLU may overwrite it.
_NEW_TENSORS = ('conv', 'pointwise', 'add')
WRITERS: Dict[str, Callable[[_Call], fx.Node]] = {
    'input': lambda call: call.program.placeholder('x'),
    'check_size': lambda call: call(check_size, call.inputs[0], call.attrs['size']),
    'conv': _conv,
    'pointwise': lambda call: call(pointwise, call.inputs[0], call.tensors['weight'], call.tensors['bias']),
    'affine': lambda call: call(affine, call.inputs[0], call.tensors['scale'], call.tensors['shift']),
    'scale_pixels': lambda call: call(torch.mul, call.inputs[0], call.tensors['factor']),
    'relu': lambda call: call(torch.relu_ if call.may_overwrite else torch.relu, call.inputs[0]),
    'add': lambda call: call(torch.add, *call.inputs),
    'concat': lambda call: call(torch.cat, call.inputs, 1),
    'avg_pool': _avg_pool,
    'max_pool': _max_pool,
    'pad': lambda call: call.pad(call.attrs['value']),
    'group_norm': _group_norm,
    'global_pool': lambda call: call(
        {'avg': torch.mean, 'max': torch.amax}[call.attrs['mode']], call.inputs[0], [2, 3], True),
    'flatten': lambda call: call(torch.flatten, call.inputs[0], 1),
    'linear': lambda call: call(F.linear, call.inputs[0], call.tensors['weight'], call.tensors['bias']),
}

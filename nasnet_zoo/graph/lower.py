"""From a network to the graph that it computes in evaluation mode."""
import copy
import operator
from typing import Any, Callable, Dict, Tuple

import torch
from timm.layers import SelectAdaptivePool2d
from torch import fx, nn
from torch.nn import functional as F

from ..network import ops
from ..network.nasnet import NASNet
from ..training.sync_norm import SyncBatchNorm2d
from .ir import NO_PADDING, SAME, Node

__all__ = ['lower']


def _exact(tensor: torch.Tensor) -> torch.Tensor:
    """A copy to reckon with, wherever the network is."""
    return tensor.detach().cpu().double()


def _weight_and_bias(m: nn.Module) -> Dict[str, torch.Tensor]:
    weight = _exact(m.weight)
    return dict(weight=weight, bias=weight.new_zeros(len(weight)) if m.bias is None else _exact(m.bias))


def _conv(x: Node, m: nn.Conv2d) -> Node:
    top, left = m.padding
    attrs = dict(stride=tuple(m.stride), dilation=tuple(m.dilation), groups=m.groups, padding=(top, left, top, left))
    return Node('conv', (x,), _weight_and_bias(m), attrs)


def _conv_same(x: Node, m: ops.Conv2dSame) -> Node:
    conv = _conv(x, m)
    if conv.attrs['dilation'] == (1, 1):
        return conv.replace(padding=SAME)
    span = tuple(d * (k - 1) + 1 for d, k in zip(m.dilation, m.kernel_size))  # ONNX has no SAME with a dilation
    return conv.replace([_pad_same(x, span, conv.attrs['stride'])], padding=NO_PADDING)


def _conv_strided(x: Node, m: ops.StridedConv1x1) -> Node:
    conv = _conv(x, m)
    if not m.first:
        return conv
    if conv.attrs['stride'] != (2, 2):
        shift = dict(padding=(-1, -1, 1, 1), value=0., kernel=(1, 1), stride=conv.attrs['stride'])
        return conv.replace([Node('pad', (x,), {}, shift)])
    # One pixel off is the last pixel of a 2x2 kernel; pixels beyond the border are SAME padding.
    return conv.replace(params=dict(weight=F.pad(conv.params['weight'], (1, 0, 1, 0))), padding=SAME)


def _pad_same(x: Node, kernel: Tuple[int, ...], stride: Tuple[int, ...], value: float = 0.) -> Node:
    return Node('pad', (x,), {}, dict(padding=SAME, kernel=tuple(kernel), stride=tuple(stride), value=value))


def _pool(op: str, x: Node, kernel: Any, stride: Any, padding: Any) -> Node:
    sizes = [tuple(side) if isinstance(side, (tuple, list)) else (side, side) for side in (kernel, stride)]
    if padding != SAME:
        padding = (padding,) * 4
    return Node(op, (x,), {}, dict(kernel=sizes[0], stride=sizes[1], padding=padding))


def _avg_pool_same(x: Node, m: ops.AvgPool2dSame) -> Node:
    if not m.count_include_pad:
        return _pool('avg_pool', x, m.kernel_size, m.stride, SAME)
    return _pool('avg_pool', _pad_same(x, m.kernel_size, m.stride), m.kernel_size, m.stride, 0)


def _max_pool_same(x: Node, m: ops.MaxPool2dSame) -> Node:
    if m.outside == float('-inf'):
        return _pool('max_pool', x, m.kernel_size, m.stride, SAME)
    return _pool('max_pool', _pad_same(x, m.kernel_size, m.stride, m.outside), m.kernel_size, m.stride, 0)


def _batch_norm(x: Node, m: nn.BatchNorm2d) -> Node:
    scale = _exact(m.weight) / (_exact(m.running_var) + m.eps).sqrt()
    return Node('affine', (x,), dict(scale=scale, shift=_exact(m.bias) - _exact(m.running_mean) * scale))


def _group_norm(x: Node, m: nn.GroupNorm) -> Node:
    return Node('group_norm', (x,), _weight_and_bias(m), dict(groups=m.num_groups, eps=m.eps, any_size=True))


def _global_pool(x: Node, m: SelectAdaptivePool2d) -> Node:
    kind = m.pool_type.replace('fast', '')  # how it is computed
    avg, top = (Node('global_pool', (x,), {}, dict(kind=name)) for name in ('avg', 'max'))
    half = torch.full((1,), 0.5, dtype=torch.float64)
    pooled = {
        '': lambda: x, 'avg': lambda: avg, 'max': lambda: top, 'catavgmax': lambda: Node('concat', (avg, top)),
        'avgmax': lambda: Node('affine', (Node('add', (avg, top)),), dict(scale=half, shift=0. * half)),
    }[kind]()
    return pooled if isinstance(m.flatten, nn.Identity) or not kind else Node('flatten', (pooled,))


# type: what a module of it becomes
_MODULES: Dict[type, Callable[[Node, Any], Node]] = {
    ops.Conv2d: _conv,
    nn.Conv2d: _conv,
    ops.Conv2dSame: _conv_same,
    ops.StridedConv1x1: _conv_strided,
    nn.BatchNorm2d: _batch_norm,
    nn.SyncBatchNorm: _batch_norm,
    SyncBatchNorm2d: _batch_norm,
    nn.ReLU: lambda x, m: Node('relu', (x,)),
    ops.AvgPool2d: lambda x, m: _pool('avg_pool', x, m.kernel_size, m.stride, m.padding),
    ops.AvgPool2dSame: _avg_pool_same,
    nn.MaxPool2d: lambda x, m: _pool('max_pool', x, m.kernel_size, m.stride, m.padding),
    ops.MaxPool2dSame: _max_pool_same,
    ops.ExampleNorm: _group_norm,
    SelectAdaptivePool2d: _global_pool,
    nn.Flatten: lambda x, m: Node('flatten', (x,)),
    nn.Linear: lambda x, m: Node('linear', (x,), _weight_and_bias(m)),
    nn.Identity: lambda x, m: x,
    nn.Dropout: lambda x, m: x,
}
_FUNCTIONS: Dict[Callable, Callable[..., Node]] = {
    F.relu: lambda x, **kwargs: Node('relu', (x,)),
    operator.add: lambda x, y: Node('add', (x, y)),
    torch.cat: lambda parts, dim: Node('concat', tuple(parts)),
}


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return (type(m) in _MODULES or hasattr(m, 'lower')  # see genotype.operations.Operation
                or super().is_leaf_module(m, module_qualified_name))


def lower(model: NASNet) -> Node:
    """The network's graph from images to what ``model(images)`` returns in evaluation mode.

    Raises:
        TypeError: For another kind of model, such as timm's wrapper of ``features_only``, and for a network in which
            layers were replaced by some of another kind.
        ValueError: For a network in training mode.
    """
    if not isinstance(model, NASNet):
        raise TypeError(f'model: must be a network of this package, not a {type(model).__name__}')
    if model.training:
        raise ValueError('model: is in training mode; call model.eval() first')
    model = copy.copy(model)
    model.grad_checkpointing = False  # which cannot be traced
    values: Dict[fx.Node, Any] = {}
    for node in _Tracer().trace(model).nodes:
        args, kwargs = fx.map_arg(node.args, values.get), fx.map_arg(node.kwargs, values.get)
        if node.op == 'placeholder':
            values[node] = Node('input', (), {}, dict(channels=model.in_chans))
        elif node.op == 'call_module':
            module = model.get_submodule(node.target)
            if hasattr(module, 'lower'):
                values[node] = module.lower(*args)
                continue
            if type(module) not in _MODULES:
                raise TypeError(f'model.{node.target}: a {type(module).__name__} is no layer that this package makes')
            values[node] = _MODULES[type(module)](args[0], module)
        elif node.op == 'call_function':
            values[node] = _FUNCTIONS[node.target](*args, **kwargs)
        elif node.op == 'output':
            return args[0]
    raise AssertionError('a trace ends in an output')

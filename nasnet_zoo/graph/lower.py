"""From a trained network to the graph of what it computes in evaluation mode.

The network is traced by `torch.fx` down to modules that have a lowering rule. A module of your own gets one in either
of two ways. Its class may have a method::

    class Scaled(nn.Module):
        def forward(self, x):
            return x * self.scale[:, None, None]

        def lower(self, x: Node) -> Node:  # the graph of what the module makes of x, in evaluation mode
            scale = self.scale.detach().cpu().double()
            return x.then('affine', dict(scale=scale, shift=torch.zeros_like(scale)))

Or, where the class is not yours to change, :data:`LOWERINGS` gets a row with a function of the input's node and the
module. Modules of several inputs take as many nodes. :data:`nasnet_zoo.graph.ir.KINDS` lists the operations. A module
without a rule needs none if it consists of modules that have one.
"""
import copy
import operator
from typing import Any, Callable, Dict, Tuple, Union

import torch
from timm.layers import SelectAdaptivePool2d, to_2tuple
from torch import fx, nn
from torch.nn import functional as F

from ..network import ops
from ..network.nasnet import NASNet
from ..training.sync_norm import SyncBatchNorm2d
from .ir import SAME, Node
from .padding import fold_padding

__all__ = ['LOWERINGS', 'lower']


def lower(model: NASNet) -> Node:
    """The graph from images to what ``model(images)`` returns in evaluation mode, with copies of all weights.

    Raises:
        TypeError: For another kind of model, such as timm's wrapper for ``features_only``, and for a network with a
            module or a function that has no lowering rule; the message names the module.
        ValueError: For a network in training mode.
    """
    if not isinstance(model, NASNet):
        raise TypeError(f'model: must be a network of this package, not a {type(model).__name__}')
    if model.training:
        raise ValueError('model: is in training mode; call model.eval() first')
    model = copy.copy(model)
    model.grad_checkpointing = False  # which cannot be traced
    try:
        trace = _Tracer().trace(model)
    except fx.proxy.TraceError as error:
        raise TypeError(f'model: its forward cannot be traced ({error}); {_ADVICE}') from error
    values: Dict[fx.Node, Any] = {}
    for node in trace.nodes:
        args, kwargs = fx.map_arg(node.args, values.get), fx.map_arg(node.kwargs, values.get)
        if node.op == 'output':
            return fold_padding(args[0])
        try:
            values[node] = _lower_node(model, node, args, kwargs)
        except (TypeError, ValueError) as error:
            raise TypeError(f'{_module_path(node)}: {error}') from error
    raise AssertionError('a trace ends in an output')


def _lower_node(model: NASNet, node: fx.Node, args: Tuple, kwargs: Dict[str, Any]) -> Any:
    """The graph of a node of the trace; a tensor for a parameter that a function reads."""
    if node.op == 'placeholder':
        return Node('input', attrs=dict(channels=model.in_chans))
    if node.op == 'get_attr':
        return operator.attrgetter(node.target)(model)
    if node.op == 'call_function' and node.target in _FUNCTIONS:
        return _FUNCTIONS[node.target](*args, **kwargs)
    if node.op != 'call_module':
        name = getattr(node.target, '__name__', node.target)
        raise TypeError(f'calls {name}, which has no lowering rule; {_ADVICE}')
    module = model.get_submodule(node.target)
    if type(module) in LOWERINGS:
        return LOWERINGS[type(module)](*args, *kwargs.values(), module)
    if _has_method(module):
        return module.lower(*args, **kwargs)
    raise TypeError(f'{type(module).__name__} is a layer without a lowering rule; {_ADVICE}')


_ADVICE = 'give the class of the module a method `lower`, or add it to nasnet_zoo.graph.lower.LOWERINGS'


def _has_method(module: nn.Module) -> bool:
    return hasattr(type(module), 'lower')


def _module_path(node: fx.Node) -> str:
    """The innermost module in whose forward a node was traced, as an attribute of the model."""
    if node.op == 'call_module':
        return f'model.{node.target}'
    stack = list(node.meta.get('nn_module_stack', {}).values())
    return '.'.join(['model', *([stack[-1][0]] if stack and stack[-1][0] else [])])


class _Tracer(fx.Tracer):
    """Traces a network down to modules that have a lowering rule."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return type(m) in LOWERINGS or _has_method(m) or super().is_leaf_module(m, module_qualified_name)


def _exact(tensor: torch.Tensor) -> torch.Tensor:
    """A copy in float64 on the CPU, where passes compute."""
    return tensor.detach().cpu().double()


def _weight_and_bias(m: nn.Module) -> Dict[str, torch.Tensor]:
    weight = _exact(m.weight)
    return dict(weight=weight, bias=weight.new_zeros(len(weight)) if m.bias is None else _exact(m.bias))


def _conv(x: Node, m: nn.Conv2d) -> Node:
    if isinstance(m.padding, str) or m.padding_mode != 'zeros':
        raise TypeError(f'{type(m).__name__} has padding={m.padding!r} and padding_mode={m.padding_mode!r}; only '
                        "numbers of pixels and 'zeros' have a lowering rule")
    top, left = m.padding
    return x.then('conv', _weight_and_bias(m), stride=tuple(m.stride), dilation=tuple(m.dilation), groups=m.groups,
                  padding=(top, left, top, left))


def _conv_same(x: Node, m: ops.Conv2dSame) -> Node:
    span = tuple(d * (k - 1) + 1 for d, k in zip(m.dilation, m.kernel_size))
    return _conv(_pad_same(x, span, m.stride), m)


def _pad_same(x: Node, kernel: Tuple[int, ...], stride: Tuple[int, ...], value: float = 0.) -> Node:
    return x.then('pad', padding=SAME, kernel=tuple(kernel), stride=tuple(stride), value=value)


def _zero_pad(x: Node, m: nn.ZeroPad2d) -> Node:
    left, right, top, bottom = m.padding
    return x.then('pad', padding=(top, left, bottom, right), kernel=(1, 1), stride=(1, 1), value=0.)


def _pool(op: str, x: Node, m: nn.Module, padding: Union[int, Tuple[int, int], str]) -> Node:
    if padding != SAME:
        padding = to_2tuple(padding) * 2
    return x.then(op, kernel=to_2tuple(m.kernel_size), stride=to_2tuple(m.stride), padding=padding)


def _max_pool(x: Node, m: nn.MaxPool2d) -> Node:
    if to_2tuple(m.dilation) != (1, 1) or m.ceil_mode:
        raise TypeError('MaxPool2d with a dilation or with ceil_mode has no lowering rule')
    return _pool('max_pool', x, m, m.padding)


def _batch_norm(x: Node, m: nn.BatchNorm2d) -> Node:
    if m.running_var is None or m.weight is None:
        raise TypeError(f'{type(m).__name__} without running statistics or without a weight has no lowering rule')
    scale = _exact(m.weight) / (_exact(m.running_var) + m.eps).sqrt()
    return x.then('affine', dict(scale=scale, shift=_exact(m.bias) - _exact(m.running_mean) * scale))


def _group_norm(x: Node, m: nn.GroupNorm) -> Node:
    return x.then('group_norm', _weight_and_bias(m), groups=m.num_groups, eps=m.eps, any_size=True)


def _global_pool(x: Node, m: SelectAdaptivePool2d) -> Node:
    pool_type = m.pool_type.replace('fast', '')  # timm's prefix for another way to compute the same
    avg, maximum = (x.then('global_pool', mode=mode) for mode in ('avg', 'max'))
    half = torch.full((x.channels,), 0.5, dtype=torch.float64)
    pooled = {
        '': lambda: x, 'avg': lambda: avg, 'max': lambda: maximum, 'catavgmax': lambda: Node('concat', (avg, maximum)),
        'avgmax': lambda: Node('add', (avg, maximum)).then('affine', dict(scale=half, shift=0. * half)),
    }[pool_type]()
    return pooled if isinstance(m.flatten, nn.Identity) or not pool_type else pooled.then('flatten')


# A module's exact type: its lowering rule, from the nodes of the module's inputs and the module
LOWERINGS: Dict[type, Callable[..., Node]] = {
    nn.Conv2d: _conv,
    ops.Conv2dSame: _conv_same,
    nn.BatchNorm2d: _batch_norm,
    nn.SyncBatchNorm: _batch_norm,
    SyncBatchNorm2d: _batch_norm,
    nn.ReLU: lambda x, m: x.then('relu'),
    nn.AvgPool2d: lambda x, m: _pool('avg_pool', x, m, m.padding),
    ops.AvgPool2dSame: lambda x, m: _pool('avg_pool', x, m, SAME),
    nn.MaxPool2d: _max_pool,
    ops.PadSame: lambda x, m: _pad_same(x, m.kernel_size, m.stride, m.value),
    nn.ZeroPad2d: _zero_pad,
    ops.ExampleNorm: _group_norm,
    SelectAdaptivePool2d: _global_pool,
    nn.Flatten: lambda x, m: x.then('flatten'),
    nn.Linear: lambda x, m: x.then('linear', _weight_and_bias(m)),
    nn.Identity: lambda x, m: x,
    nn.Dropout: lambda x, m: x,
}


def _concat(parts: Tuple[Node, ...], dim: int = 0) -> Node:
    if dim != 1:
        raise TypeError(f'torch.cat has a lowering rule for channels only, dim=1, not for dim={dim}')
    return Node('concat', tuple(parts))


_FUNCTIONS: Dict[Callable, Callable[..., Node]] = {
    F.relu: lambda x, **kwargs: x.then('relu'),
    operator.add: lambda x, y: Node('add', (x, y)),
    torch.cat: _concat,
}

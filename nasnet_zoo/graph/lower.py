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
without a rule needs none if it consists of modules that have one. Rules belong to a class, not to those derived from
it, and they read the weights of a module without hooks and parametrizations (see `plain.py`).
"""
import inspect
import operator
from typing import Any, Callable, Dict, List, Sequence, Set, Tuple, Union

import torch
from timm.layers import adaptive_avgmax_pool as pools
from timm.layers import to_2tuple
from timm.layers.norm_act import BatchNormAct2d, FrozenBatchNormAct2d, SyncBatchNormAct
from timm.layers.split_batchnorm import SplitBatchNorm2d
from torch import fx, nn
from torch.nn import functional as F
from torchvision.ops import FrozenBatchNorm2d

from ..network import dilation, ops
from ..network.combines import ExampleNorm
from ..network.nasnet import NASNet
from ..training.sync_norm import SyncBatchNorm2d
from .ir import NO_PADDING, SAME, DilatedSame, Node
from .padding import fold_padding
from .plain import check_layer, plain_copy, submodules

__all__ = ['LOWERINGS', 'lower']


def lower(model: NASNet) -> Node:
    """The graph from images to what ``model(images)`` returns in evaluation mode, with copies of all weights.

    Pruning, weight norms, spectral norms and parametrizations become part of the weights.

    Raises:
        TypeError: For another kind of model, such as timm's wrapper for ``features_only``, and for a network with a
            module or a function that has no lowering rule, with a forward hook or with a replaced ``forward``; the
            message names the module.
        ValueError: For a network in training mode, or with a module in training mode.
    """
    if not isinstance(model, NASNet):
        inside = [path for module, path in submodules(model) if isinstance(module, NASNet)] if isinstance(
            model, nn.Module) else []
        raise TypeError(f'model: must be a network of this package, not a {type(model).__name__}' + (
            f'; pass the network inside it, {inside[0]}' if inside else ''))
    plain = plain_copy(model)
    plain.grad_checkpointing = False  # which cannot be traced
    parameter = next(model.parameters())
    trace = _trace(plain)
    values: Dict[fx.Node, Any] = {}
    checked: Set[Node] = set()
    for node in trace.nodes:
        path = _module_path(node)
        try:
            args, kwargs = fx.map_arg(node.args, values.get), fx.map_arg(node.kwargs, values.get)
            if node.op == 'output':
                return fold_padding(_as_node(args[0]))
            if node.op == 'call_module':
                check_layer(plain.get_submodule(node.target), parameter)
            values[node] = _lower_node(plain, node, args, kwargs)
            _check_shapes(values[node], checked)
            if _is_in_place(plain, node):  # whatever reads its input from now on reads its result
                overwritten = values[node.all_input_nodes[0]]
                values.update({other: values[node] for other, value in values.items() if value is overwritten})
        except Exception as error:
            raise TypeError(f'{path}: {_reason(error)}') from error
    raise AssertionError('a trace ends in an output')


def _reason(error: Exception) -> str:
    """What an error says; errors that are not meant to be read by themselves get some context."""
    if isinstance(error, (TypeError, ValueError)):
        return str(error)
    return f'cannot be lowered ({type(error).__name__}: {error}); {_ADVICE}'


def _lower_node(model: NASNet, node: fx.Node, args: Tuple, kwargs: Dict[str, Any]) -> Any:
    """The graph of a node of the trace; a tensor for a parameter that a function reads."""
    if node.op == 'placeholder':
        return Node('input', attrs=dict(channels=model.in_chans))
    if node.op == 'get_attr':
        return operator.attrgetter(node.target)(model)
    if node.op == 'call_module':
        return _lower_module(model.get_submodule(node.target), *args, **kwargs)
    name = getattr(node.target, '__name__', node.target)
    if node.op != 'call_function' or node.target not in _FUNCTIONS:
        raise TypeError(f'calls {name}, which has no lowering rule; {_ADVICE}')
    rule = _FUNCTIONS[node.target]
    try:
        bound = inspect.signature(rule).bind(*args, **kwargs)
    except TypeError as error:
        raise TypeError(f'calls {name} with arguments that have no lowering rule ({error}); {_ADVICE}') from None
    return rule(*bound.args, **bound.kwargs)


def _lower_module(module: nn.Module, *args: Any, **kwargs: Any) -> Node:
    """The graph of what a module makes of its inputs."""
    rule = LOWERINGS.get(type(module))
    if rule is not None:
        bound = inspect.signature(type(module).forward).bind(module, *args, **kwargs)
        return _as_node(rule(*bound.args[1:], *bound.kwargs.values(), module))
    if _has_method(module):
        return _as_node(module.lower(*args, **kwargs))
    raise TypeError(f'{type(module).__name__} is a layer without a lowering rule; {_ADVICE}')


_ADVICE = 'give the class of the module a method `lower`, or add it to nasnet_zoo.graph.lower.LOWERINGS'


def _as_node(value: Any) -> Node:
    if not isinstance(value, Node):
        raise TypeError(f'its result is a {type(value).__name__}, which is not a node of the graph')
    return value


def _has_method(module: nn.Module) -> bool:
    """Whether the class has a method `lower` that belongs to its `forward`, not to one that it overrides."""
    for cls in type(module).__mro__:
        if callable(vars(cls).get('lower')):
            return True
        if 'forward' in vars(cls):
            return False
    return False


def _check_shapes(value: Any, checked: Set[Node]) -> None:
    """Check the shapes of a node, and of those it depends on unless they are `checked`. Raises ValueError."""
    stack = [value] if isinstance(value, Node) else []
    while stack:
        node = stack.pop()
        if node not in checked:
            node.check_shapes()
            checked.add(node)
            stack.extend(node.inputs)


def _is_in_place(model: nn.Module, node: fx.Node) -> bool:
    """Whether a node of the trace overwrites its first input."""
    if node.op == 'call_module':
        return bool(getattr(model.get_submodule(node.target), 'inplace', False))
    if node.target is F.relu:
        return bool(inspect.signature(F.relu).bind(*node.args, **node.kwargs).arguments.get('inplace'))
    return node.target is operator.iadd


def _module_path(node: fx.Node) -> str:
    """The innermost module in whose forward a node was traced, as an attribute of the model."""
    if node.op == 'call_module':
        return f'model.{node.target}'
    stack = list(node.meta.get('nn_module_stack', {}).values())
    return '.'.join(['model', *([stack[-1][0]] if stack and stack[-1][0] else [])])


class _Proxy(fx.Proxy):
    """Records ``x += y`` as such, and not as ``x = x + y``, after which other names of x would not see the sum."""

    def __iadd__(self, other: Any) -> fx.Proxy:
        return self.tracer.create_proxy('call_function', operator.iadd, (self, other), {})


class _Tracer(fx.Tracer):
    """Traces a network down to modules that have a lowering rule."""

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return type(m) in LOWERINGS or _has_method(m) or super().is_leaf_module(m, module_qualified_name)


def _trace(model: nn.Module) -> fx.Graph:
    """The calls of modules and functions in the forward of a network.

    Raises:
        TypeError: If it cannot be traced. The message names the module.
    """
    tracer = _Tracer()
    try:
        return tracer.trace(model)
    except Exception as error:
        paths: List[str] = [path for path, _ in tracer.module_stack.values() if path]  # the last one has failed
        raise TypeError(f"{'.'.join(['model', *paths[-1:]])}: its forward cannot be traced "
                        f'({type(error).__name__}: {error}); {_ADVICE}') from error


def _exact(tensor: torch.Tensor) -> torch.Tensor:
    """A copy in float64 on the CPU, where passes compute."""
    return tensor.detach().to('cpu', torch.float64, copy=True)


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


def _constant_pad(x: Node, m: nn.ConstantPad2d) -> Node:
    left, right, top, bottom = m.padding
    return x.then('pad', padding=(top, left, bottom, right), kernel=(1, 1), stride=(1, 1), value=float(m.value))


def _pad_dilated(x: Node, m: dilation.PadDilated) -> Node:
    return x.then('pad', padding=DilatedSame(m.stride, m.dilation), kernel=m.kernel_size, stride=m.stride,
                  value=m.value)


def _avg_pool_dilated(x: Node, m: dilation.AvgPool2dDilated) -> Node:
    pad = _lower_module(m.pad, x)
    padding = NO_PADDING if pad is x else pad.attrs['padding']
    return x.then('avg_pool', kernel=m.kernel_size, stride=(1, 1), padding=padding, dilation=m.dilation)


def _zeros(x: Node, m: ops.Zeros) -> Node:
    """A convolution by zero, which the pass `drop_zeros` removes."""
    weight = torch.zeros(m.channels, x.channels, 1, 1, dtype=torch.float64)
    return x.then('conv', dict(weight=weight, bias=weight[:, 0, 0, 0]), stride=(m.stride, m.stride), dilation=(1, 1),
                  groups=1, padding=NO_PADDING)


def _pool(op: str, x: Node, m: nn.Module, padding: Union[int, Tuple[int, int], str]) -> Node:
    if padding != SAME:
        padding = to_2tuple(padding) * 2
    return x.then(op, kernel=to_2tuple(m.kernel_size), stride=to_2tuple(m.stride), padding=padding,
                  dilation=to_2tuple(getattr(m, 'dilation', 1)))


def _avg_pool(x: Node, m: nn.AvgPool2d) -> Node:
    if m.ceil_mode or m.divisor_override is not None:
        raise TypeError('AvgPool2d with ceil_mode or a divisor_override has no lowering rule')
    padding = to_2tuple(m.padding)
    if padding == (0, 0) or not m.count_include_pad:
        return _pool('avg_pool', x, m, padding)
    border = x.then('pad', padding=padding * 2, kernel=(1, 1), stride=(1, 1), value=0.)
    return _pool('avg_pool', border, m, 0)


def _max_pool(x: Node, m: nn.MaxPool2d) -> Node:
    if m.ceil_mode or m.return_indices:
        raise TypeError('MaxPool2d with ceil_mode or return_indices has no lowering rule')
    return _pool('max_pool', x, m, m.padding)


def _batch_norm(x: Node, m: nn.Module) -> Node:
    if m.running_mean is None or m.running_var is None:
        raise TypeError(f'{type(m).__name__} without running statistics has no lowering rule')
    scale = 1 / (_exact(m.running_var) + m.eps).sqrt()
    if m.weight is not None:
        scale = _exact(m.weight) * scale
    shift = -_exact(m.running_mean) * scale
    return x.then('affine', dict(scale=scale, shift=shift if m.bias is None else _exact(m.bias) + shift))


def _batch_norm_act(x: Node, m: nn.Module) -> Node:
    """timm's batch norms: with dropout and an activation, unless they were converted from one without."""
    x = _batch_norm(x, m)
    for name in ('drop', 'act'):
        if hasattr(m, name):
            x = _lower_module(getattr(m, name), x)
    return x


def _group_norm(x: Node, m: nn.GroupNorm) -> Node:
    return x.then('group_norm', _weight_and_bias(m), groups=m.num_groups, eps=m.eps, any_size=True,
                  dilation=getattr(m, 'dilation', (1, 1)))


def _global_pool(mode: str) -> Callable[[Node, nn.Module], Node]:
    """The rule of a pool to a single pixel, PyTorch's or one of timm's."""
    def rule(x: Node, m: nn.Module) -> Node:
        if to_2tuple(getattr(m, 'output_size', 1)) != (1, 1) or getattr(m, 'return_indices', False) or (
                getattr(m, 'dim', getattr(m, 'dim_reduce', (2, 3))) != (2, 3)):
            raise TypeError(f'{type(m).__name__} has a lowering rule only where it pools [B, C, H, W] to one pixel')
        pooled = [x.then('global_pool', mode=name) for name in ('avg', 'max') if name in mode]
        result = pooled[0]
        if mode == 'cat avg max':
            result = Node('concat', tuple(pooled))
        if mode == 'avg + max':
            half = torch.full((x.channels,), 0.5, dtype=torch.float64)
            result = Node('add', tuple(pooled)).then('affine', dict(scale=half, shift=0. * half))
        return result.then('flatten') if getattr(m, 'flatten', False) else result
    return rule


def _flatten(x: Node, start_dim: int, end_dim: int) -> Node:
    if start_dim % x.rank != 1 or end_dim % x.rank != x.rank - 1:
        raise TypeError('flatten has a lowering rule only for all axes but the first, start_dim=1')
    return x.then('flatten') if x.rank == 4 else x


# A module's exact type: its lowering rule, from the nodes of the module's inputs and the module
LOWERINGS: Dict[type, Callable[..., Node]] = {
    nn.Conv2d: _conv,
    ops.Conv2dSame: _conv_same,
    nn.BatchNorm1d: _batch_norm,
    nn.BatchNorm2d: _batch_norm,
    nn.SyncBatchNorm: _batch_norm,
    SyncBatchNorm2d: _batch_norm,
    FrozenBatchNorm2d: _batch_norm,
    BatchNormAct2d: _batch_norm_act,
    SyncBatchNormAct: _batch_norm_act,
    FrozenBatchNormAct2d: _batch_norm_act,
    SplitBatchNorm2d: _batch_norm_act,
    nn.ReLU: lambda x, m: x.then('relu'),
    nn.AvgPool2d: _avg_pool,
    ops.AvgPool2dSame: lambda x, m: _pool('avg_pool', x, m, SAME),
    nn.MaxPool2d: _max_pool,
    ops.PadSame: lambda x, m: _pad_same(x, m.kernel_size, m.stride, m.value),
    nn.ZeroPad2d: _constant_pad,
    nn.ConstantPad2d: _constant_pad,
    ops.Zeros: _zeros,
    ExampleNorm: _group_norm,
    dilation.PadDilated: _pad_dilated,
    dilation.Conv2dDilated: lambda x, m: _conv(_lower_module(m.pad, x), m),
    dilation.AvgPool2dDilated: _avg_pool_dilated,
    dilation.ExampleNormDilated: _group_norm,
    nn.AdaptiveAvgPool2d: _global_pool('avg'),
    nn.AdaptiveMaxPool2d: _global_pool('max'),
    pools.AdaptiveAvgMaxPool2d: _global_pool('avg + max'),
    pools.AdaptiveCatAvgMaxPool2d: _global_pool('cat avg max'),
    pools.FastAdaptiveAvgPool: _global_pool('avg'),
    pools.FastAdaptiveMaxPool: _global_pool('max'),
    pools.FastAdaptiveAvgMaxPool: _global_pool('avg + max'),
    pools.FastAdaptiveCatAvgMaxPool: _global_pool('cat avg max'),
    nn.Flatten: lambda x, m: _flatten(x, m.start_dim, m.end_dim),
    nn.Linear: lambda x, m: x.then('linear', _weight_and_bias(m)),
    nn.Identity: lambda x, m: x,
    nn.Dropout: lambda x, m: x,
}


def _concat(tensors: Sequence[Node], dim: int = 0) -> Node:
    rank = tensors[0].rank
    if dim not in (1, 1 - rank):
        raise TypeError(f'torch.cat has a lowering rule for channels only, dim=1, not for dim={dim}')
    return Node('concat', tuple(tensors))


def _add(input: Node, other: Node, alpha: float = 1) -> Node:
    if alpha != 1:
        raise TypeError(f'torch.add has a lowering rule without alpha only, not for alpha={alpha}')
    return Node('add', (input, other))


# The arguments of a rule have the names that the function gives them.
_FUNCTIONS: Dict[Callable, Callable[..., Node]] = {
    F.relu: lambda input, inplace=False: input.then('relu'),
    torch.relu: lambda input: input.then('relu'),
    operator.add: _add,
    operator.iadd: _add,
    torch.add: _add,
    torch.cat: _concat,
    torch.flatten: lambda input, start_dim=0, end_dim=-1: _flatten(input, start_dim, end_dim),
}

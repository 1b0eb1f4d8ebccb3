"""A copy of a network in which each module computes what its class and its weights say.

PyTorch lets other things have a say too: hooks, parametrizations, a `forward` that was replaced on one module. What
only sets a weight (pruning, weight norm, spectral norm, parametrizations) is applied to the copy. What may do anything
is refused.
"""
import inspect
from typing import Any, Dict, Iterator, List, Set, Tuple

import torch
from timm.layers import SelectAdaptivePool2d
from timm.layers.norm_act import FrozenBatchNormAct2d
from torch import nn
from torch.nn.modules import module as all_modules
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm
from torchvision.ops import FrozenBatchNorm2d

__all__ = ['check_layer', 'plain_copy', 'submodules']

# What is called as a forward pre-hook that sets a weight of its module and does nothing else
_WEIGHT_HOOKS = BasePruningMethod.__call__, WeightNorm.__call__, SpectralNorm.__call__
# Modules that people add to a network in evaluation mode, and that are the same in both modes
_SAME_IN_TRAINING = frozenset({
    nn.Sequential, nn.Identity, nn.Flatten, nn.ReLU, nn.Linear, nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d,
    nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, SelectAdaptivePool2d, FrozenBatchNorm2d, FrozenBatchNormAct2d})
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_INTEGERS = (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


def plain_copy(model: nn.Module) -> Any:
    """Return a copy without hooks and parametrizations, which computes the same and shares all other tensors.

    Raises:
        TypeError: If a hook or a replaced method may decide what a module computes. The message names the module.
        ValueError: If a module is in training mode.
    """
    if all_modules._global_forward_hooks or all_modules._global_forward_pre_hooks:
        raise TypeError('model: a forward hook for all modules is registered, which may change what they compute; call '
                        'remove() on what register_module_forward_hook or register_module_forward_pre_hook returned')
    originals = dict(submodules(model))
    for module, path in originals.items():
        _check_is_plain(module, path)
    with torch.no_grad():
        copies = {module: _copy(module) for module in originals}
    for copy in copies.values():
        copy.__dict__['_modules'] = {
            name: None if child is None else copies.get(child)
            for name, child in copy._modules.items() if name != 'parametrizations'}
    return copies[model]


def submodules(model: nn.Module) -> Iterator[Tuple[nn.Module, str]]:
    """Each module once, with its path from ``model`` on. Modules that only compute another's weight are left out."""
    inside_parametrizations: Set[nn.Module] = set()
    for name, module in model.named_modules():
        if module in inside_parametrizations:
            continue
        inside_parametrizations.update(_parametrizations(module))
        yield module, f'model.{name}' if name else 'model'


def _check_is_plain(module: nn.Module, path: str) -> None:
    """Raise TypeError or ValueError if more than the class and the weights decides what a module computes."""
    kind = _class(module)
    if isinstance(module, torch.jit.ScriptModule):
        raise TypeError(f'{path}: is compiled by TorchScript; use the module from which it was compiled')
    if any(is_lazy(p) for p in module.parameters(recurse=False)):
        raise TypeError(f'{path}: {kind.__name__} has no weights yet; run the model once on images')
    for name in ('forward', '_call_impl'):
        if name in vars(module):
            raise TypeError(f'{path}: its {name} was replaced; restore that of {kind.__name__} by `del {path}.{name}`')
    hooks = [*(hook for hook in module._forward_pre_hooks.values() if type(hook).__call__ not in _WEIGHT_HOOKS),
             *module._forward_hooks.values()]
    if hooks:
        names = ', '.join(getattr(hook, '__qualname__', type(hook).__qualname__) for hook in hooks)
        raise TypeError(f'{path}: has a forward hook ({names}), which may change what {kind.__name__} computes; call '
                        'remove() on the handle that registering it returned')
    if _depends_on_training(module):
        raise ValueError(f'{path}: {"" if path == "model" else kind.__name__ + " "}is in training mode; call '
                         'model.eval() first')


def _depends_on_training(module: nn.Module) -> bool:
    """Whether a module may compute something else because it, or a parametrization of it, is in training mode."""
    if module.training and (_class(module) not in _SAME_IN_TRAINING or module._forward_pre_hooks):
        return True  # in training mode, a spectral norm changes its estimate
    # The lists that `parametrize` itself adds may be in training mode.
    return any(m.training for m in _parametrizations(module) if not isinstance(
        m, (nn.ModuleDict, parametrize.ParametrizationList)))


def _parametrizations(module: Any) -> List[nn.Module]:
    """All modules that compute tensors of a module, or none."""
    return list(module.parametrizations.modules()) if parametrize.is_parametrized(module) else []


def _class(module: nn.Module) -> type:
    """The class of a module; `parametrize` gives each module a class of its own, derived from it."""
    return parametrize.type_before_parametrizations(module)


def _copy(module: Any) -> nn.Module:
    """A module of the same tensors, with those weights that hooks and parametrizations make as they are made now."""
    copy: Any = object.__new__(_class(module))
    tables: Dict[str, Dict] = {name: {} for name in (
        '_forward_hooks', '_forward_pre_hooks', '_backward_hooks', '_backward_pre_hooks')}
    copy.__dict__.update(vars(module), **tables, _parameters=dict(module._parameters), _buffers=dict(module._buffers))
    copy.__dict__.pop('_compiled_call_impl', None)  # what `module.compile()` set
    for hook in module._forward_pre_hooks.values():
        hook(copy, ())
    if parametrize.is_parametrized(module):
        for name in module.parametrizations:
            copy.__dict__[name] = getattr(module, name)
    return copy


def check_layer(module: nn.Module, parameter: nn.Parameter) -> None:
    """Check that a lowering rule can rely on a layer: its methods are those of its class, and its tensors have values.

    Args:
        module: The layer, from a plain copy.
        parameter: One of the network's; the tensors of the layer must have its type and be on its device.

    Raises:
        TypeError: If not.
    """
    for name in vars(module):
        if inspect.isroutine(getattr(type(module), name, None)) and not hasattr(nn.Module, name):
            raise TypeError(f'its method {name} was replaced; restore that of {type(module).__name__} by deleting the '
                            'attribute')
    tables = (module._parameters, module._buffers, vars(module))
    for name, tensor in ((name, value) for table in tables for name, value in table.items()):
        if not isinstance(tensor, torch.Tensor) or tensor.dtype in _INTEGERS:
            continue
        if tensor.dtype not in _FLOATS or tensor.layout != torch.strided or tensor.is_meta:
            raise TypeError(f'{name} is {tensor.dtype}, {tensor.layout} on {tensor.device}; only dense tensors with '
                            'values in float16, bfloat16, float32 or float64 can be lowered')
        if (tensor.dtype, tensor.device) != (parameter.dtype, parameter.device):
            raise TypeError(
                f'{name} is {tensor.dtype} on {tensor.device}, but the first parameter of the network is '
                f'{parameter.dtype} on {parameter.device}; call model.to({str(parameter.device)!r}, {parameter.dtype})')

"""A check that a configuration rebuilds a network, before it is written beside the network's weights.

Whoever reads a model folder has only its configuration and its weights. Modules that were replaced or wrapped after the
network was built are in neither.
"""
import json
import re
from typing import Dict, Iterator, Tuple

import torch
from timm.layers import get_device_dtype
from torch import nn

from .measure import check_counts, evaluating
from .nasnet import NASNet, compile_genotype

__all__ = ['rebuildable_state']

_MAX_SIDE = 64  # of the images on which results are compared; larger ones only take longer
# What to call, by the name of a tensor that the configuration does not account for
_FIXES = (
    (r'(.+)\.parametrizations\.(\w+)\.\w+',
     "call torch.nn.utils.parametrize.remove_parametrizations(model.get_submodule('{0}'), '{1}') first"),
    (r'(.+)\.(\w+)_(?:orig|mask)', "call torch.nn.utils.prune.remove(model.get_submodule('{0}'), '{1}') first"),
    (r'head\..*', 'call model.reset_classifier({classes}) instead of replacing the classifier, and then load trained '
                  'weights into model.head.fc'),
    (r'aux_head\..*', 'set model.aux_head = None first'),
    (r'.*', 'a network whose layers were replaced or removed cannot be written as a folder; save model.state_dict() '
            'instead'),
)


def rebuildable_state(model: NASNet) -> Dict[str, torch.Tensor]:
    """Return the state dict of a network that ``compile_genotype(**model.config)`` rebuilds.

    The network is rebuilt without memory of its own, given the weights, and compared with `model` on an image. What is
    returned is the state dict of the rebuilt network. It shares memory with `model`.

    Raises:
        ValueError: If another network would be rebuilt. It says what to call.
        TypeError: If `model` is not a network of this package.
    """
    if not isinstance(model, NASNet):
        raise TypeError(f'model: is a {type(model).__name__}, not a NASNet; pass the network that it wraps')
    check_counts(model)
    rebuilt = compile_genotype(**json.loads(json.dumps(model.config)), device='meta').eval()
    for name, problem in _differences(model, rebuilt):
        fix = next(fix.format(*match.groups(), classes=model.num_classes) for pattern, fix in _FIXES
                   if (match := re.fullmatch(pattern, name)))
        raise ValueError(f'model: its configuration describes another network ({name} {problem}); {fix}')
    rebuilt.load_state_dict(model.state_dict(), strict=False, assign=True)
    _compare(model, rebuilt)
    return {name: torch.zeros_like(tensor, device='cpu') if tensor.is_meta else tensor
            for name, tensor in rebuilt.state_dict().items()}


def _differences(model: NASNet, rebuilt: NASNet) -> Iterator[Tuple[str, str]]:
    """Yield the names of tensors that only one of two networks has or that differ in shape, and in what they differ.

    Frozen norms have no count of batches, which plays no part in any result.
    """
    own, other = model.state_dict(), rebuilt.state_dict()
    for name in own:
        if name not in other:
            yield name, 'would not be loaded'
    for name, tensor in other.items():
        if name not in own:
            if not name.endswith('.num_batches_tracked'):
                yield name, 'is missing'
        elif own[name].shape != tensor.shape:
            yield name, f'has shape {list(own[name].shape)} instead of {list(tensor.shape)}'


def _compare(model: NASNet, rebuilt: NASNet) -> None:
    """Raise a ValueError if two networks with the same weights have other results."""
    settings = get_device_dtype(model)
    size = [min(side, _MAX_SIDE) for side in model.skeleton.size]
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(1, model.in_chans, *size, generator=generator).to(**settings)
    with evaluating(model):
        found, expected = (network(images).float() for network in (model, rebuilt))
    tolerance = 1e-4 if settings['dtype'] in (torch.float32, torch.float64) else 2e-2
    if found.shape != expected.shape or not torch.allclose(
            found, expected, rtol=tolerance, atol=tolerance * float(expected.abs().nan_to_num().max()), equal_nan=True):
        raise ValueError(
            f'model: computes something else than its configuration describes: {_first_change(model, rebuilt)}')


def _first_change(model: nn.Module, rebuilt: nn.Module) -> str:
    """Return in words what was changed in a network after it was built."""
    others = dict(rebuilt.named_modules())
    for name, module in model.named_modules():
        other = others.get(name)
        if other is None or type(module) is not type(other):
            return f'model.{name} was replaced by {type(module).__name__}'
        if module._forward_hooks or module._forward_pre_hooks or 'forward' in vars(module):
            return f'{name or "the network"} has a hook or a forward method of its own; remove it first'
        if not list(module.children()) and module.extra_repr() != other.extra_repr():
            return f'model.{name} is {module} instead of {other}'
    return 'its layers or their settings were changed'

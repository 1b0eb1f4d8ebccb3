"""Flattens what a checkpoint holds: its tensors and other values by dotted names.

``{'state_dict': {'module.stem.conv.weight': …}, 'epoch': 3}`` becomes ``{'state_dict.module.stem.conv.weight': …,
'epoch': 3}``. A pickled ``nn.Module`` gives the names of its state dict.
"""
from typing import Any, Callable, Dict, Iterator, Mapping, Set

from torch import Tensor

from .inert_pickle import Foreign

__all__ = ['flatten']

# Parts of names that say how a module is stored or wrapped and never which module it is: the attributes of nn.Module,
# and the wrappers of torch.compile, fully sharded data parallelism (FSDP) and activation checkpointing.
_TRANSPARENT = {'_modules', '_parameters', '_buffers', '_orig_mod', '_fsdp_wrapped_module',
                '_checkpoint_wrapped_module'}
_MAX_DEPTH, _MAX_NAME = 64, 400  # no tensor of a network is nested deeper or has a longer name


def _is_tensor(value: Any) -> bool:
    return isinstance(value, Tensor)


def flatten(data: Any, is_tensor: Callable[[Any], bool] = _is_tensor) -> Dict[str, Any]:
    """Return the values in nested mappings and sequences by their dotted names.

    Entries of sequences are named by their number; only tensors and containers among them are kept. A container that
    appears a second time is left out there.

    Args:
        data: What a checkpoint holds.
        is_tensor: Whether a value stands for a tensor.

    Raises:
        ValueError: If two tensors have the same name.
    """
    leaves: Dict[str, Any] = {}
    for path, value in _walk('', 0, data, is_tensor, {}):
        name = '.'.join(part for part in path.split('.') if part not in _TRANSPARENT)
        if name in leaves and is_tensor(leaves[name]):
            if is_tensor(value):
                raise ValueError(f'several tensors are named {name}')
            continue
        leaves[name] = value
    return leaves


def _walk(path: str, depth: int, value: Any, is_tensor: Callable[[Any], bool], seen: Dict[int, Any]) -> Iterator[Any]:
    """Yield pairs of a dotted name and a value. `seen` keeps containers alive, so that no identity is used twice."""
    if is_tensor(value) or not isinstance(value, (Mapping, list, tuple)):
        yield path, value
    elif id(value) not in seen and depth < _MAX_DEPTH:
        seen[id(value)] = value
        entries = list(_entries(value))
        if isinstance(value, Foreign) and not entries:  # an array of NumPy, for example
            yield path, value
        for key, entry in entries:
            name = f'{path}.{key}' if path else key
            is_plain = isinstance(value, (list, tuple)) and isinstance(entry, (str, bytes, float, int, type(None)))
            if len(name) <= _MAX_NAME and not is_plain:
                yield from _walk(name, depth + 1, entry, is_tensor, seen)


def _entries(value: Any) -> Iterator[Any]:
    """Yield the keys of a mapping or a sequence as text, and what is there."""
    if isinstance(value, Foreign) and value.path == 'collections.OrderedDict' and value.args:
        value = dict(value.args[0])  # Python 2 gives the pairs to the constructor
    temporary = _temporary_buffers(value)
    for number, (key, entry) in enumerate(value.items() if isinstance(value, Mapping) else enumerate(value)):
        if temporary and key == '_buffers' and isinstance(entry, Mapping):
            yield from ((f'_buffers.{name}', buffer) for name, buffer in entry.items() if name not in temporary)
        else:
            yield str(key if isinstance(key, (str, int)) else number), entry


def _temporary_buffers(module: Any) -> Set[str]:
    """Return the names of the buffers that a module leaves out of its state dict, none for anything else."""
    found = module.get('_non_persistent_buffers_set') if isinstance(module, Foreign) else None
    if isinstance(found, Foreign) and found.args:  # in pickle protocol 2, set([names])
        found = found.args[0]
    return {name for name in found if isinstance(name, str)} if isinstance(found, (list, set, tuple)) else set()

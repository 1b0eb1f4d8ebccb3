"""Reads what ``torch.save`` and ``torch.jit.save`` wrote.

No class or function that a file names is imported or called (:mod:`.inert_pickle`), so a checkpoint may hold objects of
any class beside its tensors. Tensors are built here from the numbers in the file. The formats are those of
torch/serialization.py.
"""
import io
import mmap
import struct
import sys
import zipfile
from pathlib import Path, PurePosixPath
from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Optional, Tuple

import torch

from .flatten import flatten
from .inert_pickle import Foreign, load_inert

__all__ = ['find_pickle', 'read_pickle', 'read_torch_archive']

_MAGIC = 0x1950a86a20f9469cfc6c  # the first pickle of a file of PyTorch before 1.6
_DTYPES = {
    'DoubleStorage': torch.float64, 'FloatStorage': torch.float32, 'HalfStorage': torch.float16,
    'BFloat16Storage': torch.bfloat16, 'LongStorage': torch.int64, 'IntStorage': torch.int32,
    'ShortStorage': torch.int16, 'CharStorage': torch.int8, 'ByteStorage': torch.uint8, 'BoolStorage': torch.bool,
    'ComplexFloatStorage': torch.complex64, 'ComplexDoubleStorage': torch.complex128,
    'UntypedStorage': torch.uint8,  # tensors of newer types say their type
    'QInt8Storage': torch.int8, 'QUInt8Storage': torch.uint8, 'QInt32Storage': torch.int32,
}


class _Storage(NamedTuple):
    """Numbers in a file, of which tensors are made."""
    dtype: torch.dtype
    begin: int  # of a view, in numbers
    length: int
    read: Callable[[], bytearray]


def find_pickle(names: List[str]) -> Optional[str]:
    """Return the member of a ZIP archive that has PyTorch's data, None if there is none."""
    return min((name for name in names if PurePosixPath(name).name == 'data.pkl'), key=len, default=None)


def read_torch_archive(archive: zipfile.ZipFile, member: str) -> Dict[str, Any]:
    """Read an open archive whose data are in `member`. The caller has checked what it unpacks to."""
    folder = member.removesuffix('data.pkl')
    order = archive.read(f'{folder}byteorder').decode() if f'{folder}byteorder' in archive.namelist() else 'little'
    numbers: Dict[str, bytearray] = {}

    def find_storage(pid: Any) -> _Storage:
        _, kind, key, _, count = pid

        def read() -> bytearray:
            if key not in numbers:
                numbers[key] = _to_native(archive.read(f'{folder}data/{key}'), _dtype(kind), order)
            return numbers[key]
        return _Storage(_dtype(kind), 0, count, read)
    with archive.open(member) as file:
        return _with_tensors(load_inert(io.BytesIO(file.read()), find_storage))


def read_pickle(path: Path) -> Dict[str, Any]:
    """Read a file of PyTorch before 1.6: several pickles, then the numbers of all storages."""
    numbers: Dict[str, bytearray] = {}
    dtypes: Dict[str, torch.dtype] = {}

    def find_storage(pid: Any) -> Any:
        if pid[0] == 'module':  # a class, with its source
            return pid[1]
        _, kind, key, _, count, view = pid
        dtypes[key] = _dtype(kind)
        begin, count = (view[1], view[2]) if view else (0, count)
        return _Storage(dtypes[key], begin, count, lambda: numbers[key])
    with open(path, 'rb') as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as file:
        if load_inert(file) != _MAGIC:
            raise ValueError('it is a pickle, but not one that torch.save wrote; save the state dict with '
                             'torch.save(model.state_dict(), FILE)')
        load_inert(file)  # the version of the format
        order = 'little' if load_inert(file).get('little_endian', True) else 'big'
        data = load_inert(file, find_storage)
        for key in load_inert(file):
            count, = struct.unpack('<q', file.read(8))
            if not 0 <= count * dtypes[key].itemsize <= len(file) - file.tell():
                raise ValueError('it ends before its last tensor')
            numbers[key] = _to_native(file.read(count * dtypes[key].itemsize), dtypes[key], order)
    return _with_tensors(data)


def _dtype(kind: Any) -> torch.dtype:
    """Return the type of the numbers in a storage of PyTorch's class `kind`."""
    name = getattr(kind, 'path', '').rsplit('.', 1)[-1]
    if name not in _DTYPES:
        raise ValueError(f'it has a storage of unknown type {name!r}')
    return _DTYPES[name]


def _to_native(numbers: bytes, dtype: torch.dtype, order: str) -> bytearray:
    """Return a copy of numbers in this machine's order of bytes."""
    if order not in ('little', 'big'):
        raise ValueError(f'it has an unknown order of bytes, {order[:20]!r}')
    copy = bytearray(numbers)
    if order != sys.byteorder and numbers:
        size = dtype.itemsize // (2 if dtype.is_complex else 1)
        parts = torch.frombuffer(copy, dtype=torch.uint8).view(-1, size)
        parts.copy_(parts.flip(1))
    return copy


def _with_tensors(data: Any) -> Dict[str, Any]:
    """Flatten what a file holds, and build its tensors."""
    leaves = flatten(data, lambda value: isinstance(value, Foreign) and value.path in _BUILDERS)
    return {name: _build(leaf) for name, leaf in leaves.items()}


def _build(value: Any) -> Any:
    """Return the tensor that the call of a function of PyTorch would have returned, any other value as it is."""
    if not (isinstance(value, Foreign) and value.path in _BUILDERS):
        return value
    return _BUILDERS[value.path](*value.args)


def _tensor(storage: _Storage, begin: int, size: Tuple[int, ...], stride: Tuple[int, ...], *rest: Any) -> torch.Tensor:
    """Build a tensor. `rest` are whether it has a gradient, its hooks and, for newer types of numbers, their type."""
    dtype = next((getattr(torch, kind.path.removeprefix('torch.'), None) for kind in rest
                  if getattr(kind, 'path', '').startswith('torch.')), storage.dtype)
    if not isinstance(dtype, torch.dtype):
        raise ValueError(f'it has a tensor of unknown type {dtype!r}')
    numbers = storage.read()
    whole = torch.frombuffer(numbers, dtype=dtype) if numbers else torch.empty(0, dtype=dtype)
    whole = whole[storage.begin:storage.begin + storage.length]
    return whole.as_strided(tuple(size), tuple(stride), whole.storage_offset() + begin)


# Functions of PyTorch that files name where they have a tensor.
_BUILDERS: Mapping[str, Callable[..., Any]] = {
    'torch._utils._rebuild_tensor': _tensor,
    'torch._utils._rebuild_tensor_v2': _tensor,
    'torch._utils._rebuild_tensor_v3': _tensor,
    'torch._utils._rebuild_parameter': lambda tensor, *rest: _build(tensor),
    'torch._utils._rebuild_parameter_with_state': lambda tensor, *rest: _build(tensor),
    'torch._tensor._rebuild_from_type_v2': lambda function, kind, args, state: (
        _BUILDERS[function.path](*args) if getattr(function, 'path', '') in _BUILDERS else None),
}

"""Reads TensorFlow's checkpoints, version 2 (since 2017), without TensorFlow.

A checkpoint consists of an index, ``model.ckpt.index``, and of the numbers of all variables in files beside it,
``model.ckpt.data-00000-of-00001`` and so on. The index is a table in LevelDB's format from the names of variables to
protocol buffers. The layouts are those of tensorflow/core/lib/io/table_format.txt and
tensorflow/core/protobuf/tensor_bundle.proto. Every size, offset and shape in a file is checked before it is used.
"""
import gzip
import math
import os
import posixpath
import struct
import tarfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO, Callable, Dict, Iterator, List, NamedTuple, Optional, Tuple, Union

import torch

from .bounds import MAX_EXPANSION, check_expansion, check_index_size
from .crc32c import masked_crc32c

__all__ = ['AVERAGES', 'read_tensorflow', 'read_tensorflow_archive']

AVERAGES = 'ExponentialMovingAverage'  # TensorFlow's name of the moving average of a variable, behind that variable's
_FOOTER, _MAGIC = 48, struct.pack('<Q', 0xdb4775248b80fb57)
_MAX_DIMENSIONS = 8
_DTYPES = {1: torch.float32, 2: torch.float64, 14: torch.bfloat16, 19: torch.float16}  # weights have no other types
# Convolutions from [H, W, in, out] to [out, in, H, W], depthwise ones from [H, W, channels, 1] to [channels, 1, H, W],
# linear layers from [in, out] to [out, in].
_AXES = {'weights': (3, 2, 0, 1), 'pointwise_weights': (3, 2, 0, 1), 'depthwise_weights': (2, 3, 0, 1)}


class _Variable(NamedTuple):
    """Where a variable's numbers are: the number of the file, the first byte, the number of bytes, and its checksum."""
    dtype: int
    shape: Tuple[int, ...]
    shard: int
    offset: int
    size: int
    checksum: int
    is_divided: bool


def read_tensorflow(path: Path) -> Dict[str, torch.Tensor]:
    """Read a checkpoint from its index.

    Tensors are named as in TensorFlow, with dots instead of slashes, and have PyTorch's order of axes. If there are
    moving averages, there are two sets: ``ExponentialMovingAverage.NAME``, with the variables of which no average
    exists, and ``variables.NAME``. What optimizers keep for a variable, single numbers and everything that is not a
    floating-point number are left out.
    """
    prefix = str(path).removesuffix('.index')
    with ExitStack() as files:
        def open_shard(ending: str) -> BinaryIO:
            if not os.path.isfile(prefix + ending):
                raise ValueError(f'the variables are in {os.path.basename(prefix)}{ending}, which is not beside it')
            return files.enter_context(open(prefix + ending, 'rb'))
        return _read_variables(files.enter_context(open(path, 'rb')), open_shard)


def read_tensorflow_archive(path: Path) -> Dict[str, torch.Tensor]:
    """Read the checkpoint in a tar archive, which may be compressed by gzip, without unpacking it."""
    with ExitStack() as files:
        file: Any = files.enter_context(open(path, 'rb'))
        if file.read(2) == b'\x1f\x8b':
            file = files.enter_context(gzip.open(path))
        file.seek(0)
        try:
            # An archive ends with zeros up to a multiple of RECORDSIZE.
            bounded: Any = _Bounded(file, MAX_EXPANSION * path.stat().st_size + tarfile.RECORDSIZE)
            archive = files.enter_context(tarfile.open(fileobj=bounded, mode='r:'))
        except tarfile.TarError:
            raise ValueError('it is not a tar archive; unpack it and pass the weight file inside') from None
        members = {posixpath.normpath(member.name): member for member in archive if member.isreg()}
        found = [name for name in members if name.endswith('.index')]
        if len(found) != 1:
            raise ValueError(f'it has {len(found)} checkpoints of TensorFlow (files named ….index) instead of one; '
                             'unpack it and pass the weight file inside')

        def open_member(name: str) -> BinaryIO:
            if name not in members:
                raise ValueError(f'the variables are in {name}, which the archive does not have')
            return archive.extractfile(members[name])  # type: ignore[return-value]
        prefix = found[0].removesuffix('.index')
        return _read_variables(open_member(found[0]), lambda ending: open_member(prefix + ending))


class _Bounded:
    """A file from which at most `limit` bytes are read, whatever it would unpack to."""

    def __init__(self, file: BinaryIO, limit: int) -> None:
        self.file, self.limit = file, limit
        self.tell, self.seekable = file.tell, file.seekable

    def read(self, size: int) -> bytes:
        self._check(self.tell() + size)
        return self.file.read(size)

    def seek(self, position: int) -> int:
        self._check(position)
        return self.file.seek(position)

    def _check(self, end: int) -> None:
        if end > self.limit:
            raise ValueError(f'it would unpack to more than {MAX_EXPANSION} times its size')


def _read_variables(index: BinaryIO, open_shard: Callable[[str], BinaryIO]) -> Dict[str, torch.Tensor]:
    """Read all weights. `open_shard` opens a file of numbers by the end of its name, ``.data-00000-of-00001``."""
    check_index_size(index.seek(0, os.SEEK_END))
    index.seek(0)
    entries = dict(_read_table(index.read()))
    header = _numbers(entries.pop(b'', b''))
    count = header.get(1, 0)
    if header.get(2, 0):
        raise ValueError('its numbers have the most significant byte first, which is not supported')
    variables = {name.decode('utf-8'): _parse_variable(entry) for name, entry in entries.items()}
    variables = {name: variable for name, variable in variables.items() if _is_weight(name, variables)}
    with ExitStack() as files:
        shards = {shard: files.enter_context(open_shard(f'.data-{shard:05}-of-{count:05}'))
                  for shard in {variable.shard for variable in variables.values()}}
        sizes = {shard: file.seek(0, os.SEEK_END) for shard, file in shards.items()}
        if sum(variable.size for variable in variables.values()) > sum(sizes.values()):
            raise ValueError('its variables overlap, or its file of numbers is cut off')
        tensors = {}
        for name, variable in sorted(variables.items(), key=lambda item: (item[1].shard, item[1].offset)):
            if variable.offset + variable.size > sizes[variable.shard]:
                raise ValueError(f'{name} is beyond the end of the file of numbers, which is cut off')
            tensors[name] = _read_tensor(name, variable, shards[variable.shard])
    return _name_sets(tensors)


def _is_weight(name: str, variables: Dict[str, _Variable]) -> bool:
    """Whether a variable is a weight or its average. Optimizers name what they keep for a variable after it."""
    parent, _, last = name.rpartition('/')
    return variables[name].dtype in _DTYPES and bool(variables[name].shape) and (
        last == AVERAGES or parent not in variables)


def _read_tensor(name: str, variable: _Variable, file: BinaryIO) -> torch.Tensor:
    """Read a variable whose place in the file was checked."""
    dtype = _DTYPES[variable.dtype]
    if variable.is_divided:
        raise ValueError(f'{name} is divided into several parts, which is not supported')
    if math.prod(variable.shape) * dtype.itemsize != variable.size:
        raise ValueError(f'{name} of shape {variable.shape} and type {dtype} cannot have {variable.size:,} bytes')
    numbers = bytearray(variable.size)
    file.seek(variable.offset)
    if file.readinto(numbers) < len(numbers) or masked_crc32c(numbers) != variable.checksum:  # type: ignore[attr-defined]
        raise ValueError(f'the checksum of {name} is wrong, so the file is damaged')
    tensor = torch.frombuffer(numbers, dtype=dtype) if numbers else torch.empty(0, dtype=dtype)
    tensor = tensor.reshape(variable.shape)
    last = name.removesuffix(f'/{AVERAGES}').rpartition('/')[-1]
    if tensor.ndim == 4:
        return tensor.permute(_AXES.get(last, (0, 1, 2, 3)))
    return tensor.T if tensor.ndim == 2 else tensor


def _name_sets(tensors: Dict[str, torch.Tensor]) -> Dict[str, torch.Tensor]:
    """Return tensors by dotted names; if there are averages, those of both sets."""
    averages, variables = ({name.removesuffix(f'/{AVERAGES}').replace('/', '.'): tensor
                            for name, tensor in tensors.items() if name.endswith(f'/{AVERAGES}') == is_average}
                           for is_average in (True, False))
    if not averages:
        return variables
    sets = {AVERAGES: {**variables, **averages}, 'variables': variables}
    return {f'{place}.{name}': tensor for place, part in sets.items() for name, tensor in part.items()}


def _read_table(index: bytes) -> Iterator[Tuple[bytes, bytes]]:
    """Yield the keys and values of a table. All keys differ, and are not far longer than the file."""
    if index[-len(_MAGIC):] != _MAGIC or len(index) < _FOOTER:
        raise ValueError('it is cut off, or not the index of a checkpoint')
    footer = index[-_FOOTER:]
    at = 0
    for _ in range(2):  # of the block of metadata, which is empty
        _, at = _varint(footer, at)
    last: Optional[bytes] = None
    total = 0
    for _, handle in _read_block(index, footer[at:]):
        for key, value in _read_block(index, handle):
            total += len(key)
            check_expansion(total, len(index))
            if last is not None and key <= last:
                raise ValueError('its names are not in order')
            yield key, value
            last = key


def _read_block(index: bytes, handle: bytes) -> Iterator[Tuple[bytes, bytes]]:
    """Yield the keys and values in a block. A handle gives its place and its size, without type and checksum."""
    begin, at = _varint(handle, 0)
    size, _ = _varint(handle, at)
    block, rest = index[begin:begin + size], index[begin + size:begin + size + 5]
    if len(block) != size or len(rest) != 5 or size < 4:
        raise ValueError('it is cut off')
    if masked_crc32c(block + rest[:1]) != int.from_bytes(rest[1:], 'little'):
        raise ValueError('the checksum of its index is wrong, so the file is damaged')
    if rest[0]:
        raise ValueError('its index is compressed, which is not supported')
    end = size - 4 - 4 * int.from_bytes(block[-4:], 'little')  # behind it are the places of keys that are stored whole
    key, at = b'', 0
    while at < end:
        shared, at = _varint(block, at)
        own, at = _varint(block, at)
        length, at = _varint(block, at)
        if shared > len(key) or at + own + length > end:
            raise ValueError('an entry of its index is damaged')
        key = key[:shared] + block[at:at + own]
        at += own + length
        yield key, block[at - length:at]


def _parse_variable(entry: bytes) -> _Variable:
    """Parse a protocol buffer of type BundleEntryProto."""
    numbers = _numbers(entry)
    shape = tuple(_numbers(side).get(1, 0) for shape in _messages(entry, 2) for side in _messages(shape, 2))
    if len(shape) > _MAX_DIMENSIONS:
        raise ValueError('a shape in its index is damaged')
    return _Variable(
        numbers.get(1, 0), shape, shard=numbers.get(3, 0), offset=numbers.get(4, 0), size=numbers.get(5, 0),
        checksum=numbers.get(6, 0), is_divided=bool(_messages(entry, 7)))


def _numbers(message: bytes) -> Dict[int, int]:
    """Return those fields of a protocol buffer that are numbers."""
    return {number: value for number, value in _fields(message) if isinstance(value, int)}


def _messages(message: bytes, number: int) -> List[bytes]:
    """Return the values of the fields of a protocol buffer that have this number and are no numbers themselves."""
    return [value for field, value in _fields(message) if field == number and isinstance(value, bytes)]


def _fields(message: bytes) -> Iterator[Tuple[int, Union[int, bytes]]]:
    """Yield the numbers and values of the fields of a protocol buffer."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        kind, value = tag & 7, 0
        if kind == 0:
            value, at = _varint(message, at)
            yield tag >> 3, value
            continue
        size, at = _varint(message, at) if kind == 2 else ({1: 8, 5: 4}.get(kind, len(message)), at)
        if at + size > len(message):
            raise ValueError('an entry of its index is damaged')
        content = message[at:at + size]
        at += size
        yield tag >> 3, content if kind == 2 else int.from_bytes(content, 'little')


def _varint(data: bytes, at: int) -> Tuple[int, int]:
    """Parse a number of variable length. Return it, and where what follows it begins."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            raise ValueError('it is cut off')
        value |= (data[at] & 127) << shift
        at += 1
        if data[at - 1] < 128:
            return value, at
    raise ValueError('a number in its index is damaged')

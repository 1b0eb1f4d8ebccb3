"""CRC32C (Castagnoli), the checksum of TensorFlow's files. None of the packages that this one needs offers it.

A CRC is a linear function of the message's bits, so a message need not be read word by word. If S is what a zero word
does to the register, the words w0 w1 w2 w3 give the same register as the two words S²(w0) + w2 and S²(w1) + w3, where +
is exclusive or. A message is halved in this way, all words at a time, until one word is left.
"""
from functools import cache
from typing import Union

import numpy as np

__all__ = ['crc32c', 'masked_crc32c']

_POLYNOMIAL = 0x82f63b78  # its bits reversed: the least significant bit of a byte is the first
_BLOCK = 1 << 18  # bytes that are halved at a time, so that they stay in the processor's cache
_START = np.frombuffer(b'Td\x1fd', np.uint8)  # before a message, these bytes set the register to all ones


def crc32c(data: Union[bytes, bytearray, memoryview]) -> int:
    """Return the CRC32C of some bytes."""
    message = np.frombuffer(data, np.uint8)
    first = len(message) % _BLOCK
    size = 4
    while size < len(_START) + first:
        size *= 2
    block = np.zeros(size, np.uint8)  # zeros at the beginning change nothing
    block[size - first:] = message[:first]
    block[size - first - len(_START):size - first] = _START
    register = _remainder(block.view('<u4'), 0)
    for begin in range(first, len(message), _BLOCK):
        register = _remainder(message[begin:begin + _BLOCK].view('<u4'), register)
    return register ^ 0xffffffff


def masked_crc32c(data: Union[bytes, bytearray, memoryview]) -> int:
    """Return the CRC32C of some bytes in the form in which TensorFlow stores it, rotated and with a constant added."""
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + 0xa282ead8) & 0xffffffff


def _remainder(words: np.ndarray, register: int) -> int:
    """Return the register after words, whose number is a power of two."""
    words = words.astype(np.uint32)
    words[0] ^= register
    while len(words) > 1:
        half = len(words) // 2
        words = _skip(words[:half], half) ^ words[half:]
    return int(_skip(words, 1)[0])


def _skip(registers: np.ndarray, words: int) -> np.ndarray:
    """Return what registers become after `words` words of zeros."""
    tables = _tables(words)
    return tables[0][registers & 0xffff] ^ tables[1][registers >> 16]


@cache
def _tables(words: int) -> np.ndarray:
    """Return the table of `_skip` for each half of a register, as [2, 65536]. `words` is a power of two."""
    bits: np.ndarray = np.uint32(1) << np.arange(32, dtype=np.uint32)
    if words > 1:
        bits = _skip(_skip(bits, words // 2), words // 2)
    else:
        for _ in range(32):
            bits = bits >> 1 ^ np.where(bits & 1, np.uint32(_POLYNOMIAL), np.uint32(0))
    tables = np.zeros((2, 1), np.uint32)
    for k in range(16):
        tables = np.concatenate([tables, tables ^ bits.reshape(2, 16)[:, k:k + 1]], axis=1)
    return tables

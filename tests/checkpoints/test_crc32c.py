"""The checksum of TensorFlow's files."""
import random

import pytest

from nasnet_zoo.checkpoints import crc32c as module
from nasnet_zoo.checkpoints.crc32c import crc32c, masked_crc32c


@pytest.mark.parametrize('data, expected', [  # RFC 3720, appendix B.4, and the usual check value
    (b'', 0), (b'123456789', 0xe3069283), (bytes(32), 0x8a9136aa), (b'\xff' * 32, 0x62a8ab43),
    (bytes(range(32)), 0x46dd794e), (bytes(reversed(range(32))), 0x113fdb5c)])
def test_published_values(data, expected):
    assert crc32c(data) == expected
    assert masked_crc32c(data) == ((expected >> 15 | expected << 17) + 0xa282ead8) % 2 ** 32


def bit_by_bit(data):
    register = 0xffffffff
    for byte in data:
        register ^= byte
        for _ in range(8):
            register = register >> 1 ^ (0x82f63b78 if register & 1 else 0)
    return register ^ 0xffffffff


@pytest.mark.parametrize('size', [1, 2, 3, 5, 60, 61, 63, 64, 65, 127, 128, 129, 200, 256])
def test_any_length(monkeypatch, size):
    monkeypatch.setattr(module, '_BLOCK', 64)  # a message has several blocks, the first of which may be shorter
    data = random.Random(size).randbytes(size)
    assert crc32c(data) == crc32c(bytearray(data)) == crc32c(memoryview(data)) == bit_by_bit(data)

"""Limits on how much memory a weight file may ask for."""

__all__ = ['MAX_EXPANSION', 'check_expansion', 'check_index_size']

MAX_EXPANSION = 20  # weights hardly compress, so a file that unpacks to more than this many times its size is an attack
_MAX_INDEX = 1 << 24  # bytes; an index has about a hundred for each tensor


def check_expansion(unpacked: int, stored: int) -> None:
    """Raise a ValueError if a file of `stored` bytes declares that it unpacks to far more (`unpacked` bytes)."""
    if unpacked > MAX_EXPANSION * stored:
        raise ValueError(f'its {stored:,} bytes would unpack to {unpacked:,}, more than {MAX_EXPANSION} times as many')


def check_index_size(size: int) -> None:
    """Raise a ValueError if an index of tensors is far larger (`size` bytes) than that of any network."""
    if size > _MAX_INDEX:
        raise ValueError(f'its index is larger than {_MAX_INDEX:,} bytes')

"""A limit on how much memory a weight file may ask for."""

__all__ = ['MAX_EXPANSION', 'check_expansion']

MAX_EXPANSION = 20  # weights hardly compress, so a file that unpacks to more than this many times its size is an attack


def check_expansion(unpacked: int, stored: int) -> None:
    """Raise a ValueError if a file of `stored` bytes declares that it unpacks to far more (`unpacked` bytes)."""
    if unpacked > MAX_EXPANSION * stored:
        raise ValueError(f'its {stored:,} bytes would unpack to {unpacked:,}, more than {MAX_EXPANSION} times as many')

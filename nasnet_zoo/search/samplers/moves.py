"""Random children, and random changes of children, within the tokens that may be proposed."""
import random
from typing import Callable, List, Sequence

from .base import MAX_DRAWS, Options, Tokens

__all__ = ['change', 'changed', 'crossed', 'draw', 'first_new', 'free_decisions', 'restricted']


def draw(rng: random.Random, options: Options) -> Tokens:
    """Return a random child."""
    return tuple(rng.choice(allowed) for allowed in options)


def restricted(rng: random.Random, tokens: Sequence[int], options: Options) -> List[int]:
    """Return the child with random tokens in place of those that may not be proposed."""
    return [token if token in allowed else rng.choice(allowed) for token, allowed in zip(tokens, options)]


def free_decisions(options: Options) -> List[int]:
    """Return the indices of the decisions that have more than one option."""
    return [i for i, allowed in enumerate(options) if len(allowed) > 1]


def change(rng: random.Random, tokens: List[int], i: int, options: Options) -> None:
    """Give decision `i` another token, in place. The present one may be proposed, and is not the only one."""
    allowed = options[i]
    tokens[i] = allowed[(allowed.index(tokens[i]) + rng.randrange(1, len(allowed))) % len(allowed)]


def changed(rng: random.Random, tokens: Sequence[int], options: Options, decisions: Sequence[int]) -> Tokens:
    """Return the child with other tokens for some decisions, see :func:`change`."""
    new = list(tokens)
    for i in decisions:
        change(rng, new, i, options)
    return tuple(new)


def crossed(rng: random.Random, first: Tokens, second: Tokens) -> Tokens:
    """Return a child that has each token from one of two children."""
    bits = rng.getrandbits(len(first))
    return tuple(a if bits >> i & 1 else b for i, (a, b) in enumerate(zip(first, second)))


def first_new(propose: Callable[[], Tokens], is_known: Callable[[Tokens], bool]) -> Tokens:
    """Call `propose` until it returns a child that is not known, but not too often. Return the last child."""
    for _ in range(MAX_DRAWS):
        tokens = propose()
        if not is_known(tokens):
            break
    return tokens

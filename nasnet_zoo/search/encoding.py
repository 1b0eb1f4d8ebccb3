"""Children of a search space as counts of what their genotypes consist of, for models that predict rewards."""
from itertools import chain
from typing import Any, Dict, Hashable, Iterator, List, Mapping, Sequence, Tuple

import numpy as np

from ..genotype.operations import COMBINES
from ..genotype.schema import KINDS
from .space import Space

__all__ = ['GROUPS', 'Encoder', 'Encoding', 'squared_distances']

GROUPS = 3  # groups of features, from the general to the specific
Encoding = Tuple[int, ...]
"""The numbers of the items of a genotype in ascending order; an item that occurs twice is listed twice."""
_Item = Tuple[Hashable, ...]


class Encoder:
    """Converts children of a space to counts of features in three groups.

    The features are read off the genotype, so the encoding works for every space:

    1. the operation of an edge, without its place: (cell, operation). Also the combine of a block, and whatever a
       genotype has besides its cells.
    2. the place of an edge, without its operation: (cell, node, source). Also the combine at its node, and the states
       that an output consists of.
    3. both: (cell, node, source, operation).

    A genotype is a bag of *items*: edges, combines and values. Each item counts as one feature in one or more groups.
    Two children have the same encoding if and only if they have the same items, that is, if their genotypes are equal
    up to the order of operands. (If a combine depends on this order, the items of its edges contain their side.)

    Items and features are numbered in the order in which they are met, so encodings of different encoders cannot be
    compared. Counts, and therefore :func:`squared_distances`, do not depend on this order.

    Args:
        space: The search space.
    """

    def __init__(self, space: Space) -> None:
        self.space = space
        self._numbers: Dict[_Item, int] = {}
        self._columns: List[Dict[Hashable, int]] = [{} for _ in range(GROUPS)]  # column by feature, for each group
        self._item_columns: List[List[int]] = []  # for each item and group its column, or -1

    def encode(self, tokens: Sequence[int]) -> Encoding:
        """Return the encoding of a child. It can be hashed."""
        numbers, found = self._numbers, []
        for item in _items(self.space.build(tokens)):
            number = numbers.get(item)
            found.append(self._add(item) if number is None else number)
        return tuple(sorted(found))

    def counts(self, encodings: Sequence[Encoding]) -> List[np.ndarray]:
        """Return for each group how often each feature occurs, as float32 arrays [children, features met so far]."""
        rows = np.repeat(np.arange(len(encodings)), [len(encoding) for encoding in encodings])
        items = np.fromiter(chain.from_iterable(encodings), dtype=np.int64, count=len(rows))
        table, arrays = np.array(self._item_columns, dtype=np.int64).reshape(-1, GROUPS), []
        for group, features in enumerate(self._columns):
            columns = table[items, group]
            places = (rows * len(features) + columns)[columns >= 0]
            counts = np.bincount(places, minlength=len(encodings) * len(features))
            arrays.append(counts.reshape(len(encodings), len(features)).astype(np.float32))
        return arrays

    def _add(self, item: _Item) -> int:
        """Number a new item and its features."""
        self._item_columns.append([
            -1 if feature is None else columns.setdefault(feature, len(columns))
            for columns, feature in zip(self._columns, _features(*item))])
        return self._numbers.setdefault(item, len(self._numbers))


def squared_distances(a: Sequence[np.ndarray], b: Sequence[np.ndarray]) -> np.ndarray:
    """Return the squared Euclidean distances between two sets of children, float64 [groups, children, children].

    They are exact, because counts are small integers. One set may lack the columns of features that were met later.
    """
    found = []
    for left, right in zip(a, b):
        width = min(left.shape[1], right.shape[1])
        product = left[:, :width] @ right[:, :width].T
        found.append((left ** 2).sum(1)[:, None] + (right ** 2).sum(1) - 2 * product)
    return np.stack(found).astype(np.float64)


def _items(genotype: Mapping[str, Any]) -> Iterator[_Item]:
    """Yield the items of a genotype, given as JSON data that need not be complete.

    An item begins with its kind: ``edge``, ``combine`` or ``value``.
    """
    for key, value in genotype.items():
        if key not in KINDS or 'blocks' not in value:
            yield from _values(value, (key,))
            continue
        for part, content in value.items():
            if part != 'blocks':
                yield from _values(content, (key, part))
                continue
            for node, block in enumerate(content):
                combine = block.get('combine', 'add')
                yield 'combine', key, node, combine
                is_ordered = combine in COMBINES and not COMBINES[combine].is_symmetric_up_to_channels
                for side in ('left', 'right'):
                    op, source = block[side]
                    yield 'edge', key, node, source, op, side if is_ordered else ''


def _values(value: Any, path: Tuple[Hashable, ...]) -> Iterator[_Item]:
    """Yield an item for each scalar in JSON data. Words in a list are states, whose order does not matter."""
    if isinstance(value, str) or not isinstance(value, (Mapping, list, tuple)):
        yield 'value', *path, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _values(item, (*path, key))
    else:
        for i, item in enumerate(value):
            yield from _values(item, path if isinstance(item, str) else (*path, i))


def _features(kind: Hashable, cell: Hashable, *rest: Hashable) -> Tuple[Hashable, Hashable, Hashable]:
    """Return the feature of an item in each group, or None."""
    if kind == 'edge':
        node, source, op, side = rest
        return (kind, cell, op, side), (kind, cell, node, source, side), (cell, node, source, op, side)
    if kind == 'combine':
        node, combine = rest
        return (kind, cell, combine), (kind, cell, node, combine), None
    if cell in KINDS:
        return None, (kind, cell, *rest), None
    return (kind, cell, *rest), None, None


"""Children of a search space as counts of what their genotypes consist of, for models that predict rewards."""
from typing import Any, Dict, Hashable, Iterable, Iterator, List, Mapping, Sequence, Tuple

import numpy as np

from ..genotype.operations import COMBINES
from ..genotype.schema import KINDS
from .space import Space

__all__ = ['GROUPS', 'Encoder', 'Encoding', 'EncodingCache', 'squared_distances']

_LEVELS = 3  # of features, from the general to the specific
GROUPS = _LEVELS * len(KINDS)
Encoding = Tuple[int, ...]
"""The numbers of the parts of a genotype in ascending order; a part that occurs twice is listed twice."""
_Feature = Tuple[int, Tuple[Hashable, ...]]
_Part = Tuple[Any, ...]


class Encoder:
    """Converts children of a space to counts of features in groups, three for each kind of cell.

    The kinds have groups of their own because one of them may matter more: a network has more normal cells than
    reduction cells. The features are read off the genotype, so the encoding works for every space:

    1. the operation of an edge, without its place: (cell, operation). Also the combine of a block. In the first group
       of all there is also whatever a genotype has besides its cells.
    2. the place of an edge, without its operation: (cell, node, source). Also the combine at its node, and the states
       that an output consists of.
    3. both: (cell, node, source, operation).

    Two children have the same encoding if and only if their genotypes are equal up to the order of operands. (If a
    combine depends on this order, its operations and sources are distinguished by their side.)

    Parts and features are numbered in the order in which they are met, so encodings of different encoders cannot be
    compared. Counts, and therefore :func:`squared_distances`, do not depend on this order.

    Args:
        space: The search space.
    """

    def __init__(self, space: Space) -> None:
        self.space = space
        self._numbers: Dict[_Part, int] = {}
        self._features: List[Dict[Hashable, int]] = [{} for _ in range(GROUPS)]  # column by feature, for each group
        self._columns: List[List[List[int]]] = [[] for _ in range(GROUPS)]  # for each group and part: its columns

    def encode(self, tokens: Sequence[int]) -> Encoding:
        """Return the encoding of a child. It can be hashed."""
        numbers, found = self._numbers, []
        try:
            parts = _parts(self.space.build(tokens))
        except Exception:  # a space of one's own may raise anything; this child will fail, but is not to be repeated
            parts = [('', 'choices', *enumerate(tokens))]
        for part in parts:
            number = numbers.get(part)
            found.append(self._add(part) if number is None else number)
        return tuple(sorted(found))

    def counts(self, encodings: Sequence[Encoding]) -> List[np.ndarray]:
        """Return for each group how often each feature occurs, as float32 arrays [children, features met so far]."""
        arrays = []
        for features, columns in zip(self._features, self._columns):
            width = len(features)
            places = [row * width + column for row, encoding in enumerate(encodings)
                      for number in encoding for column in columns[number]]
            counts = np.bincount(np.array(places, dtype=np.int64), minlength=len(encodings) * width)
            arrays.append(counts.reshape(len(encodings), width).astype(np.float32))
        return arrays

    def _add(self, part: _Part) -> int:
        """Number a new part and its features."""
        for columns in self._columns:
            columns.append([])
        first = _LEVELS * KINDS.index(part[0]) if part[0] else 0
        for level, feature in _features(*part):
            features = self._features[first + level]
            self._columns[first + level][-1].append(features.setdefault(feature, len(features)))
        return self._numbers.setdefault(part, len(self._numbers))


class EncodingCache:
    """An encoder that remembers the encodings of children, given by their choices.

    Args:
        space: The search space.
    """

    def __init__(self, space: Space) -> None:
        self.encoder = Encoder(space)
        self._encodings: Dict[Tuple[int, ...], Encoding] = {}

    def encode(self, tokens: Tuple[int, ...]) -> Encoding:
        """Return the encoding of a child."""
        if tokens not in self._encodings:
            self._encodings[tokens] = self.encoder.encode(tokens)
        return self._encodings[tokens]

    def counts(self, children: Iterable[Tuple[int, ...]]) -> List[np.ndarray]:
        """Return what :meth:`Encoder.counts` returns for some children."""
        return self.encoder.counts([self.encode(tokens) for tokens in children])

    def keep_only(self, children: Iterable[Tuple[int, ...]]) -> None:
        """Forget the encodings of all other children."""
        self._encodings = {tokens: self.encode(tokens) for tokens in children}


def squared_distances(a: Sequence[np.ndarray], b: Sequence[np.ndarray]) -> List[np.ndarray]:
    """Return for each group the squared Euclidean distances of two sets of children, float32 [children, children].

    They are exact, because counts are small integers. One set may lack the columns of features that were met later.
    """
    found = []
    for left, right in zip(a, b):
        width = min(left.shape[1], right.shape[1])
        distances = left[:, :width] @ (-2 * right[:, :width]).T
        distances += _squares(left)[:, None]
        distances += _squares(right)
        found.append(distances)
    return found


def _squares(counts: np.ndarray) -> np.ndarray:
    return np.einsum('ij,ij->i', counts, counts)  # without an array of the squares


def _parts(genotype: Mapping[str, Any]) -> List[_Part]:
    """Return the parts of a genotype, given as JSON data that need not be complete: its blocks, and everything else.

    A block is (cell, node, combine, left edge, right edge), and another part is (cell or '', name, leaves).
    """
    parts: List[_Part] = []
    for key, value in genotype.items():
        if key not in KINDS or 'blocks' not in value:
            parts.append(('', key, *_leaves(value)))
            continue
        for node, block in enumerate(value['blocks']):
            combine, left, right = block.get('combine', 'add'), tuple(block['left']), tuple(block['right'])
            if right < left and _is_symmetric(combine):
                left, right = right, left
            parts.append((key, node, combine, left, right))
        parts += [(key, name, *_leaves(content)) for name, content in value.items() if name != 'blocks']
    return parts


def _leaves(value: Any) -> List[Tuple[Hashable, ...]]:
    """Return path and value of each scalar in JSON data. A list of words is a set of states."""
    if isinstance(value, dict):
        return [(key, *leaf) for key, item in value.items() for leaf in _leaves(item)]
    if not isinstance(value, (list, tuple)):
        return [(value,)]
    if value and isinstance(value[0], str):
        return [(word,) for word in sorted(value)]
    return [(i, *leaf) for i, item in enumerate(value) for leaf in _leaves(item)]


def _features(cell: Any, place: Any, *content: Any) -> Iterator[_Feature]:
    """Yield level and name of each feature of a part."""
    if not isinstance(place, int):
        yield from ((1 if cell else 0, (cell, place, *leaf)) for leaf in content)
        return
    combine, *edges = content
    yield 0, (cell, combine)
    yield 1, (cell, place, combine)
    for side, (op, source) in zip(('left', 'right'), edges):
        operand = 'operand' if _is_symmetric(combine) else side
        yield 0, (cell, operand, op)
        yield 1, (cell, place, operand, source)
        yield 2, (cell, place, operand, source, op)


def _is_symmetric(combine: str) -> bool:
    """Return whether the order of the combine's operands does not matter."""
    return combine not in COMBINES or COMBINES[combine].is_symmetric_up_to_channels

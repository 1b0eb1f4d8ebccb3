"""The figures that reports show about searches, as plain data."""
from collections import Counter
from typing import Dict, Iterable, List, Mapping, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from .record import Child, SearchRecord, parent_of

__all__ = ['Ancestor', 'Difference', 'ancestors', 'best_fifth', 'differences', 'expected_best', 'moving_mean',
           'pareto_front', 'shares', 'top_means', 'TOPS']

TOPS = {'best': 1, 'mean of the top 5': 5, 'mean of the top 25': 25}  # figure 6 of the NASNet paper shows these
PERMUTATIONS = 1999


def pareto_front(points: Sequence[Tuple[float, float]]) -> List[int]:
    """Return the indices of the (cost, value) pairs that no other pair beats in both, sorted by cost."""
    front: List[int] = []
    for i in sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1])):
        if not front or points[i][1] > points[front[-1]][1]:
            front.append(i)
    return front


def top_means(record: SearchRecord, top: int) -> Tuple[List[int], List[float]]:
    """Return the mean reward of the best `top` children so far, as figure 6 of the NASNet paper shows it.

    Returns:
        The numbers of children, failed ones included, at which the mean is known and may change, and the means.
    """
    places, means, best = [], [], np.empty(0)
    for child in record.children:
        best = np.sort(np.append(best, child.reward))[-top:]
        if len(best) == top:
            places.append(child.place)
            means.append(float(best.mean()))
    return places, means


def moving_mean(values: Sequence[float], width: int) -> List[float]:
    """Return, for each value, the mean of it and those before it, at most `width` in all."""
    sums = np.concatenate([[0.], np.cumsum(values)])
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(0, ends - width)
    return ((sums[ends] - sums[starts]) / (ends - starts)).tolist()


def expected_best(values: Sequence[float]) -> List[float]:
    """Return the expected highest of n independent draws for each n up to the number of values.

    This is the mean over all subsets of n of the values, which is an unbiased estimate if the values are independent
    draws. There is no such estimate for more draws than values.
    """
    ordered = np.sort(values)
    ranks, total = np.arange(1, len(ordered) + 1), len(ordered)
    expected = []
    weights = np.full(total, 1 / total)  # of being the highest of n: C(rank - 1, n - 1) / C(total, n)
    for n in ranks:
        expected.append(float(weights @ ordered))
        weights = weights * np.maximum(ranks - n, 0) / n * (n + 1) / max(total - n, 1)
    return expected


def best_fifth(record: SearchRecord) -> List[Child]:
    """Return the best fifth of the children, at least one, best first."""
    best = sorted(record.children, key=lambda child: -child.reward)
    return best[:max(1, len(best) // 5)]


def shares(record: SearchRecord, children: Sequence[Child]) -> Dict[str, Dict[str, Dict[str, float]]]:
    """Return how frequent each operation and each source is among the edges of the cells of some children.

    Args:
        record: Their search.
        children: The children.

    Returns:
        For ``operation`` and for ``source``, the states that edges read: for each kind of cell the fraction of each
        operation or source. Nothing if the space of the search is not known.
    """
    counts: Dict[str, Dict[str, Counter]] = {'operation': {}, 'source': {}}
    for child in children:
        genotype = record.genotype(child)
        for kind, cell in genotype.cells.items() if genotype else ():
            edges = [edge for block in cell.blocks for edge in block.edges]
            for part, names in zip(counts, zip(*edges)):
                counts[part].setdefault(kind, Counter()).update(names)
    return {part: {kind: {name: count / counter.total() for name, count in counter.items()}
                   for kind, counter in kinds.items()} for part, kinds in counts.items()}


class Ancestor(NamedTuple):
    """A child in the line of ancestors of another one.

    Attributes:
        number: The number of its trial.
        reward: Its reward; None if it failed.
        changes: The decisions in which it differs from its parent: name, the parent's option, its own option.
    """
    number: int
    reward: Optional[float]
    changes: Sequence[Tuple[str, str, str]]


def ancestors(record: SearchRecord, child: Child) -> List[Ancestor]:
    """Return the line of ancestors of a child, from the first one to the child itself."""
    trials = {trial.number: trial for trial in record.trials}
    rewards = {known.number: known.reward for known in record.children}
    line: List[Ancestor] = []
    number: Optional[int] = child.number
    while number is not None:
        trial, parent = trials[number], parent_of(trials[number])
        before: Mapping[str, str] = trials[parent].params if parent in trials else {}
        changes = [(name, before[name], option) for name, option in trial.params.items()
                   if name in before and before[name] != option]
        line.insert(0, Ancestor(number, rewards.get(trial.user_attrs.get('duplicate_of', number)), changes))
        number = parent
    return line


class Difference(NamedTuple):
    """A difference between two searches.

    Attributes:
        name: What differs.
        value: The first search's value minus the second's.
        p: The probability of a difference of at least this size if it made no difference to which of the two searches
            a child belongs (two-sided permutation test).
    """
    name: str
    value: float
    p: float


def differences(first: SearchRecord, second: SearchRecord, seed: int = 0) -> Tuple[int, List[Difference]]:
    """Compare the rewards of two searches after equal numbers of children.

    The test regards the children of a search as independent, but children depend on earlier ones. So it tells whether
    these two searches differ, and not whether their samplers would differ again with other seeds.

    Returns:
        The number of children of each search that were compared, failed ones included; and the differences: of the
        mean, the best, and the means of the top 5 and of the top 25, if both searches have so many. There are
        no differences if one of them has taken over children of another search.
    """
    children = min(len(first.evaluated), len(second.evaluated))
    if first.reused or second.reused:
        return children, []  # they may share children
    a, b = ([child.reward for child in record.children if child.place <= children] for record in (first, second))
    if not a or not b:
        return children, []
    rng, both = np.random.default_rng(seed), np.array(a + b)
    tops: Dict[str, Optional[int]] = {
        'mean of all': None, **{name: top for name, top in TOPS.items() if top <= min(len(a), len(b))}}
    found = np.array(_differences_at(both, len(a), tops.values()))
    permuted = np.array([_differences_at(rng.permutation(both), len(a), tops.values()) for _ in range(PERMUTATIONS)])
    # Values that are equal but for rounding count as at least as large.
    extreme = (np.abs(permuted) >= np.abs(found) - 1e-12).sum(0)
    return children, [Difference(name, float(value), (1 + int(count)) / (1 + PERMUTATIONS))
                      for name, value, count in zip(tops, found, extreme)]


def _differences_at(values: np.ndarray, split: int, tops: Iterable[Optional[int]]) -> List[float]:
    """Return the differences of the means of the highest values before and after the index `split`."""
    a, b = np.sort(values[:split]), np.sort(values[split:])
    return [(a if top is None else a[-top:]).mean() - (b if top is None else b[-top:]).mean() for top in tops]

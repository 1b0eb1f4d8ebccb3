"""Statistics and the plot of a comparison of cells."""
import base64
import statistics
from itertools import combinations
from pathlib import Path
from typing import Any, Dict, List, Optional, Protocol, Sequence, Tuple

import numpy as np

from ..files import atomic_write
from ..genotype.schema import Genotype

__all__ = ['error_over_images', 'pack', 'plot', 'summarise']

_Row = Dict[str, Any]


class _Cell(Protocol):
    """What the summary says of a cell, a part of :class:`~nasnet_zoo.search.compare.Job`."""
    @property
    def name(self) -> str: ...

    @property
    def genotype(self) -> Genotype: ...


def pack(correct: Sequence[bool]) -> str:
    """Return which images were classified correctly as text: a bit for each, in base64."""
    return base64.b64encode(np.packbits(np.asarray(correct, bool)).tobytes()).decode('ascii')


def _unpack(row: _Row) -> np.ndarray:
    """Return for each image of a row whether it was classified correctly, float64 [n] of 0 and 1."""
    packed = np.frombuffer(base64.b64decode(row['correct']), np.uint8)
    return np.unpackbits(packed, count=row['images']).astype(np.float64)


def summarise(cells: Sequence[_Cell], rows: Sequence[_Row]) -> Dict[str, Any]:
    """Return mean and standard deviation of each cell, and the difference of each pair.

    Args:
        cells: The cells, in the order of the result.
        rows: One row for each cell and seed; all cells have the same seeds.

    Returns:
        JSON data, see :func:`~nasnet_zoo.search.compare.run_comparison`.
    """
    found: List[Dict[str, Any]] = []
    runs: List[List[_Row]] = []  # of each cell, by seed
    for cell in cells:
        digest = cell.genotype.architecture_digest
        mine = sorted((row for row in rows if row['architecture'] == digest), key=lambda row: row['seed'])
        runs.append(mine)
        accuracies = [row['accuracy'] for row in mine]
        found.append(dict(
            name=cell.name, architecture=digest, **{name: mine[0][name] for name in ('cell_filters', 'params', 'macs')},
            mean=statistics.mean(accuracies), std=statistics.stdev(accuracies) if len(accuracies) > 1 else None,
            accuracies={str(row['seed']): row['accuracy'] for row in mine}))
    return dict(cells=found, differences=[
        dict(cell=cell['name'], other=other['name'], **_difference(a, b))
        for (cell, a), (other, b) in combinations(zip(found, runs), 2)])


def _difference(a: Sequence[_Row], b: Sequence[_Row]) -> Dict[str, Any]:
    """Compare two cells, given their rows by seed.

    The two-sided tests over the seeds are Student's paired t-test and Wilcoxon's signed-rank test. The test over seeds
    and images uses the difference of each image with each seed, see :func:`error_over_images`, and a t-distribution.
    """
    from scipy import stats
    # Equal gaps must not differ in the last bit, which would look like a small spread.
    gaps = [round(ours['accuracy'] - theirs['accuracy'], 12) for ours, theirs in zip(a, b)]
    result: Dict[str, Any] = dict(
        difference=statistics.mean(gaps), interval_95=None, p_t_test=None, p_wilcoxon=None,
        interval_95_images=None, p_images=None)
    if len(gaps) > 1 and statistics.stdev(gaps) > 0:
        test = stats.ttest_1samp(gaps, 0.)
        low, high = test.confidence_interval(0.95)
        result.update(interval_95=[float(low), float(high)], p_t_test=float(test.pvalue),
                      p_wilcoxon=float(stats.wilcoxon(gaps).pvalue))
    if over_images := error_over_images(a, b):
        mean, error, freedom = over_images
        half = float(stats.t.ppf(0.975, freedom)) * error
        result.update(interval_95_images=[mean - half, mean + half],
                      p_images=float(2 * stats.t.sf(abs(mean) / error, freedom)))
    return result


def error_over_images(a: Sequence[_Row], b: Sequence[_Row]) -> Optional[Tuple[float, float, float]]:
    """Return the mean difference of two cells, its standard error, and the degrees of freedom of this error.

    The differences are a table of seeds and images, both drawn at random. The variance of their mean has three parts:
    that of the images, that of the seeds, and that of single images with single seeds. The variance of the images'
    means contains the first and the last one. It is known much better than the variance over a few seeds, from which
    only the second part is taken, and counts as 0 if the estimate is negative. The degrees of freedom are
    Satterthwaite's (Biometrics Bulletin 2, 1946): few if much of the variance comes from a few seeds.

    Returns:
        None if it is not known which images were right (earlier versions did not store it), or they were the same.
    """
    known = [_unpack(ours) - _unpack(theirs) for ours, theirs in zip(a, b) if 'correct' in ours and 'correct' in theirs]
    if not known:
        return None
    gaps = np.stack(known)
    seeds, images = gaps.shape
    mean, of_seeds, of_images = gaps.mean(), gaps.mean(1, keepdims=True), gaps.mean(0, keepdims=True)
    parts = [(of_images.var(ddof=1) / images, images - 1)]  # each with its degrees of freedom
    if seeds > 1:
        rest = np.square(gaps - of_seeds - of_images + mean).sum() / ((seeds - 1) * (images - 1))
        by_seeds, by_both = of_seeds.var(ddof=1) / seeds, rest / (seeds * images)
        if by_seeds > by_both:
            parts += [(by_seeds, seeds - 1), (-by_both, (seeds - 1) * (images - 1))]
    variance = sum(part for part, _ in parts)
    if not variance > 0:
        return None
    return float(mean), float(np.sqrt(variance)), float(
        variance ** 2 / sum(part ** 2 / freedom for part, freedom in parts))


def plot(cells: Sequence[Dict[str, Any]], path: Path, split: str) -> None:
    """Plot the accuracy of each training, and mean and standard deviation of each cell, best cell first."""
    from matplotlib.figure import Figure
    figure = Figure(figsize=(8, 1.2 + 0.5 * len(cells)), layout='constrained')
    axes = figure.add_subplot(xlabel=f'accuracy on the {split} images, %')
    order = sorted(cells, key=lambda cell: cell['mean'])
    for y, cell in enumerate(order):
        axes.plot([100 * accuracy for accuracy in cell['accuracies'].values()], [y] * len(cell['accuracies']), 'o',
                  color='tab:gray', alpha=0.6)
        axes.errorbar(100 * cell['mean'], y, xerr=100 * (cell['std'] or 0.), fmt='D', color='tab:blue', capsize=4)
    axes.set_yticks(range(len(order)), [f'{cell["name"]}\n{cell["params"]:,} parameters' for cell in order])
    axes.margins(y=0.2)
    with atomic_write(path) as part:
        figure.savefig(part, format='svg')

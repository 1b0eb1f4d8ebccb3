"""Statistics and the plot of a comparison of cells."""
import statistics
from itertools import combinations
from pathlib import Path
from typing import Any, Dict, List, Protocol, Sequence

from ..files import atomic_write
from ..genotype.schema import Genotype

__all__ = ['plot', 'summarise']


class _Cell(Protocol):
    """What the summary says of a cell, a part of :class:`~nasnet_zoo.search.compare.Job`."""
    @property
    def name(self) -> str: ...

    @property
    def genotype(self) -> Genotype: ...


def summarise(cells: Sequence[_Cell], rows: Sequence[Dict[str, Any]]) -> Dict[str, Any]:
    """Return mean and standard deviation of each cell, and the difference of each pair.

    Args:
        cells: The cells, in the order of the result.
        rows: One row for each cell and seed; all cells have the same seeds.

    Returns:
        JSON data, see :func:`~nasnet_zoo.search.compare.run_comparison`.
    """
    found: List[Dict[str, Any]] = []
    for cell in cells:
        digest = cell.genotype.architecture_digest
        mine = sorted((row for row in rows if row['architecture'] == digest), key=lambda row: row['seed'])
        accuracies = [row['accuracy'] for row in mine]
        found.append(dict(
            name=cell.name, architecture=digest, **{name: mine[0][name] for name in ('cell_filters', 'params', 'macs')},
            mean=statistics.mean(accuracies), std=statistics.stdev(accuracies) if len(accuracies) > 1 else None,
            accuracies={str(row['seed']): row['accuracy'] for row in mine}))
    return dict(cells=found, differences=[_difference(a, b) for a, b in combinations(found, 2)])


def _difference(a: Dict[str, Any], b: Dict[str, Any]) -> Dict[str, Any]:
    """Compare two cells seed by seed: Student's paired t-test and Wilcoxon's signed-rank test, both two-sided."""
    gaps = [a['accuracies'][seed] - b['accuracies'][seed] for seed in a['accuracies']]
    result: Dict[str, Any] = dict(cell=a['name'], other=b['name'], difference=statistics.mean(gaps), interval_95=None,
                                  p_t_test=None, p_wilcoxon=None)
    if len(gaps) > 1 and statistics.stdev(gaps) > 0:
        from scipy import stats
        test = stats.ttest_1samp(gaps, 0.)
        low, high = test.confidence_interval(0.95)
        result.update(interval_95=[float(low), float(high)], p_t_test=float(test.pvalue),
                      p_wilcoxon=float(stats.wilcoxon(gaps).pvalue))
    return result


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

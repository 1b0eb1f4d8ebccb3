"""Rank correlations, and what the structure of a cell says without training. Used by benchmark_reward.py."""
import math
from collections import Counter
from functools import cache
from typing import Dict, List, Optional, Sequence

import numpy as np
from scipy import stats
from torch import nn

from nasnet_zoo.genotype.schema import Cell, Genotype
from nasnet_zoo.network.ops import LayerArgs, build_operation

Values = Sequence[Optional[float]]  # None stands for a cell without a value, which is left out


def _known(*columns: Values) -> List[np.ndarray]:
    """Return the columns without the rows in which any of them has no value."""
    rows = [row for row in zip(*columns) if all(value is not None and np.isfinite(value) for value in row)]
    return list(np.array(rows, dtype=float).reshape(-1, len(columns)).T)


def spearman(values: Values, accuracy: Values) -> Optional[float]:
    """Return Spearman's rank correlation; None if it is not defined."""
    return partial_spearman(values, accuracy, [])


def kendall(values: Values, accuracy: Values) -> Optional[float]:
    """Return Kendall's rank correlation (tau-b); None if it is not defined."""
    columns = _known(values, accuracy)
    result = float(stats.kendalltau(*columns).statistic) if len(columns[0]) > 2 else math.nan
    return result if math.isfinite(result) else None


def partial_spearman(values: Values, accuracy: Values, controls: Sequence[Values]) -> Optional[float]:
    """Return the partial rank correlation: that of what a linear fit of the controls' ranks leaves of both ranks.

    It is None if it is not defined: with too few cells, or if the controls explain one of the two completely.
    """
    ranks = [stats.rankdata(column) for column in _known(values, accuracy, *controls)]
    count = len(ranks[0])
    if count < len(controls) + 3:
        return None
    design = np.column_stack([np.ones(count), *ranks[2:]])
    rests = [y - design @ np.linalg.lstsq(design, y, rcond=None)[0] for y in ranks[:2]]
    scale = np.sqrt(np.prod([rest @ rest for rest in rests]))
    return float(rests[0] @ rests[1] / scale) if scale > 1e-6 * count else None


def mean_ranks(columns: Sequence[Values]) -> List[Optional[float]]:
    """Return the mean of the ranks in several columns; a single column stays as it is."""
    if len(columns) == 1:
        return list(columns[0])
    known = [all(value is not None and math.isfinite(value) for value in row) for row in zip(*columns)]
    ranks = np.mean([stats.rankdata([value for value, ok in zip(column, known) if ok]) for column in columns], axis=0)
    found = iter(ranks.tolist())
    return [next(found) if ok else None for ok in known]


def ridge_predictions(counts: Sequence[Dict[str, int]], accuracy: Sequence[float], penalty: float = 1.) -> List[float]:
    """Return what a ridge regression on operation counts predicts for each cell when it is fitted to the others."""
    names = sorted({name for row in counts for name in row})
    x = np.array([[row.get(name, 0) for name in names] for row in counts], dtype=float)
    x = (x - x.mean(0)) / (x.std(0) + 1e-9)
    y = np.array(accuracy) - np.mean(accuracy)
    hat = x @ np.linalg.solve(x.T @ x + penalty * np.eye(len(names)), x.T) + 1 / len(y)
    left_out = (y - hat @ y) / (1 - np.diag(hat)).clip(1e-9)  # the residual of a fit without the cell
    return (np.array(accuracy) - left_out).tolist()


def operation_counts(genotype: Genotype) -> Dict[str, int]:
    """Return how often each operation occurs in each kind of cell."""
    return dict(Counter(f'{kind} {op}' for kind, cell in genotype.cells.items()
                        for block in cell.blocks for op, _ in block.edges))


def longest_chain(genotype: Genotype) -> int:
    """Return the number of convolutions on the longest path through a cell, added up over the kinds of cells.

    Of an operation those convolutions count that are wider than a pixel, or one if all are 1x1.
    """
    return sum(_longest_path(cell) for cell in genotype.cells.values())


def _longest_path(cell: Cell) -> int:
    depths: Dict[str, int] = {}
    for i, block in enumerate(cell.blocks):
        depths[f'b{i}'] = max(depths.get(state, 0) + _convolutions(op) for op, state in block.edges)
    return max(depths.values())


@cache
def _convolutions(op: str) -> int:
    module = build_operation(op, 8, 8, 1, LayerArgs(dd=dict(device='meta')))
    convs = [layer for layer in module.modules() if isinstance(layer, nn.Conv2d)]
    return sum(max(conv.kernel_size) > 1 for conv in convs) or min(len(convs), 1)

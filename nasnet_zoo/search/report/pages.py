"""The report of a search: one HTML file that needs no other file, with plots as embedded SVG."""
import io
import statistics
from collections import Counter
from html import escape
from itertools import accumulate
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

import optuna

from ..drawing import draw
from ..files import write_utf8
from ..genotype.schema import Genotype
from .config import SearchConfig
from .objectives import OBJECTIVES
from .space import Space
from .study import finished_children

__all__ = ['write_report', 'pareto_front']


def pareto_front(points: Sequence[Tuple[float, float]]) -> List[int]:
    """Return the indices of the (cost, value) pairs that no other pair beats in both, sorted by cost."""
    front: List[int] = []
    for i in sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1])):
        if not front or points[i][1] > points[front[-1]][1]:
            front.append(i)
    return front


def write_report(
        config: SearchConfig, study: optuna.Study, space: Space, cell: Genotype, finals: Sequence[Dict[str, Any]],
        baseline: Optional[Sequence[Dict[str, Any]]] = None,
) -> Path:
    """Write report.html and cells.svg into the folder of a search.

    Args:
        config: The settings of the search.
        study: Its study.
        space: Its space.
        cell: The winner.
        finals: The best children after the longer training, best first.
        baseline: The finished children of another search to compare with.
    """
    children = finished_children(study)
    draw(cell, config.out / 'cells.svg')
    trials = study.get_trials(deepcopy=False)
    genotypes = {child['number']: space.genotype(space.tokens(trials[child['number']].params)) for child in children}
    failures = Counter(trial.user_attrs['reason'] for trial in trials if 'reason' in trial.user_attrs)
    text = _PAGE.format(
        name=escape(cell.name),
        settings=_settings_line(config, space),
        children=len(children),
        failed=failures.total(),
        cells=_inline((config.out / 'cells.svg').read_text(encoding='utf-8')),
        finalists=len(finals),
        finals=_final_rows(finals),
        accuracy_plot=_plot_accuracy(children, baseline),
        cost_plot=_plot_cost(children, config.objective or 'macs'),
        operations_plot=_plot_operations(children, genotypes),
        failures=_failure_list(failures))
    write_utf8(config.out / 'report.html', text)
    return config.out / 'report.html'


_PAGE = '''<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{name}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }}
td, th {{ padding: .2rem .8rem; text-align: right }} svg {{ max-width: 100%; height: auto }}
pre {{ background: #f4f4f4; padding: 1rem; overflow-x: auto }}
</style>
<h1>{name}</h1>
<p>{settings}. {children} children were trained; {failed} others failed or were pruned.</p>
<h2>The winner</h2>
{cells}
<p>The best {finalists} children were trained again, for longer. The winner is the best of them on the held-out images.
To build it at ImageNet size:</p>
<pre>import nasnet_zoo
model = nasnet_zoo.compile_genotype('cell.json', num_cells=4, cell_filters=44)</pre>
<h2>The best children, trained again</h2>
<table><tr><th>child<th>accuracy in the search<th>accuracy after longer training
<th>parameters<th>mult-adds<th>training time<th>architecture{finals}</table>
<h2>Accuracy over the search</h2>
{accuracy_plot}
<h2>Accuracy and cost</h2>
{cost_plot}
<h2>Operations of good cells</h2>
{operations_plot}
{failures}
</html>
'''


def _settings_line(config: SearchConfig, space: Space) -> str:
    shown = dict(space=space.name, sampler=config.sampler,
                 ppo_preset=config.ppo_preset if config.sampler == 'ppo' else None,
                 seed=config.seed, data=config.data, prune=config.prune, objective=config.objective)
    return ', '.join(f'{name} {escape(str(value))}' for name, value in shown.items() if value is not None)


def _final_rows(finals: Sequence[Dict[str, Any]]) -> str:
    return ''.join(
        f'<tr><td>{row["number"]}<td>{row["child_value"]:.2%}<td>{row["accuracy"]:.2%}<td>{row["params"]:,}'
        f'<td>{row["macs"]:,}<td>{row["seconds"]:.0f} s<td><code>{row["architecture"][:12]}</code>' for row in finals)


def _failure_list(failures: 'Counter[str]') -> str:
    if not failures:
        return ''
    reasons = ''.join(f'<li>{count} × {escape(reason)}' for reason, count in failures.most_common(10))
    return f'<h2>Failed and pruned children</h2><ul>{reasons}</ul>'


def _figure() -> Tuple[Any, Any]:
    from matplotlib.figure import Figure
    figure = Figure(figsize=(9, 4), layout='constrained')
    return figure, figure.add_subplot()


def _svg(figure: Any) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format='svg')
    return _inline(buffer.getvalue())


def _inline(svg: str) -> str:
    """Return the element of an SVG file, without its XML declaration."""
    return svg[svg.index('<svg'):]


def _plot_accuracy(children: Sequence[Dict[str, Any]], baseline: Optional[Sequence[Dict[str, Any]]]) -> str:
    figure, axes = _figure()
    values = [100 * child['value'] for child in children]
    axes.plot(values, '.', color='tab:gray', label='children')
    axes.plot(list(accumulate(values, max)), label='best so far')
    width = max(1, len(values) // 10)
    means = [statistics.mean(values[max(0, i - width + 1):i + 1]) for i in range(len(values))]
    axes.plot(means, label=f'mean of the last {width}')
    if baseline:
        best = list(accumulate((100 * child['value'] for child in baseline), max))
        axes.plot(best, '--', label='best so far of the baseline')
    axes.set(xlabel='children in the order in which they were proposed', ylabel='validation accuracy, %')
    axes.legend()
    return _svg(figure)


def _plot_cost(children: Sequence[Dict[str, Any]], objective: str) -> str:
    figure, axes = _figure()
    _, label, unit = OBJECTIVES[objective]
    points = [(child[objective] / unit, 100 * child['value']) for child in children]
    axes.plot(*zip(*points), '.', color='tab:gray')
    axes.plot(*zip(*(points[i] for i in pareto_front(points))), 'o-', label='Pareto front')
    axes.set(xlabel=label, ylabel='validation accuracy, %')
    axes.legend()
    return _svg(figure)


def _plot_operations(children: Sequence[Dict[str, Any]], genotypes: Dict[int, Genotype]) -> str:
    """Plot how frequent each operation is in the best fifth of the children and in all."""
    def shares(chosen: Sequence[Dict[str, Any]]) -> Dict[str, float]:
        counts = Counter(op for child in chosen for cell in genotypes[child['number']].cells.values()
                         for block in cell.blocks for op, _ in block.edges)
        return {op: 100 * count / counts.total() for op, count in counts.items()}
    every = shares(children)
    best = shares(sorted(children, key=lambda child: -child['value'])[:max(1, len(children) // 5)])
    ops = sorted(every, key=lambda op: best.get(op, 0.))
    figure, axes = _figure()
    axes.barh([i + 0.2 for i in range(len(ops))], [best.get(op, 0.) for op in ops], 0.4, label='best fifth')
    axes.barh([i - 0.2 for i in range(len(ops))], [every[op] for op in ops], 0.4, label='all', color='tab:gray')
    axes.set_yticks(range(len(ops)), ops)
    axes.set_xlabel('fraction of the operations, %')
    axes.legend()
    return _svg(figure)

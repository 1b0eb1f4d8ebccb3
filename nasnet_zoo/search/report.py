"""A search as one HTML file that needs nothing else: its pictures are SVG inside it."""
import io
import statistics
from collections import Counter
from html import escape
from itertools import accumulate
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

import optuna

from ..drawing import draw
from ..files import atomic_write
from ..genotype.schema import Genotype
from .evaluator import COSTS
from .space import Space
from .study import finished_children

__all__ = ['write_report', 'pareto_front']


def pareto_front(points: Sequence[Tuple[float, float]]) -> List[int]:
    """Which (cost, value) pairs no other beats in both, by cost."""
    front: List[int] = []
    for i in sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1])):
        if not front or points[i][1] > points[front[-1]][1]:
            front.append(i)
    return front


def write_report(
        out: Path, study: optuna.Study, space: Space, cell: Genotype, finals: Sequence[Dict[str, Any]],
        asked: Dict[str, Any],
        others: Optional[Sequence[Dict[str, Any]]] = None,
) -> Path:
    """Write report.html and cells.svg into a search's folder.

    Args:
        cell: The winner.
        finals: The best children after a longer training, best first.
        asked: The search's settings.
        others: Finished children of another search, such as random's, to show beside.
    """
    children = finished_children(study)
    with atomic_write(out / 'cells.svg') as part:
        draw(cell, part)
    trials = study.get_trials(deepcopy=False)
    failed = Counter(trial.user_attrs['reason'] for trial in trials if 'reason' in trial.user_attrs)
    genotypes = {child['number']: space.genotype(space.tokens(trials[child['number']].params)) for child in children}
    rows = ''.join(
        f'<tr><td>{row["number"]}<td>{row["child_value"]:.2%}<td>{row["accuracy"]:.2%}<td>{row["params"]:,}'
        f'<td>{row["macs"]:,}<td>{row["seconds"]:.0f} s<td><code>{row["architecture"][:12]}</code>' for row in finals)
    reasons = ''.join(f'<li>{count} × {escape(reason)}' for reason, count in failed.most_common(10))
    settings = ', '.join(f'{escape(str(name))} {escape(str(asked[name]))}' for name in (
        'space', 'sampler', 'preset', 'seed', 'data', 'prune', 'cost') if asked[name] is not None)
    text = f'''<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{escape(cell.name)}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }}
td, th {{ padding: .2rem .8rem; text-align: right }} svg {{ max-width: 100%; height: auto }}
pre {{ background: #f4f4f4; padding: 1rem; overflow-x: auto }}
</style>
<h1>{escape(cell.name)}</h1>
<p>{settings}. {len(children)} children were trained, {failed.total()} more gave no accuracy.</p>
<h2>The winner</h2>
{_inline((out / 'cells.svg').read_text(encoding='utf-8'))}
<p>Chosen by the images held out, after a longer training of the best {len(finals)}. At ImageNet size:</p>
<pre>import nasnet_zoo
model = nasnet_zoo.compile_genotype('cell.json', num_cells=4, cell_filters=44)</pre>
<h2>The best, trained for longer</h2>
<table><tr><th>child<th>in the search<th>now<th>parameters<th>mult-adds<th>training<th>architecture{rows}</table>
<h2>Accuracy over the search</h2>
{_over_time(children, others)}
<h2>Accuracy and cost</h2>
{_costs(children, asked['cost'] or 'macs')}
<h2>What good cells are made of</h2>
{_histogram(children, genotypes)}
{f'<h2>Children without an accuracy</h2><ul>{reasons}</ul>' if reasons else ''}
</html>
'''
    with atomic_write(out / 'report.html') as part:
        part.write_text(text, encoding='utf-8')
    return out / 'report.html'


def _figure() -> Tuple[Any, Any]:
    from matplotlib.figure import Figure
    figure = Figure(figsize=(9, 4), layout='constrained')
    return figure, figure.add_subplot()


def _svg(figure: Any) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format='svg')
    return _inline(buffer.getvalue())


def _inline(svg: str) -> str:
    """An SVG file as an element of a page."""
    return svg[svg.index('<svg'):]


def _over_time(children: Sequence[Dict[str, Any]], others: Optional[Sequence[Dict[str, Any]]]) -> str:
    figure, axes = _figure()
    values = [100 * child['value'] for child in children]
    axes.plot(values, '.', color='tab:gray', label='each child')
    axes.plot(list(accumulate(values, max)), label='best so far')
    width = max(1, len(values) // 10)
    means = [statistics.mean(values[max(0, i - width + 1):i + 1]) for i in range(len(values))]
    axes.plot(means, label=f'mean of the last {width}')
    if others:
        axes.plot(list(accumulate((100 * child['value'] for child in others), max)), '--', label='best of the baseline')
    axes.set(xlabel='children, in the order in which they were asked for', ylabel='validation accuracy, %')
    axes.legend()
    return _svg(figure)


def _costs(children: Sequence[Dict[str, Any]], cost: str) -> str:
    figure, axes = _figure()
    label, unit = COSTS[cost]
    points = [(child[cost] / unit, 100 * child['value']) for child in children]
    axes.plot(*zip(*points), '.', color='tab:gray')
    axes.plot(*zip(*(points[i] for i in pareto_front(points))), 'o-', label='no other is both cheaper and better')
    axes.set(xlabel=label, ylabel='validation accuracy, %')
    axes.legend()
    return _svg(figure)


def _histogram(children: Sequence[Dict[str, Any]], genotypes: Dict[int, Genotype]) -> str:
    """How often each operation stands in the best fifth and in all."""
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
    axes.set_xlabel('share of all edges, %')
    axes.legend()
    return _svg(figure)

"""The command that compares cells."""
from typing import Any, Dict, Optional, Sequence

from rich.console import Console
from rich.table import Table

from ..extras import require
from ..progress import line_printer, make_progress
from ..search.compare_config import CompareConfig
from .common import AsJson, exit_on_error, print_report
from .options import with_settings

__all__ = ['compare']


@with_settings(CompareConfig)
def compare(config: CompareConfig, as_json: AsJson = False) -> None:
    """Compare cells at equal cost.

    Each cell is built into a network and trained with several seeds. With --match, all networks have about the same
    cost. The accuracies are compared seed by seed. An interrupted comparison continues with --resume.
    """
    with exit_on_error(config.out / 'compare.json'):
        require('a comparison', 'search')
        from ..search.compare import run_comparison
        with make_progress('epochs') as progress:
            task = progress.add_task('', total=None)
            result = run_comparison(
                config, lambda done, total: progress.update(task, completed=done, total=total),
                log=line_printer(progress))
    print_report(result, as_json, _print_result)


def _print_result(result: Dict[str, Any]) -> None:
    table = Table('cell', 'F', 'parameters', 'mult-adds', 'accuracy', title_justify='left',
                  title='Mean and standard deviation over the seeds')
    for cell in sorted(result['cells'], key=lambda cell: -cell['mean']):
        spread = '' if cell['std'] is None else f' ± {cell["std"]:.2%}'
        table.add_row(cell['name'], str(cell['cell_filters']), f'{cell["params"]:,}', f'{cell["macs"]:,}',
                      f'{cell["mean"]:.2%}{spread}')
    Console().print(table)
    first = result['cells'][0]['name']
    shown = [pair for pair in result['differences'] if pair['cell'] == first]
    if shown:
        several = len(result['cells'][0]['accuracies']) > 1
        drawn = 'seeds and images' if several else 'images'
        note = '' if several else ' With one seed, nobody knows whether other seeds would differ more.'
        tests = Table(
            'other cell', 'points', '95 %, seeds', 'p, t-test', 'p, Wilcoxon', f'95 %, {drawn}', 'p',
            title=f'{first} minus each other cell: difference of the means, 95 % intervals, and tests over the seeds '
                  f'and over {drawn}.{note}', title_justify='left')
        for pair in shown:
            tests.add_row(
                pair['other'], f'{100 * pair["difference"]:+.2f}', _interval(pair['interval_95']),
                _p(pair['p_t_test']), _p(pair['p_wilcoxon']), _interval(pair['interval_95_images']),
                _p(pair['p_images']))
        Console().print(tests)


def _interval(interval: Optional[Sequence[float]]) -> str:
    return '' if interval is None else f'{100 * interval[0]:+.2f} to {100 * interval[1]:+.2f}'


def _p(value: Optional[float]) -> str:
    return '' if value is None else f'{value:.2g}'

"""The command that searches for cells."""
import time
from typing import Any, Dict, List, Optional

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import ProgressColumn, Task
from rich.table import Table
from rich.text import Text

from ..extras import require
from ..progress import line_printer, make_progress
from ..search.config import SearchConfig
from .common import AsJson, exit_on_error, print_report
from .options import with_settings

__all__ = ['search']


@with_settings(SearchConfig)
def search(
        config: SearchConfig,
        status: bool = typer.Option(False, '--status', help=(
            'Print the finished children of the search in --out and how long it will still take, and exit.')),
        as_json: AsJson = False,
) -> None:
    """Search for new cells.

    A sampler proposes pairs of cells. Each pair is built into a small network, a child, and trained, and the sampler is
    told a reward: the accuracy of the child on held-out images, or exp(-loss) (--reward). At the end, the best children
    are trained again, for longer. The option --seed sets the seed of both the sampler and the training of the children.
    """
    with exit_on_error(config.out / 'search.json'):
        require('a search', 'search')
        import optuna

        from ..search.run import search_forecast, search_status
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        if status:
            print_report(search_status(config.out, config.storage), as_json, _print_children)
            forecast = search_forecast(config.out, config.storage)
            if forecast and not as_json:
                print(forecast)
            return
        result = _run_with_progress(config)
    print_report(result, as_json, _print_winner)


def _print_winner(result: Dict[str, Any]) -> None:
    print(f'{result["genotype"]}: accuracy {result["accuracy"]:.2%} on held-out images, {result["params"]:,} '
          f'parameters\n{result["cell"]}\n\nimport nasnet_zoo\n'
          f'model = nasnet_zoo.compile_genotype({result["cell"]!r}, num_cells=4, cell_filters=44)')


class _TimeLeft(ProgressColumn):
    """Counts down to ``task.fields['end']``, the time on the clock at which the search is expected to end."""

    def render(self, task: Task) -> Text:
        from ..search.forecast import show_duration
        end: Optional[float] = task.fields['end']
        return Text('' if end is None else f'{show_duration(max(0., end - time.time()))} left')


def _run_with_progress(config: SearchConfig) -> Dict[str, Any]:
    """Run a search, with a progress bar on stderr."""
    from ..search.loop import Progress as Finished
    from ..search.run import run_search
    with make_progress(after=(
            'best reward {task.fields[best]:.4f}  {task.fields[per_hour]:.0f} children per hour  '
            '{task.fields[failed]} failed {task.fields[reason]}'), left=_TimeLeft()) as progress:
        task = progress.add_task('', total=config.trials, best=float('nan'), per_hour=0., failed=0, reason='', end=None)

        def update(now: Finished) -> None:
            progress.update(
                task, completed=now.finished, best=float('nan') if now.best is None else now.best,
                per_hour=now.per_hour, failed=now.failed,
                end=None if now.seconds_left is None else time.time() + now.seconds_left,
                reason=escape(f'(last reason: {now.failures[-1]})') if now.failures else '')

        return run_search(config, update, log=line_printer(progress))


def _print_children(children: List[Dict[str, Any]]) -> None:
    """Print the best twenty as a table."""
    table = Table('child', 'reward', 'accuracy', 'parameters', 'mult-adds', 'architecture',
                  title=f'{len(children)} children', title_justify='left')
    for child in sorted(children, key=lambda child: -child['value'])[:20]:
        table.add_row(str(child['number']), f'{child["value"]:.4f}', f'{child["accuracy"]:.2%}', f'{child["params"]:,}',
                      f'{child["macs"]:,}', child['architecture'][:12])
    Console().print(table)

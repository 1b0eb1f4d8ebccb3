"""The command that writes reports of searches."""
from pathlib import Path
from typing import Any, Dict, List, Optional

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..extras import require
from ..search.make_space import OWN_SPACE
from .common import AsJson, exit_on_error, print_report

__all__ = ['report']


def report(
        folders: List[Path] = typer.Argument(metavar='DIR...', help='Folders of searches, which may be running.'),
        out: Optional[Path] = typer.Option(None, help=(
            'The page to write. The default is report.html in DIR or, for several searches, comparison.html in the '
            'current folder.')),
        storage: Optional[str] = typer.Option(None, help=(
            'URL of the Optuna storage of those searches that were started with --storage.')),
        space: Optional[str] = typer.Option(None, metavar=OWN_SPACE[0], help=(
            "The space of those searches that were started with one of your own. Its file is executed; without it, the "
            'page does not show their cells.')),
        child: Optional[List[int]] = typer.Option(None, metavar='NUMBER', help=(
            'Number of a child of the search whose cells are written beside the page, as child_NUMBER.json. Repeat the '
            'option for several.')),
        as_json: AsJson = False,
) -> None:
    """Write the report of a search, or compare several searches on one page.

    The page needs no other file. A comparison shows the best children so far over the number of children, the
    distribution of the rewards, tests for differences between the searches, and the best cells beside each other.
    """
    with exit_on_error():
        require('a report', 'search')
        import optuna

        from ..search.report.pages import write_report
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        default = folders[0] / 'report.html' if len(folders) == 1 else Path('comparison.html')
        result = write_report(folders, out or default, storage, space, child or ())
    print_report(result, as_json, _print_result)


def _print_result(result: Dict[str, Any]) -> None:
    table = Table('search', 'children', 'failed', 'best', 'mean of the top 5', 'mean of the top 25', 'winner',
                  title='Rewards', title_justify='left')
    for search in result['searches']:
        rewards = ['' if value is None else f'{value:.4f}' for value in search['rewards'].values()]
        table.add_row(escape(search['name']), str(search['children']), str(search['failed']), *rewards,
                      escape(search['winner'] or ''))
    Console().print(table)
    for path in (result['page'], *result['cells']):
        print(path)

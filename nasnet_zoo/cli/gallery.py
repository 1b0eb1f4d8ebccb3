"""The ``gallery`` command."""
from pathlib import Path

import typer

from ..progress import make_progress
from .common import AsJson, exit_on_error, print_report

__all__ = ['gallery']


def gallery(
        out: Path = typer.Option(..., help='Folder to which the page is written, as index.html.'),
        as_json: AsJson = False,
) -> None:
    """Write a page with every built-in genotype: its cells, costs, published results, and the code that builds it.

    The page needs no other file and no server.
    """
    from ..gallery import write_gallery
    with exit_on_error(), make_progress('{task.fields[name]}', quiet=as_json) as progress:
        task = progress.add_task('', total=None, name='')
        page = write_gallery(out, lambda name, total: progress.update(task, advance=1, total=total, name=name))
    print_report(dict(page=str(page)), as_json, lambda report: print(f'written: {report["page"]}'))

"""Progress bars."""
from functools import partial
from typing import Callable, Optional

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn

__all__ = ['line_printer', 'make_progress']


def make_progress(
        *before: str, after: str = '', left: Optional[ProgressColumn] = None, transient: bool = False,
        quiet: bool = False, stderr: bool = True,
) -> Progress:
    """Return a progress bar: texts, a bar, how many of how many, a text, and the time that is left.

    Nothing is drawn if the stream is not a terminal, or one that cannot redraw a line (``TERM=dumb``).

    Args:
        before: Texts to the left of the bar. They may show fields of the task: ``'loss {task.fields[loss]:.3f}'``.
        after: Text to the right of the counts.
        left: Shows the time that is left. By default it is computed from how the counts have grown in the last seconds.
        transient: Remove the bar at the end.
        quiet: Print nothing.
        stderr: Draw on standard error instead of standard output.
    """
    columns = [*map(TextColumn, before), BarColumn(), MofNCompleteColumn(), *([TextColumn(after)] if after else []),
               left or TimeRemainingColumn()]
    console = Console(highlight=False, stderr=stderr, quiet=quiet)
    return Progress(*columns, console=console, transient=transient,
                    disable=not console.file.isatty() or console.is_dumb_terminal)


def line_printer(progress: Progress) -> Callable[[str], None]:
    """Return a function that prints a line above a progress bar. Long lines, such as those with paths, stay whole."""
    return partial(progress.console.print, markup=False, soft_wrap=True)

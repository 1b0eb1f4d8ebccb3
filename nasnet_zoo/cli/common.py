"""What several commands share: errors, progress bars, tables and JSON."""
import json
import os
import sys
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Callable, Dict, Iterator, Optional

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
from safetensors import SafetensorError

from ..checked import printable

__all__ = ['AsJson', 'drop_none', 'exit_on_error', 'exit_on_interrupt', 'line_printer', 'make_progress', 'print_report']

# The parameter that `print_report` needs.
AsJson = Annotated[bool, typer.Option('--json', help='Print the result as JSON.')]


@contextmanager
def exit_on_interrupt(how_to_go_on: Callable[[], str]) -> Iterator[None]:
    """Print one line after Ctrl-C, and exit with code 130, instead of showing a traceback.

    Args:
        how_to_go_on: Returns what the line says after "interrupted; ". It is called after the interruption.
    """
    try:
        yield
    except KeyboardInterrupt:
        if os.environ.get('RANK', '0') == '0':  # torchrun's processes are all interrupted
            print(f'interrupted; {how_to_go_on()}', file=sys.stderr)
        raise SystemExit(130) from None


@contextmanager
def exit_on_error(resumable: Optional[Path] = None) -> Iterator[None]:
    """Print errors that bad input causes as one line, and exit with code 1, instead of showing a traceback.

    After Ctrl-C, one line says how to go on, and the code is 130.

    Args:
        resumable: The file that exists once the command can be continued with --resume. None if it cannot.
    """
    def how_to_go_on() -> str:
        if resumable and resumable.exists():
            return 'run the same command with --resume to continue'
        return 'there is nothing to resume; run the same command to start again'

    try:
        with exit_on_interrupt(how_to_go_on):
            yield
    except (ValueError, TypeError, ImportError, OSError, RuntimeError, FloatingPointError, SafetensorError) as error:
        message = printable(error, keep='\n')  # names in foreign files may hold escape sequences
        print(f'error: {message}', file=sys.stderr)
        raise typer.Exit(1) from None


def drop_none(**options: Any) -> Dict[str, Any]:
    """Return the options that are not None."""
    return {name: value for name, value in options.items() if value is not None}


def make_progress(
        *before: str, after: str = '', left: Optional[ProgressColumn] = None, transient: bool = False,
        quiet: bool = False,
) -> Progress:
    """Return a progress bar on standard error: texts, a bar, how many of how many, a text, and the time that is left.

    Nothing is drawn if standard error is not a terminal.

    Args:
        before: Texts to the left of the bar. They may show fields of the task: ``'loss {task.fields[loss]:.3f}'``.
        after: Text to the right of the counts.
        left: Shows the time that is left. By default it is computed from how the counts have grown in the last seconds.
        transient: Remove the bar at the end.
        quiet: Print nothing.
    """
    columns = [*map(TextColumn, before), BarColumn(), MofNCompleteColumn(), *([TextColumn(after)] if after else []),
               left or TimeRemainingColumn()]
    return Progress(*columns, console=Console(highlight=False, stderr=True, quiet=quiet), transient=transient,
                    disable=not sys.stderr.isatty())


def line_printer(progress: Progress) -> Callable[[str], None]:
    """Return a function that prints a line above a progress bar. Long lines, such as those with paths, stay whole."""
    return partial(progress.console.print, markup=False, soft_wrap=True)


def print_report(report: Any, as_json: bool, print_text: Callable[[Any], None]) -> None:
    """Print a report as one line of JSON if that is wanted, otherwise with `print_text`."""
    if as_json:
        print(json.dumps(report))
    else:
        print_text(report)

"""What several commands share: errors, tables and JSON."""
import json
import os
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Callable, Dict, Iterator, Optional

import typer
from safetensors import SafetensorError

from ..checked import printable

__all__ = ['AsJson', 'drop_none', 'exit_on_error', 'exit_on_interrupt', 'print_report']

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


def print_report(report: Any, as_json: bool, print_text: Callable[[Any], None]) -> None:
    """Print a report as one line of JSON if that is wanted, otherwise with `print_text`."""
    if as_json:
        print(json.dumps(report))
    else:
        print_text(report)

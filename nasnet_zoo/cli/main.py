"""The ``nasnet-zoo`` command: one module for each group of its subcommands."""
import inspect
import io
import re
import sys
import warnings
from typing import Annotated, Any

import typer
from huggingface_hub.utils import disable_progress_bars

from ..version import __version__
from .compare import compare
from .convert import convert
from .demo import demo
from .deploy import classify, export
from .describe import describe
from .doctor import doctor
from .gallery import gallery
from .hub import push
from .report import report
from .search import search
from .training import train, validate

__all__ = ['app']


class _App(typer.Typer):
    """The command. What the encoding of a terminal or a pipe cannot express is printed as an escape sequence."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors='backslashreplace')
        return super().__call__(*args, **kwargs)


app = _App(no_args_is_help=True)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f'nasnet-zoo {__version__}')
        raise typer.Exit


@app.callback()
def main(
        version: Annotated[bool, typer.Option(
            '--version', callback=_print_version, is_eager=True, help='Print the version and exit.')] = False,
) -> None:
    """Build networks from genotypes: describe, search for, train, validate, convert, publish, export and run them."""
    if not sys.stderr.isatty():
        disable_progress_bars()  # of downloads from the Hub
    warnings.showwarning = lambda message, *args, **kwargs: print(f'warning: {message}', file=sys.stderr)


for command in (
        describe, gallery, demo, train, search, report, compare, validate, convert, push, export, classify, doctor):
    # Typer would keep the line breaks of the source.
    app.command(help=re.sub(r'(?<!\n)\n(?!\n)', ' ', inspect.getdoc(command) or ''))(command)

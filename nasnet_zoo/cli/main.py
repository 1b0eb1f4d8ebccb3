"""The ``nasnet-zoo`` command: one module for each group of its subcommands."""
import io
import sys
import warnings
from typing import Any

import typer

from .compare import compare
from .convert import convert
from .deploy import classify, export
from .describe import describe
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


app = _App(no_args_is_help=True, add_completion=False)


@app.callback()
def main() -> None:
    """Build networks from genotypes: describe, search for, train, validate, convert, publish, export and run them."""
    warnings.showwarning = lambda message, *args, **kwargs: print(f'warning: {message}', file=sys.stderr)


for command in (
        describe, gallery, train, search, report, compare, validate, convert, push, export, classify):
    app.command()(command)

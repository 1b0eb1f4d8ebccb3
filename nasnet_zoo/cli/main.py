"""The ``nasnet-zoo`` command: one module for each group of its subcommands."""
import sys
import warnings

import typer

from .deploy import classify, export
from .describe import describe
from .hub import push
from .search import search
from .training import train, validate

__all__ = ['app']

app = typer.Typer(no_args_is_help=True, add_completion=False)


@app.callback()
def main() -> None:
    """Build networks from genotypes: describe, search for, train, validate, publish, export and run them."""
    warnings.showwarning = lambda message, *args, **kwargs: print(f'warning: {message}', file=sys.stderr)


for command in (describe, train, search, validate, push, export, classify):
    app.command()(command)

"""What all commands have in common."""
import sys
from contextlib import contextmanager
from typing import Any, Dict, Iterator

import typer
from safetensors import SafetensorError

__all__ = ['drop_none', 'exit_on_error']


@contextmanager
def exit_on_error() -> Iterator[None]:
    """What is wrong with the input as a sentence, not as a traceback."""
    try:
        yield
    except (ValueError, TypeError, ImportError, OSError, RuntimeError, FloatingPointError, SafetensorError) as error:
        print(f'error: {error}', file=sys.stderr)
        raise typer.Exit(1) from None


def drop_none(**options: Any) -> Dict[str, Any]:
    """Those that are not None."""
    return {name: value for name, value in options.items() if value is not None}

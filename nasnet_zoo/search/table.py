"""Rows of tables such as the table of samplers. A row names its function, which is only imported when needed."""
import importlib
from typing import Any, Callable, NamedTuple

__all__ = ['Entry']


class Entry(NamedTuple):
    """One row of a table.

    Attributes:
        description: One line for help texts.
        function: Where the function is, as ``module:name``, relative to ``nasnet_zoo.search``.
    """
    description: str
    function: str

    def resolve(self) -> Callable[..., Any]:
        """Import and return the function."""
        module, name = self.function.split(':')
        return getattr(importlib.import_module(f'.{module}', __package__), name)

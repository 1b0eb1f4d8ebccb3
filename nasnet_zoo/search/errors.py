"""Errors of a search. They are in a module of their own so that workers need not import Optuna to raise them."""

__all__ = ['ChildError', 'Pruned', 'SearchError', 'WorkerDied']


class SearchError(ValueError):
    """The search cannot start or continue. The message says why."""


class NothingNew(SearchError):
    """The sampler proposes only children that are known already."""


class ChildError(RuntimeError):
    """A child has no accuracy. This is a result of the search, not a failure of it; the message says why."""


class Pruned(ChildError):
    """The training of a child was stopped early."""


class WorkerDied(ChildError):
    """The process that trained the child ended unexpectedly."""

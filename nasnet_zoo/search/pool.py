"""The interface of worker pools, and the functions that run in a worker process."""
from collections import deque
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import Any, Callable, Dict, Iterable, Iterator, Optional, Protocol, Tuple

import torch

from ..training.trainer import keep_freed_memory
from .errors import ChildError
from .pruning import ShouldPrune
from .timing import child_seconds

__all__ = ['ChildPool', 'Evaluate', 'MakeEvaluate', 'WorkerPool', 'completed', 'estimate_in_worker',
           'evaluate_in_worker', 'prepare_worker']

# What a worker does: in a search it takes a genotype and returns an Evaluation, in a comparison a job and its row.
Evaluate = Callable[[Any, Optional[ShouldPrune]], Any]
MakeEvaluate = Callable[[], Evaluate]


class ChildPool(Protocol):
    """Workers that evaluate children.

    Attributes:
        size: Number of children that can be evaluated at the same time.
        host: The address of this machine as workers see it, for pruning questions.
    """
    size: int
    host: str

    def submit(self, child: Any, should_prune: Optional[ShouldPrune] = None) -> Future:
        """Start to evaluate a child, which is what the function of the workers takes.

        At most `size` children may be waiting for :meth:`result` at the same time.
        """

    def result(self, future: Future) -> Any:
        """Return what the function of the workers has returned, or the seconds. It must be called once for each future.

        Raises:
            ChildError: If the child has no accuracy.
        """

    def close(self) -> None:
        """Stop all evaluations and release the workers."""


class WorkerPool(ChildPool, Protocol):
    """Workers that can also say beforehand how long an evaluation will take."""

    def estimate(self, child: Any) -> Future:
        """Start to measure how many seconds the evaluation of a child will take. It counts as a child, too."""


def completed(
        start: Callable[[Any], Future], size: int, children: Iterable[Any], poll: Optional[float] = None,
        on_poll: Callable[[], None] = lambda: None,
) -> Iterator[Tuple[Any, Future]]:
    """Start all children, `size` at a time, and yield each with its future when that is done.

    Args:
        start: ``submit`` or ``estimate`` of a pool. The caller passes each future to the pool's ``result``.
        size: Number of children that are evaluated at the same time.
        children: The children.
        poll: Number of seconds to wait for a child at most; without limit if None.
        on_poll: Is called after each wait, when the children that have finished were yielded.
    """
    waiting = deque(children)
    running: Dict[Future, Any] = {}
    while waiting or running:
        while waiting and len(running) < size:
            child = waiting.popleft()
            running[start(child)] = child
        for future in wait(running, timeout=poll, return_when=FIRST_COMPLETED).done:
            yield running.pop(future), future
        on_poll()


_evaluate: Evaluate  # the evaluator of this process, if it is a worker process


def prepare_worker(make: MakeEvaluate, threads: int) -> None:
    """Create the evaluator of this worker process."""
    global _evaluate
    torch.set_num_threads(threads)
    keep_freed_memory()
    _evaluate = make()


def evaluate_in_worker(child: Any, should_prune: Optional[ShouldPrune]) -> Any:
    """Evaluate a child in this worker process."""
    return _evaluate(child, should_prune)


def estimate_in_worker(child: Any) -> float:
    """Measure in this worker process how many seconds the evaluation of a child will take.

    Raises:
        ChildError: If it cannot be trained.
    """
    try:
        return child_seconds(_evaluate, child)  # type: ignore[arg-type]  # an Evaluator, except in tests
    except (ValueError, FloatingPointError, RuntimeError, MemoryError) as error:
        raise ChildError(str(error)) from None

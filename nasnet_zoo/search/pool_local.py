"""Workers that are processes on this machine."""
import multiprocessing
import os
import threading
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, Dict, Optional

import torch

from .errors import WorkerDied
from .pool import MakeEvaluate, evaluate_in_worker, prepare_worker
from .pruning import ShouldPrune

__all__ = ['LocalPool']


class LocalPool:
    """A pool of processes that share the CPU cores of this machine. A process that dies is replaced.

    Args:
        make: Creates the evaluator of a process. It must be picklable.
        size: Number of processes.
    """
    host = '127.0.0.1'

    def __init__(self, make: MakeEvaluate, size: int) -> None:
        self.size, self._make = size, make
        self._idle = [self._start_worker() for _ in range(size)]
        self._busy: Dict[Future, ProcessPoolExecutor] = {}

    def _start_worker(self) -> ProcessPoolExecutor:
        """Each worker is an executor of one process, so that it is known which child a dead process evaluated."""
        threads = max(1, torch.get_num_threads() // self.size)
        return ProcessPoolExecutor(1, multiprocessing.get_context('spawn'), _start, (self._make, threads))

    def submit(self, child: Any, should_prune: Optional[ShouldPrune] = None) -> Future:
        """See :class:`~nasnet_zoo.search.pool.WorkerPool`."""
        worker = self._idle.pop()
        try:
            future = worker.submit(evaluate_in_worker, child, should_prune)
        except BrokenProcessPool:  # it died while it was idle
            worker = self._start_worker()
            future = worker.submit(evaluate_in_worker, child, should_prune)
        self._busy[future] = worker
        return future

    def result(self, future: Future) -> Any:
        """See :class:`~nasnet_zoo.search.pool.WorkerPool`."""
        worker = self._busy.pop(future)
        try:
            return future.result()
        except BrokenProcessPool:
            worker = self._start_worker()
            raise WorkerDied('the worker process died, perhaps because it ran out of memory') from None
        finally:
            self._idle.append(worker)

    def close(self) -> None:
        """See :class:`~nasnet_zoo.search.pool.WorkerPool`."""
        for worker in [*self._idle, *self._busy.values()]:
            # Waiting could take hours. Executors can kill their processes publicly from Python 3.14 on only.
            for process in list((worker._processes or {}).values()):
                process.kill()
            worker.shutdown(wait=False, cancel_futures=True)


def _start(make: MakeEvaluate, threads: int) -> None:
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    prepare_worker(make, threads)


def _exit_with_parent() -> None:
    """A killed search must not leave workers behind, which would wait for work for ever."""
    multiprocessing.parent_process().join()
    os._exit(1)

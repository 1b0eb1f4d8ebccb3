"""Workers that are processes on this machine."""
import multiprocessing
import os
import signal
import threading
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, Callable, Dict, List, NamedTuple, Optional

import torch

from .errors import WorkerDied
from .pool import MakeEvaluate, estimate_in_worker, evaluate_in_worker, prepare_worker
from .pruning import ShouldPrune

__all__ = ['LocalPool', 'visible_gpus']


class _Worker(NamedTuple):
    """A process that evaluates children.

    Attributes:
        executor: An executor of this one process, so that it is known which child a dead process evaluated.
        gpu: The GPU that it uses, as in ``CUDA_VISIBLE_DEVICES``; None if the process sees what this one sees.
    """
    executor: ProcessPoolExecutor
    gpu: Optional[str]


class LocalPool:
    """A pool of processes that share the CPU cores and the GPUs of this machine. A process that dies is replaced.

    With several GPUs, worker i only sees GPU i modulo their number, and so does a process that replaces it.

    Args:
        make: Creates the evaluator of a process. It must be picklable.
        size: Number of processes.
    """
    host = '127.0.0.1'

    def __init__(self, make: MakeEvaluate, size: int) -> None:
        self.size, self._make = size, make
        gpus = visible_gpus()
        self._idle = [self._start_worker(gpus[i % len(gpus)] if len(gpus) > 1 else None) for i in range(size)]
        self._busy: Dict[Future, _Worker] = {}

    def _start_worker(self, gpu: Optional[str]) -> _Worker:
        threads = max(1, torch.get_num_threads() // self.size)
        spawn = multiprocessing.get_context('spawn')
        return _Worker(ProcessPoolExecutor(1, spawn, _start, (self._make, threads, gpu)), gpu)

    def submit(self, child: Any, should_prune: Optional[ShouldPrune] = None) -> Future:
        """See :class:`~nasnet_zoo.search.pool.WorkerPool`."""
        return self._submit(evaluate_in_worker, child, should_prune)

    def estimate(self, child: Any) -> Future:
        """See :class:`~nasnet_zoo.search.pool.WorkerPool`."""
        return self._submit(estimate_in_worker, child)

    def _submit(self, function: Callable[..., Any], *args: Any) -> Future:
        worker = self._idle.pop()
        try:
            future = worker.executor.submit(function, *args)
        except BrokenProcessPool:  # it died while it was idle
            worker = self._start_worker(worker.gpu)
            future = worker.executor.submit(function, *args)
        self._busy[future] = worker
        return future

    def result(self, future: Future) -> Any:
        """See :class:`~nasnet_zoo.search.pool.WorkerPool`."""
        worker = self._busy.pop(future)
        try:
            return future.result()
        except BrokenProcessPool:
            worker = self._start_worker(worker.gpu)
            raise WorkerDied('the worker process died, perhaps because it ran out of memory') from None
        finally:
            self._idle.append(worker)

    def close(self) -> None:
        """See :class:`~nasnet_zoo.search.pool.WorkerPool`."""
        for worker in [*self._idle, *self._busy.values()]:
            # Waiting could take hours. Executors can kill their processes publicly from Python 3.14 on only.
            for process in list((worker.executor._processes or {}).values()):
                process.kill()
            worker.executor.shutdown(wait=False, cancel_futures=True)


def visible_gpus() -> List[str]:
    """Return the CUDA devices that this process may use, as ``CUDA_VISIBLE_DEVICES`` lists them, by index or UUID.

    PyTorch counts them without initialising CUDA, and leaves out what CUDA would ignore.
    """
    count, listed = torch.cuda.device_count(), os.environ.get('CUDA_VISIBLE_DEVICES')
    return ([str(i) for i in range(count)] if listed is None else listed.replace(' ', '').split(','))[:count]


def _start(make: MakeEvaluate, threads: int, gpu: Optional[str]) -> None:
    if gpu is not None:  # CUDA reads this when it is initialised, which is in `make` at the earliest
        os.environ['CUDA_VISIBLE_DEVICES'] = gpu
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes of a terminal; the parent ends this one
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    prepare_worker(make, threads)


def _exit_with_parent() -> None:
    """A killed search must not leave workers behind, which would wait for work for ever."""
    multiprocessing.parent_process().join()
    os._exit(1)

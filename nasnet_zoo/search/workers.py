"""Those who evaluate children: processes on this machine, or tasks on a Ray cluster."""
import json
import multiprocessing
import os
import secrets
import socket
import threading
import uuid
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from socketserver import StreamRequestHandler, ThreadingTCPServer
from typing import Any, Callable, Dict, Optional, Tuple

import torch

from ..genotype.schema import Genotype
from .evaluator import ChildError, Evaluation, Report
from .study import SearchError

__all__ = ['WorkerDied', 'LocalWorkers', 'RayWorkers', 'Judge']

Evaluate = Callable[[Genotype, Optional[Report]], Evaluation]

PATIENCE = 60.  # seconds that a worker waits for the answer, and the other way round


class WorkerDied(ChildError):
    """A child that took its process along."""


class LocalWorkers:
    """Processes that share this machine's cores. Each evaluates a child at a time and is replaced if it dies.

    Args:
        make: Makes an evaluator, once a process; it must be picklable.
        size: How many.
    """

    host = '127.0.0.1'  # where workers find this process

    def __init__(self, make: Callable[[], Evaluate], size: int) -> None:
        self.size, self._make = size, make
        self._idle = [self._new() for _ in range(size)]
        self._busy: Dict[Future, Executor] = {}

    def _new(self) -> Executor:
        threads = max(1, torch.get_num_threads() // self.size)  # of the cores that this process may use
        return ProcessPoolExecutor(  # of one, so that a death is known to be its child's
            1, multiprocessing.get_context('spawn'), initializer=_begin, initargs=(self._make, threads))

    def submit(self, genotype: Genotype, report: Optional[Report] = None) -> Future:
        """Have a child evaluated; there must be an idle worker."""
        worker = self._idle.pop()
        try:
            future = worker.submit(_work, genotype, report)
        except BrokenProcessPool:  # it died while it was idle
            worker = self._new()
            future = worker.submit(_work, genotype, report)
        self._busy[future] = worker
        return future

    def result(self, future: Future) -> Evaluation:
        """What became of a child that is done; its worker is idle again.

        Raises:
            ChildError: For a child that gives no accuracy.
        """
        worker = self._busy.pop(future)
        try:
            return future.result()
        except BrokenProcessPool:
            worker = self._new()
            raise WorkerDied('its worker died, perhaps for lack of memory') from None
        finally:
            self._idle.append(worker)

    def close(self) -> None:
        """End the processes, what they are doing included."""
        for worker in [*self._idle, *self._busy.values()]:
            for process in list((worker._processes or {}).values()):
                process.kill()  # a child may take hours, and what it has so far is worth nothing
            worker.shutdown(wait=False, cancel_futures=True)


_evaluate: Evaluate  # of a worker's process


def _begin(make: Callable[[], Evaluate], threads: int) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _prepare(make, threads)


def _prepare(make: Callable[[], Evaluate], threads: int) -> None:
    global _evaluate
    from ..training.trainer import keep_freed_memory
    torch.set_num_threads(threads)
    keep_freed_memory()
    _evaluate = make()


def _end_with_parent() -> None:
    """A killed search must not leave workers behind: the queue they wait for never ends."""
    multiprocessing.parent_process().join()
    os._exit(1)


def _work(genotype: Genotype, report: Optional[Report]) -> Evaluation:
    return _evaluate(genotype, report)


class RayWorkers:
    """Tasks on a Ray cluster. One that is lost with its node or its process is begun again elsewhere.

    Args:
        make: Makes an evaluator, once a process of Ray's. The nodes need this package installed, at the same version.
        address: As ``ray.init`` takes it: ``auto``, ``HOST:PORT``, ``ray://HOST:PORT``, or ``local`` for a cluster of
            this machine.
        size: Children at a time; by default as many as the cluster has room for.
        cpus, gpus: Of a child; parts of one are allowed.
        retries: Of a child whose node or process is lost.

    Raises:
        SearchError: Where Ray is not installed, is not there, or has no room for a child.
    """

    def __init__(
            self,
            make: Callable[[], Evaluate],
            address: str,
            size: Optional[int] = None,
            cpus: float = 1.,
            gpus: float = 0.,
            retries: int = 3,
    ) -> None:
        self._ray = connect(address)
        shares = [(name, share) for name, share in (('CPU', cpus), ('GPU', gpus)) if share > 0]
        if not shares:
            raise SearchError('a child on a cluster needs a share of a CPU or of a GPU')
        fits = sum(min(int(node['Resources'].get(name, 0.) / share + 1e-9) for name, share in shares)
                   for node in self._ray.nodes() if node['Alive'])
        if fits < 1:
            raise SearchError(f'{address}: no node of the cluster has room for a child of {cpus:g} CPUs and {gpus:g} '
                              'GPUs')
        self.size = size or fits
        self.host = self._ray.util.get_node_ip_address()
        self._threads = max(1, int(cpus))
        self._make, self._key = make, uuid.uuid4().hex
        self._task = self._ray.remote(
            num_cpus=cpus, num_gpus=gpus, max_retries=retries, scheduling_strategy='SPREAD', max_calls=0)(_work_on_ray)
        self._busy: Dict[Future, Any] = {}

    def submit(self, genotype: Genotype, report: Optional[Report] = None) -> Future:
        """Have a child evaluated, as soon as there is room."""
        reference = self._task.remote(self._key, self._make, self._threads, genotype, report)
        future = reference.future()
        self._busy[future] = reference
        return future

    def result(self, future: Future) -> Evaluation:
        """What became of a child that is done.

        Raises:
            ChildError: For a child that gives no accuracy.
        """
        del self._busy[future]
        try:
            found = future.result()
        except self._ray.exceptions.RayTaskError as error:
            raise error.cause from None  # a mistake of ours
        except self._ray.exceptions.RayError as error:
            raise WorkerDied(f'its worker was lost, as often as it may be: {str(error).splitlines()[0]}') from None
        if isinstance(found, ChildError):
            raise found
        return found

    def close(self) -> None:
        """End what is being evaluated; the cluster stays."""
        for reference in self._busy.values():
            self._ray.cancel(reference, force=True)
        self._busy.clear()


def connect(address: str) -> Any:
    """Ray, connected to a cluster.

    Raises:
        SearchError: Where it cannot be.
    """
    try:
        import ray
    except ImportError:
        raise SearchError('--ray needs Ray: pip install nasnet-zoo[ray]') from None
    if not ray.is_initialized():
        try:
            host, _, port = address.rpartition('//')[2].rpartition(':')
            if host:  # Ray itself tries for minutes
                socket.create_connection((host, int(port)), timeout=10).close()
            ray.init(address=address, log_to_driver=False, logging_level='ERROR')
        except (OSError, ValueError, RuntimeError) as error:
            raise SearchError(f'--ray {address}: no cluster answers: {str(error).splitlines()[0]}') from None
    return ray


_key: Optional[str] = None  # of the search that this process of Ray's has its evaluator for


def _work_on_ray(
        key: str, make: Callable[[], Evaluate], threads: int, genotype: Genotype, report: Optional[Report],
) -> Any:
    global _key
    if key != _key:
        _prepare(make, threads)
        _key = key
    try:
        return _work(genotype, report)
    except ChildError as error:  # raised, it would come back with Ray's traceback for a text
        return error


class Judge:
    """Answers workers, wherever they are, whether a child is given up after an epoch.

    A connection is a line of JSON there and one back. The question has the search's key, so that no stranger's is taken
    for a child's.

    Args:
        decide: From a child's number, an epoch and its accuracy to whether the child is given up. Called from threads.
        host: Of this machine, as workers see it.
    """

    def __init__(self, decide: Callable[[int, int, float], bool], host: str) -> None:
        self.fault: Optional[Exception] = None  # of `decide`; the children then go on
        key = secrets.token_hex()

        class Handler(StreamRequestHandler):
            timeout = PATIENCE

            def handle(handler) -> None:
                try:
                    question = json.loads(handler.rfile.readline(1000))
                    if secrets.compare_digest(question.pop('key'), key):
                        handler.wfile.write(json.dumps(self._answer(decide, question)).encode() + b'\n')
                except (OSError, ValueError, KeyError, TypeError, AttributeError):
                    pass  # a worker that was killed while it asked, or a stranger

        self._key = key
        self._server = ThreadingTCPServer((host, 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def report(self, number: int) -> Report:
        """What a worker calls after an epoch of child `number`."""
        return partial(_ask_judge, self._server.server_address, self._key, number)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, decide: Callable[[int, int, float], bool], question: Dict[str, Any]) -> bool:
        try:
            return bool(decide(**question))  # Optuna's may be NumPy's
        except Exception as error:  # such as a full disk
            self.fault = error
            return False


def _ask_judge(address: Tuple[str, int], key: str, number: int, epoch: int, accuracy: float) -> bool:
    try:
        with socket.create_connection(address, timeout=PATIENCE) as connection, connection.makefile('rw') as stream:
            stream.write(json.dumps(dict(key=key, number=number, epoch=epoch, accuracy=accuracy)) + '\n')
            stream.flush()
            return bool(json.loads(stream.readline() or 'false'))
    except OSError:
        return False  # what cannot be asked goes on

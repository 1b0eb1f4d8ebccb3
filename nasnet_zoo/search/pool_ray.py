"""Workers on a Ray cluster."""
import socket
import uuid
from concurrent.futures import Future
from typing import Any, Callable, Dict, NamedTuple, Optional

from ..checked import first_line
from ..data.datasets import ImageSet
from ..extras import how_to_install
from .errors import ChildError, SearchError, WorkerDied
from .pool import MakeEvaluate, estimate_in_worker, evaluate_in_worker, prepare_worker
from .pruning import ShouldPrune

__all__ = ['RayPool', 'StoredImages', 'connect_ray']

CONNECT_TIMEOUT = 10.  # seconds


class StoredImages(NamedTuple):
    """Images in Ray's object store, from which each node copies them once.

    Attributes:
        reference: Ray's reference of the :class:`~nasnet_zoo.data.ImageSet`.
    """
    reference: Any

    def load(self) -> ImageSet:
        """Return the images."""
        import ray
        return ray.get(self.reference)


class RayPool:
    """A pool that evaluates each child in a task on a Ray cluster. Tasks whose node or process is lost are restarted.

    Args:
        make: Creates the evaluator of a process. All nodes must have the same version of this package.
        address: What ``ray.init`` takes: ``auto``, ``HOST:PORT``, ``ray://HOST:PORT``, or ``local`` for a new cluster
            on this machine.
        size: Number of children to evaluate at the same time. The default is as many as fit into the cluster.
        cpus: Number of CPUs that a child needs; it may be a fraction.
        gpus: Number of GPUs that a child needs; it may be a fraction.
        retries: How often a lost task is restarted.

    Raises:
        SearchError: If Ray is not installed, the cluster does not answer, or a child does not fit into it.
    """

    def __init__(
            self,
            make: MakeEvaluate,
            address: str,
            size: Optional[int] = None,
            cpus: float = 1.,
            gpus: float = 0.,
            retries: int = 3,
    ) -> None:
        self._ray = connect_ray(address)
        needs = {name: amount for name, amount in (('CPU', cpus), ('GPU', gpus)) if amount > 0}
        if not needs:
            raise SearchError('--cpus-per-child, --gpus-per-child: one of them must be greater than 0')
        room = sum(min(int(node['Resources'].get(name, 0.) / amount + 1e-9) for name, amount in needs.items())
                   for node in self._ray.nodes() if node['Alive'])
        if room < 1:
            raise SearchError(f'{address}: no node of the cluster has room for a child, which takes {cpus:g} CPUs and '
                              f'{gpus:g} GPUs')
        self.size = size or room
        self.host = self._ray.util.get_node_ip_address()
        self._threads = max(1, int(cpus))
        self._make, self._search = make, uuid.uuid4().hex
        self._task = self._ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=retries, scheduling_strategy='SPREAD',
                                      max_calls=0)(_call_on_ray)
        self._busy: Dict[Future, Any] = {}

    def submit(self, child: Any, should_prune: Optional[ShouldPrune] = None) -> Future:
        """See :class:`~nasnet_zoo.search.pool.WorkerPool`. The child waits until there is room."""
        return self._submit(evaluate_in_worker, child, should_prune)

    def estimate(self, child: Any) -> Future:
        """See :class:`~nasnet_zoo.search.pool.WorkerPool`."""
        return self._submit(estimate_in_worker, child)

    def _submit(self, function: Callable[..., Any], *args: Any) -> Future:
        reference = self._task.remote(self._search, self._make, self._threads, function, *args)
        future = reference.future()
        self._busy[future] = reference
        return future

    def result(self, future: Future) -> Any:
        """See :class:`~nasnet_zoo.search.pool.WorkerPool`."""
        del self._busy[future]
        try:
            found = future.result()
        except self._ray.exceptions.RayTaskError as error:
            raise error.cause from None  # not an error of the child
        except self._ray.exceptions.RayError as error:
            raise WorkerDied('the worker was lost, and so was every worker on which the child was restarted: '
                             + first_line(error)) from None
        if isinstance(found, ChildError):
            raise found
        return found

    def close(self) -> None:
        """See :class:`~nasnet_zoo.search.pool.WorkerPool`. The cluster keeps running."""
        for reference in self._busy.values():
            self._ray.cancel(reference, force=True)
        self._busy.clear()


def connect_ray(address: str) -> Any:
    """Connect to a Ray cluster and return the ``ray`` module.

    Raises:
        SearchError: If Ray is not installed or the cluster does not answer.
    """
    try:
        import ray
    except ImportError:
        raise SearchError(f'--ray needs Ray: {how_to_install("ray")}') from None
    if not ray.is_initialized():
        try:
            host, _, port = address.rpartition('//')[2].rpartition(':')
            if host:  # Ray itself would try for minutes
                socket.create_connection((host, int(port)), timeout=CONNECT_TIMEOUT).close()
            ray.init(address=address, log_to_driver=False, logging_level='ERROR')
        except (OSError, ValueError, RuntimeError) as error:
            raise SearchError(f'--ray {address}: the cluster does not answer: {first_line(error)}') from None
    return ray


_prepared_for: Optional[str] = None  # the search for which this Ray process has created an evaluator


def _call_on_ray(search: str, make: MakeEvaluate, threads: int, function: Callable[..., Any], *args: Any) -> Any:
    """Call a function that needs the evaluator of this process.

    A ChildError is returned: if it was raised, Ray would add a traceback to its message.
    """
    global _prepared_for
    if search != _prepared_for:
        prepare_worker(make, threads)
        _prepared_for = search
    try:
        return function(*args)
    except ChildError as error:
        return error

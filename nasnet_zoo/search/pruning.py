"""Pruning: a worker asks the process that runs the search, wherever it is, whether to stop training a child.

Question and answer are JSON in one message each, over a connection of the standard library that is authenticated with
the search's key. Only ``send_bytes`` and ``recv_bytes`` are used: ``recv`` unpickles what it gets.
"""
import json
import queue
import secrets
import socket
import threading
import time
from contextlib import contextmanager
from functools import partial
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client, Connection, Listener, answer_challenge, deliver_challenge
from typing import Any, Callable, Dict, Iterator, Optional, Tuple

from .table import Entry

__all__ = ['PRUNERS', 'PruningServer', 'ShouldPrune']

# The functions take the number of epochs for which a child is trained.
PRUNERS: Dict[str, Entry] = {
    'median': Entry("Optuna's MedianPruner", 'pruning:build_median'),
    'halving': Entry("Optuna's SuccessiveHalvingPruner", 'pruning:build_halving'),
    'hyperband': Entry("Optuna's HyperbandPruner", 'pruning:build_hyperband'),
}
TIMEOUT = 60.  # seconds that a question may take, on either side
MAX_MESSAGE = 1000  # bytes
MAX_CONNECTIONS = 256  # at the same time; further ones are closed immediately

ShouldPrune = Callable[[int, float], bool]
"""Decides, given an epoch (from 1) and the reward after it, whether to stop the training of a child."""
Decide = Callable[[int, int, float], bool]
"""The same, with the number of the child as the first argument."""


def build_median(epochs: int) -> Any:
    """Return Optuna's median pruner."""
    from optuna.pruners import MedianPruner
    return MedianPruner()


def build_halving(epochs: int) -> Any:
    """Return Optuna's successive halving pruner."""
    from optuna.pruners import SuccessiveHalvingPruner
    return SuccessiveHalvingPruner()


def build_hyperband(epochs: int) -> Any:
    """Return Optuna's Hyperband pruner."""
    from optuna.pruners import HyperbandPruner
    return HyperbandPruner(max_resource=epochs)


class PruningServer:
    """Answers workers that ask whether to stop the training of a child.

    Each connection is served by a thread of its own and ended after `timeout` seconds, so a client that sends nothing,
    or too much, or the wrong key delays nobody else.

    Args:
        decide: Returns, for the number of a child, an epoch and the reward after it, whether to stop. It is called in
            threads. After it has raised an exception, which :attr:`error` keeps, children go on.
        host: The address of this machine as workers see it.
        timeout: Seconds that a connection may last.
    """

    def __init__(self, decide: Decide, host: str, timeout: float = TIMEOUT) -> None:
        self.error: Optional[Exception] = None
        self._decide, self._timeout = decide, timeout
        self._key = secrets.token_bytes(32)
        # Without a key here: accept() would authenticate in this thread, and a silent client would block it.
        self._listener = Listener((host, 0), backlog=128)
        self.address: Tuple[str, int] = self._listener.address
        self._slots = threading.BoundedSemaphore(MAX_CONNECTIONS)
        self._closed = False
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def should_prune(self, number: int) -> ShouldPrune:
        """Return the function with which the worker of child `number` asks. It can be sent to another machine."""
        return partial(ask_server, self.address, self._key, number)

    def close(self) -> None:
        """Stop answering."""
        if self._closed:
            return
        self._closed = True
        with socket.socket() as waker:  # closing a listener does not wake a thread that waits in accept()
            waker.settimeout(1)
            waker.connect_ex(self.address)
        self._thread.join(timeout=1)
        self._listener.close()

    def _accept(self) -> None:
        while not self._closed:
            try:
                connection = self._listener.accept()
            except OSError:  # a client that is gone already, or too many open files
                time.sleep(0.01)
                continue
            if self._closed or not self._slots.acquire(blocking=False):
                connection.close()
                continue
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: Connection) -> None:
        try:
            with connection, _deadline(connection, self._timeout):
                deliver_challenge(connection, self._key)
                answer_challenge(connection, self._key)
                question = json.loads(connection.recv_bytes(MAX_MESSAGE))
                number, epoch, reward = int(question['number']), int(question['epoch']), float(question['reward'])
                connection.send_bytes(json.dumps(self._answer(number, epoch, reward)).encode())
        except (OSError, EOFError, AuthenticationError, ValueError, TypeError, LookupError, AssertionError,
                RecursionError):
            pass  # a worker that was killed while it asked, or a client that is not a worker
        finally:
            self._slots.release()

    def _answer(self, number: int, epoch: int, reward: float) -> bool:
        if self.error is not None:
            return False
        try:
            return bool(self._decide(number, epoch, reward))  # Optuna may return NumPy's bool
        except Exception as error:  # for example a full disk; the loop of the search raises it
            self.error = error
            return False


@contextmanager
def _deadline(connection: Connection, seconds: float) -> Iterator[None]:
    """Shut down a connection after `seconds`. Unlike closing it, this raises an error in a thread that waits for it."""
    with socket.fromfd(connection.fileno(), socket.AF_INET, socket.SOCK_STREAM) as duplicate:
        timer = threading.Timer(seconds, _shut_down, (duplicate,))
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            timer.join()


def _shut_down(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass  # the other side has closed it already


def ask_server(
        address: Tuple[str, int], key: bytes, number: int, epoch: int, reward: float, timeout: float = TIMEOUT,
) -> bool:
    """Ask a :class:`PruningServer` whether to stop a child. Without an answer the child goes on."""
    answers: queue.SimpleQueue[bool] = queue.SimpleQueue()

    def ask() -> None:  # in a thread, because connecting has no time limit
        try:
            with Client(address, authkey=key) as connection:
                connection.send_bytes(json.dumps(dict(number=number, epoch=epoch, reward=reward)).encode())
                answers.put(json.loads(connection.recv_bytes(MAX_MESSAGE)) is True)
        except (OSError, EOFError, AuthenticationError, ValueError):
            answers.put(False)
    threading.Thread(target=ask, daemon=True).start()
    try:
        return answers.get(timeout=timeout)
    except queue.Empty:
        return False

"""Pruning questions, and clients that are no workers."""
import pickle
import socket
import subprocess
import sys
import threading
import time
from functools import partial
from multiprocessing.connection import Client

import pytest

from nasnet_zoo.search.pruning import PRUNERS, PruningServer, ask_server


@pytest.fixture
def server():
    """Prunes child 7 at once, and each child whose reward is below a half."""
    server = PruningServer(lambda number, epoch, reward: number == 7 or reward < 0.5, '127.0.0.1', timeout=2.)
    yield server
    server.close()


def test_workers_get_an_answer(server):
    asks = pickle.loads(pickle.dumps(server.should_prune(3)))  # as it is sent to a worker
    assert asks(1, 0.4) is True and asks(1, 0.6) is False and server.should_prune(7)(1, 0.6) is True


def test_many_workers_at_the_same_time(server):
    answers = []
    threads = [threading.Thread(target=lambda i=i: answers.append((i, server.should_prune(i)(1, 0.9))))
               for i in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == [(i, i == 7) for i in range(40)]


def test_strangers_get_no_answer(server):
    assert ask_server(server.address, b'another key', 3, 1, 0.1) is False
    assert server.should_prune(3)(1, 0.1) is True, 'the server still answers'


def test_half_open_and_talkative_clients(server):
    """Connections that send nothing, part of a message, noise or too much: the others are answered meanwhile."""
    ask = server.should_prune(3)
    address, key = ask.args[:2]
    silent = [socket.create_connection(address) for _ in range(20)]
    for i, client in enumerate(silent[10:]):
        client.sendall(b'\x00\x00\x00\x50abc' if i % 2 else bytes(range(256)) * 100)
    large = Client(address, authkey=key)
    with pytest.raises(OSError):
        large.send_bytes(b'[' * 10 ** 6)
        large.recv_bytes()
        large.recv_bytes()
    started = time.perf_counter()
    assert ask(1, 0.1) is True and time.perf_counter() - started < 1.5
    silent[0].settimeout(10)
    while silent[0].recv(1000):  # its challenge, and then the end
        pass
    assert time.perf_counter() - started < 8, 'a silent client is disconnected'
    for client in silent:
        client.close()


@pytest.mark.parametrize('question', [
    b'', b'{', b'[]', b'{"number": 3}', b'{"number": 3, "epoch": "x", "reward": 1}', b'\xff', b'[' * 900,
    b'{"number": NaN, "epoch": 1, "reward": 1}', pickle.dumps(print)])
def test_malformed_questions(server, question):
    ask = server.should_prune(3)
    with Client(ask.args[0], authkey=ask.args[1]) as client:
        client.send_bytes(question)
        with pytest.raises((EOFError, OSError)):
            client.recv_bytes()
    assert ask(1, 0.1) is True and server.error is None


def test_nothing_is_unpickled():
    source = PruningServer.__module__
    text = open(sys.modules[source].__file__, encoding='utf-8').read()
    assert '.recv(' not in text and '.send(' not in text


def test_an_error_is_kept_and_children_go_on():
    def fail(number, epoch, reward):
        raise OSError('no space left')
    server = PruningServer(fail, '127.0.0.1')
    try:
        assert server.should_prune(1)(1, 0.1) is False and 'no space left' in str(server.error)
    finally:
        server.close()


def test_a_server_that_does_not_answer():
    """A worker waits for a limited time."""
    with socket.create_server(('127.0.0.1', 0)) as silent:
        ask = partial(ask_server, silent.getsockname(), b'key', 1, timeout=0.3)
        started = time.perf_counter()
        assert ask(1, 0.1) is False and time.perf_counter() - started < 3
    assert ask(1, 0.1) is False, 'nobody listens'


def test_closing_ends_the_thread(server):
    server.close()
    assert not server._thread.is_alive() and server.should_prune(1)(1, 0.1) is False


def test_pruners_are_optunas():
    import optuna
    assert all(isinstance(entry.resolve()(4), optuna.pruners.BasePruner) for entry in PRUNERS.values())


HEAVY = ('optuna', 'ray', 'onnx', 'onnxruntime', 'onnxscript', 'matplotlib', 'nasnet_zoo.deploy', 'nasnet_zoo.graph',
         'nasnet_zoo.hub.publish', 'nasnet_zoo.hub.card')


def test_workers_import_only_what_they_need():
    """A process that trains children, locally or on Ray, and the command when it lists its options."""
    code = ('import sys; from nasnet_zoo.search import config, evaluator, pool_local, pool_ray, samplers; '
            'print(*sys.modules)')
    modules = subprocess.check_output([sys.executable, '-c', code], text=True).split()
    assert {'nasnet_zoo.search.evaluator', 'nasnet_zoo.search.pool_local', 'torch'} <= set(modules)
    assert [name for name in modules if any(name == heavy or name.startswith(f'{heavy}.') for heavy in HEAVY)] == []

"""The promises of docs/reliability.md in a small size, and whether the script would notice that one is broken."""
import json
import os
import random
import signal
import threading
import time

import pytest

from helpers.paths import ROOT
from helpers.tools import import_tool

pytest.importorskip('resource', reason='the script needs POSIX')
reliability = import_tool('reliability')
fuzzing, mutations = import_tool('fuzzing'), import_tool('mutations')


def run(promise, tmp_path, *options):
    """Run the script. Return its exit code and what it wrote."""
    out = tmp_path / 'result.json'
    code = reliability.main([promise, '--tiny', '--out', str(out), *options])
    return code, json.loads(out.read_text(encoding='utf-8'))


@pytest.mark.slow
def test_kills(tmp_path):
    pytest.importorskip('sklearn', reason='the digits come with scikit-learn')
    code, found = run('kills', tmp_path)
    assert (code, found['problems'], found['kills'], found['children'], found['twice']) == (0, [], 2, 6, 0)


@pytest.mark.slow
def test_status(tmp_path):
    pytest.importorskip('sklearn', reason='the digits come with scikit-learn')
    code, found = run('status', tmp_path)
    assert (code, found['problems'], found['children']) == (0, [], 3) and found['reads'] > found['readers']


def test_journal(tmp_path):
    code, found = run('journal', tmp_path)
    assert (code, found['problems'], found['cuts']) == (0, [], 121) and found['resumed'] > 121


def test_fuzz(tmp_path):
    code, found = run('fuzz', tmp_path, '--faults', str(tmp_path / 'faults'))
    assert (code, found['problems']) == (0, []) and found['inputs'] >= 2990
    assert set(found['readers']) == set(fuzzing.READERS) and found['most_mib'] < 1024
    assert all(row['inputs'] > row['accepted'] for row in found['readers'].values())
    assert sum(row['accepted'] > 0 for row in found['readers'].values()) > 6, 'some changes leave an input valid'


@pytest.mark.slow
def test_ray(tmp_path):
    pytest.importorskip('ray', reason='Ray is an extra: pip install "nasnet-zoo[ray]"')
    code, found = run('ray', tmp_path)
    assert (code, found['problems'], found['children'], found['twice']) == (0, [], 6, 0) and found['killed'] > 0


def test_the_table_shows_the_result_files():
    assert reliability.table() in (ROOT / 'docs' / 'reliability.md').read_text(encoding='utf-8')


# Whether the script notices

def subject(read, label='file'):
    return fuzzing.Subject(lambda rng: rng.random(), read, (ValueError,), label)


def refuse(message):
    def read(content):
        raise ValueError(message)
    return read


@pytest.mark.parametrize('read, fault', [
    (lambda content: None, ''), (refuse('file: is wrong'), ''),
    (refuse('is wrong'), 'the message does not name the place'),
    (refuse('file' * 20_000), 'the message has 80000 characters'),
    (lambda content: {}[1], 'KeyError in test_reliability.py'), (lambda content: time.sleep(5), 'it takes more than')])
def test_a_fault_of_a_reader_is_found(monkeypatch, read, fault):
    def too_long(*args):
        raise fuzzing._TooLong
    old = signal.signal(signal.SIGALRM, too_long)
    monkeypatch.setattr(fuzzing, 'TIME_LIMIT', 0.1)
    try:
        found = fuzzing._find_fault(subject(read), 0)[1]
    finally:
        signal.signal(signal.SIGALRM, old)
    assert found.startswith(fault) and bool(found) == bool(fault)


def test_the_input_that_ends_the_process_is_found(tmp_path):
    process = fuzzing.ReaderProcess(0, tmp_path)

    def kill():
        while process._current.value < 100_050:
            time.sleep(0.001)
        os.kill(process._process.pid, signal.SIGKILL)
    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    try:
        results = process.read('metadata', range(100_000, 100_000 + 3000))
    finally:
        process.close()
    killer.join()
    (fault,) = [fault for result in results for fault in result['faults']]
    assert fault['fault'] == 'the process ended with code -9'
    assert sum(result['inputs'] for result in results) == 3000


def test_inputs_can_be_made_again(tmp_path):
    subject = fuzzing.READERS['torch'].prepare(tmp_path)
    first, again = [[fuzzing.make_input(subject, 'torch', 1, number) for number in range(20)] for _ in range(2)]
    assert first == again and len(set(first)) > 15


def test_changed_json():
    text = '{"a": [1, 2, {"b": "c"}], "d": null}'
    changed = {mutations.dump(mutations.change_json(mutations.parse(text), random.Random(seed), [[1, 'x']]))
               for seed in range(300)}
    assert len(changed) > 150
    assert mutations.dump(mutations.parse(text)) == text
    assert mutations.dump(mutations.Pairs([['a', 1], ['a', mutations.Raw('NaN')]])) == '{"a": 1, "a": NaN}'


def test_split_pickle_keeps_every_byte():
    import pickle
    data = pickle.dumps({'a': [1, 2.5, 'text']}, protocol=2)
    assert b''.join(mutations.split_pickle(data + data + b'\xff rest')) == data + data + b'\xff rest'
    assert len(mutations.split_pickle(data)) > 10


def test_lost_and_repeated_children_are_found(tmp_path):
    out = tmp_path / 'made-up'
    out.mkdir()
    study = reliability.resume_made_up(out, 4)
    found = reliability.evaluated(study)
    assert len(found) == 4 and reliability.repeated(found) == []
    assert len(reliability.repeated({**found, 99: found[min(found)]})) == 1
    content = (out / 'study.log').read_bytes()
    whole = reliability.complete_children(content)
    assert {number for number, _ in whole} == set(found) and whole[-1][1] <= len(content)
    damaged = tmp_path / 'damaged'
    damaged.mkdir()
    (damaged / 'study.log').write_bytes(content[:whole[1][1]])
    outcome, problem = reliability.resume_damaged(damaged, 4, [*found, 99])
    assert outcome == 'resumed' and 'lost [' in problem and '99' in problem

"""Journals that a crash or a power failure has damaged, and those that other programs use, too."""
import json
import socket
import subprocess
import sys
import time
import warnings
from urllib.request import Request, urlopen

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from helpers.search_children import Noted
from helpers.searches import finished_children, make_up_search, search
from nasnet_zoo.search import search_status
from nasnet_zoo.search.errors import SearchError
from nasnet_zoo.search.folder import exclusive_lock
from nasnet_zoo.search.journal import has_records, remove_damaged_end
from nasnet_zoo.search.optuna_internals import get_study_attrs
from nasnet_zoo.search.study import StudySettings, batched_writes, open_study

pytest.importorskip('optuna')


@pytest.fixture(scope='module')
def content(tmp_path_factory):
    """The journal of a search with three children."""
    folder = tmp_path_factory.mktemp('journal')
    search(folder, Noted(folder / 'log'), 3, workers=1)
    assert not list(folder.glob('study.log.*')), 'no lock is left that a later process would wait for'
    return (folder / 'study.log').read_bytes()


@pytest.mark.parametrize('rest, is_line', [
    (b'{"op_code": 4, "wor', True), (b'\0' * 5000, True), (b'\0' * 300 + b'\n', False), (b'\xff\n\n{}\n[', False)])
def test_damaged_end_is_removed(tmp_path, content, rest, is_line):
    path = tmp_path / 'study.log'
    path.write_bytes(content + rest)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        remove_damaged_end(path)
    assert path.read_bytes() == content
    assert [str(one.message) for one in caught] == ([] if is_line else [
        f'{path}: the last {len(rest)} bytes were not records of the search and were removed'])


def test_search_goes_on_after_a_damaged_end(tmp_path, content):
    (tmp_path / 'study.log').write_bytes(content + b'\0\n')
    before = finished_children(open_study(tmp_path, 'test'))
    with pytest.warns(UserWarning, match='the last 2 bytes were not records'):
        study = search(tmp_path, Noted(tmp_path / 'log'), 4, workers=1)
    assert finished_children(study)[:3] == before and len(before) == 3
    assert len(finished_children(open_study(tmp_path, 'test'))) == 4


@pytest.mark.parametrize('line', [b'\0\0\0\n', b'{"op_code": 4}\n', b'{}\n', b'7\n', b'{"op_code": 99}\n'])
def test_damage_in_the_middle_is_refused_by_line(tmp_path, content, line):
    lines = content.splitlines(keepends=True)
    (tmp_path / 'study.log').write_bytes(b''.join([*lines[:10], line, *lines[10:]]))
    for create in None, StudySettings(lambda trials: None):
        with pytest.raises(SearchError, match='study.log: line 11 is .*; restore the file from a backup, or remove'):
            open_study(tmp_path, 'test', create=create)


@pytest.mark.parametrize('when', ['between batches', 'in a batch'])
def test_notes_of_other_programs_do_not_disturb_a_search(tmp_path, when):
    """A note as Optuna's dashboard writes it, while our records are kept in memory or between two such times."""
    study = open_study(tmp_path, 'test', create=StudySettings(lambda trials: optuna.samplers.RandomSampler(0)))
    other = optuna.load_study(study_name='test', storage=JournalStorage(JournalFileBackend(
        str(tmp_path / 'study.log'))))
    for number in range(3):
        if when == 'between batches':
            other.set_user_attr(f'note {number}', 'good')
        with batched_writes(study):
            trial = study.ask()
            trial.suggest_float('x', 0, 1)
            if when == 'in a batch':
                other.set_user_attr(f'note {number}', 'good')
        with batched_writes(study):
            study.tell(trial, number)
        if number == 1:
            assert [known.state.name for known in study.trials] == ['COMPLETE'] * 2
    for seen in (study, open_study(tmp_path, 'test'), other):
        assert [trial.value for trial in seen.trials] == [0, 1, 2] and seen.best_value == 2
        assert {f'note {number}' for number in range(3)} <= set(seen.user_attrs)


def test_optunas_dashboard_works_on_a_running_search(tmp_path):
    """Its command shows the trials of a journal, and a note that is written in it does not disturb the search."""
    pytest.importorskip('optuna_dashboard')
    study = make_up_search(tmp_path / 'search', 'random', 5)
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    command = ('import importlib.metadata as metadata; '
               '[row] = metadata.entry_points(group="console_scripts", name="optuna-dashboard"); row.load()()')
    server = subprocess.Popen([sys.executable, '-c', command, '--host', '127.0.0.1', '--port', str(port), '--server',
                               'wsgiref', str(tmp_path / 'search' / 'study.log')], stderr=subprocess.DEVNULL)
    try:
        api = f'http://127.0.0.1:{port}/api/studies'
        (summary,) = wait_for_answer(api, server)['study_summaries']
        shown = wait_for_answer(f'{api}/{summary["study_id"]}', server)
        assert summary['study_name'] == shown['name'] == study.study_name
        assert [trial['number'] for trial in shown['trials']] == [trial.number for trial in study.trials]
        assert shown['best_trials'][0]['values'] == [study.best_value]
        note = json.dumps(dict(body='promising', version=1)).encode()
        urlopen(Request(f'{api}/{summary["study_id"]}/note', note, {'Content-Type': 'application/json'}, method='PUT'))
        with batched_writes(study):
            study.enqueue_trial(study.best_params)
        again = open_study(tmp_path / 'search', study.study_name)
        assert len(again.trials) == len(study.trials) == len(shown['trials']) + 1
        assert all('promising' in str(get_study_attrs(seen)) for seen in (study, again))
    finally:
        server.kill()
        server.wait()


def wait_for_answer(url, server):
    for _ in range(600):
        try:
            with urlopen(url, timeout=30) as answer:
                return json.load(answer)
        except OSError:
            assert server.poll() is None, 'the dashboard has ended'
            time.sleep(0.1)
    raise TimeoutError(url)


@pytest.mark.parametrize('content', [b'\0' * 5000, b'a log\nof another program\n'])
def test_file_without_records_is_refused(tmp_path, content):
    path = tmp_path / 'study.log'
    path.write_bytes(content)
    with pytest.raises(SearchError, match='study.log: has no records of a search'):
        remove_damaged_end(path)
    assert path.read_bytes() == content


def test_search_that_has_only_just_begun(tmp_path):
    settings = dict(settings=dict(own_storage=False, child={}), study='test')
    (tmp_path / 'search.json').write_text(json.dumps(settings), encoding='utf-8')
    assert search_status(tmp_path) == []
    (tmp_path / 'study.log').write_bytes(b'{"op_code":0,"wo')
    assert search_status(tmp_path) == [] and not has_records(tmp_path / 'study.log')
    settings['settings']['own_storage'] = True
    (tmp_path / 'search.json').write_text(json.dumps(settings), encoding='utf-8')
    with pytest.raises(SearchError, match='in another storage; add --storage URL'):
        search_status(tmp_path)


def test_temporary_files_of_a_killed_process_are_removed(tmp_path):
    left = [tmp_path / name for name in ('.search.json.part-abc12345.json', '.report.html.part-0123abcd.html')]
    kept = [tmp_path / name for name in ('.search.txt', 'search.json')]
    for path in left + kept:
        path.touch()
    with exclusive_lock(tmp_path):
        assert not any(path.exists() for path in left) and all(path.exists() for path in kept)

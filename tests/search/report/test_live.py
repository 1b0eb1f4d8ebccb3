"""A report that is written while something else runs."""
import time

import pytest

from nasnet_zoo.search.report import live
from nasnet_zoo.search.report.live import LiveReport


@pytest.fixture
def fast(monkeypatch):
    monkeypatch.setattr(live, 'FIRST', 0.)
    monkeypatch.setattr(live, 'INTERVAL', 0.01)


def wait_for(condition):
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_the_page_is_written_again_and_again(tmp_path, fast):
    states = []

    def render(state):
        states.append(state)
        return f'{state} {len(states)}'
    with LiveReport(tmp_path / 'page', render, log=pytest.fail):
        wait_for(lambda: len(states) >= 3)
    assert set(states) == {'running'}
    count = len(states)
    assert (tmp_path / 'page').read_text(encoding='utf-8') == f'running {count}'
    time.sleep(0.05)
    assert len(states) == count, 'the thread has ended'


def test_an_interruption_is_said_on_the_page(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        with LiveReport(tmp_path / 'page', lambda state: f'{state}', log=pytest.fail):
            raise KeyboardInterrupt
    assert (tmp_path / 'page').read_text(encoding='utf-8') == 'stopped'


def test_an_error_is_told_once_and_ends_nothing(tmp_path, fast):
    calls, lines = [], []

    def render(state):
        calls.append(state)
        raise ZeroDivisionError('a mistake of ours')
    with LiveReport(tmp_path / 'page', render, lines.append):
        wait_for(lambda: len(calls) >= 3)
    assert lines == [
        f'{tmp_path / "page"} cannot be written (ZeroDivisionError: a mistake of ours); the search continues']
    assert not (tmp_path / 'page').exists()


def test_reports_take_a_small_part_of_the_time(tmp_path, fast):
    calls = []

    def render(state):
        calls.append(time.monotonic())
        end = time.thread_time() + 0.01
        while time.thread_time() < end:
            pass
        return ''
    with LiveReport(tmp_path / 'page', render, log=pytest.fail):
        wait_for(lambda: len(calls) >= 2)
    assert calls[1] - calls[0] >= 0.01 / live.PART_OF_TIME

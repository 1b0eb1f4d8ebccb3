"""How long a search takes."""
from concurrent.futures import Future

import pytest

from nasnet_zoo.search.errors import ChildError
from nasnet_zoo.search.forecast import Forecast, measure_children, show_duration
from nasnet_zoo.search.space import darts_space

FORECAST = Forecast(trials=150, workers=2, child_seconds=75., epochs=20, finals=3, final_epochs=60)


def test_before_the_first_child():
    assert FORECAST.seconds_left(0, []) == 150 * 75 / 2 + 2 * 75 * 3, 'two workers train three finalists, one after two'
    assert FORECAST.describe(0, []) == (
        'about 1 h 41 min: 150 children at 75 s with 2 workers, then 3 final training runs of 60 epochs (8 min)')


def test_finished_children_count_more_and_more():
    left = [FORECAST.seconds_left(100, [15.] * finished) for finished in (0, 3, 27, 30)]
    assert left[1] == left[0] * (75 + 15) / 2 / 75 and left[3] == left[0] / 5 < left[2]
    assert FORECAST.describe(100, [15.] * 30).startswith('about 8 min: 50 more children at 15 s with 2 workers, then 3')


def test_the_final_training():
    assert FORECAST.describe(150, [100.] * 30, 1) == 'about 5 min: 1 final training run of 60 epochs (5 min)'
    assert FORECAST.seconds_left(150, [], 0) == 0


def test_nothing_is_known():
    unknown = FORECAST.model_copy(update=dict(child_seconds=None))
    assert unknown.seconds_left(0, []) is None and 'when a child has finished' in unknown.describe(0, [])
    assert unknown.seconds_left(149, [10.]) == 5 + 2 * 30


@pytest.mark.parametrize('seconds, text', [
    (0.123, '0.12 s'), (9.96, '10 s'), (75, '75 s'), (119.6, '2 min'), (600, '10 min'), (3599, '1 h 0 min'),
    (12000, '3 h 20 min'), (48 * 3600, '2 d 0 h'), (190_000, '2 d 5 h')])
def test_durations_are_readable(seconds, text):
    assert show_duration(seconds) == text


class Timed:
    """A pool whose estimates are given, that notes how many are measured at the same time."""

    def __init__(self, size, seconds):
        self.size, self.seconds, self.waiting, self.most = size, list(seconds), 0, 0

    def estimate(self, genotype):
        self.waiting += 1
        self.most = max(self.most, self.waiting)
        future = Future()
        future.set_result(self.seconds.pop(0))
        return future

    def result(self, future):
        self.waiting -= 1
        if future.result() is None:
            raise ChildError('has too many parameters')
        return future.result()


@pytest.mark.parametrize('size, seconds, expected', [
    (1, [1., 2., 6.], 3.), (2, [1., None, 6.], 3.5), (1, [None] * 3, None), (5, [1., 2., 3., 4., 5.], 3.)])
def test_children_are_measured(size, seconds, expected):
    pool = Timed(size, seconds)
    said = []
    assert measure_children(pool, darts_space(), said.append) == expected
    assert said == ([] if expected else ['none of 3 random children could be trained; the last one failed because: '
                                         'has too many parameters'])
    assert not pool.seconds and pool.most == min(size, len(seconds))

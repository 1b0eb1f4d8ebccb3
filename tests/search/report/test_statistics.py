"""The figures of reports, against their definitions."""
from itertools import combinations
from statistics import mean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nasnet_zoo.search.report.record import SearchRecord, parent_of
from nasnet_zoo.search.report.statistics import (
    ancestors,
    best_fifth,
    differences,
    expected_best,
    moving_mean,
    pareto_front,
    shares,
    top_means,
)

VALUES = st.lists(st.floats(0, 1), min_size=1, max_size=7)


def test_pareto_front():
    assert pareto_front([(3, 5), (1, 2), (2, 1), (2, 4), (4, 5)]) == [1, 3, 0]


@given(VALUES)
def test_expected_best_is_the_mean_over_all_subsets(values):
    expected = [mean(map(max, combinations(values, n))) for n in range(1, len(values) + 1)]
    assert expected_best(values) == pytest.approx(expected)


@given(VALUES, st.integers(1, 4))
def test_moving_mean(values, width):
    expected = [mean(values[max(0, i + 1 - width):i + 1]) for i in range(len(values))]
    assert moving_mean(values, width) == pytest.approx(expected)


@pytest.mark.parametrize('top', [1, 5, 25])
def test_top_means(records, top):
    places, means = top_means(records[0], top)
    assert places[0] >= top and len(places) == len(records[0].children) - top + 1
    for place, found in zip(places, means):
        rewards = sorted(child.reward for child in records[0].children if child.place <= place)
        assert found == pytest.approx(mean(rewards[-top:]))


def test_shares_are_counted_by_kind_of_cell(records):
    record = records[0]
    children = best_fifth(record)
    assert len(children) == len(record.children) // 5 and children[0].reward == record.best.reward
    for part, index in (('operation', 0), ('source', 1)):
        found = shares(record, children)[part]
        for kind in ('normal', 'reduction'):
            names = [edge[index] for child in children for block in record.genotype(child).cells[kind].blocks
                     for edge in block.edges]
            assert found[kind] == pytest.approx({name: names.count(name) / len(names) for name in names})
    assert shares(SearchRecord('no space', {}, record.trials, 60), children) == dict(operation={}, source={})


def test_ancestors_lead_from_a_random_child_to_the_best(records):
    record = records[0]
    line = ancestors(record, record.best)
    trials = {trial.number: trial for trial in record.trials}
    assert len(line) > 1 and line[-1].number == record.best.number and line[-1].reward == record.best.reward
    assert parent_of(trials[line[0].number]) is None and not line[0].changes
    for before, after in zip(line, line[1:]):
        assert parent_of(trials[after.number]) == before.number and after.changes
        for name, old, new in after.changes:
            assert trials[before.number].params[name] == old and trials[after.number].params[name] == new != old
    assert len(ancestors(records[1], records[1].best)) == 1, 'random search has none'


def test_differences_between_searches(records):
    evolution, random = records
    children, found = differences(evolution, random)
    assert children == 60 and [one.name for one in found] == [
        'mean of all', 'best', 'mean of the top 5', 'mean of the top 25']
    by_hand = evolution.best.reward - random.best.reward
    assert found[1].value == pytest.approx(by_hand) and found[0].value > 0 and found[0].p < 0.01
    assert all(one.value == 0 and one.p == 1 for one in differences(evolution, evolution)[1])
    assert differences(evolution, random) == (children, found), 'the same permutations each time'


def test_differences_are_taken_at_equal_numbers_of_children(records):
    evolution, random = records
    short = SearchRecord('short', random.settings, random.trials[:12], 12)
    children, found = differences(evolution, short)
    first = [child.reward for child in evolution.children if child.place <= children]
    assert children == len(short.evaluated) <= 12 and 'mean of the top 25' not in [one.name for one in found]
    assert found[1].value == pytest.approx(max(first) - short.best.reward)
    assert differences(evolution, SearchRecord('empty', {}, [], 1)) == (0, [])

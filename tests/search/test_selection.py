"""Which children are the best."""
import random

import numpy as np
import pytest
from scipy.stats import spearmanr

from nasnet_zoo.search.selection import fitted_means, rank_children
from nasnet_zoo.search.space import darts_space

SPACE = darts_space(2)


def draws(count):
    rng = random.Random(0)
    return [tuple(rng.randrange(size) for size in SPACE.sizes) for _ in range(count)]


def value(tokens):
    return sum('sep' in word for word in SPACE.choices(tokens).values())


def test_fitted_means_are_nearer_to_the_truth_than_noisy_rewards():
    children = draws(150)
    values = np.array([value(tokens) for tokens in children])
    rewards = values + np.random.default_rng(0).normal(0, 2, size=150)
    means = fitted_means(SPACE, children, rewards)
    assert spearmanr(means, values)[0] > spearmanr(rewards, values)[0] + 0.03
    order = rank_children(SPACE, children, rewards)
    assert sorted(order) == list(range(150)) and (np.diff(means[order]) <= 1e-12).all()
    assert values[order[:10]].mean() > values[np.argsort(-rewards)[:10]].mean()


@pytest.mark.parametrize('count', [1, 2, 3])
def test_few_children(count):
    children = draws(count)
    assert rank_children(SPACE, children, [0.1 * i for i in range(count)]) == list(range(count))[::-1]
    assert rank_children(SPACE, children, [0.5] * count) == list(range(count)), 'ties are in order'


def test_more_children_than_the_process_is_given(monkeypatch):
    monkeypatch.setattr('nasnet_zoo.search.selection.MAX_CHILDREN', 20)
    children = draws(60)
    order = rank_children(SPACE, children, [value(tokens) for tokens in children])
    assert sorted(order) == list(range(60)) and value(children[order[0]]) > value(children[order[-1]])

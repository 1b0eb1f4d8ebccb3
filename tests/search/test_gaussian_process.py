"""The Gaussian process against dense formulas and scikit-learn's."""
import random

import numpy as np
import pytest
import torch
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel

from nasnet_zoo.search.encoding import GROUPS, Encoder, squared_distances
from nasnet_zoo.search.gaussian_process import GaussianProcess, Hyperparameters, _gradient, fit_hyperparameters, select
from nasnet_zoo.search.space import darts_space

SPACE = darts_space(2)
HYPER = Hyperparameters((-3., -2., -4.), 0.3, -2.5)


@pytest.fixture(scope='module')
def children():
    """Counts of 60 children, and their rewards: how many separable convolutions, with noise."""
    rng, encoder = random.Random(0), Encoder(SPACE)
    tokens = [tuple(rng.randrange(size) for size in SPACE.sizes) for _ in range(60)]
    rewards = np.array([sum('sep' in word for word in SPACE.choices(one).values()) + rng.gauss(0, 0.3)
                        for one in tokens]) / 100
    return encoder.counts([encoder.encode(one) for one in tokens]), rewards


def rows(counts, *where):
    return [group[slice(*where)] for group in counts]


def scaled(counts, hyper=HYPER):
    """Features whose squared distances are the exponents of the kernel."""
    return np.concatenate([np.exp(scale / 2) * group for scale, group in zip(hyper.scales, counts)], axis=1)


def reference(counts, rewards):
    """scikit-learn's process with the same kernel. It adds `alpha`, the noise, to rewards only."""
    kernel = ConstantKernel(np.exp(HYPER.amplitude)) * RBF(0.5 ** 0.5)
    return GaussianProcessRegressor(kernel, alpha=np.exp(HYPER.noise), optimizer=None, normalize_y=True).fit(
        scaled(counts), rewards)


def test_predictions_are_those_of_scikit_learn(children):
    counts, rewards = children
    process = GaussianProcess(rows(counts, 40), rewards[:40], HYPER)
    expected = reference(rows(counts, 40), rewards[:40]).predict(scaled(rows(counts, 40, 60)), return_std=True)
    np.testing.assert_allclose(process.predict(rows(counts, 40, 60)), expected, rtol=1e-9)
    assert len(process) == 40


def dense(counts, rewards, candidates, shift, scale):
    """Mean and standard deviation by the textbook's formulas."""
    def covariance(a, b):
        distances = ((scaled(a)[:, None] - scaled(b)[None]) ** 2).sum(-1)
        return np.exp(HYPER.amplitude - distances)
    inverse = np.linalg.inv(covariance(counts, counts) + np.exp(HYPER.noise) * np.eye(len(rewards)))
    cross = covariance(counts, candidates)
    variance = np.exp(HYPER.amplitude) - (cross * (inverse @ cross)).sum(0)
    return shift + cross.T @ inverse @ (rewards - shift), scale * np.sqrt(variance)


def test_a_process_that_is_extended_several_times(children):
    """Its scale is that of the first children."""
    counts, rewards = children
    candidates = rows(counts, 50, 60)
    process = GaussianProcess(rows(counts, 30), rewards[:30], HYPER)
    whitened = process.whiten(candidates)
    for begin, end in ((30, 31), (31, 31), (31, 50)):
        process = process.extend(rows(counts, begin, end), rewards[begin:end])
        whitened = process.whiten(candidates, whitened)
    expected = dense(rows(counts, 50), rewards[:50], candidates, rewards[:30].mean(), rewards[:30].std())
    np.testing.assert_allclose(process.predict(candidates), expected, rtol=1e-9)
    np.testing.assert_allclose(process.moments(whitened), expected, rtol=1e-9)
    assert len(process) == 50


def test_pending_children_count_as_if_they_had_the_predicted_rewards(children):
    counts, rewards = children
    candidates, pending = rows(counts, 45, 60), rows(counts, 35, 45)
    process = GaussianProcess(rows(counts, 30), rewards[:30], HYPER)
    found = process.extend(rows(counts, 30, 35), rewards[30:35], pending)
    known = process.extend(rows(counts, 30, 35), rewards[30:35])
    guessed = known.extend(pending, known.predict(pending)[0])
    np.testing.assert_allclose(found.predict(candidates), guessed.predict(candidates), rtol=1e-9)
    np.testing.assert_allclose(found.predict(candidates)[0], known.predict(candidates)[0], rtol=1e-9)
    assert (found.predict(candidates)[1] < known.predict(candidates)[1]).all()


def test_the_gradient_is_that_of_scikit_learn(children):
    """For a single scale, since its kernel has one."""
    counts, rewards = children
    values = (rewards - rewards.mean()) / rewards.std()
    kernel = ConstantKernel(1.5) * RBF(2.) + WhiteKernel(0.2)
    model = GaussianProcessRegressor(kernel, alpha=0, optimizer=None).fit(np.concatenate(counts, axis=1), values)
    _, (of_amplitude, of_length, of_noise) = model.log_marginal_likelihood(kernel.theta, eval_gradient=True)
    logs = torch.tensor([*[np.log(1 / 8)] * GROUPS, np.log(1.5), np.log(0.2)], dtype=torch.float64)
    distances = torch.from_numpy(np.stack(squared_distances(counts, counts)).astype(np.float64))
    *of_scales, amplitude, noise = _gradient(logs, distances, torch.from_numpy(values)).tolist()
    # the scale is 1 / (2 length ** 2), so a logarithm of the length counts -2 times
    assert [-2 * sum(of_scales), amplitude, noise] == pytest.approx([-of_length, -of_amplitude, -of_noise], rel=1e-6)


def test_the_fit_finds_what_the_rewards_depend_on(children):
    counts, rewards = children
    fitted = fit_hyperparameters(counts, rewards)
    again = fit_hyperparameters(counts, 3 * rewards + 1)
    assert [*again.scales, again.noise] == pytest.approx([*fitted.scales, fitted.noise]), 'units make no difference'
    assert fitted.scales[0] > fitted.scales[1], 'counts of operations, not where they are'
    train, test = GaussianProcess(rows(counts, 40), rewards[:40]), rows(counts, 40, 60)
    assert np.corrcoef(train.predict(test)[0], rewards[40:])[0, 1] > 0.7
    noise = np.random.default_rng(0).normal(size=60)
    assert fit_hyperparameters(counts, noise).noise > fitted.noise + 1


@pytest.mark.parametrize('count', [1, 2, 3])
@pytest.mark.parametrize('spread', [0., 1.])
def test_few_children_and_equal_rewards(children, count, spread):
    counts, _ = children
    mean, deviation = GaussianProcess(rows(counts, count), [0.5 + spread * i for i in range(count)]).predict(counts)
    assert np.isfinite(mean).all() and (deviation > 0).all()
    assert spread or np.allclose(mean, 0.5)


def test_no_children_to_predict(children):
    counts, rewards = children
    process = GaussianProcess(counts, rewards)
    assert [len(part) for part in process.predict(rows(counts, 0))] == [0, 0]


def test_the_same_to_the_last_bit(children):
    counts, rewards = children
    found = [GaussianProcess(rows(counts, 40), rewards[:40]).predict(rows(counts, 40, 60)) for _ in range(2)]
    assert np.array_equal(*found)


def test_select_takes_the_best_half_and_random_others():
    rewards = np.random.default_rng(0).permutation(100)
    chosen = select(rewards, 20)
    assert len(set(chosen)) == 20 and list(chosen) == sorted(chosen)
    assert set(range(90, 100)) <= set(rewards[chosen]) and rewards[chosen].min() < 60
    assert list(select(rewards, 100)) == list(range(100)) and list(select(rewards, 20)) == list(chosen)

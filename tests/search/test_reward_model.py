"""The model from which the controller learns between children."""
import numpy as np
import pytest
import torch

from nasnet_zoo.search.controller import Controller
from nasnet_zoo.search.ppo import Learner, Sample
from nasnet_zoo.search.ppo_settings import PRESETS, ModelSettings
from nasnet_zoo.search.reward_model import RewardModel, restrict_to_edits
from nasnet_zoo.search.space import darts_space

SPACE = darts_space(2)
SETTINGS = ModelSettings(draws=30, edits=30, rounds=2)
EVERY = [range(size) for size in SPACE.sizes]


def value(tokens):
    return sum(token == size - 1 for token, size in zip(tokens, SPACE.sizes)) + 1e-3 * sum(tokens)


def some_samples(count, seed=0):
    rows = (np.random.default_rng(seed).random((count, len(SPACE.sizes))) * SPACE.sizes).astype(int).tolist()
    return [Sample(tuple(row), (-1.,) * len(row), value(row)) for row in rows]


def fitted(count=60, settings=SETTINGS):
    model, samples = RewardModel(SPACE, settings), some_samples(count)
    model.fit(samples)
    return model, samples


@pytest.fixture(scope='module')
def controller():
    torch.manual_seed(0)
    return Controller(SPACE.sizes)


def tokens_of(samples):
    return torch.tensor([sample.tokens for sample in samples])


def test_too_few_children_predict_nothing():
    assert not fitted(SETTINGS.first - 1)[0].is_ready
    assert fitted(SETTINGS.first)[0].is_ready


def test_predictions_rank_other_children():
    model, others = fitted()[0], some_samples(80, seed=1)
    ranks = [np.argsort(np.argsort(values)) for values in (
        model.predict(tokens_of(others)).numpy(), [sample.reward for sample in others])]
    assert np.corrcoef(*ranks)[0, 1] > 0.8


def test_edits_change_one_to_three_decisions(controller):
    parents = tokens_of(some_samples(5))
    allowed = controller.allow(EVERY)
    remaining = restrict_to_edits(parents, 200, allowed, np.random.default_rng(0))
    tokens, _ = controller.sample(torch.rand(200, len(EVERY)), remaining)
    changes = (tokens[:, None] != parents).sum(-1).amin(-1)
    assert set(changes.tolist()) == {1, 2, 3}
    # What is fixed has its value, also if the edited child had another one.
    allowed = controller.allow([[0], [2], *EVERY[2:]])
    tokens, _ = controller.sample(
        torch.rand(50, len(EVERY)), restrict_to_edits(parents, 50, allowed, np.random.default_rng(0)))
    assert (tokens[:, :2] == torch.tensor([0, 2])).all()


def test_the_best_new_candidate_is_chosen(controller):
    model, samples = fitted()
    candidates = model.candidates(controller, controller.allow(EVERY), np.random.default_rng(0))
    assert 30 < len(candidates.children) <= 30 + 30 + 2 * 30
    assert len(set(candidates.encodings)) == len(candidates.children)
    torch.testing.assert_close(candidates.bounds, model.predict(torch.tensor(candidates.children)))
    bounds = dict(zip(candidates.children, candidates.bounds.tolist()))
    proposed, worth = {sample.tokens for sample in samples}, []
    for _ in range(3):
        tokens, log_probs, (mean, deviation) = model.choose(candidates, samples, [], proposed)
        assert bounds[tokens] == pytest.approx(max(bounds[child] for child in candidates.children
                                                   if child not in proposed))
        assert bounds[tokens] == pytest.approx(mean + SETTINGS.deviations * deviation)
        expected = controller(torch.tensor([tokens])).gather(-1, torch.tensor([tokens])[..., None])[0, :, 0]
        assert log_probs == pytest.approx(expected.tolist(), abs=1e-5)
        proposed.add(tokens)
        worth.append(value(tokens))
    assert min(worth) > np.mean([value(child) for child in candidates.children]) + 1
    assert model.choose(candidates, samples, [], {*proposed, *candidates.children}) is None


def test_what_is_pending_makes_similar_children_less_promising(controller):
    model, samples = fitted(20, SETTINGS._replace(deviations=30., rounds=4))
    candidates = model.candidates(controller, controller.allow(EVERY), np.random.default_rng(0))
    differences = {}
    for is_known in (False, True):
        proposed, children = {sample.tokens for sample in samples}, []
        for _ in range(6):
            pending = children if is_known else []
            children.append(model.choose(candidates, samples, pending, {*proposed, *children}).tokens)
        differences[is_known] = sum(a != b for one in children for other in children for a, b in zip(one, other))
    assert differences[True] > differences[False]


def test_a_later_child_is_taken_into_account(controller):
    model, samples = fitted()
    candidates = model.candidates(controller, controller.allow(EVERY), np.random.default_rng(0))
    known = {sample.tokens for sample in samples}
    chosen = model.choose(candidates, samples, [], known).tokens
    similar = [child for child in candidates.children if sum(a != b for a, b in zip(child, chosen)) == 1]
    more = [*samples, Sample(chosen, (), -50.)]
    again = model.choose(candidates, more, [], {*known, chosen}).tokens
    assert similar and again not in similar, 'a neighbour of a bad child is not promising any more'


def test_what_is_predicted_becomes_probable():
    learner = Learner(SPACE.sizes, PRESETS['fast'], seed=0)
    before, after = [], []
    for found, updates in ((before, 30), (after, 1)):
        def predict(tokens, found=found):
            found.append(np.mean([value(row) for row in tokens.tolist()]))
            return torch.tensor([value(row) for row in tokens.tolist()], dtype=torch.float64)
        learner.imagine(predict, updates, 32)
    assert after[0] > before[0] + 4 and not learner.samples and not learner.updates

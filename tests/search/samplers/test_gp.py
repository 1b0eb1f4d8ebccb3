"""Bayesian optimization: what it proposes, also with pending trials and after resuming."""
import random

import optuna
import pytest

from nasnet_zoo.search import GPSampler
from nasnet_zoo.search.encoding import Encoder
from nasnet_zoo.search.samplers import gp
from nasnet_zoo.search.space import Space, darts_space, nasnet_space

optuna.logging.set_verbosity(optuna.logging.WARNING)
SPACE = darts_space(2)


def one_decision(choices):
    cell = dict(blocks=[dict(left=[choices['op'], 'h0'], right=['identity', 'h0'])], outputs=[['b0'], ['b0', 'h0']])
    return dict(inputs=1, normal=cell, reduction=cell)


SMALL = Space('small', [('op', ('conv_1x1', 'conv_3x3'))], one_decision)
SPACES = {'darts': SPACE, 'nasnet': nasnet_space(3), 'small': SMALL,
          'letters': Space('letters', [('x', 'abc'), ('y', 'ab')], build=dict)}


@pytest.fixture(autouse=True)
def few_candidates(monkeypatch):
    monkeypatch.setattr(gp, 'NUM_VARIANTS', 40)
    monkeypatch.setattr(gp, 'NUM_RANDOM', 20)


def study_of(space=SPACE, num_random=5, **kwargs):
    return optuna.create_study(
        sampler=GPSampler(space, 0, num_random=num_random), **{'direction': 'maximize', **kwargs})


def value(space, tokens):
    """How many decisions are for the last option."""
    return sum(token == size - 1 for token, size in zip(tokens, space.sizes)) + 1e-3 * tokens[0]


def ask(study, space=SPACE):
    trial = study.ask()
    return trial, space.suggest(trial)


def notes(study):
    return study.trials[-1].system_attrs['nasnet_zoo']


@pytest.mark.parametrize('name', SPACES)
def test_every_space(name):
    """Also one with a single decision of two options, which are soon exhausted."""
    space = SPACES[name]
    study, asked = study_of(space), []
    for _ in range(25):
        trial, tokens = ask(study, space)
        asked.append(tokens)
        study.tell(trial, value(space, tokens))
    size = 1
    for options in space.sizes:
        size *= options
    assert len(set(asked)) == min(25, size), 'nothing is proposed twice unless there is nothing else'


def test_it_is_better_than_random():
    study = study_of()
    for _ in range(60):
        trial, tokens = ask(study)
        study.tell(trial, value(SPACE, tokens))
    rng = random.Random(0)
    drawn = max(value(SPACE, [rng.randrange(size) for size in SPACE.sizes]) for _ in range(1000))
    assert study.best_value > drawn
    assert notes(study)['predicted'][0] == pytest.approx(study.trials[-1].value, abs=2)
    assert notes(study)['parent'] in range(60)
    assert len(str(notes(study))) < 400


def test_swapped_operands_are_not_proposed_again():
    space = nasnet_space(1, ('conv_1x1', 'conv_3x3'), ('add',))
    study, encoder, encodings = study_of(space), Encoder(space), []
    for _ in range(40):
        trial, tokens = ask(study, space)
        encodings.append(encoder.encode(tokens))
        study.tell(trial, value(space, tokens))
    assert len(set(encodings)) == 40


def open_trials(study, count):
    return [ask(study) for _ in range(count)]


def test_open_and_failed_trials_are_not_proposed_again():
    study = study_of()
    for _ in range(12):
        trial, tokens = ask(study)
        study.tell(trial, value(SPACE, tokens))
    trials = open_trials(study, 30)
    assert len({tokens for _, tokens in trials}) == 30
    for trial, _ in trials:
        study.tell(trial, state=optuna.trial.TrialState.FAIL)
    assert not {tokens for _, tokens in open_trials(study, 2)} & {tokens for _, tokens in trials}


def test_a_pending_trial_changes_the_next_proposal(monkeypatch):
    predict, asked = GPSampler._predict, {}
    for is_ignored in (False, True):
        study = study_of()
        for _ in range(12):
            trial, tokens = ask(study)
            study.tell(trial, value(SPACE, tokens))
        if is_ignored:
            monkeypatch.setattr(GPSampler, '_predict', lambda self, pool, pending: predict(self, pool, []))
        asked[is_ignored] = [tokens for _, tokens in open_trials(study, 12)]
    assert asked[True][0] == asked[False][0] and asked[True] != asked[False]


@pytest.mark.parametrize('resumed_after', [8, 21, 29])
def test_a_resumed_study_with_open_trials(resumed_after):
    """Trials finish in another order than they began, and are open when the sampler is replaced by a new one."""
    def run(study, steps, trials):
        asked = []
        for i in steps:
            while len(trials) < 4:
                trials.append(ask(study))
                asked.append(trials[-1][1])
            trial, tokens = trials.pop((2, 0, 3)[i % 3])
            study.tell(trial.number, value(SPACE, tokens))
        return asked
    whole, parts, trials = study_of(), study_of(), []
    expected = run(whole, range(40), [])
    found = run(parts, range(resumed_after), trials)
    parts.sampler = GPSampler(SPACE, 0, num_random=5)
    assert found + run(parts, range(resumed_after, 40), trials) == expected


def test_warm_starts_are_learned_from():
    """Enqueued children of a high reward are the parents of what is proposed next."""
    study = study_of()
    best = tuple(size - 1 for size in SPACE.sizes)
    study.enqueue_trial(SPACE.choices(best))
    for _ in range(7):
        trial, tokens = ask(study)
        study.tell(trial, value(SPACE, tokens))
    assert study.best_trial.number == 0
    assert any(study.trials[number].system_attrs['nasnet_zoo'].get('parent') == 0 for number in (5, 6))


def test_only_a_part_of_many_children_is_given_to_the_process(monkeypatch):
    monkeypatch.setattr(gp, 'MAX_CHILDREN', 20)
    study = study_of()
    for _ in range(45):
        trial, tokens = ask(study)
        study.tell(trial, value(SPACE, tokens))
    assert len(study.sampler._pool.process) == 20 and study.sampler._pool.size == 35

"""The controller and evolution as Optuna samplers."""
import math

import optuna
import pytest
import torch

from nasnet_zoo.search import EvolutionSampler, PPOSampler
from nasnet_zoo.search.controller import Controller
from nasnet_zoo.search.ppo import Learner, Sample
from nasnet_zoo.search.ppo_settings import PRESETS, ModelSettings
from nasnet_zoo.search.space import Space, SpaceError, darts_space, nasnet_space

optuna.logging.set_verbosity(optuna.logging.WARNING)
SPACE = darts_space(2)
SMALL = PRESETS['fast']._replace(batch=4)
MODEL = SMALL._replace(model=ModelSettings(first=8, updates=2, batch=16, draws=20, edits=20, rounds=1))
KINDS = {'evolution': lambda seed=0: EvolutionSampler(SPACE, seed, population=10, tournament=4),
         'model': lambda seed=0: PPOSampler(SPACE, MODEL, seed),
         'fast': lambda seed=0: PPOSampler(SPACE, SMALL, seed),
         'paper': lambda seed=0: PPOSampler(SPACE, PRESETS['paper']._replace(batch=4), seed)}
ANY = pytest.mark.parametrize('kind', KINDS)


def value(tokens):
    """How many decisions are for the last option, and a little for the first ones to be different."""
    return sum(token == size - 1 for token, size in zip(tokens, SPACE.sizes)) + 1e-3 * sum(tokens)


def run(study, trials, score=value):
    asked = []
    for _ in range(trials):
        trial = study.ask()
        asked.append(SPACE.suggest(trial))
        study.tell(trial, score(asked[-1]))
    return asked


def study_of(sampler, **kwargs):
    return optuna.create_study(sampler=sampler, **{'direction': 'maximize', **kwargs})


# The controller

def test_a_draw_has_the_probability_that_the_controller_gives_it():
    torch.manual_seed(0)
    controller = Controller((2, 3, 5), hidden=8, init_range=1.)
    tokens, log_probs = controller.sample(torch.rand(4000, 3))
    expected = controller(tokens).gather(-1, tokens[..., None])[..., 0]
    torch.testing.assert_close(log_probs, expected.detach(), atol=1e-5, rtol=1e-4)
    options = controller(tokens).exp()
    torch.testing.assert_close(options.sum(-1), torch.ones(4000, 3))
    assert (options[:, 0, 2:] == 0).all() and tokens.max(0).values.tolist() == [1, 2, 4]
    first = tokens[:, 0].float().mean()
    assert abs(first - options[0, 0, 1]) < 4 * math.sqrt(0.25 / 4000), 'as often as it is probable'


def test_a_row_does_not_depend_on_the_others():
    torch.manual_seed(0)
    controller, uniforms = Controller(SPACE.sizes), torch.rand(7, len(SPACE.sizes))
    together = controller.sample(uniforms)[0]
    assert all(torch.equal(controller.sample(row[None])[0][0], tokens) for row, tokens in zip(uniforms, together))
    edge = controller.sample(torch.full_like(uniforms, 1 - 2 ** -24))[0]
    assert (edge < torch.tensor(SPACE.sizes)).all()


def test_the_controller_is_the_papers():
    controller = Controller(nasnet_space().sizes)
    assert controller.lstm.hidden_size == 100 and controller.lstm.num_layers == 1
    for parameter in controller.parameters():
        assert parameter.abs().max() <= 0.1
        assert parameter.numel() < 100 or 0.05 < parameter.std() < 0.065, 'uniform'
    paper = PRESETS['paper']
    assert (paper.lr, paper.entropy_weight, paper.baseline_decay, paper.batch) == (3.5e-4, 1e-5, 0.95, 20)


@pytest.mark.parametrize('preset, lr', [('paper', 1e-2), ('fast', 3e-3)])
def test_what_is_rewarded_becomes_probable(preset, lr):
    learner = Learner(SPACE.sizes, PRESETS[preset]._replace(lr=lr), seed=0)
    rewards = []
    for update in range(20):
        tokens, log_probs = learner.controller.sample(torch.rand(
            learner.settings.batch, len(SPACE.sizes), generator=torch.Generator().manual_seed(update)))
        for row, log_prob in zip(tokens.tolist(), log_probs.tolist()):
            learner.tell(Sample(row, log_prob, value(row)))
        rewards.append(learner.diagnostics['reward'])
    assert learner.updates == 20 and sum(rewards[-4:]) > sum(rewards[:4]) + 4
    assert {'approx_kl', 'clipfrac', 'entropy', 'explained_variance'} <= learner.diagnostics.keys()
    assert all(map(math.isfinite, learner.diagnostics.values()))


# In studies

@ANY
def test_learns_and_is_reproducible(kind):
    first, again, other = (run(study_of(KINDS[kind](seed)), 24) for seed in (0, 0, 1))
    assert first == again != other


@pytest.mark.parametrize('kind', ['evolution', 'model', 'fast'])
def test_beats_random(kind):
    def best(sampler):
        return max(map(value, run(study_of(sampler), 100)))
    assert sum(best(KINDS[kind](seed)) > best(optuna.samplers.RandomSampler(seed)) for seed in range(3)) == 3


@pytest.mark.parametrize('kind', ['evolution', 'model', 'fast'])
def test_does_not_ask_twice(kind):
    asked = run(study_of(KINDS[kind]()), 60)
    assert len(set(asked[10:])) == 50


@pytest.mark.parametrize('sampler', [EvolutionSampler, PPOSampler])
def test_a_space_that_is_exhausted_is_asked_for_again(sampler):
    tiny = Space('tiny', [('a', 'xy'), ('b', 'xy')], build=dict)
    study = study_of(sampler(tiny, seed=0))
    study.optimize(lambda trial: sum(tiny.suggest(trial)), n_trials=70)
    assert len({tiny.tokens(trial.params) for trial in study.trials}) == 4 and study.best_value == 2


def test_threads_share_a_sampler():
    study = study_of(KINDS['fast']())
    study.optimize(lambda trial: value(SPACE.suggest(trial)), n_trials=24, n_jobs=3)
    assert len({SPACE.tokens(trial.params) for trial in study.trials}) == 24


def test_minimising_is_maximising_the_opposite():
    up = run(study_of(KINDS['fast']()), 24)
    assert run(study_of(KINDS['fast'](), direction='minimize'), 24, lambda tokens: -value(tokens)) == up


@ANY
def test_a_study_is_gone_on_with_as_if_it_had_not_ended(kind, tmp_path):
    """By another process, from its storage: trials, and for PPO the policy to the last bit."""
    def storage(name):
        return optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(tmp_path / name)))
    whole = study_of(KINDS[kind](), storage=storage('whole'), study_name='s')
    expected = run(whole, 30)
    run(study_of(KINDS[kind](), storage=storage('parts'), study_name='s'), 18)
    resumed = optuna.load_study(study_name='s', storage=storage('parts'), sampler=KINDS[kind](None))
    assert run(resumed, 12) == expected[18:]
    if kind != 'evolution':
        ours, theirs = (study.sampler.learner.controller.state_dict() for study in (resumed, whole))
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
        facts = resumed.trials[-1].system_attrs['nasnet_zoo']
        assert facts['tokens'] == list(expected[-1]) and len(facts['log_probs']) == len(SPACE.sizes)
        assert facts['update'] == 29 // 4
        assert 'approx_kl' in resumed.trials[20].system_attrs['nasnet_zoo']['diagnostics']


@ANY
def test_parallel_failed_and_enqueued_trials(kind):
    """Trials overlap, end in another order, fail, and are given by hand; none of it is asked twice or lost."""
    study = study_of(KINDS[kind]())
    given = tuple(size - 1 for size in SPACE.sizes)
    study.enqueue_trial(SPACE.choices(given))
    seen, open_trials = [], []
    for i in range(40):
        trial = study.ask()
        open_trials.append((trial, SPACE.suggest(trial)))
        seen.append(open_trials[-1][1])
        if len(open_trials) == 3:
            trial, tokens = open_trials.pop(i % 3)
            if i % 5 == 4:
                study.tell(trial, state=optuna.trial.TrialState.FAIL)
            else:
                study.tell(trial, value(tokens))
    assert seen[0] == given and study.best_value == value(given)
    assert kind == 'paper' or len(set(seen)) > 38
    if kind != 'evolution':
        complete = sum(trial.state == optuna.trial.TrialState.COMPLETE for trial in study.trials)
        assert len(study.sampler.learner.samples) == complete


def test_other_parameters_are_drawn_too():
    study = study_of(KINDS['fast']())
    study.optimize(lambda trial: value(SPACE.suggest(trial)) + trial.suggest_float('lr', 0., 0.1), n_trials=6)
    assert all(len(trial.params) == len(SPACE.decisions) + 1 for trial in study.trials)


def test_another_space_seed_or_sampler_is_refused():
    study = study_of(KINDS['fast'](3))
    run(study, 1)
    for sampler, changed in ((PPOSampler(darts_space(3), SMALL), 'space'), (KINDS['fast'](4), 'seed=3'),
                             (KINDS['evolution'](3), 'sampler=PPOSampler'), (KINDS['paper'](3), 'lr=0.003')):
        study.sampler = sampler
        with pytest.raises(SpaceError, match=f'was started with another .*{changed}'):
            run(study, 1)
    study.sampler = PPOSampler(SPACE, SMALL)
    run(study, 1)


def test_several_objectives_need_one_reward():
    both = dict(direction=None, directions=['maximize', 'minimize'])
    with pytest.raises(ValueError, match='pass `reward`, which computes the number'):
        run(study_of(KINDS['fast'](), **both), 1)
    study = study_of(PPOSampler(SPACE, SMALL, 0, reward=lambda trial: trial.values[0] - trial.values[1]), **both)
    run(study, 9, lambda tokens: (value(tokens), 0.5))
    assert study.sampler.learner.samples[0].reward == study.trials[0].values[0] - 0.5


def test_unknown_preset():
    with pytest.raises(ValueError, match="unknown preset 'slow'; known: model, fast, paper"):
        PPOSampler(SPACE, 'slow')


def test_evolution_mutates_a_known_cell_at_once():
    """One that was enqueued, but not a trial that a search asks for again because it was interrupted."""
    given = tuple(size - 1 for size in SPACE.sizes)
    differ = {}
    for notes in ({}, dict(again_for=0)):
        study = study_of(KINDS['evolution']())
        study.enqueue_trial(SPACE.choices(given), user_attrs=notes)
        asked = run(study, 4)
        assert asked[0] == given
        differ[bool(notes)] = [sum(a != b for a, b in zip(tokens, given)) for tokens in asked[1:]]
    assert differ[False][0] == 1 and max(differ[False]) <= 3, 'mutations of it, and of its children'
    assert min(differ[True]) > 3, 'random children'
    assert run(study_of(KINDS['evolution']()), 4)[1:] == asked[1:], 'the random children are those of any other study'

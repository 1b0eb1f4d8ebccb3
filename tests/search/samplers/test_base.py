"""What every sampler of the table must do: Optuna's own tests of samplers, and ours for use outside of our loop."""
import copy
import hashlib
import json
import pickle
import warnings
from concurrent.futures import Future

import cloudpickle
import optuna
import pytest
from optuna.distributions import CategoricalDistribution
from optuna.samplers import PartialFixedSampler
from optuna.trial import TrialState

from helpers.paths import TESTS
from nasnet_zoo.search.evaluator import Evaluation
from nasnet_zoo.search.loop import Search
from nasnet_zoo.search.ppo_settings import PRESETS, ModelSettings
from nasnet_zoo.search.samplers import SAMPLERS
from nasnet_zoo.search.samplers.base import SpaceSampler
from nasnet_zoo.search.samplers.ppo import PPOSampler
from nasnet_zoo.search.space import SPACES, Space, darts_space
from nasnet_zoo.search.study import StudySettings, open_study

try:
    from optuna.testing.pytest_samplers import BasicSamplerTestCase, MultiObjectiveSamplerTestCase
except ImportError:  # before Optuna 4.6
    class BasicSamplerTestCase:
        pass

    class MultiObjectiveSamplerTestCase:
        pass

optuna.logging.set_verbosity(optuna.logging.WARNING)
SPACE = darts_space(2)
CASES = {'darts': SPACE, 'letters': Space('letters', [('x', 'abc'), ('y', 'ab'), ('category', 'xy')], build=dict)}
NAMES = [decision.name for decision in SPACE.decisions]
FIXED = {NAMES[1]: SPACE.decisions[1].options[2], NAMES[-1]: SPACE.decisions[-1].options[0]}
COPIES = {'deepcopy': copy.deepcopy, 'pickle': lambda study: pickle.loads(pickle.dumps(study)),
          'cloudpickle': lambda study: pickle.loads(cloudpickle.dumps(study))}


ROWS = [*SAMPLERS, 'ppo-model']
SMALL_MODEL = PRESETS['model']._replace(model=ModelSettings(updates=1, batch=16, draws=20, edits=20, rounds=1))


def make(name, seed=0, trials=0, reward=None, space=SPACE):
    if name == 'ppo-model':
        return PPOSampler(space, SMALL_MODEL, seed, reward)
    return SAMPLERS[name].resolve()(space, seed, 'fast', trials, reward)


OURS = [name for name in ROWS if isinstance(make(name), SpaceSampler)]
ANY, EACH_OF_OURS = pytest.mark.parametrize('name', ROWS), pytest.mark.parametrize('name', OURS)


def value(params):
    """How many decisions are for the last option, of those that `params` has."""
    return sum(params.get(name) == options[-1] for name, options in SPACE.decisions) + 0.01 * len(set(params.values()))


def study_of(sampler, **kwargs):
    return optuna.create_study(sampler=sampler, direction='maximize', **kwargs)


def objective(trial):
    return value(SPACE.choices(SPACE.suggest(trial)))


def partly_fixed(sampler, fixed=FIXED):
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', optuna.exceptions.ExperimentalWarning)
        return PartialFixedSampler(fixed, sampler)


def all_params(study):
    return [trial.params for trial in study.trials]


def notes(trial):
    return trial.system_attrs['nasnet_zoo']


def learned(study):
    """How many trials the sampler had learned from when it proposed the last one."""
    return notes(study.trials[-1])['learned_before'] + len(notes(study.trials[-1])['learned'])


def running(study):
    number = study.ask().number
    return study.trials[number]


class TestOptunasCases(BasicSamplerTestCase, MultiObjectiveSamplerTestCase):
    """With a space that has nothing to do with the studies, and one that has the names of their parameters."""
    @pytest.fixture(params=[f'{name} {space}' for name in OURS for space in CASES])
    def sampler(self, request):
        name, space = request.param.split()
        return lambda: make(name, space=CASES[space])


# What is fixed

@ANY
def test_partial_fixed_sampler(name):
    """The example of the issue; afterwards the same sampler proposes all parameters again."""
    sampler = make(name)
    study = study_of(partly_fixed(sampler))
    study.optimize(objective, n_trials=35)
    assert all(trial.params.items() >= FIXED.items() for trial in study.trials)
    assert len({tuple(trial.params.values()) for trial in study.trials}) > 20
    study.sampler = sampler
    study.optimize(objective, n_trials=15)
    assert any(not trial.params.items() >= FIXED.items() for trial in study.trials[35:])


@EACH_OF_OURS
def test_the_rest_is_proposed_to_go_with_what_is_fixed(name):
    study = study_of(partly_fixed(make(name)))
    study.optimize(objective, n_trials=35)
    for trial in study.trials:
        assert SPACE.choices(notes(trial)['tokens']) == trial.params, 'the proposal has the fixed values'
    if 'ppo' in name:  # the log-probabilities are those of the unrestricted policy
        learner = type(study.sampler._base_sampler)(SPACE, seed=0)
        learner._seed = 0
        learner.start()
        first = study.trials[0]
        expected = learner.learner.log_probs(SPACE.tokens(first.params))
        assert notes(first)['log_probs'] == pytest.approx(expected, abs=1e-5)
    if name == 'evolution':  # and what is not fixed is the parent's, but for the mutations
        child = study.trials[-1]
        parent = study.trials[notes(child)['parent']]
        assert sum(child.params[name] != parent.params[name] for name in NAMES) <= 3


@ANY
@pytest.mark.parametrize('fixed', [FIXED, dict.fromkeys(FIXED, 'x'), {**FIXED, 'lr': 0.5}], ids=['in', 'out', 'beside'])
def test_enqueued_trials_of_some_parameters(name, fixed):
    """Values that are no options are out of range for Optuna, which raises as for its own samplers."""
    study = study_of(make(name))
    study.optimize(objective, n_trials=3)
    study.enqueue_trial(fixed)
    if 'x' in fixed.values():
        with pytest.raises(ValueError, match='x'):
            study.optimize(objective, n_trials=1)
    else:
        study.optimize(objective, n_trials=1)
        assert study.trials[-1].params.items() >= FIXED.items()
    study.optimize(objective, n_trials=3)
    assert len(SPACE.tokens(study.trials[-1].params)) == len(NAMES)


@EACH_OF_OURS
def test_a_search_space_that_is_passed_in(name):
    sampler = make(name)
    study = study_of(sampler)
    study.optimize(objective, n_trials=31)
    frozen = running(study)
    inferred = sampler.infer_relative_search_space(study, frozen)
    assert inferred == SPACE.distributions
    few = {NAMES[0]: CategoricalDistribution(SPACE.decisions[0].options[1:3]), NAMES[2]: inferred[NAMES[2]]}
    inferred.clear()
    assert sampler.infer_relative_search_space(study, frozen) == SPACE.distributions, 'callers may change the result'
    for _ in range(5):
        params = sampler.sample_relative(study, running(study), few)
        assert params.keys() == few.keys() and params[NAMES[0]] in SPACE.decisions[0].options[1:3]
    fresh = study_of(make(name))
    params = fresh.sampler.sample_relative(fresh, running(fresh), few)
    assert params.keys() == few.keys() and params[NAMES[0]] in SPACE.decisions[0].options[1:3]


# Objectives that are not ours

@ANY
def test_other_order_fewer_options_and_other_parameters(name):
    def foreign(trial):
        rate = trial.suggest_float('lr', 1e-4, 1., log=True)
        for decision in reversed(SPACE.decisions):
            trial.suggest_categorical(decision.name, decision.options[:-1])
        return value(trial.params) - rate

    study = study_of(make(name))
    study.optimize(foreign, n_trials=35)
    assert all(len(trial.params) == len(NAMES) + 1 for trial in study.trials)
    assert all(trial.state == TrialState.COMPLETE for trial in study.trials)
    assert len({trial.params['lr'] for trial in study.trials}) == 35
    if name in OURS:
        assert len({tuple(notes(trial)['tokens']) for trial in study.trials}) > 20
        last = study.trials[-1]
        assert SPACE.choices(notes(last)['tokens']).items() <= last.params.items(), 'only such options are proposed'
        assert learned(study) == 34


@ANY
def test_parts_of_a_child(name):
    """The number of blocks is a parameter of its own, and the objective asks for the decisions of these blocks only."""
    def conditional(trial):
        count = trial.suggest_int('blocks', 1, 2)
        return value({decision.name: trial.suggest_categorical(decision.name, decision.options)
                      for decision in SPACE.decisions if count == 2 or '.b1.' not in decision.name})

    study = study_of(make(name))
    study.optimize(conditional, n_trials=35)
    assert {trial.params['blocks'] for trial in study.trials} == {1, 2}
    if name in OURS:
        assert learned(study) == 34


@ANY
def test_fixed_distributions_and_threads(name):
    study = study_of(make(name))
    for _ in range(3):
        trial = study.ask({**SPACE.distributions, 'lr': optuna.distributions.FloatDistribution(0, 1)})
        study.tell(trial, value(trial.params))
    study.optimize(objective, n_trials=12, n_jobs=2)
    assert all(SPACE.tokens(trial.params) and trial.state == TrialState.COMPLETE for trial in study.trials)


@ANY
@pytest.mark.parametrize('pruner', ['median', 'hyperband'])
def test_pruners_in_a_plain_loop(name, pruner):
    from nasnet_zoo.search.pruning import PRUNERS

    def pruned(trial):
        worth = objective(trial)
        for epoch in range(1, 4):
            trial.report(worth * epoch, epoch)
            if trial.should_prune():
                raise optuna.TrialPruned
        return worth
    study = study_of(make(name), pruner=PRUNERS[pruner].resolve()(3))
    study.optimize(pruned, n_trials=30)
    states = {trial.state for trial in study.trials}
    assert states == {TrialState.COMPLETE, TrialState.PRUNED}


@ANY
def test_several_objectives(name):
    study = optuna.create_study(
        sampler=make(name, reward=lambda trial: sum(trial.values)), directions=['maximize', 'minimize'])
    study.optimize(lambda trial: (objective(trial), 0.5), n_trials=6)
    assert len(study.trials) == 6


@EACH_OF_OURS
def test_infinite_values_are_not_learned_from(name):
    study = study_of(make(name))
    study.optimize(lambda trial: objective(trial) if trial.number % 2 else float('-inf'), n_trials=24)
    assert learned(study) == 11


# Copies

@ANY
@pytest.mark.parametrize('kind', COPIES)
@pytest.mark.parametrize('before', [0, 33])
def test_copies_go_on_as_the_original(name, kind, before):
    """A study in memory and its sampler, as Ray Tune's OptunaSearch saves them, also before the first trial."""
    study = study_of(make(name))
    study.optimize(objective, n_trials=before)
    other = COPIES[kind](study)
    study.optimize(objective, n_trials=14)
    other.optimize(objective, n_trials=14)
    assert all_params(other) == all_params(study)


@EACH_OF_OURS
def test_a_sampler_is_used_for_one_study_after_another(name):
    """Also alternately, as a copy for the same study, and where two studies have the same name."""
    sampler = make(name)
    studies = [study_of(sampler, study_name='same') for _ in range(2)]
    for study in studies * 2:
        study.optimize(objective, n_trials=16)
    alone = study_of(make(name))
    alone.optimize(objective, n_trials=20)
    alone.sampler = copy.deepcopy(alone.sampler)
    alone.optimize(objective, n_trials=12)
    assert all_params(studies[0]) == all_params(studies[1]) == all_params(alone)
    without_seed = make(name, None)
    asked = []
    for _ in range(2):
        study = study_of(without_seed)
        study.optimize(objective, n_trials=1)
        asked += all_params(study)
    assert asked[0] != asked[1], 'each study draws a seed'


@ANY
@pytest.mark.parametrize('storage', ['memory', 'sqlite', 'journal'])
def test_storages_and_fresh_samplers(name, storage, tmp_path):
    def backend():
        if storage == 'sqlite':
            return f'sqlite:///{tmp_path / "study.db"}'
        backend = optuna.storages.journal.JournalFileBackend(str(tmp_path / 'study.log'))
        return optuna.storages.JournalStorage(backend)
    study = study_of(make(name), storage=None if storage == 'memory' else backend(), study_name='s')
    study.optimize(objective, n_trials=4)
    if storage != 'memory':
        study = optuna.load_study(study_name='s', storage=backend(), sampler=make(name, trials=4))
    else:
        study.sampler = make(name, trials=4)
    study.optimize(objective, n_trials=2)
    assert len(study.trials) == 6
    if name in OURS:
        whole = study_of(make(name))
        whole.optimize(objective, n_trials=6)
        assert all_params(whole) == all_params(study)


@EACH_OF_OURS
def test_other_parameters_are_the_same_after_resuming(name):
    def run(study, trials):
        study.optimize(lambda trial: objective(trial) - trial.suggest_float('lr', 0, 1), n_trials=trials)
        return study
    whole, parts = run(study_of(make(name)), 6), run(study_of(make(name)), 3)
    parts.sampler = make(name)
    parts.sampler.reseed_rng()
    assert all_params(run(parts, 3)) == all_params(whole)


@EACH_OF_OURS
def test_after_an_error_nothing_is_forgotten(name):
    """For example a keyboard interrupt while the sampler learns."""
    broken = [True]

    def reward(trial):
        if trial.number == 12 and broken:
            broken.clear()
            raise KeyboardInterrupt
        return trial.value
    study = study_of(make(name, reward=reward))
    study.optimize(objective, n_trials=13)
    with pytest.raises(KeyboardInterrupt):
        study.optimize(objective, n_trials=1)
    study.optimize(objective, n_trials=20)
    assert learned(study) == 32


# Searches of the same seed propose the same children as they did before (recorded at 6b46199)

RECORDED = json.loads((TESTS / 'data' / 'search_children.json').read_text(encoding='utf-8'))
EACH_RECORDED = pytest.mark.parametrize('space, sampler', [key.split() for key in RECORDED if len(key.split()) == 2])


def evaluate(genotype):
    value = int(genotype.architecture_digest[:4], 16) / 65536
    return Evaluation(value, value, 1, 1, 1.)


class InProcessPool:
    """A pool whose only worker is this process."""
    size, host = 1, '127.0.0.1'

    def submit(self, genotype, should_prune=None):
        future = Future()
        future.set_result(evaluate(genotype))
        return future

    def result(self, future):
        return future.result()

    def close(self):
        pass


@pytest.fixture
def recorded_version(request):
    if request.node.callspec.params['sampler'] not in OURS and optuna.__version__ != '5.0.0':
        pytest.skip("Optuna's own samplers may propose other children in another version")


@pytest.mark.usefixtures('recorded_version')
@EACH_RECORDED
def test_a_search_of_forty_children(space, sampler, tmp_path):
    made = SPACES[space]()
    study = open_study(tmp_path, 'test', create=StudySettings(
        lambda trials: SAMPLERS[sampler].resolve()(made, 3, 'fast', trials, None)))
    Search(study, made, InProcessPool()).run(40)
    assert [trial.user_attrs['architecture'][:8] for trial in study.trials] == RECORDED[f'{space} {sampler}']


@pytest.mark.usefixtures('recorded_version')
@EACH_RECORDED
def test_forty_trials_of_a_study(space, sampler):
    """With PPO's other preset, and another seed."""
    made, asked = SPACES[space](), []
    study = optuna.create_study(direction='maximize', sampler=SAMPLERS[sampler].resolve()(made, 4, 'paper', 0, None))
    for _ in range(40):
        trial = study.ask()
        asked.append(made.suggest(trial))
        study.tell(trial, evaluate(made.genotype(asked[-1])).accuracy)
    digest = hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:16]
    assert digest == RECORDED[f'{space} {sampler} tokens']

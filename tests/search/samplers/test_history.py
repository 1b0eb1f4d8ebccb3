"""The order in which trials are learned from, whatever the clock says."""
import datetime
import importlib
import random
from types import SimpleNamespace

import optuna
import pytest

from nasnet_zoo.search import EvolutionSampler
from nasnet_zoo.search.ppo_settings import PRESETS
from nasnet_zoo.search.samplers.history import NOTES
from nasnet_zoo.search.samplers.ppo import PPOSampler
from nasnet_zoo.search.space import darts_space

optuna.logging.set_verbosity(optuna.logging.WARNING)
SPACE = darts_space(1)
KINDS = {'evolution': lambda: EvolutionSampler(SPACE, 0, population=5, tournament=2),
         'ppo': lambda: PPOSampler(SPACE, PRESETS['fast']._replace(batch=4), 0)}
STORAGES = 'optuna.storages._in_memory', 'optuna.storages._rdb.storage', 'optuna.storages.journal._storage'


@pytest.fixture
def set_clock(monkeypatch):
    """Let Optuna's clock move on by some seconds at each look."""
    def set_clock(step):
        class Clock(datetime.datetime):
            now_is = datetime.datetime(2026, 10, 25, 0, 59, tzinfo=datetime.UTC)

            @classmethod
            def now(cls, tz=None):
                Clock.now_is += datetime.timedelta(seconds=step)
                return Clock.now_is.astimezone(tz) if tz else Clock.now_is.astimezone().replace(tzinfo=None)
        monkeypatch.undo()
        for module in map(importlib.import_module, STORAGES):
            imported = SimpleNamespace(**{**vars(datetime), 'datetime': Clock})  # Optuna 4 imports the module
            monkeypatch.setattr(module, 'datetime', imported if module.datetime is datetime else Clock)
    return set_clock


def storage(folder, kind='journal'):
    if kind == 'sqlite':
        return optuna.storages.RDBStorage(f'sqlite:///{folder / "study.db"}')
    return optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(folder / 'study.log')))


def reward(tokens):
    return sum(tokens) + 1e-3 * tokens[0]


def run(study, told, open_trials, pattern=(2, 0, 1)):
    """Ask for a trial and tell one, by the pattern, until so many were told. Three are open at a time."""
    asked = []
    for i in range(told):
        while len(open_trials) < 3:
            trial = study.ask()
            asked.append(SPACE.suggest(trial))
            open_trials.append((trial.number, asked[-1]))
        number, tokens = open_trials.pop(pattern[i % len(pattern)])
        study.tell(number, reward(tokens))
    return asked


@pytest.mark.parametrize('kind, backend, trials', [
    ('ppo', 'journal', 24), ('evolution', 'journal', 24), ('evolution', 'sqlite', 6)])
def test_a_clock_that_is_set_back(kind, backend, trials, set_clock, tmp_path):
    """Trials that end in another order than they began; the children are the same, resumed or not, with any clock."""
    children, policies = [], []
    for step, resumed_after in ((1, 0), (-1, 0), (-1, trials // 2), (0, trials // 2)):
        set_clock(step)
        folder = tmp_path / f'{step}-{resumed_after}'
        folder.mkdir()
        study = optuna.create_study(
            storage=storage(folder, backend), study_name='s', direction='maximize', sampler=KINDS[kind]())
        open_trials = []
        asked = run(study, resumed_after, open_trials)
        if resumed_after:
            study = optuna.load_study(study_name='s', storage=storage(folder, backend), sampler=KINDS[kind]())
        children.append(asked + run(study, trials - resumed_after, open_trials))
        if kind == 'ppo':
            policies.append([values.tolist() for values in study.sampler.learner.controller.parameters()])
    assert all(asked == children[0] for asked in children) and all(policy == policies[0] for policy in policies)


def orders(study, kind='evolution'):
    """The order in which a fresh sampler learns from the trials of a study."""
    sampler, order = KINDS[kind](), []
    study.sampler, sampler.learn = sampler, lambda child: order.append(child.number)
    number = study.ask().number
    sampler.sample_relative(study, study.trials[number], {})
    return order


def test_the_order_is_that_in_which_trials_were_learned_from(set_clock):
    set_clock(-1)
    study = optuna.create_study(direction='maximize', sampler=KINDS['evolution']())
    seen = []
    study.sampler.learn = lambda child: seen.append(child.number)
    run(study, 20, [])
    SPACE.suggest(study.ask())
    assert seen != sorted(seen) and orders(study) == seen


def test_several_processes(tmp_path):
    """Each learns in its own order; whoever resumes follows the order that was stored first."""
    studies = [optuna.create_study(storage=storage(tmp_path), study_name='s', direction='maximize', load_if_exists=True,
                                   sampler=KINDS['evolution']()) for _ in range(2)]
    open_trials = [[], []]
    for i in range(8):
        run(studies[i % 2], 2, open_trials[i % 2])
    found = [orders(optuna.load_study(study_name='s', storage=storage(tmp_path))) for _ in range(2)]
    assert found[0] == found[1] and sorted(found[0]) == sorted({*found[0]}) and len(found[0]) == 16


def test_threads_learn_in_one_order():
    study = optuna.create_study(direction='maximize', sampler=KINDS['evolution']())
    seen = []
    study.sampler.learn = lambda child: seen.append(child.number)
    study.optimize(lambda trial: reward(SPACE.suggest(trial)), n_trials=40, n_jobs=4)
    SPACE.suggest(study.ask())
    assert orders(study) == seen and len(seen) == 40


def finished_trial(i, minutes, tokens=None, **kwargs):
    when = datetime.datetime(2026, 1, 1) + datetime.timedelta(minutes=minutes)
    rng = random.Random(i)
    choices = SPACE.choices(tokens or [rng.randrange(size) for size in SPACE.sizes])
    trial = optuna.trial.create_trial(params=choices, distributions=SPACE.distributions, value=float(i), **kwargs)
    trial.datetime_start = trial.datetime_complete = when
    return trial


def test_studies_of_earlier_versions_are_ordered_by_time():
    """Their trials have no place in the order; those that are told later come after them."""
    study = optuna.create_study(direction='maximize')
    study.add_trials([finished_trial(i, minutes) for i, minutes in enumerate([3, 1, 2, 1])])
    study.sampler = KINDS['evolution']()
    SPACE.suggest(study.ask())  # trial 4
    study.add_trial(finished_trial(5, -9))  # in a study that keeps the order, the time of completion does not count
    study.tell(4, 0.)
    assert orders(study) == [1, 3, 2, 0, 4, 5]


def test_many_added_trials_are_listed_in_parts(monkeypatch):
    monkeypatch.setattr('nasnet_zoo.search.samplers.history.MAX_LISTED', 30)
    study = optuna.create_study(direction='maximize', sampler=KINDS['evolution']())
    study.add_trials([finished_trial(i, -i, tokens=[0] * len(SPACE.sizes)) for i in range(33)])
    for _ in range(2):
        SPACE.suggest(study.ask())
    listed = [trial.system_attrs[NOTES]['learned'] for trial in study.trials[-2:]]
    assert [len(part) for part in listed] == [30, 3]
    assert orders(study) == [number for part in listed for number in part] == [*range(32, -1, -1)]

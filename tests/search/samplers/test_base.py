"""Searches of the same seed propose the same children as they did before (recorded at 6b46199)."""
import hashlib
import json
from concurrent.futures import Future

import optuna
import pytest

from helpers.paths import TESTS
from nasnet_zoo.search.evaluator import Evaluation
from nasnet_zoo.search.loop import Search
from nasnet_zoo.search.samplers import SAMPLERS
from nasnet_zoo.search.space import SPACES
from nasnet_zoo.search.study import StudySettings, open_study

RECORDED = json.loads((TESTS / 'data' / 'search_children.json').read_text(encoding='utf-8'))
ANY = pytest.mark.parametrize('space, sampler', [key.split() for key in RECORDED if len(key.split()) == 2])


def evaluate(genotype):
    return Evaluation(int(genotype.architecture_digest[:4], 16) / 65536, 1, 1, 1.)


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


@pytest.fixture(autouse=True)
def recorded_version(request):
    if request.node.callspec.params['sampler'] not in ('ppo', 'evolution') and optuna.__version__ != '5.0.0':
        pytest.skip("Optuna's own samplers may propose other children in another version")


@ANY
def test_a_search_of_forty_children(space, sampler, tmp_path):
    made = SPACES[space]()
    study = open_study(tmp_path, 'test', create=StudySettings(
        lambda trials: SAMPLERS[sampler].resolve()(made, 3, 'fast', trials, None)))
    Search(study, made, InProcessPool()).run(40)
    assert [trial.user_attrs['architecture'][:8] for trial in study.trials] == RECORDED[f'{space} {sampler}']


@ANY
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

"""Searches whose children are made up, for tests of the loop and of reports, and for the processes that they start."""
import hashlib
from concurrent.futures import Future
from pathlib import Path

import optuna

from nasnet_zoo.search import EvolutionSampler, SearchConfig
from nasnet_zoo.search.errors import ChildError
from nasnet_zoo.search.evaluator import Evaluation
from nasnet_zoo.search.folder import start_or_resume, study_settings, upgrade_settings
from nasnet_zoo.search.image_facts import ImageFacts
from nasnet_zoo.search.loop import Search
from nasnet_zoo.search.pool_local import LocalPool
from nasnet_zoo.search.report.record import SearchRecord
from nasnet_zoo.search.samplers import SAMPLERS
from nasnet_zoo.search.space import SPACES, darts_space
from nasnet_zoo.search.study import StudySettings, open_study

__all__ = ['MadeUpPool', 'SPACE', 'finished_children', 'make_up_search', 'search']

optuna.logging.set_verbosity(optuna.logging.WARNING)
SPACE = darts_space(2)
FACTS = ImageFacts(1000, ('cat', 'dog'), (.5,), (.2,))  # of the images of made-up searches


def search(folder, make, trials, sampler=None, workers=2, space=SPACE, on_progress=None):
    study = open_study(folder, 'test', create=StudySettings(
        lambda trials: sampler or EvolutionSampler(space, 0, population=6, tournament=3),
        upgrade_settings(dict(space=space.name, child={}))))
    Search(study, space, LocalPool(make, workers)).run(trials, on_progress)
    return study


def finished_children(study):
    """Return the children that have a reward, with their number, reward and everything that was measured."""
    children = SearchRecord('test', {}, study.get_trials(deepcopy=False), 0).children
    return [dict(child.measured, number=child.number, value=child.reward) for child in children]


class MadeUpPool:
    """A pool that trains nothing. A child's accuracy grows with the number of separable convolutions."""
    host, size = '127.0.0.1', 1

    def submit(self, genotype, should_prune=None):
        ops = [op for cell in genotype.cells.values() for block in cell.blocks for op, _ in block.edges]
        luck = int(hashlib.sha256(genotype.architecture_digest.encode()).hexdigest()[:8], 16) / 16 ** 8
        separable = sum('sep' in op for op in ops) / len(ops)
        future = Future()
        if luck < 0.05:
            future.set_exception(ChildError('has too many <parameters>'))
        else:
            accuracy = 0.4 + 0.4 * separable + 0.1 * luck
            future.set_result(Evaluation(accuracy, accuracy, 1000 + int(9000 * separable),
                                         50_000 + int(1e6 * luck), 1.5))
        return future

    def result(self, future):
        return future.result()

    def close(self):
        pass


def make_up_search(folder, sampler='evolution', trials=40, space='darts', seed=0):
    """Write the folder of a search with made-up children that has not trained the best ones again yet."""
    config = SearchConfig(out=Path(folder), space=space, sampler=sampler, trials=trials,
                          child=dict(recipe=dict(seed=seed)))
    config.out.mkdir(parents=True)
    made = SPACES[space]()
    settings = study_settings(config, made)
    study = open_study(config.out, start_or_resume(config, settings, FACTS, {}), create=StudySettings(
        lambda trials: SAMPLERS[sampler].resolve()(made, seed, config.ppo_preset, trials, None), settings))
    Search(study, made, MadeUpPool()).run(trials)
    return study

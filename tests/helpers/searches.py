"""A search whose children are made up, for tests of the loop and for the processes that they start."""
import optuna

from nasnet_zoo.search import EvolutionSampler
from nasnet_zoo.search.loop import Search
from nasnet_zoo.search.pool_local import LocalPool
from nasnet_zoo.search.space import darts_space
from nasnet_zoo.search.study import StudySettings, open_study

__all__ = ['SPACE', 'search']

optuna.logging.set_verbosity(optuna.logging.WARNING)
SPACE = darts_space(2)


def search(folder, make, trials, sampler=None, workers=2, space=SPACE, on_progress=None):
    study = open_study(folder, 'test', create=StudySettings(
        lambda trials: sampler or EvolutionSampler(space, 0, population=6, tournament=3), dict(space=space.name)))
    Search(study, space, LocalPool(make, workers)).run(trials, on_progress)
    return study

"""Hill climbing."""
import optuna

from nasnet_zoo.search import LocalSearchSampler
from nasnet_zoo.search.space import darts_space

optuna.logging.set_verbosity(optuna.logging.WARNING)
SPACE = darts_space(2)


def run(study, trials, value):
    for _ in range(trials):
        trial = study.ask()
        study.tell(trial, value(SPACE.suggest(trial)))


def study_of(patience=12):
    sampler = LocalSearchSampler(SPACE, 0, num_random=5, patience=patience)
    return optuna.create_study(sampler=sampler, direction='maximize')


def children(study):
    return [SPACE.tokens(trial.params) for trial in study.trials]


def parents(study):
    return [trial.system_attrs['nasnet_zoo'].get('parent') for trial in study.trials]


def test_it_climbs():
    study = study_of()
    run(study, 120, lambda tokens: sum(token == size - 1 for token, size in zip(tokens, SPACE.sizes)))
    assert study.best_value == len(SPACE.sizes)
    asked, found = children(study), parents(study)
    assert found[:5] == [None] * 5
    for tokens, parent in zip(asked[5:], found[5:]):
        assert sum(a != b for a, b in zip(tokens, asked[parent])) == 1, 'a neighbour'
    assert len(set(asked)) == 120


def test_it_leaves_a_peak():
    """The rewards fall, so the first child stays the best; the next hill is that of the second."""
    study = study_of(patience=4)
    run(study, 15, lambda tokens: -len(study.trials))
    assert parents(study)[5:] == [0] * 4 + [1] * 4 + [2] * 2

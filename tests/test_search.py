"""The public names of the package."""
import pytest

import nasnet_zoo.search
from nasnet_zoo.search.objectives import OBJECTIVES
from nasnet_zoo.search.pruning import PRUNERS
from nasnet_zoo.search.samplers import SAMPLERS


def test_public_names():
    assert {'GPSampler', 'PPOSampler', 'EvolutionSampler', 'LocalSearchSampler', 'Space', 'nasnet_space', 'darts_space',
            'run_search', 'SearchConfig', 'search_status'} <= set(nasnet_zoo.search.__all__)
    for name in nasnet_zoo.search.__all__:
        assert getattr(nasnet_zoo.search, name).__name__ == name and name in dir(nasnet_zoo.search)
    with pytest.raises(AttributeError, match="no attribute 'PPOsampler'"):
        _ = nasnet_zoo.search.PPOsampler


def test_tables():
    """Each entry has a description for help texts, and a function that exists."""
    assert list(SAMPLERS) == ['gp', 'ppo', 'evolution', 'local', 'random', 'tpe', 'nsga2']
    for entry in (*SAMPLERS.values(), *PRUNERS.values()):
        assert entry.description and callable(entry.resolve())
    assert all(entry.description for entry in OBJECTIVES.values())

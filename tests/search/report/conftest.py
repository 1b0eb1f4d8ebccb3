"""Searches whose children are made up, for all tests of reports."""
import pytest

pytest.importorskip('optuna')


@pytest.fixture(scope='session')
def folders(tmp_path_factory):
    """The folders of an evolution and of a random search with 60 children each."""
    from helpers.searches import make_up_search
    place = tmp_path_factory.mktemp('searches')
    for sampler in ('evolution', 'random'):
        make_up_search(place / sampler, sampler, 60)
    return place / 'evolution', place / 'random'


@pytest.fixture(scope='session')
def records(folders):
    from nasnet_zoo.search.report.record import read_record
    return [read_record(folder) for folder in folders]

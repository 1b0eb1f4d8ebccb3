"""Children on a Ray cluster of two nodes, of which one is lost."""
import threading
import time

import optuna
import pytest

from helpers.paths import TESTS
from helpers.search_children import Noted
from helpers.searches import finished_children
from nasnet_zoo.search import PPOSampler
from nasnet_zoo.search.errors import SearchError
from nasnet_zoo.search.loop import Search
from nasnet_zoo.search.pool_ray import RayPool
from nasnet_zoo.search.space import darts_space
from nasnet_zoo.search.study import StudySettings, open_study

ray = pytest.importorskip('ray', reason='Ray is an extra: pip install "nasnet-zoo[ray]"')
cluster_utils = pytest.importorskip('ray.cluster_utils')
optuna.logging.set_verbosity(optuna.logging.WARNING)
SPACE = darts_space(2)


@pytest.fixture
def cluster(monkeypatch):
    """Two nodes of two CPUs; their processes find the tests' modules."""
    monkeypatch.setenv('PYTHONPATH', str(TESTS))
    monkeypatch.setenv('RAY_health_check_period_ms', '500')
    monkeypatch.setenv('RAY_health_check_failure_threshold', '3')
    small = dict(num_cpus=2, object_store_memory=100 * 2 ** 20)
    cluster = cluster_utils.Cluster(initialize_head=True, head_node_args=dict(small, include_dashboard=False))
    cluster.second = cluster.add_node(**small)
    cluster.wait_for_nodes()
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def search(folder, make, cluster, trials, retries=3, **options):
    study = open_study(folder, 'test', create=StudySettings(lambda trials: PPOSampler(SPACE, 'fast', 0), **options))
    workers = RayPool(make, cluster.address, retries=retries)
    assert workers.size == sum(node['Resources'].get('CPU', 0) for node in ray.nodes() if node['Alive'])
    Search(study, SPACE, workers).run(trials)
    return study


@pytest.mark.slow
def test_a_node_is_lost_while_children_train(cluster, tmp_path):
    """Every child is finished once, and the study is what its log says."""
    make = Noted(tmp_path / 'log', seconds=3.)  # longer than it takes to kill a node

    def lose():
        while len({node for _, node in make.begun()}) < 2:
            time.sleep(0.05)
        cluster.remove_node(cluster.second, allow_graceful=False)
    losing = threading.Thread(target=lose, daemon=True)
    losing.start()
    study = search(tmp_path, make, cluster, 16)
    losing.join(timeout=60)
    assert not losing.is_alive(), 'the second node was never at work'
    children = finished_children(study)
    assert len(children) == 16 and not [trial for trial in study.trials if 'reason' in trial.user_attrs]
    noted = make.noted()
    assert sorted(noted) == sorted({child['architecture'] for child in children}), 'each is finished, and once'
    assert len(make.begun()) > len(noted), 'those on the lost node were begun again'
    assert all(child['value'] == int(child['architecture'][:4], 16) / 65536 for child in children)
    assert finished_children(open_study(tmp_path, 'test')) == children
    again = PPOSampler(SPACE, 'fast', 0)
    for one in open_study(tmp_path, 'test', create=StudySettings(lambda trials: again)), study:
        SPACE.suggest(one.ask())
    assert again.learner.updates == 1
    for name, parameter in again.learner.controller.state_dict().items():
        assert parameter.equal(study.sampler.learner.controller.state_dict()[name]), 'the same policy from the log'


def test_what_becomes_of_children(cluster, tmp_path):
    """Failures, deaths of processes and pruning are as with local workers."""
    make = Noted(tmp_path / 'log', fails='0123', dies='4')  # of the first ten children one; three in a row end a search
    study = search(tmp_path, make, cluster, 24, retries=1)
    reasons = {trial.user_attrs['reason'] for trial in study.trials if 'reason' in trial.user_attrs}
    assert 'was not good' in reasons
    lost = reasons - {'was not good'}
    assert lost and all(reason.startswith('the worker was lost') for reason in lost)
    make = Noted(tmp_path / 'log2', epochs=3)
    (tmp_path / 'pruned').mkdir()
    study = search(tmp_path / 'pruned', make, cluster, 30, pruner=optuna.pruners.MedianPruner(n_startup_trials=3))
    states = {trial.state for trial in study.trials}
    assert states == {optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED}
    make = Noted(tmp_path / 'log3', faults='0123456789abcdef')
    (tmp_path / 'faulty').mkdir()
    with pytest.raises(SearchError, match='a mistake of ours'):
        search(tmp_path / 'faulty', make, cluster, 3)
    with pytest.raises(SearchError, match='no node of the cluster has room for a child, which takes 1 CPUs and 1 GPUs'):
        RayPool(make, cluster.address, gpus=1)

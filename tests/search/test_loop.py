"""Ask, evaluate, tell; and nothing that was computed is lost or computed twice."""
import sqlite3
import subprocess
import sys
import time
from contextlib import closing

import optuna
import pytest

from helpers.paths import TESTS
from helpers.platforms import posix_only
from helpers.search_children import Noted
from helpers.searches import SPACE, MadeUpPool, finished_children, search
from nasnet_zoo.search import EvolutionSampler, GPSampler, LocalSearchSampler, PPOSampler
from nasnet_zoo.search.errors import SearchError
from nasnet_zoo.search.loop import Search
from nasnet_zoo.search.pool_local import LocalPool
from nasnet_zoo.search.space import Space, darts_space, nasnet_space
from nasnet_zoo.search.study import (
    StudySettings,
    batched_writes,
    check_cells,
    evaluated_trials,
    open_study,
    storage_failures_reported,
)


def test_different_children_are_evaluated_once_each(tmp_path):
    make, seen = Noted(tmp_path / 'log'), []
    study = search(tmp_path, make, 12, on_progress=seen.append)
    children = finished_children(study)
    assert len(make.noted()) == len(set(make.noted())) == 12
    assert sorted(make.noted()) == sorted(child['architecture'] for child in children)
    assert all(child['value'] == int(child['architecture'][:4], 16) / 65536 for child in children)
    assert children[0]['params'] == 10 and children[0]['macs'] == 20 and 'seconds' in children[0]
    assert seen[-1].finished == seen[-1].trials == 12 and seen[-1].best == max(child['value'] for child in children)
    assert (seen[0].finished, seen[0].per_hour) == (0, 0) and seen[1].per_hour > 0
    assert len(seen[-1].durations) == 12
    assert finished_children(open_study(tmp_path, 'test')) == children


def test_a_finished_search_goes_on_where_it_was(tmp_path):
    make = Noted(tmp_path / 'log')
    search(tmp_path, make, 5)
    search(tmp_path, make, 5)
    assert len(make.noted()) == 5
    search(tmp_path, make, 9)
    assert len(make.noted()) == len(set(make.noted())) == 9


def test_failures_are_counted_with_their_reasons(tmp_path):
    make, seen = Noted(tmp_path / 'log', fails='01234567'), []
    study = search(tmp_path, make, 14, on_progress=seen.append)
    failed = [trial for trial in study.trials if 'reason' in trial.user_attrs]
    assert failed and all(trial.user_attrs['reason'] == 'was not good' for trial in failed)
    assert seen[-1].failed == len(failed) and 'was not good' in seen[-1].failures
    assert len(finished_children(study)) + len(failed) == 14 == len(set(make.noted()))


def test_a_reward_that_is_no_number_is_a_failure(tmp_path):
    class Diverging(MadeUpPool):
        def result(self, future):
            found = super().result(future)
            return found._replace(reward=float('nan')) if found.params % 2 else found

    study = open_study(tmp_path, 'test', create=StudySettings(lambda trials: EvolutionSampler(SPACE, 0)))
    Search(study, SPACE, Diverging()).run(30)
    reasons = {trial.user_attrs['reason'] for trial in evaluated_trials(study) if trial.values is None}
    assert 'the reward is nan: the network has diverged' in reasons
    again = open_study(tmp_path, 'test', create=StudySettings(lambda trials: EvolutionSampler(SPACE, 0)))
    Search(again, SPACE, Diverging()).run(32)
    assert len(evaluated_trials(again)) == 32


def test_a_worker_that_dies_takes_its_own_child_only(tmp_path):
    make = Noted(tmp_path / 'log', dies='0')
    study = search(tmp_path, make, 20, PPOSampler(SPACE, 'paper', 0))
    reasons = [trial.user_attrs['reason'] for trial in study.trials if 'reason' in trial.user_attrs]
    assert reasons and set(reasons) == {'the worker process died, perhaps because it ran out of memory'}
    assert len(finished_children(study)) == 20 - len(reasons) == len(make.noted())


def test_workers_that_cannot_work(tmp_path):
    with pytest.raises(SearchError, match='3 workers died in a row'):
        search(tmp_path, Noted(tmp_path / 'log', dies='0123456789abcdef'), 10)


def test_a_space_that_is_exhausted(tmp_path):
    ops = ('sep_conv_3x3', 'max_pool_3x3')
    tiny = Space('tiny', [('op', ops)], build=lambda choices: dict(inputs=1, normal=(cell := dict(
        blocks=[dict(left=[choices['op'], 'h0'], right=['identity', 'h0'])], outputs=[['b0']])), reduction=cell))
    with pytest.raises(SearchError, match='the search space has no others than the 2 known ones'):
        search(tmp_path, Noted(tmp_path / 'log'), 3, optuna.samplers.RandomSampler(0), space=tiny)


def test_twins_are_told_the_same(tmp_path):
    """Operands of an addition may be swapped: other tokens, the same architecture."""
    space = nasnet_space(1, ('identity', 'conv_1x1'), ('add',))
    study = search(tmp_path, Noted(tmp_path / 'log'), 25, optuna.samplers.RandomSampler(0), space=space)
    twins = [trial for trial in study.trials if 'duplicate_of' in trial.user_attrs]
    assert twins and all(trial.value == study.trials[trial.user_attrs['duplicate_of']].value for trial in twins)
    assert all(trial.state == optuna.trial.TrialState.COMPLETE for trial in study.trials)


CODE = '''
import sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from helpers.search_children import Noted
from helpers.searches import SPACE, search
from nasnet_zoo.search import PPOSampler
if __name__ == '__main__':
    search(Path({folder!r}), Noted({log!r}, 0.2), 200, PPOSampler(SPACE, 'fast', 0))
'''


@posix_only
def test_killed_and_gone_on_with(tmp_path):
    """SIGKILL: the workers end too, and every child is evaluated exactly once, but for those that were under way."""
    log = tmp_path / 'log'
    script = tmp_path / 'run.py'
    script.write_text(CODE.format(tests=str(TESTS), folder=str(tmp_path), log=str(log)), encoding='utf-8')
    process = subprocess.Popen([sys.executable, script], start_new_session=True)
    while len(Noted(log).noted()) < 12 and process.poll() is None:
        time.sleep(0.05)
    process.kill()
    process.wait()
    for _ in range(300):
        listed = subprocess.check_output(['ps', '-eo', 'pgid=,stat='], text=True).splitlines()
        left = [line for line in listed if line.split()[0] == str(process.pid) and line.split()[1][0] != 'Z']
        if not left:
            break
        time.sleep(0.1)
    assert not left
    study = open_study(tmp_path, 'test')
    kept = finished_children(study)
    running = [trial for trial in study.trials if trial.state == optuna.trial.TrialState.RUNNING]
    assert len(kept) >= 10 and running
    log.unlink()

    study = search(tmp_path, Noted(log), len(kept) + 8, PPOSampler(SPACE, 'fast', 0))
    assert finished_children(study)[:len(kept)] == kept
    again = Noted(log).noted()
    assert not set(again) & {child['architecture'] for child in kept} and len(set(again)) == len(again) == 8
    under_way = {trial.user_attrs.get('architecture') for trial in running} - {None, *(c['architecture'] for c in kept)}
    assert under_way <= set(again)


def test_what_was_enqueued_is_asked_for_again_whole(tmp_path):
    """Also where a kill came before all its choices were written."""
    study = open_study(tmp_path, 'test', create=StudySettings(
        lambda trials: EvolutionSampler(SPACE, 0), dict(space=SPACE.name)))
    given = tuple(size - 1 for size in SPACE.sizes)
    study.enqueue_trial(SPACE.choices(given))
    study.ask().suggest_categorical(*SPACE.decisions[0])
    make = Noted(tmp_path / 'log')
    study = search(tmp_path, make, 1, EvolutionSampler(SPACE, 0))
    assert make.noted() == [SPACE.genotype(given).architecture_digest]
    assert study.trials[0].state == optuna.trial.TrialState.FAIL and study.trials[1].user_attrs['again_for'] == 0


def test_what_a_sampler_noted_is_kept_when_a_child_is_repeated(tmp_path):
    def sampler():
        return LocalSearchSampler(SPACE, 0, num_random=2)
    study = search(tmp_path, Noted(tmp_path / 'log'), 3, sampler())
    trial = study.ask()
    tokens = SPACE.suggest(trial)
    parent = study.trials[-1].system_attrs['nasnet_zoo']['parent']
    study = search(tmp_path, Noted(tmp_path / 'log'), 4, sampler())
    repeated = study.trials[-1]
    assert repeated.user_attrs['again_for'] == trial.number and SPACE.tokens(repeated.params) == tokens
    assert repeated.system_attrs['nasnet_zoo']['parent'] == parent is not None


def test_a_fault_is_no_finding_about_a_child(tmp_path):
    make = Noted(tmp_path / 'log', faults='0123456789abcdef')
    with pytest.raises(SearchError, match='child 0: KeyError'):
        search(tmp_path, make, 3, workers=1)
    good = Noted(tmp_path / 'log')
    study = search(tmp_path, good, 3, workers=1)
    assert make.begun()[0][0] in good.noted(), 'it is asked for again'
    assert not [trial for trial in study.trials if 'reason' in trial.user_attrs]


@pytest.mark.slow
def test_twins_with_two_objectives_and_hyperband(tmp_path):
    """Samplers of ours learn from twins too, and from all brackets."""
    space = nasnet_space(1, ('identity', 'conv_1x1'), ('add',))
    for kind, options in dict(two=dict(directions=['maximize', 'minimize']), one=dict(
            pruner=optuna.pruners.HyperbandPruner(max_resource=4))).items():
        (tmp_path / kind).mkdir()
        for trials in 20, 25:
            study = open_study(tmp_path / kind, 'test', create=StudySettings(lambda _: EvolutionSampler(
                space, 0, 3, 2, reward=lambda one: one.values[0]), **options))
            make = Noted(tmp_path / kind / 'log', epochs=4)
            # One worker: which children are pruned hangs on the order in which they report.
            Search(study, space, LocalPool(make, 1), *(('params', 10.) if kind == 'two' else ())).run(trials)
        learnt = [trial for trial in study.trials if trial.state == optuna.trial.TrialState.COMPLETE]
        assert len(learnt) > 6 and any('duplicate_of' in trial.user_attrs for trial in study.trials)
        assert any('parent' in trial.system_attrs['nasnet_zoo'] for trial in study.trials)


def test_a_disk_that_is_full_for_a_moment(tmp_path, monkeypatch):
    study = open_study(tmp_path, 'test', create=StudySettings(lambda trials: EvolutionSampler(SPACE, 0)))
    SPACE.suggest(study.ask())
    whole = (tmp_path / 'study.log').read_bytes()

    def full(self, logs):
        with open(self._file_path, 'a', encoding='utf-8') as file:
            file.write('{"half of')
        raise OSError(28, 'No space left on device')
    with monkeypatch.context() as patch:
        patch.setattr(optuna.storages.journal.JournalFileBackend, 'append_logs', full)
        with pytest.raises(OSError, match='No space left'), batched_writes(study):
            study.ask()
    with pytest.raises(OSError, match='an earlier write failed'):
        study.ask()
    assert (tmp_path / 'study.log').read_bytes() == whole
    assert len(open_study(tmp_path, 'test').trials) == 1


def test_a_journal_that_was_cut_off_is_gone_on_with(tmp_path):
    make = Noted(tmp_path / 'log')
    search(tmp_path, make, 3)
    with (tmp_path / 'study.log').open('a', encoding='utf-8') as file:
        file.write('{"op_code": 4, "wor')
    search(tmp_path, make, 4)
    assert len(finished_children(open_study(tmp_path, 'test'))) == 4


def test_other_settings_and_storages_are_refused(tmp_path):
    search(tmp_path, Noted(tmp_path / 'log'), 1)
    with pytest.raises(SearchError, match='has other settings'):
        search(tmp_path, Noted(tmp_path / 'log'), 1, space=darts_space(3))
    with pytest.raises(SearchError, match='nonsense: cannot be used as a storage'):
        open_study(tmp_path, 'test', 'nonsense')


def test_a_storage_that_fails_is_named(tmp_path):
    file = tmp_path / 'trials.db'
    study = open_study(tmp_path, 'test', f'sqlite:///{file}', StudySettings(lambda trials: EvolutionSampler(SPACE, 0)))

    class Pool(MadeUpPool):
        def submit(self, genotype, should_prune=None):
            with closing(sqlite3.connect(file)) as database:
                database.executescript('DROP TABLE trial_user_attributes')
            return super().submit(genotype, should_prune)
    with pytest.raises(SearchError, match='the storage of the trials has failed: .*; continue with --resume'):
        with storage_failures_reported():
            Search(study, SPACE, Pool()).run(3)


def test_there_is_no_search(tmp_path):
    with pytest.raises(SearchError, match='there is no search here'):
        open_study(tmp_path, 'test')


@pytest.mark.parametrize('make_sampler', [
    lambda space: optuna.samplers.RandomSampler(0),
    lambda space: GPSampler(space, 0, num_random=1),
], ids=['random', 'gp'])
def test_a_space_that_cannot_build_every_cell(tmp_path, make_sampler):
    """Such a cell counts as a child that has failed, and the search goes on, also when it is resumed."""
    def build(choices):
        if choices['op'] == 'none':
            raise KeyError('no such cell')
        cell = dict(blocks=[dict(left=[choices['op'], 'h0'], right=['identity', 'h0'])], outputs=[['b0']])
        return dict(inputs=1, normal=cell, reduction=cell)
    space = Space('tiny', [('op', ('sep_conv_3x3', 'max_pool_3x3', 'none'))], build=build)
    make = Noted(tmp_path / 'log')
    study = search(tmp_path, make, 3, make_sampler(space), space=space)
    failed = [trial for trial in evaluated_trials(study) if trial.state == optuna.trial.TrialState.FAIL]
    assert {trial.user_attrs['reason'] for trial in failed} == {"the space cannot build it: KeyError: 'no such cell'"}
    assert len(evaluated_trials(study)) == 3 and len(make.noted()) == 2 and len(failed) == 1
    check_cells(study, space, tmp_path)
    assert len(evaluated_trials(search(tmp_path, make, 3, make_sampler(space), space=space))) == 3

    built = Space('tiny', space.decisions, build=lambda choices: {}['gone'])
    with pytest.raises(SearchError, match="cannot build child . any more: KeyError: 'gone'; restore it"):
        check_cells(study, built, tmp_path)

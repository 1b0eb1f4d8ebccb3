"""What reports know about a search."""
import copy
import json
import math
import shutil
from dataclasses import replace

import pytest
from optuna.trial import TrialState

from helpers.searches import make_up_search
from nasnet_zoo.search.errors import SearchError
from nasnet_zoo.search.report.record import parent_of, read_finals, read_record


def test_children_and_failures_are_counted(records):
    evolution, random = records
    for record in records:
        assert record.wanted == 60 == len(record.evaluated) == len(record.children) + record.failures.total()
        assert record.failures and set(record.failures) == {'has too many <parameters>'}
        assert [child.number for child in record.children] == sorted(child.number for child in record.children)
        assert all(record.evaluated[child.place - 1].number == child.number for child in record.children)
        assert record.best.reward == max(child.reward for child in record.children)
    assert evolution.reward_name == 'validation accuracy' and evolution.costs == ['params', 'macs']
    assert (evolution.label, random.label) == ('evolution', 'random')
    assert evolution.genotype(evolution.best).architecture_digest == evolution.best.measured['architecture']


def test_random_draws_are_those_without_a_parent(records):
    evolution, random = records
    first = next(trial.number for trial in evolution.trials if parent_of(trial) is not None)
    drawn = sum(trial.number < first for trial in evolution.evaluated)
    assert len(evolution.random_draws) == drawn >= 30 and len(random.random_draws) == 60
    assert min(random.random_draws) == min(child.reward for child in random.children), 'failed ones count as the worst'


def test_predictions_are_read_from_the_notes(records):
    trial = next(trial for trial in records[0].trials if trial.state == TrialState.COMPLETE)
    with pytest.MonkeyPatch.context() as patch:
        notes = trial.system_attrs['nasnet_zoo']
        patch.setitem(trial.system_attrs, 'nasnet_zoo', dict(notes, predicted=[0.5, 0.01], parent=trial.number))
        record = type(records[0])('again', records[0].settings, [trial], 1)
        assert record.children[0].predicted == (0.5, 0.01)
        assert record.children[0].parent is None, 'a trial does not descend from itself or from a later one'


def test_the_training_time_includes_failed_children_but_not_those_of_another_search(records):
    failed, finished = (next(trial for trial in records[0].evaluated if trial.state == state)
                        for state in (TrialState.FAIL, TrialState.COMPLETE))
    record = replace(records[0], trials=[failed, finished])
    assert record.training_seconds == 1.5 + failed.duration.total_seconds() > 1.5
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(finished.user_attrs, 'reused', 'other/3')
        assert replace(record).training_seconds == failed.duration.total_seconds()


def test_the_cells_of_a_child_say_where_they_are_from(records):
    record, best = records[0], records[0].best
    cell = record.documented_genotype(best.number)
    assert cell.architecture_digest == best.measured['architecture']
    assert (cell.search['trial'], cell.search['sampler'], cell.search['trials']) == (best.number, 'evolution', len(
        record.trials))
    assert cell.results['accuracy'] == best.accuracy and cell.results['epochs'] == 20
    failed = next(trial.number for trial in record.evaluated if trial.state == TrialState.FAIL)
    with pytest.raises(SearchError, match=f'evolution: no child {failed} has a reward; "nasnet-zoo search --status"'):
        record.documented_genotype(failed)


@pytest.mark.parametrize('name, start', [('my first space', 'my-first-space'), ('größe', 'gr-e'), ('…', 'space'),
                                         ('long' * 50, 'long' * 20)])
def test_a_space_of_any_name_names_its_cells(records, name, start):
    record = replace(records[0], space=copy.copy(records[0].space))
    record.space.name = name
    genotype = record.documented_genotype(record.best.number)
    assert genotype.name == f'{start}-{genotype.architecture_digest[:8]}' and genotype.search['space'] == name


def test_two_objectives_have_one_reward(records):
    record = type(records[0])('two', dict(objective='params', cost_target=100.), [], 1)
    assert record.reward([0.9, 200.]) == pytest.approx(0.9 * 2 ** -0.07) and record.reward_format == '.4f'
    assert 'number of parameters' in record.reward_name


def edit(folder, **changes):
    content = json.loads((folder / 'search.json').read_text(encoding='utf-8'))
    (folder / 'search.json').write_text(json.dumps(content | changes), encoding='utf-8')


@pytest.mark.parametrize('change, message', [
    (lambda folder: shutil.rmtree(folder), 'there is no search here'),
    (lambda folder: (folder / 'search.json').write_text('[]', encoding='utf-8'), 'does not describe a search'),
    (lambda folder: edit(folder, config=None), 'search.json: config is not an object; restore the file'),
    (lambda folder: (folder / 'finals.json').write_text('{}', encoding='utf-8'), 'finals.json: is not a list of train'),
    (lambda folder: (folder / 'finals.json').write_text('[{"number": 1}]', encoding='utf-8'),
     "finals.json: row 0 has no 'architecture'; restore it from a copy, or remove it")])
def test_what_is_no_search(folders, tmp_path, change, message):
    shutil.copytree(folders[0], tmp_path / 'copy')
    change(tmp_path / 'copy')
    with pytest.raises(SearchError, match=message):
        read_record(tmp_path / 'copy')


def test_a_search_that_has_only_just_begun_and_an_unknown_space(folders, tmp_path):
    content = json.loads((folders[0] / 'search.json').read_text(encoding='utf-8'))
    content['settings']['fingerprint'] = 'another'
    (tmp_path / 'search.json').write_text(json.dumps(content), encoding='utf-8')
    record = read_record(tmp_path, label='begun')
    assert record.label == 'begun' and not record.trials and record.best is None and record.winning_child is None
    assert record.space is None


def test_finals_of_other_lengths_are_left_out(records, tmp_path):
    measured = dict(params=1, macs=1, seconds=1.)
    rows = [dict(number=number, epochs=epochs, architecture=str(number), child_value=0.5, **result)
            for number, epochs, result in (
                (1, 3, dict(measured, accuracy=0.9)), (2, 6, dict(measured, accuracy=0.7)),
                (3, 6, dict(reason='failed')), (4, 6, dict(measured, accuracy=0.8)))]
    (tmp_path / 'finals.json').write_text(json.dumps(rows), encoding='utf-8')
    assert [row['number'] for row in read_finals(tmp_path, records[0])] == [4, 2]
    tokens = records[0].space.tokens(records[0].best.trial.params)
    winner = records[0].space.genotype(tokens, 'winner', results=dict(epochs=3))
    rows.append(dict(rows[1], number=5, epochs=3, architecture=winner.architecture_digest))
    (tmp_path / 'finals.json').write_text(json.dumps(rows), encoding='utf-8')
    assert [row['number'] for row in read_finals(tmp_path, replace(records[0], winner=winner))] == [5, 1]


def test_a_resumed_made_up_search_is_the_same(folders, tmp_path):
    """The fixture itself: the same seed gives the same children."""
    study = make_up_search(tmp_path / 'again', 'evolution', 10)
    known = read_record(folders[0])
    assert [trial.params for trial in study.trials] == [trial.params for trial in known.trials[:len(study.trials)]]
    assert all(math.isfinite(child.reward) for child in known.children)

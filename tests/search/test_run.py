"""The search as its users see it: a folder with a winner in it."""
import csv
import json
import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from datetime import datetime, timedelta
from importlib.util import find_spec

import optuna
import pytest
from filelock import FileLock
from optuna.trial import TrialState
from typer.testing import CliRunner

from helpers.darts import PC_DARTS_CIFAR
from helpers.paths import ROOT
from nasnet_zoo import compile_genotype, load_genotype
from nasnet_zoo.cli.main import app
from nasnet_zoo.files import read_safetensors, write_utf8
from nasnet_zoo.search.make_space import make_space
from nasnet_zoo.search.objectives import OBJECTIVES, combined_reward
from nasnet_zoo.search.pruning import PRUNERS
from nasnet_zoo.search.samplers import SAMPLERS
from nasnet_zoo.search.selection import rank_children
from nasnet_zoo.search.space import SPACES
from nasnet_zoo.search.study import child_rows, open_study

pytest.importorskip('sklearn', reason='the digits come with scikit-learn')
CHILD = ['--protocol', 'paper', '--num-cells', '1', '--cell-filters', '2', '--epochs', '1', '--batch-size', '256',
         '--lr', '0.1', '--pad', '1', '--no-flip', '--limit-train', '600', '--space', 'darts', '--blocks', '2',
         '--top', '2']


def command(out, *options):
    return CliRunner().invoke(app, ['search', '--out', str(out), *CHILD, *options])


def study_in(out):
    return open_study(out, json.loads((out / 'search.json').read_text(encoding='utf-8'))['study'])


@pytest.fixture(scope='module')
def searched(tmp_path_factory):
    """A search of three children, gone on with to four, and what was printed."""
    out = tmp_path_factory.mktemp('search') / 'digits'
    first = command(out, '--trials', '3', '--json', '--seed', '5')
    assert first.exit_code == 0, first.output
    assert re.search(r'^about .*: 3 children at [0-9.]+ s with 1 worker, then 2 final training runs of 3 epochs \(',
                     first.stderr, re.M)
    second = command(out, '--trials', '4', '--json', '--seed', '5', '--resume', '--log', 'csv', '--final-seeds', '2')
    assert second.exit_code == 0, second.output
    assert 'training the best 2 children again, for 3 epochs with 2 seeds each' in second.stderr
    assert json.loads((out / 'search.json').read_text(encoding='utf-8'))['has_ended']
    return out, json.loads(first.stdout), json.loads(second.stdout)


def test_a_winner_is_found(searched):
    out, first, second = searched
    assert first['children'] == 3 and second['children'] == 4 and len(second['finals']) == 2
    cell = load_genotype(out / 'cell.json')
    assert cell.search['sampler'] == 'gp' and cell.search['seed'] == 5 and cell.search['child']['cell_filters'] == 2
    assert cell.results['accuracy'] == second['accuracy'] == max(row['accuracy'] for row in second['finals'])
    assert cell.results['dataset'] == 'digits' and cell.results['split'] == 'validation'
    assert all(row['epochs'] == 3 and row['val_seed'] == 1 for row in second['finals']), 'on other images'
    model = compile_genotype(cell, num_cells=1, cell_filters=2, stem='cifar', num_classes=10, in_chans=1, img_size=8)
    assert sum(p.numel() for p in model.parameters()) == second['params']


def test_children_are_logged(searched):
    """All of them, although only the process that resumed the search was asked to."""
    out, _, _ = searched
    with (out / 'log.csv').open(encoding='utf-8') as file:
        rows = list(csv.DictReader(file))
    children = [trial for trial in study_in(out).trials if 'duplicate_of' not in trial.user_attrs]
    assert [row['child'] for row in rows] == ['1', '2', '3', '4']
    for name in ('params', 'seconds'):
        assert [float(row[name]) for row in rows] == [trial.user_attrs[name] for trial in children]
    rewards = [trial.value for trial in children]
    assert [float(row['reward']) for row in rows] == rewards
    assert [float(row['best_reward']) for row in rows] == [max(rewards[:i + 1]) for i in range(4)]


def test_children_that_failed_are_logged_without_a_reward():
    begun = datetime(2026, 1, 1)
    trials = [optuna.trial.FrozenTrial(
        number=number, state=state, value=value, values=None, datetime_start=begun,
        datetime_complete=begun + timedelta(minutes=minute), params={}, distributions={}, intermediate_values={},
        system_attrs={}, trial_id=number, user_attrs=dict(architecture=str(number)))
        for number, minute, state, value in ((0, 2, TrialState.COMPLETE, 0.5), (1, 1, TrialState.FAIL, None))]
    rows = child_rows(trials)
    assert [(row['child'], row['trial'], row['reward'], row['best_reward']) for row in rows] == [
        (1, 1, None, None), (2, 0, 0.5, 0.5)]


def test_the_finalists_have_the_highest_fitted_means(searched):
    out, _, second = searched
    space, trials = SPACES['darts'](2), study_in(out).trials
    order = rank_children(space, [space.tokens(trial.params) for trial in trials], [trial.value for trial in trials])
    assert {row['number'] for row in second['finals']} == {trials[i].number for i in order[:2]}


def test_what_the_best_have_learnt_is_not_learnt_again(searched):
    out, first, second = searched
    kept = {row['architecture']: row['accuracies'] for row in first['finals']}
    runs = {row['architecture']: row['accuracies'] for row in second['finals']}
    assert all(len(accuracies) == 2 for accuracies in runs.values())
    assert all(runs[cell][:1] == accuracies for cell, accuracies in kept.items() if cell in runs)


def test_the_report_needs_nothing_else(searched):
    out = searched[0]
    page = (out / 'report.html').read_text(encoding='utf-8')
    assert page.count('<figure') == 7 and 'The best children, trained again' in page
    assert not re.search(r'src=|href="[^#]|url\((?!#)|@import|http-equiv="refresh', page)
    assert load_genotype(out / 'cell.json').name in page
    ET.parse(out / 'cells.svg')


def test_the_report_is_written_while_the_search_runs(tmp_path, monkeypatch):
    monkeypatch.setattr('nasnet_zoo.search.report.live.FIRST', 0.)
    monkeypatch.setattr('nasnet_zoo.search.report.live.INTERVAL', 0.)
    pages = []

    def note(path, text):
        pages.append(text)
        write_utf8(path, text)
    monkeypatch.setattr('nasnet_zoo.search.report.live.write_utf8', note)
    result = command(tmp_path / 'new', '--trials', '3', '--max-params', '1')
    assert result.exit_code == 1 and 'none of the 3 children' in result.stderr
    assert 'http-equiv="refresh"' in pages[0] and 'No child has been trained yet' in pages[0]
    assert 'The search was stopped before its end' in pages[-1] and 'more than --max-params 1' in pages[-1]
    assert (tmp_path / 'new' / 'report.html').read_text(encoding='utf-8') == pages[-1]


def test_status(searched):
    out = searched[0]
    children = json.loads(command(out, '--status', '--json').stdout)
    assert len(children) == 4 and len({child['architecture'] for child in children}) == 4
    assert all(0 <= child['value'] <= 1 and child['params'] > 0 for child in children)
    text = command(out, '--status').stdout
    assert '4 children' in text and 'about' not in text


def test_status_says_how_long_it_will_take(searched, tmp_path):
    content = json.loads((searched[0] / 'search.json').read_text(encoding='utf-8'))
    content['forecast'].update(trials=404, workers=2, child_seconds=60.)
    (tmp_path / 'search.json').write_text(json.dumps(content), encoding='utf-8')
    shutil.copy(searched[0] / 'study.log', tmp_path)
    text = ' '.join(command(tmp_path, '--status').stdout.split())
    assert re.search(
        r'about .*: 400 more children at [0-9]+ s with 2 workers, then 4 final training runs of 3 epochs', text)


@pytest.mark.parametrize('options, message', [
    (['--trials', '5'], 'contains a search already; add --resume'),
    (['--resume', '--seed', '6'], 'was started with other settings: child.recipe.seed was 5 and is 6'),
    (['--resume', '--seed', '5', '--sampler', 'random'], "sampler was 'gp' and is 'random'"),
    (['--resume', '--seed', '5', '--space', 'nasnet'], "space was 'darts-2' and is 'nasnet-2'"),
    (['--resume', '--seed', '5', '--forbid-op', 'avg_pool_3x3'], "forbid_op was [] and is ['avg_pool_3x3']"),
    (['--resume', '--seed', '5', '--storage', 'sqlite://'], 'the trials of this search are in this folder; leave out'),
    (['--resume', '--seed', '5', '--lr', '0.2'], 'child.recipe.lr was 0.1 and is 0.2')])
def test_another_search_is_refused(searched, options, message):
    result = command(searched[0], *options)
    assert result.exit_code == 1 and message in result.stderr


@pytest.mark.parametrize('options, message', [
    (['--sampler', 'luck'], "sampler: unknown sampler 'luck'; known: gp, ppo, evolution, local, random, tpe, nsga2"),
    (['--prune', 'luck'], "known: median, halving, hyperband"),
    (['--objective', 'luck'], 'known: params, macs, latency'),
    (['--prune', 'median', '--objective', 'params'], 'Optuna prunes by a single objective only'),
    (['--baseline', 'nowhere'], 'nowhere: there is no search here'),
    (['--out', f'{__file__}/new'], 'since it or a part of its path is a file; choose another --out'),
    pytest.param(['--ray', '127.0.0.1:1'], '--ray 127.0.0.1:1: the cluster does not answer', marks=pytest.mark.skipif(
        find_spec('ray') is None, reason='Ray is an extra')),
    (['--storage', 'nonsense'], 'nonsense: cannot be used as a storage'),
    (['--ppo-preset', 'slow'], "ppo_preset: unknown preset of PPO 'slow'; known: model, fast, paper"),
    (['--space', 'nas'], "did you mean 'nasnet'? FILE.py:NAME is possible, too"),
    (['--space', 'nas.py'], 'FILE.py:NAME is possible'), (['--space', 'no.py:x'], 'no.py: there is no such file'),
    (['--preset', 'desk'], "preset: unknown preset 'desk'; known: laptop, gpu, cluster"),
    (['--forbid-op', 'conv_9x9'], "--forbid-op: darts has no operation 'conv_9x9'"),
    (['--resume'], 'there is no search to resume'), (['--status'], 'there is no search here'),
    (['--data', 'nowhere'], 'nowhere: there is no such file'), (['--val-share', '1.5'], 'val_share'),
    (['--val-share', '0.9999'], 'none of the 1347 images is left to train on'),
    (['--batch-size', '2000'], 'batch_size: 2000 is more than the 600 images'), (['--val-share', '0.0001'], 'so small'),
    (['--prune', 'median'], '--prune: children are trained for one epoch'),
    (['--match-below'], 'match_below: has no effect without --match'),
    (['--cost-target', '9'], 'cost_target: has no effect without --match or --objective'),
    (['--opt', 'fusedadam'], 'opt: fusedadam cannot be used here'),
    (['--opt', 'adafactorbv'], 'opt: adafactorbv cannot be used here: Object of type dtype is not JSON serializable'),
    (['--warm-start', 'nasnet_a'], 'nasnet_a: normal: has 5 blocks and 1 outputs; in darts-2 a cell has 2 and 1')])
def test_what_cannot_begin(tmp_path, options, message):
    result = command(tmp_path / 'new', *options)
    assert result.exit_code == 1 and message in result.stderr
    assert not (tmp_path / 'new').exists()


def test_without_ray(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'ray', None)
    result = command(tmp_path / 'new', '--ray', 'local')
    assert result.exit_code == 1 and '--ray needs Ray: pip install "nasnet-zoo[ray]"' in result.stderr


def test_two_processes_at_one_search(searched):
    with FileLock(searched[0] / '.lock'):
        result = command(searched[0], '--resume', '--seed', '5')
    assert result.exit_code == 1 and 'another process is running this search' in result.stderr


GUIDE = (ROOT / 'docs' / 'search.md').read_text(encoding='utf-8')
CODE = [block.split('```')[0] for block in GUIDE.split('```python\n')[1:]]


@pytest.mark.parametrize('number', range(len(CODE)))
def test_the_code_in_the_guide_runs(tmp_path, number):
    path = tmp_path / 'example.py'
    path.write_text(CODE[number], encoding='utf-8')
    (tmp_path / 'searches').mkdir()
    (tmp_path / 'genotypes.py').write_text(PC_DARTS_CIFAR, encoding='utf-8')
    subprocess.run([sys.executable, path], cwd=tmp_path, check=True, env={**os.environ, 'PYTHONPATH': str(ROOT)})


def test_the_guide_knows_every_option():
    """Options in the text exist, and all samplers, spaces, pruners and objectives are named."""
    help_text = CliRunner().invoke(app, ['search', '--help'], env={'COLUMNS': '200'}).output
    others = {'--nb301', '--samplers', '--seeds', '--plot', '--images', '--threads', '--loader-workers',
              '--split', '--val-seed', '--cells', '--noise',
              '--outstanding', '--child'}  # of tools/, compare and report
    used = set(re.findall(r'(?<![\w-])--[a-z][a-z0-9-]*', GUIDE)) - others
    assert len(used) > 20 and not [option for option in used if option not in help_text]
    for table in (SAMPLERS, SPACES, PRUNERS, OBJECTIVES):
        assert all(f'`{name}`' in GUIDE or f' {name}`' in GUIDE for name in table)


def test_warm_start_is_the_first_child(tmp_path):
    given = dict(format=1, name='given', inputs=2, fit='all', normal=(cell := dict(
        blocks=[dict(left=['sep_conv_3x3', 'h1'], right=['max_pool_3x3', 'h0']),
                dict(left=['sep_conv_3x3', 'h0'], right=['sep_conv_3x3', 'b0'])], outputs=[['b0', 'b1']])),
        reduction=cell)
    (tmp_path / 'given.json').write_text(json.dumps(given), encoding='utf-8')
    result = command(tmp_path / 'new', '--trials', '1', '--warm-start', str(tmp_path / 'given.json'), '--sampler',
                     'evolution', '--max-params', '1')
    assert result.exit_code == 1 and 'none of the 1 children has an accuracy' in result.stderr
    assert 'none of 3 random children could be trained; the last one failed because: the child has' in result.output
    journal = (tmp_path / 'new' / 'study.log').read_text(encoding='utf-8')
    assert load_genotype(given).architecture_digest in journal and 'more than --max-params 1' in journal


def test_the_folder_is_unchanged_if_there_are_too_few_trials_for_the_known_cells(searched, tmp_path):
    """The same cell given twice, or one of the children, counts once."""
    out = tmp_path / 'copy'
    shutil.copytree(searched[0], out)
    before = {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}
    known = study_in(out).trials
    cells, space = [], make_space('darts', 2)
    for name, tokens in (('known', space.tokens(known[0].params)), ('new', (0,) * len(space.decisions))):
        space.genotype(tokens, name).save(tmp_path / f'{name}.json')
        cells += ['--warm-start', str(tmp_path / f'{name}.json')]
    count = len({trial.user_attrs['architecture'] for trial in known})
    result = command(out, '--seed', '5', '--resume', '--trials', str(count), *cells, *cells)
    assert result.exit_code == 1 and f'use --trials {count + 1}, or more' in ' '.join(result.stderr.split())
    assert {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()} == before


def test_finalists_have_checkpoints(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, 'rmtree', lambda *args, **kwargs: None)
    assert command(tmp_path / 'new', '--trials', '1', '--sampler', 'random').exit_code == 0
    name = json.loads((tmp_path / 'new' / 'search.json').read_text(encoding='utf-8'))['study']
    checkpoint, = (tmp_path / 'new' / f'.finals-{name}').iterdir()
    row, = json.loads((tmp_path / 'new' / 'finals.json').read_text(encoding='utf-8'))
    assert json.loads(read_safetensors(checkpoint)[1]['state'])['epoch'] == row['epochs']


def test_children_in_another_storage(tmp_path):
    out, database = tmp_path / 'new', tmp_path / 'study.db'
    options = ['--sampler', 'random', '--top', '1', '--storage', f'sqlite:///{database}']
    assert command(out, '--trials', '1', *options).exit_code == 0
    assert command(out, '--trials', '2', '--resume', *options).exit_code == 0
    assert not (out / 'study.log').exists()
    assert len(json.loads(command(out, '--status', '--json', *options[-2:]).stdout)) == 2
    database.unlink()
    result = command(out, '--trials', '3', '--resume', *options)
    assert result.exit_code == 1 and 'are lost: the storage does not contain them; restore' in result.stderr
    content = json.loads((out / 'search.json').read_text(encoding='utf-8'))
    (out / 'search.json').write_text(json.dumps(content | dict(has_ended=False)), encoding='utf-8')
    (out / 'finals.json').unlink()
    result = command(out, '--trials', '1', '--resume', *options)
    assert result.exit_code == 0, 'the first process was stopped before it created the study'


def test_a_space_of_ones_own(tmp_path):
    """Workers do not import its file, and the search is resumed by the space, not by the file."""
    block = next(code for code in CODE if 'def chain(' in code)
    file, moved, log = tmp_path / 'own.py', tmp_path / 'moved.py', tmp_path / 'log'
    file.write_text(f'open({str(log)!r}, "a", encoding="utf-8").write("imported ")\n{block}', encoding='utf-8')
    chain = dict(format=1, name='chain', inputs=2, normal=(cell := dict(blocks=[
        dict(left=['max_pool_3x3', 'h0'], right=['sep_conv_3x3', 'h1']),
        dict(left=['sep_conv_3x3', 'b0'], right=['max_pool_3x3', 'h1'])], outputs=[['b1']])), reduction=cell)
    (tmp_path / 'chain.json').write_text(json.dumps(chain), encoding='utf-8')
    options = ['--trials', '2', '--top', '1', '--sampler', 'evolution', '--forbid-op', 'sep_conv_5x5', '--json',
               '--warm-start', str(tmp_path / 'chain.json')]
    out = tmp_path / 'new'
    first = command(out, *options, '--space', f'{file}:chain')
    assert first.exit_code == 0, first.output
    assert log.read_text(encoding='utf-8').split() == ['imported']
    trials = study_in(out).trials
    assert trials[0].user_attrs['architecture'] == load_genotype(chain).architecture_digest
    assert sum(trials[0].params[name] != trials[1].params[name] for name in trials[0].params) == 1, 'mutated'
    settings = json.loads((out / 'search.json').read_text(encoding='utf-8'))['settings']
    assert settings['space'] == 'chain-2' and settings['forbid_op'] == ['sep_conv_5x5']

    moved.write_text(block, encoding='utf-8')
    again = command(out, *options, '--space', f'{moved}:chain', '--resume')
    assert again.exit_code == 0 and json.loads(again.stdout)['finals'] == json.loads(first.stdout)['finals']
    refused = command(out, *options[:6], '--space', f'{moved}:chain', '--resume')
    assert refused.exit_code == 1 and "forbid_op was ['sep_conv_5x5'] and is []" in refused.stderr
    moved.write_text(block.replace('inputs=2', "inputs=2, fit='all'"), encoding='utf-8')
    refused = command(out, *options, '--space', f'{moved}:chain', '--resume')
    assert refused.exit_code == 1 and 'the space chain-2 has changed: it builds another cell' in refused.stderr
    moved.write_text(block.replace('dil_sep_conv_3x3', 'dil_sep_conv_5x5'), encoding='utf-8')
    refused = command(out, *options, '--space', f'{moved}:chain', '--resume')
    assert refused.exit_code == 1 and 'the space chain-2 has changed: it has other decisions' in refused.stderr

    runner, page = CliRunner(), ['report', str(out), '--out', str(tmp_path / 'page.html'), '--child', '0']
    closed = runner.invoke(app, page)
    assert closed.exit_code == 1 and 'is in a Python file, add --space FILE.py:NAME' in closed.stderr
    other = runner.invoke(app, [*page, '--space', f'{moved}:chain'])
    assert other.exit_code == 1 and f'--space: {moved}:chain is not the space of the search in' in other.stderr
    assert runner.invoke(app, [*page, '--space', f'{file}:chain']).exit_code == 0
    assert load_genotype(tmp_path / 'child_0.json').architecture_digest == load_genotype(chain).architecture_digest


def test_a_second_objective(searched, tmp_path):
    """Parameters as a cost, and another search's curve in the report."""
    options = ['--trials', '2', '--objective', 'params', '--json', '--baseline', str(searched[0]), '--log', 'csv']
    out = tmp_path / 'new'
    result = command(out, *options)
    assert result.exit_code == 0, result.output
    target = json.loads((out / 'search.json').read_text(encoding='utf-8'))['settings']['cost_target']
    rewards = [combined_reward([row['accuracy'], row['params']], target) for row in json.loads(result.stdout)['finals']]
    assert len(rewards) == 2 and rewards == sorted(rewards, reverse=True) and target > 1000, "NASNet-A's as a child"
    assert f'new minus {searched[0].name}' in (out / 'report.html').read_text(encoding='utf-8')
    assert [direction.name for direction in study_in(out).directions] == ['MAXIMIZE', 'MINIMIZE']
    children = json.loads(command(out, '--status', '--json').stdout)
    assert [child['value'] for child in children] == [combined_reward([child['accuracy'], child['params']], target)
                                                      for child in children], 'as in the report'
    logged = list(csv.DictReader((out / 'log.csv').read_text(encoding='utf-8').splitlines()))
    assert sorted(float(row['reward']) for row in logged) == sorted(child['value'] for child in children)
    (out / 'report.html').unlink()
    assert CliRunner().invoke(app, ['report', str(out)]).exit_code == 0
    assert f'new minus {searched[0].name}' in (out / 'report.html').read_text(encoding='utf-8')
    assert command(out, *options, '--resume').exit_code == 0
    assert combined_reward([0.9, 200], 100) == pytest.approx(0.9 * 2 ** -0.07) and combined_reward([0.9], 100) == 0.9
    with pytest.raises(ValueError, match='is needed for a search with a second objective'):
        combined_reward([0.9, 200], None)


def test_children_are_pruned(tmp_path):
    result = command(tmp_path / 'new', '--trials', '8', '--prune', 'halving', '--epochs', '4', '--sampler', 'random',
                     '--limit-train', '256', '--json')
    assert result.exit_code == 0, result.output
    states = [trial.state for trial in study_in(tmp_path / 'new').trials]
    assert optuna.trial.TrialState.PRUNED in states and optuna.trial.TrialState.COMPLETE in states
    assert re.search('pruned after epoch [1-3], with', (tmp_path / 'new' / 'report.html').read_text(encoding='utf-8'))

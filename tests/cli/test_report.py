"""The command that writes reports of searches."""
import json
import shutil

import pytest
from typer.testing import CliRunner

from nasnet_zoo import load_genotype
from nasnet_zoo.cli.main import app

pytest.importorskip('optuna')


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    from helpers.searches import make_up_search
    folder = tmp_path_factory.mktemp('report') / 'mine'
    make_up_search(folder, 'random', 6)
    return folder


def report(*arguments):
    return CliRunner().invoke(app, ['report', *map(str, arguments)])


def test_one_search(folder):
    result = report(folder)
    assert result.exit_code == 0 and str(folder / 'report.html') in result.stdout.replace('\n', '')
    assert 'Comparison' not in (folder / 'report.html').read_text(encoding='utf-8')


def test_several_searches(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    other = shutil.copytree(folder, tmp_path / 'other')
    result = report(folder, other, '--json')
    assert result.exit_code == 0 and json.loads(result.stdout)['page'] == 'comparison.html'
    assert 'Comparison of 2 searches' in (tmp_path / 'comparison.html').read_text(encoding='utf-8')
    assert report(folder, other, '--out', tmp_path / 'other.html').exit_code == 0
    assert (tmp_path / 'other.html').exists()


def test_a_child(folder, tmp_path):
    number = json.loads(CliRunner().invoke(
        app, ['search', '--out', str(folder), '--status', '--json']).stdout)[-1]['number']
    result = report(folder, '--out', tmp_path / 'page.html', '--child', number, '--json')
    path = tmp_path / f'child_{number}.json'
    assert result.exit_code == 0 and json.loads(result.stdout)['cells'] == [str(path)]
    assert load_genotype(path).search['trial'] == number


def test_a_search_that_has_not_ended(folder, tmp_path):
    from nasnet_zoo.search.folder import mark_as_ended
    report(folder, '--out', tmp_path / 'page.html')
    assert 'The search has not ended' in (tmp_path / 'page.html').read_text(encoding='utf-8')
    mark_as_ended(folder)
    report(folder, '--out', tmp_path / 'page.html')
    assert 'The search has not ended' not in (tmp_path / 'page.html').read_text(encoding='utf-8')


@pytest.mark.parametrize('arguments, message', [
    (['nowhere'], 'error: nowhere: there is no search here'),
    (['FOLDER', '--child', '99'], 'error: mine: no child 99 has a reward'),
    (['FOLDER', 'FOLDER', '--child', '1'], 'error: --child: needs a single search; give one DIR'),
    (['FOLDER', '--out', 'file/page.html'], "error: [Errno 17] File exists: 'file'")])
def test_what_cannot_be_reported(folder, arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'file').touch()
    result = report(*[folder if argument == 'FOLDER' else argument for argument in arguments])
    assert result.exit_code == 1 and result.stderr.startswith(message) and len(result.stderr.splitlines()) == 1

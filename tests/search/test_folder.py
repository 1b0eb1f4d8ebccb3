"""Folders of searches that earlier versions wrote."""
import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from helpers.paths import TESTS
from nasnet_zoo.cli.main import app
from nasnet_zoo.search import SearchConfig, search_status
from nasnet_zoo.search.folder import kept_defaults, upgrade_settings

pytest.importorskip('sklearn', reason='the digits come with scikit-learn')
OLD = TESTS / 'data' / 'old_search'  # four children of a search that 6b46199 was asked for with OPTIONS
# What it made of them when it was resumed up to thirteen
EXPECTED = json.loads((OLD / 'expected.json').read_text(encoding='utf-8'))
OPTIONS = ['--num-cells', '1', '--cell-filters', '2', '--epochs', '1', '--batch-size', '256', '--lr', '0.1', '--pad',
           '1', '--no-flip', '--limit-train', '600', '--space', 'darts', '--blocks', '2', '--top', '2', '--sampler',
           'ppo', '--seed', '5', '--final-epochs', '2', '--resume']


@pytest.fixture
def old(tmp_path):
    for name in ('search.json', 'study.log', 'finals.json'):
        shutil.copy(OLD / name, tmp_path)
    return tmp_path


def resume(out, *options):
    return CliRunner().invoke(app, ['search', '--out', str(out), *OPTIONS, *options])


def test_an_old_search_is_resumed(old):
    """The next children are those that the old code proposed, after an update of the controller too."""
    assert len(search_status(old)) == 4
    result = resume(old, '--trials', '13', '--json')
    assert result.exit_code == 0, result.output
    children = search_status(old)
    assert [child['architecture'][:8] for child in children] == [architecture for _, architecture in EXPECTED]
    assert [child['value'] for child in children] == pytest.approx([value for value, _ in EXPECTED], abs=0.02)
    content = json.loads((old / 'search.json').read_text(encoding='utf-8'))
    assert content['config']['trials'] == 13 and content['settings']['objective'] is None
    assert resume(old, '--trials', '13').exit_code == 0, 'the upgraded folder can be resumed, too'


@pytest.mark.parametrize('damage', [Path.unlink, lambda path: path.write_bytes(b'')])
def test_a_search_whose_journal_is_lost_does_not_start_anew(old, damage):
    damage(old / 'study.log')
    before = sorted((path.name, path.read_bytes()) for path in old.iterdir() if path.name != '.lock')
    result = resume(old)
    assert result.exit_code == 1 and 'are lost: study.log is missing or empty' in result.stderr
    assert sorted((path.name, path.read_bytes()) for path in old.iterdir() if path.name != '.lock') == before


def test_an_old_search_of_other_settings_is_refused(old):
    result = resume(old, '--lr', '0.2')
    assert result.exit_code == 1 and 'child.recipe.lr was 0.1 and is 0.2' in result.stderr
    content = json.loads((old / 'search.json').read_text(encoding='utf-8'))
    content['settings']['seed'] = 6  # was possible from Python only
    (old / 'search.json').write_text(json.dumps(content), encoding='utf-8')
    result = resume(old)
    assert result.exit_code == 1 and 'seed was 6 and is None' in result.stderr


def test_another_default_does_not_change_an_old_search(old):
    """It was started when `ppo` and `fast` were the defaults; only who asks for others is refused."""
    new, resumed = SearchConfig(out=old), SearchConfig(out=old, resume=True)
    assert (new.sampler, new.ppo_preset) == ('gp', 'model') and kept_defaults(new) == {}
    assert kept_defaults(resumed) == dict(sampler='ppo', ppo_preset='fast', protocol='paper')
    assert kept_defaults(SearchConfig(out=old / 'new', resume=True)) == {}
    result = resume(old, '--ppo-preset', 'model')
    assert result.exit_code == 1 and "ppo_preset was 'fast' and is 'model'" in result.stderr


def test_a_search_of_other_images_is_refused(old):
    content = json.loads((old / 'search.json').read_text(encoding='utf-8'))
    (old / 'search.json').write_text(json.dumps(dict(content, num_images=7)), encoding='utf-8')
    result = resume(old, '--trials', '13')
    assert result.exit_code == 1 and 'other images in digits: there were 7 training images' in result.stderr
    assert len(search_status(old)) == 4


def test_an_old_search_of_resized_images_is_refused(old):
    content = json.loads((old / 'search.json').read_text(encoding='utf-8'))
    content['settings']['child']['img_size'] = 12
    (old / 'search.json').write_text(json.dumps(content), encoding='utf-8')
    result = resume(old, '--img-size', '12')
    assert result.exit_code == 1 and 'resized images differently' in result.stderr
    assert len(search_status(old)) == 4


def test_settings_are_upgraded_once():
    settings = json.loads((OLD / 'search.json').read_text(encoding='utf-8'))['settings']
    new = upgrade_settings(settings)
    assert 'cost' in settings and 'cost' not in new and 'seed' not in new and upgrade_settings(new) == new


@pytest.mark.parametrize('content, message', [
    ('[', 'is not valid JSON'), ('[]', 'does not describe a search'),
    ('{"settings": {}}', 'does not describe a search'),
    ('{"settings": {"cost": null}, "study": "s"}', 'its settings cannot be read')])
def test_files_that_are_something_else(old, content, message):
    (old / 'search.json').write_text(content, encoding='utf-8')
    result = resume(old)
    assert result.exit_code == 1 and message in result.stderr and 'search.json' in result.stderr

"""The page of a model as a Space on the hub, with the real client over HTTP."""
import json

import huggingface_hub
import pytest
from typer.testing import CliRunner

from nasnet_zoo.cli.main import app
from nasnet_zoo.hub.folder import HubError
from nasnet_zoo.hub.publish import prepare
from nasnet_zoo.hub.space import prepare_space, push_space

MODEL, MINE = 'nasnet_c_cifar_small', 'someone/my-cell'
FILES = {'index.html', 'model.json', 'model.onnx', 'labels.txt', 'genotype.json', 'README.md', '_headers', 'page.js',
         'worker.js', 'prepare.js', 'page.css', 'icon.svg'}


@pytest.fixture(scope='module')
def space(tmp_path_factory):
    pytest.importorskip('matplotlib', reason='draws the cells')
    folder = tmp_path_factory.mktemp('space')
    return prepare_space(prepare(MODEL, folder / 'model', MINE), folder / 'page', MINE)


def test_settings(space):
    card = huggingface_hub.SpaceCard.load(space / 'README.md')
    assert (card.data.sdk, card.data.title, card.data.app_file) == ('static', 'my-cell', 'index.html')
    assert card.data.license == 'apache-2.0' and card.data.models == [MINE]
    assert card.data.custom_headers == {
        'cross-origin-opener-policy': 'same-origin', 'cross-origin-embedder-policy': 'require-corp'}
    assert f'https://huggingface.co/{MINE}' in card.text


def test_round_trip_in_one_commit(server, space):
    report = push_space(space, MINE, message='First')
    history = server.repos[f'spaces/{MINE}'].branches['main']
    assert [commit.message for commit in history] == ['initial commit', 'First']
    published = history[-1].files
    assert set(report['files']) == FILES == set(published) - {'.gitattributes'}
    assert all(published[name] == (space / name).read_bytes() for name in FILES)
    assert not [name for name in FILES if str(space.parent).encode() in published[name]], 'a path of this machine'
    assert report['commit'] == history[-1].oid and MINE not in server.repos
    found = json.loads(published['model.json'])
    assert found['name'] == 'my-cell' and found['file']['bytes'] == len(published['model.onnx'])
    uploads = server.uploads
    assert push_space(space, MINE)['commit'] == report['commit'] and server.uploads == uploads


def test_refusals(server, space, tmp_path):
    with pytest.raises(HubError, match='is not of the form OWNER/NAME'):
        push_space(space, 'a/b/c')
    with pytest.raises(HubError, match='is not a model folder'):
        prepare_space(tmp_path, tmp_path / 'page', MINE)
    push_space(space, MINE)
    with pytest.raises(HubError, match='the repository is public already'):
        push_space(space, MINE, private=True)
    with pytest.raises(HubError, match='your token does not allow writing here|hf auth login'):
        push_space(space, 'other/my-cell')


def test_command(server, tmp_path):
    pytest.importorskip('matplotlib', reason='draws the cells')
    args = ['push', MODEL, MINE, '--space', '--out', str(tmp_path / 'out')]
    planned = CliRunner().invoke(app, [*args, '--dry-run'])
    assert planned.exit_code == 0 and not server.requests, planned.output
    assert 'The Space:' in planned.output and 'model.onnx' in planned.output
    done = CliRunner().invoke(app, [*args, '--json'])
    report = json.loads(done.stdout)
    assert set(report['space']['files']) == FILES and 'model.safetensors' in report['files']
    model, space = (server.repos[name].branches['main'][-1] for name in (MINE, f'spaces/{MINE}'))
    assert (report['commit'], report['space']['commit']) == (model.oid, space.oid)

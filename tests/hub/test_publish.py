"""Model folders, and the whole round trip with the real client over HTTP against a hub on loopback.

The client's other way of uploading, Xet, is switched off here and untested: it needs the hub's own storage.
"""
import hashlib
import json
import time

import huggingface_hub
import pytest
import timm
import torch
from huggingface_hub.errors import RepositoryNotFoundError
from typer.testing import CliRunner

import nasnet_zoo
from nasnet_zoo.cli.main import app
from nasnet_zoo.deploy.bundle import deploy
from nasnet_zoo.deploy.config import ExportConfig
from nasnet_zoo.hub import folder as hub
from nasnet_zoo.hub import publish
from nasnet_zoo.hub.card import write_card
from nasnet_zoo.hub.folder import HubError
from nasnet_zoo.version import REPOSITORY

MINE = 'someone/my-cell'
SEARCHED = dict(  # no shipped cell
    format=1, name='found', inputs=2, normal=dict(
        blocks=[dict(left=['sep_conv_3x3', 'h0'], right=['max_pool_3x3', 'h1'], combine='add'),
                dict(left=['conv_1x1', 'b0'], right=['identity', 'h1'], combine='concat')],
        outputs=[['b0', 'b1']]),
    reduction=dict(
        blocks=[dict(left=['sep_conv_5x5', 'h0'], right=['avg_pool_3x3', 'h1'], combine='add'),
                dict(left=['identity', 'h0'], right=['identity', 'b0'], combine='concat')],
        outputs=[['b0', 'b1']]))
RECORD = dict(model='x', dataset='digits', split='test', top1=0.9, top5=0.99, interval_95=[0.87, 0.92], count=450)


def searched(seed=0):
    torch.manual_seed(seed)
    model = nasnet_zoo.compile_genotype(
        SEARCHED, num_cells=1, cell_filters=8, stem='cifar', img_size=16, num_classes=3, in_chans=1)
    with torch.no_grad():
        model.train()(torch.randn(8, 1, 16, 16))  # statistics that are not the initial ones
    return model.eval()


@pytest.fixture
def folder(tmp_path):
    hub.write_folder(searched(), tmp_path / 'model', ('a', 'b', 'c'), (0.3,), (0.2,))
    hub.record_accuracy(tmp_path / 'model' / hub.WEIGHTS, RECORD)
    write_card(tmp_path / 'model', MINE)
    return tmp_path / 'model'


def commits(server, repo_id=MINE, branch='main'):
    return [commit.message for commit in server.repos[repo_id].branches[branch]]


def pull(source=f'hf-hub:{MINE}', **kwargs):
    return timm.create_model(source, pretrained=True, **kwargs).eval()


def logits(model):
    torch.manual_seed(5)
    with torch.no_grad():
        return model(torch.randn(4, 1, 16, 16))


# Folders

def test_a_folder_rebuilds_a_searched_model(folder):
    pulled = pull(f'local-dir:{folder}')
    assert torch.equal(logits(pulled), logits(searched()))
    assert pulled.genotype.name == 'found' and tuple(pulled.pretrained_cfg['mean']) == (0.3,)
    assert pulled.pretrained_cfg['label_names'] == ['a', 'b', 'c']
    assert nasnet_zoo.load_genotype(folder / 'genotype.json') == pulled.genotype
    other_head = pull(f'local-dir:{folder}', num_classes=7)
    assert logits(other_head).shape == (4, 7)


def test_half_precision(folder, tmp_path):
    hub.write_folder(searched(), tmp_path / 'half', half=True)
    sizes = [(path / hub.WEIGHTS).stat().st_size for path in (folder, tmp_path / 'half')]
    assert sizes[1] < 0.75 * sizes[0]
    torch.testing.assert_close(logits(pull(f'local-dir:{tmp_path / "half"}')), logits(searched()), rtol=0, atol=0.01)


def test_accuracy_is_in_the_weight_file(folder):
    before = logits(pull(f'local-dir:{folder}'))
    assert hub.read_accuracy(folder / hub.WEIGHTS) == RECORD
    hub.record_accuracy(folder / hub.WEIGHTS, dict(RECORD, top1=0.8))
    assert hub.read_accuracy(folder / hub.WEIGHTS)['top1'] == 0.8
    assert torch.equal(logits(pull(f'local-dir:{folder}')), before)
    (folder / hub.WEIGHTS).write_bytes(b'no weights')
    with pytest.raises(HubError, match='cannot be read'):
        hub.read_accuracy(folder / hub.WEIGHTS)


def test_card(folder):
    card = huggingface_hub.ModelCard.load(folder / 'README.md')
    assert card.data.license == 'apache-2.0' and card.data.library_name == 'timm'
    assert card.data.pipeline_tag == 'image-classification' and 'nasnet' in card.data.tags
    results = {result.metric_type: result for result in card.data.eval_results}
    assert results['accuracy'].metric_value == 90 and results['top_5_accuracy'].metric_value == 99
    assert results['accuracy'].dataset_name == 'digits' and card.data.datasets == ['digits']
    code = card.content.split('```python\n')[1].split('```')[0]
    assert code.startswith('import nasnet_zoo') and f"create_model('hf-hub:{MINE}', pretrained=True)" in code
    assert '90.00%' in card.text and '87.00% to 92.00%' in card.text


def test_a_card_of_ones_own_is_kept(folder):
    write_card(folder, MINE, license='mit')
    assert huggingface_hub.ModelCard.load(folder / 'README.md').data.license == 'mit'
    (folder / 'README.md').write_text('My words.', encoding='utf-8')
    publish.prepare(folder, folder, MINE)
    assert (folder / 'README.md').read_text(encoding='utf-8') == 'My words.'


def test_accuracy_must_be_known(folder, server):
    hub.write_folder(searched(), folder)
    for dry_run in (True, False):
        with pytest.raises(HubError, match='nasnet-zoo validate .* --record'):
            publish.push(folder, MINE, dry_run=dry_run)
    assert not server.requests


def test_what_is_no_model_folder(folder, tmp_path):
    with pytest.raises(HubError, match='is not a model folder'):
        publish.push(tmp_path, MINE, dry_run=True)
    config = json.loads((folder / 'config.json').read_text(encoding='utf-8'))
    del config['model_args']
    (folder / 'config.json').write_text(json.dumps(config), encoding='utf-8')
    with pytest.raises(HubError, match='has no model_args with a genotype'):
        publish.push(folder, MINE, dry_run=True)
    (folder / hub.WEIGHTS).unlink()
    with pytest.raises(HubError, match='has no model.safetensors'):
        publish.push(folder, MINE, dry_run=True)


# Push and pull

def test_round_trip_in_one_commit(server, folder):
    report = publish.push(folder, MINE, message='First')
    assert commits(server)[-1] == 'First' and len(commits(server)) == 2, 'one more than the hub makes itself'
    assert set(report['files']) >= {'model.safetensors', 'config.json', 'genotype.json', 'README.md', 'cells.svg'}
    published = server.repos[MINE].branches['main'][-1]
    assert report['commit'] == published.oid
    assert {name: (folder / name).read_bytes() for name in report['files']}.items() <= published.files.items()
    assert torch.equal(logits(pull()), logits(searched()))


def test_unchanged_is_not_sent_again(server, folder):
    first = publish.push(folder, MINE)
    uploads = server.uploads
    assert uploads > 0
    assert publish.push(folder, MINE)['commit'] == first['commit']
    assert server.uploads == uploads and len(commits(server)) == 2
    hub.record_accuracy(folder / hub.WEIGHTS, dict(RECORD, top1=0.5))
    assert publish.push(folder, MINE)['commit'] != first['commit']
    assert server.uploads == uploads + 1 and len(commits(server)) == 3, 'the weights alone'


def test_checkpoints_stay_at_home(server, folder):
    (folder / 'checkpoint.safetensors').write_bytes(b'0' * 100)
    (folder / 'run.json').write_text('{}', encoding='utf-8')
    publish.push(folder, MINE)
    assert not {'checkpoint.safetensors', 'run.json'} & set(server.repos[MINE].branches['main'][-1].files)


def test_revision(server, folder):
    publish.push(folder, MINE)
    hub.write_folder(searched(seed=1), folder)
    hub.record_accuracy(folder / hub.WEIGHTS, RECORD)
    publish.push(folder, MINE, revision='v2')
    assert torch.equal(logits(pull()), logits(searched()))
    assert torch.equal(logits(pull(f'hf-hub:{MINE}@v2')), logits(searched(seed=1)))


def test_a_file_to_deploy_names_the_weights_from_the_hub(server, folder, tmp_path):
    publish.push(folder, MINE)
    manifest = deploy(ExportConfig(source=f'hf-hub:{MINE}@main', out=tmp_path / 'out'))
    digest = hashlib.sha256((folder / hub.WEIGHTS).read_bytes()).hexdigest()
    assert manifest['weights'] == dict(file=hub.WEIGHTS, sha256=digest, accuracy=RECORD)
    assert manifest['model'] == 'my-cell' and manifest['preprocessing']['class_names'] == ['a', 'b', 'c']


def test_dry_run_needs_no_hub(server, folder):
    report = publish.push(folder, MINE, dry_run=True)
    assert report['files']['model.safetensors'] > 0 and report['commit'] is None
    assert not server.requests


def test_private(server, folder, monkeypatch):
    publish.push(folder, MINE, private=True)
    assert server.repos[MINE].private
    assert torch.equal(logits(pull()), logits(searched()))
    monkeypatch.delenv('HF_TOKEN')
    monkeypatch.setattr(huggingface_hub.constants, 'HF_HUB_CACHE', str(folder / 'elsewhere'))
    with pytest.raises(RepositoryNotFoundError, match='private or gated'):
        pull()
    result = CliRunner().invoke(app, ['validate', f'hf-hub:{MINE}', '--data', 'digits'])
    assert result.exit_code == 1 and 'Repository Not Found' in result.output and 'Traceback' not in result.output
    with pytest.raises(HubError, match='hf auth login'):
        publish.push(folder, MINE)


def test_a_public_repository_does_not_take_what_shall_be_private(server, folder):
    publish.push(folder, MINE)
    hub.record_accuracy(folder / hub.WEIGHTS, dict(RECORD, top1=0.5))
    with pytest.raises(HubError, match='the repository is public already'):
        publish.push(folder, MINE, private=True)
    assert len(commits(server)) == 2


@pytest.mark.parametrize('token, repo_id, message', [
    ('nobody', MINE, 'hf auth login'), ('other', MINE, 'does not allow writing'),
    ('secret', 'a/b/c', 'is not of the form OWNER/NAME'), ('secret', 'mine', 'the owner is missing')])
def test_who_may_not_push(server, folder, monkeypatch, token, repo_id, message):
    monkeypatch.setenv('HF_TOKEN', token)
    with pytest.raises(HubError, match=message):
        publish.push(folder, repo_id)
    assert MINE not in server.repos


# Failures

@pytest.mark.parametrize('status', [503, None], ids=['503', 'drop'])
@pytest.mark.parametrize('method, pattern', [('PUT', '/lfs/'), ('POST', '/preupload/'), ('POST', '/objects/batch')])
def test_the_client_tries_again(server, folder, method, pattern, status):
    server.fail(method, pattern, status, times=2)
    publish.push(folder, MINE)
    assert len(commits(server)) == 2
    assert torch.equal(logits(pull()), logits(searched()))


@pytest.mark.parametrize('status', [503, 500, None], ids=['503', '500', 'drop'])
@pytest.mark.parametrize('method, pattern', [('PUT', '/lfs/'), ('POST', '/commit/'), ('POST', '/preupload/')])
def test_nothing_is_half_published(server, folder, method, pattern, status):
    server.fail(method, pattern, status, times=100)
    with pytest.raises(HubError, match='push again'):
        publish.push(folder, MINE)
    assert len(commits(server)) == 1 and hub.WEIGHTS not in server.repos[MINE].branches['main'][-1].files
    server._failures.clear()
    publish.push(folder, MINE)
    assert torch.equal(logits(pull()), logits(searched()))


def test_a_lost_answer_is_not_a_lost_push(server, folder):
    server.fail('POST', '/commit/', None, late=True)
    with pytest.raises(HubError, match='push again to find out'):
        publish.push(folder, MINE)
    uploads = server.uploads
    publish.push(folder, MINE)
    assert len(commits(server)) == 2 and server.uploads == uploads


# Hostile repositories

def hostile(facts=(), **args):
    config = dict(searched().config, **args)
    facts = dict(num_classes=3, **dict(facts))
    return dict(architecture='nasnet', num_classes=3, model_args=config, pretrained_cfg=facts)


BLOCK = dict(left=['identity', 'h0'], right=['identity', 'h1'], combine='add')
HOSTILE = {
    'a path': (hostile(genotype='../../../etc/passwd'), 'etc/passwd'),
    'an absolute path': (hostile(genotype='/etc/passwd.json'), 'passwd'),
    'a huge genotype': (hostile(genotype=dict(SEARCHED, normal=dict(
        blocks=[BLOCK] * 100_000, outputs=[['b0']]))), 'too large'),
    'a deep genotype': (
        hostile(genotype=dict(SEARCHED, search=json.loads('[' * 900 + ']' * 900))), 'nested too deeply'),
    'no operation': (hostile(genotype=dict(SEARCHED, normal=dict(
        blocks=[dict(BLOCK, left=['__import__("os")', 'h0'])], outputs=[['b0']]))), 'unknown operation'),
    'wrong types': (hostile(genotype=7), 'genotype'),
    'a number of cells': (hostile(num_cells=10 ** 9), 'num_cells'),
    'a width': (hostile(cell_filters=2048, num_cells=32), 'parameters'),
    'text for a number': (hostile(num_cells='4; import os'), 'num_cells'),
    'classes': (hostile(num_classes=10 ** 9), 'num_classes'),
    'an argument that is none': (hostile(device_map='auto'), 'device_map'),
    'deviations of 0': (hostile(dict(std=[0, 0, 0])), 'std'),
    'a negative side': (hostile(dict(input_size=[3, -5, -5])), 'input_size'),
    'a huge side': (hostile(dict(input_size=[3, 100_000, 100_000])), 'input_size'),
    'two sizes': (hostile(dict(input_size=[3, 5])), 'input_size'),
    'names that are none': (hostile(dict(label_names=5)), 'label_names'),
    'a mean that is none': (hostile(dict(mean='evil')), 'mean'),
    'a size': (hostile(img_size=[10 ** 6, 10 ** 6]), 'img_size'),
}


@pytest.mark.parametrize('config, message', HOSTILE.values(), ids=HOSTILE)
def test_hostile_configurations(server, folder, config, message):
    server.put('other/evil', {'config.json': json.dumps(config).encode(),
                              'model.safetensors': (folder / hub.WEIGHTS).read_bytes()})
    begun = time.monotonic()
    with pytest.raises((ValueError, TypeError), match=message):
        pull('hf-hub:other/evil')
    assert time.monotonic() - begun < 30


def test_a_configuration_cannot_name_local_files(server, folder, tmp_path):
    secret = tmp_path / 'secret.safetensors'
    secret.write_bytes((folder / hub.WEIGHTS).read_bytes())
    config = hostile()
    config['pretrained_cfg'].update(file=str(secret), url=f'file://{secret}')
    server.put('other/evil', {'config.json': json.dumps(config).encode()})
    with pytest.raises(huggingface_hub.errors.EntryNotFoundError):
        pull('hf-hub:other/evil')


def test_pickles_are_not_executed(server, tmp_path):
    class Bomb:
        def __reduce__(self):
            return exec, (f'open({str(tmp_path / "exploded")!r}, "w")',)
    torch.save({'x': Bomb()}, tmp_path / 'bomb.bin')
    server.put('other/evil', {'config.json': json.dumps(hostile()).encode(),
                              'pytorch_model.bin': (tmp_path / 'bomb.bin').read_bytes()})
    with pytest.raises(Exception, match='(?i)weights.only'):
        pull('hf-hub:other/evil')
    assert not (tmp_path / 'exploded').exists()


# The command

def test_command(server, folder, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ['push', str(folder), MINE, '--onnx', '--tag', 'demo', '--json'])
    assert result.exit_code == 0, result.output
    assert 'model.onnx' in json.loads(result.stdout)['files'] and len(commits(server)) == 2
    server.fail('POST', '/commit/', 500)
    hub.record_accuracy(folder / hub.WEIGHTS, dict(RECORD, top1=0.5))
    result = CliRunner().invoke(app, ['push', str(folder), MINE])
    assert result.exit_code == 1 and 'error: someone/my-cell: the Hub returned an error' in result.output


# All shipped weights

def test_all_shipped_weights(server, tmp_path, monkeypatch):
    """Every file is shown without using the hub; pushing twice is one commit for each model."""
    arguments = ['push', '--all', '--dry-run', '--json', '--out', str(tmp_path / 'dry')]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0 and not server.requests, result.output
    shown = {report['repo_id']: report['files'] for report in json.loads(result.stdout)}
    assert list(shown) == [f'OWNER/nasnet_{kind}_cifar_small.cifar10' for kind in 'abcz']
    assert all(files.keys() >= {hub.WEIGHTS, 'config.json', 'genotype.json', 'README.md'} for files in shown.values())
    monkeypatch.setattr(publish, 'shipped_weights', lambda: ['nasnet_c_cifar_small.cifar10'])  # one is enough
    first, second = (publish.push_all('someone', tmp_path / name) for name in ('first', 'second'))
    assert [report['commit'] for report in first] == [report['commit'] for report in second]
    repo_id = 'someone/nasnet_c_cifar_small.cifar10'
    assert len(commits(server, repo_id)) == 2, 'one more than the hub makes itself'
    assert pull(f'hf-hub:{repo_id}').genotype == nasnet_zoo.load_genotype('nasnet_c')


def test_card_of_shipped_weights(tmp_path):
    folder = publish.prepare('nasnet_c_cifar_small.cifar10', tmp_path / 'model', 'someone/c')
    card = huggingface_hub.ModelCard.load(folder / 'README.md')
    data, metadata = card.data.to_dict(), card.text
    assert data['library_name'] == 'timm' and {'timm', 'nasnet', 'image-classification'} <= set(data['tags'])
    result, = data['model-index'][0]['results']
    assert [metric['value'] for metric in result['metrics']] == [86.43, 99.4] and data['datasets'] == ['cifar10-jpeg']
    for text in ('0.21 M', 'airplane', '![The cells](cells.svg)', '86.43%', '## Limits', 'zoph2018learning',
                 f'{REPOSITORY}/blob/main/docs/results/README.md', 'features_only=True'):
        assert text in metadata, text
    own = publish.prepare('nasnet_z_cifar_small.cifar10', tmp_path / 'own', 'someone/z') / 'README.md'
    assert '@software{nasnetzoo' in own.read_text(encoding='utf-8')


@pytest.mark.parametrize('arguments, message', [
    (['--all'], 'nasnet-zoo push --all OWNER'), (['--all', 'me', 'me/x'], 'nasnet-zoo push --all OWNER'),
    (['x'], 'FOLDER_OR_MODEL OWNER/NAME'), (['--all', 'a/b', '--dry-run'], 'OWNER/NAME')])
def test_what_is_to_be_pushed_must_be_clear(arguments, message):
    result = CliRunner().invoke(app, ['push', *arguments])
    assert result.exit_code == 1 and message in result.stderr and len(result.stderr.splitlines()) == 1


# Cells without weights

def test_a_cell_without_weights(server, tmp_path):
    (tmp_path / 'my cell.json').write_text(json.dumps(SEARCHED), encoding='utf-8')
    arguments = ['push', str(tmp_path / 'my cell.json'), 'someone/cell', '--license', 'mit', '--json']
    report = json.loads(CliRunner().invoke(app, arguments).stdout)
    assert set(report['files']) == {'genotype.json', 'cells.svg', 'README.md'}
    genotype = nasnet_zoo.load_genotype('hf-hub:someone/cell')
    assert genotype == nasnet_zoo.load_genotype(SEARCHED)
    assert json.loads(CliRunner().invoke(app, arguments).stdout)['commit'] == report['commit']
    published = server.repos['someone/cell'].branches['main'][-1].files
    card = huggingface_hub.ModelCard(published['README.md'].decode())
    assert card.data.license == 'mit' and card.data.library_name == 'nasnet-zoo'
    assert "load_genotype('hf-hub:someone/cell')" in card.text and '| ImageNet, N = 4, F = 44 |' in card.text
    described = CliRunner().invoke(app, ['describe', 'hf-hub:someone/cell', '--num-cells', '1', '--json'])
    assert json.loads(described.stdout)['architecture_digest'] == genotype.architecture_digest


def test_the_genotype_of_a_model_and_of_a_revision(server, folder):
    publish.push(folder, MINE, revision='v2')
    assert nasnet_zoo.load_genotype(f'hf-hub:{MINE}@v2').name == 'found'


HOSTILE_CELLS = {
    'no JSON': (b'PK', 'hf-hub:other/cell: not JSON'),
    'an unknown operation': (json.dumps(dict(SEARCHED, normal=dict(
        blocks=[dict(BLOCK, left=['exec', 'h0'])], outputs=[['b0']]))).encode(), 'unknown operation'),
    'a large file': (b' ' * (2 << 20), 'too large')}


@pytest.mark.parametrize('content, message', HOSTILE_CELLS.values(), ids=HOSTILE_CELLS)
def test_cells_from_the_hub_are_checked(server, content, message):
    server.put('other/cell', {'genotype.json': content})
    with pytest.raises(nasnet_zoo.GenotypeError, match=message):
        nasnet_zoo.load_genotype('hf-hub:other/cell')
    assert ('GET', '/other/cell/resolve/main/genotype.json', 200) not in server.requests or message != 'too large'


@pytest.mark.parametrize('source', ['hf-hub:other/nothing', 'hf-hub:other/empty', 'hf-hub:a/b/c', 'hf-hub:'])
def test_there_is_no_such_cell(server, source):
    server.put('other/empty', {'README.md': b'nothing'})
    with pytest.raises(nasnet_zoo.GenotypeError, match='has no genotype.json that can be downloaded'):
        nasnet_zoo.load_genotype(source)


def test_a_configuration_cannot_name_a_repository(server):
    with pytest.raises(nasnet_zoo.GenotypeError, match='a path is not allowed here'):
        timm.create_model('nasnet', genotype='hf-hub:someone/cell')
    assert not server.requests


def test_without_the_hub_the_cache_is_read(server, tmp_path):
    server.put('other/cell', {'genotype.json': json.dumps(SEARCHED).encode()})
    nasnet_zoo.load_genotype('hf-hub:other/cell')
    server.fail('HEAD', '/other/cell/', 503, times=100)
    server.fail('GET', '/other/cell/', 503, times=100)
    assert nasnet_zoo.load_genotype('hf-hub:other/cell').name == 'found'

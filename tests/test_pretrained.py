"""Google's archives: downloaded, verified, converted once, and used by `pretrained=True`."""
import hashlib
import warnings

import pytest
import timm
import torch
from safetensors import safe_open

from helpers.file_server import FileServer
from helpers.tensorflow import pack, write_network
from nasnet_zoo import compile_genotype, downloads, zoo
from nasnet_zoo.downloads import DownloadError
from nasnet_zoo.pretrained import download_weights

SMALL = dict(genotype='pnasnet5', num_cells=2, cell_filters=4, reductions='replace', num_classes=3, img_size=64,
             aux_filters=(4, 8))


def archive(folder, network, **more):
    """The content of an archive like Google's, with the weights of a network."""
    write_network(folder / 'model.ckpt', network)
    files = {path.name: path.read_bytes() for path in folder.glob('model.ckpt.*')}
    return pack(folder / 'archive.tar.gz', {**files, **more}).read_bytes()


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(downloads, '_PAUSE', 0.)
    with FileServer() as server:
        yield server


def publish(server, monkeypatch, path, content):
    """Put a file on the server whose hash is known, and return its address."""
    server.files[path] = content
    monkeypatch.setitem(downloads.SHA256, path.rpartition('/')[-1], hashlib.sha256(content).hexdigest())
    return server.url + path


def test_an_archive_is_converted_once(server, monkeypatch, tmp_path):
    source = compile_genotype(**SMALL, aux_head=True)
    content = archive(tmp_path, source, **{'../../evil.txt': b'evil', '/etc/nasnet-zoo-evil': b'evil'})
    url = publish(server, monkeypatch, '/models/net.tar.gz', content)
    server.faults['/models/net.tar.gz'] = ['cut']
    for _ in range(2):
        path = download_weights([url], SMALL, tmp_path / 'a' / 'b')
    assert len(server.requests) == 2
    assert sorted(file.name for file in path.parent.iterdir()) == [
        'net.safetensors', 'net.safetensors.lock', 'net.tar.gz.lock']
    assert not (tmp_path / 'evil.txt').exists()
    with safe_open(path, 'pt') as file:
        assert file.metadata()['source'] == url
        assert all(torch.equal(file.get_tensor(name), source.state_dict()[name]) for name in file.keys())
        assert 'aux_head.head.fc.weight' in file.keys()


@pytest.mark.parametrize('content, match', [
    (lambda folder: archive(folder, compile_genotype(**dict(SMALL, cell_filters=8), aux_head=True)),
     r'net.tar.gz: is not the expected archive, and was deleted: (.|\n)*of the wrong shape'),
    (lambda folder: b'<html>', 'is not the expected archive, and was deleted: .* it is a web page'),
    (lambda folder: archive(folder, compile_genotype(**SMALL, aux_head=True))[:5000], 'was deleted: .*cannot be read'),
])
def test_another_archive(server, monkeypatch, tmp_path, content, match):
    url = publish(server, monkeypatch, '/net.tar.gz', content(tmp_path))
    with pytest.raises(DownloadError, match=match):
        download_weights([url], SMALL, tmp_path / 'cache')
    assert sorted(path.name for path in (tmp_path / 'cache').iterdir()) == ['net.safetensors.lock', 'net.tar.gz.lock']


def test_the_next_address_is_tried(server, monkeypatch, tmp_path):
    url = publish(server, monkeypatch, '/net-12345678.pth', b'weights')
    gone = server.url + '/gone-12345678.pth'
    with pytest.warns(UserWarning, match='gone-1.*: HTTP Error 404.*; the weights are from .*/net-12345678.pth'):
        assert download_weights([gone, url], SMALL, tmp_path).read_bytes() == b'weights'
    with pytest.raises(DownloadError, match=r'gone-1(.|\n)*gone-2'):
        download_weights([gone, server.url + '/gone-23456789.pth'], SMALL, tmp_path)


def test_the_published_addresses():
    google = 'https://storage.googleapis.com/download.tensorflow.org/models/'
    found = {}
    for model in zoo._MODELS:
        if model.tag == 'tf_in1k':
            cfg = timm.get_pretrained_cfg(f'{model.name}.tf_in1k')
            found[model.name] = (cfg.hf_hub_id or cfg.url).removeprefix(google), model.fallback.removeprefix(google)
    assert found == {
        'nasnet_a_mobile': ('nasnet-a_mobile_04_10_2017.tar.gz',
                            'http://data.lip6.fr/cadene/pretrainedmodels/nasnetamobile-7e03cead.pth'),
        'nasnet_a_large': ('timm/nasnetalarge.tf_in1k', 'nasnet-a_large_04_10_2017.tar.gz'),
        'pnasnet5_mobile': ('pnasnet-5_mobile_2017_12_13.tar.gz', ''),
        'pnasnet5_large': ('timm/pnasnet5large.tf_in1k', 'pnasnet-5_large_2017_12_13.tar.gz')}


def test_pretrained(server, monkeypatch, tmp_path):
    """An archive with 1001 classes, as `pretrained=True` uses it for a model of the network's size."""
    network = dict(SMALL, num_classes=1000)
    source = compile_genotype(**dict(SMALL, num_classes=1001), aux_head=True).eval()
    url = publish(server, monkeypatch, '/pnasnet-5_mobile_2017_12_13.tar.gz', archive(tmp_path, source))
    named = zoo._Model('pnasnet5_mobile', '', {k: v for k, v in SMALL.items() if k != 'num_classes'}, {}, 'tf_in1k')

    def create(**kwargs):
        return zoo._create(named, True, pretrained_cfg_overlay=dict(url=url), cache_dir=tmp_path / 'cache', **kwargs)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        model = create().eval()
    assert model.config == compile_genotype(**network).config
    x = torch.randn(1, 3, 96, 96)
    with torch.no_grad():
        torch.testing.assert_close(model(x), source(x)[:, 1:])
        other = create(num_classes=5, aux_head=True).eval()
        torch.testing.assert_close(other.forward_features(x), source.forward_features(x))
    assert torch.equal(other.aux_head.conv2.weight, source.aux_head.conv2.weight)
    assert len(server.requests) == 1
    assert model.pretrained_cfg['file'].endswith('pnasnet-5_mobile_2017_12_13.safetensors')
    with pytest.raises(RuntimeError, match='not the weights of this model'):
        create(num_cells=3, num_classes=5)


def test_the_hub_is_not_there(server, monkeypatch, tmp_path):
    model = next(model for model in zoo._MODELS if model.name == 'nasnet_a_large')
    monkeypatch.setattr(zoo, 'hf_hub_download', lambda *args, **kwargs: (_ for _ in ()).throw(OSError('no network')))
    asked = []
    monkeypatch.setattr('nasnet_zoo.pretrained.download_weights', lambda *args: asked.append(args) or tmp_path / 'file')
    with pytest.warns(UserWarning, match='timm/nasnetalarge.tf_in1k cannot be downloaded .*: no network'):
        overlay = zoo._with_source(model, None, None, tmp_path)
    assert overlay == dict(file=str(tmp_path / 'file')) and asked == [([model.fallback], model.args, tmp_path)]
    mine = dict(hf_hub_id='me/mine')  # another repository, for which timm is responsible
    assert zoo._with_source(model, None, mine, tmp_path) == mine

"""Each port's own code, with random weights and statistics, against ours with the same weights from its files."""
import io
import json
import os
import pickle
import sys
import warnings
import zipfile

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models.nasnet import NASNetALarge
from torch import nn

import nasnet_zoo
from nasnet_zoo import compile_genotype, load_foreign_weights
from nasnet_zoo.checkpoints.load import convert_state_dict

SIZES = (65, 92)  # stride 2 meets maps of even sides only with the one, of odd ones too with the other
TOLERANCE = 1e-4
SMALL = dict(cell_filters=8, stem_filters=16, num_classes=20)
LARGE = dict(SMALL, num_cells=6, skip_reduction_layer_input=True)

pytestmark = pytest.mark.filterwarnings('ignore:__array__ implementation:DeprecationWarning')  # Keras with numpy 2


def images(size, batch=2, seed=1):
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(seed))


def randomise(model, size):
    """Random weights; random statistics not far from the true ones, so that activations neither vanish nor explode."""
    generator = torch.Generator().manual_seed(0)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.normal_(module.weight, std=module.weight[0].numel() ** -0.5, generator=generator)
    for norm in norms:
        norm.momentum = 1.  # the statistics of the next batch
        norm.weight.data.uniform_(0.5, 1.5, generator=generator)
        norm.bias.data.normal_(0., 0.3, generator=generator)
    with torch.no_grad():
        model.train()(images(size, seed=0))
    for norm in norms:
        noise = torch.randn(norm.num_features, generator=generator)
        norm.running_mean += 0.3 * noise * (norm.running_var + norm.eps).sqrt()
        norm.running_var *= torch.empty_like(noise).uniform_(0.7, 1.5, generator=generator)
        norm.running_var += 0.01
    return model.eval()


def logits(model, size):
    with torch.inference_mode():
        return model.eval()(images(size))


def error(ours, theirs):
    """Relative to what the logits of the two images differ by: a constant network would not pass."""
    assert theirs.isfinite().all()
    return ((ours - theirs).norm() / (theirs - theirs.mean(0)).norm()).item()


def shapes(state_dict):
    return {name: tuple(tensor.shape) for name, tensor in state_dict.items() if 'num_batches_tracked' not in name}


@pytest.fixture(scope='module')
def timm_nasnet():
    return randomise(NASNetALarge(num_features=24 * 8, stem_size=16, num_classes=20, pad_type='same'), SIZES[0])


@pytest.fixture(scope='module')
def keras():
    os.environ.setdefault('KERAS_BACKEND', 'torch')
    pytest.importorskip('h5py', reason='reads Keras files')
    return pytest.importorskip('keras', reason='writes Keras files')


@pytest.fixture(scope='module')
def keras_nasnet(keras):
    """A builder: the public ones refuse some of Keras' backends, the inner one does not."""
    from keras.src.applications import nasnet

    def build(size, filters=24 * 8, blocks=1, stem=16, skip=False, top=True, classes=20):
        return nasnet.NASNet(
            (size, size, 3), filters, blocks, stem, skip, 2, include_top=top, weights=None, classes=classes,
            default_size=size, classifier_activation=None)
    return build


def randomise_keras(keras, model, size):
    rng = np.random.default_rng(0)
    norms = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    for layer in model.layers:
        if layer not in norms:
            layer.set_weights([
                rng.normal(0., np.prod(w.shape[:2] if 'depthwise' in v.name else w.shape[:-1]) ** -0.5, w.shape)
                for v, w in zip(layer.weights, layer.get_weights())])
    for norm in norms:
        norm.momentum = 0.  # the statistics of the next batch
        norm.set_weights([rng.uniform(0.5, 1.5, w.shape) if v.name == 'gamma' else rng.normal(0., 0.3, w.shape)
                          if v.name == 'beta' else w for v, w in zip(norm.weights, norm.get_weights())])
    model(images(size, seed=0).permute(0, 2, 3, 1).numpy(), training=True)
    for norm in norms:
        gamma, beta, mean, var = norm.get_weights()
        mean += 0.3 * rng.normal(size=mean.shape) * np.sqrt(var + 1e-3)
        norm.set_weights([gamma, beta, mean, var * rng.uniform(0.7, 1.5, var.shape) + 0.01])


def keras_logits(keras, model, size):
    x = images(size).permute(0, 2, 3, 1).numpy()
    return torch.from_numpy(np.array(keras.ops.convert_to_numpy(model(x, training=False))))


@pytest.fixture(scope='module')
def keras_files(keras, keras_nasnet, tmp_path_factory):
    """A small Keras model, what it answers and its files, by suffix."""
    model = keras_nasnet(SIZES[1])
    randomise_keras(keras, model, SIZES[1])
    folder = tmp_path_factory.mktemp('keras')
    files = {suffix: folder / f'model{suffix}' for suffix in ('.weights.h5', '.keras', '.h5')}
    model.save_weights(files['.weights.h5'])
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # of the old format
        model.save(files['.keras'])
        model.save(files['.h5'])
    return model, keras_logits(keras, model, SIZES[1]), files


def small_keras(**kwargs):
    return compile_genotype('nasnet_a', num_cells=1, **{**SMALL, **kwargs})


# Equal logits

def test_timm_nasnet(timm_nasnet):
    model = compile_genotype('nasnet_a', pool_padding='timm', **LARGE)
    load_foreign_weights(model, timm_nasnet.state_dict())
    other = compile_genotype('nasnet_a', pool_padding='tf', **LARGE)
    load_foreign_weights(other, timm_nasnet.state_dict())
    for size in SIZES:
        theirs = logits(timm_nasnet, size)
        assert error(logits(model, size), theirs) < TOLERANCE
        assert error(logits(other, size), theirs) > TOLERANCE  # the measure tells so small a difference


def test_timm_pnasnet():
    peer = randomise(timm.create_model('pnasnet5large'), SIZES[0])
    model = timm.create_model('pnasnet5_large', pool_padding='timm')
    load_foreign_weights(model, peer.state_dict())
    for size in SIZES:
        assert error(logits(model, size), logits(peer, size)) < TOLERANCE


def test_cadene_mobile(cadene, tmp_path):
    peer = randomise(cadene('nasnet_mobile').NASNetAMobile(), 224)
    path = tmp_path / 'weights'
    torch.save(peer.state_dict(), path, _use_new_zipfile_serialization=False)  # as the published file is
    model = timm.create_model('nasnet_a_mobile')
    load_foreign_weights(model, path)
    assert error(logits(model, 224), logits(peer, 224)[:, 1:]) < TOLERANCE


def test_cadene_large(cadene):
    peer = cadene('nasnet').NASNetALarge(num_classes=20, stem_filters=16, penultimate_filters=24 * 8)
    peer = randomise(peer, 331)
    model = compile_genotype('nasnet_a', **LARGE)
    load_foreign_weights(model, peer.state_dict())
    assert error(logits(model, 331), logits(peer, 331)) < TOLERANCE


@pytest.mark.parametrize('suffix', ['.weights.h5', '.keras', '.h5'])
def test_keras_files(keras_files, suffix, tmp_path):
    _, theirs, files = keras_files
    path = tmp_path / 'no suffix tells it'
    path.write_bytes(files[suffix].read_bytes())
    model = small_keras(pool_padding='keras')
    load_foreign_weights(model, path)
    assert error(logits(model, SIZES[1]), theirs) < TOLERANCE
    assert error(logits(compile_like(model, pool_padding='tf'), SIZES[1]), theirs) > TOLERANCE


def compile_like(model, **kwargs):
    """The network with other arguments and the same weights."""
    other = compile_genotype(**{**model.config, **kwargs})
    other.load_state_dict(model.state_dict())
    return other


def test_keras_other_parity_and_wiring(keras, keras_nasnet, tmp_path):
    peer = keras_nasnet(SIZES[0], blocks=2, skip=True)
    randomise_keras(keras, peer, SIZES[0])
    peer.save_weights(tmp_path / 'model.weights.h5')
    model = compile_genotype(
        'nasnet_a', num_cells=2, skip_reduction_layer_input=True, pool_padding='keras', **SMALL)
    load_foreign_weights(model, tmp_path / 'model.weights.h5')
    assert error(logits(model, SIZES[0]), keras_logits(keras, peer, SIZES[0])) < TOLERANCE


# The published sizes, without values

@pytest.mark.parametrize('theirs, ours', [('nasnetalarge', 'nasnet_a_large'), ('pnasnet5large', 'pnasnet5_large')])
def test_timm_published(theirs, ours):
    model = timm.create_model(ours, device='meta')
    peer = timm.create_model(theirs, device='meta').state_dict()
    assert shapes(convert_state_dict(peer, model)) == shapes(model.state_dict())


@pytest.mark.parametrize('module, theirs, ours, classes', [
    ('nasnet_mobile', 'NASNetAMobile', 'nasnet_a_mobile', 1001),
    ('nasnet', 'NASNetALarge', 'nasnet_a_large', 1000),
    ('nasnet', 'NASNetALarge', 'nasnet_a_large', 1001),
])
def test_cadene_published(cadene, module, theirs, ours, classes):
    model = timm.create_model(ours, device='meta')
    with torch.device('meta'):
        peer = getattr(cadene(module), theirs)(num_classes=classes).state_dict()
    assert shapes(convert_state_dict(peer, model)) == shapes(model.state_dict())


@pytest.mark.parametrize('name, kwargs', [
    ('nasnet_a_mobile', dict(size=224, filters=1056, blocks=4, stem=32)),
    ('nasnet_a_large', dict(size=331, filters=4032, blocks=6, stem=96, skip=True)),
])
def test_keras_published(keras_nasnet, keras, name, kwargs):
    with pytest.MonkeyPatch.context() as patch:
        for initializer in (keras.initializers.HeNormal, keras.initializers.GlorotUniform):  # they take longest
            patch.setattr(initializer, '__call__', lambda self, shape, dtype=None: keras.ops.zeros(shape, dtype))
        peer = keras_nasnet(classes=1000, **kwargs)
    model = timm.create_model(name, device='meta')
    names = {f'{layer.name}.{variable.name}': torch.empty(variable.shape, device='meta')
             for layer in peer.layers for variable in layer.weights}
    converted = convert_state_dict(names, model)
    assert set(converted) == set(shapes(model.state_dict()))
    assert {name: tensor.numel() for name, tensor in converted.items()} == {
        name: tensor.numel() for name, tensor in model.state_dict().items() if name in converted}


# What files hold besides

def test_wrapped_and_prefixed(timm_nasnet, tmp_path):
    expected = logits(timm_nasnet, SIZES[0])
    prefixed = {f'module.{name}': tensor for name, tensor in timm_nasnet.state_dict().items()}
    torch.save({'state_dict': prefixed, 'epoch': 3}, tmp_path / 'checkpoint.tar')
    save_file(timm_nasnet.state_dict(), tmp_path / 'model')
    for source in (prefixed, {'model': prefixed}, str(tmp_path / 'checkpoint.tar'), tmp_path / 'model'):
        model = compile_genotype('nasnet_a', pool_padding='timm', **LARGE)
        load_foreign_weights(model, source)
        assert error(logits(model, SIZES[0]), expected) < TOLERANCE


def test_own_names(tmp_path):
    source, model = small_keras(), small_keras()
    assert shapes(convert_state_dict(source.state_dict(), model)) == shapes(source.state_dict())
    torch.save(source.state_dict(), tmp_path / 'own.pth')
    load_foreign_weights(model, tmp_path / 'own.pth')
    assert torch.equal(logits(model, 65), logits(source, 65))


@pytest.mark.parametrize('classes', [1000, 1001, 20, 0])
def test_classes(timm_nasnet, classes):
    tensors = dict(timm_nasnet.state_dict())
    weight = tensors['last_linear.weight'] = torch.randn(1001, 24 * 8)
    tensors['last_linear.bias'] = torch.randn(1001)
    model = compile_genotype('nasnet_a', **{**LARGE, 'num_classes': classes})
    if classes == 20:
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        with pytest.raises(ValueError, match='has 1001 classes and the model 20: .*num_classes=1001'):
            load_foreign_weights(model, tensors)
        assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
        return
    load_foreign_weights(model, tensors)
    if classes:
        assert torch.equal(model.head.fc.weight, weight[1001 - classes:])


def test_no_classifier(timm_nasnet):
    tensors = {name: tensor for name, tensor in timm_nasnet.state_dict().items() if 'last_linear' not in name}
    model = compile_genotype('nasnet_a', **LARGE)
    head = model.head.fc.weight.clone()
    with pytest.warns(UserWarning, match='has no classifier; the model keeps its own'):
        load_foreign_weights(model, tensors)
    assert torch.equal(model.head.fc.weight, head)
    assert torch.equal(model.stem.conv.weight, tensors['conv0.conv.weight'])


def test_keras_no_top(keras_nasnet, tmp_path):
    keras_nasnet(SIZES[0], top=False).save_weights(tmp_path / 'model.weights.h5')
    with pytest.warns(UserWarning, match='has no classifier'):
        load_foreign_weights(small_keras(), tmp_path / 'model.weights.h5')
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        load_foreign_weights(small_keras(num_classes=0), tmp_path / 'model.weights.h5')


def without_names(source, target):
    """A copy of Keras 3's HDF5 in the form of before 3.6, which does not repeat the layers' names."""
    import h5py
    with h5py.File(source) as old, h5py.File(target, 'w') as new:
        paths = []
        old.visit(paths.append)
        for path in paths:
            if isinstance(old[path], h5py.Dataset):
                new[path] = old[path][()]


def test_keras_without_names(keras_files, tmp_path):
    _, theirs, files = keras_files
    without_names(files['.weights.h5'], tmp_path / 'old.weights.h5')
    with pytest.raises(ValueError, match='save the model as .keras or .h5 instead'):
        load_foreign_weights(small_keras(), tmp_path / 'old.weights.h5')
    with zipfile.ZipFile(files['.keras']) as archive, zipfile.ZipFile(tmp_path / 'old.keras', 'w') as old:
        old.writestr('config.json', archive.read('config.json'))
        old.write(tmp_path / 'old.weights.h5', 'model.weights.h5')
    model = small_keras(pool_padding='keras')
    load_foreign_weights(model, tmp_path / 'old.keras')
    assert error(logits(model, SIZES[1]), theirs) < TOLERANCE


def test_keras_2(keras_files, tmp_path):
    """As ``save_weights`` of Keras 2 wrote the files that Keras still publishes: at the root, with TensorFlow's :0."""
    import h5py
    peer, theirs, _ = keras_files
    with h5py.File(tmp_path / 'old.h5', 'w') as file:
        for layer in peer.layers:
            for variable, value in zip(layer.weights, layer.get_weights()):
                file[f'{layer.name}/{layer.name}/{variable.name}:0'] = value
    model = small_keras(pool_padding='keras')
    load_foreign_weights(model, tmp_path / 'old.h5')
    assert error(logits(model, SIZES[1]), theirs) < TOLERANCE


def test_keras_optimizer_state(keras, keras_files, tmp_path):
    peer, theirs, _ = keras_files
    copy = keras.models.clone_model(peer)
    copy.set_weights(peer.get_weights())
    copy.compile(optimizer='adam', loss='mse')
    copy.optimizer.build(copy.trainable_variables)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        for name in ('model.keras', 'model.h5'):
            copy.save(tmp_path / name)
    for name in ('model.keras', 'model.h5'):
        model = small_keras(pool_padding='keras')
        load_foreign_weights(model, tmp_path / name)
        assert error(logits(model, SIZES[1]), theirs) < TOLERANCE


def test_needs_h5py(keras_files, monkeypatch):
    monkeypatch.setitem(sys.modules, 'h5py', None)
    for path in keras_files[2].values():
        with pytest.raises(ImportError, match=r'pip install nasnet-zoo\[keras\]'):
            load_foreign_weights(small_keras(), path)


# timm's own way in

def create(state_dict, **kwargs):
    args = dict(LARGE, pool_padding='timm', pretrained=True)
    del args['num_classes']
    return timm.create_model('nasnet_a_large', pretrained_cfg_overlay=dict(state_dict=state_dict), **{**args, **kwargs})


@pytest.mark.parametrize('classes', [1000, 1001])
def test_create_model(timm_nasnet, classes):
    tensors = dict(timm_nasnet.state_dict())
    tensors.update({'last_linear.weight': torch.randn(classes, 24 * 8), 'last_linear.bias': torch.randn(classes)})
    whole = create(tensors)
    expected = timm_nasnet.forward_features(images(65)).mean((2, 3)) @ tensors['last_linear.weight'].T
    assert error(logits(whole, 65), (expected + tensors['last_linear.bias'])[:, -1000:].detach()) < TOLERANCE
    other = create(tensors, num_classes=5)
    assert logits(other, 65).shape == (2, 5)
    assert torch.equal(other.forward_features(images(65)), whole.forward_features(images(65)))
    headless = create(tensors, num_classes=0)
    assert torch.equal(logits(headless, 65), headless.forward_head(whole.forward_features(images(65))))
    gray = create(tensors, in_chans=1)
    assert torch.equal(gray.stem.conv.weight, whole.stem.conv.weight.sum(1, keepdim=True))
    aux = create(tensors, aux_head=True)
    assert torch.equal(logits(aux, 65), logits(whole, 65))


@pytest.mark.parametrize('out_indices', [(0, 1, 2, 3, 4), (1, 2)])
def test_create_model_features_only(timm_nasnet, out_indices):
    model = create(timm_nasnet.state_dict(), features_only=True, out_indices=out_indices).eval()
    expected = timm_nasnet.forward_intermediates(images(65), indices=list(out_indices), intermediates_only=True)
    with torch.inference_mode():
        for ours, theirs in zip(model(images(65)), expected):
            assert torch.allclose(ours, theirs.detach(), rtol=1e-4, atol=1e-4)


# What does not fit

def refused(model, source, match):
    """The message, of a refusal that leaves the model as it was."""
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(ValueError, match=match) as raised:
        load_foreign_weights(model, source)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    return str(raised.value)


@pytest.mark.parametrize('args, match', [
    (dict(cell_filters=16), r'cells\.0\.fits\.0\.conv\.weight is \(2, 16, 1, 1\), in the model \(4, 16, 1, 1\)'),
    (dict(stem_filters=32), r'stem\.conv\.weight is \(16, 3, 3, 3\), in the model \(32, 3, 3, 3\)'),
    (dict(num_cells=4), r'unknown: cells\.6\.'),
    (dict(num_cells=7), r'cells\.8\.fits\.1\.conv\.weight is \(16, 48, 1, 1\), in the model \(8, 48, 1, 1\)'),
    (dict(genotype='nasnet_b'), 'missing: '),
    (dict(genotype='pnasnet5', reductions='replace'), 'missing: '),
    (dict(in_chans=1), 'take images of 3 channels: create the model with in_chans=3'),
    (dict(aux_head=True), r'missing: aux_head\.(.|\n)*create the model with aux_head=False'),
    (dict(stem='cifar'), 'of another shape'),
])
def test_other_network(timm_nasnet, args, match):
    model = compile_genotype(**{'genotype': 'nasnet_a', **LARGE, **args})
    message = refused(model, timm_nasnet.state_dict(), match)
    assert message.startswith('the state dict: these are not the weights of this model')
    assert len(message) < 2000


@pytest.mark.parametrize('change, match', [
    (lambda d: {}, 'the tensors are none'),
    (lambda d: {'layer1.weight': torch.ones(2)}, 'no weights of a NASNet .* layer1.weight'),
    (lambda d: {**d, 'extra.weight': torch.ones(2)}, r'1 unknown: extra.weight \(2,\)'),
    (lambda d: {k: v for k, v in d.items() if k != 'cell_3.conv_1x1.bn.weight'}, '1 missing: cells.5.fits.0.bn.wei'),
    (lambda d: {**d, 'conv_0.conv.weight': d['conv0.conv.weight']}, 'stem.conv.weight is given twice'),
    (lambda d: {**d, 'conv0.conv.weight': torch.tensor(1.)}, r'stem.conv.weight is \(\)'),
    (lambda d: {**d, 'last_linear.weight': torch.tensor(1.)}, r'head.fc.weight is \(\)'),
    (lambda d: {k: v for k, v in d.items() if k != 'last_linear.bias'}, '1 missing: head.fc.bias'),
    (lambda d: {**d, 'conv0.conv.weight': d['conv0.conv.weight'].int()}, 'no dense floating-point values: torch.int32'),
    (lambda d: {**d, 'conv0.conv.weight': d['conv0.conv.weight'].to_sparse()}, 'no dense .*sparse'),
    (lambda d: {**d, 'conv0.conv.weight': d['conv0.conv.weight'].to('meta')}, 'on meta'),
    (lambda d: {**d, 'conv0.conv.weight': 'text'}, "'conv0.conv.weight' is a str, not a tensor"),
    (lambda d: {**d, 7: d['conv0.conv.weight']}, 'holds no state dict'),
])
def test_other_state_dict(timm_nasnet, change, match):
    refused(compile_genotype('nasnet_a', **LARGE), change(timm_nasnet.state_dict()), match)


def test_filter_refuses_other_networks():
    with pytest.raises(ValueError, match='these are no weights of a NASNet'):
        convert_state_dict({'layer1.weight': torch.ones(2)}, small_keras())


@pytest.mark.parametrize('content, match', [
    (b'', 'is no weight file'),
    (b'some text, not weights\n', 'is no weight file'),
    (b'\x89HDF\r\n\x1a\n', 'cannot be read as a Keras file'),
    (b'PK\x03\x04', 'cannot be read as a PyTorch or Keras archive'),
    (b'\xff' * 8 + b'{"a": 1}', 'cannot be read as a safetensors file'),
    (b'\x80\x02}q\x00.', 'cannot be read as a PyTorch file'),
], ids=str)
def test_no_weight_file(tmp_path, content, match):
    pytest.importorskip('h5py')
    path = tmp_path / 'file.pth'
    path.write_bytes(content)
    assert 'file.pth: ' in refused(small_keras(), path, match)


@pytest.mark.parametrize('legacy', [True, False])
def test_no_code_is_run(tmp_path, legacy):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / 'ran'),)
    torch.save({'conv0.conv.weight': Evil()}, tmp_path / 'evil.pth', _use_new_zipfile_serialization=not legacy)
    (tmp_path / 'plain.pkl').write_bytes(pickle.dumps(Evil(), protocol=2))
    for name in ('evil.pth', 'plain.pkl'):
        assert 'nothing was loaded' in refused(small_keras(), tmp_path / name, 'cannot be read as a PyTorch')
    assert not (tmp_path / 'ran').exists()


def test_truncated(timm_nasnet, tmp_path):
    tensors = timm_nasnet.state_dict()
    torch.save(tensors, tmp_path / 'zip.pth')
    torch.save(tensors, tmp_path / 'old.pth', _use_new_zipfile_serialization=False)
    save_file(tensors, tmp_path / 'model.safetensors')
    for name in ('zip.pth', 'old.pth', 'model.safetensors'):
        content = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(content[:len(content) // 2])
        refused(compile_genotype('nasnet_a', **LARGE), tmp_path / name, f'{name}: cannot be read')


@pytest.mark.parametrize('suffix', ['.weights.h5', '.keras', '.h5'])
def test_truncated_keras(keras_files, tmp_path, suffix):
    content = keras_files[2][suffix].read_bytes()
    (tmp_path / 'half').write_bytes(content[:len(content) // 2])
    refused(small_keras(), tmp_path / 'half', 'half: cannot be read')


def test_other_keras_network(keras_files):
    files = keras_files[2]
    refused(small_keras(cell_filters=16), files['.keras'], r'fits\.0\.bn\.weight is \(2,\), in the model \(4,\)')
    refused(small_keras(num_classes=7), files['.h5'], 'has 20 classes and the model 7')


def write_h5(write, path):
    h5py = pytest.importorskip('h5py')
    with h5py.File(path, 'w') as file:
        write(h5py, file)
    return path


def link_out(h5py, file):
    file['stem_conv1/kernel'] = h5py.ExternalLink('other.h5', '/secret')


def store_outside(h5py, file):
    file.create_dataset('stem_conv1/kernel', (4,), 'f4', external=[('secret.bin', 0, 16)])


def map_outside(h5py, file):
    layout = h5py.VirtualLayout((4,), 'f4')
    layout[:] = h5py.VirtualSource('other.h5', 'secret', (4,))
    file.create_virtual_dataset('stem_conv1/kernel', layout)


@pytest.mark.parametrize('write, match', [
    (lambda h5py, file: None, 'the tensors are none'),
    (lambda h5py, file: file.create_dataset('a/b/c', data=np.ones(3, 'f4')), 'the tensors are a.c'),
    (lambda h5py, file: file.create_dataset('a/b', data='text'), 'cannot be read as a Keras file'),
    (lambda h5py, file: file.create_dataset('layers/x/vars/y', data=1.), 'bears no name of a layer'),
    (lambda h5py, file: file.create_dataset('stem_conv1/kernel', (1 << 20, 1 << 20), 'f4', chunks=True),
     'beyond all measure'),
    (link_out, 'the tensors are none'),
    (store_outside, 'refers to other files'),
    (map_outside, 'refers to other files'),
], ids=['empty', 'random', 'text', 'nameless', 'bomb', 'link', 'external', 'virtual'])
def test_other_h5(tmp_path, write, match):
    refused(small_keras(), write_h5(write, tmp_path / 'file.h5'), match)


def test_other_keras_archive(keras_files, tmp_path):
    weights = keras_files[2]['.weights.h5'].read_bytes()
    members = {
        'bomb': {'config.json': b'{}', 'model.weights.h5': bytes(1 << 24)},
        'config': {'config.json': b'{', 'model.weights.h5': weights},
        'layers': {'config.json': json.dumps({'config': []}).encode(), 'model.weights.h5': weights},
        'only': {'model.weights.h5': weights},
        'other': {'readme.txt': b'hello'},
    }
    for name, content in members.items():
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, 'w', zipfile.ZIP_DEFLATED) as archive:
            for member, data in content.items():
                archive.writestr(member, data)
        (tmp_path / name).write_bytes(buffer.getvalue())
        refused(small_keras(), tmp_path / name, f'{name}: cannot be read as a PyTorch or Keras archive')


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        load_foreign_weights(small_keras(), tmp_path / 'none.pth')
    with pytest.raises(IsADirectoryError):
        load_foreign_weights(small_keras(), tmp_path)


def test_wrong_arguments():
    with pytest.raises(TypeError, match='source: must be a state dict or a path, not a int'):
        load_foreign_weights(small_keras(), 3)
    with pytest.raises(TypeError, match='model: must be a NASNet, not a Linear'):
        load_foreign_weights(nn.Linear(1, 1), {})


def test_public_name():
    assert nasnet_zoo.load_foreign_weights is load_foreign_weights

"""Networks that Google's own code built, with their results, and our networks under Google's names."""
import json

import numpy as np
import pytest
import torch

from helpers.checkpoints import TOLERANCE, error, randomise, refused
from helpers.paths import DATA
from helpers.tensorflow import googles_names, write_network
from nasnet_zoo import compile_genotype, load_foreign_weights
from nasnet_zoo.checkpoints.read_tensorflow import read_tensorflow

# Genotype, the name of its filters in about.json, and further arguments of compile_genotype
NETWORKS = {
    'nasnet_a_cifar': ('nasnet_a', 'num_conv_filters', dict(stem='cifar')),
    'nasnet_a_mobile': ('nasnet_a', 'num_conv_filters', {}),
    'nasnet_a_large': ('nasnet_a', 'num_conv_filters', dict(skip_reduction_layer_input=True, stem_filters=96)),
    'pnasnet5_mobile': ('pnasnet5', 'num_conv_filters', dict(reductions='replace')),
    'pnasnet5_large': ('pnasnet5', 'num_conv_filters', dict(reductions='replace', stem_filters=96)),
    **{f'amoebanet_{letter}': (f'amoebanet_{letter}', 'reduction_size', {}) for letter in 'abcd'},
}


def build(name, size=64, num_cells=1, filters=8, classes=11):
    genotype, _, kwargs = NETWORKS[name]
    return compile_genotype(genotype, num_cells=num_cells, cell_filters=filters, num_classes=classes, img_size=size,
                            aux_head=True, **kwargs).eval()


def results(model, images):
    """Logits and auxiliary logits in inference mode."""
    seen = []
    hook = model.aux_head.register_forward_hook(lambda module, inputs, output: seen.append(output))
    model.train()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
    with torch.no_grad():
        logits, aux = model(images)
    hook.remove()
    assert torch.equal(aux, seen[0])
    return logits, aux


@pytest.mark.skipif(not (DATA / 'google').exists(), reason="needs Google's networks: NASNET_ZOO_DATA=FOLDER")
@pytest.mark.parametrize('name', NETWORKS)
def test_googles_own_networks(name):
    folder = DATA / 'google' / name
    about = json.loads((folder / 'about.json').read_text(encoding='utf-8'))
    reference = {key: torch.from_numpy(value) for key, value in np.load(folder / 'reference.npz').items()}
    size = next(int(key.split('_')[-1]) for key in reference if key.startswith('aux_logits'))
    model = build(name, size, about['network']['num_cells'] // 3, about['network'][NETWORKS[name][1]], about['classes'])
    loaded = load_foreign_weights(model, folder / 'model.ckpt')
    assert loaded.is_averaged == (name != 'nasnet_a_cifar') and not loaded.unused
    for key, images in reference.items():
        if key.startswith('images'):
            ours = dict(zip(('logits', 'aux_logits'), results(model, images.permute(0, 3, 1, 2))))
            for kind, theirs in ((kind, reference.get(f'{kind}_{images.shape[1]}')) for kind in ours):
                if theirs is not None:
                    assert (ours[kind] - theirs).abs().max() < 1e-5 * theirs.abs().max()
                    assert error(ours[kind], theirs) < TOLERANCE
    theirs = read_tensorflow(folder / 'model.ckpt.index')
    theirs = {key.split('.', 1)[-1] if loaded.is_averaged else key for key in theirs}
    assert {key.replace('/', '.') for key in googles_names(model).values()} == theirs


@pytest.mark.parametrize('name', NETWORKS)
def test_under_googles_names(name, tmp_path):
    source = randomise(build(name), 64)
    write_network(tmp_path / 'model.ckpt', source, averages=name != 'nasnet_a_cifar')
    model = build(name)
    load_foreign_weights(model, tmp_path / 'model.ckpt')
    ours, theirs = model.state_dict(), source.state_dict()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours if 'num_batches' not in key)


def test_a_narrow_bottleneck_is_left_out(tmp_path):
    names = googles_names(build('amoebanet_a', filters=12)).values()  # the first cell has 3 filters, the second one 6
    for cell, has_bottleneck in (('cell_stem_0', False), ('cell_stem_1', True)):
        assert any(name.startswith(cell) and '/7x1/' in name for name in names)
        assert any(name.startswith(cell) and '/pre_1x1/' in name for name in names) == has_bottleneck
    write_network(tmp_path / 'model.ckpt', build('amoebanet_a', filters=12))
    load_foreign_weights(build('amoebanet_a', filters=12), tmp_path)


@pytest.mark.parametrize('change, match', [
    (dict(classes=12), r'the weights have 11 classes and the model has 12: create the model with num_classes=11'),
    (dict(filters=12), r'of the wrong shape: .*the model needs '),
    (dict(num_cells=2), 'they have 3 normal cells, the model has 6'),
    (dict(name='nasnet_a_mobile'), r'missing: cells(.|\n)*unknown: '),
])
def test_another_network(tmp_path, change, match):
    write_network(tmp_path / 'model.ckpt', build('amoebanet_b'))
    message = refused(build(**{'name': 'amoebanet_b', **change}), tmp_path / 'model.ckpt', match)
    assert message.startswith(f'{tmp_path / "model.ckpt"}: the')


def test_another_auxiliary_head(tmp_path):
    source = compile_genotype('nasnet_a', num_cells=1, cell_filters=4, num_classes=3, aux_head=True, aux_filters=(5, 7))
    write_network(tmp_path / 'model.ckpt', source)
    model = compile_genotype('nasnet_a', num_cells=1, cell_filters=4, num_classes=3, aux_head=True)
    refused(model, tmp_path, r'create the model with aux_filters=\(5, 7\)')
    plain = compile_genotype('nasnet_a', num_cells=1, cell_filters=4, num_classes=3)
    loaded = load_foreign_weights(plain, tmp_path)
    assert loaded.unused == ('aux_head',)
    assert 'loaded ExponentialMovingAverage, which are averaged weights; other weights of this network: variables' in (
        loaded.describe())


@pytest.mark.parametrize('classes', [1000, 0])
def test_background_class(tmp_path, classes):
    source = build('amoebanet_b', classes=1001)
    write_network(tmp_path / 'model.ckpt', source)
    model = build('amoebanet_b', classes=classes)
    load_foreign_weights(model, tmp_path)
    if classes:
        assert torch.equal(model.head.fc.weight, source.head.fc.weight[1:])
        assert torch.equal(model.aux_head.head.fc.bias, source.aux_head.head.fc.bias[1:])

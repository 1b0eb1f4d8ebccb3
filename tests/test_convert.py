"""Weights of other packages as model folders, and ours under their names."""
import pytest
import timm
import torch
from safetensors.torch import load_file

from helpers.checkpoints import images, logits, randomise
from helpers.tensorflow import write_network
from nasnet_zoo import compile_genotype, convert, load_foreign_weights
from nasnet_zoo.convert import convert_to_folder, export_weights
from nasnet_zoo.hub import write_folder
from nasnet_zoo.zoo import build

TINY = dict(cell_filters=4, stem_filters=8)


def same(model, other):
    ours, theirs = model.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_checkpoint_of_google_becomes_a_folder(tmp_path):
    network = dict(genotype='pnasnet5', num_cells=2, reductions='replace', **TINY)
    source = randomise(compile_genotype(**network, num_classes=1001, aux_head=True), 64)
    write_network(tmp_path / 'model.ckpt', source)
    said = convert_to_folder(tmp_path / 'model.ckpt', 'pnasnet5_mobile', tmp_path / 'folder', num_cells=2, **TINY)
    assert said == ('loaded ExponentialMovingAverage, which are averaged weights; other weights of this network: '
                    'variables; ignored: aux_head')
    model = timm.create_model(f'local-dir:{tmp_path / "folder"}', pretrained=True)
    weights = source.state_dict()
    for name, tensor in model.state_dict().items():
        if not name.endswith('num_batches_tracked'):  # TensorFlow does not count them
            assert torch.equal(tensor, weights[name][1:] if name.startswith('head.fc.') else weights[name]), name
    # 1,000 and 1,001 columns can be added up in different orders.
    torch.testing.assert_close(logits(model, 65), logits(source, 65)[:, 1:], rtol=1e-5, atol=1e-5)
    assert model.config == compile_genotype(**network).config


@pytest.mark.parametrize('classes', [7, 0])
def test_the_classes_are_those_of_the_file(tmp_path, classes):
    source = compile_genotype('nasnet_c', num_cells=1, cell_filters=4, stem='cifar', num_classes=classes)
    torch.save({'state_dict': source.state_dict()}, tmp_path / 'model.pth')
    convert_to_folder(tmp_path / 'model.pth', 'nasnet_c', tmp_path / 'out', num_cells=1, cell_filters=4, stem='cifar')
    model = build(str(tmp_path / 'out'), pretrained=True)
    assert model.num_classes == classes and same(model, source)


def test_what_is_true_of_other_weights_only_is_dropped(tmp_path):
    torch.save(build('nasnet_c_cifar_small').state_dict(), tmp_path / 'model.pth')
    convert_to_folder(tmp_path / 'model.pth', 'nasnet_c_cifar_small', tmp_path / 'out')
    cfg = build(str(tmp_path / 'out'), pretrained=True).pretrained_cfg
    assert not cfg.get('label_names') and not cfg.get('license') and not cfg.get('tag')


@pytest.mark.parametrize('changes, found', [
    (dict(num_layers=5), dict(num_cells=None, num_layers=5, cell_filters=4)),
    (dict(filters=100), dict(num_cells=1, cell_filters=5)),
    (dict(stem='imagenet'), dict(stem='imagenet', output_stride=32)),
    (dict(num_cells=1, cell_filters=4), dict(num_cells=1, cell_filters=4))])
def test_arguments_replace_those_of_a_folder(tmp_path, changes, found):
    write_folder(compile_genotype('nasnet_c', num_cells=1, cell_filters=4, stem='cifar'), tmp_path / 'folder')
    config = build(str(tmp_path / 'folder'), **changes).config
    assert {name: config.get(name) for name in found} == found


def test_other_weights_are_not_written(tmp_path):
    torch.save(compile_genotype('nasnet_c', num_cells=1, cell_filters=4).state_dict(), tmp_path / 'model.pth')
    with pytest.raises(ValueError, match='model.pth: these are not the weights of this model'):
        convert_to_folder(tmp_path / 'model.pth', 'nasnet_c', tmp_path / 'out', num_cells=1, cell_filters=6)
    assert not (tmp_path / 'out').exists()


PEERS = [
    ('timm', 'nasnet_a_large', "timm.create_model('nasnetalarge', num_classes=5, stem_size=8, num_features=96)"),
    ('cadene', 'nasnet_a_large', 'pretrainedmodels.models.nasnet.NASNetALarge(num_classes=5, stem_filters=8, '
                                 'penultimate_filters=96)'),
    ('cadene', 'nasnet_a_mobile', 'pretrainedmodels.models.nasnet_mobile.NASNetAMobile(num_classes=5, stem_filters=8, '
                                  'penultimate_filters=96)'),
]


@pytest.mark.parametrize('package, name, builder', PEERS)
def test_round_trip(tmp_path, cadene, package, name, builder):
    padding = 'timm' if package == 'timm' else 'tf'
    source = randomise(timm.create_model(name, num_classes=5, pool_padding=padding, **TINY), 96)
    write_folder(source, tmp_path / 'folder')
    file = tmp_path / ('weights.safetensors' if package == 'timm' else 'weights.pth')
    assert export_weights(str(tmp_path / 'folder'), package, file) == builder
    model = timm.create_model(name, num_classes=5, **TINY)
    load_foreign_weights(model, file)
    assert same(model, source)
    tensors = load_file(file) if package == 'timm' else torch.load(file, weights_only=True)
    if package == 'timm':
        peer = eval(builder, {'timm': timm})
    else:
        module, _, call = builder.removeprefix('pretrainedmodels.models.').partition('.')
        peer = eval(call, vars(cadene(module)))
    peer.load_state_dict(tensors)
    size = 224 if name.endswith('mobile') else 331
    with torch.no_grad():
        torch.testing.assert_close(peer.eval()(images(size, 1)), source(images(size, 1)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('package', ['timm', 'cadene'])
def test_names_of_pnasnet(package):
    model = timm.create_model('pnasnet5_large', device='meta')
    peer = convert._find_peer(model, package)
    assert set(convert._their_names(model, peer).values()) == set(model.state_dict())


@pytest.mark.parametrize('network, match', [
    (dict(genotype='nasnet_c'), 'nasnetalarge would need the cells of nasnet_a, num_cells=6, skip_reduction_layer'),
    (dict(genotype='nasnet_a', num_cells=6, skip_reduction_layer_input=True, stem='cifar'),
     "nasnetalarge would need stem='imagenet', bn_eps=0.001; pnasnet5large would need .*the cells of pnasnet5"),
    (dict(genotype='nasnet_a', num_cells=6, skip_reduction_layer_input=True, in_chans=1),
     'nasnetalarge would need in_chans=3'),
])
def test_no_such_network(tmp_path, network, match):
    write_folder(compile_genotype(**{'num_cells': 1, 'cell_filters': 4, **network}), tmp_path / 'folder')
    with pytest.raises(ValueError, match=f'timm has no network of this structure: {match}'):
        export_weights(str(tmp_path / 'folder'), 'timm', tmp_path / 'file.pth')
    with pytest.raises(ValueError, match="unknown package 'keras'; known: timm, cadene"):
        export_weights(str(tmp_path / 'folder'), 'keras', tmp_path / 'file.pth')
    assert not (tmp_path / 'file.pth').exists()


def test_another_padding_is_said(tmp_path):
    write_folder(timm.create_model('nasnet_a_large', num_classes=5, **TINY), tmp_path / 'folder')
    with pytest.warns(UserWarning, match="pads pools like 'tf'; timm pads them in another way"):
        export_weights(str(tmp_path / 'folder'), 'timm', tmp_path / 'file.pth')

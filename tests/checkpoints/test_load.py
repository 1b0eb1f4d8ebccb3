"""What a model takes from a state dict, timm's way to load one, and what is refused."""
import pytest
import timm
import torch
from torch import nn

import nasnet_zoo
from helpers.checkpoints import LARGE, TOLERANCE, error, images, logits, refused, shapes, small_keras
from nasnet_zoo import compile_genotype, load_foreign_weights
from nasnet_zoo.checkpoints.load import convert_state_dict


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
        with pytest.raises(ValueError, match='the weights have 1001 classes and the model has 20: .*num_classes=1001'):
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


@pytest.mark.parametrize('args, match', [
    (dict(cell_filters=16), r'cells\.0\.fits\.0\.conv\.weight is \(2, 16, 1, 1\), the model needs \(4, 16, 1, 1\)'),
    (dict(stem_filters=32), r'stem\.conv\.weight is \(16, 3, 3, 3\), the model needs \(32, 3, 3, 3\)'),
    (dict(num_cells=4), 'they have 18 normal cells, the model has 12: create the model with the same'),
    (dict(num_cells=7), 'they have 18 normal cells, the model has 21'),
    (dict(genotype='nasnet_b'), 'missing: '),
    (dict(genotype='pnasnet5', reductions='replace'), 'they have 18 normal cells, the model has 1'),
    (dict(in_chans=1), 'are for images of 3 channels: create the model with in_chans=3'),
    (dict(aux_head=True), r'missing: aux_head\.(.|\n)*create the model with aux_head=False'),
    (dict(stem='cifar'), 'they have 2 stem cells, the model has 0'),
])
def test_other_network(timm_nasnet, args, match):
    model = compile_genotype(**{'genotype': 'nasnet_a', **LARGE, **args})
    message = refused(model, timm_nasnet.state_dict(), match)
    assert message.startswith('the state dict: these are not the weights of this model')
    assert len(message) < 2000


@pytest.mark.parametrize('change, match', [
    (lambda d: {}, 'there are no tensors'),
    (lambda d: {'layer1.weight': torch.ones(2)},
     "weights of a NASNet, PNASNet or AmoebaNet from Google's code, timm, pretrainedmodels, Keras or DARTS: .* layer1"),
    (lambda d: {**d, 'extra.weight': torch.ones(2)}, r'1 unknown: extra.weight \(2,\)'),
    (lambda d: {k: v for k, v in d.items() if k != 'cell_3.conv_1x1.bn.weight'}, '1 missing: cells.5.fits.0.bn.wei'),
    (lambda d: {**d, 'conv_0.conv.weight': d['conv0.conv.weight']},
     'several tensors map to stem.conv.weight: conv0.conv.weight; conv_0.conv.weight'),
    (lambda d: {**d, 'conv0.conv.weight': torch.tensor(1.)}, r'stem.conv.weight is \(\)'),
    (lambda d: {**d, 'last_linear.weight': torch.tensor(1.)}, r'head.fc.weight is \(\)'),
    (lambda d: {k: v for k, v in d.items() if k != 'last_linear.bias'}, '1 missing: head.fc.bias'),
    (lambda d: {**d, 'conv0.conv.weight': d['conv0.conv.weight'].int()},
     'must be a dense floating-point tensor, not torch.int32'),
    (lambda d: {**d, 'conv0.conv.weight': d['conv0.conv.weight'].to_sparse()}, 'must be a dense .*sparse'),
    (lambda d: {**d, 'conv0.conv.weight': d['conv0.conv.weight'].to('meta')}, 'on device meta'),
    (lambda d: {**d, 'conv0.conv.weight': 'text'}, "'stem.conv.weight' is a str, not a tensor"),
    (lambda d: {**d, 7: d['conv0.conv.weight']}, r'1 unknown: 7 \(16, 3, 3, 3\)'),
    (lambda d: {'_fsdp_wrapped_module._flat_param': torch.ones(9)}, 'joined by FSDP; save the whole state dict'),
    (lambda d: {**d, 'conv0.conv.weight': torch.ones(1).expand(16, 3, 3, 3)}, 'expanded view of fewer numbers'),
])
def test_other_state_dict(timm_nasnet, change, match):
    refused(compile_genotype('nasnet_a', **LARGE), change(timm_nasnet.state_dict()), match)


def test_filter_refuses_other_networks():
    with pytest.raises(ValueError, match='these are not weights of a NASNet'):
        convert_state_dict({'layer1.weight': torch.ones(2)}, small_keras())


def test_wrong_arguments():
    with pytest.raises(TypeError, match='source: must be a state dict or a path, not a int'):
        load_foreign_weights(small_keras(), 3)
    with pytest.raises(TypeError, match='model: must be a NASNet, not a Linear'):
        load_foreign_weights(nn.Linear(1, 1), {})


def test_public_name():
    assert nasnet_zoo.load_foreign_weights is load_foreign_weights


def test_an_auxiliary_head_is_ignored_by_a_model_without_one():
    source = small_keras(aux_head=True)
    model = small_keras()
    assert load_foreign_weights(model, {'model': source.state_dict()}).unused == ('aux_head',)
    assert torch.equal(model.head.fc.weight, source.head.fc.weight)

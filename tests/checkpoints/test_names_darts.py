"""DARTS's networks and weights: the results of its own code (see CONTRIBUTING.md on NASNET_ZOO_DATA)."""
import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from helpers.networks import difference
from helpers.paths import DATA
from nasnet_zoo import compile_genotype, import_genotype, load_foreign_weights, load_genotype

FOLDER = DATA / 'darts'
NAMES = ['darts_v1_cifar', 'darts_v2_cifar', 'darts_v1_imagenet', 'darts_v2_imagenet']
needs_data = pytest.mark.skipif(not FOLDER.is_dir(), reason="needs DARTS's networks: NASNET_ZOO_DATA=FOLDER")


def network(name, **kwargs):
    """A network of the size of DARTS's, and what DARTS computed."""
    about = json.loads((FOLDER / name / 'about.json').read_text(encoding='utf-8'))
    reference = {key: torch.from_numpy(value) for key, value in np.load(FOLDER / name / 'reference.npz').items()}
    genotype = import_genotype(about['genotype'])
    assert genotype.architecture_digest == load_genotype(name[:8]).architecture_digest
    torch.manual_seed(0)
    model = compile_genotype(genotype, **{**dict(
        stem=f'darts_{name[9:]}', num_layers=about['layers'], cell_filters=about['C'], aux_head=about['auxiliary'],
        num_classes=reference['logits'].shape[1], img_size=tuple(reference['images'].shape[2:])), **kwargs})
    return model.eval(), reference


@needs_data
@pytest.mark.parametrize('name', NAMES)
def test_results_are_those_of_darts(name):
    model, reference = network(name)
    found = load_foreign_weights(model, FOLDER / name / 'weights.safetensors')
    assert not found.unused
    with torch.no_grad():
        assert difference(model(reference['images']), reference['logits']) < 1e-5
        if model.aux_head is not None:
            for norm in (m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)):
                norm.momentum = 0.
            seen = []
            model.aux_head.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
            model.train()(reference['images'][:1].expand(2, -1, -1, -1))
            states = model.eval()._forward_states(reference['images'], len(model.cells))
            features = model._read(states, model.plan.aux)
            assert seen[0].shape[1:] == features.shape[1:]
            assert difference(model.aux_head(features), reference['aux_logits']) < 1e-5


@needs_data
def test_state_dicts_of_darts_with_and_without_prefixes():
    weights = load_file(FOLDER / 'darts_v2_cifar' / 'weights.safetensors')
    model, reference = network('darts_v2_cifar', aux_head=False)
    for state_dict, place, unused in (
            (weights, '', ('aux_head',)),
            ({f'module.{name}': tensor for name, tensor in weights.items()}, 'module', ('aux_head',)),
            ({'epoch': 3, 'state_dict': {f'module.{name}': tensor for name, tensor in weights.items()}},
             'state_dict.module', ('aux_head',))):
        torch.manual_seed(1)
        model.init_weights()
        found = load_foreign_weights(model, state_dict)
        assert (found.place, found.unused) == (place, unused)
        with torch.no_grad():
            assert difference(model(reference['images']), reference['logits']) < 1e-5
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    def without(text):
        return {name: tensor for name, tensor in weights.items() if text not in name}
    for broken, message in (
            (without('_ops.3.'), r'missing: cells\.0\.blocks\.1'), (without('cells.7.'), 'have 7 normal cells'),
            ({**weights, 'stem.0.weight': weights['stem.0.weight'][:3]}, r'of the wrong shape: stem\.conv\.weight')):
        with pytest.raises(ValueError, match=message):
            load_foreign_weights(model, broken)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


# What DARTS's code names the tensors of an operation, a stem, and a cell's inputs, and what they are called here
OPERATIONS = dict(
    sep_conv_5x5={'op.1': 'dw1', 'op.2': 'pw1', 'op.3': 'bn1', 'op.5': 'dw2', 'op.6': 'pw2', 'op.7': 'bn2'},
    dil_sep_conv_3x3={'op.1': 'dw', 'op.2': 'pw', 'op.3': 'bn'}, conv_7x1_1x7={'1': 'conv0', '2': 'conv1', '3': 'bn'},
    factorized_identity={'conv_1': 'reduce.path_1', 'conv_2': 'reduce.path_2', 'bn': 'reduce.bn'},
    conv_1x1={'op.1': 'conv0', 'op.2': 'bn0'})


@pytest.mark.parametrize('op', OPERATIONS)
def test_operations(op):
    def cell(left, right):
        return dict(blocks=[dict(left=[left, 'h1'], right=[right, 'h0'])], outputs=[['b0']])
    model = compile_genotype(
        dict(format=1, name='own', fit='all', normal=cell(op, 'max_pool_3x3'), reduction=cell('avg_pool_3x3', op)),
        num_layers=3, cell_filters=4, stem='darts_cifar', num_classes=3)
    theirs = {}
    words = {ours: name for name, ours in OPERATIONS[op].items()}
    for name, tensor in model.state_dict().items():
        name = name.replace('head.fc.', 'classifier.').replace('stem.conv.', 'stem.0.').replace('stem.bn.', 'stem.1.')
        name = name.replace('.blocks.0.left.', '._ops.0.').replace('.blocks.0.right.', '._ops.1.')
        if '_ops' in name:
            before, _, rest = name.partition('_ops.')
            number, rest = rest.split('.', 1)
            layer, last = rest.rsplit('.', 1)
            name = f'{before}_ops.{number}.{words[layer]}.{last}'
        for i in (0, 1):
            for ours, layer in (('reduce.path_1', 'conv_1'), ('reduce.path_2', 'conv_2'), ('reduce.bn', 'bn'),
                                ('conv', 'op.1'), ('bn', 'op.2')):
                name = name.replace(f'.fits.{i}.{ours}.', f'.preprocess{1 - i}.{layer}.')
        theirs[name] = torch.rand_like(tensor) if tensor.is_floating_point() else tensor
    assert not set(theirs) & set(model.state_dict())
    load_foreign_weights(model, theirs)
    assert all(any(torch.equal(tensor, other) for other in theirs.values()) for tensor in model.state_dict().values())

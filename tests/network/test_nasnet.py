"""The network: Google's wiring, any size and width, and timm's model interface, on narrow N = 1 builds."""
import copy
import io
import json

import numpy as np
import pytest
import timm
import torch
from timm.models import FeatureInfo
from timm.models._manipulate import group_parameters
from torch import nn
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional as F
from torch.nn.utils import prune
from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

from helpers.networks import GENOTYPES
from nasnet_zoo import NASNet, Skeleton, compile_genotype, load_genotype
from nasnet_zoo.network import nasnet as network
from nasnet_zoo.network.combines import ExampleNorm
from nasnet_zoo.network.plan import plan_network
from nasnet_zoo.network.stems import STEMS

REDUCTIONS = dict(  # of the features
    imagenet=[2, 4, 8, 16, 32], cifar=[1, 2, 4], darts_cifar=[1, 2, 4], darts_imagenet=[4, 8, 16, 32])
NETWORKS = [(genotype, stem) for genotype in GENOTYPES for stem in STEMS
            if not stem.startswith('darts') or genotype in ('nasnet_a', 'darts_v2', 'fair_darts_b')]
SCRIPTED = ['nasnet_a', 'nasnet_c', 'amoebanet_a', 'fair_darts_b']
SMALL = dict(num_cells=1, cell_filters=4, num_classes=5)
each_genotype = pytest.mark.parametrize('genotype', GENOTYPES)
each_stem = pytest.mark.parametrize('stem', STEMS)
each_network = pytest.mark.parametrize('genotype, stem', NETWORKS)


def build(genotype='nasnet_a', **kwargs):
    torch.manual_seed(0)
    return compile_genotype(genotype, **{**SMALL, **kwargs}).eval()


def images(*size, batch=2):
    return torch.randn(batch, 3, *(size or (32, 32)), generator=torch.Generator().manual_seed(1))


# --- structure

def wiring(genotype, **skeleton):
    """Of each cell, the network's slots that it reads; * stands for the raw stem where the history is too short."""
    plan = plan_network(load_genotype(genotype), Skeleton(**skeleton))
    return [[f'{x.source}*' if x.is_missing else x.source for x in cell.inputs] for cell in plan.cells]


def test_wiring_of_two_inputs_and_one_output():
    # Slot 0 is the stem, slot p + 1 the output of the cell at p. There are two stem cells, then N, reduction, N,
    # reduction, N; a cell reads the two before it.
    assert wiring('nasnet_a', num_cells=2) == [[0, '0*'], [1, 0], *([p, p - 1] for p in range(2, 10))]


def test_skip_reduction_layer_input():
    off, on = (wiring('nasnet_a', num_cells=2, skip_reduction_layer_input=skip) for skip in (False, True))
    # after the reductions at 4 and 7: the reduction's h1 in place of its h0; after the stem's reductions as ever
    assert {p: (off[p], on[p]) for p in range(10) if off[p] != on[p]} == {
        5: ([5, 4], [5, 3]), 8: ([8, 7], [8, 6])}


def test_wiring_of_four_inputs_and_four_outputs():
    assert wiring('nasnet_b', num_cells=1)[:3] == [[0, 0, 0, 0], [1, 2, 3, 4], [5, 6, 7, 8]]


def test_pnasnet_replaces_normal_cells():
    skeleton = Skeleton(num_cells=2, cell_filters=10, reductions='replace')
    n, r = 'normal', 'reduction'
    assert [(p.kind, p.filters) for p in skeleton.positions()] == [
        (r, 2), (r, 5), (n, 10), (n, 10), (r, 20), (n, 20), (r, 40), (n, 40)]


def test_first_cell_reads_the_raw_stem():
    first = build(stem='cifar').cells[0]
    assert isinstance(first.fits[1], torch.nn.Identity)  # h1 is not fitted,
    assert first.blocks['0'].right.pw1.in_channels == 12  # so the separable convolution takes the stem's 3 F channels,
    assert first.blocks['0'].right.pw1.out_channels == 4
    assert first.outputs[0].projections[0].conv.in_channels == 12  # and the output projects them, without a ReLU
    second = build(num_cells=2, stem='cifar').cells[1]
    assert second.fits[1].conv.in_channels == 12


def test_only_what_the_classifier_depends_on_is_compiled():
    data = load_genotype('nasnet_a').to_dict()
    for block in data['normal']['blocks']:
        for side in ('left', 'right'):
            block[side][1] = 'h1'  # every cell reads the one two before it, so that every second one is dead
    data['normal']['outputs'] = [['b0', 'b1', 'b2', 'b3', 'b4']]
    genotype = load_genotype(data)
    model = compile_genotype(genotype, num_cells=4, cell_filters=2, stem='cifar', num_classes=5)
    assert len(model.skeleton.positions()) == 14
    assert [cell.drop_path_scale * 14 for cell in model.plan.cells] == pytest.approx([*range(1, 11), 12, 14])
    assert len(model.cells) == len(model.plan.cells)
    model(images()).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_relu_is_computed_once_for_all_readers():
    model = build(stem='cifar')
    cell, plan = model.cells[0], model.plan.cells[0]
    # h0 and h1 feed separable convolutions; b0 … b4 are only concatenated
    assert [x.is_rectified for x in plan.inputs] == [True] * 2
    assert [block.is_rectified for block in plan.blocks] == [False] * 5
    assert not any(isinstance(m, torch.nn.ReLU) and m.inplace is False for m in cell.modules())


@pytest.mark.parametrize('name, width', [('nasnet_a', 24), ('nasnet_b', 32), ('nasnet_c', 20), ('pnasnet5', 20),
                                         ('amoebanet_a', 16)])
def test_filters_are_the_penultimate_width(name, width):
    model = compile_genotype(name, num_cells=1, filters=3 * width, device='meta')
    assert model.num_features == 3 * width and model.skeleton.cell_filters == 3
    nearest = rf'the nearest are {width} \(cell_filters=1\) and {2 * width} \(cell_filters=2\)'
    with pytest.raises(ValueError, match=nearest):
        compile_genotype(name, num_cells=1, filters=width + 1)


@each_network
@pytest.mark.parametrize('cell_filters', [1, 2, 5])
def test_any_filters(genotype, stem, cell_filters):
    model = build(genotype, stem=stem, cell_filters=cell_filters).train()
    out = model(images(33, 40))
    out.sum().backward()
    assert out.shape == (2, 5) and all(p.grad is not None for p in model.parameters())


@each_network
def test_any_input_size_with_one_set_of_weights(genotype, stem):
    model = build(genotype, stem=stem)
    for size in [(32, 32), (33, 33), (47, 64), (65, 38)]:
        features = model.forward_features(images(*size))
        expected = Skeleton(stem=stem, img_size=size).feature_size()
        assert tuple(features.shape[-2:]) == expected and features.isfinite().all()
        assert model.forward_head(features).shape == (2, 5)


def test_any_in_chans():
    for in_chans in (1, 2, 7):
        model = build(in_chans=in_chans)
        assert model.in_chans == in_chans
        assert model(torch.randn(1, in_chans, 32, 32)).shape == (1, 5)


def test_batch_norm_constants_of_the_stems():
    for stem, eps, momentum in (('imagenet', 1e-3, 3e-4), ('cifar', 1e-5, 0.1)):
        norms = [m for m in build(stem=stem).modules() if isinstance(m, torch.nn.BatchNorm2d)]
        assert {(m.eps, m.momentum) for m in norms} == {(eps, momentum)}
    assert build(stem='cifar', bn_eps=0.01).stem.bn.eps == 0.01


@pytest.mark.parametrize('kwargs, error, message', [
    (dict(num_cells=0), ValueError, 'num_cells: input should be greater than or equal to 1, not 0 of type int'),
    (dict(num_cells=10_000), ValueError, 'num_cells'),
    (dict(num_cells='4'), ValueError, 'num_cells: input should be a valid integer'),
    (dict(num_cells=2.0), ValueError, 'num_cells'),
    (dict(num_cells=True), ValueError, 'num_cells'),
    (dict(cell_filters=10 ** 9), ValueError, 'cell_filters'),
    (dict(cell_filters=5, filters=96), ValueError, 'filters=96 corresponds to cell_filters=4, not to 5'),
    (dict(cell_filters=None, filters='96'), ValueError, 'filters: must be a positive whole number'),
    (dict(cell_filters=None, filters=-24), ValueError, 'filters: must be a positive whole number'),
    (dict(stem='cfiar'), ValueError, "stem: unknown stem 'cfiar'; did you mean 'cifar'"),
    (dict(pool_padding='torch'), ValueError, 'pool_padding'),
    (dict(reductions='none'), ValueError, 'reductions'),
    (dict(bn_eps=float('nan')), ValueError, 'bn_eps'),
    (dict(img_size=(0, 3)), ValueError, 'img_size'),
    (dict(num_classes=-1), ValueError, 'num_classes'),
    (dict(in_chans=0), ValueError, 'in_chans'),
    (dict(global_pool='mean'), ValueError, 'global_pool'),
    (dict(drop_path_rate=1.0), ValueError, 'drop_path_rate'),
    (dict(drop_rate=-0.1), ValueError, 'drop_rate'),
    (dict(aux_head='yes'), ValueError, 'aux_head'),
    (dict(output_stride=4), ValueError, 'output_stride: 4 is not available with this stem; choose 32, which does not'),
    (dict(output_stride=8, stem='cifar'), ValueError, 'choose 4, which does not dilate, 2 or 1'),
    (dict(output_stride='8'), ValueError, 'output_stride: input should be a valid integer'),
    (dict(num_cells=32, cell_filters=2048), ValueError, 'cell_filters: nasnet_a of this size may have'),
    (dict(num_classes=1_000_000, cell_filters=900), ValueError, 'num_classes: nasnet_a of this size may have'),
    (dict(aux_head=True, img_size=4096, stem='cifar'), ValueError, 'img_size: nasnet_a of this size may have'),
    (dict(img_size=2), ValueError, 'img_size: 2 x 2 pixels are too small for the stem'),
    (dict(num_layers=9, num_cells=1), ValueError, 'num_cells, num_layers: pass one of them'),
    (dict(genotype='nasnet_b', stem='darts_cifar'), ValueError,
     'stem: darts_cifar takes cells of at most 2 inputs, but nasnet_b has 4; choose another stem: imagenet, cifar$'),
    (dict(num_cell=3), TypeError, "unexpected argument 'num_cell'; did you mean 'num_cells'"),
    (dict(num_class=3), TypeError, "unexpected argument 'num_class'; did you mean 'num_classes'"),
    (dict(drop_path=0.2), TypeError, "unexpected argument 'drop_path'; did you mean 'drop_path_rate'"),
])
def test_arguments_are_checked(kwargs, error, message):
    with pytest.raises(error, match=message):
        build(**kwargs)


@each_genotype
def test_config_rebuilds_the_network(genotype):
    model = build(genotype, stem='cifar', in_chans=1, global_pool='max', drop_path_rate=0.2, aux_head=True,
                  pool_padding='keras', reductions='replace', skip_reduction_layer_input=True, bn_eps=0.5,
                  bn_momentum=0.3, stem_filters=7, img_size=(24, 32), drop_path_by_depth=False, drop_rate=0.1,
                  output_stride=2)
    config = json.loads(json.dumps(model.config))
    for other in (compile_genotype(**config), timm.create_model('nasnet', **config)):
        assert other.config == model.config and other.skeleton == model.skeleton
        other.load_state_dict(model.state_dict())
        x = torch.randn(2, 1, 24, 32)
        torch.testing.assert_close(other.eval()(x), model.eval()(x))


# --- drop path and auxiliary head

def drop_probabilities(model, monkeypatch):
    """The probability of each dropped edge, by cell."""
    seen = []
    monkeypatch.setattr('nasnet_zoo.network.cell.drop_path', lambda x, p: seen.append(p.item()) or x)
    model.train()(images())
    return seen


@pytest.mark.parametrize('progress', [0.25, 1.0])
def test_drop_path_grows_with_depth_and_progress(monkeypatch, progress):
    model = build(stem='cifar', drop_path_rate=0.4)
    model.set_drop_path_progress(progress)
    seen = drop_probabilities(model, monkeypatch)
    # N = 1: normal, reduction, normal, reduction, normal; an edge each but for the identities (2 a normal cell, 1)
    edges = [8, 9, 8, 9, 8]
    expected = [0.4 * progress * (i + 1) / 5 for i, count in enumerate(edges) for _ in range(count)]
    assert seen == pytest.approx(expected, rel=1e-5)


def test_drop_path_of_amoebanet_is_the_same_everywhere(monkeypatch):
    model = build('amoebanet_a', drop_path_rate=0.4, drop_path_by_depth=False)
    seen = drop_probabilities(model, monkeypatch)
    assert len(seen) > 40 and seen == pytest.approx([0.4] * len(seen))


def test_drop_path_is_random_in_training_and_off_in_evaluation():
    model = build(drop_path_rate=0.5)
    x = images(64, 64)
    torch.testing.assert_close(model(x), model(x))
    model.train()
    assert not torch.equal(model(x), model(x))
    assert 'drop_path_progress' not in model.state_dict()
    for progress in (7, -0.1, float('nan')):
        with pytest.raises(ValueError, match='progress: must be from 0 to 1'):
            model.set_drop_path_progress(progress)
    assert model.drop_path_progress == 1


def test_drop_path_spares_what_is_as_it_is():
    data = load_genotype('nasnet_a').to_dict()
    data['normal']['blocks'][4]['right'][0] = data['reduction']['blocks'][3]['left'][0] = 'factorized_identity'
    data['reduction']['blocks'][2]['left'][0] = 'factorized_identity'
    normal, reduction = build(data, stem='cifar').cells[:2]
    assert not normal.blocks['4'].right_uses_drop_path and not reduction.blocks['3'].left_uses_drop_path
    assert reduction.blocks['2'].left_uses_drop_path, "DARTS's at stride 2 is a convolution"


def test_weights_materialised_from_the_meta_device():
    model = build(device='meta', drop_path_rate=0.2).to_empty(device='cpu')
    model.drop_path_progress.fill_(float('nan'))
    model.init_weights()
    assert model.drop_path_progress == 1


def test_aux_head_is_googles_at_the_published_size():
    model = build(aux_head=True, num_cells=1).train()
    assert model.aux_head.conv2.kernel_size == (4, 4)  # 14x14 at 224 is pooled to 4x4
    assert model.aux_head.conv1.in_channels == model.feature_info[-2]['num_chs']
    x = torch.randn(2, model.feature_info[-2]['num_chs'], 14, 14)
    torch.testing.assert_close(model.aux_head.resize(x), x)
    assert build(aux_head=True, stem='cifar').aux_head.conv2.kernel_size == (4, 4)
    assert build(aux_head=True, img_size=331).aux_head.conv2.kernel_size == (6, 6)


def test_aux_head_is_as_wide_as_published():
    def widths(genotype='amoebanet_c', **kwargs):
        head = build(genotype, aux_head=True, stem='cifar', **kwargs).aux_head
        return head.conv1.out_channels, head.conv2.out_channels
    assert widths('nasnet_a') == (128, 768)
    assert widths() == (51, 307)
    assert widths(aux_filters=[8, 9]) == (8, 9)
    old = load_genotype('amoebanet_c').to_dict()
    del old['aux_filters']  # as in the configuration of a model folder of an earlier version
    assert widths(old) == (128, 768)
    assert load_genotype(old).layout_digest == load_genotype('amoebanet_c').layout_digest


def test_aux_head_is_googles_layers():
    model = build(aux_head=True, stem='cifar').train()
    features = torch.randn(3, model.feature_info[-2]['num_chs'], 16, 16)
    head = model.aux_head.eval()
    for norm in (head.bn1, head.bn2):
        for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
            tensor.data.uniform_(0.5, 1.5)

    def norm(x, bn):
        shape = 1, -1, 1, 1
        x = (x - bn.running_mean.view(shape)) / (bn.running_var.view(shape) + 1e-5).sqrt()
        return x * bn.weight.view(shape) + bn.bias.view(shape)

    x = F.avg_pool2d(features, 5, 3)
    x = norm(F.conv2d(x, head.conv1.weight), head.bn1).relu()
    x = norm(F.conv2d(x, head.conv2.weight), head.bn2).relu().flatten(1)
    torch.testing.assert_close(head(features), x @ head.head.fc.weight.T + head.head.fc.bias, rtol=1e-4, atol=1e-4)
    seen = []
    model.aux_head.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    model(images())
    assert (seen[0] >= 0).all() and seen[0].shape[1:] == features.shape[1:], 'it is fed rectified features'


def test_dropout_before_the_classifier():
    model = build(drop_rate=0.5)
    features = torch.ones(1, model.num_features, 3, 3)
    assert (model.forward_head(features, pre_logits=True) == 1).all()
    dropped = model.train().forward_head(features, pre_logits=True)
    assert set(dropped.flatten().tolist()) == {0., 2.}


def test_initial_weights_of_darts_are_pytorchs():
    conv = compile_genotype('darts_v2', num_layers=3, cell_filters=64, stem='darts_cifar').cells[1].fits[0].conv
    assert conv.weight.abs().max().item() == pytest.approx(conv.in_channels ** -0.5, rel=0.01)  # uniform


def test_no_relu_before_the_classifier_of_darts():
    for stem, act in (('cifar', nn.ReLU), ('darts_cifar', nn.Identity)):
        model = build('darts_v2', stem=stem)
        assert type(model.act) is act and bool((model.forward_features(images()) < 0).any()) == (act is nn.Identity)
        assert type(build('darts_v2', stem=stem, final_relu=True).act) is nn.ReLU


@pytest.mark.filterwarnings('ignore::nasnet_zoo.GenotypeWarning')
def test_what_only_none_reads_is_not_compiled():
    """A state that is only multiplied by zero has no effect, and the parameters before it would have no gradient."""
    def cell(op):
        return dict(blocks=[dict(left=['sep_conv_3x3', 'h0'], right=['identity', 'h0']),
                            dict(left=['sep_conv_3x3', 'h0'], right=[op, 'h1']),
                            dict(left=['none', 'b0'], right=['none', 'h1'])], outputs=[['b1', 'b2']])
    data = dict(format=1, name='own', normal=cell('none'), reduction=cell('max_pool_3x3'))
    genotype = load_genotype(data)
    model = build(genotype, stem='darts_imagenet').train()
    assert list(model.cells[0].blocks) == ['1', '2'] and len(model.cells[0].fits) == 1
    model(images(40, 33)).sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    assert torch.jit.script(model.eval())(images()).shape == (2, 5)
    other = load_genotype({**data, 'normal': {**cell('none'), 'blocks': [*cell('none')['blocks'][:2], dict(
        left=['none', 'h0'], right=['none', 'h0'])]}})
    assert other.architecture_digest == genotype.architecture_digest != load_genotype(
        {**data, 'normal': cell('max_pool_3x3')}).architecture_digest


def test_initial_weights_are_he_normal_by_fan_out():
    model = compile_genotype('nasnet_a', num_cells=1, cell_filters=64, stem='cifar', num_classes=5)
    block = model.cells[0].blocks['0'].left
    for conv, fan_out in ((block.pw1, 64), (block.dw2, 25), (model.cells[1].fits[0].conv, 128)):
        assert conv.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.1)


@each_stem
def test_aux_head_at_any_size(stem):
    model = build(aux_head=True, stem=stem)
    model.reset_classifier(7)
    assert model(images(40, 33)).shape == (2, 7)
    model.train()
    logits, aux = model(images(40, 33))
    assert logits.shape == aux.shape == (2, 7)
    (logits + aux).sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    assert torch.jit.script(model.eval())(images()).shape == (2, 7)


# --- timm's interface; tools/timm_tests.py holds the named models against timm's own tests

@each_network
def test_features(genotype, stem):
    model = build(genotype, stem=stem)
    info = FeatureInfo(model.feature_info, tuple(range(len(model.feature_info))))
    assert info.reduction() == REDUCTIONS[stem]
    x = images(64, 96)
    final, features = model.forward_intermediates(x)
    torch.testing.assert_close(final, model.forward_features(x))
    torch.testing.assert_close(features[-1], final)
    for feature, channels, reduction in zip(features, info.channels(), info.reduction()):
        size = Skeleton(stem=stem, img_size=(64, 96)).feature_size(reduction)
        assert feature.shape == (2, channels, *size)

    first, last = model.forward_intermediates(x, indices=[0, -1], intermediates_only=True)
    torch.testing.assert_close(first, features[0])
    torch.testing.assert_close(last, features[-1])
    end, (second,) = model.forward_intermediates(x, indices=[1], stop_early=True)
    torch.testing.assert_close(second, features[1])
    torch.testing.assert_close(end, features[1])
    assert len(model.forward_intermediates(x, indices=2, intermediates_only=True)) == 2
    with pytest.raises(ValueError, match='NCHW'):
        model.forward_intermediates(x, output_fmt='NLC')


@each_genotype
def test_features_only_keeps_what_it_needs(genotype):
    torch.manual_seed(0)
    args = dict(genotype=genotype, num_cells=1, cell_filters=4)
    whole = timm.create_model('nasnet', **args).eval()
    x = images(64, 64)
    expected = whole.forward_intermediates(x, intermediates_only=True)
    for indices in ((0,), (1, 3), (0, 1, 2, 3, 4), (-2,)):
        model = timm.create_model('nasnet', features_only=True, out_indices=indices, **args).eval()
        model.model.load_state_dict(whole.state_dict(), strict=False)
        for feature, index, channels in zip(model(x), indices, model.feature_info.channels()):
            torch.testing.assert_close(feature, expected[index])
            assert feature.shape[1] == channels
        sum(feature.sum() for feature in model.train()(x)).backward()
        assert all(p.grad is not None for p in model.parameters()), 'pruned to what the features need'


def test_prune_keeps_the_head_where_it_can():
    model = build()
    x = images(64, 64)
    expected = model(x)
    assert model.prune_intermediate_layers([4], prune_head=False) == [4]
    torch.testing.assert_close(model(x), expected)
    model.prune_intermediate_layers([2], prune_head=False)
    assert len(model.forward_intermediates(x, intermediates_only=True)) == len(model.feature_info) == 3
    assert model.num_classes == 0 and model(x).shape == model.forward_features(x).shape
    model.reset_classifier(3, 'avg')
    assert model(x).shape == (2, 3)


def test_prune_to_a_map_of_the_stem():
    model = build('darts_v2', stem='darts_imagenet')
    x = images(64, 64)
    expected = model.forward_intermediates(x, intermediates_only=True)
    for i in (1, 0, 0):
        assert model.prune_intermediate_layers([i]) == [i]
        torch.testing.assert_close(model.forward_intermediates(x, intermediates_only=True), expected[:i + 1])
        model.zero_grad()
        model(x).sum().backward()
        assert all(p.grad is not None for p in model.parameters())


@each_genotype
def test_heads(genotype):
    model = build(genotype)
    x = images(64, 64)
    features = model.forward_features(x)
    assert model.forward_head(features, pre_logits=True).shape == (2, model.head_hidden_size)
    model.reset_classifier(9)
    assert model(x).shape == (2, 9) and model.get_classifier().out_features == model.num_classes == 9
    model.reset_classifier(0)
    assert model(x).shape == (2, model.num_features)
    model.reset_classifier(0, '')
    torch.testing.assert_close(model(x), features)
    for bad in ((-1, None), (3, 'mean')):
        with pytest.raises(ValueError):
            model.reset_classifier(*bad)
    assert model.num_classes == 0
    model.reset_classifier(4, 'catavgmax')
    assert model(x).shape == (2, 4) and model.head_hidden_size == 2 * model.num_features


@each_genotype
def test_grad_checkpointing_changes_nothing(genotype, monkeypatch):
    calls = []
    checkpoint = network.checkpoint
    monkeypatch.setattr(network, 'checkpoint', lambda *a, **k: calls.append(a) or checkpoint(*a, **k))
    plain = build(genotype, drop_path_rate=0.3).train()
    saving = copy.deepcopy(plain)
    saving.set_grad_checkpointing()
    outs = []
    for model in (plain, saving):
        torch.manual_seed(3)
        outs.append(model(images(64, 64)))
        outs[-1].square().sum().backward()
    assert len(calls) == len(saving.cells)
    torch.testing.assert_close(outs[0], outs[1])
    for (name, p), q in zip(plain.named_parameters(), saving.parameters()):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-4, atol=1e-4, msg=name)
    for (name, p), q in zip(plain.named_buffers(), saving.buffers()):  # updated once, not again with the activations
        torch.testing.assert_close(p, q, msg=name)
    assert all(module.momentum and module.num_batches_tracked == 1 for module in saving.modules()
               if isinstance(module, torch.nn.BatchNorm2d))


def test_groups_of_parameters():
    model = build(num_cells=2, aux_head=True)
    fine = group_parameters(model, model.group_matcher(), reverse=True)
    coarse = group_parameters(model, model.group_matcher(coarse=True), reverse=True)
    assert len(set(fine.values())) == 1 + len(model.cells) + 1
    assert len(set(coarse.values())) == 1 + 3 + 1
    assert fine['stem.conv.weight'] == coarse['stem.conv.weight'] == 0
    depth = [fine[f'cells.{i}.fits.0.conv.weight'] for i in range(len(model.cells))]
    assert depth == sorted(depth)


# --- the compilers of PyTorch

@pytest.mark.parametrize('genotype', [
    *SCRIPTED, *(pytest.param(name, marks=pytest.mark.slow) for name in GENOTYPES if name not in SCRIPTED)])
def test_torchscript(genotype):
    model = build(genotype)
    scripted = torch.jit.script(model)
    for size in ((64, 64), (33, 47)):
        torch.testing.assert_close(scripted(images(*size)), model(images(*size)))


def of_darts():
    """A genotype with the operations that the shipped ones lack."""
    data = load_genotype('nasnet_a').to_dict()
    for kind, operations in dict(normal=['dil_sep_conv_5x5', 'max_pool_2x2'], reduction=[
            'factorized_identity', 'max_pool_2x2', 'dil_sep_conv_3x3', 'dil_conv_3x3', 'conv_1x7_7x1']).items():
        for block, operation in zip(data[kind]['blocks'], operations):
            block['left'][0] = operation
    return data


traced_networks = pytest.mark.parametrize('genotype, kwargs', [
    *(pytest.param(genotype, dict(stem='cifar'), id=genotype) for genotype in GENOTYPES),
    pytest.param('nasnet_a', dict(stem='imagenet'), id='imagenet'),
    *(pytest.param(of_darts(), dict(stem='cifar', pool_padding=padding, reductions='replace'), id=f'darts-{padding}')
      for padding in ('tf', 'timm', 'keras'))])
each_mode = pytest.mark.parametrize('training', [False, True], ids=['eval', 'train'])


def results_and_gradients(call, model, x):
    torch.manual_seed(1)  # of drop path
    results = call(x)
    results = results if isinstance(results, tuple) else (results,)
    parameters = list(model.parameters())
    return results, torch.autograd.grad(
        sum(result.square().sum() for result in results), parameters, allow_unused=not model.training)


def assert_computes_the_same(trace, model, *sizes):
    """Values and gradients; `model` is in double precision, so that batch norms over few pixels do not matter."""
    for size in sizes:
        x = images(*size).double()
        values, gradients = results_and_gradients(trace, model, x)
        expected, expected_gradients = results_and_gradients(model, model, x)
        if model.training:
            torch.testing.assert_close(values, expected)
        else:
            assert all(map(torch.equal, values, expected))
        torch.testing.assert_close(gradients, expected_gradients)


@traced_networks
@each_mode
def test_fx(genotype, kwargs, training):
    model = build(genotype, drop_path_rate=0.4, aux_head=True, **kwargs).double().train(training)
    trace = torch.fx.symbolic_trace(model)
    assert_computes_the_same(trace, model, (48, 48), (33, 47))
    if training:  # a trace follows the schedule
        model.set_drop_path_progress(0.25)
        trace.drop_path_progress.fill_(0.25)
        assert_computes_the_same(trace, model, (48, 48))


@traced_networks
def test_torchvision_extracts_features(genotype, kwargs):
    model = build(genotype, drop_path_rate=0.4, **kwargs)
    train_nodes, eval_nodes = get_graph_node_names(model)
    assert {'stem.bn', 'cells.0.fits.0.conv', 'act', 'head.fc'} <= {*train_nodes} & {*eval_nodes}
    extractor = create_feature_extractor(model, return_nodes=['cells.0', 'act', 'head.fc'])
    x = images(64, 64)
    features = extractor.eval()(x)
    assert torch.equal(features['act'], model.forward_features(x))
    assert torch.equal(features['head.fc'], model(x))
    assert torch.equal(features['cells.0'], model.cells[0]([model.stem(x)[k] for k in model.sources[0]])[-1])
    extractor.train()(x)['head.fc'].sum().backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize('genotype', ['nasnet_b', 'nasnet_c', of_darts()], ids=['nasnet_b', 'nasnet_c', 'darts'])
@each_mode
def test_make_fx(genotype, training):
    model = build(genotype, drop_path_rate=0.4, stem='cifar').double().train(training)
    assert_computes_the_same(make_fx(model)(images(16, 16).double()), model, (16, 16))


def test_traces_of_checkpointed_networks():
    model = build(drop_path_rate=0.4, stem='cifar').double().train()
    model.set_grad_checkpointing()
    assert_computes_the_same(torch.fx.symbolic_trace(model), model, (32, 32))


@each_mode
def test_torchscript_trace(training):
    model = build(stem='cifar').double().train(training)
    trace = torch.jit.trace(model, images().double(), check_trace=False)
    torch.jit.save(trace, io.BytesIO())
    assert_computes_the_same(trace, model, (32, 32))


@pytest.mark.parametrize('genotype', ['nasnet_a', 'nasnet_b', 'nasnet_c'])
def test_torch_export(genotype):
    model = build(genotype)
    batch = torch.export.Dim('batch', min=1, max=64)
    program = torch.export.export(model, (images(48, 48),), dynamic_shapes={'x': {0: batch}})
    x = images(48, 48, batch=3)
    torch.testing.assert_close(program.module()(x), model(x))


@pytest.mark.skipif(torch.__version__.startswith('2.7.'), reason='PyTorch 2.7 cannot solve the conditions on the size')
def test_torch_export_for_any_size():  # takes half a minute with the ImageNet stem
    model = build('nasnet_a', stem='cifar')
    size = dict.fromkeys((2, 3), torch.export.Dim.AUTO)
    program = torch.export.export(model, (images(64, 64),), dynamic_shapes={'x': size}).module()
    for shape in [(97, 80), (64, 65)]:
        x = images(*shape)
        torch.testing.assert_close(program(x), model(x))


@pytest.mark.parametrize('genotype', ['nasnet_a', 'nasnet_b', 'nasnet_c'])
def test_torch_compile_once_for_the_whole_schedule(genotype):
    torch._dynamo.reset()
    graphs = []
    model = build(genotype, drop_path_rate=0.4, aux_head=True, stem='cifar').train()
    compiled = torch.compile(
        model, fullgraph=True, backend=lambda graph, inputs: graphs.append(graph) or graph.forward)
    for progress in (0., 0.3, 0.9):
        model.set_drop_path_progress(progress)
        logits, aux = compiled(images())
        (logits + aux).sum().backward()
    assert len(graphs) == 1
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.slow
def test_torch_compile_for_any_size():
    torch._dynamo.reset()
    model = build(stem='cifar')
    compiled = torch.compile(model, fullgraph=True, backend='aot_eager', dynamic=True)
    with torch.no_grad():
        for size in ((32, 40), (33, 47), (64, 31)):
            torch.testing.assert_close(compiled(images(*size)), model(images(*size)))


def test_meta_device_and_dtype():
    model = compile_genotype('nasnet_b', **SMALL, device='meta', dtype=torch.bfloat16)
    assert {p.device.type for p in [*model.parameters(), *model.buffers()]} == {'meta'}
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    model = build(dtype=torch.bfloat16, drop_path_rate=0.2).train()
    assert model(images().bfloat16()).dtype == torch.bfloat16
    assert isinstance(copy.deepcopy(model), NASNet)


# --- tools that look into a model

def test_layers_with_weights_are_pytorchs_own():
    """Counting and quantisation go by the exact type of a layer."""
    for genotype in (*GENOTYPES, of_darts()):
        model = build(genotype, aux_head=True, pool_padding='keras')
        types = {type(m) for m in model.modules() if list(m.parameters(recurse=False))}
        assert types - {ExampleNorm} == {nn.Conv2d, nn.BatchNorm2d, nn.Linear}


@each_genotype
def test_act_computes_what_the_head_reads(genotype):
    """Grad-CAM takes the output of a module and its gradient."""
    whole, pruned = build(genotype, stem='cifar'), build(genotype, stem='cifar')
    pruned.prune_intermediate_layers([1])
    for model in (whole, pruned):
        seen = []
        handle = model.act.register_forward_hook(lambda module, inputs, output, seen=seen: seen.append(output))
        output = model(images())
        handle.remove()
        assert torch.equal(seen[0], model.forward_features(images()))
        gradient, = torch.autograd.grad(output.sum(), seen[0])
        assert gradient.shape[:2] == (2, model.num_features) and gradient.any()


def test_pruned_weights_follow_in_training():
    model = build(stem='cifar').train()
    convs = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    for conv in convs:
        prune.l1_unstructured(conv, 'weight', 0.5)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for _ in range(2):
        model(images()).square().sum().backward()
        optimizer.step()
    output = model(images())
    for conv in convs:
        prune.remove(conv, 'weight')
    assert torch.equal(model(images()), output), 'the hook has set the weight of the step, also behind a fast pass'


def test_transforms_of_torch_func():
    model = build(stem='cifar', cell_filters=2).double().train()
    for norm in [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]:
        norm.eval()
    parameters, x, labels = dict(model.named_parameters()), images(12, 12).double(), torch.tensor([1, 4])

    def loss(parameters, image, label):
        return F.cross_entropy(torch.func.functional_call(model, parameters, image[None]), label[None])
    per_image = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0))(parameters, x, labels)
    for i in range(2):
        expected = torch.autograd.grad(loss(parameters, x[i], labels[i]), list(parameters.values()))
        for gradient, name in zip(expected, parameters):
            torch.testing.assert_close(per_image[name][i], gradient)
    tangent = torch.func.jvp(model, (x,), (torch.ones_like(x),))[1]
    with forward_ad.dual_level():  # with the faster passes
        again = forward_ad.unpack_dual(model(forward_ad.make_dual(x, torch.ones_like(x)))).tangent
    torch.testing.assert_close(again, tangent)


def test_mixed_precision_on_a_cpu():
    plain = build(stem='cifar').train()
    saving = copy.deepcopy(plain)
    saving.set_grad_checkpointing()
    for model in (plain, saving):
        with torch.autocast('cpu', torch.bfloat16):
            loss = model(images()).float().square().sum()
        loss.backward()
    for p, q in zip(plain.parameters(), saving.parameters()):
        assert torch.equal(p.grad, q.grad) and p.grad.dtype == torch.float32


def test_forward_goes_through_forward_features():
    """As in timm's models, for those who wrap or replace it, also in TorchScript."""
    model, x = build(stem='cifar').eval(), torch.randn(2, 3, 8, 8)
    scripted = torch.jit.script(model)
    torch.testing.assert_close(scripted.forward_head(scripted.forward_features(x)), model(x))
    model.forward_features = lambda images: torch.ones(2, model.num_features, 1, 1)
    torch.testing.assert_close(model(x), model.forward_head(torch.ones(2, model.num_features, 1, 1)))


def test_numbers_of_numpy():
    model = build(num_classes=np.int64(3), cell_filters=np.int32(4))
    assert model.num_classes == 3 and type(model.config['num_classes']) is type(model.config['cell_filters']) is int
    model.reset_classifier(np.int64(5))
    assert model.head.fc.out_features == 5

"""The plan of a network, skeletons and the table of stems."""
import dataclasses
import warnings

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from helpers.strategies import genotypes
from nasnet_zoo import GenotypeWarning, Skeleton, compile_genotype, list_genotypes, load_genotype
from nasnet_zoo.network.plan import plan_network
from nasnet_zoo.network.stems import STEMS, Stem, StemConv


def plan(genotype='nasnet_a', **skeleton):
    return plan_network(load_genotype(genotype), Skeleton(**{**dict(num_cells=1, cell_filters=4), **skeleton}))


def check_slots(planned):
    """Every tensor is written once, into the next slot, and read only after that."""
    written = len(planned.stem_maps)
    for cell in planned.cells:
        assert all(x.source < written for x in cell.inputs)
        inside = {x.slot for x in cell.inputs}
        for block in cell.blocks:
            for operand in (block.left, block.right):
                assert operand.source in inside
                if operand.cache_slot is not None:
                    assert operand.cache_slot not in inside
                    inside.add(operand.cache_slot)
            assert block.slot not in inside
            inside.add(block.slot)
        assert inside == set(range(len(inside)))
        for output in cell.outputs:
            assert {part.source for part in output.parts} <= inside
            assert output.slot == written
            written += 1
    assert all(source < written for tap in planned.taps for source in tap.sources)
    read = {x.source for cell in planned.cells for x in cell.inputs} | {*planned.final.sources}
    assert read >= set(range(len(planned.stem_maps), written)), 'every output is read'


@given(genotypes(), st.sampled_from(['extra', 'replace']), st.booleans(), st.sampled_from(list(STEMS)))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_slots_of_any_genotype(data, reductions, skip, stem):
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', GenotypeWarning)
        genotype = load_genotype(data)
    fields = dict(reductions=reductions, skip_reduction_layer_input=skip, stem=stem, num_cells=2)
    if genotype.inputs > (STEMS[stem].max_inputs or genotype.inputs):
        with pytest.raises(ValueError, match='takes cells of at most 2 inputs, but drawn has'):
            plan(genotype, **fields)
    else:
        check_slots(plan(genotype, **fields))


@pytest.mark.parametrize('name', list_genotypes())
def test_a_plan_is_immutable_data(name):
    planned = plan(name)
    assert planned == plan(name) and hash(planned) == hash(plan(name))
    with pytest.raises(dataclasses.FrozenInstanceError):
        planned.cells[0].blocks[0].slot = 7
    with pytest.raises(dataclasses.FrozenInstanceError):
        planned.cells = ()


def test_a_network_keeps_its_plan():
    model = compile_genotype('nasnet_c', num_cells=2, cell_filters=4, stem='cifar', num_classes=5, aux_head=True)
    assert model.plan == plan('nasnet_c', num_cells=2, stem='cifar')
    assert [cell.name for cell in model.plan.cells] == [f'cells.{i}' for i in range(len(model.cells))]
    assert model.feature_info == [tap.info for tap in model.plan.taps]
    assert model.aux_head.conv1.in_channels == model.plan.aux.channels
    assert model.num_features == model.plan.final.channels
    for cell, planned in zip(model.cells, model.plan.cells):
        assert list(cell.blocks) == [str(block.index) for block in planned.blocks]
    model.prune_intermediate_layers([0])
    assert model.plan == plan('nasnet_c', num_cells=2, stem='cifar').ending_at(0) and len(model.cells) == 2


# --- skeletons

def test_a_skeleton_has_the_defaults_of_its_stem():
    for skeleton, facts in ((Skeleton(stem='cifar'), (1e-5, 0.1, 32)), (Skeleton(), (1e-3, 3e-4, 224))):
        assert (skeleton.bn_eps, skeleton.bn_momentum, skeleton.img_size) == facts
    assert Skeleton(stem='cifar', bn_eps=0.5).bn_eps == 0.5
    assert (Skeleton(stem='cifar').stem_width, Skeleton().stem_width) == (132, 32)
    assert Skeleton(**Skeleton(stem='cifar').model_dump(mode='json')) == Skeleton(stem='cifar')


def test_a_skeleton_written_by_an_older_version_is_read():
    written = dict(
        stem='cifar', num_cells=2, cell_filters=8, stem_filters=None, reductions='replace',
        skip_reduction_layer_input=False, bn_eps=1e-3, bn_momentum=0.5, pool_padding='tf', drop_path_by_depth=True,
        img_size=[24, 32])
    skeleton = Skeleton(**written)
    assert (skeleton.bn_eps, skeleton.bn_momentum, skeleton.size) == (1e-3, 0.5, (24, 32))
    assert skeleton.model_dump(mode='json') == dict(
        written, num_layers=None, padding='same', final_relu=True, aux_filters=[128, 768], output_stride=4)


@pytest.mark.parametrize('fields, message', [
    (dict(stem='cfiar'), "stem: unknown stem 'cfiar'; did you mean 'cifar'"),
    (dict(stem=['cifar']), 'stem: '), (dict(img_size=2), 'img_size: 2 x 2 pixels are too small for the stem'),
    (dict(img_size=(32, 2)), 'img_size: 32 x 2 pixels are too small for the stem'),
    (dict(num_layers=2), 'num_layers: '), (dict(num_layers=20, num_cells=6), 'num_cells, num_layers: pass one of them'),
    (dict(num_cells=None), 'num_cells, num_layers: pass one of them'),
    (dict(stem='cfiar', img_size=2), 'stem: '), (dict(bn_eps='1'), 'bn_eps: '), (dict(num_cells=0), 'num_cells: ')])
def test_what_a_skeleton_refuses(fields, message):
    with pytest.raises(ValueError, match=message):
        Skeleton(**fields)
    with pytest.raises(ValueError, match=message):
        Skeleton(**fields)
    with pytest.raises(TypeError, match="unexpected argument 'width'"):
        Skeleton(**fields, width=3)


@pytest.mark.parametrize('num_layers, expected', [
    (3, 'nrr'), (4, 'nrrn'), (7, 'nnrnrnn'), (8, 'nnrnnrnn'), (9, 'nnnrnnrnn'), (20, 'nnnnnnrnnnnnnrnnnnnn')])
def test_reductions_stand_at_a_third_and_at_two_thirds(num_layers, expected):
    skeleton = Skeleton(stem='darts_cifar', num_layers=num_layers, cell_filters=5)
    assert ''.join(position.kind[0] for position in skeleton.positions()) == expected
    assert [position.filters for position in skeleton.positions()] == [
        5 * 2 ** expected[:i + 1].count('r') for i in range(num_layers)]
    assert Skeleton(**skeleton.model_dump(mode='json')) == skeleton


@pytest.mark.parametrize('reductions, more', [('extra', 2), ('replace', 0)])
def test_num_cells_are_num_layers(reductions, more):
    for n in (1, 2, 5):
        assert Skeleton(num_cells=n, reductions=reductions).positions() == Skeleton(num_layers=3 * n + more).positions()


# --- stems

def test_darts_skeletons():
    for stem, maps, strides in (('darts_cifar', [(108, 1)], [1, 2, 4]), (
            'darts_imagenet', [(36, 8), (36, 4)], [4, 8, 16, 32])):
        skeleton = Skeleton(stem=stem, cell_filters=36)
        assert (skeleton.bn_eps, skeleton.bn_momentum, skeleton.padding, skeleton.final_relu) == (
            1e-5, 0.1, 'symmetric', False)
        assert not skeleton.drop_path_by_depth and list(skeleton.stem_maps) == maps
        planned = plan('darts_v2', stem=stem, num_cells=None, num_layers=7)
        check_slots(planned)
        assert [tap.reduction for tap in planned.taps] == strides
        assert planned.aux.module == 'cells.4' and planned.aux.is_rectified and not planned.final.is_rectified
        assert planned.aux.reduction == planned.final.reduction


class TwoMaps(nn.Module):
    """A stem of one's own with feature maps at strides 8 and 4."""

    def __init__(self, in_chans, filters, convs, args):
        super().__init__()
        widths = [in_chans] + [filters // conv.divisor for conv in convs]
        layers = [nn.Sequential(nn.Conv2d(a, b, 3, conv.stride, conv.padding, bias=False, **args.dd), args.norm(b))
                  for a, b, conv in zip(widths, widths[1:], convs)]
        self.conv = layers[0][0]
        self.older = nn.Sequential(layers[0], nn.ReLU(), layers[1])
        self.newer = nn.Sequential(nn.ReLU(), layers[2])

    def forward(self, x: torch.Tensor):
        older = self.older(x)
        return [self.newer(older), older]


def test_a_stem_is_a_row(monkeypatch):
    monkeypatch.setitem(STEMS, 'two_maps', Stem(
        'for this test', TwoMaps, (StemConv(2, 1, divisor=2, is_read=False), StemConv(2, 1), StemConv(2, 1)),
        default_filters=lambda cell_filters: cell_filters, cell_divisors=(),
        defaults=dict(bn_eps=1e-5, bn_momentum=0.1, img_size=224), data=STEMS['imagenet'].data))
    model = compile_genotype('nasnet_a', num_cells=1, cell_filters=4, stem='two_maps', num_classes=3, aux_head=True)
    check_slots(model.plan)
    h0, h1 = model.plan.cells[0].inputs
    assert (h0.source, h0.stride, h1.source, h1.stride, h1.is_missing, h1.is_fitted) == (0, 1, 1, 2, False, True)
    assert model.skeleton.output_stride == 32
    assert [info['reduction'] for info in model.feature_info] == [4, 8, 16, 32]
    assert model.skeleton.feature_size(4) == (56, 56)
    x = torch.randn(2, 3, 67, 64)
    logits, aux = model.train()(x)
    (logits.sum() + aux.sum()).backward()
    assert all(p.grad is not None for p in model.parameters())
    size = Skeleton(stem='two_maps', img_size=(67, 64))
    for feature, info in zip(model.eval().forward_intermediates(x, intermediates_only=True), model.feature_info):
        assert tuple(feature.shape[1:]) == (info['num_chs'], *size.feature_size(info['reduction']))
    torch.testing.assert_close(torch.jit.script(model)(x), model(x))
    assert compile_genotype(**model.config).skeleton == model.skeleton

"""Rewrites for speed give what the network gives."""
import copy
from functools import lru_cache

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import nasnet_zoo
from helpers.networks import NAMES, difference, small, trained
from helpers.strategies import genotypes
from nasnet_zoo import optimize_for_inference
from nasnet_zoo.graph.ir import ordered
from nasnet_zoo.graph.lower import lower
from nasnet_zoo.graph.passes import PASSES, apply_passes
from nasnet_zoo.graph.to_torch import to_module


@pytest.mark.parametrize('name', NAMES)
def test_every_model_of_the_zoo(name):
    torch.manual_seed(0)
    args = dict(num_cells=1, cell_filters=8) if name != 'nasnet' else dict(genotype='nasnet_a', num_cells=1)
    model = trained(timm.create_model(name, **args, num_classes=11))
    state = copy.deepcopy(model.state_dict())
    for size, fixed in (((64, 64), (64, 64)), ((65, 71), (65, 71)), ((65, 64), None)):
        x = torch.randn(2, 3, *size)
        with torch.inference_mode():
            assert difference(optimize_for_inference(model, fixed)(x), model(x)) < 1e-5
    for name, tensor in model.state_dict().items():  # the original is as it was
        assert torch.equal(tensor, state[name])


@lru_cache
def in_double(genotype):
    """A network where only rounding differs, which is next to nothing; images of three sizes and their logits."""
    model = small(genotype).double()
    images = [torch.randn(2, 3, *size, dtype=torch.float64) for size in ((16, 16), (17, 15), (17, 16))]
    with torch.inference_mode():
        return lower(model), [(x, model(x)) for x in images]


@pytest.mark.parametrize('genotype', nasnet_zoo.list_genotypes())
@pytest.mark.parametrize('name', PASSES)
def test_each_pass(genotype, name):
    graph, examples = in_double(genotype)
    others = [other for other in PASSES if other != name]
    for (x, expected), passes in zip(examples, ([name], [name], others)):
        for size in (None, tuple(x.shape[2:])):
            module = to_module(apply_passes(graph, 'cpu', size, passes), torch.device('cpu'), torch.float64)
            with torch.inference_mode():
                assert difference(module(x), expected) < 1e-12


@pytest.mark.filterwarnings('ignore::nasnet_zoo.genotype.schema.GenotypeWarning')  # dead blocks
@settings(max_examples=40, deadline=None)
@given(genotypes(), st.integers(8, 17), st.integers(8, 17), st.booleans(), st.sampled_from(['cifar', 'imagenet']))
def test_any_genotype(data, height, width, is_fixed, stem):
    model = small(data, cell_filters=4, stem=stem, num_classes=3).double()
    x = torch.randn(2, 3, height, width, dtype=torch.float64)
    graph, size = lower(model), (height, width) if is_fixed else None
    with torch.inference_mode():
        expected = model(x)
        for where in ('cpu', 'onnx', 'int8'):
            module = to_module(apply_passes(graph, where, size), torch.device('cpu'), torch.float64)
            assert difference(module(x), expected) < 1e-10


@pytest.mark.parametrize('name, op, before, after', [
    ('fold_norms', 'affine', 64, 0),
    ('fuse_reductions', 'conv', 116, 114),
    ('push_relu_through_concat', 'relu', 47, 81),
    ('eliminate_common_subexpressions', 'relu', 47, 42),
    ('eliminate_common_subexpressions', 'avg_pool', 11, 10),
    ('sink_scale', 'add', 25, 23),
    ('add_as_identity_conv', 'conv', 116, 139),
    ('pointwise_conv_as_matmul', 'pointwise', 0, 61),
])
def test_a_pass_finds_what_it_is_for(name, op, before, after):
    graph = lower(small('nasnet_a'))
    counts = [sum(node.op == op for node in ordered(g)) for g in (graph, apply_passes(graph, 'cpu', None, [name]))]
    assert counts == [before, after]


def test_features_are_whole_blocks_where_onnx_runtime_runs_them():
    widths = {node.channels % 16 for node in ordered(apply_passes(lower(small('nasnet_a')), 'onnx', (16, 16)))
              if node.op in ('conv', 'concat', 'add', 'relu')}
    assert widths == {0}
    graph = lower(small('nasnet_c'))  # has layer norms, over all channels
    assert any(node.op == 'group_norm' and node.attrs['groups'] == 1 for node in ordered(graph))
    assert {node.channels % 16 for node in ordered(apply_passes(graph, 'onnx', None, ['pad_channels']))} != {0}


def test_needs_nothing_of_ours(tmp_path):
    model = small('nasnet_a')
    x = torch.randn(2, 3, 16, 16)
    program = torch.export.export(optimize_for_inference(model, 16), (x,))
    assert {node.target.namespace for node in program.graph.nodes if node.op == 'call_function'} == {'aten'}


def test_what_cannot_be_optimized():
    model = small('nasnet_a')
    with pytest.raises(ValueError, match='fold_norm: there are fold_norms, '):
        optimize_for_inference(model, passes=['fold_norm'])
    with pytest.raises(ValueError, match='made for images of 16 x 16, not .17, 16.'):
        optimize_for_inference(model, 16)(torch.randn(1, 3, 17, 16))
    model.set_grad_checkpointing()
    optimize_for_inference(model)
    with pytest.raises(ValueError, match='training mode'):
        optimize_for_inference(model.train())
    with pytest.raises(TypeError, match='must be a network of this package, not a FeatureGetterNet'):
        optimize_for_inference(timm.create_model('nasnet_a_cifar_small', features_only=True).eval())
    model.eval().stem.bn = torch.nn.InstanceNorm2d(18)
    with pytest.raises(TypeError, match='model.stem.bn: an? InstanceNorm2d is no layer that this package makes'):
        optimize_for_inference(model)


def test_synchronized_norms():
    model = small('nasnet_a')
    x = torch.randn(2, 3, 16, 16)
    with torch.inference_mode():
        expected = model(x)
        synchronized = torch.nn.SyncBatchNorm.convert_sync_batchnorm(model)
        assert difference(optimize_for_inference(synchronized)(x), expected) < 1e-5


@pytest.mark.parametrize('kwargs', [
    dict(global_pool='catavgmax'), dict(global_pool='avgmax'), dict(num_classes=0), dict(num_classes=0, global_pool=''),
    dict(pool_padding='keras'), dict(pool_padding='timm'), dict(stem='imagenet', in_chans=1), dict(drop_rate=0.3)])
def test_other_heads_and_skeletons(kwargs):
    model = small('nasnet_a', **kwargs)
    for size in ((33, 32), (64, 47)):
        x = torch.randn(2, model.in_chans, *size)
        with torch.inference_mode():
            assert difference(optimize_for_inference(model)(x), model(x)) < 1e-5
            assert difference(optimize_for_inference(model, size)(x), model(x)) < 1e-5


def test_a_single_pixel_is_not_normalized():
    model = small('nasnet_b')  # has instance norms; its last cells see one pixel
    x = torch.randn(2, 3, 4, 4)
    with torch.inference_mode():
        for module in (optimize_for_inference(model), optimize_for_inference(model, 4)):
            assert difference(module(x), model(x)) < 1e-5

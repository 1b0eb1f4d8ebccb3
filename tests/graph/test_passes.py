"""The passes find what they are for, keep what the network computes, and refuse what cannot work."""
import copy

import pytest
import timm
import torch

from helpers.networks import GENOTYPES, NAMES, difference, small, trained
from nasnet_zoo import optimize_for_inference
from nasnet_zoo.graph.ir import KINDS, Node, ordered
from nasnet_zoo.graph.lower import lower
from nasnet_zoo.graph.passes import PASSES, apply_passes
from nasnet_zoo.graph.targets import TARGETS
from nasnet_zoo.graph.to_onnx import to_onnx
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


@pytest.mark.parametrize('genotype', GENOTYPES)
def test_each_pass(genotype):
    model = small(genotype).double()  # so that only rounding differs, which is next to nothing
    graph, size = lower(model), (17, 16)
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    with torch.inference_mode():
        expected = model(x)
        for passes in (*([name] for name in PASSES), list(PASSES)):
            module = to_module(apply_passes(graph, 'torch_cpu', size, passes), torch.device('cpu'), torch.float64)
            assert difference(module(x), expected) < 1e-12, passes


def test_zeros_in_sums_are_dropped():
    graph = lower(small('fair_darts_b', stem='darts_cifar'))
    counts = [sum(node.op == 'add' for node in ordered(g))
              for g in (graph, apply_passes(graph, 'torch_cpu', None, ['drop_zeros']))]
    assert counts == [20, 14]  # three normal cells, each of which has two edges of zeros


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
    graphs = graph, apply_passes(graph, 'torch_cpu', None, [name])
    counts = [sum(node.op == op for node in ordered(g)) for g in graphs]
    assert counts == [before, after]


def test_features_are_whole_blocks_for_onnx_runtime():
    graph = apply_passes(lower(small('nasnet_a')), 'onnxruntime', (16, 16))
    widths = {node.channels % 16 for node in ordered(graph) if node.op in ('conv', 'concat', 'add', 'relu')}
    assert widths == {0}
    graph = lower(small('nasnet_c'))  # has layer norms, over all channels
    assert any(node.op == 'group_norm' and node.attrs['groups'] == 1 for node in ordered(graph))
    assert {node.channels % 16 for node in ordered(apply_passes(graph, 'onnxruntime', None, ['pad_channels']))} != {0}


def image(channels=44):
    return Node('input', attrs=dict(channels=channels))


def norm(x, groups):
    ones = torch.ones(x.channels, dtype=torch.float64)
    return x.then('group_norm', dict(weight=ones, bias=ones), groups=groups, eps=1e-5, any_size=True)


def conv(x, out=44, groups=1, kernel=1, padding=0):
    weight = torch.randn(out, x.channels // groups, kernel, kernel, dtype=torch.float64)
    return x.then('conv', dict(weight=weight, bias=weight[:, 0, 0, 0]), stride=(1, 1), dilation=(1, 1), groups=groups,
                  padding=(padding,) * 4)


def affine(x, shift=1.):
    scale = torch.rand(x.channels, dtype=torch.float64) + 0.5
    return x.then('affine', dict(scale=scale, shift=scale * shift))


def linear(x):
    x = x.then('global_pool', mode='avg').then('flatten')
    return affine(x).then('linear', dict(weight=torch.randn(5, x.channels).double(), bias=torch.ones(5).double()))


@pytest.mark.parametrize('build, is_folded', [
    (lambda x: affine(conv(x, 4, kernel=3, padding=1)), True),
    (lambda x: affine(conv(x, 4, groups=4, kernel=3, padding=1)), True),
    (lambda x: affine(Node('concat', (conv(x, 4), conv(x, 3)))), True),
    (lambda x: affine(Node('concat', (conv(x, 4), x))), False),
    (lambda x: conv(affine(x), 4, kernel=3), True),
    (lambda x: conv(affine(x), 4, kernel=3, padding=1), False),  # the shift would reach the padding
    (lambda x: conv(affine(x, 0.), 4, kernel=3, padding=1), True),
    (lambda x: conv(affine(x, 0.), 4, groups=4, kernel=3, padding=1), True),
    (lambda x: conv(affine(x), 4, groups=4, kernel=3, padding=1), False),
    (lambda x: conv(affine(x, 0.), 4, groups=2), False),
    (linear, True),
])
def test_what_is_folded(build, is_folded):
    torch.manual_seed(0)
    graph, x = build(image(4)), torch.randn(2, 4, 5, 5, dtype=torch.float64)
    folded = apply_passes(graph, 'torch_cpu', None, ['fold_norms'])
    assert is_folded == all(node.op != 'affine' for node in ordered(folded))
    results = [to_module(g, torch.device('cpu'), torch.float64)(x) for g in (graph, folded)]
    torch.testing.assert_close(*results)


@pytest.mark.parametrize('between, is_padded', [
    (lambda x: x.then('relu'), True),
    (lambda x: norm(x, 44), True),
    (lambda x: conv(x, groups=44), True),
    (lambda x: x.then('scale_pixels', dict(factor=torch.rand(3, 3, dtype=torch.float64))), True),
    (lambda x: x.then('pad', value=0., padding=(1, 1, 1, 1), kernel=(3, 3), stride=(1, 1)), True),
    (lambda x: x.then('pad', value=1., padding=(1, 1, 1, 1), kernel=(3, 3), stride=(1, 1)), False),
    (lambda x: norm(x, 1), False),
    (lambda x: norm(x, 2), False),
    (lambda x: conv(x, groups=2), False),
    (lambda x: Node('add', (Node('concat', (x, conv(x, 5))), Node('concat', (conv(x, 5), x)))), False),
])
def test_channels_are_padded_only_where_that_is_exact(between, is_padded):
    torch.manual_seed(0)
    graph = conv(between(conv(image(3))), 3).then('global_pool', mode='avg').then('flatten')
    graph = graph.then('linear', dict(weight=torch.randn(5, 3, dtype=torch.float64), bias=torch.zeros(5).double()))
    padded = apply_passes(graph, 'onnxruntime', None, ['pad_channels'])
    assert (padded is not graph) == is_padded == any(node.channels == 48 for node in ordered(padded))
    x = torch.randn(2, 3, 3, 3, dtype=torch.float64)
    results = [to_module(g, torch.device('cpu'), torch.float64)(x) for g in (graph, padded)]
    torch.testing.assert_close(*results)


def test_needs_nothing_of_ours(tmp_path):
    model = small('nasnet_a')
    x = torch.randn(2, 3, 16, 16)
    program = torch.export.export(optimize_for_inference(model, 16), (x,))
    assert {node.target.namespace for node in program.graph.nodes if node.op == 'call_function'} == {'aten'}


@pytest.mark.parametrize('genotype', GENOTYPES)
@pytest.mark.parametrize('img_size', [None, 32])
def test_save_and_load(genotype, img_size, tmp_path):
    model, x = small(genotype), torch.randn(2, 3, 32, 32)
    module = optimize_for_inference(model, img_size)
    torch.save(module, tmp_path / 'module.pt')
    loaded = torch.load(tmp_path / 'module.pt', weights_only=False)
    assert len(loaded.graph.nodes) == len(module.graph.nodes)
    with torch.inference_mode():
        assert torch.equal(loaded(x), module(x))


@pytest.mark.parametrize('img_size', [(32,), (3, 32, 32), 32., -5, 'big'])
def test_what_is_no_size(img_size):
    with pytest.raises(ValueError, match='img_size'):
        optimize_for_inference(small('nasnet_a'), img_size)


def test_what_cannot_be_optimized():
    model = small('nasnet_a')
    with pytest.raises(ValueError, match='made for images of 16 x 16, not .17, 16.'):
        optimize_for_inference(model, 16)(torch.randn(1, 3, 17, 16))
    model.set_grad_checkpointing()
    optimize_for_inference(model)
    with pytest.raises(ValueError, match='training mode'):
        optimize_for_inference(model.train())


@pytest.mark.parametrize('target, passes, message', [
    ('torch_cpu', ['fold_norm'], r"passes: unknown pass 'fold_norm'; did you mean 'fold_norms'\?"),
    ('torch_cpu', ['x'], "passes: unknown pass 'x'; known: drop_zeros, .*pointwise_conv_as_matmul$"),
    ('torch_cpu', 'fold_norms', "must be a list of names, not the string 'fold_norms'"),
    ('onnxruntime', ['pointwise_conv_as_matmul'],
     'passes: pointwise_conv_as_matmul makes operations of the kind pointwise, which onnxruntime cannot run; leave'),
    ('onnx_runtime', None, r"target: unknown target 'onnx_runtime'; did you mean 'onnxruntime'\?"),
])
def test_what_passes_are_refused(target, passes, message):
    with pytest.raises(ValueError, match=message):
        apply_passes(image(), target, None, passes)


def test_a_graph_that_a_target_cannot_write():
    with pytest.raises(ValueError, match='graph: ONNX has no writer for check_size, pointwise'):
        weight = torch.ones(5, 3, dtype=torch.float64)
        to_onnx(image(3).then('check_size', size=(8, 8)).then('pointwise', dict(weight=weight, bias=weight[:, 0])), [1])


@pytest.mark.parametrize('target', TARGETS)
def test_rows_of_targets(target):
    row = TARGETS[target]
    for passes in (row.passes, row.int8.passes if row.int8 else ()):
        assert set(passes) <= set(PASSES) and row.kinds <= set(KINDS)
        assert {kind for name in passes for kind in PASSES[name].makes} <= row.kinds


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

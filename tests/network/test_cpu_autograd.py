"""Backward passes that are quicker give PyTorch's values and gradients."""
from collections import Counter

import pytest
import torch
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from nasnet_zoo.network import cpu_autograd, ops
from nasnet_zoo.network.cpu_autograd import CpuAutograd, concatenate, subsample


def data(*shape, order=torch.contiguous_format):
    torch.manual_seed(sum(shape))
    return torch.randn(shape, dtype=torch.float64).contiguous(memory_format=order).requires_grad_()


def replaced(function):
    """`function` as layers in training on a CPU compute it."""
    def call(*args):
        with CpuAutograd():
            return function(*args)
    return call


def depthwise(stride, padding, dilation=(1, 1)):
    return lambda x, weight: F.conv2d(x, weight, None, stride, padding, dilation, len(weight))


def shift(x):
    return F.pad(x, (-1, 1, -1, 1))


def avg_pool(x):
    return F.avg_pool2d(x, 3, 1, 1, False, False, None)


@pytest.fixture
def used(monkeypatch):
    """Counts how often each of the functions with a backward pass of its own is used."""
    counts = Counter()
    for name in ('_DepthwiseConv2d', '_Subsample', '_Concatenate'):
        function = getattr(cpu_autograd, name)
        monkeypatch.setattr(function, 'apply', lambda *args, f=function.apply, name=name: (
            counts.update([name]) or f(*args)))
    pool = cpu_autograd.REPLACEMENTS[F.avg_pool2d]
    monkeypatch.setitem(cpu_autograd.REPLACEMENTS, F.avg_pool2d, lambda *args: counts.update(['pool']) or pool(*args))
    return counts


def assert_same(function, reference, *inputs):
    """Values and gradients agree; `inputs` are differentiated where they ask for it."""
    value, expected = function(*inputs), reference(*inputs)
    torch.testing.assert_close(value, expected)
    wanted = [x for x in inputs if isinstance(x, torch.Tensor)]
    weights = torch.randn_like(expected)
    for ours, theirs in zip(*(torch.autograd.grad((y * weights).sum(), wanted) for y in (value, expected))):
        torch.testing.assert_close(ours, theirs)


ORDERS = pytest.mark.parametrize('order', [torch.contiguous_format, torch.channels_last], ids=['nchw', 'nhwc'])


@ORDERS
@pytest.mark.parametrize('size', [(9, 8), (7, 11), (5, 5), (4, 2)])
@pytest.mark.parametrize('dilation', [1, 2])
@pytest.mark.parametrize('stride', [1, 2])
@pytest.mark.parametrize('kernel', [(3, 3), (3, 5), (5, 5), (7, 7), (1, 7), (5, 9)])
def test_depthwise_conv(kernel, stride, dilation, size, order, used):
    padding = [k // 2 * dilation for k in kernel]
    x, weight = data(2, 6, *size, order=order), data(6, 1, *kernel)
    function = depthwise((stride, stride), tuple(padding), (dilation, dilation))
    assert_same(replaced(function), function, x, weight)
    assert used['_DepthwiseConv2d'] == 1


@ORDERS
@pytest.mark.parametrize('size', [(12, 13), (10, 10)])
@pytest.mark.parametrize('padding, dilation', [(0, 1), (0, 2), (1, 2), (5, 1)])  # none: as behind pad_same
@pytest.mark.parametrize('stride', [1, 2])
def test_depthwise_conv_with_other_padding(stride, padding, dilation, size, order):
    function = depthwise((stride, stride), (padding, padding), (dilation, dilation))
    assert_same(replaced(function), function, data(2, 4, *size, order=order), data(4, 1, 5, 5))


@pytest.mark.parametrize('dilation', [1, 2])
@pytest.mark.parametrize('way', ['columns', 'pixels'])
def test_both_ways_to_the_gradient_of_a_kernel(way, dilation, monkeypatch):
    """By columns for many pixels, pixel by pixel for few; here each of them for both sizes."""
    function = getattr(cpu_autograd, f'_kernel_gradient_by_{way}')
    for other in ('columns', 'pixels'):
        monkeypatch.setattr(cpu_autograd, f'_kernel_gradient_by_{other}', function)
    for size in (4, 12):
        conv = depthwise((1, 1), (2 * dilation, 2 * dilation), (dilation, dilation))
        assert_same(replaced(conv), conv, data(3, 4, size, size, order=torch.channels_last), data(4, 1, 5, 5))


@ORDERS
@pytest.mark.parametrize('size', [(8, 8), (7, 5), (1, 1), (2, 3)])
def test_subsample(size, order):
    x = data(2, 3, *size, order=order)
    assert_same(lambda x: subsample(x)[0], lambda x: x[:, :, ::2, ::2], x)
    assert_same(lambda x: torch.cat(subsample(x, shift(x))),
                lambda x: torch.cat([image[:, :, ::2, ::2] for image in (x, shift(x))]), x)


@ORDERS
@pytest.mark.parametrize('stride', [1, 2])
@pytest.mark.parametrize('size', [(8, 8), (7, 5), (1, 1)])
@pytest.mark.parametrize('widths', [(3, 5), (1, 4), (4, 1)])
def test_conv_1x1(widths, size, stride, order):
    def conv(x, weight):
        return F.conv2d(x, weight, None, (stride, stride), (0, 0), (1, 1), 1)

    x, weight = data(2, widths[0], *size, order=order), data(widths[1], widths[0], 1, 1)
    assert_same(replaced(conv), conv, x, weight)
    y = replaced(conv)(x, weight)
    if widths[0] == 1:  # such images are contiguous in both orders
        return
    assert y.is_contiguous(memory_format=order)
    assert all(gradient.is_contiguous(memory_format=order) for gradient in torch.autograd.grad(
        (y * torch.ones_like(y)).sum(), [x]))


@ORDERS
@pytest.mark.parametrize('size', [(8, 8), (7, 5), (1, 1), (2, 3)])
def test_avg_pool(size, order):
    assert_same(replaced(avg_pool), avg_pool, data(2, 3, *size, order=order))


def test_others_are_left_alone(used):
    x, weight = data(2, 4, 9, 8), data(4, 1, 5, 5)
    for function in (
            lambda: F.conv2d(x, weight, groups=4), lambda: F.conv2d(x, weight, None, 1, 'same', 1, 4),
            lambda: F.conv2d(x, weight, data(4), (1, 1), (2, 2), (1, 1), 4),
            lambda: F.conv2d(x, data(4, 4, 1, 1), data(4), (2, 2), (0, 0), (1, 1), 1),
            lambda: F.conv2d(x[0], weight, None, (1, 1), (2, 2), (1, 1), 4),
            lambda: F.avg_pool2d(x, 3, 2, 1, False, False, None), lambda: F.avg_pool2d(x, 3),
            lambda: F.avg_pool2d(x, 3, 1, 1, False, True, None)):
        torch.testing.assert_close(replaced(function)(), function(), rtol=0, atol=0)
    assert not set(used) & {'_DepthwiseConv2d', '_Subsample'}


@ORDERS
def test_concatenate_hands_dense_gradients_on(order):
    parts = [data(2, width, 4, 4, order=order) for width in (4, 3, 2)]
    assert_same(lambda *parts: concatenate(list(parts), True), lambda *parts: torch.cat(parts, 1), *parts)
    gradients = torch.autograd.grad(concatenate(parts, True).square().sum(), parts)
    assert all(gradient.is_contiguous(memory_format=order) for gradient in gradients)


def test_second_derivatives_and_forward_mode():
    x, weight, function = data(1, 2, 6, 6), data(2, 1, 5, 5), replaced(depthwise((1, 1), (2, 2)))
    torch.autograd.gradcheck(function, (x, weight), check_forward_ad=True)
    torch.autograd.gradgradcheck(function, (x, weight))
    for stride, dilation in ((1, 1), (1, 2), (2, 1), (2, 2)):
        torch.autograd.gradgradcheck(replaced(depthwise((stride,) * 2, (2, 2), (dilation,) * 2)), (x, weight))
    torch.autograd.gradcheck(lambda x: subsample(x, shift(x)), (x,), check_forward_ad=True)
    torch.autograd.gradgradcheck(lambda x: subsample(x, shift(x)), (x,))
    torch.autograd.gradcheck(lambda x: concatenate([x, x * x], True), (x,), check_forward_ad=True)


LAYERS = pytest.mark.parametrize('layer, name', [
    (lambda args: ops.Layers(args.conv(4, 4, 5, groups=4)), '_DepthwiseConv2d'),
    (lambda args: ops.Layers(args.conv(4, 4, 7, stride=2, groups=4)), '_DepthwiseConv2d'),
    (lambda args: ops.build_operation('sep_conv_7x7', 4, 4, 2, args), '_DepthwiseConv2d'),
    (lambda args: ops.build_operation('dil_sep_conv_5x5', 4, 6, 1, args), '_DepthwiseConv2d'),
    (lambda args: ops.build_operation('dil_sep_conv_3x3', 4, 4, 2, args), '_Subsample'),
    (lambda args: ops.build_operation('identity', 4, 6, 2, args), '_Subsample'),
    (lambda args: ops.FactorizedReduction(4, 6, 2, args), '_Subsample'),
    (lambda args: ops.FactorizedReduction(4, 1, 2, args), '_Subsample'),
    (lambda args: ops.build_operation('avg_pool_3x3', 4, 4, 1, args), 'pool'),
    (lambda args: ops.build_operation('avg_pool_3x3', 4, 6, 1, args), 'pool'),
])


def with_fixed_norms(module):
    """In double precision and without a difference between the modes."""
    for norm in [m for m in module.modules() if isinstance(m, nn.BatchNorm2d)]:
        norm.momentum = 0.
        norm.eval().train = lambda mode=True: None
    return module.double()


@LAYERS
@pytest.mark.parametrize('size', [8, 9])
def test_layers_use_them_in_training_only(used, layer, name, size):
    module = with_fixed_norms(layer(ops.LayerArgs()))
    x = data(2, 4, size, size)
    expected = module.eval()(x)
    gradients = torch.autograd.grad(expected.square().sum(), [x, *module.parameters()])
    assert not used
    output = module.train()(x)
    torch.testing.assert_close(output, expected)
    for ours, theirs in zip(torch.autograd.grad(output.square().sum(), [x, *module.parameters()]), gradients):
        torch.testing.assert_close(ours, theirs)
    assert used[name]
    used.clear()
    with torch.no_grad():
        module(x)
    assert not used


@LAYERS
def test_whoever_watches_gets_pytorchs_own(used, layer, name):
    module, x = with_fixed_norms(layer(ops.LayerArgs())).train(), data(2, 4, 8, 8)
    with FlopCounterMode(display=False):
        module(x)
    torch.func.vmap(lambda image: module(image[None]))(x)
    torch.func.jvp(module, (x,), (x,))
    torch.jit.trace(module, x, check_trace=False)
    make_fx(module)(x)
    torch.fx.symbolic_trace(module)
    with torch.autocast('cpu', torch.bfloat16):
        module.float()(x.float()).sum().backward()
    assert not used


@ORDERS
@pytest.mark.parametrize('size', [(8, 8), (7, 9), (8, 7), (1, 1), (2, 2), (3, 3), (34, 36)])
@pytest.mark.parametrize('name', [
    'sep_conv_3x3', 'sep_conv_5x5', 'sep_conv_7x7', 'dil_sep_conv_3x3', 'dil_sep_conv_5x5', 'max_pool_2x2',
    'max_pool_3x3', 'max_pool_7x7'])
def test_padding_is_left_to_the_layer_behind_it(name, size, order, monkeypatch):
    module = with_fixed_norms(ops.build_operation(name, 4, 4, 2, ops.LayerArgs())).train()
    padded = []
    monkeypatch.setattr(ops.PadSame, 'forward', lambda self, x, f=ops.PadSame.forward: padded.append(x) or f(self, x))
    x, plain = data(2, 4, *size, order=order), nn.Sequential(*module)
    assert_same(lambda x, *_: module(x), lambda x, *_: plain(x), x, *module.parameters())
    assert len(padded) == (2 if size == (1, 1) or size == (8, 7) and 'conv' in name else 1)


@ORDERS
def test_max_pools_choose_the_same_of_equal_pixels(order):
    module = ops.build_operation('max_pool_3x3', 4, 4, 2, ops.LayerArgs()).train()
    x = data(2, 4, 8, 8, order=order).detach().round().requires_grad_()
    assert_same(module, nn.Sequential(*module), x)


def test_padding_that_a_hook_sees_is_computed():
    module = ops.build_operation('sep_conv_3x3', 4, 4, 2, ops.LayerArgs()).train()
    x, seen = torch.randn(2, 4, 8, 8), []
    for register in (
            lambda: module[0].register_forward_hook(lambda m, inputs, output: seen.append(output.shape)),
            lambda: module[1].register_forward_pre_hook(lambda m, inputs: seen.append(inputs[0].shape)),
            lambda: nn.modules.module.register_module_forward_hook(
                lambda m, inputs, output: m is module[0] and seen.append(output.shape) or None)):
        handle = register()
        module(x)
        handle.remove()
    assert seen == [(2, 4, 9, 9)] * 3
    module[0].forward = lambda x: seen.append(x.shape) or F.pad(x, (0, 1, 0, 1))
    module(x)
    assert len(seen) == 4


@LAYERS
def test_hooks_of_layers_run_in_training(layer, name):
    """Pruning sets a weight in a hook: a layer whose hooks do not run would keep the old one."""
    module, x = layer(ops.LayerArgs()).train(), data(2, 4, 8, 8).float()
    called = set()
    for m in module.modules():
        m.register_forward_hook(lambda m, inputs, output: called.add(m))
    module(x)
    assert called == set(module.modules())

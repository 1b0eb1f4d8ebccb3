"""Backward passes that are quicker give PyTorch's values and gradients."""
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from nasnet_zoo.network import cpu_autograd as backward
from nasnet_zoo.network import ops
from nasnet_zoo.network.cpu_autograd import avg_pool2d, concatenate, depthwise_conv2d, subsample


def data(*shape, order=torch.contiguous_format):
    torch.manual_seed(sum(shape))
    return torch.randn(shape, dtype=torch.float64).contiguous(memory_format=order).requires_grad_()


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
@pytest.mark.parametrize('size', [(9, 8), (7, 11), (5, 5)])
@pytest.mark.parametrize('stride', [1, 2])
@pytest.mark.parametrize('kernel', [(3, 5), (5, 5), (7, 7), (1, 7), (5, 9)])
def test_depthwise_conv(kernel, stride, size, order):
    padding = [k // 2 for k in kernel]
    x, weight = data(2, 6, *size, order=order), data(6, 1, *kernel)
    assert_same(
        lambda x, w: depthwise_conv2d(x, w, (stride, stride), padding),
        lambda x, w: F.conv2d(x, w, None, stride, padding, groups=6), x, weight)


@pytest.mark.parametrize('stride', [1, 2])
def test_depthwise_conv_without_padding(stride):  # as behind pad_same
    assert_same(
        lambda x, w: depthwise_conv2d(x, w, (stride, stride), (0, 0)),
        lambda x, w: F.conv2d(x, w, None, stride, 0, groups=4), data(2, 4, 12, 13), data(4, 1, 5, 5))


@ORDERS
@pytest.mark.parametrize('size', [(8, 8), (7, 5), (1, 1), (2, 3)])
@pytest.mark.parametrize('firsts', [(0,), (1,), (0, 1)])
def test_subsample(firsts, size, order):
    def reference(x):
        return torch.cat([F.pad(x, (-first, first, -first, first))[:, :, ::2, ::2] for first in firsts])
    assert_same(lambda x: torch.cat(subsample(x, 2, firsts)), reference, data(2, 3, *size, order=order))


@ORDERS
@pytest.mark.parametrize('size', [(8, 8), (7, 5), (1, 1), (2, 3)])
def test_avg_pool(size, order):
    assert_same(lambda x: avg_pool2d(x, 3), lambda x: F.avg_pool2d(x, 3, 1, 1, count_include_pad=False),
                data(2, 3, *size, order=order))


@ORDERS
def test_concatenate_hands_dense_gradients_on(order):
    parts = [data(2, width, 4, 4, order=order) for width in (4, 3, 2)]
    assert_same(lambda *parts: concatenate(list(parts), True), lambda *parts: torch.cat(parts, 1), *parts)
    gradients = torch.autograd.grad(concatenate(parts, True).square().sum(), parts)
    assert all(gradient.is_contiguous(memory_format=order) for gradient in gradients)


def test_second_derivatives():
    x, weight = data(1, 2, 6, 6), data(2, 1, 5, 5)
    torch.autograd.gradcheck(lambda x, w: depthwise_conv2d(x, w, (1, 1), (2, 2)), (x, weight))
    torch.autograd.gradgradcheck(lambda x, w: depthwise_conv2d(x, w, (1, 1), (2, 2)), (x, weight))
    torch.autograd.gradgradcheck(lambda x: subsample(x, 2, (0, 1)), (x,))


@pytest.mark.parametrize('layer', [
    lambda args: args.conv(4, 4, 5, groups=4), lambda args: args.conv(4, 4, 7, stride=2, groups=4),
    lambda args: args.conv(4, 6, 1, stride=2), lambda args: ops.FactorizedReduction(4, 6, 2, args),
    lambda args: ops.AvgPool2d(3)])
@pytest.mark.parametrize('size', [8, 9])
def test_layers_use_them_in_training_only(monkeypatch, layer, size):
    module, used = layer(ops.LayerArgs()).double(), []
    for name in ('avg_pool2d', 'depthwise_conv2d', 'subsample'):
        monkeypatch.setattr(ops, name, lambda *args, f=getattr(backward, name): used.append(1) or f(*args))
    x = data(2, 4, size, size)
    for norm in [m for m in module.modules() if isinstance(m, nn.BatchNorm2d)]:
        norm.momentum = 0.  # so that the modes differ in nothing else
        norm.eval().train = lambda mode=True: None
    plain = module.eval()(x)
    assert not used
    torch.testing.assert_close(module.train()(x), plain)
    assert used
    used.clear()
    with torch.no_grad():
        module(x)
    assert not used

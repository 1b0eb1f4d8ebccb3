"""Whole cells against Google's definition, written out in functions over the same weights."""
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from nasnet_zoo import compile_genotype, load_genotype


def randomised(*args, **kwargs):
    """A network in evaluation mode whose norms do something."""
    generator = torch.Generator().manual_seed(0)
    model = compile_genotype(*args, **kwargs).eval()
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            for tensor in (norm.weight, norm.running_var):
                tensor.data.uniform_(0.5, 1.5, generator=generator)
            for tensor in (norm.bias, norm.running_mean):
                tensor.data.normal_(0., 0.5, generator=generator)
    return model


def bn(x, module):
    scale = module.weight / (module.running_var + module.eps).sqrt()
    shift = module.bias - module.running_mean * scale
    return x * scale[:, None, None] + shift[:, None, None]


def conv_bn(x, parts, stride=1):
    return bn(F.conv2d(x, parts.conv.weight, stride=stride), parts.bn)


def same(x, kernel, stride, value=0.):
    """TensorFlow's SAME padding."""
    pads = []
    for n in (x.shape[-1], x.shape[-2]):
        total = max((-(-n // stride) - 1) * stride + kernel - n, 0)
        pads += [total // 2, total - total // 2]
    return F.pad(x, pads, value=value)


def sep(x, parts, kernel, stride=1):
    x = F.conv2d(same(x.relu(), kernel, stride), parts.dw1.weight, stride=stride, groups=x.shape[1])
    x = bn(F.conv2d(x, parts.pw1.weight), parts.bn1).relu()
    x = F.conv2d(same(x, kernel, 1), parts.dw2.weight, groups=x.shape[1])
    return bn(F.conv2d(x, parts.pw2.weight), parts.bn2)


def avg(x, stride=1):
    ones = same(torch.ones_like(x), 3, stride)
    return F.avg_pool2d(same(x, 3, stride), 3, stride) / F.avg_pool2d(ones, 3, stride)


def maximum(x, stride, kernel=3):
    return F.max_pool2d(same(x, kernel, stride, float('-inf')), kernel, stride)


@pytest.mark.parametrize('size', [(8, 8), (9, 7)])
def test_first_normal_cell_of_nasnet_a(size):
    """CIFAR: h1 is the raw stem, three times as wide as F; what reads it changes its width, and so does the output."""
    cell = randomised('nasnet_a', num_cells=1, cell_filters=4, stem='cifar').cells[0]
    stem = torch.randn(2, 12, *size)
    b = cell.blocks
    h0, h1 = conv_bn(stem.relu(), cell.fits[0]), stem
    blocks = [
        sep(h0, b['0'].left, 5) + sep(h1, b['0'].right, 3),
        sep(h1, b['1'].left, 5) + sep(h1, b['1'].right, 3),
        avg(h0) + conv_bn(h1.relu(), b['2'].right),  # an identity that changes the width: ReLU-1x1-BN
        conv_bn(avg(h1), b['3'].left) + conv_bn(avg(h1), b['3'].right),  # a pool that does: 1x1-BN, no ReLU
        sep(h0, b['4'].left, 3) + h0,
    ]
    projected = conv_bn(h1, cell.outputs[0].projections[0])  # an input as output: 1x1-BN, no ReLU
    output, = cell([stem, stem])
    torch.testing.assert_close(output, torch.cat([projected, *blocks], 1), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('size', [(8, 8), (9, 7)])
def test_reduction_cell_of_nasnet_a(size):
    cell = randomised('nasnet_a', num_cells=1, cell_filters=4, stem='cifar').cells[1]
    newest, older = torch.randn(2, 24, *size), torch.randn(2, 12, *size)
    b = cell.blocks
    h0, h1 = conv_bn(newest.relu(), cell.fits[0]), conv_bn(older.relu(), cell.fits[1])
    b0 = sep(h0, b['0'].left, 5, 2) + sep(h1, b['0'].right, 7, 2)
    b1 = maximum(h0, 2) + sep(h1, b['1'].right, 7, 2)
    b2 = avg(h0, 2) + sep(h1, b['2'].right, 5, 2)
    b3 = b1 + avg(b0)
    b4 = sep(b0, b['4'].left, 3) + maximum(h0, 2)
    output, = cell([newest, older])
    torch.testing.assert_close(output, torch.cat([b1, b2, b3, b4], 1), rtol=1e-4, atol=1e-4)


def factorized(x, parts):
    shifted = F.pad(x[..., 1:, 1:], (0, 1, 0, 1))
    return bn(torch.cat([F.conv2d(x[..., ::2, ::2], parts.path_1.weight),
                         F.conv2d(shifted[..., ::2, ::2], parts.path_2.weight)], 1), parts.bn)


@pytest.mark.parametrize('size', [(8, 8), (9, 7)])
def test_normal_cell_behind_a_reduction(size):
    """h1 is twice as large as h0: ReLU and a factorized reduction bring it to h0's size and to F."""
    cell = randomised('nasnet_a', num_cells=1, cell_filters=4, stem='cifar').cells[2]
    older = torch.randn(2, 24, *size)
    newest = torch.randn(2, 32, -(-size[0] // 2), -(-size[1] // 2))
    h0, h1 = conv_bn(newest.relu(), cell.fits[0]), factorized(older.relu(), cell.fits[1].reduce)
    output, = cell([newest, older])
    torch.testing.assert_close(output[:, :8], h1, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(output[:, 24:32], avg(h0) + h1, rtol=1e-4, atol=1e-4)


def test_reduction_cell_that_hands_on_an_input():
    """AmoebaNet-C lists h0 in its reduction cell's output: a factorized reduction without a ReLU."""
    cell = randomised('amoebanet_c', num_cells=1, cell_filters=4, stem='cifar').cells[1]
    assert load_genotype('amoebanet_c').reduction.outputs[0][0] == 'h0'
    newest, older = torch.randn(2, 20, 8, 8), torch.randn(2, 12, 8, 8)
    h0 = conv_bn(newest.relu(), cell.fits[0])
    output, = cell([newest, older])
    assert (h0 < 0).any()
    torch.testing.assert_close(
        output[:, :8], factorized(h0, cell.outputs[0].projections[0].reduce), rtol=1e-4, atol=1e-4)


def test_normal_cell_of_nasnet_b():
    """Every input is fitted, also where it has F channels; sums are layer-normed; four outputs, no concatenation."""
    cell = randomised('nasnet_b', num_cells=2, cell_filters=4, stem='cifar').cells[1]
    inputs = list(torch.randn(4, 2, 4, 6, 6))
    h = [conv_bn(x.relu(), fit) for x, fit in zip(inputs, cell.fits)]
    b = cell.blocks

    def layer_norm(x):
        return (x - x.mean((1, 2, 3), keepdim=True)) / (x.var((1, 2, 3), correction=0, keepdim=True) + 1e-5).sqrt()

    expected = [sep(h[1], b['0'].left, 5) + h[2], sep(h[0], b['1'].left, 5) + sep(h[3], b['1'].right, 3),
                sep(h[1], b['2'].left, 3) + h[3], h[0] + sep(h[1], b['3'].right, 3)]
    for output, x in zip(cell(inputs), expected):
        torch.testing.assert_close(output, layer_norm(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('name', ['nasnet_a', 'pnasnet5'])
def test_a_pool_of_a_state_is_computed_once(name):
    """NASNet-A adds the average of h1 to itself and PNASNet takes the maximum of h0 twice; each pools h0 and h1."""
    model = compile_genotype(name, num_cells=2, cell_filters=4, stem='cifar', num_classes=3)
    pools = [module for module in model.cells[1].modules() if isinstance(module, (nn.AvgPool2d, nn.MaxPool2d))]
    assert len(pools) == 2


def test_each_use_of_a_shared_pool_has_its_own_drop_path():
    cell = dict(blocks=[dict(left=['avg_pool_3x3', 'h0'], right=['avg_pool_3x3', 'h0'], combine='add')],
                outputs=[['b0']])
    genotype = load_genotype(dict(format=1, name='pools', inputs=1, normal=cell, reduction=cell))
    torch.manual_seed(0)
    model = compile_genotype(genotype, num_cells=1, cell_filters=2, stem='cifar', num_classes=3, drop_path_rate=0.5)
    model.set_drop_path_progress(1.)
    last = model.cells[-1].train()
    sums = []
    last.register_forward_hook(lambda module, args, outputs: sums.append(outputs[0]))
    model.train()(torch.randn(64, 3, 8, 8))
    zero = (sums[0].flatten(1) == 0).all(1).float().mean()
    assert 0.1 < zero < 0.4, 'both are dropped for a quarter of the examples, not for half of them'

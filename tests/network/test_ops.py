"""Operations and combines against their definitions, computed another way."""
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from nasnet_zoo.genotype.operations import COMBINES, OPERATIONS
from nasnet_zoo.network.cell import drop_path
from nasnet_zoo.network.ops import LayerArgs, build_combine, build_operation

SIZES = [(8, 8), (9, 9), (7, 10), (1, 1), (2, 3)]


def same_pool(x, kernel, stride, mode, outside):
    """TensorFlow SAME pooling written out, a window at a time; `outside` is what lies beyond the border, or None."""
    height, width = x.shape[-2:]
    pads = [max((-(-n // stride) - 1) * stride + kernel - n, 0) // 2 for n in (height, width)]
    rows = []
    for i in range(-(-height // stride)):
        row = []
        for j in range(-(-width // stride)):
            values = []
            for di in range(kernel):
                for dj in range(kernel):
                    y, z = i * stride + di - pads[0], j * stride + dj - pads[1]
                    if 0 <= y < height and 0 <= z < width:
                        values.append(x[..., y, z])
                    elif outside is not None:
                        values.append(torch.full_like(x[..., 0, 0], outside))
            values = torch.stack(values)
            row.append(values.mean(0) if mode == 'avg' else values.amax(0))
        rows.append(torch.stack(row, -1))
    return torch.stack(rows, -2)


@pytest.mark.parametrize('size', SIZES)
@pytest.mark.parametrize('stride', [1, 2])
@pytest.mark.parametrize('mode, kernel', [('avg', 3), ('max', 2), ('max', 3), ('max', 5), ('max', 7)])
@pytest.mark.parametrize('rule', ['tf', 'timm', 'keras'])
def test_pools(rule, mode, kernel, stride, size):
    outside = None
    if stride == 2 and ((rule == 'timm' and mode == 'avg') or rule == 'keras'):
        outside = 0.
    x = torch.randn(2, 3, *size) - 1  # mostly negative, so that a zero beyond the border shows in a maximum
    op = build_operation(f'{mode}_pool_{kernel}x{kernel}', 3, 3, stride, LayerArgs(pool_padding=rule))
    torch.testing.assert_close(op(x), same_pool(x, kernel, stride, mode, outside))


@pytest.mark.parametrize('op', OPERATIONS)
@pytest.mark.parametrize('channels', [(4, 8), (8, 8), (8, 1), (1, 3)])
@pytest.mark.parametrize('padding', ['same', 'symmetric'])
def test_shapes_and_gradients(op, channels, padding):
    in_chs, out_chs = channels
    for stride in (1, 2):
        for height, width in SIZES:
            module = build_operation(op, in_chs, out_chs, stride, LayerArgs(padding=padding))
            y = module(torch.randn(2, in_chs, height, width, requires_grad=True))
            assert y.shape == (2, out_chs, -(-height // stride), -(-width // stride))
        if OPERATIONS[op].reads_state:
            y.sum().backward()
        assert all(p.grad is not None for p in module.parameters())


# DARTS's own layers (quark0/darts, cnn/operations.py) without their ReLU and batch norm
SYMMETRIC = {
    'max_pool_3x3': lambda weights: nn.MaxPool2d(3, 2, 1),
    'avg_pool_3x3': lambda weights: nn.AvgPool2d(3, 2, 1, count_include_pad=False),
    'dil_sep_conv_5x5': lambda weights: lambda x: F.conv2d(
        F.conv2d(x, weights[0], None, 2, 4, 2, len(weights[0])), weights[1]),
    'conv_7x1_1x7': lambda weights: lambda x: F.conv2d(
        F.conv2d(x, weights[0], None, (1, 2), (0, 3)), weights[1], None, (2, 1), (3, 0)),
}


@pytest.mark.parametrize('op', SYMMETRIC)
@pytest.mark.parametrize('size', SIZES)
def test_symmetric_padding(op, size):
    module = build_operation(op, 3, 3, 2, LayerArgs(padding='symmetric', bn_eps=1e-12)).eval()
    x = torch.randn(2, 3, *size)
    weights = [layer.weight for layer in module if isinstance(layer, nn.Conv2d)]
    torch.testing.assert_close(module(x), SYMMETRIC[op](weights)(x))


def test_symmetric_padding_of_zeros_that_count():
    x = torch.randn(2, 3, 8, 8) - 1
    for mode, rule in (('avg', 'timm'), ('avg', 'keras'), ('max', 'keras')):
        op = build_operation(f'{mode}_pool_3x3', 3, 3, 2, LayerArgs(pool_padding=rule, padding='symmetric'))
        pool = F.avg_pool2d if mode == 'avg' else F.max_pool2d
        torch.testing.assert_close(op(x), pool(F.pad(x, (1, 1, 1, 1)), 3, 2))


def test_none_gives_zeros():
    for stride, shape in ((1, (2, 5, 7, 4)), (2, (2, 5, 4, 2))):
        y = build_operation('none', 3, 5, stride, LayerArgs())(torch.full((2, 3, 7, 4), float('nan')))
        assert y.shape == shape and not y.any()


def test_identity_is_one_where_it_can_be():
    for name in ('identity', 'factorized_identity'):
        assert isinstance(build_operation(name, 4, 4, 1, LayerArgs()), torch.nn.Identity)
        assert isinstance(build_operation(name, 4, 4, 2, LayerArgs()), torch.nn.Sequential)
        assert isinstance(build_operation(name, 4, 8, 1, LayerArgs()), torch.nn.Sequential)


@pytest.mark.parametrize('op', OPERATIONS)
@pytest.mark.parametrize('shape', [(4, 4, 1), (4, 8, 1), (4, 4, 2), (4, 8, 2)])
def test_rows_say_what_modules_are(op, shape):
    """The plan believes the row: whether there are weights, and whether the cell must apply a ReLU before."""
    module = build_operation(op, *shape, LayerArgs())
    row = OPERATIONS[op]
    assert row.has_weights.holds(*shape) == any(True for _ in module.parameters())
    if row.pre_activation.holds(*shape):
        assert row.has_weights.holds(*shape) and not isinstance(next(module.children()), torch.nn.ReLU)


@pytest.mark.parametrize('combine', COMBINES)
def test_width_and_symmetry_of_combines(combine):
    row, (left, right) = COMBINES[combine], torch.randn(2, 2, 4, 3, 5)
    module = build_combine(combine, 4, LayerArgs())
    y, swapped = module(left, right), module(right, left)
    assert y.shape == (2, 4 * row.width, 3, 5)
    assert torch.equal(y, swapped) == row.is_symmetric
    assert torch.equal(y.sort(1)[0], swapped.sort(1)[0]) == row.is_symmetric_up_to_channels


def kernels(op, filters, stride=1):
    module = build_operation(op, 6, filters, stride, LayerArgs())
    convs = [m for m in module.modules() if isinstance(m, torch.nn.Conv2d)]
    return [(m.in_channels, m.out_channels, m.kernel_size, m.stride, m.groups) for m in convs]


def test_convolutions_are_googles():
    assert kernels('sep_conv_5x5', 8, 2) == [
        (6, 6, (5, 5), (2, 2), 6), (6, 8, (1, 1), (1, 1), 1), (8, 8, (5, 5), (1, 1), 8), (8, 8, (1, 1), (1, 1), 1)]
    assert kernels('conv_1x7_7x1', 8, 2) == [
        (6, 2, (1, 1), (1, 1), 1), (2, 2, (1, 7), (1, 2), 1), (2, 2, (7, 1), (2, 1), 1), (2, 8, (1, 1), (1, 1), 1)]
    assert kernels('conv_1x3_3x1', 9, 1)[1] == (3, 3, (1, 3), (1, 1), 1)  # int(3 · 9 / 8)
    assert kernels('conv_3x3', 3, 2) == [(6, 3, (3, 3), (2, 2), 1)]  # int(3 / 4) filters are no bottleneck
    dilated = build_operation('dil_conv_3x3', 8, 8, 1, LayerArgs())
    assert [m.dilation for m in dilated if isinstance(m, torch.nn.Conv2d)] == [(1, 1), (2, 2), (1, 1)]


def test_same_padding_is_tensorflows():
    operation = build_operation('sep_conv_3x3', 1, 1, 2, LayerArgs())
    weight = operation.dw1.weight.data = torch.arange(9.).view(1, 1, 3, 3)
    conv = LayerArgs().conv(1, 1, 3, stride=2)  # the same as a single layer
    conv.weight.data = weight
    x = torch.randn(1, 1, 6, 7)
    # an even side is padded after the last pixel only, an odd one on both ends
    expected = F.conv2d(F.pad(x, (1, 1, 0, 1)), weight, stride=2)
    torch.testing.assert_close(operation.dw1(operation.dw1_pad(x)), expected)
    torch.testing.assert_close(conv(x), expected)


@pytest.mark.parametrize('op', OPERATIONS)
def test_layers_with_weights_are_pytorchs_own(op):
    for shape in ((4, 4, 1), (4, 8, 1), (4, 4, 2), (4, 8, 2)):
        for layer in build_operation(op, *shape, LayerArgs()).modules():
            assert not list(layer.parameters(recurse=False)) or type(layer) in (nn.Conv2d, nn.BatchNorm2d)


def test_factorized_reduction_shifts_its_second_path():
    module = build_operation('factorized_identity', 2, 5, 2, LayerArgs()).reduce.eval()
    assert (module.path_1.out_channels, module.path_2.out_channels) == (2, 3)
    x = torch.randn(1, 2, 5, 6)
    shifted = torch.zeros_like(x)
    shifted[..., :-1, :-1] = x[..., 1:, 1:]
    y = torch.cat([F.conv2d(x[..., ::2, ::2], module.path_1.weight),
                   F.conv2d(shifted[..., ::2, ::2], module.path_2.weight)], 1)
    torch.testing.assert_close(module(x), module.bn(y))


@pytest.mark.parametrize('name, dims', [('add_layer_norm', (1, 2, 3)), ('add_instance_norm', (2, 3))])
def test_norms_of_examples(name, dims):
    module = build_combine(name, 4, LayerArgs())
    torch.nn.init.normal_(module.norm.weight)
    torch.nn.init.normal_(module.norm.bias)
    scale, shift = (p[:, None, None] for p in (module.norm.weight, module.norm.bias))
    left, right = torch.randn(2, 2, 4, 3, 5) * 3
    both = left + right
    normal = (both - both.mean(dims, keepdim=True)) / (both.var(dims, correction=0, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(module(left, right), normal * scale + shift)


def test_norm_of_a_single_number_is_scale_and_shift():
    norm = build_combine('add_instance_norm', 4, LayerArgs()).norm
    torch.nn.init.normal_(norm.weight)
    x = torch.randn(1, 4, 1, 1)
    torch.testing.assert_close(norm(x), x * norm.weight[:, None, None])
    assert build_combine('add_layer_norm', 1, LayerArgs())(x[:, :1], x[:, :1]).shape == (1, 1, 1, 1)


def test_drop_path_drops_examples_and_keeps_the_mean():
    torch.manual_seed(0)
    x = drop_path(torch.ones(4000, 2, 3, 3), torch.tensor(0.3))
    per_example = x.flatten(1)
    assert (per_example == per_example[:, :1]).all()
    assert abs((per_example[:, 0] == 0).float().mean() - 0.3) < 0.03
    torch.testing.assert_close(x.max(), torch.tensor(1 / 0.7))
    torch.testing.assert_close(drop_path(x, torch.tensor(0.)), x)

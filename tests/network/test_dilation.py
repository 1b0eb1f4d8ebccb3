"""Dilated networks: at every pixel that the same network without dilation has, they compute the same."""
import pytest
import timm
import torch
from torch import nn

from helpers.networks import GENOTYPES, small
from nasnet_zoo import compile_genotype
from nasnet_zoo.genotype.operations import COMBINE_NAMES, OP_NAMES, OPERATIONS, Operation, register_operation

# A cell reads features from before two reductions, each of its operations reads an input and a block, and each combine
# stands behind one of them.
_OPS = [[op, state] for op in OP_NAMES for state in ('h5', 'b0')]
_CELL = dict(blocks=[
    dict(left=['sep_conv_3x3', 'h0'], right=['identity', 'h1'], combine='add'),
    *(dict(left=left, right=['identity', 'h0'], combine=COMBINE_NAMES[i % len(COMBINE_NAMES)])
      for i, left in enumerate(_OPS) if left[1] == 'h5'),
    *(dict(left=left, right=['identity', 'b0'], combine='add') for left in _OPS if left[1] == 'b0')],
    outputs=[[*(f'b{i}' for i in range(len(_OPS) + 1)), 'h0', 'h3']])
EVERYTHING = dict(format=1, name='everything', inputs=6, fit='changed', normal=_CELL, reduction=_CELL)


def pair(genotype, output_stride, **kwargs):
    """The same network without and with dilation."""
    plain = small(genotype, cell_filters=4, **kwargs)
    dilated = compile_genotype(**dict(plain.config, output_stride=output_stride))
    dilated.load_state_dict(plain.state_dict())
    return plain, dilated.train(plain.training)


def check_equal(plain, dilated, x, tolerance=2e-5):
    strides = [tap.reduction for tap in plain.plan.taps]
    with torch.no_grad():
        taps = [model.forward_intermediates(x, intermediates_only=True) for model in (plain, dilated)]
    for expected, features, stride in zip(*taps, strides):
        every = max(1, stride // dilated.skeleton.output_stride)
        sampled = features[..., ::every, ::every]
        assert sampled.shape == expected.shape
        assert (sampled - expected).abs().max() <= tolerance * expected.abs().max(), (x.shape, stride)


@pytest.mark.parametrize('pool_padding', ['tf', 'timm', 'keras'])
@pytest.mark.parametrize('output_stride', [1, 2])
def test_every_operation(pool_padding, output_stride):
    plain, dilated = pair(EVERYTHING, output_stride, pool_padding=pool_padding)
    for size in ((12, 9), (5, 6), (2, 1)):
        check_equal(plain.double(), dilated.double(), torch.randn(1, 3, *size, dtype=torch.float64), 1e-9)


@pytest.mark.parametrize('genotype', GENOTYPES)
@pytest.mark.parametrize('output_stride', [8, 16])
def test_every_genotype(genotype, output_stride):
    plain, dilated = pair(genotype, output_stride, stem='imagenet')
    for size in ((64, 47), (75, 90)):
        check_equal(plain.double(), dilated.double(), torch.randn(1, 3, *size, dtype=torch.float64), 1e-9)


@pytest.mark.parametrize('stem, output_stride', [('darts_imagenet', 8), ('darts_imagenet', 16), ('darts_cifar', 1)])
def test_symmetric_padding(stem, output_stride):
    plain, dilated = pair('fair_darts_b', output_stride, stem=stem)
    for size in ((64, 47), (75, 90)):
        check_equal(plain.double(), dilated.double(), torch.randn(1, 3, *size, dtype=torch.float64), 1e-9)


@pytest.mark.parametrize('genotype, kwargs', [
    ('darts_v2', dict(stem='darts_imagenet')), ('nasnet_a', dict(stem='imagenet', padding='symmetric'))])
def test_pools_that_count_zeros(genotype, kwargs):
    plain, dilated = pair(genotype, 8, pool_padding='keras', **kwargs)
    for size in ((64, 47), (75, 90)):
        check_equal(plain.double(), dilated.double(), torch.randn(1, 3, *size, dtype=torch.float64), 1e-9)


def test_an_empty_batch():
    _, dilated = pair('nasnet_b', 2)
    assert dilated(torch.zeros(0, 3, 16, 16)).shape == (0, 7)


def test_training():
    # In training, faster functions are used for the layers; batch norms see other pixels in a dilated network.
    plain, dilated = pair('nasnet_a', 2, aux_head=True)
    for norm in (m for model in (plain, dilated) for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
        norm.momentum, norm.forward = 0., nn.Identity().forward
    x = torch.randn(2, 3, 12, 9)
    for model in (plain.train(), dilated.train()):
        states = model._forward_states(x, len(model.cells))
        every = 1 if model is plain else 2
        model._read(states, model.plan.final)[..., ::every, ::every].square().mean().backward()
    for (name, expected), parameter in zip(plain.named_parameters(), dilated.parameters()):
        if expected.grad is not None:
            torch.testing.assert_close(parameter.grad, expected.grad, rtol=1e-3, atol=1e-6 * expected.grad.abs().max(),
                                       msg=name)
    logits, aux = dilated(x)
    assert logits.shape == aux.shape == (2, 7)


def test_interface():
    model = timm.create_model('nasnet_a_mobile', num_cells=1, cell_filters=4, output_stride=8, features_only=True)
    assert model.feature_info.reduction() == [2, 4, 8, 8, 8]
    assert [f.shape[2:] for f in model(torch.randn(1, 3, 64, 96))][2:] == [(8, 12)] * 3
    for args in (dict(), dict(output_stride=32), dict(output_stride=None)):
        assert compile_genotype(num_cells=1, cell_filters=4, **args).feature_info[-1]['reduction'] == 32
    dilated = compile_genotype(num_cells=1, cell_filters=4, output_stride=16)
    assert dilated.pretrained_cfg['pool_size'] == (14, 14)
    again = compile_genotype(**{**dilated.config, 'output_stride': 32})  # an argument beside a stored configuration
    assert again.skeleton.output_stride == 32
    scripted = torch.jit.script(dilated.eval())
    x = torch.randn(1, 3, 40, 40)
    torch.testing.assert_close(scripted(x), dilated(x))


def test_operations_of_ones_own():
    def convs(in_chs, out_chs, stride, args):
        return nn.Sequential(args.conv(in_chs, in_chs, 3), args.conv(in_chs, out_chs, 3, stride, dilation=2),
                             nn.AvgPool2d(3, 1, 1), args.conv(out_chs, out_chs, 5))

    class Strided(nn.Conv2d):
        pass

    cell = dict(blocks=[dict(left=['convs', 'h0'], right=['convs', 'h1'], combine='add')], outputs=[['b0']])
    genotype = dict(format=1, name='own', inputs=2, fit='changed', normal=cell, reduction=cell)
    try:
        register_operation(Operation('convs', convs, 'convs', 'conv'))
        plain, dilated = pair(genotype, 1)
        check_equal(plain, dilated, torch.randn(1, 3, 9, 14))
        for name, layer in (
                ('Strided', lambda i, o, stride, args: Strided(i, o, 1, stride)),
                ('Conv2d', lambda i, o, stride, args: nn.Conv2d(i, o, 3, stride, 1, padding_mode='reflect')),
                ('Conv2d', lambda i, o, stride, args: nn.Sequential(
                    nn.Conv2d(i, i, 3, padding='same'), nn.Conv2d(i, o, 1, stride))),
                ('AvgPool2d', lambda i, o, stride, args: nn.Sequential(
                    nn.AvgPool2d(3, stride, 1, divisor_override=4), nn.Conv2d(i, o, 1))),
                ('GroupNorm', lambda i, o, stride, args: nn.Sequential(nn.GroupNorm(2, i), nn.Conv2d(i, o, 1, stride))),
                ('AdaptiveAvgPool2d', lambda i, o, stride, args: nn.Sequential(
                    nn.Conv2d(i, o, 1, stride), nn.AdaptiveAvgPool2d(1)))):
            OPERATIONS['convs'] = Operation('convs', layer, 'convs', 'conv')
            with pytest.raises(ValueError, match=f'output_stride: {name} cannot be dilated here; use the convolutions'):
                pair(genotype, 1)
    finally:
        del OPERATIONS['convs']

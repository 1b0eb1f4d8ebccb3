"""Modules of one's own become part of the graph, and what has no rule is named."""
import operator

import numpy as np
import pytest
import timm
import torch
from timm import layers
from timm.layers import adaptive_avgmax_pool as pools
from timm.utils.model import freeze, reparameterize_model
from torch import nn
from torch.nn import functional as F

from helpers.networks import difference, small
from nasnet_zoo import optimize_for_inference
from nasnet_zoo.graph.ir import Node
from nasnet_zoo.graph.lower import LOWERINGS, lower


class Scaled(nn.Module):
    """The example of lower.py."""

    def __init__(self, channels):
        super().__init__()
        self.scale = nn.Parameter(torch.rand(channels))

    def forward(self, x):
        return x * self.scale[:, None, None]


class LoweredScaled(Scaled):
    def lower(self, x: Node) -> Node:
        scale = self.scale.detach().cpu().double()
        return x.then('affine', dict(scale=scale, shift=torch.zeros_like(scale)))


class Twice(nn.Module):
    """Needs no rule: it consists of what has one."""

    def forward(self, x):
        return x + x


def same_as_the_network(model):
    x = torch.randn(2, 3, 16, 16)
    with torch.inference_mode():
        return difference(optimize_for_inference(model, check=False)(x), model(x)) < 1e-5


def with_module(module, genotype='nasnet_a'):
    model = small(genotype)
    model.stem.bn = nn.Sequential(model.stem.bn, module).eval()
    return model


def test_a_module_with_a_rule_of_its_own():
    assert same_as_the_network(with_module(LoweredScaled(18)))
    assert same_as_the_network(with_module(nn.Sequential(Twice(), LoweredScaled(18), nn.Dropout())))


def test_a_module_with_a_row_in_the_table(monkeypatch):
    monkeypatch.setitem(LOWERINGS, Scaled, lambda x, module: LoweredScaled.lower(module, x))
    assert same_as_the_network(with_module(Scaled(18)))


def test_the_table_goes_before_the_method(monkeypatch):
    monkeypatch.setitem(LOWERINGS, LoweredScaled, lambda x, module: x)
    assert not same_as_the_network(with_module(LoweredScaled(18)))


class Shape(nn.Module):
    def forward(self, x):
        return x if x.shape[2] > 4 else 2 * x


class Join(nn.Module):
    def forward(self, x):
        return torch.cat([x, x], 2)


@pytest.mark.parametrize('module, message', [
    (nn.InstanceNorm2d(18), r'model\.stem\.bn\.1: InstanceNorm2d is a layer without a lowering rule; give the class'),
    (Scaled(18), r'model\.stem\.bn\.1: calls getitem, which has no lowering rule; .*LOWERINGS'),
    (nn.Sequential(nn.ReLU(), nn.PReLU()), r'model\.stem\.bn\.1\.1: PReLU is a layer'),
    (layers.norm_act.FrozenBatchNormAct2d(18, act_layer=nn.SiLU), r'model\.stem\.bn\.1: SiLU is a layer without a'),
    (Shape(), r'model\.stem\.bn\.1: its forward cannot be traced .*; give the class'),
    (Join(), r'model\.stem\.bn\.1: torch\.cat has a lowering rule for channels only, dim=1, not for dim=2'),
    (nn.Conv2d(18, 18, 3, padding='same'), r"model\.stem\.bn\.1: Conv2d has padding='same'"),
    (nn.BatchNorm2d(18, track_running_stats=False), r'model\.stem\.bn\.1: BatchNorm2d without running statistics'),
    (nn.MaxPool2d(3, 1, ceil_mode=True), r'model\.stem\.bn\.1: MaxPool2d with ceil_mode'),
])
def test_what_has_no_rule_is_named(module, message):
    with pytest.raises(TypeError, match=message):
        lower(with_module(module))


WIDTH = 24
_BLOCK = dict(left=['sep_conv_3x3', 'h0'], right=['max_pool_3x3', 'h1'], combine='add')
_CELL = dict(blocks=[_BLOCK], outputs=[['b0']])
ONE_BLOCK = dict(format=1, name='one_block', inputs=2, fit='changed', normal=_CELL, reduction=_CELL)


class Overridden(LoweredScaled):
    """Inherits a `lower` that does not belong to its forward."""

    def forward(self, x):
        return super().forward(x) + 1


class Compute(nn.Module):
    """Code of one's own, as a module."""

    def __init__(self, function):
        super().__init__()
        self.function, self.relu, self.scale = function, nn.ReLU(inplace=True), nn.Parameter(torch.ones(1, 18, 1, 1))

    def forward(self, x):
        return self.function(self, x)


class Lower(nn.Module):
    lower = 0.5  # a setting, not a rule

    def forward(self, x):
        return x.clamp(min=self.lower)


class NoNode(nn.Module):
    def forward(self, x):
        return x

    def lower(self, x):
        return [x]


def norms():
    """Norms that are converted by timm or torchvision, with numbers in them."""
    norm = small('nasnet_a').stem.bn
    act = layers.BatchNormAct2d(18).eval()
    act.load_state_dict(norm.state_dict())
    for module in (norm, act):
        for convert in (layers.freeze_batch_norm_2d, layers.convert_sync_batchnorm, layers.convert_splitbn_model,
                        lambda module: module):
            yield convert(module).eval()


def features():
    """Modules of features [B, 18, H, W]."""
    return [
        *norms(), layers.norm_act.BatchNormAct2d(18, act_layer=nn.GELU), nn.BatchNorm2d(18, affine=False),
        nn.BatchNorm2d(18, track_running_stats=False), nn.InstanceNorm2d(18), nn.InstanceNorm2d(18, affine=True),
        nn.GroupNorm(2, 18), nn.LayerNorm(16), nn.LocalResponseNorm(2), layers.LayerNorm2d(18),
        nn.Identity(), nn.Dropout(), nn.Dropout2d(), nn.AlphaDropout(), layers.DropPath(0.5), nn.ReLU(inplace=True),
        nn.ReLU6(), nn.SiLU(), nn.GELU(), nn.Hardswish(), nn.PReLU(), nn.LeakyReLU(), nn.Softmax2d(), nn.CELU(),
        nn.Conv2d(18, 18, 3), nn.Conv2d(18, 18, 3, 2, 1, groups=2), nn.Conv2d(18, 18, 3, padding='same'),
        nn.Conv2d(18, 18, 3, padding=1, padding_mode='reflect'),
        nn.Conv2d(18, 18, (3, 1), padding=(1, 0), dilation=(2, 1)),
        nn.ConvTranspose2d(18, 18, 2, 2), layers.Conv2dSame(18, 18, 3, 2), layers.StdConv2d(18, 18, 1),
        nn.AvgPool2d(3, 1, 1), nn.AvgPool2d(3, 2, 1, count_include_pad=False), nn.AvgPool2d((2, 3)),
        nn.AvgPool2d(3, 2, ceil_mode=True), nn.AvgPool2d(2, 1, 1, divisor_override=3), nn.MaxPool2d(3, 2, 1),
        nn.MaxPool2d((3, 1), (2, 1)), nn.MaxPool2d(3, 1, 1, 2), nn.MaxPool2d(3, 2, ceil_mode=True),
        nn.MaxPool2d(3, 1, 1, 1, return_indices=True),
        nn.LPPool2d(2, 2), nn.AdaptiveAvgPool2d(8), nn.AdaptiveMaxPool2d((8, 9)), nn.Upsample(scale_factor=2),
        nn.PixelShuffle(3), nn.ZeroPad2d(1), nn.ReflectionPad2d(1), nn.ChannelShuffle(2), nn.Linear(16, 16),
        layers.SEModule(18), layers.BlurPool2d(18, stride=2), layers.SelectAdaptivePool2d(8, 'avg'), Overridden(18),
        nn.Sequential(nn.Conv2d(18, 9, 1), nn.Conv2d(9, 18, 1)), nn.ModuleList([nn.ReLU()]), Lower(), NoNode(),
        torch.ao.quantization.QuantStub(), torch.jit.script(nn.ReLU()),
        torch.fx.symbolic_trace(nn.Sequential(nn.ReLU())),
        *map(Compute, [
            lambda m, x: x, lambda m, x: x + 1, lambda m, x: x + x.relu(), lambda m, x: x * m.scale, lambda m, x: -x,
            lambda m, x: x + m.scale, lambda m, x: torch.add(x, x, alpha=2), lambda m, x: torch.add(x, other=F.relu(x)),
            lambda m, x: F.relu(x, True) + x, lambda m, x: (F.relu(x, inplace=True), x)[1] + x,
            lambda m, x: (m.relu(x), x)[1], lambda m, x: m.relu(input=x) + torch.relu(x), lambda m, x: F.relu(input=x),
            lambda m, x: torch.relu_(x), lambda m, x: x.add_(x), lambda m, x: operator.iadd(x, x),
            lambda m, x: (operator.iadd(x, F.relu(x)), x)[1],
            lambda m, x: torch.cat([x, x], -3), lambda m, x: torch.cat((x, x), axis=1)[:, :18],
            lambda m, x: torch.cat(tensors=[x], dim=1), lambda m, x: torch.cat([x, m.scale.expand_as(x)], 1)[:, 9:27],
            lambda m, x: x.chunk(2, 1)[0].repeat(1, 2, 1, 1), lambda m, x: x[:, torch.arange(17, -1, -1)],
            lambda m, x: x + x.mean((2, 3), keepdim=True), lambda m, x: x + F.adaptive_avg_pool2d(x, 1),
            lambda m, x: x + nn.AdaptiveAvgPool2d(1)(x), lambda m, x: x if x.shape[2] > 4 else 2 * x,
            lambda m, x: x if x.mean() > 0 else -x, lambda m, x: torch.stack(list(x)), lambda m, x: x * len(x),
            lambda m, x: m.relu(x, None), lambda m, x: F.dropout(x, training=m.training), lambda m, x: x.float(),
            lambda m, x: x.contiguous(memory_format=torch.channels_last), lambda m, x: dict(x=x)['x'],
            lambda m, x: {'x': x}.get('y', x), lambda m, x: torch.zeros(x.shape), lambda m, x: x @ x.transpose(2, 3),
            lambda m, x: F.conv2d(x, m.scale.expand(18, 18, 1, 1)), lambda m, x: F.interpolate(x, scale_factor=2.),
            lambda m, x: np.abs(x), lambda m, x: x.detach().numpy(), lambda m, x: [x][1], lambda m, x: {}[x],
            lambda m, x: nn.Linear.forward(m, x), lambda m, x: m.missing(x), lambda m, x: None,
        ]),
    ]


def heads():
    """Modules of vectors [B, WIDTH], in the place of the classifier."""
    return [
        nn.Sequential(nn.Linear(WIDTH, 9), nn.BatchNorm1d(9), nn.ReLU(), nn.Dropout(), nn.Linear(9, 7)), nn.Identity(),
        nn.Sequential(nn.Flatten(), nn.Linear(WIDTH, 7, bias=False)), nn.Bilinear(WIDTH, WIDTH, 7), nn.LayerNorm(WIDTH),
        nn.Softmax(1), nn.Unflatten(1, (6, 4)), nn.Flatten(0), nn.Conv2d(WIDTH, 7, 1), nn.EmbeddingBag(3, 4),
        nn.MultiheadAttention(WIDTH, 2), nn.LSTM(WIDTH, 7), nn.TransformerEncoderLayer(WIDTH, 2, 9), layers.Mlp(WIDTH),
        *map(Compute, [lambda m, x: (x, x), lambda m, x: torch.cat([x, x], dim=-1), lambda m, x: F.normalize(x),
                       lambda m, x: torch.flatten(x, 1), lambda m, x: x.softmax(1), lambda m, x: {'logits': x},
                       lambda m, x: F.relu_(x) + x, lambda m, x: x.view(-1, 6, 4)]),
    ]


def pools_and_flattens():
    """Modules of features [B, WIDTH, H, W], in the place of the pool."""
    return [
        *(layers.SelectAdaptivePool2d(pool_type=name, flatten=True) for name in (
            'avg', 'max', 'avgmax', 'fastavg', 'fastmax', 'fastavgmax')),
        nn.Sequential(nn.AdaptiveMaxPool2d(1), nn.ReLU(inplace=True), nn.Flatten()), nn.Flatten(),
        nn.AdaptiveAvgPool2d(2),
        nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * WIDTH, WIDTH)),
        nn.AdaptiveAvgPool2d((1, None)),
        nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(WIDTH, WIDTH, 1), nn.BatchNorm2d(WIDTH), nn.Flatten()),
        nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(WIDTH, WIDTH, 3, padding=1), nn.Flatten()),
        nn.AdaptiveMaxPool2d(1, return_indices=True),
        nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(2)),
        pools.FastAdaptiveAvgPool(flatten=True), pools.FastAdaptiveAvgPool(True, 'NHWC'),
        *map(Compute, [lambda m, x: x.mean((2, 3)), lambda m, x: F.adaptive_avg_pool2d(x, 1).flatten(1),
                       lambda m, x: torch.flatten(nn.AdaptiveAvgPool2d(1)(x), 1)]),
    ]


def result(model, x):
    """The logits of a network; None if it does not compute any."""
    try:
        with torch.no_grad():
            logits = model(x)
    except Exception:
        return None
    return logits if isinstance(logits, torch.Tensor) else None


@pytest.mark.filterwarnings('ignore:.*torch.jit.script')
@pytest.mark.parametrize('path, modules, num_exact', [
    ('stem.bn.1', features, 38), ('head.fc', heads, 5), ('head.global_pool', pools_and_flattens, 10)])
def test_any_module_is_computed_exactly_or_refused_by_name(path, modules, num_exact):
    found, x, model = 0, torch.randn(2, 3, 16, 16), with_module(nn.Identity(), ONE_BLOCK)
    for i, module in enumerate(modules()):
        model.set_submodule(path, module)
        expected = result(model.eval(), x)
        try:
            logits = optimize_for_inference(model, check=False)(x)
        except TypeError as error:
            assert str(error).startswith(f'model.{path}') or expected is None, (i, module, str(error))
        else:
            assert difference(logits, expected) < 1e-5, (i, module)
            found += 1
    assert found == num_exact


@pytest.mark.parametrize('convert', [
    layers.freeze_batch_norm_2d, layers.convert_sync_batchnorm, layers.convert_splitbn_model, reparameterize_model,
    lambda model: freeze(model) or model, lambda model: freeze(model, ['stem', 'cells.0']) or model])
def test_networks_that_timm_has_converted(convert):
    assert same_as_the_network(convert(small('nasnet_a')).eval())


def test_what_is_no_network_to_lower():
    with pytest.raises(TypeError, match='must be a network of this package, not a FeatureGetterNet'):
        lower(timm.create_model('nasnet_a_cifar_small', features_only=True).eval())
    with pytest.raises(ValueError, match='training mode'):
        lower(small('nasnet_a').train())

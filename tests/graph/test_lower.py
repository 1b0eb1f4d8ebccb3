"""Modules of one's own become part of the graph, and what has no rule is named."""
import pytest
import timm
import torch
from timm.layers.norm_act import FrozenBatchNormAct2d
from torch import nn

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


def with_module(module):
    model = small('nasnet_a')
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
    (FrozenBatchNormAct2d(18, act_layer=nn.SiLU), r'model\.stem\.bn\.1: SiLU is a layer without a lowering rule'),
    (Shape(), r'model\.stem\.bn\.1: its forward cannot be traced .*; give the class'),
    (Join(), r'model\.stem\.bn\.1: torch\.cat has a lowering rule for channels only, dim=1, not for dim=2'),
    (nn.Conv2d(18, 18, 3, padding='same'), r"model\.stem\.bn\.1: Conv2d has padding='same'"),
    (nn.BatchNorm2d(18, track_running_stats=False), r'model\.stem\.bn\.1: BatchNorm2d without running statistics'),
    (nn.MaxPool2d(3, 1, 1, dilation=2), r'model\.stem\.bn\.1: MaxPool2d with a dilation'),
])
def test_what_has_no_rule_is_named(module, message):
    with pytest.raises(TypeError, match=message):
        lower(with_module(module))


def test_what_is_no_network_to_lower():
    with pytest.raises(TypeError, match='must be a network of this package, not a FeatureGetterNet'):
        lower(timm.create_model('nasnet_a_cifar_small', features_only=True).eval())
    with pytest.raises(ValueError, match='training mode'):
        lower(small('nasnet_a').train())

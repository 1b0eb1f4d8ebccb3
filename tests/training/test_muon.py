"""The faster Muon takes timm's steps."""
import copy
from functools import partial

import pytest
import timm.optim.muon
import torch
from timm.optim import create_optimizer_v2
from timm.optim.muon import Muon
from torch import nn

from nasnet_zoo.training import muon
from nasnet_zoo.training.muon import StackedMuon, stack_matrices


@pytest.fixture(autouse=True)
def exact(monkeypatch):
    """timm orthogonalises in bfloat16, where another order of summation is visible."""
    for module in (timm.optim.muon, muon):
        monkeypatch.setattr(module, 'zeropower_via_newtonschulz', partial(
            module.zeropower_via_newtonschulz, dtype=torch.float64))


def network():
    torch.manual_seed(0)
    return nn.Sequential(  # pairs of equal shapes, a depthwise kernel, norms
        nn.Conv2d(6, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 8, 1), nn.ReLU(),
        nn.Conv2d(8, 8, 1), nn.Conv2d(8, 6, 1), nn.Conv2d(6, 8, 3), nn.Flatten(), nn.Linear(32, 5)
    ).to(memory_format=torch.channels_last)


def train(model, optimizer, steps):
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.randn(4, 6, 8, 8, generator=generator)).square().sum().backward()
        optimizer.step()
    return [p.detach().clone() for p in model.parameters()]


@pytest.mark.parametrize('options', [
    dict(opt='nmuon', weight_decay=0.02), dict(opt='muon', adjust_lr_fn='original'), dict(opt='nmuon', scale_eps=True),
    dict(opt='nmuon', conv_mode='batched'), dict(opt='nadamuon')])
def test_parameters_are_timms(options):
    ours, theirs = network(), network()
    optimizer = stack_matrices(create_optimizer_v2(ours, lr=0.01, momentum=0.95, **options))
    assert isinstance(optimizer, StackedMuon)
    expected = train(theirs, create_optimizer_v2(theirs, lr=0.01, momentum=0.95, **options), 4)
    for p, q in zip(train(ours, optimizer, 4), expected):
        torch.testing.assert_close(p, q)


def test_it_continues_from_timms_state_and_the_other_way_round():
    models = [network() for _ in range(2)]
    optimizers = [Muon(model.parameters(), lr=0.01) for model in models]
    stack_matrices(optimizers[0])
    for model, optimizer in zip(models, optimizers):
        train(model, optimizer, 2)
    states = [copy.deepcopy(optimizer.state_dict()) for optimizer in optimizers]
    for optimizer, state in zip(optimizers, reversed(states)):
        optimizer.load_state_dict(state)
    assert type(optimizers[0]) is StackedMuon
    for p, q in zip(*(train(model, optimizer, 2) for model, optimizer in zip(models, optimizers))):
        torch.testing.assert_close(p, q)


def test_gradients_stay_and_parameters_without_one_are_left_alone():
    model = network()
    optimizer = stack_matrices(Muon(model.parameters(), lr=0.01))
    train(model, optimizer, 2)
    assert all(p.grad is not None for p in model.parameters())
    model[3].weight.grad = None
    before = model[3].weight.detach().clone()
    optimizer.step()
    assert torch.equal(model[3].weight, before)


def test_others_stay_as_they_are():
    optimizer = torch.optim.SGD(network().parameters(), lr=0.1)
    assert type(stack_matrices(optimizer)) is torch.optim.SGD


def test_a_closure_is_called():
    model = network()
    optimizer = stack_matrices(Muon(model.parameters(), lr=0.01))
    train(model, optimizer, 1)
    assert optimizer.step(lambda: 3.) == 3.

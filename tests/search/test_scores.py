"""Scores of untrained networks."""
import math

import pytest
import torch
from torch import nn

from nasnet_zoo import compile_genotype
from nasnet_zoo.search.scores import (
    SCORES,
    grad_norm,
    jacobian,
    log_synflow,
    naswot,
    snip,
    swap,
    synflow,
    zico,
)

LABELS = torch.tensor([0, 1] * 4)
IMAGES = torch.randn(8, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def network(filters=2):
    torch.manual_seed(0)
    return compile_genotype('nasnet_c', num_cells=1, cell_filters=filters, stem='cifar', num_classes=10, in_chans=1,
                            img_size=(8, 8))


def linear(weight):
    model = nn.Sequential(nn.Flatten(), nn.Linear(len(weight[0]), len(weight)))
    model[1].weight.data, model[1].bias.data = torch.tensor(weight), torch.zeros(len(weight))
    return model


@pytest.mark.parametrize('name', SCORES)
def test_a_score_is_a_number_that_depends_on_the_network(name):
    images, labels = IMAGES.repeat(4, 1, 1, 1) + torch.randn(32, 1, 8, 8), LABELS.repeat(4)
    values = [SCORES[name].function(network(filters), images, labels) for filters in (2, 2, 6)]
    assert all(math.isfinite(value) for value in values)
    assert values[0] == values[1] != values[2]


def test_flow_of_a_linear_layer():
    """The gradient of the sum of outputs for an image of ones is 1 for each weight."""
    weight, images = [[1., -2.], [3., 0.5]], torch.randn(8, 1, 1, 2)
    assert synflow(linear(weight), images, LABELS) == pytest.approx(math.log(6.5))
    assert log_synflow(linear(weight), images, LABELS) == pytest.approx(6.5 * math.log(2))


def test_gradients_of_a_linear_layer():
    model, images = linear([[1., -2.], [3., 0.5]]), torch.randn(8, 1, 1, 2)
    loss = nn.functional.cross_entropy(model(images), LABELS)
    grad, = torch.autograd.grad(loss, [model[1].weight])
    assert grad_norm(model, images, LABELS) == pytest.approx(grad.norm().item())
    assert snip(model, images, LABELS) == pytest.approx((grad * model[1].weight).abs().sum().item())


def test_zico_of_gradients_that_do_not_vary():
    images = torch.randn(2, 1, 1, 2).repeat(4, 1, 1, 1)  # four equal batches
    assert zico(linear([[1., -2.], [3., 0.5]]), images, LABELS) == 0.


def test_patterns_of_relus():
    """Two images of opposite signs agree in no unit, and three units have two patterns."""
    model = nn.Sequential(nn.Flatten(), nn.ReLU())
    images = torch.tensor([[1., 1., -1.], [-1., -1., 1.]]).view(2, 1, 1, 3)
    assert naswot(model, images, LABELS[:2]) == pytest.approx(math.log(9))
    assert swap(model, images, LABELS[:2]) == 2


def test_gradients_of_a_linear_network_are_equal_for_all_images():
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 2))
    assert jacobian(linear(torch.randn(2, 64).tolist()), IMAGES, LABELS) < jacobian(model, IMAGES, LABELS)

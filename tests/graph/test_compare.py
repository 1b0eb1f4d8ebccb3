"""The comparison that follows a conversion: what it lets through, what it refuses, and what it says."""
import numpy as np
import pytest
import torch
from torch import nn

from helpers.networks import difference, small
from nasnet_zoo import export_onnx, optimize_for_inference
from nasnet_zoo.deploy.compare import ExportError, check_differences
from nasnet_zoo.graph import compare
from nasnet_zoo.graph.compare import DifferenceError, check_module, relative_difference
from nasnet_zoo.graph.lower import LOWERINGS, lower


@pytest.fixture
def wrong_rule(monkeypatch):
    monkeypatch.setitem(LOWERINGS, nn.Linear, lambda x, m, right=LOWERINGS[nn.Linear]: right(x, m).then('relu'))


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_a_module_that_computes_something_else_is_not_returned(dtype, wrong_rule):
    model = small('nasnet_a').to(dtype)
    with pytest.raises(DifferenceError, match=(
            r'^model: on random images of 8 x 9, the relative difference of the module from the network is '
            r'\d\.\de[+-]0\d, more than 1e-05; does .*LOWERINGS compute something else than its module\? check')):
        optimize_for_inference(model)
    with pytest.raises(DifferenceError, match='images of 16 x 17'):
        optimize_for_inference(model, (16, 17))
    optimize_for_inference(model, check=False)


def no_float64(*args):
    raise AssertionError('the results are close enough')


@pytest.mark.parametrize('genotype', ['nasnet_a', 'nasnet_b', 'nasnet_c'])
def test_no_second_comparison_in_float32(genotype, monkeypatch):
    monkeypatch.setattr(compare, '_is_rounding', no_float64)
    optimize_for_inference(small(genotype))
    optimize_for_inference(small(genotype, stem='imagenet', in_chans=1), 64)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision(dtype):
    for genotype in ('nasnet_a', 'nasnet_c'):
        model, x = small(genotype), torch.randn(2, 3, 16, 16)
        with torch.no_grad():
            exact = model(x)
            assert difference(optimize_for_inference(model.to(dtype))(x.to(dtype)).float(), exact) < 0.1


def test_rounding_in_float32_is_no_difference(monkeypatch):
    model = small('nasnet_a')
    model.stem.conv.bias = nn.Parameter(torch.full([18], 1e4))  # features are small differences of large numbers
    model.stem.bn.running_mean += 1e4
    x = torch.randn(2, 3, 8, 9)
    with torch.no_grad():
        assert difference(optimize_for_inference(model)(x), model(x)) > 1e-5
    monkeypatch.setitem(LOWERINGS, nn.Linear, lambda x, m, right=LOWERINGS[nn.Linear]: right(x, m).replace(
        params=dict(bias=1.1 * m.bias.detach().double())))
    with pytest.raises(DifferenceError):
        optimize_for_inference(model)


def test_logits_that_are_all_zero(tmp_path):
    model = small('nasnet_a')
    nn.init.zeros_(model.head.fc.weight)
    nn.init.zeros_(model.head.fc.bias)
    optimize_for_inference(model)
    assert export_onnx(model, tmp_path / 'm.onnx').differences['random']['relative_difference'] == 0


@pytest.mark.parametrize('value', [float('nan'), float('inf')])
def test_weights_that_are_not_numbers(value, tmp_path):
    model = small('nasnet_a')
    with torch.no_grad():
        model.cells[1].blocks['0'].left.pw1.weight[0] = value
    message = r'^model: returns NaN or infinite .* images: model\.cells\.1\.blocks\.0\.left\.pw1\.weight contains'
    for convert in (optimize_for_inference, lambda model: export_onnx(model, tmp_path / 'm.onnx')):
        with pytest.raises(ValueError, match=message):
            convert(model)
    assert not list(tmp_path.iterdir())


def test_features_that_overflow():
    model = small('nasnet_a').half()
    model.stem.conv.weight.data *= 1e6
    with pytest.raises(ValueError, match=r'model: returns NaN or infinite values for random images: .*'):
        optimize_for_inference(model)


def test_images_that_the_network_cannot_compute():
    model = small('nasnet_a')
    with pytest.raises(ValueError, match='model: cannot compute images of 0 x 0: '):
        check_module(model, model, lower(model), (0, 0))


def test_the_comparison_changes_nothing_else():
    model = small('nasnet_a')
    before = torch.get_rng_state()
    with torch.autocast('cpu'):
        optimize_for_inference(model, 16)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize('got, expected, difference', [
    ([3., 4.], [3., 4.], 0.), ([0., 0.], [0., 0.], 0.), ([0., 1.], [0., 0.], float('inf')), ([3., 0.], [3., 4.], 0.8)])
def test_relative_difference(got, expected, difference):
    assert relative_difference(np.array(got), np.array(expected)) == difference


@pytest.mark.parametrize('value', [float('nan'), float('inf')])
def test_a_file_that_returns_no_numbers_is_refused_in_any_precision(value):
    for precision in ('float32', 'float16', 'int8'):
        with pytest.raises(ExportError, match='m.onnx: on the given images, the relative difference .* is (nan|inf)'):
            check_differences('m.onnx', dict(pictures=dict(relative_difference=value)), precision)

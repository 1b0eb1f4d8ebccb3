"""A few layers quantised to int8 with each setting."""
import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from nasnet_zoo.graph.calibrate import CALIBRATIONS, measure
from nasnet_zoo.graph.compare import relative_difference
from nasnet_zoo.graph.ir import NO_PADDING, Node
from nasnet_zoo.graph.quantize import correct_bias, equalize_channels, quantize
from nasnet_zoo.graph.targets import Quantization
from nasnet_zoo.graph.to_onnx import to_onnx

FEEDS = [np.random.default_rng(i).standard_normal((4, 3, 9, 9), np.float32) for i in range(3)]


def layers():
    """conv → relu → depthwise conv → conv → linear; the channels between the convolutions differ much in size."""
    torch.manual_seed(0)
    conv = dict(stride=(1, 1), dilation=(1, 1), padding=NO_PADDING)
    size = torch.logspace(-1, 1, 8, dtype=torch.float64).view(8, 1, 1, 1)

    def weight(*shape):
        return torch.randn(shape, dtype=torch.float64)
    graph = Node('input', attrs=dict(channels=3)).then(
        'conv', dict(weight=weight(8, 3, 3, 3) * size, bias=weight(8)), groups=1, **conv).then('relu').then(
        'conv', dict(weight=weight(8, 1, 3, 3) / size, bias=weight(8)), groups=8, **conv).then(
        'conv', dict(weight=weight(8, 8, 1, 1), bias=weight(8)), groups=1, **conv).then('global_pool', mode='avg')
    return to_onnx(graph.then('flatten').then('linear', dict(weight=weight(5, 8), bias=weight(5))), [4, 3, 9, 9])


def run(proto):
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=['CPUExecutionProvider'])
    return np.concatenate([session.run(None, {'image': feed})[0] for feed in FEEDS])


@pytest.mark.parametrize('settings, kinds', [
    ({}, {'uint8'}), (dict(activations='int8', symmetric=True), {'int8'}), (dict(symmetric=True), {'uint8'}),
    (dict(calibration='mse', equalize=True, correct_bias=True), {'uint8'}),
    (dict(float_first=True, float_last=True, float_operators=('GlobalAveragePool',)), {'uint8'})])
def test_settings(settings, kinds):
    proto = layers()
    before = proto.SerializeToString()
    quantized = quantize(proto, FEEDS, Quantization((), **settings))
    assert proto.SerializeToString() == before
    onnx.checker.check_model(quantized, full_check=True)
    assert relative_difference(run(quantized), run(proto)) < 0.05
    tensors = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in quantized.graph.initializer}
    zeros = [tensors[node.input[2]] for node in quantized.graph.node if node.op_type == 'QuantizeLinear']
    assert {str(zero.dtype) for zero in zeros} == kinds
    if settings.get('symmetric'):
        assert {int(zero) for zero in zeros} == {0 if kinds == {'int8'} else 128}
    dequantized = {name for node in quantized.graph.node if node.op_type == 'DequantizeLinear' for name in node.output}
    in_int8 = [node.input[1] in dequantized for node in quantized.graph.node if node.op_type in ('Conv', 'Gemm')]
    assert in_int8 == ([False, True, True, False] if settings.get('float_first') else [True] * 4)


def test_equalizing_changes_no_result():
    proto = layers()
    expected = run(proto)
    relus = next(node.output[0] for node in proto.graph.node if node.op_type == 'Relu')
    before = measure(proto, FEEDS)[relus].high
    equalize_channels(proto, measure(proto, FEEDS))
    after = measure(proto, FEEDS)[relus].high
    assert relative_difference(run(proto), expected) < 1e-5
    assert before.max() / before.min() > 20 and after.max() / after.min() == pytest.approx(1, rel=0.05) or (
        after.max() / after.min() < before.max() / before.min() / 20)


def test_corrected_biases_keep_the_means():
    proto = layers()
    features = measure(proto, FEEDS)
    rounded, corrected = layers(), layers()
    correct_bias(corrected, features)
    for model in (rounded, corrected):
        for tensor in model.graph.initializer:
            values = onnx.numpy_helper.to_array(tensor)
            if values.ndim > 1:
                step = np.abs(values).max(axis=tuple(range(1, values.ndim)), keepdims=True) / 127
                tensor.CopyFrom(onnx.numpy_helper.from_array(
                    (step * np.round(values / step)).astype(np.float32), tensor.name))
    expected = run(proto).mean(0)
    assert np.abs(run(corrected).mean(0) - expected).max() < 0.2 * np.abs(run(rounded).mean(0) - expected).max()


def test_ranges():
    features = measure(layers(), FEEDS, histograms=True)['image']
    assert features.counts.sum() == sum(feed.size for feed in FEEDS)
    assert features.mean == pytest.approx(np.concatenate(FEEDS).mean((0, 2, 3)), abs=1e-6)
    ranges = {name: choose(features) for name, choose in CALIBRATIONS.items()}
    low, high = ranges['minmax']
    assert low == np.concatenate(FEEDS).min() and high == np.concatenate(FEEDS).max()
    for name, (first, last) in ranges.items():
        assert low - 1e-6 <= first < 0 < last <= high + 1e-6, name
    assert ranges['percentile_99.9'][1] < ranges['percentile_99.99'][1]

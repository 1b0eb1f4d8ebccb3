"""A few layers quantised to int8 with each setting."""
import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from nasnet_zoo.graph.compare import relative_difference
from nasnet_zoo.graph.ir import NO_PADDING, Node
from nasnet_zoo.graph.quantize import quantize
from nasnet_zoo.graph.targets import Quantization
from nasnet_zoo.graph.to_onnx import to_onnx

FEEDS = [np.random.default_rng(i).standard_normal((4, 3, 9, 9), np.float32) for i in range(3)]


def layers():
    """conv → relu → depthwise conv → conv → linear; the convolutions have the same bias."""
    torch.manual_seed(0)
    conv = dict(stride=(1, 1), dilation=(1, 1), padding=NO_PADDING)
    bias = torch.randn(8, dtype=torch.float64)

    def weight(*shape):
        return torch.randn(shape, dtype=torch.float64)
    graph = Node('input', attrs=dict(channels=3)).then(
        'conv', dict(weight=weight(8, 3, 3, 3), bias=bias), groups=1, **conv).then('relu').then(
        'conv', dict(weight=weight(8, 1, 3, 3), bias=bias), groups=8, **conv).then(
        'conv', dict(weight=weight(8, 8, 1, 1), bias=bias), groups=1, **conv).then('global_pool', mode='avg')
    return to_onnx(graph.then('flatten').then('linear', dict(weight=weight(5, 8), bias=weight(5))), [4, 3, 9, 9])


def run(proto):
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=['CPUExecutionProvider'])
    return np.concatenate([session.run(None, {'image': feed})[0] for feed in FEEDS])


@pytest.mark.parametrize('settings, kinds', [
    ({}, {'uint8'}), (dict(activations='int8', symmetric=True), {'int8'}), (dict(symmetric=True), {'uint8'}),
    (dict(float_ends=True, float_operators=('GlobalAveragePool',)), {'uint8'})])
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
    weights = [tensor for tensor in tensors.values() if tensor.dtype == np.int8 and tensor.ndim > 1]
    assert weights and max(np.abs(weight.astype(int)).max() for weight in weights) == 64
    if settings.get('symmetric'):
        assert {int(zero) for zero in zeros} == {0 if kinds == {'int8'} else 128}
    dequantized = {name for node in quantized.graph.node if node.op_type == 'DequantizeLinear' for name in node.output}
    in_int8 = [node.input[1] in dequantized for node in quantized.graph.node if node.op_type in ('Conv', 'Gemm')]
    assert in_int8 == ([False, True, True, False] if settings.get('float_ends') else [True] * 4)

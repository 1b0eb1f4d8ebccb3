"""Static quantisation of an ONNX model to int8 with ONNX Runtime's tool."""
import copy
import logging
import tempfile
from pathlib import Path
from typing import Dict, List, Optional, Sequence, Set

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from .targets import Quantization

__all__ = ['quantize']

_TYPES = {'uint8': QuantType.QUInt8, 'int8': QuantType.QInt8}


def quantize(proto: onnx.ModelProto, feeds: Sequence[np.ndarray], settings: Quantization) -> onnx.ModelProto:
    """The model with features in 8 bits and weights in 7.

    Weights have a scale for each output channel, features one scale for each feature map: it covers the range of values
    that occur for `feeds`. Weights use 7 of the 8 bits, so that the sum of two products fits into 16 bits: processors
    with AVX2 or AVX-512 but without VNNI cut off larger sums, which costs several points of accuracy.

    Args:
        proto: A model in float32 with one input.
        feeds: Batches of its input, for calibration.
        settings: How the target is to compute.
    """
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)  # the tool warns about preprocessing that is done already
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / 'model.onnx'
            quantize_static(
                _with_own_biases(proto), path, _Reader(proto.graph.input[0].name, feeds), quant_format=QuantFormat.QDQ,
                per_channel=True, reduce_range=True, activation_type=_TYPES[settings.activations],
                weight_type=QuantType.QInt8, nodes_to_exclude=_float_nodes(proto, settings),
                extra_options=dict(ActivationSymmetric=settings.symmetric))
            quantized = onnx.load(path)
    finally:
        logger.setLevel(level)
    quantized.producer_name = proto.producer_name  # the tool replaces it by its own
    return quantized


def _float_nodes(proto: onnx.ModelProto, settings: Quantization) -> List[str]:
    """Return the names of the nodes that stay in float32."""
    weighted = [node.name for node in proto.graph.node if node.op_type in ('Conv', 'Gemm')]
    ends = [weighted[0], weighted[-1]] if settings.float_ends else []
    return [*ends, *(node.name for node in proto.graph.node if node.op_type in settings.float_operators)]


def _with_own_biases(proto: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of a model in which no two layers share a bias: its scale depends on the layer's input and weights, and
    older versions of the tool quantise it for the first layer only."""
    model = copy.deepcopy(proto)
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    used: Set[str] = set()
    for node in model.graph.node:
        if node.op_type not in ('Conv', 'Gemm'):
            continue
        bias = node.input[2]
        if bias in used:
            own = copy.deepcopy(tensors[bias])
            own.name = node.input[2] = f'{bias}_{node.name}'
            model.graph.initializer.append(own)
        used.add(bias)
    return model


class _Reader(CalibrationDataReader):
    """Batches of one input, in the form that the tool reads them."""

    def __init__(self, name: str, feeds: Sequence[np.ndarray]) -> None:
        self._feeds = iter([{name: feed} for feed in feeds])

    def get_next(self) -> Optional[Dict[str, np.ndarray]]:
        return next(self._feeds, None)

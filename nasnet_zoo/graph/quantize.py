"""Static quantisation of an ONNX model to int8: ONNX Runtime's tool writes it, with ranges that are chosen here."""
import copy
import logging
from collections import Counter
from typing import Dict, Iterator, List, Optional, Sequence, Tuple

import numpy as np
import onnx
from onnx import numpy_helper
from onnxruntime.quantization import CalibrationMethod, QDQQuantizer, QuantType
from onnxruntime.quantization.calibrate import TensorsData

from .calibrate import CALIBRATIONS, Features, measure
from .targets import Quantization

__all__ = ['quantize']

_OPERATORS = ('Conv', 'Gemm', 'Add', 'Mul', 'Concat', 'Relu', 'MaxPool', 'AveragePool', 'GlobalAveragePool', 'Pad',
              'Flatten', 'Reshape', 'Transpose')
_TYPES = {'uint8': QuantType.QUInt8, 'int8': QuantType.QInt8}


def quantize(proto: onnx.ModelProto, feeds: Sequence[np.ndarray], settings: Quantization) -> onnx.ModelProto:
    """The model with weights and features in 8 bits.

    Weights have a scale for each output channel, features one scale for each feature map.

    Args:
        proto: A model in float32 with one input.
        feeds: Batches of its input, for calibration.
        settings: How the target is to compute.
    """
    model = _with_own_weights(proto)
    if settings.equalize:
        equalize_channels(model, measure(model, feeds))
    features = measure(model, feeds, histograms=settings.calibration != 'minmax')
    if settings.correct_bias:
        correct_bias(model, features)
    choose = CALIBRATIONS[settings.calibration]
    ranges = {name: tuple(np.array(limit, np.float32) for limit in choose(found)) for name, found in features.items()}
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)  # the tool warns about preprocessing that is done already
    try:
        quantizer = QDQQuantizer(
            model, per_channel=True, reduce_range=False, weight_qType=QuantType.QInt8,
            activation_qType=_TYPES[settings.activations], tensors_range=TensorsData(CalibrationMethod.MinMax, ranges),
            nodes_to_quantize=[], nodes_to_exclude=_float_nodes(model, settings),
            op_types_to_quantize=[name for name in _OPERATORS if name not in settings.float_operators],
            extra_options=dict(ActivationSymmetric=settings.symmetric))
        quantizer.quantize_model()
    finally:
        logger.setLevel(level)
    quantizer.model.topological_sort()
    quantized = quantizer.model.model
    quantized.producer_name = proto.producer_name  # the tool replaces it by its own
    return quantized


def _float_nodes(model: onnx.ModelProto, settings: Quantization) -> List[str]:
    """Return the names of the nodes that stay in float32."""
    weighted = [node.name for node in model.graph.node if node.op_type in ('Conv', 'Gemm')]
    return [*(weighted[:1] if settings.float_first else []), *(weighted[-1:] if settings.float_last else [])]


def _with_own_weights(proto: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of a model in which no two convolutions share a tensor, so that each may be changed alone."""
    model = copy.deepcopy(proto)
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    used: Counter = Counter()
    for node in model.graph.node:
        for i, name in enumerate(node.input):
            if node.op_type in ('Conv', 'Gemm') and name in tensors:
                used[name] += 1
                if used[name] > 1:
                    own = copy.deepcopy(tensors[name])
                    own.name = node.input[i] = f'{name}_{used[name]}'
                    model.graph.initializer.append(own)
    return model


def _groups(node: onnx.NodeProto) -> int:
    return next((attribute.i for attribute in node.attribute if attribute.name == 'group'), 1)


def _channel_axis(node: onnx.NodeProto, weight: np.ndarray) -> Optional[int]:
    """Return the axis of a convolution's weight that stands for the channels of its input, None if they are split."""
    if _groups(node) == 1:
        return 1
    return 0 if _groups(node) == len(weight) and weight.shape[1] == 1 else None


def _conv_pairs(model: onnx.ModelProto) -> Iterator[Tuple[onnx.NodeProto, str, onnx.NodeProto]]:
    """Yield a convolution, the name of what it makes after a ReLU if there is one, and the convolution that alone
    reads this."""
    readers: Dict[str, List[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    for first in model.graph.node:
        between = first.output[0]
        following = readers.get(between, [])
        if len(following) == 1 and following[0].op_type == 'Relu':
            between = following[0].output[0]
            following = readers.get(between, [])
        if first.op_type == 'Conv' and len(following) == 1 and following[0].op_type == 'Conv':
            yield first, between, following[0]


def equalize_channels(model: onnx.ModelProto, features: Dict[str, Features]) -> None:
    """Scale the channels between two convolutions, so that one scale fits all channels better; in place.

        conv (→ relu) → conv  where nothing else reads what is between them

    The first convolution's outputs are divided by a factor for each channel, and the second one's weights multiplied
    by it (Nagel et al., Data-Free Quantization Through Weight Equalization and Bias Correction, 2019). Weights have a
    scale for each output channel. Therefore only the range of the features matters before a depthwise convolution;
    before a dense one, it is balanced with the weights that read the channel.
    """
    arrays = {tensor.name: numpy_helper.to_array(tensor).astype(np.float64) for tensor in model.graph.initializer}
    for first, between, second in _conv_pairs(model):
        axis = _channel_axis(second, arrays[second.input[1]])
        if axis is None:
            continue
        weight = np.moveaxis(arrays[second.input[1]], axis, 0)
        extent = np.maximum(np.abs(features[between].low), np.abs(features[between].high)).astype(np.float64)
        is_used = extent > 0
        if not is_used.any():
            continue
        extent[~is_used] = extent.max()
        factor = extent / extent.max()
        if axis == 1:
            factor = np.sqrt(extent / np.maximum(np.abs(weight).max((1, 2, 3)), 1e-9))
            factor /= np.exp(np.log(factor[is_used]).mean())
        factor = np.where(is_used, factor.clip(1 / 32, 32), 1.)
        arrays[second.input[1]] = np.moveaxis(weight * factor.reshape(-1, 1, 1, 1), 0, axis)
        arrays[first.input[1]] = arrays[first.input[1]] / factor.reshape(-1, 1, 1, 1)
        arrays[first.input[2]] = arrays[first.input[2]] / factor
    _store(model, arrays)


def correct_bias(model: onnx.ModelProto, features: Dict[str, Features]) -> None:
    """Add to each bias what rounding the weights takes from the mean of the output channel; in place.

    This is the rounding error of the weights times the mean of what they read (Nagel et al., 2019, section 4.2).
    """
    arrays = {tensor.name: numpy_helper.to_array(tensor).astype(np.float64) for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type not in ('Conv', 'Gemm') or _channel_axis(node, arrays[node.input[1]]) is None:
            continue
        weight, mean = arrays[node.input[1]], features[node.input[0]].mean
        step = np.maximum(np.abs(weight).max(axis=tuple(range(1, weight.ndim)), keepdims=True), 1e-30) / 127
        error = weight - step * np.round(weight / step)
        error = error.sum(axis=tuple(range(2, error.ndim)))  # [out, in / groups]
        arrays[node.input[2]] = arrays[node.input[2]] + (error @ mean if _groups(node) == 1 else error[:, 0] * mean)
    _store(model, arrays)


def _store(model: onnx.ModelProto, arrays: Dict[str, np.ndarray]) -> None:
    """Replace the tensors of a model that are in float32."""
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            tensor.CopyFrom(numpy_helper.from_array(arrays[tensor.name].astype(np.float32), tensor.name))

"""Static quantisation of an ONNX model to int8 with ONNX Runtime's tool."""
import logging
import tempfile
from pathlib import Path
from typing import Dict, Optional, Sequence

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

__all__ = ['quantize']


def quantize(proto: onnx.ModelProto, feeds: Sequence[np.ndarray]) -> onnx.ModelProto:
    """The model with weights in int8 and features in uint8, the types that CPUs with VNNI multiply fastest.

    Weights have a scale for each output channel, features one scale for each feature map: it covers the range of values
    that occur for `feeds`.

    Args:
        proto: A model in float32 with one input.
        feeds: Batches of its input, for calibration.
    """
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)  # the tool warns about preprocessing that is done already
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / 'model.onnx'
            quantize_static(proto, path, _Reader(proto.graph.input[0].name, feeds), quant_format=QuantFormat.QDQ,
                            per_channel=True, activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8)
            quantized = onnx.load(path)
    finally:
        logger.setLevel(level)
    quantized.producer_name = proto.producer_name  # the tool replaces it by its own
    return quantized


class _Reader(CalibrationDataReader):
    """Batches of one input, in the form that the tool reads them."""

    def __init__(self, name: str, feeds: Sequence[np.ndarray]) -> None:
        self._feeds = iter([{name: feed} for feed in feeds])

    def get_next(self) -> Optional[Dict[str, np.ndarray]]:
        return next(self._feeds, None)

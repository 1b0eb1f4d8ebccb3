"""Sessions of OpenVINO."""
import threading
from functools import cache
from typing import Any, Dict, NamedTuple, Optional, Union

import numpy as np

from .session import Session, SessionError, check_single, one_line, read_proto

__all__ = ['DEVICES', 'HINTS', 'Hint', 'OpenVINOSession', 'shared_core']

DEVICES = {'cpu': 'CPU', 'gpu': 'GPU', 'npu': 'NPU'}


class Hint(NamedTuple):
    """How OpenVINO is asked to compute in a precision.

    Attributes:
        value: Of the property ``INFERENCE_PRECISION_HINT``.
        capability: What a device that can do it lists among its ``OPTIMIZATION_CAPABILITIES``.
    """
    value: str
    capability: str


HINTS = {
    'float32': Hint('f32', 'FP32'),
    'bfloat16': Hint('bf16', 'BF16'),
    'float16': Hint('f16', 'FP16'),
}


@cache
def shared_core() -> Any:
    """Return the ``openvino.Core`` of this process.

    There must be only one. On processors with AMX, the CPU plugin of each Core sets the stack on which signals are
    handled, and restores the previous one at its end. If the first of two Cores ends first, the second one restores a
    stack that no longer exists, and the next signal (Ctrl-C, for example) ends the process with a segmentation fault.
    """
    import openvino
    return openvino.Core()


class OpenVINOSession(Session):
    """A file that is opened in OpenVINO.

    Args:
        model: Path of the file, or its content.
        provider: A name in :data:`DEVICES`.
        threads: Number of CPU threads; OpenVINO's default if None.
        precision: A name in :data:`HINTS`: what is computed with, except for operations that the file says are in int8.
            Left to itself, OpenVINO would choose bfloat16 or float16 on some devices.

    Raises:
        SessionError: If the device is not available, cannot compute in the precision, or refuses the file.
        ValueError: If the file has more than one input or output.
    """

    def __init__(
            self, model: Union[str, bytes], provider: str = 'cpu', threads: Optional[int] = None,
            precision: str = 'float32',
    ) -> None:
        metadata = {entry.key: entry.value for entry in read_proto(model).metadata_props}  # OpenVINO does not keep them
        try:
            compiled = _compile(model, DEVICES[provider], threads, HINTS[precision], precision)
        except SessionError:
            raise
        except Exception as error:  # OpenVINO raises RuntimeError and others
            raise SessionError(one_line(error)) from None
        check_single(compiled.inputs, compiled.outputs)
        image = compiled.inputs[0]
        shape = [length.get_length() if length.is_static else None for length in image.get_partial_shape()]
        super().__init__(provider, metadata, shape, image.get_element_type().to_dtype())
        self._compiled = compiled
        self._requests = threading.local()  # a request can run one batch at a time

    def _run(self, batch: np.ndarray) -> np.ndarray:
        if not hasattr(self._requests, 'request'):
            self._requests.request = self._compiled.create_infer_request()
        return self._requests.request.infer({0: batch})[0]


def _compile(model: Union[str, bytes], device: str, threads: Optional[int], hint: Hint, precision: str) -> Any:
    """Return OpenVINO's compiled model."""
    core = shared_core()
    if device not in core.available_devices:
        raise SessionError(f'OpenVINO finds no {device} on this machine; it finds {", ".join(core.available_devices)}')
    if hint.capability not in core.get_property(device, 'OPTIMIZATION_CAPABILITIES'):
        raise SessionError(f'the {device} of this machine does not compute in {precision}')
    config: Dict[str, Any] = dict(PERFORMANCE_HINT='LATENCY', INFERENCE_PRECISION_HINT=hint.value)
    if threads and device == 'CPU':
        config['INFERENCE_NUM_THREADS'] = threads
    compiled = core.compile_model(core.read_model(model), device, config)
    used = compiled.get_property('INFERENCE_PRECISION_HINT').get_type_name()
    if used != hint.value:
        raise SessionError(f'OpenVINO computes in {used} instead of {precision} on the {device} of this machine')
    return compiled

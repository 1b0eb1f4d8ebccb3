"""Sessions of ONNX Runtime."""
import functools
import importlib
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Union

import numpy as np

from .session import Session, SessionError, check_single, one_line

__all__ = ['PROVIDERS', 'OnnxRuntimeSession', 'Provider']


class Provider(NamedTuple):
    """An execution provider of ONNX Runtime.

    Attributes:
        name: ONNX Runtime's name for it.
        plugin: The Python module of the plug-in that contains it, None if it is part of ONNX Runtime.
        memory: The kind of memory in which its inputs and outputs lie.
        options: The provider's own options.
    """
    name: str
    plugin: Optional[str] = None
    memory: str = 'cpu'
    options: Mapping[str, str] = {}


PROVIDERS: Dict[str, Provider] = {
    'tensorrt': Provider('TensorrtExecutionProvider', memory='cuda'),
    'cuda': Provider('CUDAExecutionProvider', memory='cuda'),
    'cpu': Provider('CPUExecutionProvider'),
    'tensorrt-rtx': Provider('NvTensorRTRTXExecutionProvider', 'onnxruntime_ep_nv_tensorrt_rtx'),
    # On some processors its default is bfloat16, also where its option "precision" is FP32.
    'openvino': Provider('OpenVINOExecutionProvider', 'onnxruntime_ep_openvino', options=dict(
        load_config='{"CPU": {"INFERENCE_PRECISION_HINT": "f32"}}')),
    'webgpu': Provider('WebGpuExecutionProvider', 'onnxruntime_ep_webgpu'),
}


class OnnxRuntimeSession(Session):
    """A file that is opened in ONNX Runtime, which does not fall back to another provider.

    Args:
        model: Path of the file, or its content.
        provider: A name in :data:`PROVIDERS`.
        threads: Number of CPU threads; ONNX Runtime's default if None.

    Raises:
        SessionError: If the provider is not available or refuses the file.
        ValueError: If the file has more than one input or output.
    """

    def __init__(self, model: Union[str, bytes], provider: str = 'cpu', threads: Optional[int] = None) -> None:
        row = PROVIDERS[provider]
        self._memory = row.memory
        try:
            self._session = _open(model, row, threads)
        except SessionError:
            raise
        except Exception as error:  # ONNX Runtime's exceptions have no common base class
            raise SessionError(one_line(error)) from None
        if self._session.get_providers()[0] != row.name:
            raise SessionError('the libraries of this provider cannot be loaded')
        check_single(self._session.get_inputs(), self._session.get_outputs())
        (image,), (output,) = self._session.get_inputs(), self._session.get_outputs()
        self._input, self._output = image.name, output.name
        super().__init__(
            provider, self._session.get_modelmeta().custom_metadata_map,
            [length if isinstance(length, int) else None for length in image.shape], _numpy_type(image.type))

    def _run(self, batch: np.ndarray) -> np.ndarray:
        if self._memory == 'cpu':
            return self._session.run([self._output], {self._input: batch})[0]
        import onnxruntime
        binding = self._session.io_binding()
        binding.bind_ortvalue_input(self._input, onnxruntime.OrtValue.ortvalue_from_numpy(batch, self._memory, 0))
        binding.bind_output(self._output, self._memory)
        self._session.run_with_iobinding(binding)
        return binding.copy_outputs_to_cpu()[0]


def _open(model: Union[str, bytes], provider: Provider, threads: Optional[int]) -> Any:
    """Return ONNX Runtime's own session."""
    import onnxruntime
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    if threads:
        options.intra_op_num_threads = threads
    if provider.plugin:
        options.add_provider_for_devices(
            _plugin_devices(provider.plugin, provider.name)[:1], dict(provider.options))
        return onnxruntime.InferenceSession(model, options)
    if provider.name not in onnxruntime.get_available_providers():
        raise SessionError('the installed ONNX Runtime was built without this provider')
    return onnxruntime.InferenceSession(model, options, providers=[provider.name], enable_fallback=False)


def _plugin_devices(module: str, name: str) -> List[Any]:
    """Return the devices that a plug-in can use.

    Args:
        module: Its Python module.
        name: ONNX Runtime's name for its provider.

    Raises:
        SessionError: If it is not installed, cannot be loaded, or finds no device.
    """
    import onnxruntime
    _load_plugin(module, name)
    devices = [device for device in onnxruntime.get_ep_devices() if device.ep_name == name]
    if not devices:
        raise SessionError('its plug-in finds no device on this machine that it can use')
    return devices


@functools.lru_cache(None)  # ONNX Runtime refuses to load a library again
def _load_plugin(module: str, name: str) -> None:
    import onnxruntime
    try:
        plugin = importlib.import_module(module)
    except ImportError:
        raise SessionError(f'its plug-in is not installed: pip install {module.replace("_", "-")}') from None
    if not hasattr(onnxruntime, 'register_execution_provider_library'):
        raise SessionError(f'ONNX Runtime {onnxruntime.__version__} does not load plug-ins; version 1.23 does')
    onnxruntime.register_execution_provider_library(name, plugin.get_library_path())


def _numpy_type(text: str) -> np.dtype:
    """Return the NumPy type for ONNX Runtime's name of a type, such as ``tensor(float)``.

    Raises:
        ValueError: If it is not a type of numbers that NumPy has.
    """
    name = text.removeprefix('tensor(').removesuffix(')')
    try:
        return np.dtype({'float': 'float32', 'double': 'float64'}.get(name, name))
    except TypeError:
        raise ValueError(f'the input is of type {text}; it must be an image, a tensor of numbers') from None

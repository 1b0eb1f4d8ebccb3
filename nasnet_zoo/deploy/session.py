"""Model files opened in ONNX Runtime. Everything else runs files through :class:`Session`."""
import contextlib
import os
import threading
from typing import Dict, Iterator, List, Optional, Union

import numpy as np

__all__ = ['PROVIDERS', 'ProviderError', 'Session', 'full_batches', 'one_line', 'silence_stderr']

# ONNX Runtime's execution providers, the fastest first
PROVIDERS: Dict[str, str] = {
    'tensorrt': 'TensorrtExecutionProvider',
    'cuda': 'CUDAExecutionProvider',
    'cpu': 'CPUExecutionProvider',
}


class ProviderError(RuntimeError):
    """An execution provider cannot run a file. The message is one line that says why."""


class Session:
    """An ONNX file with one input and one output, opened on one execution provider.

    Args:
        model: Path of the file, or its content.
        provider: A name in :data:`PROVIDERS`. ONNX Runtime does not fall back to another one.
        threads: Number of CPU threads; ONNX Runtime's default if None.

    Attributes:
        provider: The name of the provider.
        metadata: The file's own key-value pairs.
        batch_size: The number of images that the file takes at a time, None for any number.

    Raises:
        ProviderError: If the provider is not available or refuses the file.
        ValueError: If the file has more than one input or output.
    """

    def __init__(self, model: Union[str, bytes], provider: str = 'cpu', threads: Optional[int] = None) -> None:
        import onnxruntime
        full_name = PROVIDERS[provider]
        if full_name not in onnxruntime.get_available_providers():
            raise ProviderError('the installed ONNX Runtime was built without this provider')
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        if threads:
            options.intra_op_num_threads = threads
        try:
            self._session = onnxruntime.InferenceSession(
                model, options, providers=[full_name], enable_fallback=False)
        except Exception as error:  # ONNX Runtime's exceptions have no common base class
            raise ProviderError(one_line(error)) from None
        if self._session.get_providers()[0] != full_name:
            raise ProviderError('the libraries of this provider cannot be loaded')
        self.provider = provider
        self.metadata: Dict[str, str] = self._session.get_modelmeta().custom_metadata_map
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        if len(inputs) != 1 or len(outputs) != 1:
            raise ValueError(f'the model has {len(inputs)} inputs and {len(outputs)} outputs; it must have one of each')
        self._input, self._output = inputs[0].name, outputs[0].name
        self.batch_size = inputs[0].shape[0] if isinstance(inputs[0].shape[0], int) else None

    def run(self, batch: np.ndarray) -> np.ndarray:
        """Return the output for a batch that has the shape and type of the file's input.

        Raises:
            ProviderError: If the provider cannot compute it.
        """
        try:
            return self._run(batch)
        except Exception as error:
            raise ProviderError(one_line(error)) from None

    def _run(self, batch: np.ndarray) -> np.ndarray:
        if self.provider == 'cpu':
            return self._session.run([self._output], {self._input: batch})[0]
        import onnxruntime
        binding = self._session.io_binding()
        binding.bind_ortvalue_input(self._input, onnxruntime.OrtValue.ortvalue_from_numpy(batch, 'cuda', 0))
        binding.bind_output(self._output, 'cuda')
        self._session.run_with_iobinding(binding)
        return binding.copy_outputs_to_cpu()[0]


def full_batches(images: np.ndarray, batch_size: int) -> List[np.ndarray]:
    """Split images into batches of exactly `batch_size`. The last batch is filled up with the first images again."""
    filled = np.resize(images, (-(-len(images) // batch_size) * batch_size, *images.shape[1:]))
    return list(filled.reshape(-1, batch_size, *images.shape[1:]))


def one_line(error: Exception) -> str:
    """Return the message of an error as one line of at most 300 characters."""
    return ' '.join(str(error).split())[:300] or type(error).__name__


_stderr_lock = threading.Lock()


@contextlib.contextmanager
def silence_stderr() -> Iterator[None]:
    """Discard everything written to standard error, by C libraries too, which report a missing GPU there."""
    with _stderr_lock, open(os.devnull, 'w', encoding='utf-8') as nowhere:
        try:
            kept = os.dup(2)
        except OSError:  # the process has no standard error
            kept = None
        os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            if kept is None:
                os.close(2)
            else:
                os.dup2(kept, 2)
                os.close(kept)

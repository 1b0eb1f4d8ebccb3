"""What all sessions have in common. A session is an ONNX file that is opened in a runtime; see :mod:`.runtimes`."""
import abc
import contextlib
import os
import threading
from typing import Any, Dict, Iterator, List, Optional, Sequence, Union

import numpy as np

__all__ = ['InputError', 'Session', 'SessionError', 'check_single', 'full_batches', 'one_line', 'read_precision',
           'read_proto', 'silence_stderr']


class SessionError(RuntimeError):
    """A runtime cannot open or run a file. The message is one line that says why."""


class InputError(SessionError):
    """A batch does not have the shape or the type that a file takes."""


class Session(abc.ABC):
    """An ONNX file with one input and one output, opened in a runtime.

    Args:
        provider: What runs the file, a name in the runtime's table of providers.
        metadata: The file's own key-value pairs.
        shape: Lengths of the input's axes, None for any length.
        dtype: Type of the input.

    Attributes:
        batch_size: The number of images that the file takes at a time, None for any number.
    """

    def __init__(
            self, provider: str, metadata: Dict[str, str], shape: Sequence[Optional[int]], dtype: np.dtype) -> None:
        self.provider, self.metadata, self.shape, self.dtype = provider, metadata, tuple(shape), np.dtype(dtype)
        self.batch_size = self.shape[0] if self.shape else None

    def run(self, batch: np.ndarray) -> np.ndarray:
        """Return the output for a batch that has the shape of the file's input: a row for each image.

        Args:
            batch: It has the type of the input. Floating-point numbers of another length are converted.

        Raises:
            InputError: If it has another shape or type. Not every runtime would refuse it.
            SessionError: If the runtime cannot compute it, or returns something else.
        """
        if batch.dtype.kind == self.dtype.kind == 'f':
            batch = batch.astype(self.dtype, copy=False)
        if batch.dtype != self.dtype or batch.ndim != len(self.shape) or any(
                length not in (None, given) for length, given in zip(self.shape, batch.shape)):
            axes = ', '.join('any' if length is None else str(length) for length in self.shape)
            raise InputError(f'the file takes {self.dtype} [{axes}], not {batch.dtype} {list(batch.shape)}')
        try:
            output = self._run(batch)
        except Exception as error:  # the runtimes' exceptions have no common base class
            raise SessionError(one_line(error)) from None
        shape = getattr(output, 'shape', None)  # other outputs than tensors are Python's lists and dicts
        if not shape or shape[0] != len(batch):
            found = 'no tensor' if shape is None else f'a tensor of shape {list(shape)}'
            raise SessionError(f'for {len(batch)} images, the output is {found}; it must have a row for each image')
        return output

    @abc.abstractmethod
    def _run(self, batch: np.ndarray) -> np.ndarray:
        """Return the output for a batch that fits."""


def check_single(inputs: Sequence, outputs: Sequence) -> None:
    """Raise ValueError unless a file has one input and one output."""
    if len(inputs) != 1 or len(outputs) != 1:
        raise ValueError(f'the model has {len(inputs)} inputs and {len(outputs)} outputs; it must have one of each')


def read_precision(model: Union[str, bytes]) -> str:
    """Return what an ONNX file, or its content, computes with: 'int8', 'float16' or 'float32'.

    Raises:
        SessionError: If it is not an ONNX file.
    """
    graph = read_proto(model).graph
    if any(node.op_type in ('QuantizeLinear', 'DynamicQuantizeLinear') for node in graph.node):
        return 'int8'
    import onnx
    types = {tensor.data_type for tensor in graph.initializer}
    return 'float16' if onnx.TensorProto.FLOAT16 in types else 'float32'


def read_proto(model: Union[str, bytes]) -> Any:
    """Return the ``onnx.ModelProto`` of a file or of its content, without weights that are in other files.

    Raises:
        SessionError: If it is not an ONNX file.
    """
    import onnx
    try:
        return onnx.load_from_string(model) if isinstance(model, bytes) else onnx.load(model, load_external_data=False)
    except Exception as error:  # protobuf's exceptions depend on its implementation
        raise SessionError(f'it is not an ONNX file: {one_line(error)}') from None


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

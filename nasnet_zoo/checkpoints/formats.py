"""The file formats of weights, told apart by content, never by the file's suffix."""
from pathlib import Path
from typing import Any, Callable, NamedTuple, Tuple

from .read_keras import read_hdf5
from .read_safetensors import read_safetensors
from .read_torch import read_pickle
from .read_zip import read_zip

__all__ = ['FORMATS', 'Format', 'read_weights']

_START_BYTES = 9  # what `Format.recognize` sees of a file


class Format(NamedTuple):
    """A file format of weights.

    Attributes:
        description: The format in an error message, with its article.
        recognize: Whether a file that begins with these bytes has this format.
        read: Reads a file to what it holds: in most formats a mapping from tensor names to tensors.
    """
    description: str
    recognize: Callable[[bytes], bool]
    read: Callable[[Path], Any]


FORMATS: Tuple[Format, ...] = (
    Format('a Keras file', lambda start: start.startswith(b'\x89HDF\r\n\x1a\n'), read_hdf5),
    Format('a PyTorch or Keras archive', lambda start: start.startswith(b'PK'), read_zip),
    Format('a safetensors file', lambda start: start[8:] == b'{', read_safetensors),  # after the header's length
    Format('a PyTorch file of tensors', lambda start: start.startswith(b'\x80'), read_pickle),
)


def read_weights(path: Path) -> Any:
    """Read a weight file of any format in `FORMATS`.

    Tensors of Keras are named ``layer.variable`` and have PyTorch's order of axes.

    Raises:
        ValueError: The file has none of the formats, or is damaged.
        ImportError: A library that the format needs is not installed.
        OSError: The file cannot be opened.
    """
    with open(path, 'rb') as file:
        start = file.read(_START_BYTES)
    file_format = next((row for row in FORMATS if row.recognize(start)), None)
    if file_format is None:
        raise ValueError(f'{path}: this is not a weight file of PyTorch, safetensors or Keras (HDF5)')
    try:
        return file_format.read(path)
    except ImportError:
        raise
    except Exception as error:  # libraries raise exceptions of many types for damaged or hostile files
        reason = str(error).strip().split('\n')[0][:200] or type(error).__name__
        raise ValueError(
            f'{path}: cannot be read as {file_format.description}, and nothing was loaded: {reason}') from None

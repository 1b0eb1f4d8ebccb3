"""The file formats of weights, told apart by content, never by the file's suffix."""
import re
from pathlib import Path
from typing import Any, Callable, Dict, NamedTuple, Sequence, Tuple

from ..checked import printable
from .folder import find_file, read_index
from .read_keras import read_hdf5
from .read_safetensors import read_safetensors
from .read_tensorflow import read_tensorflow, read_tensorflow_archive
from .read_torch import read_pickle
from .read_zip import read_zip

__all__ = ['FORMATS', 'Format', 'read_weights']

_START_BYTES = 512  # what `Format.recognize` sees of a file
_MAX_REASON = 400  # characters of a library's message


class Format(NamedTuple):
    """A file format of weights.

    Attributes:
        description: The format in an error message, with its article.
        recognize: Whether a file that begins with these bytes has this format.
        read: Reads a file to what it holds: values by dotted names, most of them tensors.
    """
    description: str
    recognize: Callable[[bytes], bool]
    read: Callable[[Path], Dict[str, Any]]


FORMATS: Tuple[Format, ...] = (
    Format('a Keras file', lambda start: start.startswith(b'\x89HDF\r\n\x1a\n'), read_hdf5),
    Format('a PyTorch or Keras archive', lambda start: start.startswith(b'PK'), read_zip),
    Format('a safetensors file', lambda start: start[8:9] == b'{', read_safetensors),  # after the header's length
    Format('a TensorFlow checkpoint',  # the first key is empty, and its value a protocol buffer that begins with 8
           lambda start: start.startswith(b'\0\0') and start[3:4] == b'\x08', read_tensorflow),
    Format('an archive with a TensorFlow checkpoint',
           lambda start: start.startswith(b'\x1f\x8b') or start[257:262] == b'ustar', read_tensorflow_archive),
    Format('a PyTorch file of tensors', lambda start: start.startswith(b'\x80'), read_pickle),
    Format('an index of safetensors or PyTorch files', lambda start: start.lstrip().startswith(b'{'),
           lambda path: read_index(path, lambda part: _read(part, FORMATS[:-1]))),
)

# Files that are often taken for weight files: how they begin, and what to do.
_OTHERS: Tuple[Tuple[Callable[[bytes], bool], str], ...] = (
    (lambda start: start.startswith((b'BZh', b'\xfd7zXZ', b'\x28\xb5\x2f\xfd', b"7z\xbc\xaf'")),
     'it is compressed: unpack it and pass the weight file inside'),
    (lambda start: start.startswith(b'version https://git-lfs'),
     'it is a Git LFS pointer, not the file itself: download it with git lfs pull'),
    (lambda start: start.lstrip()[:1] == b'<', 'it is a web page: download the file itself'),
)


def read_weights(path: Path) -> Dict[str, Any]:
    """Read a weight file of any format in `FORMATS`, or the one that `find_file` finds.

    Tensors of Keras and TensorFlow have PyTorch's order of axes.

    Raises:
        ValueError: The file has none of the formats, or is damaged.
        ImportError: A library that the format needs is not installed.
        OSError: The file cannot be opened.
    """
    return _read(find_file(path), FORMATS)


def _read(path: Path, formats: Sequence[Format]) -> Dict[str, Any]:
    with open(path, 'rb') as file:
        start = file.read(_START_BYTES)
    file_format = next((row for row in formats if row.recognize(start)), None)
    if file_format is None:
        reason = next((f': {advice}' for recognize, advice in _OTHERS if recognize(start)), '')
        raise ValueError(f'{path}: this is not a weight file of PyTorch, safetensors, Keras (HDF5) or TensorFlow'
                         f'{reason}')
    try:
        return file_format.read(path)
    except ImportError:
        raise
    except Exception as error:  # libraries raise exceptions of many types for damaged or hostile files
        raise ValueError(f'{path}: cannot be read as {file_format.description}, and nothing was loaded: '
                         f'{_reason(error)}') from None


def _reason(error: Exception) -> str:
    """Return the message of a library's exception on one line, cut off between words if it is very long."""
    text = re.sub(r'\s+', ' ', printable(error, keep='\n\t')).strip() or type(error).__name__
    return text if len(text) <= _MAX_REASON else f'{text[:_MAX_REASON].rsplit(" ", 1)[0]} …'

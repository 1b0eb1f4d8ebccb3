"""Files that are written completely or not at all, and reading of safetensors files."""
import json
import os
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Dict, Iterator, Tuple, Union

import torch
from safetensors import safe_open

__all__ = ['atomic_write', 'read_safetensors', 'write_json']


@contextmanager
def atomic_write(path: Union[str, os.PathLike]) -> Iterator[Path]:
    """Replace a file in one step: the block writes a temporary file, which is renamed to `path` if no error occurs.

    Yields:
        The temporary file, an empty one in the folder of `path`.
    """
    path = Path(path)
    descriptor, name = tempfile.mkstemp(prefix=f'.{path.name}.', suffix=path.suffix, dir=path.parent)
    os.close(descriptor)
    part = Path(name)
    try:
        yield part
        umask = os.umask(0)
        os.umask(umask)
        part.chmod(0o666 & ~umask)  # the usual permissions; mkstemp gives access to the owner only
        with part.open('rb') as file:
            os.fsync(file.fileno())  # the content must be on disk before the new name, in case of a power failure
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def read_safetensors(path: Union[str, os.PathLike]) -> Tuple[Dict[str, torch.Tensor], Dict[str, str]]:
    """Read a safetensors file.

    Returns:
        The tensors by name, and the metadata.

    Raises:
        SafetensorError: If the file is not a safetensors file.
    """
    with safe_open(path, 'pt') as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}


def write_json(path: Union[str, os.PathLike], data: Any) -> None:
    """Write JSON data to a file, completely or not at all."""
    with atomic_write(path) as part:
        part.write_text(json.dumps(data, indent=2) + '\n', encoding='utf-8')

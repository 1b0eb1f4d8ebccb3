"""Files written whole or not at all, and read."""
import os
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import Dict, Iterator, Tuple, Union

import torch
from safetensors import safe_open

__all__ = ['atomic_write', 'read_safetensors']


@contextmanager
def atomic_write(path: Union[str, os.PathLike]) -> Iterator[Path]:
    """A new file to write, in the folder of `path`, which takes the name of `path` when the block ends well."""
    path = Path(path)
    descriptor, name = tempfile.mkstemp(prefix=f'.{path.name}.', suffix=path.suffix, dir=path.parent)
    os.close(descriptor)
    part = Path(name)
    try:
        yield part
        umask = os.umask(0)
        os.umask(umask)
        part.chmod(0o666 & ~umask)  # as any new file; mkstemp's is its owner's alone
        with part.open('rb') as file:
            os.fsync(file.fileno())  # the content before the name, even if the power fails
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def read_safetensors(path: Union[str, os.PathLike]) -> Tuple[Dict[str, torch.Tensor], Dict[str, str]]:
    """Tensors by name, and the metadata.

    Raises:
        SafetensorError: For a file of another kind.
    """
    with safe_open(path, 'pt') as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}

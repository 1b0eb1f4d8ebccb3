"""Reads ZIP archives, the container of both PyTorch's checkpoints and Keras's ``.keras`` files."""
import zipfile
from pathlib import Path
from typing import Any, Dict

from .bounds import check_expansion
from .read_keras import KERAS_MEMBER, read_archive
from .read_torch import find_pickle, read_torch_archive

__all__ = ['read_zip']


def read_zip(path: Path) -> Dict[str, Any]:
    """Read a PyTorch or Keras archive, after checking what it would unpack to."""
    with zipfile.ZipFile(path) as archive:
        stored_bytes = path.stat().st_size
        check_expansion(sum(member.file_size for member in archive.infolist()), stored_bytes)
        if KERAS_MEMBER in archive.namelist():
            return dict(read_archive(archive, stored_bytes))
        member = find_pickle(archive.namelist())
        if member is None:
            raise ValueError(f"it has neither PyTorch's data.pkl nor Keras's {KERAS_MEMBER}; if it contains a weight "
                             'file, unpack it and pass that file')
        return read_torch_archive(archive, member)

"""Reads ZIP archives, the container of both PyTorch's checkpoints and Keras's ``.keras`` files."""
import zipfile
from pathlib import Path
from typing import Any

from .bounds import check_expansion
from .read_keras import KERAS_MEMBER, read_archive
from .read_torch import read_pickle

__all__ = ['read_zip']


def read_zip(path: Path) -> Any:
    """Read a PyTorch or Keras archive, after checking what it would unpack to."""
    with zipfile.ZipFile(path) as archive:
        stored_bytes = path.stat().st_size
        check_expansion(sum(member.file_size for member in archive.infolist()), stored_bytes)
        if KERAS_MEMBER in archive.namelist():
            return read_archive(archive, stored_bytes)
    return read_pickle(path)

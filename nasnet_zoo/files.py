"""Files that are written completely or not at all, and reading of safetensors files.

All of them get the permissions that the process's umask gives.
"""
import hashlib
import json
import os
import re
import secrets
import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Dict, Iterator, Mapping, Tuple, Union

import torch
from safetensors import safe_open

__all__ = ['atomic_folder', 'atomic_write', 'check_purpose', 'flattened', 'json_sha256', 'read_safetensors',
           'remove_partial_files', 'sha256', 'sort_safetensors_metadata', 'write_json', 'write_utf8']


# The files by which the folders of commands are known
MAIN_FILES = {'run.json': 'a training run', 'search.json': 'a search', 'compare.json': 'a comparison'}
_TEMPORARY = r'\..*\.part-[0-9a-f]{8}(\.[^.]+)?'


def _temporary_name(path: Path) -> str:
    """Return a new name, which :data:`_TEMPORARY` describes, and which is not too long if that of `path` is not."""
    return f'.{path.name[:100]}.part-{secrets.token_hex(4)}'


@contextmanager
def _errors_name(path: Path) -> Iterator[None]:
    """Name `path` in errors of the operating system, instead of a temporary file that the user does not know."""
    try:
        yield
    except OSError as error:
        raise type(error)(error.errno, error.strerror, str(path)) from None


@contextmanager
def atomic_write(path: Union[str, os.PathLike]) -> Iterator[Path]:
    """Replace a file in one step: the block writes a temporary file, which is renamed to `path` if no error occurs.

    The folder of the file is created if necessary.

    Yields:
        The temporary file, an empty one in the folder of `path`, with the suffix of `path`.
    """
    path = Path(path)
    part = path.with_name(_temporary_name(path) + path.suffix)
    path.parent.mkdir(parents=True, exist_ok=True)
    with _errors_name(path), open(part, 'xb') as file:  # unlike tempfile's, it has the umask's permissions
        mode = os.fstat(file.fileno()).st_mode & 0o777
    try:
        yield part
        part.chmod(mode)  # a library may have put a file of its own here; safetensors' can be read by the owner only
        with part.open('rb+') as file:
            os.fsync(file.fileno())  # the content must be on disk before the new name, in case of a power failure
        with _errors_name(path):
            part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def remove_partial_files(folder: Union[str, os.PathLike]) -> None:
    """Remove the temporary files and folders of this module that a killed process has left in a folder."""
    for path in Path(folder).glob('.*'):
        if re.fullmatch(_TEMPORARY, path.name):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink()


@contextmanager
def atomic_folder(folder: Union[str, os.PathLike], last: Union[str, os.PathLike]) -> Iterator[Path]:
    """Write the files of a folder together: the block writes them to a temporary folder, and if no error occurs, they
    replace those of the same names in `folder`.

    Args:
        folder: The folder. It is created if necessary, and then appears with all files in one step. Other files in it
            are kept.
        last: The file, a path relative to the folder, without which readers do not accept the folder. It is removed
            before the others are replaced and appears after them, so it is never beside files of another version.

    Yields:
        The temporary folder, an empty one.

    Raises:
        ValueError: If `folder` is a file.
    """
    folder = Path(folder)
    exists = folder.exists()
    if exists and not folder.is_dir():
        raise ValueError(f'{folder}: is a file, not a folder')
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = (folder if exists else folder.parent) / _temporary_name(folder)
    part.mkdir()  # unlike tempfile's, it has the permissions that the umask gives
    try:
        yield part
        if not exists:
            part.rename(folder)
            return
        files = sorted((path for path in part.rglob('*') if path.is_file()), key=lambda path: path == part / last)
        (folder / last).unlink(missing_ok=True)
        for path in files:
            target = folder / path.relative_to(part)
            target.parent.mkdir(parents=True, exist_ok=True)
            path.replace(target)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def read_safetensors(path: Union[str, os.PathLike]) -> Tuple[Dict[str, torch.Tensor], Dict[str, str]]:
    """Read a safetensors file.

    Returns:
        The tensors by name, and the metadata.

    Raises:
        SafetensorError: If the file is not a safetensors file.
    """
    with safe_open(path, 'pt') as file:  # copies: Windows does not let a file be replaced that is mapped into memory
        return {name: file.get_tensor(name).clone() for name in file.keys()}, file.metadata() or {}


def sort_safetensors_metadata(path: Union[str, os.PathLike]) -> None:
    """Put the metadata of a safetensors file into the order of their names.

    The library writes them in a random order, so that equal files would have different bytes and hashes.
    """
    with open(path, 'rb+') as file:
        length = int.from_bytes(file.read(8), 'little')
        header = json.loads(file.read(length))
        header['__metadata__'] = dict(sorted(header.get('__metadata__', {}).items()))
        text = json.dumps(header, separators=(',', ':'), ensure_ascii=False).encode()
        if len(text) <= length:  # the tensors must stay where they are; spaces may follow the header
            file.seek(8)
            file.write(text.ljust(length))


def check_purpose(folder: Union[str, os.PathLike], main_file: str) -> None:
    """Refuse a folder in which another command keeps its results: files of the same name would be replaced.

    Args:
        folder: The folder, which need not exist.
        main_file: The file, a key of `MAIN_FILES`, that a folder of the own kind has.

    Raises:
        ValueError: If the folder is of another kind.
    """
    for name, kind in MAIN_FILES.items():
        if name != main_file and (Path(folder) / name).exists():
            raise ValueError(f'{folder}: is the folder of {kind}; choose another --out')


def sha256(path: Union[str, os.PathLike]) -> str:
    """Return the SHA-256 of a file as hexadecimal digits."""
    with open(path, 'rb') as file:
        return hashlib.file_digest(file, 'sha256').hexdigest()


def json_sha256(data: Any) -> str:
    """Return the SHA-256 of JSON data as hexadecimal digits. The order of entries does not matter."""
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


def flattened(settings: Mapping[str, Any], prefix: str = '') -> Dict[str, Any]:
    """Return nested settings as one level, with names such as 'recipe.lr'."""
    level: Dict[str, Any] = {}
    for name, value in settings.items():
        level.update(flattened(value, f'{prefix}{name}.') if isinstance(value, Mapping) else {prefix + name: value})
    return level


def write_json(path: Union[str, os.PathLike], data: Any) -> None:
    """Write JSON data to a file, completely or not at all."""
    write_utf8(path, json.dumps(data, indent=2) + '\n')


def write_utf8(path: Union[str, os.PathLike], text: str) -> None:
    """Write a text file, completely or not at all, with the same bytes on every platform."""
    with atomic_write(path) as part:
        part.write_text(text, encoding='utf-8', newline='\n')

"""Downloads weight files from web servers. Interrupted downloads are resumed.

The Hugging Face Hub has a client of its own, huggingface_hub; this module is for plain files, such as the archives that
Google published.
"""
import http.client
import os
import re
import time
import urllib.error
import urllib.request
import warnings
from pathlib import Path
from typing import Any, Dict, Optional, Tuple
from urllib.parse import urlsplit

from filelock import FileLock
from huggingface_hub.utils import tqdm

from .files import sha256, write_utf8

__all__ = ['SHA256', 'DownloadError', 'discard', 'download']

# Expected SHA-256 (hex) by file name. A file without an entry is accepted over HTTPS only.
SHA256: Dict[str, str] = {}

_HASH_IN_NAME = re.compile(r'-([0-9a-f]{8,64})\.\w+$')  # PyTorch's convention: the first digits of its SHA-256
_ATTEMPTS = 5  # without a single byte, before a download fails
_TIMEOUT, _PAUSE = 30., 2.  # seconds without a byte, and between two attempts
_CHUNK = 1 << 20


class DownloadError(OSError):
    """Raised if a file could not be downloaded, or is not the expected one. The message begins with its address."""


def download(url: str, folder: Path) -> Path:
    """Download a file, unless it is in `folder` already, and verify it.

    The file appears when it is complete. Until then, what has arrived is in a file whose name ends in ``.part``; the
    next call continues there. Several processes may download one file at the same time: one does, the others wait.

    If the SHA-256 of the file is unknown, it is written to a file whose name ends in ``.sha256``. Later downloads of
    the file to the same folder must have this hash, too.

    Args:
        url: The address. It must begin with https:// unless the SHA-256 of the file is known, from `SHA256`, from its
            name or from an earlier download.
        folder: Where to keep the file, under its own name. The folder is created if necessary.

    Returns:
        The path of the file.

    Raises:
        DownloadError: If the file could not be downloaded, or is not the expected one, which is deleted.

    Warns:
        UserWarning: The SHA-256 of the file is not known. It is printed.
    """
    name = os.path.basename(urlsplit(url).path)
    match, stored = _HASH_IN_NAME.search(name), _stored_hash(folder / name)
    expected = SHA256.get(name) or (match and match[1]) or (
        stored.read_text(encoding='utf-8').partition(' ')[0] if stored.exists() else None)
    if not (expected or url.startswith('https://')):
        raise DownloadError(f'{url}: has no hash in its name, so a file from plain HTTP cannot be verified; use an '
                            'https:// address or a file name that ends in its hash')
    target, part = folder / name, folder / f'{name}.part'
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(f'{target}.lock'):
        if not target.exists():
            _fetch(url, part)
            _verify(url, part, expected, stored)
            part.replace(target)
    return target


def discard(path: Path) -> None:
    """Delete a downloaded file that turned out to be a wrong one, and forget its hash."""
    path.unlink(missing_ok=True)
    _stored_hash(path).unlink(missing_ok=True)


def _stored_hash(path: Path) -> Path:
    """Return the path of the file that has the hash of a download, if no other is known."""
    return path.with_name(f'{path.name}.sha256')


def _verify(url: str, part: Path, expected: Optional[str], stored: Path) -> None:
    """Compare the SHA-256 of a downloaded file with the expected one, or store it if none is known."""
    found = sha256(part)
    if expected is None:
        warnings.warn(f'{url}: the SHA-256 of this file is not known yet; it is {found}', stacklevel=3)
        write_utf8(stored, f'{found}  {part.stem}\n')
    elif not found.startswith(expected):
        part.unlink()
        raise DownloadError(f'{url}: is not the expected file: its SHA-256 is {found} instead of {expected}')


def _fetch(url: str, part: Path) -> None:
    """Download what is missing of a file, in several attempts if necessary."""
    failures, problem = 0, ''
    while failures < _ATTEMPTS:
        if problem:
            time.sleep(_PAUSE)
        begin = part.stat().st_size if part.exists() else 0
        try:
            if _append(url, part, begin):
                return
            problem = 'the connection was closed too early'
        except urllib.error.HTTPError as error:
            problem = str(error)
            if error.code == 416:  # there is nothing behind what has arrived
                if error.headers.get('Content-Range') == f'bytes */{begin}':
                    return
                part.unlink(missing_ok=True)  # it is another file
            elif error.code < 500 and error.code != 429:
                raise DownloadError(f'{url}: {error}') from None
        except (OSError, http.client.HTTPException) as error:
            problem = str(error) or type(error).__name__
        arrived = part.stat().st_size if part.exists() else 0
        failures = failures + 1 if arrived <= begin else 0
    raise DownloadError(f'{url}: the download failed: {problem}; {arrived:,} bytes have arrived, and the next attempt '
                        'continues there')


def _append(url: str, part: Path, begin: int) -> bool:
    """Download a file from its byte `begin` on, or as a whole if the server offers nothing else.

    Returns:
        Whether the file is complete.
    """
    with _open(url, begin) as response:
        total, is_rest = _extent(response, begin)
        with part.open('ab' if is_rest else 'wb') as file, tqdm(
                desc=part.stem, total=total, initial=begin if is_rest else 0, unit='B', unit_scale=True) as bar:
            while chunk := response.read1(_CHUNK):  # unlike read, it loses nothing if the server stops
                file.write(chunk)
                bar.update(len(chunk))
            return total is None or file.tell() == total


def _open(url: str, begin: int) -> Any:
    """Request a file from its byte `begin` on."""
    request = urllib.request.Request(url, headers={'Range': f'bytes={begin}-'} if begin else {})
    response = urllib.request.urlopen(request, timeout=_TIMEOUT)
    if url.startswith('https://') and not response.url.startswith('https://'):
        response.close()
        raise urllib.error.HTTPError(url, 400, f'leads to plain HTTP, {response.url}', response.headers, None)
    return response


def _extent(response: Any, begin: int) -> Tuple[Optional[int], bool]:
    """Return the size of the whole file, None if it is unknown, and whether the response is the rest from `begin`."""
    match = re.fullmatch(r'bytes (\d+)-\d+/(\d+)', response.headers.get('Content-Range', ''))
    if response.status == 206 and match and int(match[1]) == begin:
        return int(match[2]), True
    length = response.headers.get('Content-Length', '')
    return (int(length) if length.isdigit() else None), False

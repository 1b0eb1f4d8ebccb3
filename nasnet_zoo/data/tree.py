"""The entries of folders and archives: each is an image to use, or is left out for a reason that is reported."""
import errno
import os
import posixpath
import stat
import warnings
from collections import defaultdict
from functools import cache
from pathlib import Path
from typing import IO, Any, Callable, Dict, FrozenSet, Iterator, List, NamedTuple, Optional, Protocol, Sequence, Tuple

from PIL import Image, ImageFile

from ..checked import printable

__all__ = ['ARCHIVE_ENDINGS', 'DataError', 'Entry', 'FolderTree', 'LeftOut', 'Listing', 'Tree', 'describe_left_out',
           'ending', 'image_endings', 'is_image', 'list_images', 'warn_of_left_out']

ARCHIVE_ENDINGS = ('.tar', '.tgz', '.gz', '.bz2', '.xz', '.zip', '.7z', '.rar')
LeftOut = Dict[str, List[str]]  # the names of the entries that are not used, by reason

# Why an entry is not used, and the same for several entries.
_REASONS = {
    'hidden': 'hidden',
    'not an image': 'not images',
    'image without an image extension': 'images without an image extension',
    'image in a format that is not supported': 'images in formats that are not supported',
    'image that cannot be read': 'images that cannot be read',
    'archive': 'archives',
    'in no folder train/CLASS or test/CLASS': 'in no folder train/CLASS or test/CLASS',
    'broken link': 'broken links',
    'link to a folder that contains it': 'links to folders that contain them',
    'link that leads out of the archive': 'links that lead out of the archive',
    'with a name that leads out of the archive': 'with names that lead out of the archive',
    'with the name of another entry': 'with the names of other entries',
    'neither a file nor a folder': 'neither files nor folders',
    'that cannot be opened': 'that cannot be opened',
}
# Image formats that Pillow does not decode, or not without other programs.
_UNSUPPORTED = ('.arw', '.cr2', '.cr3', '.dng', '.emf', '.eps', '.heic', '.heif', '.jxl', '.nef', '.pdf', '.ps', '.svg',
                '.wmf')
_SHOWN = 5  # names in the description of a reason

# Formats that are recognised by their first bytes. Those of the others also occur in files that are no images.
_RECOGNISED = ('PNG', 'JPEG', 'GIF', 'WEBP', 'TIFF', 'AVIF')
# Formats that Pillow opens, but decodes with Ghostscript or not at all.
_NO_IMAGES = ('EPS', 'MPEG')


class DataError(ValueError):
    """Raised if a data set cannot be used."""


def describe_left_out(left_out: LeftOut) -> str:
    """Return how many entries are left out, why, and the first of them, as in '2 files left out: 1 hidden (.a.png),
    1 not an image (notes.txt)'. Return '' if there are none."""
    parts = [f'{len(names)} {reason if len(names) == 1 else _REASONS[reason]} '
             f'({", ".join(map(printable, names[:_SHOWN]))}{", …" if len(names) > _SHOWN else ""})'
             for reason, names in left_out.items() if names]
    names = [name for names in left_out.values() for name in names]
    kind = 'files' if len(names) > 1 else 'file'
    if any(name.endswith('/') for name in names):  # a folder, which is left out as a whole
        kind = 'files and folders' if len(names) > 1 else 'folder'
    return f'{len(names)} {kind} left out: {", ".join(parts)}' if parts else ''


def warn_of_left_out(text: str, path: Optional[Path] = None) -> None:
    """Warn with the text of :func:`describe_left_out`, unless it is empty. `path` is the folder or the archive."""
    if text:
        warnings.warn(text if path is None else f'{path}: {text}', stacklevel=4)


def ending(name: str) -> str:
    """Return the ending of a file's name in lower case, such as '.jpeg', or '' if it has none."""
    return posixpath.splitext(name)[1].lower()


@cache
def image_endings() -> FrozenSet[str]:
    """Return the endings of the image formats that the installed Pillow decodes, in lower case, such as '.jpeg'."""
    stubs = {name for name, (opener, _) in _formats().items()  # they need a decoder from elsewhere
             if isinstance(opener, type) and issubclass(opener, ImageFile.StubImageFile)}
    decoded = {*_formats(), 'MPO'} - stubs - set(_NO_IMAGES)  # MPO is opened as JPEG
    return frozenset(suffix for suffix, name in Image.registered_extensions().items() if name in decoded)


def _formats() -> Dict[str, Tuple[Any, Any]]:
    """Return Pillow's table of formats: the function that opens one, and the one that recognises it."""
    Image.init()
    return Image.OPEN


def is_image(read: Callable[[], IO[bytes]]) -> bool:
    """Return whether a file begins as an image does."""
    try:
        with read() as file:
            head = file.read(16)
    except Exception:  # archives raise errors of many types, for instance for encrypted files
        return False
    accepts = [_formats()[name][1] for name in _RECOGNISED if name in _formats()]
    return len(head) == 16 and any(accept(head) is True for accept in accepts)


class Entry(NamedTuple):
    """An entry of a folder.

    Attributes:
        name: The name in its folder.
        kind: 'file', 'folder', or the reason why it is neither.
        key: Identifies the file or folder, by whatever link it is reached.
        stamp: Size and time of the last change, where the file system knows them.
    """
    name: str
    kind: str
    key: Any
    stamp: Tuple[int, ...] = ()


class Tree(Protocol):
    """The entries below a folder, or in an archive, which is taken for a folder. The tree's own folder has name ''.

    Attributes:
        left_out: What no folder has among its entries, by the reason for which it is left out.
    """
    left_out: LeftOut

    def entries(self, folder: str) -> List[Entry]:
        """Return the entries of a folder, given by its name relative to the tree.

        Raises:
            OSError: If the folder cannot be opened.
            DataError: If the archive cannot be read.
        """

    def as_text(self, name: str) -> str:
        """Return a name as text. Bytes that are not UTF-8 are represented by surrogates."""

    def key(self) -> Any:
        """Return the key of the tree's own folder, see :class:`Entry`."""

    def is_image(self, name: str) -> bool:
        """Return whether the content of a file is an image."""

    def read(self, names: Sequence[str]) -> Iterator[Tuple[str, Callable[[], bytes]]]:
        """Yield each name with a function that reads the file, to be called before the next name."""


class FolderTree:
    """A :class:`Tree` of the file system. Links are followed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.left_out: LeftOut = {}

    def entries(self, folder: str) -> List[Entry]:
        with os.scandir(self.path / folder) as found:
            return [self._entry(entry) for entry in found]

    @staticmethod
    def _entry(entry: os.DirEntry) -> Entry:
        try:
            status = os.stat(entry.path)  # entry.stat() would have no inode on Windows
        except OSError as error:
            is_broken = error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
            return Entry(entry.name, 'broken link' if is_broken else 'that cannot be opened', None)
        kind = ('folder' if stat.S_ISDIR(status.st_mode) else 'file' if stat.S_ISREG(status.st_mode) else
                'neither a file nor a folder')
        stamp = (status.st_size, status.st_mtime_ns) if kind == 'file' else ()
        return Entry(entry.name, kind, (status.st_dev, status.st_ino), stamp)

    def as_text(self, name: str) -> str:
        # Python decodes it as the locale says, but it is UTF-8 nearly everywhere.
        return os.fsencode(name).decode('utf-8', 'surrogateescape')

    def key(self) -> Any:
        status = self.path.stat()
        return status.st_dev, status.st_ino

    def is_image(self, name: str) -> bool:
        return is_image(lambda: (self.path / name).open('rb'))

    def read(self, names: Sequence[str]) -> Iterator[Tuple[str, Callable[[], bytes]]]:
        for name in names:
            yield name, (self.path / name).read_bytes


class Listing(NamedTuple):
    """The entries of a tree.

    Attributes:
        images: Names of the image files, relative to the tree, with '/'; sorted by folder and name.
        folders: Names of all folders, sorted.
        left_out: The entries that are neither. The name of a folder that was not looked into ends with '/'.
        stamps: Name, size and time of the last change of all entries, sorted.
    """
    images: List[str]
    folders: List[str]
    left_out: LeftOut
    stamps: List[Tuple]


def list_images(tree: Tree) -> Listing:
    """List the images of a tree and all that is left out.

    Hidden are names that begin with a dot, and the folders ``__MACOSX`` that macOS adds to archives.

    Raises:
        OSError: If the tree's own folder cannot be opened.
        DataError: If the archive cannot be read.
    """
    images: List[str] = []
    folders: List[str] = []
    stamps: List[Tuple] = []
    left_out: LeftOut = defaultdict(list)
    # Folders to list, each with its own key and those of the folders on the way to it.
    pending: List[Tuple[str, Tuple]] = [('', (tree.key(),))]
    while pending:
        folder, above = pending.pop()
        try:
            entries = tree.entries(folder)
        except OSError:
            if not folder:
                raise
            folders.remove(folder)
            left_out['that cannot be opened'].append(f'{folder}/')
            continue
        for entry in entries:
            name = posixpath.join(folder, entry.name)
            stamps.append((name, *entry.stamp))
            reason = _reason_to_leave_out(tree, name, entry, above)
            if reason:
                left_out[reason].append(f'{name}/' if entry.kind == 'folder' else name)
            elif entry.kind == 'folder':
                folders.append(name)
                pending.append((name, (*above, entry.key)))
            else:
                images.append(name)
    for reason, names in tree.left_out.items():
        left_out[reason] += names
    images.sort(key=posixpath.split)
    left_out = {reason: sorted(left_out[reason]) for reason in _REASONS if reason in left_out}
    return Listing(images, sorted(folders), left_out, sorted(stamps))


def _reason_to_leave_out(tree: Tree, name: str, entry: Entry, above: Sequence[Any]) -> Optional[str]:
    """Return why an entry is not used, None if it is. `above` are the keys of the folders in which it is."""
    if entry.name.startswith('.') or entry.name == '__MACOSX':
        return 'hidden'
    if entry.kind == 'folder':
        return 'link to a folder that contains it' if entry.key in above else None
    if entry.kind != 'file':
        return entry.kind
    if ending(name) in image_endings():
        return None
    for endings, reason in ((ARCHIVE_ENDINGS, 'archive'), (_UNSUPPORTED, 'image in a format that is not supported')):
        if ending(name) in endings:
            return reason
    return 'image without an image extension' if tree.is_image(name) else 'not an image'

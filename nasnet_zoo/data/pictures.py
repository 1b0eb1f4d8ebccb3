"""Images in folders and archives: they are found, read, and decoded once."""
import hashlib
import io
import json
import os
import tarfile
import zlib
from functools import cached_property
from pathlib import Path
from typing import IO, Any, Callable, Collection, Dict, Iterable, Iterator, List, Optional, Sequence, Tuple, Union

import numpy as np
import torch
from PIL import Image, ImageOps
from rich.progress import track
from safetensors.torch import save_file

from ..files import atomic_write

__all__ = ['SUFFIXES', 'DataError', 'PictureDataset', 'PictureFolder', 'as_rgb', 'cache_folder', 'names_as_text']

SUFFIXES = ('.png', '.jpg', '.jpeg', '.bmp', '.gif', '.ppm', '.webp', '.tif', '.tiff')
_CACHE_FORMAT = 3  # version of the files that `decode` writes; files of other versions are not read
_SPLITS = {'train': ('train',), 'test': ('test', 'val', 'validation')}  # names of a split's folder


class DataError(ValueError):
    """Raised if a data set cannot be used."""


def cache_folder() -> Path:
    """Return the folder for downloaded and decoded data: ``$NASNET_ZOO_CACHE`` or ``~/.cache/nasnet_zoo``."""
    home = os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache'
    return Path(os.environ.get('NASNET_ZOO_CACHE') or Path(home) / 'nasnet_zoo')


def names_as_text(names: Iterable[str]) -> Tuple[str, ...]:
    """Return names of files as text. Python decodes them as the locale says, but they are UTF-8 nearly everywhere."""
    return tuple(os.fsencode(name).decode('utf-8', 'backslashreplace') for name in names)


class PictureFolder:
    """A folder, or an archive of one, with images under SPLIT/CLASS. Hidden files and folders are ignored.

    Args:
        path: The folder, or a .tar, .tar.gz or .tgz file.

    Attributes:
        digest: Identifies the content by the names, sizes and times of the files. An archive is not opened for it.
        unreadable: Images that could not be read so far, with the reason.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.unreadable: List[str] = []
        facts = [(name, *_stamp(path / name)) for name, is_dir in self._entries if not is_dir] if path.is_dir() else [
            (path.name, *_stamp(path))]
        self.digest = hashlib.sha256(json.dumps([_CACHE_FORMAT, *facts]).encode()).hexdigest()[:16]

    @cached_property
    def _entries(self) -> List[Tuple[str, bool]]:
        """Names of all files and folders, sorted, and whether each is a folder."""
        if self.path.is_dir():
            return sorted((entry.relative_to(self.path).as_posix(), entry.is_dir()) for entry in self.path.rglob('*'))
        return sorted((Path(member.name).as_posix(), member.isdir()) for member in self._members())

    @cached_property
    def splits(self) -> Dict[str, Dict[str, List[str]]]:
        """The names of the images of each class of the splits 'train' and 'test', all sorted.

        Raises:
            DataError: If an archive cannot be read, or if a split or the images of a class are missing.
        """
        entries = [(Path(name), is_dir) for name, is_dir in self._entries]
        entries = [(entry, is_dir) for entry, is_dir in entries if not any(
            part.startswith('.') for part in entry.parts)]
        splits = {split: _classes(entries, names) for split, names in _SPLITS.items()}
        for split, classes in splits.items():
            if not classes:
                raise DataError(f'{self.path}: has no folders {split}/CLASS with images')
            empty = [name for name, pictures in classes.items() if not pictures]
            if empty:
                raise DataError(f'{self.path}: {split}/{empty[0]} has no images ({", ".join(SUFFIXES)}); '
                                'add some or remove the folder')
        train, test = (set(classes) for classes in splits.values())
        if train != test:
            raise DataError(f'{self.path}: train and test have different classes: {", ".join(sorted(train ^ test))}')
        return splits

    def _members(self) -> List[tarfile.TarInfo]:
        try:
            with tarfile.open(self.path) as archive:
                members = [member for member in archive.getmembers() if member.isfile() or member.isdir()]
                archive.fileobj.seek(archive.offset)
                if archive.fileobj.read(tarfile.BLOCKSIZE).strip(b'\0'):  # tarfile takes a damaged header for the end
                    raise tarfile.TarError(f'it is damaged after {members[-1].name if members else "its beginning"}')
                return members
        except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
            raise DataError(f'{self.path}: cannot be read as an archive: {error}') from None

    @property
    def names(self) -> List[str]:
        """The names of all images."""
        return [name for classes in self.splits.values() for pictures in classes.values() for name in pictures]

    def read(self, names: Sequence[str]) -> Iterator[Tuple[str, bytes]]:
        """Yield name and content of each image in `names`. An archive is read in its own order, in memory."""
        if self.path.is_dir():
            yield from ((name, (self.path / name).read_bytes()) for name in names)
            return
        wanted = set(names)
        with tarfile.open(self.path) as archive:
            for member in archive:
                name = Path(member.name).as_posix()
                if name in wanted and member.isfile():
                    yield name, archive.extractfile(member).read()
                    wanted.remove(name)
                    if not wanted:
                        return

    def common_side(self) -> int:
        """Return the side in pixels of the first readable image. :meth:`decode` checks that the others have it too.

        Raises:
            DataError: If that image is not square, or if none can be read.
        """
        for name, content in self.read([pictures[0] for pictures in self.splits['train'].values()]):
            try:
                width, height = Image.open(io.BytesIO(content)).size
            except Exception:  # decoders raise errors of many types
                continue
            self._check_size(name, (width, height), width)
            return width
        raise DataError(f'{self.path}: the first image of no class can be read')

    def _check_size(self, name: str, size: Tuple[int, int], side: int) -> None:
        if size != (side, side):
            raise DataError(f'{self.path}: {name} is not square or not as large as the others; choose a size to '
                            'which all images are resized (--img-size)')

    def decode(self, prepare: Callable[[Image.Image], np.ndarray], file: Path, side: Optional[int] = None) -> None:
        """Decode all images and write them to a safetensors file: SPLIT.images, uint8 [N, C, H, W], SPLIT.labels.

        The metadata holds, as JSON, the classes, the images that cannot be read, and whether any was resized.

        Args:
            prepare: Converts an image to uint8 [C, H, W].
            file: The file to write.
            side: If given, every image must be square and have this side.

        Raises:
            DataError: If an image has another size than `side`, or if no image of a class can be read.
        """
        pictures, resized = {}, False
        for name, content in track(self.read(self.names), self.path.name, len(self.names), transient=True):
            image = self._try(name, _open_rgb, io.BytesIO(content))
            if image and side is not None:
                self._check_size(name, image.size, side)
            prepared = None if image is None else self._try(name, prepare, image)
            if prepared is not None:
                pictures[name] = prepared
                resized = resized or image.size != prepared.shape[:0:-1]
        tensors = {}
        for split, names, labels in self._readable(pictures):
            tensors[f'{split}.images'] = torch.from_numpy(np.stack([pictures[name] for name in names])).contiguous()
            tensors[f'{split}.labels'] = torch.tensor(labels)
        with atomic_write(file) as part:
            save_file(tensors, part, metadata=dict(
                classes=json.dumps(names_as_text(self.splits['train'])), unreadable=json.dumps(self.unreadable),
                resized=json.dumps(resized)))

    def datasets(self) -> List['PictureDataset']:
        """Return both splits as data sets that read images on demand, without those whose headers are damaged."""
        readable = {name for name in self.names if self._try(name, _size, self.path / name)}
        return [PictureDataset([self.path / name for name in names], labels)
                for _, names, labels in self._readable(readable)]

    def _try(self, name: str, read: Callable[[Any], Any], source: Any) -> Any:
        """Return ``read(source)``. If it fails, add the image to `unreadable` and return None."""
        try:
            return read(source)
        except Exception as error:  # decoders raise errors of many types
            self.unreadable.append(f'{name} ({error})')
            return None

    def _readable(self, readable: Collection[str]) -> Iterator[Tuple[str, List[str], List[int]]]:
        """Yield each split with names and labels of its images in `readable`."""
        for split, classes in self.splits.items():
            kept = [[name for name in names if name in readable] for names in classes.values()]
            for class_name, names in zip(classes, kept):
                if not names:
                    raise DataError(f'{self.path}: none of the images in {split}/{class_name} can be read')
            yield (split, [name for names in kept for name in names],
                   [label for label, names in enumerate(kept) for _ in names])


class PictureDataset(torch.utils.data.Dataset):
    """Image files and their labels, for timm's loader, which sets `transform`.

    An image that cannot be read is an error. timm's own data set returns the next image instead, which makes
    accuracies wrong.
    """

    def __init__(self, files: List[Path], labels: List[int]) -> None:
        self.files, self.labels = files, labels
        self.transform: Optional[Callable[[Image.Image], Any]] = None

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Tuple[Any, int]:
        """Return image and label number `index`. Raises DataError if the image cannot be read."""
        try:
            image = _open_rgb(self.files[index])
        except Exception as error:  # decoders raise errors of many types
            raise DataError(f'{self.files[index]}: cannot be read: {error}; remove it') from None
        return image if self.transform is None else self.transform(image), self.labels[index]


def _classes(entries: Sequence[Tuple[Path, bool]], folder_names: Sequence[str]) -> Dict[str, List[str]]:
    """Return the images of each class of a split.

    The split's folder has the first of `folder_names` for which there is one with classes. If there are several, the
    one nearest to the top is taken.
    """
    for folder_name in folder_names:
        tops = {entry.parent for entry, is_dir in entries if is_dir and entry.parent.name == folder_name}
        tops |= {entry.parent.parent for entry, is_dir in entries
                 if not is_dir and entry.parent.parent.name == folder_name}
        if tops:
            top = min(tops, key=lambda folder: (len(folder.parts), folder))
            classes = {entry.name: [] for entry, is_dir in entries if is_dir and entry.parent == top}
            for entry, is_dir in entries:
                if not is_dir and entry.parent.parent == top and entry.suffix.lower() in SUFFIXES:
                    classes.setdefault(entry.parent.name, []).append(entry.as_posix())
            return {name: sorted(classes[name]) for name in sorted(classes)}
    return {}


def _stamp(path: Path) -> Tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def _size(path: Path) -> Tuple[int, int]:
    with Image.open(path) as image:
        return image.size


def _open_rgb(source: Union[Path, IO[bytes]]) -> Image.Image:
    return as_rgb(Image.open(source))


def as_rgb(image: Image.Image) -> Image.Image:
    """Convert an image to 8-bit RGB and rotate it upright if its EXIF data say so.

    Of 16-bit values, the upper 8 bits are kept, whereas PIL's own conversion would clip the values at 255.

    Raises:
        ValueError: If the range of the pixel values is unknown (PIL's modes I and F).
    """
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith('I;16'):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    elif image.mode in ('I', 'F'):
        raise ValueError(f'the range of the pixel values is unknown for images of mode {image.mode}')
    return image.convert('RGB')

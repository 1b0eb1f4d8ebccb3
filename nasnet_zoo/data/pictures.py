"""Images in folders and archives: they are found, read, and decoded once."""
import io
import json
import os
import posixpath
import sys
from functools import cached_property
from pathlib import Path
from typing import IO, Any, Callable, Collection, Dict, Iterator, List, Optional, Sequence, Tuple, Union

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from platformdirs import user_cache_path
from rich.console import Console
from rich.progress import track
from safetensors.torch import save_file

from ..checked import printable
from ..files import atomic_write, json_sha256
from .archive import ArchiveTree
from .tree import (
    ARCHIVE_ENDINGS,
    DataError,
    FolderTree,
    LeftOut,
    Listing,
    describe_left_out,
    image_endings,
    list_images,
)

__all__ = ['DataError', 'PictureDataset', 'PictureFolder', 'as_rgb', 'cache_folder', 'find_pictures']

_CACHE_FORMAT = 4  # version of the files that `decode` writes; files of other versions are not read
_SPLITS = {'train': ('train',), 'test': ('test', 'val', 'validation')}  # names of a split's folder


def cache_folder() -> Path:
    """Return the folder for downloaded and decoded data: ``$NASNET_ZOO_CACHE``, or the platform's folder for caches,
    which is ``~/.cache/nasnet_zoo`` on Linux."""
    return Path(os.environ.get('NASNET_ZOO_CACHE') or user_cache_path('nasnet_zoo', appauthor=False))


def find_pictures(paths: Sequence[Union[str, os.PathLike]]) -> Tuple[List[Path], LeftOut]:
    """List image files: files as they are, and of folders all images in them and below, sorted by folder and name.

    Returns:
        The files, and the other entries of the folders by the reason for which they are left out.

    Raises:
        ValueError: If a path does not exist or is an archive, or if a folder has no images.
    """
    found: List[Path] = []
    left_out: LeftOut = {}
    for path in map(Path, paths):
        if path.is_dir():
            listing = list_images(FolderTree(path))
            if not listing.images:
                raise ValueError(f'{path}: there are no images{_in_brackets(listing.left_out)}')
            found += [path / name for name in listing.images]
            for reason, names in listing.left_out.items():
                left_out.setdefault(reason, []).extend(os.path.join(path, name) for name in names)
        elif not path.exists():
            raise ValueError(f'{path}: ' + ('is a broken link' if path.is_symlink() else
                                            'there is no such file or folder'))
        elif path.suffix.lower() in ARCHIVE_ENDINGS:
            raise ValueError(f'{path}: is an archive; unpack it and pass the folder')
        else:
            found.append(path)
    return found, left_out


def _in_brackets(left_out: LeftOut) -> str:
    text = describe_left_out(left_out)
    return f' ({text})' if text else ''


class PictureFolder:
    """A folder, or an archive of one, with images under SPLIT/CLASS, in the class's folder or below it.

    Args:
        path: The folder, or a .tar, .tar.gz, .tgz or .zip file.

    Attributes:
        digest: Identifies the content by the names, sizes and times of the files. An archive is not opened for it.
        left_out: The entries that are not used, by reason. It is complete when the images were listed and read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._tree = FolderTree(path) if path.is_dir() else ArchiveTree(path)
        facts = self._listing.stamps if path.is_dir() else [(path.name, *_stamp(path))]
        self.digest = json_sha256([_CACHE_FORMAT, sorted(image_endings()), *facts])[:16]

    @cached_property
    def _listing(self) -> Listing:
        return list_images(self._tree)

    @cached_property
    def left_out(self) -> LeftOut:
        """The entries that are not used, by reason. Those found by a later step are added to it."""
        return {reason: list(names) for reason, names in self._listing.left_out.items()}

    @cached_property
    def splits(self) -> Dict[str, Dict[str, List[str]]]:
        """The names of the images of each class of the splits 'train' and 'test', sorted by folder and name.

        Raises:
            DataError: If an archive cannot be read, or if a split or the images of a class are missing.
        """
        splits = {split: {self._tree.as_text(name): pictures for name, pictures in _classes(
            self._listing, names).items()} for split, names in _SPLITS.items()}
        used = {name for classes in splits.values() for pictures in classes.values() for name in pictures}
        self._leave_out('in no folder train/CLASS or test/CLASS',
                        [name for name in self._listing.images if name not in used])
        others = _in_brackets(self.left_out)
        for split, classes in splits.items():
            if not classes:
                raise DataError(f'{self.path}: has no folders {split}/CLASS with images{others}')
            empty = [name for name, pictures in classes.items() if not pictures]
            if empty:
                raise DataError(f'{self.path}: {split}/{printable(empty[0])} has no images{others}; add some or remove '
                                'the folder')
        train, test = (set(classes) for classes in splits.values())
        if train != test:
            raise DataError(f'{self.path}: train and test have different classes: '
                            f'{printable(", ".join(sorted(train ^ test)))}{others}')
        for name in train:
            if not name.isprintable():
                raise DataError(f'{self.path}: the name of the class {printable(name)} is not UTF-8 or cannot be '
                                'printed; rename its folder')
        return splits

    def _leave_out(self, reason: str, names: Sequence[str]) -> None:
        if names:
            self.left_out.setdefault(reason, []).extend(names)

    @property
    def names(self) -> List[str]:
        """The names of all images."""
        return [name for classes in self.splits.values() for pictures in classes.values() for name in pictures]

    def common_side(self) -> int:
        """Return the side in pixels of the first readable image. :meth:`decode` checks that the others have it too.

        Raises:
            DataError: If that image is not square, or if none can be read.
        """
        for name, read in self._tree.read([pictures[0] for pictures in self.splits['train'].values()]):
            try:
                width, height = Image.open(io.BytesIO(read())).size
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

        The metadata holds, as JSON, the classes, how many entries are left out and why, and whether any image was
        resized.

        Args:
            prepare: Converts an image to uint8 [C, H, W].
            file: The file to write.
            side: If given, every image must be square and have this side.

        Raises:
            DataError: If an image has another size than `side`, or if no image of a class can be read.
        """
        pictures, resized = {}, False
        for name, read in track(
                self._tree.read(self.names), self.path.name, len(self.names), transient=True,
                console=Console(stderr=True), disable=not sys.stderr.isatty()):
            image = self._try(name, _decode, read)
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
                classes=json.dumps(list(self.splits['train'])), left_out=json.dumps(self.summary()),
                resized=json.dumps(resized)))

    def summary(self) -> Tuple[Dict[str, int], str]:
        """Return how many entries are left out for each reason, and the same as text with some of their names."""
        return {reason: len(names) for reason, names in self.left_out.items()}, describe_left_out(self.left_out)

    def datasets(self) -> List['PictureDataset']:
        """Return both splits as data sets that read images on demand, without those whose headers are damaged."""
        readable = {name for name in self.names if self._try(name, _size, self.path / name)}
        return [PictureDataset([self.path / name for name in names], labels)
                for _, names, labels in self._readable(readable)]

    def _try(self, name: str, read: Callable[[Any], Any], source: Any) -> Any:
        """Return ``read(source)``. If it fails, leave the image out and return None."""
        try:
            return read(source)
        except Exception as error:  # decoders raise errors of many types
            # Pillow's own message would name a buffer in memory instead of the file.
            reason = 'it is not an image' if isinstance(error, UnidentifiedImageError) else str(error)
            self._leave_out('image that cannot be read', [f'{name}: {reason or type(error).__name__}'])
            return None

    def _readable(self, readable: Collection[str]) -> Iterator[Tuple[str, List[str], List[int]]]:
        """Yield each split with names and labels of its images in `readable`."""
        for split, classes in self.splits.items():
            kept = [[name for name in names if name in readable] for names in classes.values()]
            for class_name, names in zip(classes, kept):
                if not names:
                    raise DataError(f'{self.path}: none of the images in {split}/{class_name} can be read'
                                    f'{_in_brackets(self.left_out)}')
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
            return image if self.transform is None else self.transform(image), self.labels[index]
        except Exception as error:  # decoders raise errors of many types
            raise DataError(f'{self.files[index]}: cannot be read: {error}; remove it') from None


def _classes(listing: Listing, folder_names: Sequence[str]) -> Dict[str, List[str]]:
    """Return the images of each class of a split: those in the class's folder and below it.

    The split's folder has the first of `folder_names` for which there is one with classes. If there are several, the
    one nearest to the top is taken.
    """
    for folder_name in folder_names:
        tops = {posixpath.dirname(folder) for folder in listing.folders}
        tops = {folder for folder in tops if posixpath.basename(folder) == folder_name}
        if tops:
            start = min(tops, key=lambda folder: (folder.count('/'), folder)) + '/'
            classes: Dict[str, List[str]] = {
                folder[len(start):]: [] for folder in listing.folders
                if folder.startswith(start) and '/' not in folder[len(start):]}
            for name in listing.images:
                class_name, *below = name[len(start):].split('/')
                if name.startswith(start) and below:
                    classes[class_name].append(name)
            return classes
    return {}


def _stamp(path: Path) -> Tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def _size(path: Path) -> Tuple[int, int]:
    with Image.open(path) as image:
        return image.size


def _decode(read: Callable[[], bytes]) -> Image.Image:
    return _open_rgb(io.BytesIO(read()))


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

"""Pictures in folders and archives: found, read, decoded once."""
import hashlib
import io
import json
import os
import tarfile
import zlib
from functools import cached_property
from pathlib import Path
from typing import IO, Any, Callable, Collection, Dict, Iterator, List, Optional, Sequence, Tuple, Union

import numpy as np
import torch
from PIL import Image, ImageOps

from ..files import atomic_write

__all__ = ['SUFFIXES', 'DataError', 'PictureFolder', 'PictureDataset', 'as_rgb', 'cache_folder']

SUFFIXES = ('.png', '.jpg', '.jpeg', '.bmp', '.gif', '.ppm', '.webp', '.tif', '.tiff')
_CACHE_FORMAT = 2  # of what `decode` writes
_SPLITS = {'train': ('train',), 'test': ('test', 'val', 'validation')}


class DataError(ValueError):
    """A data set that cannot be used, and why."""


def cache_folder() -> Path:
    """Where what was downloaded or decoded is kept."""
    home = os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache'
    return Path(os.environ.get('NASNET_ZOO_CACHE') or Path(home) / 'nasnet_zoo')


class PictureFolder:
    """Pictures under SPLIT/CLASS, in a folder or an archive; hidden files and folders do not count.

    Attributes:
        digest: Changes with the files; found without reading an archive.
        unreadable: Pictures that turned out to be so when they were wanted, and why.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.unreadable = path, []
        facts = [(name, *_stamp(path / name)) for name, is_dir in self._entries if not is_dir] if path.is_dir() else [
            (path.name, *_stamp(path))]
        self.digest = hashlib.sha256(json.dumps([_CACHE_FORMAT, *facts]).encode()).hexdigest()[:16]

    @cached_property
    def _entries(self) -> List[Tuple[str, bool]]:
        """Names of all files and folders, sorted, and which are folders."""
        if self.path.is_dir():
            return sorted((entry.relative_to(self.path).as_posix(), entry.is_dir()) for entry in self.path.rglob('*'))
        return sorted((Path(member.name).as_posix(), member.isdir()) for member in self._members())

    @cached_property
    def splits(self) -> Dict[str, Dict[str, List[str]]]:
        """'train' and 'test', for each class the names of its pictures, all sorted.

        Raises:
            DataError: For an archive that cannot be read, and where one of the two or a class's pictures are missing.
        """
        entries = [(Path(name), is_dir) for name, is_dir in self._entries]
        entries = [(entry, is_dir) for entry, is_dir in entries if not any(
            part.startswith('.') for part in entry.parts)]
        splits = {split: _classes(entries, words) for split, words in _SPLITS.items()}
        for split, classes in splits.items():
            if not classes:
                raise DataError(f'{self.path}: has no folders {split}/CLASS with pictures')
            empty = [name for name, pictures in classes.items() if not pictures]
            if empty:
                raise DataError(f'{self.path}: {split}/{empty[0]} has no pictures ({", ".join(SUFFIXES)}); '
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
                if archive.fileobj.read(tarfile.BLOCKSIZE).strip(b'\0'):  # tarfile takes a bad header for the end
                    raise tarfile.TarError(f'it is damaged after {members[-1].name if members else "its beginning"}')
                return members
        except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
            raise DataError(f'{self.path}: cannot be read as an archive: {error}') from None

    @property
    def names(self) -> List[str]:
        """Of all pictures."""
        return [name for classes in self.splits.values() for pictures in classes.values() for name in pictures]

    def read(self, names: Sequence[str]) -> Iterator[Tuple[str, bytes]]:
        """Name and bytes of each picture in `names`; of an archive in its own order, and nothing goes to disk."""
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
        """The side of the first readable picture; :meth:`decode` holds the others to it."""
        for name, content in self.read([pictures[0] for pictures in self.splits['train'].values()]):
            try:
                width, height = Image.open(io.BytesIO(content)).size
            except Exception:  # a decoder raises what it likes
                continue
            self._refuse_unless((width, height) == (width, width), name)
            return width
        raise DataError(f'{self.path}: none of the first pictures of the classes can be read')

    def _refuse_unless(self, fits: bool, name: str) -> None:
        if not fits:
            raise DataError(f'{self.path}: {name} is not square or not as large as the others; say which side all '
                            'shall be brought to (--img-size)')

    def decode(self, side: int, exact: bool, file: Path) -> None:
        """Write all pictures as tensors, SPLIT.images and SPLIT.labels, whole or not at all.

        The metadata lists, as JSON, the classes and the pictures that cannot be read. With `exact` every picture must
        have this side.
        """
        from rich.progress import track
        from safetensors.torch import save_file
        pictures = {}
        for name, content in track(self.read(self.names), self.path.name, len(self.names), transient=True):
            image = self._try(name, _open_rgb, io.BytesIO(content))
            if image:
                self._refuse_unless(not exact or image.size == (side, side), name)
                pictures[name] = _square(image, side)
        tensors = {}
        for split, names, labels in self._kept(pictures):
            images = torch.from_numpy(np.stack([pictures[name] for name in names]))
            tensors[f'{split}.images'] = images.permute(0, 3, 1, 2).contiguous()
            tensors[f'{split}.labels'] = torch.tensor(labels)
        with atomic_write(file) as part:
            save_file(tensors, part, metadata=dict(
                classes=json.dumps(list(self.splits['train'])), unreadable=json.dumps(self.unreadable)))

    def datasets(self) -> List['PictureDataset']:
        """Both splits as data sets that read when asked, without the pictures whose headers cannot be read."""
        readable = {name for name in self.names if self._try(name, _size, self.path / name)}
        return [PictureDataset([self.path / name for name in names], labels)
                for _, names, labels in self._kept(readable)]

    def _try(self, name: str, read: Callable[[Any], Any], source: Any) -> Any:
        """What `read` makes of a picture; None, and noted, where it cannot be read."""
        try:
            return read(source)
        except Exception as error:  # a decoder raises what it likes
            self.unreadable.append(f'{name} ({error})')
            return None

    def _kept(self, readable: Collection[str]) -> Iterator[Tuple[str, List[str], List[int]]]:
        """Each split, and the names and labels of those of its pictures that are in `readable`."""
        for split, classes in self.splits.items():
            kept = [[name for name in names if name in readable] for names in classes.values()]
            for class_name, names in zip(classes, kept):
                if not names:
                    raise DataError(f'{self.path}: none of the pictures in {split}/{class_name} can be read')
            yield (split, [name for names in kept for name in names],
                   [label for label, names in enumerate(kept) for _ in names])


class PictureDataset(torch.utils.data.Dataset):
    """Pictures in files and their labels. timm's loader sets `transform`.

    timm's own data set puts the next picture in the place of one that cannot be read, which makes accuracies wrong.

    Raises:
        DataError: When a picture is asked for that cannot be read.
    """

    def __init__(self, files: List[Path], labels: List[int]) -> None:
        self.files, self.labels = files, labels
        self.transform: Optional[Callable[[Image.Image], Any]] = None

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Tuple[Any, int]:
        try:
            image = _open_rgb(self.files[index])
        except Exception as error:  # a decoder raises what it likes
            raise DataError(f'{self.files[index]}: cannot be read: {error}; remove it') from None
        return image if self.transform is None else self.transform(image), self.labels[index]


def _classes(entries: Sequence[Tuple[Path, bool]], words: Sequence[str]) -> Dict[str, List[str]]:
    """Pictures of each class, of the first of `words` that is a folder with classes, nearest to the top."""
    for word in words:
        tops = {entry.parent for entry, is_dir in entries if is_dir and entry.parent.name == word}
        tops |= {entry.parent.parent for entry, is_dir in entries if not is_dir and entry.parent.parent.name == word}
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
    """Upright and in 8-bit colour. PIL's own conversion cuts 16 bits off at 255."""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith('I;16'):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    elif image.mode in ('I', 'F'):
        raise ValueError(f'pictures of mode {image.mode} have no known range')
    return image.convert('RGB')


def _square(image: Image.Image, side: int) -> np.ndarray:
    """uint8 [side, side, 3]: the short side resized to `side`, the middle of the long one."""
    if image.size != (side, side):
        scale = side / min(image.size)
        width, height = (max(side, round(length * scale)) for length in image.size)
        image = image.resize((width, height), Image.Resampling.BICUBIC)
        left, top = (width - side) // 2, (height - side) // 2
        image = image.crop((left, top, left + side, top + side))
    return np.asarray(image)

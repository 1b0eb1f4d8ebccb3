"""Pictures in folders and archives: found, read, decoded once."""
import hashlib
import io
import json
import os
import tarfile
import zlib
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Tuple

import numpy as np
import torch
from PIL import Image, ImageOps

from .files import written_whole

__all__ = ['DataError', 'PictureFolder', 'PictureDataset', 'cache_folder']

_SUFFIXES = ('.png', '.jpg', '.jpeg', '.bmp', '.gif', '.ppm', '.webp', '.tif', '.tiff')
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
        splits: 'train' and 'test', for each class the names of its pictures, all sorted.
        digest: Changes with the files.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if path.is_dir():
            entries = [(entry.relative_to(path), entry.is_dir()) for entry in path.rglob('*')]
            facts = [(entry.as_posix(), *_stamp(path / entry)) for entry, is_dir in sorted(entries) if not is_dir]
        else:
            entries = [(Path(member.name), member.isdir()) for member in self._members()]
            facts = [(path.name, *_stamp(path))]
        self.digest = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]
        entries = [(entry, is_dir) for entry, is_dir in entries if not any(
            part.startswith('.') for part in entry.parts)]
        self.splits = {split: _classes(entries, words) for split, words in _SPLITS.items()}
        for split, classes in self.splits.items():
            if not classes:
                raise DataError(f'{path}: has no folders {split}/CLASS with pictures')
            empty = [name for name, pictures in classes.items() if not pictures]
            if empty:
                raise DataError(f'{path}: {split}/{empty[0]} has no pictures ({", ".join(_SUFFIXES)}); '
                                'add some or remove the folder')
        train, test = (set(classes) for classes in self.splits.values())
        if train != test:
            raise DataError(f'{path}: train and test have different classes: {", ".join(sorted(train ^ test))}')

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

        The metadata lists, as JSON, the pictures that cannot be read. With `exact` every picture must have this side.
        """
        from rich.progress import track
        from safetensors.torch import save_file
        pictures, unreadable = {}, []
        for name, content in track(self.read(self.names), self.path.name, len(self.names), transient=True):
            try:
                image = as_rgb(Image.open(io.BytesIO(content)))
            except Exception as error:  # a decoder raises what it likes
                unreadable.append(f'{name} ({error})')
                continue
            self._refuse_unless(not exact or image.size == (side, side), name)
            pictures[name] = _square(image, side)
        tensors = {}
        for split, classes in self.splits.items():
            kept = {name: [picture for picture in names if picture in pictures] for name, names in classes.items()}
            self._refuse_empty(split, kept)
            images = np.stack([pictures[picture] for names in kept.values() for picture in names])
            tensors[f'{split}.images'] = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
            tensors[f'{split}.labels'] = torch.arange(len(kept)).repeat_interleave(
                torch.tensor([len(names) for names in kept.values()]))
        with written_whole(file) as part:
            save_file(tensors, part, metadata=dict(unreadable=json.dumps(unreadable)))

    def _refuse_empty(self, split: str, kept: Dict[str, List[str]]) -> None:
        for name, pictures in kept.items():
            if not pictures:
                raise DataError(f'{self.path}: none of the pictures in {split}/{name} can be read')

    def datasets(self) -> Tuple[List['PictureDataset'], List[str]]:
        """Both splits as data sets that read when asked, and the pictures whose headers cannot be read, left out."""
        unreadable = []

        def is_readable(name: str) -> bool:
            try:
                Image.open(self.path / name).close()
                return True
            except Exception as error:  # a decoder raises what it likes
                unreadable.append(f'{name} ({error})')
                return False
        parts = []
        for split, classes in self.splits.items():
            kept = {name: [picture for picture in names if is_readable(picture)] for name, names in classes.items()}
            self._refuse_empty(split, kept)
            parts.append(PictureDataset(
                [self.path / picture for names in kept.values() for picture in names],
                [label for label, names in enumerate(kept.values()) for _ in names]))
        return parts, unreadable


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
            image = as_rgb(Image.open(self.files[index]))
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
                if not is_dir and entry.parent.parent == top and entry.suffix.lower() in _SUFFIXES:
                    classes.setdefault(entry.parent.name, []).append(entry.as_posix())
            return {name: sorted(classes[name]) for name in sorted(classes)}
    return {}


def _stamp(path: Path) -> Tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns


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

"""Images in: data sets by name, folder or archive.

Sets of small images are decoded once and live in memory as uint8 tensors (:class:`ImageSet`); large images stay where
they are and are read by timm's loader (:class:`FileSet`). Both give batches of normalised images.
"""
import hashlib
import io
import json
import os
import tarfile
import warnings
from pathlib import Path
from typing import Callable, Dict, Iterable, Iterator, List, NamedTuple, Optional, Tuple, Union

import numpy as np
import torch
from PIL import Image
from timm.data import ImageDataset, create_dataset, create_loader

from .files import written_whole

__all__ = ['ImageSet', 'FileSet', 'DataError', 'DATA_SETS', 'SMALL', 'load_data', 'load_digits']

SMALL = 64  # pixels along a side of images that are kept in memory
DATA_SETS = ('digits', 'cifar10', 'cifar100')
_PICTURES = ('.png', '.jpg', '.jpeg', '.bmp', '.gif', '.ppm', '.webp', '.tif', '.tiff')
Batches = Iterator[Tuple[torch.Tensor, torch.Tensor]]


class DataError(ValueError):
    """A data set that cannot be used, and why."""


class ImageSet(NamedTuple):
    """Images in memory and their labels.

    Attributes:
        images: uint8 [N, C, H, W].
        labels: int64 [N].
        mean, std: Of the training images' channels, over 0 to 1.
        class_names: In the order of the labels.
        name: Of the data set and the split, for people.
    """
    images: torch.Tensor
    labels: torch.Tensor
    mean: Tuple[float, ...]
    std: Tuple[float, ...]
    class_names: Tuple[str, ...]
    name: str = ''

    @property
    def input_size(self) -> Tuple[int, int, int]:
        """Channels, height and width."""
        return tuple(self.images.shape[1:])

    def size(self) -> int:
        """The number of images."""
        return len(self.labels)

    def to(self, device: Union[str, torch.device]) -> 'ImageSet':
        """The same, on a device."""
        return self._replace(images=self.images.to(device), labels=self.labels.to(device))

    def split(self, share: float, seed: int = 0) -> Tuple['ImageSet', 'ImageSet']:
        """Two parts, the second with `share` of each class (rounded down), chosen by `seed`."""
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(self.labels), generator=generator)
        held_out = torch.zeros(len(self.labels), dtype=torch.bool)
        for label in range(len(self.class_names)):
            members = order[(self.labels[order] == label)]
            held_out[members[:int(share * len(members))]] = True
        rest, part = (
            self._replace(images=self.images[chosen], labels=self.labels[chosen], name=f'{self.name}, {what}')
            for chosen, what in ((~held_out, f'{1 - share:.0%} to train'), (held_out, f'{share:.0%} held out')))
        return rest, part

    def normalized(self, images: Optional[torch.Tensor] = None) -> torch.Tensor:
        """Images (all by default) as a network takes them: float32, of mean 0 and deviation 1 in each channel."""
        images = self.images if images is None else images
        mean, std = (torch.tensor(values, device=images.device).view(1, -1, 1, 1) for values in (self.mean, self.std))
        return (images.float() / 255. - mean) / std

    def batches(self, batch_size: int, device: Union[str, torch.device] = 'cpu') -> Batches:
        """All images in order, normalised, with their labels."""
        for images, labels in zip(self.images.split(batch_size), self.labels.split(batch_size)):
            yield self.normalized(images.to(device)), labels.to(device)


class FileSet(NamedTuple):
    """Images that timm's loader reads when they are needed, resized and cropped to `input_size` in timm's ways.

    Attributes:
        dataset: One of timm's image data sets.
        input_size: Channels, height and width.
        mean, std: For normalisation, over 0 to 1.
        class_names: In the order of the labels.
        name: Of the data set and the split, for people.
        crop_pct: Share of the short side that is kept for testing.
        workers: Processes that read.
    """
    dataset: torch.utils.data.Dataset
    input_size: Tuple[int, int, int]
    mean: Tuple[float, ...]
    std: Tuple[float, ...]
    class_names: Tuple[str, ...]
    name: str = ''
    crop_pct: float = 0.875
    workers: int = 4

    def size(self) -> int:
        """The number of images."""
        return len(self.dataset)

    def to(self, device: Union[str, torch.device]) -> 'FileSet':
        """The same: the loader moves each batch."""
        return self

    def loader(self, batch_size: int, device: Union[str, torch.device] = 'cpu', **kwargs) -> Iterable:
        """timm's loader, see ``timm.data.create_loader``."""
        return create_loader(
            self.dataset, self.input_size, batch_size, mean=self.mean, std=self.std, interpolation='bicubic',
            crop_pct=self.crop_pct, num_workers=self.workers, persistent_workers=False, device=torch.device(device),
            **kwargs)

    def batches(self, batch_size: int, device: Union[str, torch.device] = 'cpu') -> Batches:
        """All images in order, normalised, with their labels."""
        yield from self.loader(batch_size, device)


AnySet = Union[ImageSet, FileSet]


def load_data(
        source: Union[str, os.PathLike],
        root: Optional[Union[str, os.PathLike]] = None,
        img_size: Optional[int] = None,
        download: bool = False,
        cache_dir: Optional[Union[str, os.PathLike]] = None,
) -> Tuple[AnySet, AnySet]:
    """Load a data set: what to train on, what to test on.

    Args:
        source: ``digits`` (comes with scikit-learn), ``cifar10`` or ``cifar100`` (torchvision's), a folder or a .tar,
            .tar.gz or .tgz of train/CLASS/PICTURE and test/CLASS/PICTURE (``val`` and ``validation`` are other words
            for test), or a name that timm's ``create_dataset`` knows, such as ``hfds/…``, ``tfds/…``, ``torch/…``.
        root: Where torchvision's or timm's data set lies, or goes.
        img_size: Side of the images. They stay in memory up to 64 pixels. By default a folder's own, if all its images
            are square and of one size.
        download: Whether torchvision and timm may download.
        cache_dir: Where decoded folders are kept; ``$XDG_CACHE_HOME/nasnet_zoo`` by default.

    Raises:
        DataError: For a data set that is not there, is empty, or lacks pictures for a class.
    """
    name = os.fspath(source)
    if name == 'digits':
        return load_digits()
    if name in DATA_SETS:
        return _load_cifar(name, root, download)
    if Path(name).exists():
        return _load_pictures(Path(name), img_size, cache_dir)
    if '/' in name and name.split('/')[0] in ('hfds', 'hfids', 'tfds', 'wds', 'torch'):
        return _load_timm(name, root, img_size or 224, download)
    raise DataError(f'{name}: there is no such file or folder, and it is not one of {", ".join(DATA_SETS)} or a '
                    'name for timm such as hfds/…, tfds/… or torch/…')


def load_digits(test_size: float = 0.25, seed: int = 0) -> Tuple[ImageSet, ImageSet]:
    """Scikit-learn's 1,797 handwritten digits [1, 8, 8], for training and for testing, each class in equal parts.

    Raises:
        ImportError: Without scikit-learn, the extra ``digits``.
    """
    try:
        from sklearn.datasets import load_digits as load
        from sklearn.model_selection import train_test_split
    except ImportError:
        raise ImportError('the digits come with scikit-learn: pip install nasnet-zoo[digits]') from None
    digits = load()
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)[:, None]
    parts = train_test_split(images, digits.target, test_size=test_size, random_state=seed, stratify=digits.target)
    train_images, test_images, train_labels, test_labels = map(torch.from_numpy, parts)
    return _pair('digits', tuple(str(name) for name in digits.target_names),
                 (train_images, train_labels.long()), (test_images, test_labels.long()))


def _pair(
        name: str, class_names: Tuple[str, ...], train: Tuple[torch.Tensor, torch.Tensor],
        test: Tuple[torch.Tensor, torch.Tensor],
) -> Tuple[ImageSet, ImageSet]:
    """Both sets, with the training images' mean and deviation."""
    levels = torch.arange(256.) / 255.
    counts = torch.stack([channel.flatten().bincount(minlength=256) for channel in train[0].transpose(0, 1).int()])
    shares = counts / counts.sum(1, keepdim=True)
    mean = shares @ levels
    std = (shares @ levels.square() - mean.square()).clamp(min=1e-12).sqrt()
    facts = tuple(mean.tolist()), tuple(std.tolist()), class_names
    return ImageSet(*train, *facts, f'{name} train'), ImageSet(*test, *facts, f'{name} test')


def _load_cifar(name: str, root: Optional[Union[str, os.PathLike]], download: bool) -> Tuple[ImageSet, ImageSet]:
    """torchvision's, which reads a pickle only after it has checked the file's MD5."""
    from torchvision.datasets import CIFAR10, CIFAR100
    dataset = {'cifar10': CIFAR10, 'cifar100': CIFAR100}[name]
    root = root or cache_folder()
    try:
        parts = [dataset(root, train=train, download=download) for train in (True, False)]
    except RuntimeError as error:
        raise DataError(f'{name}: {error} Looked in {root} for {dataset.base_folder}; --data-root names another '
                        'folder, --download fetches it') from None
    return _pair(name, tuple(parts[0].classes), *(
        (torch.from_numpy(part.data).permute(0, 3, 1, 2).contiguous(), torch.tensor(part.targets)) for part in parts))


def _load_timm(
        name: str, root: Optional[Union[str, os.PathLike]], img_size: int, download: bool,
) -> Tuple[FileSet, FileSet]:
    parts = [create_dataset(name, root=root and os.fspath(root), split=split, is_training=split == 'train',
                            download=download) for split in ('train', 'validation')]
    return tuple(_file_set(name, part, img_size) for part in parts)


def _file_set(name: str, dataset: torch.utils.data.Dataset, img_size: int,
              class_names: Optional[Tuple[str, ...]] = None) -> FileSet:
    """Of a data set of timm's. Mean and deviation are the NASNets' own for photographs."""
    if class_names is None:
        index = getattr(getattr(dataset, 'reader', None), 'class_to_idx', None) or getattr(
            dataset, 'class_to_idx', None)
        if not index:
            raise DataError(f'{name}: timm does not know its classes')
        class_names = tuple(sorted(index, key=index.get))
    return FileSet(dataset, (3, img_size, img_size), (.5,) * 3, (.5,) * 3, class_names, name)


def cache_folder() -> Path:
    """Where what was downloaded or decoded is kept."""
    home = os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache'
    return Path(os.environ.get('NASNET_ZOO_CACHE') or Path(home) / 'nasnet_zoo')


class _Folder:
    """Pictures under SPLIT/CLASS, in a folder or an archive."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if path.is_dir():
            files = [file.relative_to(path) for file in path.rglob('*') if file.is_file()]
            folders = [file.relative_to(path) for file in path.rglob('*') if file.is_dir()]
            facts = [(file.as_posix(), *_stamp(path / file)) for file in sorted(files)]
        else:
            try:
                with tarfile.open(path) as archive:
                    members = archive.getmembers()
            except (tarfile.TarError, EOFError, OSError) as error:
                raise DataError(f'{path}: cannot be read as an archive: {error}') from None
            files = [Path(member.name) for member in members if member.isfile()]
            folders = [Path(member.name) for member in members if member.isdir()]
            facts = [(path.as_posix(), *_stamp(path))]
        self.digest = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]
        self.splits = {split: self._classes(files, folders, words) for split, words in (
            ('train', ('train',)), ('test', ('test', 'val', 'validation')))}
        self._check()

    @staticmethod
    def _classes(files: List[Path], folders: List[Path], words: Tuple[str, ...]) -> Dict[str, List[str]]:
        """Pictures of each class, of the first of `words` that is a folder."""
        for word in words:
            classes = {folder.name: [] for folder in folders if folder.parent.name == word}
            for file in files:
                if file.parent.parent.name == word and file.suffix.lower() in _PICTURES:
                    classes.setdefault(file.parent.name, []).append(file.as_posix())
            if classes:
                return {name: sorted(classes[name]) for name in sorted(classes)}
        return {}

    def _check(self) -> None:
        for split, classes in self.splits.items():
            if not classes:
                raise DataError(f'{self.path}: has no folders {split}/CLASS with pictures')
            empty = [name for name, pictures in classes.items() if not pictures]
            if empty:
                raise DataError(f'{self.path}: {split}/{empty[0]} has no pictures ({", ".join(_PICTURES)}); '
                                'add some or remove the folder')
        train, test = (set(classes) for classes in self.splits.values())
        if train != test:
            raise DataError(f'{self.path}: train and test have different classes: {", ".join(sorted(train ^ test))}')

    def read(self, wanted: Callable[[str, bytes], None]) -> None:
        """Hand name and bytes of each picture on."""
        names = {name for classes in self.splits.values() for pictures in classes.values() for name in pictures}
        if self.path.is_dir():
            for name in sorted(names):
                wanted(name, (self.path / name).read_bytes())
            return
        with tarfile.open(self.path) as archive:  # in the order of the archive, and nothing is unpacked to disk
            for member in archive:
                if member.name in names or Path(member.name).as_posix() in names:
                    wanted(Path(member.name).as_posix(), archive.extractfile(member).read())


def _stamp(path: Path) -> Tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def _load_pictures(
        path: Path, img_size: Optional[int], cache_dir: Optional[Union[str, os.PathLike]],
) -> Tuple[AnySet, AnySet]:
    folder = _Folder(path)
    class_names = tuple(folder.splits['train'])
    side = img_size or _common_side(folder)
    if side > SMALL:
        if not path.is_dir():
            raise DataError(f'{path}: pictures of {side} pixels are read from a folder, not from an archive; unpack it')
        return tuple(_picture_files(path, classes, class_names, side) for classes in folder.splits.values())
    cache = Path(cache_dir or cache_folder()) / f'{path.name.split(".")[0]}-{folder.digest}-{side}.safetensors'
    if not cache.exists():
        cache.parent.mkdir(parents=True, exist_ok=True)
        _decode(folder, side, cache)
    from safetensors import safe_open
    with safe_open(cache, 'pt') as file:
        unreadable = json.loads(file.metadata()['unreadable'])
        train, test = (
            (file.get_tensor(f'{split}.images'), file.get_tensor(f'{split}.labels')) for split in ('train', 'test'))
    if unreadable:
        warnings.warn(f'{path}: skipped {len(unreadable)} pictures that cannot be read, the first is {unreadable[0]}',
                      stacklevel=3)
    return _pair(path.name, class_names, train, test)


def _picture_files(path: Path, classes: Dict[str, List[str]], class_names: Tuple[str, ...], side: int) -> FileSet:
    split = (path / next(iter(classes.values()))[0]).parent.parent
    index = {name: i for i, name in enumerate(class_names)}
    return _file_set(f'{path.name} {split.name}', ImageDataset(str(split), class_map=index), side, class_names)


def _common_side(folder: _Folder) -> int:
    """The side of the first pictures of each class, if they are squares of one size."""
    wanted = {pictures[0] for pictures in folder.splits['train'].values()}
    sizes = set()

    def look(name: str, content: bytes) -> None:
        if name in wanted:
            try:
                sizes.add(Image.open(io.BytesIO(content)).size)
            except OSError:
                pass  # counted where it is decoded
    folder.read(look)
    if len(sizes) != 1 or len(set(next(iter(sizes)))) != 1:
        raise DataError(f'{folder.path}: its pictures have several sizes or are not square; say which side they shall '
                        'have (--img-size)')
    return sizes.pop()[0]


def _decode(folder: _Folder, side: int, cache: Path) -> None:
    """Write all pictures as tensors; a run that is cut off leaves nothing."""
    from rich.progress import track
    from safetensors.torch import save_file
    pictures, unreadable = {}, []

    def keep(name: str, content: bytes) -> None:
        try:
            pictures[name] = _square(Image.open(io.BytesIO(content)), side)
        except (OSError, ValueError, Image.DecompressionBombError) as error:
            unreadable.append(f'{name} ({error})')
    folder.read(keep)
    tensors = {}
    for split, classes in folder.splits.items():
        found = [(pictures[name], label) for label, names in enumerate(classes.values())
                 for name in names if name in pictures]
        missing = set(range(len(classes))) - {label for _, label in found}
        if missing:
            name = list(classes)[missing.pop()]
            raise DataError(f'{folder.path}: none of the pictures in {split}/{name} can be read')
        images = np.stack([image for image, _ in track(found, f'{folder.path.name} {split}', transient=True)])
        tensors[f'{split}.images'] = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
        tensors[f'{split}.labels'] = torch.tensor([label for _, label in found])
    with written_whole(cache) as part:
        save_file(tensors, part, metadata=dict(unreadable=json.dumps(unreadable)))


def _square(image: Image.Image, side: int) -> np.ndarray:
    """uint8 [side, side, 3]: the short side resized to `side`, the middle of the long one."""
    image = image.convert('RGB')
    if image.size != (side, side):
        scale = side / min(image.size)
        width, height = (max(side, round(length * scale)) for length in image.size)
        image = image.resize((width, height), Image.Resampling.BICUBIC)
        left, top = (width - side) // 2, (height - side) // 2
        image = image.crop((left, top, left + side, top + side))
    return np.asarray(image)

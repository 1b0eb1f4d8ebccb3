"""Images in: data sets by name, folder or archive.

Sets of small images are decoded once and live in memory as uint8 tensors (:class:`ImageSet`); large images stay where
they are and are read by timm's loader (:class:`FileSet`). Both give batches of normalised images.
"""
import json
import os
import warnings
from pathlib import Path
from typing import Iterable, Iterator, NamedTuple, Optional, Sequence, Tuple, Union

import numpy as np
import torch
from safetensors import SafetensorError
from timm.data import create_dataset, create_loader
from torch.nn import functional as F

from ..files import read_safetensors
from .pictures import DataError, PictureDataset, PictureFolder, cache_folder

__all__ = ['ImageSet', 'FileSet', 'DataError', 'DATA_SETS', 'SMALL', 'load_data', 'load_digits', 'data_name']

SMALL = 64  # pixels along a side of images that are kept in memory
DATA_SETS = ('digits', 'cifar10', 'cifar100')
Batches = Iterator[Tuple[torch.Tensor, torch.Tensor]]


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
        held_out = _held_out(self.labels, share, seed)
        return tuple(self._replace(images=self.images[chosen], labels=self.labels[chosen])
                     for chosen in (~held_out, held_out))

    def resized(self, side: int) -> 'ImageSet':
        """The same with images of another side."""
        if self.input_size[1:] == (side, side):
            return self
        parts = [F.interpolate(part.float(), size=(side, side), mode='bicubic', antialias=True, align_corners=False)
                 .round().clamp(0, 255).to(torch.uint8) for part in self.images.split(1000)]
        return self._replace(images=torch.cat(parts))

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
        crop_pct, interpolation: For testing, see timm's ``create_transform``.
        workers: Processes that read.
    """
    dataset: torch.utils.data.Dataset
    input_size: Tuple[int, int, int]
    mean: Tuple[float, ...]
    std: Tuple[float, ...]
    class_names: Tuple[str, ...]
    name: str = ''
    crop_pct: float = 0.875
    interpolation: str = 'bicubic'
    workers: int = 2

    def size(self) -> int:
        """The number of images."""
        return len(self.dataset)

    def to(self, device: Union[str, torch.device]) -> 'FileSet':
        """The same: the loader moves each batch."""
        return self

    def split(self, share: float, seed: int = 0) -> Tuple['FileSet', 'FileSet']:
        """As :meth:`ImageSet.split`; of pictures in a folder."""
        if not isinstance(self.dataset, PictureDataset):
            raise DataError(f'{self.name}: no part can be held out of a data set of timm')
        held_out = _held_out(torch.tensor(self.dataset.labels), share, seed)
        return tuple(self._replace(dataset=PictureDataset(
            [self.dataset.files[i] for i in chosen], [self.dataset.labels[i] for i in chosen]))
            for chosen in (part.nonzero().flatten().tolist() for part in (~held_out, held_out)))

    def loader(self, batch_size: int, device: Union[str, torch.device] = 'cpu', **kwargs) -> Iterable:
        """timm's loader, see ``timm.data.create_loader``."""
        return create_loader(
            self.dataset, self.input_size, batch_size, mean=self.mean, std=self.std, interpolation=self.interpolation,
            crop_pct=self.crop_pct, num_workers=self.workers, persistent_workers=False, device=torch.device(device),
            **kwargs)

    def batches(self, batch_size: int, device: Union[str, torch.device] = 'cpu') -> Batches:
        """All images in order, normalised, with their labels."""
        yield from self.loader(batch_size, device)


AnySet = Union[ImageSet, FileSet]


def _held_out(labels: torch.Tensor, share: float, seed: int) -> torch.Tensor:
    """Which images are in the second part of a split, bool [N]."""
    if not 0. < share < 1.:
        raise DataError(f'{share}: the share that is held out must be between 0 and 1')
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    held_out = torch.zeros(len(labels), dtype=torch.bool)
    for label in labels.unique():
        members = order[labels[order] == label]
        held_out[members[:int(share * len(members))]] = True
    if not held_out.any():
        raise DataError(f'{share}: is so small a share that no image of any class is held out')
    return held_out


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
        img_size: Side that images are brought to. They stay in memory up to 64 pixels. By default their own, if all are
            square and of one size.
        download: Whether torchvision and timm may download.
        cache_dir: Where decoded folders are kept; ``$XDG_CACHE_HOME/nasnet_zoo`` by default.

    Raises:
        DataError: For a data set that is not there, is empty, or lacks pictures for a class.
    """
    name = os.fspath(source)
    if name in DATA_SETS:
        parts = load_digits() if name == 'digits' else _load_cifar(name, root, download)
        return parts if img_size is None else tuple(part.resized(img_size) for part in parts)
    if Path(name).exists():
        return _load_pictures(Path(name), img_size, cache_dir)
    if '/' in name and name.split('/')[0] in ('hfds', 'hfids', 'tfds', 'wds', 'torch'):
        return _load_timm(name, root, img_size or 224, download)
    raise DataError(f'{name}: there is no such file or folder, and it is not one of {", ".join(DATA_SETS)} or a '
                    'name for timm such as hfds/…, tfds/… or torch/…')


def data_name(source: Union[str, os.PathLike]) -> str:
    """What to call a data set in public: a path's last part, without its suffixes."""
    path = Path(source)
    return path.resolve().name.split('.')[0] if path.exists() else os.fspath(source)


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
    try:
        parts = [create_dataset(name, root=root and os.fspath(root), split=split, is_training=split == 'train',
                                download=download) for split in ('train', 'validation')]
    except (AssertionError, RuntimeError, FileNotFoundError) as error:
        raise DataError(f'{name}: timm cannot open it: {error or type(error).__name__}') from None
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


def _load_pictures(
        path: Path, img_size: Optional[int], cache_dir: Optional[Union[str, os.PathLike]],
) -> Tuple[AnySet, AnySet]:
    folder = PictureFolder(path)
    cache = Path(cache_dir or cache_folder()) / (
        f'{path.name.split(".")[0]}-{folder.digest}-{img_size or "own"}.safetensors')
    if not cache.exists():
        side = img_size or folder.common_side()
        if side > SMALL:
            return _large_pictures(folder, side)
        cache.parent.mkdir(parents=True, exist_ok=True)
        folder.decode(side, img_size is None, cache)
    try:
        tensors, facts = read_safetensors(cache)
        class_names, unreadable = tuple(json.loads(facts['classes'])), json.loads(facts['unreadable'])
        train, test = ((tensors[f'{split}.images'], tensors[f'{split}.labels']) for split in ('train', 'test'))
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise DataError(f'{cache}: is damaged: {error}; remove it') from None
    _warn_of(unreadable, path)
    return _pair(path.name, class_names, train, test)


def _large_pictures(folder: PictureFolder, side: int) -> Tuple[FileSet, FileSet]:
    if not folder.path.is_dir():
        raise DataError(f'{folder.path}: pictures of {side} pixels are read from a folder and not from an archive; '
                        'unpack it')
    parts = folder.datasets()
    _warn_of(folder.unreadable, folder.path)
    return tuple(_file_set(f'{folder.path.name} {split}', part, side, tuple(folder.splits['train']))
                 for split, part in zip(folder.splits, parts))


def _warn_of(unreadable: Sequence[str], path: Path) -> None:
    if unreadable:
        warnings.warn(f'{path}: skipped {len(unreadable)} pictures that cannot be read, the first is {unreadable[0]}',
                      stacklevel=4)

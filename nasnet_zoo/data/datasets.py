"""Data sets by name, folder or archive, as batches of normalised images.

Small images are decoded once and kept in memory as uint8 tensors (:class:`ImageSet`). Large images stay in their files
and are read by timm's loader (:class:`FileSet`).
"""
import json
import os
from functools import partial
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, Iterator, Mapping, NamedTuple, Optional, Sequence, Tuple, Union

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from timm.data import create_loader

from ..extras import how_to_install
from ..files import json_sha256, read_safetensors
from .pictures import DataError, PictureDataset, PictureFolder, cache_folder
from .preprocessing import Preprocessing
from .timm_sets import open_timm, timm_class_names
from .tree import warn_of_left_out

__all__ = ['AnySet', 'DATA_SETS', 'DataError', 'FileSet', 'ImageSet', 'SMALL', 'TIMM_PREFIXES', 'data_name',
           'load_data', 'load_digits']

SMALL = 64  # pixels: images of up to this height and width are kept in memory
TIMM_PREFIXES = ('hfds', 'hfids', 'tfds', 'wds', 'torch')  # how the names of data sets of timm's create_dataset begin
Batches = Iterator[Tuple[torch.Tensor, torch.Tensor]]
Root = Optional[Union[str, os.PathLike]]


class ImageSet(NamedTuple):
    """Images in memory and their labels.

    Attributes:
        images: uint8 [N, C, H, W].
        labels: int64 [N].
        mean, std: Mean and standard deviation of each channel, on a scale of 0 to 1, by which images are normalised.
            :func:`load_data` computes them from the training images.
        class_names: Names of the classes, in the order of the labels.
        name: Name of the data set and the split, for messages.
        interpolation, crop_pct, crop_mode: How images were brought to this size, see
            :class:`~nasnet_zoo.data.preprocessing.Preprocessing`.
        was_resized: Whether any image had another size.
        left_out: How many entries of the folder or archive are not used, by reason.
    """
    images: torch.Tensor
    labels: torch.Tensor
    mean: Tuple[float, ...]
    std: Tuple[float, ...]
    class_names: Tuple[str, ...]
    name: str = ''
    interpolation: str = 'bicubic'
    crop_pct: float = 1.
    crop_mode: str = 'center'
    was_resized: bool = False
    left_out: Mapping[str, int] = {}

    @property
    def input_size(self) -> Tuple[int, int, int]:
        """Channels, height and width."""
        return tuple(self.images.shape[1:])

    @property
    def preprocessing(self) -> Preprocessing:
        """How an image file is prepared to look like the images of the set."""
        return _preprocessing(self)

    def size(self) -> int:
        """Return the number of images."""
        return len(self.labels)

    def to(self, device: Union[str, torch.device]) -> 'ImageSet':
        """Return the set with its tensors on a device."""
        return self._replace(images=self.images.to(device), labels=self.labels.to(device))

    def split(self, share: float, seed: int = 0) -> Tuple['ImageSet', 'ImageSet']:
        """Split the set at random into two. The second part gets the fraction `share` of each class.

        Raises:
            DataError: If `share` is not between 0 and 1, or so small that the second part would be empty.
        """
        held_out = _held_out(self.labels, share, seed)
        return tuple(self._replace(images=self.images[chosen], labels=self.labels[chosen])
                     for chosen in (~held_out, held_out))

    def prepared(self, preprocessing: Preprocessing) -> 'ImageSet':
        """Return the set as a model takes it: resized, cropped and normalised as `preprocessing` says.

        Raises:
            DataError: If the images do not have the channels that the model takes.
        """
        size = tuple(preprocessing.input_size)
        if size[0] != self.input_size[0]:
            raise DataError(f'the model takes images of {size}, but {self.name} has {self.input_size}')
        prepared = self._replace(**_fields(preprocessing))
        if size == self.input_size and preprocessing.crop_pct == 1:
            return prepared
        pictures = (Image.fromarray(pixels[..., 0] if size[0] == 1 else pixels)
                    for pixels in self.images.permute(0, 2, 3, 1).cpu().numpy())
        images = torch.from_numpy(np.stack([preprocessing.prepare(picture) for picture in pictures])).contiguous()
        return prepared._replace(images=images.to(self.images.device), was_resized=True)

    def resized(self, side: int) -> 'ImageSet':
        """Return the set with images of another side in pixels. Their short side is resized, the long one cropped."""
        return self.prepared(self.preprocessing.model_copy(update=dict(
            input_size=[self.input_size[0], side, side], crop_pct=1.)))

    def normalized(self, images: Optional[torch.Tensor] = None) -> torch.Tensor:
        """Return images (by default all of them) as a network takes them: float32, normalised by `mean` and `std`."""
        images = self.images if images is None else images
        mean, std = (torch.tensor(values, device=images.device).view(1, -1, 1, 1) for values in (self.mean, self.std))
        return (images.float() / 255. - mean) / std

    def batches(self, batch_size: int, device: Union[str, torch.device] = 'cpu') -> Batches:
        """Yield all images in order, normalised and in batches, with their labels."""
        for images, labels in zip(self.images.split(batch_size), self.labels.split(batch_size)):
            yield self.normalized(images.to(device)), labels.to(device)


class FileSet(NamedTuple):
    """Images that timm's loader reads when they are needed.

    Attributes:
        dataset: A data set of images, as timm's loader takes it.
        input_size: Channels, height and width to which images are brought.
        mean, std: Mean and standard deviation of each channel, on a scale of 0 to 1, by which images are normalised.
        class_names: Names of the classes, in the order of the labels.
        name: Name of the data set and the split, for messages.
        crop_pct, interpolation, crop_mode: How images are prepared for evaluation, see
            :class:`~nasnet_zoo.data.preprocessing.Preprocessing`.
        workers: Number of processes that read image files.
        left_out: How many entries of the folder are not used, by reason.
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
    crop_mode: str = 'center'
    left_out: Mapping[str, int] = {}

    @property
    def preprocessing(self) -> Preprocessing:
        """How an image is prepared for evaluation."""
        return _preprocessing(self)

    def size(self) -> int:
        """Return the number of images."""
        return len(self.dataset)

    def to(self, device: Union[str, torch.device]) -> 'FileSet':
        """Return the set itself: the loader moves each batch to the device."""
        return self

    def split(self, share: float, seed: int = 0) -> Tuple['FileSet', 'FileSet']:
        """Split the set, see :meth:`ImageSet.split`. Only images in a folder can be split."""
        if not isinstance(self.dataset, PictureDataset):
            raise DataError(f"{self.name}: timm's data sets cannot be split, so no images can be held out")
        held_out = _held_out(torch.tensor(self.dataset.labels), share, seed)
        return tuple(self._replace(dataset=PictureDataset(
            [self.dataset.files[i] for i in chosen], [self.dataset.labels[i] for i in chosen]))
            for chosen in (part.nonzero().flatten().tolist() for part in (~held_out, held_out)))

    def prepared(self, preprocessing: Preprocessing) -> 'FileSet':
        """Return the set as a model takes it, see :meth:`ImageSet.prepared`."""
        if preprocessing.input_size[0] not in (1, 3):  # files are read as RGB or as grey images
            raise DataError(f'the model takes images of {tuple(preprocessing.input_size)}, but those of {self.name} '
                            'have 3 channels')
        return self._replace(input_size=tuple(preprocessing.input_size), **_fields(preprocessing))

    def loader(self, batch_size: int, device: Union[str, torch.device] = 'cpu', **kwargs: Any) -> Iterable:
        """Return timm's loader for the set. `kwargs` are for ``timm.data.create_loader``."""
        return create_loader(
            self.dataset, self.input_size, batch_size, mean=self.mean, std=self.std, interpolation=self.interpolation,
            crop_pct=self.crop_pct, crop_mode=self.crop_mode, num_workers=self.workers, persistent_workers=False,
            device=torch.device(device), **kwargs)

    def batches(self, batch_size: int, device: Union[str, torch.device] = 'cpu') -> Batches:
        """Yield all images in order, prepared for evaluation and in batches, with their labels."""
        loader = self.loader(batch_size, device)
        self.dataset.transform = self.preprocessing.prepare  # instead of timm's own, which differs for grey images
        yield from self.read(loader)

    @staticmethod
    def read(loader: Iterable) -> Batches:
        """Yield a loader's batches. Of an error in a worker process, only the message is kept, not its traceback."""
        try:
            yield from loader
        except DataError as error:
            last = str(error).strip().splitlines()[-1]
            raise DataError(last.partition('DataError: ')[2] or last) from None


AnySet = Union[ImageSet, FileSet]


def _preprocessing(data: AnySet) -> Preprocessing:
    """Return how image files are prepared to look like the images of `data`."""
    return Preprocessing(
        input_size=list(data.input_size), color_order='L' if data.input_size[0] == 1 else 'RGB', mean=list(data.mean),
        std=list(data.std), interpolation=data.interpolation, crop_pct=data.crop_pct, crop_mode=data.crop_mode,
        class_names=list(data.class_names))


def _fields(preprocessing: Preprocessing) -> Dict[str, Any]:
    """Return what a data set takes over from a model's preprocessing."""
    return dict(
        mean=tuple(preprocessing.mean), std=tuple(preprocessing.std), interpolation=preprocessing.interpolation,
        crop_pct=preprocessing.crop_pct, crop_mode=preprocessing.crop_mode)


def _held_out(labels: torch.Tensor, share: float, seed: int) -> torch.Tensor:
    """Return which images belong to the second part of a split, bool [N]."""
    if not 0. < share < 1.:
        raise DataError(f'val_share: must be between 0 and 1, and is {share}')
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    held_out = torch.zeros(len(labels), dtype=torch.bool)
    for label in labels.unique():
        members = order[labels[order] == label]
        held_out[members[:int(share * len(members))]] = True
    if not held_out.any():
        raise DataError(f'val_share: {share} is so small that no image of any class would be held out')
    return held_out


def load_data(
        source: Union[str, os.PathLike],
        root: Root = None,
        img_size: Optional[int] = None,
        download: bool = False,
        cache_dir: Optional[Union[str, os.PathLike]] = None,
        preprocessing: Optional[Preprocessing] = None,
) -> Tuple[AnySet, AnySet]:
    """Load a data set.

    Args:
        source: A name in :data:`DATA_SETS`; a folder, .tar, .tar.gz, .tgz or .zip file with images in and below
            train/CLASS and test/CLASS (``val`` and ``validation`` may stand for ``test``); or a name that timm's
            ``create_dataset`` knows, such as ``hfds/…``, ``tfds/…`` or ``torch/…``.
        root: The folder of torchvision's or timm's data set.
        img_size: Side in pixels to which images are resized: their short side is resized and the long one cropped.
            Images of up to :data:`SMALL` pixels are kept in memory. By default images keep their size, which must
            then be the same for all.
        download: Whether torchvision and timm may download.
        cache_dir: The folder for decoded images. The default is that of :func:`~nasnet_zoo.data.pictures.cache_folder`.
        preprocessing: Prepare images as this says instead, for instance as a model needs them.

    Returns:
        The training set and the test set.

    Raises:
        DataError: If the data set is not found, is empty, lacks images of a class, or does not fit `preprocessing`.
    """
    name = os.fspath(source)
    if Path(name).exists() and name not in DATA_SETS:
        return _load_pictures(Path(name), img_size, cache_dir, preprocessing)
    if name in DATA_SETS:
        parts = DATA_SETS[name](root, download)
        parts = parts if img_size is None else tuple(part.resized(img_size) for part in parts)
    elif '/' in name and name.split('/')[0] in TIMM_PREFIXES:
        parts = _load_timm(name, root, img_size or 224, download)
    else:
        raise DataError(f'{name}: there is no such file or folder, and it is neither one of {", ".join(DATA_SETS)} nor '
                        'a data set of timm such as hfds/…, tfds/… or torch/…')
    return parts if preprocessing is None else tuple(part.prepared(preprocessing) for part in parts)


def data_name(source: Union[str, os.PathLike]) -> str:
    """Return the public name of a data set. For a path, this is its last part without suffixes."""
    path = Path(source)
    return path.resolve().name.split('.')[0] if path.exists() else os.fspath(source)


def load_digits(test_size: float = 0.25, seed: int = 0) -> Tuple[ImageSet, ImageSet]:
    """Load scikit-learn's 1,797 handwritten digits [1, 8, 8], split into training and test set within each class.

    Raises:
        ImportError: If scikit-learn, the extra ``digits``, is not installed.
    """
    try:
        from sklearn.datasets import load_digits as load
        from sklearn.model_selection import train_test_split
    except ImportError:
        raise ImportError(f'the digits come with scikit-learn: {how_to_install("digits")}') from None
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
    """Return both sets with the mean and standard deviation of the training images."""
    levels = torch.arange(256.) / 255.
    counts = torch.stack([channel.flatten().bincount(minlength=256) for channel in train[0].transpose(0, 1).int()])
    shares = counts / counts.sum(1, keepdim=True)
    mean = shares @ levels
    std = (shares @ levels.square() - mean.square()).clamp(min=1e-12).sqrt()
    facts = tuple(mean.tolist()), tuple(std.tolist()), class_names
    return ImageSet(*train, *facts, f'{name} train'), ImageSet(*test, *facts, f'{name} test')


def _load_cifar(name: str, root: Root, download: bool) -> Tuple[ImageSet, ImageSet]:
    """Load torchvision's CIFAR. torchvision checks the MD5 of the pickled files before it reads them."""
    from torchvision import datasets
    dataset = getattr(datasets, name)
    root = root or cache_folder()
    try:
        parts = [dataset(root, train=train, download=download) for train in (True, False)]
    except RuntimeError as error:
        raise DataError(f'{name.lower()}: {error} The folder {dataset.base_folder} is expected in {root}; name another '
                        'place with --data-root, or have it downloaded with --download') from None
    return _pair(name.lower(), tuple(parts[0].classes), *(
        (torch.from_numpy(part.data).permute(0, 3, 1, 2).contiguous(), torch.tensor(part.targets)) for part in parts))


# Data sets by name. A loader takes the folder of downloaded data, or None, and whether it may download.
DATA_SETS: Dict[str, Callable[[Root, bool], Tuple[ImageSet, ImageSet]]] = {
    'digits': lambda root, download: load_digits(),
    'cifar10': partial(_load_cifar, 'CIFAR10'),
    'cifar100': partial(_load_cifar, 'CIFAR100'),
}


def _load_timm(name: str, root: Root, img_size: int, download: bool) -> Tuple[FileSet, FileSet]:
    return tuple(_file_set(name, part, (img_size, img_size), timm_class_names(name, part))
                 for part in open_timm(name, root and os.fspath(root), download))


def _file_set(
        name: str, dataset: torch.utils.data.Dataset, size: Sequence[int], class_names: Tuple[str, ...],
) -> FileSet:
    """Return a set with the mean and standard deviation that Google's NASNets use for photographs."""
    return FileSet(dataset, (3, *size), (.5,) * 3, (.5,) * 3, class_names, name)


def _load_pictures(
        path: Path, img_size: Optional[int], cache_dir: Optional[Union[str, os.PathLike]],
        preprocessing: Optional[Preprocessing],
) -> Tuple[AnySet, AnySet]:
    """Load a folder or an archive: small images from the cache, which is filled first, large ones as files."""
    folder = PictureFolder(path)
    wanted = preprocessing or (None if img_size is None else _resizing(img_size))
    cache = Path(cache_dir or cache_folder()) / (
        f'{path.name.split(".")[0]}-{folder.digest}-{_cache_key(wanted)}.safetensors')
    if not cache.exists():
        own_side = folder.common_side() if wanted is None else None
        chosen = wanted or _resizing(own_side)
        if max(chosen.input_size[1:]) > SMALL:
            parts = _large_pictures(folder, chosen.input_size[1:])
            return parts if preprocessing is None else tuple(part.prepared(preprocessing) for part in parts)
        folder.decode(chosen.prepare, cache, own_side)
    try:
        tensors, facts = read_safetensors(cache)
        class_names, left_out, resized = (json.loads(facts[name]) for name in ('classes', 'left_out', 'resized'))
        train, test = ((tensors[f'{split}.images'], tensors[f'{split}.labels']) for split in ('train', 'test'))
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise DataError(f'{cache}: is damaged: {error}; remove it') from None
    warn_of_left_out(left_out[1], path)
    fields = {} if preprocessing is None else _fields(preprocessing)
    return tuple(part._replace(was_resized=resized, left_out=left_out[0], **fields)
                 for part in _pair(path.name, tuple(class_names), train, test))


def _resizing(side: int) -> Preprocessing:
    """Return a preprocessing that resizes images to a square; statistics and class names play no part in it."""
    return Preprocessing(input_size=[3, side, side], mean=[.5] * 3, std=[.5] * 3, class_names=['any'])


def _cache_key(preprocessing: Optional[Preprocessing]) -> str:
    """Return the part of a cache file's name that says how images were prepared; None keeps their size."""
    if preprocessing is None:
        return 'own'
    facts = preprocessing.model_dump(
        mode='json', include={'input_size', 'color_order', 'interpolation', 'crop_pct', 'crop_mode'})
    digest = json_sha256(facts)[:8]
    return '-'.join(map(str, (*preprocessing.input_size[1:], digest)))


def _large_pictures(folder: PictureFolder, size: Sequence[int]) -> Tuple[FileSet, FileSet]:
    if not folder.path.is_dir():
        raise DataError(f'{folder.path}: images of {max(size)} pixels cannot be read from an archive; unpack it')
    parts = folder.datasets()
    left_out, text = folder.summary()
    warn_of_left_out(text, folder.path)
    return tuple(_file_set(f'{folder.path.name} {split}', part, size, tuple(folder.splits['train']))._replace(
        left_out=left_out) for split, part in zip(folder.splits, parts))

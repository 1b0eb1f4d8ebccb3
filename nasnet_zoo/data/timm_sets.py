"""Data sets that timm opens, such as those of Hugging Face, TensorFlow and torchvision."""
from typing import Optional, Tuple

import torch
from timm.data import create_dataset

from .tree import DataError

__all__ = ['open_timm', 'timm_class_names']


def open_timm(
        name: str, root: Optional[str], download: bool) -> Tuple[torch.utils.data.Dataset, torch.utils.data.Dataset]:
    """Return the training set and the test set: the split ``validation`` or, if there is none, ``test``.

    Raises:
        DataError: If timm cannot open it.
    """
    def part(split: str) -> torch.utils.data.Dataset:
        return create_dataset(name, root=root, split=split, is_training=split == 'train', download=download)
    try:
        train = part('train')
        try:
            return train, part('validation')
        except ValueError:  # data sets on the Hub name their splits as they like
            return train, part('test')
    except (AssertionError, RuntimeError, ValueError, FileNotFoundError) as error:
        raise DataError(f'{name}: timm cannot open it: {error or type(error).__name__}') from None


def timm_class_names(name: str, dataset: torch.utils.data.Dataset) -> Tuple[str, ...]:
    """Return the class names of one of timm's data sets.

    Raises:
        DataError: If timm does not know them.
    """
    index = getattr(getattr(dataset, 'reader', None), 'class_to_idx', None) or getattr(dataset, 'class_to_idx', None)
    if not index:
        raise DataError(f'{name}: timm does not know the names of its classes')
    return tuple(sorted(index, key=index.get))

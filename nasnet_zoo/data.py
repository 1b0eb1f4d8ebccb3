"""Images in: data sets small enough to live in memory, as tensors."""
from typing import NamedTuple, Tuple

import numpy as np
import torch

__all__ = ['ImageSet', 'load_digits']


class ImageSet(NamedTuple):
    """Images and their labels.

    Attributes:
        images: uint8 [N, C, H, W].
        labels: int64 [N].
        mean, std: Of the training images' channels, over 0 to 1.
        class_names: In the order of the labels.
    """
    images: torch.Tensor
    labels: torch.Tensor
    mean: Tuple[float, ...]
    std: Tuple[float, ...]
    class_names: Tuple[str, ...]

    def normalized(self) -> torch.Tensor:
        """The images as a network takes them: float32 [N, C, H, W], of mean 0 and deviation 1 in each channel."""
        mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (self.mean, self.std))
        return (self.images.float() / 255. - mean) / std


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
    pixels = train_images.float() / 255.
    facts = (pixels.mean().item(),), (pixels.std().item(),), tuple(str(name) for name in digits.target_names)
    return ImageSet(train_images, train_labels.long(), *facts), ImageSet(test_images, test_labels.long(), *facts)

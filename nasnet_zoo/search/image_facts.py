"""What a search notes about its training images, to tell data sets of the same name apart."""
from typing import Any, Dict, Mapping, NamedTuple, Sequence, Tuple

from ..data.datasets import ImageSet

__all__ = ['ImageFacts']

TOLERANCE = 2e-3  # of means and standard deviations, on a scale of 0 to 1; decoders of JPEG differ by less


class ImageFacts(NamedTuple):
    """What is known about the training images of a search.

    Attributes:
        number: Number of images, those held out for validation included.
        class_names: Names of the classes, in the order of the labels.
        mean, std: Mean and standard deviation of each channel, on a scale of 0 to 1.
    """
    number: int
    class_names: Tuple[str, ...]
    mean: Tuple[float, ...]
    std: Tuple[float, ...]

    @classmethod
    def of(cls, data: ImageSet) -> 'ImageFacts':
        """Return the facts about a data set."""
        return cls(data.size(), data.class_names, data.mean, data.std)

    def stored(self) -> Dict[str, Any]:
        """Return the entries of ``search.json``."""
        return dict(num_images=self.number, images=dict(
            class_names=list(self.class_names), mean=list(self.mean), std=list(self.std)))

    def difference(self, content: Mapping[str, Any]) -> str:
        """Return how these images differ from those that a ``search.json`` describes. Earlier versions stored less.

        Returns:
            A text, which is empty if they are the same.
        """
        before = content.get('num_images', self.number)
        if before != self.number:
            return f'there were {before} training images, and there are {self.number}'
        images = content.get('images', {})
        if tuple(images.get('class_names', self.class_names)) != self.class_names:
            return 'the classes have other names or another order'
        for name, now in (('mean', self.mean), ('std', self.std)):
            old = images.get(name, now)
            if len(old) != len(now) or any(abs(a - b) > TOLERANCE for a, b in zip(old, now)):
                return f'the {name} of their channels was {_shown(old)} and is {_shown(now)}'
        return ''


def _shown(values: Sequence[float]) -> str:
    return ', '.join(f'{value:.3f}' for value in values)

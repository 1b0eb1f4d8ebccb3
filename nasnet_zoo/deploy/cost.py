"""What computing in another precision costs: how far the results of a file are from those in its own precision."""
from pathlib import Path
from typing import Any, Dict, Sequence, Tuple

import numpy as np

from ..data.datasets import ImageSet, data_name, load_data
from ..data.preprocessing import Preprocessing
from .classifier import Classifier
from .compare import compare_results

__all__ = ['compare_accuracy', 'compare_precisions', 'load_images']

_MAX_PICTURES = 200


def load_images(data: str, preprocessing: Preprocessing) -> Tuple[ImageSet, ImageSet]:
    """Return training and test images of a data set, prepared and normalised as the preprocessing says.

    Raises:
        ValueError: If the images or classes of the data set are not those of the preprocessing.
    """
    train, test = load_data(data, preprocessing=preprocessing)
    if not (isinstance(train, ImageSet) and isinstance(test, ImageSet)):
        raise ValueError(f'{data}: contains large images, which --data does not support; pass them as pictures')
    for images in (train, test):
        if [*images.input_size, *images.class_names] != [*preprocessing.input_size, *preprocessing.class_names]:
            raise ValueError(f'{data}: its images or classes differ from those of the model')
    return train, test


def compare_precisions(classifier: Classifier, reference: Classifier, paths: Sequence[Path]) -> Dict[str, float]:
    """Return how far results are from those of another classifier, on the first 200 of the given pictures.

    Returns:
        What :func:`~nasnet_zoo.deploy.compare.compare_results` does.
    """
    images = np.stack([classifier.preprocessing.read(path) for path in paths[:_MAX_PICTURES]])
    return compare_results(classifier.logits(images), reference.logits(images))


def compare_accuracy(classifier: Classifier, reference: Classifier, data: str) -> Dict[str, Any]:
    """Measure the accuracy of a file, and of the same file in its own precision, on the test images of a data set.

    Returns:
        ``dataset``; ``count`` of images; ``file`` and ``own_precision``, the accuracies; and what
        :func:`~nasnet_zoo.deploy.compare.compare_results` returns.
    """
    _, test = load_images(data, classifier.preprocessing)
    labels = test.labels.numpy()
    got = classifier.logits(test.images.numpy())
    expected = got if reference is classifier else reference.logits(test.images.numpy())
    accuracies = [float(((results.argmax(1) == labels) & np.isfinite(results).all(1)).mean())
                  for results in (got, expected)]
    return dict(compare_results(got, expected), dataset=data_name(data), file=accuracies[0],
                own_precision=accuracies[1])

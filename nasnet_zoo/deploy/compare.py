"""Comparison of a file's results with the network that it was written from."""
import math
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence

import numpy as np
import torch

from ..data.preprocessing import Preprocessing
from ..graph.compare import TOLERANCE, check_finite, relative_difference
from ..network.nasnet import NASNet
from .session import full_batches

__all__ = ['PRECISIONS', 'ExportError', 'Precision', 'check_differences', 'compare_results', 'compare_with_model']


class ExportError(RuntimeError):
    """A file does not compute what the network does. It is not written."""


class Precision(NamedTuple):
    """What a file computes with.

    Attributes:
        description: For help texts.
        tolerance: Largest relative difference (norm of the difference over norm) that the results may have from the
            network in PyTorch; None if a difference is reported but never refused.
    """
    description: str
    tolerance: Optional[float]


PRECISIONS = {
    'float32': Precision('single precision', TOLERANCE),
    'float16': Precision('half precision inside, float32 input and output', 2e-2),
    'int8': Precision('static quantisation, calibrated on images', None),
}
_KINDS = {'random': 'random images', 'pictures': 'the given images'}


def compare_with_model(
        model: NASNet,
        preprocessing: Preprocessing,
        run: Callable[[np.ndarray], np.ndarray],
        sizes: Sequence[Sequence[int]],
        batch_size: Optional[int] = None,
        pictures: Optional[np.ndarray] = None,
) -> Dict[str, Dict[str, float]]:
    """Compare the results of an exported file with those of the network, on random images and on given images.

    Args:
        model: The network, in evaluation mode.
        preprocessing: How the file's input is prepared.
        run: Runs the file on a batch of its input.
        sizes: Heights and widths of the random images.
        batch_size: The number of images that the file takes at a time, None for any number.
        pictures: The given images, uint8 [N, C, H, W], of the preprocessing's size.

    Returns:
        For ``random`` and ``pictures`` (if given), what :func:`compare_results` returns.

    Raises:
        ValueError: If the network returns NaN or infinite values.
    """
    generator = np.random.default_rng(0)
    channels = preprocessing.input_size[0]
    batches = {'random': [generator.integers(0, 256, (batch_size or 2, channels, *size), np.uint8) for size in sizes]}
    counts = {'random': sum(map(len, batches['random']))}
    if pictures is not None:
        batches['pictures'] = full_batches(pictures, batch_size or 8)
        counts['pictures'] = len(pictures)  # without those that fill up the last batch
    report = {}
    for kind, groups in batches.items():
        got = np.concatenate([run(preprocessing.feed(images)) for images in groups])[:counts[kind]]
        expected = _run_model(model, preprocessing, groups)[:counts[kind]]
        check_finite(model, expected, _KINDS[kind])
        report[kind] = compare_results(got, expected)
    return report


def compare_results(got: np.ndarray, expected: np.ndarray) -> Dict[str, float]:
    """Return how far results [N, classes] are from those that are expected.

    Returns:
        ``relative_difference``, the norm of the difference over the norm of what is expected, and ``same_top1``, for
        how many of ``count`` images the most likely class is the same.
    """
    return dict(relative_difference=relative_difference(got, expected),
                same_top1=int((got.argmax(1) == expected.argmax(1)).sum()), count=len(got))


def _run_model(model: NASNet, preprocessing: Preprocessing, batches: List[np.ndarray]) -> np.ndarray:
    """Return what the network gives for batches of uint8 images, with the output that the preprocessing says."""
    device = next(model.parameters()).device
    with torch.no_grad():
        results = torch.cat([model(torch.from_numpy(preprocessing.normalized(b)).to(device)) for b in batches])
    return (results.softmax(1) if preprocessing.output == 'probabilities' else results).cpu().numpy()


def check_differences(path: Any, differences: Dict[str, Dict[str, float]], precision: str) -> None:
    """Check that a file computes what the network does, as closely as its precision allows.

    Raises:
        ExportError: If it does not. The message names the file and the difference.
    """
    tolerance = PRECISIONS[precision].tolerance
    for kind, found in differences.items():
        difference = found['relative_difference']
        if not math.isfinite(difference) or tolerance is not None and difference > tolerance:
            raise ExportError(
                f"{path}: on {_KINDS[kind]}, the relative difference from the network's outputs is {difference:.1e}"
                f'{"" if tolerance is None else f", more than {tolerance}"}; the file is not written')

"""What values the features of an ONNX model take on images, and which range of them int8 should cover."""
import copy
from typing import Callable, Dict, Iterator, List, NamedTuple, Sequence, Tuple

import numpy as np
import onnx
import onnxruntime

__all__ = ['CALIBRATIONS', 'Features', 'measure']

_BINS = 2048
Range = Tuple[float, float]


class Features(NamedTuple):
    """The values that a tensor takes.

    Attributes:
        low, high: The least and the largest value of each channel [C].
        mean: The mean of each channel [C].
        counts: A histogram of all values, with equal bins from the least to the largest; zeros if none was made.
    """
    low: np.ndarray
    high: np.ndarray
    mean: np.ndarray
    counts: np.ndarray

    @property
    def edges(self) -> np.ndarray:
        """The limits of the histogram's bins."""
        return np.linspace(self.low.min(), self.high.max(), len(self.counts) + 1)


def measure(proto: onnx.ModelProto, feeds: Sequence[np.ndarray], histograms: bool = False) -> Dict[str, Features]:
    """Return what values all float tensors take that a model computes, and its input.

    Args:
        proto: A model with one input.
        feeds: Batches of its input, all of one size.
        histograms: Count the values. The model then runs twice, because a histogram needs its limits first.
    """
    parts: Dict[str, List[Tuple[np.ndarray, ...]]] = {}
    for name, values in _run(proto, feeds):
        parts.setdefault(name, []).append((values.min(1), values.max(1), values.mean(1, dtype=np.float64)))
    found = {}
    for name, of_batches in parts.items():
        lows, highs, means = zip(*of_batches)
        found[name] = Features(np.min(lows, 0), np.max(highs, 0), np.mean(means, 0), np.zeros(_BINS, np.int64))
    for name, values in _run(proto, feeds) if histograms else ():
        counts, low, high = found[name].counts, found[name].low.min(), found[name].high.max()
        counts += np.histogram(values, _BINS, (low, high))[0]
    return found


def _run(proto: onnx.ModelProto, feeds: Sequence[np.ndarray]) -> Iterator[Tuple[str, np.ndarray]]:
    """Yield the name and the values [C, N] of each float tensor, for each batch."""
    proto = copy.deepcopy(proto)
    names = [name for node in proto.graph.node for name in node.output]
    known = {value.name for value in proto.graph.output}
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in known)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=['CPUExecutionProvider'])
    image = proto.graph.input[0].name
    for feed in feeds:
        for name, values in zip([image, *names], [feed, *session.run(names, {image: feed})]):
            if values.dtype == np.float32:
                yield name, np.moveaxis(values, 1, 0).reshape(values.shape[1], -1)


def _least_error(features: Features) -> Range:
    """The range that 256 levels represent with the least squared error: fewer extreme values, finer steps."""
    middles = (features.edges[1:] + features.edges[:-1]) / 2
    low, high = min(features.low.min(), 0.), max(features.high.max(), 0.)

    def error(part: float) -> float:
        step = part * (high - low) / 255 or 1.
        levels = np.clip(np.round(middles / step), np.round(part * low / step), np.round(part * high / step))
        return float((features.counts * (levels * step - middles) ** 2).sum())
    best = min(np.linspace(1, 0.2, 41), key=error)
    return float(best * low), float(best * high)


def _percentile(share: float) -> Callable[[Features], Range]:
    """The range without the most extreme values, of which each side has this share."""
    def choose(features: Features) -> Range:
        cumulated = np.cumsum(features.counts) / features.counts.sum()
        first, last = np.searchsorted(cumulated, [1 - share, share])
        return float(features.edges[first]), float(features.edges[min(last + 1, _BINS)])
    return choose


def _extremes(features: Features) -> Range:
    return float(features.low.min()), float(features.high.max())


# how the range that int8 covers follows from the values of a tensor; all but minmax need the histogram
CALIBRATIONS: Dict[str, Callable[[Features], Range]] = {
    'minmax': _extremes,
    'percentile_99.99': _percentile(0.9999),
    'percentile_99.9': _percentile(0.999),
    'mse': _least_error,
}

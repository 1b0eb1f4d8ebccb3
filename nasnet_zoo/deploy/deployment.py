"""What the layouts know of an exported model when they write their own files."""
from pathlib import Path
from typing import Any, Mapping, NamedTuple, Optional, Sequence

import numpy as np

from ..data.preprocessing import Preprocessing
from ..network.nasnet import NASNet
from .export import Exported

__all__ = ['Deployment', 'ModelFacts', 'reference_image']


class ModelFacts(NamedTuple):
    """What a layout's own files and metadata can say about a model.

    Attributes:
        name: What the model is called on a server.
        source: Where the model comes from.
        license: Licence of the weights.
        precision: What the file computes with; one of ``PRECISIONS``.
        preprocessing: How the file's input is prepared, and the class names.
    """
    name: str
    source: str
    license: str
    precision: str
    preprocessing: Preprocessing


class Deployment(NamedTuple):
    """An exported model in the folder of its deployment.

    Attributes:
        folder: The folder. It appears under its own name when all of its files are complete.
        facts: What the model is.
        exported: The model file, which lies in `folder`.
        model: The network.
        accuracy: The accuracy of the weights, as ``nasnet-zoo validate`` recorded it, None if it is unknown.
        ort_web: Folder of the npm package onnxruntime-web, None to load it from a CDN.
    """
    folder: Path
    facts: ModelFacts
    exported: Exported
    model: NASNet
    accuracy: Optional[Mapping[str, Any]]
    ort_web: Optional[Path]


def reference_image(size: Sequence[int]) -> np.ndarray:
    """Return the image on which a file's results in different runtimes are compared: uint8 [1, C, H, W].

    It is a multiplicative hash of the position, so that ``web_page/prepare.js`` can make the same image.
    """
    positions = np.arange(np.prod(size), dtype=np.uint64)
    return ((positions * 2654435761 % 2**32) >> 24).astype(np.uint8).reshape(1, *size)

"""What the layouts know of an exported model when they write their own files."""
from pathlib import Path
from typing import Any, Mapping, NamedTuple, Optional

from ..data.preprocessing import Preprocessing
from ..network.nasnet import NASNet
from .export import Exported

__all__ = ['Deployment', 'ModelFacts']


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

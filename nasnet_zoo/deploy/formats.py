"""The file formats that networks can be written in: a row of :data:`FORMATS` for each."""
from typing import Callable, Dict, NamedTuple, Tuple

from .compare import PRECISIONS
from .export import Exported, export_onnx, export_pt2
from .litert import export_litert

__all__ = ['FORMATS', 'Format']


class Format(NamedTuple):
    """A file format that networks can be written in.

    Attributes:
        description: For help texts.
        write: Writes a file: of model, path and preprocessing, and of the keyword arguments in `arguments`.
        arguments: Keyword arguments that `write` takes.
        precisions: What its files can compute with, names in ``PRECISIONS``.
        measurable: Whether :class:`~nasnet_zoo.deploy.classifier.Classifier` runs it, so that the accuracy can be
            measured.
        suffix: The ending of its files.
        is_dynamic: Whether its files can take any number of images, and images of any size.
    """
    description: str
    write: Callable[..., Exported]
    arguments: Tuple[str, ...]
    precisions: Tuple[str, ...]
    measurable: bool
    suffix: str
    is_dynamic: bool = True


FORMATS: Dict[str, Format] = {
    'onnx': Format(
        'for ONNX Runtime, OpenVINO and most servers', export_onnx,
        ('target', 'opset', 'batch_size', 'dynamic_size', 'half', 'calibration', 'pictures', 'passes', 'metadata'),
        tuple(PRECISIONS), measurable=True, suffix='.onnx'),
    'pt2': Format(
        'a program of torch.export', export_pt2, ('batch_size', 'dynamic_size', 'pictures', 'passes'), ('float32',),
        measurable=False, suffix='.pt2'),
    'litert': Format(
        'for LiteRT, on phones', export_litert, ('batch_size', 'pictures', 'passes'), ('float32',), measurable=False,
        suffix='.tflite', is_dynamic=False),
}

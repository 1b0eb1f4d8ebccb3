"""Writing a trained network as a LiteRT file, for phones and other small devices. LiteRT was called TensorFlow Lite."""
import contextlib
import io
import os
import tempfile
import warnings
from pathlib import Path
from typing import Any, Collection, Dict, Optional, Union

import numpy as np
import torch
from torch import nn

from ..data.preprocessing import METADATA_KEY, Preprocessing, make_preprocessing
from ..extras import require
from ..files import atomic_write
from ..graph.passes import optimize_for_inference
from ..graph.targets import TARGETS
from ..network.nasnet import NASNet
from .compare import ExportError, check_differences, compare_with_model
from .export import Exported, check_fit
from .session import one_line, silence_stderr

__all__ = ['export_litert']


def export_litert(
        model: NASNet,
        path: Union[str, os.PathLike],
        preprocessing: Optional[Preprocessing] = None,
        *,
        batch_size: Optional[int] = 1,
        pictures: Optional[np.ndarray] = None,
        passes: Optional[Collection[str]] = None,
) -> Exported:
    """Write a network as a LiteRT file, after rewriting its graph for speed.

    The file's signature has one input, ``image``, and one output, ``logits`` or ``probabilities``, of shape
    [B, classes]. The preprocessing is stored in the file's metadata, under the same name as in an ONNX file's.

    Args:
        model: The network, in evaluation mode and float32, on the CPU.
        path: The file to write. It appears only when it is complete.
        preprocessing: How the input is prepared and what the output is, from :func:`make_preprocessing`.
        batch_size: The number of images that the file takes at a time.
        pictures: Images to compare on, uint8 [N, C, H, W], of the preprocessing's size. The file is compared on random
            images in any case.
        passes: Names in ``nasnet_zoo.graph.passes.PASSES``. By default those that make files faster in LiteRT.

    Returns:
        The path, the preprocessing, the shapes of input and output, and the differences from the network.

    Raises:
        ImportError: If LiteRT's converter is not installed.
        TypeError: For a network that cannot be lowered (see :func:`nasnet_zoo.graph.lower.lower`).
        ValueError: If arguments do not fit the network, or if it is in training mode or returns NaN.
        ExportError: If the network cannot be converted, or if the file's results are not the network's.
    """
    require('--format litert', 'litert')
    if batch_size is None:
        raise ValueError('batch_size: a LiteRT file takes a fixed number of images')
    preprocessing = preprocessing or make_preprocessing(model)
    height, width = preprocessing.input_size[1:]
    names = TARGETS['litert'].passes if passes is None else passes
    module = optimize_for_inference(model, (height, width), names, check=False)
    check_fit(model, preprocessing, batch_size, pictures=pictures)
    sample = preprocessing.feed(np.zeros((batch_size, *preprocessing.input_size), np.uint8))
    content = _add_metadata(_convert(_WithEnds(module, preprocessing), sample, path), preprocessing.to_json())
    run = _open(content, preprocessing.output)
    differences = compare_with_model(model, preprocessing, run, [[height, width]], batch_size, pictures)
    check_differences(path, differences, 'float32')
    with atomic_write(path) as part:
        part.write_bytes(content)
    shapes = {'image': list(sample.shape), preprocessing.output: [batch_size, len(preprocessing.class_names)]}
    return Exported(Path(path), preprocessing, shapes, differences, 'litert')


class _WithEnds(nn.Module):
    """A network together with the normalisation of its input and the softmax, as far as the file has them."""
    scale: torch.Tensor
    shift: torch.Tensor

    def __init__(self, network: nn.Module, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.network, self.output = network, preprocessing.output
        self.is_uint8 = preprocessing.dtype == 'uint8'
        mean, std = (torch.tensor(values).reshape(-1, 1, 1) for values in (preprocessing.mean, preprocessing.std))
        self.register_buffer('scale', 1 / (255 * std))  # for pixels from 0 to 255
        self.register_buffer('shift', -mean / std)

    def forward(self, image: torch.Tensor) -> Dict[str, torch.Tensor]:
        if self.is_uint8:
            image = image.permute(0, 3, 1, 2).float() * self.scale + self.shift
        results = self.network(image)
        return {self.output: results.softmax(1) if self.output == 'probabilities' else results}


def _convert(module: nn.Module, sample: np.ndarray, path: Union[str, os.PathLike]) -> bytes:
    """Return the content of the file."""
    with _silence():
        import litert_torch
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / 'model.tflite'
        images = dict(image=torch.from_numpy(sample))
        try:
            with _silence():
                litert_torch.convert(module.eval(), sample_kwargs=images).export(str(file))
        except Exception as error:  # the converter's errors have no common base class
            raise ExportError(f'{path}: LiteRT cannot convert the network: {one_line(error)}') from None
        return file.read_bytes()


def _add_metadata(content: bytes, text: str) -> bytes:
    """Return a file with an entry of metadata more."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema
    model = schema.ModelT.InitFromPackedBuf(content)
    model.buffers.append(schema.BufferT(data=list(text.encode('utf-8'))))
    model.metadata = [*(model.metadata or []), schema.MetadataT(name=METADATA_KEY, buffer=len(model.buffers) - 1)]
    builder = flatbuffers.Builder(len(content))
    builder.Finish(model.Pack(builder), b'TFL3')
    return bytes(builder.Output())


def _open(content: bytes, output: str) -> Any:
    """Return a function that runs the file on a batch."""
    from ai_edge_litert.interpreter import Interpreter
    with _silence():
        runner = Interpreter(model_content=content).get_signature_runner()
    return lambda batch: runner(image=batch)[output]


@contextlib.contextmanager
def _silence() -> Any:
    """Discard what the converter prints: its progress, and warnings about its own code."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), silence_stderr():
        warnings.simplefilter('ignore')
        yield

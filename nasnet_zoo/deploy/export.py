"""Writing a trained network as an ONNX file or a PyTorch program, which run without this package."""
import io
import os
import warnings
from pathlib import Path
from typing import Any, Callable, Collection, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple, Union

import numpy as np
import torch

from ..data.preprocessing import METADATA_KEY, Preprocessing, make_preprocessing
from ..files import atomic_write
from ..graph.ir import Node, rewrite
from ..graph.lower import lower
from ..graph.passes import apply_passes, optimize_for_inference
from ..graph.targets import ONNX_TARGETS, Quantization
from ..network.measure import check_counts
from ..network.nasnet import NASNet
from .compare import ExportError, check_differences, compare_with_model
from .runtimes import RUNTIMES, check_choice, open_session
from .session import SessionError, full_batches

__all__ = ['TARGET_KEY', 'ExportError', 'Exported', 'check_fit', 'export_onnx', 'export_pt2']

TARGET_KEY = 'nasnet_zoo.target'  # the entry of an ONNX file's metadata that names its target


class Exported(NamedTuple):
    """A file that was written, and how its results compare with the network's.

    Attributes:
        path: The file.
        preprocessing: How the file's input is prepared, and what its output is.
        shapes: Shapes of the input and the output, by name. A name in the place of a size stands for any size.
        differences: What :func:`~nasnet_zoo.deploy.compare.compare_with_model` returned.
        runtime: What ran the file to compare it.
    """
    path: Path
    preprocessing: Preprocessing
    shapes: Mapping[str, Sequence[Union[int, str]]]
    differences: Dict[str, Dict[str, float]]
    runtime: str


def export_onnx(
        model: NASNet,
        path: Union[str, os.PathLike],
        preprocessing: Optional[Preprocessing] = None,
        *,
        target: str = 'onnxruntime',
        opset: int = 17,
        batch_size: Optional[int] = 1,
        dynamic_size: bool = False,
        half: bool = False,
        calibration: Optional[np.ndarray] = None,
        pictures: Optional[np.ndarray] = None,
        passes: Optional[Collection[str]] = None,
        metadata: Mapping[str, str] = {},
) -> Exported:
    """Write a network as an ONNX file, after rewriting its graph for speed.

    The file has one input, ``image``, and one output, ``logits`` or ``probabilities``, of shape [B, classes]. It is
    compared with the network first, and written only if it computes the same.

    Args:
        model: The network, in evaluation mode and float32.
        path: The file to write. It appears only when it is complete.
        preprocessing: How the input is prepared and what the output is, from :func:`make_preprocessing`. It is stored
            in the file's metadata. By default the input is normalised float32 [B, C, H, W] of the model's size.
        target: Where the file is to run fast, a name in ``nasnet_zoo.graph.targets.ONNX_TARGETS``. Every runtime can
            run it, whatever the target.
        opset: Version of the ONNX operator set.
        batch_size: The number of images that the file takes at a time, None for any number.
        dynamic_size: Take images of any height and width, not only of the preprocessing's.
        half: Compute in float16. Input and output stay float32.
        calibration: Quantise to int8, with ranges measured on these images: uint8 [N, C, H, W], of the preprocessing's
            size.
        pictures: Images to compare on, like `calibration`. The file is compared on random images in any case.
        passes: Names in ``nasnet_zoo.graph.passes.PASSES``. By default all that make files faster on the target.
        metadata: Further entries of the file's metadata.

    Returns:
        The path, the preprocessing, the shapes of input and output, and the differences from the network.

    Raises:
        TypeError: For a network that cannot be lowered (see :func:`nasnet_zoo.graph.lower.lower`).
        ValueError: If arguments exclude each other or do not fit the network, or if the network is in training mode or
            returns NaN.
        ExportError: If the runtime refuses the file, or if its results are not the network's. The runtime is the
            target's if it is installed, and otherwise ONNX Runtime.
    """
    preprocessing = preprocessing or make_preprocessing(model)
    check_choice('target', target, ONNX_TARGETS)
    _check_opset(opset)
    if calibration is not None and (half or dynamic_size):
        raise ValueError('int8: cannot be combined with half or dynamic_size')
    row = ONNX_TARGETS[target]
    quantization = None if calibration is None else row.int8
    graph = lower(model)
    check_fit(model, preprocessing, batch_size, calibration=calibration, pictures=pictures)
    graph = _prepare_graph(
        graph, preprocessing, dynamic_size, target, (quantization or row).passes if passes is None else passes)
    proto = _build_onnx(graph, preprocessing, opset, batch_size, dynamic_size, half, quantization, calibration,
                        {TARGET_KEY: target, **metadata})
    runtime = row.runtime if RUNTIMES[row.runtime].is_installed else 'onnxruntime'
    sizes = _sizes_to_compare(model, preprocessing, dynamic_size)
    try:
        session = open_session(runtime, proto.SerializeToString())
        differences = compare_with_model(model, preprocessing, session.run, sizes, batch_size, pictures)
    except SessionError as error:
        raise ExportError(f'{path}: {RUNTIMES[runtime].title} cannot run the file: {error}') from None
    check_differences(path, differences, 'int8' if quantization else 'float16' if half else 'float32')
    _save(proto, path)
    return Exported(Path(path), preprocessing, _shapes(proto), differences, runtime)


def _check_opset(opset: int) -> None:
    from ..graph.to_onnx import OLDEST_OPSET, newest_opset
    if not OLDEST_OPSET <= opset <= newest_opset():
        raise ValueError(f'opset: must be from {OLDEST_OPSET} to {newest_opset()}, the newest that the installed '
                         f'versions of onnx and ONNX Runtime accept, not {opset}')


def _save(proto: Any, path: Union[str, os.PathLike]) -> None:
    import onnx
    with atomic_write(path) as part:
        onnx.save(proto, part)


def _shapes(proto: Any) -> Dict[str, List[Union[int, str]]]:
    """Return the shapes of a model's inputs and outputs, by name, with names for lengths that are not fixed."""
    return {value.name: [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
            for value in (*proto.graph.input, *proto.graph.output)}


def _prepare_graph(
        graph: Node, preprocessing: Preprocessing, dynamic_size: bool, target: str, passes: Collection[str],
) -> Node:
    """Return the graph with its normalisation, if the file is to normalise, after the passes."""
    if preprocessing.dtype == 'uint8':
        mean, std = (torch.tensor(values, dtype=torch.float64) for values in (preprocessing.mean, preprocessing.std))
        params = dict(scale=1 / (255 * std), shift=-mean / std)  # for pixels from 0 to 255
        graph = rewrite(graph, lambda node: Node('affine', (node,), params) if node.op == 'input' else node)
    height, width = preprocessing.input_size[1:]
    return apply_passes(graph, target, None if dynamic_size else (height, width), passes)


def _build_onnx(
        graph: Node, preprocessing: Preprocessing, opset: int, batch_size: Optional[int], dynamic_size: bool,
        half: bool, quantization: Optional[Quantization], calibration: Optional[np.ndarray],
        metadata: Mapping[str, str],
) -> Any:
    """Return the ``onnx.ModelProto`` of a graph, quantised if there are images to calibrate on."""
    import onnx

    from ..graph.to_onnx import to_onnx
    shape = _input_shape(preprocessing, batch_size, dynamic_size)
    proto = to_onnx(graph, shape, opset, half, preprocessing.dtype == 'uint8', preprocessing.output == 'probabilities')
    if quantization is not None and calibration is not None:
        from ..graph.quantize import quantize
        feeds = [preprocessing.feed(images) for images in full_batches(calibration, batch_size or 1)]
        proto = quantize(proto, feeds, quantization)
    written = {entry.domain: entry.version for entry in proto.opset_import}.get('')
    if written != opset:
        raise ExportError(f'opset: {written} was written, not {opset}')
    onnx.helper.set_model_props(proto, {METADATA_KEY: preprocessing.to_json(), **metadata})
    onnx.checker.check_model(proto, full_check=True)
    return proto


def _input_shape(
        preprocessing: Preprocessing, batch_size: Optional[int], dynamic_size: bool) -> List[Union[int, str]]:
    """Return the shape of a file's input, with names for what may have any size."""
    channels, *size = preprocessing.input_size
    batch = 'batch' if batch_size is None else batch_size
    rows_and_columns = ['height', 'width'] if dynamic_size else size
    return [batch, *rows_and_columns, channels] if preprocessing.layout == 'NHWC' else [
        batch, channels, *rows_and_columns]


def _sizes_to_compare(model: NASNet, preprocessing: Preprocessing, dynamic_size: bool) -> List[List[int]]:
    """Return heights and widths of images on which an ONNX file is compared with the network."""
    height, width = preprocessing.input_size[1:]
    smallest = [model.skeleton.output_stride] * 2  # the last features are a single pixel
    more = [[height + 1, width + 1], [height, width + 3], smallest] if dynamic_size else []
    return [[height, width], *more]


def export_pt2(
        model: NASNet,
        path: Union[str, os.PathLike],
        preprocessing: Optional[Preprocessing] = None,
        *,
        batch_size: Optional[int] = 1,
        dynamic_size: bool = False,
        pictures: Optional[np.ndarray] = None,
        passes: Optional[Collection[str]] = None,
) -> Exported:
    """Write a network as a program of ``torch.export``, after rewriting its graph for speed.

    PyTorch alone loads and runs it: ``torch.export.load('model.pt2').module()(images)``, with images that are
    normalised as the preprocessing says. The preprocessing is stored as an extra file of the program, under the same
    name as in an ONNX file's metadata.

    Args:
        model: The network, in evaluation mode and float32.
        path: The file to write. It appears only when it is complete.
        preprocessing: How the input is prepared, from :func:`make_preprocessing`.
        batch_size: The number of images that the program takes at a time, None for any number.
        dynamic_size: Take images of any height and width, not only of the preprocessing's.
        pictures: Images to compare on, uint8 [N, C, H, W], of the preprocessing's size. The program is compared on
            random images in any case.
        passes: Names in ``nasnet_zoo.graph.passes.PASSES``. By default all that make PyTorch faster on the network's
            device.

    Returns:
        The path, the preprocessing, the shapes of input and output, and the differences from the network.

    Raises:
        TypeError: For a network that cannot be lowered (see :func:`nasnet_zoo.graph.lower.lower`).
        ValueError: If the preprocessing asks for uint8 input or probabilities, if arguments do not fit the network, or
            if the network is in training mode or returns NaN.
        ExportError: If the program's results are not the network's.
    """
    preprocessing = preprocessing or make_preprocessing(model)
    if preprocessing.dtype == 'uint8' or preprocessing.output == 'probabilities':
        raise ValueError('pt2: a program takes normalised images and returns logits; do the rest in PyTorch')
    height, width = preprocessing.input_size[1:]
    module = optimize_for_inference(model, None if dynamic_size else (height, width), passes, check=False)
    check_fit(model, preprocessing, batch_size, pictures=pictures)
    content, run = _build_program(module, next(model.parameters()).device, preprocessing, batch_size, dynamic_size)
    sizes = [[height, width], *([[height + 1, width + 3]] if dynamic_size else [])]
    differences = compare_with_model(model, preprocessing, run, sizes, batch_size, pictures)
    check_differences(path, differences, 'float32')
    with atomic_write(path) as part:
        part.write_bytes(content)
    shape = _input_shape(preprocessing, batch_size, dynamic_size)
    shapes = dict(image=shape, logits=[shape[0], len(preprocessing.class_names)])
    return Exported(Path(path), preprocessing, shapes, differences, 'torch')


def _build_program(
        module: torch.nn.Module, device: torch.device, preprocessing: Preprocessing, batch_size: Optional[int],
        dynamic_size: bool,
) -> Tuple[bytes, Callable[[np.ndarray], np.ndarray]]:
    """Return a program's file, and a function that runs it as loaded from there."""
    images = torch.zeros(batch_size or 2, *preprocessing.input_size, device=device)
    open_axes = ([] if batch_size else [0]) + ([2, 3] if dynamic_size else [])
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # the exporter warns about its own code
        program = torch.export.export(
            module, (images,), dynamic_shapes=(dict.fromkeys(open_axes, torch.export.Dim.DYNAMIC),))
        torch.export.save(program, file, extra_files={METADATA_KEY: preprocessing.to_json()})
        file.seek(0)
        loaded = torch.export.load(file).module()
    return file.getvalue(), lambda batch: loaded(torch.from_numpy(batch).to(device)).detach().cpu().numpy()


def check_fit(
        model: NASNet, preprocessing: Preprocessing, batch_size: Optional[int], **images: Optional[np.ndarray],
) -> None:
    """Check that a file can be written of the network with this preprocessing, and can take these images.

    Raises:
        ValueError: If not.
    """
    dtype = next(model.parameters()).dtype
    if dtype != torch.float32:
        raise ValueError(f'model: is in {dtype}; call model.float() first')
    if not model.num_classes and not model.head.global_pool.pool_type:
        raise ValueError("model: returns feature maps, but a file must return a vector for each image; use "
                         "global_pool='avg'")
    needed = model.in_chans, check_counts(model)
    given = preprocessing.input_size[0], len(preprocessing.class_names)
    if given != needed:
        raise ValueError(
            'preprocessing: has {} channels and {} class names, but the network has {} channels and {} outputs'.format(
            *given, *needed))
    if (preprocessing.layout, preprocessing.dtype) not in (('NCHW', 'float32'), ('NHWC', 'uint8')) or (
            preprocessing.color_order == 'BGR'):
        raise ValueError('preprocessing: a file can take NCHW and float32, or NHWC and uint8, in the colour order of '
                         f'the network, not {preprocessing.layout}, {preprocessing.dtype} and '
                         f'{preprocessing.color_order}')
    if batch_size is not None and batch_size < 1:
        raise ValueError(f'batch_size: must be 1 or more, or None for any number, not {batch_size}')
    for name, array in images.items():
        if array is not None:
            preprocessing.check_images(name, array)
            if not len(array):
                raise ValueError(f'{name}: contains no images')

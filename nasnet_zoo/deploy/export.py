"""A trained network as an ONNX file or a PyTorch program that run without this package."""
import io
import os
import warnings
from pathlib import Path
from typing import Any, Callable, Collection, Dict, Mapping, NamedTuple, Optional, Sequence, Tuple, Union

import numpy as np
import torch
from timm.layers import to_2tuple

from ..checked import check
from ..data.preprocessing import METADATA_KEY, Preprocessing
from ..files import atomic_write
from ..graph.ir import Node, rewrite
from ..graph.lower import lower
from ..graph.passes import apply_passes, optimize_for_inference
from ..network.nasnet import NASNet
from ..network.skeleton import Skeleton
from ..zoo import label_names
from .classifier import open_session, whole_batches

__all__ = ['ExportError', 'Exported', 'export_onnx', 'export_pt2', 'make_preprocessing']

# How far logits may be from PyTorch's, as norm of the difference over norm, by what is computed with
_TOLERANCE = {'float32': 1e-5, 'float16': 2e-2}


class ExportError(RuntimeError):
    """A file that does not compute what the network does; it is not written."""


class Exported(NamedTuple):
    """A file that was written, and how it compares.

    Attributes:
        path: The file.
        preprocessing: What its input must be.
        shapes: Of its input and its output, names for what is not fixed.
        differences: For ``random`` images and ``pictures``, how far the results are from PyTorch's,
            ``relative_difference`` (norm of the difference over norm), and for how many of ``count`` images the most
            likely class is the same, ``same_top1``.
    """
    path: Path
    preprocessing: Preprocessing
    shapes: Dict[str, Sequence[Union[int, str]]]
    differences: Dict[str, Dict[str, float]]


def make_preprocessing(
        model: NASNet,
        class_names: Optional[Sequence[str]] = None,
        mean: Optional[Sequence[float]] = None,
        std: Optional[Sequence[float]] = None,
        img_size: Union[int, Tuple[int, int], None] = None,
        softmax: bool = False,
        with_preprocessing: bool = False,
) -> Preprocessing:
    """What a file's input must be: what the model's ``pretrained_cfg`` says, but for what is given.

    Args:
        model: The network.
        class_names: As many as there are classes; by default the configuration's if they are, or numbers.
        mean, std: Of the channels, over 0 to 1, that images are normalised by.
        img_size: Height and width, or a side; the skeleton's by default.
        softmax: The file gives probabilities.
        with_preprocessing: The file takes uint8 images, channels last, and normalises them itself.

    Raises:
        ValueError: For class names or statistics that do not match the network, and for images too small for it.
    """
    cfg = model.pretrained_cfg
    width = _width(model)
    known = label_names(model) or ()
    size = model.skeleton.size if img_size is None else to_2tuple(img_size)
    preprocessing = check(Preprocessing, dict(
        input_size=[model.in_chans, *size],
        layout='NHWC' if with_preprocessing else 'NCHW', dtype='uint8' if with_preprocessing else 'float32',
        color_order='L' if model.in_chans == 1 else 'RGB', mean=list(mean or cfg['mean']), std=list(std or cfg['std']),
        interpolation=cfg.get('interpolation') or 'bicubic', crop_pct=cfg.get('crop_pct') or 1.,
        crop_mode=cfg.get('crop_mode') or 'center', output='probabilities' if softmax else 'logits',
        class_names=list(class_names or (known if len(known) == width else map(str, range(width))))))
    if len(preprocessing.class_names) != width:
        raise ValueError(f'class_names: {len(preprocessing.class_names)} names for {width} classes')
    check(Skeleton, {**model.skeleton.model_dump(), 'img_size': size})
    return preprocessing


def _width(model: NASNet) -> int:
    return model.num_classes or model.head_hidden_size


def export_onnx(
        model: NASNet,
        path: Union[str, os.PathLike],
        preprocessing: Optional[Preprocessing] = None,
        *,
        opset: int = 17,
        batch_size: Optional[int] = 1,
        dynamic_size: bool = False,
        half: bool = False,
        calibration: Optional[np.ndarray] = None,
        pictures: Optional[np.ndarray] = None,
        passes: Optional[Collection[str]] = None,
        metadata: Mapping[str, str] = {},
) -> Exported:
    """Write a network, rewritten for speed, as ONNX; what it computes is compared with PyTorch first.

    The graph has one input, ``image``, and one output, ``logits`` or ``probabilities`` [B, classes].

    Args:
        model: In evaluation mode and float32.
        path: The file to write, whole or not at all.
        preprocessing: Of :func:`make_preprocessing`; it goes into the file's metadata.
        opset: ONNX's.
        batch_size: Images at a time; None for any number.
        dynamic_size: Take any height and width, not the preprocessing's alone.
        half: Compute in float16; input and output are float32.
        calibration: Quantise to int8, by what these images bring about: uint8 [N, C, H, W] of the preprocessing's size.
        pictures: Images to compare on, of the same kind; random ones are compared on in any case.
        passes: Names of the rewrites, by default all for ONNX Runtime.
        metadata: More for the file's own.

    Raises:
        ValueError: For options that do not go together or do not fit the network, and a network in training mode.
        ExportError: Where ONNX Runtime does not take the file or its results are not the network's.
    """
    import onnx

    from ..graph.to_onnx import OPSETS, to_onnx
    preprocessing = preprocessing or make_preprocessing(model)
    if opset not in OPSETS:
        raise ValueError(f'opset: must be from {OPSETS[0]} to {OPSETS[-1]}, not {opset}')
    if calibration is not None and (half or dynamic_size):
        raise ValueError('int8: goes with neither half nor dynamic_size')
    graph = lower(model)
    _check_fit(model, preprocessing, batch_size, calibration=calibration, pictures=pictures)
    channels, *size = preprocessing.input_size
    is_uint8 = preprocessing.dtype == 'uint8'
    if is_uint8:
        graph = _normalizing(graph, preprocessing)
    where = 'onnx' if calibration is None else 'int8'
    graph = apply_passes(graph, where, None if dynamic_size else tuple(size), passes)
    batch = 'batch' if batch_size is None else batch_size
    rows_and_columns = ['height', 'width'] if dynamic_size else size
    shape = [batch, *rows_and_columns, channels] if is_uint8 else [batch, channels, *rows_and_columns]
    proto = to_onnx(graph, shape, opset, half, is_uint8, preprocessing.output == 'probabilities')
    if calibration is not None:
        from ..graph.quantize import quantize
        proto = quantize(proto, [preprocessing.feed(images) for images in whole_batches(calibration, batch_size or 1)])
    written = {entry.domain: entry.version for entry in proto.opset_import}.get('')
    if written != opset:
        raise ExportError(f'opset: {written} was written, not {opset}')
    onnx.helper.set_model_props(proto, {METADATA_KEY: preprocessing.to_json(), **metadata})
    onnx.checker.check_model(proto, full_check=True)

    try:
        session = open_session(proto.SerializeToString())
    except Exception as error:  # ONNX Runtime's have no common kind
        raise ExportError(f'{path}: ONNX Runtime does not take it: {error}') from None
    smallest = [model.skeleton.output_stride] * 2  # whose last features are a single pixel
    sizes = [size, [size[0] + 1, size[1] + 1], [size[0], size[1] + 3], smallest] if dynamic_size else [size]
    differences = _differences(model, preprocessing, lambda images: session.run(None, {'image': images})[0], sizes,
                               batch_size, pictures)
    if calibration is None:
        _refuse_if_apart(path, differences, _TOLERANCE['float16' if half else 'float32'])
    with atomic_write(path) as part:
        onnx.save(proto, part)
    shapes = {value.name: [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
              for value in (*proto.graph.input, *proto.graph.output)}
    return Exported(Path(path), preprocessing, shapes, differences)


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
    """Write a network, rewritten for speed, as a program of ``torch.export``, which plain PyTorch loads and runs:
    ``torch.export.load('model.pt2').module()(images)``, images normalised as the preprocessing says.

    Args are those of :func:`export_onnx`; the preprocessing is an extra file of the program, named as in ONNX.
    """
    preprocessing = preprocessing or make_preprocessing(model)
    if preprocessing.dtype == 'uint8' or preprocessing.output == 'probabilities':
        raise ValueError('pt2: such a program takes normalised images and gives logits; a caller has PyTorch for more')
    channels, *size = preprocessing.input_size
    module = optimize_for_inference(model, None if dynamic_size else tuple(size), passes)
    _check_fit(model, preprocessing, batch_size, pictures=pictures)
    device = next(model.parameters()).device
    images = torch.zeros(batch_size or 2, channels, *size, device=device)
    open_axes = ([] if batch_size else [0]) + ([2, 3] if dynamic_size else [])
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # the exporter's, about itself
        program = torch.export.export(
            module, (images,), dynamic_shapes=(dict.fromkeys(open_axes, torch.export.Dim.DYNAMIC),))
        torch.export.save(program, file, extra_files={METADATA_KEY: preprocessing.to_json()})
        file.seek(0)
        loaded = torch.export.load(file).module()
    sizes = [size, [size[0] + 1, size[1] + 3]] if dynamic_size else [size]
    differences = _differences(model, preprocessing, lambda images: loaded(
        torch.from_numpy(images).to(device)).detach().cpu().numpy(), sizes, batch_size, pictures)
    _refuse_if_apart(path, differences, _TOLERANCE['float32'])
    with atomic_write(path) as part:
        part.write_bytes(file.getvalue())
    shape = ['batch' if batch_size is None else batch_size, channels, *(['height', 'width'] if dynamic_size else size)]
    shapes = dict(image=shape, logits=[shape[0], len(preprocessing.class_names)])
    return Exported(Path(path), preprocessing, shapes, differences)


def _check_fit(
        model: NASNet, preprocessing: Preprocessing, batch_size: Optional[int], **images: Optional[np.ndarray],
) -> None:
    """Raise ValueError unless a file of the network can be as the preprocessing says, and take such images."""
    dtype = next(model.parameters()).dtype
    if dtype != torch.float32:
        raise ValueError(f'model: is in {dtype}; call model.float() first')
    if not model.num_classes and not model.head.global_pool.pool_type:
        raise ValueError('model: gives feature maps, and a file gives a row of numbers an image; leave global_pool at '
                         "'avg'")
    given, wanted = (preprocessing.input_size[0], len(preprocessing.class_names)), (model.in_chans, _width(model))
    if given != wanted:
        raise ValueError('preprocessing: {} channels and {} class names, for a network of {} and {}'.format(
            *given, *wanted))
    if (preprocessing.layout, preprocessing.dtype) not in (('NCHW', 'float32'), ('NHWC', 'uint8')) or (
            preprocessing.color_order == 'BGR'):
        raise ValueError('preprocessing: a file takes NCHW and float32, or NHWC and uint8, of the colour order that '
                         f'the network has; not {preprocessing.layout}, {preprocessing.dtype} and '
                         f'{preprocessing.color_order}')
    if batch_size is not None and batch_size < 1:
        raise ValueError(f'batch_size: must be 1 or more, or None for any, not {batch_size}')
    for name, array in images.items():
        if array is not None:
            preprocessing.check_images(name, array)
            if not len(array):
                raise ValueError(f'{name}: there are none')


def _normalizing(graph: Node, preprocessing: Preprocessing) -> Node:
    """The graph with images of 0 to 255 as its input."""
    mean, std = (torch.tensor(values, dtype=torch.float64) for values in (preprocessing.mean, preprocessing.std))
    params = dict(scale=1 / (255 * std), shift=-mean / std)
    return rewrite(graph, lambda node: Node('affine', (node,), params) if node.op == 'input' else node)


def _differences(
        model: NASNet, preprocessing: Preprocessing, run: Callable[[np.ndarray], np.ndarray],
        sizes: Sequence[Sequence[int]], batch_size: Optional[int], pictures: Optional[np.ndarray],
) -> Dict[str, Dict[str, float]]:
    """Of `run` from the model, on random images of all sizes and on pictures."""
    generator = np.random.default_rng(0)
    channels = preprocessing.input_size[0]
    kinds = {'random': [generator.integers(0, 256, (batch_size or 2, channels, *size), np.uint8) for size in sizes]}
    if pictures is not None:
        kinds['pictures'] = whole_batches(pictures, batch_size or 8)
    device = next(model.parameters()).device
    report = {}
    for kind, groups in kinds.items():
        got, expected = [], []
        for images in groups:
            got.append(run(preprocessing.feed(images)))
            with torch.no_grad():
                result = model(torch.from_numpy(preprocessing.normalized(images)).to(device))
            expected.append((result.softmax(1) if preprocessing.output == 'probabilities' else result).cpu().numpy())
        count = len(pictures) if kind == 'pictures' else None  # without those that fill the last batch up
        got, expected = np.concatenate(got)[:count], np.concatenate(expected)[:count]
        report[kind] = dict(
            relative_difference=float(np.linalg.norm(got - expected) / np.linalg.norm(expected)),
            same_top1=int((got.argmax(1) == expected.argmax(1)).sum()), count=len(got))
    return report


def _refuse_if_apart(path: Any, differences: Dict[str, Dict[str, float]], tolerance: float) -> None:
    for kind, found in differences.items():
        if not found['relative_difference'] <= tolerance:
            raise ExportError(f"{path}: on {kind} images its results are {found['relative_difference']:.1e} from the "
                              f"network's, more than {tolerance}; it is not written")

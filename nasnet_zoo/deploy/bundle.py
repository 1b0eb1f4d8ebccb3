"""A folder to deploy: a model file and all that a server, or a person, must know of it.

    model.onnx (or model.pt2), labels.txt, genotype.json, manifest.json

in the layout of a server where wanted.
"""
import hashlib
import json
import os
import re
import tempfile
from datetime import datetime, timezone
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple, Union
from urllib.error import URLError

import numpy as np
import onnx
import onnxruntime
import torch
from rich.console import Console
from rich.progress import track

from ..checkpoints.load import load_foreign_weights
from ..data.datasets import ImageSet, data_name, load_data
from ..data.preprocessing import Preprocessing
from ..hub.folder import WEIGHTS, cached_weights, read_accuracy, weight_file
from ..network.nasnet import NASNet
from ..training.metrics import evaluate
from ..training.run import versions
from ..zoo import build
from .classifier import Classifier, find_pictures
from .export import Exported, export_onnx, export_pt2, make_preprocessing

__all__ = ['LAYOUTS', 'deploy', 'load_trained']


class Layout(NamedTuple):
    """Where files go, {name} standing for the model's, and what else a server wants.

    Attributes:
        model, labels: Paths.
        files: Makes more files: of the name and what was exported, paths and texts.
        metadata: Makes more entries of the file's own metadata: of the preprocessing, licence, source and precision.
        needs: Options that the server demands.
    """
    model: str
    labels: str
    files: Callable[[str, Exported], Dict[str, str]] = lambda name, exported: {}
    metadata: Callable[[Preprocessing, str, str, str], Dict[str, str]] = (
        lambda preprocessing, license, source, precision: {})
    needs: Dict[str, Any] = {}


def _triton_config(name: str, exported: Exported) -> Dict[str, str]:
    """Triton's description of a model, in protobuf's text format."""
    (image, shape), (output, _) = exported.shapes.items()
    kind = 'TYPE_UINT8' if exported.preprocessing.dtype == 'uint8' else 'TYPE_FP32'
    dims = ', '.join('-1' if isinstance(side, str) else str(side) for side in shape[1:])
    return {f'{name}/config.pbtxt': f'''name: {json.dumps(name)}
backend: "onnxruntime"
max_batch_size: 64
input [
  {{ name: "{image}" data_type: {kind} dims: [ {dims} ] }}
]
output [
  {{ name: "{output}" data_type: TYPE_FP32 dims: [ {len(exported.preprocessing.class_names)} ] \
label_filename: "labels.txt" }}
]
dynamic_batching {{ max_queue_delay_microseconds: 200 }}
'''}


def _photoprism_metadata(preprocessing: Preprocessing, license: str, source: str, precision: str) -> Dict[str, str]:
    """PhotoPrism's keys of a model that labels pictures (its internal/ai/onnx)."""
    _, height, width = preprocessing.input_size
    entries = dict(
        license=license, source=source, quantization=precision, input_name='image', output_name=preprocessing.output,
        input_width=width, input_height=height, output_width=len(preprocessing.class_names), output_count=1,
        outputs_logits=preprocessing.output == 'logits', layout=preprocessing.layout,
        color_order=preprocessing.color_order,
        mean=[255 * value for value in preprocessing.mean], std_dev=[255 * value for value in preprocessing.std],
        resize_mode={'center': 'center-crop', 'squash': 'stretch'}[preprocessing.crop_mode],
        resize_short_edge=int(min(height, width) / preprocessing.crop_pct), crop_ratio=preprocessing.crop_pct,
        interpolation={'bilinear': 'linear'}.get(preprocessing.interpolation, preprocessing.interpolation))
    return {f'photoprism.{key}': value if isinstance(value, str) else json.dumps(value)
            for key, value in entries.items()}


LAYOUTS = {
    'plain': Layout('model{suffix}', 'labels.txt'),
    'triton': Layout('{name}/1/model{suffix}', '{name}/labels.txt', files=_triton_config,
                     needs=dict(format='onnx', batch_size=None)),
    'photoprism': Layout('{name}/{name}{suffix}', '{name}/labels.txt', metadata=_photoprism_metadata,
                         needs=dict(format='onnx', batch_size=1, dynamic_size=False, with_preprocessing=False,
                                    softmax=False)),
}


def load_trained(source: str, checkpoint: Optional[Union[str, os.PathLike]] = None) -> Tuple[NASNet, Optional[Path]]:
    """A trained network and the file of its weights.

    Args:
        source: A name of the zoo, a model folder or its weight file, ``local-dir:FOLDER`` or ``hf-hub:OWNER/NAME``.
        checkpoint: A file with its weights, of any kind that ``load_foreign_weights`` reads. What the configuration
            calls the classes, and its licence, are not theirs and are dropped.
    """
    if checkpoint is not None:
        model = build(source)
        load_foreign_weights(model, checkpoint)
        model.pretrained_cfg = dict(model.pretrained_cfg, label_names=None, license=None)  # of other weights
        return model.eval(), Path(checkpoint)
    if Path(source).name == WEIGHTS and Path(source).is_file():
        source = str(Path(source).parent)
    elif Path(source).is_file() and Path(source).suffix != '.json':
        raise ValueError(f'{source}: say whose weights these are: export MODEL --checkpoint {source}')
    try:
        model = build(source, pretrained=True).eval()
    except URLError as error:
        raise ValueError(f'{source}: its weights cannot be fetched: {error.reason}; --checkpoint takes them from a '
                         'file') from None
    return model, weight_file(source, model) or cached_weights(model)


def deploy(
        source: str,
        out: Union[str, os.PathLike],
        *,
        checkpoint: Optional[Union[str, os.PathLike]] = None,
        format: str = 'onnx',
        layout: str = 'plain',
        name: Optional[str] = None,
        class_names: Optional[Sequence[str]] = None,
        mean: Optional[Sequence[float]] = None,
        std: Optional[Sequence[float]] = None,
        img_size: Union[int, Tuple[int, int], None] = None,
        opset: int = 17,
        batch_size: Optional[int] = 1,
        dynamic_size: bool = False,
        precision: str = 'float32',
        softmax: bool = False,
        with_preprocessing: bool = False,
        pictures: Optional[Sequence[Union[str, os.PathLike]]] = None,
        calibrate: int = 64,
        data: Optional[str] = None,
        passes: Optional[Sequence[str]] = None,
        license: Optional[str] = None,
        timestamp: Optional[str] = None,
        command: Sequence[str] = (),
) -> Dict[str, Any]:
    """Export a trained network, with the files that go beside it.

    Args:
        source, checkpoint: See :func:`load_trained`.
        out: Folder for the files; those of the same names are replaced when all are written, the manifest last.
        format: 'onnx' or 'pt2', a program of torch.export.
        layout: One of :data:`LAYOUTS`.
        name: Of the model in a server's layout; by default the source's.
        class_names, mean, std: See ``make_preprocessing``. What the configuration calls the classes is not taken
            for the weights of a checkpoint.
        img_size, opset, batch_size, dynamic_size, softmax, with_preprocessing, passes: See ``export_onnx`` and
            ``make_preprocessing``.
        precision: 'float32', 'float16' or 'int8'.
        pictures: Picture files and folders to compare on; by default scikit-learn's two photos, if it is here. For int8
            `calibrate` of them, evenly spread, are calibrated on and the others compared on.
        data: A data set, as ``load_data`` takes it, on whose test images the accuracy is measured, of the model and of
            the file.
        license: Of the weights; by default what the configuration says, 'unknown' for a checkpoint's.
        timestamp: When, for the manifest: the same inputs and timestamp give the same bytes.
        command: For the manifest.

    Returns:
        The manifest.

    Raises:
        ValueError: For options that do not go together.
        ExportError: Where the file's results are not the network's.
    """
    chosen = _choose('layout', LAYOUTS, layout)
    given = dict(format=format, batch_size=batch_size, dynamic_size=dynamic_size,
                 with_preprocessing=with_preprocessing, softmax=softmax)
    for option, needed in chosen.needs.items():
        if given[option] != needed:
            raise ValueError(f'layout {layout}: needs {option} to be {needed}, not {given[option]}')
    write = _choose('format', {'onnx': export_onnx, 'pt2': export_pt2}, format)
    if format == 'pt2' and (precision != 'float32' or data is not None):
        raise ValueError('pt2: is written in float32, and its accuracy is not measured')
    _choose('precision', dict.fromkeys(('float32', 'float16', 'int8')), precision)
    name = name or _name(source)
    if '{name}' in chosen.model and not re.fullmatch(r'[\w-][\w.-]*', name):
        raise ValueError(f'name: {name!r} is no name of a folder; use letters, digits, "_", "-" and "."')
    model, weights = load_trained(source, checkpoint)
    license = license or model.pretrained_cfg.get('license') or 'unknown'
    preprocessing = make_preprocessing(model, class_names, mean, std, img_size, softmax, with_preprocessing)
    for label in preprocessing.class_names:
        if label.splitlines() != [label]:
            raise ValueError(f'class_names: {label!r} is no line of labels.txt')
    train, test = (None, None) if data is None else _small_images(data, model, preprocessing)

    options: Dict[str, Any] = dict(batch_size=batch_size, dynamic_size=dynamic_size, passes=passes)
    if precision == 'int8':
        options.update(_parted(_prepared(pictures, preprocessing) if pictures else _some(train, calibrate), calibrate))
    else:
        options['pictures'] = _prepared(pictures or _sample_photos(), preprocessing)
    if format == 'onnx':
        options.update(opset=opset, half=precision == 'float16', metadata=dict(
            license=license, **chosen.metadata(preprocessing, license, source, precision)))

    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix='.', dir=out) as folder:  # what is there stays until all is written
        file, labels = (Path(folder, path.format(name=name, suffix=f'.{format}'))
                        for path in (chosen.model, chosen.labels))
        for path in (file, labels):
            path.parent.mkdir(parents=True, exist_ok=True)
        exported = write(model, file, preprocessing, **options)
        accuracy = None
        if test is not None:
            right = Classifier(file).logits(test.images.numpy()).argmax(1) == test.labels.numpy()
            accuracy = dict(dataset=data_name(data), count=len(right), model=evaluate(model, test).top1,
                            file=float(right.mean()))
        manifest = dict(
            created=timestamp or datetime.now(timezone.utc).isoformat(timespec='seconds'), command=list(command),
            model=name, genotype=model.genotype.name, source=source, license=license,
            weights=weights and dict(file=weights.name, sha256=_sha256(weights), accuracy=_accuracy(weights)),
            file=dict(path=str(file.relative_to(folder)), sha256=_sha256(file), bytes=file.stat().st_size),
            format=format, opset=opset if format == 'onnx' else None, precision=precision, shapes=exported.shapes,
            preprocessing=json.loads(preprocessing.to_json()), compared_with_pytorch=exported.differences,
            accuracy=accuracy, passes=None if passes is None else list(passes),
            versions=dict(versions(), onnx=onnx.__version__, onnxruntime=onnxruntime.__version__))
        texts = {labels: ''.join(f'{label}\n' for label in preprocessing.class_names),
                 labels.parent / 'genotype.json': model.genotype.dumps(),
                 **{Path(folder, path): text for path, text in chosen.files(name, exported).items()},
                 labels.parent / 'manifest.json': json.dumps(manifest, indent=2) + '\n'}
        for path, text in texts.items():
            path.write_text(text, encoding='utf-8')
        for path in (file, *texts):
            target = out / path.relative_to(folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            path.replace(target)
    return manifest


def _name(source: str) -> str:
    """What a model is called by default: the last part of where it comes from."""
    path = Path(re.sub('^(local-dir|hf-hub):', '', source).split('@')[0])
    return (path.parent if path.name == WEIGHTS else path).resolve().name.removesuffix('.json')


def _small_images(data: str, model: NASNet, preprocessing: Preprocessing) -> Tuple[ImageSet, ImageSet]:
    """Training and test images as the preprocessing has them."""
    sets = load_data(data, preprocessing=preprocessing)
    for images in sets:
        if not isinstance(images, ImageSet):
            raise ValueError(f'{data}: its pictures are large; compare on them as --pictures')
        if [*images.input_size, *images.class_names] != [*preprocessing.input_size, *preprocessing.class_names]:
            raise ValueError(f'{data}: its images or classes are not the model\'s')
    return sets


def _sample_photos() -> List[Path]:
    """Those that come with scikit-learn; none without it."""
    found = find_spec('sklearn')
    return sorted((Path(found.origin).parent / 'datasets' / 'images').glob('*.jpg')) if found else []


def _prepared(paths: Sequence[Union[str, os.PathLike]], preprocessing: Preprocessing) -> Optional[np.ndarray]:
    """Pictures as uint8 [N, C, H, W]; None for none."""
    images = []
    for path in track(find_pictures(paths), 'pictures', transient=True, console=Console(stderr=True)):
        try:
            images.append(preprocessing.read(path))
        except Exception as error:  # a decoder raises what it likes
            raise ValueError(f'{path}: cannot be read: {error}; remove it') from None
    return np.stack(images) if images else None


def _some(train: Optional[ImageSet], calibrate: int) -> Optional[np.ndarray]:
    """Training images to calibrate on, and 256 to compare on."""
    if train is None:
        return None
    return train.images[torch.linspace(0, len(train.images) - 1, calibrate + 256).long().unique()].numpy()


def _parted(images: Optional[np.ndarray], calibrate: int) -> Dict[str, np.ndarray]:
    """Images to calibrate on, evenly spread, and the others."""
    if images is None or len(images) <= calibrate:
        raise ValueError(f'int8: needs images of what the model will see, {calibrate} to calibrate on and others to '
                         f'compare on, not {0 if images is None else len(images)} (--pictures or --data, --calibrate)')
    taken = np.linspace(0, len(images) - 1, calibrate).astype(int)
    return dict(calibration=images[taken], pictures=np.delete(images, taken, 0))


def _choose(option: str, table: Mapping[str, Any], name: str) -> Any:
    if name not in table:
        raise ValueError(f'{option}: {name!r} is none of {", ".join(table)}')
    return table[name]


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _accuracy(weights: Path) -> Optional[Dict[str, Any]]:
    return read_accuracy(weights) if weights.suffix == '.safetensors' else None

"""A folder to deploy: a model file, and what a server or a person must know about it.

    model.onnx (or model.pt2), labels.txt, genotype.json, manifest.json

Other layouts arrange them as a server needs them; see :data:`~nasnet_zoo.deploy.layouts.LAYOUTS`.
"""
import json
import os
import sys
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple, Union

import numpy as np
import onnx
import torch
from rich.console import Console
from rich.progress import track

from ..checkpoints.entries import Entry
from ..checkpoints.folder import find_file
from ..checkpoints.load import find_weights, load_tensors
from ..data.datasets import ImageSet, data_name
from ..data.pictures import find_pictures
from ..data.preprocessing import Preprocessing, make_preprocessing
from ..data.tree import describe_left_out, warn_of_left_out
from ..downloads import DownloadError
from ..extras import require
from ..files import atomic_folder, sha256, write_json, write_utf8
from ..hub.folder import WEIGHTS, cached_weights, read_accuracy, weight_file
from ..network.nasnet import NASNet
from ..training.metrics import evaluate
from ..training.run import versions
from ..zoo import build, forget_origin
from .classifier import Classifier
from .compare import ExportError
from .config import ExportConfig
from .cost import load_images
from .deployment import Deployment, ModelFacts
from .export import Exported
from .formats import FORMATS
from .layouts import LAYOUTS
from .runtimes import RUNTIMES

__all__ = ['deploy', 'load_trained']

_MAX_COMPARED = 256  # training images on which an int8 file is compared


def load_trained(source: str) -> Tuple[NASNet, Optional[Path]]:
    """Load a trained network.

    Args:
        source: Name of a model with weights, a model folder or its weight file, ``local-dir:FOLDER`` or
            ``hf-hub:OWNER/NAME``.

    Returns:
        The network in evaluation mode, and the file of its weights, None if it is not known.

    Raises:
        ValueError: If the source has no weights, or if they cannot be fetched.
    """
    if Path(source).name == WEIGHTS and Path(source).is_file():
        source = str(Path(source).parent)
    elif Path(source).is_file() and Path(source).suffix != '.json':
        raise ValueError(
            f'{source}: is a weight file; name the model that it is for: export MODEL --checkpoint {source}')
    try:
        model = build(source, pretrained=True).eval()
    except DownloadError as error:
        raise ValueError(f'{source}: the weights cannot be downloaded: {error}; pass a weight file with '
                         '--checkpoint') from None
    return model, weight_file(source, model) or cached_weights(model)


def load_checkpoint(
        source: str, checkpoint: Union[str, os.PathLike], entry: Optional[str] = None) -> Tuple[NASNet, Entry]:
    """Build a network and load weights into it.

    The numbers of classes and of input channels are those of the weights. The class names and the licence in the
    model's configuration belong to other weights and are dropped.

    Args:
        source: Name of a model, a model folder or a genotype.
        checkpoint: A file or folder with weights for the network, of any kind that ``load_foreign_weights`` reads.
        entry: Which weights to load if there are several in the file.

    Returns:
        The network in evaluation mode, and what was loaded.

    Raises:
        ValueError: If the weights cannot be read or do not fit the network.
    """
    model = build(source)
    found = find_weights(model, checkpoint, entry)
    if model.num_classes and 'head.fc.weight' not in found.values:
        raise ValueError(f'{checkpoint}: has no classifier, without which the outputs would be random')
    changes = {}
    first_conv = f'{model.skeleton.stem_row.first_conv}.weight'
    for argument, name, axis in (('num_classes', 'head.fc.weight', 0), ('in_chans', first_conv, 1)):
        shape, own = (getattr(tensors.get(name), 'shape', ()) for tensors in (found.values, model.state_dict()))
        if len(shape) == len(own) and shape[axis] != own[axis]:
            changes[argument] = shape[axis]
    if changes:
        model = build(source, **changes)
    load_tensors(model, found.values, str(checkpoint))
    forget_origin(model)
    return model.eval(), found


def deploy(config: ExportConfig, command: Sequence[str] = ()) -> Dict[str, Any]:
    """Export a trained network, and write the files that go beside it.

    Files of the same names in the folder are replaced when all new ones are complete. While they are, the folder has no
    manifest.

    Args:
        config: What to export, and how.
        command: The command line, for the manifest.

    Returns:
        The content of ``manifest.json``.

    Raises:
        ImportError: If a package that the layout needs is not installed.
        ValueError: If settings do not fit the network, or an image cannot be read.
        ExportError: If the file's results are not the network's.
    """
    extra = LAYOUTS[config.layout].extra
    if extra is not None:
        require(f'--layout {config.layout}', extra)
    model, weights, found = _load(config)
    preprocessing = make_preprocessing(model, config.class_names, config.mean, config.std, config.img_size,
                                       config.softmax, config.with_preprocessing)
    for label in preprocessing.class_names:
        if label.splitlines() != [label]:
            raise ValueError(f'class_names: {label!r} is not a single line of text, as labels.txt needs')
    license = config.license or model.pretrained_cfg.get('license') or 'unknown'
    facts = ModelFacts(config.model_name, config.source, license, config.precision, preprocessing)
    LAYOUTS[config.layout].check(facts, config.ort_web)
    train, test = (None, None) if config.data is None else load_images(config.data, preprocessing)
    images = _images_for(config, preprocessing, train)
    layout, suffix = LAYOUTS[config.layout], FORMATS[config.format].suffix
    model_path, labels_path = (
        Path(path.format(name=facts.name, suffix=suffix)) for path in (layout.model, layout.labels))
    manifest_path = labels_path.with_name('manifest.json')
    with atomic_folder(config.out, last=manifest_path) as folder:
        file = folder / model_path
        for path in (model_path, labels_path):
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
        try:
            exported = _export(config, model, file, facts, images)
        except ExportError as error:  # it names the temporary file
            raise ExportError(str(error).replace(str(file), str(config.out / model_path))) from None
        accuracy = None if test is None else _measure(str(config.data), model, exported, test)
        manifest = dict(
            _describe_origin(config, facts, model, weights, found, command),
            **_describe_file(config, exported, folder),
            accuracy=accuracy, passes=None if config.passes is None else list(config.passes),
            versions=dict(versions(), onnx=onnx.__version__, **{
                name: row.version for name, row in RUNTIMES.items() if row.is_installed}))
        write_utf8(folder / labels_path, ''.join(f'{label}\n' for label in preprocessing.class_names))
        model.genotype.save(folder / labels_path.with_name('genotype.json'))
        layout.write(Deployment(
            folder, facts, exported, model, (manifest['weights'] or {}).get('accuracy'), config.ort_web))
        write_json(folder / manifest_path, manifest)
    return manifest


def _load(config: ExportConfig) -> Tuple[NASNet, Optional[Path], Optional[Entry]]:
    """Return the network, the file of its weights, and what was loaded from a checkpoint if there is one."""
    if config.checkpoint is None:
        return (*load_trained(config.source), None)
    model, found = load_checkpoint(config.source, config.checkpoint, config.checkpoint_entry)
    return model, find_file(config.checkpoint), found


def _images_for(
        config: ExportConfig, preprocessing: Preprocessing, train: Optional[ImageSet],
) -> Dict[str, Optional[np.ndarray]]:
    """Return ``pictures`` to compare on and for int8 ``calibration``, each uint8 [N, C, H, W] or None.

    For int8, images to calibrate on are spread evenly over all images, and the others are compared on.
    """
    paths: Sequence[Path] = config.pictures
    if not paths and config.precision != 'int8' and preprocessing.input_size[0] in (1, 3):  # as image files have
        paths = _sample_photos()
    images = _read_pictures(paths, preprocessing)
    if config.precision != 'int8':
        return dict(pictures=images)
    if images is None and train is not None:
        indices = torch.linspace(0, len(train.images) - 1, config.calibrate + _MAX_COMPARED).long().unique()
        images = train.images[indices].numpy()
    if images is None or len(images) <= config.calibrate:
        raise ValueError(
            f'int8: needs images like those that the network will see: {config.calibrate} to calibrate on and others '
            f'to compare on, not {0 if images is None else len(images)} (--pictures or --data, --calibrate)')
    indices = np.linspace(0, len(images) - 1, config.calibrate).astype(int)
    return dict(calibration=images[indices], pictures=np.delete(images, indices, 0))


def _sample_photos() -> List[Path]:
    """List the photographs that come with scikit-learn, none without it."""
    found = find_spec('sklearn')
    return sorted((Path(found.origin).parent / 'datasets' / 'images').glob('*.jpg')) if found and found.origin else []


def _read_pictures(paths: Sequence[Path], preprocessing: Preprocessing) -> Optional[np.ndarray]:
    """Return prepared images, uint8 [N, C, H, W], None if there are none."""
    images = []
    files, left_out = find_pictures(paths)
    warn_of_left_out(describe_left_out(left_out))
    for path in track(files, 'pictures', transient=True, console=Console(stderr=True),
                      disable=not sys.stderr.isatty()):
        try:
            images.append(preprocessing.read(path))
        except Exception as error:  # image decoders raise exceptions of many kinds
            raise ValueError(f'{path}: cannot be read: {error}; remove it') from None
    return np.stack(images) if images else None


def _export(
        config: ExportConfig, model: NASNet, file: Path, facts: ModelFacts, images: Dict[str, Optional[np.ndarray]],
) -> Exported:
    """Write the model file."""
    layout = LAYOUTS[config.layout]
    metadata = dict(license=facts.license, **layout.metadata(facts))
    settings = dict(
        target=config.export_target, opset=config.opset, batch_size=config.fixed_batch_size,
        dynamic_size=config.dynamic_size, half=config.precision == 'float16', passes=config.passes, metadata=metadata,
        **images)
    file_format = FORMATS[config.format]
    return file_format.write(model, file, facts.preprocessing, **{
        name: value for name, value in settings.items() if name in file_format.arguments})


def _measure(data: str, model: NASNet, exported: Exported, test: ImageSet) -> Dict[str, Any]:
    """Return the accuracy of the network and of the file on test images."""
    logits = Classifier(exported.path, provider='cpu', runtime=exported.runtime).logits(test.images.numpy())
    return dict(dataset=data_name(data), count=len(logits), model=evaluate(model, test).top1,
                file=float((logits.argmax(1) == test.labels.numpy()).mean()))


def _describe_origin(
        config: ExportConfig, facts: ModelFacts, model: NASNet, weights: Optional[Path], found: Optional[Entry],
        command: Sequence[str],
) -> Dict[str, Any]:
    """Return the manifest's entries on how the files were made and from what."""
    return dict(
        created=config.timestamp or datetime.now(UTC).isoformat(timespec='seconds'), command=list(command),
        config=config.model_dump(mode='json', exclude={'out'}),  # the same files in another folder are the same bytes
        model=facts.name, genotype=model.genotype.name, source=config.source, license=facts.license,
        weights=weights and dict(
            file=weights.name, sha256=sha256(weights),
            accuracy=read_accuracy(weights) if weights.suffix == '.safetensors' else None,
            **({} if found is None else dict(
                entry=found.place, averaged=found.is_averaged, others=found.others, ignored=found.unused))))


def _describe_file(config: ExportConfig, exported: Exported, folder: Path) -> Dict[str, Any]:
    """Return the manifest's entries on the model file."""
    path = exported.path
    return dict(
        file=dict(path=path.relative_to(folder).as_posix(), sha256=sha256(path), bytes=path.stat().st_size),
        format=config.format, **{name: value if name in FORMATS[config.format].arguments else None
                                 for name, value in dict(target=config.export_target, opset=config.opset).items()},
        precision=config.precision, shapes=exported.shapes, preprocessing=json.loads(exported.preprocessing.to_json()),
        compared_with_pytorch=exported.differences, compared_in=exported.runtime)

"""Validation of a trained model on a data set."""
import os
from pathlib import Path
from typing import Any, Callable, Dict, Optional, Union

import torch

from ..checked import join_first
from ..data.datasets import AnySet, DataError, data_name, load_data
from ..data.preprocessing import make_preprocessing
from ..hub.folder import record_accuracy, weight_file
from ..model_folder import model_folder
from ..network.nasnet import NASNet
from ..zoo import build, label_names
from .device import choose_device
from .metrics import evaluate
from .trainer import keep_freed_memory

__all__ = ['validate']


def validate(
        source: str,
        data: str,
        split: str = 'test',
        data_root: Optional[Union[str, os.PathLike]] = None,
        download: bool = False,
        batch_size: int = 256,
        device: Union[str, torch.device] = 'auto',
        record: bool = False,
        on_batch: Optional[Callable[[int, int], None]] = None,
) -> Dict[str, Any]:
    """Measure the accuracy of a trained model. Images are prepared as the model's ``pretrained_cfg`` says.

    Args:
        source: A model name with weights, a model folder, ``local-dir:FOLDER`` or ``hf-hub:OWNER/NAME``.
        data: The data set, see :func:`~nasnet_zoo.data.datasets.load_data`.
        split: 'test' or 'train'.
        data_root, download: See :func:`~nasnet_zoo.data.datasets.load_data`.
        batch_size: Images in a batch.
        device: Where the model runs, see :func:`~nasnet_zoo.training.device.choose_device`.
        record: Write the result into the metadata of the weight file.
        on_batch: Called after each batch with the number of images so far and the number of all images.

    Returns:
        JSON data: ``model``, ``dataset``, ``split``, ``top1``, ``top5``, ``count``, ``loss``,
        ``interval_95``, the 95 % confidence interval of top-1 (Wilson's), and ``left_out``, how many entries of a
        folder or an archive are not used, by reason.

    Raises:
        DataError: If the data set has other channels or classes than the model, or if the result cannot be recorded.
        ValueError: If there is no such device.
    """
    device = choose_device(device)
    if split not in ('train', 'test'):
        raise ValueError(f"split: must be 'train' or 'test', not {split!r}")
    keep_freed_memory()
    model = build(source, pretrained=True).to(device).eval()
    weights = _own_weights(source, model) if record else None
    parts = load_data(data, data_root, download=download, preprocessing=make_preprocessing(model))
    chosen = parts[('train', 'test').index(split)]
    _check_classes(source, model, chosen)
    seen = 0

    def count(images: int) -> None:
        nonlocal seen
        seen += images
        if on_batch:
            on_batch(seen, chosen.size())
    accuracy = evaluate(model, chosen, batch_size, device, count)
    folder = model_folder(source)
    name = folder.resolve().name if folder else source
    result = dict(model=name, dataset=data_name(data), split=split, **accuracy.to_dict(),
                  left_out=dict(chosen.left_out))
    if weights:
        record_accuracy(weights, result)
    return result


def _own_weights(source: str, model: NASNet) -> Path:
    """Return the local weight file of `model`. Raises DataError if there is none that can hold metadata."""
    weights = weight_file(source, model)
    if not weights or weights.suffix != '.safetensors':
        raise DataError(f'{source}: the result cannot be recorded, because the weights are not in a local safetensors '
                        'file')
    return weights


def _check_classes(source: str, model: NASNet, data: AnySet) -> None:
    """Raise a DataError if the data set has other classes than the model."""
    if model.num_classes != len(data.class_names):
        raise DataError(f'{source}: has {model.num_classes} classes, but {data.name} has {len(data.class_names)}')
    known = label_names(model)
    if known and known != list(data.class_names):
        raise DataError(f'{source}: its classes are {join_first(known, 3)}, but those of {data.name} are '
                        f'{join_first(data.class_names, 3)}')

"""Validation of a trained model on a data set."""
import os
from typing import Any, Callable, Dict, Optional, Sequence, Union

import torch
from timm.data import resolve_model_data_config

from ..data.datasets import AnySet, DataError, FileSet, data_name, load_data
from ..hub.folder import record_accuracy, weight_file
from ..zoo import build, label_names, model_folder
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
        device: Union[str, torch.device] = 'cpu',
        record: bool = False,
        on_batch: Optional[Callable[[int, int], None]] = None,
) -> Dict[str, Any]:
    """Accuracy of a trained model on a data set, images prepared as the model's configuration says.

    Args:
        source: A name of the zoo with weights, a model folder, ``local-dir:FOLDER`` or ``hf-hub:OWNER/NAME``.
        data: What ``load_data`` takes.
        split: 'test' or 'train'.
        data_root, download: See ``load_data``.
        batch_size: Images at a time.
        device: Where.
        record: Write the result into the weight file, whose accuracy it is from then on.
        on_batch: Called with the number of images seen and of all, after each batch.

    Returns:
        JSON data: ``model``, ``dataset``, ``split``, ``top1``, ``top5``, ``count`` and
        ``interval_95`` (Wilson's, of top1).

    Raises:
        DataError: For data that the model has not been made for.
    """
    if split not in ('train', 'test'):
        raise ValueError(f"split: must be 'train' or 'test', not {split!r}")
    keep_freed_memory()
    model = build(source, pretrained=True).to(device).eval()
    weights = None
    folder = model_folder(source)
    if record:
        weights = weight_file(source, model)
        if not weights or weights.suffix != '.safetensors':
            raise DataError(f'{source}: its weights are not in a safetensors file of yours, so nothing can be recorded')
    config = resolve_model_data_config(model)
    chosen = load_data(data, data_root, config['input_size'][2], download)[('train', 'test').index(split)]
    chosen = chosen._replace(mean=config['mean'], std=config['std'])
    if isinstance(chosen, FileSet):
        chosen = chosen._replace(
            input_size=config['input_size'], crop_pct=config['crop_pct'], interpolation=config['interpolation'])
    _check_fit(source, model, chosen, config['input_size'])
    seen = 0

    def count(images: int) -> None:
        nonlocal seen
        seen += images
        if on_batch:
            on_batch(seen, chosen.size())
    accuracy = evaluate(model, chosen, batch_size, device, count)
    name = folder.resolve().name if folder else source
    result = dict(model=name, dataset=data_name(data), split=split, **accuracy.to_dict())
    if weights:
        record_accuracy(weights, result)
    return result


def _check_fit(source: str, model: torch.nn.Module, data: AnySet, input_size: Sequence[int]) -> None:
    """Refuse data of other classes, channels or sizes than the model's."""
    if tuple(data.input_size) != tuple(input_size):
        raise DataError(f'{source}: takes images of {tuple(input_size)}, {data.name} has {tuple(data.input_size)}')
    if model.num_classes != len(data.class_names):
        raise DataError(f'{source}: has {model.num_classes} classes, {data.name} has {len(data.class_names)}')
    known = label_names(model)
    if known and known != list(data.class_names):
        raise DataError(f'{source}: its classes are {", ".join(known[:3])}, …, those of {data.name} '
                        f'{", ".join(data.class_names[:3])}, …')

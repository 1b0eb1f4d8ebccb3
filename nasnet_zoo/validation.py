"""How good a network is, with how far to trust the figure."""
import math
import os
from typing import Any, Callable, Dict, NamedTuple, Optional, Sequence, Tuple, Union

import torch
from timm.data import resolve_model_data_config

from .data import AnySet, DataError, FileSet, data_name, load_data
from .hub import record_accuracy, weight_file
from .training import keep_freed_memory
from .zoo import build, label_names, model_folder

__all__ = ['Accuracy', 'evaluate', 'validate']


class Accuracy(NamedTuple):
    """Shares of images classified rightly.

    Attributes:
        top1, top5: In [0, 1].
        count: Images.
    """
    top1: float
    top5: float
    count: int

    @property
    def interval(self) -> Tuple[float, float]:
        """The 95 % confidence interval of top1 (Wilson's), as far as the images are a sample of their kind."""
        z = 1.959964
        centre = (self.top1 + z * z / (2 * self.count)) / (1 + z * z / self.count)
        half = z / (1 + z * z / self.count) * math.sqrt(
            self.top1 * (1 - self.top1) / self.count + z * z / (4 * self.count ** 2))
        return max(0., centre - half), min(1., centre + half)

    def to_dict(self) -> Dict[str, Any]:
        """As JSON data."""
        return dict(top1=self.top1, top5=self.top5, interval_95=list(self.interval), count=self.count)


@torch.inference_mode()
def evaluate(
        model: torch.nn.Module,
        data: AnySet,
        batch_size: int = 256,
        device: Union[str, torch.device] = 'cpu',
        on_batch: Optional[Callable[[int], None]] = None,
) -> Accuracy:
    """Accuracy on all images of `data`, in evaluation mode; the model's mode is as before afterwards.

    Args:
        model: On `device`. With fewer than five classes top5 is over them all.
        on_batch: Called with the number of images after each batch.
    """
    if not data.size():
        raise ValueError(f'{data.name}: has no images')
    was_training = model.training
    model.eval()
    hits, count = torch.zeros(2, dtype=torch.long), 0
    for images, labels in data.batches(batch_size, device):
        best = model(images).topk(min(5, len(data.class_names)), dim=1).indices == labels[:, None]
        hits += torch.stack([best[:, 0].sum(), best.sum()]).cpu()
        count += len(labels)
        if on_batch:
            on_batch(len(labels))
    model.train(was_training)
    return Accuracy(hits[0].item() / count, hits[1].item() / count, count)


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

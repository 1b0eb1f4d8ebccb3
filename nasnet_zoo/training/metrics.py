"""Accuracy and loss of a network, with a confidence interval."""
import math
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Tuple, Union

import torch
import torch.nn.functional as F

from ..data.datasets import AnySet

__all__ = ['Accuracy', 'evaluate']


class Accuracy(NamedTuple):
    """Fractions of images that were classified correctly, and the loss.

    Attributes:
        top1: Fraction whose most likely class is the right one, in [0, 1].
        top5: Fraction whose right class is among the five most likely ones, in [0, 1].
        count: Number of images.
        loss: Mean cross-entropy.
        correct: For each image, whether its most likely class is the right one.
    """
    top1: float
    top5: float
    count: int
    loss: float
    correct: List[bool]

    @property
    def interval(self) -> Tuple[float, float]:
        """The 95 % confidence interval of `top1` (Wilson's), if the images are a random sample."""
        z = 1.959964
        centre = (self.top1 + z * z / (2 * self.count)) / (1 + z * z / self.count)
        half = z / (1 + z * z / self.count) * math.sqrt(
            self.top1 * (1 - self.top1) / self.count + z * z / (4 * self.count ** 2))
        return max(0., centre - half), min(1., centre + half)

    def to_dict(self) -> Dict[str, Any]:
        """Return it as JSON data, without what concerns single images."""
        return dict(top1=self.top1, top5=self.top5, interval_95=list(self.interval), count=self.count,
                    loss=self.loss)


@torch.inference_mode()
def evaluate(
        model: torch.nn.Module,
        data: AnySet,
        batch_size: int = 256,
        device: Union[str, torch.device] = 'cpu',
        on_batch: Optional[Callable[[int], None]] = None,
) -> Accuracy:
    """Measure the accuracy of a model on all images of a data set, in evaluation mode.

    Args:
        model: The network, on `device`. It is returned to training mode if it was in it.
        data: The images. With fewer than five classes, top-5 counts all of them.
        batch_size: Images in a batch.
        device: Where the model is.
        on_batch: Called after each batch with the number of its images.

    Raises:
        ValueError: If there are no images.
    """
    if not data.size():
        raise ValueError(f'{data.name}: has no images')
    was_training = model.training
    model.eval()
    correct: List[bool] = []
    top5 = losses = 0.
    for images, labels in data.batches(batch_size, device):
        logits = model(images)
        best = logits.topk(min(5, len(data.class_names)), dim=1).indices == labels[:, None]
        loss = F.cross_entropy(logits.float(), labels, reduction='sum')
        found = torch.cat([best[:, 0], best.sum()[None], loss[None]])
        *hits, hits5, batch_loss = found.tolist()  # one transfer, which waits for a GPU
        correct += map(bool, hits)
        top5, losses = top5 + hits5, losses + batch_loss
        if on_batch:
            on_batch(len(labels))
    model.train(was_training)
    count = len(correct)
    return Accuracy(sum(correct) / count, top5 / count, count, losses / count, correct)

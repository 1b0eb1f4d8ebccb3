"""Trained weights out: a network and images in memory to a network that classifies them."""
import math
from typing import Any, Callable, Dict, Optional

import torch
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler
from torch.nn import functional as F

from .data import ImageSet
from .network import NASNet

__all__ = ['train', 'evaluate']


def train(
        model: NASNet,
        data: ImageSet,
        epochs: int = 20,
        batch_size: int = 64,
        lr: float = 0.1,
        weight_decay: float = 5e-4,
        label_smoothing: float = 0.,
        shift: int = 1,
        clip_grad: float = 5.,
        seed: int = 0,
        on_step: Optional[Callable[[Dict[str, Any]], None]] = None,
) -> NASNet:
    """Train by the paper's recipe for small images: SGD with momentum 0.9, one cosine period, drop path by progress.

    Args:
        model: The network; it is trained in place and returned in evaluation mode.
        data: Images to train on.
        epochs: Passes over the images; the last incomplete batch of a pass is left out.
        batch_size: Images a step.
        lr: Highest learning rate, reached after the first epoch.
        weight_decay: L2 penalty, but for norms and biases.
        label_smoothing: Share of the target that is spread over all classes.
        shift: Pixels by which an image is shifted at most, each way, at random.
        clip_grad: Largest norm of the gradient.
        seed: Of the order and the shifts of images.
        on_step: Called after each step with ``epoch``, ``step``, ``steps`` (in all), ``loss`` and ``lr``.

    Raises:
        FloatingPointError: Where the loss is no number any more.
    """
    steps_per_epoch = len(data.images) // batch_size
    if not steps_per_epoch:
        raise ValueError(f'batch_size: {batch_size} is more than the {len(data.images)} images')
    steps = epochs * steps_per_epoch
    optimizer = create_optimizer_v2(model, opt='nesterov', lr=lr, weight_decay=weight_decay, momentum=0.9)
    schedule = CosineLRScheduler(
        optimizer, t_initial=steps, warmup_t=min(steps_per_epoch, steps - 1), warmup_lr_init=lr / 10,
        warmup_prefix=False, t_in_epochs=False)
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)  # drop path
    padded = F.pad(data.normalized(), [shift] * 4, mode='replicate') if shift else data.normalized()
    height, width = data.images.shape[-2:]

    model.train()
    step = 0
    for epoch in range(epochs):
        order = torch.randperm(len(data.images), generator=generator)
        for batch in order[:steps_per_epoch * batch_size].split(batch_size):
            top, left = torch.randint(2 * shift + 1, (2,), generator=generator).tolist()
            images = padded[batch, :, top:top + height, left:left + width]
            model.set_drop_path_progress(step / steps)
            schedule.step_update(step)
            output = model(images)
            logits, *auxiliary = output if isinstance(output, tuple) else (output,)
            loss = F.cross_entropy(logits, data.labels[batch], label_smoothing=label_smoothing)
            for aux in auxiliary:
                loss = loss + 0.4 * F.cross_entropy(aux, data.labels[batch], label_smoothing=label_smoothing)
            if not math.isfinite(loss.item()):
                raise FloatingPointError(f'the loss is {loss.item()} at step {step}; a lower lr than {lr} may help')
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), clip_grad)
            optimizer.step()
            step += 1
            if on_step:
                on_step(dict(epoch=epoch, step=step, steps=steps, loss=loss.item(), lr=optimizer.param_groups[0]['lr']))
    return model.eval()


@torch.inference_mode()
def evaluate(model: torch.nn.Module, data: ImageSet, batch_size: int = 256) -> float:
    """Top-1 accuracy in [0, 1] on all images; `model` should be in evaluation mode."""
    correct = sum(
        (model(images).argmax(1) == labels).sum().item()
        for images, labels in zip(data.normalized().split(batch_size), data.labels.split(batch_size)))
    return correct / len(data.labels)

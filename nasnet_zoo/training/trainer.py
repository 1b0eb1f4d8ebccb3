"""Training of a network, epoch by epoch, in memory. :mod:`nasnet_zoo.training.run` adds checkpoints and logs."""
import ctypes
import json
import math
import random
import sys
import time
from contextlib import nullcontext
from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple, Union

import numpy as np
import torch
from timm.data import Mixup
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.utils import ModelEmaV3
from torch import distributed, nn
from torch.nn import functional as F

from ..data.augment import augmented_batches
from ..data.datasets import AnySet, FileSet, ImageSet
from ..network.nasnet import NASNet
from .recipe import Recipe
from .sync_norm import synchronised

__all__ = ['OnStep', 'Trainer', 'keep_freed_memory', 'train']

OnStep = Optional[Callable[[Dict[str, Any]], None]]


class Trainer:
    """Trains a network, epoch by epoch.

    Everything random in an epoch depends only on ``recipe.seed`` and on the number of the epoch. So what :meth:`state`
    returns between two epochs is all that another process needs to arrive at the same weights.

    The model's ``pretrained_cfg`` is set to how the images of `data` were prepared, so that validation, export and
    classification prepare images in the same way.

    Under torchrun each process creates a trainer, and together they train one network on shared batches: gradients are
    averaged and batch statistics are those of the whole batch.

    Args:
        model: The network. It is trained in place.
        data: The training images.
        recipe: How to train.
        device: Where to train. The model is moved there.

    Attributes:
        epoch: Number of epochs that are finished.
        result: The network to keep: the moving average of the weights if the recipe has one.

    Raises:
        ValueError: If the recipe does not fit the images or the number of processes.
    """

    def __init__(
            self,
            model: NASNet,
            data: AnySet,
            recipe: Recipe,
            device: Union[str, torch.device] = 'cpu',
    ) -> None:
        self.recipe, self.device = recipe, torch.device(device)
        self.rank, self.world = 0, 1
        if distributed.is_available() and distributed.is_initialized():
            self.rank, self.world = distributed.get_rank(), distributed.get_world_size()
        _check_recipe(recipe, data, self.world)
        self.steps_per_epoch = data.size() // recipe.batch_size
        self.data = data.to(self.device)
        data.preprocessing.write_to(model)
        layout = torch.channels_last if recipe.channels_last else torch.contiguous_format
        self.model = model.to(self.device, memory_format=layout)
        wrapped = self.model
        if self.world > 1:
            wrapped = nn.parallel.DistributedDataParallel(synchronised(wrapped), broadcast_buffers=False)
        self._wrapped = torch.compile(wrapped) if recipe.compile else wrapped
        self.ema = ModelEmaV3(self.model, decay=recipe.ema, use_warmup=True) if recipe.ema else None
        try:
            self.optimizer = create_optimizer_v2(
                self.model, opt=recipe.opt, lr=recipe.lr, weight_decay=recipe.weight_decay, momentum=recipe.momentum,
                **({} if recipe.opt_eps is None else dict(eps=recipe.opt_eps)))
            json.dumps(self.optimizer.state_dict()['param_groups'])  # as a checkpoint stores it
        except (AssertionError, ImportError, RuntimeError, TypeError) as error:
            raise ValueError(f'opt: {recipe.opt} cannot be used here: {error}') from None
        self.scheduler, _ = create_scheduler_v2(
            self.optimizer, recipe.sched, num_epochs=recipe.epochs, step_on_epochs=False,
            updates_per_epoch=self.steps_per_epoch, warmup_lr=recipe.lr / 10,
            warmup_epochs=min(recipe.warmup_epochs, recipe.epochs / 5),
            **(dict(decay_epochs=recipe.decay_epochs, decay_rate=recipe.decay_rate) if recipe.sched == 'step' else {}))
        self.mixup = None
        if recipe.mixup or recipe.cutmix:
            self.mixup = Mixup(recipe.mixup, recipe.cutmix, label_smoothing=recipe.label_smoothing,
                               num_classes=model.num_classes)
        self.epoch = 0

    @property
    def result(self) -> NASNet:
        return self.ema.module if self.ema else self.model

    def _batches(self) -> Iterator[Tuple[torch.Tensor, torch.Tensor]]:
        """Seed the random number generators for this epoch and return this process's part of its batches."""
        recipe, seed = self.recipe, self.recipe.seed * 1_000_003 + self.epoch
        torch.manual_seed(seed * 1009 + self.rank)  # for drop path and dropout
        np.random.seed(seed % 2 ** 32)  # for timm's mixup; the same in all processes
        random.seed(seed * 1009 + self.rank)  # for timm's crops, if this process reads the images
        if isinstance(self.data, ImageSet):
            return augmented_batches(
                self.data, recipe.batch_size, seed, recipe.pad, recipe.pad_mode, recipe.flip, recipe.cutout,
                recipe.size_at(self.epoch), self.rank, self.world)
        loader = self.data.loader(
            recipe.batch_size // self.world, self.device, is_training=True, hflip=0.5 * recipe.flip, color_jitter=0.,
            distributed=self.world > 1)
        if self.world > 1:
            loader.sampler.set_epoch(self.epoch)
        return self.data.read(loader)

    def _loss(self, output: Any, labels: torch.Tensor) -> torch.Tensor:
        """Return the loss of the network's output: logits, or a tuple of logits and those of the auxiliary head."""
        logits, *auxiliary = output if isinstance(output, tuple) else (output,)
        smoothing = 0. if self.mixup else self.recipe.label_smoothing  # mixup smooths its labels itself
        loss = F.cross_entropy(logits.float(), labels, label_smoothing=smoothing)
        for aux in auxiliary:
            loss = loss + self.recipe.aux_weight * F.cross_entropy(aux.float(), labels, label_smoothing=smoothing)
        return loss

    def run_epoch(self, on_step: OnStep = None) -> Dict[str, float]:
        """Train for one epoch.

        Args:
            on_step: Called after each step, see :func:`train`.

        Returns:
            JSON data: ``epoch`` (its number, from 1), ``loss`` and ``accuracy`` (of the augmented training images),
            ``lr`` and ``images_per_second``.

        Raises:
            FloatingPointError: If the loss or the gradient is not finite.
        """
        self.model.train()
        begun, total_loss, correct, seen = time.perf_counter(), 0., 0, 0
        for i, (images, labels) in enumerate(self._batches()):
            if i == self.steps_per_epoch:  # timm's loader may yield an incomplete batch
                break
            step = self.epoch * self.steps_per_epoch + i
            loss, hits = self._step(step, images, labels)
            total_loss, correct, seen = total_loss + loss, correct + hits, seen + len(labels)
            if on_step:
                on_step(dict(
                    epoch=self.epoch + 1, step=step + 1, steps=self._steps, loss=loss, accuracy=correct / seen,
                    lr=self._lr, images_per_second=seen * self.world / (time.perf_counter() - begun)))
        self.epoch += 1
        if self.world > 1:
            sums = torch.tensor([total_loss, correct, seen], dtype=torch.float64, device=self.device)
            distributed.all_reduce(sums)
            total_loss, correct, seen = sums.tolist()
        return dict(
            epoch=self.epoch, loss=total_loss / self.steps_per_epoch / self.world, accuracy=correct / seen,
            lr=self._lr, images_per_second=seen / (time.perf_counter() - begun))

    @property
    def _steps(self) -> int:
        """The number of steps of the whole training."""
        return self.recipe.epochs * self.steps_per_epoch

    @property
    def _lr(self) -> float:
        """The learning rate of the last step."""
        return self.optimizer.param_groups[0]['lr']

    def _step(self, step: int, images: torch.Tensor, labels: torch.Tensor) -> Tuple[float, int]:
        """Train on a batch. Return the loss and the number of images that were classified correctly."""
        self.model.set_drop_path_progress(step / self._steps)
        self.scheduler.step_update(step)
        targets = labels
        if self.mixup:
            images, targets = self.mixup(images, labels)
        with torch.autocast(self.device.type, torch.bfloat16) if self.recipe.bf16 else nullcontext():
            output = self._forward(images)
            loss = self._loss(output, targets)
        value = loss.item()
        if not math.isfinite(value):
            raise FloatingPointError(
                f'the loss is {value} at step {step}; a lower lr than {self.recipe.lr} may help')
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if not nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip_grad).isfinite():
            raise FloatingPointError(
                f'the gradient is not finite at step {step}; a lower lr than {self.recipe.lr} may help')
        self.optimizer.step()
        if self.ema:
            self.ema.update(self.model, step=step)
        logits = output[0] if isinstance(output, tuple) else output
        return value, (logits.argmax(1) == labels).sum().item()

    def _forward(self, images: torch.Tensor) -> Any:
        try:
            return self._wrapped(images)
        except ValueError as error:  # PyTorch's batch norm refuses a single value
            if len(images) > 1 or 'more than 1 value per channel' not in str(error):
                raise
            raise ValueError('batch_size: a batch of one image leaves a batch norm with a single value for each '
                             'channel, which it cannot normalise; use batches of two or more images') from None

    def state(self) -> Tuple[Dict[str, torch.Tensor], Dict[str, Any]]:
        """Return what :meth:`load_state` needs: tensors by name, and the rest as JSON data."""
        tensors = {f'model.{name}': tensor for name, tensor in self.model.state_dict().items()}
        if self.ema:
            tensors.update((f'ema.{name}', tensor) for name, tensor in self.ema.module.state_dict().items())
        numbers: Dict[str, Any] = {}
        optimizer = self.optimizer.state_dict()
        for i, slots in optimizer['state'].items():
            for name, value in slots.items():
                if isinstance(value, torch.Tensor):
                    tensors[f'optimizer.{i}.{name}'] = value
                elif value is not None:
                    numbers[f'{i}.{name}'] = value
        groups: List[Dict[str, Any]] = []  # some optimisers count steps in their parameter groups
        for i, group in enumerate(optimizer['param_groups']):
            facts = {name: value for name, value in group.items() if name != 'params'}
            tensors.update((f'group.{i}.{name}', facts.pop(name)) for name in list(facts) if isinstance(
                facts[name], torch.Tensor))
            groups.append(facts)
        return tensors, dict(epoch=self.epoch, optimizer=numbers, groups=groups)

    def load_state(self, tensors: Dict[str, torch.Tensor], rest: Dict[str, Any]) -> None:
        """Continue from what :meth:`state` returned, in this process or in another."""
        def part(prefix: str) -> Dict[str, torch.Tensor]:
            return {name[len(prefix):]: tensor for name, tensor in tensors.items() if name.startswith(prefix)}
        self.model.load_state_dict(part('model.'))
        if self.ema:
            self.ema.module.load_state_dict(part('ema.'))
        slots: Dict[int, Dict[str, Any]] = {}
        for name, value in [*part('optimizer.').items(), *rest['optimizer'].items()]:
            index, slot = name.split('.', 1)
            slots.setdefault(int(index), {})[slot] = value
        groups = [{**group, **saved, **part(f'group.{i}.')} for i, (group, saved) in enumerate(zip(
            self.optimizer.state_dict()['param_groups'], rest['groups']))]
        self.optimizer.load_state_dict(dict(state=slots, param_groups=groups))
        self.epoch = rest['epoch']


def _check_recipe(recipe: Recipe, data: AnySet, world: int) -> None:
    """Raise a ValueError if a recipe does not fit the images or the number of processes."""
    if recipe.batch_size % world:
        raise ValueError(f'batch_size: {recipe.batch_size} cannot be divided evenly among {world} processes')
    if isinstance(data, FileSet) and (recipe.cutout or recipe.sizes):
        raise ValueError(f'cutout, sizes: can only be used with small images, but {data.name} has large ones')
    if (recipe.mixup or recipe.cutmix) and recipe.batch_size // world % 2:
        raise ValueError('batch_size: mixup and cutmix need an even number of images in each process, not '
                         f'{recipe.batch_size // world}')
    if recipe.batch_size > data.size():
        raise ValueError(f'batch_size: {recipe.batch_size} is more than the {data.size()} images')


def train(
        model: NASNet,
        data: AnySet,
        recipe: Optional[Recipe] = None,
        device: Union[str, torch.device] = 'cpu',
        on_step: OnStep = None,
) -> NASNet:
    """Train a network from beginning to end, in memory. ``nasnet-zoo train`` adds checkpoints and logs.

    Args:
        model: The network. It is trained in place, and its ``pretrained_cfg`` is set to how the images were prepared.
        data: The training images.
        recipe: How to train. The default is the paper's recipe for CIFAR.
        device: Where to train. The model is moved there.
        on_step: Called after each step with a dict of ``epoch`` (its number, from 1), ``step`` and ``steps`` (the
            number so far and the total, over all epochs), ``loss`` (of the step), ``accuracy`` (of the epoch so far),
            ``lr`` and ``images_per_second``.

    Returns:
        The network, or the moving average of its weights if the recipe has one, in evaluation mode.

    Raises:
        FloatingPointError: If the loss or the gradient is not finite.
    """
    trainer = Trainer(model, data, recipe or Recipe(), device)
    while trainer.epoch < trainer.recipe.epochs:
        trainer.run_epoch(on_step)
    return trainer.result.eval()


def keep_freed_memory() -> None:
    """Let the process keep freed memory: requesting it again from Linux takes a fifth of a small step."""
    if sys.platform == 'linux':
        mallopt = getattr(ctypes.CDLL(None), 'mallopt', lambda parameter, value: None)  # musl has none
        mallopt(-1, 2 ** 31 - 1)  # M_TRIM_THRESHOLD
        mallopt(-3, 2 ** 30)  # M_MMAP_THRESHOLD

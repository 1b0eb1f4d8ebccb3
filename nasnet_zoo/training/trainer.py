"""Trained weights out: a network and images to a network that classifies them."""
import ctypes
import math
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

__all__ = ['Trainer', 'train', 'keep_freed_memory']


class Trainer:
    """A network in training, epoch after epoch.

    Everything random in an epoch is a function of ``recipe.seed`` and of the epoch's number, so what
    :meth:`state` returns between two epochs is all that another process needs to go on to the same weights.

    Args:
        model: The network, trained in place.
        data: Images to train on.
        recipe: How.
        device: Where; the model is moved there.

    Under torchrun each process makes one, and they share each batch: gradients are averaged and batch statistics are
    those of the whole batch, so the result is one process's.
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
        if recipe.batch_size % self.world:
            raise ValueError(f'batch_size: {recipe.batch_size} cannot be shared by {self.world} processes')
        if isinstance(data, FileSet) and (recipe.cutout or recipe.sizes):
            raise ValueError(f'cutout, sizes: are for small images; those of {data.name} go through timm\'s loader')
        if (recipe.mixup or recipe.cutmix) and recipe.batch_size // self.world % 2:
            raise ValueError(f'batch_size: {recipe.batch_size} has no halves to mix')
        self.steps_per_epoch = data.size() // recipe.batch_size
        if not self.steps_per_epoch:
            raise ValueError(f'batch_size: {recipe.batch_size} is more than the {data.size()} images')
        self.data = data.to(self.device)
        layout = torch.channels_last if recipe.channels_last else torch.contiguous_format
        self.model = model.to(self.device, memory_format=layout)
        runs = self.model
        if self.world > 1:
            runs = nn.parallel.DistributedDataParallel(synchronised(runs), broadcast_buffers=False)
        self.runs = torch.compile(runs) if recipe.compile else runs
        self.ema = ModelEmaV3(self.model, decay=recipe.ema, use_warmup=True) if recipe.ema else None
        self.optimizer = create_optimizer_v2(
            self.model, opt=recipe.opt, lr=recipe.lr, weight_decay=recipe.weight_decay, momentum=recipe.momentum)
        self.scheduler, _ = create_scheduler_v2(
            self.optimizer, recipe.sched, num_epochs=recipe.epochs, step_on_epochs=False,
            updates_per_epoch=self.steps_per_epoch, warmup_lr=recipe.lr / 10,
            warmup_epochs=min(recipe.warmup_epochs, recipe.epochs / 5))
        self.mixup = None
        if recipe.mixup or recipe.cutmix:
            self.mixup = Mixup(recipe.mixup, recipe.cutmix, label_smoothing=recipe.label_smoothing,
                               num_classes=model.num_classes)
        self.epoch = 0

    @property
    def result(self) -> NASNet:
        """The network to keep: the moving average where there is one."""
        return self.ema.module if self.ema else self.model

    def _batches(self) -> Iterator[Tuple[torch.Tensor, torch.Tensor]]:
        recipe, seed = self.recipe, self.recipe.seed * 1_000_003 + self.epoch
        torch.manual_seed(seed * 1009 + self.rank)  # drop path, drop-out
        np.random.seed(seed % 2 ** 32)  # timm's mixup; the same in all processes
        if isinstance(self.data, ImageSet):
            return augmented_batches(
                self.data, recipe.batch_size, seed, recipe.pad, recipe.pad_mode, recipe.flip, recipe.cutout,
                recipe.size_at(self.epoch), self.rank, self.world)
        loader = self.data.loader(
            recipe.batch_size // self.world, self.device, is_training=True, hflip=0.5 * recipe.flip, color_jitter=0.,
            distributed=self.world > 1)
        if self.world > 1:
            loader.sampler.set_epoch(self.epoch)
        return iter(loader)

    def _loss(self, output: Any, labels: torch.Tensor) -> torch.Tensor:
        logits, *auxiliary = output if isinstance(output, tuple) else (output,)
        smoothing = 0. if self.mixup else self.recipe.label_smoothing  # mixed targets are smooth
        loss = F.cross_entropy(logits.float(), labels, label_smoothing=smoothing)
        for aux in auxiliary:
            loss = loss + self.recipe.aux_weight * F.cross_entropy(aux.float(), labels, label_smoothing=smoothing)
        return loss

    def run_epoch(self, on_step: Optional[Callable[[Dict[str, Any]], None]] = None) -> Dict[str, float]:
        """One pass over the images. Returns its ``epoch``, ``loss``, ``accuracy``, ``lr`` and ``images_per_second``.

        Raises:
            FloatingPointError: Where the loss is no number any more.
        """
        recipe, steps = self.recipe, self.recipe.epochs * self.steps_per_epoch
        precision = torch.autocast(self.device.type, torch.bfloat16) if recipe.bf16 else nullcontext()
        self.model.train()
        begun, total_loss, correct, seen = time.perf_counter(), 0., 0, 0
        for i, (images, labels) in enumerate(self._batches()):
            step = self.epoch * self.steps_per_epoch + i
            if i == self.steps_per_epoch:  # a loader may end a batch later
                break
            self.model.set_drop_path_progress(step / steps)
            self.scheduler.step_update(step)
            targets = labels
            if self.mixup:
                images, targets = self.mixup(images, labels)
            with precision:
                output = self.runs(images)
                loss = self._loss(output, targets)
            value = loss.item()
            if not math.isfinite(value):
                raise FloatingPointError(f'the loss is {value} at step {step}; a lower lr than {recipe.lr} may help')
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            if not nn.utils.clip_grad_norm_(self.model.parameters(), recipe.clip_grad).isfinite():
                raise FloatingPointError(
                    f'the gradient is infinite at step {step}; a lower lr than {recipe.lr} may help')
            self.optimizer.step()
            if self.ema:
                self.ema.update(self.model, step=step)
            logits = output[0] if isinstance(output, tuple) else output
            correct += (logits.argmax(1) == labels).sum().item()
            total_loss += value
            seen += len(labels)
            if on_step:
                on_step(dict(
                    epoch=self.epoch + 1, step=step + 1, steps=steps, loss=value, accuracy=correct / seen,
                    lr=self.optimizer.param_groups[0]['lr'],
                    images_per_second=seen * self.world / (time.perf_counter() - begun)))
        self.epoch += 1
        sums = torch.tensor([total_loss, correct, seen], dtype=torch.float64, device=self.device)
        if self.world > 1:
            distributed.all_reduce(sums)
        total_loss, correct, seen = sums.tolist()
        return dict(
            epoch=self.epoch, loss=total_loss / self.steps_per_epoch / self.world, accuracy=correct / seen,
            lr=self.optimizer.param_groups[0]['lr'], images_per_second=seen / (time.perf_counter() - begun))

    def state(self) -> Tuple[Dict[str, torch.Tensor], Dict[str, Any]]:
        """Tensors by name, and the rest as JSON data."""
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
        groups: List[Dict[str, Any]] = []  # some optimisers count steps in them
        for i, group in enumerate(optimizer['param_groups']):
            facts = {name: value for name, value in group.items() if name != 'params'}
            tensors.update((f'group.{i}.{name}', facts.pop(name)) for name in list(facts) if isinstance(
                facts[name], torch.Tensor))
            groups.append(facts)
        return tensors, dict(epoch=self.epoch, optimizer=numbers, groups=groups)

    def load_state(self, tensors: Dict[str, torch.Tensor], rest: Dict[str, Any]) -> None:
        """Go on from what :meth:`state` returned, in the same process or in another."""
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


def train(
        model: NASNet,
        data: AnySet,
        recipe: Optional[Recipe] = None,
        device: Union[str, torch.device] = 'cpu',
        on_step: Optional[Callable[[Dict[str, Any]], None]] = None,
) -> NASNet:
    """Train a network from beginning to end, in memory. `tools/train.py` does it with checkpoints and logs.

    Args:
        model: The network, trained in place.
        data: Images to train on.
        recipe: How; the paper's by default.
        device: Where.
        on_step: Called after each step with ``epoch``, ``step``, ``steps`` (in all), ``loss``, ``accuracy`` (of the
            epoch so far), ``lr`` and ``images_per_second``.

    Returns:
        The network, or its moving average, in evaluation mode.

    Raises:
        FloatingPointError: Where the loss is no number any more.
    """
    trainer = Trainer(model, data, recipe or Recipe(), device)
    while trainer.epoch < trainer.recipe.epochs:
        trainer.run_epoch(on_step)
    return trainer.result.eval()


def keep_freed_memory() -> None:
    """Have the process keep the memory of freed tensors; asking Linux for it again takes a fifth of a small step."""
    if sys.platform == 'linux':
        mallopt = getattr(ctypes.CDLL(None), 'mallopt', lambda parameter, value: None)  # musl has none
        mallopt(-1, 2 ** 31 - 1)  # M_TRIM_THRESHOLD
        mallopt(-3, 2 ** 30)  # M_MMAP_THRESHOLD

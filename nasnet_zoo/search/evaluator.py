"""Evaluation of a genotype: a small network with its cells is trained and validated."""
import copy
import statistics
import time
from pathlib import Path
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Protocol, Tuple, Union

import torch
from torch import nn
from torch.nn import functional as F

from ..checked import first_line
from ..data.datasets import SMALL, ImageSet, load_data
from ..description import describe
from ..files import json_sha256
from ..genotype.schema import Genotype
from ..network.nasnet import NASNet, compile_genotype
from ..network.skeleton import NUM_STAGES
from ..training.checkpoint import read_checkpoint, write_checkpoint
from ..training.trainer import Trainer
from .config import ChildSettings
from .errors import ChildError, Pruned, SearchError
from .match import MATCHES, matched_filters
from .protocols import REWARDS, Measured
from .pruning import ShouldPrune

__all__ = ['DataSource', 'Evaluation', 'Evaluator', 'ImageSource', 'load_small', 'make_evaluator', 'worker_device']


class Evaluation(NamedTuple):
    """What was measured on a trained child.

    Attributes:
        reward: What the sampler is told, higher for a better child; a row of
            :data:`~nasnet_zoo.search.protocols.REWARDS` computes it.
        accuracy: Top-1 accuracy on the held-out images, in [0, 1].
        params: Number of parameters.
        macs: Mult-adds of one image.
        seconds: Duration of training and validation.
        latency: Milliseconds for one image, if it was measured.
        cell_filters: Number of filters in the cells of the first stage.
        rewards: What the reward would be by each row of the table.
    """
    reward: float
    accuracy: float
    params: int
    macs: int
    seconds: float
    latency: Optional[float] = None
    cell_filters: Optional[int] = None
    rewards: Mapping[str, float] = {}


class Evaluator:
    """Trains the children of a search, all of them on the same images.

    Args:
        data: Small images, of which a part is held out. They are kept on the device.
        settings: How children are built and trained.
        device: Where they are trained.
    """

    def __init__(self, data: ImageSet, settings: ChildSettings, device: Union[str, torch.device] = 'cpu') -> None:
        self.settings, self.device = settings, torch.device(device)
        if settings.img_size is not None:
            data = data.resized(settings.img_size)
        train, val = data.split(settings.val_share, settings.val_seed)
        if settings.limit_train is not None:
            chosen = torch.randperm(train.size(), generator=torch.Generator().manual_seed(0))[:settings.limit_train]
            train = train._replace(images=train.images[chosen], labels=train.labels[chosen])
        self.train, self.val = train.to(self.device), val.to(self.device)
        self._widths: Dict[Tuple[str, float], int] = {}  # matched number of filters by architecture and target

    def with_seed(self, seed: int) -> 'Evaluator':
        """Return an evaluator that differs in the seed of the recipe only. Both share the images."""
        other = copy.copy(self)
        recipe = self.settings.recipe.model_copy(update=dict(seed=seed))
        other.settings = self.settings.model_copy(update=dict(recipe=recipe))
        return other

    def trainer(self, genotype: Genotype) -> Trainer:
        """Build a child, and the trainer that will train it.

        Raises:
            ValueError: If the cells cannot be compiled at this size, or the recipe does not suit the images.
        """
        return Trainer(self.build(genotype), self.train, self.settings.recipe, self.device)

    def build(self, genotype: Genotype) -> NASNet:
        """Build an untrained child, on the CPU.

        Raises:
            ValueError: If the cells cannot be compiled at this size.
        """
        network_args = self._network_args(genotype)
        torch.manual_seed(self.settings.recipe.seed)
        model = compile_genotype(genotype, **network_args)
        if self.settings.stages < NUM_STAGES:
            model.prune_intermediate_layers([self.settings.stages - 1])
            model.reset_classifier(network_args['num_classes'], 'avg')
        return model

    def __call__(
            self, genotype: Genotype, should_prune: Optional[ShouldPrune] = None, checkpoints: Optional[Path] = None,
    ) -> Evaluation:
        """Train a child and validate it.

        Args:
            genotype: The cells.
            should_prune: Called after each epoch but the last with the reward at that time; the training stops if it
                returns True.
            checkpoints: A folder in which a checkpoint is written after each epoch, and from which a training of the
                same child with the same settings continues. If the folder does not exist, none is written. A folder
                must not be used with other images.

        Raises:
            ChildError: If the child cannot be built, is too large, runs out of memory or time, diverges or is pruned.
            OSError: If a checkpoint cannot be written.
        """
        try:
            return self._evaluate(genotype, should_prune, checkpoints)
        except (ValueError, FloatingPointError) as error:
            raise ChildError(str(error)) from None
        except (RuntimeError, MemoryError) as error:
            if isinstance(error, (torch.OutOfMemoryError, MemoryError)) or 'allocate memory' in str(error):
                raise ChildError(f'out of memory: {first_line(error)}') from None
            raise

    def _evaluate(
            self, genotype: Genotype, should_prune: Optional[ShouldPrune], checkpoints: Optional[Path]) -> Evaluation:
        limit, started = self.settings.time_limit, time.perf_counter()
        filters, params, macs = self.checked_cost(genotype)
        checkpoint = checkpoints / self._checkpoint_name(genotype) if checkpoints and checkpoints.is_dir() else None
        trainer, train_losses, seconds = self._start(genotype, checkpoint)
        started -= seconds

        def follow(step: Dict[str, Any]) -> None:
            train_losses.append(step['loss'])
            if limit and time.perf_counter() - started > limit:
                raise ChildError(f'the training takes longer than {limit:g} s; it was stopped after step '
                                 f'{step["step"]} of {step["steps"]}')
        while trainer.epoch < trainer.recipe.epochs:
            trainer.run_epoch(follow)
            if checkpoint:
                seconds = time.perf_counter() - started
                write_checkpoint(checkpoint, trainer, train_losses=train_losses, seconds=seconds)
            if should_prune and trainer.epoch < trainer.recipe.epochs:
                rewards = self._rate(trainer.result, train_losses)
                if should_prune(trainer.epoch, rewards[self.settings.reward]):
                    raise Pruned(
                        f'pruned after epoch {trainer.epoch}, with an accuracy of {rewards["accuracy"]:.2%}')
        rewards = self._rate(trainer.result, train_losses)
        seconds = time.perf_counter() - started
        latency = self._measure_latency(trainer.result) if self.settings.latency else None
        return Evaluation(rewards[self.settings.reward], rewards['accuracy'], params, macs, seconds, latency, filters,
                          rewards)

    def _start(self, genotype: Genotype, checkpoint: Optional[Path]) -> Tuple[Trainer, List[float], float]:
        """Return the trainer of a child, and the training losses and the duration of the epochs that it has finished.

        A checkpoint that cannot be read is ignored.
        """
        if checkpoint and checkpoint.exists():
            trainer = self.trainer(genotype)
            try:
                before = read_checkpoint(checkpoint, trainer)
                return trainer, before['train_losses'], before['seconds']
            except (ValueError, KeyError):
                pass
        return self.trainer(genotype), [], 0.

    def _checkpoint_name(self, genotype: Genotype) -> str:
        """Return a file name that is another one for other cells or settings."""
        key = json_sha256([genotype.layout_digest, self.settings.model_dump(mode='json')])
        return f'{key[:32]}.safetensors'

    @torch.inference_mode()
    def _rate(self, model: nn.Module, train_losses: List[float]) -> Dict[str, float]:
        """Return all rewards of a child, by name, given the losses of its training steps."""
        model.eval()
        logits = torch.cat([model(images) for images, _ in self.val.batches(256, self.device)]).float()
        accuracy = (logits.argmax(1) == self.val.labels).sum().item() / self.val.size()
        loss = F.cross_entropy(logits, self.val.labels).item()
        measured = Measured(accuracy, loss, train_losses)
        return {name: reward.function(measured) for name, reward in REWARDS.items()}

    def costs(self, genotype: Genotype) -> Dict[str, Optional[float]]:
        """Return the cost of an untrained child by objective. The latency is None if it is not to be measured."""
        cost = describe(genotype, **self._network_args(genotype))
        latency = self._measure_latency(self.trainer(genotype).result) if self.settings.latency else None
        return dict(params=cost['params'], macs=cost['macs'], latency=latency)

    def _measure_latency(self, model: nn.Module) -> float:
        """Return the median milliseconds of twenty images, one at a time, after twenty to warm up."""
        image, times = self.val.normalized(self.val.images[:1]), []
        model.eval()
        with torch.inference_mode():
            for _ in range(40):
                started = time.perf_counter()
                model(image).argmax().item()  # item() waits for a GPU
                times.append(time.perf_counter() - started)
        return 1000 * statistics.median(times[20:])

    def _network_args(self, genotype: Genotype) -> Dict[str, Any]:
        """Return the arguments of ``compile_genotype`` for a child."""
        settings = self.settings
        channels, *size = self.train.input_size
        args = dict(
            settings.model_dump(include={
                'num_cells', 'cell_filters', 'stem', 'reductions', 'drop_path_rate', 'aux_head'}),
            in_chans=channels, num_classes=len(self.train.class_names), img_size=tuple(size))
        if settings.match is not None and settings.match_target is not None:
            key = genotype.architecture_digest, settings.match_target
            if key not in self._widths:  # a child's cost is checked before it is built
                self._widths[key] = matched_filters(
                    genotype, settings.match, settings.match_target, settings.match_below, **args)
            args['cell_filters'] = self._widths[key]
        return args

    def checked_cost(self, genotype: Genotype) -> Tuple[int, int, int]:
        """Return the width, the parameters and the mult-adds. Raise a ChildError if a cost is above its limit."""
        args = self._network_args(genotype)
        cost = describe(genotype, **args)
        for name, row in MATCHES.items():
            limit = getattr(self.settings, f'max_{name}')
            if limit is not None and cost[name] > limit:
                raise ChildError(f'the child has {cost[name]:,} {row.unit}, more than --max-{name} {limit:,}')
        return args['cell_filters'], cost['params'], cost['macs']


class ImageSource(Protocol):
    """Where a worker gets the training images. It is sent to the worker's process instead of the images."""

    def load(self) -> ImageSet:
        """Return the images."""


def load_small(
        source: str, root: Optional[Path] = None, img_size: Optional[int] = None, download: bool = False,
) -> Tuple[ImageSet, ImageSet]:
    """Load training and test images that fit into memory, see :func:`~nasnet_zoo.data.load_data`.

    Raises:
        SearchError: If they are too large.
    """
    train, test = load_data(source, root, img_size, download)
    if not (isinstance(train, ImageSet) and isinstance(test, ImageSet)):
        raise SearchError(f'{source}: has images of {max(train.input_size[1:])} pixels, and cells are trained on '
                          f'images of up to {SMALL} pixels here; have them resized with --img-size')
    return train, test


class DataSource(NamedTuple):
    """Images that each worker loads by itself.

    Attributes:
        source: What :func:`~nasnet_zoo.data.load_data` takes.
        root: The folder of torchvision's data sets.
        img_size: Height and width in pixels to which images are resized if they are large or of different sizes.
    """
    source: str
    root: Optional[Path] = None
    img_size: Optional[int] = None

    def load(self, download: bool = False) -> ImageSet:
        """Return the training images.

        Raises:
            SearchError: If they are too large.
        """
        try:
            return load_small(self.source, self.root, None, download)[0]
        except ValueError:  # these images are resized here; an Evaluator resizes those that have the same small size
            if self.img_size is None:
                raise
        return load_small(self.source, self.root, self.img_size, download)[0]


def make_evaluator(source: ImageSource, settings: ChildSettings) -> Evaluator:
    """Make the evaluator of a worker, on a GPU if the process has one."""
    return Evaluator(source.load(), settings, worker_device())


def worker_device() -> str:
    """Return the device on which this process trains: its GPU if it has one."""
    return 'cuda' if torch.cuda.is_available() else 'cpu'

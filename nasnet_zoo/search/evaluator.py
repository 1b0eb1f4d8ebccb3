"""Evaluation of a genotype: a small network with its cells is trained and validated."""
import statistics
import time
from pathlib import Path
from typing import Any, Dict, NamedTuple, Optional, Protocol, Tuple, Union

import torch
from torch import nn

from ..data.datasets import ImageSet, load_data
from ..description import describe
from ..genotype.schema import Genotype
from ..network.nasnet import compile_genotype
from ..training.metrics import evaluate
from ..training.trainer import Trainer
from .config import ChildSettings
from .errors import ChildError, Pruned, SearchError
from .pruning import ShouldPrune

__all__ = ['DataSource', 'Evaluation', 'Evaluator', 'ImageSource', 'make_evaluator']


class Evaluation(NamedTuple):
    """What was measured on a trained child.

    Attributes:
        accuracy: Top-1 accuracy on the held-out images, in [0, 1].
        params: Number of parameters.
        macs: Mult-adds of one image.
        seconds: Duration of training and validation.
        latency: Milliseconds for one image, if it was measured.
    """
    accuracy: float
    params: int
    macs: int
    seconds: float
    latency: Optional[float] = None


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
        train, val = data.split(settings.val_share)
        if settings.limit_train is not None:
            chosen = torch.randperm(train.size(), generator=torch.Generator().manual_seed(0))[:settings.limit_train]
            train = train._replace(images=train.images[chosen], labels=train.labels[chosen])
        self.train, self.val = train.to(self.device), val.to(self.device)

    def trainer(self, genotype: Genotype) -> Trainer:
        """Build a child, and the trainer that will train it.

        Raises:
            ValueError: If the cells cannot be compiled at this size, or the recipe does not suit the images.
        """
        torch.manual_seed(self.settings.recipe.seed)
        return Trainer(compile_genotype(genotype, **self._network_args), self.train, self.settings.recipe, self.device)

    def __call__(self, genotype: Genotype, should_prune: Optional[ShouldPrune] = None) -> Evaluation:
        """Train a child and validate it.

        Args:
            genotype: The cells.
            should_prune: Called after each epoch but the last; the training stops if it returns True.

        Raises:
            ChildError: If the child cannot be built, is too large, runs out of memory or time, diverges or is pruned.
        """
        try:
            return self._evaluate(genotype, should_prune)
        except (ValueError, FloatingPointError) as error:
            raise ChildError(str(error)) from None
        except (RuntimeError, MemoryError) as error:
            if isinstance(error, (torch.OutOfMemoryError, MemoryError)) or 'allocate memory' in str(error):
                raise ChildError(f'out of memory: {str(error).splitlines()[0] if str(error) else ""}') from None
            raise

    def _evaluate(self, genotype: Genotype, should_prune: Optional[ShouldPrune]) -> Evaluation:
        limit, started = self.settings.time_limit, time.perf_counter()

        def check_time(step: Dict[str, Any]) -> None:
            if limit and time.perf_counter() - started > limit:
                raise ChildError(f'the training takes longer than {limit:g} s; it was stopped after step '
                                 f'{step["step"]} of {step["steps"]}')
        params, macs = self.checked_cost(genotype)
        trainer = self.trainer(genotype)
        while trainer.epoch < trainer.recipe.epochs:
            trainer.run_epoch(check_time)
            if should_prune and trainer.epoch < trainer.recipe.epochs:
                accuracy = evaluate(trainer.result, self.val, device=self.device).top1
                if should_prune(trainer.epoch, accuracy):
                    raise Pruned(f'pruned after epoch {trainer.epoch}, with an accuracy of {accuracy:.2%}')
        accuracy = evaluate(trainer.result, self.val, device=self.device).top1
        seconds = time.perf_counter() - started
        latency = self._measure_latency(trainer.result) if self.settings.latency else None
        return Evaluation(accuracy, params, macs, seconds, latency)

    def costs(self, genotype: Genotype) -> Dict[str, Optional[float]]:
        """Return the cost of an untrained child by objective. The latency is None if it is not to be measured."""
        cost = describe(genotype, **self._network_args)
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

    @property
    def _network_args(self) -> Dict[str, Any]:
        """The arguments of ``compile_genotype``."""
        channels, *size = self.train.input_size
        return dict(
            self.settings.model_dump(include={'num_cells', 'cell_filters', 'drop_path_rate', 'aux_head'}), stem='cifar',
            in_chans=channels, num_classes=len(self.train.class_names), img_size=tuple(size))

    def checked_cost(self, genotype: Genotype) -> Tuple[int, int]:
        """Return parameters and mult-adds, and raise a ChildError if one of them is above its limit."""
        cost = describe(genotype, **self._network_args)
        for name in ('params', 'macs'):
            limit = getattr(self.settings, f'max_{name}')
            if limit is not None and cost[name] > limit:
                raise ChildError(f'has {cost[name]:,} {name}, more than --max-{name} {limit:,}')
        return cost['params'], cost['macs']


class ImageSource(Protocol):
    """Where a worker gets the training images. It is sent to the worker's process instead of the images."""

    def load(self) -> ImageSet:
        """Return the images."""


class DataSource(NamedTuple):
    """Images that each worker loads by itself.

    Attributes:
        source: What :func:`~nasnet_zoo.data.load_data` takes.
        root: The folder of torchvision's data sets.
    """
    source: str
    root: Optional[Path] = None

    def load(self, download: bool = False) -> ImageSet:
        """Return the training images.

        Raises:
            SearchError: If they are not small images.
        """
        train, _ = load_data(self.source, self.root, download=download)
        if not isinstance(train, ImageSet):
            raise SearchError(f'{self.source}: contains large images, but children are trained on small images only')
        return train


def make_evaluator(source: ImageSource, settings: ChildSettings) -> Evaluator:
    """Make the evaluator of a worker, on a GPU if the process has one."""
    return Evaluator(source.load(), settings, 'cuda' if torch.cuda.is_available() else 'cpu')

"""From a genotype to a reward: a small network of its cells is trained and validated."""
import statistics
import time
from typing import Annotated, Any, Callable, Dict, NamedTuple, Optional, Tuple, Union

import torch
from pydantic import Field
from torch import nn

from ..checked import Checked, check
from ..data.datasets import ImageSet
from ..description import describe
from ..genotype.schema import Genotype
from ..network.nasnet import compile_genotype
from ..training.metrics import evaluate
from ..training.recipe import CHILDREN, Recipe
from ..training.trainer import Trainer

__all__ = ['COSTS', 'Report', 'ChildSettings', 'ChildError', 'Pruned', 'Evaluation', 'Evaluator']

Report = Callable[[int, float], bool]  # from an epoch, from 1, and its accuracy to whether the child is given up

# field of an evaluation: what it is, for people, and in which unit
COSTS = {
    'params': ('parameters of a child, thousands', 1e3),
    'macs': ('mult-adds of a child, millions', 1e6),
    'latency': ('milliseconds an image', 1.),
}

_Limit = Annotated[Optional[int], Field(ge=1)]


class ChildError(RuntimeError):
    """A child that gives no accuracy, and why: a finding about the child and no fault of the search."""


class Pruned(ChildError):
    """A child that was given up early."""


class ChildSettings(Checked):
    """How a child is made and trained. The defaults are the paper's (appendix A.1): N = 2, 32 filters, 20 epochs of SGD
    with momentum and one cosine period, a tenth of the training images held out."""
    num_cells: Annotated[int, Field(ge=1, description="normal cells a stage, the paper's N")] = 2
    cell_filters: Annotated[int, Field(ge=1, description="filters F of the first stage's cells")] = 32
    drop_path_rate: Annotated[float, Field(ge=0, le=1)] = 0.
    aux_head: bool = False
    val_share: Annotated[float, Field(gt=0, lt=1, description='share of the training images held out')] = 0.1
    img_size: Annotated[Optional[int], Field(ge=4, description='resize the images to this side')] = None
    limit_train: Annotated[_Limit, Field(description='train on so many images')] = None
    max_params: Annotated[_Limit, Field(description='refuse a larger child before it is trained')] = None
    max_macs: Annotated[_Limit, Field(description='refuse a costlier child before it is trained')] = None
    latency: Annotated[bool, Field(description='measure what an image takes')] = False
    time_limit: Annotated[Optional[float], Field(gt=0, description='seconds of training a child')] = None
    recipe: Recipe = CHILDREN

    @classmethod
    def create(cls, recipe: Optional[Dict[str, Any]] = None, **fields: Any) -> 'ChildSettings':
        """Checked settings; `recipe` are fields of a recipe.

        Raises:
            TypeError, ValueError: As :func:`~nasnet_zoo.checked.check`.
        """
        return check(cls, dict(fields, recipe=check(Recipe, {**CHILDREN.model_dump(), **(recipe or {})})))


class Evaluation(NamedTuple):
    """What is known of a trained child.

    Attributes:
        accuracy: Top-1 on the images held out, in [0, 1].
        params, macs: Parameters, and mult-adds of one image.
        seconds: Of training and validation.
        latency: Milliseconds that one image takes, if it was asked for.
    """
    accuracy: float
    params: int
    macs: int
    seconds: float
    latency: Optional[float] = None


class Evaluator:
    """Trains children of one search, all on the same images.

    Args:
        data: Small images to train on and to hold a part out of. They live on the device, and so are shared by all
            children of this process.
        settings: How.
        device: Where.
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
        """A child about to be trained.

        Raises:
            ValueError: For cells that cannot be compiled at this size, and for a recipe that does not fit the images.
        """
        torch.manual_seed(self.settings.recipe.seed)
        return Trainer(compile_genotype(genotype, **self._args), self.train, self.settings.recipe, self.device)

    def __call__(self, genotype: Genotype, report: Optional[Report] = None) -> Evaluation:
        """Train a child and validate it.

        Args:
            report: Called after each epoch but the last with its number, from 1, and the accuracy; True gives the child
                up.

        Raises:
            ChildError: For a child that cannot be built, is too large, runs out of memory or time, diverges or is given
                up.
        """
        limit, begun = self.settings.time_limit, time.perf_counter()

        def in_time(step: Dict[str, Any]) -> None:
            if limit and time.perf_counter() - begun > limit:
                raise ChildError(f'takes longer than {limit:g} s; it had {step["step"]} of {step["steps"]} steps')
        try:
            params, macs = self._cost(genotype)
            trainer = self.trainer(genotype)
            while trainer.epoch < trainer.recipe.epochs:
                trainer.run_epoch(in_time)
                if report and trainer.epoch < trainer.recipe.epochs:
                    accuracy = evaluate(trainer.result, self.val, device=self.device).top1
                    if report(trainer.epoch, accuracy):
                        raise Pruned(f'given up after epoch {trainer.epoch}, at {accuracy:.2%}')
            accuracy = evaluate(trainer.result, self.val, device=self.device).top1
            seconds = time.perf_counter() - begun
            latency = self._latency(trainer.result) if self.settings.latency else None
            return Evaluation(accuracy, params, macs, seconds, latency)
        except (ValueError, FloatingPointError) as error:
            raise ChildError(str(error)) from None
        except (RuntimeError, MemoryError) as error:
            if isinstance(error, (torch.OutOfMemoryError, MemoryError)) or 'allocate memory' in str(error):
                raise ChildError(f'out of memory: {str(error).splitlines()[0] if str(error) else ""}') from None
            raise

    def costs(self, genotype: Genotype) -> Dict[str, float]:
        """What a child costs, by the names of an evaluation: parameters, mult-adds and, if it is asked for, latency."""
        cost = describe(genotype, **self._args)
        latency = self._latency(self.trainer(genotype).result) if self.settings.latency else None
        return dict(params=cost['params'], macs=cost['macs'], latency=latency)

    def _latency(self, model: nn.Module) -> float:
        """Median of twenty images one by one, after as many to warm up; what else the machine does shows in it."""
        image, times = self.val.normalized(self.val.images[:1]), []
        model.eval()
        with torch.inference_mode():
            for _ in range(40):
                begun = time.perf_counter()
                model(image).argmax().item()  # waits for a GPU
                times.append(time.perf_counter() - begun)
        return 1000 * statistics.median(times[20:])

    @property
    def _args(self) -> Dict[str, Any]:
        """The networks' arguments."""
        channels, *size = self.train.input_size
        return dict(
            self.settings.model_dump(include={'num_cells', 'cell_filters', 'drop_path_rate', 'aux_head'}), stem='cifar',
            in_chans=channels, num_classes=len(self.train.class_names), img_size=tuple(size))

    def _cost(self, genotype: Genotype) -> Tuple[int, int]:
        """Parameters and mult-adds, if there are not too many."""
        cost = describe(genotype, **self._args)
        for name in ('params', 'macs'):
            limit = getattr(self.settings, f'max_{name}')
            if limit is not None and cost[name] > limit:
                raise ChildError(f'has {cost[name]:,} {name}, more than {limit:,}')
        return cost['params'], cost['macs']

"""How long a training takes, from a few of its steps."""
import statistics
import time
from typing import Any, Dict, List, Tuple

from ..genotype.schema import Genotype
from ..training.metrics import evaluate
from ..training.trainer import Trainer
from .evaluator import Evaluator

__all__ = ['child_seconds', 'step_seconds']

MAX_STEPS = 6  # steps that are timed, the first one not counted
MAX_SECONDS = 2.  # no further step is timed after so long
VAL_IMAGES = 256  # held-out images on which the validation is timed


class _Enough(Exception):
    """Ends an epoch after its first steps."""


def step_seconds(trainer: Trainer) -> Tuple[float, float]:
    """Return how long the first training step takes, and the median of a few others, in seconds.

    Args:
        trainer: A new trainer. It cannot be used afterwards, because its first epoch is not finished.
    """
    started = time.perf_counter()
    times: List[float] = [started]

    def note(step: Dict[str, Any]) -> None:
        times.append(time.perf_counter())
        if len(times) - 2 >= MAX_STEPS or times[-1] - started > MAX_SECONDS:
            raise _Enough
    try:
        trainer.run_epoch(note)
    except _Enough:
        pass
    first, *others = [after - before for before, after in zip(times, times[1:])]
    return first, statistics.median(others or [first])


def child_seconds(evaluator: Evaluator, genotype: Genotype) -> float:
    """Return how many seconds it will take to train and validate a child.

    It is computed from the time that the first steps take, and validating on some of the held-out images.

    Args:
        evaluator: Its settings say how the child is trained.
        genotype: The cells of the child.

    Raises:
        ChildError: If the child has too many parameters or mult-adds.
        ValueError: If it cannot be built.
    """
    evaluator.checked_cost(genotype)
    started = time.perf_counter()
    trainer = evaluator.trainer(genotype)
    preparation = time.perf_counter() - started
    first, other = step_seconds(trainer)
    part = evaluator.val._replace(images=evaluator.val.images[:VAL_IMAGES], labels=evaluator.val.labels[:VAL_IMAGES])
    validated = time.perf_counter()
    evaluate(trainer.result, part, device=evaluator.device)
    validation = (time.perf_counter() - validated) * evaluator.val.size() / part.size()
    seconds = preparation + first + other * (trainer.steps_per_epoch * trainer.recipe.epochs - 1) + validation
    return min(seconds, evaluator.settings.time_limit or seconds)

"""How long a search will take, from a few steps of some children at first, and then from those that have finished."""
import random
import statistics
from typing import Annotated, Callable, List, Optional, Sequence

from pydantic import Field

from ..checked import Checked
from .errors import ChildError
from .pool import WorkerPool, completed
from .space import Space

__all__ = ['Forecast', 'measure_children', 'show_duration']

MEASURED = 3  # number of children of which a few steps are measured; as many as there are workers, if these are more
MAX_MEASURED = 16
RECENT = 30  # number of finished children from whose mean duration that of the next ones is predicted

_Count = Annotated[int, Field(ge=1)]


class Forecast(Checked):
    """What the duration of a search is computed from. It is a part of ``search.json``.

    Attributes:
        trials: Number of children that are wanted.
        workers: Number of children that are trained at the same time.
        child_seconds: How long a child takes, from a few of its steps; None if they could not be measured.
        epochs: Number of epochs of a child.
        finals: Number of training runs at the end, in which the best children are trained again.
        final_epochs: Number of epochs of such a run.
    """
    trials: _Count
    workers: _Count
    child_seconds: Annotated[Optional[float], Field(gt=0)]
    epochs: _Count
    finals: _Count
    final_epochs: _Count

    def seconds_left(
            self, done: int, durations: Sequence[float], finals_left: Optional[int] = None) -> Optional[float]:
        """Return how many seconds the search will still take; None if nothing is known yet.

        Args:
            done: Number of children that were trained or failed.
            durations: Seconds that children took, in the order in which they finished.
            finals_left: Number of runs at the end that are still to come. The default is all of them.
        """
        child = self._next_child(durations)
        if child is None:
            return None
        return child * max(0, self.trials - done) / self.workers + self._final_seconds(child, finals_left)

    def finals_left(self, done: int, trained: int) -> int:
        """Return how many training runs at the end are still to come.

        Args:
            done: Number of children that were trained or failed.
            trained: Number of these runs that have finished. As long as children are wanted, they are those of an
                earlier end of the search.
        """
        return self.finals if done < self.trials else max(0, self.finals - trained)

    def describe(self, done: int, durations: Sequence[float], finals_left: Optional[int] = None) -> str:
        """Return a line such as 'about 3 h 20 min: 150 children at 75 s with 2 workers,
        then 3 final training runs of 60 epochs (8 min)'.

        The arguments are those of :meth:`seconds_left`.
        """
        child, left = self._next_child(durations), self.seconds_left(done, durations, finals_left)
        if child is None or left is None:
            return 'how long the search takes will be known when a child has finished'
        again = self.finals if finals_left is None else finals_left
        stages = []
        if done < self.trials:
            stages.append(f'{self.trials - done} {"more " if done else ""}children at {show_duration(child)} with '
                          f'{self.workers} worker{"" if self.workers == 1 else "s"}')
        if again:
            stages.append(f'{again} final training run{"" if again == 1 else "s"} of {self.final_epochs} epochs '
                          f'({show_duration(self._final_seconds(child, finals_left))})')
        return f'about {show_duration(left)}: {", then ".join(stages)}'

    def _next_child(self, durations: Sequence[float]) -> Optional[float]:
        measured = [] if self.child_seconds is None else [self.child_seconds] * MEASURED
        known = [*measured, *durations][-RECENT:]
        return statistics.mean(known) if known else None

    def _final_seconds(self, child: float, finals_left: Optional[int]) -> float:
        finals = self.finals if finals_left is None else finals_left
        return child * self.final_epochs / self.epochs * -(-finals // self.workers)  # rounded up


def measure_children(pool: WorkerPool, space: Space, log: Callable[[str], None]) -> Optional[float]:
    """Let all workers measure a few steps of random children, at the same time.

    Args:
        pool: The workers.
        space: Where the children are drawn from.
        log: Called with the reason if none of them could be trained.

    Returns:
        The mean duration of a child in seconds. None if none of them could be trained.
    """
    rng, count = random.Random(0), min(max(MEASURED, pool.size), MAX_MEASURED)
    todo = [space.genotype([rng.randrange(size) for size in space.sizes]) for _ in range(count)]
    seconds: List[float] = []
    reason = ''
    for _, future in completed(pool.estimate, pool.size, todo):
        try:
            seconds.append(pool.result(future))
        except ChildError as error:  # it counts as failed in the search, too
            reason = str(error)
    if not seconds:
        log(f'none of {count} random children could be trained; the last one failed because: {reason}')
        return None
    return statistics.mean(seconds)


def show_duration(seconds: float) -> str:
    """Return a duration in units that suit it, such as '0.5 s', '75 s', '20 min', '3 h 20 min' or '2 d 5 h'."""
    if round(seconds) < 120:
        return f'{seconds:.2g} s' if seconds < 10 else f'{seconds:.0f} s'
    minutes, hours = round(seconds / 60), round(seconds / 3600)
    if minutes < 60:
        return f'{minutes} min'
    return f'{minutes // 60} h {minutes % 60} min' if hours < 48 else f'{hours // 24} d {hours % 24} h'

"""Second objectives, which a search minimises while it maximises the accuracy."""
from typing import Dict, NamedTuple, Optional, Sequence

__all__ = ['OBJECTIVES', 'Objective', 'combined_reward']

COST_EXPONENT = -0.07


class Objective(NamedTuple):
    """A second objective, which is minimised. Its name is that of a field of an evaluation.

    Attributes:
        description: One line for help texts.
        label: The label of the axis in plots, with the unit.
        unit: The number by which values are divided in plots.
    """
    description: str
    label: str
    unit: float


OBJECTIVES: Dict[str, Objective] = {
    'params': Objective('number of parameters', 'parameters, thousands', 1e3),
    'macs': Objective('number of mult-adds for one image', 'mult-adds, millions', 1e6),
    'latency': Objective('milliseconds for one image, measured after training', 'milliseconds per image', 1.),
}


def combined_reward(values: Sequence[float], target: Optional[float]) -> float:
    """Return the single number by which children are compared, from the values of a trial.

    Args:
        values: What the child was rated by, such as its accuracy, and its cost if the search has a second objective.
        target: The cost that changes nothing; needed if there is a cost.

    Returns:
        The first value or, if there is a cost, ``accuracy * (cost / target) ** -0.07``, as in MnasNet
        (arXiv:1807.11626, equation 2): a child of twice the cost is as good if its accuracy is 5 % higher in relative
        terms.

    Raises:
        ValueError: If there is a cost but no target.
    """
    rated, *cost = values
    if not cost:
        return rated
    if target is None:
        raise ValueError('target: is needed for a search with a second objective')
    return rated * (cost[0] / target) ** COST_EXPONENT

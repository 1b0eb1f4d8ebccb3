"""Second objectives, which a search minimises while it maximises the accuracy."""
from typing import Dict, NamedTuple

__all__ = ['OBJECTIVES', 'Objective', 'reward']

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


def reward(accuracy: float, cost: float, target: float) -> float:
    """Combine accuracy and cost into one number, as MnasNet does (arXiv:1807.11626, equation 2).

    The reward is ``accuracy * (cost / target) ** -0.07``: a child of twice the cost has the same reward if its accuracy
    is 5 % higher in relative terms.
    """
    return accuracy * (cost / target) ** COST_EXPONENT

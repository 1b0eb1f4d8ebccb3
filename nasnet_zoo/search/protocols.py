"""How a child is built, trained and rated: the table of rewards, and the table of protocols, as data.

A protocol gives values to fields of :class:`~nasnet_zoo.search.config.ChildSettings`. Values that the user
gives take precedence, and fields that neither gives have the values of the paper.
"""
import math
import statistics
from typing import Any, Callable, Dict, Mapping, NamedTuple, Sequence

from pydantic import BaseModel

__all__ = ['PROTOCOLS', 'REWARDS', 'Measured', 'Protocol', 'Reward', 'default_protocol', 'merge_settings']


class Measured(NamedTuple):
    """What is known of a trained child.

    Attributes:
        accuracy: Top-1 accuracy on the held-out images.
        loss: Mean cross-entropy on the held-out images.
        train_losses: The loss of each training step.
    """
    accuracy: float
    loss: float
    train_losses: Sequence[float]


class Reward(NamedTuple):
    """A row of the table of rewards.

    Attributes:
        description: One line for help texts.
        function: Computes the reward, a positive number that is higher for a better child. A loss becomes exp(-loss),
            the geometric mean of the probabilities that the child gives to the right classes.
    """
    description: str
    function: Callable[[Measured], float]


def _last_losses(child: Measured) -> Sequence[float]:
    """Return the losses of the last fifth of the training steps."""
    return child.train_losses[-math.ceil(len(child.train_losses) / 5):]


REWARDS: Dict[str, Reward] = {
    'accuracy': Reward('accuracy on held-out images', lambda child: child.accuracy),
    'val_loss': Reward('exp(-loss) on held-out images', lambda child: math.exp(-child.loss)),
    'train_loss': Reward('exp(-loss) in the last fifth of the training steps',
                         lambda child: math.exp(-statistics.fmean(_last_losses(child)))),
    'train_losses': Reward('exp(-loss) in all training steps, which prefers children that learn fast',
                           lambda child: math.exp(-statistics.fmean(child.train_losses))),
}


class Protocol(NamedTuple):
    """A row of the table of protocols.

    Attributes:
        description: One line for help texts.
        child: Fields of ChildSettings and their values, as JSON data.
    """
    description: str
    child: Dict[str, Any]

    def settings(self, side: int, images: int) -> Dict[str, Any]:
        """Return fields of ChildSettings for a data set. Small images are not enlarged, and a child sees the images of
        a small data set more often, so that it sees as many as planned, in batches of at most all of them.

        Args:
            side: Height and width of the images.
            images: Number of training images.
        """
        child = dict(self.child)
        if child.get('img_size', 0) >= side:
            del child['img_size']
        if images < child.get('limit_train', 0):
            epochs = round(child['limit_train'] * child['recipe']['epochs'] / images)
            child['recipe'] = dict(
                child['recipe'], epochs=epochs, batch_size=min(child['recipe']['batch_size'], images))
        return child


PROTOCOLS: Dict[str, Protocol] = {
    'quick': Protocol('under a minute on one CPU core: an epoch of small images, rated by the loss', dict(
        num_cells=1, cell_filters=8, img_size=16, limit_train=22528, reward='val_loss',
        recipe=dict(epochs=1, batch_size=128, opt='nmuon', lr=0.03, momentum=0.95, weight_decay=0.02, warmup_epochs=0.1,
                    pad=2, pad_mode='edge'))),
    'paper': Protocol('the training of the paper: 20 epochs of all images, rated by the accuracy', {}),
}


def default_protocol(on_gpu: bool) -> str:
    """Return the name of the protocol that suits the device on which children are trained."""
    return 'paper' if on_gpu else 'quick'


def merge_settings(defaults: Mapping[str, Any], given: Mapping[str, Any]) -> Dict[str, Any]:
    """Return the defaults, replaced by the settings that are given. Nested settings are merged one by one.

    Args:
        defaults: Settings as JSON data.
        given: Settings as JSON data, or with models in it. Of a model, the fields that were passed to it count.
    """
    merged = dict(defaults)
    for name, value in given.items():
        if isinstance(value, BaseModel) and name in defaults:
            value = {field: getattr(value, field) for field in value.model_fields_set}
        both = isinstance(value, Mapping) and isinstance(defaults.get(name), Mapping)
        merged[name] = merge_settings(defaults[name], value) if both else value
    return merged

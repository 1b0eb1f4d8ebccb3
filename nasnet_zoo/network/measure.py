"""What the modules of a network take and return, which its attributes do not say after modules were replaced."""
from contextlib import contextmanager
from typing import Any, Iterator

import torch
from timm.layers import get_device_dtype
from torch import nn

from .nasnet import NASNet

__all__ = ['check_counts', 'evaluating', 'input_channels', 'output_width']


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a network into evaluation mode, without gradients, and each of its modules back into its own mode."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training


def input_channels(model: NASNet) -> int:
    """Return the number of channels that the stem's convolution takes; if it is no convolution, what the model says."""
    conv: Any = model.get_submodule(model.skeleton.stem_row.first_conv)
    return getattr(conv, 'in_channels', model.in_chans)


def output_width(model: NASNet) -> int:
    """Return the number of outputs for an image: that of the classes, or of the features if there is no classifier."""
    features = torch.zeros(1, model.num_features, *model.skeleton.feature_size(), **get_device_dtype(model))
    with evaluating(model.head):
        return model.forward_head(features).shape[1]


def check_counts(model: NASNet) -> int:
    """Check that the attributes ``in_chans`` and ``num_classes`` are true of the network's modules.

    Returns:
        What :func:`output_width` returns.

    Raises:
        ValueError: If not. It says what to call.
    """
    channels, width = input_channels(model), output_width(model)
    if channels != model.in_chans:
        raise ValueError(
            f'model: its stem takes {channels} channels, but model.in_chans is {model.in_chans}; instead of replacing '
            f'the convolution, create the model with in_chans={channels}, which adapts pretrained weights too')
    if width != (model.num_classes or model.head_hidden_size):
        classes = 0 if isinstance(model.get_classifier(), nn.Identity) else width
        raise ValueError(
            f'model: its head returns {width} values, but model.num_classes is {model.num_classes}; instead of '
            f'replacing the classifier, call model.reset_classifier({classes})' + (
                ', and then load trained weights into model.head.fc' if classes else ''))
    return width

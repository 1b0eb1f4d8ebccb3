"""The rule by which training and validation choose a device."""
import os
from typing import Union

import torch

__all__ = ['choose_device']


def choose_device(name: Union[str, torch.device] = 'auto') -> torch.device:
    """Return the device of a name.

    Args:
        name: A name of PyTorch's, such as ``cpu`` or ``cuda:1``; under torchrun, ``cuda`` is the GPU of this process.
            ``auto`` is ``cuda`` if there is a CUDA GPU, otherwise ``mps`` on a Mac with a GPU, and otherwise ``cpu``.

    Raises:
        ValueError: If there is no such device.
    """
    if name == 'auto':
        name = 'cuda' if torch.cuda.is_available() else 'mps' if torch.backends.mps.is_available() else 'cpu'
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f'device: there is no {name!r}; use auto, cpu, mps, cuda or, for example, cuda:1') from None
    if device.type == 'cuda':
        device = torch.device('cuda', int(os.environ.get('LOCAL_RANK', 0)) if device.index is None else device.index)
        if device.index >= torch.cuda.device_count():
            raise ValueError(f'device: {device} does not exist; PyTorch finds {torch.cuda.device_count()} GPUs')
    if device.type == 'mps' and not torch.backends.mps.is_available():
        raise ValueError('device: PyTorch finds no GPU of a Mac (mps)')
    return device

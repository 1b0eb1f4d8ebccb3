"""Reads PyTorch's checkpoints. Only tensors and plain containers are unpickled, so no code from the file can run."""
from pathlib import Path
from typing import Any

import torch

__all__ = ['read_pickle']


def read_pickle(path: Path) -> Any:
    """Read what ``torch.save`` wrote, in either of its file formats."""
    return torch.load(path, map_location='cpu', weights_only=True)

"""Reads safetensors files."""
from pathlib import Path
from typing import Dict

import torch
from safetensors.torch import load_file

__all__ = ['read_safetensors']


def read_safetensors(path: Path) -> Dict[str, torch.Tensor]:
    """Read all tensors of a safetensors file."""
    return load_file(path)

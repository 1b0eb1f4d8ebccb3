"""Checkpoints: files from which an interrupted training continues."""
import json
from pathlib import Path
from typing import Any, Dict, Protocol, Tuple

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from ..files import atomic_write, read_safetensors

__all__ = ['HasState', 'read_checkpoint', 'write_checkpoint']


class HasState(Protocol):
    """A trainer, such as :class:`~nasnet_zoo.training.trainer.Trainer`."""

    def state(self) -> Tuple[Dict[str, torch.Tensor], Dict[str, Any]]:
        """Return what :meth:`load_state` needs: tensors by name, and the rest as JSON data."""

    def load_state(self, tensors: Dict[str, torch.Tensor], rest: Dict[str, Any]) -> None:
        """Continue from what :meth:`state` returned."""


def write_checkpoint(path: Path, trainer: HasState, **facts: Any) -> None:
    """Write the state of a trainer, and facts about the run as JSON data. The file is replaced in one step.

    Raises:
        OSError: If it cannot be written.
    """
    tensors, rest = trainer.state()
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    metadata = {name: json.dumps(value) for name, value in dict(facts, state=rest).items()}
    try:
        with atomic_write(path) as part:
            save_file(tensors, part, metadata=metadata)
    except SafetensorError as error:
        raise OSError(f'{path}: {error}') from None


def read_checkpoint(path: Path, trainer: HasState) -> Dict[str, Any]:
    """Let a trainer continue from a checkpoint. Return the facts about the run.

    Raises:
        ValueError: If the file is damaged, or does not fit the network or the optimiser. Whether it is of the same
            recipe is for the caller to check.
    """
    try:
        tensors, metadata = read_safetensors(path)
        facts = {name: json.loads(text) for name, text in metadata.items()}
        trainer.load_state(tensors, facts.pop('state'))
    except torch.OutOfMemoryError:
        raise
    except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f'{path}: the run cannot be resumed from this file: {error}') from None
    return facts

"""The modules of the combines that ``genotype/operations.py`` lists (arXiv:1707.07012, section 3.1)."""
import torch
from torch import fx, nn

from .cpu_autograd import concatenate
from .ops import LayerArgs

__all__ = ['Add', 'Concat', 'ExampleNorm']


@fx.wrap
def group_norm(x: torch.Tensor, num_groups: int, weight: torch.Tensor, bias: torch.Tensor, eps: float) -> torch.Tensor:
    """``F.group_norm`` that only scales and shifts where a group is a single number, which cannot be normalised.

    Tracers of ``torch.fx`` record it as a call, because it depends on the size of the input.
    """
    if x.shape[1] // num_groups * x.shape[2] * x.shape[3] == 1:
        return x * weight[:, None, None] + bias[:, None, None]
    return torch.group_norm(x, num_groups, weight, bias, eps)


class ExampleNorm(nn.GroupNorm):
    """Layer norm over C, H, W (one group) or instance norm over H, W (one group per channel), for each example.

    Scale and shift are per channel. A group of a single number is only scaled and shifted.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return group_norm(x, self.num_groups, self.weight, self.bias, self.eps)


class Add(nn.Module):
    """The normalised sum of two tensors of the same shape."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        return self.norm(left + right)


class Concat(nn.Module):
    """Two tensors concatenated in depth, the left one first."""

    def forward(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        return concatenate([left, right], self.training)


def add(channels: int, args: LayerArgs) -> nn.Module:
    """The sum."""
    return Add(nn.Identity())


def concat(channels: int, args: LayerArgs) -> nn.Module:
    """The concatenation in depth."""
    return Concat()


def add_layer_norm(channels: int, args: LayerArgs) -> nn.Module:
    """The sum with layer norm over C, H, W."""
    return Add(ExampleNorm(1, channels, **args.dd))


def add_instance_norm(channels: int, args: LayerArgs) -> nn.Module:
    """The sum with instance norm over H, W."""
    return Add(ExampleNorm(channels, channels, **args.dd))

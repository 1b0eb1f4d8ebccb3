"""The auxiliary classifier that helps a deep network train."""
from typing import Tuple

import torch
from timm.layers import ClassifierHead
from torch import nn
from torch.nn import functional as F

from .ops import LayerArgs

__all__ = ['AuxHead']


class AuxHead(nn.Module):
    """The paper's auxiliary classifier, in Google's form, at any input size.

    Google pools the map of the published input size (14x14 at 224) and convolves all that remains. For other sizes the
    map is first pooled to that one.
    """

    def __init__(self, in_chs: int, map_size: Tuple[int, int], num_classes: int, args: LayerArgs) -> None:
        super().__init__()
        map_size = tuple(max(5, side) for side in map_size)
        self.resize = nn.AdaptiveAvgPool2d(map_size)  # does nothing to a map of this size
        self.pool = nn.AvgPool2d(5, 3)
        self.conv1 = nn.Conv2d(in_chs, 128, 1, bias=False, **args.dd)
        self.bn1 = args.norm(128)
        self.conv2 = nn.Conv2d(128, 768, tuple((side - 5) // 3 + 1 for side in map_size), bias=False, **args.dd)
        self.bn2 = args.norm(768)
        self.head = ClassifierHead(768, num_classes, **args.dd)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """PreActivation features [B, C, H, W] to logits [B, num_classes]."""
        x = F.relu(self.bn1(self.conv1(self.pool(self.resize(x)))))
        return self.head(F.relu(self.bn2(self.conv2(x))))

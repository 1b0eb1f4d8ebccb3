"""The auxiliary classifier, which helps to train deep networks."""
from typing import Tuple

import torch
from timm.layers import ClassifierHead
from torch import nn
from torch.nn import functional as F

from .ops import LayerArgs
from .stems import AuxLayout

__all__ = ['AuxHead']


class AuxHead(nn.Module):
    """The auxiliary classifier of Google's nasnet.py or of DARTS's model.py, for any input size.

    They pool the features of the published input size (14x14 at 224 pixels) and then convolve all that remains.
    Features of other sizes are first pooled to that of the usual input.

    Args:
        in_chs: Channels of the features.
        map_size: Height and width of the features for the usual input.
        filters: Widths of the two convolutions.
        num_classes: Number of classes.
        layout: Google's or DARTS's; see ``network/stems.py``.
        args: Settings of the layers.
    """

    def __init__(
            self, in_chs: int, map_size: Tuple[int, int], filters: Tuple[int, int], num_classes: int, layout: AuxLayout,
            args: LayerArgs,
    ) -> None:
        super().__init__()
        map_size = tuple(max(5, side) for side in map_size)
        self.resize = nn.AdaptiveAvgPool2d(map_size)  # leaves features of this size as they are
        self.pool = nn.AvgPool2d(5, layout.pool_stride)
        self.conv1 = nn.Conv2d(in_chs, filters[0], 1, bias=False, **args.dd)
        self.bn1 = args.norm(filters[0])
        kernel_size = tuple((side - 5) // layout.pool_stride + 1 for side in map_size)
        self.conv2 = nn.Conv2d(filters[0], filters[1], kernel_size, bias=False, **args.dd)
        self.bn2 = args.norm(filters[1]) if layout.has_second_norm else nn.Identity()
        self.head = ClassifierHead(filters[1], num_classes, **args.dd)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute logits [B, num_classes] from rectified features [B, C, H, W]."""
        x = F.relu(self.bn1(self.conv1(self.pool(self.resize(x)))))
        return self.head(F.relu(self.bn2(self.conv2(x))))

"""The stems: what turns images into the first hidden states, one row for each.

A row also holds what belongs to the data set that the stem was designed for. The figures of both stems are those of
Google's nasnet.py (tensorflow/models, slim).
"""
import math
from dataclasses import dataclass
from typing import Any, Callable, Dict, List, NamedTuple, Tuple

import torch
from torch import nn

from .ops import LayerArgs

__all__ = ['Stem', 'StemConv', 'FeatureMap', 'STEMS', 'DEFAULT_STEM']


class StemConv(NamedTuple):
    """A 3x3 convolution of a stem.

    Attributes:
        stride: Its stride.
        padding: Zeros on each side: 0 is TensorFlow's VALID padding.
        divisor: Its width is that of the stem divided by this number.
        is_read: Whether cells may read its result.
    """
    stride: int
    padding: int
    divisor: int = 1
    is_read: bool = True


class FeatureMap(NamedTuple):
    """Width and resolution of a feature map; `reduction` is the number of image pixels per pixel along a side."""
    channels: int
    reduction: int


@dataclass(frozen=True)
class Stem:
    """A stem.

    Attributes:
        summary: What it is for, for help texts.
        build: ``build(in_chans, filters, convs, args)`` returns a module from images [B, in_chans, H, W] to a list of
            feature maps, those of the convolutions that cells may read. The newest one is the first.
        convs: The convolutions, from the image on.
        default_filters: From the filters F of the first stage's cells to the width of the stem.
        cell_divisors: One number for each reduction cell that belongs to the stem: it has F divided by this number.
        bn_eps, bn_momentum: Of all batch norms of the network.
        img_size: The usual height and width of the images.
        data: What timm's configurations say of the images and their classes.
        first_conv: The name of the first convolution in the network.
    """
    summary: str
    build: Callable[[int, int, Tuple[StemConv, ...], LayerArgs], nn.Module]
    convs: Tuple[StemConv, ...]
    default_filters: Callable[[int], int]
    cell_divisors: Tuple[int, ...]
    bn_eps: float
    bn_momentum: float
    img_size: int
    data: Dict[str, Any]
    first_conv: str = 'stem.conv'

    @property
    def stride(self) -> int:
        """Stride of the newest feature map."""
        return math.prod(conv.stride for conv in self.convs)

    @property
    def num_maps(self) -> int:
        """Number of feature maps that cells may read."""
        return sum(conv.is_read for conv in self.convs)

    def maps(self, filters: int) -> Tuple[FeatureMap, ...]:
        """Return the feature maps that cells may read, the newest one first, for a stem of `filters` filters."""
        maps, reduction = [], 1
        for conv in self.convs:
            reduction *= conv.stride
            if conv.is_read:
                maps.append(FeatureMap(filters // conv.divisor, reduction))
        return tuple(reversed(maps))

    def feature_size(self, size: Tuple[int, int], reduction: int) -> Tuple[int, int]:
        """Return height and width of the features at `reduction` for images of `size` pixels."""
        stride = 1
        for conv in self.convs:
            size = tuple((side + 2 * conv.padding - 3) // conv.stride + 1 for side in size)
            stride *= conv.stride
            if stride == reduction:
                break
        return tuple(math.ceil(side * stride / reduction) for side in size)  # cells have SAME padding


class _ConvStem(nn.Module):
    """A convolution and a batch norm."""

    def __init__(self, in_chans: int, filters: int, convs: Tuple[StemConv, ...], args: LayerArgs) -> None:
        super().__init__()
        conv, = convs
        self.conv = nn.Conv2d(in_chans, filters, 3, stride=conv.stride, padding=conv.padding, bias=False, **args.dd)
        self.bn = args.norm(filters)

    def forward(self, x: torch.Tensor) -> List[torch.Tensor]:
        return [self.bn(self.conv(x))]


DEFAULT_STEM = 'imagenet'
STEMS: Dict[str, Stem] = {
    'imagenet': Stem(
        'stride 8 before the first stage, for large images',
        build=_ConvStem,
        convs=(StemConv(stride=2, padding=0),),
        default_filters=lambda cell_filters: 32,
        cell_divisors=(4, 2),
        bn_eps=1e-3,
        bn_momentum=3e-4,
        img_size=224,
        data=dict(interpolation='bicubic', crop_pct=0.875, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5),
                  num_classes=1000),
    ),
    'cifar': Stem(
        'stride 1 before the first stage, for small images',
        build=_ConvStem,
        convs=(StemConv(stride=1, padding=1),),
        default_filters=lambda cell_filters: 3 * cell_filters,
        cell_divisors=(),
        bn_eps=1e-5,
        bn_momentum=0.1,
        img_size=32,
        data=dict(interpolation='bicubic', crop_pct=1., mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616),
                  num_classes=10),
    ),
}

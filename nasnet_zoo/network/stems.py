"""The stems: what turns images into the first hidden states, one row for each.

A row also holds what belongs to the code base that the stem is from and to the data set that it was designed for. The
figures are those of Google's nasnet.py (tensorflow/models, slim) and of DARTS's model.py (quark0/darts).
"""
import math
from dataclasses import dataclass
from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Optional, Tuple

import torch
from torch import nn
from torch.nn import functional as F

from .ops import LayerArgs

__all__ = ['Stem', 'StemConv', 'FeatureMap', 'AuxLayout', 'STEMS', 'DEFAULT_STEM']


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

    def width(self, filters: int) -> int:
        """Return its number of filters in a stem of `filters` filters."""
        return max(1, filters // self.divisor)


class FeatureMap(NamedTuple):
    """Width and resolution of a feature map; `reduction` is the number of image pixels per pixel along a side."""
    channels: int
    reduction: int


class AuxLayout(NamedTuple):
    """In what the auxiliary heads of code bases differ.

    Attributes:
        follows_reduction: Whether it reads the output of the last reduction cell, instead of the features before it.
        pool_stride: Stride of its average pool.
        has_second_norm: Whether there is a batch norm behind the second convolution.
    """
    follows_reduction: bool = False
    pool_stride: int = 3
    has_second_norm: bool = True


def he_normal(conv: nn.Conv2d) -> None:
    """Initialise a convolution as Google does: He normal by fan-out."""
    fan_out = conv.weight[0, 0].numel() * conv.out_channels // conv.groups
    nn.init.normal_(conv.weight, std=math.sqrt(2. / fan_out))


@dataclass(frozen=True)
class Stem:
    """A stem.

    Attributes:
        summary: What it is for, for help texts.
        build: ``build(in_chans, filters, convs, args)`` returns a module from images [B, in_chans, H, W] to a list of
            feature maps, those of the convolutions that cells may read. The newest one is the first. A module with
            several maps has a method ``keep_maps``, see :class:`_ConvsStem`.
        convs: The convolutions, from the image on.
        default_filters: From the filters F of the first stage's cells to the width of the stem.
        cell_divisors: One number for each reduction cell that belongs to the stem: it has F divided by this number.
        defaults: Values for fields of :class:`~nasnet_zoo.Skeleton` that are left out.
        data: What timm's configurations say of the images and their classes.
        first_conv: The name of the first convolution in the network.
        aux: The layout of the auxiliary head.
        init_conv: Initialises a convolution of the network.
        max_inputs: The largest number of inputs of the cells; None for any number.
    """
    summary: str
    build: Callable[[int, int, Tuple[StemConv, ...], LayerArgs], nn.Module]
    convs: Tuple[StemConv, ...]
    default_filters: Callable[[int], int]
    cell_divisors: Tuple[int, ...]
    defaults: Mapping[str, Any]
    data: Dict[str, Any]
    first_conv: str = 'stem.conv'
    aux: AuxLayout = AuxLayout()
    init_conv: Callable[[nn.Conv2d], None] = he_normal
    max_inputs: Optional[int] = None

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
                maps.append(FeatureMap(conv.width(filters), reduction))
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


class _ConvsStem(nn.Module):
    """Convolutions with batch norm, and a ReLU between one and the next. The maps that cells read are not rectified."""

    def __init__(self, in_chans: int, filters: int, convs: Tuple[StemConv, ...], args: LayerArgs) -> None:
        super().__init__()
        widths = [in_chans, *(conv.width(filters) for conv in convs)]
        self.convs = nn.ModuleList(
            nn.Conv2d(widths[i], widths[i + 1], 3, conv.stride, conv.padding, bias=False, **args.dd)
            for i, conv in enumerate(convs))
        self.norms = nn.ModuleList(args.norm(width) for width in widths[1:])
        self.is_read = [conv.is_read for conv in convs]

    def forward(self, x: torch.Tensor) -> List[torch.Tensor]:
        maps: List[torch.Tensor] = []
        for i, (conv, norm) in enumerate(zip(self.convs, self.norms)):
            x = norm(conv(F.relu(x) if i > 0 else x))
            if self.is_read[i]:
                maps.insert(0, x)
        return maps

    def keep_maps(self, count: int) -> None:
        """Remove what only newer feature maps than the oldest `count` ones need."""
        end = [i for i, is_read in enumerate(self.is_read) if is_read][count - 1] + 1
        self.convs, self.norms, self.is_read = self.convs[:end], self.norms[:end], self.is_read[:end]


_CIFAR = dict(interpolation='bicubic', crop_pct=1., mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616),
              num_classes=10)
_DARTS = dict(bn_eps=1e-5, bn_momentum=0.1, padding='symmetric', final_relu=False, drop_path_by_depth=False)

DEFAULT_STEM = 'imagenet'
STEMS: Dict[str, Stem] = {
    'imagenet': Stem(
        'stride 8 before the first stage, for large images',
        build=_ConvStem,
        convs=(StemConv(stride=2, padding=0),),
        default_filters=lambda cell_filters: 32,
        cell_divisors=(4, 2),
        defaults=dict(bn_eps=1e-3, bn_momentum=3e-4, img_size=224),
        data=dict(interpolation='bicubic', crop_pct=0.875, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5),
                  num_classes=1000),
    ),
    'cifar': Stem(
        'stride 1 before the first stage, for small images',
        build=_ConvStem,
        convs=(StemConv(stride=1, padding=1),),
        default_filters=lambda cell_filters: 3 * cell_filters,
        cell_divisors=(),
        defaults=dict(bn_eps=1e-5, bn_momentum=0.1, img_size=32),
        data=_CIFAR,
    ),
    'darts_cifar': Stem(
        "DARTS's network for small images, stride 1 before the first stage",
        build=_ConvStem,
        convs=(StemConv(stride=1, padding=1),),
        default_filters=lambda cell_filters: 3 * cell_filters,
        cell_divisors=(),
        defaults=dict(_DARTS, img_size=32),
        data=_CIFAR,
        aux=AuxLayout(follows_reduction=True),
        init_conv=nn.Conv2d.reset_parameters,
        max_inputs=2,
    ),
    'darts_imagenet': Stem(
        "DARTS's network for large images, stride 8 before the first stage",
        build=_ConvsStem,
        convs=(StemConv(stride=2, padding=1, divisor=2, is_read=False), StemConv(stride=2, padding=1),
               StemConv(stride=2, padding=1)),
        default_filters=lambda cell_filters: cell_filters,
        cell_divisors=(),
        defaults=dict(_DARTS, img_size=224),
        data=dict(interpolation='bilinear', crop_pct=0.875, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225),
                  num_classes=1000),
        first_conv='stem.convs.0',
        aux=AuxLayout(follows_reduction=True, pool_stride=2, has_second_norm=False),
        init_conv=nn.Conv2d.reset_parameters,
        max_inputs=2,
    ),
}

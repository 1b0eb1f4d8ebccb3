"""The operations and combines of the genotype language, one table each.

Sources: the paper's section 3.1 and appendix A.1 for what exists, Google's nasnet_utils.py (tensorflow/models, slim)
for how each behaves: TensorFlow SAME padding, ReLU-conv-BN order, bottlenecks, when an identity becomes a convolution.
"""
from collections import OrderedDict
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Callable, Dict, List, Tuple, Union

import torch
from timm.layers import to_2tuple
from timm.models import register_notrace_module
from torch import nn
from torch.nn import functional as F

from .cpu_autograd import avg_pool2d, concatenate, depthwise_conv2d, subsample, use_cpu_autograd

__all__ = ['OPS', 'COMBINES', 'LayerArgs', 'PreActivation', 'conv_1x1_bn', 'factorized_reduction']


@dataclass(frozen=True)
class LayerArgs:
    """What every layer of a network is built with."""
    bn_eps: float = 1e-3
    bn_momentum: float = 0.1
    pool_padding: str = 'tf'  # 'tf', 'timm' or 'keras': see `pool`
    dd: Dict[str, Any] = field(default_factory=dict)  # device and dtype, as timm calls them

    def norm(self, channels: int) -> nn.BatchNorm2d:
        return nn.BatchNorm2d(channels, eps=self.bn_eps, momentum=self.bn_momentum, **self.dd)

    def conv(
            self,
            in_chs: int,
            out_chs: int,
            kernel_size: Union[int, Tuple[int, int]],
            stride: Union[int, Tuple[int, int]] = 1,
            dilation: int = 1,
            groups: int = 1,
    ) -> nn.Conv2d:
        """A convolution with TensorFlow SAME padding, an odd kernel and no bias."""
        strides, spans = to_2tuple(stride), [dilation * (k - 1) for k in to_2tuple(kernel_size)]
        kwargs = dict(stride=strides, dilation=dilation, groups=groups, bias=False, **self.dd)
        if kernel_size == 1 and stride > 1:
            return StridedConv1x1(in_chs, out_chs, kernel_size, **kwargs)
        if all(s == 1 or span == 0 for s, span in zip(strides, spans)):
            return Conv2d(in_chs, out_chs, kernel_size, padding=[span // 2 for span in spans], **kwargs)
        return Conv2dSame(in_chs, out_chs, kernel_size, **kwargs)


def pad_same(x: torch.Tensor, kernel_size: List[int], stride: List[int], value: float = 0.) -> torch.Tensor:
    """TensorFlow SAME padding, at run time, for strides of 1 and 2 and kernels not smaller than the stride.

    timm has this for any stride. Its rounding makes PyTorch's compiler take minutes over an unknown image size, where
    a remainder takes seconds.
    """
    rows = kernel_size[0] - stride[0] + x.shape[-2] % stride[0]
    columns = kernel_size[1] - stride[1] + x.shape[-1] % stride[1]
    return F.pad(x, [columns // 2, columns - columns // 2, rows // 2, rows - rows // 2], value=value)


def avg_pool_same(x: torch.Tensor, kernel_size: List[int], stride: List[int]) -> torch.Tensor:
    """An average pool with SAME padding, which it leaves out: it divides by how much of a window is not padding.

    Padding that PyTorch's own pool is told would be fixed when a program is exported for any size.
    """
    inside = F.avg_pool2d(pad_same(torch.ones_like(x[:1, :1]), kernel_size, stride), kernel_size, stride)
    return F.avg_pool2d(pad_same(x, kernel_size, stride), kernel_size, stride) / inside


@register_notrace_module
class Conv2d(nn.Conv2d):
    """A convolution whose backward pass is quick on a CPU where it is depthwise."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.convolve(x)

    def convolve(self, x: torch.Tensor) -> torch.Tensor:
        if not torch.jit.is_scripting():
            is_depthwise = self.groups == self.in_channels == self.out_channels and self.dilation[1] == 1
            if is_depthwise and self.kernel_size[1] > 3 and use_cpu_autograd(x, self.training):
                return depthwise_conv2d(x, self.weight, self.stride, self.padding)
        return self._conv_forward(x, self.weight, self.bias)


@register_notrace_module
class Conv2dSame(Conv2d):
    """A convolution with SAME padding that depends on the input's size: it has a stride of 2."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        span = [self.dilation[0] * (self.kernel_size[0] - 1) + 1, self.dilation[1] * (self.kernel_size[1] - 1) + 1]
        return self.convolve(pad_same(x, span, self.stride))  # TorchScript knows no super()


@register_notrace_module
class StridedConv1x1(nn.Conv2d):
    """A 1x1 convolution with a stride; if `shifted`, over the input shifted by one pixel to the left and up."""

    def __init__(self, *args: Any, shifted: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.first = int(shifted)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not torch.jit.is_scripting():
            if use_cpu_autograd(x, self.training):
                return F.conv2d(subsample(x, self.stride[0], [self.first])[0], self.weight)
        if self.first:
            x = F.pad(x, (-1, 1, -1, 1))
        return self._conv_forward(x, self.weight, self.bias)


@register_notrace_module
class MaxPool2dSame(nn.Module):
    """Max pooling with SAME padding by `outside`: -inf for TensorFlow's, 0 for Keras' NASNet."""

    def __init__(self, kernel_size: int, stride: int, outside: float) -> None:
        super().__init__()
        self.kernel_size, self.stride, self.outside = to_2tuple(kernel_size), to_2tuple(stride), outside

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.max_pool2d(pad_same(x, self.kernel_size, self.stride, self.outside), self.kernel_size, self.stride)


@register_notrace_module
class AvgPool2d(nn.AvgPool2d):
    """An average pool of stride 1 that leaves its border out and is quick on a CPU."""

    def __init__(self, kernel_size: int) -> None:
        super().__init__(kernel_size, 1, kernel_size // 2, count_include_pad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not torch.jit.is_scripting():
            if use_cpu_autograd(x, self.training):
                return avg_pool2d(x, self.kernel_size)
        return F.avg_pool2d(x, self.kernel_size, self.stride, self.padding, False, False)


@register_notrace_module
class AvgPool2dSame(nn.Module):
    """Average pooling with SAME padding by zeros, which the average leaves out or counts."""

    def __init__(self, kernel_size: int, stride: int, count_include_pad: bool) -> None:
        super().__init__()
        self.kernel_size, self.stride = to_2tuple(kernel_size), to_2tuple(stride)
        self.count_include_pad = count_include_pad

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.count_include_pad:
            return F.avg_pool2d(pad_same(x, self.kernel_size, self.stride), self.kernel_size, self.stride)
        return avg_pool_same(x, self.kernel_size, self.stride)


class PreActivation(nn.Sequential):
    """Layers that the paper starts with a ReLU. The cell applies it, once for all that read the same state."""


@register_notrace_module
class FactorizedReduction(nn.Module):
    """Two strided 1x1 convolutions, one a pixel off, side by side, then BN: [B, C, H, W] to [B, F, H/s, W/s]."""

    def __init__(self, in_chs: int, out_chs: int, stride: int, args: LayerArgs) -> None:
        super().__init__()
        # A 1x1 average pool of stride s followed by a 1x1 convolution is a 1x1 convolution of stride s.
        kwargs = dict(kernel_size=1, stride=stride, bias=False, **args.dd)
        self.path_1 = StridedConv1x1(in_chs, out_chs // 2, **kwargs) if out_chs > 1 else None
        self.path_2 = StridedConv1x1(in_chs, out_chs - out_chs // 2, shifted=True, **kwargs)
        self.bn = args.norm(out_chs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.path_1 is None:
            return self.bn(self.path_2(x))
        if not torch.jit.is_scripting():
            if use_cpu_autograd(x, self.training):  # both at once: the gradient of x is filled once
                pixels = subsample(x, self.path_1.stride[0], [0, 1])
                paths = [F.conv2d(part, path.weight) for part, path in zip(pixels, (self.path_1, self.path_2))]
                return self.bn(concatenate(paths, self.training))
        return self.bn(concatenate([self.path_1(x), self.path_2(x)], self.training))


def conv_1x1_bn(in_chs: int, out_chs: int, stride: int, args: LayerArgs) -> OrderedDict:
    """Layers of a 1x1 convolution and its batch norm, by name."""
    return OrderedDict(conv=args.conv(in_chs, out_chs, 1, stride=stride), bn=args.norm(out_chs))


def factorized_reduction(in_chs: int, out_chs: int, stride: int, args: LayerArgs) -> OrderedDict:
    """The same with half the outputs a pixel off, where the stride is not 1 (Google's factorized_reduction)."""
    if stride == 1:
        return conv_1x1_bn(in_chs, out_chs, stride, args)
    return OrderedDict(reduce=FactorizedReduction(in_chs, out_chs, stride, args))


def identity(in_chs: int, out_chs: int, stride: int, args: LayerArgs, project: Callable = conv_1x1_bn) -> nn.Module:
    """The state as it is, or ReLU and `project` where its shape must change."""
    if stride == 1 and in_chs == out_chs:
        return nn.Identity()
    return PreActivation(project(in_chs, out_chs, stride, args))


def sep_conv(in_chs: int, out_chs: int, stride: int, args: LayerArgs, kernel_size: int) -> PreActivation:
    """Twice ReLU, depthwise, pointwise, BN; stride and change of width in the first."""
    return PreActivation(OrderedDict(
        dw1=args.conv(in_chs, in_chs, kernel_size, stride=stride, groups=in_chs),
        pw1=args.conv(in_chs, out_chs, 1),
        bn1=args.norm(out_chs),
        act=nn.ReLU(inplace=True),
        dw2=args.conv(out_chs, out_chs, kernel_size, groups=out_chs),
        pw2=args.conv(out_chs, out_chs, 1),
        bn2=args.norm(out_chs),
    ))


def dil_sep_conv(in_chs: int, out_chs: int, stride: int, args: LayerArgs, kernel_size: int) -> PreActivation:
    """Once ReLU, depthwise of dilation 2, pointwise, BN (DARTS)."""
    return PreActivation(OrderedDict(
        dw=args.conv(in_chs, in_chs, kernel_size, stride=stride, dilation=2, groups=in_chs),
        pw=args.conv(in_chs, out_chs, 1),
        bn=args.norm(out_chs),
    ))


def full_conv(
        in_chs: int, out_chs: int, stride: int, args: LayerArgs,
        kernels: Tuple[Tuple[int, int], ...],
        bottleneck: float = 1 / 4,
        dilation: int = 1,
) -> PreActivation:
    """ReLU-conv-BN for each kernel, between ReLU-1x1-BN down to int(bottleneck · F) filters and back up to F.

    A square kernel takes the whole stride, the kernels of a pair each that of their own direction. Where there are too
    few filters for a bottleneck there is none.
    """
    width = int(out_chs * bottleneck) or out_chs
    convs = [(kernel, dict(stride=tuple(stride if k == max(kernel) else 1 for k in kernel), dilation=dilation))
             for kernel in kernels]
    if width < out_chs:
        convs = [((1, 1), {}), *convs, ((1, 1), {})]
    widths = [in_chs, *[width] * (len(convs) - 1), out_chs]
    layers = OrderedDict()
    for i, (kernel, kwargs) in enumerate(convs):
        if i:
            layers[f'act{i}'] = nn.ReLU(inplace=True)
        layers[f'conv{i}'] = args.conv(widths[i], widths[i + 1], kernel, **kwargs)
        layers[f'bn{i}'] = args.norm(widths[i + 1])
    return PreActivation(layers)


def pool(in_chs: int, out_chs: int, stride: int, args: LayerArgs, mode: str, kernel_size: int) -> nn.Module:
    """Pooling, then 1x1-BN without a ReLU where the width must change.

    ``args.pool_padding`` says what a pool of stride 2 sees beyond the border: ``'tf'`` nothing (Google), ``'timm'``
    zeros that count in an average, ``'keras'`` zeros in averages and maxima.
    """
    strided = stride > 1
    if mode == 'avg' and strided:
        layer = AvgPool2dSame(kernel_size, stride, count_include_pad=args.pool_padding != 'tf')
    elif mode == 'avg':
        layer = AvgPool2d(kernel_size)
    elif strided or kernel_size % 2 == 0:
        layer = MaxPool2dSame(kernel_size, stride, 0. if strided and args.pool_padding == 'keras' else float('-inf'))
    else:
        layer = nn.MaxPool2d(kernel_size, 1, kernel_size // 2)
    if in_chs == out_chs:
        return layer
    return nn.Sequential(OrderedDict(pool=layer, **conv_1x1_bn(in_chs, out_chs, 1, args)))


# name: builder(in_chs, out_chs, stride, args) of a module [B, in_chs, H, W] -> [B, out_chs, H / stride, W / stride]
OPS: Dict[str, Callable[..., nn.Module]] = {
    'identity': identity,
    'factorized_identity': partial(identity, project=factorized_reduction),
    'conv_1x1': partial(full_conv, kernels=((1, 1),), bottleneck=1),
    'conv_3x3': partial(full_conv, kernels=((3, 3),)),
    'conv_1x3_3x1': partial(full_conv, kernels=((1, 3), (3, 1)), bottleneck=3 / 8),
    'conv_1x7_7x1': partial(full_conv, kernels=((1, 7), (7, 1))),
    'dil_conv_3x3': partial(full_conv, kernels=((3, 3),), dilation=2),
    **{f'sep_conv_{k}x{k}': partial(sep_conv, kernel_size=k) for k in (3, 5, 7)},
    **{f'dil_sep_conv_{k}x{k}': partial(dil_sep_conv, kernel_size=k) for k in (3, 5)},
    'avg_pool_3x3': partial(pool, mode='avg', kernel_size=3),
    **{f'max_pool_{k}x{k}': partial(pool, mode='max', kernel_size=k) for k in (2, 3, 5, 7)},
}


@register_notrace_module
class ExampleNorm(nn.GroupNorm):
    """Layer norm over C, H, W (1 group) or instance norm over H, W (a group a channel); scale and shift per channel.

    Where a group is a single number there is nothing to normalise: scale and shift only.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.shape[1] // self.num_groups * x.shape[2] * x.shape[3] == 1:
            return x * self.weight[:, None, None] + self.bias[:, None, None]
        return torch.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)


class Add(nn.Module):
    """The sum of two states, then a norm."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        return self.norm(left + right)


class Concat(nn.Module):
    """Two states side by side in depth, left first."""

    def forward(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        return concatenate([left, right], self.training)


# name: builder(channels, args) of a module of two [B, channels, H, W]; a concatenation alone is twice as deep
COMBINES: Dict[str, Callable[..., nn.Module]] = {
    'add': lambda channels, args: Add(nn.Identity()),
    'concat': lambda channels, args: Concat(),
    'add_layer_norm': lambda channels, args: Add(ExampleNorm(1, channels, **args.dd)),
    'add_instance_norm': lambda channels, args: Add(ExampleNorm(channels, channels, **args.dd)),
}

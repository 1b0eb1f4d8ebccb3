"""The modules of the operations and combines that ``genotype/operations.py`` lists.

The operations are those of arXiv:1707.07012, section 3.1 and appendix A.1, and of DARTS (arXiv:1806.09055). Their
behaviour is that of Google's nasnet_utils.py (tensorflow/models, slim): TensorFlow's SAME padding, the order
ReLU-conv-BN, the widths of bottlenecks, and when an identity becomes a convolution. The ReLU that starts an operation
is not part of its module: the cell applies it, once for all operations on the same state.
"""
from collections import OrderedDict
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Callable, Dict, List, Tuple, Union

import torch
from timm.layers import to_2tuple
from timm.models import register_notrace_module
from torch import nn
from torch.nn import functional as F

from ..genotype.operations import COMBINES, OPERATIONS, Builder
from .cpu_autograd import avg_pool2d, concatenate, depthwise_conv2d, subsample, use_cpu_autograd

__all__ = ['LayerArgs', 'build_operation', 'build_combine', 'conv_1x1_bn', 'factorized_reduction', 'pad_same',
           'avg_pool_same', 'Conv2d', 'Conv2dSame', 'StridedConv1x1', 'MaxPool2dSame', 'AvgPool2d', 'AvgPool2dSame',
           'FactorizedReduction', 'ExampleNorm', 'Add', 'Concat']


@dataclass(frozen=True)
class LayerArgs:
    """The settings that all layers of a network share.

    Attributes:
        bn_eps, bn_momentum: Of batch norms.
        pool_padding: ``'tf'``, ``'timm'`` or ``'keras'``; see :func:`pool`.
        dd: Device and dtype of the parameters, as keyword arguments (timm's name for them).
    """
    bn_eps: float = 1e-3
    bn_momentum: float = 0.1
    pool_padding: str = 'tf'
    dd: Dict[str, Any] = field(default_factory=dict)

    def norm(self, channels: int) -> nn.BatchNorm2d:
        """Return a batch norm."""
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
        """Return a convolution with TensorFlow's SAME padding and without a bias. The kernel size must be odd."""
        strides, spans = to_2tuple(stride), [dilation * (k - 1) for k in to_2tuple(kernel_size)]
        kwargs = dict(stride=strides, dilation=dilation, groups=groups, bias=False, **self.dd)
        if kernel_size == 1 and stride > 1:
            return StridedConv1x1(in_chs, out_chs, kernel_size, **kwargs)
        if all(s == 1 or span == 0 for s, span in zip(strides, spans)):
            return Conv2d(in_chs, out_chs, kernel_size, padding=[span // 2 for span in spans], **kwargs)
        return Conv2dSame(in_chs, out_chs, kernel_size, **kwargs)


def pad_same(x: torch.Tensor, kernel_size: List[int], stride: List[int], value: float = 0.) -> torch.Tensor:
    """Pad `x` [B, C, H, W] as TensorFlow's SAME padding does, for strides 1 and 2 and kernels not below the stride.

    timm has this for any stride. With timm's rounding, however, PyTorch's compiler takes minutes for an unknown image
    size; with the remainder used here it takes seconds.
    """
    rows = kernel_size[0] - stride[0] + x.shape[-2] % stride[0]
    columns = kernel_size[1] - stride[1] + x.shape[-1] % stride[1]
    return F.pad(x, [columns // 2, columns - columns // 2, rows // 2, rows - rows // 2], value=value)


def avg_pool_same(x: torch.Tensor, kernel_size: List[int], stride: List[int]) -> torch.Tensor:
    """Average pooling with SAME padding that does not count the padding.

    PyTorch's own pool takes its padding as a constant, which ``torch.export`` would fix to that of one image size.
    """
    inside = F.avg_pool2d(pad_same(torch.ones_like(x[:1, :1]), kernel_size, stride), kernel_size, stride)
    return F.avg_pool2d(pad_same(x, kernel_size, stride), kernel_size, stride) / inside


@register_notrace_module
class Conv2d(nn.Conv2d):
    """A convolution with a faster backward pass on CPUs where it is depthwise."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.convolve(x)

    def convolve(self, x: torch.Tensor) -> torch.Tensor:
        """Convolve input that is padded as far as this layer does not pad it itself."""
        if not torch.jit.is_scripting():
            is_depthwise = self.groups == self.in_channels == self.out_channels and self.dilation[1] == 1
            if is_depthwise and self.kernel_size[1] > 3 and use_cpu_autograd(x, self.training):
                return depthwise_conv2d(x, self.weight, self.stride, self.padding)
        return self._conv_forward(x, self.weight, self.bias)


@register_notrace_module
class Conv2dSame(Conv2d):
    """A convolution of stride 2 with SAME padding, which depends on the input's size."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        span = [self.dilation[0] * (self.kernel_size[0] - 1) + 1, self.dilation[1] * (self.kernel_size[1] - 1) + 1]
        return self.convolve(pad_same(x, span, self.stride))  # TorchScript does not support super()


@register_notrace_module
class StridedConv1x1(nn.Conv2d):
    """A strided 1x1 convolution; if `shifted`, of the input shifted left and up by one pixel."""

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
    """Max pooling with SAME padding by the value `outside`: -inf as in TensorFlow, or 0 as in Keras' NASNet."""

    def __init__(self, kernel_size: int, stride: int, outside: float) -> None:
        super().__init__()
        self.kernel_size, self.stride, self.outside = to_2tuple(kernel_size), to_2tuple(stride), outside

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.max_pool2d(pad_same(x, self.kernel_size, self.stride, self.outside), self.kernel_size, self.stride)


@register_notrace_module
class AvgPool2d(nn.AvgPool2d):
    """Average pooling of stride 1 that does not count its padding, with a faster implementation on CPUs."""

    def __init__(self, kernel_size: int) -> None:
        super().__init__(kernel_size, 1, kernel_size // 2, count_include_pad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not torch.jit.is_scripting():
            if use_cpu_autograd(x, self.training):
                return avg_pool2d(x, self.kernel_size)
        return F.avg_pool2d(x, self.kernel_size, self.stride, self.padding, False, False)


@register_notrace_module
class AvgPool2dSame(nn.Module):
    """Average pooling with SAME padding by zeros, which are counted if `count_include_pad`."""

    def __init__(self, kernel_size: int, stride: int, count_include_pad: bool) -> None:
        super().__init__()
        self.kernel_size, self.stride = to_2tuple(kernel_size), to_2tuple(stride)
        self.count_include_pad = count_include_pad

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.count_include_pad:
            return F.avg_pool2d(pad_same(x, self.kernel_size, self.stride), self.kernel_size, self.stride)
        return avg_pool_same(x, self.kernel_size, self.stride)


@register_notrace_module
class FactorizedReduction(nn.Module):
    """Two strided 1x1 convolutions, the second one pixel off, concatenated, then batch norm (Google)."""

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
            if use_cpu_autograd(x, self.training):  # both paths at once, so that the gradient of x is written once
                pixels = subsample(x, self.path_1.stride[0], [0, 1])
                paths = [F.conv2d(part, path.weight) for part, path in zip(pixels, (self.path_1, self.path_2))]
                return self.bn(concatenate(paths, self.training))
        return self.bn(concatenate([self.path_1(x), self.path_2(x)], self.training))


def conv_1x1_bn(in_chs: int, out_chs: int, stride: int, args: LayerArgs) -> OrderedDict:
    """Return the layers of a 1x1 convolution with batch norm by name."""
    return OrderedDict(conv=args.conv(in_chs, out_chs, 1, stride=stride), bn=args.norm(out_chs))


def factorized_reduction(in_chs: int, out_chs: int, stride: int, args: LayerArgs) -> OrderedDict:
    """Return the layers of Google's factorized_reduction by name; at stride 1 it is a 1x1 convolution."""
    if stride == 1:
        return conv_1x1_bn(in_chs, out_chs, stride, args)
    return OrderedDict(reduce=FactorizedReduction(in_chs, out_chs, stride, args))


def identity(in_chs: int, out_chs: int, stride: int, args: LayerArgs, project: Callable = conv_1x1_bn) -> nn.Module:
    """The state itself, or [ReLU,] `project` where the shape must change."""
    if stride == 1 and in_chs == out_chs:
        return nn.Identity()
    return nn.Sequential(project(in_chs, out_chs, stride, args))


def factorized_identity(in_chs: int, out_chs: int, stride: int, args: LayerArgs) -> nn.Module:
    """The state itself, or [ReLU,] factorized reduction where the shape must change (DARTS's skip connection)."""
    return identity(in_chs, out_chs, stride, args, factorized_reduction)


def sep_conv(in_chs: int, out_chs: int, stride: int, args: LayerArgs, kernel_size: int) -> nn.Module:
    """[ReLU,] depthwise, pointwise, BN, and all of it once more. The first half changes the shape."""
    return nn.Sequential(OrderedDict(
        dw1=args.conv(in_chs, in_chs, kernel_size, stride=stride, groups=in_chs),
        pw1=args.conv(in_chs, out_chs, 1),
        bn1=args.norm(out_chs),
        act=nn.ReLU(inplace=True),
        dw2=args.conv(out_chs, out_chs, kernel_size, groups=out_chs),
        pw2=args.conv(out_chs, out_chs, 1),
        bn2=args.norm(out_chs),
    ))


def dil_sep_conv(in_chs: int, out_chs: int, stride: int, args: LayerArgs, kernel_size: int) -> nn.Module:
    """[ReLU,] depthwise with dilation 2, pointwise, BN (DARTS)."""
    return nn.Sequential(OrderedDict(
        dw=args.conv(in_chs, in_chs, kernel_size, stride=stride, dilation=2, groups=in_chs),
        pw=args.conv(in_chs, out_chs, 1),
        bn=args.norm(out_chs),
    ))


def full_conv(
        in_chs: int, out_chs: int, stride: int, args: LayerArgs,
        kernels: Tuple[Tuple[int, int], ...],
        bottleneck: float = 1 / 4,
        dilation: int = 1,
) -> nn.Module:
    """[ReLU,] conv, BN for each kernel, between 1x1 convolutions down to int(bottleneck · F) filters and back to F.

    A square kernel has the stride in both directions, and the kernels of a pair each have it in their own direction. If
    the bottleneck would have no filters, the 1x1 convolutions are left out.
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
    return nn.Sequential(layers)


def pool(in_chs: int, out_chs: int, stride: int, args: LayerArgs, mode: str, kernel_size: int) -> nn.Module:
    """Pooling, then 1x1 convolution and BN without a ReLU where the width must change.

    ``args.pool_padding`` says how pools of stride 2 treat the border: ``'tf'`` ignores what is outside (Google),
    ``'timm'`` counts zeros in averages, ``'keras'`` sees zeros in averages and in maxima.
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


@register_notrace_module
class ExampleNorm(nn.GroupNorm):
    """Layer norm over C, H, W (one group) or instance norm over H, W (one group per channel), for each example.

    Scale and shift are per channel. A group of a single number cannot be normalised; it is only scaled and shifted.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.shape[1] // self.num_groups * x.shape[2] * x.shape[3] == 1:
            return x * self.weight[:, None, None] + self.bias[:, None, None]
        return torch.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)


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


def build_operation(name: str, in_chs: int, out_chs: int, stride: int, args: LayerArgs) -> nn.Module:
    """Return the module of an operation: [B, in_chs, H, W] to [B, out_chs, ceil(H / stride), ceil(W / stride)]."""
    row = OPERATIONS[name]
    return _resolve(row.build)(in_chs, out_chs, stride, args, **row.options)


def build_combine(name: str, channels: int, args: LayerArgs) -> nn.Module:
    """Return the module of a combine, which maps two tensors [B, channels, H, W] to one."""
    row = COMBINES[name]
    return _resolve(row.build)(channels, args, **row.options)


def _resolve(builder: Builder) -> Callable[..., nn.Module]:
    """Return the function that a row of ``genotype/operations.py`` names."""
    if callable(builder):
        return builder
    module, _, function = builder.partition(':')
    return getattr(import_module(module), function)

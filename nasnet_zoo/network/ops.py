"""The modules of the operations that ``genotype/operations.py`` lists, and what builds modules from its rows.

The operations are those of arXiv:1707.07012, section 3.1 and appendix A.1, and of DARTS (arXiv:1806.09055). Their
behaviour is that of Google's nasnet_utils.py (tensorflow/models, slim): TensorFlow's SAME padding, the order
ReLU-conv-BN, the widths of bottlenecks, and when an identity becomes a convolution. The ReLU that starts an operation
is not part of its module: the cell applies it, once for all operations on the same state.
"""
from collections import OrderedDict
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple, Union

import torch
from timm.layers import to_2tuple
from torch import nn
from torch.nn import functional as F
from torch.nn.modules import module as torch_module

from ..genotype.operations import COMBINES, OPERATIONS, Builder
from .cpu_autograd import CpuAutograd, concatenate, same_depthwise_conv2d, subsample, use_cpu_autograd

__all__ = ['LayerArgs', 'build_operation', 'build_combine', 'conv_1x1_bn', 'factorized_reduction', 'pad_same',
           'avg_pool_same', 'Layers', 'PadSame', 'Conv2dSame', 'AvgPool2dSame', 'Zeros', 'FactorizedReduction']

Pair = Union[int, Tuple[int, int]]


@dataclass(frozen=True)
class LayerArgs:
    """The settings that all layers of a network share.

    Attributes:
        bn_eps, bn_momentum: Of batch norms.
        pool_padding: ``'tf'``, ``'timm'`` or ``'keras'``; see :func:`pool`.
        padding: ``'same'``, which is TensorFlow's SAME padding, or ``'symmetric'``, the same on opposite sides. They
            differ where the stride is 2 and the height or width is even.
        dd: Device and dtype of the parameters, as keyword arguments (timm's name for them).
    """
    bn_eps: float = 1e-3
    bn_momentum: float = 0.1
    pool_padding: str = 'tf'
    padding: str = 'same'
    dd: Dict[str, Any] = field(default_factory=dict)

    def norm(self, channels: int) -> nn.BatchNorm2d:
        """Return a batch norm."""
        return nn.BatchNorm2d(channels, eps=self.bn_eps, momentum=self.bn_momentum, **self.dd)

    def conv(self, in_chs: int, out_chs: int, kernel_size: Pair, stride: Pair = 1, dilation: int = 1,
             groups: int = 1) -> nn.Conv2d:
        """Return a padded convolution without a bias. The kernel size must be odd."""
        padding = self.fixed_padding(kernel_size, stride, dilation)
        layer = Conv2dSame if padding is None else nn.Conv2d
        return layer(in_chs, out_chs, kernel_size, stride, padding or 0, dilation, groups, bias=False, **self.dd)

    def conv_layers(self, name: str, in_chs: int, out_chs: int, kernel_size: Pair, stride: Pair = 1, dilation: int = 1,
                    groups: int = 1) -> Dict[str, nn.Module]:
        """Return the same convolution as layers by name, of which the one called `name` is a plain ``nn.Conv2d``.

        Tools that go by the exact type of a layer then know it. If the padding depends on the size of the input, a
        :class:`PadSame` comes first.
        """
        layers: Dict[str, nn.Module] = {}
        padding = self.fixed_padding(kernel_size, stride, dilation)
        if padding is None:
            layers[f'{name}_pad'] = PadSame([dilation * (k - 1) + 1 for k in to_2tuple(kernel_size)], stride)
        layers[name] = nn.Conv2d(
            in_chs, out_chs, kernel_size, stride, padding or 0, dilation, groups, bias=False, **self.dd)
        return layers

    def fixed_padding(self, kernel_size: Pair, stride: Pair, dilation: int = 1) -> Optional[Tuple[int, ...]]:
        """Return the pixels to add on opposite sides, [height, width]; None if they depend on the size of the input.

        An even kernel cannot have the same padding on opposite sides; its padding is SAME.
        """
        spans = [dilation * (k - 1) for k in to_2tuple(kernel_size)]
        is_even = any(span % 2 for span in spans)
        is_strided = any(s > 1 and span > 0 for s, span in zip(to_2tuple(stride), spans))
        if is_even or is_strided and self.padding == 'same':
            return None
        return tuple(span // 2 for span in spans)


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


class Layers(nn.Sequential):
    """``nn.Sequential`` whose convolutions and pools are faster in training on a CPU."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not torch.jit.is_scripting():
            if use_cpu_autograd(x, self.training):
                return _run_layers(list(self), x)
        for layer in self:
            x = layer(x)
        return x


_NOTHING_SELECTED = CpuAutograd()


def _run_layers(layers: List[nn.Module], x: torch.Tensor) -> torch.Tensor:
    """Apply layers one after another, under :class:`CpuAutograd` those that may gain from it.

    A context costs little, but each call of a function in it takes a few microseconds longer. Padding that no hook
    sees is left to the layer behind it, if that can do it.
    """
    while layers:
        layer, *layers = layers
        y = _run_with_padding(layer, layers[0], x) if layers and type(layer) is PadSame else None
        if y is not None:
            x, layers = y, layers[1:]
        elif isinstance(layer, (nn.AvgPool2d, nn.Conv2d)):
            with _NOTHING_SELECTED:
                x = layer(x)
        else:
            x = layer(x)
    return x


def _run_with_padding(pad: 'PadSame', layer: nn.Module, x: torch.Tensor) -> Optional[torch.Tensor]:
    """Apply SAME padding and a depthwise convolution or max pool of stride 2 at once; None if that is not possible."""
    if pad.stride != (2, 2) or x.dim() != 4 or min(x.shape[2:]) < 2:
        return None
    if _has_global_hooks() or _is_watched(pad) or _is_watched(layer):
        return None
    odd_rows, odd_columns = x.shape[2] % 2, x.shape[3] % 2
    if type(layer) is nn.Conv2d:
        is_depthwise = layer.groups == layer.in_channels == layer.out_channels and layer.kernel_size[1] > 1
        fits = pad.kernel_size == tuple(d * (k - 1) + 1 for k, d in zip(layer.kernel_size, layer.dilation))
        if (is_depthwise and fits and pad.value == 0 and layer.padding == (0, 0) and layer.stride == (2, 2)
                and layer.bias is None and odd_rows == odd_columns and all(k % 2 for k in layer.kernel_size)):
            return same_depthwise_conv2d(x, layer.weight, layer.dilation)
    elif type(layer) is nn.MaxPool2d and pad.value == float('-inf'):
        is_plain = all(to_2tuple(value) == usual for value, usual in (
            (layer.stride, (2, 2)), (layer.padding, (0, 0)), (layer.dilation, (1, 1)),
            (layer.kernel_size, pad.kernel_size)))
        if not is_plain or layer.ceil_mode or layer.return_indices:
            return None
        # The last window may reach beyond the image, as far as the padding would.
        before = [(k - 2 + odd) // 2 for k, odd in zip(pad.kernel_size, (odd_rows, odd_columns))]
        return F.max_pool2d(x, layer.kernel_size, 2, before, ceil_mode=True)
    return None


def _has_global_hooks() -> bool:
    """Return whether hooks are registered for all modules. PyTorch has no public function that says it."""
    return any((
        torch_module._global_forward_hooks, torch_module._global_forward_pre_hooks,
        torch_module._global_backward_hooks, torch_module._global_backward_pre_hooks))


def _is_watched(layer: nn.Module) -> bool:
    """Return whether a layer has hooks or a forward function of its own."""
    hooks = (layer._forward_hooks, layer._forward_pre_hooks, layer._backward_hooks, layer._backward_pre_hooks)
    return 'forward' in vars(layer) or any(hooks)


def _is_plain(shift: nn.Module) -> bool:
    """Return whether a layer only pads, as :func:`subsample` takes for granted in the backward pass."""
    return type(shift) is nn.ZeroPad2d and not _is_watched(shift) and not _has_global_hooks()


class PadSame(nn.Module):
    """SAME padding by `value`, for a layer of this kernel size and stride that does not pad."""

    def __init__(self, kernel_size: Sequence[int], stride: Pair, value: float = 0.) -> None:
        super().__init__()
        self.kernel_size, self.stride, self.value = tuple(kernel_size), to_2tuple(stride), value

    def extra_repr(self) -> str:
        return f'kernel_size={self.kernel_size}, stride={self.stride}, value={self.value}'

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return pad_same(x, self.kernel_size, self.stride, self.value)


class Conv2dSame(nn.Conv2d):
    """A convolution of stride 2 with SAME padding in a single layer."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        span = [self.dilation[0] * (self.kernel_size[0] - 1) + 1, self.dilation[1] * (self.kernel_size[1] - 1) + 1]
        return self._conv_forward(pad_same(x, span, self.stride), self.weight, self.bias)


class AvgPool2dSame(nn.Module):
    """Average pooling with SAME padding that does not count."""

    def __init__(self, kernel_size: Pair, stride: Pair) -> None:
        super().__init__()
        self.kernel_size, self.stride = to_2tuple(kernel_size), to_2tuple(stride)

    def extra_repr(self) -> str:
        return f'kernel_size={self.kernel_size}, stride={self.stride}'

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return avg_pool_same(x, self.kernel_size, self.stride)


class Zeros(nn.Module):
    """Zeros of the shape that an operation of this width and stride would give."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.channels, self.stride = channels, stride

    def extra_repr(self) -> str:
        return f'{self.channels}, stride={self.stride}'

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(x[:, :1, ::self.stride, ::self.stride].expand(-1, self.channels, -1, -1))


class FactorizedReduction(nn.Module):
    """Two strided 1x1 convolutions, the second one pixel off, concatenated, then batch norm (Google)."""

    def __init__(self, in_chs: int, out_chs: int, stride: int, args: LayerArgs) -> None:
        super().__init__()
        # A 1x1 average pool of stride s followed by a 1x1 convolution is a 1x1 convolution of stride s.
        self.path_1 = args.conv(in_chs, out_chs // 2, 1, stride) if out_chs > 1 else None
        self.shift = nn.ZeroPad2d((-1, 1, -1, 1))  # to the left and up
        self.path_2 = args.conv(in_chs, out_chs - out_chs // 2, 1, stride)
        self.bn = args.norm(out_chs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shifted = self.shift(x)
        if not torch.jit.is_scripting():
            if self.path_2.stride == (2, 2) and use_cpu_autograd(x, self.training) and _is_plain(self.shift):
                pixels = subsample(x, shifted)  # for both paths at once, so that the gradient of x is written once
                with CpuAutograd((x, pixels[0]), (shifted, pixels[1])):
                    paths = self.paths(x, shifted)
                return self.bn(concatenate(paths, self.training))
        return self.bn(concatenate(self.paths(x, shifted), self.training))

    def paths(self, x: torch.Tensor, shifted: torch.Tensor) -> List[torch.Tensor]:
        """Compute what is concatenated, from the input and the shifted input."""
        if self.path_1 is None:
            return [self.path_2(shifted)]
        return [self.path_1(x), self.path_2(shifted)]


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
    return Layers(project(in_chs, out_chs, stride, args))


def factorized_identity(in_chs: int, out_chs: int, stride: int, args: LayerArgs) -> nn.Module:
    """The state itself, or [ReLU,] factorized reduction where the shape must change (DARTS's skip connection)."""
    return identity(in_chs, out_chs, stride, args, factorized_reduction)


def sep_conv(in_chs: int, out_chs: int, stride: int, args: LayerArgs, kernel_size: int) -> nn.Module:
    """[ReLU,] depthwise, pointwise, BN, and all of it once more. The first half changes the shape."""
    return Layers(OrderedDict(
        **args.conv_layers('dw1', in_chs, in_chs, kernel_size, stride, groups=in_chs),
        pw1=args.conv(in_chs, out_chs, 1),
        bn1=args.norm(out_chs),
        act=nn.ReLU(inplace=True),
        dw2=args.conv(out_chs, out_chs, kernel_size, groups=out_chs),
        pw2=args.conv(out_chs, out_chs, 1),
        bn2=args.norm(out_chs),
    ))


def dil_sep_conv(in_chs: int, out_chs: int, stride: int, args: LayerArgs, kernel_size: int) -> nn.Module:
    """[ReLU,] depthwise with dilation 2, pointwise, BN (DARTS)."""
    return Layers(OrderedDict(
        **args.conv_layers('dw', in_chs, in_chs, kernel_size, stride, dilation=2, groups=in_chs),
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
    convs = [(kernel, dict(stride=_stride_along(kernel, stride), dilation=dilation)) for kernel in kernels]
    if width < out_chs:
        convs = [((1, 1), {}), *convs, ((1, 1), {})]
    widths = [in_chs, *[width] * (len(convs) - 1), out_chs]
    layers = OrderedDict()
    for i, (kernel, kwargs) in enumerate(convs):
        if i:
            layers[f'act{i}'] = nn.ReLU(inplace=True)
        layers.update(args.conv_layers(f'conv{i}', widths[i], widths[i + 1], kernel, **kwargs))
        layers[f'bn{i}'] = args.norm(widths[i + 1])
    return Layers(layers)


def conv_pair(
        in_chs: int, out_chs: int, stride: int, args: LayerArgs, kernels: Tuple[Tuple[int, int], ...],
) -> nn.Module:
    """[ReLU,] a convolution for each kernel, which has the stride in its own direction, BN (DARTS)."""
    layers = OrderedDict()
    for i, kernel in enumerate(kernels):
        layers.update(args.conv_layers(
            f'conv{i}', out_chs if i else in_chs, out_chs, kernel, _stride_along(kernel, stride)))
    return Layers(OrderedDict(layers, bn=args.norm(out_chs)))


def _stride_along(kernel: Tuple[int, int], stride: int) -> Tuple[int, int]:
    """Return the stride in the directions in which a kernel is longest."""
    return tuple(stride if k == max(kernel) else 1 for k in kernel)


def zeros(in_chs: int, out_chs: int, stride: int, args: LayerArgs) -> nn.Module:
    """Zeros, whatever the input (DARTS)."""
    return Zeros(out_chs, stride)


def pool(in_chs: int, out_chs: int, stride: int, args: LayerArgs, mode: str, kernel_size: int) -> nn.Module:
    """Pooling, then 1x1 convolution and BN without a ReLU where the width must change.

    ``args.pool_padding`` says how pools of stride 2 treat the border: ``'tf'`` ignores what is outside (Google),
    ``'timm'`` counts zeros in averages, ``'keras'`` sees zeros in averages and in maxima.
    """
    counts_zeros = stride > 1 and (mode, args.pool_padding) in _POOLS_THAT_COUNT_ZEROS
    padding = args.fixed_padding(kernel_size, stride)
    layers: Dict[str, nn.Module] = {}
    if counts_zeros or padding is None and mode == 'max':
        layers['pad'] = PadSame(to_2tuple(kernel_size), stride, 0. if counts_zeros else float('-inf')) if (
            padding is None) else nn.ZeroPad2d(padding[0])
        layers['pool'] = (nn.AvgPool2d if mode == 'avg' else nn.MaxPool2d)(kernel_size, stride)
    elif padding is None:
        layers['pool'] = AvgPool2dSame(kernel_size, stride)
    elif mode == 'avg':
        layers['pool'] = nn.AvgPool2d(kernel_size, stride, padding[0], count_include_pad=False)
    else:
        layers['pool'] = nn.MaxPool2d(kernel_size, stride, padding[0])
    if in_chs != out_chs:
        layers.update(conv_1x1_bn(in_chs, out_chs, 1, args))
    return Layers(OrderedDict(layers))


_POOLS_THAT_COUNT_ZEROS = {('avg', 'timm'), ('avg', 'keras'), ('max', 'keras')}  # mode and pool_padding


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

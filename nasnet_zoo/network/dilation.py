"""Dilates cells, so that reductions keep the size of their input (timm's ``output_stride``).

A convolution of stride 2 skips every second pixel, and everything behind it sees only the others. Here it computes all
of them, and what is behind it reads every second pixel: at these the network computes exactly what it would compute
without dilation, with the same weights and at every size of the images. Layer and instance norms take their statistics
from these pixels, too.
"""
from typing import Callable, Dict, List, Sequence, Tuple, cast

import torch
from timm.layers import to_2tuple
from torch import fx, nn
from torch.nn import functional as F

from .cell import Cell
from .combines import ExampleNorm
from .ops import AvgPool2dSame, Conv2dSame, FactorizedReduction, PadSame, Zeros
from .plan import CellPlan

__all__ = ['dilate_cell', 'PadDilated', 'Conv2dDilated', 'AvgPool2dDilated', 'ExampleNormDilated', 'pad_dilated',
           'avg_pool_dilated', 'group_norm_dilated']

Size = Tuple[int, int]  # of rows and of columns


def dilate_cell(cell: Cell, plan: CellPlan) -> Cell:
    """Dilate the layers of a cell as its plan says. Returns the cell.

    Raises:
        ValueError: If an operation that is not part of this package has a layer that reads several pixels, for which
            there is no rule.
    """
    if plan.dilation == 1:
        return cell
    for i, x in enumerate(plan.inputs):
        cell.fits[i] = _dilate(cell.fits[i], x.dilation, plan.input_dilation)
    for block, module in zip(plan.blocks, cell.blocks.values()):
        for side, operand in (('left', block.left), ('right', block.right)):
            before = plan.input_dilation if operand.stride > 1 else plan.dilation
            setattr(module, side, _dilate(getattr(module, side), before, plan.dilation))
        module.combine = _dilate(module.combine, plan.dilation, plan.dilation)
    for output, module in zip(plan.outputs, cell.outputs):
        for i, part in enumerate(output.parts):
            before = plan.input_dilation if part.stride > 1 else plan.dilation
            module.projections[i] = _dilate(module.projections[i], before, plan.dilation)
    return cell


def _dilate(module: nn.Module, before: int, after: int) -> nn.Module:
    """Return a module that reads features of dilation `before` and gives features of dilation `after`."""
    return _dilate_layers(module, (before, before), after)[0]


def _dilate_layers(module: nn.Module, dilation: Size, after: int) -> Tuple[nn.Module, Size]:
    """Dilate layers in their order. Returns the module and the dilation of its result."""
    rule = _RULES.get(type(module))
    unusual = [name for name, usual in _USUAL.items() if getattr(module, name, usual) != usual]
    if rule is not None and not unusual and not isinstance(getattr(module, 'padding', 0), str):
        return rule(module, dilation, after)
    if rule is not None or isinstance(module, _OF_ALL_PIXELS) or any(
            hasattr(module, name) for name in ('kernel_size', 'stride', 'output_size')):
        raise ValueError(f'output_stride: {type(module).__name__} cannot be dilated here; use the convolutions and '
                         'pools of PyTorch, with plain padding, and those of nasnet_zoo.network.ops, or leave '
                         'output_stride out')
    for name, layer in module.named_children():
        layer, dilation = _dilate_layers(layer, dilation, after)
        setattr(module, name, layer)
    return module, dilation


def pad_dilated(
        x: torch.Tensor, kernel_size: List[int], stride: List[int], dilation: List[int], value: float = 0.,
) -> torch.Tensor:
    """Pad `x` [B, C, H, W] so that windows that read every `dilation`-th pixel and move by one pixel keep its size.

    Of every `dilation`-th window, the padding is that of TensorFlow's SAME padding for windows of `stride`, which
    depends on whether there is an even number of such pixels.
    """
    rows, columns = x.shape[-2] + dilation[0] - 1, x.shape[-1] + dilation[1] - 1
    top = dilation[0] * ((kernel_size[0] - stride[0] + rows % (stride[0] * dilation[0]) // dilation[0]) // 2)
    left = dilation[1] * ((kernel_size[1] - stride[1] + columns % (stride[1] * dilation[1]) // dilation[1]) // 2)
    return F.pad(x, [left, dilation[1] * (kernel_size[1] - 1) - left, top, dilation[0] * (kernel_size[0] - 1) - top],
                 value=value)


def avg_pool_dilated(x: torch.Tensor, kernel_size: List[int], dilation: List[int]) -> torch.Tensor:
    """The mean over windows that read every `dilation`-th pixel and move by one pixel, without padding."""
    kernel = x.new_ones([x.shape[1], 1, kernel_size[0], kernel_size[1]]) / (kernel_size[0] * kernel_size[1])
    return F.conv2d(x, kernel, dilation=dilation, groups=x.shape[1])


@fx.wrap
def group_norm_dilated(
        x: torch.Tensor, num_groups: int, weight: torch.Tensor, bias: torch.Tensor, eps: float, dilation: List[int],
) -> torch.Tensor:
    """A group norm with the statistics of every `dilation`-th pixel; see :func:`.combines.group_norm`."""
    pixels = x[:, :, ::dilation[0], ::dilation[1]].unflatten(1, [num_groups, -1]).flatten(2)
    if pixels.shape[2] > 1:
        variance, mean = torch.var_mean(pixels, dim=2, correction=0, keepdim=True)
        x = ((x.unflatten(1, [num_groups, -1]).flatten(2) - mean) * (variance + eps).rsqrt()).reshape(x.shape)
    return x * weight[:, None, None] + bias[:, None, None]


class PadDilated(nn.Module):
    """The padding of :func:`pad_dilated`."""

    def __init__(self, kernel_size: Size, stride: Size, dilation: Size,
                 value: float = 0.) -> None:
        super().__init__()
        self.kernel_size, self.stride, self.dilation, self.value = kernel_size, stride, dilation, value

    def extra_repr(self) -> str:
        return (f'kernel_size={self.kernel_size}, stride={self.stride}, dilation={self.dilation}, '
                f'value={self.value}')

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return pad_dilated(x, self.kernel_size, self.stride, self.dilation, self.value)


class Conv2dDilated(nn.Conv2d):
    """A convolution that pads its input as `pad` does."""

    pad: nn.Module

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self._conv_forward(self.pad(x), self.weight, self.bias)


class AvgPool2dDilated(nn.Module):
    """Average pooling that reads every `dilation`-th pixel and keeps the size; what `pad` adds does not count."""

    def __init__(self, pad: nn.Module, kernel_size: Size, dilation: Size) -> None:
        super().__init__()
        self.pad, self.kernel_size, self.dilation = pad, kernel_size, dilation

    def extra_repr(self) -> str:
        return f'kernel_size={self.kernel_size}, dilation={self.dilation}'

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inside = avg_pool_dilated(self.pad(torch.ones_like(x[:1, :1])), self.kernel_size, self.dilation)
        return avg_pool_dilated(self.pad(x), self.kernel_size, self.dilation) / inside


class ExampleNormDilated(nn.GroupNorm):
    """Layer norm or instance norm with the statistics of every `dilation`-th pixel."""

    dilation: Size

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return group_norm_dilated(x, self.num_groups, self.weight, self.bias, self.eps, self.dilation)


def _times(sizes: Sequence[int], dilation: Size) -> Size:
    return sizes[0] * dilation[0], sizes[1] * dilation[1]


def _conv(layer: nn.Conv2d, dilation: Size, after: int) -> Tuple[nn.Module, Size]:
    stride, layer.stride = layer.stride, (1, 1)
    layer.padding = _times(cast(Size, layer.padding), dilation)
    layer.dilation = _times(layer.dilation, dilation)
    return layer, _times(stride, dilation)


def _conv_same(layer: Conv2dSame, dilation: Size, after: int) -> Tuple[nn.Module, Size]:
    rows, columns = (d * (k - 1) + 1 for d, k in zip(layer.dilation, layer.kernel_size))
    dilated = Conv2dDilated(layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride, 0, layer.dilation,
                            layer.groups, layer.bias is not None, device='meta')
    dilated.weight, dilated.bias = layer.weight, layer.bias
    dilated.pad = PadDilated((rows, columns), layer.stride, dilation)
    return _conv(dilated, dilation, after)


def _pad_same(layer: PadSame, dilation: Size, after: int) -> Tuple[nn.Module, Size]:
    return PadDilated(layer.kernel_size, layer.stride, dilation, layer.value), dilation


def _zero_pad(layer: nn.ZeroPad2d, dilation: Size, after: int) -> Tuple[nn.Module, Size]:
    left, right, top, bottom = layer.padding
    rows, columns = dilation
    return nn.ZeroPad2d((left * columns, right * columns, top * rows, bottom * rows)), dilation


def _max_pool(layer: nn.MaxPool2d, dilation: Size, after: int) -> Tuple[nn.Module, Size]:
    rows, columns = _times(to_2tuple(layer.padding), dilation)  # more than PyTorch's pool takes
    dilated = nn.MaxPool2d(layer.kernel_size, 1, 0, _times(to_2tuple(layer.dilation), dilation))
    pad = nn.ConstantPad2d((columns, columns, rows, rows), float('-inf'))
    return nn.Sequential(pad, dilated), _times(to_2tuple(layer.stride), dilation)


def _avg_pool(layer: nn.AvgPool2d, dilation: Size, after: int) -> Tuple[nn.Module, Size]:
    rows, columns = _times(to_2tuple(layer.padding), dilation)
    pad = nn.ZeroPad2d((columns, columns, rows, rows)) if rows or columns else nn.Identity()
    counts = layer.count_include_pad
    dilated = AvgPool2dDilated(nn.Identity() if counts else pad, to_2tuple(layer.kernel_size), dilation)
    return nn.Sequential(pad, dilated) if counts else dilated, _times(to_2tuple(layer.stride), dilation)


def _avg_pool_same(layer: AvgPool2dSame, dilation: Size, after: int) -> Tuple[nn.Module, Size]:
    pad = PadDilated(layer.kernel_size, layer.stride, dilation)
    return AvgPool2dDilated(pad, layer.kernel_size, dilation), _times(layer.stride, dilation)


def _factorized_reduction(layer: FactorizedReduction, dilation: Size, after: int) -> Tuple[nn.Module, Size]:
    rows, columns = dilation  # so far off are the pixels of the second path, and there may be fewer rows and columns
    layer.shift = nn.Sequential(nn.ZeroPad2d((0, columns, 0, rows)), nn.ZeroPad2d((-columns, 0, -rows, 0)))
    stride = layer.path_2.stride[0] * rows // after  # it may reach back over reductions that do halve the size
    for path in (layer.path_1, layer.path_2):
        if path is not None:
            path.stride = (stride, stride)
    return layer, (after, after)


def _zeros(layer: Zeros, dilation: Size, after: int) -> Tuple[nn.Module, Size]:
    return Zeros(layer.channels, 1), _times((layer.stride, layer.stride), dilation)


def _example_norm(layer: ExampleNorm, dilation: Size, after: int) -> Tuple[nn.Module, Size]:
    dilated = ExampleNormDilated(layer.num_groups, layer.num_channels, layer.eps, device='meta')
    dilated.weight, dilated.bias, dilated.dilation = layer.weight, layer.bias, dilation
    return dilated, dilation


# The exact class of a layer: from the layer, the dilation of what it reads and that at the end of the operation, to
# what takes its place and the dilation of its result
_RULES: Dict[type, Callable[..., Tuple[nn.Module, Size]]] = {
    nn.Conv2d: _conv,
    Conv2dSame: _conv_same,
    PadSame: _pad_same,
    nn.ZeroPad2d: _zero_pad,
    nn.MaxPool2d: _max_pool,
    nn.AvgPool2d: _avg_pool,
    AvgPool2dSame: _avg_pool_same,
    FactorizedReduction: _factorized_reduction,
    Zeros: _zeros,
    ExampleNorm: _example_norm,
}
# Attributes of layers that the rules ignore, with the values that they assume
_USUAL = dict(padding_mode='zeros', ceil_mode=False, divisor_override=None)
# Layers whose result at a pixel depends on all others, and for which there is no rule
_OF_ALL_PIXELS = (nn.GroupNorm, nn.LayerNorm, nn.InstanceNorm2d)

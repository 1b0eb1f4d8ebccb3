"""Functions of PyTorch in faster forms for training on CPUs: backward passes, and some forward passes.

The layers of a network are PyTorch's own and do not know of this module. In training on a CPU, what holds the layers
calls them under :class:`CpuAutograd`, which replaces the functions that they call. Thus hooks and tools that go by the
type of a layer see what they expect.

The measurements were made with torch 2.14 and 2.15 (oneDNN, AVX-512, channels-last, float32). ``tools/benchmark.py
train`` and ``child`` measure what all of this gains. Values and gradients equal PyTorch's up to the order of summation.
"""
from functools import lru_cache
from typing import Any, Callable, Dict, List, Optional, Tuple, Union, cast

import torch
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

__all__ = ['CpuAutograd', 'use_cpu_autograd', 'concatenate', 'subsample', 'same_depthwise_conv2d', 'REPLACEMENTS']


Size = Tuple[int, ...]  # height and width


def use_cpu_autograd(x: torch.Tensor, training: bool) -> bool:
    """Return whether to compute something of `x` in these ways: in eager training on a CPU.

    Tracers, compilers, automatic mixed precision, the transforms of ``torch.func`` and tools that watch operations
    (such as :class:`torch.utils.flop_counter.FlopCounterMode`) get PyTorch's own functions.
    """
    return (
        training and type(x) is torch.Tensor and x.is_cpu and torch.is_grad_enabled()
        and not torch.compiler.is_compiling() and not torch.jit.is_tracing()
        and not torch.is_autocast_enabled('cpu') and not is_in_torch_dispatch_mode()
        and not torch._C._are_functorch_transforms_active())  # PyTorch has no public function that says so


class CpuAutograd(TorchFunctionMode):
    """A context in which calls of the functions in :data:`REPLACEMENTS` go to their replacements.

    A replacement takes the arguments that a layer passes on, and the pixels that are selected already.

    Args:
        selected: Pairs of a tensor and what :func:`subsample` has selected from it.
    """

    def __init__(self, *selected: Tuple[torch.Tensor, torch.Tensor]) -> None:
        super().__init__()
        self.selected = {id(x): pixels for x, pixels in selected}

    def __torch_function__(self, func: Callable, types: Any, args: Tuple = (), kwargs: Optional[Dict] = None) -> Any:
        replacement = None if kwargs else REPLACEMENTS.get(func)
        return replacement(self.selected, *args) if replacement else func(*args, **(kwargs or {}))


def _order(x: torch.Tensor) -> torch.memory_format:
    return torch.channels_last if x.is_contiguous(memory_format=torch.channels_last) else torch.contiguous_format


class _Concatenate(torch.autograd.Function):
    """torch.cat with contiguous gradients. Autograd's are views, which slow down a batch norm's backward tenfold."""

    @staticmethod
    def forward(*parts: torch.Tensor) -> torch.Tensor:
        return torch.cat(parts, dim=1)

    @staticmethod
    def setup_context(ctx, inputs: Tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        ctx.widths = [part.shape[1] for part in inputs]

    @staticmethod
    def backward(ctx, grad: torch.Tensor):
        return tuple([part.contiguous(memory_format=_order(grad)) for part in grad.split(ctx.widths, dim=1)])

    @staticmethod
    def jvp(ctx, *tangents: torch.Tensor) -> torch.Tensor:
        return torch.cat(tangents, dim=1)


def concatenate(parts: List[torch.Tensor], training: bool) -> torch.Tensor:
    """Concatenate tensors [B, C, H, W] in depth; a single one stays as it is."""
    if len(parts) == 1:
        return parts[0]
    if not torch.jit.is_scripting():
        if use_cpu_autograd(parts[0], training):
            return _Concatenate.apply(*parts)
    return torch.cat(parts, dim=1)


class _Subsample(torch.autograd.Function):
    """Slicing. A strided 1x1 convolution's backward is five times as slow, slicing's own has the wrong layout."""

    @staticmethod
    def forward(x: torch.Tensor, shifted: Optional[torch.Tensor], first: int) -> Tuple[torch.Tensor, ...]:
        return tuple([image[:, :, first::2, first::2].contiguous(memory_format=_order(x))
                      for image in (x, shifted) if image is not None])

    @staticmethod
    def setup_context(ctx, inputs: Tuple[Any, ...], output: Tuple[torch.Tensor, ...]) -> None:
        ctx.shape, ctx.order, ctx.first = inputs[0].shape, _order(inputs[0]), inputs[2]

    @staticmethod
    def backward(ctx, *grads: torch.Tensor):
        whole = torch.empty(ctx.shape, dtype=grads[0].dtype, device=grads[0].device, memory_format=ctx.order).zero_()
        for first, grad in enumerate(grads, ctx.first):
            pixels = whole[:, :, first::2, first::2]
            pixels.copy_(grad[:, :, :pixels.shape[2], :pixels.shape[3]])
        return whole, None, None  # the gradient of `shifted` is in that of x

    @staticmethod
    def jvp(ctx, tangent: torch.Tensor, shifted_tangent: Optional[torch.Tensor], _: None) -> Tuple[torch.Tensor, ...]:
        return _Subsample.forward(tangent, shifted_tangent, ctx.first)


def subsample(x: torch.Tensor, shifted: Optional[torch.Tensor] = None, first: int = 0) -> Tuple[torch.Tensor, ...]:
    """Return every second pixel of every second row of `x`, and of `shifted`, from row and column `first`.

    `shifted` is `x` shifted to the left and up by one pixel, if it is wanted; `first` must then be 0.
    """
    return _Subsample.apply(x, shifted, first)


class _DepthwiseConv2d(torch.autograd.Function):
    """A depthwise convolution with other algorithms for its gradients.

    The gradient of the input is a convolution with the flipped kernel, if the stride is 1: oneDNN's backward pass takes
    1.3 to 3 times as long as its forward pass, and ten times if the kernel is dilated.

    ``after`` is the number of pixels, 0 or 1, by which the padding below and to the right is larger than ``padding``,
    that above and to the left.
    """

    @staticmethod
    def forward(
            x: torch.Tensor, weight: torch.Tensor, stride: Size, padding: Size, dilation: Size, after: int,
    ) -> torch.Tensor:
        weight, padding = _evenly_padded(weight, padding, after)
        return F.conv2d(x, weight, None, stride, padding, dilation, weight.shape[0])

    @staticmethod
    def setup_context(ctx, inputs: Tuple[Any, ...], output: torch.Tensor) -> None:
        x, weight, *ctx.args = inputs
        ctx.save_for_backward(x, weight)
        ctx.save_for_forward(x, weight)

    @staticmethod
    def backward(ctx, grad: torch.Tensor):
        x, weight = ctx.saved_tensors
        grad_x = grad_weight = None
        if ctx.needs_input_grad[0]:
            grad_x = _input_gradient(grad, x, weight, *ctx.args)
        if ctx.needs_input_grad[1]:
            is_small = grad[0, 0].numel() * x[0, 0].numel() <= 256 * min(len(x), 64)
            by_columns = weight.shape[3] == 3 and _span(weight, ctx.args[2])[0] <= x.shape[2] or not is_small
            grad_weight = (_kernel_gradient_by_columns if by_columns else _kernel_gradient_by_pixels)(
                grad, x, weight, *ctx.args)
        return grad_x, grad_weight, None, None, None, None

    @staticmethod
    def jvp(ctx, x_tangent: torch.Tensor, weight_tangent: torch.Tensor, *_: None) -> torch.Tensor:
        x, weight = ctx.saved_tensors
        forward = _DepthwiseConv2d.forward
        return forward(x_tangent, weight, *ctx.args) + forward(x, weight_tangent, *ctx.args)


def _evenly_padded(weight: torch.Tensor, padding: Size, after: int) -> Tuple[torch.Tensor, Size]:
    """Return the kernel and the padding of the same convolution with as much padding before as after the images.

    A kernel that begins with a row and a column of zeros reads everything one pixel later. It takes half as long as a
    padded copy of the images and the convolution of it.
    """
    weight = F.pad(weight, (after, 0, after, 0)) if after else weight
    return weight, tuple([p + after for p in padding])


def _span(weight: torch.Tensor, dilation: Size) -> Size:
    """Return the height and the width of the pixels between which a kernel reads."""
    return tuple([d * (k - 1) + 1 for k, d in zip(weight.shape[2:], dilation)])


def _input_gradient(
        grad: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, stride: Size, padding: Size, dilation: Size,
        after: int,
) -> torch.Tensor:
    opposite = tuple([span - 1 - p for span, p in zip(_span(weight, dilation), padding)])
    if stride == (1, 1) and min(opposite) >= 0 and not after:
        return F.conv2d(grad, weight.flip(2, 3), None, 1, opposite, dilation, weight.shape[0])
    weight, padding = _evenly_padded(weight, padding, after)
    return _conv_backward(grad, x, weight, stride, padding, dilation, [True, False, False])[0]


def _kernel_gradient_by_columns(
        grad: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, stride: Size, padding: Size, dilation: Size,
        after: int,
) -> torch.Tensor:
    """Return the gradient of a depthwise kernel, computed three columns at a time.

    oneDNN is fast only for these; five columns at once take ten times as long. Columns c, c + 1 and c + 2 of the kernel
    form a kernel of their own; its output, shifted by c pixels, is a part of the whole output. A kernel with dilated
    rows is one with rows of zeros in between.
    """
    if dilation[1] > 1:
        return _conv_backward(grad, x, weight, stride, padding, dilation, [False, True, False])[1]
    # It is also slow where it has to pad by more than one column.
    edge, step = max(0, padding[1] - 1), stride[1]
    x = F.pad(x, (edge, edge + after, 0, after)) if edge or after else x
    padding = (padding[0], padding[1] - edge)
    beyond = (x.shape[3] + 2 * padding[1] - 3) // step + 1 - grad.shape[3]  # outputs of three columns only
    rows = _span(weight, dilation)[0]
    part = weight.new_empty(len(weight), 1, rows, 3)
    grad_weight = torch.empty_like(weight)
    for c in range(0, weight.shape[3] - 1, 2):
        shifted = F.pad(grad, (c // step, beyond - c // step)) if beyond else grad
        _, columns, _ = _conv_backward(shifted, x, part, stride, padding, (1, 1), [False, True, False])
        grad_weight[..., c:c + 3] = columns[:, :, ::dilation[0]]
    return grad_weight


def _kernel_gradient_by_pixels(
        grad: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, stride: Size, padding: Size, dilation: Size,
        after: int,
) -> torch.Tensor:
    """Return the gradient of a depthwise kernel on images of few pixels, by a product of matrices for each channel.

    The products of all pixels of `grad` and of `x` are summed over the batch. An element of the kernel sums up those
    of which it multiplies the one for the other. oneDNN takes a multiple of the time, especially if the kernel is
    larger than the image.
    """
    by_channel, grad_by_channel = (  # [C, B, pixels]
        images.contiguous().flatten(2).transpose(0, 1) for images in (x, grad))
    products = torch.bmm(grad_by_channel.transpose(1, 2), by_channel).flatten(1)
    readers = _readers(grad.shape[2:], x.shape[2:], weight.shape[2:], stride, padding, dilation).to(products)
    return (products @ readers).reshape(weight.shape)


@lru_cache(maxsize=16)
def _readers(grad_size: Size, size: Size, kernel_size: Size, stride: Size, padding: Size, dilation: Size,
             ) -> torch.Tensor:
    """Return which element of a kernel multiplies a pixel of the input for a pixel of the output.

    The result is 1 or 0, [h · w · H · W, kh · kw] for outputs [h, w] and inputs [H, W].
    """
    along = []  # [output, input, element] for the rows and for the columns
    for length, input_length, k, s, p, d in zip(grad_size, size, kernel_size, stride, padding, dilation):
        read = torch.arange(length)[:, None] * s - p + torch.arange(k) * d
        along.append((torch.arange(input_length)[:, None] == read[:, None]).float())
    return torch.einsum('aAi,bBj->abABij', *along).reshape(-1, kernel_size[0] * kernel_size[1])


def _conv_backward(
        grad: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, stride: Size, padding: Size, dilation: Size,
        mask: List[bool],
) -> Tuple[torch.Tensor, ...]:
    """Return the gradients of a depthwise convolution for its input, kernel and bias where `mask` is True."""
    return torch.ops.aten.convolution_backward(
        grad, x, weight, None, stride, padding, dilation, False, [0, 0], weight.shape[0], mask)


Pair = Union[int, Tuple[int, int]]
Selected = Dict[int, torch.Tensor]  # by the id of the tensor from which the pixels were selected


def _conv2d(
        selected: Selected, x: torch.Tensor, weight: torch.Tensor, bias: Optional[torch.Tensor] = None,
        stride: Pair = 1, padding: Union[Pair, str] = 0, dilation: Pair = 1, groups: int = 1,
) -> torch.Tensor:
    """``F.conv2d`` with other algorithms for depthwise and for 1x1 convolutions."""
    if bias is None and x.dim() == 4 and stride in ((1, 1), (2, 2)) and isinstance(padding, tuple):
        kernel_size = weight.shape[2:]
        if groups == x.shape[1] == weight.shape[0] and kernel_size[1] in (3, 5, 7, 9):
            return _depthwise_conv2d(x, weight, stride, padding, cast(Size, dilation))
        if groups == 1 and kernel_size == (1, 1) and padding == (0, 0):
            if stride == (2, 2):
                pixels = selected.get(id(x))
                x = subsample(x)[0] if pixels is None else pixels
            return _conv_1x1(x, weight)
    return F.conv2d(x, weight, bias, stride, padding, dilation, groups)


def _conv_1x1(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """A 1x1 convolution as a product of matrices.

    oneDNN's convolutions take 1.5 times as long if there are few channels, in both passes.
    """
    if not x.is_contiguous(memory_format=torch.channels_last):
        return F.conv2d(x, weight)
    return F.linear(x.permute(0, 2, 3, 1), weight.flatten(1)).permute(0, 3, 1, 2)


def _depthwise_conv2d(
        x: torch.Tensor, weight: torch.Tensor, stride: Size, padding: Size, dilation: Size, after: int = 0,
) -> torch.Tensor:
    """A depthwise convolution; one with dilation 2 as an ordinary one of fewer pixels."""
    if stride == dilation == (2, 2) and all((p + after) % 2 == 0 for p in padding):  # reads every second pixel
        pixels = subsample(x, first=after)[0]
        return _DepthwiseConv2d.apply(
            pixels, weight, (1, 1), tuple([(p + after) // 2 for p in padding]), (1, 1), 0)
    if stride == (1, 1) and dilation[1] == 2 and padding[1] % 2 == 0 and x.shape[3] % 2 == 0 and (
            x.is_contiguous(memory_format=torch.channels_last)):
        # In memory, the channels of a pixel and its neighbour are those of a pixel of twice as many channels, and the
        # kernel reads each of them from every such pixel.
        y = _DepthwiseConv2d.apply(
            _with_columns(x, x.shape[3] // 2), weight.repeat(2, 1, 1, 1), stride, (padding[0], padding[1] // 2),
            (dilation[0], 1), 0)
        return _with_columns(y, y.shape[3] * 2)
    return _DepthwiseConv2d.apply(x, weight, stride, padding, dilation, after)


def same_depthwise_conv2d(x: torch.Tensor, weight: torch.Tensor, dilation: Tuple[int, int]) -> torch.Tensor:
    """A depthwise convolution with stride 2, an odd kernel and TensorFlow's SAME padding, all in one.

    Height and width must both be even or both be odd.
    """
    after = 1 - x.shape[2] % 2
    padding = tuple([(span - 1) // 2 - after for span in _span(weight, dilation)])
    return _depthwise_conv2d(x, weight, (2, 2), padding, dilation, after)


def _with_columns(x: torch.Tensor, columns: int) -> torch.Tensor:
    """View channels-last images as images with this number of columns."""
    return x.permute(0, 2, 3, 1).reshape(x.shape[0], x.shape[2], columns, -1).permute(0, 3, 1, 2)


def _avg_pool2d(selected: Selected, x: torch.Tensor, kernel_size: Pair, *args: Any) -> torch.Tensor:
    """``F.avg_pool2d``; with stride 1 and SAME padding that does not count, as a depthwise convolution.

    PyTorch's own takes 2 to 4 times as long in both passes.
    """
    if not isinstance(kernel_size, int) or args != (1, kernel_size // 2, False, False, None) or x.dim() != 4:
        return F.avg_pool2d(x, kernel_size, *args)
    ones = x.new_ones(x.shape[1], 1, kernel_size, kernel_size)
    counts = F.conv2d(torch.ones_like(x[:1, :1]), ones[:1], padding=kernel_size // 2)
    return F.conv2d(x, ones, padding=kernel_size // 2, groups=x.shape[1]).div_(counts)


# What nn.Conv2d and nn.AvgPool2d call, with all arguments by position
REPLACEMENTS: Dict[Callable, Callable] = {F.conv2d: _conv2d, F.avg_pool2d: _avg_pool2d}

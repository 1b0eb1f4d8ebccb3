"""Operations of PyTorch with faster backward passes (and some forward passes) for training on CPUs.

The measurements were made with torch 2.15 (oneDNN, AVX-512, channels-last, float32). ``tools/benchmark.py train``
measures what all of this gains. Values and gradients equal PyTorch's up to the order of summation.
"""
from typing import List, Sequence, Tuple

import torch
from timm.models import register_notrace_function
from torch.nn import functional as F

__all__ = ['concatenate', 'subsample', 'depthwise_conv2d', 'avg_pool2d', 'use_cpu_autograd']


def use_cpu_autograd(x: torch.Tensor, training: bool) -> bool:
    """Return whether to use these passes: in eager training on a CPU."""
    return training and x.is_cpu and torch.is_grad_enabled() and not torch.compiler.is_compiling()


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


@register_notrace_function
def concatenate(parts: List[torch.Tensor], training: bool) -> torch.Tensor:
    """Concatenate tensors [B, C, H, W] in depth."""
    if not torch.jit.is_scripting():
        if use_cpu_autograd(parts[0], training):
            return _Concatenate.apply(*parts)
    return torch.cat(parts, dim=1)


class _Subsample(torch.autograd.Function):
    """Strided slicing. A strided 1x1 convolution's backward is five times as slow, slicing's has the wrong layout."""

    @staticmethod
    def forward(x: torch.Tensor, stride: int, firsts: Sequence[int]) -> Tuple[torch.Tensor, ...]:
        parts = []
        for first in firsts:
            shifted = F.pad(x, (-first, first, -first, first)) if first else x
            parts.append(shifted[:, :, ::stride, ::stride].contiguous(memory_format=_order(x)))
        return tuple(parts)

    @staticmethod
    def setup_context(ctx, inputs, output: Tuple[torch.Tensor, ...]) -> None:
        x, ctx.stride, ctx.firsts = inputs
        ctx.shape, ctx.order = x.shape, _order(x)

    @staticmethod
    def backward(ctx, *grads: torch.Tensor):
        whole = torch.empty(ctx.shape, dtype=grads[0].dtype, device=grads[0].device, memory_format=ctx.order).zero_()
        for first, grad in zip(ctx.firsts, grads):
            pixels = whole[:, :, first::ctx.stride, first::ctx.stride]
            pixels.copy_(grad[:, :, :pixels.shape[2], :pixels.shape[3]])
        return whole, None, None


def subsample(x: torch.Tensor, stride: int, firsts: Sequence[int]) -> Tuple[torch.Tensor, ...]:
    """Return, for each of `firsts`, the pixels that a 1x1 convolution with this stride reads from pixel `first` on.

    Beyond the border are zeros. The values of `firsts` must differ by less than `stride`.
    """
    return _Subsample.apply(x, stride, firsts)


class _DepthwiseConv2d(torch.autograd.Function):
    """Computes the gradient of a depthwise kernel three columns at a time, because oneDNN is fast only for these.

    Five columns at once take five times as long as three. Columns c, c + 1 and c + 2 of the kernel form a kernel of
    their own; its output, shifted by c pixels, is a part of the whole output.
    """

    @staticmethod
    def forward(x: torch.Tensor, weight: torch.Tensor, stride: Sequence[int], padding: Sequence[int]) -> torch.Tensor:
        return F.conv2d(x, weight, None, stride, padding, groups=weight.shape[0])

    @staticmethod
    def setup_context(ctx, inputs, output: torch.Tensor) -> None:
        x, weight, ctx.stride, ctx.padding = inputs
        ctx.save_for_backward(x, weight)

    @staticmethod
    def backward(ctx, grad: torch.Tensor):
        x, weight = ctx.saved_tensors
        grad_x = grad_weight = None
        if ctx.needs_input_grad[0]:
            grad_x, _, _ = _conv_backward(grad, x, weight, ctx.stride, ctx.padding, [True, False, False])
        if ctx.needs_input_grad[1]:
            # It is also slow where it has to pad by more than one column.
            edge, step = max(0, ctx.padding[1] - 1), ctx.stride[1]
            x = F.pad(x, (edge, edge)) if edge else x
            padding = (ctx.padding[0], ctx.padding[1] - edge)
            beyond = (x.shape[3] + 2 * padding[1] - 3) // step + 1 - grad.shape[3]  # outputs of three columns only
            grad_weight = torch.empty_like(weight)
            for c in range(0, weight.shape[3] - 1, 2):
                _, part, _ = _conv_backward(
                    F.pad(grad, (c // step, beyond - c // step)), x, weight[..., c:c + 3], ctx.stride, padding,
                    [False, True, False])
                grad_weight[..., c:c + 3] = part
        return grad_x, grad_weight, None, None


def _conv_backward(
        grad: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, stride: Sequence[int], padding: Sequence[int],
        mask: List[bool],
) -> Tuple[torch.Tensor, ...]:
    """Return the gradients of a depthwise convolution for its input, kernel and bias where `mask` is True."""
    return torch.ops.aten.convolution_backward(
        grad, x, weight, None, stride, padding, [1, 1], False, [0, 0], weight.shape[0], mask)


def depthwise_conv2d(
        x: torch.Tensor, weight: torch.Tensor, stride: Sequence[int], padding: Sequence[int],
) -> torch.Tensor:
    """Depthwise ``F.conv2d`` for kernels of an odd width over 3, and strides 1 and 2."""
    return _DepthwiseConv2d.apply(x, weight, stride, padding)


def avg_pool2d(x: torch.Tensor, kernel_size: int) -> torch.Tensor:
    """Average pooling of stride 1 that does not count its padding, as a depthwise convolution.

    PyTorch's own takes 2 to 4 times as long in both passes.
    """
    ones = x.new_ones(x.shape[1], 1, kernel_size, kernel_size)
    counts = F.conv2d(torch.ones_like(x[:1, :1]), ones[:1], padding=kernel_size // 2)
    return F.conv2d(x, ones, padding=kernel_size // 2, groups=x.shape[1]).div_(counts)

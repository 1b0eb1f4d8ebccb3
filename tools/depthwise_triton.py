"""Depthwise convolutions in training, as Triton kernels for channels-last tensors in bfloat16.

Networks of separable convolutions spend much of a training step in depthwise convolutions, for which cuDNN has no quick
gradients in this layout. Each kernel here reads and writes memory about once: a program has a block of pixels and
channels, and goes over the taps of the kernel, whose loads hit the cache. Sums are float32.

:func:`use_triton` lets the depthwise convolutions of a network use them. The two operations are custom operations of
PyTorch, so torch.compile and CUDA graphs take them as they are.
"""
from typing import Any, Tuple

import torch
import triton
import triton.language as tl
from torch import nn

CHANNELS_LAST = torch.channels_last


@triton.jit
def _forward_kernel(x, w, y, pixels, H, W, OH, OW, C: tl.constexpr, K: tl.constexpr, S: tl.constexpr, P: tl.constexpr,
                    FLIP: tl.constexpr, BP: tl.constexpr, BC: tl.constexpr):
    """y[n, oy, ox, c] = sum over taps of x[n, oy S - P + i, ox S - P + j, c] w[i, j, c]."""
    p = tl.program_id(0) * BP + tl.arange(0, BP)
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    ox, oy, n = p % OW, (p // OW) % OH, p // (OW * OH)
    inside, known = p < pixels, c < C
    total = tl.zeros((BP, BC), tl.float32)
    for i in range(K):  # unrolled, the loads of all taps would be kept in registers
        for j in tl.static_range(K):
            iy, ix = oy * S - P + i, ox * S - P + j
            mask = inside & (iy >= 0) & (iy < H) & (ix >= 0) & (ix < W)
            values = tl.load(x + ((n * H + iy) * W + ix)[:, None] * C + c[None, :],
                             mask=mask[:, None] & known[None, :], other=0.)
            tap = (K - 1 - i) * K + K - 1 - j if FLIP else i * K + j
            weight = tl.load(w + tap * C + c, mask=known, other=0.)
            total += values.to(tl.float32) * weight[None, :]
    tl.store(y + p[:, None] * C + c[None, :], total.to(y.dtype.element_ty), mask=inside[:, None] & known[None, :])


@triton.jit
def _input_kernel(g, w, x, pixels, H, W, OH, OW, C: tl.constexpr, K: tl.constexpr, S: tl.constexpr, P: tl.constexpr,
                  BP: tl.constexpr, BC: tl.constexpr):
    """The gradient of x for strides over 1: each pixel of x gathers from the outputs that it was read for."""
    p = tl.program_id(0) * BP + tl.arange(0, BP)
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    ix, iy, n = p % W, (p // W) % H, p // (W * H)
    inside, known = p < pixels, c < C
    total = tl.zeros((BP, BC), tl.float32)
    for i in range(K):  # unrolled, the loads of all taps would be kept in registers
        for j in tl.static_range(K):
            up, left = iy + P - i, ix + P - j
            oy, ox = up // S, left // S
            mask = inside & (up >= 0) & (left >= 0) & (up % S == 0) & (left % S == 0) & (oy < OH) & (ox < OW)
            values = tl.load(g + ((n * OH + oy) * OW + ox)[:, None] * C + c[None, :],
                             mask=mask[:, None] & known[None, :], other=0.)
            weight = tl.load(w + (i * K + j) * C + c, mask=known, other=0.)
            total += values.to(tl.float32) * weight[None, :]
    tl.store(x + p[:, None] * C + c[None, :], total.to(x.dtype.element_ty), mask=inside[:, None] & known[None, :])


@triton.jit
def _weight_kernel(g, x, parts, pixels, rounds, H, W, OH, OW, C: tl.constexpr, K: tl.constexpr, S: tl.constexpr,
                   P: tl.constexpr, BP: tl.constexpr, BC: tl.constexpr):
    """The gradient of a row of w, over `rounds` blocks of pixels; the parts are added up afterwards."""
    i, chunk = tl.program_id(0), tl.program_id(1)
    c = tl.program_id(2) * BC + tl.arange(0, BC)
    known = c < C
    t0 = tl.zeros((BP, BC), tl.float32)
    t1, t2, t3, t4, t5, t6 = t0, t0, t0, t0, t0, t0
    for block in range(rounds):
        p = (chunk * rounds + block) * BP + tl.arange(0, BP)
        ox, oy, n = p % OW, (p // OW) % OH, p // (OW * OH)
        iy = oy * S - P + i
        inside = (p < pixels) & (iy >= 0) & (iy < H)
        gradient = tl.load(g + p[:, None] * C + c[None, :], mask=inside[:, None] & known[None, :], other=0.)
        gradient = gradient.to(tl.float32)
        for j in tl.static_range(K):
            ix = ox * S - P + j
            mask = inside & (ix >= 0) & (ix < W)
            values = gradient * tl.load(x + ((n * H + iy) * W + ix)[:, None] * C + c[None, :],
                                        mask=mask[:, None] & known[None, :], other=0.).to(tl.float32)
            if j == 0:
                t0 += values
            if j == 1:
                t1 += values
            if j == 2:
                t2 += values
            if j == 3:
                t3 += values
            if j == 4:
                t4 += values
            if j == 5:
                t5 += values
            if j == 6:
                t6 += values
    row = parts + (chunk * K + i) * K * C + c
    tl.store(row, tl.sum(t0, 0), mask=known)
    if K > 1:
        tl.store(row + C, tl.sum(t1, 0), mask=known)
    if K > 2:
        tl.store(row + 2 * C, tl.sum(t2, 0), mask=known)
    if K > 3:
        tl.store(row + 3 * C, tl.sum(t3, 0), mask=known)
    if K > 4:
        tl.store(row + 4 * C, tl.sum(t4, 0), mask=known)
    if K > 5:
        tl.store(row + 5 * C, tl.sum(t5, 0), mask=known)
    if K > 6:
        tl.store(row + 6 * C, tl.sum(t6, 0), mask=known)


def _block(size: int, channels: int) -> Tuple[int, int]:
    """Pixels and channels of a program, of `size` elements."""
    width = triton.next_power_of_2(channels) if channels <= 64 else 32
    return size // width, width


def _taps(weight: torch.Tensor) -> torch.Tensor:
    """A weight [C, 1, K, K] as float32 [K, K, C]."""
    return weight[:, 0].permute(1, 2, 0).float().contiguous()


@torch.library.custom_op('nasnet_zoo_tools::depthwise', mutates_args=())
def depthwise(x: torch.Tensor, weight: torch.Tensor, stride: int, padding: int) -> torch.Tensor:
    """A depthwise convolution of x [B, C, H, W] by weight [C, 1, K, K], the result channels-last."""
    x = x.contiguous(memory_format=CHANNELS_LAST)
    y = _output(x, weight, stride, padding)
    (_, c, h, w), (n, _, oh, ow), k = x.shape, y.shape, weight.shape[-1]
    block, channels = _block(2048, c)
    _forward_kernel[triton.cdiv(n * oh * ow, block), triton.cdiv(c, channels)](
        x, _taps(weight), y, n * oh * ow, h, w, oh, ow, c, k, stride, padding, False, block, channels)
    return y


@depthwise.register_fake
def _output(x: torch.Tensor, weight: torch.Tensor, stride: int, padding: int) -> torch.Tensor:
    """Where the result goes."""
    n, c, h, w = x.shape
    oh, ow = ((side + 2 * padding - weight.shape[-1]) // stride + 1 for side in (h, w))
    return torch.empty((n, c, oh, ow), dtype=x.dtype, device=x.device, memory_format=CHANNELS_LAST)


@torch.library.custom_op('nasnet_zoo_tools::depthwise_backward', mutates_args=())
def depthwise_backward(
        gradient: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, stride: int, padding: int,
) -> Tuple[torch.Tensor, torch.Tensor]:
    """The gradients of x and of the weight."""
    x, gradient = (tensor.contiguous(memory_format=CHANNELS_LAST) for tensor in (x, gradient))
    (n, c, h, w), (oh, ow), k = x.shape, gradient.shape[2:], weight.shape[-1]
    taps, (block, channels) = _taps(weight), _block(2048, c)
    of_x = torch.empty_like(x, memory_format=CHANNELS_LAST)
    grid = triton.cdiv(n * h * w, block), triton.cdiv(c, channels)
    if stride == 1:
        _forward_kernel[grid](gradient, taps, of_x, n * h * w, oh, ow, h, w, c, k, 1, k - 1 - padding, True, block,
                              channels)
    else:
        _input_kernel[grid](gradient, taps, of_x, n * h * w, h, w, oh, ow, c, k, stride, padding, block, channels)
    pixels, (block, channels) = n * oh * ow, _block(1024, c)
    rounds = max(1, triton.cdiv(pixels, block * 512))
    chunks = triton.cdiv(pixels, block * rounds)
    parts = torch.empty(chunks, k, k, c, device=x.device)
    _weight_kernel[k, chunks, grid[1]](gradient, x, parts, pixels, rounds, h, w, oh, ow, c, k, stride, padding, block,
                                       channels)
    return of_x, parts.sum(0).permute(2, 0, 1)[:, None].contiguous().to(weight.dtype)


@depthwise_backward.register_fake
def _gradients(
        gradient: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, stride: int, padding: int,
) -> Tuple[torch.Tensor, torch.Tensor]:
    return torch.empty_like(x, memory_format=CHANNELS_LAST), weight.new_empty(weight.shape)


def _keep(ctx: Any, inputs: Tuple, output: torch.Tensor) -> None:
    x, weight, ctx.stride, ctx.padding = inputs
    ctx.save_for_backward(x, weight)


def _backward(ctx: Any, gradient: torch.Tensor) -> Tuple:
    return (*depthwise_backward(gradient, *ctx.saved_tensors, ctx.stride, ctx.padding), None, None)


depthwise.register_autograd(_backward, setup_context=_keep)


class TritonDepthwise:
    """What is put before the class of a convolution of ours so that it uses :func:`depthwise`."""

    def convolve(self, x: torch.Tensor) -> torch.Tensor:
        return depthwise(x.to(torch.bfloat16), self.weight, self.stride[0], self.padding[0])


def use_triton(model: nn.Module) -> int:
    """Let all depthwise convolutions of a network on a GPU use Triton. Returns how many there are."""
    count = 0
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and hasattr(module, 'convolve') and module.groups == module.in_channels > 1:
            square = len(set(module.kernel_size)) == len(set(module.stride)) == len(set(module.padding)) == 1
            if square and module.dilation == (1, 1) and module.kernel_size[0] <= 7 and module.bias is None:
                kind = type(module)
                module.__class__ = type(f'Triton{kind.__name__}', (TritonDepthwise, kind), {})
                count += 1
    return count

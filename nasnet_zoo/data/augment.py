"""Augmentation of small images in batches, on the device where they live."""
from typing import Iterator, Tuple

import torch
from torch.nn import functional as F

from .datasets import ImageSet

__all__ = ['augmented_batches']


def augmented_batches(
        data: ImageSet,
        batch_size: int,
        seed: int,
        pad: int = 4,
        pad_mode: str = 'zero',
        flip: bool = True,
        cutout: int = 0,
        img_size: int = 0,
        rank: int = 0,
        world: int = 1,
) -> Iterator[Tuple[torch.Tensor, torch.Tensor]]:
    """One pass over the images in random order, the incomplete batch at the end left out.

    Everything random is drawn for the whole batch, whatever `world` is: processes that share a batch see what one
    process would.

    Args:
        data: Images, on the device where batches are wanted.
        batch_size: Images a batch, of all processes together.
        seed: The pass is a function of it.
        pad: Pixels by which an image is shifted at most, each way: a random crop of the padded image.
        pad_mode: What is beyond the border: 'zero' (the mean colour, Google's) or 'edge' (the nearest pixel).
        flip: Mirror every second image, at random.
        cutout: Side of a square of mean colour, put anywhere (DeVries & Taylor); 0 for none.
        img_size: Side to resize to; 0 for none.
        rank, world: Which part of each batch is wanted.

    Yields:
        Images, float32 [batch_size / world, C, H, W], channels-last and normalised, and labels.
    """
    device = data.images.device
    generator = torch.Generator().manual_seed(seed)
    height, width = data.images.shape[2:]
    row, column = torch.arange(height), torch.arange(width)
    order = torch.randperm(len(data.labels), generator=generator)
    part = slice(rank * batch_size // world, (rank + 1) * batch_size // world)
    for chosen in order[:len(order) // batch_size * batch_size].split(batch_size):
        shifts = torch.randint(2 * pad + 1, (2, batch_size, 1), generator=generator) - pad
        flipped = torch.rand(batch_size, 1, generator=generator) < 0.5
        centres = torch.rand(2, batch_size, 1, generator=generator)
        chosen, shifts, flipped, centres = chosen[part], shifts[:, part], flipped[part], centres[:, part]

        rows = row + shifts[0]
        columns = torch.where(flipped, width - 1 - column, column) if flip else column.expand(len(chosen), -1)
        columns = columns + shifts[1]
        blank = torch.zeros(len(chosen), height, width, dtype=torch.bool)
        if pad_mode == 'zero':
            blank |= _outside(rows, height)[:, :, None] | _outside(columns, width)[:, None]
        if cutout:
            inside = [(side - (centre * len(side)).floor() + cutout // 2).float() for side, centre in zip(
                (row, column), centres)]
            inside = [(distance >= 0) & (distance < cutout) for distance in inside]
            blank |= inside[0][:, :, None] & inside[1][:, None]
        index = [chosen[:, None, None], rows.clamp(0, height - 1)[:, :, None], columns.clamp(0, width - 1)[:, None]]
        index = [positions.to(device, non_blocking=True) for positions in index]
        images = data.images.permute(0, 2, 3, 1)[index[0], index[1], index[2]].permute(0, 3, 1, 2)
        images = data.normalized(images).masked_fill(blank[:, None].to(device), 0.)
        if img_size and img_size != height:
            images = F.interpolate(images, size=img_size, mode='bilinear', antialias=True, align_corners=False)
        yield images.contiguous(memory_format=torch.channels_last), data.labels[chosen.to(device)]


def _outside(positions: torch.Tensor, length: int) -> torch.Tensor:
    return (positions < 0) | (positions >= length)

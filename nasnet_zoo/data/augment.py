"""Augmentation of small images in batches, on the device that holds them."""
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
    """Yield all images once in random order, augmented and in batches. An incomplete last batch is left out.

    Random numbers are drawn for the whole batch whatever `world` is, so processes that share a batch see the images
    that a single process would see.

    Args:
        data: The images, on the device on which batches are wanted.
        batch_size: Images in a batch, over all processes.
        seed: Seed of all random numbers.
        pad: Each image is shifted by up to this many pixels in each direction: a random crop of the padded image.
        pad_mode: What padding consists of: 'zero' (the mean colour, as in Google's code) or 'edge' (the nearest pixel).
        flip: Whether to mirror images at random, half of them on average.
        cutout: Side in pixels of a square of the mean colour at a random position (DeVries & Taylor,
            arXiv:1708.04552), or 0 for none.
        img_size: Side in pixels to which the augmented images are resized, or 0 for their own.
        rank, world: This process's number and the number of processes that share each batch.

    Yields:
        Images, float32 [batch_size / world, C, H, W], channels-last and normalised, and their labels.
    """
    device, generator = data.images.device, torch.Generator().manual_seed(seed)
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
            inside_rows, inside_columns = _inside(row, centres[0], cutout), _inside(column, centres[1], cutout)
            blank |= inside_rows[:, :, None] & inside_columns[:, None]
        index = [chosen[:, None, None], rows.clamp(0, height - 1)[:, :, None], columns.clamp(0, width - 1)[:, None]]
        index = [positions.to(device, non_blocking=True) for positions in index]
        images = data.images.permute(0, 2, 3, 1)[index[0], index[1], index[2]].permute(0, 3, 1, 2)
        images = data.normalized(images).masked_fill(blank[:, None].to(device), 0.)
        if img_size and img_size != height:
            images = F.interpolate(images, size=img_size, mode='bilinear', antialias=True, align_corners=False)
        yield images.contiguous(memory_format=torch.channels_last), data.labels[chosen.to(device)]


def _outside(positions: torch.Tensor, length: int) -> torch.Tensor:
    """Return which positions are not in an image of this length."""
    return (positions < 0) | (positions >= length)


def _inside(positions: torch.Tensor, centre: torch.Tensor, side: int) -> torch.Tensor:
    """Return which positions lie in a square of this side whose centre is a fraction of the image's length."""
    distance = (positions - (centre * len(positions)).floor() + side // 2).float()
    return (distance >= 0) & (distance < side)

"""Augmentation in batches does to each image what it says."""
import pytest
import torch
from torch.nn import functional as F

from nasnet_zoo.data import ImageSet
from nasnet_zoo.data.augment import augmented_batches

SIDE = 6
NOTHING = dict(pad=0, flip=False)


def images(count=16, channels=3):
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(1, 256, (count, channels, SIDE, SIDE + 1), generator=generator, dtype=torch.uint8)
    return ImageSet(pixels, torch.arange(count), (0.5,) * channels, (0.25,) * channels, tuple(map(str, range(count))))


def test_each_image_once_in_another_order():
    data = images()
    (first, labels), (_, others) = augmented_batches(data, 8, seed=0, **NOTHING)
    assert sorted([*labels.tolist(), *others.tolist()]) == list(range(16)) and labels.tolist() != list(range(8))
    assert torch.equal(first, data.normalized()[labels])
    assert first.is_contiguous(memory_format=torch.channels_last)
    again, other = (next(augmented_batches(data, 8, seed))[1].tolist() for seed in (0, 1))
    assert again == labels.tolist() != other


def test_the_incomplete_batch_is_left_out():
    assert [len(labels) for _, labels in augmented_batches(images(16), 5, seed=0)] == [5, 5, 5]


@pytest.mark.parametrize('mode, torch_mode', [('zero', 'constant'), ('edge', 'replicate')])
def test_every_crop_and_mirror(mode, torch_mode):
    data = images(32)
    padded = F.pad(data.normalized(), [2] * 4, mode=torch_mode)
    seen = set()
    for seed in range(20):
        for batch, labels in augmented_batches(data, 16, seed, pad=2, pad_mode=mode):
            for image, label in zip(batch, labels.tolist()):
                found = [(top, left, flipped) for top in range(5) for left in range(5) for flipped in (False, True)
                         if torch.equal(image.flip(-1) if flipped else image,
                                        padded[label, :, top:top + SIDE, left:left + SIDE + 1])]
                assert len(found) == 1, 'one crop, mirrored or not'
                seen.update(found)
    assert len(seen) == 50


def test_cutout_is_one_square_of_the_mean_colour():
    areas = []
    for batch, labels in augmented_batches(images(64), 64, seed=0, cutout=4, **NOTHING):
        for image, label in zip(batch, labels):
            blank = (image == 0).all(0)
            rows, columns = (blank.any(1 - axis).nonzero().flatten() for axis in (0, 1))
            assert len(rows) * len(columns) == blank.sum() <= 16
            areas.append(blank.sum().item())
            kept = images(64).normalized()[label]
            assert torch.equal(image[:, ~blank], kept[:, ~blank])
    assert max(areas) == 16 and min(areas) < 16, 'also over the border'


def test_resized():
    (batch, labels), = augmented_batches(images(4), 4, seed=0, img_size=3, **NOTHING)
    assert batch.shape == (4, 3, 3, 3)
    expected = F.interpolate(images(4).normalized()[labels], size=3, mode='bilinear', antialias=True)
    torch.testing.assert_close(batch, expected)


def test_processes_share_what_one_would_see():
    options = dict(pad=2, cutout=2, seed=3)
    whole = list(augmented_batches(images(), 8, **options))
    parts = [list(augmented_batches(images(), 8, rank=rank, world=2, **options)) for rank in range(2)]
    for batch, (left, right) in zip(whole, zip(*parts)):
        for i in range(2):
            assert torch.equal(batch[i], torch.cat([left[i], right[i]]))

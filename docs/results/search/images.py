"""How much the difference of two cells depends on the test images: images.py COMPARISON CELL OTHER DATA

COMPARISON is a folder of nasnet-zoo compare, CELL and OTHER are names of cells in it, and DATA is its data set. The
models of all seeds that both cells have are tested again, image by image. The standard error over images is that of the
mean over images of the difference, which is itself a mean over seeds. It contains a part of the noise of the seeds, so
the interval that combines both is a little too wide.
"""
import statistics
import sys
from pathlib import Path

import torch

from nasnet_zoo.data.datasets import load_data
from nasnet_zoo.data.preprocessing import make_preprocessing
from nasnet_zoo.zoo import build


@torch.inference_mode()
def correct(model, images):
    """Return for each image whether a model is right, float32 [n]."""
    return torch.cat([model(batch).argmax(1) == labels for batch, labels in images.batches(256)]).float()


def main(comparison, cell, other, data):
    runs = {seed: [Path(comparison, 'runs', f'{name}-{seed}') for name in (cell, other)] for seed in range(100)}
    seeds = [seed for seed in runs if all((run / 'model.safetensors').exists() for run in runs[seed])]
    models = [[build(str(run), pretrained=True).eval() for run in runs[seed]] for seed in seeds]
    images = load_data(data, preprocessing=make_preprocessing(models[0][0]))[1]
    gaps = torch.stack([100 * (correct(ours, images) - correct(theirs, images)) for ours, theirs in models])
    mean = gaps.mean().item()
    over_seeds = statistics.stdev(gaps.mean(1).tolist()) / len(seeds) ** 0.5
    over_images = gaps.mean(0).std().item() / gaps.shape[1] ** 0.5
    half = 1.96 * (over_seeds ** 2 + over_images ** 2) ** 0.5
    print(f'{cell} - {other}, seeds {seeds}: {mean:.2f} points; standard error over seeds {over_seeds:.2f}, over images '
          f'{over_images:.2f}; 95 % interval of both {mean - half:.2f} to {mean + half:.2f}')


if __name__ == '__main__':
    main(*sys.argv[1:])

"""The commands that train and validate."""
import json
import os
from pathlib import Path
from typing import Any, Dict, Optional

import typer

from ..data.datasets import DATA_SETS
from ..progress import line_printer, make_progress
from ..training.config import TrainConfig
from .common import AsJson, exit_on_error, print_report
from .options import with_settings

__all__ = ['train', 'validate']


@with_settings(TrainConfig)
def train(config: TrainConfig) -> None:
    """Train a network, and write checkpoints, logs and the trained model to a folder.

    The defaults of the training options are those of the NASNet paper for CIFAR; --recipe chooses others. Run this
    command under torchrun to train with several processes.
    """
    from ..training.run import run_training
    bar = make_progress('epoch {task.fields[epoch]}', quiet=os.environ.get('RANK', '0') != '0', after=(
        'loss {task.fields[loss]:.3f}  accuracy {task.fields[accuracy]:.1%}  '
        '{task.fields[images_per_second]:.0f} img/s'))
    with exit_on_error(config.out / 'run.json'), bar as progress:
        task = progress.add_task('', total=None, epoch=0, loss=float('nan'), accuracy=0., images_per_second=0.)
        report = run_training(
            config, say=line_printer(progress),
            on_step=lambda s: progress.update(
                task, completed=s['step'], total=s['steps'], **{k: s[k] for k in progress.tasks[0].fields}))
    if report:
        print(json.dumps(report))


def validate(
        source: str = typer.Argument(
            metavar='MODEL', help='The name of a model that has weights, a model folder, or hf-hub:OWNER/NAME.'),
        data: str = typer.Option(..., help=(
            f"Data set: {', '.join(DATA_SETS)}, a folder or archive of images (train/CLASS/IMAGE and "
            "test/CLASS/IMAGE), or one of timm's data sets such as hfds/….")),
        split: str = typer.Option('test', help='Which images to use: test or train.'),
        data_root: Optional[Path] = typer.Option(None, help="Folder in which torchvision or timm stores data sets."),
        download: bool = typer.Option(False, '--download', help=(
            'Let torchvision or timm download the data set if it is missing.')),
        batch_size: int = typer.Option(256, min=1, help='Number of images in a batch.'),
        device: str = typer.Option('auto', help=(
            'Device to run the model on: auto, cpu, mps, cuda, cuda:1, …. auto is a GPU if there is one.')),
        record: bool = typer.Option(False, '--record', help='Write the result into the metadata of the weight file.'),
        as_json: AsJson = False,
) -> None:
    """Measure the top-1 and top-5 accuracy of a trained model, with a confidence interval."""
    from ..training.validate import validate as measure
    with exit_on_error(), make_progress('{task.description}', transient=True) as progress:
        task = progress.add_task('images', total=None)
        result = measure(
            source, data, split, data_root, download, batch_size, device, record,
            on_batch=lambda seen, count: progress.update(task, completed=seen, total=count))
    print_report(result, as_json, _print_accuracy)
    if record and not as_json:
        print('The result was written into the metadata of the weight file.')


def _print_accuracy(result: Dict[str, Any]) -> None:
    low, high = result['interval_95']
    print(f'{result["model"]} on {result["dataset"]} {result["split"]}: top-1 {result["top1"]:.2%} (95 % interval '
          f'{low:.2%} to {high:.2%}), top-5 {result["top5"]:.2%}, loss {result["loss"]:.4f} '
          f'({result["count"]:,} images)')

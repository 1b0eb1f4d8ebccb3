"""The commands that train and validate."""
import inspect
import json
import os
import typing
from pathlib import Path
from typing import Any, Callable, Optional

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ..data.datasets import DATA_SETS
from ..training.config import TrainConfig
from ..training.recipe import Recipe
from .common import drop_none, exit_on_error
from .options import with_settings

__all__ = ['train', 'validate', 'with_recipe']


def with_recipe(usual: Recipe) -> Callable:
    """The command with an option for each field of a recipe, handed on as ``recipe``, a dict of those drop_none.

    Args:
        usual: What the command does without them.
    """
    def with_options(command: Callable) -> Callable:
        def run(**options: Any) -> None:
            recipe = {name: options.pop(name) for name in Recipe.model_fields}
            if recipe['sizes']:
                try:
                    pairs = [pair.split(':') for pair in recipe['sizes'].split(',')]
                    recipe['sizes'] = [(int(epoch), int(side)) for epoch, side in pairs]
                except ValueError:
                    raise typer.BadParameter(f'--sizes: {recipe["sizes"]!r} is not of the form 0:16,10:32') from None
            command(**options, recipe=drop_none(**recipe))

        signature = inspect.signature(command)
        parameters = [p for p in signature.parameters.values() if p.name != 'recipe']
        for name, field in Recipe.model_fields.items():
            kind = str if name == 'sizes' or typing.get_origin(field.annotation) else field.annotation
            flags = f'--{name.replace("_", "-")}' + (f'/--no-{name.replace("_", "-")}' if kind is bool else '')
            shown = getattr(usual, name) or 'none' if name == 'sizes' else getattr(usual, name)
            parameters.append(inspect.Parameter(
                name, inspect.Parameter.KEYWORD_ONLY, annotation=Optional[kind], default=typer.Option(
                    None, flags, help=f'{field.description or ""} [{shown}]', rich_help_panel='Recipe')))
        run.__signature__ = signature.replace(parameters=parameters)
        run.__annotations__ = {p.name: p.annotation for p in parameters}
        run.__name__, run.__doc__ = command.__name__, command.__doc__
        return run
    return with_options


@with_settings(TrainConfig)
def train(config: TrainConfig) -> None:
    """Train a network and write it to a folder, with checkpoints and logs.

    The defaults of the recipe are the paper's for CIFAR. Under torchrun, several processes share the training.
    """
    from ..training.run import run_training
    columns = (TextColumn('epoch {task.fields[epoch]}'), BarColumn(), MofNCompleteColumn(), TextColumn(
        'loss {task.fields[loss]:.3f}  accuracy {task.fields[accuracy]:.1%}  '
        '{task.fields[images_per_second]:.0f} img/s'), TimeRemainingColumn())
    console = Console(highlight=False, stderr=True, quiet=os.environ.get('RANK', '0') != '0')
    with exit_on_error(), Progress(*columns, console=console) as progress:
        task = progress.add_task('', total=None, epoch=0, loss=float('nan'), accuracy=0., images_per_second=0.)
        report = run_training(
            config, say=progress.console.print,
            on_step=lambda s: progress.update(
                task, completed=s['step'], total=s['steps'], **{k: s[k] for k in progress.tasks[0].fields}))
    if report:
        print(json.dumps(report))


def validate(
        source: str = typer.Argument(
            metavar='MODEL', help='A model name with weights, a model folder, or hf-hub:OWNER/NAME.'),
        data: str = typer.Option(..., help=(
            f"Data set: {', '.join(DATA_SETS)}, a folder or archive of pictures (train/CLASS/PICTURE and "
            "test/CLASS/PICTURE), or one of timm's data sets such as hfds/….")),
        split: str = typer.Option('test', help='Which images to use: test or train.'),
        data_root: Optional[Path] = typer.Option(None, help="Folder of torchvision's or timm's data sets."),
        download: bool = typer.Option(False, '--download', help='Let torchvision or timm download the data set.'),
        batch_size: int = typer.Option(256, min=1, help='Images in a batch.'),
        device: str = typer.Option('cpu', help='cpu, cuda, …'),
        record: bool = typer.Option(False, '--record', help='Write the result into the weight file.'),
        as_json: bool = typer.Option(False, '--json', help='Print the result as JSON.'),
) -> None:
    """Measure the top-1 and top-5 accuracy of a trained model, with a confidence interval."""
    from ..training.validate import validate as measure
    columns = TextColumn('{task.description}'), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with exit_on_error(), Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task('images', total=None)
        result = measure(
            source, data, split, data_root, download, batch_size, device, record,
            on_batch=lambda seen, count: progress.update(task, completed=seen, total=count))
    if as_json:
        print(json.dumps(result))
        return
    low, high = result['interval_95']
    print(f'{source} on {result["dataset"]} {split}: top-1 {result["top1"]:.2%} (95 % interval {low:.2%} to '
          f'{high:.2%}), top-5 {result["top5"]:.2%} of {result["count"]:,} images'
          + (', recorded in the weight file' if record else ''))

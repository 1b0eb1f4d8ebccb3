"""The commands that train and validate."""
import inspect
import json
import os
import typing
from pathlib import Path
from typing import Any, Callable, Dict, Optional

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ..training.recipe import Recipe
from .common import drop_none, exit_on_error

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


@with_recipe(Recipe())
def train(
        source: str = typer.Argument(metavar='NAME_OR_JSON', help='A model, a shipped genotype or a path of one.'),
        data: str = typer.Option('digits', help='digits, cifar10, cifar100, a folder or archive, or hfds/… and such.'),
        out: Path = typer.Option(..., help='Folder of the run.'),
        resume: bool = typer.Option(False, '--resume', help="Go on from the run's last checkpoint."),
        val_share: float = typer.Option(0., help='Share of the training images held out to watch the run by.'),
        data_root: Optional[Path] = typer.Option(None, help="Where torchvision's or timm's data set lies."),
        download: bool = typer.Option(False, '--download', help='Let torchvision or timm download.'),
        img_size: Optional[int] = typer.Option(None, help='Side of the images.'),
        num_cells: Optional[int] = typer.Option(None, help='Normal cells in each stage, N.'),
        cell_filters: Optional[int] = typer.Option(None, help="Filters of the first stage's cells, F."),
        filters: Optional[int] = typer.Option(None, help='Width of the penultimate layer, the F of "N @ F".'),
        stem: Optional[str] = typer.Option(None, help='imagenet or cifar.'),
        drop_path_rate: float = typer.Option(0.4, help='Of the last cell at the end; 1 minus the keep probability.'),
        aux_head: bool = typer.Option(True, help='Train with the auxiliary classifier.'),
        pretrained: bool = typer.Option(False, '--pretrained', help='Begin with published weights.'),
        device: Optional[str] = typer.Option(None, help='cuda if there is one, else cpu.'),
        workers: int = typer.Option(2, min=0, help='Processes that read large images.'),
        recipe: Dict[str, Any] = {},  # noqa: B006
) -> None:
    """Train a network; the recipe's defaults are the paper's for CIFAR. Under torchrun, on many GPUs."""
    from ..training.run import run_training
    options = drop_none(img_size=img_size, num_cells=num_cells, cell_filters=cell_filters, filters=filters, stem=stem)
    options.update(drop_path_rate=drop_path_rate, aux_head=aux_head)
    if pretrained:
        options['pretrained'] = True
    columns = (TextColumn('epoch {task.fields[epoch]}'), BarColumn(), MofNCompleteColumn(), TextColumn(
        'loss {task.fields[loss]:.3f}  accuracy {task.fields[accuracy]:.1%}  '
        '{task.fields[images_per_second]:.0f} img/s'), TimeRemainingColumn())
    console = Console(highlight=False, stderr=True, quiet=os.environ.get('RANK', '0') != '0')
    with exit_on_error(), Progress(*columns, console=console) as progress:
        task = progress.add_task('', total=None, epoch=0, loss=float('nan'), accuracy=0., images_per_second=0.)
        report = run_training(
            source, options, data, recipe, out, resume=resume, val_share=val_share, data_root=data_root,
            download=download, device=device, workers=workers, say=progress.console.print,
            on_step=lambda s: progress.update(
                task, completed=s['step'], total=s['steps'], **{k: s[k] for k in progress.tasks[0].fields}))
    if report:
        print(json.dumps(report))


def validate(
        source: str = typer.Argument(metavar='MODEL', help='A name with weights, a model folder or hf-hub:OWNER/NAME.'),
        data: str = typer.Option(..., help='digits, cifar10, cifar100, a folder or archive, or hfds/… and such.'),
        split: str = typer.Option('test', help='test or train.'),
        data_root: Optional[Path] = typer.Option(None, help="Where torchvision's or timm's data set lies."),
        download: bool = typer.Option(False, '--download', help='Let torchvision or timm download.'),
        batch_size: int = typer.Option(256, min=1, help='Images at a time.'),
        device: str = typer.Option('cpu', help='cpu, cuda, …'),
        record: bool = typer.Option(False, '--record', help='Write the result into the weight file.'),
        as_json: bool = typer.Option(False, '--json', help='Print JSON.'),
) -> None:
    """Top-1 and top-5 accuracy of a trained model, with a confidence interval."""
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

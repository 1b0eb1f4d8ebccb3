"""The ``nasnet-zoo`` command."""
import inspect
import json
import os
import sys
import tempfile
import typing
import warnings
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from ..training.recipe import CHILDREN, Recipe
from . import deploy as cli_deploy
from .common import drop_none, exit_on_error

app = typer.Typer(no_args_is_help=True, add_completion=False, help='Genotypes, and the networks compiled from them.')


@app.callback()
def main() -> None:
    """Genotypes, and the networks compiled from them."""
    warnings.showwarning = lambda message, *args, **kwargs: print(f'warning: {message}', file=sys.stderr)


@app.command()
def describe(
        source: str = typer.Argument(metavar='NAME_OR_JSON', help='A model, a shipped genotype or a path of one.'),
        num_cells: Optional[int] = typer.Option(None, help='Normal cells in each stage, N.'),
        cell_filters: Optional[int] = typer.Option(None, help="Filters of the first stage's cells, F."),
        filters: Optional[int] = typer.Option(None, help='Width of the penultimate layer, the F of "N @ F".'),
        stem: Optional[str] = typer.Option(None, help='imagenet or cifar.'),
        img_size: Optional[int] = typer.Option(None, help="Side of the input; the network's usual one by default."),
        num_classes: Optional[int] = typer.Option(None, help='Width of the logits.'),
        as_json: bool = typer.Option(False, '--json', help='Print JSON.'),
        draw: Optional[Path] = typer.Option(None, help='Also draw both cells: a .svg, .png or .pdf file.'),
) -> None:
    """Cells, parameters, mult-adds and feature shapes of a model or a genotype."""
    from ..description import cell_lines
    from ..description import describe as measure
    from ..genotype.loader import load_genotype
    options = drop_none(
        num_cells=num_cells, cell_filters=cell_filters, filters=filters, stem=stem, num_classes=num_classes)
    with exit_on_error():
        report = measure(source, img_size, **options)
        genotype = load_genotype(report['genotype'])
        if draw:
            from ..drawing import draw as draw_cells
            draw_cells(genotype, draw)
    if as_json:
        print(json.dumps(report))
        return
    console = Console(highlight=False)
    skeleton = report['skeleton']
    console.print(f'[bold]{escape(source)}[/]: genotype {genotype.name}, N = {skeleton["num_cells"]}, '
                  f'F = {skeleton["cell_filters"]}, {skeleton["stem"]} stem, input {_shape(report["input_size"])}')
    for kind, cell in genotype.cells.items():
        console.print(f'\n[bold]{kind} cell[/]')
        for line in cell_lines(cell):
            console.print(f'  {line}', markup=False)
    table = Table('features', 'stride', 'shape', title='Where features can be read', title_justify='left')
    for feature in report['features']:
        table.add_row(feature['module'], str(feature['reduction']), _shape(feature['shape']))
    console.print('', table)
    table = Table('part', 'kind', 'F', 'parameters', 'mult-adds', title='Cost of one image', title_justify='left')
    for cell in report['cells']:
        table.add_row(cell['name'], cell['kind'], str(cell['filters']), f'{cell["params"]:,}', f'{cell["macs"]:,}')
    table.add_row('all, with stem and head', '', '', f'{report["params"]:,}', f'{report["macs"]:,}', style='bold')
    console.print(table)
    if draw:
        console.print(f'drawn: {draw}', markup=False)


def _shape(sizes) -> str:
    return ' x '.join(map(str, sizes))


def _with_recipe(usual: Recipe) -> Callable:
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


@app.command()
@_with_recipe(Recipe())
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


@app.command()
@_with_recipe(CHILDREN)
def search(
        out: Path = typer.Option(..., help='Folder of the search.'),
        data: str = typer.Option('digits', help='digits, cifar10, cifar100, or a folder or archive of small pictures.'),
        space: str = typer.Option('nasnet', help='nasnet or darts.'),
        blocks: Optional[int] = typer.Option(None, min=1, help="A cell's blocks; 5 (nasnet) or 4 (darts) by default."),
        sampler: str = typer.Option('ppo', help='ppo, evolution, random, tpe or nsga2.'),
        preset: str = typer.Option('fast', help="PPO's: fast (hundreds of children) or paper (20,000)."),
        trials: int = typer.Option(100, min=1, help='Different children, with failed ones and those before --resume.'),
        workers: Optional[int] = typer.Option(
            None, min=1, help='Children at a time, which share the cores; 1, or as many as a cluster has room for.'),
        ray: Optional[str] = typer.Option(None, help='Train on a Ray cluster: auto, HOST:PORT, ray://… or local.'),
        cpus_per_child: float = typer.Option(1., help='Of a cluster.'),
        gpus_per_child: float = typer.Option(0., help='Of a cluster; a part of one lets children share it.'),
        resume: bool = typer.Option(False, '--resume', help='Go on with the search in --out.'),
        status: bool = typer.Option(False, '--status', help='Print the finished children and end.'),
        warm_start: Optional[str] = typer.Option(None, help='A cell.json or a shipped genotype to begin with.'),
        prune: Optional[str] = typer.Option(None, help='Give children up early: median, halving or hyperband.'),
        objective: Optional[str] = typer.Option(None, help='A second one, the less the better: params, macs, latency.'),
        cost_target: Optional[float] = typer.Option(None, help="Of --objective; by default NASNet-A's as a child."),
        baseline: Optional[Path] = typer.Option(None, help="Another search's folder, to show in the report."),
        storage: Optional[str] = typer.Option(None, help="Optuna's URL of a storage; by default a journal in --out."),
        data_root: Optional[Path] = typer.Option(None, help="Where torchvision's data set lies."),
        download: bool = typer.Option(False, '--download', help='Let torchvision download.'),
        num_cells: int = typer.Option(2, min=1, help="A child's normal cells in each stage, N."),
        cell_filters: int = typer.Option(32, min=1, help="Filters of a child's first cells, F."),
        val_share: float = typer.Option(0.1, help='Share of the training images held out for the reward.'),
        img_size: Optional[int] = typer.Option(None, min=4, help='Resize the images to this side.'),
        limit_train: Optional[int] = typer.Option(None, help='Train children on so many images.'),
        max_params: Optional[int] = typer.Option(None, help='Refuse larger children.'),
        max_macs: Optional[int] = typer.Option(None, help='Refuse costlier children.'),
        time_limit: Optional[float] = typer.Option(None, help='Seconds a child may train.'),
        top: int = typer.Option(3, min=1, help='So many of the best are trained again.'),
        final_epochs: Optional[int] = typer.Option(None, min=1, help='For so long; three times --epochs by default.'),
        as_json: bool = typer.Option(False, '--json', help='Print JSON.'),
        recipe: Dict[str, Any] = {},  # noqa: B006
) -> None:
    """Search for a new cell: a sampler asks for children, which are trained, and is told how good they are.

    The recipe is the children's; its seed is the sampler's too.
    """
    with exit_on_error():
        try:
            import optuna
        except ImportError:
            raise ImportError('a search needs Optuna: pip install nasnet-zoo[search]') from None
        from ..search.run import Cluster, run_search, search_status
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        if status:
            _show_children(search_status(out, storage), as_json)
            return
        child = drop_none(num_cells=num_cells, cell_filters=cell_filters, val_share=val_share, img_size=img_size,
                       limit_train=limit_train, max_params=max_params, max_macs=max_macs, time_limit=time_limit,
                       recipe=recipe)
        columns = (BarColumn(), MofNCompleteColumn(), TextColumn('best {task.fields[best]:.2%}  {task.fields[per_hour]:'
                   '.0f} children an hour  {task.fields[failed]} failed {task.fields[why]}'), TimeRemainingColumn())
        with Progress(*columns, console=Console(highlight=False, stderr=True)) as progress:
            task = progress.add_task('', total=trials, best=float('nan'), per_hour=0., failed=0, why='')
            report = run_search(
                out, data, space, blocks, sampler, preset, trials, recipe.get('seed', 0), workers,
                Cluster(ray, cpus_per_child, gpus_per_child) if ray else None, resume, child, top, final_epochs,
                warm_start, prune, objective, cost_target, baseline, storage, data_root, download,
                say=lambda line: progress.console.print(line, markup=False),
                on_progress=lambda now: progress.update(
                    task, completed=now.finished, best=float('nan') if now.best is None else now.best,
                    per_hour=now.per_hour, failed=now.failed,
                    why=escape(f'(the last: {now.failures[-1]})') if now.failures else ''))
    if as_json:
        print(json.dumps(report))
        return
    print(f'{report["genotype"]}: {report["accuracy"]:.2%} on images held out, {report["params"]:,} parameters\n'
          f'{report["cell"]}\n\nimport nasnet_zoo\nmodel = nasnet_zoo.compile_genotype({report["cell"]!r}, '
          'num_cells=4, cell_filters=44)')


def _show_children(children: List[Dict[str, Any]], as_json: bool) -> None:
    if as_json:
        print(json.dumps(children))
        return
    table = Table('child', 'accuracy', 'parameters', 'mult-adds', 'architecture', title=f'{len(children)} children',
                  title_justify='left')
    for child in sorted(children, key=lambda child: -child['value'])[:20]:
        table.add_row(str(child['number']), f'{child["value"]:.2%}', f'{child["params"]:,}', f'{child["macs"]:,}',
                      child['architecture'][:12])
    Console().print(table)


@app.command()
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


@app.command()
def push(
        source: str = typer.Argument(metavar='FOLDER_OR_MODEL', help='A run, a model folder, or a name with weights.'),
        repo_id: str = typer.Argument(metavar='OWNER/NAME', help='Repository on the hub; made if need be.'),
        private: bool = typer.Option(False, '--private', help='Make the repository private.'),
        revision: Optional[str] = typer.Option(None, help='Branch; made if need be.'),
        license: Optional[str] = typer.Option(
            None, help="The hub's word for the licence of the weights; by default what the model says, or apache-2.0."),
        tag: List[str] = typer.Option([], help='A tag for the model card; may be repeated.'),
        onnx: bool = typer.Option(False, '--onnx', help='Add model.onnx.'),
        out: Optional[Path] = typer.Option(None, help='Folder to write a named model to; a temporary one by default.'),
        message: str = typer.Option('Upload a model of nasnet-zoo', help='Of the commit.'),
        dry_run: bool = typer.Option(False, '--dry-run', help='Write the folder and say what would be pushed.'),
        as_json: bool = typer.Option(False, '--json', help='Print JSON.'),
) -> None:
    """Write a model folder and push it to the Hugging Face hub as one commit."""
    from ..hub.folder import prepare
    from ..hub.folder import push as push_folder
    with exit_on_error():
        folder = prepare(source, out or Path(tempfile.mkdtemp()), repo_id, license, tag, onnx)
        report = push_folder(folder, repo_id, private, revision, message, dry_run=dry_run)
    if as_json:
        print(json.dumps(report))
        return
    for name, size in report['files'].items():
        print(f'{size:>12,}  {folder / name}')
    print(f'would be pushed to {repo_id}, {report["revision"]}' if dry_run else f'pushed: {report["url"]}')


app.command()(cli_deploy.export)
app.command()(cli_deploy.classify)

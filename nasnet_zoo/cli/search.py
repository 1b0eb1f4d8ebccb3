"""The command that searches for cells."""
import json
from pathlib import Path
from typing import Any, Dict, List, Optional

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from ..training.recipe import CHILDREN
from .common import drop_none, exit_on_error
from .training import with_recipe

__all__ = ['search']


@with_recipe(CHILDREN)
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

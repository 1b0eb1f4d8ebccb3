"""A training run as a folder: checkpoints to resume from, logs, a curve, and the trained model at the end.

    run.json                what was asked for: model, data, recipe, versions
    checkpoint.safetensors  all that the next epoch needs, after each epoch
    log.csv                 a row an epoch; also tensorboard/ where TensorBoard is installed
    curve.png               the rows as a picture
    model.safetensors, config.json, report.json   the model in timm's hub layout, and its accuracy
"""
import csv
import json
import os
import platform
import time
import warnings
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Tuple

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from timm import list_models
from timm.models import get_pretrained_cfg
from torch import distributed

from ..data.datasets import DATA_SETS, AnySet, FileSet, data_name, load_data
from ..files import atomic_write, read_safetensors
from ..hub.folder import WEIGHTS, write_folder
from ..network.nasnet import NASNet
from ..zoo import build
from .metrics import evaluate
from .recipe import Recipe
from .trainer import Trainer, keep_freed_memory

__all__ = ['Run', 'RunError', 'run_training', 'changes', 'versions']

_COLUMNS = ('epoch', 'loss', 'accuracy', 'val_accuracy', 'lr', 'images_per_second', 'seconds')


class RunError(ValueError):
    """A run that cannot begin or go on, and why."""


def _flat(settings: Dict[str, Any]) -> Dict[str, Any]:
    """Settings in one level: 'recipe.lr' and so on."""
    level = {}
    for name, value in settings.items():
        if isinstance(value, dict):
            level.update((f'{name}.{inner}', inner_value) for inner, inner_value in _flat(value).items())
        else:
            level[name] = value
    return level


def changes(known: Dict[str, Any], asked: Dict[str, Any]) -> str:
    """What differs between two settings, in words; nothing for the same."""
    old, new = _flat(known), _flat(asked)
    return '; '.join(f'{name} was {old.get(name)!r} and is {new.get(name)!r}'
                     for name in {**old, **new} if old.get(name) != new.get(name))


def versions() -> Dict[str, str]:
    """Of what a figure depends on."""
    packages = ('nasnet-zoo', 'torch', 'timm', 'numpy')
    return {'python': platform.python_version(), **{name: metadata.version(name) for name in packages}}


class Run:
    """The folder of a run.

    Args:
        folder: It is made if need be.
        settings: What determines the result, as JSON data.
        resume: Whether to go on from the folder's checkpoint, whose settings must be the same.
        writes: False for the processes that share another one's run.

    Raises:
        RunError: For a folder that holds another run.
    """

    def __init__(self, folder: Path, settings: Dict[str, Any], resume: bool = False, writes: bool = True) -> None:
        self.folder, self.settings = folder, json.loads(json.dumps(settings))
        self.rows: List[Dict[str, Any]] = []
        self._board = None
        if not writes:
            return
        known = self._read_settings()
        kept = [name for name in (self.checkpoint.name, WEIGHTS) if (folder / name).exists()]
        if kept and not resume:
            raise RunError(f'{folder}: has a {kept[0]} already; --resume goes on with it, another --out begins anew')
        if resume and known is None:
            raise RunError(f'{folder}: there is no run to resume')
        if kept and known['settings'] != self.settings:
            raise RunError(f'{folder}: is a run of other settings: {changes(known["settings"], self.settings)}')
        folder.mkdir(parents=True, exist_ok=True)
        for part in folder.glob('.checkpoint.safetensors.*'):  # of a process killed while it wrote
            part.unlink()
        if not kept:
            self._write_json('run.json', dict(settings=self.settings, versions=versions()))

    def _read_settings(self) -> Optional[Dict[str, Any]]:
        path = self.folder / 'run.json'
        try:
            return json.loads(path.read_text()) if path.exists() else None
        except json.JSONDecodeError as error:
            raise RunError(f'{path}: is no JSON: {error}') from None

    def _write_json(self, name: str, data: Any) -> None:
        with atomic_write(self.folder / name) as part:
            part.write_text(json.dumps(data, indent=2) + '\n')

    @property
    def checkpoint(self) -> Path:
        return self.folder / 'checkpoint.safetensors'

    def save(self, trainer: Trainer, row: Dict[str, Any]) -> None:
        """Keep an epoch: its row of the log and the checkpoint, which holds all rows.

        Raises:
            RunError: Where it cannot be written; the last checkpoint stays.
        """
        self.rows.append(row)
        tensors, rest = trainer.state()
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        kept = row['epoch'] - 1
        try:
            with atomic_write(self.checkpoint) as part:
                save_file(tensors, part, metadata=dict(state=json.dumps(rest), rows=json.dumps(self.rows)))
            kept = row['epoch']
            with atomic_write(self.folder / 'log.csv') as part, part.open('w', newline='') as file:
                writer = csv.DictWriter(file, _COLUMNS)
                writer.writeheader()
                writer.writerows(self.rows)
            self._to_board(row)
        except (OSError, SafetensorError) as error:
            raise RunError(f'{self.folder}: epoch {row["epoch"]} cannot be written: {error}. The checkpoint of epoch '
                           f'{kept} stays; make room and --resume') from None

    def load(self, trainer: Trainer) -> bool:
        """Bring a trainer to the last checkpoint; False where there is none.

        Raises:
            RunError: For a checkpoint that does not fit.
        """
        if not self.checkpoint.exists():
            return False
        try:
            tensors, facts = read_safetensors(self.checkpoint)
            self.rows = json.loads(facts['rows'])
            trainer.load_state(tensors, json.loads(facts['state']))
        except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
            raise RunError(f'{self.checkpoint}: cannot be resumed from: {error}') from None
        return True

    def _to_board(self, row: Dict[str, Any]) -> None:
        """To TensorBoard, with the epochs before this process's own, once."""
        if find_spec('tensorboard') is None:
            return
        rows = [row]
        if self._board is None:
            with warnings.catch_warnings():
                warnings.simplefilter('ignore')
                from torch.utils.tensorboard import SummaryWriter
            folder = self.folder / 'tensorboard'
            for old in folder.glob('events.*'):
                old.unlink()
            self._board, rows = SummaryWriter(str(folder)), self.rows
        for kept in rows:
            for name, value in kept.items():
                if name != 'epoch' and value is not None:
                    self._board.add_scalar(name, value, kept['epoch'])
        self._board.flush()

    def draw_curve(self) -> Optional[Path]:
        """Loss and accuracies by epoch as curve.png; None without matplotlib."""
        if find_spec('matplotlib') is None or not self.rows:
            return None
        from matplotlib.figure import Figure
        figure = Figure(figsize=(8, 4), layout='constrained')
        losses = figure.add_subplot()
        epochs = [row['epoch'] for row in self.rows]
        losses.plot(epochs, [row['loss'] for row in self.rows], color='tab:gray', label='training loss')
        losses.set(xlabel='epoch', ylabel='loss')
        shares = losses.twinx()
        for name, label in (('accuracy', 'training accuracy (augmented)'), ('val_accuracy', 'validation accuracy')):
            known = [(row['epoch'], 100 * row[name]) for row in self.rows if row.get(name) is not None]
            if known:
                shares.plot(*zip(*known), label=f'{label}, {known[-1][1]:.2f} % at the end')
        shares.set_ylabel('accuracy, %')
        figure.legend(loc='outside upper center', ncols=3)
        with atomic_write(self.folder / 'curve.png') as part:
            figure.savefig(part, dpi=100)
        return self.folder / 'curve.png'

    def finish(self, model: NASNet, data: AnySet, report: Dict[str, Any]) -> None:
        """Write the trained model in timm's hub layout, and what it reached.

        Raises:
            RunError: Where it cannot be written; --resume tries again.
        """
        try:
            write_folder(model, self.folder, data.class_names, data.mean, data.std)
            self._write_json('report.json', report)
            self.draw_curve()
        except (OSError, SafetensorError) as error:
            raise RunError(f'{self.folder}: the model cannot be written: {error}; make room and --resume') from None

    @property
    def report(self) -> Optional[Dict[str, Any]]:
        """What :meth:`finish` wrote, None before."""
        path = self.folder / 'report.json'
        return json.loads(path.read_text()) if path.exists() and (self.folder / WEIGHTS).exists() else None


def run_training(
        source: str,
        model_args: Dict[str, Any],
        data: str,
        recipe: Dict[str, Any],
        out: Path,
        resume: bool = False,
        val_share: float = 0.,
        data_root: Optional[Path] = None,
        download: bool = False,
        device: Optional[str] = None,
        workers: int = 2,
        say: Callable[[str], None] = print,
        on_step: Optional[Callable[[Dict[str, Any]], None]] = None,
) -> Optional[Dict[str, Any]]:
    """Train what `source` names from beginning to end, or from the last checkpoint to the end, in a folder.

    Under torchrun each process calls it; the first one writes.

    Args:
        source: A model of the zoo, a shipped genotype or a path of one.
        model_args: For the network.
        data: What ``load_data`` takes.
        recipe: Fields of :class:`~nasnet_zoo.training.trainer.Recipe`.
        out: The run's folder.
        resume: Go on with the run in `out`.
        val_share: Share of the training images that is held out, to watch the run by.
        device: cuda if there is one, else cpu.
        workers: Processes that read large images.
        say: Called with each line for people.
        on_step: See :func:`~nasnet_zoo.training.trainer.train`.

    Returns:
        The report, JSON data; None in all processes but the first.
    """
    rank = int(os.environ.get('RANK', 0))
    if device is None:
        device = f'cuda:{os.environ.get("LOCAL_RANK", 0)}' if torch.cuda.is_available() else 'cpu'
    if torch.device(device).type == 'cuda':
        torch.cuda.set_device(device)
    keep_freed_memory()
    if 'WORLD_SIZE' in os.environ and not distributed.is_initialized():
        distributed.init_process_group('gloo' if device == 'cpu' else 'nccl')
    checked = Recipe.create(**recipe)
    train_set, val_set, model = _prepare(
        source, dict(model_args), data, val_share, data_root, download, checked, workers)
    settings = dict(
        source=Path(source).name, model=model.config, pretrained=bool(model_args.get('pretrained')),
        data=data_name(data), val_share=val_share, train_images=train_set.size(),
        recipe=checked.model_dump(mode='json'))
    trainer = Trainer(model, train_set, checked, device)
    run = Run(out, settings, resume, writes=rank == 0)
    if resume and run.load(trainer):
        say(f'resumed after epoch {trainer.epoch} of {checked.epochs}')
        if trainer.epoch == checked.epochs and run.report:
            return run.report if rank == 0 else None
    begun = time.perf_counter() - (run.rows[-1]['seconds'] if run.rows else 0.)
    while trainer.epoch < checked.epochs:
        row = trainer.run_epoch(on_step)
        if rank:
            continue
        val = evaluate(trainer.result, val_set, device=device).top1 if val_set else None
        row.update(val_accuracy=val, seconds=time.perf_counter() - begun)
        run.save(trainer, row)
        say(f'epoch {row["epoch"]}: loss {row["loss"]:.3f}, accuracy {row["accuracy"]:.2%}'
            + (f', on images held out {val:.2%}' if val is not None else ''))
    if rank:
        return None
    report = dict(settings, versions=versions(), log=run.rows[-1])
    trained = trainer.result.eval()
    trained.aux_head, trained.drop_path_rate = None, 0.  # they have done their work
    run.finish(trained, train_set, report)
    return report


def _prepare(
        source: str, model_args: Dict[str, Any], data: str, val_share: float, data_root: Optional[Path], download: bool,
        recipe: Recipe, workers: int,
) -> Tuple[AnySet, Optional[AnySet], NASNet]:
    """What to train on, what to watch by, and the network, for images of one size."""
    named = source if source in list_models(module='zoo') and data not in DATA_SETS else None
    size = model_args.pop('img_size', None) or (named and get_pretrained_cfg(named).input_size[1])
    if distributed.is_initialized() and distributed.get_rank():
        distributed.barrier()  # the first process downloads and decodes
    train_set, _ = load_data(data, data_root, size, download)
    if distributed.is_initialized() and not distributed.get_rank():
        distributed.barrier()
    train_set, val_set = train_set.split(val_share) if val_share else (train_set, None)
    if isinstance(train_set, FileSet):
        train_set = train_set._replace(workers=workers)
        val_set = val_set and val_set._replace(workers=workers)
    channels, *image = train_set.input_size
    torch.manual_seed(recipe.seed)
    model = build(source, **{
        'num_classes': len(train_set.class_names), 'in_chans': channels, **model_args, 'img_size': tuple(image)})
    return train_set, val_set, model

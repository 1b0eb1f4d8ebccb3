"""Training runs and their folders: checkpoints to resume from, logs, a plot, and the trained model at the end.

    run.json                the settings that determine the result, those of the command, and versions
    checkpoint.safetensors  everything that the next epoch needs; written after each epoch
    log.csv                 one row for each epoch; also tensorboard/ or what else --log names
    curve.png               a plot of the log
    model.safetensors, config.json, report.json   the trained model as a model folder, and its accuracy
"""
import atexit
import json
import os
import platform
import time
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Tuple

import torch
from safetensors import SafetensorError
from timm import list_models
from timm.models import get_pretrained_cfg
from torch import distributed

from ..data.datasets import DATA_SETS, AnySet, FileSet, data_name, load_data
from ..data.preprocessing import make_preprocessing
from ..files import atomic_write, check_purpose, flattened, remove_partial_files, write_json
from ..hub.folder import WEIGHTS, write_folder
from ..loggers import Loggers
from ..network.nasnet import NASNet
from ..network.skeleton import Skeleton
from ..version import __version__
from ..zoo import build, forget_origin
from .checkpoint import HasState, read_checkpoint, write_checkpoint
from .config import TrainConfig
from .device import choose_device
from .metrics import evaluate
from .recipe import with_defaults
from .trainer import OnStep, Trainer, keep_freed_memory

__all__ = ['Run', 'RunError', 'changes', 'run_settings', 'run_training', 'train_epochs', 'versions']

_COLUMNS = ('epoch', 'loss', 'accuracy', 'val_loss', 'val_accuracy', 'lr', 'images_per_second', 'seconds')


class RunError(ValueError):
    """Raised if a training run cannot be started or continued."""


def changes(known: Dict[str, Any], asked: Dict[str, Any]) -> str:
    """Return what differs between two settings as a text, which is empty if they are the same."""
    old, new = flattened(known), flattened(asked)
    return '; '.join(f'{name} was {old.get(name)!r} and is {new.get(name)!r}'
                     for name in {**old, **new} if old.get(name) != new.get(name))


def _comparable(settings: Dict[str, Any]) -> Dict[str, Any]:
    """Return the settings of a run with the fields that its version did not have, and without those of the genotype
    that say where it comes from."""
    try:
        model = {**Skeleton(stem=settings['model']['stem']).model_dump(mode='json'), **settings['model']}
        model['genotype'] = {name: value for name, value in model['genotype'].items()
                             if name not in ('source', 'search', 'results')}
        return {'val_seed': 0, **settings, 'model': model, 'recipe': with_defaults(settings['recipe'])}
    except (KeyError, TypeError, AttributeError, ValueError):
        return settings  # which are those of something else


def versions() -> Dict[str, str]:
    """Return the versions of Python and of the packages that figures depend on."""
    others = {name: metadata.version(name) for name in ('torch', 'timm', 'numpy')}
    return {'python': platform.python_version(), 'nasnet-zoo': __version__, **others}


class Run:
    """A run folder.

    Args:
        config: The settings of the command. The folder, ``config.out``, is created if necessary. With ``config.resume``
            the run in it is continued, which must have the same settings.
        settings: The settings that determine the result, as JSON data.
        was_resized: Whether images in memory were resized, see :class:`~nasnet_zoo.data.datasets.ImageSet`.
        writes: False in all processes but one, if several share the run.

    Attributes:
        loggers: A context; at its end the run ends at the services that it is logged to.

    Raises:
        RunError: If the folder holds another run.
    """

    def __init__(
            self, config: TrainConfig, settings: Dict[str, Any], was_resized: bool = False, writes: bool = True,
    ) -> None:
        self.folder, self.settings = config.out, json.loads(json.dumps(settings))
        self.rows: List[Dict[str, Any]] = []
        self.loggers = Loggers(config.log, self.folder, self.settings)
        if not writes:
            return
        check_purpose(self.folder, 'run.json')
        known = self._read_settings()
        existing = [name for name in (self.checkpoint.name, WEIGHTS) if (self.folder / name).exists()]
        if existing and not config.resume:
            raise RunError(f'{self.folder}: already has a {existing[0]}; continue that run with --resume, or choose '
                           'another folder with --out')
        if config.resume and known is None:
            raise RunError(f'{self.folder}: there is no run to resume')
        if existing:
            self._check_settings(known, was_resized)
        if self.folder.exists() and not self.folder.is_dir():
            raise RunError(f'{self.folder}: is a file, not a folder; choose another --out')
        self.folder.mkdir(parents=True, exist_ok=True)
        remove_partial_files(self.folder)
        if not existing:
            write_json(self.folder / 'run.json', dict(
                settings=self.settings, config=config.model_dump(mode='json'), versions=versions()))

    def _read_settings(self) -> Optional[Dict[str, Any]]:
        """Return the settings in run.json, or None if there is none."""
        path = self.folder / 'run.json'
        try:
            return json.loads(path.read_text(encoding='utf-8'))['settings'] if path.exists() else None
        except (ValueError, KeyError, TypeError) as error:
            raise RunError(f'{path}: does not contain the settings of a run: {error!r}') from None

    def _check_settings(self, known: Dict[str, Any], was_resized: bool) -> None:
        """Raise a RunError if the run in the folder has other settings."""
        if 'preprocessing' not in known:  # the run was started by a version that did not store it
            if was_resized:
                raise RunError(f'{self.folder}: this run was begun by an earlier version, which resized small images '
                               'in another way, so it cannot be continued; train anew in another folder (--out)')
            known = dict(known, preprocessing=self.settings['preprocessing'])
        known, asked = _comparable(known), _comparable(self.settings)
        if known != asked:
            raise RunError(f'{self.folder}: the run was started with other settings: {changes(known, asked)}; '
                           'use those, or choose another folder with --out')

    @property
    def checkpoint(self) -> Path:
        """The file with everything that the next epoch needs."""
        return self.folder / 'checkpoint.safetensors'

    def save(self, trainer: HasState, row: Dict[str, Any]) -> None:
        """Write the checkpoint, which includes all rows of the log, and the logs.

        Args:
            trainer: The trainer, after an epoch.
            row: The epoch's row of the log.

        Raises:
            RunError: If it cannot be written. The previous checkpoint is kept.
        """
        self.rows.append(row)
        kept = row['epoch'] - 1
        try:
            write_checkpoint(self.checkpoint, trainer, rows=self.rows)
            kept = row['epoch']
            self.loggers.write([{name: row.get(name) for name in _COLUMNS} for row in self.rows])
        except OSError as error:
            raise RunError(f'{self.folder}: epoch {row["epoch"]} cannot be written: {error}. The checkpoint of epoch '
                           f'{kept} is kept; free some space and continue with --resume') from None

    def load(self, trainer: HasState) -> bool:
        """Load the last checkpoint into a trainer. Return False if there is none.

        Raises:
            RunError: If the checkpoint is damaged or does not fit.
        """
        if not self.checkpoint.exists():
            return False
        try:
            self.rows = read_checkpoint(self.checkpoint, trainer)['rows']
        except KeyError:
            raise RunError(f'{self.checkpoint}: the run cannot be resumed from this file: it contains no log') from None
        except ValueError as error:
            raise RunError(str(error)) from None
        return True

    def draw_curve(self) -> Optional[Path]:
        """Plot loss and accuracies by epoch to curve.png. Return its path, or None if matplotlib is not installed."""
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
        figure.legend(loc='outside upper center', ncols=2)
        with atomic_write(self.folder / 'curve.png') as part:
            figure.savefig(part, dpi=100)
        return self.folder / 'curve.png'

    def finish(self, model: NASNet, data: AnySet, report: Dict[str, Any]) -> None:
        """Write the trained model as a model folder, and the report.

        Raises:
            RunError: If they cannot be written. With --resume it is tried again.
        """
        try:
            write_folder(model, self.folder, data.class_names, data.mean, data.std)
            self.draw_curve()
            write_json(self.folder / 'report.json', report)  # the last file: it says that the run is finished
        except (OSError, SafetensorError) as error:
            raise RunError(f'{self.folder}: the model cannot be written: {error}; free some space and continue with '
                           '--resume') from None

    @property
    def report(self) -> Optional[Dict[str, Any]]:
        """What :meth:`finish` wrote, or None before that."""
        path = self.folder / 'report.json'
        if not (path.exists() and (self.folder / WEIGHTS).exists()):
            return None
        return json.loads(path.read_text(encoding='utf-8'))


def run_training(
        config: TrainConfig,
        say: Callable[[str], None] = print,
        on_step: OnStep = None,
) -> Optional[Dict[str, Any]]:
    """Train a network in a folder, from the beginning or from the last checkpoint.

    Under torchrun each process calls it, and the first one writes.

    Args:
        config: What to train, on which data, how, and in which folder.
        say: Called with each line of output.
        on_step: Called after each step, see :func:`~nasnet_zoo.training.trainer.train`.

    Returns:
        The report, JSON data; None in all processes but the first.

    Raises:
        RunError: If the folder holds another run, or cannot be written.
        DataError: If the data set cannot be used.
        ValueError: If there is no such device.
        FloatingPointError: If the loss or the gradient is not finite.
    """
    is_first = os.environ.get('RANK', '0') == '0'
    device = _set_up_process(config.device)
    train_set, val_set, model = _prepare(config)
    settings = run_settings(config, model, train_set)
    trainer = Trainer(model, train_set, config.recipe, device)
    run = Run(config, settings, getattr(train_set, 'was_resized', False), writes=is_first)
    finished = run.report if config.resume else None
    if finished:
        say(f'{config.out}: the run is finished')
        return finished if is_first else None
    if config.resume and run.load(trainer):
        say(f'resumed after epoch {trainer.epoch} of {config.recipe.epochs}')
    with run.loggers:
        train_epochs(trainer, val_set, run if is_first else None, say, on_step)
        if not is_first:
            return None
        report = dict(settings, versions=versions(), log=run.rows[-1], left_out=dict(train_set.left_out))
        trained = trainer.result.eval()
        trained.aux_head, trained.drop_path_rate, trained.drop_rate = None, 0., 0.  # they are for training only
        trained.head.drop.p = 0.
        run.finish(trained, train_set, report)
    return report


def _set_up_process(name: str) -> torch.device:
    """Join the other processes under torchrun. Return the device."""
    device = choose_device(name)
    if device.type == 'cuda':
        torch.cuda.set_device(device)
    keep_freed_memory()
    if 'WORLD_SIZE' in os.environ and not distributed.is_initialized():
        distributed.init_process_group('nccl' if device.type == 'cuda' else 'gloo')
        atexit.register(_leave_process_group)  # its threads may otherwise crash the process when it exits
    return device


def _leave_process_group() -> None:
    if distributed.is_initialized():
        distributed.destroy_process_group()


def _prepare(config: TrainConfig) -> Tuple[AnySet, Optional[AnySet], NASNet]:
    """Return the training set, the part of it held out for validation, and the network, all for images of one size."""
    is_named = config.source.split('.')[0] in list_models(module='zoo') and not config.source.endswith('.json')
    named = config.source if is_named and config.data not in DATA_SETS else None
    size = config.img_size or (named and get_pretrained_cfg(named).input_size[1])
    if distributed.is_initialized() and distributed.get_rank():
        distributed.barrier()  # the first process downloads and decodes
    train_set, _ = load_data(config.data, config.data_root, size, config.download)
    if distributed.is_initialized() and not distributed.get_rank():
        distributed.barrier()
    channels, *image = train_set.input_size
    torch.manual_seed(config.recipe.seed)
    model = build(
        config.source, num_classes=len(train_set.class_names), in_chans=channels, img_size=tuple(image),
        **config.network_args, **({'pretrained': True} if config.pretrained else {}))
    if not config.pretrained:
        forget_origin(model)
    if isinstance(train_set, FileSet):  # prepared when they are read, so the model may say how
        train_set = train_set._replace(workers=config.workers).prepared(make_preprocessing(
            model, train_set.class_names, train_set.mean, train_set.std, tuple(image)))
    train_set, val_set = train_set.split(config.val_share, config.val_seed) if config.val_share else (train_set, None)
    return train_set, val_set, model


def run_settings(config: TrainConfig, model: NASNet, train_set: AnySet) -> Dict[str, Any]:
    """Return what determines the result of a run, as JSON data without local paths."""
    return dict(
        source=Path(config.source).name, model=model.config, pretrained=config.pretrained,
        data=data_name(config.data), val_share=config.val_share, val_seed=config.val_seed,
        train_images=train_set.size(),
        preprocessing=train_set.preprocessing.model_dump(
            mode='json', include={'interpolation', 'crop_pct', 'crop_mode'}),
        recipe=config.recipe.model_dump(mode='json'))


def train_epochs(
        trainer: Trainer, val_set: Optional[AnySet], run: Optional[Run], say: Callable[[str], None], on_step: OnStep,
) -> None:
    """Train to the end. If there is a run to write, validate and save after each epoch."""
    begun = time.perf_counter() - (run.rows[-1]['seconds'] if run and run.rows else 0.)
    while trainer.epoch < trainer.recipe.epochs:
        row = trainer.run_epoch(on_step)
        if run is None:
            continue
        val = evaluate(trainer.result, val_set, device=trainer.device) if val_set else None
        row.update(val_loss=val.loss if val else None, val_accuracy=val.top1 if val else None,
                   seconds=time.perf_counter() - begun)
        run.save(trainer, row)
        say(f'epoch {row["epoch"]}: loss {row["loss"]:.3f}, accuracy {row["accuracy"]:.2%}'
            + (f', validation accuracy {val.top1:.2%}' if val else ''))

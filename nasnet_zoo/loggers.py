"""Where the figures of a run are logged: a row of :data:`LOGGERS` for each service.

A logger is given all rows after each new one, and writes those that it has not written. Therefore a resumed run is
logged completely by each of them, even if it was started without.
"""
import abc
import csv
import json
import os
import secrets
import warnings
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Mapping, NamedTuple, Optional, Sequence, Type

from .extras import require
from .files import atomic_write, flattened, write_json

__all__ = ['LOGGERS', 'CsvLogger', 'LoggerKind', 'Loggers', 'RunLogger', 'StepLogger', 'check_loggers',
           'default_loggers']

Row = Mapping[str, Any]  # the figures of a step; the first entry is the number of the step


class RunLogger(abc.ABC):
    """Writes the figures of a run to one place.

    Args:
        folder: The folder of the run.
        settings: The settings of the run, JSON data.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self.folder, self.settings = folder, settings

    @abc.abstractmethod
    def write(self, rows: Sequence[Row]) -> None:
        """Write all rows so far, of which some may have been written before."""

    @abc.abstractmethod
    def close(self, failed: bool) -> None:
        """End the run at the service. `failed` says that it ended by an error, or was interrupted."""


class CsvLogger(RunLogger):
    """Writes ``log.csv`` in the folder of the run, all of it after each row."""

    def write(self, rows: Sequence[Row]) -> None:
        with atomic_write(self.folder / 'log.csv') as part, part.open('w', newline='', encoding='utf-8') as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)

    def close(self, failed: bool) -> None:
        """There is nothing to end."""


class StepLogger(RunLogger):
    """Writes the figures of each step once, to a place that keeps them."""
    _written = 0

    def write(self, rows: Sequence[Row]) -> None:
        for row in rows[self._written:]:
            (_, step), *figures = row.items()
            self._log(step, {name: float(value) for name, value in figures if value is not None})
            self._written += 1

    @abc.abstractmethod
    def _log(self, step: int, figures: Dict[str, float]) -> None:
        """Write the figures of one step."""


class TensorBoardLogger(StepLogger):
    """Writes events to ``tensorboard/`` in the folder of the run, in place of those of an earlier process."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        super().__init__(folder, settings)
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            from torch.utils.tensorboard import SummaryWriter
        for old in (folder / 'tensorboard').glob('events.*'):
            old.unlink()
        self._board = SummaryWriter(str(folder / 'tensorboard'))

    def _log(self, step: int, figures: Dict[str, float]) -> None:
        for name, value in figures.items():
            self._board.add_scalar(name, value, step)
        self._board.flush()

    def close(self, failed: bool) -> None:
        self._board.close()


class MlflowLogger(StepLogger):
    """Logs to MLflow. Its own variables, such as ``MLFLOW_TRACKING_URI``, say where that is."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        super().__init__(folder, settings)
        import mlflow
        self._client = mlflow.MlflowClient()
        self._id = _known_id(folder, 'mlflow')
        if self._id is None:
            experiment = mlflow.set_experiment(os.environ.get('MLFLOW_EXPERIMENT_NAME', 'nasnet-zoo'))
            self._id = self._client.create_run(experiment.experiment_id, run_name=folder.name).info.run_id
            _keep_id(folder, 'mlflow', self._id)
            for name, value in flattened(_with_names(settings)).items():
                self._client.log_param(self._id, name, str(value)[:500])
        else:
            self._client.update_run(self._id, status='RUNNING')
        self._last = max((metric.step for name in self._client.get_run(self._id).data.metrics
                          for metric in self._client.get_metric_history(self._id, name)), default=-1)

    def _log(self, step: int, figures: Dict[str, float]) -> None:
        if step > self._last:  # those before were logged by an earlier process
            for name, value in figures.items():
                self._client.log_metric(self._id, name, value, step=step)

    def close(self, failed: bool) -> None:
        self._client.set_terminated(self._id, 'FAILED' if failed else 'FINISHED')


class WandbLogger(StepLogger):
    """Logs to Weights & Biases. Its own variables, such as ``WANDB_PROJECT`` and ``WANDB_MODE``, say where and how."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        super().__init__(folder, settings)
        import wandb
        known = _known_id(folder, 'wandb')
        name = known or secrets.token_hex(4)
        self._run = wandb.init(
            project=os.environ.get('WANDB_PROJECT', 'nasnet-zoo'), name=folder.name, id=name, resume='allow',
            dir=str(folder), config=dict(settings), settings=wandb.Settings(silent=True, console='off'),
            reinit=True)  # the run of an earlier training in this process is finished
        if known is None:
            _keep_id(folder, 'wandb', name)

    def _log(self, step: int, figures: Dict[str, float]) -> None:
        if step >= self._run.step:  # those before were logged by an earlier process
            self._run.log(figures, step=step)

    def close(self, failed: bool) -> None:
        self._run.finish(exit_code=int(failed))


class LoggerKind(NamedTuple):
    """A service that figures can be logged to.

    Attributes:
        description: For help texts.
        extra: The extra of this package that installs what it needs; None if it needs nothing.
        open: Makes the logger of a run.
    """
    description: str
    extra: Optional[str]
    open: Callable[[Path, Mapping[str, Any]], RunLogger]


LOGGERS: Dict[str, LoggerKind] = {
    'csv': LoggerKind('log.csv in the folder, which is always written', None, CsvLogger),
    'tensorboard': LoggerKind('tensorboard/ in the folder', 'train', TensorBoardLogger),
    'mlflow': LoggerKind('MLflow', 'mlflow', MlflowLogger),
    'wandb': LoggerKind('Weights & Biases', 'wandb', WandbLogger),
}


def default_loggers() -> List[str]:
    """Return the loggers of a run for which none are chosen: ``csv``, and ``tensorboard`` if it is installed."""
    return ['csv', *(['tensorboard'] if find_spec('tensorboard') else [])]


def check_loggers(names: Sequence[str]) -> None:
    """Check that loggers can be used.

    Args:
        names: Names in :data:`LOGGERS`.

    Raises:
        ImportError: If a package is missing. The message says how to install it.
    """
    for name in names:
        extra = LOGGERS[name].extra
        if extra:
            require(f'--log {name}', extra)


class Loggers:
    """Writes the figures of a run to all its loggers, as a context at whose end the run ends at the services, too.

    ``csv`` is always among them. Each logger is opened when the first row is written. If another one than ``csv``
    fails, a warning says so, and the run goes on without it.

    Args:
        names: Names in :data:`LOGGERS`. If there are none, :func:`default_loggers` are taken.
        folder: The folder of the run.
        settings: The settings of the run, JSON data.

    Raises:
        ImportError: If a package is missing. The message says how to install it.
    """

    def __init__(self, names: Sequence[str], folder: Path, settings: Mapping[str, Any]) -> None:
        check_loggers(names)
        self._folder, self._settings = folder, settings
        self._chosen = dict.fromkeys(['csv', *(names or default_loggers())])
        self._opened: Dict[str, RunLogger] = {}

    def write(self, rows: Sequence[Row]) -> None:
        """Write all rows so far, of which some may have been written before."""
        for name in list(self._chosen):
            with self._dropped_if_it_fails(name, '; the run goes on without this logger'):
                if name not in self._opened:
                    self._opened[name] = LOGGERS[name].open(self._folder, self._settings)
                self._opened[name].write(rows)

    def __enter__(self) -> 'Loggers':
        return self

    def __exit__(self, kind: Optional[Type[BaseException]], *_: Any) -> None:
        for name, logger in list(self._opened.items()):
            with self._dropped_if_it_fails(name):
                logger.close(failed=kind is not None)

    @contextmanager
    def _dropped_if_it_fails(self, name: str, consequence: str = '') -> Iterator[None]:
        try:
            yield
        except Exception as error:  # the services' exceptions have no common base class
            if name == 'csv':
                raise
            warnings.warn(f'{name}: {" ".join(str(error).split())[:300]}{consequence}', stacklevel=4)
            del self._chosen[name]
            self._opened.pop(name, None)


_IDS = 'loggers.json'  # the identifiers of the run at the services


def _known_id(folder: Path, service: str) -> Optional[str]:
    path = folder / _IDS
    return json.loads(path.read_text(encoding='utf-8')).get(service) if path.exists() else None


def _keep_id(folder: Path, service: str, run_id: str) -> None:
    path = folder / _IDS
    known = json.loads(path.read_text(encoding='utf-8')) if path.exists() else {}
    write_json(path, {**known, service: run_id})


def _with_names(settings: Mapping[str, Any]) -> Dict[str, Any]:
    """Return settings with the names of genotypes in place of the genotypes."""
    named: Dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            value = value.get('name') if key == 'genotype' else _with_names(value)
        named[key] = value
    return named

"""Loggers: all rows are in all of them, also after a run was resumed; a service that fails does not end a run."""
import csv
import json
import sys
import types

import pytest

from nasnet_zoo import loggers

ROWS = [dict(epoch=1, loss=2.5, val_accuracy=None), dict(epoch=2, loss=1.5, val_accuracy=0.5),
        dict(epoch=3, loss=1.25, val_accuracy=0.75)]
SETTINGS = dict(data='digits', recipe=dict(lr=0.1), model=dict(genotype=dict(name='nasnet_a', format=1)))


def in_two_processes(names, folder):
    """Log the first row, and then, as a resumed run does, all rows one after another."""
    loggers.Loggers(names, folder, SETTINGS).write(ROWS[:1])
    with loggers.Loggers(names, folder, SETTINGS) as resumed:
        resumed.write(ROWS[:2])
        resumed.write(ROWS)


def test_csv(tmp_path):
    in_two_processes(['csv'], tmp_path)
    with (tmp_path / 'log.csv').open(encoding='utf-8') as file:
        assert [row['loss'] for row in csv.DictReader(file)] == ['2.5', '1.5', '1.25']
    assert [path.name for path in tmp_path.iterdir()] == ['log.csv']


def test_tensorboard(tmp_path):
    pytest.importorskip('tensorboard', reason='TensorBoard is left out')
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    in_two_processes(['tensorboard'], tmp_path)
    events = EventAccumulator(str(tmp_path / 'tensorboard'))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars('loss')] == [(1, 2.5), (2, 1.5), (3, 1.25)]
    assert [event.step for event in events.Scalars('val_accuracy')] == [2, 3]


@pytest.mark.slow
def test_mlflow(tmp_path, monkeypatch):
    mlflow = pytest.importorskip('mlflow', reason='MLflow is left out')
    monkeypatch.setenv('MLFLOW_TRACKING_URI', f'sqlite:///{tmp_path}/mlflow.db')
    monkeypatch.chdir(tmp_path)
    mlflow.set_tracking_uri(f'sqlite:///{tmp_path}/mlflow.db')
    in_two_processes(['mlflow'], tmp_path)
    run_id = json.loads((tmp_path / 'loggers.json').read_text(encoding='utf-8'))['mlflow']
    client = mlflow.MlflowClient()
    history = client.get_metric_history(run_id, 'loss')
    assert [(metric.step, metric.value) for metric in history] == [(1, 2.5), (2, 1.5), (3, 1.25)]
    assert client.get_run(run_id).data.params == {
        'data': 'digits', 'recipe.lr': '0.1', 'model.genotype': 'nasnet_a'}
    assert client.get_run(run_id).info.status == 'FINISHED'
    with pytest.raises(FloatingPointError), loggers.Loggers(['mlflow'], tmp_path, SETTINGS) as resumed:
        resumed.write(ROWS)
        raise FloatingPointError
    assert client.get_run(run_id).info.status == 'FAILED'


@pytest.mark.slow
def test_wandb(tmp_path, monkeypatch):
    pytest.importorskip('wandb', reason='Weights & Biases is left out')
    monkeypatch.setenv('WANDB_MODE', 'offline')
    loggers.Loggers(['wandb'], tmp_path, SETTINGS).write(ROWS)
    run_id = json.loads((tmp_path / 'loggers.json').read_text(encoding='utf-8'))['wandb']
    assert list(tmp_path.glob(f'wandb/offline-run-*-{run_id}/run-{run_id}.wandb'))


def test_wandb_gets_each_step_once(tmp_path, monkeypatch):
    """With a stand-in for the package, which knows the last step of a run as the service does."""
    logged, started, finished = [], [], []

    class Run:
        step = 0

        def log(self, figures, step):
            logged.append((step, figures))
            Run.step = step + 1

        def finish(self, exit_code):
            finished.append(exit_code)

    def init(**arguments):
        started.append(arguments['id'])
        return Run()
    package = types.SimpleNamespace(init=init, Settings=dict)
    monkeypatch.setitem(sys.modules, 'wandb', package)
    monkeypatch.setattr(loggers, 'require', lambda what, extra: None)
    in_two_processes(['wandb'], tmp_path)
    assert [step for step, _ in logged] == [1, 2, 3] and logged[1][1] == dict(loss=1.5, val_accuracy=0.5)
    assert started[0] == started[1] and finished == [0]
    with pytest.raises(KeyboardInterrupt), loggers.Loggers(['wandb'], tmp_path, SETTINGS) as resumed:
        resumed.write(ROWS)
        raise KeyboardInterrupt
    assert finished == [0, 1]


def test_a_service_that_fails(tmp_path, monkeypatch):
    class Unreachable(loggers.StepLogger):
        def _log(self, step, figures):
            raise ConnectionError('no route\nto host')

        def close(self, failed):
            raise AssertionError('it is not used any more')
    monkeypatch.setitem(loggers.LOGGERS, 'mlflow', loggers.LoggerKind('', None, Unreachable))
    with loggers.Loggers(['mlflow'], tmp_path, SETTINGS) as opened:
        with pytest.warns(UserWarning, match='mlflow: no route to host; the run goes on without this logger'):
            opened.write(ROWS[:1])
        opened.write(ROWS)  # warns no more
    assert len((tmp_path / 'log.csv').read_text(encoding='utf-8').splitlines()) == 4


def test_a_package_that_is_missing(tmp_path, monkeypatch):
    monkeypatch.setattr('nasnet_zoo.extras.find_spec', lambda name: None)
    with pytest.raises(ImportError, match=r'--log wandb needs wandb: pip install "nasnet-zoo\[wandb\]"'):
        loggers.Loggers(['wandb'], tmp_path, SETTINGS)
    monkeypatch.setattr(loggers, 'find_spec', lambda name: None)
    assert loggers.default_loggers() == ['csv']


def test_a_csv_that_cannot_be_written(tmp_path):
    (tmp_path / 'file').touch()
    with pytest.raises(OSError, match='file'):
        loggers.Loggers(['csv'], tmp_path / 'file', SETTINGS).write(ROWS)

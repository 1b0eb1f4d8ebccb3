"""What users see of every command: exit codes, one line after Ctrl-C, and no bars or colours in a pipe."""
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from helpers.platforms import posix_only
from nasnet_zoo.cli import app, common
from nasnet_zoo.training.trainer import Trainer

TRAIN = ['train', 'nasnet_b', '--data', 'digits', '--num-cells', '1', '--cell-filters', '2', '--stem', 'cifar',
         '--batch-size', '512', '--epochs', '2', '--no-aux-head', '--out']


def invoke(*arguments):
    return CliRunner().invoke(app, list(map(str, arguments)))


@pytest.mark.parametrize('arguments, code', [
    (['--version'], 0), (['describe', 'nasnet_b'], 0), (['describe', 'nothing'], 1), (['describe'], 2),
    (['describe', 'nasnet_b', '--bogus'], 2), (['bogus'], 2)])
def test_exit_codes(arguments, code):
    result = invoke(*arguments)
    assert result.exit_code == code, result.output
    assert not result.stdout if code else not result.stderr


@pytest.fixture
def ctrl_c_is_heard():
    """A process that a script has started in the background ignores the signal."""
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, handler)


@pytest.mark.usefixtures('ctrl_c_is_heard')
def test_interrupted_training_is_continued(tmp_path, monkeypatch):
    """The signal arrives in the second epoch. The folder's name has a space and letters that are not ASCII."""
    pytest.importorskip('sklearn')
    out = tmp_path / 'Zoë und 猫'
    run_epoch = Trainer.run_epoch

    def interrupted(self, *args):
        if self.epoch == 1:
            signal.raise_signal(signal.SIGINT)
        return run_epoch(self, *args)
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, 'run_epoch', interrupted)
        result = invoke(*TRAIN, out)
    assert result.exit_code == 130 and not (out / 'model.safetensors').exists()
    assert result.stderr.splitlines()[-1] == 'interrupted; run the same command with --resume to continue'
    result = invoke(*TRAIN, out, '--resume')
    assert result.exit_code == 0 and 'resumed after epoch 1 of 2' in result.stderr, result.output
    assert (out / 'model.safetensors').exists()


@pytest.mark.usefixtures('ctrl_c_is_heard')
def test_interrupted_before_anything_was_written(tmp_path, monkeypatch):
    pytest.importorskip('sklearn')
    monkeypatch.setattr('nasnet_zoo.training.run._prepare', lambda config: signal.raise_signal(signal.SIGINT))
    result = invoke(*TRAIN, tmp_path / 'run')
    assert result.exit_code == 130
    assert result.stderr == 'interrupted; there is nothing to resume; run the same command to start again\n'


def test_one_process_of_several_prints_the_line(monkeypatch, capsys):
    monkeypatch.setenv('RANK', '1')
    with pytest.raises(SystemExit) as error, common.exit_on_error():
        raise KeyboardInterrupt
    assert error.value.code == 130 and capsys.readouterr().err == ''


@pytest.mark.slow
@posix_only
def test_interrupted_search_is_continued(tmp_path):
    """Ctrl-C reaches the workers too, which must neither print anything nor be left behind."""
    pytest.importorskip('optuna')
    command = [sys.executable, '-m', 'nasnet_zoo.cli', 'search', '--data', 'digits', '--num-cells', '1',
               '--cell-filters', '2', '--epochs', '1', '--batch-size', '512', '--workers', '2', '--top', '1',
               '--final-epochs', '1', '--out', str(tmp_path / 'search')]
    process = subprocess.Popen([*command, '--trials', '500'], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               text=True, encoding='utf-8', start_new_session=True)
    log = tmp_path / 'search' / 'study.log'
    deadline = time.monotonic() + 200
    while not (log.exists() and '"values":' in log.read_text(encoding='utf-8')) and time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and 'Traceback' not in err, err
    assert err.splitlines()[-1] == 'interrupted; run the same command with --resume to continue'
    done = subprocess.run([*command, '--trials', '3', '--resume'], capture_output=True, timeout=200)
    assert done.returncode == 0, done.stderr


def test_no_colours_in_a_pipe(tmp_path):
    result = invoke('describe', 'nasnet_b')
    assert '\x1b' not in result.stdout and 'normal cell' in result.stdout


@pytest.mark.parametrize('shell', ['bash', 'zsh', 'fish'])
def test_shell_completion(shell, monkeypatch):
    monkeypatch.setenv('_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION', '1')
    result = invoke('--show-completion', shell)
    assert result.exit_code == 0 and 'COMPLETE' in result.stdout


def test_tools_say_how_to_go_on():
    """Each tool that measures or trains for long says what happens after Ctrl-C."""
    tools = Path(__file__).resolve().parents[2] / 'tools'
    for path in [*tools.glob('benchmark*.py'), tools / 'train_zoo.py', tools / 'reliability.py']:
        text = path.read_text(encoding='utf-8')
        assert '__main__' not in text or 'with exit_on_interrupt(' in text, path.name

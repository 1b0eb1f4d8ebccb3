"""Runs in folders: what is written, and that nothing computed is lost."""
import csv
import json
import os
import shutil
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

import nasnet_zoo  # noqa: F401  (for timm)
from helpers.paths import ROOT, TESTS
from nasnet_zoo.cli.main import app
from nasnet_zoo.data import load_digits
from nasnet_zoo.files import read_safetensors
from nasnet_zoo.hub.folder import read_accuracy, record_accuracy
from nasnet_zoo.training import run as runs
from nasnet_zoo.training.config import TrainConfig
from nasnet_zoo.training.metrics import evaluate
from nasnet_zoo.training.recipe import Recipe
from nasnet_zoo.training.run import RunError, run_training
from nasnet_zoo.training.validate import validate

pytest.importorskip('sklearn', reason='the digits come with scikit-learn')
SMALL = dict(num_cells=1, cell_filters=4, stem='cifar', aux_head=True)
RECIPE = dict(epochs=3, batch_size=64, lr=0.1, pad=1, pad_mode='edge', flip=False, ema=0.9)
OLD = TESTS / 'data' / 'old_run'
COMMAND = [
    'train', 'nasnet_a', '--num-cells', '1', '--cell-filters', '4', '--stem', 'cifar', '--batch-size', '64',
    '--lr', '0.1', '--pad', '1', '--pad-mode', 'edge', '--no-flip', '--ema', '0.9', '--drop-path-rate', '0.1',
    '--epochs', '3']


def settings(out, recipe=None, **options):
    return TrainConfig(**{'source': 'nasnet_a', 'out': out, 'drop_path_rate': 0., **SMALL, **options,
                          'recipe': Recipe(**{**RECIPE, **(recipe or {})})})


def train(out, say=lambda line: None, **options):
    return run_training(settings(out, **options), say)


def python(*args, **kwargs):
    env = dict(os.environ, OMP_NUM_THREADS='1', **kwargs.pop('env', {}))
    return subprocess.Popen([sys.executable, *args], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                            **kwargs)


def command(out, *options):
    return python('-m', 'nasnet_zoo.cli', *COMMAND, '--out', str(out), *options)


def finished(process, code=0):
    out, err = process.communicate(timeout=250)
    assert process.returncode == code, err
    return out, err


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp('runs') / 'whole'
    return folder, train(folder, val_share=0.2)


def test_what_is_written(run):
    folder, report = run
    assert {path.name for path in folder.iterdir()} - {'tensorboard'} == {
        'run.json', 'checkpoint.safetensors', 'log.csv', 'curve.png', 'model.safetensors', 'config.json', 'report.json',
        'genotype.json', 'cells.svg'}
    rows = list(csv.DictReader((folder / 'log.csv').open(encoding='utf-8')))
    assert [row['epoch'] for row in rows] == ['1', '2', '3']
    assert float(rows[-1]['val_accuracy']) > 0.3 and float(rows[-1]['loss']) < float(rows[0]['loss'])
    assert (folder / 'curve.png').read_bytes()[:4] == b'\x89PNG'
    assert report == json.loads((folder / 'report.json').read_text(encoding='utf-8'))
    assert report['train_images'] == 1081 and report['recipe']['ema'] == 0.9 and report['versions']['torch']


def test_the_run_is_a_model(run):
    folder, report = run
    model = timm.create_model(f'local-dir:{folder}', pretrained=True).eval()
    assert model.aux_head is None and not any('aux' in name for name in load_file(folder / 'model.safetensors'))
    assert model.pretrained_cfg['label_names'] == list('0123456789')
    held_out = load_digits()[0].split(0.2)[1]
    assert evaluate(model, held_out).top1 == report['log']['val_accuracy'], 'the moving average'


def test_tensorboard(run):
    pytest.importorskip('tensorboard', reason='TensorBoard is left out')
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    events = EventAccumulator(str(run[0] / 'tensorboard'))
    events.Reload()
    assert [event.step for event in events.Scalars('val_accuracy')] == [1, 2, 3]


def test_a_run_is_not_overwritten(run):
    folder, report = run
    with pytest.raises(RunError, match='already has a checkpoint.safetensors; continue that run with --resume'):
        train(folder, val_share=0.2)
    with pytest.raises(RunError, match='with other settings: recipe.lr was 0.1 and is 0.2'):
        train(folder, val_share=0.2, resume=True, recipe=dict(lr=0.2))


def test_a_finished_run_stays_as_it_is(run):
    folder, report = run
    record_accuracy(folder / 'model.safetensors', dict(top1=0.5))
    assert train(folder, val_share=0.2, resume=True) == report
    assert read_accuracy(folder / 'model.safetensors') == dict(top1=0.5)


def test_the_settings_are_stored_and_are_the_commands(run):
    folder, report = run
    stored = json.loads((folder / 'run.json').read_text(encoding='utf-8'))
    assert TrainConfig(**stored['config']) == settings(folder, val_share=0.2)
    assert stored['settings'] == {name: report[name] for name in stored['settings']}
    assert stored['settings']['preprocessing'] == dict(crop_mode='center', crop_pct=1., interpolation='bicubic')
    assert str(folder) not in json.dumps(stored['settings'])


def begun_by_an_earlier_version(folder):
    """Two of four epochs on the digits by commit 6b46199; finished.safetensors has the weights that it ended with."""
    shutil.copytree(OLD, folder)
    return dict(
        source=str(folder / 'tiny.json'), cell_filters=2, drop_path_rate=0.1, aux_head=False, val_share=0.2,
        resume=True, recipe=dict(epochs=4, batch_size=256))


def test_a_run_of_an_earlier_version_is_resumed(tmp_path):
    options = begun_by_an_earlier_version(tmp_path / 'run')
    before = list(csv.DictReader((tmp_path / 'run' / 'log.csv').open(encoding='utf-8')))
    lines = []
    train(tmp_path / 'run', lines.append, **options)
    assert lines[0] == 'resumed after epoch 2 of 4'
    after = list(csv.DictReader((tmp_path / 'run' / 'log.csv').open(encoding='utf-8')))
    assert [{name: row[name] for name in before[0]} for row in after[:2]] == before and len(after) == 4
    ours, theirs = (load_file(path) for path in (tmp_path / 'run' / 'model.safetensors', OLD / 'finished.safetensors'))
    assert ours.keys() == theirs.keys()
    for name in ours:  # sums in another order differ by 0.003 at most, a momentum that begins with zeros by 0.08
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-2, atol=1e-2)


def test_a_run_of_an_earlier_version_with_other_pixels_is_refused(tmp_path):
    options = begun_by_an_earlier_version(tmp_path / 'run')
    with pytest.raises(RunError, match='with other settings: recipe.lr was 0.1 and is 0.2'):
        train(tmp_path / 'run', **dict(options, recipe=dict(options['recipe'], lr=0.2)))
    with pytest.raises(RunError, match='by an earlier version, which resized small images in another way'):
        train(tmp_path / 'run', **dict(options, img_size=12))


def test_a_model_folder_is_not_trained_over(run, tmp_path):
    (tmp_path / 'model.safetensors').write_bytes(b'precious')
    with pytest.raises(RunError, match='already has a model.safetensors'):
        train(tmp_path)
    with pytest.raises(RunError, match='no run to resume'):
        train(tmp_path / 'typo', resume=True)
    assert not (tmp_path / 'typo').exists() and (tmp_path / 'model.safetensors').read_bytes() == b'precious'


def test_a_first_try_that_failed_is_not_in_the_way(tmp_path):
    with pytest.raises(FloatingPointError):
        train(tmp_path / 'run', recipe=dict(lr=1e30, epochs=1, warmup_epochs=0.))
    assert train(tmp_path / 'run', recipe=dict(epochs=1))['log']['epoch'] == 1


def test_large_pictures_from_a_folder(tmp_path):
    for split, count in (('train', 8), ('test', 2)):
        for label, name in enumerate(('dark', 'light')):
            (tmp_path / 'data' / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = np.random.default_rng(i).integers(0, 56, (72, 80, 3), np.uint8) + 200 * label  # crops differ
                Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / 'data' / split / name / f'{i}.png')
    recipe = dict(epochs=2, batch_size=4, lr=0.05)
    options = dict(val_share=0.25, workers=0, data=str(tmp_path / 'data'), img_size=72, recipe=recipe)
    report = train(tmp_path / 'run', **options)
    assert report['data'] == 'data' and report['train_images'] == 12 and report['log']['val_accuracy'] is not None
    again = train(tmp_path / 'again', **options)
    assert again['log']['loss'] == report['log']['loss']
    assert validate(str(tmp_path / 'run'), str(tmp_path / 'data'))['count'] == 4
    with pytest.raises(ValueError, match='cutout, sizes: can only be used with small images'):
        train(tmp_path / 'c', **dict(options, recipe=dict(recipe, cutout=8)))


def test_size_of_the_model_is_the_size_of_the_images(tmp_path):
    report = train(tmp_path / 'run', img_size=12, recipe=dict(epochs=1))
    assert report['model']['img_size'] == [12, 12]
    assert validate(str(tmp_path / 'run'), 'digits')['count'] == 450


def test_a_broken_checkpoint(run, tmp_path):
    folder = tmp_path / 'broken'
    train(folder, recipe=dict(epochs=1, batch_size=512))
    (folder / 'checkpoint.safetensors').write_bytes((folder / 'checkpoint.safetensors').read_bytes()[:1000])
    assert train(folder, recipe=dict(epochs=1, batch_size=512), resume=True), 'it is finished, and needs none'
    (folder / 'report.json').unlink()
    with pytest.raises(RunError, match='cannot be resumed from'):
        train(folder, recipe=dict(epochs=1, batch_size=512), resume=True)
    shutil.copy(run[0] / 'checkpoint.safetensors', folder)
    tensors, metadata = read_safetensors(folder / 'checkpoint.safetensors')
    save_file(tensors, folder / 'checkpoint.safetensors', dict(state=metadata['state']))
    with pytest.raises(RunError, match='cannot be resumed from this file: it contains no log'):
        train(folder, recipe=dict(epochs=1, batch_size=512), resume=True)


def test_what_cannot_begin_leaves_no_folder(tmp_path):
    for options in (dict(recipe=dict(opt='nonesuch')), dict(recipe=dict(sched='nonesuch')),
                    dict(stem='x'), dict(recipe=dict(batch_size=9999))):
        with pytest.raises((ValueError, TypeError, RuntimeError, AssertionError)):
            train(tmp_path / 'run', **options)
        assert not (tmp_path / 'run').exists()


def test_loss_that_is_no_number_keeps_the_last_checkpoint(tmp_path, monkeypatch):
    class Diverges(runs.Trainer):
        def run_epoch(self, on_step=None):
            if self.epoch == 1:
                self.model.head.fc.weight.data.fill_(float('nan'))
            return super().run_epoch(on_step)
    monkeypatch.setattr(runs, 'Trainer', Diverges)
    with pytest.raises(FloatingPointError, match='the loss is nan'):
        train(tmp_path / 'run')
    monkeypatch.undo()
    assert train(tmp_path / 'run', resume=True)['log']['epoch'] == 3


def test_full_disk_keeps_the_last_checkpoint(tmp_path, monkeypatch):
    resource = pytest.importorskip('resource', reason='needs the limits of POSIX')
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    class Fills(runs.Trainer):
        def run_epoch(self, on_step=None):
            row = super().run_epoch(on_step)
            if self.epoch == 2:
                resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
            return row
    monkeypatch.setattr(runs, 'Trainer', Fills)
    try:
        with pytest.raises(RunError, match='epoch 2 cannot be written.*of epoch 1 is kept; free some space'):
            train(tmp_path / 'run')
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    monkeypatch.undo()
    assert not list((tmp_path / 'run').glob('.*')), 'no parts of files'
    lines = []
    report = train(tmp_path / 'run', lines.append, resume=True)
    assert lines[0] == 'resumed after epoch 1 of 3' and report['log']['epoch'] == 3


SPAWN = '''
import multiprocessing, sys
if __name__ == '__main__':
    multiprocessing.set_start_method('spawn')
    from nasnet_zoo.cli import app
    app(sys.argv[1:])
'''


@pytest.mark.slow
def test_workers_that_are_spawned(tmp_path):
    """Readers of large images, as Windows and macOS start them."""
    for name in ('train/a', 'train/b', 'test/a', 'test/b'):
        (tmp_path / 'data' / name).mkdir(parents=True)
        for i in range(4):
            Image.new('RGB', (90, 80), (60 * i, 99, 9)).save(tmp_path / 'data' / name / f'{i}.png')
    (tmp_path / 'run.py').write_text(SPAWN, encoding='utf-8')
    _, err = finished(python(
        tmp_path / 'run.py', 'train', 'nasnet_b', '--data', str(tmp_path / 'data'), '--img-size', '96', '--workers',
        '2', '--num-cells', '1', '--cell-filters', '2', '--stem', 'imagenet', '--epochs', '1', '--batch-size', '4',
        '--out', str(tmp_path / 'run')))
    assert 'epoch 1: loss' in err


def test_killed_in_an_epoch_and_resumed_is_the_same(tmp_path):
    whole = command(tmp_path / 'whole')
    killed = command(tmp_path / 'killed')
    checkpoint = tmp_path / 'killed' / 'checkpoint.safetensors'
    while not checkpoint.exists():
        assert killed.poll() is None, killed.communicate()[1]
        time.sleep(0.01)
    time.sleep(0.1)  # into the second epoch
    killed.kill()
    killed.communicate()
    assert not (tmp_path / 'killed' / 'model.safetensors').exists()
    finished(whole)
    _, err = finished(command(tmp_path / 'killed', '--resume'))
    assert 'resumed after epoch' in err
    for name in ('model.safetensors', 'checkpoint.safetensors'):
        first, second = (load_file(tmp_path / run / name) for run in ('whole', 'killed'))
        assert first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first), name


def torchrun(script, *arguments):
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        port = probe.getsockname()[1]
    return python('-m', 'torch.distributed.run', '--nproc-per-node=2', f'--master-port={port}', str(script), *arguments)


@pytest.mark.slow
def test_two_processes_are_one_with_the_same_batch(tmp_path):
    """In double precision: two steps turn float32's last digits into the third."""
    script = tmp_path / 'steps.py'
    script.write_text(encoding='utf-8', data=f'''
import os, sys, torch
from safetensors.torch import save_file
from nasnet_zoo import compile_genotype
from nasnet_zoo.data import load_digits
from nasnet_zoo.training.recipe import Recipe
from nasnet_zoo.training.trainer import Trainer
if 'RANK' in os.environ:
    torch.distributed.init_process_group('gloo')
torch.manual_seed(0)
model = compile_genotype('nasnet_a', **{SMALL}, img_size=8, num_classes=10, in_chans=1).double()
model.register_forward_pre_hook(lambda module, args: (args[0].double(),))
trainer = Trainer(model, load_digits()[0], Recipe(**{dict(RECIPE, epochs=2, batch_size=1024, cutout=4)}))
losses = [trainer.run_epoch()['loss'] for _ in range(2)]
if trainer.rank == 0:
    tensors = {{name: tensor.contiguous() for name, tensor in trainer.result.state_dict().items()}}
    save_file(dict(tensors, losses=torch.tensor(losses)), sys.argv[1])
if torch.distributed.is_initialized():
    torch.distributed.destroy_process_group()
''')
    finished(python(str(script), str(tmp_path / 'one')))
    finished(torchrun(script, str(tmp_path / 'two')))
    one, two = (load_file(tmp_path / name) for name in ('one', 'two'))
    for name in one:
        torch.testing.assert_close(two[name], one[name], rtol=1e-6, atol=1e-9)


@pytest.mark.slow
def test_torchrun_writes_one_run(tmp_path):
    script = ROOT / 'tools' / 'train.py'
    out, _ = finished(torchrun(script, *COMMAND[1:], '--out', str(tmp_path / 'run'), '--epochs', '1'))
    assert json.loads(out)['log']['epoch'] == 1, 'one report'
    assert timm.create_model(f'local-dir:{tmp_path / "run"}', pretrained=True).num_classes == 10


@pytest.mark.parametrize('arguments, message', [
    (['nasnet_x', '--data', 'digits'], 'nasnet_x'), (['nasnet_a', '--data', 'nowhere'], 'no such file or folder'),
    (['nasnet_a', '--data', 'digits', '--lr', '0'], 'lr: '), (['nasnet_a', '--sizes', '16'], 'of the form'),
    (['nasnet_a', '--opt', 'nonesuch', '--stem', 'cifar'], 'nonesuch'),
    (['nasnet_a', '--device', 'gpu'], "device: there is no 'gpu'; use auto, cpu, mps, cuda or"),
    (['nasnet_a', '--device', 'cuda:99'], 'device: cuda:99 does not exist')])
def test_command_says_what_is_wrong(tmp_path, arguments, message):
    result = CliRunner().invoke(app, ['train', *arguments, '--out', str(tmp_path / 'run')])
    assert result.exit_code != 0 and message in result.output and 'Traceback' not in result.output
    assert not (tmp_path / 'run').exists()

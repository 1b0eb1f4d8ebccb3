"""Training of the zoo on one GPU, run on the CPU with narrow networks. Capturing and compiling need the GPU."""
import copy
import csv
import json

import pytest
import timm
import torch
from timm.optim import Muon as TimmMuon
from torch.utils._python_dispatch import TorchDispatchMode

from helpers.tools import import_tool
from nasnet_zoo.data.datasets import load_digits
from nasnet_zoo.training.run import RunError
from nasnet_zoo.training.validate import validate

train_zoo = import_tool('train_zoo')
NAME = 'nasnet_c_cifar_small'


def train(folder, capsys, *options, **recipe):
    """Train with the tool. Return its last line, the accuracy."""
    train_zoo.main(['--tiny', '--device', 'cpu', '--data', 'digits', '--out', str(folder), '--minutes', '1',
                    '--max-epochs', '2', '--names', NAME, '--recipe', json.dumps(dict(batch_size=64, **recipe)),
                    *options])
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def digits(count=128):
    data = load_digits()[0]
    return data._replace(images=data.images[:count], labels=data.labels[:count])


def make_trainer(data, **recipe):
    trainer = train_zoo.GpuTrainer(
        train_zoo.build_network(NAME, data, cell_filters=4), data,
        train_zoo.GpuRecipe(**{'epochs': 2, 'batch_size': 64, 'cutout': 2, 'pad': 1, **recipe}), 'cpu', 'eager')
    trainer.prepare()
    return trainer


def test_run_folder(tmp_path, capsys):
    accuracy = train(tmp_path, capsys)
    folder = tmp_path / NAME
    report, run = (json.loads((folder / name).read_text(encoding='utf-8')) for name in ('report.json', 'run.json'))
    assert report['accuracy'] == accuracy and accuracy['count'] == 50 and report['mode'] == 'graph'
    assert report['recipe'] == run['settings']['recipe'] and run['settings']['recipe']['opt'] == 'muon, adamw'
    assert report['recipe']['epochs'] == report['log']['epoch'] == 2
    with (folder / 'log.csv').open(encoding='utf-8') as file:
        assert [row['epoch'] for row in csv.DictReader(file)] == ['1', '2']
    again = validate(str(folder), 'digits')  # prepares the images as the configuration says
    assert again['count'] == 450 and again['dataset'] == 'digits'
    model, data = timm.create_model(f'local-dir:{folder}', pretrained=True), load_digits()[0]
    assert model.pretrained_cfg['mean'] == pytest.approx(data.mean) and model.pretrained_cfg['input_size'] == (1, 8, 8)
    assert model.aux_head is None and not model.drop_path_rate


def test_images_are_held_out(tmp_path, capsys):
    accuracy = train(tmp_path, capsys, '--val-share', '0.1', weight_decay=0.05)
    run = json.loads((tmp_path / NAME / 'run.json').read_text(encoding='utf-8'))
    assert accuracy['split'] == 'validation' and accuracy['count'] == 15
    assert run['settings']['val_share'] == 0.1 and run['settings']['recipe']['weight_decay'] == 0.05
    with pytest.raises(SystemExit, match='val_share was 0.1 and is 0'):
        train(tmp_path, capsys, weight_decay=0.05)
    with pytest.raises(SystemExit, match='weight_decay: input should be less than or equal to 1'):
        train(tmp_path / 'other', capsys, weight_decay=5.)


def test_finished_run_is_not_repeated(tmp_path, capsys):
    accuracy = train(tmp_path, capsys)
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / NAME).iterdir()}
    assert train(tmp_path, capsys, '--max-epochs', '7') == accuracy  # the planned number of epochs is kept
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / NAME).iterdir()} == files
    with pytest.raises(SystemExit, match='the run was started with other settings: recipe.batch_size was 64 and is 32'):
        train(tmp_path, capsys, '--recipe', '{"batch_size": 32}')
    (tmp_path / NAME / 'run.json').write_text('[]', encoding='utf-8')
    with pytest.raises(SystemExit, match='run.json: is not the JSON of a run'):
        train(tmp_path, capsys)


def test_interrupted_run_is_the_same(tmp_path, capsys, monkeypatch):
    train(tmp_path / 'whole', capsys)
    run_epoch = train_zoo.GpuTrainer.run_epoch

    def interrupted(self, on_step=None):
        if self.epoch == 1:
            raise RunError('interrupted')
        return run_epoch(self)
    with monkeypatch.context() as patch:
        patch.setattr(train_zoo.GpuTrainer, 'run_epoch', interrupted)
        with pytest.raises(SystemExit, match='interrupted'):
            train(tmp_path / 'resumed', capsys)
    assert not (tmp_path / 'resumed' / NAME / 'model.safetensors').exists()
    train(tmp_path / 'resumed', capsys)
    whole, resumed = ((tmp_path / name / NAME / 'model.safetensors').read_bytes() for name in ('whole', 'resumed'))
    assert whole == resumed


def test_state_holds_everything_that_the_next_epoch_needs():
    data = digits()
    whole, first, second = (make_trainer(data) for _ in range(3))
    rows = [whole.run_epoch() for _ in range(2)]
    first.run_epoch()
    tensors, rest = first.state()
    second.load_state({name: tensor.clone() for name, tensor in tensors.items()}, rest)
    assert second.run_epoch()['loss'] == rows[1]['loss']
    assert rows[1]['lr'] < rows[0]['lr'] < whole.recipe.lr
    for name, tensor in whole.state()[0].items():
        assert torch.equal(second.state()[0][name], tensor), name
    with pytest.raises(KeyError, match='ema.* is only in one of checkpoint and trainer'):
        second.load_state({name: tensor for name, tensor in tensors.items() if not name.startswith('ema')}, rest)


def test_batch_without_augmentation_is_the_data():
    """With no shift and no square, images differ from the data only by being mirrored, each in one of two epochs."""
    data = digits()
    trainer = make_trainer(data, pad=0, cutout=0)
    images = data.normalized()
    mirrored = torch.zeros(2, 128, dtype=torch.bool)
    for trainer.epoch in (0, 1):
        trainer._prepare_epoch()
        assert sorted(trainer.order.flatten().tolist()) == list(range(128))
        for step in range(trainer.steps):
            trainer.position.fill_(step)
            batch, labels = trainer._batch()
            assert torch.equal(labels, data.labels[trainer.order[step]])
            for index, image in zip(trainer.order[step].tolist(), batch):
                mirrored[trainer.epoch, index] = not torch.allclose(image, images[index], atol=1e-6)
                expected = images[index].flip(-1) if mirrored[trainer.epoch, index] else images[index]
                assert torch.allclose(image, expected, atol=1e-6)
    assert (mirrored[0] ^ mirrored[1]).all() and 32 < mirrored[0].sum() < 96


@pytest.mark.parametrize('name', train_zoo.NAMES)
def test_fast_kernels_compute_the_same(name):
    data = digits(16)
    plain = train_zoo.build_network(name, data, cell_filters=4).double()
    images = data.normalized().double()
    fast = copy.deepcopy(plain)
    train_zoo.use_fast_kernels(fast)
    assert not any(isinstance(module, torch.nn.AvgPool2d) for module in fast.modules())
    results = []
    for model in (plain, fast):
        loss = torch.nn.functional.cross_entropy(model(images), data.labels)
        results.append([loss, *torch.autograd.grad(loss, list(model.parameters()))])
    for one, other in zip(*results):
        torch.testing.assert_close(one, other)
    assert fast.state_dict().keys() == plain.state_dict().keys()


def test_a_step_does_not_wait_for_the_device():
    """No value is read and no size depends on one, for which the CPU would have to wait."""
    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            called.add(func.overloadpacket.__name__)
            return func(*args, **(kwargs or {}))
    trainer, called = make_trainer(digits(64)), set()
    trainer._prepare_epoch()
    trainer.step()  # creates the state of the optimizers
    trainer.position.zero_()
    with Watch():
        trainer.run_step()
    assert 'convolution' in called and not called & {
        '_local_scalar_dense', 'nonzero', 'masked_select', 'unique', 'equal', 'is_nonzero'}


def test_infinite_loss_is_an_error():
    trainer = make_trainer(digits(64))
    with torch.no_grad():
        trainer.params[0].fill_(float('nan'))
    with pytest.raises(FloatingPointError, match='the loss is nan in epoch 1'):
        trainer.run_epoch()


def test_mode_that_fails_is_followed_by_the_next(monkeypatch, capsys):
    def fail(self):
        if self.mode != 'eager':
            raise RuntimeError('no graph')
        return 0.5
    monkeypatch.setattr(train_zoo.GpuTrainer, 'prepare', fail)
    config = train_zoo.GpuTrainConfig(source=NAME, out='unused', device='cpu', cell_filters=4)
    trainer, seconds = train_zoo.prepare(config, digits(), 'graph')
    assert (trainer.mode, seconds) == ('eager', 0.5)
    assert f'{NAME}: mode graph fails, so the next mode is tried: no graph' in capsys.readouterr().out


def test_muon_is_timms():
    torch.manual_seed(0)
    shapes = (8, 6, 1, 1), (8, 6, 1, 1), (5, 4, 3, 3)
    ours = [torch.nn.Parameter(torch.randn(shape)) for shape in shapes]
    theirs = [torch.nn.Parameter(param.detach().clone()) for param in ours]
    batched = train_zoo.Muon(ours, torch.tensor(0.02), 0.1, 0.9)
    plain = TimmMuon(theirs, lr=0.02, weight_decay=0.1, momentum=0.9, nesterov=True, ns_steps=5,
                     ns_coefficients='original', adjust_lr_fn='match_rms_adamw')
    for _ in range(3):
        for a, b in zip(ours, theirs):
            a.grad = torch.randn_like(a)
            b.grad = a.grad.clone()
        batched.step()
        plain.step()
    for a, b in zip(ours, theirs):
        assert (a - b).norm() < 2e-3 * b.norm()  # both orthogonalise in bfloat16

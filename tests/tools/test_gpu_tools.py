"""The tools for a GPU, run completely on the CPU with narrow networks; capturing and compiling need the GPU."""
import json
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from timm.optim import Muon as TimmMuon

from nasnet_zoo.data import load_digits

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope='module')
def train_zoo():
    sys.path.insert(0, str(ROOT / 'tools'))
    try:
        import train_zoo
        yield train_zoo
    finally:
        sys.path.remove(str(ROOT / 'tools'))


def run(tool, *options):
    return subprocess.run([sys.executable, ROOT / 'tools' / tool, *map(str, options)], check=True,
                          capture_output=True, text=True).stdout


def test_benchmark(tmp_path):
    out = tmp_path / 'results' / 'gpu.json'
    said = run('benchmark.py', 'gpu', '--tiny', '--device', 'cpu', '--out', out)
    results = json.loads(out.read_text())
    rows = {kind: [row for row in results['rows'] if row['kind'] == kind]
            for kind in ('correctness', 'inference', 'training')}
    (correct,) = rows['correctness']
    assert correct['logits_cpu'] == correct['gradients_cpu'] == 0  # it is the same device
    assert 0 < correct['optimized_eager'] < 1e-5 and 0 < correct['gradients_float64'] < 1e-4
    assert {(row['model'], row['batch']) for row in rows['inference']} == {
        (name, batch) for name in ('nasnet_a_large', 'nasnet_a_mobile') for batch in (1, 2)}
    assert len(rows['inference']) == 20 and all(row['logits_differ_from_peer'] < 0.05 for row in rows['inference'])
    assert [row['mode'] for row in rows['training']] == ['eager', 'graph']
    assert results['notes'] == ['ONNX Runtime has no CUDA provider here, so files were not run with it']
    assert 'inference' in said and 'ours, eager' in said


def test_benchmark_out_of_time(tmp_path):
    run('benchmark.py', 'gpu', '--tiny', '--device', 'cpu', '--out', tmp_path / 'gpu.json', '--minutes', 0.01)
    results = json.loads((tmp_path / 'gpu.json').read_text())
    assert results['notes'][-1].startswith('the time is over')
    assert not any(row['kind'] == 'training' for row in results['rows'])


def test_train(tmp_path):
    options = ['--tiny', '--device', 'cpu', '--data', 'digits', '--out', tmp_path, '--batch-size', 64, '--minutes', 0.3,
               '--max-epochs', 2, '--names', 'nasnet_c_cifar_small']
    said = run('train_zoo.py', *options)
    folder = tmp_path / 'nasnet_c_cifar_small'
    report = json.loads((folder / 'report.json').read_text())
    assert report['accuracy'] == json.loads(said.splitlines()[-1]) and report['accuracy']['count'] == 50
    assert report['recipe']['epochs'] == report['log']['epoch'] == 2
    assert {'run.json', 'log.csv', 'curve.png', 'checkpoint.safetensors'} <= {path.name for path in folder.iterdir()}
    model = timm.create_model(f'local-dir:{folder}', pretrained=True)
    half = timm.create_model(f'local-dir:{folder / "half"}', pretrained=True)
    for name, value in model.state_dict().items():
        expected = value.half().float() if value.is_floating_point() else value
        assert torch.equal(half.state_dict()[name], expected)
    log = (folder / 'log.csv').read_text()
    assert 'nasnet_c_cifar_small: ' in run('train_zoo.py', *options)  # a finished run is only measured again
    assert (folder / 'log.csv').read_text() == log


def test_resumed_is_the_same(train_zoo):
    data = load_digits()[0]
    data = data._replace(images=data.images[:256], labels=data.labels[:256])
    recipe = train_zoo.Recipe(epochs=2, batch_size=64, cutout=2, pad=1)

    def trainer():
        made = train_zoo.GpuTrainer('nasnet_c_cifar_small', data, recipe, 'cpu', 'eager', cell_filters=4)
        made.prepare()
        return made
    whole, first, second = trainer(), trainer(), trainer()
    rows = [whole.run_epoch() for _ in range(2)]
    first.run_epoch()
    tensors, rest = first.state()
    second.load_state({name: tensor.clone() for name, tensor in tensors.items()}, rest)
    assert second.run_epoch()['loss'] == rows[1]['loss']
    assert rows[1]['lr'] < rows[0]['lr'] < recipe.lr
    for name, tensor in whole.state()[0].items():
        assert torch.equal(second.state()[0][name], tensor), name


def test_muon_is_timms(train_zoo):
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

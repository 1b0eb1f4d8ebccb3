"""The benchmark of a GPU, run on the CPU with narrow networks. CUDA graphs and compilation need the GPU."""
import json
import subprocess
import sys
from collections import Counter

import pytest
import torch

from helpers.tools import import_tool

benchmark_gpu = import_tool('benchmark_gpu')


def measure(folder, *options):
    """Run the benchmark. Return what it wrote, and its rows by kind."""
    out = folder / 'results' / 'gpu.json'
    benchmark_gpu.run(benchmark_gpu.make_parser().parse_args(
        ['--tiny', '--device', 'cpu', '--out', str(out), *options]))
    assert [path.name for path in out.parent.iterdir()] == ['gpu.json']
    results = json.loads(out.read_text(encoding='utf-8'))
    rows = {}
    for row in results['rows']:
        rows.setdefault(row['kind'], []).append(row)
    return results, rows


def test_everything(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(benchmark_gpu, 'OTHERS', ((torch.float32, (1, 2)),))
    results, rows = measure(tmp_path, '--parts', 'correctness', 'inference', 'training', 'others')
    (correct,), (exported,) = rows['correctness'], rows['onnxruntime']
    assert correct['logits_cpu'] == correct['gradients_cpu'] == 0  # it is the same device
    assert 0 < correct['optimized_eager'] < 1e-5 and 0 < correct['gradients_float64'] < 1e-4
    assert exported['provider'] == 'cpu' and 0 < exported['logits_cpu'] < 1e-5
    assert {(row['model'], row['batch']) for row in rows['inference']} == {
        (name, batch) for name in ('nasnet_a_large', 'nasnet_a_mobile') for batch in (1, 2)}
    assert all(row['logits_differ_from_peer'] < 0.05 for row in rows['inference'])
    assert Counter(row['dtype'] for row in rows['inference']) == dict(bfloat16=20, float32=20)
    assert [row['mode'] for row in rows['training']] == ['eager', 'graph']
    assert results['notes'] == []
    said = capsys.readouterr().out
    assert 'correctness' in said and 'inference' in said and 'ours, eager' in said


def test_compiled_variants(tmp_path, monkeypatch):
    """With a stand-in for the compiler, which takes minutes."""
    compiled = []
    monkeypatch.setattr(torch, 'compile', lambda model, **options: compiled.append(model) or model)
    results, rows = measure(tmp_path, '--parts', 'compiled', '--models', 'nasnet_a_mobile')
    assert {row['model'] for row in rows['inference']} == {'nasnet_a_mobile'}
    assert {row['variant'] for row in rows['inference']} >= {
        'peer, compiled', 'peer, compiled, CUDA graph', 'ours, optimised, compiled',
        'ours, optimised, compiled, CUDA graph'}
    assert len(rows['compilation']) == 4 and len(compiled) >= 4 and results['notes'] == []
    assert [row['mode'] for row in rows['training']] == ['compiled']


def test_stops_when_the_time_is_over(tmp_path):
    out = tmp_path / 'gpu.json'
    ran = subprocess.run(
        [sys.executable, benchmark_gpu.__file__, '--tiny', '--device', 'cpu', '--out', str(out), '--minutes', '0.01'],
        capture_output=True, text=True, encoding='utf-8', timeout=200)
    assert (ran.returncode, ran.stderr) == (0, '')
    results = json.loads(out.read_text(encoding='utf-8'))
    assert results['notes'][-1].startswith('the time is over')
    assert 'training' not in [row['kind'] for row in results['rows']]
    assert f'{out} has all rows' in ran.stdout


def test_what_fails_is_noted_and_the_others_are_measured(tmp_path, monkeypatch):
    trainer = benchmark_gpu.train_zoo.GpuTrainer

    def fail(self):
        raise RuntimeError('no graph')
    monkeypatch.setattr(trainer, 'prepare', lambda self, prepare=trainer.prepare: (
        fail(self) if self.mode == 'eager' else prepare(self)))
    results, rows = measure(tmp_path, '--parts', 'training')
    assert results['notes'] == ['nasnet_a_cifar_small, training, eager: RuntimeError: no graph']
    assert [row['mode'] for row in rows['training']] == ['graph'] and rows['training'][0]['ratio_to_eager'] is None


def test_onnxruntime_without_the_gpu_is_noted(tmp_path, monkeypatch):
    def refuse(*args):
        raise benchmark_gpu.SessionError('its libraries cannot be loaded')
    monkeypatch.setattr(benchmark_gpu, 'OnnxRuntimeSession', refuse)
    results, rows = measure(tmp_path, '--parts', 'correctness')
    assert results['notes'] == [
        'ONNX Runtime cannot use cpu, so no exported file was run there: its libraries cannot be loaded']
    assert 'onnxruntime' not in rows


def test_devices(capsys):
    with pytest.raises(SystemExit):
        benchmark_gpu.make_parser().parse_args(['--out', 'x', '--device', 'tpu'])
    assert "invalid choice: 'tpu'" in capsys.readouterr().err

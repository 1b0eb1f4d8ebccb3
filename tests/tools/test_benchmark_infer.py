"""The comparison of inference, of a narrow network with itself as PyTorch exports it."""
import json
import sys
from importlib.util import find_spec

from helpers.tools import import_tool

benchmark = import_tool('benchmark')
RUNTIMES = ['onnxruntime', *(['openvino'] if find_spec('openvino') else [])]
TINY = ['--peer', 'tiny', '--screen-calls', '1', '--blocks', '1', '--calls', '1', '--finalists', '1', '--threads', '1',
        '--product-side', '32']


def measure(folder, monkeypatch, *options):
    """Run the benchmark. Return the row that it wrote."""
    monkeypatch.setattr(sys, 'argv', ['benchmark.py', 'infer', *TINY, '--json', str(folder / 'b.json'), *options])
    benchmark.main()
    (row,) = json.loads((folder / 'b.json').read_text(encoding='utf-8'))['rows']
    return row


def test_all_kinds_of_files(tmp_path, monkeypatch, capsys):
    exports = import_tool('benchmark_exports').EXPORTS
    few = ('TorchScript exporter, opset 17', 'TorchScript exporter, opset 17, onnxslim', 'ours for onnxruntime',
           'ours for onnxruntime, int8')
    monkeypatch.setattr(import_tool('benchmark_exports'), 'EXPORTS', {name: exports[name] for name in few})
    row = measure(tmp_path, monkeypatch)
    variants = row['variants'].values()
    assert {v['runtime'] for v in variants} == set(RUNTIMES) and {v['kind'] for v in variants} == {
        'plain', 'ours', 'int8'}
    assert set(row['seconds']) <= set(row['screened']) == set(row['variants'])
    for name, found in row['screened'].items():
        exact = row['variants'][name]['precision'] == 'float32'
        assert found['random']['relative_difference'] < (1e-5 if exact else 0.5)
    assert 'the fastest plain float32 export; ours, int8' in row['ratios']
    assert {f'{name}, float32' for name in ('PyTorch', 'ONNX Runtime')} <= set(row['machine']['gmacs_per_second'])
    said = capsys.readouterr().out
    assert 'ONNX Runtime, float32: TorchScript exporter, opset 17' in said and 'in products of matrices' in said


def test_passes(tmp_path, monkeypatch):
    passes = import_tool('benchmark_infer').PASSES
    few = {name: passes[name] for name in ('fold_norms', 'fuse_reductions', 'pad_channels')}
    tool = import_tool('benchmark_exports')
    monkeypatch.setattr(import_tool('benchmark_infer'), 'PASSES', few)
    monkeypatch.setitem(tool.ONNX_TARGETS, 'any', tool.ONNX_TARGETS['any']._replace(
        passes=('fold_norms', 'pad_channels')))
    row = measure(tmp_path, monkeypatch, '--passes', '--target', 'any')
    assert {name for name in row['ratios'] if name.startswith('file')} == {
        'file: ours without fold_norms', 'file: ours without pad_channels', 'file: ours with fuse_reductions'}

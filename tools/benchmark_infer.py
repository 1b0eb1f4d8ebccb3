"""The comparison of ``tools/benchmark.py infer``: networks with the same weights in ONNX Runtime and in PyTorch.

"Ours" is a network of this package, and "theirs" is the same architecture in another package (the peer).
"""
import argparse
import importlib.util
import io
import json
import math
import subprocess
import sys
import tempfile
import timeit
import warnings
from pathlib import Path
from typing import Any, Callable, Dict, List, NamedTuple, Tuple

import numpy as np
import onnx
import onnxruntime
import timm
import torch
from torch import nn

from nasnet_zoo import optimize_for_inference
from nasnet_zoo.checkpoints.load import load_foreign_weights
from nasnet_zoo.deploy.export import export_onnx, make_preprocessing
from nasnet_zoo.graph.targets import TARGETS


class Peer(NamedTuple):
    """A network of another package, and ours of the same architecture.

    Attributes:
        build: Builds the peer's network.
        ours: The name of our model.
        side: Height and width of the images, in pixels.
        args: Arguments for our model.
    """
    build: Callable[[], nn.Module]
    ours: str
    side: int
    args: Dict[str, Any] = {}


def cadene_mobile() -> nn.Module:
    """Return NASNet-A mobile of pretrainedmodels (by Remi Cadene).

    Its file is loaded on its own, because importing the package needs dependencies that it does not declare.
    """
    origin = importlib.util.find_spec('pretrainedmodels').origin
    spec = importlib.util.spec_from_file_location('cadene', Path(origin).parent / 'models' / 'nasnet_mobile.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.NASNetAMobile(num_classes=1000)


PEERS = {
    'nasnetamobile': Peer(cadene_mobile, 'nasnet_a_mobile', 224),
    'nasnetalarge': Peer(lambda: timm.create_model('nasnetalarge'), 'nasnet_a_large', 331, dict(pool_padding='timm')),
    'pnasnet5large': Peer(
        lambda: timm.create_model('pnasnet5large'), 'pnasnet5_large', 331, dict(pool_padding='timm')),
}


def both(peer: Peer) -> Tuple[nn.Module, nn.Module]:
    """Return the peer's network and ours with the same random weights, and batch statistics as after training."""
    torch.manual_seed(0)
    theirs = peer.build().eval()
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_(0, 0.1)
    ours = timm.create_model(peer.ours, **peer.args).eval()
    load_foreign_weights(ours, theirs.state_dict())
    return theirs, ours


def plain_export(model: nn.Module, images: torch.Tensor, file: Path, dynamo: bool, **options: Any) -> None:
    """Write a network with an exporter of ``torch.onnx``, as a single file."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        if dynamo:
            torch.onnx.export(model, (images,), dynamo=True, verbose=False, **options).save(buffer)
        else:
            torch.onnx.export(model, (images,), buffer, dynamo=False, **options)
    onnx.save(onnx.load_from_string(buffer.getvalue()), file)


EXPORTS = {
    **{f'TorchScript exporter, opset {opset}': dict(dynamo=False, opset_version=opset) for opset in range(17, 21)},
    **{f'default exporter, opset {opset}': dict(dynamo=True, opset_version=opset) for opset in (18, 19, 20)},
    'default exporter as it comes': dict(dynamo=True),
}


def session(file: Path, threads: int) -> onnxruntime.InferenceSession:
    """Open a file in ONNX Runtime on the CPU."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    return onnxruntime.InferenceSession(file, options, providers=['CPUExecutionProvider'])


def in_onnx_runtime(files: Dict[str, Path], images: np.ndarray, threads: int) -> Dict[str, Callable[[], np.ndarray]]:
    """Return for each file a function that runs it on the images."""
    def call(file: Path) -> Callable[[], np.ndarray]:
        opened = session(file, threads)
        feeds = {opened.get_inputs()[0].name: images}
        return lambda: opened.run(None, feeds)[0]
    return {name: call(file) for name, file in files.items()}


def in_pytorch(theirs: nn.Module, ours: nn.Module, images: torch.Tensor, compiled: bool) -> Dict[str, Callable]:
    """Return for each way to run the networks in PyTorch a function that does so."""
    optimized = optimize_for_inference(ours, tuple(images.shape[2:]))
    last = images.contiguous(memory_format=torch.channels_last)
    calls = {'theirs, eager': lambda: theirs(images), 'ours, optimize_for_inference': lambda: optimized(images),
             'ours, as it is, channels-last': lambda: ours(last)}
    if compiled:
        quick = torch.compile(theirs)
        calls['theirs, torch.compile'] = lambda: quick(images)
    ours.to(memory_format=torch.channels_last)
    return calls


MEMORY = '''
def memory(what):  # MiB of this process; getrusage would include what the parent process had before
    status = open('/proc/self/status').read()
    return int(status.split(what + ':')[1].split()[0]) / 1024
'''
MEASURE = MEMORY + '''
import json, sys, time
import numpy, onnxruntime
before = memory('VmRSS')
options = onnxruntime.SessionOptions()
options.intra_op_num_threads, options.log_severity_level = int(sys.argv[2]), 3
begun = time.perf_counter()
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=['CPUExecutionProvider'])
load = time.perf_counter() - begun
given = session.get_inputs()[0]
for _ in range(5):
    session.run(None, {given.name: numpy.zeros(given.shape, numpy.float32)})
print(json.dumps(dict(load_seconds=load, peak_mib=memory('VmHWM') - before)))
'''


def footprint(file: Path, threads: int) -> Dict[str, float]:
    """Measure a file in a process of its own.

    Returns:
        ``load_seconds``, ``peak_mib`` of memory for loading and running it, and ``file_mb``.
    """
    found = subprocess.run([sys.executable, '-c', MEASURE, str(file), str(threads)], capture_output=True, text=True,
                           check=True)
    return dict(json.loads(found.stdout), file_mb=file.stat().st_size / 1e6)


def export_footprint(name: str, exporter: str) -> Dict[str, float]:
    """Measure an export in a process of its own.

    Returns:
        ``export_seconds``, and ``export_peak_mib``, the memory that it needs on top of the two networks.
    """
    code = MEMORY + f'''
import json, sys, time
sys.path.insert(0, {str(Path(__file__).parent)!r})
import benchmark_infer as b, torch
peer = b.PEERS[{name!r}]
theirs, ours = b.both(peer)
images = torch.zeros(1, 3, peer.side, peer.side)
with torch.no_grad():
    theirs(images), ours(images)
before = memory('VmRSS')
begun = time.perf_counter()
b.write({exporter!r}, theirs, ours, images, b.Path(sys.argv[1]))
seconds = time.perf_counter() - begun
print('RESULT', json.dumps(dict(export_seconds=seconds, export_peak_mib=memory('VmHWM') - before)))
'''
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run([sys.executable, '-c', code, f'{folder}/m.onnx'], capture_output=True, text=True,
                              check=True)
    return json.loads(done.stdout.split('RESULT', 1)[1])


def write(exporter: str, theirs: nn.Module, ours: nn.Module, images: torch.Tensor, file: Path) -> None:
    """Write a file with an exporter: one of :data:`EXPORTS`, 'ours', 'ours, int8', or 'ours without PASS'."""
    if exporter in EXPORTS:
        plain_export(theirs, images, file, **EXPORTS[exporter])
        return
    calibration = None
    if exporter == 'ours, int8':
        calibration = np.random.default_rng(0).integers(0, 256, (4, *images.shape[1:]), np.uint8)
    passes = None
    if ' without ' in exporter:
        left_out = exporter.split(' without ')[1]
        passes = [name for name in TARGETS['onnxruntime'].passes if name != left_out]
    export_onnx(ours, file, make_preprocessing(ours, img_size=tuple(images.shape[2:])), batch_size=len(images),
                passes=passes, calibration=calibration)


def machine_ceilings() -> Dict[str, float]:
    """Measure how fast the machine can be.

    Returns:
        ``gmacs_per_second``, billions of mult-adds of a matrix product in float32, and ``gb_per_second``, GB read and
        written by a copy in memory.
    """
    a, b, c = (torch.randn(2048, 2048) for _ in range(3))
    x, y = torch.zeros(2, 1 << 26)

    def best(call: Callable) -> float:
        call()
        return min(timeit.repeat(call, number=1, repeat=10))
    return dict(gmacs_per_second=2048 ** 3 / best(lambda: torch.mm(a, b, out=c)) / 1e9,
                gb_per_second=2 * 4 * x.numel() / best(lambda: y.copy_(x)) / 1e9)


def least_seconds(file: Path, machine: Dict[str, float]) -> Dict[str, float]:
    """Return how long a float32 file must take at least on a machine.

    Each node reads its inputs and writes its output once. ReLUs and additions cost nothing, because ONNX Runtime fuses
    them with the node before.

    Returns:
        ``gmacs``, billions of mult-adds, and ``gb`` of memory traffic; ``sgemm_seconds`` and ``bandwidth_seconds``,
        what they take at the machine's peaks; and ``roofline_seconds``, the sum over all nodes of the larger of both.
    """
    graph = onnx.shape_inference.infer_shapes(onnx.load(file), strict_mode=True).graph
    shapes = {value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
              for value in (*graph.input, *graph.value_info, *graph.output)}
    shapes.update((tensor.name, list(tensor.dims)) for tensor in graph.initializer)
    macs = moved = roofline = 0.
    for node in graph.node:
        if node.op_type in ('Relu', 'Add'):
            continue
        out = shapes[node.output[0]]
        weight = shapes[node.input[1]] if node.op_type in ('Conv', 'Gemm') else []
        gmacs = math.prod(out) * math.prod(weight[1:]) / 1e9 if weight else 0.
        gb = 4 * sum(math.prod(shapes[name]) for name in (*node.input, node.output[0]) if name) / 1e9
        macs, moved = macs + gmacs, moved + gb
        roofline += max(gmacs / machine['gmacs_per_second'], gb / machine['gb_per_second'])
    return dict(gmacs=macs, gb=moved, sgemm_seconds=macs / machine['gmacs_per_second'],
                bandwidth_seconds=moved / machine['gb_per_second'], roofline_seconds=roofline)


def infer(name: str, args: argparse.Namespace, take_turns: Callable) -> Dict[str, Any]:
    """Compare a peer with ours, in ONNX Runtime and then in PyTorch.

    Args:
        name: A name in :data:`PEERS`.
        args: The command's options.
        take_turns: Measures the median seconds of each of several functions.

    Returns:
        Median seconds of all candidates, ratios between them, differences between their results, and the limits of the
        machine.
    """
    peer = PEERS[name]
    theirs, ours = both(peer)
    images = torch.randn(args.batch_size, 3, peer.side, peer.side)
    exporters = [*EXPORTS, 'ours'] + (['ours, int8'] if args.int8 else [])
    if args.passes:
        exporters = ['ours', *(f'ours without {p}' for p in TARGETS['onnxruntime'].passes)]
    row: Dict[str, Any] = dict(peer=name, batch_size=args.batch_size, side=peer.side)
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        files = {exporter: Path(folder) / f'{i}.onnx' for i, exporter in enumerate(exporters)}
        for exporter, file in files.items():
            with torch.inference_mode(False):
                write(exporter, theirs, ours, images, file)
        calls = in_onnx_runtime(files, images.numpy(), args.threads)
        expected = ours(images).numpy()
        row['differences'] = {
            who: float(np.linalg.norm(call() - expected) / np.linalg.norm(expected)) for who, call in calls.items()}
        row['onnx_runtime'] = take_turns(calls, args)
        calls.clear()
        machine = machine_ceilings()
        row['ceilings'] = dict(machine, **least_seconds(files['ours'], machine))
        if args.footprint:
            row['footprint'] = {who: footprint(file, args.threads) for who, file in files.items()}
    if args.footprint:
        for who in ('ours', 'TorchScript exporter, opset 17', 'default exporter as it comes'):
            row['footprint'][who].update(export_footprint(name, who))
    with torch.inference_mode():
        if args.passes:
            usual = TARGETS['torch_cpu'].passes
            modules = {f'ours without {p}': optimize_for_inference(
                ours, tuple(images.shape[2:]), [q for q in usual if q != p]) for p in usual}
            modules['ours'] = optimize_for_inference(ours, tuple(images.shape[2:]))
            calls = {who: (lambda module=module: module(images)) for who, module in modules.items()}
        else:
            calls = in_pytorch(theirs, ours, images, args.compiled)
        row['pytorch'] = take_turns(calls, args)
    return dict(row, ratios=ratios(row))


def ratios(row: Dict[str, Any]) -> Dict[str, float]:
    """Return how many times as fast ours is as each form of the peer, and int8 as float32."""
    ort, torch_ = row['onnx_runtime'], row['pytorch']
    plain = [seconds for who, seconds in ort.items() if who in EXPORTS]
    pairs = {}
    if plain:
        pairs = {'ONNX Runtime, the fastest plain export': (min(plain), ort['ours']),
                 'ONNX Runtime, the default export': (ort['default exporter as it comes'], ort['ours']),
                 'ours in ONNX Runtime, the peer eager': (torch_['theirs, eager'], ort['ours'])}
        for rival in ('theirs, eager', 'theirs, torch.compile'):
            if rival in torch_:
                pairs[f'PyTorch, {rival}'] = (torch_[rival], torch_['ours, optimize_for_inference'])
        if 'ours, int8' in ort:
            pairs['int8, our float32'] = (ort['ours'], ort['ours, int8'])
    else:
        pairs = {f'{where}: {who}': (seconds, found['ours']) for where, found in (
            ('ONNX Runtime', ort), ('PyTorch', torch_)) for who, seconds in found.items() if who != 'ours'}
    return {what: theirs / ours for what, (theirs, ours) in pairs.items()}


def lines(row: Dict[str, Any]) -> List[str]:
    """Return the lines of the printed report, with times in milliseconds."""
    text = [f'{row["peer"]}, batch {row["batch_size"]}, {row["side"]} pixels']
    for where in ('onnx_runtime', 'pytorch'):
        text += [f'  {1e3 * seconds:9.2f} ms  {who}' for who, seconds in sorted(
            row[where].items(), key=lambda pair: pair[1])]
    text += [f'  {ratio:9.2f} x   {what}' for what, ratio in row['ratios'].items()]
    found = row['ceilings']
    limits = {
        'sgemm_seconds': f'our {found["gmacs"]:.2f} billion mult-adds, if each ran like a matrix product, '
                         f'{found["gmacs_per_second"]:.0f} billion per second',
        'bandwidth_seconds': f'the {found["gb"]:.3f} GB that our nodes read and write, at {found["gb_per_second"]:.1f} '
                             'GB per second',
        'roofline_seconds': 'the slower of the two for each node, summed'}
    text += [f'  {1e3 * found[key]:9.2f} ms  {what}' for key, what in limits.items()]
    for who, found in row.get('footprint', {}).items():
        text.append(f'  {who}: ' + ', '.join(f'{key} {value:.2f}' for key, value in found.items()))
    return text

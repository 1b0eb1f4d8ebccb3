"""The comparison of ``tools/benchmark.py infer``: networks with the same weights, in each installed runtime.

"Ours" is a network of this package, and "theirs" is the same architecture in another package (the peer). A variant is
a file that runs in a runtime in a precision. There are too many variants to keep all of them in memory. Therefore each
is first run alone, and then those that were fastest take turns: of each kind of file, runtime and precision.
"""
import argparse
import copy
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, Iterator, List, NamedTuple, Optional, Tuple

import numpy as np
import torch
from benchmark_ceilings import least_seconds, measure_machine
from benchmark_exports import PEERS, Peer, build_networks, find_exports, find_pass_changes, write_export
from torch import nn

from nasnet_zoo import optimize_for_inference
from nasnet_zoo.data.pictures import find_pictures
from nasnet_zoo.data.preprocessing import Preprocessing, make_preprocessing
from nasnet_zoo.deploy.compare import compare_results
from nasnet_zoo.deploy.runtimes import RUNTIMES, open_session
from nasnet_zoo.deploy.session import Session, SessionError
from nasnet_zoo.graph.passes import PASSES
from nasnet_zoo.graph.targets import ONNX_TARGETS, TARGETS
from nasnet_zoo.progress import make_progress

_PRECISIONS = ('float32', 'bfloat16', 'float16')  # of files that are not in int8
_MAX_PICTURES = 200


class Variant(NamedTuple):
    """A file that runs in a runtime.

    Attributes:
        export: The name of the export that wrote the file.
        kind: 'plain', 'ours' or 'int8'.
        runtime: A name in ``RUNTIMES``.
        precision: What the runtime computes in.
    """
    export: str
    kind: str
    runtime: str
    precision: str

    @property
    def name(self) -> str:
        """What it is called in the report."""
        return f'{RUNTIMES[self.runtime].title}, {self.precision}: {self.export}'

    def open(self, file: Path, threads: int) -> Session:
        """Open the file.

        Raises:
            SessionError: If the runtime or the processor does not have the precision.
        """
        return open_session(self.runtime, str(file), threads=threads, precision=self.precision)


def find_variants(kinds: Dict[str, str]) -> List[Variant]:
    """Return all variants of files, whose names and kinds are given."""
    return [Variant(export, kind, runtime, precision) for export, kind in kinds.items()
            for runtime, row in RUNTIMES.items() if row.is_installed
            for precision in (('int8', 'bfloat16') if kind == 'int8' else _PRECISIONS)
            if precision in ('int8' if kind == 'int8' else 'float32', *row.precisions)]


def screen(
        variants: Iterable[Variant], files: Dict[str, Path], batch: np.ndarray, check: Callable[[Session], Dict],
        args: argparse.Namespace,
) -> Iterator[Tuple[Variant, Dict[str, Any]]]:
    """Run each variant alone.

    Args:
        check: Returns how far a session's results are from those of the network.

    Yields:
        Each variant that can run, its ``seconds`` for a call, the median, and what `check` returned.
    """
    for variant in variants:
        try:
            session = variant.open(files[variant.export], args.threads)
        except SessionError as error:
            print(f'{variant.name}: left out: {error}', file=sys.stderr)
            continue
        times = []
        for _ in range(args.warm_up + args.screen_calls):
            begun = time.perf_counter()
            session.run(batch)
            times.append(time.perf_counter() - begun)
        yield variant, dict(check(session), seconds=statistics.median(times[args.warm_up:]))


def pick(screened: Dict[Variant, Dict[str, Any]], count: int) -> List[Variant]:
    """Return the fastest variants of each kind of file, runtime and precision, and our file for the runtime."""
    groups: Dict[Any, List[Variant]] = {}
    for variant in sorted(screened, key=lambda variant: screened[variant]['seconds']):
        groups.setdefault(variant[1:], []).append(variant)
    return [variant for group in groups.values() for i, variant in enumerate(group)
            if i < count or variant.export in (f'ours for {variant.runtime}', f'ours for {variant.runtime}, int8')]


def in_pytorch(theirs: nn.Module, ours: nn.Module, images: torch.Tensor, compiled: bool) -> Dict[str, Callable]:
    """Return for each way to run the networks in PyTorch a function that does so."""
    optimized = optimize_for_inference(ours, tuple(images.shape[2:]))
    last = images.contiguous(memory_format=torch.channels_last)
    theirs_last = copy.deepcopy(theirs).to(memory_format=torch.channels_last)
    calls = {'theirs, eager': lambda: theirs(images), 'theirs, eager, channels-last': lambda: theirs_last(last),
             'ours, optimize_for_inference': lambda: optimized(images),
             'ours, as it is, channels-last': lambda: ours(last)}
    if compiled:
        quick = torch.compile(theirs)
        frozen = torch.compile(theirs, options=dict(freezing=True))
        calls['theirs, torch.compile'] = lambda: quick(images)
        calls['theirs, torch.compile with freezing'] = lambda: frozen(images)
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
import benchmark_exports as e, torch
from pathlib import Path
peer = e.PEERS[{name!r}]
theirs, ours = e.build_networks(peer)
images = torch.zeros(1, 3, peer.side, peer.side)
with torch.no_grad():
    theirs(images), ours(images)
before = memory('VmRSS')
begun = time.perf_counter()
e.write_export({exporter!r}, e.EXPORTS, theirs, ours, images, {{{exporter!r}: Path(sys.argv[1])}})
seconds = time.perf_counter() - begun
print('RESULT', json.dumps(dict(export_seconds=seconds, export_peak_mib=memory('VmHWM') - before)))
'''
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run([sys.executable, '-c', code, f'{folder}/m.onnx'], capture_output=True, text=True,
                              check=True)
    return json.loads(done.stdout.split('RESULT', 1)[1])


def make_check(
        ours: nn.Module, preprocessing: Preprocessing, batch_size: int, folder: Optional[Path],
) -> Callable[[Session], Dict]:
    """Return a function that compares a session with the network: ``random`` images, and ``pictures`` if a folder with
    such is given."""
    shape = (batch_size, *preprocessing.input_size)
    batches = {'random': np.random.default_rng(0).integers(0, 256, (1, *shape), np.uint8)}
    if folder is not None:
        paths = find_pictures([folder])[0][:_MAX_PICTURES]
        paths = paths[:len(paths) // batch_size * batch_size]
        if not paths:
            raise SystemExit(f'--pictures: {folder} has fewer than {batch_size} pictures, which is one batch')
        batches['pictures'] = np.stack([preprocessing.read(path) for path in paths]).reshape(-1, *shape)
    feeds = {kind: [preprocessing.feed(images) for images in groups] for kind, groups in batches.items()}
    with torch.inference_mode():
        expected = {kind: np.concatenate([ours(torch.from_numpy(feed)).numpy() for feed in groups])
                    for kind, groups in feeds.items()}

    def check(session: Session) -> Dict:
        return {kind: compare_results(np.concatenate([session.run(feed) for feed in groups]), expected[kind])
                for kind, groups in feeds.items()}
    return check


def compare_files(
        exports: Dict[str, Any], peer: Peer, theirs: nn.Module, ours: nn.Module, args: argparse.Namespace,
        take_turns: Callable, folder: Path, record: Callable[..., None],
) -> None:
    """Write all files and measure them: each alone, and then the fastest in turns.

    It records ``screened`` and ``seconds``, by the variants' names, and ``variants``, which describes them.
    """
    images = torch.randn(args.batch_size, 3, peer.side, peer.side)
    calibration = np.random.default_rng(0).integers(0, 256, (4 * args.batch_size, *images.shape[1:]), np.uint8)
    files = {export: folder / f'{i}.onnx' for i, export in enumerate(exports)}
    check = make_check(ours, make_preprocessing(ours, img_size=peer.side), args.batch_size, args.pictures)
    with make_progress('exports') as progress:
        for export in progress.track(list(exports)):
            write_export(export, exports, theirs, ours, images, files, calibration)
    variants = find_variants({export: row.kind for export, row in exports.items()})
    if args.passes:
        variants = [v for v in variants if v.runtime == ONNX_TARGETS[args.target].runtime
                    and v.precision in ('float32', 'int8')]
    screened = {}
    with make_progress('each alone') as progress:
        for variant, found in screen(progress.track(variants), files, images.numpy(), check, args):
            screened[variant] = found
            record(variants={variant.name: variant._asdict() for variant in screened},
                   screened={variant.name: found for variant, found in screened.items()})
    sessions = {variant: variant.open(files[variant.export], args.threads)
                for variant in (screened if args.passes else pick(screened, args.finalists))}
    seconds = take_turns({variant: (lambda session=session: session.run(images.numpy()))
                          for variant, session in sessions.items()}, args)
    record(seconds={variant.name: found for variant, found in seconds.items()})
    record(machine=measure_machine(args.threads, args.product_side),
           footprint={export: footprint(files[export], args.threads) for export in files
                      if args.footprint and not exports[export].slim_of})


def infer(
        name: str, args: argparse.Namespace, take_turns: Callable, save: Callable[[Dict[str, Any]], None],
) -> Dict[str, Any]:
    """Compare a peer with ours, as files and then in PyTorch.

    Args:
        name: A name in ``PEERS``.
        args: The command's options.
        take_turns: Measures the median seconds of each of several functions.
        save: Is called with what has been measured so far, whenever there is more of it.

    Returns:
        Median seconds of all variants, ratios between them, differences between their results, and the limits of the
        machine.
    """
    peer = PEERS[name]
    theirs, ours = build_networks(peer)
    exports = find_exports(args.quantizations, args.exports)
    if args.passes:
        writable = [p for p, row in PASSES.items() if set(row.makes) <= ONNX_TARGETS[args.target].kinds]
        exports = find_pass_changes(args.target, args.int8, writable)
    row: Dict[str, Any] = dict(peer=name, batch_size=args.batch_size, side=peer.side)

    def record(**found: Any) -> None:
        row.update(found)
        save(row)
    with tempfile.TemporaryDirectory() as folder:
        compare_files(exports, peer, theirs, ours, args, take_turns, Path(folder), record)
        floats = [i for i, export in enumerate(exports.values()) if export.kind == 'ours']
        row['ceilings'] = least_seconds(Path(folder) / f'{floats[0]}.onnx', row['machine']) if floats else None
    if args.footprint:
        for who in ('ours for onnxruntime', 'TorchScript exporter, opset 17', 'default exporter as it comes'):
            if who in row['footprint']:  # not if --exports leaves it out
                row['footprint'][who].update(export_footprint(name, who))
    images = torch.randn(args.batch_size, 3, peer.side, peer.side)
    with torch.inference_mode():
        if args.passes:
            usual = TARGETS['torch_cpu'].passes
            modules = {f'ours without {p}': optimize_for_inference(
                ours, peer.side, [q for q in usual if q != p]) for p in usual}
            modules['ours'] = optimize_for_inference(ours, peer.side)
            calls = {who: (lambda module=module: module(images)) for who, module in modules.items()}
        else:
            calls = in_pytorch(theirs, ours, images, args.compiled)
        record(pytorch=take_turns(calls, args))
    record(ratios=pass_ratios(row) if args.passes else ratios(row))
    return row


def ratios(row: Dict[str, Any]) -> Dict[str, float]:
    """Return how many times as fast ours is as the peer. The first ratios compare with the fastest plain float32
    export in the fastest runtime."""
    seconds, variants, torch_ = row['seconds'], row['variants'], row['pytorch']

    def fastest(**wanted: Any) -> Optional[float]:
        found = [seconds[name] for name in seconds if all(
            variants[name][key] in values for key, values in wanted.items())]
        return min(found, default=None)
    plain = fastest(kind=['plain'], precision=['float32'])
    pairs = {
        'the fastest plain float32 export; ours, float32': (plain, fastest(kind=['ours'], precision=['float32'])),
        'the fastest plain float32 export; ours, bfloat16': (plain, fastest(kind=['ours'], precision=['bfloat16'])),
        'the fastest plain float32 export; ours, int8': (plain, fastest(kind=['int8'])),
        'the peer eager; ours, optimize_for_inference': (
            torch_['theirs, eager'], torch_['ours, optimize_for_inference'])}
    for runtime, found in RUNTIMES.items():
        inside = dict(runtime=[runtime], precision=['float32'])
        pairs[f'in {found.title}, float32: the fastest plain export; ours'] = (
            fastest(kind=['plain'], **inside), fastest(kind=['ours'], **inside))
    for rival in ('theirs, eager, channels-last', 'theirs, torch.compile', 'theirs, torch.compile with freezing'):
        if rival in torch_:
            pairs[f'{rival}; ours, optimize_for_inference'] = torch_[rival], torch_['ours, optimize_for_inference']
    return {what: theirs / ours for what, (theirs, ours) in pairs.items() if theirs and ours}


def pass_ratios(row: Dict[str, Any]) -> Dict[str, float]:
    """Return how many times as long each change of the passes takes as the default passes."""
    files = {row['variants'][name]['export']: seconds for name, seconds in row['seconds'].items()}
    return {f'{where}: {who}': seconds / found['ours'] for where, found in (
        ('file', files), ('PyTorch', row['pytorch'])) for who, seconds in found.items() if who != 'ours'}


def lines(row: Dict[str, Any]) -> List[str]:
    """Return the lines of the printed report, with times in milliseconds."""
    text = [f'{row["peer"]}, batch {row["batch_size"]}, {row["side"]} pixels']

    def times(found: Dict[str, float]) -> List[str]:
        return [f'  {1e3 * seconds:9.2f} ms  {who}' for who, seconds in sorted(found.items(), key=lambda pair: pair[1])]
    text += ['each alone:', *times({who: found['seconds'] for who, found in row['screened'].items()})]
    text += ['in turns:', *times(row['seconds']), 'PyTorch:', *times(row['pytorch']), 'how many times as fast:']
    text += [f'  {ratio:9.2f} x   {what}' for what, ratio in row['ratios'].items()]
    text += ['relative difference of the results, and images with the same class:']
    for who, found in row['screened'].items():
        text.append(f'  {who}: ' + '; '.join(
            f'{kind} {found[kind]["relative_difference"]:.1e}, {found[kind]["same_top1"]} of {found[kind]["count"]}'
            for kind in ('random', 'pictures') if kind in found))
    text += [f'  {speed:9.1f} billion mult-adds per second in products of matrices: {where}'
             for where, speed in row['machine']['gmacs_per_second'].items()]
    found = row['ceilings']
    if found:
        limits = {
            'sgemm_seconds': f'our {found["gmacs"]:.2f} billion mult-adds, if each ran like a product of matrices',
            'bandwidth_seconds': f'the {found["gb"]:.3f} GB that our nodes read and write, at '
                                 f'{row["machine"]["gb_per_second"]:.1f} GB per second',
            'roofline_seconds': 'the slower of the two for each node, summed'}
        text += [f'  {1e3 * found[key]:9.2f} ms  {what}' for key, what in limits.items()]
    for who, found in row['footprint'].items():
        text.append(f'  {who}: ' + ', '.join(f'{key} {value:.2f}' for key, value in found.items()))
    return text

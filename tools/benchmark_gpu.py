"""Measure correctness and speed on one CUDA GPU within a time budget:

    python tools/benchmark.py gpu --out gpu.json --minutes 6

Correctness: every model of the zoo is built narrow. Its logits and the gradients of a training step are compared
between GPU and CPU, and optimize_for_inference is compared with eager mode, in float32 without TF32. If ONNX Runtime
can use the GPU, an exported file is run there too (with TF32, ONNX Runtime's default).

Inference: NASNet-A large and mobile in bfloat16 at batch sizes 256 and 1. The peer of the large network is timm's, with
the same weights; that of the mobile network is our own in eager mode, because timm has none. The time of a call ends
when the GPU has finished. Variants take turns in blocks of calls, and ratios are those of medians.

Training: a step of the smallest NASNet-A as tools/train_zoo.py makes it, in eager mode, as a CUDA graph, and compiled.

The most important parts come first, and the results are written to the file after every row, so nothing is lost if the
benchmark is interrupted. torch.compile comes later because it takes minutes (docs/gpu.md), and then inference at other
batch sizes and in float16 and float32. What is running when the time is over is stopped.
"""
import argparse
import copy
import json
import os
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from functools import partial
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any, Callable, Dict, Iterator, List, Tuple

import onnxruntime
import timm
import torch
import train_zoo
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.nn import functional as F

import nasnet_zoo  # noqa: F401  (registers the zoo)
from nasnet_zoo import optimize_for_inference
from nasnet_zoo.checkpoints.load import load_foreign_weights
from nasnet_zoo.cli.common import exit_on_interrupt
from nasnet_zoo.data.datasets import ImageSet
from nasnet_zoo.data.preprocessing import make_preprocessing
from nasnet_zoo.deploy.export import export_onnx
from nasnet_zoo.deploy.session import SessionError
from nasnet_zoo.deploy.session_onnxruntime import OnnxRuntimeSession
from nasnet_zoo.files import write_json
from nasnet_zoo.training.run import versions

Call = Callable[[torch.Tensor], torch.Tensor]

# For each model: the peer in timm, the arguments with which ours is the same network, and the side of the images
MODELS = {
    'nasnet_a_large': ('nasnetalarge', dict(pool_padding='timm'), 331),
    'nasnet_a_mobile': (None, {}, 224),
}
BATCHES = (256, 1)
# If there is time: types and batch sizes that are measured last
OTHERS = ((torch.bfloat16, (16, 64)), (torch.float16, BATCHES), (torch.float32, BATCHES))
PARTS = ('correctness', 'inference', 'training', 'compiled', 'others')  # in this order


class Results:
    """Rows of results, written to a file after each one.

    Args:
        args: The options of the command line.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.begun = args, time.perf_counter()
        self.lock = threading.Lock()  # one thread measures, another one ends the program
        self.rows: List[Dict[str, Any]] = []
        self.notes: List[str] = []

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self.begun

    def add(self, **row: Any) -> None:
        """Add a row, print it and write the file."""
        with self.lock:
            self.rows.append(dict(row, at_second=round(self.seconds, 1)))
            self.write()
            print(json.dumps(self.rows[-1]), flush=True)

    def note(self, text: str) -> None:
        """Add a sentence on something that was left out or failed, print it and write the file."""
        with self.lock:
            self.notes.append(text)
            self.write()
            print(text, flush=True)

    def write(self) -> None:
        """Write all rows and notes, and what the figures depend on."""
        device = train_zoo.device_name(self.args.device)
        known = dict(versions(), onnxruntime=onnxruntime.__version__, cuda=torch.version.cuda,
                     cudnn=torch.backends.cudnn.version())
        write_json(self.args.out, dict(
            device=device, versions=known, minutes=self.args.minutes, tiny=self.args.tiny,
            seconds=round(self.seconds, 1), notes=self.notes, rows=self.rows))


@contextmanager
def exit_when_out_of_time(results: Results) -> Iterator[None]:
    """End the program when the time is over, with a note that says so and the tables of what was measured.

    A thread does this, since an exception could end neither a long call of a library nor, always, a callback in one.
    """
    def finish() -> None:
        results.note('the time is over; what would have come next is left out')
        results.lock.acquire()  # nothing is written any more
        print_summary(results)
        sys.stdout.flush()
        os._exit(0)

    timer = threading.Timer(max(60 * results.args.minutes - results.seconds, 0.1), finish)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def randomize_statistics(model: nn.Module) -> nn.Module:
    """Give batch norms random statistics, like those after a training. Return the model."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return model


def difference(x: torch.Tensor, reference: torch.Tensor) -> float:
    """Return the norm of the difference, divided by the norm of the reference."""
    x, reference = x.detach().double().cpu(), reference.detach().double().cpu()
    return ((x - reference).norm() / reference.norm()).item()


def gradients(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return all gradients of a training step as one vector."""
    loss = F.cross_entropy(model.train()(images), labels)
    return torch.cat([grad.flatten() for grad in torch.autograd.grad(loss, list(model.parameters()))])


def check_correctness(results: Results) -> None:
    """Compare the device with the CPU for every model of the zoo, built narrow (``--tiny``: only for the last one)."""
    device = results.args.device
    names = timm.list_models(module='zoo')
    for name in names[-1:] if results.args.tiny else names:
        torch.manual_seed(0)
        model = randomize_statistics(timm.create_model(name, num_cells=1, cell_filters=8, num_classes=10)).eval()
        images, labels = torch.randn(8, 3, 64, 64), torch.randint(10, (8,))
        with torch.no_grad():
            on_cpu = model(images)
        gradient = gradients(copy.deepcopy(model), images, labels)
        gradient64 = gradients(copy.deepcopy(model).double(), images.double(), labels)
        model, images, labels = model.to(device), images.to(device), labels.to(device)
        with torch.no_grad():
            logits, optimized = model(images), optimize_for_inference(model, 64)(images)
        on_device = gradients(model, images, labels)
        results.add(
            kind='correctness', model=name, logits_cpu=difference(logits, on_cpu),
            optimized_eager=difference(optimized, logits), gradients_cpu=difference(on_device, gradient),
            gradients_float64=difference(on_device, gradient64), gradients_cpu_float64=difference(gradient, gradient64))


def check_onnxruntime(results: Results) -> None:
    """Run an exported file in ONNX Runtime on the device, and compare its logits with PyTorch's on the CPU."""
    provider = results.args.device
    torch.manual_seed(0)
    model = randomize_statistics(timm.create_model('nasnet_a_mobile', num_cells=1, cell_filters=8)).eval()
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = model(images)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, 'model.onnx')
        export_onnx(model, path, make_preprocessing(model, img_size=64), batch_size=None)
        try:
            logits = OnnxRuntimeSession(os.fspath(path), provider).run(images.numpy())
        except SessionError as error:
            results.note(f'ONNX Runtime cannot use {provider}, so no exported file was run there: {error}')
            return
    results.add(kind='onnxruntime', provider=provider, logits_cpu=difference(torch.from_numpy(logits), expected))


def build_models(
        name: str, args: argparse.Namespace, dtype: torch.dtype = torch.bfloat16,
) -> Tuple[nn.Module, nn.Module, nn.Module, int]:
    """Return the peer, our network, our network optimised for inference, and the side of the images in pixels."""
    theirs, same, side = MODELS[name]
    narrow = dict(num_cells=1, cell_filters=8) if args.tiny else {}
    if args.tiny:
        theirs, side = None, 64
    torch.manual_seed(0)
    with torch.device(args.device):
        peer = randomize_statistics(timm.create_model(theirs or name, **narrow)).eval()
        ours = timm.create_model(name, **narrow, **(same if theirs else {})).eval()
    if theirs:
        load_foreign_weights(ours, peer.state_dict())
    else:
        ours.load_state_dict(peer.state_dict())
    models = [model.to(dtype=dtype, memory_format=torch.channels_last).requires_grad_(False) for model in (peer, ours)]
    return (*models, optimize_for_inference(models[1], side).to(memory_format=torch.channels_last), side)


@torch.inference_mode()
def build_all(args: argparse.Namespace, dtype: torch.dtype = torch.bfloat16) -> Dict[str, Tuple]:
    """Return what :func:`build_models` does for each network, by name."""
    return {name: build_models(name, args, dtype) for name in args.models}


def random_images(batch: int, models: Tuple) -> torch.Tensor:
    """Return random images for a network and its variants, [B, 3, H, W], channels-last."""
    weight, side = next(models[0].parameters()), models[-1]
    return torch.randn(batch, 3, side, side, device=weight.device).to(
        dtype=weight.dtype, memory_format=torch.channels_last)


def as_graph(call: Call, images: torch.Tensor) -> Call:
    """Return a function that replays `call`, captured as a CUDA graph. On a CPU it is `call` itself.

    It copies its images to where the graph reads them. The next replay overwrites its output.
    """
    if not images.is_cuda:
        return call
    given = images.clone()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            call(given)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = call(given)

    def replay(x: torch.Tensor) -> torch.Tensor:
        given.copy_(x)
        graph.replay()
        return output
    return replay


def synchronize(args: argparse.Namespace) -> None:
    """Wait until the device has finished."""
    if args.device == 'cuda':
        torch.cuda.synchronize()


def measure(calls: Dict[str, Callable[[], Any]], args: argparse.Namespace) -> Dict[str, List[float]]:
    """Return the seconds of calls by variant; each call ends when the device has finished.

    There are three turns of 20 calls after a warm-up. A turn ends early after 0.7 seconds, but not before 3 calls.
    """
    seconds: Dict[str, List[float]] = {who: [] for who in calls}
    limit = 2 if args.tiny else 20
    for block in range(-1, 3):  # the first turn is a warm-up
        for who, call in calls.items():
            begun = time.perf_counter()
            for i in range(3 if block < 0 else limit):
                if i >= 3 and time.perf_counter() - begun > 0.7:
                    break
                start = time.perf_counter()
                call()
                synchronize(args)
                if block >= 0:
                    seconds[who].append(time.perf_counter() - start)
    return seconds


def variants(models: Tuple, images: torch.Tensor, compiled: bool, results: Results) -> Dict[str, Call]:
    """Return what is compared, by name: what is compiled, or everything else. A note says what fails."""
    peer, ours, optimized, _ = models
    makers: Dict[str, Callable[[], Call]] = {'peer, eager': lambda: peer}
    if compiled:
        for label, model in (('peer', peer), ('ours, optimised', optimized)):
            run = torch.compile(model, dynamic=False)
            makers[f'{label}, compiled'] = lambda run=run: run
            makers[f'{label}, compiled, CUDA graph'] = partial(as_graph, run, images)
    else:
        makers.update({
            'ours, eager': lambda: ours,
            'ours, optimised': lambda: optimized,
            'peer, CUDA graph': lambda: as_graph(peer, images),
            'ours, optimised, CUDA graph': lambda: as_graph(optimized, images),
        })
    calls = {}
    for label, make in makers.items():
        begun = time.perf_counter()
        try:
            calls[label] = make()
            calls[label](images)
            synchronize(results.args)
        except Exception as error:  # the other variants are measured all the same
            calls.pop(label, None)
            results.note(f'batch {len(images)}, {label}: {type(error).__name__}: {str(error)[:300]}')
        if label.endswith('compiled') and label in calls:
            results.add(kind='compilation', variant=label, batch=len(images), seconds=time.perf_counter() - begun)
    return calls


@torch.inference_mode()
def compare_inference(name: str, batch: int, models: Tuple, compiled: bool, results: Results) -> None:
    """Time the variants of a network at one batch size: those that are compiled and the peer, or all others."""
    args, side = results.args, models[-1]
    images = random_images(batch, models)
    calls = variants(models, images, compiled, results)
    if 'peer, eager' not in calls:  # there is nothing to compare with; a note says why
        return
    expected = calls['peer, eager'](images).float().clone()
    differences = {who: difference(call(images).float(), expected) for who, call in calls.items()}
    seconds = measure({who: partial(call, images) for who, call in calls.items()}, args)
    medians = {who: median(values) for who, values in seconds.items()}
    for who, value in medians.items():
        results.add(
            kind='inference', model=name, peer=MODELS[name][0] or 'ours, eager', batch=batch, side=side,
            dtype=str(images.dtype).removeprefix('torch.'), variant=who,
            milliseconds=1000 * value, images_per_second=batch / value, calls=len(seconds[who]),
            ratio_to_peer_eager=medians['peer, eager'] / value,
            ratio_to_peer_compiled=medians['peer, compiled'] / value if 'peer, compiled' in medians else None,
            logits_differ_from_peer=differences[who])


def fake_images(args: argparse.Namespace) -> ImageSet:
    """Return random images of CIFAR's size; the time of a step does not depend on what they show."""
    count = 256 if args.tiny else 4096
    return ImageSet(torch.randint(256, (count, 3, 32, 32), dtype=torch.uint8), torch.randint(10, (count,)),
                    (0.5,) * 3, (0.25,) * 3, tuple('abcdefghij'))


def compare_all_inference(
        models: Dict[str, Tuple], compiled: bool, results: Results, batches: Tuple[int, ...] = BATCHES) -> None:
    """Time all networks at all batch sizes, either the compiled variants or the others."""
    for name, batch in product(models, (2, 1) if results.args.tiny else batches):
        compare_inference(name, batch, models[name], compiled, results)


def compare_training(modes: Tuple[str, ...], results: Results) -> None:
    """Time a training step of the smallest NASNet-A in each mode."""
    args, name, images = results.args, train_zoo.NAMES[0], fake_images(results.args)
    recipe = train_zoo.GpuRecipe(batch_size=args.train_batch, bf16=args.device == 'cuda')
    for mode in modes:
        begun = time.perf_counter()
        try:
            model = train_zoo.build_network(name, images, **train_zoo.TINY_NETWORK if args.tiny else {})
            trainer = train_zoo.GpuTrainer(model, images, recipe, args.device, mode)
            seconds = trainer.prepare()
        except Exception as error:  # the other modes are measured all the same
            results.note(f'{name}, training, {mode}: {type(error).__name__}: {str(error)[:300]}')
            continue
        eager = [row['milliseconds'] for row in results.rows if row['kind'] == 'training' and row['mode'] == 'eager']
        results.add(kind='training', model=name, mode=mode, batch=args.train_batch, milliseconds=1000 * seconds,
                    images_per_second=args.train_batch / seconds,
                    ratio_to_eager=eager[0] / 1000 / seconds if eager else None,
                    preparation_seconds=time.perf_counter() - begun)


def print_summary(results: Results) -> None:
    """Print correctness, inference and training as tables, and where all rows are."""
    console = Console(width=150)
    for kind in ('correctness', 'inference', 'training'):
        chosen = [row for row in results.rows if row['kind'] == kind]
        if chosen:
            columns = [name for name in chosen[0] if name not in (
                'kind', 'peer', 'side', 'calls', 'at_second')]
            table = Table(*columns, title=kind, title_justify='left')
            for row in chosen:
                table.add_row(*('' if row[name] is None else f'{row[name]:.3g}' if isinstance(row[name], float)
                                else str(row[name]) for name in columns))
            console.print(table)
    print(f'{results.seconds:.0f} s; {results.args.out} has all rows and {len(results.notes)} notes')


def run(args: argparse.Namespace) -> None:
    """Measure everything, the most important parts first."""
    args.train_batch = 32 if args.tiny else args.train_batch
    torch.backends.cudnn.benchmark = True
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    results = Results(args)
    with exit_when_out_of_time(results):
        if 'correctness' in args.parts:
            check_correctness(results)
            check_onnxruntime(results)
        models = {}
        if 'inference' in args.parts:
            models = build_all(args)
            compare_all_inference(models, False, results)
        if 'training' in args.parts:
            compare_training(('eager', 'graph'), results)
        if 'compiled' in args.parts:
            compare_all_inference(models or build_all(args), True, results)
            compare_training(('compiled',), results)
        for dtype, batches in OTHERS if 'others' in args.parts else ():
            models.clear()  # frees its memory
            models = build_all(args, dtype)
            compare_all_inference(models, False, results, batches)
    print_summary(results)


def add_options(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Add the options of this benchmark. Return the parser."""
    parser.add_argument('--out', type=Path, required=True, help='JSON file to which all results are written')
    parser.add_argument('--minutes', type=float, default=6., help='time for everything')
    parser.add_argument('--device', choices=('cuda', 'cpu'), default='cuda' if torch.cuda.is_available() else 'cpu')
    parser.add_argument('--parts', nargs='+', choices=PARTS, default=list(PARTS), help=(
        'what to measure; "compiled" is torch.compile, for inference and training, and "others" is inference at other '
        'batch sizes and in other types (default: all)'))
    parser.add_argument('--models', nargs='+', choices=MODELS, default=list(MODELS), help=(
        'networks whose inference is measured (default: all)'))
    parser.add_argument('--train-batch', type=int, default=256, help='number of images in a training step')
    parser.add_argument('--tiny', action='store_true', help='try the tool: narrow networks, few calls')
    return parser


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of this file's own command line."""
    return add_options(argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter))


if __name__ == '__main__':
    with exit_on_interrupt(lambda: '--out has the results so far; the same command starts again'):
        run(make_parser().parse_args())

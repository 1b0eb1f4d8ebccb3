"""Compare the speed of this package with that of other packages:

    python tools/benchmark.py train|child|infer|gpu [--device cuda]

Within one run, we ("ours") and the other package ("theirs", the peer) take turns in blocks of calls. The result is a
ratio of medians.

train: a training step of our network and of the peer's with the same architecture. A step might be fast only because
it computes something else. Therefore both first train in float64, from the same weights on the same images, and their
losses must agree. In float32 they agree only for a short time, because training amplifies rounding errors.

child: an epoch of training a child of a search, in our evaluator and in a plain PyTorch loop. Both train the same
compiled network on the same images with the same optimiser of timm; the plain loop uses a DataLoader that reads PNG
files and crops, flips and normalises them one by one. The plain loop runs twice: with PyTorch's own functions, and with
those of nasnet_zoo.network.cpu_autograd. By default, the cells are those of NASNet-A and cells of the DARTS space with
many dilated convolutions.

infer: inference on a CPU. Our exported files are compared with all plain exports of the peer, in each installed runtime
and precision, and our network with the peer in PyTorch, with the same weights. See benchmark_infer.py.

gpu: correctness, inference and training on one CUDA GPU, within a time budget. See benchmark_gpu.py.
"""
import argparse
import gc
import platform
import statistics
import tempfile
import time
from pathlib import Path
from typing import Callable, Dict, List
from unittest import mock

import benchmark_exports
import benchmark_gpu
import benchmark_infer
import timm
import torch
from benchmark_exports import cadene_mobile
from rich.console import Console
from rich.table import Table
from timm.optim import create_optimizer_v2
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder
from torchvision.transforms.functional import to_pil_image

import nasnet_zoo  # noqa: F401  (registers the zoo)
from nasnet_zoo import load_genotype
from nasnet_zoo.checkpoints.load import load_foreign_weights
from nasnet_zoo.cli.common import exit_on_interrupt
from nasnet_zoo.data.datasets import ImageSet, data_name, load_data
from nasnet_zoo.deploy.runtimes import RUNTIMES
from nasnet_zoo.files import write_json
from nasnet_zoo.graph.targets import ONNX_TARGETS
from nasnet_zoo.search.config import ChildSettings
from nasnet_zoo.search.evaluator import Evaluator
from nasnet_zoo.training.recipe import Recipe
from nasnet_zoo.training.run import versions
from nasnet_zoo.training.trainer import keep_freed_memory

APART = 'largest_relative_difference_of_losses'  # key in the rows

# For each peer: a builder of its network, one of ours, the side of the images, and the batch sizes on a CPU and a GPU
PEERS = {
    'timm nasnetalarge': (
        lambda: timm.create_model('nasnetalarge', num_classes=10),
        lambda: timm.create_model('nasnet_a_large', num_classes=10, pool_padding='timm'), 96, 16, 128),
    'pretrainedmodels nasnetamobile': (
        cadene_mobile, lambda: timm.create_model('nasnet_a_mobile'), 224, 16, 256),
}


def dilated_cells() -> Dict:
    """Return a genotype of DARTS's operations, most of them dilated convolutions."""
    cell = dict(outputs=[['b0', 'b1', 'b2', 'b3']], blocks=[
        dict(left=['dil_sep_conv_3x3', 'h1'], right=['dil_sep_conv_5x5', 'h0']),
        dict(left=['dil_sep_conv_5x5', 'h1'], right=['dil_sep_conv_3x3', 'b0']),
        dict(left=['sep_conv_5x5', 'h0'], right=['dil_sep_conv_3x3', 'b0']),
        dict(left=['dil_sep_conv_3x3', 'b0'], right=['max_pool_3x3', 'b1'])])
    return dict(format=1, name='dilated', inputs=2, normal=cell, reduction=cell)


def stepper(model: nn.Module, images: torch.Tensor, labels: torch.Tensor, args: argparse.Namespace) -> Callable:
    """Return a function that makes a step of SGD and returns the loss."""
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    runs = torch.compile(model) if args.compile else model

    def step() -> float:
        with torch.autocast(torch.device(args.device).type, torch.bfloat16, enabled=args.bf16):
            output = runs(images)
            loss = F.cross_entropy(output[0] if isinstance(output, tuple) else output, labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        return loss.item()
    return step


def steppers(name: str, batch: int, side: int, dtype: torch.dtype, args: argparse.Namespace) -> Dict[str, Callable]:
    """Return functions that make a step of the peer's network and of ours, with the same weights and images."""
    build_theirs, build_ours = PEERS[name][:2]
    torch.manual_seed(0)
    images = torch.randn(batch, 3, side, side, device=args.device, dtype=dtype)
    labels = torch.randint(10, (batch,), device=args.device)
    models = {'theirs': build_theirs(), 'ours': build_ours()}
    for model in models.values():
        for module in model.modules():  # with dropout the losses could not be compared
            if isinstance(module, nn.Dropout):
                module.p = 0.
    load_foreign_weights(models['ours'], models['theirs'].state_dict())
    layouts = {'theirs': torch.channels_last if args.peer_channels_last else torch.contiguous_format,
               'ours': torch.channels_last}
    return {who: stepper(model.train().to(args.device, dtype, memory_format=layouts[who]),
                         images.contiguous(memory_format=layouts[who]), labels, args)
            for who, model in models.items()}


def take_turns(steps: Dict[str, Callable], args: argparse.Namespace) -> Dict[str, float]:
    """Return the median seconds of a call of each candidate. A call must wait for the device."""
    seconds: Dict[str, List[float]] = {who: [] for who in steps}
    for block in range(-1, args.blocks):  # the first turn is a warm-up
        for who, step in steps.items():
            for _ in range(args.calls if block >= 0 else args.warm_up):
                begun = time.perf_counter()
                step()
                if block >= 0:
                    seconds[who].append(time.perf_counter() - begun)
    return {who: statistics.median(times) for who, times in seconds.items()}


def compare(name: str, args: argparse.Namespace) -> Dict:
    """Compare training steps: images per second, their ratio, and the largest difference of the losses in float64."""
    _, _, side, on_cpu, on_gpu = PEERS[name]
    batch = args.batch_size or (on_cpu if args.device == 'cpu' else on_gpu)
    exact = argparse.Namespace(**{**vars(args), 'bf16': False, 'compile': False})
    losses = {who: [step() for _ in range(args.same)]
              for who, step in steppers(name, 4, side, torch.float64, exact).items()}
    apart = max(abs(a - b) / abs(b) for a, b in zip(losses['ours'], losses['theirs']))
    gc.collect()
    steps = steppers(name, batch, side, torch.float32, args)
    medians = take_turns(steps, args)
    return dict(
        peer=name, batch_size=batch, side=side,
        **{f'{who}_images_per_second': batch / medians[who] for who in steps},
        ratio=medians['theirs'] / medians['ours'],
        **{f'{who}_losses': losses[who] for who in steps}, **{APART: apart})


def plain_child(model: nn.Module, images: ImageSet, recipe: Recipe, folder: Path, workers: int) -> Callable:
    """Return a function that trains for an epoch in a plain loop, like those of PyTorch's tutorials."""
    for i, (image, label) in enumerate(zip(images.images, images.labels.tolist())):
        path = folder / f'{label:03}' / f'{i}.png'
        path.parent.mkdir(exist_ok=True)
        to_pil_image(image).save(path)
    grey = [transforms.Grayscale()] if len(images.mean) == 1 else []
    data = ImageFolder(str(folder), transforms.Compose([
        *grey, transforms.RandomCrop(images.input_size[-1], padding=4), transforms.RandomHorizontalFlip(),
        transforms.ToTensor(), transforms.Normalize(images.mean, images.std)]))
    loader = DataLoader(data, recipe.batch_size, shuffle=True, num_workers=workers, drop_last=True,
                        persistent_workers=workers > 0)
    optimizer = create_optimizer_v2(
        model, opt=recipe.opt, lr=recipe.lr, weight_decay=recipe.weight_decay, momentum=recipe.momentum)
    device = next(model.parameters()).device

    def epoch() -> None:
        for inputs, labels in loader:
            optimizer.zero_grad()
            loss = F.cross_entropy(model(inputs.to(device)), labels.to(device))
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), recipe.clip_grad)
            optimizer.step()
            loss.item()
    return epoch


def child(name: str, train: ImageSet, args: argparse.Namespace) -> List[Dict]:
    """Compare an epoch of a child's training with each plain loop: images per second and their ratio."""
    recipe = dict(epochs=10 ** 4, batch_size=args.batch_size or 128, opt=args.opt)  # more epochs than are run
    evaluator = Evaluator(train, ChildSettings(
        num_cells=args.num_cells, cell_filters=args.cell_filters, img_size=args.img_size, limit_train=args.images,
        recipe=recipe), args.device)
    genotype = load_genotype(dilated_cells() if name == 'dilated' else name)
    trainer, same = (evaluator.trainer(genotype) for _ in range(2))
    with tempfile.TemporaryDirectory() as folder:
        plain = plain_child(same.model.to(memory_format=torch.contiguous_format), evaluator.train, trainer.recipe,
                            Path(folder), args.loader_workers)
        medians = take_turns({
            'a plain loop': with_pytorch_gradients(plain), 'a plain loop, our functions': plain,
            'ours': trainer.run_epoch}, args)
    images, ours = trainer.steps_per_epoch * trainer.recipe.batch_size, medians.pop('ours')
    return [dict(
        peer=f'{who}, {name}', batch_size=trainer.recipe.batch_size, side=evaluator.train.input_size[-1],
        data=data_name(args.data), num_cells=args.num_cells, cell_filters=args.cell_filters,
        theirs_images_per_second=images / theirs, ours_images_per_second=images / ours, ratio=theirs / ours)
        for who, theirs in medians.items()]


def with_pytorch_gradients(call: Callable) -> Callable:
    """Return a function that calls `call` without the functions of nasnet_zoo.network.cpu_autograd."""
    def never(x: torch.Tensor, training: bool) -> bool:
        return False

    def plain() -> None:
        with mock.patch('nasnet_zoo.network.ops.use_cpu_autograd', never), \
                mock.patch('nasnet_zoo.network.cpu_autograd.use_cpu_autograd', never):
            call()
    return plain


def add_options(parser: argparse.ArgumentParser, blocks: int, calls: int, call: str) -> argparse.ArgumentParser:
    """Add the options that every comparison has."""
    parser.add_argument('--batch-size', type=int, help=(
        'number of images in a batch (the default depends on the network)'))
    parser.add_argument('--warm-up', type=int, default=max(1, 3 * calls // 20), help=f'{call} that are not counted')
    parser.add_argument('--blocks', type=int, default=blocks, help='number of turns (blocks of calls) of each variant')
    parser.add_argument('--calls', type=int, default=calls, help=f'number of {call} in a turn')
    parser.add_argument('--threads', type=int, default=torch.get_num_threads(), help=(
        "number of threads (default: PyTorch's)"))
    parser.add_argument('--json', type=Path, help='write all figures to this file')
    return parser


def add_training_options(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Add the options that both comparisons of training have."""
    parser.add_argument('--device', default='cpu', help='device to measure on: cpu or cuda')
    parser.add_argument('--plain-allocator', action='store_true', help=(
        "do not change the settings of glibc's memory allocator"))
    return parser


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line, with a subcommand for each comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = parser.add_subparsers(dest='what', required=True)
    sub = add_training_options(add_options(
        kinds.add_parser('train', help='compare training steps'), 2, 20, 'steps'))
    sub.add_argument('--peer', choices=list(PEERS), action='append', help='default: all')
    sub.add_argument('--bf16', action='store_true', help='use bfloat16 mixed precision for both implementations')
    sub.add_argument('--compile', action='store_true', help='use torch.compile for both implementations')
    sub.add_argument('--peer-channels-last', action='store_true', help='use channels-last memory for the peer, too')
    sub.add_argument('--same', type=int, default=5, help='number of float64 steps whose losses must agree')
    sub = add_training_options(add_options(
        kinds.add_parser('child', help="compare epochs of a search's child"), 5, 1, 'epochs'))
    sub.add_argument('--data', default='digits', help='digits, or a folder or archive of small images')
    sub.add_argument('--cells', action='append', help=(
        'genotype by name or file, or "dilated"; may be repeated (default: nasnet_a and dilated)'))
    sub.add_argument('--opt', default='momentum', help='optimiser')
    sub.add_argument('--img-size', type=int, help='height and width in pixels to which images are resized')
    sub.add_argument('--images', type=int, default=2560, help='number of images in an epoch')
    sub.add_argument('--num-cells', type=int, default=1, help='number of normal cells in each stage')
    sub.add_argument('--cell-filters', type=int, default=8, help='number of filters in the cells of the first stage')
    sub.add_argument('--loader-workers', type=int, default=2, help="processes of the plain loop's DataLoader")
    add_inference_options(add_options(kinds.add_parser('infer', help='compare inference on a CPU'), 3, 20, 'calls'))
    benchmark_gpu.add_options(kinds.add_parser('gpu', help='measure everything on one GPU'))
    return parser


def add_inference_options(sub: argparse.ArgumentParser) -> None:
    """Add the options that only the comparison of inference has."""
    sub.add_argument('--peer', choices=list(benchmark_exports.PEERS), action='append', help='default: nasnetamobile')
    sub.add_argument('--pictures', type=Path, help=(
        'folder of pictures, on at most 200 of which the results are compared with the network'))
    sub.add_argument('--exports', action='append', default=[], metavar='TEXT', help=(
        'measure only exports whose name contains this text; may be repeated'))
    sub.add_argument('--finalists', type=int, default=2, help=(
        'number of variants of each kind of file, runtime and precision that take turns'))
    sub.add_argument('--screen-calls', type=int, default=10, help='number of calls of each variant alone')
    sub.add_argument('--compiled', action='store_true', help=(
        'also measure the peer with torch.compile, which takes minutes'))
    sub.add_argument('--quantizations', action='store_true', help='also measure other settings for int8')
    sub.add_argument('--footprint', action='store_true', help='also measure memory, load time and file size')
    sub.add_argument('--passes', action='store_true', help=(
        'instead, measure our network without each single pass, and with each that is not applied by default'))
    sub.add_argument('--target', choices=list(ONNX_TARGETS), default='onnxruntime', help='target for --passes')
    sub.add_argument('--int8', action='store_true', help='with --passes: quantise our network to int8')
    sub.add_argument('--product-side', type=int, default=2048, help=(
        "height and width of the matrices whose product measures the machine's peak"))


def write_figures(args: argparse.Namespace, rows: List[Dict]) -> None:
    """Write all figures and what they depend on, if ``--json`` names a file."""
    if args.json:
        settings = {name: str(value) if isinstance(value, Path) else value for name, value in vars(args).items()
                    if name not in ('json', 'data')}
        device = torch.device(getattr(args, 'device', 'cpu'))  # inference is measured on the CPU
        is_gpu = device.type == 'cuda'
        name = torch.cuda.get_device_name(device) if is_gpu else platform.processor() or platform.machine()
        known = dict(versions(), **{name: row.version for name, row in RUNTIMES.items() if row.is_installed})
        write_json(args.json, dict(settings=settings, device=name, versions=known, rows=rows))


def run_infer(args: argparse.Namespace) -> List[Dict]:
    """Run the comparison of inference and print its report."""
    args.batch_size = args.batch_size or 1
    rows: List[Dict] = []
    for name in args.peer or ['nasnetamobile']:
        rows.append(benchmark_infer.infer(
            name, args, take_turns, lambda row: write_figures(args, [*rows, row])))
        print('\n'.join(benchmark_infer.lines(rows[-1])), flush=True)
    return rows


def run_training(args: argparse.Namespace) -> List[Dict]:
    """Run a comparison of training, of steps or of epochs, and print its table."""
    if not args.plain_allocator:
        keep_freed_memory()  # affects the whole process, and so both candidates
    if args.what == 'train':
        rows = [compare(name, args) for name in args.peer or PEERS]
    else:
        train, _ = load_data(args.data)
        rows = [row for name in args.cells or ['nasnet_a', 'dilated'] for row in child(name, train, args)]
    mode = ', '.join([args.device, 'bf16' if getattr(args, 'bf16', False) else 'float32',
                      'compiled' if getattr(args, 'compile', False) else 'eager'])
    table = Table('peer', 'images', 'theirs, img/s', 'ours, img/s', 'ratio', 'losses differ by',
                  title=f'Training, {mode}, {args.threads} threads', title_justify='left')
    for row in rows:
        table.add_row(
            row['peer'], f'{row["batch_size"]} x {row["side"]}²', f'{row["theirs_images_per_second"]:.1f}',
            f'{row["ours_images_per_second"]:.1f}', f'{row["ratio"]:.2f}', f'{row[APART]:.1e}' if APART in row else '')
    Console().print(table)
    return rows


def main() -> None:
    parser = make_parser()
    args = parser.parse_args()
    if args.what == 'gpu':
        benchmark_gpu.run(args)
        return
    torch.set_num_threads(args.threads)
    if args.what == 'infer' and args.passes and (args.compiled or args.quantizations or args.footprint):
        parser.error('--passes: compares ours with ours, and excludes --compiled, --quantizations and --footprint')
    if args.what == 'infer' and args.int8 and not args.passes:
        parser.error('--int8: belongs to --passes; without it, int8 is measured in any case')
    rows = run_infer(args) if args.what == 'infer' else run_training(args)
    write_figures(args, rows)
    wrong = [row['peer'] for row in rows if not row.get(APART, 0.) < 1e-6]
    if wrong:
        raise SystemExit(f'the losses differ from those of {", ".join(wrong)}: this is not the same training')


if __name__ == '__main__':
    with exit_on_interrupt(lambda: (
            'the figures of gpu and infer so far are in their files; the others are written at the end')):
        main()

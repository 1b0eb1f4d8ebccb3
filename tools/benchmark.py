"""Our speed against named peers: python tools/benchmark.py train [--device cuda] [--json FILE]

Peers take turns with us in blocks of calls within one run, and what is reported is a ratio of medians. A step that is
quick because it computes something else would show: before, both train from the same weights on the same images in
float64, and their losses must agree. In float32 they do not for long, as training amplifies the last digit.
"""
import argparse
import gc
import importlib.util
import json
import platform
import statistics
import time
from pathlib import Path
from typing import Callable, Dict, List

import timm
import torch
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.nn import functional as F

import nasnet_zoo  # noqa: F401  (registers the zoo)
from nasnet_zoo.checkpoints import load_foreign_weights
from nasnet_zoo.runs import versions
from nasnet_zoo.training import keep_freed_memory


def cadene_mobile() -> nn.Module:
    """NASNet-A mobile of pretrainedmodels, whose package cannot be imported without what it does not declare."""
    origin = importlib.util.find_spec('pretrainedmodels').origin
    spec = importlib.util.spec_from_file_location('cadene', Path(origin).parent / 'models' / 'nasnet_mobile.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.NASNetAMobile(num_classes=1000)


# name: the peer's network, ours of the same architecture, side of the images, images a step on a CPU and on a GPU
PEERS = {
    'timm nasnetalarge': (
        lambda: timm.create_model('nasnetalarge', num_classes=10),
        lambda: timm.create_model('nasnet_a_large', num_classes=10, pool_padding='timm'), 96, 16, 128),
    'pretrainedmodels nasnetamobile': (
        cadene_mobile, lambda: timm.create_model('nasnet_a_mobile'), 224, 16, 256),
}


def stepper(model: nn.Module, images: torch.Tensor, labels: torch.Tensor, args: argparse.Namespace) -> Callable:
    """A function that makes a step of SGD and returns the loss."""
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
    """Steps of the peer and of ours, with the same weights and images."""
    build_theirs, build_ours = PEERS[name][:2]
    torch.manual_seed(0)
    images = torch.randn(batch, 3, side, side, device=args.device, dtype=dtype)
    labels = torch.randint(10, (batch,), device=args.device)
    models = {'theirs': build_theirs(), 'ours': build_ours()}
    for model in models.values():
        for module in model.modules():  # drop-out would make the losses incomparable
            if isinstance(module, nn.Dropout):
                module.p = 0.
    load_foreign_weights(models['ours'], models['theirs'].state_dict())
    layouts = {'theirs': torch.channels_last if args.peer_channels_last else torch.contiguous_format,
               'ours': torch.channels_last}
    return {who: stepper(model.train().to(args.device, dtype, memory_format=layouts[who]),
                         images.contiguous(memory_format=layouts[who]), labels, args)
            for who, model in models.items()}


def compare(name: str, args: argparse.Namespace) -> Dict:
    """Steps of the peer and of ours in turns: medians, their ratio, and how far their losses are apart in float64."""
    _, _, side, on_cpu, on_gpu = PEERS[name]
    batch = args.batch_size or (on_cpu if args.device == 'cpu' else on_gpu)
    exact = argparse.Namespace(**{**vars(args), 'bf16': False, 'compile': False})
    losses = {who: [step() for _ in range(args.same)]
              for who, step in steppers(name, 4, side, torch.float64, exact).items()}
    apart = max(abs(a - b) / abs(b) for a, b in zip(losses['ours'], losses['theirs']))
    gc.collect()
    steps = steppers(name, batch, side, torch.float32, args)
    seconds: Dict[str, List[float]] = {who: [] for who in steps}
    for block in range(-1, args.blocks):  # the first turn warms up
        for who, step in steps.items():
            for _ in range(args.calls if block >= 0 else args.warm_up):
                begun = time.perf_counter()
                step()  # its .item() waits for the device
                if block >= 0:
                    seconds[who].append(time.perf_counter() - begun)
    medians = {who: statistics.median(times) for who, times in seconds.items()}
    return dict(
        peer=name, batch_size=batch, side=side,
        **{f'{who}_images_per_second': batch / medians[who] for who in steps},
        ratio=medians['theirs'] / medians['ours'],
        **{f'{who}_losses': losses[who] for who in steps}, largest_relative_difference_of_losses=apart)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('what', choices=['train'])
    parser.add_argument('--peer', choices=list(PEERS), action='append', help='default: all')
    parser.add_argument('--device', default='cpu')
    parser.add_argument('--bf16', action='store_true', help='mixed precision, both')
    parser.add_argument('--compile', action='store_true', help='torch.compile, both')
    parser.add_argument('--peer-channels-last', action='store_true', help='give the peer our memory layout')
    parser.add_argument('--plain-allocator', action='store_true', help="leave glibc's allocator as it is, for both")
    parser.add_argument('--batch-size', type=int)
    parser.add_argument('--warm-up', type=int, default=3, help='calls that are not counted')
    parser.add_argument('--blocks', type=int, default=2, help='turns of each')
    parser.add_argument('--calls', type=int, default=20, help='calls a turn')
    parser.add_argument('--same', type=int, default=5, help='steps in float64 whose losses must agree')
    parser.add_argument('--threads', type=int, default=torch.get_num_threads())
    parser.add_argument('--json', type=Path, help='file for all figures')
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if not args.plain_allocator:
        keep_freed_memory()  # for both: it is a property of the process
    rows = [compare(name, args) for name in args.peer or PEERS]
    mode = ', '.join([args.device, 'bf16' if args.bf16 else 'float32', 'compiled' if args.compile else 'eager'])
    table = Table('peer', 'images', 'theirs, img/s', 'ours, img/s', 'ratio', 'losses differ by',
                  title=f'A training step, {mode}, {args.threads} threads', title_justify='left')
    for row in rows:
        table.add_row(
            row['peer'], f'{row["batch_size"]} x {row["side"]}²', f'{row["theirs_images_per_second"]:.1f}',
            f'{row["ours_images_per_second"]:.1f}', f'{row["ratio"]:.2f}',
            f'{row["largest_relative_difference_of_losses"]:.1e}')
    Console().print(table)
    if args.json:
        settings = {name: value for name, value in vars(args).items() if name != 'json'}
        device = torch.cuda.get_device_name() if args.device == 'cuda' else platform.processor() or platform.machine()
        args.json.write_text(json.dumps(
            dict(settings=settings, device=device, versions=versions(), rows=rows), indent=2) + '\n')
    apart = [row['peer'] for row in rows if not row['largest_relative_difference_of_losses'] < 1e-6]
    if apart:
        raise SystemExit(f'not the same loss curve as {", ".join(apart)}')


if __name__ == '__main__':
    main()

"""Train the small CIFAR models of the zoo on one GPU within a time budget:

    python tools/train_zoo.py --minutes 8 --data cifar10-jpeg.tar.gz --out runs/gpu

Images and their augmentation stay on the device, and a whole training step is captured as one CUDA graph: networks of
this size are limited by kernel launches, of which a step has well over a thousand. Before training, the time of a step
is measured for every model, and all models get the same number of epochs, as many as fit into the time. The learning
rate reaches zero in the last one. There is no validation set: nothing is selected, and the test images are seen once,
after the last epoch, by the weights rounded to float16 that would be shipped.

OUT/NAME is a run folder like those of tools/train.py (see nasnet_zoo/training/run.py), so an interrupted run is
resumed by the same command, and `python tools/ship.py OUT/NAME NAME --data DATA` makes its result the weights of the
package.

The optimiser is Muon (https://kellerjordan.github.io/posts/muon/) as in timm, batched over weights of one shape, for
convolutions that are not depthwise, and AdamW for all other weights.
"""
import argparse
import copy
import json
import time
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Dict, List, Tuple

import timm
import torch
from timm.optim.muon import get_lr_scale, zeropower_via_newtonschulz
from torch import nn
from torch.nn import functional as F

import nasnet_zoo  # noqa: F401  (registers the zoo)
from nasnet_zoo import hub
from nasnet_zoo.data.datasets import ImageSet, data_name, load_data
from nasnet_zoo.training.metrics import evaluate
from nasnet_zoo.training.run import Run

NAMES = ('nasnet_a_cifar_small', 'nasnet_b_cifar_small', 'nasnet_c_cifar_small')
MODES = ('compiled', 'graph', 'eager')
TINY_MODEL = dict(cell_filters=4)
NEWTON_SCHULZ = [(3.4445, -4.7750, 2.0315)]  # Keller Jordan's coefficients, timm's 'original'


@dataclass(frozen=True)
class Recipe:
    """How to train. `lr` is the peak: it rises for `warmup_epochs` and then falls linearly to zero."""
    epochs: int = 60
    batch_size: int = 256
    lr: float = 0.02
    weight_decay: float = 0.02
    momentum: float = 0.95
    warmup_epochs: float = 2.
    label_smoothing: float = 0.1
    pad: int = 4
    pad_mode: str = 'edge'
    cutout: int = 8
    ema: float = 0.995
    seed: int = 0


class Muon:
    """Muon for matrices, without a value that the host must know, so that a step can be captured.

    What timm's Muon computes weight by weight is computed for all weights of one shape at once.
    """

    def __init__(self, params: List[nn.Parameter], lr: torch.Tensor, weight_decay: float, momentum: float) -> None:
        self.lr, self.weight_decay, self.momentum = lr, weight_decay, momentum
        self.groups: Dict[Tuple[int, int], List[nn.Parameter]] = {}
        for param in params:
            self.groups.setdefault((len(param), param[0].numel()), []).append(param)
        self.buffers = {shape: torch.zeros(len(group), *shape, device=lr.device)
                        for shape, group in self.groups.items()}

    @torch.no_grad()
    def step(self) -> None:
        for shape, group in self.groups.items():
            grads = torch.stack([param.grad.flatten(1) for param in group])
            buffer = self.buffers[shape].lerp_(grads, 1 - self.momentum)
            update = zeropower_via_newtonschulz(grads.lerp(buffer, self.momentum), 5, NEWTON_SCHULZ).float()
            update = update * (self.lr * get_lr_scale(shape))
            torch._foreach_mul_(group, 1 - self.lr * self.weight_decay)
            torch._foreach_sub_(group, [part.view_as(param) for part, param in zip(update, group)])


class GpuTrainer:
    """A network in training whose every step is the same sequence of kernels.

    Which images a step sees, how they are augmented and its learning rate are read from tensors at a position that the
    step itself increases, so a captured step is replayed without any input. It has the interface that
    :class:`nasnet_zoo.training.run.Run` saves and loads.
    """

    def __init__(self, name: str, data: ImageSet, recipe: Recipe, device: str, mode: str, **model_args: Any) -> None:
        torch.manual_seed(recipe.seed)
        args = dict(num_classes=len(data.class_names), in_chans=data.input_size[0], img_size=data.input_size[1:])
        model = timm.create_model(name, **{**args, **model_args})
        self.name, self.recipe, self.mode, self.epoch = name, recipe, mode, 0
        self.device = torch.device(device)
        self.data = data.to(device)
        self.pixels = self.data.images.permute(0, 2, 3, 1).contiguous()
        self.model = model.to(device).train()  # channels-last like its input; so are the gradients of its weights
        self.params = list(self.model.parameters())
        self.ema = copy.deepcopy(self.model)
        self.forward = torch.compile(self.model, dynamic=False) if mode == 'compiled' else self.model
        self.steps = max(1, data.size() // recipe.batch_size)
        self.lr = torch.zeros((), device=device)
        matrices = [module.weight for module in self.model.modules() if isinstance(module, nn.Conv2d)
                    and module.groups == 1]
        chosen = {id(weight) for weight in matrices}
        others = [param for param in self.params if id(param) not in chosen]
        self.muon = Muon(matrices, self.lr, recipe.weight_decay, recipe.momentum)
        decay = [[param for param in others if (param.ndim > 1) == wanted] for wanted in (True, False)]
        self.adamw = torch.optim.AdamW(
            [dict(params=decay[0], weight_decay=recipe.weight_decay), dict(params=decay[1], weight_decay=0.)],
            lr=self.lr, betas=(0.9, 0.95), fused=True, capturable=self.device.type == 'cuda')
        for group in self.adamw.param_groups:
            group['lr'] = self.lr  # the tensor itself, which each step fills
        self._allocate()
        self.graph = None

    def _allocate(self) -> None:
        """Tensors that a step reads its batch from, and those that it counts in."""
        shape = self.steps, self.recipe.batch_size
        self.position = torch.zeros(1, dtype=torch.long, device=self.device)
        self.order = torch.zeros(shape, dtype=torch.long, device=self.device)
        self.draws = torch.zeros(5, *shape, device=self.device)
        self.rates = torch.zeros(self.steps, device=self.device)
        self.totals = torch.zeros(2, device=self.device)
        self.flips = torch.zeros(self.data.size(), dtype=torch.bool, device=self.device)
        self.mean, self.std = (255 * torch.tensor(values, device=self.device) for values in (
            self.data.mean, self.data.std))
        tensors = [[t for t in model.state_dict().values() if t.is_floating_point()] for model in (
            self.ema, self.model)]
        self.averaged, self.current = tensors

    def rate_at(self, step: int) -> float:
        """The learning rate of a step of the whole training."""
        recipe, total = self.recipe, self.recipe.epochs * self.steps
        warmup = min(recipe.warmup_epochs, recipe.epochs / 5) * self.steps
        return recipe.lr * min((step + 1) / max(warmup, 1.), (total - step) / max(total - warmup, 1.))

    def _prepare_epoch(self) -> None:
        """Draw an epoch's order and augmentation; they depend on the seed and the epoch only.

        An image is flipped in every second epoch, so that both sides are seen equally often
        (https://github.com/KellerJordan/cifar10-airbench, `alternating flip`).
        """
        generator = torch.Generator(self.device).manual_seed(self.recipe.seed)
        self.flips.copy_(torch.rand(len(self.flips), generator=generator, device=self.device) < 0.5)
        generator.manual_seed(self.recipe.seed * 1_000_003 + self.epoch + 1)
        order = torch.randperm(len(self.flips), generator=generator, device=self.device)
        self.order.copy_(order.repeat(-(-self.order.numel() // len(order)))[:self.order.numel()].view_as(self.order))
        self.draws.copy_(torch.rand(self.draws.shape, generator=generator, device=self.device))
        self.draws[4].fill_(self.epoch % 2)
        first = self.epoch * self.steps
        self.rates.copy_(torch.tensor([self.rate_at(first + i) for i in range(self.steps)]))
        self.position.zero_()
        self.totals.zero_()

    def _batch(self) -> Tuple[torch.Tensor, torch.Tensor]:
        """Augmented images [B, C, H, W], channels-last, and labels: shifted, flipped, with a blank square."""
        recipe, (_, height, width) = self.recipe, self.data.input_size
        chosen = self.order.index_select(0, self.position)[0]
        down, right, y, x, is_odd = self.draws.index_select(1, self.position)[:, 0, :, None]
        row, column = (torch.arange(side, device=self.device) for side in (height, width))
        shift = [(draw * (2 * recipe.pad + 1)).long() - recipe.pad for draw in (down, right)]
        mirrored = self.flips[chosen][:, None] ^ (is_odd > 0)
        rows = (row + shift[0]).clamp(0, height - 1)
        columns = (torch.where(mirrored, width - 1 - column, column) + shift[1]).clamp(0, width - 1)
        images = self.pixels[chosen[:, None, None], rows[:, :, None], columns[:, None, :]]
        images = (images.float() - self.mean) / self.std
        if recipe.cutout:
            inside = [(position - (draw * len(position)).long() + recipe.cutout // 2) for position, draw in (
                (row, y), (column, x))]
            inside = [(distance >= 0) & (distance < recipe.cutout) for distance in inside]
            images = images.masked_fill((inside[0][:, :, None] & inside[1][:, None, :])[..., None], 0.)
        return images.permute(0, 3, 1, 2), self.data.labels[chosen]

    def step(self) -> None:
        """One step, without a transfer between host and device."""
        images, labels = self._batch()
        self.lr.copy_(self.rates.index_select(0, self.position)[0])
        with torch.autocast(self.device.type, torch.bfloat16, cache_enabled=False,
                            enabled=self.device.type == 'cuda'):
            logits = self.forward(images)
        logits = logits.float()
        loss = F.cross_entropy(logits, labels, label_smoothing=self.recipe.label_smoothing)
        for param, grad in zip(self.params, torch.autograd.grad(loss, self.params)):
            param.grad = grad.reshape(-1).view(param.shape)  # the fused AdamW wants the very strides of the weight
        self.muon.step()
        self.adamw.step()
        with torch.no_grad():
            torch._foreach_lerp_(self.averaged, self.current, 1 - self.recipe.ema)
            self.totals += torch.stack([loss, (logits.argmax(1) == labels).float().mean()])
            self.position += 1

    def prepare(self) -> float:
        """Compile and capture a step. Returns the median seconds of a step; the weights are as before."""
        tensors, rest = self.state()
        tensors = {name: tensor.clone() for name, tensor in tensors.items()}
        self._prepare_epoch()
        self.step()  # compiles, and makes the optimizer's state
        self._rewind()
        if self.device.type == 'cuda' and self.mode != 'eager':
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(3):
                    self._rewind()
                    self.step()
            torch.cuda.current_stream().wait_stream(stream)
            self._rewind()
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph):
                self.step()
        seconds = self._time_steps()
        for state in self.adamw.state.values():
            for value in state.values():
                value.zero_()
        for buffer in self.muon.buffers.values():
            buffer.zero_()
        self.load_state({**self.state()[0], **tensors}, rest)
        return seconds

    def _rewind(self) -> None:
        self.position.zero_()

    def run_step(self) -> None:
        """A step, replayed if it was captured."""
        if self.graph:
            self.graph.replay()
        else:
            self.step()

    def _time_steps(self, blocks: int = 3, calls: int = 10) -> float:
        if self.device.type != 'cuda':
            blocks, calls = 1, 1
        seconds = []
        for _ in range(blocks):
            self._wait()
            begun = time.perf_counter()
            for _ in range(calls):
                self._rewind()
                self.run_step()
            self._wait()
            seconds.append((time.perf_counter() - begun) / calls)
        return sorted(seconds)[len(seconds) // 2]

    def _wait(self) -> None:
        if self.device.type == 'cuda':
            torch.cuda.synchronize()

    def run_epoch(self) -> Dict[str, Any]:
        """A pass over the images. Returns its row of the log.

        Raises:
            FloatingPointError: Where the loss is not a number any more.
        """
        begun = time.perf_counter()
        self._prepare_epoch()
        for _ in range(self.steps):
            self.run_step()
        loss, accuracy = (self.totals / self.steps).tolist()
        if loss != loss:
            raise FloatingPointError(f'{self.name}: the loss is not a number in epoch {self.epoch + 1}')
        self.epoch += 1
        rate = self.steps * self.recipe.batch_size / (time.perf_counter() - begun)
        return dict(epoch=self.epoch, loss=loss, accuracy=accuracy, val_accuracy=None, lr=self.lr.item(),
                    images_per_second=rate)

    def state(self) -> Tuple[Dict[str, torch.Tensor], Dict[str, Any]]:
        """All tensors by name that the next epoch depends on, and the rest as JSON data."""
        tensors = {f'model.{name}': value for name, value in self.model.state_dict().items()}
        tensors.update((f'ema.{name}', value) for name, value in self.ema.state_dict().items())
        tensors.update(('muon.{}x{}'.format(*shape), value) for shape, value in self.muon.buffers.items())
        for i, state in self.adamw.state_dict()['state'].items():
            tensors.update((f'adamw.{i}.{name}', value) for name, value in state.items())
        return tensors, dict(epoch=self.epoch)

    def load_state(self, tensors: Dict[str, torch.Tensor], rest: Dict[str, Any]) -> None:
        """Go on from what :meth:`state` returned. It copies into the tensors that a captured step uses."""
        own, _ = self.state()
        if own.keys() != tensors.keys():
            raise KeyError(f'other tensors, such as {sorted(own.keys() ^ tensors.keys())[0]}')
        for name, tensor in own.items():
            tensor.copy_(tensors[name])
        self.epoch = rest['epoch']

    def result(self, half: bool) -> nn.Module:
        """The averaged network in evaluation mode; `half` rounds its weights to float16, still as float32."""
        model = copy.deepcopy(self.ema).eval()
        if half:
            model.load_state_dict({name: value.half().float() if value.is_floating_point() else value
                                   for name, value in model.state_dict().items()})
        return model


def prepare_fastest(name: str, data: ImageSet, args: argparse.Namespace) -> Tuple[GpuTrainer, float]:
    """A trainer in the first of the wanted modes that works, and the seconds of its step."""
    recipe = Recipe(batch_size=args.batch_size)
    for mode, after in pairwise([*MODES[MODES.index(args.mode):], None]):
        try:
            trainer = GpuTrainer(name, data, recipe, args.device, mode, **TINY_MODEL if args.tiny else {})
            return trainer, trainer.prepare()
        except RuntimeError as error:
            if after is None:
                raise
            print(f'{name}: {mode} does not work, {after} is tried: {error}')
    raise AssertionError


def train_one(trainer: GpuTrainer, epochs: int, data: Tuple[ImageSet, ImageSet], args: argparse.Namespace) -> Dict:
    """Train to the end, or from the last checkpoint to the end, and measure the result once. Returns the report."""
    folder, source = args.out / trainer.name, data_name(args.data)
    known = folder / 'run.json'
    if known.exists():
        epochs = json.loads(known.read_text())['settings']['recipe']['epochs']
    recipe = trainer.recipe = Recipe(**{**asdict(trainer.recipe), 'epochs': epochs})
    settings = dict(
        source=trainer.name, model=trainer.model.config, pretrained=False, data=source, val_share=0.,
        train_images=data[0].size(), recipe=dict(
            asdict(recipe), opt='muon, adamw', sched='linear', flip='alternating', bf16=trainer.device.type == 'cuda'))
    run = Run(folder, settings, resume=known.exists())
    run.load(trainer)
    begun = time.perf_counter() - (run.rows[-1]['seconds'] if run.rows else 0.)
    while trainer.epoch < epochs:
        row = trainer.run_epoch()
        run.save(trainer, dict(row, seconds=time.perf_counter() - begun))
        if trainer.epoch % 10 == 0 or trainer.epoch == epochs:
            print(f'{trainer.name}, epoch {trainer.epoch} of {epochs}: loss {row["loss"]:.3f}, accuracy on augmented '
                  f'images {row["accuracy"]:.2%}, {row["images_per_second"]:.0f} img/s')
    full, shipped = trainer.result(half=False), trainer.result(half=True)
    hub.write_folder(full, folder / 'half', data[0].class_names, data[0].mean, data[0].std, half=True)
    accuracy = dict(model=trainer.name, dataset=source, split='test', **evaluate(
        shipped, data[1]._replace(mean=data[0].mean, std=data[0].std), 1000, args.device).to_dict())
    run.finish(full, data[0], dict(
        settings, device=device_name(args.device), mode=trainer.mode, accuracy=accuracy, log=run.rows[-1]))
    return accuracy


def device_name(device: str) -> str:
    return torch.cuda.get_device_name() if torch.device(device).type == 'cuda' else device


def train_all(args: argparse.Namespace) -> List[Dict]:
    """All models in turn; each gets its share of the time that is left when its turn comes."""
    begun = time.perf_counter()
    data = load_data(args.data)
    if args.tiny:
        data = tuple(part._replace(images=part.images[::9], labels=part.labels[::9]) for part in data)
    prepared, results = [], []
    for name in args.names:
        prepared.append(prepare_fastest(name, data[0], args))
        trainer, seconds = prepared[-1]
        print(f'{name}: {1000 * seconds:.1f} ms a step of {trainer.recipe.batch_size} images, {trainer.mode}; '
              f'{time.perf_counter() - begun:.0f} s gone')
    for i, (trainer, _) in enumerate(prepared):
        left = 60 * args.minutes - (time.perf_counter() - begun) - args.reserve * (len(prepared) - i)
        epoch = sum(1.02 * other.steps * seconds + args.epoch_overhead for other, seconds in prepared[i:])
        epochs = max(1, min(args.max_epochs, int(left / epoch)))
        print(f'{trainer.name}: {epochs} epochs; {left:.0f} s left')
        results.append(train_one(trainer, epochs, data, args))
        print(f'{trainer.name}: {results[-1]["top1"]:.2%} of {results[-1]["count"]} test images')
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--minutes', type=float, required=True, help='for everything, compilation included')
    parser.add_argument('--names', nargs='+', default=list(NAMES), help='models of the zoo for small images')
    parser.add_argument('--data', required=True, help='what tools/train.py takes: a folder, an archive, digits')
    parser.add_argument('--out', type=Path, required=True, help='folder of the run folders')
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    parser.add_argument('--mode', choices=MODES, default='graph', help=(
        'how a step runs: compiled and captured as a CUDA graph, captured only, or neither; one that does not work '
        'is followed by the next. Compilation takes 1 to 2 minutes of the time for each model'))
    parser.add_argument('--batch-size', type=int, default=256)
    parser.add_argument('--max-epochs', type=int, default=200)
    parser.add_argument('--reserve', type=float, default=4., help='seconds kept for the end of each training')
    parser.add_argument('--epoch-overhead', type=float, default=0.2, help='seconds of an epoch outside its steps')
    parser.add_argument('--tiny', action='store_true', help='narrow networks, every ninth image: a test of the tool')
    args = parser.parse_args()
    torch.backends.cudnn.benchmark = True
    results = train_all(args)
    for result in results:
        print(json.dumps(result))


if __name__ == '__main__':
    main()

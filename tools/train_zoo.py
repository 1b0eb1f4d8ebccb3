"""Train the small CIFAR models of the zoo on one GPU, one after the other, within a time budget:

    python tools/train_zoo.py --minutes 8 --data cifar10-jpeg.tar.gz --out runs/gpu

Images are stored and augmented on the GPU, and a whole training step is captured as one CUDA graph: networks of this
size are limited by kernel launches, of which a step has well over a thousand. First, the time of a step is measured
for every model. Then each model is trained for as many epochs as all the remaining models can have in the remaining
time. The learning rate reaches zero at the end of the last epoch. The accuracy is measured once, after the last epoch,
on the test images; settings are chosen with --val-share, which holds out training images and measures it on these.

OUT/NAME is a run folder like those of ``nasnet-zoo train`` (see nasnet_zoo/training/run.py). The same command resumes
an interrupted run, for the number of epochs that was planned when it began. ``python tools/ship.py OUT/NAME NAME
--data DATA`` makes its result the weights of the package.

Weights of ordinary convolutions are trained with Muon (https://kellerjordan.github.io/posts/muon/) as in timm, and all
others with AdamW.
"""
import argparse
import copy
import json
import math
import time
from pathlib import Path
from typing import Annotated, Any, Dict, List, Literal, Optional, Tuple

import timm
import torch
from pydantic import Field
from timm.layers import to_2tuple
from timm.optim.muon import get_lr_scale, zeropower_via_newtonschulz
from torch import nn
from torch.nn import functional as F

import nasnet_zoo  # noqa: F401  (registers the zoo)
from nasnet_zoo.checked import Checked
from nasnet_zoo.cli.common import exit_on_interrupt
from nasnet_zoo.data.datasets import DataError, ImageSet, data_name, load_data
from nasnet_zoo.network.nasnet import NASNet
from nasnet_zoo.training.config import TrainConfig
from nasnet_zoo.training.metrics import evaluate
from nasnet_zoo.training.run import Run, RunError, run_settings, train_epochs, versions
from nasnet_zoo.training.trainer import OnStep

NAMES = ('nasnet_a_cifar_small', 'nasnet_b_cifar_small', 'nasnet_c_cifar_small')
MODES = ('compiled', 'graph', 'eager')  # how a step runs, the fastest first
TINY_NETWORK = dict(cell_filters=4)
NEWTON_SCHULZ = [(3.4445, -4.7750, 2.0315)]  # Keller Jordan's coefficients, timm's 'original'

Fraction = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]


class GpuRecipe(Checked):
    """How :class:`GpuTrainer` trains. `opt`, `sched`, `pad_mode` and `flip` cannot be changed; they are recorded."""
    epochs: Annotated[int, Field(ge=1)] = 60
    batch_size: Annotated[int, Field(ge=1)] = 256
    opt: Literal['muon, adamw'] = 'muon, adamw'
    lr: Annotated[float, Field(gt=0, description='highest learning rate')] = 0.02
    momentum: Annotated[Fraction, Field(description="Muon's momentum")] = 0.95
    weight_decay: Annotated[Fraction, Field(description='not applied to biases and normalisation layers')] = 0.05
    sched: Annotated[Literal['linear'], Field(description='after the warm-up, lr falls linearly to zero')] = 'linear'
    warmup_epochs: Annotated[float, Field(ge=0, description='at most a fifth of all epochs')] = 2.
    label_smoothing: Fraction = 0.1
    pad: Annotated[Count, Field(description='images are shifted by up to this many pixels')] = 4
    pad_mode: Annotated[Literal['edge'], Field(description='shifted images are filled with the nearest pixel')] = 'edge'
    flip: Annotated[Literal['alternating'], Field(description='each image is mirrored in every second epoch')] = (
        'alternating')
    cutout: Annotated[Count, Field(description='side in pixels of the square that is blanked, or 0 for none')] = 14
    ema: Annotated[Fraction, Field(description='decay of the moving average of the weights')] = 0.995
    bf16: Annotated[bool, Field(description='train in mixed precision with bfloat16')] = False
    seed: Count = 0


class GpuTrainConfig(TrainConfig):
    """What is trained on what, and in which folder, as :class:`~nasnet_zoo.training.run.Run` records it."""
    drop_path_rate: float = 0.
    aux_head: bool = False
    recipe: GpuRecipe = GpuRecipe()


class Muon:
    """Muon for the weights of convolutions, on batches of weights that have the same shape.

    It computes what timm's Muon computes weight by weight. All values are on the device, so that a step can be captured
    as a CUDA graph.

    Args:
        params: Weights, each of two or more dimensions; all but the first are flattened.
        lr: The learning rate, a tensor without dimensions. Every step reads it.
        weight_decay: Weight decay, decoupled from the gradient.
        momentum: Nesterov momentum.
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
        """Update all weights by their gradients."""
        for shape, group in self.groups.items():
            grads = torch.stack([param.grad.flatten(1) for param in group])
            buffer = self.buffers[shape].lerp_(grads, 1 - self.momentum)
            update = zeropower_via_newtonschulz(grads.lerp(buffer, self.momentum), 5, NEWTON_SCHULZ).float()
            update = update * (self.lr * get_lr_scale(shape))
            torch._foreach_mul_(group, 1 - self.lr * self.weight_decay)
            torch._foreach_sub_(group, [part.view_as(param) for part, param in zip(update, group)])


class DepthwiseAvgPool2d(nn.Module):
    """An average pool that does not count padding, as a depthwise convolution.

    On channels-last images in bfloat16, the kernels of cuDNN take a fifth of the time of PyTorch's own for pools.

    Args:
        pool: The layer that it computes.
    """

    def __init__(self, pool: nn.AvgPool2d) -> None:
        super().__init__()
        self.kernel_size, self.place = to_2tuple(pool.kernel_size), (pool.stride, pool.padding)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        channels, window = x.shape[1], x.new_ones(1, 1, *self.kernel_size)
        inside = F.conv2d(x.new_ones(1, 1, *x.shape[2:]), window, None, *self.place)
        return F.conv2d(x, window.expand(channels, -1, -1, -1), None, *self.place, groups=channels) / inside


def use_fast_kernels(model: nn.Module) -> None:
    """Let a network compute the same with faster kernels on a GPU (docs/gpu.md has what each of the two saves).

    Average pools become depthwise convolutions. Batch norms get their gradients channels-last: those of a
    concatenation's inputs are slices, for which PyTorch has a slower batch norm.
    """
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child) is nn.AvgPool2d and not (
                    child.count_include_pad or child.ceil_mode or child.divisor_override):
                setattr(module, name, DepthwiseAvgPool2d(child))
        if isinstance(module, nn.BatchNorm2d):
            module.register_forward_hook(_take_gradient_channels_last)


def _take_gradient_channels_last(_: nn.Module, inputs: Tuple, output: torch.Tensor) -> None:
    """Let a layer get the gradient of its output channels-last. This is a forward hook."""
    if output.requires_grad:
        output.register_hook(lambda gradient: gradient.contiguous(memory_format=torch.channels_last))


class GpuTrainer:
    """Trains a network with steps that are all the same sequence of kernels.

    The images of a step, their augmentation and the learning rate are read from tensors on the device, at a position
    that the step itself increases. So a captured step is replayed without any input. It has what
    :class:`~nasnet_zoo.training.run.Run` and :func:`~nasnet_zoo.training.run.train_epochs` need of a
    :class:`~nasnet_zoo.training.trainer.Trainer`, and like there the model's ``pretrained_cfg`` is set to how the
    images were prepared.

    Args:
        model: The network. It is trained in place.
        data: The training images.
        recipe: How to train. It may be replaced by one with another number of epochs before the first epoch.
        device: Where to train. The model is moved there.
        mode: 'compiled' (torch.compile, and on a GPU a CUDA graph), 'graph' (a CUDA graph only) or 'eager'.

    Attributes:
        epoch: Number of epochs that are finished.
        steps: Number of steps of an epoch.
    """

    def __init__(self, model: NASNet, data: ImageSet, recipe: GpuRecipe, device: str, mode: str) -> None:
        self.recipe, self.mode, self.epoch, self.device = recipe, mode, 0, torch.device(device)
        self.data = data.to(device)
        self.pixels = self.data.images.permute(0, 2, 3, 1).contiguous()
        data.preprocessing.write_to(model)
        self.model = model.to(device).train()
        self.params = list(self.model.parameters())
        self.ema = copy.deepcopy(self.model)
        self.forward = self.model
        if mode == 'compiled':
            self.forward = torch.compile(self.model, dynamic=False)
        else:
            use_fast_kernels(self.model)
        self.steps = max(1, data.size() // recipe.batch_size)
        self.graph: Optional[torch.cuda.CUDAGraph] = None
        self._create_optimizers()
        self._allocate()

    def _create_optimizers(self) -> None:
        """Create Muon for convolutions that are not grouped, and AdamW for all other weights."""
        recipe = self.recipe
        self.lr = torch.zeros((), device=self.device)
        matrices = [module.weight for module in self.model.modules()
                    if isinstance(module, nn.Conv2d) and module.groups == 1]
        of_muon = {id(weight) for weight in matrices}
        others = [param for param in self.params if id(param) not in of_muon]
        self.muon = Muon(matrices, self.lr, recipe.weight_decay, recipe.momentum)
        self.adamw = torch.optim.AdamW(
            [dict(params=[param for param in others if param.ndim > 1], weight_decay=recipe.weight_decay),
             dict(params=[param for param in others if param.ndim <= 1], weight_decay=0.)],
            lr=self.lr, betas=(0.9, 0.95), fused=True, capturable=self.device.type == 'cuda')
        for group in self.adamw.param_groups:
            group['lr'] = self.lr  # the tensor itself, which each step fills

    def _allocate(self) -> None:
        """Allocate the tensors that a step reads its batch from, and those in which it adds up its results."""
        shape = self.steps, self.recipe.batch_size
        self.position = torch.zeros(1, dtype=torch.long, device=self.device)
        self.order = torch.zeros(shape, dtype=torch.long, device=self.device)
        self.draws = torch.zeros(5, *shape, device=self.device)
        self.rates = torch.zeros(self.steps, device=self.device)
        self.totals = torch.zeros(2, device=self.device)
        self.flips = torch.zeros(self.data.size(), dtype=torch.bool, device=self.device)
        self.mean, self.std = (255 * torch.tensor(values, device=self.device)
                               for values in (self.data.mean, self.data.std))
        self.averaged, self.current = ([tensor for tensor in model.state_dict().values() if tensor.is_floating_point()]
                                       for model in (self.ema, self.model))

    @property
    def result(self) -> nn.Module:
        """The network to keep: the moving average of the weights."""
        return self.ema

    def rate_at(self, step: int) -> float:
        """Return the learning rate of a step, counted from the beginning of the training."""
        recipe, total = self.recipe, self.recipe.epochs * self.steps
        warmup = min(recipe.warmup_epochs, recipe.epochs / 5) * self.steps
        return recipe.lr * min((step + 1) / max(warmup, 1.), (total - step) / max(total - warmup, 1.))

    def _prepare_epoch(self) -> None:
        """Draw the order and the augmentation of an epoch. They depend only on the seed and on the epoch.

        Each image is mirrored in every second epoch, so that both versions are seen equally often
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
        """Return augmented images, float32 [B, C, H, W], channels-last, and their labels.

        The augmentation is that of :func:`~nasnet_zoo.data.augment.augmented_batches`, which draws its random numbers
        on the CPU and so cannot be captured.
        """
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
            inside = [(position - (draw * len(position)).long() + recipe.cutout // 2)
                      for position, draw in ((row, y), (column, x))]
            inside = [(distance >= 0) & (distance < recipe.cutout) for distance in inside]
            images = images.masked_fill((inside[0][:, :, None] & inside[1][:, None, :])[..., None], 0.)
        return images.permute(0, 3, 1, 2), self.data.labels[chosen]

    def step(self) -> None:
        """Make a step, without any transfer between CPU and GPU."""
        images, labels = self._batch()
        self.lr.copy_(self.rates.index_select(0, self.position)[0])
        with torch.autocast(self.device.type, torch.bfloat16, cache_enabled=False, enabled=self.recipe.bf16):
            logits = self.forward(images)
        logits = logits.float()
        loss = F.cross_entropy(logits, labels, label_smoothing=self.recipe.label_smoothing)
        for param, grad in zip(self.params, torch.autograd.grad(loss, self.params)):
            param.grad = grad.reshape(-1).view(param.shape)  # the fused AdamW needs the same strides as the weight's
        self.muon.step()
        self.adamw.step()
        with torch.no_grad():
            torch._foreach_lerp_(self.averaged, self.current, 1 - self.recipe.ema)
            self.totals += torch.stack([loss, (logits.argmax(1) == labels).float().mean()])
            self.position += 1

    def prepare(self) -> float:
        """Compile and capture a step, as the mode says. Weights and optimizers are as before afterwards.

        Returns:
            The median time of a step in seconds.
        """
        tensors, rest = self.state()
        tensors = {name: tensor.clone() for name, tensor in tensors.items()}
        self._prepare_epoch()
        self.step()  # compiles, and creates the state of AdamW
        if self.device.type == 'cuda' and self.mode != 'eager':
            self._capture()
        seconds = self._time_steps()
        self.load_state({name: tensors.get(name, torch.zeros_like(tensor))
                         for name, tensor in self.state()[0].items()}, rest)
        return seconds

    def _capture(self) -> None:
        """Capture a step as a CUDA graph, after steps on another stream, as PyTorch's documentation wants it."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                self.position.zero_()
                self.step()
        torch.cuda.current_stream().wait_stream(stream)
        self.position.zero_()
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.step()

    def run_step(self) -> None:
        """Make a step: replay the captured one if there is one."""
        if self.graph:
            self.graph.replay()
        else:
            self.step()

    def _time_steps(self) -> float:
        """Return the median seconds of a step, over three blocks of steps on a GPU and one step elsewhere."""
        blocks, calls = (3, 10) if self.device.type == 'cuda' else (1, 1)
        seconds = []
        for _ in range(blocks):
            self._synchronize()
            begun = time.perf_counter()
            for _ in range(calls):
                self.position.zero_()
                self.run_step()
            self._synchronize()
            seconds.append((time.perf_counter() - begun) / calls)
        return sorted(seconds)[len(seconds) // 2]

    def _synchronize(self) -> None:
        if self.device.type == 'cuda':
            torch.cuda.synchronize()

    def run_epoch(self, on_step: OnStep = None) -> Dict[str, Any]:
        """Train for one epoch.

        Args:
            on_step: Is never called: the CPU knows nothing of single steps.

        Returns:
            JSON data, see :meth:`nasnet_zoo.training.trainer.Trainer.run_epoch`.

        Raises:
            FloatingPointError: If the loss is not finite.
        """
        begun = time.perf_counter()
        self._prepare_epoch()
        for _ in range(self.steps):
            self.run_step()
        loss, accuracy = (self.totals / self.steps).tolist()
        if not math.isfinite(loss):
            raise FloatingPointError(f'the loss is {loss} in epoch {self.epoch + 1}')
        self.epoch += 1
        rate = self.steps * self.recipe.batch_size / (time.perf_counter() - begun)
        return dict(epoch=self.epoch, loss=loss, accuracy=accuracy, lr=self.lr.item(), images_per_second=rate)

    def state(self) -> Tuple[Dict[str, torch.Tensor], Dict[str, Any]]:
        """Return what :meth:`load_state` needs: tensors by name, and the rest as JSON data."""
        tensors = {f'model.{name}': value for name, value in self.model.state_dict().items()}
        tensors.update((f'ema.{name}', value) for name, value in self.ema.state_dict().items())
        tensors.update(('muon.{}x{}'.format(*shape), value) for shape, value in self.muon.buffers.items())
        for i, state in self.adamw.state_dict()['state'].items():
            tensors.update((f'adamw.{i}.{name}', value) for name, value in state.items())
        return tensors, dict(epoch=self.epoch)

    def load_state(self, tensors: Dict[str, torch.Tensor], rest: Dict[str, Any]) -> None:
        """Continue from what :meth:`state` returned. Values are copied into the tensors that a captured step uses.

        Raises:
            KeyError: If the tensors are those of another network or optimizer.
        """
        own, _ = self.state()
        if own.keys() != tensors.keys():
            raise KeyError(f'{sorted(own.keys() ^ tensors.keys())[0]} is only in one of checkpoint and trainer')
        for name, tensor in own.items():
            tensor.copy_(tensors[name])
        self.epoch = rest['epoch']


def build_network(name: str, data: ImageSet, seed: int = 0, **network_args: Any) -> NASNet:
    """Return a model of the zoo for the images and classes of `data`, initialised from a seed."""
    torch.manual_seed(seed)
    return timm.create_model(name, num_classes=len(data.class_names), in_chans=data.input_size[0],
                             img_size=data.input_size[1:], **network_args)


def device_name(device: str) -> str:
    """Return the name of a GPU, or the device itself if it is none."""
    return torch.cuda.get_device_name() if torch.device(device).type == 'cuda' else device


def prepare(config: GpuTrainConfig, data: ImageSet, mode: str) -> Tuple[GpuTrainer, float]:
    """Return a trainer in the first mode from `mode` on that works, and the seconds of its step."""
    modes = MODES[MODES.index(mode):]
    for candidate in modes:
        try:
            model = build_network(config.source, data, config.recipe.seed, **config.network_args)
            trainer = GpuTrainer(model, data, config.recipe, config.device, candidate)
            return trainer, trainer.prepare()
        except RuntimeError as error:
            if candidate == modes[-1]:
                raise
            print(f'{config.source}: mode {candidate} fails, so the next mode is tried: {error}')


def planned_epochs(config: GpuTrainConfig) -> Optional[int]:
    """Return for how many epochs an interrupted or finished run was planned, or None if there is no checkpoint.

    Raises:
        RunError: If run.json is damaged.
    """
    path = config.out / 'run.json'
    if not (config.out / 'checkpoint.safetensors').exists():
        return None
    try:
        return json.loads(path.read_text(encoding='utf-8'))['settings']['recipe']['epochs']
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f'{path}: is not the JSON of a run: {error!r}') from None


def train_one(trainer: GpuTrainer, config: GpuTrainConfig, data: Tuple[ImageSet, ImageSet], epochs: int) -> Dict:
    """Train from the beginning or the last checkpoint to the end, and measure the accuracy once.

    Args:
        trainer: Before its first epoch.
        config: What is trained. `epochs` replaces its number of epochs unless there is a checkpoint.
        data: The training set, and the test set or the images that are held out.
        epochs: Number of epochs of a new run.

    Returns:
        The accuracy, as ``nasnet-zoo validate --json`` prints it.
    """
    planned = planned_epochs(config)
    config = config.model_copy(update=dict(
        resume=planned is not None, recipe=config.recipe.model_copy(update=dict(epochs=planned or epochs))))
    trainer.recipe = config.recipe
    settings = run_settings(config, trainer.model, data[0])
    run = Run(config, settings, data[0].was_resized)
    if run.load(trainer) and trainer.epoch == config.recipe.epochs and run.report:
        return run.report['accuracy']
    with run.loggers:
        train_epochs(trainer, None, run, lambda line: print(f'{config.source}, {line}', flush=True), None)
        result = trainer.result.eval()
        split = 'validation' if config.val_share else 'test'
        accuracy = dict(model=config.source, dataset=data_name(config.data), split=split,
                        **evaluate(result, data[1], 1000, config.device).to_dict())
        run.finish(result, data[0], dict(
            settings, versions=versions(), device=device_name(config.device), mode=trainer.mode, accuracy=accuracy,
            log=run.rows[-1]))
    return accuracy


def load_small_images(args: argparse.Namespace) -> Tuple[ImageSet, ImageSet]:
    """Return the images to train on and those on which the accuracy is measured; with ``--tiny`` every ninth image.

    Raises:
        DataError: If the images are too large for memory.
    """
    parts = load_data(args.data)
    if not all(isinstance(part, ImageSet) for part in parts):
        raise DataError(f'{args.data}: only small images can be kept on the device')
    if args.val_share:
        parts = parts[0].split(args.val_share)
    step = 9 if args.tiny else 1
    return tuple(part._replace(images=part.images[::step], labels=part.labels[::step]) for part in parts)


def train_all(args: argparse.Namespace) -> List[Dict]:
    """Train all models in turn. Return their accuracies."""
    begun = time.perf_counter()
    data = load_small_images(args)
    recipe = GpuRecipe(**{'bf16': torch.device(args.device).type == 'cuda', **args.recipe})
    configs = [GpuTrainConfig(
        source=name, data=args.data, out=args.out / name, device=args.device, val_share=args.val_share, recipe=recipe,
        **TINY_NETWORK if args.tiny else {}) for name in args.names]
    prepared, results = [], []
    for config in configs:
        trainer, seconds = prepare(config, data[0], args.mode)
        prepared.append((trainer, 1.02 * trainer.steps * seconds + args.epoch_overhead))
        print(f'{config.source}: {1000 * seconds:.1f} ms a step of {recipe.batch_size} images, mode {trainer.mode}, '
              f'{time.perf_counter() - begun:.0f} s after the start', flush=True)
    for i, (config, (trainer, _)) in enumerate(zip(configs, prepared)):
        left = 60 * args.minutes - (time.perf_counter() - begun) - args.reserve * (len(prepared) - i)
        epochs = int(left / sum(seconds for _, seconds in prepared[i:]))
        results.append(train_one(trainer, config, data, max(1, min(args.max_epochs, epochs))))
        print(f'{config.source}: {results[-1]["top1"]:.2%} of {results[-1]["count"]} {results[-1]["split"]} images '
              f'after {trainer.epoch} epochs')
    return results


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--minutes', type=float, required=True, help='time for everything, compilation included')
    parser.add_argument('--names', nargs='+', default=list(NAMES), choices=timm.list_models(module='zoo'),
                        metavar='NAME', help='models of the zoo for small images')
    parser.add_argument('--data', required=True, help='data set of small images, as nasnet-zoo train takes it')
    parser.add_argument('--out', type=Path, required=True, help='folder in which each model gets its run folder')
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu', help=(
        'device to train on (default: cuda if there is a GPU)'))
    parser.add_argument('--mode', choices=MODES, default='graph', help=(
        'how a step runs: compiled and captured as a CUDA graph, only captured, or neither. If a mode fails, the next '
        'one is tried. Compilation takes 1 to 2 minutes for each model'))
    parser.add_argument('--recipe', type=json_object, default={}, metavar='JSON', help=(
        'how to train, for example \'{"cutout": 16, "weight_decay": 0.1}\'; settings that are not given are those of '
        'GpuRecipe'))
    parser.add_argument('--val-share', type=float, default=0., help=(
        'fraction of the training images to hold out, on which the accuracy is then measured'))
    parser.add_argument('--max-epochs', type=int, default=200, help='largest number of epochs for a model')
    parser.add_argument('--reserve', type=float, default=4., help='seconds reserved for the end of each training')
    parser.add_argument('--epoch-overhead', type=float, default=0.2, help='seconds of an epoch outside its steps')
    parser.add_argument('--tiny', action='store_true', help='try the tool: narrow networks, every ninth image')
    return parser


def json_object(text: str) -> Dict[str, Any]:
    """Return the object that a text in JSON stands for."""
    try:
        found = json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f'is not JSON: {error}') from None
    if not isinstance(found, dict):
        raise argparse.ArgumentTypeError(f'must be an object such as {{"cutout": 12}}, not {text}')
    return found


def main(arguments: Optional[List[str]] = None) -> None:
    args = make_parser().parse_args(arguments)
    torch.backends.cudnn.benchmark = True
    try:
        results = train_all(args)
    except (ValueError, TypeError, OSError, ImportError, RuntimeError, FloatingPointError) as error:
        raise SystemExit(f'error: {error}') from None
    for result in results:
        print(json.dumps(result))


if __name__ == '__main__':
    with exit_on_interrupt(lambda: 'the same command continues after the last epoch'):
        main()

"""The stacked cells as a timm model."""
import math
from collections import OrderedDict
from dataclasses import dataclass
from typing import Annotated, Any, Dict, List, Literal, Mapping, Optional, Tuple, Union

import torch
from pydantic import Field
from timm.layers import ClassifierHead, get_device_dtype
from timm.models import checkpoint
from timm.models._features import feature_take_indices
from torch import nn
from torch.nn import functional as F

from ..checked import Checked, check
from ..genotype.loader import load_genotype
from ..genotype.schema import Genotype
from .aux_head import AuxHead
from .cell import Cell, CellInput
from .ops import LayerArgs
from .skeleton import MISSING, STEM, Position, Skeleton, check_model_size, first_filters, live_outputs, wire

__all__ = ['NASNet', 'compile_genotype']


class _ClassifierArgs(Checked):
    num_classes: Annotated[int, Field(ge=0, le=1_000_000)]
    global_pool: Literal['', 'avg', 'max', 'avgmax', 'catavgmax', 'fast', 'fastavg', 'fastmax', 'fastavgmax',
                         'fastcatavgmax']


class _NetworkArgs(_ClassifierArgs):
    in_chans: Annotated[int, Field(ge=1, le=1024)]
    drop_rate: Annotated[float, Field(ge=0, le=0.99)]
    drop_path_rate: Annotated[float, Field(ge=0, le=0.99)]
    aux_head: bool


@dataclass(frozen=True)
class _Tap:
    """Where features are read: the states in `sources`, after `num_cells` cells."""
    num_cells: int
    sources: Tuple[int, ...]
    num_chs: int
    reduction: int
    module: str

    @property
    def rectified(self) -> bool:
        """Whether features are read through a ReLU: all but the stem's, as timm's nasnetalarge has them."""
        return self.num_cells > 0


class NASNet(nn.Module):
    """Cells of a genotype on a skeleton, with timm's model interface.

    Made by :func:`compile_genotype` or ``timm.create_model``. Input is [B, in_chans, H, W] of any size that the stem
    and the reductions leave a pixel of. With an auxiliary head, training mode returns (logits, auxiliary logits),
    except in TorchScript, which has one type of result.

    Attributes:
        genotype, skeleton: What the network was made of; :attr:`config` has both as data.
        drop_path_progress: Scalar buffer in [0, 1], set by :meth:`set_drop_path_progress`.
    """
    sources: List[List[int]]
    __jit_unused_properties__ = ['config']

    def __init__(
            self,
            genotype: Genotype,
            skeleton: Skeleton,
            num_classes: int = 1000,
            in_chans: int = 3,
            global_pool: str = 'avg',
            drop_rate: float = 0.,
            drop_path_rate: float = 0.,
            aux_head: bool = False,
            device=None,
            dtype=None,
    ) -> None:
        super().__init__()
        self.genotype = genotype
        self.skeleton = skeleton
        self.num_classes = num_classes
        self.in_chans = in_chans
        self.drop_rate = drop_rate
        self.drop_path_rate = drop_path_rate
        self.grad_checkpointing = False
        args = LayerArgs(
            skeleton.bn_eps, skeleton.bn_momentum, skeleton.pool_padding, dict(device=device, dtype=dtype))
        self.register_buffer('drop_path_progress', torch.ones((), device=device), persistent=False)

        self.stem = nn.Sequential(OrderedDict(
            conv=nn.Conv2d(in_chans, skeleton.stem_width, 3, stride=skeleton.stem_stride,
                           padding=0 if skeleton.stem == 'imagenet' else 1, bias=False, **args.dd),
            bn=args.norm(skeleton.stem_width),
        ))
        self._build_cells(args)
        self.num_features = self.feature_info[-1]['num_chs']
        self.head = ClassifierHead(self.num_features, num_classes, global_pool, drop_rate, **args.dd)
        self.head_hidden_size = self.head.num_features
        self.aux_head = None
        if aux_head:
            tap = self.taps[-2]
            self.aux_head = AuxHead(tap.num_chs, skeleton.feature_size(tap.reduction), num_classes, args)
        self.init_weights()
        # What timm's factory sets too; a network that did not come from it can so be saved, pushed and resolved.
        self.pretrained_cfg = self.default_cfg = dict(skeleton.data_cfg, architecture='nasnet', num_classes=num_classes)
        self._model_args = self.config

    def _build_cells(self, args: LayerArgs) -> None:
        """Compile the cells that the classifier depends on, and note where features can be read."""
        genotype, skeleton = self.genotype, self.skeleton
        positions = skeleton.positions()
        wires = wire(genotype, skeleton)
        live = live_outputs(genotype, skeleton, wires)

        self.cells = nn.ModuleList()
        self.sources = []  # of each cell, as indices into the list of states that `_forward_states` grows
        self.positions: List[Position] = []  # of each cell
        self.taps: List[_Tap] = []
        index = {STEM: 0, MISSING: 0}
        shapes = [(skeleton.stem_width, skeleton.stem_stride)]  # channels and reduction of each state
        newest = _Tap(0, (0,), *shapes[0], 'stem')
        reduction = skeleton.stem_stride
        for p, position in enumerate(positions):
            if position.stride > 1:
                if newest.reduction == reduction:  # else this resolution has no live cell to tap
                    self.taps.append(newest)
                reduction *= position.stride
            if not live[p]:
                continue
            cell = genotype.cells[position.kind]
            is_last = p == len(positions) - 1
            outputs = [cell.head_states] if is_last else [cell.outputs[k] for k in live[p]]
            needed = cell.needed([state for output in outputs for state in output])
            inputs, sources = {}, []
            for i in range(genotype.inputs):
                if f'h{i}' in needed:
                    sources.append(index[wires[p][i]])
                    channels, given = shapes[sources[-1]]
                    inputs[f'h{i}'] = CellInput(
                        channels, reduction // position.stride // given, missing=wires[p][i] == MISSING)
            self.cells.append(Cell(
                cell, inputs, outputs, position.filters, position.stride, genotype.fit == 'all', args,
                drop_scale=(p + 1) / len(positions) if skeleton.drop_path_by_depth else 1.,
            ))
            self.sources.append(sources)
            self.positions.append(position)
            index.update(((p, k), len(shapes) + n) for n, k in enumerate(live[p]))
            shapes += [(channels, reduction) for channels in self.cells[-1].out_channels]
            newest = _Tap(
                len(self.cells), tuple(range(len(shapes) - len(outputs), len(shapes))),
                sum(self.cells[-1].out_channels), reduction, f'cells.{len(self.cells) - 1}')
        self.taps.append(newest)
        self.feature_info = [
            dict(num_chs=tap.num_chs, reduction=tap.reduction, module=tap.module) for tap in self.taps]
        self._end_at(len(self.taps) - 1)

    def _end_at(self, tap: int) -> None:
        """Let the network end at a tap: its features are what `forward_features` returns."""
        self.taps = self.taps[:tap + 1]
        self.feature_info = self.feature_info[:tap + 1]
        self.final_sources: List[int] = list(self.taps[tap].sources)
        self.final_rectified = self.taps[tap].rectified

    @torch.jit.ignore
    def init_weights(self) -> None:
        """He normal by fan-out, Google's choice; the classifiers keep PyTorch's own."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                fan_out = module.weight[0, 0].numel() * module.out_channels // module.groups
                nn.init.normal_(module.weight, std=math.sqrt(2. / fan_out))
        self.drop_path_progress.fill_(1.)

    @property
    def config(self) -> Dict[str, Any]:
        """Arguments of ``timm.create_model('nasnet', …)`` and of :func:`compile_genotype` that rebuild this network.

        They are JSON data. Of a pruned network they rebuild the whole one.
        """
        return dict(
            genotype=self.genotype.to_dict(),
            **self.skeleton.model_dump(mode='json'),
            num_classes=self.num_classes,
            in_chans=self.in_chans,
            global_pool=self.head.global_pool.pool_type,
            drop_rate=self.drop_rate,
            drop_path_rate=self.drop_path_rate,
            aux_head=self.aux_head is not None,
        )

    @torch.jit.ignore
    def set_drop_path_progress(self, progress: float) -> None:
        """Scale drop path by the part of training that is done, in [0, 1]: Google's "v3" schedule.

        It begins at 1, the full ``drop_path_rate``. A compiled model is not recompiled by the change.
        """
        if not 0. <= progress <= 1.:
            raise ValueError(f'progress: must be from 0 to 1, not {progress}')
        self.drop_path_progress.fill_(progress)

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> Dict[str, Any]:
        """timm's groups of parameters: stem, each cell (or each stage if `coarse`), the rest."""
        if not coarse:
            return dict(stem=r'^stem', blocks=r'^cells\.(\d+)')
        stages = {}
        for i, position in enumerate(self.positions):
            stages.setdefault(position.stage, []).append(str(i))
        return dict(stem=r'^stem', blocks=[
            (rf'^cells\.(?:{"|".join(cells)})\.', (stage,)) for stage, cells in stages.items()])

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Keep no activations inside cells for the backward pass, compute them again: less memory, same gradients."""
        self.grad_checkpointing = enable

    @torch.jit.ignore
    def get_classifier(self) -> nn.Module:
        """The linear layer, an identity for 0 classes."""
        return self.head.fc

    def reset_classifier(self, num_classes: int, global_pool: Optional[str] = None) -> None:
        """Make a new classifier, of 0 classes for none; None keeps the pooling, '' removes it."""
        pool = self.head.global_pool.pool_type if global_pool is None else global_pool
        check(_ClassifierArgs, dict(num_classes=num_classes, global_pool=pool))
        self.num_classes = num_classes
        dd = get_device_dtype(self)
        self.head.reset(num_classes, global_pool, **dd)
        self.head_hidden_size = self.head.num_features
        if self.aux_head is not None:
            self.aux_head.head.reset(num_classes, **dd)

    def _forward_states(self, x: torch.Tensor, num_cells: int) -> List[torch.Tensor]:
        """The stem's hidden state and those of the first `num_cells` cells, in order."""
        drop_prob: Optional[torch.Tensor] = None
        if self.training and self.drop_path_rate > 0.:
            drop_prob = self.drop_path_progress * self.drop_path_rate
        states = [self.stem(x)]
        for i, cell in enumerate(self.cells):
            if i < num_cells:
                inputs = [states[k] for k in self.sources[i]]
                if self.grad_checkpointing and not torch.jit.is_scripting():
                    states.extend(checkpoint(cell, inputs, drop_prob, use_reentrant=False))
                else:
                    states.extend(cell(inputs, drop_prob))
        return states

    def _gather(self, states: List[torch.Tensor], sources: List[int], rectify: bool) -> torch.Tensor:
        """Features: states side by side, perhaps rectified."""
        x = torch.cat([states[k] for k in sources], dim=1) if len(sources) > 1 else states[sources[0]]
        return F.relu(x) if rectify else x

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """Images [B, in_chans, H, W] to features [B, num_features, H / 32, W / 32] (/ 4 with the CIFAR stem)."""
        return self._gather(self._forward_states(x, len(self.cells)), self.final_sources, self.final_rectified)

    def forward_head(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        """Features to logits [B, num_classes], or to what the classifier would read, [B, head_hidden_size]."""
        return self.head(x, pre_logits=pre_logits)

    def forward(self, x: torch.Tensor):
        states = self._forward_states(x, len(self.cells))
        x = self.forward_head(self._gather(states, self.final_sources, self.final_rectified))
        if self.aux_head is not None and self.training and not torch.jit.is_scripting():
            return x, self.aux_head(self._gather(states, list(self.taps[-2].sources), True))
        return x

    def forward_intermediates(
            self,
            x: torch.Tensor,
            indices: Optional[Union[int, List[int]]] = None,
            norm: bool = False,
            stop_early: bool = False,
            output_fmt: str = 'NCHW',
            intermediates_only: bool = False,
    ) -> Union[List[torch.Tensor], Tuple[torch.Tensor, List[torch.Tensor]]]:
        """Features at the resolutions of ``feature_info``.

        Args:
            x: Images [B, in_chans, H, W].
            indices: The last n if int, all if None, the ones listed otherwise. With the ImageNet stem 0 is its
                convolution, 1 its first cell, 2 to 4 the ends of the stages; with the CIFAR stem 0 to 2 are those ends.
            norm: No effect, there is no final norm.
            stop_early: Leave out the cells after the last index wanted.
            output_fmt: Must be 'NCHW'.
            intermediates_only: Return the intermediates only.

        Returns:
            The final features and the list of intermediates, or the list.
        """
        if output_fmt != 'NCHW':
            raise ValueError("output_fmt: must be 'NCHW'")
        take_indices, max_index = feature_take_indices(len(self.taps), indices)
        states = self._forward_states(x, self.taps[max_index].num_cells if stop_early else len(self.cells))
        features = [self._gather(states, list(tap.sources), tap.rectified) for tap in (
            self.taps[i] for i in [*take_indices, max_index if stop_early else -1])]
        final = features.pop()
        return features if intermediates_only else (final, features)

    def prune_intermediate_layers(
            self,
            indices: Union[int, List[int]] = 1,
            prune_norm: bool = False,
            prune_head: bool = True,
    ) -> List[int]:
        """Drop the cells that the features at `indices` do not need. Returns the indices kept, as a list."""
        take_indices, max_index = feature_take_indices(len(self.taps), indices)
        shorter = self.taps[max_index].num_cells < len(self.cells)
        if shorter:
            self.cells = self.cells[:self.taps[max_index].num_cells]
            self.sources = self.sources[:len(self.cells)]
            self.positions = self.positions[:len(self.cells)]
            self._end_at(max_index)
            self.num_features = self.taps[max_index].num_chs
        if prune_head or shorter:  # a head is made for the last features
            self.aux_head = None
            self.head.in_features = self.num_features
            self.reset_classifier(0, '')
        return take_indices


def compile_genotype(
        genotype: Union[str, Mapping[str, Any], Genotype] = 'nasnet_a',
        num_cells: int = 4,
        cell_filters: Optional[int] = None,
        filters: Optional[int] = None,
        stem: str = 'imagenet',
        num_classes: int = 1000,
        in_chans: int = 3,
        global_pool: str = 'avg',
        drop_rate: float = 0.,
        drop_path_rate: float = 0.,
        aux_head: bool = False,
        output_stride: Optional[int] = None,
        device: Union[torch.device, str, None] = None,
        dtype: Optional[torch.dtype] = None,
        **skeleton: Any,
) -> NASNet:
    """Compile a genotype to a network.

    Args:
        genotype: What :func:`load_genotype` takes.
        num_cells: Normal cells in each of the three stages, the paper's N.
        cell_filters: Filters F of the first stage's cells, 44 by default. Pass this or `filters`.
        filters: Width of the penultimate layer, the F in the paper's "N @ F".
        stem: 'imagenet' (stride 8 before the first stage) or 'cifar' (stride 1).
        num_classes: Width of the logits; 0 for no classifier.
        in_chans: Channels of the images.
        global_pool: timm's name of a pooling, '' for none, which suits num_classes=0.
        drop_rate: Probability of dropout before the classifier.
        drop_path_rate: Probability of drop path in the last cell when training ends; see
            :meth:`NASNet.set_drop_path_progress`.
        aux_head: Add the auxiliary classifier.
        output_stride: For timm's interface: 32, timm's word for a network that is not dilated, or this one's own.
        device, dtype: Of the parameters.
        **skeleton: Other fields of :class:`Skeleton`.

    Raises:
        GenotypeError: For a genotype that cannot be compiled.
        ValueError: For an argument out of bounds, or a width that gives no whole F.
        TypeError: For an unknown argument.
    """
    genotype = load_genotype(genotype)
    args = check(_NetworkArgs, dict(
        num_classes=num_classes, in_chans=in_chans, global_pool=global_pool, drop_rate=drop_rate,
        drop_path_rate=drop_path_rate, aux_head=aux_head))
    fields = dict(skeleton, stem=stem, num_cells=num_cells)
    if filters is not None:
        whole = first_filters(genotype, Skeleton.create(**fields), filters)
        if cell_filters not in (None, whole):
            raise ValueError(f'cell_filters, filters: {cell_filters} and {filters} are not the same width, which '
                             f'filters={filters} has with cell_filters={whole}; pass one of them')
        cell_filters = whole
    if cell_filters is not None:
        fields['cell_filters'] = cell_filters
    structure = Skeleton.create(**fields)
    check_model_size(genotype, structure, num_classes, aux_head)
    if output_stride not in (None, 32, structure.output_stride):
        raise ValueError(f'output_stride: {output_stride!r} is not available: NASNets are not dilated, this one has '
                         f'output stride {structure.output_stride}')
    return NASNet(genotype, structure, **args.model_dump(), device=device, dtype=dtype)

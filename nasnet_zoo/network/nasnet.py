"""The network: the cells of a genotype on a skeleton, as a timm model."""
import inspect
from contextlib import contextmanager, nullcontext
from typing import Annotated, Any, Dict, Iterator, List, Literal, Mapping, Optional, Tuple, Union

import torch
from pydantic import Field, model_validator
from timm.layers import ClassifierHead, get_device_dtype
from timm.models import checkpoint
from timm.models._features import feature_take_indices
from torch import nn
from torch.nn import functional as F

from ..checked import Checked, shorten, suggest
from ..genotype.loader import load_genotype
from ..genotype.schema import Genotype
from .aux_head import AuxHead
from .cell import Cell
from .dilation import dilate_cell
from .ops import LayerArgs
from .plan import NetworkPlan, Tap, plan_network
from .size import check_model_size, first_filters
from .skeleton import Skeleton

__all__ = ['NASNet', 'compile_genotype']


def _checkpointed(
        cell: nn.Module, inputs: List[torch.Tensor], drop_prob: Optional[torch.Tensor]) -> List[torch.Tensor]:
    """Apply a cell, whose activations are computed again in the backward pass."""
    # A compiler leaves the running statistics out of what is computed again.
    how = {} if torch.compiler.is_compiling() else dict(context_fn=lambda: (nullcontext(), _kept_statistics(cell)))
    return checkpoint(cell, inputs, drop_prob, use_reentrant=False, **how)


@contextmanager
def _kept_statistics(cell: nn.Module) -> Iterator[None]:
    """Keep the running statistics of batch norms in training mode as they are."""
    norms = [module for module in cell.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    try:
        for norm in norms:
            norm.momentum, norm.num_batches_tracked = 0., None
        yield
    finally:
        for norm, (momentum, count) in zip(norms, before):
            norm.momentum, norm.num_batches_tracked = momentum, count


class _ClassifierArgs(Checked):
    num_classes: Annotated[int, Field(ge=0, le=1_000_000)]
    global_pool: Literal['', 'avg', 'max', 'avgmax', 'catavgmax', 'fast', 'fastavg', 'fastmax', 'fastavgmax',
                         'fastcatavgmax']

    @model_validator(mode='after')
    def _check_pool(self) -> '_ClassifierArgs':
        if self.num_classes and not self.global_pool:
            raise ValueError("global_pool: '' removes the pooling, without which there can be no classifier; pass "
                             'num_classes=0, or name a pooling')
        return self


class _NetworkArgs(_ClassifierArgs):
    in_chans: Annotated[int, Field(ge=1, le=1024)]
    drop_rate: Annotated[float, Field(ge=0, le=0.99)]
    drop_path_rate: Annotated[float, Field(ge=0, le=0.99)]
    aux_head: bool


class NASNet(nn.Module):
    """The cells of a genotype on a skeleton, with timm's model interface.

    :func:`compile_genotype` and ``timm.create_model`` construct it. The input is [B, in_chans, H, W] of any size of
    which the stem and the reductions leave at least a pixel. With an auxiliary head, a network in training mode returns
    (logits, auxiliary logits), except in TorchScript, where the type of the result is fixed.

    Attributes:
        genotype, skeleton: What the network was compiled from. :attr:`config` holds both as JSON data.
        plan: What the network computes, see ``network/plan.py``.
        act: The module whose output [B, num_features, H, W] the head reads, such as Grad-CAM wants it.
        drop_path_progress: Scalar buffer in [0, 1], set by :meth:`set_drop_path_progress`.
    """
    sources: List[List[int]]
    slots: List[List[int]]
    __jit_unused_properties__ = ['config', '_pool_type']

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
        self.genotype, self.skeleton = genotype, skeleton
        self.num_classes, self.in_chans = num_classes, in_chans
        self.drop_rate, self.drop_path_rate = drop_rate, drop_path_rate
        self.grad_checkpointing = False
        self.register_buffer('drop_path_progress', torch.ones((), device=device), persistent=False)

        plan = plan_network(genotype, skeleton)
        args = LayerArgs(
            skeleton.bn_eps, skeleton.bn_momentum, skeleton.pool_padding, skeleton.padding,
            dict(device=device, dtype=dtype))
        stem = skeleton.stem_row
        self.stem = stem.build(in_chans, skeleton.stem_width, stem.convs, args)
        self.cells = nn.ModuleList(dilate_cell(Cell(cell, args), cell) for cell in plan.cells)
        self._follow(plan)
        self.head = ClassifierHead(self.num_features, num_classes, global_pool, drop_rate, **args.dd)
        self.head_hidden_size = self.head.num_features
        self.aux_head = None
        if aux_head:
            self.aux_head = AuxHead(
                plan.aux.channels, skeleton.feature_size(plan.aux.reduction * plan.aux.dilation), skeleton.aux_filters,
                num_classes, stem.aux, args)
        self.init_weights()
        # As timm's factory sets them, so that a network that it has not made can be saved, pushed and resolved too.
        self.pretrained_cfg = self.default_cfg = dict(skeleton.data_cfg, architecture='nasnet', num_classes=num_classes)
        self._model_args = self.config

    def _follow(self, plan: NetworkPlan) -> None:
        """Set what depends on the plan, in types that TorchScript knows."""
        self.plan = plan
        self.sources = [[x.source for x in cell.inputs] for cell in plan.cells]
        self.slots = [[output.slot for output in cell.outputs] for cell in plan.cells]
        self.final_sources: List[int] = list(plan.final.sources)
        self.act = nn.ReLU() if plan.final.is_rectified else nn.Identity()
        self.feature_info = [tap.info for tap in plan.taps]
        self.num_features = plan.final.channels

    @torch.jit.ignore
    def init_weights(self) -> None:
        """Initialise convolutions as the stem says, as Google or as DARTS. Linear layers keep PyTorch's initialisation.

        Google truncates the distribution and initialises linear layers by it, too; see MODEL_CARD.md.
        """
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                self.skeleton.stem_row.init_conv(module)
        self.init_non_persistent_buffers()

    @torch.jit.ignore
    def init_non_persistent_buffers(self) -> None:
        """Set what no weight file holds. transformers, which builds networks without memory, calls it afterwards."""
        self.drop_path_progress.fill_(1.)

    @property
    def config(self) -> Dict[str, Any]:
        """JSON data: the arguments with which :func:`compile_genotype` and ``timm.create_model('nasnet', …)`` rebuild
        this network. For a pruned network they rebuild the whole one."""
        return dict(
            genotype=self.genotype.to_dict(),
            **self.skeleton.model_dump(mode='json'),
            num_classes=self.num_classes,
            in_chans=self.in_chans,
            global_pool=self._pool_type,
            drop_rate=self.drop_rate,
            drop_path_rate=self.drop_path_rate,
            aux_head=self.aux_head is not None,
        )

    @property
    def _pool_type(self) -> str:
        """timm's name of the pooling before the classifier."""
        pool_type = getattr(getattr(self.head, 'global_pool', None), 'pool_type', None)
        if not isinstance(pool_type, str):
            raise ValueError("model: its global pool was replaced; instead, call model.reset_classifier(num_classes, "
                             "global_pool='avg') or name another of timm's pools")
        return pool_type

    @torch.jit.ignore
    def set_drop_path_progress(self, progress: float) -> None:
        """Scale the drop path rate by `progress`, the fraction of training that is done (Google's "v3" schedule).

        The initial value is 1, the full ``drop_path_rate``. Changing it does not recompile a compiled model.
        """
        if not 0. <= progress <= 1.:
            raise ValueError(f'progress: must be from 0 to 1, not {progress}')
        self.drop_path_progress.fill_(progress)

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> Dict[str, Any]:
        """Return timm's groups of parameters: the stem, each cell (or each stage if `coarse`), and the rest."""
        if not coarse:
            return dict(stem=r'^stem', blocks=r'^cells\.(\d+)')
        stages = {}
        for i, cell in enumerate(self.plan.cells):
            stages.setdefault(cell.stage, []).append(str(i))
        return dict(stem=r'^stem', blocks=[
            (rf'^cells\.(?:{"|".join(cells)})\.', (stage,)) for stage, cells in stages.items()])

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute the activations inside cells in the backward pass, which saves memory. Gradients and the running
        statistics of the batch norms stay the same."""
        self.grad_checkpointing = enable

    @torch.jit.ignore
    def get_classifier(self) -> nn.Module:
        """Return the linear layer, or an identity for 0 classes."""
        return self.head.fc

    def reset_classifier(self, num_classes: int, global_pool: Optional[str] = None) -> None:
        """Replace the classifier; 0 classes remove it. `global_pool` is kept if None and removed if ''."""
        pool = self._pool_type if global_pool is None else global_pool
        _ClassifierArgs(num_classes=num_classes, global_pool=pool)
        self.num_classes = num_classes
        # A new classifier does not know the classes of the published weights.
        self.pretrained_cfg = self.default_cfg = {
            name: value for name, value in self.pretrained_cfg.items() if name != 'label_names'}
        dd = get_device_dtype(self)
        self.head.reset(num_classes, global_pool, **dd)
        self.head_hidden_size = self.head.num_features
        if self.aux_head is not None:
            self.aux_head.head.reset(num_classes, **dd)

    def _forward_states(self, x: torch.Tensor, num_cells: int) -> Dict[int, torch.Tensor]:
        """Return the hidden states of the stem and of the first `num_cells` cells by slot."""
        drop_prob: Optional[torch.Tensor] = None
        if self.training and self.drop_path_rate > 0.:
            # A product with a tensor made of x, so that tracers record it instead of its present value
            rate = x.new_full([], self.drop_path_rate, dtype=self.drop_path_progress.dtype)
            drop_prob = self.drop_path_progress * rate
        states: Dict[int, torch.Tensor] = {}
        for slot, state in enumerate(self.stem(x)):
            states[slot] = state
        for i, cell in enumerate(self.cells):
            if i < num_cells:
                inputs = [states[slot] for slot in self.sources[i]]
                if self.grad_checkpointing and not torch.jit.is_scripting():
                    outputs = _checkpointed(cell, inputs, drop_prob)
                else:
                    outputs = cell(inputs, drop_prob)
                for k, slot in enumerate(self.slots[i]):
                    states[slot] = outputs[k]
        return states

    def _gather(self, states: Dict[int, torch.Tensor], sources: List[int]) -> torch.Tensor:
        """Return the concatenation of states."""
        return torch.cat([states[k] for k in sources], dim=1) if len(sources) > 1 else states[sources[0]]

    def _final(self, states: Dict[int, torch.Tensor]) -> torch.Tensor:
        """Return the last features, which the classifier reads."""
        return self.act(self._gather(states, self.final_sources))

    def _read(self, states: Dict[int, torch.Tensor], tap: Tap) -> torch.Tensor:
        x = self._gather(states, list(tap.sources))
        return F.relu(x) if tap.is_rectified else x

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """Compute features [B, num_features, H / output stride, W / output stride] from images [B, in_chans, H, W]."""
        return self._final(self._forward_states(x, len(self.cells)))

    def forward_head(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        """Compute logits [B, num_classes] from features, or if `pre_logits` what the linear layer reads."""
        return self.head(x, pre_logits=pre_logits)

    def forward(self, x: torch.Tensor):
        if self.aux_head is not None and self.training and not torch.jit.is_scripting():
            states = self._forward_states(x, len(self.cells))
            return self.forward_head(self._final(states)), self.aux_head(self._read(states, self.plan.aux))
        return self.forward_head(self.forward_features(x))

    def forward_intermediates(
            self,
            x: torch.Tensor,
            indices: Optional[Union[int, List[int]]] = None,
            norm: bool = False,
            stop_early: bool = False,
            output_fmt: str = 'NCHW',
            intermediates_only: bool = False,
    ) -> Union[List[torch.Tensor], Tuple[torch.Tensor, List[torch.Tensor]]]:
        """Compute the features that ``feature_info`` lists.

        Args:
            x: Images [B, in_chans, H, W].
            indices: Indices of ``feature_info``; an int n means the last n, None means all. With the ImageNet stem, 0
                is its convolution, 1 its first cell, and 2 to 4 are the ends of the stages. With the CIFAR stem, 0 to 2
                are the ends of the stages.
            norm: Has no effect, because there is no final norm.
            stop_early: Do not run the cells after the last of the indices.
            output_fmt: Must be 'NCHW'.
            intermediates_only: Return only the list of intermediates.

        Returns:
            The final features and the list of intermediates, or only the list.
        """
        if output_fmt != 'NCHW':
            raise ValueError("output_fmt: must be 'NCHW'")
        taps = self.plan.taps
        take_indices, max_index = feature_take_indices(len(taps), indices)
        last = taps[max_index] if stop_early else taps[-1]
        states = self._forward_states(x, last.num_cells)
        features = [self._read(states, taps[i]) for i in take_indices]
        return features if intermediates_only else (self._read(states, last), features)

    def prune_intermediate_layers(
            self,
            indices: Union[int, List[int]] = 1,
            prune_norm: bool = False,
            prune_head: bool = True,
    ) -> List[int]:
        """Remove the cells that the features at `indices` do not need.

        Returns:
            The indices that are kept, as a list.
        """
        take_indices, max_index = feature_take_indices(len(self.plan.taps), indices)
        plan = self.plan.ending_at(max_index)
        is_shorter = len(plan.taps) < len(self.plan.taps)
        if is_shorter:
            if len(plan.stem_maps) < len(self.plan.stem_maps):
                self.stem.keep_maps(len(plan.stem_maps))
            self.cells = self.cells[:len(plan.cells)]
            self._follow(plan)
        if prune_head or is_shorter:  # the head was made for the last features
            self.aux_head = None
            self.head.in_features = self.num_features
            self.reset_classifier(0, '')
        return take_indices


def compile_genotype(
        genotype: Union[str, Mapping[str, Any], Genotype] = 'nasnet_a',
        num_cells: Optional[int] = None,
        cell_filters: Optional[int] = None,
        filters: Optional[int] = None,
        stem: str = 'imagenet',
        num_classes: int = 1000,
        in_chans: int = 3,
        global_pool: str = 'avg',
        drop_rate: float = 0.,
        drop_path_rate: float = 0.,
        aux_head: bool = False,
        device: Union[torch.device, str, None] = None,
        dtype: Optional[torch.dtype] = None,
        **skeleton: Any,
) -> NASNet:
    """Compile a genotype to a network.

    Args:
        genotype: The name of a built-in genotype, a path, JSON data or a genotype; see :func:`load_genotype`.
        num_cells: Normal cells in each of the three stages, the paper's N, 4 by default. Pass either this or
            ``num_layers``, the number of all cells behind the stem.
        cell_filters: Filters F of the first stage's cells, 44 by default. Pass either this or `filters`.
        filters: Width of the penultimate layer, the F in the paper's "N @ F".
        stem: Name of a stem: 'imagenet' (stride 8 before the first stage) or 'cifar' (stride 1), or 'darts_imagenet'
            or 'darts_cifar', which build DARTS's networks.
        num_classes: Number of classes; 0 for no classifier.
        in_chans: Channels of the images.
        global_pool: timm's name of the pooling before the classifier; '' for none, together with num_classes=0.
        drop_rate: Probability of dropout before the classifier.
        drop_path_rate: Probability of drop path in the last cell at the end of training; see
            :meth:`NASNet.set_drop_path_progress`.
        aux_head: Whether to add the auxiliary classifier.
        device: Device of the parameters.
        dtype: Type of the parameters.
        **skeleton: Other fields of :class:`~nasnet_zoo.Skeleton`, such as ``output_stride``. The default of
            ``aux_filters`` is that of the genotype, if it has one.

    Raises:
        GenotypeError: If the genotype cannot be compiled.
        ValueError: If an argument is out of bounds, or if no whole F gives the width `filters`.
        TypeError: If an argument is unknown.
    """
    genotype = load_genotype(genotype)
    args = _NetworkArgs(
        num_classes=num_classes, in_chans=in_chans, global_pool=global_pool, drop_rate=drop_rate,
        drop_path_rate=drop_path_rate, aux_head=aux_head)
    unknown = [name for name in skeleton if name not in Skeleton.model_fields]
    if unknown:
        known = dict.fromkeys([*inspect.signature(compile_genotype).parameters][:-1] + [*Skeleton.model_fields])
        raise TypeError(f'unexpected argument {shorten(repr(unknown[0]))}; {suggest(unknown[0], known)}')
    fields = dict(skeleton, stem=stem)
    if num_cells is not None:
        fields['num_cells'] = num_cells
    if genotype.aux_filters:
        fields.setdefault('aux_filters', genotype.aux_filters)
    if cell_filters is not None:
        fields['cell_filters'] = cell_filters
    if filters is not None:
        fields['cell_filters'] = _cell_filters(genotype, fields, filters, cell_filters)
    structure = Skeleton(**fields)
    check_model_size(genotype, structure, num_classes, aux_head)
    return NASNet(genotype, structure, **args.model_dump(), device=device, dtype=dtype)


def _cell_filters(genotype: Genotype, fields: Mapping[str, Any], filters: int, cell_filters: Optional[int]) -> int:
    """Return the F that gives the width `filters`. Raises a ValueError if `cell_filters` contradicts it."""
    whole = first_filters(genotype, Skeleton(**fields), filters)
    if cell_filters not in (None, whole):
        raise ValueError(f'cell_filters, filters: filters={filters} corresponds to cell_filters={whole}, not to '
                         f'{cell_filters}; pass only one of them')
    return whole

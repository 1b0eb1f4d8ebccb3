"""Plans a network: what it computes and in which order, as immutable data, before any layer is made.

Everything that depends on how cells are wired is worked out here and nowhere else: which states are live, which cell
reads which state, widths and resolutions, where a ReLU is shared, which result is computed once for two operations, and
where drop path applies. Modules, costs, feature taps and the tables of checkpoint names read the plan.

A *slot* is the number of a tensor. The network's slots are its hidden states: the feature maps of the stem and the
outputs of the cells. Each cell has slots of its own: its fitted inputs, its blocks, and results that are used twice.
"""
from collections import Counter
from dataclasses import dataclass, replace
from typing import Any, Dict, Iterable, List, NamedTuple, Optional, Sequence, Set, Tuple

from ..genotype.operations import OPERATIONS
from ..genotype.schema import Cell, Edge, Genotype
from .skeleton import Position, Skeleton
from .stems import STEMS, FeatureMap

__all__ = ['NetworkPlan', 'CellPlan', 'InputPlan', 'BlockPlan', 'OperandPlan', 'OutputPlan', 'PartPlan', 'Tap',
           'plan_network']


@dataclass(frozen=True)
class InputPlan:
    """An input of a cell.

    Attributes:
        name: ``'h0'``, ``'h1'``, …
        source: The network's slot from which it is read.
        channels: Channels of that state.
        stride: The stride with which it must be fitted to the resolution of h0.
        dilation: The dilation of that state, see :class:`CellPlan`.
        is_missing: Whether the history does not reach back so far, so that the raw stem stands in.
        is_fitted: Whether it is brought to F filters by ReLU, convolution and batch norm. Otherwise it stays as it is.
        slot: The cell's slot of the (fitted) input.
        is_rectified: Whether an operation reads it through a ReLU.
    """
    name: str
    source: int
    channels: int
    stride: int
    dilation: int
    is_missing: bool
    is_fitted: bool
    slot: int
    is_rectified: bool


@dataclass(frozen=True)
class OperandPlan:
    """An operation of a block and what it reads.

    Attributes:
        op: Name of the operation; None if its result is already in the slot that is read.
        source: The cell's slot that it reads. An operation that gives zeros reads the first input.
        reads_rectified: Whether it reads the state through a ReLU.
        in_chs, out_chs, stride: Its shape.
        uses_drop_path: Whether drop path applies to its result.
        cache_slot: The cell's slot in which its result is kept for another operand; None if there is none.
    """
    op: Optional[str]
    source: int
    reads_rectified: bool
    in_chs: int
    out_chs: int
    stride: int
    uses_drop_path: bool
    cache_slot: Optional[int]


@dataclass(frozen=True)
class BlockPlan:
    """A block: its number in the genotype, its operands, the cell's slot of its result, and whether it is rectified."""
    index: int
    left: OperandPlan
    right: OperandPlan
    combine: str
    filters: int
    slot: int
    is_rectified: bool


@dataclass(frozen=True)
class PartPlan:
    """A part of a concatenation: the cell's slot that it reads, and the stride of its projection.

    Inputs whose shape is not that of the output are projected to it; `is_projected` says so.
    """
    state: str
    source: int
    in_chs: int
    stride: int
    is_projected: bool


@dataclass(frozen=True)
class OutputPlan:
    """An output of a cell: a concatenation of states, and the network's slot that takes it."""
    parts: Tuple[PartPlan, ...]
    channels: int
    slot: int


@dataclass(frozen=True)
class CellPlan:
    """A compiled cell.

    Attributes:
        name: The module's name in the network, ``'cells.0'`` for the first one.
        kind, filters, stage, in_stem, stride: See :class:`~nasnet_zoo.network.skeleton.Position`.
        reduction: Image pixels per pixel of its outputs, along a side.
        input_dilation, dilation: The dilation of h0 and of its outputs. A network with a smaller output stride than
            the cells give it computes more pixels: the same network without dilation would compute every second pixel
            where the dilation is 2. All strides in a plan are those of the network without dilation.
        drop_path_scale: The factor of the network's drop path rate.
        inputs: The inputs that it reads, in the order h0, h1, …
        blocks: Its live blocks, in the order of the genotype.
        outputs: The outputs that are read, or what the classifier reads if this is the last cell.
    """
    name: str
    kind: str
    filters: int
    stage: int
    in_stem: bool
    stride: int
    reduction: int
    input_dilation: int
    dilation: int
    drop_path_scale: float
    inputs: Tuple[InputPlan, ...]
    blocks: Tuple[BlockPlan, ...]
    outputs: Tuple[OutputPlan, ...]


@dataclass(frozen=True)
class Tap:
    """Where features can be read: at the end of each resolution, as timm's nasnetalarge has them.

    Attributes:
        num_cells: The number of cells that must have run.
        sources: The network's slots whose concatenation the features are.
        channels, reduction: Shape of the features.
        module: The module that computes them.
        is_rectified: Whether the features pass a ReLU. The stem's do not, nor those that the classifier reads as they
            are.
        dilation: See :class:`CellPlan`.
    """
    num_cells: int
    sources: Tuple[int, ...]
    channels: int
    reduction: int
    module: str
    is_rectified: bool
    dilation: int = 1

    @property
    def info(self) -> Dict[str, Any]:
        """The features as an entry of timm's ``feature_info``."""
        return dict(num_chs=self.channels, reduction=self.reduction, module=self.module)


@dataclass(frozen=True)
class NetworkPlan:
    """A network.

    Attributes:
        stem_maps: The feature maps of the stem that cells may read. They have the slots 0, 1, …
        cells: The cells on which the classifier depends. No other cell is compiled.
        taps: Where features can be read, from the highest resolution to the last features.
        aux: What the auxiliary head reads: the features before the last reduction or behind it, as the stem says.
    """
    stem_maps: Tuple[FeatureMap, ...]
    cells: Tuple[CellPlan, ...]
    taps: Tuple[Tap, ...]
    aux: Tap

    @property
    def final(self) -> Tap:
        """What the classifier reads."""
        return self.taps[-1]

    def ending_at(self, tap: int) -> 'NetworkPlan':
        """Return the plan of the network that ends at a tap, without the cells and the maps of the stem behind it."""
        end, taps = self.taps[tap], self.taps[:tap + 1]
        behind = 0 if end.num_cells else end.sources[0]  # newer maps of the stem have smaller slots
        return replace(
            self, stem_maps=self.stem_maps[behind:], cells=self.cells[:end.num_cells],
            taps=tuple(replace(tap, sources=tuple(slot - behind for slot in tap.sources)) for tap in taps))


class _Source(NamedTuple):
    """A hidden state: output `output` of the cell at `position`, or feature map `output` of the stem (position -1)."""
    position: int
    output: int
    is_missing: bool = False


def plan_network(genotype: Genotype, skeleton: Skeleton) -> NetworkPlan:
    """Plan the network of a genotype's cells on a skeleton.

    Raises:
        ValueError: If the cells have more inputs than the stem allows.
    """
    if genotype.inputs > (skeleton.stem_row.max_inputs or genotype.inputs):
        others = [name for name, row in STEMS.items() if genotype.inputs <= (row.max_inputs or genotype.inputs)]
        raise ValueError(f'stem: {skeleton.stem} takes cells of at most {skeleton.stem_row.max_inputs} inputs, but '
                         f'{genotype.name} has {genotype.inputs}; choose another stem: {", ".join(others)}')
    positions = skeleton.positions()
    wires = _wire(genotype, skeleton, positions)
    live = _live_outputs(genotype, positions, wires)
    maps = skeleton.stem_maps
    slots = {_Source(-1, k): k for k in range(len(maps))}
    shapes: List[FeatureMap] = list(maps)  # by slot
    taps = [Tap(0, (k,), *maps[k], 'stem', False) for k in reversed(range(len(maps)))]
    newest, reduction = taps.pop(), maps[0].reduction
    first = newest
    cells: List[CellPlan] = []
    for p, position in enumerate(positions):
        if position.stride > 1:
            if newest.reduction == reduction:  # otherwise there is no live cell at this resolution
                taps.append(newest)
            reduction *= position.stride
        if not live[p]:
            continue
        states = [(f'h{i}', source._replace(is_missing=False), source.is_missing) for i, source in enumerate(wires[p])]
        sources = {h: (slots[state], is_missing) for h, state, is_missing in states if state in slots}  # live ones
        cell = genotype.cells[position.kind]
        cells.append(_CellPlanner(
            cell, position, genotype.fit == 'all', sources, shapes, skeleton.output_stride).plan(
            f'cells.{len(cells)}', reduction, _outputs(cell, live[p], p == len(positions) - 1),
            (p + 1) / len(positions) if skeleton.drop_path_by_depth else 1.))
        outputs = cells[-1].outputs
        slots.update((_Source(p, k), output.slot) for k, output in zip(live[p], outputs))
        shapes += [FeatureMap(output.channels, reduction) for output in outputs]
        tap = Tap(len(cells), tuple(output.slot for output in outputs), sum(output.channels for output in outputs),
                  reduction, cells[-1].name, True)
        first = first if newest.reduction == reduction else tap  # at this resolution
        newest = tap
    taps.append(replace(newest, is_rectified=skeleton.final_relu))
    aux = first if skeleton.stem_row.aux.follows_reduction else taps[-2]
    return NetworkPlan(maps, tuple(cells), tuple(_dilated(tap, skeleton) for tap in taps), _dilated(aux, skeleton))


def _dilated(tap: Tap, skeleton: Skeleton) -> Tap:
    """Return a tap as it is with the skeleton's output stride."""
    return replace(tap, reduction=min(tap.reduction, skeleton.output_stride),
                   dilation=_dilation(tap.reduction, skeleton.output_stride))


def _dilation(reduction: int, output_stride: int) -> int:
    """Return the dilation of what would be features at `reduction` without an output stride."""
    return max(1, reduction // output_stride)


def _wire(genotype: Genotype, skeleton: Skeleton, positions: Sequence[Position]) -> List[List[_Source]]:
    """Return, for each position, where its cell's inputs h0, h1, … come from.

    The history consists of the newest cell's outputs, then those of the cells before it. It begins with each feature
    map of the stem, repeated as often as a cell has outputs. The oldest map stands in for what is missing.
    """
    outputs, num_maps = len(genotype.normal.outputs), len(skeleton.stem_maps)
    history = [[_Source(-1, k)] * outputs for k in range(num_maps)]  # one list for each cell, newest first
    missing = [_Source(-1, num_maps - 1, is_missing=True)] * genotype.inputs
    wires = []
    for p in range(len(positions)):
        after_reduction = p > 0 and positions[p - 1].kind == 'reduction' and not positions[p - 1].in_stem
        seen = history
        if after_reduction and skeleton.skip_reduction_layer_input:
            seen = history[:1] + history[2:]
        wires.append([*(source for cell in seen for source in cell), *missing][:genotype.inputs])
        history.insert(0, [_Source(p, k) for k in range(outputs)])
    return wires


def _live_outputs(
        genotype: Genotype, positions: Sequence[Position], wires: Sequence[Sequence[_Source]],
) -> List[List[int]]:
    """Return, for each position, the outputs of its cell that the classifier depends on.

    The last cell has a single output, what the classifier reads.
    """
    live: List[Set[int]] = [set() for _ in positions]
    live[-1] = {0}
    for p in reversed(range(len(positions))):
        cell = genotype.cells[positions[p].kind]
        outputs = _outputs(cell, live[p], p == len(positions) - 1)
        for state in cell.needed([state for output in outputs for state in output]):
            if state[0] == 'h':
                source = wires[p][int(state[1:])]
                if source.position >= 0:
                    live[source.position].add(source.output)
    return [sorted(outputs) for outputs in live]


def _outputs(cell: Cell, live: Iterable[int], is_last: bool) -> List[Tuple[str, ...]]:
    """Return the concatenations that a cell must compute."""
    return [cell.head_states] if is_last else [cell.outputs[k] for k in sorted(live)]


class _CellPlanner:
    """Plans one cell. Follows Google's rules (nasnet_utils.py) for fitting inputs and for projecting outputs.

    Args:
        cell: The genotype's cell.
        position: Where it stands.
        fit_all: Whether every input is fitted, instead of h0 and those of another shape.
        sources: For each input, the network's slot and whether it is missing.
        shapes: Shape that each of the network's slots so far would have without dilation.
        output_stride: The network's.
    """

    def __init__(
            self, cell: Cell, position: Position, fit_all: bool, sources: Dict[str, Tuple[int, bool]],
            shapes: Sequence[FeatureMap], output_stride: int,
    ) -> None:
        self.cell, self.position, self.fit_all, self.output_stride = cell, position, fit_all, output_stride
        self.sources, self.shapes = sources, shapes
        self.slots: Dict[Any, int] = {}  # of states, by name, and of results that are used twice, by edge
        self.channels: Dict[str, int] = {}  # of states

    def plan(self, name: str, reduction: int, outputs: Sequence[Sequence[str]], drop_path_scale: float) -> CellPlan:
        needed = self.cell.needed([state for output in outputs for state in output])
        inputs = [self._input(h, reduction) for h in self.sources if h in needed]
        blocks = [i for i in range(len(self.cell.blocks)) if f'b{i}' in needed]
        uses = Counter(edge for i in blocks for edge in self.cell.blocks[i].edges)
        planned = [self._block(i, uses) for i in blocks]
        rectified = {operand.source for block in planned for operand in (block.left, block.right)
                     if operand.reads_rectified}
        first = len(self.shapes)
        return CellPlan(
            name, *self.position, stride=self.position.stride, reduction=min(reduction, self.output_stride),
            input_dilation=_dilation(reduction // self.position.stride, self.output_stride),
            dilation=_dilation(reduction, self.output_stride), drop_path_scale=drop_path_scale,
            inputs=tuple(replace(x, is_rectified=x.slot in rectified) for x in inputs),
            blocks=tuple(replace(block, is_rectified=block.slot in rectified) for block in planned),
            outputs=tuple(self._output(output, first + k) for k, output in enumerate(outputs)))

    def _new_slot(self, key: Any) -> int:
        return self.slots.setdefault(key, len(self.slots))

    def _input(self, name: str, reduction: int) -> InputPlan:
        (source, is_missing), filters = self.sources[name], self.position.filters
        channels, given = self.shapes[source]
        stride = reduction // self.position.stride // given
        is_changed = name == 'h0' or stride > 1 or (channels != filters and not is_missing)
        is_fitted = is_changed or self.fit_all
        self.channels[name] = filters if is_fitted else channels
        return InputPlan(name, source, channels, stride, _dilation(given, self.output_stride), is_missing, is_fitted,
                         self._new_slot(name), False)

    def _block(self, i: int, uses: Counter) -> BlockPlan:
        block, filters = self.cell.blocks[i], self.position.filters
        left, right = (self._operand(edge, uses) for edge in block.edges)
        self.channels[f'b{i}'] = filters * self.cell.width([f'b{i}'])
        return BlockPlan(i, left, right, block.combine, filters, self._new_slot(f'b{i}'), False)

    def _operand(self, edge: Edge, uses: Counter) -> OperandPlan:
        op, state = edge
        row = OPERATIONS[op]
        if not row.reads_state:
            state = next(iter(self.channels))  # the first input, which is there although `state` may not be
        shape = self.channels[state], self.position.filters, self.position.stride if state[0] == 'h' else 1
        drops = row.uses_drop_path.holds(*shape)
        if edge in self.slots:
            return OperandPlan(None, self.slots[edge], False, *shape, uses_drop_path=drops, cache_slot=None)
        # An identity, which is spared drop path, is free: there is nothing to cache.
        is_cached = drops and uses[edge] > 1 and not row.has_weights.holds(*shape)
        return OperandPlan(op, self.slots[state], row.pre_activation.holds(*shape), *shape, uses_drop_path=drops,
                           cache_slot=self._new_slot(edge) if is_cached else None)

    def _output(self, states: Sequence[str], slot: int) -> OutputPlan:
        filters, stride = self.position.filters, self.position.stride
        parts = tuple(PartPlan(
            state, self.slots[state], self.channels[state], stride,
            is_projected=state[0] == 'h' and (stride > 1 or self.channels[state] != filters)) for state in states)
        return OutputPlan(parts, filters * self.cell.width(states), slot)

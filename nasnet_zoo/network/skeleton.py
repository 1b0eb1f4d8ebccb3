"""All of a network that is not cell, as data: where cells stand, how wide they are, what they read."""
import math
import reprlib
from dataclasses import dataclass
from typing import Annotated, Any, Dict, Iterable, List, Literal, Optional, Sequence, Tuple, Union

from pydantic import Field

from ..checked import Checked, check
from ..genotype.schema import Cell, Genotype

__all__ = ['Skeleton', 'Position', 'STEM', 'MISSING', 'wire', 'live_outputs', 'first_filters', 'check_model_size']

MAX_PARAMETERS = 4_000_000_000
MAX_CELL_BLOCKS = 2048

Side = Annotated[int, Field(ge=1, le=4096)]


class Skeleton(Checked):
    """All of a network that is not cell. The defaults are the ImageNet stem's; see :meth:`create` for both.

    The figures are Google's (nasnet.py in tensorflow/models, slim).
    """
    stem: Literal['imagenet', 'cifar'] = 'imagenet'
    num_cells: Annotated[int, Field(ge=1, le=32, description="normal cells a stage, the paper's N")] = 4
    cell_filters: Annotated[int, Field(ge=1, le=2048, description="filters F of the first stage's cells")] = 44
    stem_filters: Annotated[Optional[int], Field(ge=1, le=4096, description='default: 32, CIFAR 3 F')] = None
    reductions: Annotated[Literal['extra', 'replace'], Field(description=(
        'a reduction cell stands before the normal cells of a stage (NASNet) or for the first of them (PNASNet)'))
    ] = 'extra'
    skip_reduction_layer_input: Annotated[bool, Field(description=(
        "the cell after a reduction reads the reduction's h1 as its own h1, not its h0"))] = False
    bn_eps: Annotated[float, Field(gt=0, le=1)] = 1e-3
    bn_momentum: Annotated[float, Field(gt=0, le=1)] = 3e-4
    pool_padding: Annotated[Literal['tf', 'timm', 'keras'], Field(description=(
        'what pools of stride 2 see beyond the border: see ops.pool'))] = 'tf'
    drop_path_by_depth: Annotated[bool, Field(description=(
        'drop path grows with the depth of the cell (NASNet, "v3"), or is the same in all (AmoebaNet, "v1")'))] = True
    img_size: Annotated[
        Union[Side, Annotated[Tuple[Side, Side], Field(strict=False)]],
        Field(description='the usual input; others work too. It sizes the auxiliary head'),
    ] = 224

    @classmethod
    def create(cls, **fields: Any) -> 'Skeleton':
        """A skeleton with its stem's defaults: the batch norm of Google's CIFAR models differs from the ImageNet ones.

        Raises:
            TypeError: For an argument that a network does not have.
            ValueError: For a value of the wrong type or out of bounds.
        """
        defaults = dict(bn_eps=1e-5, bn_momentum=0.1, img_size=32) if fields.get('stem') == 'cifar' else {}
        skeleton = check(cls, {**defaults, **fields})
        if 0 in skeleton.feature_size():
            raise ValueError(f'img_size: the stem leaves nothing of {skeleton.size[0]} x {skeleton.size[1]} pixels')
        return skeleton

    @property
    def size(self) -> Tuple[int, int]:
        """Height and width of the usual input."""
        return self.img_size if isinstance(self.img_size, tuple) else (self.img_size, self.img_size)

    @property
    def data_cfg(self) -> Dict[str, Any]:
        """What timm's cfg says of the images and of the network: that of the data set that its stem is for."""
        cfg = dict(
            input_size=(3, *self.size), pool_size=self.feature_size(), interpolation='bicubic', crop_pct=0.875,
            mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), num_classes=1000, first_conv='stem.conv', classifier='head.fc')
        if self.stem == 'cifar':
            cfg.update(crop_pct=1., mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616), num_classes=10)
        return cfg

    @property
    def stem_cells(self) -> int:
        return 2 if self.stem == 'imagenet' else 0

    @property
    def stem_width(self) -> int:
        return self.stem_filters or (32 if self.stem == 'imagenet' else 3 * self.cell_filters)

    @property
    def stem_stride(self) -> int:
        return 2 if self.stem == 'imagenet' else 1

    @property
    def output_stride(self) -> int:
        return self.stem_stride * 2 ** (self.stem_cells + 2)

    def feature_size(self, reduction: Optional[int] = None) -> Tuple[int, int]:
        """Height and width of the feature map at `reduction`, the last one's by default, for ``img_size`` input."""
        size = self.size
        if self.stem == 'imagenet':
            size = tuple((side - 1) // 2 for side in size)  # a VALID 3x3 convolution of stride 2, the others are SAME
        steps = (reduction or self.output_stride) // self.stem_stride
        return tuple(math.ceil(side / steps) for side in size)

    def positions(self) -> List['Position']:
        """The cells from stem to classifier."""
        positions = [
            Position('reduction', max(1, self.cell_filters // 2 ** (self.stem_cells - i)), stage=0, in_stem=True)
            for i in range(self.stem_cells)
        ]
        for stage in range(3):
            kinds = ['normal'] * self.num_cells
            if stage:
                kinds[:1 if self.reductions == 'replace' else 0] = ['reduction']
            positions += [Position(kind, self.cell_filters * 2 ** stage, stage) for kind in kinds]
        return positions


@dataclass
class Position:
    """A place for a cell in the network."""
    kind: str
    filters: int
    stage: int
    in_stem: bool = False

    @property
    def stride(self) -> int:
        return 2 if self.kind == 'reduction' else 1


Ref = Tuple[int, int]  # position and output of a hidden state; the stem is (-1, 0)
STEM: Ref = (-1, 0)
MISSING: Ref = (-2, 0)


def wire(genotype: Genotype, skeleton: Skeleton) -> List[List[Ref]]:
    """For each position, where its cell inputs h0, h1, … come from.

    The history is the newest cell's outputs, then the older cells'. It begins with the stem, as often as a cell has
    outputs; what it cannot give yet is MISSING, and the raw stem stands in.
    """
    outputs = len(genotype.normal.outputs)
    history: List[List[Ref]] = [[STEM] * outputs]  # a list a cell, newest first
    positions = skeleton.positions()
    wires = []
    for p in range(len(positions)):
        after_reduction = p > 0 and positions[p - 1].kind == 'reduction' and not positions[p - 1].in_stem
        seen = history
        if after_reduction and skeleton.skip_reduction_layer_input:
            seen = history[:1] + history[2:]
        refs = [ref for cell in seen for ref in cell] + [MISSING] * genotype.inputs
        wires.append(refs[:genotype.inputs])
        history.insert(0, [(p, k) for k in range(outputs)])
    return wires


def live_outputs(genotype: Genotype, skeleton: Skeleton, wires: Sequence[Sequence[Ref]]) -> List[List[int]]:
    """For each position, the outputs that the classifier depends on, from the last cell back.

    The last cell's only output is its head, with index 0.
    """
    positions = skeleton.positions()
    live = [set() for _ in positions]
    live[-1] = {0}
    for p in reversed(range(len(positions))):
        cell = genotype.cells[positions[p].kind]
        for state in cell.needed(_states(cell, live[p], p == len(positions) - 1)):
            if state[0] == 'h':
                source, k = wires[p][int(state[1:])]
                if source >= 0:
                    live[source].add(k)
    return [sorted(outputs) for outputs in live]


def _states(cell: Cell, outputs: Iterable[int], is_last: bool) -> List[str]:
    """The states that a cell must compute for the network to have these outputs of it."""
    return list(cell.head_states) if is_last else [state for k in outputs for state in cell.outputs[k]]


def first_filters(genotype: Genotype, skeleton: Skeleton, filters: int) -> int:
    """The first stage's F that makes the penultimate layer `filters` wide."""
    if isinstance(filters, bool) or not isinstance(filters, int) or filters < 1:
        raise ValueError(f'filters: must be a positive whole number, not {reprlib.repr(filters)}')
    last = skeleton.positions()[-1]
    head = genotype.cells[last.kind]
    unit = head.width(head.head_states) * 2 ** last.stage
    if filters % unit:
        near = [f for f in (filters // unit, filters // unit + 1) if f]
        raise ValueError(
            f'filters: {genotype.name} ends {unit} F wide, so {filters} gives no whole F; the nearest that work are '
            + ' and '.join(f'{unit * f} (cell_filters={f})' for f in near))
    return filters // unit


def check_model_size(genotype: Genotype, skeleton: Skeleton, num_classes: int, aux_head: bool) -> None:
    """Raise a ValueError for a network of billions of parameters, before memory is taken for it.

    The estimate is from above: each operation at its largest, two of 2 F² a block, a projection of each cell input.
    """
    blocks = 3 * skeleton.num_cells * max(len(cell.blocks) for cell in genotype.cells.values())
    if blocks > MAX_CELL_BLOCKS:
        raise ValueError(f'num_cells: {genotype.name} has {skeleton.num_cells} times too many blocks: {blocks} in all, '
                         f'at most {MAX_CELL_BLOCKS}')
    in_squares = max(
        4 * len(cell.blocks) + genotype.inputs * max(map(cell.width, cell.outputs)) for cell in genotype.cells.values())
    widest = 4 * skeleton.cell_filters
    head = max(cell.width(cell.head_states) for cell in genotype.cells.values()) * widest
    estimates = dict(
        cell_filters=3 * skeleton.num_cells * in_squares * widest ** 2,
        stem_filters=genotype.inputs * skeleton.stem_width * widest,
        num_classes=2 * head * num_classes,
        img_size=128 * 768 * math.prod(skeleton.feature_size(skeleton.output_stride // 2)) // 9 * aux_head,
    )
    for name, estimate in estimates.items():
        if estimate > MAX_PARAMETERS:
            raise ValueError(f'{name}: {genotype.name} of this size may have {estimate:,} parameters, over '
                             f'{MAX_PARAMETERS:,}; choose less')

"""Everything in a network that its cells do not determine, as data: which cells stand where, and how wide they are."""
from typing import Annotated, Any, Dict, Literal, Mapping, NamedTuple, Optional, Tuple, Union

from pydantic import Field, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError

from ..checked import Checked, OneOf
from ..genotype.schema import Width
from .stems import DEFAULT_STEM, STEMS, FeatureMap, Stem

__all__ = ['Skeleton', 'Position', 'ImageSize', 'Side', 'depth_label']

NUM_STAGES = 3


def _plain_stride(stem: Stem) -> int:
    """Return the output stride of a network whose reductions all halve the size."""
    return stem.stride * 2 ** (len(stem.cell_divisors) + NUM_STAGES - 1)


Side = Annotated[int, Field(ge=1, le=4096)]
ImageSize = Union[Side, Annotated[Tuple[Side, Side], Field(strict=False)]]  # lists are accepted, too


class Position(NamedTuple):
    """A place for a cell in the network."""
    kind: str
    filters: int
    stage: int
    in_stem: bool = False

    @property
    def stride(self) -> int:
        return 2 if self.kind == 'reduction' else 1


class Skeleton(Checked):
    """Everything in a network that its cells do not determine.

    Fields that are left out have the stem's defaults (see ``network/stems.py``).

    Raises:
        TypeError: If a field is unknown.
        ValueError: If a value has the wrong type or is out of bounds.
    """
    stem: Annotated[str, OneOf('stem', STEMS), Field(description='the layers before the first cell')] = DEFAULT_STEM
    num_cells: Annotated[Optional[int], Field(ge=1, le=32, description=(
        "normal cells in each stage, the paper's N; not together with `num_layers`"))] = 4
    num_layers: Annotated[Optional[int], Field(ge=3, le=98, description=(
        "all cells but those of the stem, as DARTS counts; reductions stand at a third and at two thirds"))] = None
    cell_filters: Annotated[int, Field(ge=1, le=2048, description="filters F of the first stage's cells")] = 44
    stem_filters: Annotated[Optional[int], Field(ge=1, le=4096, description=(
        'filters of the stem; the default depends on the stem'))] = None
    reductions: Annotated[Literal['extra', 'replace'], Field(description=(
        'whether a reduction cell precedes the normal cells of a stage (NASNet) or replaces the first of them (PNASNet)'
    ))] = 'extra'
    skip_reduction_layer_input: Annotated[bool, Field(description=(
        "whether the cell after a reduction skips the reduction's h0: its own h1 is the reduction's h1"))] = False
    bn_eps: Annotated[float, Field(gt=0, le=1, description='epsilon of batch norms')] = (
        STEMS[DEFAULT_STEM].defaults['bn_eps'])
    bn_momentum: Annotated[float, Field(gt=0, le=1, description='momentum of batch norms')] = (
        STEMS[DEFAULT_STEM].defaults['bn_momentum'])
    pool_padding: Annotated[Literal['tf', 'timm', 'keras'], Field(description=(
        'how pools of stride 2 treat the border: as Google, timm or Keras'))] = 'tf'
    padding: Annotated[Literal['same', 'symmetric'], Field(description=(
        "padding where the stride is 2: TensorFlow's SAME padding (Google), or the same on opposite sides (DARTS)"))
    ] = 'same'
    final_relu: Annotated[bool, Field(description=(
        'whether the classifier reads the last features through a ReLU (Google) or as they are (DARTS)'))] = True
    drop_path_by_depth: Annotated[bool, Field(description=(
        'whether the drop path rate grows with the depth of the cell (NASNet) or is the same in all cells (AmoebaNet)'
    ))] = True
    img_size: Annotated[
        ImageSize,
        Field(description='usual size of the images, which determines the auxiliary head; other sizes work too'),
    ] = STEMS[DEFAULT_STEM].defaults['img_size']
    aux_filters: Annotated[Tuple[Width, Width], Field(strict=False, description=(
        "widths of the auxiliary head's two convolutions; the default is Google's"))] = (128, 768)
    output_stride: Annotated[int, Field(description=(
        'image pixels per pixel of the last features, along a side; a half or a quarter of the default makes the last '
        'reduction or the last two keep the size, and dilates what follows, for dense prediction'
    ))] = _plain_stride(STEMS[DEFAULT_STEM])

    @model_validator(mode='before')
    @classmethod
    def _fill_in(cls, fields: Any) -> Any:
        """Give the fields that are left out the defaults of the stem.

        An output stride of None or of 32, timm's default, counts as left out.
        """
        name = fields.get('stem', DEFAULT_STEM) if isinstance(fields, dict) else None
        stem = STEMS.get(name) if isinstance(name, str) else None
        if stem is None:
            return fields  # which is refused
        if fields.get('output_stride', 32) in (None, 32):
            fields = {**fields, 'output_stride': _plain_stride(stem)}
        depth = {} if fields.get('num_layers') is None else dict(num_cells=None)
        return {**depth, **stem.defaults, **fields}

    @field_validator('img_size')
    @classmethod
    def _leaves_a_pixel(cls, img_size: Any, info: ValidationInfo) -> Any:
        height, width = _size(img_size)
        stem = STEMS.get(info.data.get('stem', ''))  # missing if it was refused
        if stem and 0 in stem.feature_size((height, width), stem.stride):
            raise PydanticCustomError('too_small', '{text}', dict(
                text=f'{height} x {width} pixels are too small for the stem; use larger images'))
        return img_size

    @field_validator('output_stride')
    @classmethod
    def _is_available(cls, output_stride: int, info: ValidationInfo) -> int:
        stem = STEMS.get(info.data.get('stem', ''))
        if stem and output_stride not in (available := [_plain_stride(stem) // 2 ** i for i in range(NUM_STAGES)]):
            raise PydanticCustomError('unavailable', '{text}', dict(
                text=f'{output_stride} is not available with this stem; choose {available[0]}, which does not dilate, '
                     f'{available[1]} or {available[2]}'))
        return output_stride

    @model_validator(mode='after')
    def _has_one_depth(self) -> 'Skeleton':
        if (self.num_cells is None) == (self.num_layers is None):
            raise ValueError('num_cells, num_layers: pass one of them')
        return self

    @property
    def stem_row(self) -> Stem:
        """The row of the stem in the table."""
        return STEMS[self.stem]

    @property
    def size(self) -> Tuple[int, int]:
        """Height and width of the usual input."""
        return _size(self.img_size)

    @property
    def data_cfg(self) -> Dict[str, Any]:
        """What timm's configuration says of the network and of the images that its stem is for."""
        return dict(input_size=(3, *self.size), pool_size=self.feature_size(), **self.stem_row.data,
                    first_conv=self.stem_row.first_conv, classifier='head.fc')

    @property
    def stem_width(self) -> int:
        """Filters of the stem."""
        return self.stem_filters or self.stem_row.default_filters(self.cell_filters)

    @property
    def stem_maps(self) -> Tuple[FeatureMap, ...]:
        """The feature maps of the stem that cells may read, the newest one first."""
        return self.stem_row.maps(self.stem_width)

    @property
    def plain_stride(self) -> int:
        """The output stride of the same network without dilation."""
        return _plain_stride(self.stem_row)

    def feature_size(self, reduction: Optional[int] = None) -> Tuple[int, int]:
        """Return height and width of the features at `reduction`, by default of the last, for ``img_size`` input."""
        return self.stem_row.feature_size(self.size, reduction or self.output_stride)

    @property
    def depth(self) -> int:
        """Number of cells, without those of the stem."""
        if self.num_cells is None:
            assert self.num_layers  # one of them is given
            return self.num_layers
        return NUM_STAGES * self.num_cells + (NUM_STAGES - 1 if self.reductions == 'extra' else 0)

    def positions(self) -> Tuple[Position, ...]:
        """Return the places for cells, from the stem to the classifier."""
        positions = [Position('reduction', max(1, self.cell_filters // divisor), stage=0, in_stem=True)
                     for divisor in self.stem_row.cell_divisors]
        starts = [stage * self.depth // NUM_STAGES for stage in range(1, NUM_STAGES)]
        for i in range(self.depth):
            stage = sum(i >= start for start in starts)
            positions.append(Position('reduction' if i in starts else 'normal', self.cell_filters * 2 ** stage, stage))
        return tuple(positions)


def depth_label(fields: Mapping[str, Any]) -> str:
    """Return how deep a skeleton with these fields is, as text: ``N = 4`` or ``20 layers``."""
    return f'{fields["num_layers"]} layers' if fields.get('num_layers') else f'N = {fields["num_cells"]}'


def _size(img_size: Union[int, Tuple[int, int]]) -> Tuple[int, int]:
    return img_size if isinstance(img_size, tuple) else (img_size, img_size)

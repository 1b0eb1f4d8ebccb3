"""The settings of an export. The ``export`` command's options are generated from them."""
import re
from pathlib import Path
from typing import Annotated, Optional, Tuple, Union

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from ..checked import Checked, CliOption, OneOf
from ..graph.passes import PASSES
from ..hub.folder import WEIGHTS
from .compare import PRECISIONS
from .export import FORMATS
from .layouts import LAYOUTS

__all__ = ['ExportConfig', 'parse_count', 'parse_numbers', 'parse_size']


def parse_numbers(text: str) -> Tuple[float, ...]:
    """Convert '0.5,0.4,0.3' to numbers."""
    return tuple(float(number) for number in text.split(','))


def parse_size(text: str) -> Tuple[int, int]:
    """Convert '180,320' to height and width, and '224' to a square."""
    sides = [int(side) for side in text.split(',')]
    if len(sides) > 2:
        raise ValueError(f'{len(sides)} sides are given; give one, or height and width')
    return sides[0], sides[-1]


def parse_count(text: str) -> int:
    """Convert text to a whole number of at least 1."""
    count = int(text)
    if count < 1:
        raise ValueError(f'{count} is not 1 or more')
    return count


def _parse_passes(text: str) -> Tuple[str, ...]:
    return () if text == 'none' else tuple(text.split(','))


_Path = Annotated[Path, Field(strict=False)]
_Channels = Annotated[Tuple[float, ...], Field(strict=False)]
_Count = CliOption(parse=parse_count, metavar='INTEGER')


class ExportConfig(Checked):
    """What :func:`~nasnet_zoo.deploy.bundle.deploy` exports, how, and what it writes beside the file.

    ``manifest.json`` stores it, except for `out`, under the key ``config``.

    Raises:
        ValueError: If a value is not valid, or if two settings exclude each other. The message names them.
    """
    source: Annotated[str, CliOption(argument=True, metavar='MODEL'), Field(
        description='Name of a model with weights, a model folder, or hf-hub:OWNER/NAME.')]
    out: Annotated[_Path, Field(description='Folder to write the files to.')]
    checkpoint: Annotated[Optional[_Path], Field(description=(
        "File with weights for MODEL, in this package's format, timm's, Cadene's or Keras'."))] = None
    format: Annotated[str, OneOf('format', FORMATS), Field(description='File format.')] = 'onnx'
    layout: Annotated[str, OneOf('layout', LAYOUTS), Field(description='Arrangement of the files.')] = 'plain'
    name: Annotated[Optional[str], Field(description=(
        'Name of the model on the server. The last part of MODEL by default.'))] = None
    class_names: Annotated[Optional[Annotated[Tuple[str, ...], Field(strict=False)]], CliOption(hidden=True), Field(
        description="Names of the classes, in the order of the output. The model's configuration by default.")] = None
    mean: Annotated[Optional[_Channels], CliOption(parse=parse_numbers, metavar='R,G,B'), Field(
        description="Mean of each channel, for pixels from 0 to 1. The model's own by default.")] = None
    std: Annotated[Optional[_Channels], CliOption(parse=parse_numbers, metavar='R,G,B'), Field(
        description="Standard deviation of each channel. The model's own by default.")] = None
    img_size: Annotated[
        Union[int, Annotated[Tuple[int, int], Field(strict=False)], None],
        CliOption(parse=parse_size, metavar='SIDE|H,W'),
        Field(description="Size of the input in pixels. The network's own by default."),
    ] = None
    opset: Annotated[int, Field(description='Version of the ONNX operator set.')] = 17
    batch_size: Annotated[Optional[Annotated[int, Field(ge=1)]], _Count, Field(
        description='Number of images that the file takes at a time. 1 by default.')] = None
    dynamic_batch: Annotated[bool, Field(description='Let the file take any number of images at a time.')] = False
    dynamic_size: Annotated[bool, Field(description='Let the file take images of any height and width.')] = False
    precision: Annotated[str, OneOf('precision', PRECISIONS), Field(
        description='What the file computes with.')] = 'float32'
    pictures: Annotated[Tuple[_Path, ...], Field(strict=False, description=(
        'Image files, or folders of images, on which the file is compared with PyTorch. May be repeated. '
        "Two photographs of scikit-learn's by default."))] = ()
    calibrate: Annotated[int, Field(ge=1, description=(
        'Number of the images that int8 is calibrated on. The others are compared on.')), _Count] = 64
    data: Annotated[Optional[str], Field(description=(
        'Data set of small images on whose test images the accuracy is measured, and on which int8 can be calibrated '
        'instead of on --pictures.'))] = None
    softmax: Annotated[bool, Field(description='Let the file give probabilities instead of logits.')] = False
    with_preprocessing: Annotated[bool, Field(description=(
        'Let the file take uint8 images with channels last, and normalise them itself.'))] = False
    passes: Annotated[
        Optional[Annotated[Tuple[Annotated[str, OneOf('pass', PASSES)], ...], Field(strict=False)]],
        CliOption(parse=_parse_passes, metavar='NAMES|none'),
        Field(description=('Graph rewrites to apply, separated by commas, or "none". All that make this kind of file '
                           f'faster by default. Known: {", ".join(PASSES)}.')),
    ] = None
    license: Annotated[Optional[str], Field(description=(
        "Licence of the weights. The model's own by default, unknown for those of --checkpoint."))] = None
    timestamp: Annotated[Optional[str], Field(description=(
        'Time to record in the manifest instead of the present. With it, the same input gives the same bytes.'))] = None

    @property
    def fixed_batch_size(self) -> Optional[int]:
        """The number of images that the file takes at a time, None for any number."""
        return None if self.dynamic_batch or LAYOUTS[self.layout].forms_batches else self.batch_size or 1

    @property
    def model_name(self) -> str:
        """`name`, or by default the last part of `source`."""
        path = Path(re.sub('^(local-dir|hf-hub):', '', self.source).split('@')[0])
        return self.name or (path.parent if path.name == WEIGHTS else path).resolve().name.removesuffix('.json')

    @model_validator(mode='after')
    def _fit_together(self) -> 'ExportConfig':
        problem = self._conflict()
        if problem:
            raise PydanticCustomError('conflict', '{problem}', dict(problem=problem))
        return self

    def _conflict(self) -> Optional[str]:
        """Return what is wrong with the settings together, None if nothing is."""
        layout, file_format = LAYOUTS[self.layout], FORMATS[self.format]
        for name, values in layout.requires.items():
            if getattr(self, name) not in values:
                return f'layout {self.layout}: needs {name} to be {values[-1]}, not {getattr(self, name)}'
        if self.batch_size and self.fixed_batch_size is None:
            layouts = ', '.join(name for name, row in LAYOUTS.items() if row.forms_batches)
            return f'--batch-size: goes with neither --dynamic-batch nor --layout {layouts}'
        if self.precision not in file_format.precisions:
            return (f'format {self.format}: can be written in {", ".join(file_format.precisions)}, '
                    f'not in {self.precision}')
        if self.data is not None and not file_format.measurable:
            return f'format {self.format}: its accuracy cannot be measured; leave --data out'
        if '{name}' in layout.model and not re.fullmatch(r'[\w-][\w.-]*', self.model_name):
            return (f'name: {self.model_name!r} cannot be the name of a folder; use letters, digits, "_", "-" and '
                    '"."')
        return None

"""The settings of an export. The ``export`` command's options are generated from them."""
import re
from pathlib import Path
from typing import Annotated, Optional, Tuple, Union

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from ..checked import Checked, CliOption, OneOf
from ..graph.passes import PASSES
from ..graph.targets import ONNX_TARGETS
from ..hub.folder import WEIGHTS
from .compare import PRECISIONS
from .formats import FORMATS
from .layouts import LAYOUTS

__all__ = ['ExportConfig', 'parse_count', 'parse_numbers', 'parse_size']


def parse_numbers(text: str) -> Tuple[float, ...]:
    """Convert '0.5,0.4,0.3' to numbers."""
    try:
        return tuple(float(number) for number in text.split(','))
    except ValueError:
        raise ValueError(f'{text!r} is not a list of numbers with commas between them') from None


def parse_size(text: str) -> Tuple[int, int]:
    """Convert '180,320' to height and width, and '224' to a square."""
    try:
        sides = [int(side) for side in text.split(',')]
    except ValueError:
        raise ValueError(f'{text!r} is not a number of pixels, nor two with a comma between them') from None
    if len(sides) > 2:
        raise ValueError(f'{len(sides)} sides are given; give one for a square, or height and width')
    return sides[0], sides[-1]


def parse_count(text: str) -> int:
    """Convert text to a whole number of at least 1."""
    count = int(text)
    if count < 1:
        raise ValueError(f'must be 1 or more, not {count}')
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
        description='The name of a model that has weights, a model folder, or hf-hub:OWNER/NAME.')]
    out: Annotated[_Path, Field(description='Folder to write the files to.')]
    checkpoint: Annotated[Optional[_Path], Field(description=(
        'File or folder with weights to load into MODEL: a checkpoint of a training program, or a weight file of this '
        'package, timm, pretrainedmodels (Cadene) or Keras.'))] = None
    checkpoint_entry: Annotated[Optional[str], Field(description=(
        'Which weights of the file to load, such as "state_dict". The default is the averaged weights if there are '
        'any.'))] = None
    format: Annotated[str, OneOf('format', FORMATS), Field(description='File format.')] = 'onnx'
    target: Annotated[Optional[Annotated[str, OneOf('target', ONNX_TARGETS)]], Field(description=(
        'Where the file is to run fast. Every runtime can run it nevertheless. The default depends on the '
        'layout; for most it is onnxruntime.'))] = None
    layout: Annotated[str, OneOf('layout', LAYOUTS), Field(description='Arrangement of the files.')] = 'plain'
    name: Annotated[Optional[str], Field(description=(
        'Name of the model on the server. The default is the last part of MODEL.'))] = None
    ort_web: Annotated[Optional[_Path], CliOption(metavar='DIR'), Field(description=(
        'Folder of the npm package onnxruntime-web, or its dist, whose files are copied for --layout web. By default '
        'the page loads them from a CDN.'))] = None
    class_names: Annotated[Optional[Annotated[Tuple[str, ...], Field(strict=False)]], CliOption(hidden=True), Field(
        description=(
            "Names of the classes, in the order of the output. The default is those in the model's "
            "configuration."))] = None
    mean: Annotated[Optional[_Channels], CliOption(parse=parse_numbers, metavar='R,G,B'), Field(
        description="Mean of each channel, for pixel values between 0 and 1. The default is that of the model.")] = None
    std: Annotated[Optional[_Channels], CliOption(parse=parse_numbers, metavar='R,G,B'), Field(
        description="Standard deviation of each channel. The default is that of the model.")] = None
    img_size: Annotated[
        Union[int, Annotated[Tuple[int, int], Field(strict=False)], None],
        CliOption(parse=parse_size, metavar='SIZE|H,W'),
        Field(description="Size of the input in pixels. The default is that of the model."),
    ] = None
    opset: Annotated[int, Field(description='Version of the ONNX operator set.')] = 17
    batch_size: Annotated[Optional[Annotated[int, Field(ge=1)]], _Count, Field(
        description='Fixed batch size of the input. The default is 1.')] = None
    dynamic_batch: Annotated[bool, Field(description='Make the batch size of the input dynamic.')] = False
    dynamic_size: Annotated[bool, Field(description='Make the height and the width of the input dynamic.')] = False
    precision: Annotated[str, OneOf('precision', PRECISIONS), Field(
        description='Precision of the computation.')] = 'float32'
    pictures: Annotated[Tuple[_Path, ...], Field(strict=False, description=(
        'Image file, or folder of images, on which the exported model is compared with PyTorch. May be repeated. The '
        'default is two photographs from scikit-learn.'))] = ()
    calibrate: Annotated[int, Field(ge=1, description=(
        'Number of images to calibrate int8 on. The other images are used for the comparison with '
        'PyTorch.')), _Count] = 64
    data: Annotated[Optional[str], Field(description=(
        'Data set of small images. The accuracy is measured on its test images. int8 can be calibrated on it instead '
        'of on --pictures.'))] = None
    softmax: Annotated[bool, Field(description='Output probabilities instead of logits.')] = False
    with_preprocessing: Annotated[bool, Field(description=(
        'Take uint8 images with the channels last (NHWC) as input, and normalise them in the exported model.'))] = False
    passes: Annotated[
        Optional[Annotated[Tuple[Annotated[str, OneOf('pass', PASSES)], ...], Field(strict=False)]],
        CliOption(parse=_parse_passes, metavar='NAMES|none'),
        Field(description=(
            'Graph rewrites (passes) to apply, separated by commas, or "none". The default is all that make '
            f'this kind of file faster on the target. One or more of: {", ".join(PASSES)}.')),
    ] = None
    license: Annotated[Optional[str], Field(description=(
        'Licence of the weights. The default is the licence of the model, or "unknown" with --checkpoint.'))] = None
    timestamp: Annotated[Optional[str], Field(description=(
        'Time to record in the manifest instead of the current time. This makes the files reproducible byte by '
        'byte.'))] = None

    @property
    def fixed_batch_size(self) -> Optional[int]:
        """The number of images that the file takes at a time, None for any number."""
        return None if self.dynamic_batch or LAYOUTS[self.layout].any_batch_size else self.batch_size or 1

    @property
    def export_target(self) -> str:
        """`target`, or by default that of the layout."""
        return self.target or LAYOUTS[self.layout].target

    @property
    def model_name(self) -> str:
        """`name`, or by default the last part of `source`."""
        source = self.source.removeprefix('local-dir:')
        if source.startswith('hf-hub:'):
            source = source.removeprefix('hf-hub:').split('@')[0]  # without the revision
        path = Path(source)
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
        if self.checkpoint_entry is not None and self.checkpoint is None:
            return '--checkpoint-entry: needs --checkpoint'
        for name, values in layout.requires.items():
            if getattr(self, name) not in values:
                return f'layout {self.layout}: needs {name} to be {values[-1]}, not {getattr(self, name)}'
        for other, row in LAYOUTS.items():
            for name in row.options:
                if getattr(self, name) is not None and name not in layout.options:
                    return f'--{name.replace("_", "-")}: needs --layout {other}'
        if self.batch_size and self.fixed_batch_size is None:
            layouts = ', '.join(name for name, row in LAYOUTS.items() if row.any_batch_size)
            return f'--batch-size: cannot be combined with --dynamic-batch or --layout {layouts}'
        if (self.dynamic_batch or self.dynamic_size) and not file_format.is_dynamic:
            return (f'format {self.format}: takes a fixed number of images of a fixed size; leave --dynamic-batch and '
                    '--dynamic-size out')
        if self.precision not in file_format.precisions:
            return (f'format {self.format}: can be written in {", ".join(file_format.precisions)}, '
                    f'not in {self.precision}')
        for name in ('target', 'opset'):
            if getattr(self, name) != type(self).model_fields[name].default and name not in file_format.arguments:
                return f'format {self.format}: has no {name}s; leave --{name} out'
        if self.data is not None and not file_format.measurable:
            return f'format {self.format}: its accuracy cannot be measured; leave --data out'
        if '{name}' in layout.model and not re.fullmatch(r'[\w-][\w.-]*', self.model_name):
            return (f'name: {self.model_name!r} cannot be the name of a folder; use letters, digits, "_", "-" and '
                    '"."')
        return None

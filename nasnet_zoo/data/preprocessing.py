"""How images are prepared for a network: one object for training, validation, export and classification."""
import json
import os
import threading
import warnings
from functools import cached_property
from typing import Annotated, Any, List, Literal, Optional, Sequence, Tuple, Union

import numpy as np
from PIL import Image
from pydantic import Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError
from timm.data import create_transform
from timm.layers import to_2tuple

from ..checked import Checked
from ..network.measure import check_counts
from ..network.nasnet import NASNet
from ..network.skeleton import Side, Skeleton
from ..zoo import label_names
from .pictures import as_rgb

__all__ = ['METADATA_KEY', 'Preprocessing', 'make_preprocessing']

METADATA_KEY = 'nasnet_zoo.preprocessing'  # the entry of an ONNX file's metadata that holds it as JSON
_MAX_ASPECT_RATIO = 64  # resizing the short side of a longer image would take gigabytes
_warnings_lock = threading.Lock()  # images are read in several threads, and the filters of warnings are the process's

Finite = Annotated[float, Field(allow_inf_nan=False)]


class Preprocessing(Checked):
    """How images become the input of a network, and what its output means.

    A model's ``pretrained_cfg`` says how its images are prepared, and :func:`make_preprocessing` reads it. Training
    sets it to what the images really were, see :meth:`write_to`. Validation, the comparison of an exported file with
    PyTorch, and classification all prepare images with this object, so a network sees the same pixels everywhere.
    An exported file carries it as JSON in its metadata; `layout`, `dtype` and `output` describe such a file.
    """
    format: Literal[1] = 1
    input_size: Annotated[List[Side], Field(min_length=3, max_length=3, description='channels, height and width')]
    layout: Annotated[Literal['NCHW', 'NHWC'], Field(description='the order of the axes')] = 'NCHW'
    dtype: Annotated[Literal['float32', 'uint8'], Field(
        description='type of the input; with uint8 the file itself normalises the images')] = 'float32'
    color_order: Annotated[Literal['RGB', 'BGR', 'L'], Field(
        description='order of the channels; L is a single channel of grey')] = 'RGB'
    mean: Annotated[List[Finite], Field(description='mean of each channel, on a scale of 0 to 1')]
    std: Annotated[List[Annotated[Finite, Field(gt=0)]], Field(
        description='standard deviation of each channel, on a scale of 0 to 1')]
    interpolation: Annotated[Literal['nearest', 'bilinear', 'bicubic', 'lanczos'], Field(
        description='how PIL resizes an image')] = 'bicubic'
    crop_pct: Annotated[float, Field(gt=0, le=1, description=(
        'side of the central crop as a fraction of the resized image'))] = 1.
    crop_mode: Annotated[Literal['center', 'squash'], Field(description=(
        'center keeps the aspect ratio of the image, squash does not'))] = 'center'
    output: Annotated[Literal['logits', 'probabilities'], Field(description='what the file returns')] = 'logits'
    class_names: Annotated[List[str], Field(min_length=1, description='in the order of the outputs')]

    @field_validator('mean', 'std')
    @classmethod
    def _one_for_each_channel(cls, values: List[float], info: ValidationInfo) -> List[float]:
        channels, *_ = info.data.get('input_size', [len(values)])  # it is missing if it was refused itself
        if len(values) != channels:
            raise PydanticCustomError(
                'channels', 'must be {channels} numbers, one for each channel', dict(channels=channels))
        return values

    def to_json(self) -> str:
        """Return it as JSON with sorted keys."""
        return json.dumps(self.model_dump(), sort_keys=True)

    def write_to(self, model: NASNet) -> None:
        """Store this in the model's ``pretrained_cfg``, with the class names if there are as many as classes."""
        cfg = dict(
            model.pretrained_cfg, input_size=tuple(self.input_size), mean=tuple(self.mean), std=tuple(self.std),
            interpolation=self.interpolation, crop_pct=self.crop_pct, crop_mode=self.crop_mode)
        if len(self.class_names) == model.num_classes:
            cfg['label_names'] = list(self.class_names)
        model.pretrained_cfg = model.default_cfg = cfg

    def prepare(self, image: Image.Image) -> np.ndarray:
        """Resize and crop an image as timm does for evaluation.

        Returns:
            uint8 [C, H, W]. An image of the input's own size is not changed if `crop_pct` is 1.

        Raises:
            ValueError: If the image is far longer than wide, or if the number of channels is not that of an image file.
        """
        if max(image.size) > _MAX_ASPECT_RATIO * min(image.size):
            raise ValueError(f'{image.size[0]} x {image.size[1]} pixels are too long and narrow')
        image = as_rgb(image)
        prepared = self._transform(image.convert('L') if self.color_order == 'L' else image).numpy()
        if len(prepared) != self.input_size[0]:
            raise ValueError(f'images have {len(prepared)} channels, but the input has {self.input_size[0]}')
        return prepared

    def read(self, path: Union[str, os.PathLike]) -> np.ndarray:
        """Read an image file and :meth:`prepare` it. It may raise errors of any type, as decoders do."""
        with _warnings_lock, warnings.catch_warnings():
            warnings.simplefilter('ignore', Image.DecompressionBombWarning)  # large images are allowed
            image = Image.open(path)  # decodes the header only
        with image:
            return self.prepare(image)

    @cached_property
    def _transform(self) -> Any:
        return create_transform(
            tuple(self.input_size), mean=self.mean, std=self.std, interpolation=self.interpolation,
            crop_pct=self.crop_pct, crop_mode=self.crop_mode, normalize=False)

    def check_images(self, name: str, images: np.ndarray) -> None:
        """Raise a ValueError unless `images` are uint8 [N, C, H, W] of the input's size. `name` is for the message."""
        if images.dtype != np.uint8 or list(images.shape[1:]) != self.input_size:
            raise ValueError(f'{name}: must be uint8 [N, {", ".join(map(str, self.input_size))}], '
                             f'not {images.dtype} {list(images.shape)}')

    def normalized(self, images: np.ndarray) -> np.ndarray:
        """Normalise prepared images, uint8 [N, C, H, W], to what the network takes, float32 of the same shape."""
        mean, std = (np.array(values, np.float32).reshape(-1, 1, 1) for values in (self.mean, self.std))
        return (images.astype(np.float32) / 255 - mean) / std

    def feed(self, images: np.ndarray) -> np.ndarray:
        """Convert prepared images, uint8 [N, C, H, W], to the type, channel order and layout that the file takes."""
        images = images if self.dtype == 'uint8' else self.normalized(images)
        if self.color_order == 'BGR':
            images = images[:, ::-1]
        return np.ascontiguousarray(images if self.layout == 'NCHW' else images.transpose(0, 2, 3, 1))


def make_preprocessing(
        model: NASNet,
        class_names: Optional[Sequence[str]] = None,
        mean: Optional[Sequence[float]] = None,
        std: Optional[Sequence[float]] = None,
        img_size: Union[int, Tuple[int, int], None] = None,
        softmax: bool = False,
        with_preprocessing: bool = False,
) -> Preprocessing:
    """Return how images are prepared for a model: what its ``pretrained_cfg`` says, except for what is given.

    Args:
        model: The network.
        class_names: Names of the classes. The default is those of the configuration, or numbers if it has none.
        mean, std: Mean and standard deviation of each channel, on a scale of 0 to 1.
        img_size: Height and width, or one number for both.
        softmax: The exported file returns probabilities instead of logits.
        with_preprocessing: The exported file takes uint8 images, channels last, and normalises them itself.

    Raises:
        ValueError: If class names or statistics do not match the network, if images are too small for it, or if its
            stem or head was replaced by one with other numbers of channels or classes.
    """
    cfg, width = model.pretrained_cfg, check_counts(model)
    known = label_names(model) or ()
    size = cfg['input_size'][1:] if img_size is None else to_2tuple(img_size)
    preprocessing = Preprocessing(
        input_size=[model.in_chans, *size],
        layout='NHWC' if with_preprocessing else 'NCHW', dtype='uint8' if with_preprocessing else 'float32',
        color_order='L' if model.in_chans == 1 else 'RGB', mean=list(mean or cfg['mean']), std=list(std or cfg['std']),
        interpolation=cfg.get('interpolation') or 'bicubic', crop_pct=cfg.get('crop_pct') or 1.,
        crop_mode=cfg.get('crop_mode') or 'center', output='probabilities' if softmax else 'logits',
        class_names=list(class_names if class_names is not None else
                         known if len(known) == width else map(str, range(width))))
    if len(preprocessing.class_names) != width:
        raise ValueError(f'class_names: {len(preprocessing.class_names)} names for {width} classes')
    Skeleton(**{**model.skeleton.model_dump(), 'img_size': size})  # raises for images that are too small
    return preprocessing

"""How pictures are prepared for a network, as data that travels with it."""
import json
import os
import warnings
from functools import cached_property
from typing import Annotated, Any, List, Literal, Union

import numpy as np
from PIL import Image
from pydantic import Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError
from timm.data import create_transform

from ..checked import Checked
from .pictures import as_rgb

__all__ = ['METADATA_KEY', 'Preprocessing']

METADATA_KEY = 'nasnet_zoo.preprocessing'  # under which an ONNX file's metadata hold it as JSON
_LONGEST = 64  # times as long as wide: resizing such a picture takes gigabytes

Side = Annotated[int, Field(ge=1, le=4096)]
Finite = Annotated[float, Field(allow_inf_nan=False)]


class Preprocessing(Checked):
    """What a file's input must be, and what its output is."""
    format: Literal[1] = 1
    input_size: Annotated[List[Side], Field(min_length=3, max_length=3, description='channels, height and width')]
    layout: Annotated[Literal['NCHW', 'NHWC'], Field(description='the order of the axes')] = 'NCHW'
    dtype: Annotated[Literal['float32', 'uint8'], Field(description='uint8: the file normalises')] = 'float32'
    color_order: Literal['RGB', 'BGR', 'L'] = 'RGB'
    mean: Annotated[List[Finite], Field(description='of each channel, over 0 to 1')]
    std: List[Annotated[Finite, Field(gt=0)]]
    interpolation: Literal['nearest', 'bilinear', 'bicubic', 'lanczos'] = 'bicubic'
    crop_pct: Annotated[float, Field(gt=0, le=1, description='of the resized short side, what is cropped')] = 1.
    crop_mode: Literal['center', 'squash'] = 'center'
    output: Literal['logits', 'probabilities'] = 'logits'
    class_names: Annotated[List[str], Field(min_length=1)]

    @field_validator('mean', 'std')
    @classmethod
    def _one_for_each_channel(cls, values: List[float], info: ValidationInfo) -> List[float]:
        channels, *_ = info.data.get('input_size', [len(values)])  # which may be what is wrong
        if len(values) != channels:
            raise PydanticCustomError('channels', 'must be {channels} numbers, one a channel', dict(channels=channels))
        return values

    def to_json(self) -> str:
        """With its keys sorted."""
        return json.dumps(self.model_dump(), sort_keys=True)

    def prepare(self, image: Image.Image) -> np.ndarray:
        """A picture to uint8 [C, H, W], resized and cropped as timm does for evaluation.

        Raises:
            ValueError: For one that is far longer than wide, and where no picture has the channels that are wanted.
        """
        if max(image.size) > _LONGEST * min(image.size):
            raise ValueError(f'{image.size[0]} x {image.size[1]} pixels are too long and narrow')
        image = as_rgb(image)
        prepared = self._transform(image.convert('L') if self.color_order == 'L' else image).numpy()
        if len(prepared) != self.input_size[0]:
            raise ValueError(f'pictures have {len(prepared)} channels, and {self.input_size[0]} are wanted')
        return prepared

    def read(self, path: Union[str, os.PathLike]) -> np.ndarray:
        """A picture file, prepared; what a decoder cannot make out raises what it likes."""
        with warnings.catch_warnings():
            warnings.simplefilter('ignore', Image.DecompressionBombWarning)  # large is not wrong
            with Image.open(path) as image:
                return self.prepare(image)

    @cached_property
    def _transform(self) -> Any:
        return create_transform(
            tuple(self.input_size), mean=self.mean, std=self.std, interpolation=self.interpolation,
            crop_pct=self.crop_pct, crop_mode=self.crop_mode, normalize=False)

    def check_images(self, name: str, images: np.ndarray) -> None:
        """Raise ValueError unless they are uint8 [N, C, H, W] of the preprocessing's size."""
        if images.dtype != np.uint8 or list(images.shape[1:]) != self.input_size:
            raise ValueError(f'{name}: must be uint8 [N, {", ".join(map(str, self.input_size))}], '
                             f'not {images.dtype} {list(images.shape)}')

    def normalized(self, images: np.ndarray) -> np.ndarray:
        """Images, uint8 [N, C, H, W], to what a network takes, float32."""
        mean, std = (np.array(values, np.float32).reshape(-1, 1, 1) for values in (self.mean, self.std))
        return (images.astype(np.float32) / 255 - mean) / std

    def feed(self, images: np.ndarray) -> np.ndarray:
        """Images, uint8 [N, C, H, W], to what the file takes."""
        images = images if self.dtype == 'uint8' else self.normalized(images)
        if self.color_order == 'BGR':
            images = images[:, ::-1]
        return np.ascontiguousarray(images if self.layout == 'NCHW' else images.transpose(0, 2, 3, 1))

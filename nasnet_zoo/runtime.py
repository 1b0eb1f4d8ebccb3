"""From an exported ONNX file to labels, with ONNX Runtime alone."""
import json
import os
from typing import List, Union

import numpy as np

__all__ = ['Classifier', 'CONTRACT']

CONTRACT = 'nasnet_zoo.preprocessing'  # the key in a file's metadata of what its input must be


class Classifier:
    """An exported network in ONNX Runtime, on the CPU.

    Args:
        path: A file that ``export_onnx`` wrote.

    Raises:
        ValueError: For a file that does not say what its input must be.
    """

    def __init__(self, path: Union[str, os.PathLike]) -> None:
        import onnxruntime
        self.session = onnxruntime.InferenceSession(os.fspath(path), providers=['CPUExecutionProvider'])
        contract = self.session.get_modelmeta().custom_metadata_map.get(CONTRACT)
        if contract is None:
            raise ValueError(f'{path}: has no {CONTRACT} in its metadata, so it is not known how to prepare images')
        contract = json.loads(contract)
        self.class_names = contract['class_names']
        self.input_size = tuple(contract['input_size'])
        self._mean, self._std = (
            np.array(contract[key], np.float32).reshape(1, -1, 1, 1) for key in ('mean', 'std'))

    def logits(self, images: np.ndarray) -> np.ndarray:
        """Images, uint8 [N, C, H, W] of the file's input size, to logits, float32 [N, classes]."""
        if images.dtype != np.uint8 or images.shape[1:] != self.input_size:
            raise ValueError(f'images: must be uint8 [N, {", ".join(map(str, self.input_size))}], '
                             f'not {images.dtype} {list(images.shape)}')
        normalized = (images.astype(np.float32) / 255. - self._mean) / self._std
        return self.session.run(['logits'], {'image': normalized})[0]

    def classify(self, images: np.ndarray) -> List[str]:
        """The most likely class's name for each of the images."""
        return [self.class_names[i] for i in self.logits(images).argmax(1)]

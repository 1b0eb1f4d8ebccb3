"""From a model file and images to class names."""
import contextlib
import json
import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Iterator, List, Mapping, NamedTuple, Optional, Sequence, Tuple, Union

import numpy as np
from timm.layers import to_2tuple

from ..data.preprocessing import METADATA_KEY, Preprocessing
from .session import PROVIDERS, ProviderError, Session, full_batches, one_line, silence_stderr

__all__ = ['OPTIONS', 'Classifier', 'Prediction']

# The option of the command "classify" that gives a field of the preprocessing.
OPTIONS = dict(class_names='--labels', input_size='--img-size', mean='--mean', std='--std',
               interpolation='--interpolation', crop_pct='--crop-pct', color_order='--color-order', layout='--layout',
               dtype='--dtype', output='--output')
_MAX_BATCH_SIZE = 64  # for files that take any number of images; larger batches only take more memory


class Prediction(NamedTuple):
    """The result for one image.

    Attributes:
        path: The image file.
        top: Index and probability of the most likely classes, most likely first; None if the image was refused.
        reason: Why the image was refused.
    """
    path: Path
    top: Optional[List[Tuple[int, float]]]
    reason: str = ''


class Classifier:
    """A network in an ONNX file, run by ONNX Runtime.

    Args:
        path: A file that ``export_onnx`` wrote, or another ONNX file with one input and one output.
        provider: 'tensorrt', 'cuda' or 'cpu'; 'auto' uses the first of them that can run the file.
        threads: Number of CPU threads; ONNX Runtime's default if None.
        preprocessing: How images are prepared: a whole :class:`~nasnet_zoo.data.preprocessing.Preprocessing`, or
            single fields of it, which override those in the file's metadata. The key ``img_size`` (a side, or height
            and width) overrides the size but not the number of channels.

    Attributes:
        preprocessing: How images are prepared.
        provider: The provider that runs the file.
        batch_size: The number of images that the file takes at a time, None for any number.

    Raises:
        ValueError: If the file does not exist or cannot be run, if it is not known how to prepare images for it, or
            if the number of class names differs from the width of the output.
    """

    def __init__(
            self,
            path: Union[str, os.PathLike],
            provider: str = 'auto',
            threads: Optional[int] = None,
            preprocessing: Union[Preprocessing, Mapping[str, Any]] = {},  # noqa: B006
    ) -> None:
        if provider not in ('auto', *PROVIDERS):
            raise ValueError(f'provider: unknown provider {provider!r}; known: auto, {", ".join(PROVIDERS)}')
        if not Path(path).is_file():
            raise ValueError(f'{path}: there is no such file')
        self.path = path
        for name in list(PROVIDERS) if provider == 'auto' else [provider]:
            try:
                with silence_stderr() if name != 'cpu' else contextlib.nullcontext():
                    self._open(name, threads, dict(preprocessing))
                return
            except ProviderError as error:
                reason = f'{name}: {error}'
        # With 'auto' this is the reason of the last provider, the CPU, which should run every file.
        raise ValueError(f'{path}: cannot be run: {reason}')

    def _open(self, provider: str, threads: Optional[int], changes: Mapping[str, Any]) -> None:
        """Open the file and run it once.

        Raises:
            ProviderError: If the provider cannot run the file.
        """
        try:
            self._session = Session(os.fspath(self.path), provider, threads)
        except ValueError as error:
            raise ValueError(f'{self.path}: {error}') from None
        self.provider, self.batch_size = provider, self._session.batch_size
        self.preprocessing = _read_preprocessing(self.path, self._session.metadata, changes)
        try:
            width = self.logits(np.zeros((1, *self.preprocessing.input_size), np.uint8)).shape[1:]
        except ProviderError as error:  # ONNX Runtime says INVALID_ARGUMENT for a wrong shape or type of the input
            hint = _hint('input_size', 'layout', 'color_order', 'dtype') if 'INVALID_ARGUMENT' in str(error) else ''
            raise ProviderError(f'{error}{hint}') from None
        if width != (len(self.class_names),):
            raise ValueError(f'{self.path}: the output has {" x ".join(map(str, width))} numbers for an image, but '
                             f'there are {len(self.class_names)} class names{_hint("class_names")}')

    @property
    def class_names(self) -> List[str]:
        """The names of the classes, in the order of the output."""
        return self.preprocessing.class_names

    def logits(self, images: np.ndarray) -> np.ndarray:
        """Run the file on prepared images. The result is probabilities if the file computes those.

        Args:
            images: uint8 [N, C, H, W], of the preprocessing's size.

        Returns:
            float32 [N, classes].
        """
        self.preprocessing.check_images('images', images)
        if not len(images):
            return np.zeros((0, len(self.class_names)), np.float32)
        if self.batch_size:
            batches = full_batches(images, self.batch_size)
        else:
            batches = [images[start:start + _MAX_BATCH_SIZE] for start in range(0, len(images), _MAX_BATCH_SIZE)]
        return np.concatenate([self._session.run(self.preprocessing.feed(batch)) for batch in batches])[:len(images)]

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """Return the probability of each class, float32 [N, classes], for uint8 images [N, C, H, W]."""
        results = self.logits(images)
        if self.preprocessing.output == 'probabilities':
            return results
        results = np.exp(results - results.max(1, keepdims=True))
        return results / results.sum(1, keepdims=True)

    def classify(self, images: np.ndarray) -> List[str]:
        """Return the name of the most likely class for each of the uint8 images [N, C, H, W]."""
        return [self.class_names[i] for i in self.logits(images).argmax(1)]

    def predict(
            self, paths: Sequence[Union[str, os.PathLike]], top: int = 5, batch_size: int = 16, readers: int = 2,
    ) -> Iterator[Prediction]:
        """Classify image files, in order. An image that cannot be read is refused, and the others go on.

        Args:
            paths: The files; see :func:`~nasnet_zoo.data.pictures.find_pictures` for folders.
            top: Number of classes in each prediction.
            batch_size: Number of images at a time, if the file takes any number.
            readers: Number of threads that read the next images while the network runs.
        """
        step = self.batch_size or batch_size
        groups = [[Path(path) for path in paths[start:start + step]] for start in range(0, len(paths), step)]
        with ThreadPoolExecutor(readers) as pool:
            ahead = [pool.submit(self._read, path) for path in groups[0]] if groups else []
            for i, group in enumerate(groups):
                read = [future.result() for future in ahead]
                ahead = [pool.submit(self._read, path) for path in groups[i + 1]] if i + 1 < len(groups) else []
                images = [image for image, _ in read if image is not None]
                results = iter(self.probabilities(np.stack(images)) if images else ())
                for path, (image, reason) in zip(group, read):
                    if image is None:
                        yield Prediction(path, None, reason)
                        continue
                    probabilities = next(results)
                    best = np.argsort(-probabilities, kind='stable')[:top]
                    yield Prediction(path, [(int(k), float(probabilities[k])) for k in best])

    def _read(self, path: Path) -> Tuple[Optional[np.ndarray], str]:
        """Return a prepared image, or None and the reason why there is none."""
        try:
            return self.preprocessing.read(path), ''
        except Exception as error:  # image decoders raise exceptions of many kinds
            return None, one_line(error)


def _read_preprocessing(path: Any, metadata: Mapping[str, str], changes: Mapping[str, Any]) -> Preprocessing:
    """Return the preprocessing that a file's metadata say, with `changes`, which may be all of it.

    Raises:
        ValueError: If a field is missing or wrong.
    """
    text = metadata.get(METADATA_KEY)
    if text is None and not changes:
        raise ValueError(f'{path}: has no {METADATA_KEY} in its metadata, so it is unknown how to prepare images; '
                         'pass the preprocessing (--labels, --img-size, --mean, --std)')
    try:
        fields = {**json.loads(text or '{}'), **changes}
        size = fields.pop('img_size', None)
        if size is not None:
            channels, *_ = fields.get('input_size') or [1 if fields.get('color_order') == 'L' else 3]
            fields['input_size'] = [channels, *to_2tuple(size)]
        return Preprocessing(**fields)
    except (ValueError, TypeError, RecursionError) as error:
        hint = _hint(*(name for name in OPTIONS if re.search(f'(^|; ){name}: ', str(error))))
        raise ValueError(f'{path}: the preprocessing, from the metadata and the options, is not valid: {error}{hint}'
                         ) from None


def _hint(*fields: str) -> str:
    """Return the end of an error message: the options that give these fields of the preprocessing."""
    return f'; pass {", ".join(OPTIONS[name] for name in fields)}' if fields else ''

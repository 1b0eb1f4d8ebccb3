"""From a model file and images to class names."""
import contextlib
import json
import math
import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping, NamedTuple, Optional, Sequence, Tuple, Union

import numpy as np
from timm.layers import to_2tuple

from ..data.preprocessing import METADATA_KEY, Preprocessing
from .runtimes import AUTO_PROVIDERS, RUNTIME_PRECISIONS, RUNTIMES, check_choice, open_session, runtimes_with
from .session import InputError, Session, SessionError, full_batches, one_line, silence_stderr
from .trial import describe_case, read_trial, run_trial, write_trial

__all__ = ['OPTIONS', 'Classifier', 'Prediction']

# The option of the command "classify" that gives a field of the preprocessing.
OPTIONS = dict(class_names='--labels', input_size='--img-size', mean='--mean', std='--std',
               interpolation='--interpolation', crop_pct='--crop-pct', color_order='--color-order', layout='--layout',
               dtype='--dtype', output='--output')
_MAX_BATCH_SIZE = 64  # for files that take any number of images; larger batches only take more memory


class _Opened(NamedTuple):
    """A file that is opened in a runtime."""
    runtime: str
    session: Session
    preprocessing: Preprocessing

    def call(self, count: int = 1) -> np.ndarray:
        """Run the file on black images: as many as it takes, or `count` if it takes any number."""
        images = np.zeros((self.session.batch_size or count, *self.preprocessing.input_size), np.uint8)
        return self.session.run(self.preprocessing.feed(images))


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
    """A network in an ONNX file, run by ONNX Runtime or OpenVINO.

    Args:
        path: A file that ``export_onnx`` wrote, or another ONNX file with one input and one output.
        provider: What runs the file: an execution provider of ONNX Runtime, or a device of OpenVINO. 'auto' uses the
            first of TensorRT, CUDA and the CPU that can run it.
        threads: Number of CPU threads; the runtime's default if None.
        preprocessing: How images are prepared: a whole :class:`~nasnet_zoo.data.preprocessing.Preprocessing`, or
            single fields of it, which override those in the file's metadata. The key ``img_size`` (a side, or height
            and width) overrides the size but not the number of channels.
        runtime: 'onnxruntime', 'openvino' or 'auto': of the installed runtimes that have the provider, the one that is
            faster for this file on this machine.
        precision: What the runtime computes in: 'float32', 'bfloat16', 'float16' or 'int8', where it can. The default
            is the file's own precision.
        trial: Whether 'auto' may run the file in all installed runtimes, for up to two seconds, to find the fastest.
            The result is stored in the cache folder, so that each file is tried once. Without a trial, and without
            an earlier result, 'auto' uses the first runtime that works.

    Attributes:
        preprocessing: How images are prepared.
        runtime: The name of the runtime that runs the file.
        provider: The name of its execution provider or device.
        precision: The precision that was asked for, None for the file's own.
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
            *,
            runtime: str = 'auto',
            precision: Optional[str] = None,
            trial: bool = True,
    ) -> None:
        check_choice('runtime', runtime, ('auto', *RUNTIMES))
        check_choice('provider', provider, ('auto', *dict.fromkeys(
            name for row_name, row in RUNTIMES.items() if runtime in ('auto', row_name) for name in row.providers)))
        if precision is not None:
            check_choice('precision', precision, RUNTIME_PRECISIONS)
        if not Path(path).is_file():
            raise ValueError(f'{path}: there is no such file')
        self.path, self.precision = path, precision
        self._threads, self._changes = threads, dict(preprocessing)
        for name in AUTO_PROVIDERS if provider == 'auto' else [provider]:
            reasons: List[str] = []
            opened = self._open_fastest(name, runtimes_with(runtime, name), trial, reasons)
            if opened is not None:
                self.runtime, self._session, self.preprocessing = opened
                self.provider, self.batch_size = self._session.provider, self._session.batch_size
                return
        # With 'auto' these are the reasons of the CPU, which should run every file.
        raise ValueError(f'{path}: cannot be run: {"; ".join(reasons)}')

    def _open_fastest(
            self, provider: str, runtimes: Sequence[str], trial: bool, reasons: List[str],
    ) -> Optional[_Opened]:
        """Open the file on a provider, in the fastest runtime. Return None if none can run it, and append the reasons.
        """
        case: Dict[str, Any] = {}
        if len(runtimes) > 1:
            case = describe_case(
                self.path, {name: RUNTIMES[name].version for name in runtimes}, self._threads,
                provider=provider, precision=self.precision,
                size=[self._changes.get(name) for name in ('img_size', 'input_size')])
            known = read_trial(case) or {}
            runtimes = sorted(runtimes, key=lambda name: known.get(name, math.inf))
            trial = trial and not known
        opened = []
        for runtime in runtimes:
            try:
                opened.append(self._open(runtime, provider))
            except SessionError as error:
                reasons.append(f'{provider if runtime == "onnxruntime" else f"{runtime}, {provider}"}: {error}')
                continue
            if not trial:
                break
        if len(opened) < 2:
            return opened[0] if opened else None
        seconds = run_trial({found.runtime: found.call for found in opened})
        write_trial(case, seconds)
        return min(opened, key=lambda found: seconds[found.runtime])

    def _open(self, runtime: str, provider: str) -> _Opened:
        """Open the file in a runtime and run it once.

        Raises:
            SessionError: If the runtime or the provider cannot run the file.
            ValueError: If the file does not fit its preprocessing.
        """
        with contextlib.nullcontext() if (runtime, provider) == ('onnxruntime', 'cpu') else silence_stderr():
            try:
                session = open_session(
                    runtime, os.fspath(self.path), provider, self._threads, self.precision)
            except ValueError as error:
                raise ValueError(f'{self.path}: {error}') from None
            preprocessing = _read_preprocessing(self.path, session.metadata, self._changes)
            opened = _Opened(runtime, session, preprocessing)
            try:
                width = opened.call(2).shape[1:]  # some files say that they take any number, but take only one image
            except InputError as error:
                hint = _hint('input_size', 'layout', 'color_order', 'dtype')
                raise ValueError(f'{self.path}: does not take images that are prepared like this: {error}{hint}'
                                 ) from None
        names = preprocessing.class_names
        if width != (len(names),):
            raise ValueError(f'{self.path}: the output has {" x ".join(map(str, width))} numbers for an image, but '
                             f'there are {len(names)} class names{_hint("class_names")}')
        return opened

    def in_own_precision(self) -> 'Classifier':
        """Return a classifier with the same file, runtime and provider that computes in the file's own precision."""
        return Classifier(self.path, self.provider, self._threads, self._changes, runtime=self.runtime)

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
        results = [self._session.run(self.preprocessing.feed(batch)) for batch in batches]
        return np.concatenate(results)[:len(images)].astype(np.float32, copy=False)

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

        Raises:
            ValueError: If `paths` is a single path, or a number is less than 1.
        """
        if isinstance(paths, (str, os.PathLike)):
            raise ValueError(f'paths: must be a list of files, not the path {str(paths)!r}; pass [{str(paths)!r}]')
        for name, value in dict(top=top, batch_size=batch_size, readers=readers).items():
            if value < 1:
                raise ValueError(f'{name}: must be at least 1, not {value}')
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
                    if not np.isfinite(probabilities).all():
                        yield Prediction(path, None, 'the network returns NaN or infinite values for it')
                        continue
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

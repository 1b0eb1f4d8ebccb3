"""From an exported ONNX file to labels, with ONNX Runtime."""
import contextlib
import json
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Iterator, List, Mapping, NamedTuple, Optional, Sequence, Tuple, Union

import numpy as np
from timm.layers import to_2tuple

from ..checked import check
from ..data.pictures import SUFFIXES
from ..data.preprocessing import METADATA_KEY, Preprocessing

__all__ = ['Classifier', 'Prediction', 'find_pictures', 'open_session', 'whole_batches']

_PROVIDERS = {'tensorrt': 'TensorrtExecutionProvider', 'cuda': 'CUDAExecutionProvider', 'cpu': 'CPUExecutionProvider'}
_MOST = 64  # images at a time


def _preprocessing_of(path: Any, metadata: Mapping[str, str], given: Mapping[str, Any]) -> Preprocessing:
    """What a file's metadata say that its input must be, but for what is given, which may be all of it.

    ``img_size``, height and width, leaves the channels as they are.

    Raises:
        ValueError: Where something is missing or wrong.
    """
    text = metadata.get(METADATA_KEY)
    if text is None and not given:
        raise ValueError(f'{path}: has no {METADATA_KEY} in its metadata, so it is not known how to prepare images; '
                         'say it (--labels, --img-size, --mean, --std)')
    try:
        known = {**json.loads(text or '{}'), **given}
        size = known.pop('img_size', None)
        if size is not None:
            channels, *_ = known.get('input_size') or [1 if known.get('color_order') == 'L' else 3]
            known['input_size'] = [channels, *to_2tuple(size)]
        return check(Preprocessing, known)
    except (ValueError, TypeError) as error:
        raise ValueError(f'{path}: what is known of its input is not as it should be: {error}') from None


def open_session(model: Union[str, bytes], provider: str = 'cpu', threads: Optional[int] = None) -> Any:
    """An ONNX Runtime session of a file, or of its bytes, on one provider or not at all; what goes wrong is raised."""
    import onnxruntime
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    if threads:
        options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(model, options, providers=[_PROVIDERS[provider]], enable_fallback=False)


def whole_batches(images: np.ndarray, batch_size: int) -> List[np.ndarray]:
    """All images in batches of this size, as a file of a fixed one wants; the last is filled up from the beginning."""
    filled = np.resize(images, (-(-len(images) // batch_size) * batch_size, *images.shape[1:]))
    return list(filled.reshape(-1, batch_size, *images.shape[1:]))


class Prediction(NamedTuple):
    """What a picture shows, or why it was refused.

    Attributes:
        top: The most likely classes' numbers and probabilities, the likeliest first; None for a refused picture.
    """
    path: Path
    top: Optional[List[Tuple[int, float]]]
    reason: str = ''


class Classifier:
    """A model file in ONNX Runtime, where it runs fastest.

    Args:
        path: A file that ``export_onnx`` wrote, or one from elsewhere with its preprocessing.
        provider: 'tensorrt', 'cuda' or 'cpu'; 'auto' takes the first of them that works.
        threads: Of the CPU; ONNX Runtime's choice by default.
        preprocessing: What the input must be, instead of what the file says, or some entries of it; ``img_size``,
            height and width, for that of the input alone.

    Attributes:
        preprocessing: What the input must be.
        provider: What it runs on.
        batch_size: Images at a time that the file takes, None for any number.

    Raises:
        ValueError: For a file that cannot be read, that does not say what its input must be, that has another number of
            classes than names for them, and for a provider that does not work.
    """

    def __init__(
            self,
            path: Union[str, os.PathLike],
            provider: str = 'auto',
            threads: Optional[int] = None,
            preprocessing: Union[Preprocessing, Mapping[str, Any]] = {},  # noqa: B006
    ) -> None:
        if provider not in ('auto', *_PROVIDERS):
            raise ValueError(f'provider: {provider!r} is none of auto, {", ".join(_PROVIDERS)}')
        if not Path(path).is_file():
            raise ValueError(f'{path}: there is no such file')
        self.path, self._given = path, dict(preprocessing)
        for name in list(_PROVIDERS) if provider == 'auto' else [provider]:
            try:
                with _silence() if name != 'cpu' else contextlib.nullcontext():
                    self._open(name, threads)
                return
            except _Unusable as error:
                reason = f'{name}: {error}'
        raise ValueError(f'{path}: cannot be run: {reason}')  # of 'auto' the CPU's, on which any file should

    def _open(self, provider: str, threads: Optional[int]) -> None:
        """Make a session and try it.

        Raises:
            _Unusable: Where the provider does not work.
        """
        import onnxruntime
        full = _PROVIDERS[provider]
        if full not in onnxruntime.get_available_providers():
            raise _Unusable('this ONNX Runtime was built without it')
        try:
            self.session = open_session(os.fspath(self.path), provider, threads)
        except Exception as error:  # ONNX Runtime's have no common kind
            raise _Unusable(_one_line(error)) from None
        if self.session.get_providers()[0] != full:
            raise _Unusable('its libraries cannot be loaded')
        self.provider = provider
        self.preprocessing = _preprocessing_of(self.path, self.session.get_modelmeta().custom_metadata_map, self._given)
        inputs, outputs = self.session.get_inputs(), self.session.get_outputs()
        if len(inputs) != 1 or len(outputs) != 1:
            raise ValueError(f'{self.path}: has {len(inputs)} inputs and {len(outputs)} outputs; one of each is wanted')
        self._input, self._output = inputs[0].name, outputs[0].name
        self.batch_size = inputs[0].shape[0] if isinstance(inputs[0].shape[0], int) else None
        try:
            width = self.logits(np.zeros((1, *self.preprocessing.input_size), np.uint8)).shape[1:]
        except Exception as error:
            raise _Unusable(_one_line(error)) from None
        if width != (len(self.class_names),):
            raise ValueError(f'{self.path}: gives {" x ".join(map(str, width))} numbers an image, and there are '
                             f'{len(self.class_names)} class names; they must be as many')

    @property
    def class_names(self) -> List[str]:
        return self.preprocessing.class_names

    def logits(self, images: np.ndarray) -> np.ndarray:
        """Images, uint8 [N, C, H, W] of the preprocessing's size, to what the file gives, float32 [N, classes].

        Where the file takes any number of images, it gets 64 at a time.
        """
        self.preprocessing.check_images('images', images)
        if not len(images):
            return np.zeros((0, len(self.class_names)), np.float32)
        if self.batch_size:
            batches = whole_batches(images, self.batch_size)
        else:
            batches = [images[start:start + _MOST] for start in range(0, len(images), _MOST)]
        return np.concatenate([self._run(self.preprocessing.feed(batch)) for batch in batches])[:len(images)]

    def _run(self, batch: np.ndarray) -> np.ndarray:
        if self.provider == 'cpu':
            return self.session.run([self._output], {self._input: batch})[0]
        import onnxruntime
        binding = self.session.io_binding()
        binding.bind_ortvalue_input(self._input, onnxruntime.OrtValue.ortvalue_from_numpy(batch, 'cuda', 0))
        binding.bind_output(self._output, 'cuda')
        self.session.run_with_iobinding(binding)
        return binding.copy_outputs_to_cpu()[0]

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """Images, uint8 [N, C, H, W] of the preprocessing's size, to float32 [N, classes]."""
        results = self.logits(images)
        if self.preprocessing.output == 'probabilities':
            return results
        results = np.exp(results - results.max(1, keepdims=True))
        return results / results.sum(1, keepdims=True)

    def classify(self, images: np.ndarray) -> List[str]:
        """The most likely class's name for each of the images."""
        return [self.class_names[i] for i in self.logits(images).argmax(1)]

    def predict(
            self, paths: Sequence[Union[str, os.PathLike]], top: int = 5, batch_size: int = 16, readers: int = 2,
    ) -> Iterator[Prediction]:
        """Classify picture files, in order. One that cannot be read or used is refused, and the rest go on.

        Args:
            paths: The files.
            top: Classes to name.
            batch_size: Pictures at a time, unless the file has its own number.
            readers: Threads that read the next pictures meanwhile.
        """
        step = self.batch_size or batch_size
        groups = [[Path(path) for path in paths[start:start + step]] for start in range(0, len(paths), step)]
        with ThreadPoolExecutor(readers) as pool:
            ahead = [pool.submit(self._read, path) for path in groups[0]] if groups else []
            for i, group in enumerate(groups):
                read = [future.result() for future in ahead]
                ahead = [pool.submit(self._read, path) for path in groups[i + 1]] if i + 1 < len(groups) else []
                images = [image for image, _ in read if image is not None]
                found = iter(self.probabilities(np.stack(images)) if images else ())
                for path, (image, reason) in zip(group, read):
                    if image is None:
                        yield Prediction(path, None, reason)
                        continue
                    shares = next(found)
                    best = np.argsort(-shares, kind='stable')[:top]
                    yield Prediction(path, [(int(k), float(shares[k])) for k in best])

    def _read(self, path: Path) -> Tuple[Optional[np.ndarray], str]:
        """A picture, or None and why not."""
        try:
            return self.preprocessing.read(path), ''
        except Exception as error:  # a decoder raises what it likes
            return None, _one_line(error)


class _Unusable(Exception):
    """A provider that does not work here, and why."""


def _one_line(error: Exception) -> str:
    return ' '.join(str(error).split())[:300] or type(error).__name__


_one_at_a_time = threading.Lock()


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Nothing on standard error meanwhile, where libraries in C report a missing GPU, whoever writes it."""
    with _one_at_a_time, open(os.devnull, 'w') as nowhere:
        try:
            kept = os.dup(2)
        except OSError:  # a process without one
            kept = None
        os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            if kept is None:
                os.close(2)
            else:
                os.dup2(kept, 2)
                os.close(kept)


def find_pictures(paths: Sequence[Union[str, os.PathLike]]) -> List[Path]:
    """Files as they are; of folders the pictures in them and below, in the order of their names.

    Raises:
        ValueError: For a path where there is nothing, and a folder without pictures.
    """
    found: List[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            inside = sorted(file for file in path.rglob('*') if file.suffix.lower() in SUFFIXES and file.is_file())
            if not inside:
                raise ValueError(f'{path}: there are no pictures ({", ".join(SUFFIXES)})')
            found += inside
        elif path.exists():
            found.append(path)
        else:
            raise ValueError(f'{path}: there is nothing')
    return found

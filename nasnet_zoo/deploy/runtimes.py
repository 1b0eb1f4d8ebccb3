"""What runs ONNX files: a row of :data:`RUNTIMES` for each runtime."""
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Callable, Collection, Dict, List, Mapping, NamedTuple, Optional, Tuple, Union

from ..checked import suggest
from .session import Session, SessionError, read_precision
from .session_onnxruntime import PROVIDERS, OnnxRuntimeSession
from .session_openvino import DEVICES, HINTS, OpenVINOSession

__all__ = ['AUTO_PROVIDERS', 'RUNTIMES', 'RUNTIME_PRECISIONS', 'Runtime', 'check_choice', 'open_session',
           'runtimes_with']


class Runtime(NamedTuple):
    """A program library that runs ONNX files.

    Attributes:
        title: Its name in sentences.
        module: The Python module, which is missing where the runtime is not installed.
        packages: Names of the Python packages that may contain it.
        install: The package to install.
        providers: What can run a file there, by name.
        precisions: What it can be asked to compute in, whatever the file's own precision is, except for int8.
        open: Opens a file, or its content, on a provider, with a number of CPU threads or its default, and, as the
            keyword argument ``precision``, one of `precisions`.
    """
    title: str
    module: str
    packages: Tuple[str, ...]
    install: str
    providers: Collection[str]
    precisions: Collection[str]
    open: Callable[..., Session]

    @property
    def is_installed(self) -> bool:
        """Whether its module can be imported."""
        return find_spec(self.module) is not None

    @property
    def how_to_install(self) -> str:
        """The command that installs it."""
        return f'pip install "{self.install}"'

    @property
    def version(self) -> str:
        """Its version, '' if it is unknown. The runtime is not imported, which takes a second for some of them."""
        for package in self.packages:
            try:
                return version(package)
            except PackageNotFoundError:
                pass
        return ''


RUNTIMES: Dict[str, Runtime] = {  # the default first
    'onnxruntime': Runtime(
        'ONNX Runtime', 'onnxruntime', ('onnxruntime-gpu', 'onnxruntime'), 'onnxruntime', PROVIDERS, (),
        OnnxRuntimeSession),
    'openvino': Runtime(
        'OpenVINO', 'openvino', ('openvino',), 'nasnet-zoo[openvino]', DEVICES, HINTS, OpenVINOSession),
}
AUTO_PROVIDERS = ('tensorrt', 'cuda', 'cpu')  # those that 'auto' tries, in this order
RUNTIME_PRECISIONS = ('float32', 'bfloat16', 'float16', 'int8')


def check_choice(kind: str, name: str, known: Collection[str]) -> None:
    """Raise ValueError unless `name` is one of those that are known."""
    if name not in known:
        raise ValueError(f'{kind}: unknown {kind} {name!r}; {suggest(name, known)}')


def runtimes_with(runtime: str, provider: str) -> List[str]:
    """Return the installed runtimes that have a provider: of all, or of one.

    Args:
        runtime: A name in :data:`RUNTIMES`, or 'auto' for all.
        provider: The name of a provider.

    Raises:
        ValueError: If there is such a runtime, but it is not installed. The message says how to install it.
    """
    names = [name for name, row in RUNTIMES.items() if runtime in ('auto', name) and provider in row.providers]
    installed = [name for name in names if RUNTIMES[name].is_installed]
    if names and not installed:
        row = RUNTIMES[names[0]]
        raise ValueError(f'runtime: {row.title} is not installed; {row.how_to_install}')
    return installed


def open_session(
        runtime: str, model: Union[str, bytes], provider: str = 'cpu', threads: Optional[int] = None,
        precision: Optional[str] = None,
) -> Session:
    """Open a file in a runtime.

    Args:
        runtime: A name in :data:`RUNTIMES`.
        model: Path of the file, or its content.
        provider: One of the runtime's providers.
        threads: Number of CPU threads; the runtime's default if None.
        precision: One of :data:`RUNTIME_PRECISIONS`; None for the file's own, and float32 for what is not in int8.
            OpenVINO then computes a float16 file in float32.
            In a file whose own precision is int8, bfloat16 and float16 apply to what is not in int8.

    Raises:
        SessionError: If the runtime cannot run the file like this.
        ValueError: If the file has more than one input or output.
    """
    row = RUNTIMES[runtime]
    options: Mapping[str, str] = {}
    if precision is not None:
        own = read_precision(model)
        if precision in row.precisions and (own, precision) != ('int8', 'float32'):
            options = dict(precision=precision)
        elif precision != own:
            raise SessionError(_explain_precision(row, precision, own))
    return row.open(model, provider, threads, **options)


def _explain_precision(row: Runtime, precision: str, own: str) -> str:
    """Return why a runtime does not compute in a precision."""
    if precision == 'int8':
        return f'the file is in {own}; int8 needs a file that was quantised (export --int8)'
    if own == 'int8':
        return f'the file is in int8; {precision} needs a file that was exported without --int8'
    others = [other.title if other.is_installed else f'{other.title} ({other.how_to_install})'
              for other in RUNTIMES.values() if precision in other.precisions]
    return (f'{row.title} computes in the precision of the file, which is {own}; '
            f'{" and ".join(others)} can compute in {precision}')

"""What is installed, what works on this machine, and what is missing for which command."""
import os
import platform
import stat
import sys
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple

import numpy as np
import torch
from huggingface_hub import constants
from timm.models._hub import get_cache_dir  # timm has no public function for it

from .data.pictures import cache_folder
from .deploy.runtimes import RUNTIMES, open_session
from .deploy.session import SessionError, one_line, silence_stderr
from .extras import EXTRAS, missing_packages
from .genotype.loader import list_genotypes
from .graph.to_onnx import smallest_model
from .version import __version__

__all__ = ['COMMANDS', 'diagnose']

_PACKAGES = (
    'torch', 'torchvision', 'timm', 'onnx', 'onnxruntime', 'onnxruntime-gpu', 'openvino', 'safetensors',
    'huggingface-hub', 'numpy', 'pillow', 'pydantic', 'rich', 'typer', 'matplotlib', 'optuna', 'scipy', 'scikit-learn',
    'ray', 'tensorboard', 'mlflow', 'wandb', 'h5py')
COMMANDS: Dict[str, Optional[str]] = {  # what one can do, and the extra that it needs
    'train': None,
    'train --data digits': 'digits',
    'train --log tensorboard': 'train',
    'train --log mlflow': 'mlflow',
    'train --log wandb': 'wandb',
    'validate': None,
    'describe': None,
    'describe --draw': 'draw',
    'gallery': 'draw',
    'search': 'search',
    'search --ray': 'ray',
    'compare': 'search',
    'report': 'search',
    'export': None,
    'export --layout web': 'draw',
    'export --layout openvino': 'openvino',
    'export --format litert': 'litert',
    'classify': None,
    'classify --runtime openvino': 'openvino',
    'push': None,
    'push --space': 'draw',
    'convert': None,
    "convert of Keras's files": 'keras',
    'demo': 'demo',
}


def diagnose() -> Dict[str, Any]:
    """Examine this machine. Nothing is downloaded or written.

    Returns:
        JSON data: ``version``, ``python``, ``platform``, ``cpus`` and ``encoding``; ``packages``, the version of each
        package or None; ``extras`` and ``commands``, the missing packages of each; ``runtimes``, a row for each device
        of PyTorch and each provider of the runtimes for exported files, with ``works`` and, if it does not,
        ``reason``; ``gpus``, the name and the memory in bytes of each; ``caches``, the path of each folder, its size
        in bytes, and whether it can be written to; and ``genotypes`` and ``weights``, the number of those that were
        installed with the package.
    """
    return dict(
        version=__version__, python=sys.version.split()[0], platform=platform.platform(), cpus=os.cpu_count(),
        encoding=sys.stdout.encoding or sys.getfilesystemencoding(),
        packages={package: _version(package) for package in _PACKAGES},
        extras={extra: list(missing_packages(extra)) for extra in EXTRAS},
        commands={command: list(missing_packages(extra)) if extra else [] for command, extra in COMMANDS.items()},
        runtimes=list(_try_runtimes()), gpus=_gpus(), caches=_caches(), genotypes=len(list_genotypes()),
        weights=len(list((Path(__file__).parent / 'weights').glob('*.safetensors'))))


def _version(package: str) -> Optional[str]:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _try_runtimes() -> Iterator[Dict[str, Any]]:
    """Compute max(-1, 0) and max(2, 0) with a model of one node, wherever that could work, and yield the results."""
    for runtime, device, call in _candidates():
        try:
            with silence_stderr():
                found = call(np.array([[-1., 2.]], np.float32))
            reason = None if np.array_equal(found, [[0., 2.]]) else f'it computes {found.tolist()} instead of [[0, 2]]'
        except Exception as error:  # the runtimes' exceptions have no common base class
            reason = one_line(error)
        yield dict(runtime=runtime, device=device, works=reason is None, reason=reason)


def _candidates() -> Iterator[Tuple[str, str, Callable[[np.ndarray], np.ndarray]]]:
    """Yield runtime, device, and a function that computes a ReLU there."""
    devices = ['cpu', *(f'cuda:{i}' for i in range(torch.cuda.device_count()))]
    for device in devices + (['mps'] if torch.backends.mps.is_available() else []):
        yield 'PyTorch', device, partial(_in_pytorch, device)
    for name, row in RUNTIMES.items():
        for provider in row.providers:
            yield row.title, provider, partial(_in_runtime, name, provider)


def _in_pytorch(device: str, x: np.ndarray) -> np.ndarray:
    return torch.from_numpy(x).to(device).relu().cpu().numpy()


def _in_runtime(name: str, provider: str, x: np.ndarray) -> np.ndarray:
    row = RUNTIMES[name]
    if not row.is_installed:
        raise SessionError(f'it is not installed: {row.how_to_install}')
    return open_session(name, smallest_model(), provider).run(x)


def _gpus() -> List[Dict[str, Any]]:
    found = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    return [dict(name=gpu.name, memory=gpu.total_memory) for gpu in found]


def _caches() -> Dict[str, Dict[str, Any]]:
    """Return path, size and whether it can be written to, of the folders with decoded images and downloaded files."""
    folders = {'images': cache_folder(), 'Hugging Face Hub': Path(constants.HF_HUB_CACHE),
               'weights of other servers': Path(get_cache_dir())}
    return {name: dict(path=str(path), bytes=_size(path), writable=_is_writable(path))
            for name, path in folders.items()}


def _size(folder: Path) -> int:
    """Return the bytes of all files in a folder. Links, which the Hub's cache is full of, do not count."""
    total = 0
    for parent, _, names in os.walk(folder):  # without folders that cannot be read
        for name in names:
            try:
                status = os.lstat(os.path.join(parent, name))
            except OSError:  # another process has removed it
                continue
            total += status.st_size if stat.S_ISREG(status.st_mode) else 0
    return total


def _is_writable(folder: Path) -> bool:
    """Return whether files can be written to a folder, or the folder can be created."""
    existing = next((path for path in (folder, *folder.absolute().parents) if os.path.exists(path)), None)
    return existing is not None and os.access(existing, os.W_OK | os.X_OK)

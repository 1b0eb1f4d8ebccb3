"""Finds weight files: the one in a folder, the index of a TensorFlow checkpoint, and the files of a JSON index."""
import json
import re
from pathlib import Path
from typing import Any, Callable, Dict

from ..checked import join_first
from .bounds import check_index_size

__all__ = ['find_file', 'read_index']

# The usual names, in the order of preference: of the Hugging Face libraries and this package, then of timm.
_NAMES = ('model.safetensors', 'model.safetensors.index.json', 'pytorch_model.bin', 'pytorch_model.bin.index.json',
          'model_best.pth.tar')
_SUFFIXES = ('.safetensors', '.pth', '.pt', '.ckpt', '.tar', '.bin', '.h5', '.keras', '.index', '.gz')
_MAX_SHOWN = 5


def find_file(path: Path) -> Path:
    """Return the weight file that a path means.

    In a folder, it is the file with a usual name, or the only one. A TensorFlow checkpoint has several files; for each
    of them, and for what their names have in common (``model.ckpt``), it is the index.

    Raises:
        ValueError: If a folder has no weight file, or several.
    """
    if path.is_dir():
        return _find_in_folder(path)
    index = path.with_name(re.sub(r'\.data-\d{5}-of-\d{5}$', '', path.name) + '.index')
    return index if index.exists() and (index.stem != path.name or not path.exists()) else path


def _find_in_folder(folder: Path) -> Path:
    for name in _NAMES:
        if (folder / name).is_file():
            return folder / name
    found = sorted(path for path in folder.iterdir() if path.is_file() and path.suffix in _SUFFIXES)
    if len(found) == 1:
        return found[0]
    if any(folder.glob('*.distcp')):
        raise ValueError(f'{folder}: is a distributed checkpoint: convert it to a file with '
                         'python -m torch.distributed.checkpoint.format_utils dcp_to_torch FOLDER FILE')
    if not found:
        raise ValueError(f'{folder}: is a folder without a weight file')
    names = join_first([path.name for path in found], _MAX_SHOWN)
    raise ValueError(f'{folder}: is a folder with several weight files; pass one of them: {names}')


def read_index(path: Path, read: Callable[[Path], Dict[str, Any]]) -> Dict[str, Any]:
    """Read the files beside an index, ``{"weight_map": {"TENSOR": "FILE", …}}``, as the Hugging Face libraries do.

    Args:
        path: The index.
        read: Reads one of the files.
    """
    check_index_size(path.stat().st_size)
    data = json.loads(path.read_text(encoding='utf-8'))
    files = data.get('weight_map')
    if not isinstance(files, dict) or not all(isinstance(name, str) and Path(name).name == name
                                              for name in files.values()):
        raise ValueError('it is JSON, but has no "weight_map" from tensors to files in the same folder')
    tensors: Dict[str, Any] = {}
    for name in sorted(set(files.values())):
        tensors.update(read(path.parent / name))
    missing = [name for name in files if name not in tensors]
    if missing:
        raise ValueError(f'{missing[0]} is not in {files[missing[0]]}')
    return tensors

"""Reads Keras's weight files: ``.weights.h5``, ``.keras`` and ``.h5``, of Keras 2 and 3.

Each tensor is named ``layer.variable`` (``stem_bn1.gamma``) and has PyTorch's order of axes. The state of optimizers
and of random number generators is left out. The layouts are those of keras/src/saving/saving_lib.py (Keras 3) and
keras/src/legacy/saving (Keras 2).
"""
import io
import json
import re
import zipfile
from pathlib import Path
from typing import Any, BinaryIO, Dict, Iterator, List, Mapping, Optional, Tuple, Union

import torch

from ..extras import require
from .bounds import check_expansion

__all__ = ['KERAS_MEMBER', 'read_archive', 'read_hdf5']

KERAS_MEMBER = 'model.weights.h5'  # the member of a ``.keras`` archive that holds the weights

# The classes of layers that have weights, by the name of their HDF5 group in Keras 3. A group numbers a layer's
# variables in the order in which Keras creates them, which is the order here.
_LAYER_CLASSES = {
    'conv2d': ('Conv2D', ('kernel', 'bias')),
    'separable_conv2d': ('SeparableConv2D', ('depthwise_kernel', 'pointwise_kernel', 'bias')),
    'batch_normalization': ('BatchNormalization', ('gamma', 'beta', 'moving_mean', 'moving_variance')),
    'dense': ('Dense', ('kernel', 'bias')),
}
# Convolutions from [H, W, in, out] to [out, in, H, W]; depthwise ones from [H, W, channels, 1] to [channels, 1, H, W].
_AXES = {'kernel': (3, 2, 0, 1), 'pointwise_kernel': (3, 2, 0, 1), 'depthwise_kernel': (2, 3, 0, 1)}
_NO_WEIGHTS = ('optimizer', 'optimizer_weights', 'vars', 'top_level_model_weights')  # top-level groups


def read_archive(archive: zipfile.ZipFile, stored_bytes: int) -> Dict[str, torch.Tensor]:
    """Read the weights in an open ``.keras`` archive of `stored_bytes`. The caller has checked what it unpacks to."""
    _import_h5py()
    layer_names = dict(_name_groups(json.loads(archive.read('config.json'))))
    return _read_datasets(io.BytesIO(archive.read(KERAS_MEMBER)), stored_bytes, layer_names)


def read_hdf5(path: Path) -> Dict[str, torch.Tensor]:
    """Read a ``.weights.h5`` or ``.h5`` file."""
    return _read_datasets(path, path.stat().st_size, {})


def _import_h5py() -> Any:
    require("reading Keras's weight files", 'keras')
    import h5py
    return h5py


def _name_groups(config: Mapping[str, Any]) -> Iterator[Tuple[str, str]]:
    """Yield pairs of HDF5 group and layer name. Keras 3 names a group by the layer's class and numbers it in order."""
    groups = {class_name: group for group, (class_name, _) in _LAYER_CLASSES.items()}
    counts: Dict[str, int] = {}
    for layer in config['config']['layers']:
        group = groups.get(layer['class_name'])
        if group:
            number = counts.get(group, 0)
            counts[group] = number + 1
            yield f'{group}_{number}' if number else group, layer['config']['name']


def _read_datasets(
        file: Union[Path, BinaryIO], stored_bytes: int, layer_names: Mapping[str, str]) -> Dict[str, torch.Tensor]:
    """Read the tensors of an HDF5 file that takes `stored_bytes`.

    `layer_names` maps groups to layers, for files written before Keras 3.6, which do not repeat the layers' names.
    """
    h5py = _import_h5py()
    found: List[Tuple[str, Any]] = []  # paths and datasets
    tensors: Dict[str, torch.Tensor] = {}
    with h5py.File(file, 'r') as h5:
        # `visititems` follows hard links only, so that no link can lead to another file.
        h5.visititems(lambda path, item: found.append((path, item)) if isinstance(item, h5py.Dataset) else None)
        if any(dataset.is_virtual or dataset.external for _, dataset in found):
            raise ValueError('it refers to other files')
        check_expansion(sum(dataset.size * dataset.dtype.itemsize for _, dataset in found), stored_bytes)
        for path, dataset in found:
            place = _name_dataset(path, dataset, layer_names)
            if place is None:
                continue
            name = '.'.join(place)
            if name in tensors:
                raise ValueError(f'it has two tensors named {name}')
            tensors[name] = _reorder_axes(torch.from_numpy(dataset[()]), place[1])
    return tensors


def _name_dataset(path: str, dataset: Any, layer_names: Mapping[str, str]) -> Optional[Tuple[str, str]]:
    """The names of layer and variable that a dataset holds; None if it is not a weight."""
    parts = path.removeprefix('model_weights/').split('/')
    if parts[0] in _NO_WEIGHTS or 'seed_gen' in path:
        return None
    if parts[-2:-1] != ['vars']:  # Keras 2 and .h5: [model_weights/]stem_bn1/stem_bn1/gamma[:0]
        return parts[0], parts[-1].split(':')[0]
    *_, group, _, number = parts  # Keras 3: layers/batch_normalization_3/vars/0
    layer = dataset.parent.attrs.get('name') or layer_names.get(group)
    if layer is None:
        raise ValueError(f'{path} has no layer name, because Keras before 3.6 left the names out of .weights.h5 files: '
                         'save the whole model as .keras or .h5 instead')
    _, variables = _LAYER_CLASSES.get(re.sub(r'_\d+$', '', group), ('', ()))
    return layer, variables[int(number)] if int(number) < len(variables) else number


def _reorder_axes(tensor: torch.Tensor, variable: str) -> torch.Tensor:
    """The tensor in PyTorch's order of axes."""
    if tensor.ndim == 4 and variable in _AXES:
        return tensor.permute(_AXES[variable])
    return tensor.T if tensor.ndim == 2 else tensor

"""Other people's weight files to ours: timm, Cadene's ``pretrainedmodels`` and Keras.

The ports name the same layers differently, so a port is a table of names. They also pad pools differently (see
``ops.pool``): a model gives the very logits of the port with ``pool_padding='timm'`` for timm, ``'tf'`` for Cadene and
``'keras'`` for Keras. Nothing is unpickled or run.
"""
import io
import json
import os
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any, BinaryIO, Callable, Dict, Iterator, List, Mapping, NamedTuple, Optional, Tuple, Union

import torch
from safetensors.torch import load_file
from timm.models import clean_state_dict

from ..network.nasnet import NASNet

__all__ = ['load_foreign_weights', 'convert_state_dict']

_HEAD = ('head.fc.weight', 'head.fc.bias')
_WRAPPERS = ('state_dict_ema', 'model_ema', 'state_dict', 'model')  # timm's own order of preference
_MAX_EXPANSION = 20  # bytes that a byte of file may declare; weights hardly compress, so more is a bomb
_SHOWN = 3  # tensors of a kind in a message


class _Port(NamedTuple):
    """How a port names its tensors.

    Attributes:
        cell: The names of tensors in cells, with the groups kind, number, after and perhaps before.
        order: By kind of cell, (a, b) so that a · number + b sorts the cells from stem to classifier.
        table: Substitutions that turn ``cells.{position}.{before}{after}`` and other names into ours, in this order.
    """
    cell: re.Pattern[str]
    order: Mapping[str, Tuple[float, float]]
    table: Tuple[Tuple[str, Union[str, Callable[[re.Match[str]], str]]], ...]


# The numbers leave room for six normal cells a stage, also in Cadene's mobile net; a PNASNet's count reductions too.
_TORCH = _Port(
    cell=re.compile(r'(?P<before>)(?P<kind>cell_stem|cell|reduction_cell)_(?P<number>\d{1,4})\.(?P<after>.+)'),
    order={'cell_stem': (1, -10), 'cell': (1, 0), 'reduction_cell': (6, 5.5)},
    table=(
        (r'^conv_?0\.', 'stem.'),
        (r'^last_linear\.', 'head.fc.'),
        (r'\.conv_1x1\.', '.fits.0.'),
        (r'\.(?:conv_prev_1x1\.)?path_([12])\.conv\.', r'.fits.1.reduce.path_\1.'),
        (r'\.(?:conv_prev_1x1\.)?final_path_bn\.', '.fits.1.reduce.bn.'),
        (r'\.conv_prev_1x1\.', '.fits.1.'),
        (r'\.comb_iter_(\d)_(left|right)\.', r'.blocks.\1.\2.'),
        (r'\.separable_([12])\.depthwise_conv2d\.', r'.dw\1.'),
        (r'\.separable_([12])\.pointwise_conv2d\.', r'.pw\1.'),
        (r'\.bn_sep_([12])\.', r'.bn\1.'),
    ),
)

# A name is layer.variable, the layer's as in keras/src/applications/nasnet.py. reduce_n stands behind cell n - 1 or n.
_KERAS = _Port(
    cell=re.compile(r'(?P<before>[^.]+?)_(?:(?P<kind>stem|reduce)_)?(?P<number>\d{1,4})(?P<after>\.\w+)'),
    order={'stem': (1, -10), '': (1, 0), 'reduce': (1, .5)},
    table=(
        (r'^stem_(conv|bn)1\.', r'stem.\1.'),
        (r'^predictions\.', 'head.fc.'),
        (r'\.(?:normal|reduction)_(conv|bn)_1\.', r'.fits.0.\1.'),
        (r'\.adjust_conv_([12])\.', r'.fits.1.reduce.path_\1.'),
        (r'\.adjust_conv_projection\.', '.fits.1.conv.'),
        (r'\.adjust_bn\.', '.fits.1.bn.'),
        (r'_reduction_left4\.', '_reduction_left5.'),  # the fifth block's, its fourth has pools only
        (r'\.separable_conv_([12])(_bn)?_(?:normal|reduction)_(left|right)([1-5])\.',
         lambda m: f'.blocks.{int(m[4]) - 1}.{m[3]}.{"bn" if m[2] else "sep"}{m[1]}.'),
        (r'\.sep([12])\.depthwise_kernel$', r'.dw\1.weight'),
        (r'\.sep([12])\.pointwise_kernel$', r'.pw\1.weight'),
        (r'\.(?:kernel|gamma)$', '.weight'),
        (r'\.beta$', '.bias'),
        (r'\.moving_mean$', '.running_mean'),
        (r'\.moving_variance$', '.running_var'),
    ),
)

# Keras 3 numbers a layer's variables in the order of their creation, by class of layer.
_KERAS_VARIABLES = {
    'conv2d': ('kernel', 'bias'),
    'separable_conv2d': ('depthwise_kernel', 'pointwise_kernel', 'bias'),
    'batch_normalization': ('gamma', 'beta', 'moving_mean', 'moving_variance'),
    'dense': ('kernel', 'bias'),
}
# Keras' [H, W, in, out], [H, W, C, 1] and [in, out] to PyTorch's order.
_KERAS_AXES = {'kernel': (3, 2, 0, 1), 'pointwise_kernel': (3, 2, 0, 1), 'depthwise_kernel': (2, 3, 0, 1)}


def load_foreign_weights(model: NASNet, source: Union[Mapping[str, Any], str, os.PathLike]) -> None:
    """Load weights that another package published, wholly or not at all.

    A background class (1001 rows) is dropped for a model of 1000 classes. A model without a classifier leaves the
    source's aside.

    Args:
        model: A network of the source's size: NASNet-A or PNASNet-5.
        source: A state dict, or the path of a file: PyTorch (only tensors are loaded), safetensors, or Keras'
            ``.weights.h5``, ``.keras`` and ``.h5``. The format is told by content. Weights by our own names do too.

    Raises:
        ValueError: For a file that is none of these or is damaged, and for tensors that are not the model's. The model
            is as it was.
        ImportError: For a Keras file without h5py.

    Warns:
        UserWarning: For a source without a classifier. The model keeps its own.
    """
    if not isinstance(model, NASNet):
        raise TypeError(f'model: must be a NASNet, not a {type(model).__name__}')
    if isinstance(source, Mapping):
        label, data = 'the state dict', source
    elif isinstance(source, (str, os.PathLike)):
        label, data = os.fspath(source), _read(Path(os.fspath(source)))
    else:
        raise TypeError(f'source: must be a state dict or a path, not a {type(source).__name__}')
    try:
        tensors = convert_state_dict(_unwrap(data), model)
        no_head = _check(tensors, model)
    except ValueError as error:
        raise ValueError(f'{label}: {error}') from None
    if no_head:
        warnings.warn(f'{label} has no classifier; the model keeps its own', stacklevel=2)
    model.load_state_dict(tensors)


def convert_state_dict(state_dict: Mapping[str, Any], model: NASNet) -> Dict[str, Any]:
    """Rename the tensors of a port to ours: timm's ``pretrained_filter_fn``.

    Names that we do not know are kept, for `load_state_dict` to complain of, and so are numbers of classes, which timm
    sees to; but a background class (the first of 1001) is dropped for a model of 1000. Our own names pass through.

    Raises:
        ValueError: For a state dict of some other network, or with a tensor twice.
    """
    if any(name in state_dict for name in model.state_dict()):
        return dict(state_dict)
    port = next((port for port in (_TORCH, _KERAS) if any(map(port.cell.fullmatch, state_dict))), None)
    if port is None:
        raise ValueError('these are no weights of a NASNet or PNASNet from timm, pretrainedmodels or Keras; '
                         f'the tensors are {_first_few(list(state_dict)) or "none"}')
    names = _rename(port, list(state_dict))
    converted = {}
    for name, tensor in state_dict.items():
        if names[name] in converted:
            raise ValueError(f'{names[name]} is given twice, once as {name}')
        converted[names[name]] = tensor
    if model.num_classes == 1000 and all(name in converted and converted[name].shape[:1] == (1001,) for name in _HEAD):
        converted.update((name, converted[name][1:]) for name in _HEAD)
    return converted


def _rename(port: _Port, names: List[str]) -> Dict[str, str]:
    """Our name of each of the port's."""
    cells = {}  # (order, match) by name
    for name in names:
        match = port.cell.fullmatch(name)
        if match:
            a, b = port.order[match['kind'] or '']
            cells[name] = a * int(match['number']) + b, match
    positions = {order: i for i, order in enumerate(sorted({order for order, _ in cells.values()}))}
    renamed = {}
    for name in names:
        ours = name
        if name in cells:
            order, match = cells[name]
            ours = f'cells.{positions[order]}.{match["before"]}{match["after"]}'
        for pattern, replacement in port.table:
            ours = re.sub(pattern, replacement, ours)
        renamed[name] = ours
    # Keras gives the norm of both ways to fit an input one name.
    reduced = {ours.split('reduce.')[0] for ours in renamed.values() if '.reduce.path_2.' in ours}
    return {name: re.sub(r'(\.fits\.1\.)bn', r'\1reduce.bn', ours) if ours.split('bn.')[0] in reduced else ours
            for name, ours in renamed.items()}


def _unwrap(data: Any) -> Dict[str, torch.Tensor]:
    """The tensors of a checkpoint, without what trainers and wrappers put around them."""
    if not isinstance(data, Mapping):
        raise ValueError(f'holds no state dict but a {type(data).__name__}')
    inner = next((data[key] for key in _WRAPPERS if isinstance(data.get(key), Mapping)), data)
    for name, tensor in inner.items():
        if not (isinstance(name, str) and isinstance(tensor, torch.Tensor)):
            raise ValueError(f'holds no state dict: {str(name)[:60]!r} is a {type(tensor).__name__}, not a tensor')
        is_dense = tensor.layout == torch.strided and not tensor.is_meta
        if not (is_dense and (tensor.is_floating_point() or name.endswith('num_batches_tracked'))):
            raise ValueError(f'{name} has no dense floating-point values: {tensor.dtype}, {tensor.layout}, '
                             f'on {tensor.device}')
    return clean_state_dict(inner)


def _check(tensors: Dict[str, torch.Tensor], model: NASNet) -> bool:
    """Make `tensors` those of the model, or raise a ValueError; whether the classifier is the model's own."""
    wanted = model.state_dict()
    if not model.num_classes:
        for name in _HEAD:
            tensors.pop(name, None)
    no_head = model.num_classes > 0 and not any(name in tensors for name in _HEAD)
    if no_head:
        tensors.update((name, wanted[name]) for name in _HEAD)
    classes = next((tensors[name].shape[0] for name in _HEAD if name in tensors and tensors[name].ndim), 0)
    other = [name for name in tensors if name in wanted and tensors[name].shape != wanted[name].shape]
    unknown = [name for name in tensors if name not in wanted]
    missing = [name for name in wanted if name not in tensors and not name.endswith('num_batches_tracked')]
    if not (other or unknown or missing):
        return no_head
    if set(other) == set(_HEAD) and classes != model.num_classes and not (unknown or missing):
        raise ValueError(
            f'has {classes} classes and the model {model.num_classes}: create the model with num_classes={classes}, or '
            f'with num_classes=0 and call model.reset_classifier({model.num_classes}) after loading')
    given, needed = ({name: str(tuple(tensor.shape)) for name, tensor in side.items()} for side in (tensors, wanted))
    lines = ['these are not the weights of this model'] + [
        f'{len(names)} {what}: {_first_few([text.format(name, given.get(name), needed.get(name)) for name in names])}'
        for what, names, text in (
            ('of another shape', other, '{0} is {1}, in the model {2}'),
            ('missing', missing, '{0} {2}'),
            ('unknown', unknown, '{0} {1}'),
        ) if names]
    stem = tensors.get('stem.conv.weight')
    if stem is not None and stem.ndim == 4 and stem.shape[1] != model.in_chans:
        lines.append(f'they take images of {stem.shape[1]} channels: create the model with in_chans={stem.shape[1]}')
    if any(name.startswith('aux_head.') for name in missing):
        lines.append('they have no auxiliary head: create the model with aux_head=False')
    raise ValueError('\n  '.join(lines))


def _first_few(items: List[str]) -> str:
    return '; '.join([str(item)[:200] for item in items[:_SHOWN]] + ['…'] * (len(items) > _SHOWN))


def _read(path: Path) -> Any:
    """What a weight file holds: a checkpoint, or Keras' tensors as layer.variable in PyTorch's order of axes."""
    with open(path, 'rb') as file:
        start = file.read(9)
    if start.startswith(b'\x89HDF\r\n\x1a\n'):
        kind, read = 'a Keras file', _read_keras
        _import_h5py()
    elif start.startswith(b'PK'):
        kind, read = 'a PyTorch or Keras archive', _read_zip
    elif start[8:] == b'{':
        kind, read = 'a safetensors file', load_file
    elif start.startswith(b'\x80'):
        kind, read = 'a PyTorch file of tensors', _read_torch
    else:
        raise ValueError(f'{path}: is no weight file: neither PyTorch, safetensors, HDF5 nor Keras')
    try:
        return read(path)
    except (ImportError, MemoryError):
        raise
    except Exception as error:  # whatever a reader says of a damaged or hostile file
        reason = str(error).strip().split('\n')[0][:200] or type(error).__name__
        raise ValueError(f'{path}: cannot be read as {kind}, and nothing was loaded: {reason}') from None


def _read_torch(path: Path) -> Any:
    return torch.load(path, map_location='cpu', weights_only=True)


def _read_zip(path: Path) -> Any:
    """A PyTorch archive, or a ``.keras`` one (keras/src/saving/saving_lib.py)."""
    with zipfile.ZipFile(path) as archive:
        if sum(info.file_size for info in archive.infolist()) > _MAX_EXPANSION * path.stat().st_size:
            raise ValueError('it would grow beyond all measure when unpacked')
        if 'model.weights.h5' not in archive.namelist():
            return _read_torch(path)
        _import_h5py()
        weights = io.BytesIO(archive.read('model.weights.h5'))
        return _read_keras(weights, path.stat().st_size, json.loads(archive.read('config.json')))


def _import_h5py():
    try:
        import h5py
    except ImportError:
        raise ImportError("reading Keras' weight files needs h5py: pip install nasnet-zoo[keras]") from None
    return h5py


def _read_keras(
        file: Union[Path, BinaryIO],
        size: Optional[int] = None,
        config: Optional[Mapping[str, Any]] = None,
) -> Dict[str, torch.Tensor]:
    """Tensors of Keras 3's variables by layer, or of Keras 2's, as layer.variable; no optimizer's and no seeds.

    Args:
        file: HDF5.
        size: Bytes that hold it, if it was unpacked.
        config: The model's, whose layer names a file before Keras 3.6 does not repeat.
    """
    h5py = _import_h5py()
    size = size or file.stat().st_size
    layer_names = dict(_keras_layers(config)) if config else {}
    found = []  # (path, dataset)
    with h5py.File(file, 'r') as h5:
        # Follows hard links only, so a file cannot reach out of itself.
        h5.visititems(lambda path, item: found.append((path, item)) if isinstance(item, h5py.Dataset) else None)
        if any(dataset.is_virtual or dataset.external for _, dataset in found):
            raise ValueError('it refers to other files')
        if sum(dataset.size * dataset.dtype.itemsize for _, dataset in found) > _MAX_EXPANSION * size:
            raise ValueError('it would grow beyond all measure when unpacked')
        tensors = {}
        for path, dataset in found:
            parts = path.removeprefix('model_weights/').split('/')
            if parts[0] in ('optimizer', 'optimizer_weights', 'vars', 'top_level_model_weights') or 'seed_gen' in path:
                continue
            if parts[-2:-1] == ['vars']:  # layers/batch_normalization_3/vars/0
                layer = dataset.parent.attrs.get('name') or layer_names.get(parts[-3])
                if layer is None:
                    raise ValueError(f'{path} bears no name of a layer, as Keras wrote it before 3.6; '
                                     'save the model as .keras or .h5 instead')
                variables = _KERAS_VARIABLES.get(re.sub(r'_\d+$', '', parts[-3]), ())
                variable = variables[int(parts[-1])] if int(parts[-1]) < len(variables) else parts[-1]
            else:  # [model_weights/]stem_bn1/stem_bn1/gamma[:0]
                layer, variable = parts[0], parts[-1].split(':')[0]
            if f'{layer}.{variable}' in tensors:
                raise ValueError(f'it has {layer}.{variable} twice')
            tensor = torch.from_numpy(dataset[()])
            if tensor.ndim == 4 and variable in _KERAS_AXES:
                tensor = tensor.permute(_KERAS_AXES[variable])
            tensors[f'{layer}.{variable}'] = tensor.T if tensor.ndim == 2 else tensor
    return tensors


def _keras_layers(config: Mapping[str, Any]) -> Iterator[Tuple[str, str]]:
    """Pairs of the group that Keras 3 stores a layer in and the layer's name: it counts the layers of a class."""
    counts = {}
    for layer in config['config']['layers']:
        group = {'Conv2D': 'conv2d', 'SeparableConv2D': 'separable_conv2d', 'Dense': 'dense',
                 'BatchNormalization': 'batch_normalization'}.get(layer['class_name'])
        if group:
            number = counts[group] = counts.get(group, -1) + 1
            yield f'{group}_{number}' if number else group, layer['config']['name']

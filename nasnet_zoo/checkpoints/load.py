"""Loads weights that others published: Google, timm, Cadene's ``pretrainedmodels`` or Keras.

These packages also pad pools differently (see ``network.ops.pool``): a model gives the same logits as the original with
``pool_padding='timm'`` for timm, ``'tf'`` for Google and Cadene, and ``'keras'`` for Keras.
"""
import os
import warnings
from functools import partial
from pathlib import Path
from typing import Any, Dict, Mapping, Optional, Tuple, Union

import torch

from ..checked import join_first
from ..network.nasnet import NASNet
from .entries import Entry, find_entry
from .flatten import flatten
from .formats import read_weights
from .inert_pickle import Foreign
from .names_darts import DARTS
from .names_keras import KERAS
from .names_tensorflow import TENSORFLOW
from .names_torch import TORCH
from .renaming import NameTable, rename

__all__ = ['Source', 'check_fit', 'convert_state_dict', 'find_weights', 'load_foreign_weights', 'load_tensors']

NAME_TABLES: Tuple[NameTable, ...] = (TENSORFLOW, TORCH, KERAS, DARTS)
Source = Union[Mapping[str, Any], str, 'os.PathLike[str]']
_CLASSIFIER = ('head.fc.weight', 'head.fc.bias')
_CLASSIFIERS = (_CLASSIFIER, ('aux_head.head.fc.weight', 'aux_head.head.fc.bias'))
_join = partial(join_first, count=3, separator='; ')  # tensors of a kind in an error message


def load_foreign_weights(model: NASNet, source: Source, entry: Optional[str] = None) -> Entry:
    """Load weights that another package or a training program wrote. Either all of them are loaded or none.

    The weights may be anywhere in a checkpoint: in an entry such as ``state_dict``, and below the prefixes that
    wrappers add to the names, such as ``module.`` or ``_orig_mod.``. If averaged weights are there too, they are
    loaded, as in timm. Tensors under other prefixes are ignored; one that is unknown among those of the network is an
    error.

    A background class (the first of 1001) is dropped for a model of 1000 classes. For a model without a classifier
    (``num_classes=0``) that of the source is ignored, and so is an auxiliary head for a model without one.

    Args:
        model: A network of the same architecture and size as the source.
        source: A state dict or a checkpoint; the path of a file of PyTorch, safetensors or Keras (``.weights.h5``,
            ``.keras`` or ``.h5``); a TensorFlow checkpoint (``model.ckpt``, its index, or a tar archive of it); or a
            folder that contains one of these. The format is recognized by content. No code from the file is run.
        entry: Which weights to load if there are several, such as ``'state_dict'``.

    Returns:
        What was loaded. ``describe()`` says it in words.

    Raises:
        ValueError: The file has none of these formats or is damaged, or its tensors do not fit the model. The model
            is unchanged.
        ImportError: The file is from Keras and h5py is not installed.

    Warns:
        UserWarning: The source has no classifier, so the model keeps its own.
    """
    found = find_weights(model, source, entry)
    load_tensors(model, found.values, _label(source))
    return found


def find_weights(model: NASNet, source: Source, entry: Optional[str] = None) -> Entry:
    """Find the weights for a model as :func:`load_foreign_weights` does, without loading them.

    Returns:
        The tensors, by our names. Their shapes need not be those of the model.
    """
    if not isinstance(model, NASNet):
        raise TypeError(f'model: must be a NASNet, not a {type(model).__name__}')
    if not isinstance(source, (Mapping, str, os.PathLike)):
        raise TypeError(f'source: must be a state dict or a path, not a {type(source).__name__}')
    data = source if isinstance(source, Mapping) else read_weights(Path(source))
    our_names = model.state_dict().keys()

    def is_known(name: str) -> bool:
        return name in our_names or any(table.cell.fullmatch(name) for table in NAME_TABLES)
    try:
        found = find_entry(flatten(data), is_known, entry)
        values = convert_state_dict(found.values, model)
        temporary = {name for name, _ in model.named_buffers()} - set(our_names)  # which TorchScript saves too
        unused_head = {name for name in values if model.aux_head is None and name.startswith('aux_head.')}
        tensors = {name: value for name, value in values.items() if name not in unused_head | temporary and (
            name in our_names or isinstance(value, torch.Tensor))}
        _check_tensors(tensors)
    except ValueError as error:
        raise ValueError(f'{_label(source)}: {error}') from None
    return found._replace(values=tensors, unused=(*found.unused, *['aux_head'] * bool(unused_head)))


def load_tensors(model: NASNet, tensors: Dict[str, torch.Tensor], label: str) -> None:
    """Load tensors with our names. `label` names their source in messages. Raises and warns as above."""
    try:
        has_classifier = _adapt_classifier(tensors, model)
        check_fit(tensors, model)
    except ValueError as error:
        raise ValueError(f'{label}: {error}') from None
    if not has_classifier:
        warnings.warn(f'{label} has no classifier; the model keeps its own', stacklevel=3)
    model.load_state_dict(tensors)


def _label(source: Source) -> str:
    return 'the state dict' if isinstance(source, Mapping) else os.fspath(source)


def convert_state_dict(state_dict: Mapping[str, Any], model: NASNet) -> Dict[str, Any]:
    """Rename the tensors of another package to ours. It serves timm as ``pretrained_filter_fn``.

    Unknown names are kept, so that ``load_state_dict`` reports them. The number of classes is kept too, because timm
    adapts it, except that a background class (the first of 1001) is dropped for a model of 1000. A state dict with our
    own names is returned as it is.

    Raises:
        ValueError: The state dict is that of another network, or two of its tensors have the same name here.
    """
    our_names = model.state_dict().keys()
    if any(name in state_dict for name in our_names):
        return dict(state_dict)
    table = next((table for table in NAME_TABLES if table.recognizes(state_dict)), None)
    if table is None and any('_flat_param' in name for name in state_dict):
        raise ValueError('its tensors were flattened and joined by FSDP; save the whole state dict, for example with '
                         'torch.distributed.checkpoint.state_dict.get_model_state_dict and full_state_dict=True')
    if table is None:
        *others, last = [name for table in NAME_TABLES for name in table.code_bases]
        raise ValueError(f'these are not weights of a NASNet, PNASNet or AmoebaNet from {", ".join(others)} or {last}: '
                         + (f'the tensors are {_join(list(state_dict))}' if state_dict else 'there are no tensors'))
    names = rename(table, list(state_dict), our_names, model.plan.cells)
    converted: Dict[str, Any] = {}
    for name, ours in names.items():
        if ours in converted:
            same = [name for name in names if names[name] == ours]
            raise ValueError(f'several tensors map to {ours}: {_join(same)}')
        converted[ours] = state_dict[name]
    for classifier in _CLASSIFIERS:
        if model.num_classes == 1000 and all(
                getattr(converted.get(name), 'shape', ())[:1] == (1001,) for name in classifier):
            converted.update((name, converted[name][1:]) for name in classifier)
    return converted


def _check_tensors(values: Mapping[str, Any]) -> None:
    """Raise a ValueError for a value that is not a dense tensor of floating-point numbers."""
    for name, value in values.items():
        if not isinstance(value, torch.Tensor):
            kind = value.path if isinstance(value, Foreign) else type(value).__name__
            raise ValueError(f'must hold a state dict, but {name[:60]!r} is a {kind}, not a tensor')
        is_dense = value.layout == torch.strided and not (
            value.is_meta or value.is_quantized or value.is_nested)
        if not (is_dense and (value.is_floating_point() or name.endswith('num_batches_tracked'))):
            raise ValueError(f'{name} must be a dense floating-point tensor, not {value.dtype} with layout '
                             f'{value.layout} on device {value.device}')
        if value.untyped_storage().nbytes() < value.nbytes:
            raise ValueError(f'{name} of shape {tuple(value.shape)} is an expanded view of fewer numbers; save '
                             'tensor.contiguous() instead')


def _adapt_classifier(tensors: Dict[str, torch.Tensor], model: NASNet) -> bool:
    """Add the model's own classifier to `tensors` if they have none, or drop theirs if the model has none.

    Returns:
        False if the model's own classifier was added.
    """
    if not model.num_classes:
        for classifier in _CLASSIFIERS:
            for name in classifier:
                tensors.pop(name, None)
        return True
    if any(name in tensors for name in _CLASSIFIER):
        return True
    own = model.state_dict()
    tensors.update((name, own[name]) for name in _CLASSIFIER)
    return False


def check_fit(tensors: Mapping[str, torch.Tensor], model: NASNet) -> None:
    """Raise a ValueError that names the tensors that do not fit the model, and the argument to change if one helps."""
    wanted = model.state_dict()
    misshapen = [name for name in tensors if name in wanted and tensors[name].shape != wanted[name].shape]
    unknown = [name for name in tensors if name not in wanted]
    missing = [name for name in wanted if name not in tensors and not name.endswith('num_batches_tracked')]
    if not (misshapen or unknown or missing):
        return
    classes = next((tensors[name].shape[0] for name in _CLASSIFIER if name in tensors and tensors[name].ndim), 0)
    is_classifier = {name for classifier in _CLASSIFIERS for name in classifier}.issuperset
    if is_classifier(misshapen) and classes != model.num_classes and not (unknown or missing):
        raise ValueError(
            f'the weights have {classes} classes and the model has {model.num_classes}: create the model with '
            f'num_classes={classes}, or create it with num_classes=0 and call '
            f'model.reset_classifier({model.num_classes}) after loading')
    given, needed = ({name: str(tuple(tensor.shape)) for name, tensor in side.items()} for side in (tensors, wanted))
    lines = ['these are not the weights of this model'] + [
        f'{len(names)} {what}: {_join([text.format(name, given.get(name), needed.get(name)) for name in names])}'
        for what, names, text in (
            ('of the wrong shape', misshapen, '{0} is {1}, the model needs {2}'),
            ('missing', missing, '{0} {2}'),
            ('unknown', unknown, '{0} {1}'),
        ) if names]
    stem = tensors.get(f'{model.skeleton.stem_row.first_conv}.weight')
    if stem is not None and stem.ndim == 4 and stem.shape[1] != model.in_chans:
        lines.append(f'the weights are for images of {stem.shape[1]} channels: '
                     f'create the model with in_chans={stem.shape[1]}')
    auxiliary = tensors.get('aux_head.conv2.weight')
    if auxiliary is not None and auxiliary.ndim == 4 and tuple(auxiliary.shape[1::-1]) != model.skeleton.aux_filters:
        lines.append('the weights have another auxiliary head: create the model with '
                     f'aux_filters={tuple(auxiliary.shape[1::-1])}')
    if any(name.startswith('aux_head.') for name in missing):
        lines.append('the weights have no auxiliary head: create the model with aux_head=False')
    raise ValueError('\n  '.join(lines))

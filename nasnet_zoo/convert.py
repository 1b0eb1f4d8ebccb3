"""Converts weights: a foreign file to a model folder, and a model's weights to the names of another package."""
import os
import warnings
from pathlib import Path
from typing import Any, Dict, Mapping, NamedTuple, Optional, Tuple, Union

import torch
from safetensors.torch import save_file
from timm import create_model

from .checkpoints.load import find_weights, load_tensors
from .checkpoints.names_torch import TORCH
from .checkpoints.renaming import rename
from .files import atomic_write
from .genotype.loader import load_genotype
from .hub.folder import write_folder
from .network.nasnet import NASNet
from .zoo import build, forget_origin

__all__ = ['PACKAGES', 'convert_to_folder', 'export_weights']


class _Peer(NamedTuple):
    """A network of another package.

    Attributes:
        genotype: The genotype of its cells.
        skeleton: The fields of its skeleton that are fixed.
        timm_name: The model of timm that has the same names of tensors.
        builder: Python that builds it, with fields of the network in braces.
        cells_per_stage: How many of the numbers of normal cells it uses, of those of `timm_name`.
    """
    genotype: str
    skeleton: Mapping[str, Any]
    timm_name: str
    builder: str
    cells_per_stage: int = 6


_LARGE = dict(num_cells=6, reductions='extra', skip_reduction_layer_input=True)
_PNASNET = dict(num_cells=4, reductions='replace', skip_reduction_layer_input=False, cell_filters=216, stem_width=96)
_CADENE = '(num_classes={classes}, stem_filters={stem}, penultimate_filters={features})'
PACKAGES: Dict[str, Tuple[_Peer, ...]] = {
    'timm': (
        _Peer('nasnet_a', _LARGE, 'nasnetalarge', (
            "timm.create_model('nasnetalarge', num_classes={classes}, stem_size={stem}, num_features={features})")),
        _Peer('pnasnet5', _PNASNET, 'pnasnet5large', "timm.create_model('pnasnet5large', num_classes={classes})"),
    ),
    'cadene': (
        _Peer('nasnet_a', _LARGE, 'nasnetalarge', f'pretrainedmodels.models.nasnet.NASNetALarge{_CADENE}'),
        _Peer('nasnet_a', dict(num_cells=4, reductions='extra', skip_reduction_layer_input=False), 'nasnetalarge',
              f'pretrainedmodels.models.nasnet_mobile.NASNetAMobile{_CADENE}', cells_per_stage=4),
        _Peer('pnasnet5', _PNASNET, 'pnasnet5large',
              'pretrainedmodels.models.pnasnet.PNASNet5Large(num_classes={classes})'),
    ),
}
_ALWAYS = dict(stem='imagenet', bn_eps=1e-3)  # what their networks have in common
_PADDING = {'timm': 'timm', 'cadene': 'tf'}  # which `pool_padding` of ours is theirs


def convert_to_folder(
        source: Union[str, os.PathLike],
        model: str,
        folder: Union[str, os.PathLike],
        entry: Optional[str] = None,
        **network: Any,
) -> str:
    """Write a model folder with the weights of a foreign file.

    The network has as many classes as the weights, without a background class, and no auxiliary head.

    Args:
        source: What :func:`~nasnet_zoo.load_foreign_weights` takes as a path.
        model: The name of the model that the weights are for, or a genotype.
        folder: The model folder. It is created if necessary.
        entry: Which weights to take if there are several.
        **network: Arguments of ``compile_genotype`` that differ from those of the model.

    Returns:
        What was loaded and what was not, in words; empty if there was no choice.

    Raises:
        ValueError: If the file cannot be read, or if its weights do not fit the network. Nothing is written.
    """
    built = build(model, **network)
    found = find_weights(built, source, entry)
    classifier = found.values.get('head.fc.weight')
    classes = 0 if classifier is None or not classifier.ndim else len(classifier)
    if classes != built.num_classes:
        built.reset_classifier(classes)
    load_tensors(built, found.values, os.fspath(source))
    forget_origin(built)
    write_folder(built, folder)
    return found.describe()


def export_weights(source: str, package: str, file: Union[str, os.PathLike]) -> str:
    """Write the weights of a model under the names of another package, as a state dict.

    Args:
        source: A model folder, or the name of a model that has weights.
        package: One of `PACKAGES`.
        file: The file to write: a safetensors file if its name ends in ``.safetensors``, otherwise a PyTorch file.

    Returns:
        The line of Python that builds the package's network for these weights.

    Raises:
        ValueError: If the package has no network of this structure.

    Warns:
        UserWarning: The package pads pools in another way.
    """
    model = build(source, pretrained=True)
    peer = _find_peer(model, package)
    if model.skeleton.pool_padding != _PADDING[package]:
        warnings.warn(f'{source} pads pools like {model.skeleton.pool_padding!r}; {package} pads them in another way, '
                      'so its network computes other logits from these weights', stacklevel=2)
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()
             if not name.startswith('aux_head.')}
    renamed = {theirs: state[ours] for theirs, ours in _their_names(model, peer).items()}
    with atomic_write(file) as part:
        if Path(file).suffix == '.safetensors':
            save_file(renamed, part, metadata=dict(format='pt'))
        else:
            torch.save(renamed, part)
    return peer.builder.format(
        classes=model.num_classes, stem=model.skeleton.stem_width, features=model.num_features)


def _find_peer(model: NASNet, package: str) -> _Peer:
    """Return the network of a package that has the structure of `model`."""
    if package not in PACKAGES:
        raise ValueError(f'unknown package {package!r}; known: {", ".join(PACKAGES)}')
    problems = []
    for peer in PACKAGES[package]:
        name = peer.builder.partition('(num')[0].rpartition('.')[-1] if package == 'cadene' else peer.timm_name
        wanted = {**_ALWAYS, **peer.skeleton}
        differences = [f'{field}={value!r}' for field, value in wanted.items()
                       if getattr(model.skeleton, field) != value]
        if model.genotype.layout_digest != load_genotype(peer.genotype).layout_digest:
            differences.insert(0, f'the cells of {peer.genotype}')
        if model.in_chans != 3:
            differences.append('in_chans=3')
        if not model.num_classes:
            differences.append('a classifier')
        if not differences:
            return peer
        problems.append(f'{name} would need {", ".join(differences)}')
    raise ValueError(f'{package} has no network of this structure: {"; ".join(problems)}')


def _their_names(model: NASNet, peer: _Peer) -> Dict[str, str]:
    """Return our name for each tensor of another package's network."""
    theirs = []
    for name in create_model(peer.timm_name, device='meta').state_dict():
        match = TORCH.cell.fullmatch(name)
        if not match or match['kind'] != 'cell' or int(match['number']) % 6 < peer.cells_per_stage:
            theirs.append(name)
    return rename(TORCH, theirs, model.state_dict().keys(), model.plan.cells)

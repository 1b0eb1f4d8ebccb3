"""Model folders: models as folders with the files that timm expects in a repository on the Hugging Face Hub.

    model.safetensors  the weights; the file's metadata holds the accuracy that ``nasnet-zoo validate`` measured
    config.json        timm's configuration, with the genotype and everything else that is needed to build the network
    genotype.json      the genotype by itself
    cells.svg          a drawing of the cells, if matplotlib is installed

timm loads such a folder (``local-dir:FOLDER``) and a repository with its files (``hf-hub:OWNER/NAME``) once
`nasnet_zoo` is imported, and so does transformers' ``from_pretrained``. :mod:`nasnet_zoo.hub.publish` adds a model card
and uploads the folder.
"""
import json
import math
import os
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple, Union

from huggingface_hub import try_to_load_from_cache
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from timm.models._hub import save_config_for_hf  # timm has no public function that writes only the configuration

from ..checked import shorten
from ..checkpoints.folder import find_file
from ..drawing import draw
from ..files import atomic_folder, atomic_write, read_safetensors, sort_safetensors_metadata, write_json
from ..model_folder import model_folder
from ..network.measure import output_width
from ..network.nasnet import NASNet
from ..network.rebuild import rebuildable_state
from ..zoo import label_names

__all__ = ['CONFIG', 'WEIGHTS', 'HubError', 'cached_weights', 'read_accuracy', 'read_config', 'record_accuracy',
           'weight_file', 'write_folder']

WEIGHTS, CONFIG = 'model.safetensors', 'config.json'


class HubError(RuntimeError):
    """Raised if a folder is not a model folder, or if a model could not be published."""


def write_folder(
        model: NASNet,
        folder: Union[str, os.PathLike],
        class_names: Optional[Sequence[str]] = None,
        mean: Optional[Sequence[float]] = None,
        std: Optional[Sequence[float]] = None,
        half: bool = False,
) -> Path:
    """Write a model folder: weights, configuration, genotype and, if matplotlib is installed, a drawing of the cells.

    How images are prepared, for instance how they are cropped, is copied from ``model.pretrained_cfg``. Training
    sets it, see :meth:`~nasnet_zoo.data.preprocessing.Preprocessing.write_to`.

    The files appear together, when all of them are complete and after it was checked that the configuration rebuilds
    the network.

    Args:
        model: The network. Its auxiliary head, if it has one, is written too.
        folder: The folder. It is created if necessary.
        class_names: Names of the classes, in the order of the logits. The default is those of the configuration.
        mean: Mean of each channel, on a scale of 0 to 1, by which images are normalised. The default is what
            ``model.pretrained_cfg`` says.
        std: Standard deviation of each channel, likewise.
        half: Write float16 instead of float32, which halves the size.

    Returns:
        The folder.

    Raises:
        ValueError: If modules of the network were changed so that no configuration describes it, if the number of
            class names is not that of its classes, or if `mean` or `std` are not a number for each channel. Nothing is
            written then.
    """
    state = rebuildable_state(model)
    names = _check_names(model, class_names)
    statistics = {name: _check_statistics(name, values, model.in_chans)
                  for name, values in (('mean', mean), ('std', std)) if values is not None}
    tensors = {
        name: (tensor.half() if half and tensor.is_floating_point() else tensor).detach().cpu().contiguous()
        for name, tensor in state.items()}
    with atomic_folder(folder, last=CONFIG) as part:
        with atomic_write(part / WEIGHTS) as file:
            save_file(tensors, file, metadata=dict(format='pt'))
        model.genotype.save(part / 'genotype.json')
        try:
            draw(model.genotype, part / 'cells.svg')
        except ImportError:
            Path(folder, 'cells.svg').unlink(missing_ok=True)  # matplotlib is optional; it may be of other cells
        _write_config(model, part / CONFIG, names, statistics)
        Path(folder, 'model.onnx').unlink(missing_ok=True)  # it was exported from other weights
    return Path(folder)


def _check_names(model: NASNet, class_names: Optional[Sequence[str]]) -> Optional[List[str]]:
    """Return the names of the classes, by default those that the configuration has for them, or None.

    Raises:
        ValueError: If `class_names` are not as many strings as there are classes.
    """
    if not class_names:
        names = label_names(model) or ()
        return list(names) if model.num_classes and len(names) == model.num_classes else None
    wrong = next((name for name in class_names if not isinstance(name, str)), None)
    if wrong is not None or isinstance(class_names, str):
        raise ValueError(f'class_names: must be a list of strings, not {class_names if wrong is None else wrong!r}')
    width = output_width(model)
    if len(class_names) != width:
        raise ValueError(f'class_names: {len(class_names)} names for {width} classes')
    return list(class_names)


def _check_statistics(name: str, values: Sequence[float], channels: int) -> Tuple[float, ...]:
    """Return the mean or the standard deviation of the channels as plain numbers.

    Raises:
        ValueError: If they are not finite numbers, one for each channel, or if a standard deviation is not positive.
    """
    try:
        numbers = tuple(float(value) for value in values)
    except (TypeError, ValueError):
        numbers = ()
    if len(numbers) != channels or not all(
            math.isfinite(number) and (name != 'std' or number > 0) for number in numbers):
        kind = 'positive number' if name == 'std' else 'number'
        raise ValueError(f'{name}: must be a {kind} for each of the {channels} channels, not {shorten(repr(values))}')
    return numbers


def _write_config(
        model: NASNet, path: Path, class_names: Optional[Sequence[str]], statistics: Mapping[str, Tuple[float, ...]],
) -> None:
    """Write config.json. `statistics` are mean and std where they are not those of ``model.pretrained_cfg``."""
    data_config = dict(statistics, input_size=(model.in_chans, *model.pretrained_cfg['input_size'][1:]))
    save_config_for_hf(
        model, path, model_config=dict(label_names=list(class_names)) if class_names else None,
        data_config=data_config)
    config = json.loads(path.read_text(encoding='utf-8'))
    config['pretrained_cfg'].pop('label_names', None)  # stated once, at the top level
    # The architecture 'nasnet' with model_args builds every network of this package, named or not. The number of
    # classes is stated at the top level only, because transformers passes it beside model_args.
    args = {name: value for name, value in model.config.items() if name != 'num_classes'}
    config.update(architecture='nasnet', model_args=args)
    write_json(path, config)


def read_config(folder: Union[str, os.PathLike]) -> Dict[str, Any]:
    """Return the content of a model folder's config.json.

    Raises:
        HubError: If `folder` is not a model folder of this package.
    """
    folder = Path(folder)
    try:
        config = json.loads((folder / CONFIG).read_text(encoding='utf-8'))
    except (OSError, ValueError) as error:
        raise HubError(f'{folder}: is not a model folder: {error}') from None
    if not (folder / WEIGHTS).exists():
        raise HubError(f'{folder}: has no {WEIGHTS}')
    args, cfg = (config.get(name) if isinstance(config, dict) else None for name in ('model_args', 'pretrained_cfg'))
    if not (isinstance(args, dict) and isinstance(args.get('genotype'), dict) and isinstance(cfg, dict)):
        raise HubError(f'{folder / CONFIG}: has no model_args with a genotype; is it a model of this package?')
    return config


def weight_file(source: str, model: NASNet) -> Optional[Path]:
    """Return the local file with the weights of `model`, or None if there is none.

    Args:
        source: What `model` was built from, with ``build(source, pretrained=True)``.
        model: The network.
    """
    folder = model_folder(source)
    file = find_file(folder) if folder else model.pretrained_cfg.get('file')
    return Path(file) if file else None


def cached_weights(model: NASNet) -> Optional[Path]:
    """Return the file in the Hugging Face Hub's cache that `model` was loaded from, or None."""
    repo, _, revision = (model.pretrained_cfg.get('hf_hub_id') or '').partition('@')
    found = try_to_load_from_cache(repo, WEIGHTS, revision=revision or None) if repo else None
    return Path(found) if isinstance(found, str) else None


def read_accuracy(weights: Union[str, os.PathLike]) -> Optional[Dict[str, Any]]:
    """Return the accuracy that :func:`record_accuracy` wrote into a weight file, or None.

    Raises:
        HubError: If the file cannot be read as safetensors.
    """
    try:
        with safe_open(weights, 'pt') as file:
            text = (file.metadata() or {}).get('accuracy', 'null')
    except (OSError, SafetensorError) as error:
        raise HubError(f'{weights}: cannot be read: {error}') from None
    try:
        record = json.loads(text)
    except json.JSONDecodeError:  # an entry of another program
        return None
    return record if isinstance(record, dict) and 'top1' in record else None


def record_accuracy(weights: Union[str, os.PathLike], record: Mapping[str, Any]) -> None:
    """Write `record`, the JSON data that ``nasnet-zoo validate`` prints, into the metadata of a weight file."""
    tensors, metadata = read_safetensors(weights)
    with atomic_write(weights) as part:
        save_file(tensors, part, metadata=dict(metadata, accuracy=json.dumps(record)))
        sort_safetensors_metadata(part)

"""The named models. ``import nasnet_zoo`` registers them with timm."""
import os
import warnings
from pathlib import Path
from typing import Annotated, Any, Callable, Dict, List, Mapping, NamedTuple, Optional, Tuple, Union

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HTTPError
from pydantic import ConfigDict, Field
from timm import create_model, is_model, list_models, list_pretrained
from timm.models import (
    PretrainedCfg,
    build_model_with_cfg,
    generate_default_cfgs,
    register_model,
    resolve_pretrained_cfg,
)
from timm.models._hub import get_cache_dir, hf_split

from .checked import Checked, join_first, shorten, suggest
from .genotype.loader import list_genotypes, load_genotype
from .genotype.schema import Genotype
from .model_folder import model_folder, reading_folder
from .network.nasnet import NASNet, compile_genotype
from .network.plan import plan_network
from .network.skeleton import Side, Skeleton
from .network.stems import STEMS

__all__ = ['build', 'label_names']  # timm's registry adds the models

_NASNET = {'paper_name': 'Learning Transferable Architectures for Scalable Image Recognition',
           'paper_ids': 'arXiv:1707.07012'}
_PNASNET = {'paper_name': 'Progressive Neural Architecture Search', 'paper_ids': 'arXiv:1712.00559'}
_DARTS = {'paper_name': 'DARTS: Differentiable Architecture Search', 'paper_ids': 'arXiv:1806.09055'}
_PC_DARTS = {'paper_name': 'PC-DARTS: Partial Channel Connections for Memory-Efficient Architecture Search',
             'paper_ids': 'arXiv:1907.05737'}
_AMOEBANET = {'paper_name': 'Regularized Evolution for Image Classifier Architecture Search',
              'paper_ids': 'arXiv:1802.01548'}


# The configuration of our own weights, with the statistics of the images that they were trained on; see MODEL_CARD.md.
_CIFAR10_JPEG = dict(
    mean=(0.49125, 0.48209, 0.44652), std=(0.24523, 0.24278, 0.26063), license='apache-2.0', label_names=(
        'airplane', 'automobile', 'bird', 'cat', 'deer', 'dog', 'frog', 'horse', 'ship', 'truck'))
_WEIGHTS = Path(__file__).parent / 'weights'


def _google(name: str) -> Dict[str, str]:
    """Return the entries of timm's configuration for weights that Google published, trained on ImageNet-1k."""
    return dict(url=f'https://storage.googleapis.com/download.tensorflow.org/models/{name}.tar.gz',
                license='apache-2.0', origin_url='https://github.com/tensorflow/models/tree/master/research/slim')


class _Model(NamedTuple):
    """A named model.

    Attributes:
        name: Its name in timm.
        summary: One line that becomes the docstring of its function.
        args: Arguments of :func:`~nasnet_zoo.compile_genotype`.
        paper: The entries of timm's configuration that describe the paper.
        tag: timm's tag of the pretrained weights; empty if there are none.
        cfg: Further entries of timm's configuration: where the weights are, and where their images differ from the
            defaults of the stem.
        fallback: Where else the weights are, if they cannot be downloaded from where `cfg` says.
    """
    name: str
    summary: str
    args: Dict[str, Any]
    paper: Mapping[str, str]
    tag: str = ''
    cfg: Mapping[str, Any] = {}
    fallback: str = ''


_MODELS = (
    _Model('nasnet', 'Any genotype, given by name or as a dict, at any size; see `compile_genotype` for arguments.',
           dict(genotype='nasnet_a'), _NASNET),
    _Model('nasnet_a_mobile', 'NASNet-A (4 @ 1056) for 224x224 images.',
           dict(genotype='nasnet_a', num_cells=4, cell_filters=44), _NASNET, 'tf_in1k', dict(
               **_google('nasnet-a_mobile_04_10_2017')),
           fallback='http://data.lip6.fr/cadene/pretrainedmodels/nasnetamobile-7e03cead.pth'),
    _Model('nasnet_a_5x1536', "NASNet-A (5 @ 1536) for 299x299 images, the paper's (5 @ 1538).",
           dict(genotype='nasnet_a', num_cells=5, cell_filters=64, img_size=299), _NASNET),
    _Model('nasnet_a_7x1920', 'NASNet-A (7 @ 1920) for 299x299 images.',
           dict(genotype='nasnet_a', num_cells=7, cell_filters=80, img_size=299), _NASNET),
    _Model('nasnet_a_large', 'NASNet-A (6 @ 4032) for 331x331 images.',
           dict(genotype='nasnet_a', num_cells=6, cell_filters=168, stem_filters=96,
                skip_reduction_layer_input=True, img_size=331), _NASNET, 'tf_in1k', dict(
               crop_pct=0.911, hf_hub_id='timm/nasnetalarge.tf_in1k', license='apache-2.0'),
           fallback=_google('nasnet-a_large_04_10_2017')['url']),
    _Model('nasnet_a_cifar', 'NASNet-A (6 @ 768) for CIFAR.',
           dict(genotype='nasnet_a', num_cells=6, cell_filters=32, stem='cifar'), _NASNET),
    _Model('nasnet_a_cifar_wide', 'NASNet-A (7 @ 2304) for CIFAR.',
           dict(genotype='nasnet_a', num_cells=7, cell_filters=96, stem='cifar'), _NASNET),
    _Model('nasnet_a_cifar_small', 'NASNet-A (N = 1, F = 24) for CIFAR, small enough to be trained on a laptop.',
           dict(genotype='nasnet_a', num_cells=1, cell_filters=24, stem='cifar'), _NASNET, 'cifar10', dict(
               **_CIFAR10_JPEG, file=str(_WEIGHTS / 'nasnet_a_cifar_small.safetensors'))),
    _Model('nasnet_b_mobile', 'NASNet-B (4 @ 1536) for 224x224 images.',
           dict(genotype='nasnet_b', num_cells=4, cell_filters=48), _NASNET),
    _Model('nasnet_b_cifar', 'NASNet-B (4 @ 1152) for CIFAR.',
           dict(genotype='nasnet_b', num_cells=4, cell_filters=36, stem='cifar'), _NASNET),
    _Model('nasnet_b_cifar_small', 'NASNet-B (N = 1, F = 20) for CIFAR, small enough to be trained on a laptop.',
           dict(genotype='nasnet_b', num_cells=1, cell_filters=20, stem='cifar'), _NASNET, 'cifar10', dict(
               **_CIFAR10_JPEG, file=str(_WEIGHTS / 'nasnet_b_cifar_small.safetensors'))),
    _Model('nasnet_c_mobile', 'NASNet-C (3 @ 960) for 224x224 images.',
           dict(genotype='nasnet_c', num_cells=3, cell_filters=48), _NASNET),
    _Model('nasnet_c_cifar', 'NASNet-C (4 @ 640) for CIFAR.',
           dict(genotype='nasnet_c', num_cells=4, cell_filters=32, stem='cifar'), _NASNET),
    _Model('nasnet_c_cifar_small', 'NASNet-C (N = 1, F = 16) for CIFAR, small enough to be trained on a laptop.',
           dict(genotype='nasnet_c', num_cells=1, cell_filters=16, stem='cifar'), _NASNET, 'cifar10', dict(
               **_CIFAR10_JPEG, file=str(_WEIGHTS / 'nasnet_c_cifar_small.safetensors'))),
    _Model('nasnet_z_cifar_small', 'NASNet-Z (N = 1, F = 31) for CIFAR, from a search on two CPU cores.',
           dict(genotype='nasnet_z', num_cells=1, cell_filters=31, stem='cifar'), {}, 'cifar10', dict(
               **_CIFAR10_JPEG, file=str(_WEIGHTS / 'nasnet_z_cifar_small.safetensors'))),
    _Model('pnasnet5_mobile', 'PNASNet-5 (N = 3, F = 54) for 224x224 images.',
           dict(genotype='pnasnet5', num_cells=3, cell_filters=54, reductions='replace'), _PNASNET, 'tf_in1k',
           _google('pnasnet-5_mobile_2017_12_13')),
    _Model('pnasnet5_large', 'PNASNet-5 (N = 4, F = 216) for 331x331 images.',
           dict(genotype='pnasnet5', num_cells=4, cell_filters=216, reductions='replace', stem_filters=96,
                img_size=331), _PNASNET, 'tf_in1k', dict(
               crop_pct=0.911, hf_hub_id='timm/pnasnet5large.tf_in1k', license='apache-2.0'),
           fallback=_google('pnasnet-5_large_2017_12_13')['url']),
    _Model('amoebanet_a_mobile', 'AmoebaNet-A (N = 4, F = 50) for 224x224 images.',
           dict(genotype='amoebanet_a', num_cells=4, cell_filters=50, drop_path_by_depth=False), _AMOEBANET),
    _Model('amoebanet_b_mobile', 'AmoebaNet-B (N = 3, F = 62) for 224x224 images.',
           dict(genotype='amoebanet_b', num_cells=3, cell_filters=62, drop_path_by_depth=False), _AMOEBANET),
    _Model('amoebanet_c_mobile', 'AmoebaNet-C (N = 4, F = 50) for 224x224 images.',
           dict(genotype='amoebanet_c', num_cells=4, cell_filters=50, drop_path_by_depth=False), _AMOEBANET),
    _Model('amoebanet_a_large', 'AmoebaNet-A (N = 6, F = 190) for 331x331 images.',
           dict(genotype='amoebanet_a', num_cells=6, cell_filters=190, drop_path_by_depth=False, img_size=331),
           _AMOEBANET, cfg=dict(crop_pct=0.911)),
    _Model('darts_v1_cifar', 'DARTS V1 with 20 layers (C = 36) for CIFAR.',
           dict(genotype='darts_v1', num_layers=20, cell_filters=36, stem='darts_cifar'), _DARTS),
    _Model('darts_v1', 'DARTS V1 with 14 layers (C = 48) for 224x224 images.',
           dict(genotype='darts_v1', num_layers=14, cell_filters=48, stem='darts_imagenet'), _DARTS),
    _Model('darts_v2_cifar', 'DARTS V2 with 20 layers (C = 36) for CIFAR.',
           dict(genotype='darts_v2', num_layers=20, cell_filters=36, stem='darts_cifar'), _DARTS),
    _Model('darts_v2', 'DARTS V2 with 14 layers (C = 48) for 224x224 images.',
           dict(genotype='darts_v2', num_layers=14, cell_filters=48, stem='darts_imagenet'), _DARTS),
    _Model('pc_darts_cifar', 'PC-DARTS with 20 layers (C = 36) for CIFAR.',
           dict(genotype='pc_darts_cifar', num_layers=20, cell_filters=36, stem='darts_cifar'), _PC_DARTS),
    _Model('pc_darts', 'PC-DARTS, found on ImageNet, with 14 layers (C = 48) for 224x224 images.',
           dict(genotype='pc_darts_imagenet', num_layers=14, cell_filters=48, stem='darts_imagenet'), _PC_DARTS),
)


def _stem_cfg(args: Mapping[str, Any]) -> Dict[str, Any]:
    """Return the entries of timm's configuration that describe the images for a model with these arguments."""
    return Skeleton(**{name: args[name] for name in ('stem', 'img_size', 'output_stride') if name in args}).data_cfg


default_cfgs = generate_default_cfgs({
    f'{model.name}.{model.tag}'.rstrip('.'): {'url': '', **_stem_cfg(model.args), **model.paper, **model.cfg}
    for model in _MODELS})


def _checkpoint_filter_fn(state_dict: Dict[str, Any], model: NASNet) -> Dict[str, Any]:
    """Convert the tensors of a checkpoint to our names. The auxiliary head is loaded where it fits the model's."""
    from .checkpoints.load import convert_state_dict
    converted = convert_state_dict(state_dict, model)
    wanted = model.state_dict()
    own = {name: tensor for name, tensor in wanted.items() if name.startswith('aux_head.')}
    given = {name: converted.pop(name) for name in list(converted) if name.startswith('aux_head.')}
    missing = [name for name in wanted if name not in {**converted, **own} and not name.endswith(
        'num_batches_tracked') and not name.startswith('head.fc.')]  # timm says nothing if the classifier is replaced
    if missing:
        raise RuntimeError(f'these are not the weights of this model, for which {join_first(missing, 3)} '
                           f'{"is" if len(missing) == 1 else "are"} missing')
    differ = [f'{name} has the shape {list(tensor.shape)} instead of {list(wanted[name].shape)}'
              for name, tensor in converted.items()
              if name in wanted and tensor.shape != wanted[name].shape and not name.startswith('head.fc.')
              and name != f'{model.pretrained_cfg.get("first_conv")}.weight']  # timm adapts it to in_chans
    if differ:
        raise RuntimeError(f'these are not the weights of this model: {join_first(differ, 3)}')
    # Google's files do not count batches. As in timm, a classifier of another number of classes is discarded. The other
    # layers have other shapes if the images have another size.
    layers = [name for name in own if not name.endswith('num_batches_tracked')]
    if all(name in given and (given[name].shape == own[name].shape or name.startswith('aux_head.head.fc.'))
           for name in layers):
        own.update((name, tensor) for name, tensor in given.items()
                   if name in own and tensor.shape == own[name].shape)
    return {**converted, **own}


def _with_source(model: _Model, pretrained_cfg: Any, overlay: Optional[Mapping[str, Any]], cache_dir: Any):
    """Return the overlay with what timm must know of the weights. Raises a RuntimeError if there are none."""
    cfg = resolve_pretrained_cfg(model.name, pretrained_cfg, overlay)
    if not (cfg.has_weights or cfg.state_dict):
        published = [name for name in list_pretrained() if name.split('.')[0] in default_cfgs]
        raise RuntimeError(f'{model.name} has no published weights; use pretrained=False for random ones. '
                           f'Weights exist for: {", ".join(published)}')
    if cfg.source or cfg.file or cfg.state_dict:
        return overlay
    own = default_cfgs[model.name].default
    fallback = model.fallback if (cfg.hf_hub_id, cfg.url) == (own.hf_hub_id, own.url) else ''
    if cfg.hf_hub_id:
        if not fallback or _is_on_hub(cfg.hf_hub_id, cache_dir):
            return overlay
        urls = [fallback]
    else:
        urls = [cfg.url, *filter(None, [fallback])]
    from .pretrained import download_weights
    return dict(overlay or {}, file=str(download_weights(urls, model.args, Path(cache_dir or get_cache_dir()))))


def _is_on_hub(repo: str, cache_dir: Any) -> bool:
    """Return whether a repository's weights can be downloaded or are in the cache; they are in the cache afterwards."""
    name, revision = hf_split(repo)
    try:
        hf_hub_download(name, 'model.safetensors', revision=revision, cache_dir=cache_dir)
    except (OSError, HTTPError) as error:
        warnings.warn(f'{repo} cannot be downloaded from the Hugging Face Hub: {error}', stacklevel=4)
        return False
    return True


class _Facts(Checked):
    """The entries of an untrusted configuration that describe images and classes. timm does not check them."""
    model_config = ConfigDict(extra='ignore', strict=False)
    input_size: Tuple[Annotated[int, Field(ge=1, le=1024)], Side, Side] = (3, 224, 224)
    mean: Tuple[float, ...] = (0.5,)
    std: Tuple[Annotated[float, Field(gt=0)], ...] = (0.5,)
    crop_pct: Annotated[Optional[float], Field(gt=0, le=1)] = None
    num_classes: Annotated[int, Field(ge=0, le=1_000_000)] = 1000
    label_names: Union[None, Tuple[str, ...], Dict[int, str]] = None


def _create(
        model: _Model,
        pretrained: bool,
        pretrained_cfg_overlay: Optional[Mapping[str, Any]] = None,
        **kwargs: Any,
) -> NASNet:
    """Build a model with timm's factory from its arguments, which the caller's `kwargs` override.

    The genotype may come from an untrusted configuration. Therefore it must be a name or data, not a path.
    """
    args, kwargs = model.args, _without_replaced(kwargs)
    genotype = kwargs.get('genotype', args['genotype'])
    if not isinstance(genotype, (str, Mapping)):
        raise TypeError('genotype: must be the name of a built-in genotype or a dict, not a '
                        f'{type(genotype).__name__}; Genotype.to_dict() returns a dict')
    if kwargs.get('features_only') and kwargs.get('feature_cls', 'getter') != 'getter':
        raise ValueError(f'feature_cls: {kwargs["feature_cls"]!r} is not available: cells return lists, which '
                         "timm's hooks and graphs cannot extract; leave it at 'getter'")
    given = kwargs.get('pretrained_cfg')
    if isinstance(given, (dict, PretrainedCfg)):
        facts = given if isinstance(given, dict) else given.to_dict()
        _Facts(**{name: facts[name] for name in _Facts.model_fields if facts.get(name) is not None})
    overlay = {**_cfg_changes(model, pretrained, kwargs), **(pretrained_cfg_overlay or {})}
    if pretrained:
        overlay = _with_source(model, kwargs.get('pretrained_cfg'), overlay, kwargs.get('cache_dir'))
    for name, other in _ALTERNATIVES:
        if kwargs.get(name) is not None:  # a width and a depth can be given either way
            args = {key: value for key, value in args.items() if key != other}
    kwargs = {**args, **kwargs, 'genotype': load_genotype(genotype, allow_path=False)}
    if kwargs.get('features_only'):
        fields = {name: kwargs[name] for name in Skeleton.model_fields if kwargs.get(name) is not None}
        levels = range(len(plan_network(kwargs['genotype'], Skeleton(**fields)).taps))
        kwargs = dict(kwargs, feature_cfg=dict(feature_cls='getter', out_indices=tuple(levels)))
    return build_model_with_cfg(
        compile_genotype, model.name, pretrained,
        pretrained_cfg_overlay=overlay,
        pretrained_filter_fn=_checkpoint_filter_fn,
        **kwargs,
    )


# A width and a depth can be given either way.
_ALTERNATIVES = (('filters', 'cell_filters'), ('num_cells', 'num_layers'), ('num_layers', 'num_cells'))


def _without_replaced(kwargs: Mapping[str, Any]) -> Dict[str, Any]:
    """Return the arguments without those of a stored model that the caller's replace.

    timm adds the arguments that are stored with a model to the caller's, and names them as `pretrained_model_args`.
    """
    stored = kwargs.get('pretrained_model_args') or {}
    given = {name for name, value in kwargs.items() if value is not None and value != stored.get(name)}
    replaced = {other for name, other in _ALTERNATIVES if name in given}
    if 'stem' in given and stored.get('stem') in STEMS:
        replaced |= {*STEMS[stored['stem']].defaults, 'output_stride', 'stem_filters'}
    return {name: value for name, value in kwargs.items() if name not in (replaced & stored.keys()) - given}


def _cfg_changes(model: _Model, pretrained: bool, kwargs: Mapping[str, Any]) -> Dict[str, Any]:
    """Return what changes in a model's configuration if `kwargs` override its arguments."""
    args, changes = model.args, {}
    if isinstance(kwargs.get('pretrained_cfg'), (dict, PretrainedCfg)):
        return changes  # what a checkpoint says of itself takes precedence
    if kwargs.get('genotype', args['genotype']) != args['genotype']:
        changes.update(paper_name=None, paper_ids=None)
    if not pretrained or kwargs.get('num_classes') not in (None, default_cfgs[model.name].default.num_classes):
        changes.update(label_names=None)  # the classifier does not know the classes of the published weights
    if kwargs.keys() & {'stem', 'img_size', 'output_stride'}:
        cfg = _stem_cfg({**args, **kwargs})
        same_data = kwargs.get('stem', args.get('stem')) == args.get('stem')
        changes.update({name: cfg[name] for name in ('input_size', 'pool_size')} if same_data else cfg)
    return changes


def label_names(model: NASNet) -> Optional[List[str]]:
    """Return the names of the classes from the model's configuration, in the order of the logits; None if it has none.

    As in timm, a configuration may hold them as a list or by number.
    """
    known = model.pretrained_cfg.get('label_names') or ()
    if isinstance(known, Mapping):
        by_number = {int(number): name for number, name in known.items()}
        known = [by_number[number] for number in sorted(by_number)]
    return list(known) or None


def forget_origin(model: NASNet) -> None:
    """Drop from a model's configuration what is only true of its published weights: its classes, licence and origin."""
    facts = dict.fromkeys(('label_names', 'license', 'origin_url', 'tag'))
    model.pretrained_cfg = model.default_cfg = {**model.pretrained_cfg, **facts}


def models_of(genotype: str) -> Dict[str, Dict[str, Any]]:
    """Return the named models of a shipped genotype, and the arguments of ``compile_genotype`` that build them."""
    return {model.name: model.args for model in _MODELS if model.args['genotype'] == genotype and len(model.args) > 1}


def shipped_weights() -> List[str]:
    """Return the names, with their tags, of the models whose weights are part of the package."""
    return [f'{model.name}.{model.tag}' for model in _MODELS if 'file' in model.cfg]


def build(source: Union[str, Mapping[str, Any], Genotype], **kwargs: Any) -> NASNet:
    """Build the network that `source` names.

    Args:
        source: The name of a model, a model folder, ``local-dir:FOLDER``, ``hf-hub:OWNER/NAME`` (a model or a
            cell), or a genotype as ``load_genotype`` takes it. A name that a model and a genotype share is that of
            the model.
        **kwargs: Arguments of ``timm.create_model``, or of ``compile_genotype`` for a genotype.

    Raises:
        ValueError: If a folder or a repository holds a network that is not a NASNet, or if `pretrained` is asked of a
            genotype.
    """
    folder = model_folder(source)
    if folder:
        source = f'local-dir:{folder}'
    if isinstance(source, str) and (source.startswith(('hf-hub:', 'local-dir:')) or (
            source.split('.')[0] in list_models(module='zoo') and not source.endswith('.json'))):
        try:
            with reading_folder(folder):
                model = create_model(source, **kwargs)
        except EntryNotFoundError:  # a repository without config.json may be that of a cell
            if kwargs.get('pretrained') or not source.startswith('hf-hub:'):
                raise
            return compile_genotype(source, **kwargs)
        if not isinstance(model, NASNet):
            raise ValueError(f'{source}: is a {type(model).__name__}, not a network of this package')
        return model
    if isinstance(source, str) and not source.endswith('.json') and os.sep not in source:
        if is_model(source):
            raise ValueError(f'{source}: is a model of timm, not of this package')
        names = [*list_models(module='zoo'), *list_genotypes()]
        if source not in names:
            raise ValueError(f'{shorten(source)}: there is no model and no built-in genotype of this name (a path must '
                             f'end in .json); {suggest(source[:100].lower(), names)}')
    if isinstance(source, str) and os.path.isdir(source):
        raise ValueError(f'{source}: is not a model folder, because it has no config.json' + (
            '; its training has not finished: continue it with "nasnet-zoo train --resume"'
            if os.path.exists(os.path.join(source, 'run.json')) else ''))
    if kwargs.pop('pretrained', False):
        load_genotype(source)  # says so if there is nothing of this name
        raise ValueError(f'{source}: is a genotype, which has no weights; name a model or a model folder')
    return compile_genotype(source, **kwargs)


def _entry_point(model: _Model) -> Callable[..., NASNet]:
    """Return the function that timm calls to create a model. timm files it by its name and module."""
    def create(pretrained: bool = False, **kwargs: Any) -> NASNet:
        return _create(model, pretrained, **kwargs)
    create.__name__ = create.__qualname__ = model.name
    create.__doc__ = model.summary
    return create


globals().update((model.name, register_model(_entry_point(model))) for model in _MODELS)

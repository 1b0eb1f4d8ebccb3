"""The named models, registered with timm by ``import nasnet_zoo``."""
import re
from pathlib import Path
from typing import Annotated, Any, Dict, List, Mapping, Optional, Tuple, Union

from pydantic import ConfigDict, Field
from timm import create_model, list_models, list_pretrained
from timm.models import (
    PretrainedCfg,
    build_model_with_cfg,
    generate_default_cfgs,
    register_model,
    resolve_pretrained_cfg,
)
from timm.models._hub import download_cached_file

from .checked import Checked, check
from .genotype.loader import list_genotypes, load_genotype
from .genotype.schema import Genotype
from .network.nasnet import NASNet, compile_genotype
from .network.skeleton import Side, Skeleton

__all__ = ['build', 'label_names', 'model_folder']  # timm's registry adds the models

_HASH = re.compile(r'-[0-9a-f]{8,}\.\w+$')

_NASNET = {'paper_name': 'Learning Transferable Architectures for Scalable Image Recognition',
           'paper_ids': 'arXiv:1707.07012'}
_PNASNET = {'paper_name': 'Progressive Neural Architecture Search', 'paper_ids': 'arXiv:1712.00559'}
_AMOEBANET = {'paper_name': 'Regularized Evolution for Image Classifier Architecture Search',
              'paper_ids': 'arXiv:1802.01548'}


def _cfg(stem: str = 'imagenet', size: int = 224, **kwargs: Any) -> Dict[str, Any]:
    skeleton = Skeleton(stem=stem, img_size=size)
    return {'url': '', **skeleton.data_cfg, **_NASNET, **({'crop_pct': 0.911} if size == 331 else {}), **kwargs}


# Of the images that our own weights were trained on, see MODEL_CARD.md.
_CIFAR10_JPEG = dict(
    mean=(0.49125, 0.48209, 0.44652), std=(0.24523, 0.24278, 0.26063), license='apache-2.0', label_names=(
        'airplane', 'automobile', 'bird', 'cat', 'deer', 'dog', 'frog', 'horse', 'ship', 'truck'))
_WEIGHTS = Path(__file__).parent / 'weights'

default_cfgs = generate_default_cfgs({
    'nasnet': _cfg(),
    'nasnet_a_mobile.tf_in1k': _cfg(
        url='http://data.lip6.fr/cadene/pretrainedmodels/nasnetamobile-7e03cead.pth',
        origin_url='https://github.com/Cadene/pretrained-models.pytorch', license='bsd-3-clause'),
    'nasnet_a_5x1536': _cfg(size=299),
    'nasnet_a_7x1920': _cfg(size=299),
    'nasnet_a_large.tf_in1k': _cfg(
        size=331, hf_hub_id='timm/nasnetalarge.tf_in1k', license='apache-2.0'),
    'nasnet_a_cifar': _cfg('cifar', 32),
    'nasnet_a_cifar_wide': _cfg('cifar', 32),
    'nasnet_a_cifar_small.cifar10': _cfg(
        'cifar', 32, file=str(_WEIGHTS / 'nasnet_a_cifar_small.safetensors'), **_CIFAR10_JPEG),
    'nasnet_b_mobile': _cfg(),
    'nasnet_b_cifar': _cfg('cifar', 32),
    'nasnet_b_cifar_small.cifar10': _cfg(
        'cifar', 32, file=str(_WEIGHTS / 'nasnet_b_cifar_small.safetensors'), **_CIFAR10_JPEG),
    'nasnet_c_mobile': _cfg(),
    'nasnet_c_cifar': _cfg('cifar', 32),
    'nasnet_c_cifar_small.cifar10': _cfg(
        'cifar', 32, file=str(_WEIGHTS / 'nasnet_c_cifar_small.safetensors'), **_CIFAR10_JPEG),
    'pnasnet5_mobile': _cfg(**_PNASNET),
    'pnasnet5_large.tf_in1k': _cfg(
        size=331, hf_hub_id='timm/pnasnet5large.tf_in1k', license='apache-2.0', **_PNASNET),
    'amoebanet_a_mobile': _cfg(**_AMOEBANET),
    'amoebanet_b_mobile': _cfg(**_AMOEBANET),
    'amoebanet_c_mobile': _cfg(**_AMOEBANET),
    'amoebanet_a_large': _cfg(size=331, **_AMOEBANET),
})


def _checkpoint_filter_fn(state_dict: Dict[str, Any], model: NASNet) -> Dict[str, Any]:
    """Other people's names to ours; and the auxiliary head, if the model has one: the file's where it fits."""
    from .checkpoints.load import convert_state_dict
    converted = convert_state_dict(state_dict, model)
    own = {name: tensor for name, tensor in model.state_dict().items() if name.startswith('aux_head.')}
    given = {name: converted.pop(name) for name in list(converted) if name.startswith('aux_head.')}
    if given.keys() == own.keys():  # timm discards the classifier of another number of classes, so do we
        own.update((name, tensor) for name, tensor in given.items()
                   if tensor.shape == own[name].shape or not name.startswith('aux_head.head.fc.'))
    return {**converted, **own}


def _with_source(variant: str, pretrained_cfg: Any, overlay: Optional[Mapping[str, Any]], cache_dir: Any):
    """The overlay with what timm needs to know of the weights, or an error that says what weights there are."""
    cfg = resolve_pretrained_cfg(variant, pretrained_cfg, overlay)
    if not (cfg.has_weights or cfg.state_dict):
        published = [name for name in list_pretrained() if name.split('.')[0] in default_cfgs]
        raise RuntimeError(f'{variant} has no published weights; use pretrained=False for random ones. '
                           f'Weights exist for: {", ".join(published)}')
    if cfg.source is None and not (cfg.file or cfg.state_dict or cfg.hf_hub_id) and cfg.url.startswith('http://'):
        # Nothing but the hash in its name vouches for a file that comes by plain HTTP; timm would not check it.
        if not _HASH.search(cfg.url):
            raise RuntimeError(f'{cfg.url} has no hash in its name, and plain HTTP is not to be trusted without')
        return dict(overlay or {}, file=download_cached_file(cfg.url, check_hash=True, cache_dir=cache_dir))
    return overlay


class _Facts(Checked):
    """What somebody else's configuration may say of images and classes; timm believes anything."""
    model_config = ConfigDict(extra='ignore', strict=False)
    input_size: Tuple[Annotated[int, Field(ge=1, le=1024)], Side, Side] = (3, 224, 224)
    mean: Tuple[float, ...] = (0.5,)
    std: Tuple[Annotated[float, Field(gt=0)], ...] = (0.5,)
    crop_pct: Annotated[Optional[float], Field(gt=0, le=1)] = None
    num_classes: Annotated[int, Field(ge=0, le=1_000_000)] = 1000
    label_names: Union[None, Tuple[str, ...], Dict[int, str]] = None


def _create(
        variant: str,
        pretrained: bool,
        args: Dict[str, Any],
        pretrained_cfg_overlay: Optional[Mapping[str, Any]] = None,
        **kwargs: Any,
) -> NASNet:
    """Build a model of `args`, which the caller's `kwargs` override, by timm's machinery.

    A genotype may come from a configuration of somebody else's, so it is a name or data and no path.
    """
    genotype = kwargs.get('genotype', args['genotype'])
    if not isinstance(genotype, (str, Mapping)):
        raise TypeError(f'genotype: must be a shipped name or a dict, not a {type(genotype).__name__}; '
                        'a Genotype gives its dict by to_dict()')
    if kwargs.get('features_only') and kwargs.get('feature_cls', 'getter') != 'getter':
        raise ValueError(f'feature_cls: {kwargs["feature_cls"]!r} is not available: a cell hands on a list, which '
                         "hooks and graphs cannot tap; leave it at 'getter'")
    given = kwargs.get('pretrained_cfg')
    if isinstance(given, (dict, PretrainedCfg)):
        facts = given if isinstance(given, dict) else given.to_dict()
        check(_Facts, {name: facts[name] for name in _Facts.model_fields if facts.get(name) is not None})
    overlay = {**_cfg_changes(args, kwargs), **(pretrained_cfg_overlay or {})}
    if pretrained:
        overlay = _with_source(variant, kwargs.get('pretrained_cfg'), overlay, kwargs.get('cache_dir'))
    if kwargs.get('filters') is not None:  # a width can be given either way
        args = {name: value for name, value in args.items() if name != 'cell_filters'}
    kwargs = {**args, **kwargs, 'genotype': load_genotype(genotype, allow_path=False)}
    levels = 3 if kwargs.get('stem') == 'cifar' else 5
    return build_model_with_cfg(
        compile_genotype, variant, pretrained,
        pretrained_cfg_overlay=overlay,
        pretrained_filter_fn=_checkpoint_filter_fn,
        feature_cfg=dict(feature_cls='getter', out_indices=tuple(range(levels))),
        **kwargs,
    )


def _cfg_changes(args: Mapping[str, Any], kwargs: Mapping[str, Any]) -> Dict[str, Any]:
    """What is no longer true of a variant's cfg when `kwargs` override its `args`."""
    changes = {}
    if isinstance(kwargs.get('pretrained_cfg'), (dict, PretrainedCfg)):
        return changes  # what a checkpoint says of itself comes first
    if kwargs.get('genotype', args['genotype']) != args['genotype']:
        changes.update(paper_name=None, paper_ids=None)
    if 'stem' in kwargs or 'img_size' in kwargs:
        fields = {**args, **kwargs}
        cfg = check(Skeleton, {name: fields[name] for name in ('stem', 'img_size') if name in fields}).data_cfg
        same_data = kwargs.get('stem', args.get('stem')) == args.get('stem')
        changes.update({name: cfg[name] for name in ('input_size', 'pool_size')} if same_data else cfg)
    return changes


def model_folder(source: Any) -> Optional[Path]:
    """The model folder that `source` names, as FOLDER or ``local-dir:FOLDER``; None for anything else."""
    folder = Path(source.removeprefix('local-dir:')) if isinstance(source, str) else None
    return folder if folder and (folder / 'config.json').is_file() else None


def label_names(model: NASNet) -> Optional[List[str]]:
    """The classes' names as the model's configuration has them, in the order of the logits; None where it has none.

    A configuration, timm's too, may give them as a list or by number.
    """
    known = model.pretrained_cfg.get('label_names') or ()
    if isinstance(known, Mapping):
        by_number = {int(number): name for number, name in known.items()}
        known = [by_number[number] for number in sorted(by_number)]
    return list(known) or None


def build(source: Union[str, Mapping[str, Any], Genotype], **kwargs: Any) -> NASNet:
    """The network that `source` names, with `kwargs` for it.

    Args:
        source: A model of the zoo, a model folder, ``local-dir:FOLDER``, ``hf-hub:OWNER/NAME``, or what
            ``load_genotype`` takes.

    Raises:
        ValueError: For a folder or a repository with another kind of network.
    """
    folder = model_folder(source)
    if folder:
        source = f'local-dir:{folder}'
    if isinstance(source, str) and (source.startswith(('hf-hub:', 'local-dir:')) or (
            source not in list_genotypes() and source.split('.')[0] in list_models(module='zoo'))):
        model = create_model(source, **kwargs)
        if not isinstance(model, NASNet):
            raise ValueError(f'{source}: is a {type(model).__name__}, not a network of this package')
        return model
    if kwargs.pop('pretrained', False):
        raise ValueError(f'{source}: is a genotype, which has no weights; name a model or a model folder')
    return compile_genotype(source, **kwargs)


@register_model
def nasnet(pretrained: bool = False, **kwargs: Any) -> NASNet:
    """Any genotype, a shipped name or a dict, at any size; see `compile_genotype` for the arguments."""
    return _create('nasnet', pretrained, dict(genotype='nasnet_a'), **kwargs)


@register_model
def nasnet_a_mobile(pretrained: bool = False, **kwargs: Any) -> NASNet:
    """NASNet-A (4 @ 1056) for 224x224 images."""
    args = dict(genotype='nasnet_a', num_cells=4, cell_filters=44)
    return _create('nasnet_a_mobile', pretrained, args, **kwargs)


@register_model
def nasnet_a_5x1536(pretrained: bool = False, **kwargs: Any) -> NASNet:
    """NASNet-A (5 @ 1536) for 299x299 images, the paper's (5 @ 1538)."""
    args = dict(genotype='nasnet_a', num_cells=5, cell_filters=64, img_size=299)
    return _create('nasnet_a_5x1536', pretrained, args, **kwargs)


@register_model
def nasnet_a_7x1920(pretrained: bool = False, **kwargs: Any) -> NASNet:
    """NASNet-A (7 @ 1920) for 299x299 images."""
    args = dict(genotype='nasnet_a', num_cells=7, cell_filters=80, img_size=299)
    return _create('nasnet_a_7x1920', pretrained, args, **kwargs)


@register_model
def nasnet_a_large(pretrained: bool = False, **kwargs: Any) -> NASNet:
    """NASNet-A (6 @ 4032) for 331x331 images."""
    args = dict(
        genotype='nasnet_a', num_cells=6, cell_filters=168, stem_filters=96, skip_reduction_layer_input=True,
        img_size=331)
    return _create('nasnet_a_large', pretrained, args, **kwargs)


@register_model
def nasnet_a_cifar(pretrained: bool = False, **kwargs: Any) -> NASNet:
    """NASNet-A (6 @ 768) for CIFAR."""
    args = dict(genotype='nasnet_a', num_cells=6, cell_filters=32, stem='cifar')
    return _create('nasnet_a_cifar', pretrained, args, **kwargs)


@register_model
def nasnet_a_cifar_wide(pretrained: bool = False, **kwargs: Any) -> NASNet:
    """NASNet-A (7 @ 2304) for CIFAR."""
    args = dict(genotype='nasnet_a', num_cells=7, cell_filters=96, stem='cifar')
    return _create('nasnet_a_cifar_wide', pretrained, args, **kwargs)


@register_model
def nasnet_a_cifar_small(pretrained: bool = False, **kwargs: Any) -> NASNet:
    """NASNet-A (N = 1, F = 24) for CIFAR, small enough to be trained on a laptop."""
    args = dict(genotype='nasnet_a', num_cells=1, cell_filters=24, stem='cifar')
    return _create('nasnet_a_cifar_small', pretrained, args, **kwargs)


@register_model
def nasnet_b_mobile(pretrained: bool = False, **kwargs: Any) -> NASNet:
    """NASNet-B (4 @ 1536) for 224x224 images."""
    args = dict(genotype='nasnet_b', num_cells=4, cell_filters=48)
    return _create('nasnet_b_mobile', pretrained, args, **kwargs)


@register_model
def nasnet_b_cifar(pretrained: bool = False, **kwargs: Any) -> NASNet:
    """NASNet-B (4 @ 1152) for CIFAR."""
    args = dict(genotype='nasnet_b', num_cells=4, cell_filters=36, stem='cifar')
    return _create('nasnet_b_cifar', pretrained, args, **kwargs)


@register_model
def nasnet_b_cifar_small(pretrained: bool = False, **kwargs: Any) -> NASNet:
    """NASNet-B (N = 1, F = 20) for CIFAR, small enough to be trained on a laptop."""
    args = dict(genotype='nasnet_b', num_cells=1, cell_filters=20, stem='cifar')
    return _create('nasnet_b_cifar_small', pretrained, args, **kwargs)


@register_model
def nasnet_c_mobile(pretrained: bool = False, **kwargs: Any) -> NASNet:
    """NASNet-C (3 @ 960) for 224x224 images."""
    args = dict(genotype='nasnet_c', num_cells=3, cell_filters=48)
    return _create('nasnet_c_mobile', pretrained, args, **kwargs)


@register_model
def nasnet_c_cifar(pretrained: bool = False, **kwargs: Any) -> NASNet:
    """NASNet-C (4 @ 640) for CIFAR."""
    args = dict(genotype='nasnet_c', num_cells=4, cell_filters=32, stem='cifar')
    return _create('nasnet_c_cifar', pretrained, args, **kwargs)


@register_model
def nasnet_c_cifar_small(pretrained: bool = False, **kwargs: Any) -> NASNet:
    """NASNet-C (N = 1, F = 16) for CIFAR, small enough to be trained on a laptop."""
    args = dict(genotype='nasnet_c', num_cells=1, cell_filters=16, stem='cifar')
    return _create('nasnet_c_cifar_small', pretrained, args, **kwargs)


@register_model
def pnasnet5_mobile(pretrained: bool = False, **kwargs: Any) -> NASNet:
    """PNASNet-5 (N = 3, F = 54) for 224x224 images."""
    args = dict(genotype='pnasnet5', num_cells=3, cell_filters=54, reductions='replace')
    return _create('pnasnet5_mobile', pretrained, args, **kwargs)


@register_model
def pnasnet5_large(pretrained: bool = False, **kwargs: Any) -> NASNet:
    """PNASNet-5 (N = 4, F = 216) for 331x331 images."""
    args = dict(
        genotype='pnasnet5', num_cells=4, cell_filters=216, reductions='replace', stem_filters=96, img_size=331)
    return _create('pnasnet5_large', pretrained, args, **kwargs)


@register_model
def amoebanet_a_mobile(pretrained: bool = False, **kwargs: Any) -> NASNet:
    """AmoebaNet-A (N = 4, F = 50) for 224x224 images."""
    args = dict(genotype='amoebanet_a', num_cells=4, cell_filters=50, drop_path_by_depth=False)
    return _create('amoebanet_a_mobile', pretrained, args, **kwargs)


@register_model
def amoebanet_b_mobile(pretrained: bool = False, **kwargs: Any) -> NASNet:
    """AmoebaNet-B (N = 3, F = 62) for 224x224 images."""
    args = dict(genotype='amoebanet_b', num_cells=3, cell_filters=62, drop_path_by_depth=False)
    return _create('amoebanet_b_mobile', pretrained, args, **kwargs)


@register_model
def amoebanet_c_mobile(pretrained: bool = False, **kwargs: Any) -> NASNet:
    """AmoebaNet-C (N = 4, F = 50) for 224x224 images."""
    args = dict(genotype='amoebanet_c', num_cells=4, cell_filters=50, drop_path_by_depth=False)
    return _create('amoebanet_c_mobile', pretrained, args, **kwargs)


@register_model
def amoebanet_a_large(pretrained: bool = False, **kwargs: Any) -> NASNet:
    """AmoebaNet-A (N = 6, F = 190) for 331x331 images."""
    args = dict(genotype='amoebanet_a', num_cells=6, cell_filters=190, drop_path_by_depth=False, img_size=331)
    return _create('amoebanet_a_large', pretrained, args, **kwargs)

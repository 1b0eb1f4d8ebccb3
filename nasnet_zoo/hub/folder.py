"""A model as a folder in timm's hub layout: written, described, pushed.

    model.safetensors  the weights, and in the file's metadata the accuracy that ``nasnet-zoo validate`` measured
    config.json        timm's, with the genotype and all else that rebuilds the network
    genotype.json, cells.svg, README.md   for people; model.onnx if wanted

timm reads such a folder (``local-dir:``) and such a repository (``hf-hub:``), once `nasnet_zoo` is imported.
"""
import json
import os
import re
from pathlib import Path
from typing import Any, Dict, Mapping, Optional, Sequence, Union

from huggingface_hub import CommitOperationAdd, EvalResult, HfApi, ModelCardData, try_to_load_from_cache
from huggingface_hub.errors import (
    HFValidationError,
    HTTPError,
    LocalTokenNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import validate_repo_id
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from timm.models._hub import save_config_for_hf

from ..files import atomic_write, read_safetensors
from ..network.nasnet import NASNet
from ..zoo import build, label_names, model_folder

__all__ = ['HubError', 'PUBLISHED', 'weight_file', 'cached_weights', 'write_folder', 'record_accuracy', 'read_accuracy',
           'write_card', 'prepare', 'push']

WEIGHTS, CONFIG = 'model.safetensors', 'config.json'
PUBLISHED = (WEIGHTS, CONFIG, 'genotype.json', 'cells.svg', 'model.onnx', 'README.md', 'report.json', 'log.csv',
             'curve.png')


_OURS = '<!-- Written by nasnet-zoo at each push; remove this line to keep words of your own. -->'


class HubError(RuntimeError):
    """A folder that is no model, or a push that did not happen, and why."""


def write_folder(
        model: NASNet,
        folder: Union[str, os.PathLike],
        class_names: Optional[Sequence[str]] = None,
        mean: Optional[Sequence[float]] = None,
        std: Optional[Sequence[float]] = None,
        half: bool = False,
) -> Path:
    """Write a model folder: weights, configuration, genotype and, with matplotlib, a picture of the cells.

    Args:
        model: Its auxiliary head, if any, is written too.
        folder: It is made if need be.
        class_names: In the order of the logits.
        mean, std: Of the channels, over 0 to 1, that input is normalised by; the network's own by default.
        half: Write float16, half the size.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / 'model.onnx').unlink(missing_ok=True)  # of other weights
    tensors = {
        name: (tensor.half() if half and tensor.is_floating_point() else tensor).detach().cpu().contiguous()
        for name, tensor in model.state_dict().items()}
    with atomic_write(folder / WEIGHTS) as part:
        save_file(tensors, part, metadata=dict(format='pt'))
    data_config = {name: tuple(values) for name, values in (('mean', mean), ('std', std)) if values is not None}
    data_config['input_size'] = (model.in_chans, *model.skeleton.size)
    with atomic_write(folder / CONFIG) as part:
        save_config_for_hf(
            model, part, model_config=dict(label_names=list(class_names)) if class_names else None,
            data_config=data_config)
        # With model_args 'nasnet' rebuilds any of our networks, a pruned or a named one alike.
        config = dict(json.loads(part.read_text()), architecture='nasnet', model_args=model.config)
        part.write_text(json.dumps(config, indent=2) + '\n')
    with atomic_write(folder / 'genotype.json') as part:
        part.write_text(model.genotype.dumps())
    try:
        from ..drawing import draw
        draw(model.genotype, folder / 'cells.svg')
    except ImportError:
        pass  # matplotlib is left out by choice
    return folder


def weight_file(source: str, model: NASNet) -> Optional[Path]:
    """Where the weights of `model` lie, which ``build(source, pretrained=True)`` made; None where that is not known."""
    folder = model_folder(source)
    file = folder / WEIGHTS if folder else model.pretrained_cfg.get('file')
    return Path(file) if file else None


def cached_weights(model: NASNet) -> Optional[Path]:
    """The file in the hub's cache from which the weights of `model` came; None where they did not."""
    repo, _, revision = (model.pretrained_cfg.get('hf_hub_id') or '').partition('@')
    found = try_to_load_from_cache(repo, WEIGHTS, revision=revision or None) if repo else None
    return Path(found) if isinstance(found, str) else None


def read_accuracy(weights: Union[str, os.PathLike]) -> Optional[Dict[str, Any]]:
    """What :func:`record_accuracy` wrote into a weight file, None for nothing.

    Raises:
        HubError: For a file that is no weight file.
    """
    try:
        with safe_open(weights, 'pt') as file:
            record = (file.metadata() or {}).get('accuracy')
        return record and json.loads(record)
    except (OSError, SafetensorError, json.JSONDecodeError) as error:
        raise HubError(f'{weights}: cannot be read: {error}') from None


def record_accuracy(weights: Union[str, os.PathLike], record: Mapping[str, Any]) -> None:
    """Write `record`, JSON data of ``nasnet-zoo validate``, into a weight file's metadata."""
    tensors, metadata = read_safetensors(weights)
    with atomic_write(weights) as part:
        save_file(tensors, part, metadata=dict(metadata, accuracy=json.dumps(record)))


def write_card(
        folder: Union[str, os.PathLike],
        repo_id: str,
        license: Optional[str] = None,
        tags: Sequence[str] = (),
) -> Path:
    """Write README.md: what the model is, what it reaches, how to load it, and the hub's metadata.

    One that somebody else wrote, without the line that says so, is left as it is. The licence is by default the one in
    the configuration, or Apache-2.0.

    Raises:
        HubError: For a folder that is no model folder.
    """
    folder = Path(folder)
    path = folder / 'README.md'
    if path.exists() and _OURS not in path.read_text():
        return path
    config = _read_config(folder)
    license = license or config['pretrained_cfg'].get('license') or 'apache-2.0'
    args, record = config['model_args'], read_accuracy(folder / WEIGHTS)
    genotype = args['genotype']['name']
    results, datasets, figures = None, [], 'Its accuracy has not been measured.'
    if record:
        datasets = [record['dataset']]
        slug = re.sub(r'[^a-z0-9]+', '-', record['dataset'].lower()).strip('-')
        results = [EvalResult(
            task_type='image-classification', dataset_type=slug, dataset_name=record['dataset'],
            dataset_split=record['split'], metric_type=metric, metric_name=title,
            metric_value=round(100 * record[name], 2)) for name, metric, title in (
                ('top1', 'accuracy', 'Top-1 accuracy'), ('top5', 'top_5_accuracy', 'Top-5 accuracy'))]
        low, high = record['interval_95']
        figures = (
            f'| data | images | top-1 | 95 % interval | top-5 |\n|---|---|---|---|---|\n'
            f'| {record["dataset"]}, {record["split"]} | {record["count"]:,} | {record["top1"]:.2%} | '
            f'{low:.2%} to {high:.2%} | {record["top5"]:.2%} |\n\nMeasured by `nasnet-zoo validate`.')
    data = ModelCardData(
        library_name='timm', license=license, pipeline_tag='image-classification', model_name=repo_id.split('/')[-1],
        tags=['image-classification', 'timm', 'nasnet', *tags], eval_results=results,
        **({'datasets': [re.sub(r'[^\w.-]+', '-', name) for name in datasets]} if datasets else {}))
    picture = '\n![The cells](cells.svg)\n' if (folder / 'cells.svg').exists() else ''
    text = f'''---
{data.to_yaml()}
---
{_OURS}
# {repo_id.split('/')[-1]}

An image classifier of {genotype} cells (N = {args['num_cells']}, F = {args['cell_filters']}, {args['stem']} stem) for \
images of {' x '.join(map(str, config['pretrained_cfg']['input_size']))} and {config['num_classes']} classes. The \
genotype is in config.json and, by itself, in genotype.json.
{picture}
## Load

```python
import nasnet_zoo  # pip install nasnet-zoo; it teaches timm the architecture
import timm

model = timm.create_model('hf-hub:{repo_id}', pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
```

## Accuracy

{figures}
'''
    with atomic_write(path) as part:
        part.write_text(text)
    return path


def prepare(
        source: Union[str, os.PathLike],
        folder: Union[str, os.PathLike],
        repo_id: str,
        license: Optional[str] = None,
        tags: Sequence[str] = (),
        onnx: bool = False,
) -> Path:
    """Make a folder ready to push: card, picture and, if wanted, model.onnx.

    Args:
        source: A model folder, or a model of the zoo with weights.
        folder: Where a model of the zoo is written to.
        repo_id, license, tags: For the card.
        onnx: Export too, for images as the network's configuration has them.

    Returns:
        The folder: `source` itself if it is one.

    Raises:
        HubError: For a source that is neither.
    """
    record = None
    if not Path(source).is_dir():
        model = build(os.fspath(source), pretrained=True).eval()
        cfg = model.pretrained_cfg
        if Path(cfg.get('file') or '').suffix == '.safetensors':
            record = read_accuracy(cfg['file'])
        source = write_folder(model, folder, label_names(model), cfg['mean'], cfg['std'])
        if record:
            record_accuracy(source / WEIGHTS, record)
    folder = Path(source)
    _read_config(folder)
    if onnx:
        from ..deploy.export import export_onnx
        model = build(f'local-dir:{folder}', pretrained=True).eval()
        export_onnx(model, folder / 'model.onnx')
    write_card(folder, repo_id, license, tags)
    return folder


def _read_config(folder: Path) -> Dict[str, Any]:
    try:
        config = json.loads((folder / CONFIG).read_text())
    except (OSError, ValueError) as error:
        raise HubError(f'{folder}: is no model folder: {error}') from None
    if not (folder / WEIGHTS).exists():
        raise HubError(f'{folder}: has no {WEIGHTS}')
    args, facts = (config.get(name) if isinstance(config, dict) else None for name in ('model_args', 'pretrained_cfg'))
    if not (isinstance(args, dict) and isinstance(args.get('genotype'), dict) and isinstance(facts, dict)):
        raise HubError(f'{folder / CONFIG}: has no model_args with a genotype; is it a model of this package?')
    return config


def push(
        folder: Union[str, os.PathLike],
        repo_id: str,
        private: bool = False,
        revision: Optional[str] = None,
        message: str = 'Upload a model of nasnet-zoo',
        token: Optional[str] = None,
        dry_run: bool = False,
) -> Dict[str, Any]:
    """Push a model folder's files as one commit: all or nothing. What the hub has already is not uploaded again.

    The weights must carry their accuracy, see :func:`record_accuracy`.

    Args:
        folder: Made by :func:`write_folder`; only :data:`PUBLISHED` files are pushed.
        repo_id: OWNER/NAME; it is made if need be.
        private: Make it private. A repository that is public already is refused, not changed.
        revision: Branch; made if need be.
        message: Of the commit.
        token: The hub's; by default that of ``hf auth login`` or ``HF_TOKEN``.
        dry_run: Say what would be pushed, without the network.

    Returns:
        JSON data: ``repo_id``, ``revision``, ``files`` with their sizes, and ``url`` and ``commit`` of what the
        branch has afterwards (None for a dry run).

    Raises:
        HubError: Where it did not happen.
    """
    folder = Path(folder)
    _read_config(folder)
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise HubError(f'{repo_id}: is no OWNER/NAME: {error}') from None
    if not read_accuracy(folder / WEIGHTS):
        raise HubError(f'{folder}: nobody knows how good it is; nasnet-zoo validate {folder} --data … --record')
    files = {name: (folder / name).stat().st_size for name in PUBLISHED if (folder / name).exists()}
    report = dict(repo_id=repo_id, revision=revision or 'main', files=files, url=None, commit=None)
    if dry_run:
        return report
    api = HfApi(token=token)
    # Not upload_folder, which may make several commits and may repeat one whose answer was lost.
    operations = [CommitOperationAdd(name, str(folder / name)) for name in files]
    try:
        api.create_repo(repo_id, private=private, exist_ok=True)
        is_private = not private or api.repo_info(repo_id).private
        if revision:
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        if is_private:
            commit = api.create_commit(repo_id, operations, commit_message=message, revision=revision)
            return dict(report, url=str(commit.commit_url), commit=commit.oid)
    except (HTTPError, RuntimeError, ValueError, OSError) as error:
        raise HubError(f'{repo_id}: {_explain(error)}') from None
    raise HubError(f'{repo_id}: is public already; make it private on the hub or choose another name')


def _explain(error: BaseException) -> str:
    """What went wrong with the hub, and the mend."""
    if type(error) is RuntimeError and error.__cause__:  # the client's, around a failed upload
        error = error.__cause__
    status = getattr(getattr(error, 'response', None), 'status_code', None)
    if isinstance(error, RevisionNotFoundError):
        return 'has no such revision'
    if isinstance(error, (LocalTokenNotFoundError, RepositoryNotFoundError)) or status == 401:
        return ('does not exist, or the hub wants to know who you are: hf auth login, or HF_TOKEN with a token that '
                'may write')
    if status == 403:
        return 'your token may not write here'
    what = status or f'{type(error).__name__}: {str(error).splitlines()[0] if str(error) else "no answer"}'
    return (f'the hub did not answer as it should ({what}). A push is one commit, so all of it was published or '
            'nothing; push again to find out, what is there is not sent again')

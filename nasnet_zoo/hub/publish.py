"""Writes the model card of a model folder, and uploads the folder to the Hugging Face Hub as one commit."""
import os
import re
from pathlib import Path
from typing import Any, Dict, Optional, Sequence, Tuple, Union

from huggingface_hub import CommitOperationAdd, EvalResult, HfApi, ModelCardData
from huggingface_hub.errors import (
    HFValidationError,
    HTTPError,
    LocalTokenNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import validate_repo_id

from ..deploy.export import export_onnx
from ..files import write_utf8
from ..network.skeleton import depth_label
from ..zoo import build, label_names
from .folder import CONFIG, WEIGHTS, HubError, read_accuracy, read_config, record_accuracy, write_folder

__all__ = ['PUBLISHED', 'check_repo_id', 'prepare', 'push', 'upload', 'write_card']

PUBLISHED = (WEIGHTS, CONFIG, 'genotype.json', 'cells.svg', 'model.onnx', 'README.md', 'report.json', 'log.csv',
             'curve.png')  # the files of a model folder that are uploaded

_MARK = '<!-- Written by nasnet-zoo at each push; remove this line to keep words of your own. -->'
_CARD = '''---
{metadata}
---
{mark}
# {name}

An image classifier built from {genotype} cells ({depth}, F = {cell_filters}, {stem} stem). It takes images of \
{input_size} (channels x height x width) and distinguishes {num_classes} \
classes. The genotype is in config.json and, by itself, in genotype.json.
{picture}
## Load

```python
import nasnet_zoo  # pip install nasnet-zoo; registers the architecture with timm
import timm

model = timm.create_model('hf-hub:{repo_id}', pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
```

## Accuracy

{accuracy}
'''


def write_card(
        folder: Union[str, os.PathLike],
        repo_id: str,
        license: Optional[str] = None,
        tags: Sequence[str] = (),
) -> Path:
    """Write the model card, README.md: what the model is, its accuracy, how to load it, and metadata for the Hub.

    A README.md that does not contain the line that marks a generated card is left as it is.

    Args:
        folder: A model folder.
        repo_id: The repository, OWNER/NAME.
        license: The Hub's identifier of the weights' licence. The default is the licence in the configuration, or
            apache-2.0 if it has none.
        tags: More tags for the Hub.

    Raises:
        HubError: If `folder` is not a model folder.
    """
    folder = Path(folder)
    path = folder / 'README.md'
    if path.exists() and _MARK not in path.read_text(encoding='utf-8'):
        return path
    config, record = read_config(folder), read_accuracy(folder / WEIGHTS)
    args, cfg = config['model_args'], config['pretrained_cfg']
    name = repo_id.split('/')[-1]
    results, table = _results(record)
    metadata = ModelCardData(
        library_name='timm', license=license or cfg.get('license') or 'apache-2.0', model_name=name,
        pipeline_tag='image-classification', tags=['image-classification', 'timm', 'nasnet', *tags],
        eval_results=results, **({'datasets': [re.sub(r'[^\w.-]+', '-', record['dataset'])]} if record else {}))
    text = _CARD.format(
        metadata=metadata.to_yaml(), mark=_MARK, name=name, repo_id=repo_id, genotype=args['genotype']['name'],
        depth=depth_label(args), cell_filters=args['cell_filters'], stem=args['stem'],
        input_size=' x '.join(map(str, cfg['input_size'])), num_classes=config['num_classes'], accuracy=table,
        picture='\n![The cells](cells.svg)\n' if (folder / 'cells.svg').exists() else '')
    write_utf8(path, text)
    return path


def _results(record: Optional[Dict[str, Any]]) -> Tuple[Optional[Sequence[EvalResult]], str]:
    """Return a measured accuracy as metadata for the Hub and as a table in Markdown."""
    if not record:
        return None, 'Its accuracy has not been measured.'
    slug = re.sub(r'[^a-z0-9]+', '-', record['dataset'].lower()).strip('-')
    results = [EvalResult(
        task_type='image-classification', dataset_type=slug, dataset_name=record['dataset'],
        dataset_split=record['split'], metric_type=metric, metric_name=title,
        metric_value=round(100 * record[name], 2)) for name, metric, title in (
            ('top1', 'accuracy', 'Top-1 accuracy'), ('top5', 'top_5_accuracy', 'Top-5 accuracy'))]
    low, high = record['interval_95']
    return results, (
        f'| data | images | top-1 | 95 % interval | top-5 |\n|---|---|---|---|---|\n'
        f'| {record["dataset"]}, {record["split"]} | {record["count"]:,} | {record["top1"]:.2%} | '
        f'{low:.2%} to {high:.2%} | {record["top5"]:.2%} |\n\nMeasured by `nasnet-zoo validate`.')


def prepare(
        source: Union[str, os.PathLike],
        folder: Union[str, os.PathLike],
        repo_id: str,
        license: Optional[str] = None,
        tags: Sequence[str] = (),
        onnx: bool = False,
) -> Path:
    """Prepare a folder for :func:`push`: write its model card and, if wanted, model.onnx.

    Args:
        source: A model folder, or the name of a model of the zoo that has weights.
        folder: Where a model of the zoo is written. It is not used if `source` is a folder.
        repo_id, license, tags: See :func:`write_card`.
        onnx: Whether to export the model to model.onnx.

    Returns:
        The folder to push: `source` if it is a folder, `folder` otherwise.

    Raises:
        HubError: If `source` is a folder but not a model folder.
    """
    if not Path(source).is_dir():
        source = _write_named_model(os.fspath(source), folder)
    folder = Path(source)
    read_config(folder)  # raises if it is not a model folder
    if onnx:
        model = build(f'local-dir:{folder}', pretrained=True).eval()
        export_onnx(model, folder / 'model.onnx')
    write_card(folder, repo_id, license, tags)
    return folder


def _write_named_model(name: str, folder: Union[str, os.PathLike]) -> Path:
    """Write a model of the zoo and the accuracy in its weight file to a model folder."""
    model = build(name, pretrained=True).eval()
    cfg = model.pretrained_cfg
    weights = Path(cfg.get('file') or '')
    record = read_accuracy(weights) if weights.suffix == '.safetensors' else None
    folder = write_folder(model, folder, label_names(model), cfg['mean'], cfg['std'])
    if record:
        record_accuracy(folder / WEIGHTS, record)
    return folder


def push(
        folder: Union[str, os.PathLike],
        repo_id: str,
        private: bool = False,
        revision: Optional[str] = None,
        message: str = 'Upload a model of nasnet-zoo',
        token: Optional[str] = None,
        dry_run: bool = False,
) -> Dict[str, Any]:
    """Upload a model folder as one commit, so either all files are published or none.

    Files that the Hub already has are not uploaded again. The weight file must contain the model's accuracy, see
    :func:`~nasnet_zoo.hub.folder.record_accuracy`.

    Args:
        folder: A model folder. Only the files in :data:`PUBLISHED` are uploaded.
        repo_id: The repository, OWNER/NAME. It is created if necessary.
        private: Make the repository private. A repository that is already public is refused, not changed.
        revision: The branch, ``main`` by default. It is created if necessary.
        message: The commit message.
        token: An access token of the Hub. The default is that of ``hf auth login`` or of the variable ``HF_TOKEN``.
        dry_run: Return what would be uploaded, without using the network.

    Returns:
        JSON data: ``repo_id``, ``revision``, ``files`` (sizes in bytes by name), and ``url`` and ``commit`` of the
        branch's newest commit (None for a dry run).

    Raises:
        HubError: If the folder was not published.
    """
    folder = Path(folder)
    read_config(folder)
    check_repo_id(repo_id)
    if not read_accuracy(folder / WEIGHTS):
        raise HubError(f'{folder}: its accuracy is unknown; measure it first: '
                       f'nasnet-zoo validate {folder} --data … --record')
    names = [name for name in PUBLISHED if (folder / name).exists()]
    return upload(folder, names, repo_id, private, revision, message, token, dry_run)


def check_repo_id(repo_id: str) -> None:
    """Raise a HubError unless `repo_id` has the form OWNER/NAME."""
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise HubError(f'{repo_id}: is not of the form OWNER/NAME: {error}') from None


def upload(
        folder: Path, names: Sequence[str], repo_id: str, private: bool, revision: Optional[str], message: str,
        token: Optional[str], dry_run: bool, space_sdk: Optional[str] = None,
) -> Dict[str, Any]:
    """Upload files of a folder as one commit, see :func:`push`, to a model repository, or to a Space of this SDK."""
    files = {name: (folder / name).stat().st_size for name in names}
    report = dict(repo_id=repo_id, revision=revision or 'main', files=files, url=None, commit=None)
    if dry_run:
        return report
    api, repo = HfApi(token=token), dict(repo_id=repo_id, repo_type='space' if space_sdk else 'model')
    # HfApi.upload_folder may make several commits, and may repeat a commit whose response was lost.
    operations = [CommitOperationAdd(name, str(folder / name)) for name in files]
    try:
        api.create_repo(**repo, private=private, exist_ok=True, space_sdk=space_sdk)
        is_private = not private or api.repo_info(**repo).private
        if revision:
            api.create_branch(**repo, branch=revision, exist_ok=True)
        if is_private:
            commit = api.create_commit(**repo, operations=operations, commit_message=message, revision=revision)
            return dict(report, url=str(commit.commit_url), commit=commit.oid)
    except (HTTPError, RuntimeError, ValueError, OSError) as error:
        raise HubError(f'{repo_id}: {_explain(error)}') from None
    raise HubError(f'{repo_id}: the repository is public already; make it private on the Hub, or choose another name')


def _explain(error: BaseException) -> str:
    """Return what went wrong between the client and the Hub, and how to fix it."""
    if type(error) is RuntimeError and error.__cause__:  # the client wraps the error of a failed upload
        error = error.__cause__
    status = getattr(getattr(error, 'response', None), 'status_code', None)
    if isinstance(error, RevisionNotFoundError):
        return 'the repository has no such revision'
    if isinstance(error, (LocalTokenNotFoundError, RepositoryNotFoundError)) or status == 401:
        return ('does not exist, or you are not logged in to the Hub; run "hf auth login", or set HF_TOKEN to a token '
                'with write access')
    if status == 403:
        return 'your token does not allow writing here'
    what = status or f'{type(error).__name__}: {str(error).splitlines()[0] if str(error) else "no response"}'
    return (f'the Hub returned an error ({what}). A push is one commit, so either all files were published or none; '
            'push again to find out: files that the Hub already has are not uploaded again')

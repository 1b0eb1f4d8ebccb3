"""Uploads model folders and genotypes to the Hugging Face Hub, each as one commit."""
import os
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Union

from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import (
    HFValidationError,
    HTTPError,
    LocalTokenNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import validate_repo_id

from ..deploy.export import export_onnx
from ..drawing import draw
from ..genotype.loader import load_genotype
from ..zoo import build, label_names, shipped_weights
from .card import write_card, write_cell_card
from .folder import CONFIG, WEIGHTS, HubError, read_accuracy, read_config, record_accuracy, write_folder

__all__ = ['PUBLISHED', 'check_repo_id', 'prepare', 'prepare_cell', 'push', 'push_all', 'push_cell', 'upload']

PUBLISHED = (WEIGHTS, CONFIG, 'genotype.json', 'cells.svg', 'model.onnx', 'README.md', 'report.json', 'log.csv',
             'curve.png')  # the files of a model folder that are uploaded


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


def prepare_cell(
        source: Union[str, os.PathLike], folder: Union[str, os.PathLike], repo_id: str, license: Optional[str] = None,
        tags: Sequence[str] = (),
) -> Path:
    """Prepare a folder for :func:`push_cell`: the genotype, a drawing if matplotlib is installed, and a card.

    Args:
        source: A genotype file, or the name of a built-in genotype.
        folder: The folder to write.
        repo_id, license, tags: See :func:`~nasnet_zoo.hub.card.write_card`.

    Raises:
        GenotypeError: If the genotype is invalid.
    """
    genotype, folder = load_genotype(source), Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    genotype.save(folder / 'genotype.json')
    try:
        draw(genotype, folder / 'cells.svg')
    except ImportError:  # matplotlib is optional
        (folder / 'cells.svg').unlink(missing_ok=True)
    write_cell_card(folder, genotype, repo_id, license, tags)
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


def push_cell(
        folder: Union[str, os.PathLike], repo_id: str, private: bool = False, revision: Optional[str] = None,
        message: str = 'Upload a cell of nasnet-zoo', token: Optional[str] = None, dry_run: bool = False,
) -> Dict[str, Any]:
    """Upload the folder that :func:`prepare_cell` wrote, as one commit.

    ``load_genotype('hf-hub:OWNER/NAME')`` loads the genotype. Arguments and result are those of :func:`push`.

    Raises:
        HubError: If the genotype was not published.
    """
    check_repo_id(repo_id)
    names = [name for name in ('genotype.json', 'cells.svg', 'README.md') if Path(folder, name).exists()]
    return upload(Path(folder), names, repo_id, private, revision, message, token, dry_run)


def push_all(
        owner: str, out: Union[str, os.PathLike], tags: Sequence[str] = (), dry_run: bool = False, **options: Any,
) -> List[Dict[str, Any]]:
    """Upload all weights that are part of the package, each to a repository that is named after the model.

    Args:
        owner: The user or organisation on the Hub.
        out: The folder to which the model folders are written.
        tags: More tags for the model cards.
        dry_run: Return what would be uploaded, without using the network.
        **options: Further arguments of :func:`push`.

    Returns:
        For each model what :func:`push` returns, and ``folder``, the path of the model folder.

    Raises:
        HubError: If a model was not published. Those before it were.
    """
    reports = []
    for name in shipped_weights():
        repo_id = f'{owner}/{name}'
        check_repo_id(repo_id)
        folder = prepare(name, Path(out) / name, repo_id, tags=tags)
        reports.append(dict(push(folder, repo_id, dry_run=dry_run, **options), folder=str(folder)))
    return reports


def check_repo_id(repo_id: str) -> None:
    """Raise a HubError unless `repo_id` has the form OWNER/NAME."""
    try:
        validate_repo_id(repo_id)
        if '/' not in repo_id:
            raise HFValidationError('the owner is missing')
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
        if is_private:
            if revision:
                api.create_branch(**repo, branch=revision, exist_ok=True)
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
    if type(error) is ValueError:  # the Hub's client refuses what was to be uploaded
        return ' '.join(str(error).split())
    what = status or f'{type(error).__name__}: {str(error).splitlines()[0] if str(error) else "no response"}'
    return (f'the Hub returned an error ({what}). A push is one commit, so either all files were published or none; '
            'push again to find out: files that the Hub already has are not uploaded again')

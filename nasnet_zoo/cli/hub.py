"""The command that publishes models and cells."""
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional

import typer

from .common import AsJson, drop_none, exit_on_error, print_report

__all__ = ['push']


def push(
        source: Optional[str] = typer.Argument(
            None, metavar='FOLDER_OR_MODEL', help=(
                'A model folder (such as a run folder of "train"), the name of a model that has weights, or a '
                'genotype file, which is published without weights. With --all, the owner.')),
        repo_id: Optional[str] = typer.Argument(
            None, metavar='OWNER/NAME', help='The repository on the Hugging Face Hub. It is created if necessary.'),
        everything: bool = typer.Option(False, '--all', help=(
            'Publish all weights that are part of the package, each to a repository that is named after the model: '
            'push --all OWNER. With --dry-run, the owner may be left out.')),
        private: bool = typer.Option(False, '--private', help='Make the repository private.'),
        revision: Optional[str] = typer.Option(None, help='The branch. It is created if necessary. (default: main)'),
        license: Optional[str] = typer.Option(
            None, help="Licence of the weights, as an identifier of the Hub. The default is the licence in the model's "
                       'configuration, or apache-2.0.'),
        tag: List[str] = typer.Option([], help='Tag to add to the model card. May be repeated.'),
        onnx: bool = typer.Option(False, '--onnx', help='Also export the model to model.onnx and upload it.'),
        space: bool = typer.Option(False, '--space', help=(
            'Also publish a page that classifies pictures in the browser, with the exported model, as a static Space '
            'of the same name.')),
        out: Optional[Path] = typer.Option(
            None, help=(
                'Folder to which the model is written first if it is given by name. The default is a temporary '
                'folder.')),
        message: Optional[str] = typer.Option(None, help='The commit message. The default says what is uploaded.'),
        dry_run: bool = typer.Option(
            False, '--dry-run', help='Write the model card and list the files, but upload nothing.'),
        as_json: AsJson = False,
) -> None:
    """Write a model card and upload a model folder to the Hugging Face Hub as one commit.

    A genotype file is published without weights; anyone can load it with load_genotype('hf-hub:OWNER/NAME').
    """
    from ..hub.publish import push_all
    how: Dict[str, Any] = dict(private=private, revision=revision, dry_run=dry_run, **drop_none(message=message))
    with exit_on_error(), _spare_folder(keep=dry_run) as spare:
        target = out or spare / 'model'
        if everything and (repo_id or license or onnx or space or not (source or dry_run)):
            raise ValueError('--all takes the owner instead of a model and a repository, and none of --license, --onnx '
                             'and --space: nasnet-zoo push --all OWNER')
        report: Any = push_all(source or 'OWNER', target, tag, **how) if everything else _push_one(
            source, repo_id, target, dict(license=license, tags=tag), onnx, spare / 'space' if space else None, how)
    print_report(report, as_json, _print)


@contextmanager
def _spare_folder(keep: bool) -> Iterator[Path]:
    """Return a temporary folder. A dry run keeps it, because its report names the files in it."""
    folder = Path(tempfile.mkdtemp())
    try:
        yield folder
    finally:
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)


def _push_one(
        source: Optional[str], repo_id: Optional[str], target: Path, card: Dict[str, Any], onnx: bool,
        space: Optional[Path], how: Dict[str, Any],
) -> Dict[str, Any]:
    """Publish a cell, if `source` is a JSON file, or a model. With `space`, where its files are written, publish a
    Space, too. Return the report, with the folders that were published."""
    from ..hub import publish
    from ..hub.space import prepare_space, push_space
    if source is None or repo_id is None:
        raise ValueError('say what to publish and where: nasnet-zoo push FOLDER_OR_MODEL OWNER/NAME')
    if source.endswith('.json'):
        folder, upload = publish.prepare_cell(source, target, repo_id, **card), publish.push_cell
    else:
        folder, upload = publish.prepare(source, target, repo_id, **card, onnx=onnx), publish.push
    page = prepare_space(folder, space, repo_id, card['license']) if space else None
    report = dict(upload(folder, repo_id, **how), folder=str(folder))
    if page:
        options = {name: value for name, value in how.items() if name != 'revision'}  # a Space has one branch only
        report['space'] = dict(push_space(page, repo_id, **options), folder=str(page))
    return report


def _print(report: Any) -> None:
    for model in report if isinstance(report, list) else [report]:
        _print_files(model)
        if 'space' in model:
            print('\nThe Space:')
            _print_files(model['space'])


def _print_files(report: Dict[str, Any]) -> None:
    for name, size in report['files'].items():
        print(f'{size:>12,}  {Path(report["folder"], name)}')
    target = f'{report["repo_id"]}, {report["revision"]}'
    print(f'pushed: {report["url"]}' if report['url'] else f'would be pushed to {target}')

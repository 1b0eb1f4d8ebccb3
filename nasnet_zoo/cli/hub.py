"""The command that publishes a model."""
import tempfile
from pathlib import Path
from typing import Any, Dict, List, Optional

import typer

from .common import AsJson, exit_on_error, print_report

__all__ = ['push']


def push(
        source: str = typer.Argument(
            metavar='FOLDER_OR_MODEL', help=(
                'A model folder (such as a run folder of "train"), or the name of a model that has weights.')),
        repo_id: str = typer.Argument(
            metavar='OWNER/NAME', help='The repository on the Hugging Face Hub. It is created if necessary.'),
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
        message: str = typer.Option('Upload a model of nasnet-zoo', help='The commit message.'),
        dry_run: bool = typer.Option(
            False, '--dry-run', help='Write the model card and list the files, but upload nothing.'),
        as_json: AsJson = False,
) -> None:
    """Write a model card and upload a model folder to the Hugging Face Hub as one commit."""
    from ..hub import publish
    from ..hub.space import prepare_space, push_space
    with exit_on_error():
        folder = publish.prepare(source, out or Path(tempfile.mkdtemp()), repo_id, license, tag, onnx)
        page = prepare_space(folder, Path(tempfile.mkdtemp()), repo_id, license) if space else None
        report = publish.push(folder, repo_id, private, revision, message, dry_run=dry_run)
        if page:
            report['space'] = push_space(page, repo_id, private, message, dry_run=dry_run)
    print_report(report, as_json, lambda report: _print_reports(folder, page, report))


def _print_reports(folder: Path, page: Optional[Path], report: Dict[str, Any]) -> None:
    _print_files(folder, report)
    if page:
        print('\nThe Space:')
        _print_files(page, report['space'])


def _print_files(folder: Path, report: Dict[str, Any]) -> None:
    for name, size in report['files'].items():
        print(f'{size:>12,}  {folder / name}')
    target = f'{report["repo_id"]}, {report["revision"]}'
    print(f'pushed: {report["url"]}' if report['url'] else f'would be pushed to {target}')

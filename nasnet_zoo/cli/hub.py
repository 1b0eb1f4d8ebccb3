"""The command that publishes a model."""
import json
import tempfile
from pathlib import Path
from typing import List, Optional

import typer

from .common import exit_on_error

__all__ = ['push']


def push(
        source: str = typer.Argument(metavar='FOLDER_OR_MODEL', help='A run, a model folder, or a name with weights.'),
        repo_id: str = typer.Argument(metavar='OWNER/NAME', help='Repository on the hub; made if need be.'),
        private: bool = typer.Option(False, '--private', help='Make the repository private.'),
        revision: Optional[str] = typer.Option(None, help='Branch; made if need be.'),
        license: Optional[str] = typer.Option(
            None, help="The hub's word for the licence of the weights; by default what the model says, or apache-2.0."),
        tag: List[str] = typer.Option([], help='A tag for the model card; may be repeated.'),
        onnx: bool = typer.Option(False, '--onnx', help='Add model.onnx.'),
        out: Optional[Path] = typer.Option(None, help='Folder to write a named model to; a temporary one by default.'),
        message: str = typer.Option('Upload a model of nasnet-zoo', help='Of the commit.'),
        dry_run: bool = typer.Option(False, '--dry-run', help='Write the folder and say what would be pushed.'),
        as_json: bool = typer.Option(False, '--json', help='Print JSON.'),
) -> None:
    """Write a model folder and push it to the Hugging Face hub as one commit."""
    from ..hub.folder import prepare
    from ..hub.folder import push as push_folder
    with exit_on_error():
        folder = prepare(source, out or Path(tempfile.mkdtemp()), repo_id, license, tag, onnx)
        report = push_folder(folder, repo_id, private, revision, message, dry_run=dry_run)
    if as_json:
        print(json.dumps(report))
        return
    for name, size in report['files'].items():
        print(f'{size:>12,}  {folder / name}')
    print(f'would be pushed to {repo_id}, {report["revision"]}' if dry_run else f'pushed: {report["url"]}')

"""Publishes a page that classifies pictures, with its model, as a static Space on the Hugging Face Hub."""
import os
from pathlib import Path
from typing import Any, Dict, Optional, Union

from huggingface_hub import SpaceCardData

from ..deploy.bundle import deploy
from ..deploy.config import ExportConfig
from ..deploy.web import ISOLATION
from ..files import write_utf8
from .folder import read_config
from .publish import check_repo_id, upload

__all__ = ['prepare_space', 'push_space']

_UNPUBLISHED = ('manifest.json',)  # it names paths of this machine
_CARD = '''---
{metadata}
---
# {name}

This page classifies pictures with [{repo_id}](https://huggingface.co/{repo_id}), a model of nasnet-zoo. The model \
runs in the browser, and the pictures stay on the device.
'''


def prepare_space(
        model: Union[str, os.PathLike], folder: Union[str, os.PathLike], repo_id: str, license: Optional[str] = None,
) -> Path:
    """Write the files of a Space: the page, the model, and README.md with the Hub's settings.

    Args:
        model: A model folder.
        folder: Where to write the files.
        repo_id: The repository of the model, OWNER/NAME. The Space has the same name.
        license: The Hub's identifier of the weights' licence. The default is the licence in the model's configuration,
            or apache-2.0 if it has none.

    Returns:
        The folder.

    Raises:
        HubError: If `model` is not a model folder, or if `repo_id` is not of the form OWNER/NAME.
        ImportError: If matplotlib, which draws the cells, is not installed.
    """
    folder, name = Path(folder), repo_id.split('/')[-1]
    check_repo_id(repo_id)
    license = license or read_config(model)['pretrained_cfg'].get('license') or 'apache-2.0'
    deploy(ExportConfig(source=os.fspath(model), out=folder, layout='web', name=name, license=license))
    headers = {name.lower(): value for name, value in ISOLATION.items()}
    metadata = SpaceCardData(
        title=name, emoji='🧩', colorFrom='green', colorTo='blue', sdk='static', app_file='index.html', pinned=False,
        license=license, models=[repo_id], custom_headers=headers)
    write_utf8(folder / 'README.md', _CARD.format(metadata=metadata.to_yaml(), name=name, repo_id=repo_id))
    return folder


def push_space(
        folder: Union[str, os.PathLike],
        repo_id: str,
        private: bool = False,
        message: str = 'Upload a page of nasnet-zoo',
        token: Optional[str] = None,
        dry_run: bool = False,
) -> Dict[str, Any]:
    """Upload the files of a Space as one commit to its main branch.

    Args:
        folder: What :func:`prepare_space` wrote.
        repo_id, private, message, token, dry_run: See :func:`~nasnet_zoo.hub.publish.push`; the repository is a Space.

    Returns:
        JSON data, as :func:`~nasnet_zoo.hub.publish.push` does.

    Raises:
        HubError: If the Space was not published.
    """
    folder = Path(folder)
    check_repo_id(repo_id)
    paths = (path.relative_to(folder).as_posix() for path in sorted(folder.rglob('*')) if path.is_file())
    names = [name for name in paths if name not in _UNPUBLISHED]
    return upload(folder, names, repo_id, private, None, message, token, dry_run, space_sdk='static')

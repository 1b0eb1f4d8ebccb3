"""Gets the published weights of the named models from web servers, as files that timm can load.

What Google published are archives of TensorFlow checkpoints. Such an archive is converted once to a safetensors file
with our names of tensors. It is kept in the folder in which timm keeps downloaded files; the archive is not.
"""
import os
import warnings
from pathlib import Path
from typing import Any, Dict, Mapping, Sequence
from urllib.parse import urlsplit

import torch
from filelock import FileLock
from safetensors.torch import save_file

from .checkpoints.load import check_fit, find_weights
from .downloads import DownloadError, discard, download
from .files import atomic_write
from .network.nasnet import compile_genotype

__all__ = ['download_weights']

_ARCHIVE = '.tar.gz'


def download_weights(urls: Sequence[str], network: Mapping[str, Any], folder: Path) -> Path:
    """Download weights from the first of several addresses that has them, unless they are in `folder` already.

    Args:
        urls: The addresses of PyTorch files, or of archives (``.tar.gz``) of TensorFlow checkpoints.
        network: The arguments of :func:`~nasnet_zoo.compile_genotype` for the network that the weights are for.
        folder: Where to keep the file.

    Returns:
        The path of a PyTorch or safetensors file.

    Raises:
        DownloadError: If none of the addresses has them. The message says why.
    """
    problems = []
    for url in urls:
        try:
            path = _download(url, network, folder)
        except OSError as error:
            problems.append(str(error))
            continue
        for problem in problems:
            warnings.warn(f'{problem}; the weights are from {url} instead', stacklevel=2)
        return path
    raise DownloadError('\n'.join(problems))


def _download(url: str, network: Mapping[str, Any], folder: Path) -> Path:
    """Download weights from an address, and convert them if they are in an archive."""
    name = os.path.basename(urlsplit(url).path)
    if not name.endswith(_ARCHIVE):
        return download(url, folder)
    converted = folder / f'{name.removesuffix(_ARCHIVE)}.safetensors'
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / f'{converted.name}.lock'):  # one process converts, and the others wait for it
        if not converted.exists():
            archive = download(url, folder)
            try:
                tensors = _read_archive(archive, network)
            except ValueError as error:
                discard(archive)
                raise DownloadError(f'{url}: is not the expected archive, and was deleted: {error}') from None
            with atomic_write(converted) as part:
                save_file(tensors, part, metadata=dict(format='pt', source=url))
            archive.unlink()
    return converted


def _read_archive(archive: Path, network: Mapping[str, Any]) -> Dict[str, torch.Tensor]:
    """Return the weights in an archive by our names, with those of the auxiliary head if there is one.

    Raises:
        ValueError: If the archive is damaged, or has the weights of another network.
    """
    model = compile_genotype(**network, aux_head=True, device='meta')
    tensors = find_weights(model, archive).values
    own_head = {name: tensor for name, tensor in model.state_dict().items() if name.startswith('aux_head.')}
    check_fit({**own_head, **tensors}, model)
    return {name: tensor.contiguous() for name, tensor in tensors.items()}

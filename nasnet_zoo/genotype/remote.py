"""Genotypes on the Hugging Face Hub."""
from pathlib import Path

from ..checked import shorten
from .schema import GenotypeError, too_large

__all__ = ['HUB', 'download_genotype']

HUB = 'hf-hub:'  # what such a source begins with, as in timm
_FILE = 'genotype.json'


def download_genotype(source: str, max_bytes: int) -> Path:
    """Download the genotype of a repository, or take it from the cache if the Hub cannot be reached.

    Args:
        source: ``hf-hub:OWNER/NAME``, or ``hf-hub:OWNER/NAME@REVISION``. The repository may be that of a cell or that
            of a model.
        max_bytes: A larger file is not downloaded.

    Returns:
        The file in the Hub's cache. Its content is not checked.

    Raises:
        GenotypeError: If there is no such file, or if it is too large.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
    from huggingface_hub.errors import EntryNotFoundError, HFValidationError, HTTPError, RepositoryNotFoundError
    repo, _, revision = source.removeprefix(HUB).partition('@')
    try:
        size = get_hf_file_metadata(hf_hub_url(repo, _FILE, revision=revision or None)).size
    except (EntryNotFoundError, RepositoryNotFoundError, HFValidationError) as error:
        raise _refusal(source, error) from None
    except (HTTPError, OSError):
        size = None  # the Hub cannot be reached, but the file may be in the cache
    if size is not None and size > max_bytes:
        raise too_large(shorten(source), max_bytes)
    try:
        return Path(hf_hub_download(repo, _FILE, revision=revision or None))
    except (HTTPError, OSError, HFValidationError) as error:
        raise _refusal(source, error) from None


def _refusal(source: str, error: Exception) -> GenotypeError:
    reason = ' '.join(str(error).split())[:200]
    return GenotypeError(shorten(source), [('', f'has no {_FILE} that can be downloaded: {reason}')])

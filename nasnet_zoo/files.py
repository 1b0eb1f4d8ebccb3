"""Files written whole or not at all."""
import os
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator, Union

__all__ = ['written_whole']


@contextmanager
def written_whole(path: Union[str, os.PathLike]) -> Iterator[Path]:
    """A new file to write, in the folder of `path`, which takes the name of `path` when the block ends well."""
    path = Path(path)
    descriptor, name = tempfile.mkstemp(prefix=f'.{path.name}.', suffix=path.suffix, dir=path.parent)
    os.close(descriptor)
    part = Path(name)
    try:
        yield part
        umask = os.umask(0)
        os.umask(umask)
        part.chmod(0o666 & ~umask)  # as any new file; mkstemp's is its owner's alone
        with part.open('rb') as file:
            os.fsync(file.fileno())  # the content before the name, even if the power fails
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)

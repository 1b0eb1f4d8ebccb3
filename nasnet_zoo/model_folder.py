"""Finds model folders, and checks their configuration before timm reads it."""
import json
import os
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Iterator, Optional

from safetensors import SafetensorError

from .checked import shorten
from .genotype.schema import GenotypeError

__all__ = ['model_folder', 'reading_folder']


def model_folder(source: Any) -> Optional[Path]:
    """Return the model folder that `source` names, as FOLDER or ``local-dir:FOLDER``; None for anything else."""
    folder = Path(source.removeprefix('local-dir:')) if isinstance(source, str) else None
    return folder if folder and os.path.isfile(folder / 'config.json') else None  # False, too, if the name is too long


@contextmanager
def reading_folder(folder: Optional[Path]) -> Iterator[None]:
    """Check the configuration of a model folder, and let errors while it is loaded name the folder."""
    if folder is None:
        yield
        return
    path = folder / 'config.json'
    try:
        config = json.loads(path.read_text(encoding='utf-8'))
    except (OSError, ValueError) as error:
        raise ValueError(f'{path}: cannot be read: {error}') from None
    if not isinstance(config, dict) or not isinstance(config.get('architecture'), str):
        raise ValueError(f'{path}: is not the configuration of a model; it needs an "architecture"')
    for name, kind, text in (('num_classes', int, 'a number'), ('model_args', dict, 'an object'),
                             ('pretrained_cfg', dict, 'an object')):
        if not isinstance(config.get(name, kind()), kind):
            raise ValueError(f'{path}: {name} must be {text}, not {shorten(json.dumps(config[name]))}')
    try:
        yield
    except GenotypeError as error:
        raise GenotypeError(str(path), error.problems) from None
    except (TypeError, ValueError) as error:
        raise ValueError(f'{path}: {error}') from None
    except (RuntimeError, SafetensorError) as error:
        raise RuntimeError(f'{folder}: {error}') from None

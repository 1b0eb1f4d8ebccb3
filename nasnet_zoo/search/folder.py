"""The folder of a search: its lock, its settings, and folders that earlier versions wrote."""
import json
import uuid
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Dict, Iterator, Mapping, Optional

from filelock import FileLock, Timeout

from ..files import check_purpose, flattened, remove_partial_files, write_json
from ..training.recipe import with_defaults
from ..training.run import changes, versions
from .config import SearchConfig
from .errors import SearchError
from .image_facts import ImageFacts
from .space import Space

__all__ = ['exclusive_lock', 'kept_defaults', 'mark_as_ended', 'rating_settings', 'read_json', 'read_known',
           'read_search', 'start_or_resume', 'study_settings', 'upgrade_settings']

# These affect neither how a child is trained nor how it is rated
_MAY_CHANGE = ('trials', 'workers', 'ray', 'cpus_per_child', 'gpus_per_child', 'warm_start', 'reuse', 'baseline',
               'data_root', 'top', 'final_epochs', 'final_seeds')

# What a search writes, except for its settings
_RESULTS = ('study.log', 'finals.json', 'cell.json', 'cells.svg', 'report.html')

_NEW_DEFAULTS = ('sampler', 'ppo_preset', 'protocol')  # settings that had another default in an earlier version

# Settings that earlier versions lacked, and those of the children, with the values that stand for what they did
_ADDED: Dict[str, Any] = dict(protocol='paper', forbid_op=[])
_ADDED_TO_CHILD: Dict[str, Any] = dict(
    match=None, match_below=False, match_target=None, stem='cifar', reductions='extra', stages=3,
    reward='accuracy', val_seed=0)


def study_settings(config: SearchConfig, space: Space) -> Dict[str, Any]:
    """Return the settings that a search must be resumed with, as JSON data."""
    settings = {name: value for name, value in config.stored().items() if name not in _MAY_CHANGE}
    del settings['blocks']  # the name of the space contains it
    return dict(settings, space=space.name, fingerprint=space.fingerprint,
                ppo_preset=config.ppo_preset if config.sampler == 'ppo' else None,
                own_storage=config.storage is not None)


def rating_settings(settings: Mapping[str, Any]) -> Dict[str, Any]:
    """Return the settings that rewards depend on, on one level. Rewards of searches that differ in them cannot be
    compared; the seed of the children may differ."""
    chosen = flattened({name: settings.get(name) for name in ('data', 'objective', 'cost_target', 'child')})
    return {name: value for name, value in chosen.items() if name != 'child.recipe.seed'}


def upgrade_settings(settings: Mapping[str, Any]) -> Dict[str, Any]:
    """Convert the settings of a search to the current format.

    Earlier versions stored ``objective`` as ``cost``, and a ``seed`` of the sampler in addition to that of the
    children's recipe. If the two seeds differ, ``seed`` is kept, so that the search is not resumed with other random
    numbers. Settings that earlier versions lacked are added, with the values that stand for what those versions did.
    """
    child = settings.get('child', {})
    new = {**_ADDED, **settings, 'child': {
        **_ADDED_TO_CHILD, **child, 'recipe': with_defaults(child.get('recipe', {}))}}
    if 'preset' in new:
        new['ppo_preset'] = new.pop('preset')
    if not _is_old(settings):
        return new
    new['objective'] = new.pop('cost')
    if new['seed'] == new['child']['recipe']['seed']:
        del new['seed']
    return new


def kept_defaults(config: SearchConfig) -> Dict[str, Any]:
    """Return the settings of a resumed search that were not given and whose default has changed since it was started.

    Without them, the command that started the search could not resume it.
    """
    path = config.out / 'search.json'
    if not config.resume or not path.exists():
        return {}
    stored = read_search(path)['settings']
    return {name: stored[name] for name in _NEW_DEFAULTS
            if name not in config.model_fields_set and stored.get(name) is not None}


def _is_old(settings: Mapping[str, Any]) -> bool:
    return 'cost' in settings


@contextmanager
def exclusive_lock(
        out: Path, busy: str = 'another process is running this search; --status shows its progress') -> Iterator[None]:
    """Lock a search folder: a second process would mistake the running trials of the first for interrupted ones.

    Args:
        out: The folder. It is created if necessary.
        busy: What to say if another process holds the lock.

    Raises:
        SearchError: If another process holds the lock.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise SearchError(f'{out}: cannot be a folder, since it or a part of its path is a file; choose another '
                          '--out') from None
    try:
        with FileLock(out / '.lock', timeout=0):
            remove_partial_files(out)
            yield
    except Timeout:
        raise SearchError(f'{out}: {busy}') from None


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        SearchError: If it is not valid JSON.
    """
    try:
        return json.loads(path.read_text(encoding='utf-8'))
    except ValueError as error:
        raise SearchError(f'{path}: is not valid JSON: {error}') from None


def read_search(path: Path) -> Dict[str, Any]:
    """Read ``search.json``: ``study`` is the name of the study and ``settings`` are in the current format;
    ``is_old`` says whether the file has another one.

    Raises:
        SearchError: If there is no such file, or it is something else.
    """
    if not path.exists():
        raise SearchError(f'{path.parent}: there is no search here')
    content = read_json(path)
    if not isinstance(content, dict) or not isinstance(content.get('settings'), dict) or 'study' not in content:
        raise SearchError(f'{path}: does not describe a search; it needs "settings" and "study"')
    for name in ('config', 'forecast', 'images'):
        if not isinstance(content.get(name, {}), dict):
            raise SearchError(f'{path}: {name} is not an object; restore the file from a copy')
    try:
        return dict(content, settings=upgrade_settings(content['settings']), is_old=_is_old(content['settings']))
    except (KeyError, TypeError, ValueError) as error:
        raise SearchError(f'{path}: its settings cannot be read: {error!r}') from None


def read_known(config: SearchConfig, settings: Dict[str, Any], images: ImageFacts) -> Optional[Dict[str, Any]]:
    """Return the content of ``search.json`` of a search that is to be resumed, or None for a new search.

    Raises:
        SearchError: If the folder contains another search, or a search that is not to be resumed.
    """
    path = config.out / 'search.json'
    check_purpose(config.out, 'search.json')
    if config.resume and not path.exists():
        raise SearchError(f'{config.out}: there is no search to resume')
    if path.exists():
        if not config.resume:
            raise SearchError(
                f'{config.out}: contains a search already; add --resume to continue it, or choose another --out')
        content = read_search(path)
        _check_settings(config.out, content['settings'], settings)
        difference = images.difference(content)
        if difference:
            raise SearchError(f'{config.out}: the search was started with other images in {config.data}: {difference}; '
                              'restore the images, or choose another --out')
        if content['is_old'] and config.child.img_size is not None:
            raise SearchError(f'{config.out}: these children were trained by an earlier version, which resized images '
                              'differently; choose another --out')
        return content
    left = [name for name in _RESULTS if (config.out / name).exists()]
    if left:
        raise SearchError(f'{config.out}: contains {left[0]} but no search.json; choose another --out')
    return None


def _check_settings(out: Path, known: Dict[str, Any], asked: Dict[str, Any]) -> None:
    """Raise a SearchError if a search cannot be resumed with the settings `asked`."""
    if known.get('own_storage', False) != asked['own_storage']:
        raise SearchError(f'{out}: the trials of this search are ' + (
            'in another storage; add --storage URL' if known.get('own_storage') else
            'in this folder; leave out --storage'))
    changed = changes(dict(known, fingerprint=asked['fingerprint']), asked)
    if changed:
        raise SearchError(
            f'{out}: the search was started with other settings: {changed}; use those, or choose another --out')
    if known.get('fingerprint') != asked['fingerprint']:
        raise SearchError(f'{out}: the space {asked["space"]} has changed: it has other decisions than when the search '
                          'was started; restore it, or choose another --out')


def start_or_resume(
        config: SearchConfig, settings: Dict[str, Any], images: ImageFacts, forecast: Mapping[str, Any]) -> str:
    """Write ``search.json`` for a new search or, if the settings are the same, for a resumed one.

    Returns:
        The name of the study. No other folder that uses the same storage has this name.

    Raises:
        SearchError: As :func:`read_known`.
    """
    content = read_known(config, settings, images)
    if content is None:
        content = dict(study=f'{config.out.resolve().name}-{uuid.uuid4().hex[:8]}', versions=versions())
    write_json(config.out / 'search.json', dict(
        config=config.stored(), settings=settings, study=content['study'], versions=content.get('versions'),
        **images.stored(), forecast=forecast, has_ended=False))
    return content['study']


def mark_as_ended(out: Path) -> None:
    """Note in ``search.json`` that the search has come to its end."""
    path = out / 'search.json'
    write_json(path, dict(read_json(path), has_ended=True))

"""Takes over the children of other searches, so that they need not be trained again."""
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Tuple

from optuna.trial import FrozenTrial, TrialState, create_trial

from ..training.run import changes
from .config import SearchConfig
from .errors import SearchError
from .folder import rating_settings, read_search, study_settings
from .image_facts import ImageFacts
from .make_space import remake_space
from .objectives import combined_reward
from .space import SPACES, Choices, Space, SpaceError
from .study import evaluated_trials, open_stored_study, rebuild_cell
from .warm_start import find_tokens

__all__ = ['read_reused']

# The objectives of a trial are stored uncombined, and the children that have rewards have kept the time limit.
_IGNORED = ('cost_target', 'child.time_limit')
# What is known of a child. Its seconds are left out: the new search has not spent them.
_MEASURED = ('architecture', 'accuracy', 'params', 'macs', 'latency', 'cell_filters', 'rewards')


class _Child(NamedTuple):
    """A child of an earlier search that is in the new space.

    Attributes:
        trial: Its trial in the earlier search.
        choices: Its choices in the new space.
        origin: Which trial of which search it was.
    """
    trial: FrozenTrial
    choices: Choices
    origin: str


def read_reused(
        config: SearchConfig, space: Space, images: ImageFacts, log: Callable[[str], None],
) -> List[FrozenTrial]:
    """Return the children of the searches ``config.reuse`` as finished trials of a new one.

    That of the highest reward comes last, and has finished last: evolution forgets all but the newest. Like an enqueued
    trial, each has its choices in ``fixed_params``: no sampler has proposed it. The user attribute ``reused`` says
    which trial of which search it was.

    Args:
        config: The settings of the new search.
        space: The space of the new search. Children that it does not contain are left out.
        images: The training images of the new search.
        log: Called with a line for each search about how many of its children the space contains.

    Raises:
        SearchError: If there is no search in a folder, if its children were trained or rated in another way, if its
            space is not known, or if none of its children is in the new space.
    """
    found = [child for folder in config.reuse for child in _read_children(folder, config, space, images, log)]
    trials = []
    for trial, choices, origin in sorted(
            found, key=lambda child: combined_reward(child.trial.values, config.cost_target)):
        measured = {name: trial.user_attrs[name] for name in _MEASURED if name in trial.user_attrs}
        trials.append(create_trial(
            params=choices, distributions=space.distributions, values=trial.values,
            intermediate_values=trial.intermediate_values, system_attrs=dict(fixed_params=choices),
            user_attrs=dict(measured, reused=origin)))
    return trials


def _read_children(
        folder: Path, config: SearchConfig, space: Space, images: ImageFacts, log: Callable[[str], None],
) -> List[_Child]:
    """Return the children of the search in a folder that are in the new space, see :func:`read_reused`."""
    try:
        content = read_search(folder / 'search.json')
    except SearchError as error:
        hint = '; a search that has its children already is resumed without --reuse' if config.resume else ''
        raise SearchError(f'--reuse: {error}{hint}') from None
    study = open_stored_study(folder, config.storage)
    trials = [trial for trial in evaluated_trials(study) if trial.state == TrialState.COMPLETE] if study else []
    if not trials:
        raise SearchError(f'--reuse: {folder}: no child of this search has a reward yet')
    _check_settings(folder, content, config, space, images)
    old = _space_of(folder, content, config, space)
    found, reason = [], ''
    for trial in trials:
        try:
            tokens = _find(folder, trial, old, space)
        except SpaceError as error:
            reason = str(error)
            continue
        found.append(_Child(trial, space.choices(tokens), f'{folder.resolve().name}/{trial.number}'))
    if not found:
        raise SearchError(f'--reuse: {folder}: none of its {len(trials)} children is in the space {space.name}: '
                          f'{reason}')
    log(f'{folder}: {len(found)} of {len(trials)} children are in the space {space.name}')
    return found


def _find(folder: Path, trial: FrozenTrial, old: Space, space: Space) -> Tuple[int, ...]:
    """Return the tokens of a child in the new space.

    Raises:
        SpaceError: If the space does not contain the child.
        SearchError: If the old space builds another cell from its choices than before, or none.
    """
    genotype = rebuild_cell(trial, old, f'--reuse: {folder}', 'restore it')
    if old is space:
        return space.tokens(trial.params)
    tokens = find_tokens(genotype, space, f'--reuse: {folder}')
    if space.genotype(tokens).architecture_digest != genotype.architecture_digest:
        raise SpaceError(f'{genotype.name}: {space.name} writes it with other outputs or another "fit"')
    return tokens


def _check_settings(
        folder: Path, content: Mapping[str, Any], config: SearchConfig, space: Space, images: ImageFacts) -> None:
    """Raise a SearchError if rewards of the two searches cannot be compared."""
    def compared(settings: Mapping[str, Any]) -> Dict[str, Any]:
        return {name: value for name, value in rating_settings(settings).items() if name not in _IGNORED}

    differences = changes(compared(content['settings']), compared(study_settings(config, space)))
    differences = differences or images.difference(content)
    if content['is_old'] and config.child.img_size is not None:
        differences = 'an earlier version resized images differently'
    if differences:
        raise SearchError(f'--reuse: {folder}: its children were trained or rated in another way: {differences}; use '
                          'the same settings, or leave out --reuse')


def _space_of(folder: Path, content: Mapping[str, Any], config: SearchConfig, space: Space) -> Space:
    """Return the space of a search. Of Python files, only the one that the user has named is executed."""
    settings, stored = content['settings'], content.get('config') or {}
    if settings.get('fingerprint') == space.fingerprint:
        return space
    name = str(stored.get('space'))
    if name not in SPACES:
        file, attribute = config.space.rpartition(':')[0], name.rpartition(':')[2]
        if not file:
            raise SearchError(f'--reuse: {folder}: its space, {name}, is in a Python file; put the space of the new '
                              'search into that file, too, and name it with --space FILE.py:NAME')
        name = f'{file}:{attribute}'
    try:
        old = remake_space(name, stored, settings)
    except SearchError as error:
        raise SearchError(f'--reuse: {folder}: its space: {error}') from None
    if old is None:
        raise SearchError(f'--reuse: {folder}: {name} is not the space of that search: its name or its decisions '
                          'differ; restore it')
    return old

"""Takes over the children of another search, so that they need not be trained again."""
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping

import optuna
from optuna.trial import FrozenTrial, TrialState, create_trial

from ..training.run import changes
from .config import SearchConfig
from .errors import SearchError
from .folder import read_search, study_settings
from .make_space import make_space
from .space import SPACES, Space, SpaceError
from .study import batched_writes, evaluated_trials, open_stored_study
from .warm_start import find_tokens

__all__ = ['add_reused', 'read_reused']

_COMPARED = ('data', 'objective', 'cost_target', 'child')  # the settings that rewards depend on


def read_reused(
        folder: Path, config: SearchConfig, space: Space, num_images: int, log: Callable[[str], None],
) -> List[FrozenTrial]:
    """Return the children of a search as finished trials of another one.

    Like an enqueued trial, each has its choices in ``fixed_params``: no sampler has proposed it. The user attribute
    ``reused`` says which trial of which search it was.

    Args:
        folder: The folder of the search.
        config: The settings of the new search.
        space: The space of the new search. Children that it does not contain are left out.
        num_images: Number of training images of the new search, those held out included.
        log: Called with a line about how many children are taken over.

    Raises:
        SearchError: If there is no search, if its children were trained or rated in another way, or if its space is
            not known.
    """
    study = open_stored_study(folder)
    content = read_search(folder / 'search.json')
    _check_settings(folder, content, config, space, num_images)
    old = _space(folder, content, config, space)
    trials = [trial for trial in evaluated_trials(study) if trial.state == TrialState.COMPLETE] if study else []
    found, reason = [], ''
    for trial in trials:
        genotype = old.genotype(old.tokens(trial.params))
        try:
            tokens = old.tokens(trial.params) if old is space else find_tokens(genotype, space, '--reuse')
        except SpaceError as error:
            reason = str(error)
            continue
        architecture = trial.user_attrs['architecture']
        if genotype.architecture_digest != architecture:
            raise SearchError(f'--reuse: {folder}: the space {old.name} has changed: it builds another cell from the '
                              f'choices of child {trial.number} than before; restore it')
        if space.genotype(tokens).architecture_digest == architecture:  # with the same outputs
            choices = space.choices(tokens)
            found.append(create_trial(
                params=choices, distributions=space.distributions, values=trial.values,
                user_attrs=dict(trial.user_attrs, reused=f'{folder.resolve().name}/{trial.number}'),
                system_attrs=dict(fixed_params=choices)))
    if not found:
        raise SearchError(f'--reuse: {folder}: none of its {len(trials)} children is in the space {space.name}'
                          + (f': {reason}' if reason else ''))
    log(f'{folder}: {len(found)} of {len(trials)} children are in the space {space.name}, and are taken over')
    return found


def add_reused(study: optuna.Study, reused: List[FrozenTrial]) -> None:
    """Add finished trials to a study, except for those whose architecture it has already."""
    known = {trial.user_attrs['architecture'] for trial in evaluated_trials(study)}
    with batched_writes(study):
        for trial in reused:
            if trial.user_attrs['architecture'] not in known:
                study.add_trial(trial)
                known.add(trial.user_attrs['architecture'])


def _check_settings(
        folder: Path, content: Mapping[str, Any], config: SearchConfig, space: Space, num_images: int) -> None:
    """Raise a SearchError if rewards of the two searches cannot be compared."""
    def compared(settings: Mapping[str, Any], images: int) -> Dict[str, Any]:
        return dict({name: settings.get(name) for name in _COMPARED}, num_images=images)

    differences = changes(compared(content['settings'], content.get('num_images', num_images)),
                          compared(study_settings(config, space), num_images))
    if differences:
        raise SearchError(f'--reuse: {folder}: its children were trained or rated in another way: {differences}')


def _space(folder: Path, content: Mapping[str, Any], config: SearchConfig, space: Space) -> Space:
    """Return the space of a search. Of Python files, only the one that the user has named is executed."""
    settings, stored = content['settings'], content.get('config', {})
    if settings.get('fingerprint') == space.fingerprint:
        return space
    name = str(stored.get('space'))
    if name not in SPACES:
        file, attribute = config.space.rpartition(':')[0], name.rpartition(':')[2]
        if not file:
            raise SearchError(f'--reuse: {folder}: its space, {name}, is in a Python file; put the space of this '
                              'search into that file, too, and name it with --space FILE.py:NAME')
        name = f'{file}:{attribute}'
    old = make_space(name, stored.get('blocks'), tuple(stored.get('forbid_op', ())))
    if old.fingerprint != settings.get('fingerprint'):
        raise SearchError(f'--reuse: {folder}: {name} is not the space of that search: its decisions differ')
    return old

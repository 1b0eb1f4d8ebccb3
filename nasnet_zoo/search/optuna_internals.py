"""The only uses of Optuna's private attributes (``Study._storage``, ``Study._study_id``, ``FrozenTrial._trial_id``).

Optuna has no public way for a sampler to keep data with a study or a trial, to see the trials that a pruner hides, or
to change a trial that another process began. Its own samplers do it in the same way. The storages' methods that are
called here are public (``optuna.storages.BaseStorage``). ``pyproject.toml`` bounds the version of Optuna.
"""
from typing import Any, List, Mapping, Tuple

from optuna import Study
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial

__all__ = ['get_all_trials', 'get_storage', 'get_study_attrs', 'get_study_key', 'set_study_attr', 'set_trial_attr',
           'set_trial_user_attr']


def get_storage(study: Study) -> BaseStorage:
    """Return the storage of a study. There is no public accessor."""
    return study._storage


def get_study_key(study: Study) -> Tuple[BaseStorage, int]:
    """Return what tells a study from others in this process. Studies in two storages may have the same name."""
    return study._storage, study._study_id


def get_study_attrs(study: Study) -> Mapping[str, Any]:
    """Return a study's system attributes. The public accessor was removed in Optuna 5."""
    return study._storage.get_study_system_attrs(study._study_id)


def set_study_attr(study: Study, name: str, value: Any) -> None:
    """Set a system attribute of a study. The public setter was removed in Optuna 5."""
    study._storage.set_study_system_attr(study._study_id, name, value)


def get_all_trials(study: Study) -> List[FrozenTrial]:
    """Return all trials by number. With Hyperband, ``Study.get_trials`` shows a sampler the trials of one bracket."""
    return study._storage.get_all_trials(study._study_id, deepcopy=False)


def set_trial_attr(study: Study, trial: FrozenTrial, name: str, value: Any) -> None:
    """Set a system attribute of the trial that is being sampled. A sampler gets a FrozenTrial, which is read-only."""
    study._storage.set_trial_system_attr(trial._trial_id, name, value)


def set_trial_user_attr(study: Study, trial: FrozenTrial, name: str, value: Any) -> None:
    """Set a user attribute of a trial that another process began; only that process has a Trial to set it by."""
    study._storage.set_trial_user_attr(trial._trial_id, name, value)

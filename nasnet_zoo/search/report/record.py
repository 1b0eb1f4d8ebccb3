"""What a report needs to know about a search, from a running search or from its folder."""
import math
import re
from collections import Counter
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from optuna.trial import FrozenTrial, TrialState

from ...genotype.loader import load_genotype
from ...genotype.schema import Genotype
from ..errors import SearchError
from ..finals import mean_results, read_runs
from ..folder import read_search
from ..make_space import remake_space
from ..objectives import OBJECTIVES, combined_reward
from ..samplers.history import NOTES
from ..space import SPACES, Space
from ..study import is_evaluated, open_stored_study, rebuild_cell

__all__ = ['Child', 'SearchRecord', 'parent_of', 'read_baseline', 'read_finals', 'read_record']


class Child(NamedTuple):
    """A child that has a reward.

    Attributes:
        place: Its place, from 1, among all children that were trained or failed.
        number: The number of its trial.
        reward: The number by which children are compared.
        predicted: Mean and standard deviation of the reward that the sampler predicted; None if it predicted nothing.
        parent: The number of the trial that the sampler changed to get this child, if it did so.
        trial: The trial, with the choices and all measurements.
    """
    place: int
    number: int
    reward: float
    predicted: Optional[Tuple[float, float]]
    parent: Optional[int]
    trial: FrozenTrial

    @property
    def accuracy(self) -> float:
        """The accuracy. Studies in which it is the reward do not store it separately."""
        return self.trial.user_attrs.get('accuracy', self.trial.values[0])

    @property
    def measured(self) -> Dict[str, Any]:
        """What was measured besides the accuracy, such as ``params``, ``macs`` and ``seconds``."""
        return self.trial.user_attrs


@dataclass(frozen=True)
class SearchRecord:
    """The state of a search.

    Attributes:
        label: The name of the search on pages.
        settings: The settings that its children have in common, in the current format of ``search.json``.
        trials: All trials, by number.
        wanted: Number of children that the search is to train.
        space: Its space; None if it is not known, in which case nothing about cells can be shown.
        finals: The results of the best children after the longer training, that of the winner first.
        winner: The winner, after the end of the search.
        has_ended: Whether the process that worked on the search last has come to its end.
        baseline: The folder of the search that it was started to be compared with.
    """
    label: str
    settings: Mapping[str, Any]
    trials: Sequence[FrozenTrial]
    wanted: int
    space: Optional[Space] = None
    finals: Sequence[Mapping[str, Any]] = ()
    winner: Optional[Genotype] = None
    has_ended: bool = False
    baseline: Optional[Path] = None

    @cached_property
    def evaluated(self) -> List[FrozenTrial]:
        """The trials that were trained or failed, by number: neither duplicates of others nor interrupted ones."""
        return [trial for trial in self.trials if is_evaluated(trial)]

    @cached_property
    def reused(self) -> int:
        """The number of children that were taken over from another search."""
        return sum('reused' in trial.user_attrs for trial in self.evaluated)

    @cached_property
    def training_seconds(self) -> float:
        """How long the training of the children took in total, in seconds, including those that were pruned or failed.

        Children of another search do not count.
        """
        return sum(
            trial.user_attrs['seconds'] if 'seconds' in trial.user_attrs else trial.duration.total_seconds()
            for trial in self.evaluated if 'reused' not in trial.user_attrs and trial.duration)

    @cached_property
    def children(self) -> List[Child]:
        """The children that have a reward, by number."""
        children = []
        for place, trial in enumerate(self.evaluated, 1):
            if trial.state == TrialState.COMPLETE and math.isfinite(value := self.reward(trial.values)):
                children.append(Child(place, trial.number, value, _prediction(trial), parent_of(trial), trial))
        return children

    @cached_property
    def best(self) -> Optional[Child]:
        """The child with the highest reward, the first of them if there are several."""
        return max(self.children, key=lambda child: child.reward, default=None)

    @cached_property
    def random_draws(self) -> List[float]:
        """The rewards of the children that were drawn at random, independently of each other.

        These are all children of random search. Evolution, local search and ``gp`` begin with random children, to which
        they note neither a parent nor a prediction. The first children of the other samplers are not drawn uniformly.
        A child that failed counts as the worst child of the search.
        """
        sampler = self.settings.get('sampler')
        if sampler not in ('random', 'evolution', 'local', 'gp') or not self.children:
            return []
        rewards = {child.number: child.reward for child in self.children}
        return [rewards.get(trial.number, min(rewards.values())) for trial in self.evaluated
                if 'fixed_params' not in trial.system_attrs and not trial.system_attrs.get(NOTES, {}).keys() & {
                    'parent', 'predicted'} and (sampler == 'random' or 'tokens' in trial.system_attrs.get(NOTES, {}))]

    @cached_property
    def failures(self) -> 'Counter[str]':
        """How often children failed or were pruned for each reason."""
        return Counter(trial.user_attrs['reason'] for trial in self.evaluated if 'reason' in trial.user_attrs)

    @cached_property
    def winning_child(self) -> Optional[Child]:
        """The winner or, before the end of the search, the best child so far."""
        if self.winner is None:
            return self.best
        return next((child for child in self.children
                     if child.trial.user_attrs['architecture'] == self.winner.architecture_digest), None)

    @property
    def costs(self) -> List[str]:
        """The costs that were measured, as names in :data:`~nasnet_zoo.search.objectives.OBJECTIVES`."""
        return [name for name in OBJECTIVES if any(child.measured.get(name) is not None for child in self.children)]

    @property
    def reward_name(self) -> str:
        """What the reward is."""
        objective = self.settings.get('objective')
        names = ['validation accuracy' if self._rating == 'accuracy' else f'reward ({self._rating})',
                 *([f'{OBJECTIVES[objective].description}, combined'] if objective else [])]
        return ' and '.join(names)

    @property
    def reward_format(self) -> str:
        """How a reward is formatted: as a percentage if it is an accuracy."""
        return '.2%' if self._rating == 'accuracy' and not self.settings.get('objective') else '.4f'

    @property
    def _rating(self) -> str:
        """By what children are rated."""
        return self.settings.get('child', {}).get('reward', 'accuracy')

    def reward(self, values: Sequence[float]) -> float:
        """Return the number by which children are compared, given the values of a trial."""
        return combined_reward(values, self.settings.get('cost_target'))

    def sorted_finals(self, rows: Sequence[Mapping[str, Any]]) -> List[Mapping[str, Any]]:
        """Return results of the longer training, the best first.

        A child that failed with a seed comes after the others: the mean of its other seeds would be too high.
        """
        objective = self.settings.get('objective')
        names = ['accuracy', objective] if objective else ['accuracy']
        return sorted(rows, key=lambda row: (
            -len(row['accuracies']), -self.reward([row[name] for name in names]), row['number']))

    def genotype(self, child: Child, name: str = 'cell') -> Optional[Genotype]:
        """Return the cells of a child, if the space is known."""
        return self.space.genotype(self.space.tokens(child.trial.params), name) if self.space else None

    def documented_genotype(self, number: int, results: Mapping[str, Any] = MappingProxyType({})) -> Genotype:
        """Return the cells of a child for a file, which says how they were found and what was measured.

        Args:
            number: The number of the child.
            results: Results that take the place of those of the child.

        Raises:
            SearchError: If the search has no such child, or its space is not known or builds another cell now.
        """
        child = next((one for one in self.children if one.number == number), None)
        if child is None:
            raise SearchError(f'{self.label}: no child {number} has a reward; "nasnet-zoo search --status" lists those '
                              'that have one')
        if self.space is None:
            raise SearchError(f'{self.label}: how this search builds its cells is not known; if its space is in a '
                              'Python file, add --space FILE.py:NAME, which executes the file')
        settings, found = self.settings, child.measured
        described = {name: value for name, value in settings['child'].items() if name != 'recipe'}
        rebuild_cell(child.trial, self.space, self.label, 'restore it')
        return self.space.genotype(
            self.space.tokens(child.trial.params), f'{_genotype_prefix(self.space.name)}-{found["architecture"][:8]}',
            source='found by nasnet-zoo search',
            search=dict(
                space=self.space.name, sampler=settings['sampler'], ppo_preset=settings.get('ppo_preset'),
                seed=self.seed, protocol=settings.get('protocol'), trials=len(self.trials), trial=number,
                reused=found.get('reused'), child=dict(described, time_limit=None)),
            results=dict(
                dict(dataset=settings.get('data'), split='validation', accuracy=child.accuracy, params=found['params'],
                     mult_adds=found['macs'], epochs=settings['child']['recipe']['epochs'], seed=self.seed), **results))

    @property
    def seed(self) -> Optional[int]:
        """The seed of the sampler."""
        return self.settings.get('seed', self.settings.get('child', {}).get('recipe', {}).get('seed'))


def _genotype_prefix(name: str) -> str:
    """Return the name of a space as the beginning of a genotype's name, which allows fewer characters."""
    return re.sub(r'[^A-Za-z0-9_.-]+', '-', name).strip('-_.')[:80] or 'space'


def parent_of(trial: FrozenTrial) -> Optional[int]:
    """Return the number of the trial that the sampler changed to get this one, if it has noted one."""
    parent = trial.system_attrs.get(NOTES, {}).get('parent')
    return parent if isinstance(parent, int) and parent < trial.number else None


def _prediction(trial: FrozenTrial) -> Optional[Tuple[float, float]]:
    """Return the mean and the standard deviation that the sampler has noted."""
    predicted = trial.system_attrs.get(NOTES, {}).get('predicted')
    if predicted is None:
        return None
    mean, sd = predicted
    return float(mean), float(sd)


def read_record(
        folder: Path, storage: Optional[str] = None, label: Optional[str] = None, space: Optional[str] = None,
) -> SearchRecord:
    """Read the record of a search, which may be running, from its folder.

    Args:
        folder: The folder of the search.
        storage: The URL of the storage, if it is not the journal in the folder.
        label: The name of the search on pages; by default that of the folder.
        space: The space of the search as FILE.py:NAME, if it is not a built-in one. The file is executed.

    Raises:
        SearchError: If there is no search, it cannot be read, or it has another space.
    """
    folder = Path(folder)
    study = open_stored_study(folder, storage)
    content = read_search(folder / 'search.json')
    settings, config = content['settings'], content.get('config', {})
    winner = load_genotype(folder / 'cell.json') if (folder / 'cell.json').exists() else None
    record = SearchRecord(
        label or folder.resolve().name, settings, study.get_trials(deepcopy=False) if study else [],
        config.get('trials', 0), _stored_space(folder, config, settings, space), winner=winner,
        has_ended=content.get('has_ended', winner is not None),  # earlier versions did not store it
        baseline=Path(config['baseline']) if config.get('baseline') else None)
    return replace(record, finals=read_finals(folder, record))


def read_finals(folder: Path, record: SearchRecord) -> List[Mapping[str, Any]]:
    """Return the results of the longer training so far, without those of other numbers of epochs.

    The winner is the first, and the others follow by their reward. The best of an earlier process, which trained other
    children again, may be better than the winner.

    Args:
        folder: The folder of the search.
        record: What is known about the search.
    """
    rows = [row for row in read_runs(folder / 'finals.json') if 'accuracy' in row]
    results = record.winner.results if record.winner else None
    epochs = results.get('epochs') if isinstance(results, dict) else rows[-1]['epochs'] if rows else None
    seeds = results.get('seeds') if isinstance(results, dict) else None
    chosen = seeds if isinstance(seeds, list) else None  # earlier versions had a single one
    winner = record.winner.architecture_digest if record.winner else None
    rows = [row for row in rows if row['epochs'] == epochs and (
        chosen is None or row.get('seed') is None or row['seed'] in chosen)]
    return sorted(record.sorted_finals(mean_results(rows)), key=lambda row: row['architecture'] != winner)


def read_baseline(folder: Path, other: Path, storage: Optional[str] = None) -> SearchRecord:
    """Read the record of a search with which that in the folder `other` is compared.

    Raises:
        SearchError: As :func:`read_record`.
    """
    has_same_name = folder.resolve().name == other.resolve().name
    return read_record(folder, storage, label=str(folder) if has_same_name else None)


def _stored_space(
        folder: Path, config: Mapping[str, Any], settings: Mapping[str, Any], own: Optional[str]) -> Optional[Space]:
    """Return the space of a search if it is a built-in one or `own`. No Python file that a folder names is
    executed."""
    if config.get('space') in SPACES:
        return remake_space(config['space'], config, settings)
    space = remake_space(own, config, settings) if own else None
    if own and space is None:
        raise SearchError(f'--space: {own} is not the space of the search in {folder}')
    return space

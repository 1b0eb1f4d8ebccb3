"""A search as a folder, from its settings to the winner.

    search.json    what was asked for, and the versions of everything
    study.log      every trial (Optuna's journal), unless another storage is named
    finals.json    the best children, trained again for longer
    cell.json      the winner, with how it was found and what it reached
    cells.svg, report.html   for people
"""
import json
import os
import uuid
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Mapping, NamedTuple, Optional, Union

import optuna
import torch
from filelock import FileLock, Timeout
from optuna.trial import FrozenTrial

from ..data.datasets import ImageSet, data_name, load_data
from ..files import atomic_write
from ..genotype.loader import load_genotype
from ..training.run import changes, versions
from .evaluator import COSTS, ChildError, ChildSettings, Evaluator
from .loop import Progress, Search
from .ppo import PRESETS
from .samplers import EvolutionSampler, PPOSampler
from .space import SPACES, Space
from .study import SearchError, check_storage, finished_children, open_study
from .workers import LocalWorkers, RayWorkers, connect

__all__ = ['SAMPLERS', 'PRUNERS', 'reward', 'run_search', 'search_status']

Reward = Optional[Callable[[FrozenTrial], float]]

# name: builder(space, seed, preset, trials, reward). Optuna's begin their random numbers anew in each process, so the
# number of trials that there are already is part of their seed; ours continue by themselves, and want one number.
SAMPLERS: Dict[str, Callable[[Space, int, str, int, Reward], optuna.samplers.BaseSampler]] = {
    'ppo': lambda space, seed, preset, trials, reward: PPOSampler(space, preset, seed, reward),
    'evolution': lambda space, seed, preset, trials, reward: EvolutionSampler(space, seed, reward=reward),
    'random': lambda space, seed, preset, trials, reward: optuna.samplers.RandomSampler(seed + trials),
    'tpe': lambda space, seed, preset, trials, reward: optuna.samplers.TPESampler(seed=seed + trials),
    'nsga2': lambda space, seed, preset, trials, reward: optuna.samplers.NSGAIISampler(seed=seed + trials),
}
PRUNERS: Dict[str, Callable[[int], optuna.pruners.BasePruner]] = {  # from a child's epochs
    'median': lambda epochs: optuna.pruners.MedianPruner(),
    'halving': lambda epochs: optuna.pruners.SuccessiveHalvingPruner(),
    'hyperband': lambda epochs: optuna.pruners.HyperbandPruner(max_resource=epochs),
}
COST_EXPONENT = -0.07


def reward(accuracy: float, cost: float, target: float) -> float:
    """MnasNet's (arXiv:1807.11626, equation 2): accuracy times (cost / target) to the power of -0.07, so that a child
    of twice the cost is as good if it is right 5 % more often, relatively."""
    return accuracy * (cost / target) ** COST_EXPONENT


class _Data(NamedTuple):
    """How a worker's process finds the images again."""
    source: str
    root: Optional[Path]

    def train_set(self, download: bool = False) -> ImageSet:
        train, _ = load_data(self.source, self.root, download=download)
        if not isinstance(train, ImageSet):
            raise SearchError(f'{self.source}: children are trained on small images, which these are not')
        return train


class _Stored(NamedTuple):
    """Images in Ray's object store, from where each node takes them once."""
    reference: Any

    def train_set(self) -> ImageSet:
        import ray
        return ray.get(self.reference)


def _evaluator(data: Union[_Data, _Stored], settings: ChildSettings) -> Evaluator:
    return Evaluator(data.train_set(), settings, 'cuda' if torch.cuda.is_available() else 'cpu')


class Cluster(NamedTuple):
    """Where on Ray children are trained, see :class:`~nasnet_zoo.search.workers.RayWorkers`."""
    address: str
    cpus: float = 1.
    gpus: float = 0.


def run_search(
        out: Path,
        data: str = 'digits',
        space: str = 'nasnet',
        blocks: Optional[int] = None,
        sampler: str = 'ppo',
        preset: str = 'fast',
        trials: int = 100,
        seed: int = 0,
        workers: Optional[int] = None,
        cluster: Optional[Cluster] = None,
        resume: bool = False,
        child: Optional[Dict[str, Any]] = None,
        top: int = 3,
        final_epochs: Optional[int] = None,
        warm_start: Optional[Union[str, os.PathLike]] = None,
        prune: Optional[str] = None,
        cost: Optional[str] = None,
        cost_target: Optional[float] = None,
        baseline: Optional[Path] = None,
        storage: Optional[str] = None,
        data_root: Optional[Path] = None,
        download: bool = False,
        say: Callable[[str], None] = print,
        on_progress: Optional[Callable[[Progress], None]] = None,
) -> Dict[str, Any]:
    """Search for a cell: children are asked for, trained and told, and the best are trained again for longer.

    Args:
        out: Folder of the search.
        data: What ``load_data`` takes; small images.
        space: ``nasnet`` or ``darts``.
        blocks: A cell's; the space's usual number by default.
        sampler: A name in :data:`SAMPLERS`.
        preset: Of PPO, ``fast`` (hundreds of children) or ``paper`` (20,000).
        trials: Different children that are trained, earlier runs' included; a resumed search may want more.
        seed: Of the sampler.
        workers: Children at a time; they share the cores. One by default, on a cluster as many as there is room for.
        cluster: Train them on Ray.
        resume: Go on with the search in `out`.
        child: Fields of :class:`~nasnet_zoo.search.evaluator.ChildSettings`.
        top: So many of the best are trained again.
        final_epochs: How long; three times a child's epochs by default.
        warm_start: A genotype to begin with.
        prune: A name in :data:`PRUNERS`, to give children up early; not with `cost`.
        cost: A name in :data:`~nasnet_zoo.search.evaluator.COSTS`, a second objective. The sampler's reward, where it
            wants a single number, and the choice of the best are by :func:`reward`.
        cost_target: Its `target`; by default the cost of NASNet-A as a child.
        baseline: Folder of another search, such as random's, to show in the report.
        storage: Optuna's URL of a storage to use instead of ``study.log``.
        say: Called with each line for people.
        on_progress: Called after each child.

    Returns:
        The report, JSON data.

    Raises:
        SearchError: For a folder that holds another search, or none to resume.
    """
    for option, name, table in (('sampler', sampler, SAMPLERS), ('space', space, SPACES), ('preset', preset, PRESETS),
                                ('prune', prune, PRUNERS), ('objective', cost, COSTS)):
        if name is not None and name not in table:
            raise SearchError(f'{option}: there is no {name!r}; known: {", ".join(table)}')
    if prune and cost:
        raise SearchError('prune: Optuna gives children up by one objective only; leave out --prune or --objective')
    others = None if baseline is None else search_status(baseline)
    children = SPACES[space](*([] if blocks is None else [blocks]))
    settings = ChildSettings.create(**{**(child or {}), **(dict(latency=True) if cost == 'latency' else {})})
    place = _Data(data, data_root)
    # What cannot work is found out before anything is written, and what is downloaded is there for the workers.
    images = place.train_set(download)
    evaluator = Evaluator(images, settings)
    evaluator.trainer(children.genotype([0] * len(children.decisions)))
    first = None if warm_start is None else children.choices(children.find(load_genotype(warm_start)))
    if cost and cost_target is None and out.joinpath('search.json').exists():
        # A latency is never the same again.
        cost_target = _read_search(out / 'search.json')['settings'].get('cost_target')
    if cost and cost_target is None:
        cost_target = evaluator.costs(load_genotype('nasnet_a'))[cost]
    asked = json.loads(json.dumps(dict(
        space=children.name, fingerprint=children.fingerprint, sampler=sampler, seed=seed,
        preset=preset if sampler == 'ppo' else None, data=data_name(data), own_storage=storage is not None,
        prune=prune, cost=cost, cost_target=cost_target, child=settings.model_dump(mode='json'))))

    def value_of(accuracy: float, facts: Mapping[str, Any]) -> float:
        return reward(accuracy, facts[cost], cost_target) if cost else accuracy

    def hire(settings: ChildSettings, size: Optional[int]) -> Union[LocalWorkers, RayWorkers]:
        if cluster is None:
            return LocalWorkers(partial(_evaluator, place, settings), size or 1)
        return RayWorkers(partial(_evaluator, stored, settings), cluster.address, size, cluster.cpus, cluster.gpus)
    if cluster:
        stored = _Stored(connect(cluster.address).put(images))
    del images, evaluator
    workforce = hire(settings, workers)  # a cluster without room says so now
    if storage is not None:
        check_storage(storage)
    if resume and not (out / 'search.json').exists():
        raise SearchError(f'{out}: there is no search to resume')
    with _alone(out):
        name = _begin_or_resume(out, asked, resume)
        study = open_study(
            out, name, storage, lambda trials: SAMPLERS[sampler](children, seed, preset, trials, cost and (
                lambda trial: reward(*trial.values, cost_target))),
            asked, ('maximize', 'minimize') if cost else ('maximize',),
            PRUNERS[prune](settings.recipe.epochs) if prune else None)
        if first is not None and not study.get_trials(deepcopy=False):
            study.enqueue_trial(first)
        Search(study, children, workforce, cost).run(trials, on_progress)
        best = sorted(finished_children(study), key=lambda one: (-value_of(one['value'], one), one['number']))[:top]
        if not best:
            reasons = [trial.user_attrs['reason'] for trial in study.trials if 'reason' in trial.user_attrs]
            raise SearchError(f'{out}: none of the {trials} children gave an accuracy; the last: {reasons[-1]}')
        longer = settings.model_copy(update=dict(time_limit=None, recipe=settings.recipe.model_copy(update=dict(
            epochs=final_epochs or 3 * settings.recipe.epochs))))
        say(f'the best {len(best)} are trained again for {longer.recipe.epochs} epochs')
        at_once = min(len(best), workers or (len(best) if cluster else 1))
        finals = _train_again(out, study, children, best, hire(longer, at_once), longer.recipe.epochs, say)
        finals.sort(key=lambda row: -value_of(row['accuracy'], row))
        return _crown(out, study, children, asked, finals, longer, others)


def search_status(out: Path, storage: Optional[str] = None) -> List[Dict[str, Any]]:
    """The finished children of a search, also while it runs: ``number``, ``value``, ``architecture`` and more.

    Raises:
        SearchError: Where there is no search.
    """
    if not (out / 'search.json').exists():
        raise SearchError(f'{out}: there is no search here')
    return finished_children(open_study(out, _read_search(out / 'search.json')['study'], storage))


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Two processes at one search would take each other's trials for those of a killed one."""
    out.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(out / '.lock', timeout=0):
            yield
    except Timeout:
        raise SearchError(f'{out}: another process is at work here; --status shows how far it is') from None


def _write_json(path: Path, data: Any) -> None:
    with atomic_write(path) as part:
        part.write_text(json.dumps(data, indent=2) + '\n')


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise SearchError(f'{path}: is no JSON: {error}') from None


def _read_search(path: Path) -> Dict[str, Any]:
    known = _read_json(path)
    if not isinstance(known, dict) or not isinstance(known.get('settings'), dict) or 'study' not in known:
        raise SearchError(f'{path}: is not of a search')
    return known


def _begin_or_resume(out: Path, asked: Dict[str, Any], resume: bool) -> str:
    """Name of the study, whose like no other folder has in the same storage."""
    path = out / 'search.json'
    if path.exists():
        if not resume:
            raise SearchError(f'{out}: has a search already; --resume goes on with it, another --out begins anew')
        known = _read_search(path)
        changed = changes(known['settings'], asked)
        if changed:
            raise SearchError(f'{out}: is a search of other settings: {changed}')
        return known['study']
    left = [name for name in ('study.log', 'finals.json') if (out / name).exists()]
    if left:
        raise SearchError(f'{out}: has {left[0]} but no search.json; another --out begins anew')
    name = f'{out.resolve().name}-{uuid.uuid4().hex[:8]}'
    _write_json(path, dict(settings=asked, study=name, versions=versions()))
    return name


def _train_again(
        out: Path, study: optuna.Study, space: Space, best: List[Dict[str, Any]],
        workers: Union[LocalWorkers, RayWorkers], epochs: int, say: Callable[[str], None],
) -> List[Dict[str, Any]]:
    """The best children after a longer training; what finals.json has is not trained again."""
    path = out / 'finals.json'
    rows = _read_json(path) if path.exists() else []
    rows = [row for row in rows if 'accuracy' in row]  # what failed is tried again
    known = {row['architecture'] for row in rows if row['epochs'] == epochs}
    todo = [one for one in best if one['architecture'] not in known]
    by_number = {trial.number: trial for trial in study.get_trials(deepcopy=False)}
    running: Dict[Future, Dict[str, Any]] = {}
    try:
        while todo or running:
            while todo and len(running) < workers.size:
                one = todo.pop(0)
                running[workers.submit(space.genotype(space.tokens(by_number[one['number']].params)))] = one
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                one = running.pop(future)
                row = dict(number=one['number'], architecture=one['architecture'], epochs=epochs,
                           child_value=one['value'])
                try:
                    row.update(workers.result(future)._asdict())
                    say(f'child {one["number"]}: {one["value"]:.2%} in the search, {row["accuracy"]:.2%} now')
                except ChildError as error:
                    row.update(reason=str(error))
                    say(f'child {one["number"]}: {error}')
                rows.append(row)
                _write_json(path, rows)
    finally:
        workers.close()
    wanted = {one['architecture'] for one in best}
    return [row for row in rows if row['architecture'] in wanted and row['epochs'] == epochs and 'accuracy' in row]


def _crown(
        out: Path, study: optuna.Study, space: Space, asked: Dict[str, Any], finals: List[Dict[str, Any]],
        settings: ChildSettings, others: Optional[List[Dict[str, Any]]],
) -> Dict[str, Any]:
    """Write the first of the finals as the winner, and the report."""
    if not finals:
        raise SearchError(f'{out}: none of the best could be trained again')
    won = finals[0]
    trial = next(trial for trial in study.get_trials(deepcopy=False) if trial.number == won['number'])
    cell = space.genotype(
        space.tokens(trial.params), f'{space.name}-{won["architecture"][:8]}', source='found by nasnet-zoo search',
        search=dict(
            space=space.name, sampler=asked['sampler'], preset=asked.get('preset'), seed=asked['seed'],
            trials=len(study.get_trials(deepcopy=False)), trial=won['number'],
            child={name: value for name, value in settings.model_dump(mode='json').items() if name != 'recipe'}),
        results=dict(
            dataset=asked['data'], split='validation', accuracy=won['accuracy'], params=won['params'],
            mult_adds=won['macs'], epochs=won['epochs'], seed=settings.recipe.seed))
    cell.save(out / 'cell.json')
    from .report import write_report
    write_report(out, study, space, cell, finals, asked, others)
    return dict(cell=str(out / 'cell.json'), genotype=cell.name, accuracy=won['accuracy'], params=won['params'],
                macs=won['macs'], finals=finals, children=len(finished_children(study)))

"""Runs a search in a folder, from its settings to the winner.

    search.json              the settings, and the versions of the packages
    study.log                every trial (Optuna's journal), unless another storage is used
    finals.json              the best children, trained again for longer
    .finals-STUDY/           checkpoints of this training, until all runs have finished
    cell.json                the winner: its genotype, how it was found and its accuracy
    cells.svg, report.html   a drawing of the winner, and a report
"""
from contextlib import closing, nullcontext
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Optional

import optuna
import torch
from optuna.trial import FrozenTrial, TrialState

from ..data.datasets import data_name
from ..drawing import draw
from ..files import write_utf8
from ..genotype.loader import load_genotype
from ..genotype.schema import Genotype
from ..loggers import Loggers
from ..network.skeleton import NUM_STAGES
from .config import ChildSettings, SearchConfig
from .errors import NothingNew, SearchError
from .evaluator import DataSource, Evaluator, ImageSource, make_evaluator
from .finals import Finalist, make_final_evaluator, read_runs, train_finalists
from .folder import (
    exclusive_lock,
    kept_defaults,
    mark_as_ended,
    read_known,
    read_search,
    start_or_resume,
    study_settings,
)
from .forecast import Forecast, measure_children
from .image_facts import ImageFacts
from .loop import Progress, Search
from .make_pool import make_pool
from .make_space import make_space
from .objectives import combined_reward
from .pool import WorkerPool
from .pool_ray import StoredImages, connect_ray
from .pruning import PRUNERS
from .report.live import LiveReport
from .report.pages import search_page
from .report.record import SearchRecord, read_baseline, read_finals, read_record
from .reuse import read_reused
from .samplers import SAMPLERS
from .selection import rank_children
from .space import Space
from .study import (
    StudySettings,
    check_cells,
    check_storage,
    child_rows,
    evaluated_trials,
    open_stored_study,
    open_study,
    storage_failures_reported,
)
from .warm_start import WarmStart, enqueue, find_cells

__all__ = ['run_search', 'search_forecast', 'search_status']


class _Prepared(NamedTuple):
    """The inputs of a search, loaded and checked before anything is written.

    Attributes:
        config: The settings, with defaults that depend on the data or the space filled in.
        space: The search space.
        images: Where workers get the images.
        facts: What tells these images from others of the same name.
        warm_start: The known cells that are evaluated first.
        reused: Children of other searches, as finished trials.
        baseline: The search to compare with, if there is one.
    """
    config: SearchConfig
    space: Space
    images: ImageSource
    facts: ImageFacts
    warm_start: List[WarmStart]
    reused: List[FrozenTrial]
    baseline: Optional[SearchRecord]


@storage_failures_reported()
def run_search(
        config: SearchConfig,
        on_progress: Optional[Callable[[Progress], None]] = None,
        log: Callable[[str], None] = print,
) -> Dict[str, Any]:
    """Search for a cell: train the children that the sampler proposes, and then train the best ones for longer.

    Args:
        config: The settings of the search.
        on_progress: Called before the first child and after each one.
        log: Called with lines for the user.

    Returns:
        The result as JSON data: ``cell`` (the path of the winner), ``genotype`` (its name), ``accuracy``, ``params``,
        ``macs``, ``finals`` (the best children, best first) and ``children`` (how many have an accuracy).

    Raises:
        SearchError: If the settings do not fit together, the folder contains another search, or no child has an
            accuracy.
        ImportError: If a logger needs a package that is not installed.
    """
    prepared = _prepare(config, log)
    config, space = prepared.config, prepared.space
    loggers = Loggers(config.log, config.out, study_settings(config, space)) if config.log else None
    # This fails, before anything is written, if a child does not fit into the cluster.
    make = partial(make_evaluator, prepared.images, config.child)
    with closing(make_pool(make, config, config.workers)) as pool:
        if config.storage is not None:
            check_storage(config.storage)
        forecast = _forecast(prepared, pool, log)
        with exclusive_lock(config.out):
            study = _open_study(prepared, forecast)
            search = Search(study, space, pool, config.objective, config.cost_target)
            known = evaluated_trials(study)
            log(forecast.describe(len(known), _durations(known)))

            def report(now: Progress) -> None:
                if loggers and now.finished:
                    loggers.write(child_rows(search.trials(), config.cost_target))
                if on_progress:
                    on_progress(now._replace(seconds_left=forecast.seconds_left(now.finished, now.durations)))

            render = partial(_report, prepared, search.trials, datetime.now(UTC), forecast)
            with LiveReport(config.out / 'report.html', render, log):
                with loggers or nullcontext():
                    try:
                        search.run(config.trials, report)
                    except NothingNew as error:
                        log(f'the search ends before {config.trials} children: {error}')
                finals = _run_final(prepared, study, log)
            return write_winner(prepared, study, finals)


def _report(
        prepared: _Prepared, trials: Callable[[], List[FrozenTrial]], since: datetime, forecast: Optional[Forecast],
        state: str, winner: Optional[Genotype] = None,
) -> str:
    """Return the report of the search in its present state, see :func:`~nasnet_zoo.search.report.pages.search_page`."""
    config = prepared.config
    record = replace(_record(prepared, trials()), winner=winner)
    record = replace(record, finals=read_finals(config.out, record))
    done = len(record.evaluated)
    left = forecast and forecast.seconds_left(
        done, _durations(record.evaluated),
        forecast.finals_left(done, sum(len(row['accuracies']) for row in record.finals)))
    return search_page(record, state, prepared.baseline, since, left)


def _record(prepared: _Prepared, trials: List[FrozenTrial]) -> SearchRecord:
    """Return the record of the search, without the results of its finalists."""
    config, space = prepared.config, prepared.space
    return SearchRecord(
        config.out.resolve().name, study_settings(config, space), trials, config.trials, space)


def search_status(out: Path, storage: Optional[str] = None) -> List[Dict[str, Any]]:
    """Return the finished children of a search, which may be running.

    Args:
        out: The folder of the search.
        storage: The URL of the storage, if it is not the journal in the folder.

    Returns:
        For each child ``number``, ``value`` (the reward), ``accuracy``, ``architecture`` and what else was measured.

    Raises:
        SearchError: If there is no search.
    """
    return [dict({'accuracy': child.accuracy, **child.measured}, number=child.number, value=child.reward)
            for child in read_record(Path(out), storage).children]


def search_forecast(out: Path, storage: Optional[str] = None) -> Optional[str]:
    """Return a line that says how long a search will still take, whether it is running or interrupted.

    Returns:
        None if the search has finished, or was started by a version that did not store what the line needs.

    Raises:
        SearchError: If there is no search.
    """
    content = read_search(out / 'search.json')
    if 'forecast' not in content:
        return None
    study = open_stored_study(out, storage)
    try:
        forecast = Forecast(**content['forecast'])
    except ValueError as error:
        raise SearchError(f'{out / "search.json"}: forecast: {error}') from None
    record = SearchRecord(
        out.name, content['settings'], study.get_trials(deepcopy=False) if study else [], forecast.trials)
    trials = record.evaluated
    rows = read_runs(out / 'finals.json')
    # Fewer children may have an accuracy than were to be trained again.
    can = len(record.children) * content.get('config', {}).get('final_seeds', 1)
    if len(trials) >= forecast.trials:
        forecast = forecast.model_copy(update=dict(finals=min(forecast.finals, can)))
    again = forecast.finals_left(len(trials), sum(row['epochs'] == forecast.final_epochs for row in rows))
    if len(trials) >= forecast.trials and not again:
        return None
    return forecast.describe(len(trials), _durations(trials), again)


def _durations(trials: List[optuna.trial.FrozenTrial]) -> List[float]:
    return [trial.user_attrs['seconds'] for trial in trials if 'seconds' in trial.user_attrs]


def _forecast(prepared: _Prepared, pool: WorkerPool, log: Callable[[str], None]) -> Forecast:
    """Measure how long children take, unless the search has been begun already."""
    config, known = prepared.config, _check_folder(prepared)
    seconds = measure_children(pool, prepared.space, log) if known is None else known.get(
        'forecast', {}).get('child_seconds')
    return Forecast(
        trials=config.trials, workers=pool.size, child_seconds=seconds, epochs=config.child.recipe.epochs,
        finals=min(config.top, config.trials) * config.final_seeds, final_epochs=_final_settings(config).recipe.epochs)


def _check_folder(prepared: _Prepared) -> Optional[Dict[str, Any]]:
    """Check the folder. Return the content of ``search.json`` of a search that is resumed, or None for a new one."""
    config, space = prepared.config, prepared.space
    known, study = read_known(config, study_settings(config, space), prepared.facts), None
    if known is not None:
        if config.storage is None or known['study'] in optuna.get_all_study_names(config.storage):
            study = open_stored_study(config.out, config.storage)
        if study is not None:
            check_cells(study, space, config.out)
        elif known.get('has_ended') or (config.out / 'finals.json').exists():  # otherwise it had only just begun
            place = 'study.log is missing or empty' if config.storage is None else 'the storage does not contain them'
            raise SearchError(f'{config.out}: the children of this search are lost: {place}; restore them from a copy, '
                              'or choose another --out')
    _check_trials(prepared, study)
    return known


def _prepare(config: SearchConfig, log: Callable[[str], None]) -> _Prepared:
    """Load what the search needs, and try everything that may fail, before anything is written."""
    config = config.model_copy(update=kept_defaults(config))
    baseline = None
    if config.baseline is not None:
        config = config.model_copy(update=dict(baseline=config.baseline.resolve()))
        try:
            baseline = read_baseline(config.baseline, config.out, config.storage)
        except SearchError as error:
            raise SearchError(f'--baseline: {error}') from None
    space = make_space(config.space, config.blocks, config.forbid_op)
    images: ImageSource = DataSource(config.data, config.data_root, config.child.img_size)
    loaded = images.load(config.download)
    on_gpu = config.gpus_per_child > 0 if config.ray else torch.cuda.is_available()
    config = config.with_protocol(on_gpu, min(loaded.input_size[1:]), loaded.size())
    if config.prune and config.child.recipe.epochs < 2:
        raise SearchError('--prune: children are trained for one epoch, after which nothing is left to stop; add '
                          '--epochs with 2 or more')
    child = config.child.model_copy(update=dict(latency=config.child.latency or config.objective == 'latency'))
    # A latency is compared with that of the children, which are evaluated on the GPU if there is one here.
    evaluator = Evaluator(loaded, child, 'cuda' if child.latency and on_gpu and not config.ray else 'cpu')
    evaluator.trainer(space.genotype([0] * len(space.decisions)))
    warm_start = find_cells(config.warm_start, space, config.forbid_op, log)
    target = _cost_target(config, evaluator)
    config = config.model_copy(update=dict(
        child=child.model_copy(update=dict(match_target=target if child.match else None)),
        data=data_name(config.data), cost_target=target))
    facts = ImageFacts.of(loaded)
    reused = read_reused(config, space, facts, log)
    if config.ray:
        images = StoredImages(connect_ray(config.ray).put(loaded))
    return _Prepared(config, space, images, facts, warm_start, reused, baseline)


def _cost_target(config: SearchConfig, evaluator: Evaluator) -> Optional[float]:
    """Return the cost target: the given one, that of the resumed search, or the cost of a child with NASNet-A's cells.

    The target of a resumed search is kept because a latency would not be measured as exactly the same value again.
    """
    path = config.out / 'search.json'
    cost = config.objective or config.child.match
    if config.cost_target is not None or cost is None:
        return config.cost_target
    stored = read_search(path)['settings'].get('cost_target') if path.exists() else None
    return evaluator.costs(load_genotype('nasnet_a'))[cost] if stored is None else stored


def _open_study(prepared: _Prepared, forecast: Forecast) -> optuna.Study:
    """Create or resume the study, and enqueue the known cells."""
    config, space = prepared.config, prepared.space
    settings = study_settings(config, space)
    name = start_or_resume(config, settings, prepared.facts, forecast.model_dump(mode='json'))

    def reward(trial: FrozenTrial) -> float:
        return combined_reward(trial.values, config.cost_target)

    study = open_study(config.out, name, config.storage, StudySettings(
        sampler=lambda trials: SAMPLERS[config.sampler].resolve()(
            space, config.seed, config.ppo_preset, trials, reward),
        settings=settings, reused=prepared.reused,
        directions=('maximize', 'minimize') if config.objective else ('maximize',),
        pruner=PRUNERS[config.prune].resolve()(config.child.recipe.epochs) if config.prune else None))
    enqueue(study, prepared.warm_start)
    return study


def _check_trials(prepared: _Prepared, study: Optional[optuna.Study]) -> None:
    """Raise a SearchError if --trials is too small for all of the known cells to be evaluated.

    Args:
        prepared: The inputs of the search.
        study: The study of a resumed search that has begun.
    """
    config, space = prepared.config, prepared.space
    if not prepared.warm_start:
        return
    waiting = [trial.system_attrs['fixed_params'] for trial in study.get_trials(deepcopy=False)
               if trial.state == TrialState.WAITING] if study else []
    cells = [*waiting, *(cell.choices for cell in prepared.warm_start)]
    evaluated = [*prepared.reused, *(evaluated_trials(study) if study else [])]
    wanted = len({trial.user_attrs['architecture'] for trial in evaluated}
                 | {space.genotype(space.tokens(choices)).architecture_digest for choices in cells})
    if wanted > config.trials:
        raise SearchError(f'--warm-start: --trials is too small to evaluate all of these cells; use --trials {wanted}, '
                          'or more')


def _run_final(prepared: _Prepared, study: optuna.Study, log: Callable[[str], None]) -> List[Mapping[str, Any]]:
    """Train the best children again. Return their rows, best first."""
    config, space = prepared.config, prepared.space
    record = _record(prepared, study.get_trials(deepcopy=False))
    children = record.children
    if not children:
        reasons = [trial.user_attrs['reason'] for trial in study.trials if 'reason' in trial.user_attrs]
        raise SearchError(f'{config.out}: none of the {config.trials} children has an accuracy; the last one failed '
                          f'because: {reasons[-1]}')
    tokens = [space.tokens(child.trial.params) for child in children]
    order = rank_children(space, tokens, [child.reward for child in children])
    finalists = [Finalist(children[i].number, children[i].accuracy, space.genotype(tokens[i]))
                 for i in order[:config.top]]
    child = _final_settings(config)
    seeds = range(config.seed, config.seed + config.final_seeds)
    log(f'training the best {len(finalists)} children again, for {child.recipe.epochs} epochs'
        + (f' with {len(seeds)} seeds each' if len(seeds) > 1 else ''))
    runs = len(finalists) * len(seeds)
    # A search that takes this one's place may have other images.
    checkpoints = config.out.resolve() / f'.finals-{study.study_name}'
    pool = make_pool(partial(make_final_evaluator, prepared.images, child, str(checkpoints)), config,
                     min(runs, config.workers or (runs if config.ray else 1)))
    rows = train_finalists(
        config.out / 'finals.json', checkpoints, finalists, pool, child.recipe.epochs, seeds, child.val_seed, log)
    if not rows:
        raise SearchError(f'{config.out}: none of the best children could be trained again')
    return record.sorted_finals(rows)


def _final_settings(config: SearchConfig) -> ChildSettings:
    """Return the settings of the longer training: those of the children, with whole networks, more epochs, no time
    limit, and the accuracy as the reward.

    Other images are held out than in the search, which has chosen the finalists by those.
    """
    recipe = config.child.recipe
    epochs = config.final_epochs or 0
    longer = recipe.model_copy(update=dict(epochs=epochs if epochs > recipe.epochs else 3 * recipe.epochs))
    return config.child.model_copy(update=dict(
        reductions='extra', stages=NUM_STAGES, time_limit=None, reward='accuracy', recipe=longer,
        val_seed=config.child.val_seed + 1))


def write_winner(prepared: _Prepared, study: optuna.Study, finals: List[Mapping[str, Any]]) -> Dict[str, Any]:
    """Write the best child of the longer training to ``cell.json``, and the report. Return the result of the search."""
    config, won = prepared.config, finals[0]
    trials = partial(study.get_trials, deepcopy=False)
    record = _record(prepared, trials())
    cell = record.documented_genotype(
        won['number'], dict(accuracy=won['accuracy'], params=won['params'], mult_adds=won['macs'],
                            epochs=won['epochs'], seeds=won['seeds']))
    cell.save(config.out / 'cell.json')
    draw(cell, config.out / 'cells.svg')
    write_utf8(config.out / 'report.html', _report(prepared, trials, datetime.now(UTC), None, 'finished', cell))
    mark_as_ended(config.out)
    return dict(cell=str(config.out / 'cell.json'), genotype=cell.name, accuracy=won['accuracy'], params=won['params'],
                macs=won['macs'], finals=finals, children=len(record.children))

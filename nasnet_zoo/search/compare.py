"""Compares cells: each is trained with several seeds, in networks of equal cost, and tested for differences.

    compare.json      the settings, the names of the cells, one row for each training, and the summary
    compare.svg       a plot of the accuracies
    runs/CELL-SEED/   the folder of each training run, from which it is resumed, with the trained model
"""
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

import torch

from ..data.datasets import ImageSet, load_data
from ..data.preprocessing import make_preprocessing
from ..description import describe
from ..files import check_purpose, write_json
from ..genotype.loader import load_genotype
from ..genotype.schema import Genotype
from ..loggers import check_loggers
from ..network.nasnet import compile_genotype
from ..training.config import TrainConfig
from ..training.metrics import Accuracy, evaluate
from ..training.recipe import with_defaults
from ..training.run import changes, run_training
from ..training.trainer import Trainer
from ..zoo import build
from .compare_config import CompareConfig
from .compare_report import pack, plot, summarise
from .errors import ChildError, SearchError
from .evaluator import load_small, worker_device
from .folder import exclusive_lock, read_json
from .forecast import show_duration
from .make_pool import make_pool
from .match import matched_filters, reference_cost
from .pool import ChildPool, completed
from .timing import step_seconds

__all__ = ['Job', 'OnEpochs', 'run_comparison']

POLL = 2.  # seconds between two looks at the logs of unfinished training runs
OnEpochs = Callable[[int, int], None]


class Job(NamedTuple):
    """One training.

    Attributes:
        name: The name of the cell, unique in the comparison, and of the seed.
        genotype: The cell.
        seed: The seed of the training.
        cell_filters: Number of filters in the cells of the first stage.
        params: Number of parameters of the network.
        macs: Mult-adds of the network for one image.
    """
    name: str
    genotype: Genotype
    seed: int
    cell_filters: int
    params: int
    macs: int

    @property
    def key(self) -> Tuple[str, int]:
        """What identifies the job's row in the results."""
        return self.genotype.architecture_digest, self.seed

    def folder(self, config: CompareConfig) -> Path:
        """The folder of the training run."""
        return config.out / 'runs' / f'{self.name}-{self.seed}'


def run_comparison(
        config: CompareConfig,
        on_epochs: Optional[OnEpochs] = None,
        log: Callable[[str], None] = print,
) -> Dict[str, Any]:
    """Train each cell with each seed, and compare the accuracies.

    A training that was interrupted continues from its last epoch, if its folder is on this machine.

    Args:
        config: The settings.
        on_epochs: Called now and then with the number of epochs that are finished, of all training runs, and the
            number of all epochs.
        log: Called with lines for the user.

    Returns:
        JSON data: ``cells`` (for each cell ``name``, ``architecture``, ``cell_filters``, ``params``, ``macs``,
        ``mean``, ``std`` and ``accuracies`` by seed), ``differences`` (for each pair of cells the mean difference over
        the seeds, its 95 % interval, and the p-values of paired tests; ``interval_95_images`` and ``p_images`` include
        the choice of the images), ``target``, and ``rows``, one for each training.

    Raises:
        SearchError: If the settings do not fit together or to the comparison in the folder, or if a training fails.
        ImportError: If a logger needs a package that is not installed.
    """
    check_loggers(config.log)
    check_purpose(config.out, 'compare.json')
    path = config.out / 'compare.json'
    if config.resume and not path.exists():
        raise SearchError(f'{config.out}: there is no comparison to resume')
    data, num_images = _load(config)
    jobs, target = _plan(config, data)
    with exclusive_lock(config.out, 'another process is running this comparison; wait until it has finished'):
        rows, names = _start_or_resume(config, path, num_images)
        jobs = _keep_names(jobs, names)
        names.update((job.genotype.architecture_digest, job.name) for job in jobs)
        known = {(row['architecture'], row['seed']): row for row in rows if 'accuracy' in row}
        todo = [job for job in jobs if job.key not in known]

        def write(rows: Sequence[Dict[str, Any]], **result: Any) -> None:
            write_json(path, dict(settings=config.stored(), num_images=num_images, names=names, rows=rows, **result))

        def save(row: Dict[str, Any]) -> None:
            known[row['architecture'], row['seed']] = row
            write(list(known.values()))

        if todo:
            size = config.workers and min(config.workers, len(todo))
            with closing(make_pool(partial(_make_trainer, config), config, size)) as pool:
                seconds = _seconds(config, data, todo[0], pool.size)  # may refuse the recipe; nothing is written yet
                log(f'{len(todo)} training runs of {config.recipe.epochs} epochs: about '
                    f'{show_duration(seconds * len(todo) / pool.size)}')
                write(rows)
                _train(todo, pool, save, _Epochs(config, jobs, known, on_epochs), log)
        result = dict(target=target, **summarise(
            [job for job in jobs if job.seed == config.first_seed], [known[job.key] for job in jobs]))
        write(list(known.values()), **result)
        plot(result['cells'], config.out / 'compare.svg', config.split)
    return dict(result, rows=[known[job.key] for job in jobs])


def _load(config: CompareConfig) -> Tuple[ImageSet, Dict[str, int]]:
    """Return the training images, and the numbers of training and test images."""
    train, test = load_small(config.data, config.data_root, config.img_size, config.download)
    return train, dict(train=train.size(), test=test.size())


def _plan(config: CompareConfig, data: ImageSet) -> Tuple[List[Job], Optional[float]]:
    """Return all training runs, the first seed of all cells first, and the cost target if there is one."""
    channels, *size = data.input_size
    # The cost is that of the network that remains: an auxiliary head is dropped after the training.
    args = dict(config.network_args, aux_head=False, in_chans=channels, num_classes=len(data.class_names),
                img_size=tuple(size))
    target = config.cost_target
    if config.match is not None and target is None:
        target = reference_cost(config.match, **args)
    cells: Dict[str, Job] = {}
    for source in config.cells:
        genotype = load_genotype(source)
        filters = config.cell_filters
        if config.match is not None and target is not None:
            filters = matched_filters(genotype, config.match, target, config.match_below, **args)
        cost = describe(genotype, **dict(args, cell_filters=filters))
        digest, name = genotype.architecture_digest, genotype.name
        if digest in cells:
            raise SearchError(f'{source}: has the same architecture as {cells[digest].name}; list each cell once')
        if any(job.name == name for job in cells.values()):
            name = f'{name}-{digest[:8]}'
        cells[digest] = Job(name, genotype, config.first_seed, filters, cost['params'], cost['macs'])
    seeds = range(config.first_seed, config.first_seed + config.seeds)
    return [job._replace(seed=seed) for seed in seeds for job in cells.values()], target


def _keep_names(jobs: Sequence[Job], known: Mapping[str, str]) -> List[Job]:
    """Let cells keep the names that they have in a comparison that is resumed, and no other cell take one."""
    def name(job: Job) -> str:
        digest = job.genotype.architecture_digest
        return known.get(digest, f'{job.name}-{digest[:8]}' if job.name in known.values() else job.name)
    return [job._replace(name=name(job)) for job in jobs]


def _start_or_resume(
        config: CompareConfig, path: Path, num_images: Dict[str, int],
) -> Tuple[List[Dict[str, Any]], Dict[str, str]]:
    """Return the rows of a comparison that is resumed, and the names of its cells by architecture; or none."""
    if not path.exists():
        return [], {}
    if not config.resume:
        raise SearchError(f'{config.out}: contains a comparison already; add --resume to continue it, or choose '
                          'another --out')
    content = read_json(path)
    if not (isinstance(content, dict) and isinstance(content.get('settings'), dict)
            and isinstance(content.get('rows'), list) and isinstance(content.get('names', {}), dict)):
        raise SearchError(f'{path}: does not describe a comparison; it needs "settings" and "rows"')
    settings = {'val_seed': 0, **content['settings'],
                'recipe': with_defaults(content['settings'].get('recipe', {}))}
    changed = changes(dict(settings, images=content.get('num_images', num_images)),
                      dict(config.stored(), images=num_images))
    if changed:
        raise SearchError(f'{config.out}: the comparison was started with other settings: {changed}; use those, '
                          'or choose another --out')
    rows = content['rows']  # earlier versions stored names there only
    return rows, {**content.get('names', {}), **{row['architecture']: row['cell'] for row in rows}}


def _make_trainer(config: CompareConfig) -> Callable[..., Dict[str, Any]]:
    """Return the function with which a worker trains."""
    return partial(_train_one, config)


def _train_one(config: CompareConfig, job: Job, should_prune: None = None) -> Dict[str, Any]:
    """Train a network in its folder, from where the training was interrupted, and return its row of the results."""
    folder = job.folder(config)
    cell = folder / 'cell.json'
    if cell.exists() and load_genotype(cell).architecture_digest != job.genotype.architecture_digest:
        raise ChildError(f'{folder} contains the training of another cell of this name; rename the new cell')
    folder.mkdir(parents=True, exist_ok=True)
    job.genotype.save(cell)
    report = run_training(TrainConfig(
        source=str(cell), data=config.data, out=folder, resume=(folder / 'run.json').exists(),
        data_root=config.data_root, img_size=config.img_size, log=config.log,
        val_share=config.val_share if config.split == 'validation' else 0., val_seed=config.val_seed,
        **dict(config.network_args, cell_filters=job.cell_filters),
        recipe=config.recipe.model_copy(update=dict(seed=job.seed))), say=lambda line: None)
    assert report is not None  # there is a single process
    found = _test(config, folder)
    return dict(
        cell=job.name, architecture=job.genotype.architecture_digest, seed=job.seed, accuracy=found.top1,
        eval_loss=found.loss, images=found.count, correct=pack(found.correct),
        cell_filters=job.cell_filters, params=job.params, macs=job.macs, epochs=config.recipe.epochs,
        loss=report['log']['loss'], seconds=report['log']['seconds'], versions=report['versions'],
        genotype=job.genotype.to_dict())


def _test(config: CompareConfig, folder: Path) -> Accuracy:
    """Measure the accuracy of a trained network on the test images, or on those that were held out."""
    device = worker_device()
    model = build(str(folder), pretrained=True).to(device).eval()
    train, test = load_data(config.data, config.data_root, preprocessing=make_preprocessing(model))
    images = test if config.split == 'test' else train.split(config.val_share, config.val_seed)[1]
    return evaluate(model, images, device=device)


class _Epochs:
    """Counts the epochs that are finished, from the results and from the logs of unfinished runs."""

    def __init__(
            self, config: CompareConfig, jobs: Sequence[Job], known: Dict[Tuple[str, int], Dict[str, Any]],
            on_epochs: Optional[OnEpochs],
    ) -> None:
        self._config, self._jobs, self._known, self._on_epochs = config, jobs, known, on_epochs

    def report(self) -> None:
        if self._on_epochs is None:
            return
        epochs = self._config.recipe.epochs
        self._on_epochs(sum(epochs if job.key in self._known else self._logged(job) for job in self._jobs),
                        epochs * len(self._jobs))

    def _logged(self, job: Job) -> int:
        path = job.folder(self._config) / 'log.csv'
        return max(0, len(path.read_text(encoding='utf-8').splitlines()) - 1) if path.exists() else 0


def _train(
        todo: List[Job], pool: ChildPool, save: Callable[[Dict[str, Any]], None], epochs: _Epochs,
        log: Callable[[str], None],
) -> None:
    """Train what is left to do.

    Raises:
        SearchError: If a training fails. The others that are running are stopped, and continue with --resume.
    """
    for job, future in completed(pool.submit, pool.size, todo, POLL, epochs.report):
        try:
            row = pool.result(future)
        except Exception as error:
            raise SearchError(f'{job.name}, seed {job.seed}: {error}') from None
        save(row)
        log(f'{job.name}, seed {job.seed}: {row["accuracy"]:.2%} ({row["params"]:,} parameters, '
            f'{row["seconds"]:.0f} s)')


def _seconds(config: CompareConfig, data: ImageSet, job: Job, workers: int) -> float:
    """Return how long a training will take, from a few steps with as many threads as a worker has."""
    if config.split == 'validation':
        data, _ = data.split(config.val_share, config.val_seed)
    channels, *image = data.input_size
    model = compile_genotype(job.genotype, **dict(config.network_args, cell_filters=job.cell_filters),
                             in_chans=channels, num_classes=len(data.class_names), img_size=tuple(image))
    trainer = Trainer(model, data, config.recipe, worker_device())
    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, threads // workers))
    try:
        _, step = step_seconds(trainer)
    finally:
        torch.set_num_threads(threads)
    return step * trainer.steps_per_epoch * config.recipe.epochs

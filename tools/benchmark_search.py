"""Compare samplers on NAS-Bench-301: python tools/benchmark_search.py --nb301 DIR --out FILE.json

DIR contains a surrogate that predicts the validation accuracy on CIFAR-10 of a pair of DARTS cells (model_v2.onnx and
encoding_v2.json of the YAHPO Gym data). Each sampler is used in an Optuna study in memory, as in a search. A budget is
a number of different cells: duplicates do not count. The values are predictions, not accuracies: only compare samplers
with each other, at equal budgets.

With --noise, the sampler is told noisy rewards. A search then has to name a winner without knowing the true values;
the table shows the true value of the cell that it names, by the mean that a Gaussian process fits to the rewards, as
in `nasnet-zoo search`, and of the cell with the highest reward. --outstanding N stands for N workers: N proposals are
always open, and the oldest one is told first.

Results are written after each run, and the same command continues where it was interrupted.
"""
import argparse
import json
import os
import signal
import statistics
import sys
from collections import deque
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any, Deque, Dict, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
import optuna
from rich.console import Console
from rich.progress import track
from rich.table import Table
from scipy.stats import mannwhitneyu, sem
from scipy.stats import t as student_t

from nasnet_zoo.cli.common import exit_on_interrupt
from nasnet_zoo.files import write_json
from nasnet_zoo.genotype.schema import Genotype
from nasnet_zoo.search.config import SearchConfig
from nasnet_zoo.search.folder import read_json
from nasnet_zoo.search.ppo_settings import PRESETS
from nasnet_zoo.search.samplers import SAMPLERS
from nasnet_zoo.search.selection import rank_children
from nasnet_zoo.search.space import SPACES

_PRESET = SearchConfig.model_fields['ppo_preset'].default
# name: the sampler and PPO's preset
CONTESTANTS = {
    **{name: (name, _PRESET) for name in SAMPLERS}, **{f'ppo-{preset}': ('ppo', preset) for preset in PRESETS}}
BUDGETS = (100, 200, 500, 1000)
_SECONDS = dict(gp=15., ppo=35., tpe=30., nsga2=8., evolution=4., local=4., random=2.)  # for 1000 cells, one core
_PREFIX = 'NetworkSelectorDatasetInfo_COLON_darts_COLON_'
_FIRST_EDGE = {2: 0, 3: 2, 4: 5, 5: 9}  # of each node; DARTS numbers its nodes 2 to 5, and its inputs 0 and 1
_DARTS_OPS = {
    'factorized_identity': 'skip_connect', 'dil_sep_conv_3x3': 'dil_conv_3x3', 'dil_sep_conv_5x5': 'dil_conv_5x5'}


class Surrogate:
    """Predicts the validation accuracy of a genotype of the DARTS space, in [0, 1], after 98 epochs.

    Args:
        folder: Contains ``model_v2.onnx`` and ``encoding_v2.json``.

    Raises:
        ValueError: If one of them is missing.
    """

    def __init__(self, folder: Path) -> None:
        import onnxruntime
        missing = [name for name in ('model_v2.onnx', 'encoding_v2.json') if not (folder / name).exists()]
        if missing:
            raise ValueError(f'--nb301: {folder} has no {missing[0]}')
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(
            str(folder / 'model_v2.onnx'), options, providers=['CPUExecutionProvider'])
        self._codes = json.loads((folder / 'encoding_v2.json').read_text(encoding='utf-8'))
        self._names = [
            *(f'{_PREFIX}edge_{kind}_{i}' for kind in ('normal', 'reduce') for i in range(14)),
            *(f'{_PREFIX}inputs_node_{kind}_{k}' for kind in ('normal', 'reduce') for k in (3, 4, 5))]

    def __call__(self, genotype: Genotype) -> float:
        values = {}
        number = {'h1': 0, 'h0': 1, **{f'b{i}': i + 2 for i in range(4)}}
        for kind, cell in (('normal', genotype.normal), ('reduce', genotype.reduction)):
            for k, block in enumerate(cell.blocks, start=2):
                edges = sorted((number[state], _DARTS_OPS.get(op, op)) for op, state in block.edges)
                for source, op in edges:
                    values[f'{_PREFIX}edge_{kind}_{_FIRST_EDGE[k] + source}'] = op
                values[f'{_PREFIX}inputs_node_{kind}_{k}'] = '_'.join(str(source) for source, _ in edges)
        codes = np.array([[self._codes[name][values.get(name, '#na#')] for name in self._names]], dtype=np.int32)
        return float(self._session.run(None, {'x_cat': codes, 'x_cont': np.full((1, 1), 97, np.float32)})[0][0, 0])


class Task(NamedTuple):
    """What all runs of a benchmark have in common.

    Attributes:
        nb301: The folder of the surrogate.
        space: The name of the search space.
        trials: Number of different cells.
        noise: Standard deviation of the noise that is added to a value.
        outstanding: Number of proposals that are open at a time.
    """
    nb301: Path
    space: str = 'darts'
    trials: int = 500
    noise: float = 0.
    outstanding: int = 1

    @property
    def budgets(self) -> List[int]:
        return sorted({budget for budget in BUDGETS if budget <= self.trials} | {self.trials})


class Found(NamedTuple):
    """A cell that was told: its tokens, its value, and the reward that the sampler was told."""
    tokens: Tuple[int, ...]
    value: float
    reward: float


def search(name: str, seed: int, task: Task) -> List[Found]:
    """Return the different cells that a sampler was told, in order."""
    import torch
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    space, surrogate = SPACES[task.space](), Surrogate(task.nb301)
    sampler, preset = CONTESTANTS[name]
    study = optuna.create_study(
        direction='maximize', sampler=SAMPLERS[sampler].resolve()(space, seed, preset, 0, None))
    known: Dict[str, Found] = {}
    waiting: Deque[Tuple[optuna.Trial, Tuple[int, ...]]] = deque()
    for _ in range(20 * task.trials):  # a sampler may propose duplicates for ever
        if len(known) == task.trials:
            break
        trial = study.ask()
        waiting.append((trial, space.suggest(trial)))
        if len(waiting) == task.outstanding:
            trial, tokens = waiting.popleft()
            genotype = space.genotype(tokens)
            digest = genotype.architecture_digest
            if digest not in known:
                value = surrogate(genotype)
                noise = np.random.default_rng([seed, int(digest[:16], 16)]).normal(0, task.noise) if task.noise else 0.
                known[digest] = Found(tokens, value, value + noise)
            study.tell(trial, known[digest].reward)
    return list(known.values())


def run(name: str, seed: int, task: Task) -> Dict[str, Any]:
    """Return what a search found, as JSON data.

    ``best`` lists the number of cells and the value whenever a better cell was found. ``named`` and ``luckiest`` have
    for each budget the value of the cell with the highest fitted mean, and of the one with the highest reward; None if
    the sampler has not proposed as many different cells.
    """
    cells = search(name, seed, task)
    best: List[Tuple[int, float]] = []
    for count, cell in enumerate(cells, start=1):
        if not best or cell.value > best[-1][1]:
            best.append((count, cell.value))
    named: Dict[str, Optional[float]] = {str(budget): None for budget in task.budgets}
    luckiest = dict(named)
    for budget in task.budgets:
        if len(cells) < budget:
            continue
        told = cells[:budget]
        lucky = max(told, key=lambda cell: cell.reward)
        luckiest[str(budget)] = named[str(budget)] = lucky.value
        if task.noise:
            ranked = rank_children(SPACES[task.space](), [cell.tokens for cell in told], [cell.reward for cell in told])
            named[str(budget)] = told[ranked[0]].value
    return dict(named=named, luckiest=luckiest, best=best)


def run_all(names: Sequence[str], seeds: Sequence[int], task: Task, out: Path, workers: int) -> Dict[str, Any]:
    """Run what `out` does not contain yet, and return its content.

    Raises:
        ValueError: If `out` is of another benchmark.
    """
    settings = {field: value for field, value in task._asdict().items() if field != 'nb301'}
    content: Dict[str, Any] = dict(settings=settings, runs={})
    if out.exists():
        content = read_json(out)
        if not isinstance(content, dict) or content.get('settings') != settings:
            raise ValueError(f'{out}: contains other results; choose another --out')
    runs = content['runs']
    jobs = [(name, seed) for seed in seeds for name in names if str(seed) not in runs.get(name, {})]
    seconds = sum(_SECONDS[CONTESTANTS[name][0]] for name, _ in jobs) * task.trials / 1000 / workers
    Console(stderr=True).print(f'{len(jobs)} of {len(seeds) * len(names)} runs are to do, which takes about '
                               f'{seconds / 60:.0f} minutes on {workers} cores')
    end_on_interrupt = signal.signal, (signal.SIGINT, signal.SIG_DFL)  # at once, and without a traceback
    with ProcessPoolExecutor(workers, None, *end_on_interrupt) as pool:
        futures = {pool.submit(run, name, seed, task): (name, str(seed)) for name, seed in jobs}
        for future in track(as_completed(futures), 'runs', total=len(jobs), console=Console(stderr=True),
                            disable=not sys.stderr.isatty()):
            name, number = futures[future]
            try:
                runs.setdefault(name, {})[number] = future.result()
                write_json(out, content)
            except BaseException:
                pool.shutdown(cancel_futures=True)  # otherwise all runs would be finished, and their results lost
                raise
    return content


def main() -> None:
    parser = make_parser()
    args = parser.parse_args()
    names, seeds = args.samplers.split(','), range(args.first_seed, args.first_seed + args.seeds)
    check_arguments(parser, args, names)
    task = Task(args.nb301, args.space, args.trials, args.noise, args.outstanding)
    try:
        Surrogate(args.nb301)  # fails here rather than in every worker
        content = run_all(names, seeds, task, args.out, args.workers)
    except ValueError as error:
        parser.error(str(error))
    runs = {name: [content['runs'][name][str(seed)] for seed in seeds] for name in names}
    budgets = [str(budget) for budget in task.budgets]
    content['summary'] = summary({name: [row['named'] for row in rows] for name, rows in runs.items()}, budgets)
    show('the cell named the winner' if args.noise else 'the best cell', content['summary'], budgets)
    if args.noise:
        content['luckiest'] = summary({name: [row['luckiest'] for row in rows] for name, rows in runs.items()}, budgets)
        show('the cell of the highest reward', content['luckiest'], budgets)
    write_json(args.out, content)
    if args.plot:
        plot({name: [row['best'] for row in rows] for name, rows in runs.items()}, args.trials, args.plot)


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--nb301', type=Path, required=True, help='folder that contains the surrogate')
    parser.add_argument('--space', choices=['darts'], default='darts', help='search space')
    parser.add_argument('--samplers', default=','.join(SAMPLERS),
                        help=f'comma-separated list of {", ".join(CONTESTANTS)} (default: %(default)s)')
    parser.add_argument('--trials', type=int, default=500, help='number of different cells per run (default: 500)')
    parser.add_argument('--seeds', type=int, default=10, help='number of seeds (default: 10)')
    parser.add_argument('--first-seed', type=int, default=0, help='first seed (default: 0)')
    parser.add_argument('--noise', type=float, default=0., metavar='SD', help=(
        'standard deviation of the noise that is added to the rewards (default: 0)'))
    parser.add_argument('--outstanding', type=int, default=1, metavar='N', help=(
        'number of proposals that are open at a time (default: 1)'))
    parser.add_argument('--workers', type=int, default=os.cpu_count(), help=(
        'number of processes (default: one per core)'))
    parser.add_argument('--out', type=Path, required=True, help='JSON file to write, or to continue')
    parser.add_argument('--plot', type=Path, help=(
        'plot to write: the best value so far, its mean and 95 %% interval over the seeds'))
    return parser


def check_arguments(parser: argparse.ArgumentParser, args: argparse.Namespace, names: Sequence[str]) -> None:
    """Exit with a message if a sampler is unknown or a number is out of range."""
    unknown = [name for name in names if name not in CONTESTANTS]
    if unknown:
        parser.error(f'--samplers: there is no {unknown[0]!r}; known: {", ".join(CONTESTANTS)}')
    for name in ('trials', 'seeds', 'outstanding', 'workers'):
        if getattr(args, name) < 1:
            parser.error(f'--{name}: must be at least 1')
    if args.noise < 0:
        parser.error('--noise: must not be negative')


def deviation(values: Sequence[float]) -> float:
    """Return the standard deviation over seeds; 0 for a single one."""
    return statistics.stdev(values) if len(values) > 1 else 0.


def summary(rows: Dict[str, List[Dict[str, Optional[float]]]], budgets: Sequence[str]) -> Dict[str, Any]:
    """Return for each sampler and budget mean and standard deviation, and a test of whether it beats evolution.

    ``p`` is that of the one-sided Mann-Whitney test. The figures are None if a search has not reached the budget.
    """
    found: Dict[str, Any] = {}
    for name in rows:
        found[name] = {}
        for budget in budgets:
            cell: Dict[str, Optional[float]] = dict(mean=None, sd=None, p=None)
            if values := _reached(rows[name], budget):
                cell.update(mean=statistics.mean(values), sd=deviation(values))
                others = _reached(rows.get('evolution', []), budget)
                if name != 'evolution' and others:
                    cell['p'] = float(mannwhitneyu(values, others, alternative='greater').pvalue)
            found[name][budget] = cell
    return found


def _reached(rows: List[Dict[str, Optional[float]]], budget: str) -> List[float]:
    """Return the value of each search at a budget; none if one of them has not reached it."""
    values = [value for row in rows if (value := row[budget]) is not None]
    return values if len(values) == len(rows) else []


def show(what: str, found: Dict[str, Any], budgets: Sequence[str]) -> None:
    """Print a summary."""
    table = Table('sampler', *(f'{budget} cells' for budget in budgets), title=(
        f'Value of {what}: mean ± standard deviation over seeds, and p of "better than evolution"'))
    for name, row in found.items():
        table.add_row(name, *(
            '' if cell['mean'] is None else f'{cell["mean"]:.4f} ± {cell["sd"]:.4f}'
            + ('' if cell['p'] is None else f', p = {cell["p"]:.1e}')
            for cell in (row[budget] for budget in budgets)))
    Console().print(table)


def plot(best: Dict[str, List[List[Tuple[int, float]]]], trials: int, path: Path) -> None:
    """Plot the best value so far over the number of cells."""
    from matplotlib.figure import Figure
    figure = Figure(figsize=(8, 5), layout='constrained')
    axes = figure.add_subplot(xlabel='different cells', ylabel='best predicted accuracy')
    cells, lowest = np.arange(1, trials + 1), 1.
    for name, rows in best.items():
        curves = []
        for row in rows:
            counts, values = zip(*row)
            curves.append(np.array(values)[np.searchsorted(counts, cells, side='right') - 1])
        mean = np.mean(curves, axis=0)
        axes.plot(cells, mean, label=name)
        if len(curves) > 1:
            half = student_t.ppf(0.975, len(curves) - 1) * sem(curves, axis=0)
            axes.fill_between(cells, mean - half, mean + half, alpha=0.2)
        lowest = min(lowest, mean[min(20, trials - 1)])
    axes.set_ylim(bottom=lowest)
    axes.legend()
    figure.savefig(path, dpi=120)


if __name__ == '__main__':
    with exit_on_interrupt(lambda: 'the same command continues after the last finished search'):
        main()

"""Compare samplers on NAS-Bench-301: python tools/benchmark_search.py --nb301 DIR --out FILE.json

DIR contains a surrogate that predicts the validation accuracy on CIFAR-10 of a pair of DARTS cells (model_v2.onnx and
encoding_v2.json of the YAHPO Gym data). Each sampler is used in an Optuna study in memory, as in a search; duplicates
do not count as trials. The values are predictions, not accuracies: only compare samplers after equal numbers of trials.
"""
import argparse
import json
import os
import statistics
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Dict, List, Sequence, Tuple

import numpy as np
import optuna
from rich.console import Console
from rich.progress import track
from rich.table import Table
from scipy.stats import mannwhitneyu

from nasnet_zoo.genotype.schema import Genotype
from nasnet_zoo.search.samplers import SAMPLERS
from nasnet_zoo.search.space import SPACES

# name: the sampler and PPO's preset
CONTESTANTS = {**{name: (name, 'model') for name in SAMPLERS}, 'ppo-fast': ('ppo', 'fast'),
               'ppo-paper': ('ppo', 'paper')}
CHECKPOINTS = (100, 500, 1000)
_PREFIX = 'NetworkSelectorDatasetInfo_COLON_darts_COLON_'
_FIRST_EDGE = {2: 0, 3: 2, 4: 5, 5: 9}  # of each node; DARTS numbers its nodes 2 to 5, and its inputs 0 and 1
_DARTS_OPS = {
    'factorized_identity': 'skip_connect', 'dil_sep_conv_3x3': 'dil_conv_3x3', 'dil_sep_conv_5x5': 'dil_conv_5x5'}


class Surrogate:
    """Predicts the validation accuracy of a genotype of the DARTS space, in [0, 1], after 98 epochs.

    Args:
        folder: Contains ``model_v2.onnx`` and ``encoding_v2.json``.
    """

    def __init__(self, folder: Path) -> None:
        import onnxruntime
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


def search(name: str, seed: int, trials: int, space_name: str, surrogate_dir: Path) -> List[float]:
    """Return the value of each different cell that a sampler proposed, in the order of the proposals."""
    import torch
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    space, surrogate = SPACES[space_name](), Surrogate(surrogate_dir)
    sampler, preset = CONTESTANTS[name]
    study = optuna.create_study(
        direction='maximize', sampler=SAMPLERS[sampler].resolve()(space, seed, preset, 0, None))
    known: Dict[str, float] = {}
    asked = 0
    while len(known) < trials and asked < 20 * trials:
        asked += 1
        trial = study.ask()
        genotype = space.genotype(space.suggest(trial))
        if genotype.architecture_digest not in known:
            known[genotype.architecture_digest] = surrogate(genotype)
        study.tell(trial, known[genotype.architecture_digest])
    return list(known.values())


def check_arguments(parser: argparse.ArgumentParser, args: argparse.Namespace, names: Sequence[str]) -> None:
    """Exit with a message if a sampler is unknown or the surrogate is missing."""
    unknown = [name for name in names if name not in CONTESTANTS]
    if unknown:
        parser.error(f'--samplers: there is no {unknown[0]!r}; known: {", ".join(CONTESTANTS)}')
    missing = [file for file in ('model_v2.onnx', 'encoding_v2.json') if not (args.nb301 / file).exists()]
    if missing:
        parser.error(f'--nb301: {args.nb301} has no {missing[0]}')


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--nb301', type=Path, required=True, help='folder that contains the surrogate')
    parser.add_argument('--space', choices=['darts'], default='darts')
    parser.add_argument('--samplers', default='ppo,random,evolution,tpe',
                        help=f'comma-separated list of {", ".join(CONTESTANTS)} (default: %(default)s)')
    parser.add_argument('--trials', type=int, default=500, help=(
        'number of different pairs of cells per seed (default: 500)'))
    parser.add_argument('--seeds', type=int, default=10, help='number of seeds (default: 10)')
    parser.add_argument('--first-seed', type=int, default=0, help='first seed (default: 0)')
    parser.add_argument('--workers', type=int, default=os.cpu_count(), help=(
        'number of processes (default: one per core)'))
    parser.add_argument('--out', type=Path, required=True,
                        help='JSON file to write: sampler, budget, best value of each seed')
    parser.add_argument('--plot', type=Path, help=(
        'plot to write: the best value so far, its mean and 95 %% interval over the seeds'))
    args = parser.parse_args()
    names = args.samplers.split(',')
    check_arguments(parser, args, names)
    jobs = [(name, seed) for seed in range(args.first_seed, args.first_seed + args.seeds) for name in names]
    with ProcessPoolExecutor(args.workers) as pool:
        futures = [pool.submit(search, name, seed, args.trials, args.space, args.nb301) for name, seed in jobs]
        values = [future.result() for future in track(futures, 'searches', console=Console(stderr=True))]
    curves = {name: [np.maximum.accumulate(found) for (job, _), found in zip(jobs, values) if job == name]
              for name in names}
    budgets = sorted({budget for budget in CHECKPOINTS if budget <= args.trials} | {args.trials})
    best = {name: {str(budget): [float(curve[min(budget, len(curve)) - 1]) for curve in curves[name]]
                   for budget in budgets} for name in names}
    args.out.write_text(json.dumps(best, indent=2) + '\n', encoding='utf-8')
    show(best, budgets)
    if args.plot:
        plot(curves, args.plot)


def show(best: Dict[str, Dict[str, List[float]]], budgets: Sequence[int]) -> None:
    """Print mean and standard deviation, and for each pair of samplers a test of whether the first is better."""
    table = Table('sampler', *(f'best of {budget}' for budget in budgets), title='Mean ± standard deviation over seeds')
    for name, row in best.items():
        table.add_row(name, *(f'{statistics.mean(row[str(b)]):.4f} ± {statistics.pstdev(row[str(b)]):.4f}'
                              for b in budgets))
    tests = Table('pair', *(f'difference, p at {budget}' for budget in budgets),
                  title='Difference of means, one-sided Mann-Whitney')
    pairs: List[Tuple[str, str]] = [(a, b) for i, a in enumerate(best) for b in list(best)[i + 1:]]
    for a, b in pairs:
        cells = []
        for budget in map(str, budgets):
            gap = statistics.mean(best[a][budget]) - statistics.mean(best[b][budget])
            p = mannwhitneyu(best[a][budget], best[b][budget], alternative='greater').pvalue
            cells.append(f'{gap:+.4f}, {p:.1e}')
        tests.add_row(f'{a} over {b}', *cells)
    for shown in (table, tests):
        Console().print(shown)


def plot(curves: Dict[str, List[np.ndarray]], path: Path) -> None:
    """Plot the best value so far over the number of cells."""
    from matplotlib.figure import Figure
    figure = Figure(figsize=(8, 5), layout='constrained')
    axes = figure.add_subplot(xlabel='different cells', ylabel='best predicted accuracy')
    for name, rows in curves.items():
        length = min(map(len, rows))
        rows = np.stack([row[:length] for row in rows])
        mean, half = rows.mean(0), 1.96 * rows.std(0) / len(rows) ** 0.5
        axes.plot(range(1, length + 1), mean, label=name)
        axes.fill_between(range(1, length + 1), mean - half, mean + half, alpha=0.2)
    axes.set_ylim(bottom=min(row[min(20, len(row) - 1)] for rows in curves.values() for row in rows))
    axes.legend()
    figure.savefig(path, dpi=120)


if __name__ == '__main__':
    main()

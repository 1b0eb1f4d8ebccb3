"""Measure the overhead of a search: python tools/benchmark_workers.py [--ray ADDRESS] [--json FILE]

local: the fraction of the time for which two workers are busy if a child takes half a second.
ray: the number of children per second that a cluster evaluates if a child takes no time and 64 are submitted at a time.
study: the time that it takes to ask for a child and to tell its result, as the study grows.
"""
import argparse
import os
import platform
import tempfile
import time
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

import optuna
import torch
from rich.console import Console
from rich.table import Table

from nasnet_zoo.cli.common import exit_on_interrupt
from nasnet_zoo.files import write_json
from nasnet_zoo.genotype.schema import Genotype
from nasnet_zoo.search.evaluator import Evaluation
from nasnet_zoo.search.loop import Search
from nasnet_zoo.search.pool import ChildPool
from nasnet_zoo.search.pool_local import LocalPool
from nasnet_zoo.search.pool_ray import RayPool
from nasnet_zoo.search.ppo_settings import PRESETS
from nasnet_zoo.search.pruning import ShouldPrune
from nasnet_zoo.search.samplers import SAMPLERS
from nasnet_zoo.search.space import nasnet_space
from nasnet_zoo.search.study import StudySettings, open_study
from nasnet_zoo.training.run import versions


def sleeper(seconds: float) -> Any:
    """Return an evaluator that sleeps, and makes up an accuracy."""
    def evaluate(genotype: Genotype, should_prune: Optional[ShouldPrune]) -> Evaluation:
        time.sleep(seconds)
        value = int(genotype.architecture_digest[:4], 16) / 65536
        return Evaluation(value, value, 1, 1, seconds)
    return evaluate


class InProcessPool:
    """A pool whose only worker is the process of the search; its children take no time."""
    size, host = 1, '127.0.0.1'

    def submit(self, child: Genotype, should_prune: Optional[ShouldPrune] = None) -> Future:
        future: Future = Future()
        future.set_result(sleeper(0.)(child, should_prune))
        return future

    def result(self, future: Future) -> Evaluation:
        return future.result()

    def close(self) -> None:
        pass


def open_benchmark(folder: str, args: argparse.Namespace) -> optuna.Study:
    """Create or resume the study of a benchmark."""
    return open_study(Path(folder), 'benchmark', create=StudySettings(
        lambda trials: SAMPLERS[args.sampler].resolve()(nasnet_space(), 0, args.preset, trials, None)))


def search(folder: str, pool: ChildPool, children: int, args: argparse.Namespace) -> List[Tuple[float, int]]:
    """Return pairs of a time in seconds and the number of children by then. The first children are to warm up."""
    times, first = [], 2 * pool.size
    Search(open_benchmark(folder, args), nasnet_space(), pool).run(
        first + children, lambda now: times.append((time.perf_counter(), now.finished)))
    return [(when, count) for when, count in times if count >= first]


def rate(pool: ChildPool, children: int, args: argparse.Namespace) -> Dict[str, float]:
    """Return the number of children per second."""
    with tempfile.TemporaryDirectory() as folder:
        times = search(folder, pool, children, args)
    (begun, first), (ended, last) = times[0], times[-1]
    return dict(children_per_second=(last - first) / (ended - begun), children=last - first)


def growth(args: argparse.Namespace) -> List[Dict[str, float]]:
    """Return the milliseconds to ask for a child and to tell its result, by the number of children before it."""
    part = max(1, args.trials // 10)
    with tempfile.TemporaryDirectory() as folder:
        times = search(folder, InProcessPool(), args.trials, args)[::part]
        rows = [dict(children=count, ms=1000 * (when - begun) / (count - before))
                for (begun, before), (when, count) in zip(times, times[1:])]
        begun = time.perf_counter()
        study = open_benchmark(folder, args)
        open_seconds = time.perf_counter() - begun
        nasnet_space().suggest(study.ask())
        rows.append(dict(children=args.trials, open_seconds=open_seconds,
                         replay_seconds=time.perf_counter() - begun - open_seconds,
                         megabytes=(Path(folder) / 'study.log').stat().st_size / 1e6))
    return rows


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--ray', metavar='ADDRESS', help=(
        'Ray cluster to measure, or local for a new one; by default, Ray is not measured'))
    parser.add_argument('--sampler', choices=list(SAMPLERS), default='ppo', help='sampler of the study (default: ppo)')
    parser.add_argument('--preset', choices=list(PRESETS), default='fast', help=(
        'preset of the ppo sampler (default: fast)'))
    parser.add_argument('--seconds', type=float, default=0.5, help='duration of a local child (default: 0.5)')
    parser.add_argument('--children', type=int, default=60, help='number of children on local workers (default: 60)')
    parser.add_argument('--trials', type=int, default=2000, help='number of trials in the study (default: 2000)')
    parser.add_argument('--json', type=Path, help='JSON file to write')
    return parser


def main() -> None:
    args = make_parser().parse_args()
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    report: Dict[str, Any] = dict(sampler=args.sampler, cores=os.cpu_count(), machine=platform.machine(),
                                  versions=versions())
    table = Table('part', 'result', title=f'{args.sampler}, {os.cpu_count()} cores', title_justify='left')
    report['local'] = rate(LocalPool(partial(sleeper, args.seconds), 2), args.children, args)
    report['local']['busy'] = report['local']['children_per_second'] * args.seconds / 2
    table.add_row('local', f'2 workers, children of {args.seconds:g} s: busy {report["local"]["busy"]:.1%} of the time')
    if args.ray:
        report['ray'] = rate(RayPool(partial(sleeper, 0.), args.ray, size=64), 10 * args.children, args)
        table.add_row('ray', f'64 children at the same time that take no time: '
                             f'{report["ray"]["children_per_second"]:.0f} per second')
    report['study'] = growth(args)
    for row in report['study']:
        table.add_row('study', f'up to {row["children"]:,} children: {row["ms"]:.1f} ms per child' if 'ms' in row else
                      f'{row["children"]:,} children: {row["megabytes"]:.0f} MB, opened in {row["open_seconds"]:.1f} '
                      f's, replayed to the sampler in {row["replay_seconds"]:.1f} s')
    Console().print(table)
    if args.json:
        write_json(args.json, report)


if __name__ == '__main__':
    with exit_on_interrupt(lambda: 'nothing was written; the same command starts again'):
        main()

"""What a search costs beside its children: python tools/benchmark_workers.py [--ray ADDRESS] [--json FILE]

local: which share of the time two workers are busy with children that take half a second.
ray: how many children that take no time a cluster is given in a second, 64 at a time.
study: what asking and telling take as a study grows.
"""
import argparse
import json
import os
import platform
import tempfile
import time
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any, Dict, List, Tuple

import optuna
import torch
from rich.console import Console
from rich.table import Table

from nasnet_zoo.genotype.schema import Genotype
from nasnet_zoo.search.evaluator import Evaluation
from nasnet_zoo.search.loop import Search
from nasnet_zoo.search.run import SAMPLERS
from nasnet_zoo.search.space import nasnet_space
from nasnet_zoo.search.study import open_study
from nasnet_zoo.search.workers import LocalWorkers, RayWorkers
from nasnet_zoo.training.run import versions


def sleeper(seconds: float) -> Any:
    def evaluate(genotype: Genotype, report: Any) -> Evaluation:
        time.sleep(seconds)
        return Evaluation(int(genotype.architecture_digest[:4], 16) / 65536, 1, 1, seconds)
    return evaluate


class Inline:
    """A worker that is the search's own process."""
    size = 1

    def submit(self, genotype: Genotype, report: Any) -> Future:
        future: Future = Future()
        future.set_result(sleeper(0.)(genotype, report))
        return future

    def result(self, future: Future) -> Evaluation:
        return future.result()

    def close(self) -> None:
        pass


def opened(folder: str, args: argparse.Namespace) -> optuna.Study:
    return open_study(Path(folder), 'benchmark', settings={}, sampler=lambda trials: SAMPLERS[args.sampler](
        nasnet_space(), 0, args.preset, trials, None))


def search(folder: str, workers: Any, children: int, args: argparse.Namespace) -> List[Tuple[float, int]]:
    """When children were told, in seconds, and how many by then, after those with which the workers warm up."""
    times, first = [], 2 * workers.size
    Search(opened(folder, args), nasnet_space(), workers).run(
        first + children, lambda now: times.append((time.perf_counter(), now.finished)))
    return [(when, count) for when, count in times if count >= first]


def rate(workers: Any, children: int, args: argparse.Namespace) -> Dict[str, float]:
    """Children that were told in a second."""
    with tempfile.TemporaryDirectory() as folder:
        times = search(folder, workers, children, args)
    (begun, first), (ended, last) = times[0], times[-1]
    return dict(children_per_second=(last - first) / (ended - begun), children=last - first)


def growth(args: argparse.Namespace) -> List[Dict[str, float]]:
    """Milliseconds of asking and telling a child, by the number of children before it."""
    part = max(1, args.trials // 10)
    with tempfile.TemporaryDirectory() as folder:
        times = search(folder, Inline(), args.trials, args)[::part]
        rows = [dict(children=count, ms=1000 * (when - begun) / (count - before))
                for (begun, before), (when, count) in zip(times, times[1:])]
        begun = time.perf_counter()
        study = opened(folder, args)
        open_seconds = time.perf_counter() - begun
        nasnet_space().suggest(study.ask())
        rows.append(dict(children=args.trials, open_seconds=open_seconds,
                         replay_seconds=time.perf_counter() - begun - open_seconds,
                         megabytes=(Path(folder) / 'study.log').stat().st_size / 1e6))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--ray', metavar='ADDRESS', help='local, or of a cluster; without it that part is left out')
    parser.add_argument('--sampler', choices=list(SAMPLERS), default='ppo')
    parser.add_argument('--preset', default='fast')
    parser.add_argument('--seconds', type=float, default=0.5, help='of a child, for local workers')
    parser.add_argument('--children', type=int, default=60)
    parser.add_argument('--trials', type=int, default=2000, help='size of the study')
    parser.add_argument('--json', type=Path, help='file for all figures')
    args = parser.parse_args()
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    report: Dict[str, Any] = dict(sampler=args.sampler, cores=os.cpu_count(), machine=platform.machine(),
                                  versions=versions())
    table = Table('part', 'what', title=f'{args.sampler}, {os.cpu_count()} cores', title_justify='left')
    report['local'] = rate(LocalWorkers(partial(sleeper, args.seconds), 2), args.children, args)
    report['local']['busy'] = report['local']['children_per_second'] * args.seconds / 2
    table.add_row('local', f'2 workers, children of {args.seconds:g} s: busy {report["local"]["busy"]:.1%} of the time')
    if args.ray:
        report['ray'] = rate(RayWorkers(partial(sleeper, 0.), args.ray, size=64), 10 * args.children, args)
        table.add_row('ray', f'64 children at a time that take no time: {report["ray"]["children_per_second"]:.0f} a '
                             'second')
    report['study'] = growth(args)
    for row in report['study']:
        table.add_row('study', f'up to {row["children"]:,} children: {row["ms"]:.1f} ms a child' if 'ms' in row else
                      f'{row["children"]:,} children: {row["megabytes"]:.0f} MB, opened in {row["open_seconds"]:.1f} '
                      f's, told to the sampler again in {row["replay_seconds"]:.1f} s')
    Console().print(table)
    if args.json:
        args.json.write_text(json.dumps(report, indent=2) + '\n')


if __name__ == '__main__':
    main()

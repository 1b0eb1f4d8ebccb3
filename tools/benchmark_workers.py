"""What a search costs beside its children: python tools/benchmark_workers.py [--ray] [--json FILE]

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
from functools import partial
from pathlib import Path
from typing import Any, Dict, List, Tuple

import optuna
import torch
from rich.console import Console
from rich.table import Table

from nasnet_zoo.genotype import Genotype
from nasnet_zoo.runs import versions
from nasnet_zoo.search.evaluator import Evaluation
from nasnet_zoo.search.folder import SAMPLERS
from nasnet_zoo.search.loop import Search
from nasnet_zoo.search.space import nasnet_space
from nasnet_zoo.search.study import open_study, written_together
from nasnet_zoo.search.workers import LocalWorkers, RayWorkers


def sleeper(seconds: float) -> Any:
    def evaluate(genotype: Genotype, report: Any) -> Evaluation:
        time.sleep(seconds)
        return Evaluation(int(genotype.architecture_digest[:4], 16) / 65536, 1, 1, seconds)
    return evaluate


def search(workers: Any, sampler: str, children: int) -> List[Tuple[float, int]]:
    """When each child was told, in seconds, after those with which the workers warm up."""
    space, times = nasnet_space(), []
    with tempfile.TemporaryDirectory() as folder:
        study = open_study(Path(folder), 'benchmark', settings={},
                           sampler=lambda n: SAMPLERS[sampler](space, 0, 'fast', n, None))
        first = 2 * workers.size
        Search(study, space, workers).run(
            first + children, lambda now: times.append((time.perf_counter(), now.finished)))
    return [(when, count) for when, count in times if count >= first]


def local(args: argparse.Namespace) -> Dict[str, float]:
    times = search(LocalWorkers(partial(sleeper, args.seconds), 2), args.sampler, args.children)
    (begun, first), (ended, last) = times[0], times[-1]
    return dict(busy=(last - first) * args.seconds / (2 * (ended - begun)), children=last - first)


def on_ray(args: argparse.Namespace) -> Dict[str, float]:
    times = search(RayWorkers(partial(sleeper, 0.), args.ray, size=64), args.sampler, 10 * args.children)
    (begun, first), (ended, last) = times[0], times[-1]
    return dict(children_per_second=(last - first) / (ended - begun), children=last - first)


def study(args: argparse.Namespace) -> List[Dict[str, float]]:
    """Milliseconds of asking and telling a child, by the number of children before it."""
    space, rows = nasnet_space(), []
    with tempfile.TemporaryDirectory() as folder:
        one = open_study(Path(folder), 'benchmark', settings={}, sampler=lambda n: SAMPLERS[args.sampler](
            space, 0, args.preset, n, None))
        begun = time.perf_counter()
        for number in range(1, args.trials + 1):
            with written_together(one):
                trial = one.ask()
                digest = space.genotype(space.suggest(trial)).architecture_digest
                trial.set_user_attr('architecture', digest)
            with written_together(one):
                for name in ('params', 'macs', 'seconds'):
                    trial.set_user_attr(name, 1)
                one.tell(trial, int(digest[:4], 16) / 65536)
            if number % max(1, args.trials // 10) == 0:
                now = time.perf_counter()
                rows.append(dict(children=number, ms=1000 * (now - begun) / max(1, args.trials // 10)))
                begun = now
        size = (Path(folder) / 'study.log').stat().st_size
        begun = time.perf_counter()
        again = open_study(Path(folder), 'benchmark', settings={}, sampler=lambda n: SAMPLERS[args.sampler](
            space, 0, args.preset, n, None))
        opened = time.perf_counter() - begun
        space.suggest(again.ask())
        rows.append(dict(children=args.trials, open_seconds=opened, replay_seconds=time.perf_counter() - begun - opened,
                         megabytes=size / 1e6))
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
    report['local'] = local(args)
    table.add_row('local', f'2 workers, children of {args.seconds:g} s: busy {report["local"]["busy"]:.1%} of the time')
    if args.ray:
        report['ray'] = on_ray(args)
        table.add_row('ray', f'64 children at a time that take no time: {report["ray"]["children_per_second"]:.0f} a '
                             'second')
    report['study'] = study(args)
    for row in report['study']:
        table.add_row('study', f'up to {row["children"]:,} children: {row["ms"]:.1f} ms a child' if 'ms' in row else
                      f'{row["children"]:,} children: {row["megabytes"]:.0f} MB, opened in {row["open_seconds"]:.1f} '
                      f's, told to the sampler again in {row["replay_seconds"]:.1f} s')
    Console().print(table)
    if args.json:
        args.json.write_text(json.dumps(report, indent=2) + '\n')


if __name__ == '__main__':
    main()

"""Measure how well cheap rewards rank cells whose accuracy is known:

    python tools/benchmark_reward.py --cells CELLS.json --data DATA --protocol quick --protocol synflow --out FILE.json

Each protocol of a search (nasnet_zoo/search/protocols.py) trains a child with each of the cells, and each score
(nasnet_zoo/search/scores.py) rates the untrained network. PROTOCOL:REWARD is another reward (accuracy, val_loss, …) of
the same training. The rewards are compared with the known accuracies by Spearman's and Kendall's rank correlation and,
because the accuracy of many sets of cells mostly depends on their size and depth, by the partial Spearman correlation
given the number of parameters and the longest chain of convolutions. NAME+NAME is the mean of two rewards' ranks;
in NAME-NAME, the second one counts from the highest. A measurement that was interrupted is continued by the same
command.

CELLS.json is {"cells": [{"genotype": {…}, "accuracy": 0.93}, …]}, or a list of cells of DARTS in which normal and
reduction cell are equal, [{"cell": [[operation, state], …], "accuracy": 93.0}, …]. A file with the predictions of
NAS-Bench-301 for random cells is written by

    python tools/benchmark_reward.py --nb301 DIR --sample 300 --out CELLS.json
"""
import argparse
import json
import random
import re
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import reward_statistics
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from nasnet_zoo.checked import shorten
from nasnet_zoo.cli.common import exit_on_interrupt
from nasnet_zoo.data.datasets import ImageSet, data_name
from nasnet_zoo.files import write_json
from nasnet_zoo.genotype.importer import import_genotype
from nasnet_zoo.genotype.loader import load_genotype
from nasnet_zoo.genotype.schema import Genotype
from nasnet_zoo.search.config import ChildSettings
from nasnet_zoo.search.errors import ChildError
from nasnet_zoo.search.evaluator import DataSource, Evaluator
from nasnet_zoo.search.match import MATCHES
from nasnet_zoo.search.protocols import PROTOCOLS, REWARDS, merge_settings
from nasnet_zoo.search.scores import SCORES
from nasnet_zoo.search.space import darts_space
from nasnet_zoo.search.timing import child_seconds

# The networks of the scores, and those whose parameters and mult-adds are counted
SMALL = dict(num_cells=1, cell_filters=8, img_size=16)
JOINTS = {':', '+', '-'}  # between the parts of a name
HALVES = {'all': slice(None), 'tune': slice(0, None, 2), 'report': slice(1, None, 2)}


class Known(NamedTuple):
    """A cell whose accuracy is known, on any scale."""
    genotype: Genotype
    accuracy: float


def read_cells(path: Path) -> List[Known]:
    """Read a file of cells.

    Raises:
        ValueError: If it is something else. The message names the file and the place.
    """
    try:
        content = json.loads(path.read_text(encoding='utf-8'))
    except (OSError, ValueError) as error:
        raise ValueError(f'{path}: cannot be read: {error}') from None
    rows = content.get('cells') if isinstance(content, dict) else content
    if not isinstance(rows, list) or not rows:
        raise ValueError(f'{path}: needs {{"cells": […]}} or a list of cells of DARTS, with at least one cell')
    known: List[Known] = []
    places: Dict[str, int] = {}
    for i, row in enumerate(rows):
        try:
            known.append(Known(_genotype(row, i), _accuracy(row)))
            first = places.setdefault(known[-1].genotype.architecture_digest, i)
            if first != i:
                raise ValueError(f'is the same cell as cells[{first}]; list each cell once, with its mean accuracy')
        except ValueError as error:
            raise ValueError(f'{path}: cells[{i}]: {error}') from None
    return known


def _accuracy(row: Dict[str, Any]) -> float:
    value = row.get('accuracy')
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < 1e9:
        raise ValueError(f'accuracy: must be a number, not {shorten(repr(value))}')
    return float(value)


def _genotype(row: Any, index: int) -> Genotype:
    if isinstance(row, dict) and isinstance(row.get('genotype'), dict):
        return load_genotype(dict(row['genotype'], name=row['genotype'].get('name', f'cell-{index}')))
    if isinstance(row, dict) and isinstance(row.get('cell'), list):
        nodes = list(range(2, 2 + len(row['cell']) // 2))
        fields = dict(normal=row['cell'], normal_concat=nodes, reduce=row['cell'], reduce_concat=nodes)
        return import_genotype(json.dumps(fields), f'cell-{index}')
    raise ValueError('needs "genotype", a genotype as JSON data, or "cell", a list of [operation, state]')


def sample_nb301(folder: Path, count: int, good: int) -> List[Dict[str, Any]]:
    """Return random cells, then good ones, with their accuracies by the surrogate.

    A good cell is where hill climbing by random changes ends after 300 steps.
    """
    from benchmark_search import Surrogate
    space, surrogate, generator = darts_space(), Surrogate(folder), random.Random(0)

    def draw() -> List[int]:
        return [generator.randrange(size) for size in space.sizes]

    found = [space.genotype(draw(), f'random-{i}') for i in range(count)]
    for i in range(good):
        tokens = draw()
        best = surrogate(space.genotype(tokens))
        for _ in range(300):
            changed, place = list(tokens), generator.randrange(len(tokens))
            changed[place] = generator.randrange(space.sizes[place])
            value = surrogate(space.genotype(changed))
            if value > best:
                tokens, best = changed, value
        found.append(space.genotype(tokens, f'good-{i}'))
    return [dict(genotype=genotype.to_dict(), accuracy=surrogate(genotype)) for genotype in found]


class Contestant(NamedTuple):
    """A way to rate cells.

    Attributes:
        name: A name in PROTOCOLS, SCORES or the file of further protocols.
        settings: How its networks are built and trained.
        rate: Takes the evaluator with these settings and a cell, and returns rewards by name.
    """
    name: str
    settings: ChildSettings
    rate: Callable[[Evaluator, Genotype], Dict[str, float]]


def make_contestants(
        names: Sequence[str], further: Dict[str, Any], match: Dict[str, Any], data: ImageSet) -> List[Contestant]:
    """Return the parts of all names, each once.

    Raises:
        ValueError: If a name is unknown, or the settings of a protocol are refused.
    """
    size = min(data.input_size[1:]), round(0.9 * data.size())  # as in a search, which holds out a tenth
    protocols = {**{name: row.settings(*size) for name, row in PROTOCOLS.items()}, **further}
    found: Dict[str, Contestant] = {}
    for _, part in (part for whole in names for part in parts_of(whole)):
        name, _, kind = part.partition(':')
        if kind and (name in SCORES or kind not in REWARDS):
            raise ValueError(f'--protocol: there is no {part!r}; the rewards of a training are {", ".join(REWARDS)}')
        if name in SCORES:
            settings = dict(SMALL, limit_train=SCORES[name].images)
        elif name in protocols:
            settings = protocols[name]
        else:
            raise ValueError(f'--protocol: there is no {name!r}; known: {", ".join([*protocols, *SCORES])}')
        try:
            child = ChildSettings(**merge_settings(settings, match))
        except (TypeError, ValueError) as error:
            raise ValueError(f'{name}: {error}') from None
        found[name] = Contestant(name, child, partial(_rate_untrained if name in SCORES else _train, name))
    return list(found.values())


def parts_of(name: str) -> List[Tuple[float, str]]:
    """Return the parts of NAME+NAME or NAME-NAME, each with its sign."""
    return [(-1. if sign == '-' else 1., part) for sign, part in re.findall('([+-]?)([^+-]+)', name)]


def shown_names(names: Sequence[str]) -> List[str]:
    """Return the names, and after that of a protocol all rewards of its training."""
    return list(dict.fromkeys(shown for name in names for shown in [name, *(
        f'{name}:{kind}' for kind in REWARDS if not JOINTS & set(name) and name not in SCORES)]))


def _train(name: str, evaluator: Evaluator, genotype: Genotype) -> Dict[str, float]:
    found = evaluator(genotype)
    return {name: found.reward, **{f'{name}:{kind}': value for kind, value in found.rewards.items()}}


def _rate_untrained(name: str, evaluator: Evaluator, genotype: Genotype) -> Dict[str, float]:
    images = evaluator.train
    return {name: SCORES[name].function(evaluator.build(genotype), images.normalized(), images.labels)}


def make_evaluator(contestant: Contestant, data: ImageSet) -> Evaluator:
    """Return the evaluator. If networks are matched and no target is given, it is the cost of NASNet-A."""
    evaluator, match = Evaluator(data, contestant.settings), contestant.settings.match
    if match is not None and contestant.settings.match_target is None:
        target = evaluator.costs(load_genotype('nasnet_a'))[match]
        evaluator.settings = contestant.settings.model_copy(update=dict(match_target=target))
    return evaluator


def measure(
        contestants: Sequence[Contestant], cells: Sequence[Known], data: ImageSet, rows: Dict[str, Dict[str, Any]],
        save: Callable[[], None], console: Console,
) -> None:
    """Rate all cells by all contestants, and add what is missing to `rows`, which has a row for each architecture."""
    for contestant in contestants:
        todo = [cell.genotype for cell in cells
                if contestant.name not in rows[cell.genotype.architecture_digest]['rewards']]
        if not todo:
            continue
        evaluator = make_evaluator(contestant, data)
        if contestant.name not in SCORES:
            seconds = child_seconds(evaluator, todo[0])
            console.print(f'{contestant.name}: {len(todo)} cells, about {seconds:.0f} s each, '
                          f'{len(todo) * seconds / 60:.0f} min in all')
        for genotype in track(todo, contestant.name, console=console, disable=not sys.stderr.isatty()):
            row = rows[genotype.architecture_digest]
            started = time.process_time()
            try:
                row['rewards'].update(contestant.rate(evaluator, genotype))
            except (ChildError, ValueError) as error:
                row['rewards'][contestant.name] = None
                console.print(f'{contestant.name}: {genotype.name}: {error}', markup=False)
            row['seconds'][contestant.name] = round(time.process_time() - started, 2)
            save()


def start_or_resume(path: Path, settings: Dict[str, Any]) -> Tuple[Dict[str, Any], Dict[str, Dict[str, Any]]]:
    """Return the settings of the contestants measured so far, and the rows by architecture.

    Raises:
        ValueError: If the file has something else, or was measured with other settings.
    """
    if not path.exists():
        return settings, {}
    try:
        content = json.loads(path.read_text(encoding='utf-8'))
        before, rows = content['settings'], {row['architecture']: row for row in content['cells']}
    except (ValueError, KeyError, TypeError):
        raise ValueError(f'{path}: exists, and is not a file of this tool; choose another --out') from None
    changed = [name for name in settings if before.get(name, settings[name]) != settings[name]]
    if changed:
        raise ValueError(f'{path}: was measured with other settings of {changed[0]}; choose another --out')
    return {**before, **settings}, rows


def summarise(rows: Sequence[Dict[str, Any]], names: Sequence[str]) -> Dict[str, Dict[str, Any]]:
    """Return the correlations of the contestants and of the structure of the cells with the accuracy, by name."""
    accuracy = [row['accuracy'] for row in rows]
    columns: Dict[str, List[Optional[float]]] = {
        **{name: [row[name] for row in rows] for name in ('parameters', 'mult_adds', 'longest_chain')},
        'operation_counts': reward_statistics.ridge_predictions([row['counts'] for row in rows], accuracy)}
    seconds: Dict[str, float] = {}
    for name in names:
        parts = parts_of(name)
        columns[name] = reward_statistics.mean_ranks([
            [None if (value := row['rewards'].get(part)) is None else sign * value for row in rows]
            for sign, part in parts])
        spent = [sum(row['seconds'].get(one, 0.) for one in {part.split(':')[0] for _, part in parts}) for row in rows]
        seconds[name] = sum(spent) / len(spent)
    controls = [columns['parameters'], columns['longest_chain']]
    return dict(
        spearman={name: reward_statistics.spearman(values, accuracy) for name, values in columns.items()},
        kendall={name: reward_statistics.kendall(values, accuracy) for name, values in columns.items()},
        partial={name: reward_statistics.partial_spearman(values, accuracy, controls)
                 for name, values in columns.items()},
        seconds=seconds)


def show(summary: Dict[str, Dict[str, Any]], title: str) -> None:
    """Print a row for each contestant."""
    def text(value: Optional[float], form: str) -> str:
        return '' if value is None else format(value, form)
    table = Table('reward', 'Spearman', 'Kendall', 'partial Spearman', 'seconds for a cell', title=title)
    for name in summary['spearman']:
        table.add_row(name, *(text(summary[kind][name], '+.3f') for kind in ('spearman', 'kendall', 'partial')),
                      text(summary['seconds'].get(name), '.1f'))
    Console().print(table)


def plot(summary: Dict[str, Dict[str, Any]], names: Sequence[str], path: Path) -> None:
    """Plot the rank correlations of some rewards over the seconds for a cell."""
    from matplotlib.figure import Figure
    figure = Figure(figsize=(8, 5), layout='constrained')
    axes = figure.add_subplot(
        xlabel='CPU seconds for a cell', ylabel="Spearman's correlation with the accuracy", xscale='log')
    for name in names:
        seconds, correlation = summary['seconds'][name], summary['spearman'][name]
        if correlation is not None:
            axes.plot(seconds, correlation, 'o', color='tab:blue')
            axes.annotate(name, (seconds, correlation), fontsize=8, xytext=(4, 4), textcoords='offset points')
    for name in ('parameters', 'longest_chain', 'operation_counts'):
        if summary['spearman'][name] is not None:
            axes.axhline(summary['spearman'][name], linestyle=':', color='tab:gray')
            axes.annotate(name, (0.01, summary['spearman'][name]), xycoords=('axes fraction', 'data'), fontsize=8)
    figure.savefig(path, dpi=120)


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--cells', type=Path, help='file of cells and their accuracies')
    parser.add_argument('--data', help='data set, folder or archive of small images, as for nasnet-zoo search')
    parser.add_argument('--data-root', type=Path, help="folder of torchvision's data sets")
    parser.add_argument('--img-size', type=int, help='height and width in pixels to which images are resized first')
    parser.add_argument('--limit', type=int, help='number of cells to rate, from the first (default: all)')
    parser.add_argument('--half', choices=list(HALVES), default='all', help=(
        'rate every second cell only: tune on the first, third, … cell and report the second, fourth, …'))
    parser.add_argument('--protocol', action='append', default=[], metavar='NAME', help=(
        f'a protocol ({", ".join(PROTOCOLS)} or of --protocols), a score ({", ".join(SCORES)}), NAME+NAME or '
        'NAME-NAME; may be given several times'))
    parser.add_argument('--protocols', type=Path, metavar='FILE.json', help=(
        'further protocols: {NAME: {settings of the child}}'))
    parser.add_argument('--match', choices=list(MATCHES), help='give all networks about the same cost')
    parser.add_argument('--match-below', action='store_true', help='never give a network more than that cost')
    parser.add_argument('--cost-target', type=float, help="cost for --match (default: that of NASNet-A's cells)")
    parser.add_argument('--nb301', type=Path, metavar='DIR', help='folder of the surrogate; writes a file of cells')
    parser.add_argument('--sample', type=int, default=300, help='number of random cells for --nb301 (default: 300)')
    parser.add_argument('--good', type=int, default=0, help='number of good cells for --nb301 (default: 0)')
    parser.add_argument('--out', type=Path, required=True, help='JSON file to write or to continue')
    parser.add_argument('--plot', type=Path, help='plot to write: rank correlation over cost')
    return parser


def read_protocols(path: Optional[Path]) -> Dict[str, Any]:
    """Read the file of further protocols."""
    if path is None:
        return {}
    try:
        content = json.loads(path.read_text(encoding='utf-8'))
    except (OSError, ValueError) as error:
        raise ValueError(f'{path}: cannot be read: {error}') from None
    if not isinstance(content, dict) or not all(isinstance(row, dict) for row in content.values()):
        raise ValueError(f'{path}: needs {{NAME: {{settings of the child}}}}')
    for name, row in content.items():
        if name in ('data', *SCORES, *PROTOCOLS) or JOINTS & set(name):
            raise ValueError(f'{path}: {name}: has a meaning already; choose another name')
        try:
            ChildSettings(**row)
        except (TypeError, ValueError) as error:
            raise ValueError(f'{path}: {name}: {error}') from None
    return content


def known_rows(cells: Sequence[Known], data: ImageSet, before: Dict[str, Dict[str, Any]]) -> Iterator[Dict[str, Any]]:
    """Yield a row for each cell: what was measured before, its accuracy and its structure."""
    evaluator = Evaluator(data._replace(images=data.images[:1000], labels=data.labels[:1000]), ChildSettings(**SMALL))
    for genotype, accuracy in cells:
        digest = genotype.architecture_digest
        row = before.get(digest)
        if row is None:
            costs = evaluator.costs(genotype)
            row = dict(architecture=digest, name=genotype.name, parameters=costs['params'], mult_adds=costs['macs'],
                       longest_chain=reward_statistics.longest_chain(genotype),
                       counts=reward_statistics.operation_counts(genotype), rewards={}, seconds={})
        yield dict(row, accuracy=accuracy)


def rate_cells(args: argparse.Namespace) -> None:
    """Rate the cells of a file, write the results and print them."""
    further = read_protocols(args.protocols)
    match = {} if args.match is None else dict(
        match=args.match, match_below=args.match_below, match_target=args.cost_target)
    data = DataSource(args.data, args.data_root, args.img_size).load()
    name = data_name(args.data) + (f' at {args.img_size} pixels' if args.img_size else '')
    contestants = make_contestants(args.protocol, further, match, data)
    cells = read_cells(args.cells)[:args.limit][HALVES[args.half]]
    if not cells:
        raise ValueError(f'{args.cells}: no cells are left; check --limit and --half')
    settings, before = start_or_resume(args.out, dict(data=name, **{
        one.name: one.settings.model_dump(mode='json') for one in contestants}))
    rows = {row['architecture']: row for row in known_rows(cells, data, before)}

    def save(**summary: Any) -> None:
        kept = {**before, **rows}  # cells of the other half, too
        write_json(args.out, dict(settings=settings, **summary, count=len(rows), half=args.half,
                                  cells=list(kept.values())))

    measure(contestants, cells, data, rows, save, Console(stderr=True))
    summary = summarise(list(rows.values()), shown_names(args.protocol))
    save(**summary)
    show(summary, f'{len(rows)} cells ({args.half}) of {args.cells.name}')
    if args.plot:
        plot(summary, args.protocol, args.plot)


def main() -> None:
    parser = make_parser()
    args = parser.parse_args()
    rates = args.cells is not None and args.data is not None and bool(args.protocol)
    if rates == (args.nb301 is not None):
        parser.error('give either --cells, --data and --protocol, or --nb301')
    for is_wrong, message in (
            (min(args.limit or 1, args.sample, args.img_size or 1) < 1, '--limit, --sample, --img-size: at least 1'),
            (not args.match and (args.match_below or args.cost_target), '--match-below, --cost-target: need --match'),
            (args.plot and args.plot.suffix not in ('.png', '.svg', '.pdf'), '--plot: a .png, .svg or .pdf file')):
        if is_wrong:
            parser.error(message)
    torch.set_num_threads(1)
    try:
        if args.nb301:
            if args.out.exists():
                raise ValueError(f'{args.out}: exists already; choose another --out')
            write_json(args.out, dict(cells=sample_nb301(args.nb301, args.sample, args.good)))
        else:
            rate_cells(args)
    except (ValueError, OSError) as error:
        parser.error(' '.join(str(error).split()))


if __name__ == '__main__':
    with exit_on_interrupt(lambda: 'the same command continues after the last finished cell'):
        main()

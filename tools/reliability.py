"""Show what docs/reliability.md promises: python tools/reliability.py PROMISE [--out FILE.json]

kills     kill a search again and again while it runs, and resume it
journal   cut the journal of a search at each byte of its end, or damage it, and resume the search
fuzz      give changed files and data to each reader of foreign data
ray       kill nodes of a Ray cluster while a search runs on it
status    read the status of a search from many processes while it runs
table     write the figures in docs/reliability/*.json into docs/reliability.md

The full size is the default; --tiny takes seconds. The exit code is 1 if a promise is broken, and the problems are
printed. The searches of kills and status train real children, small networks on the handwritten digits.
"""
import argparse
import json
import multiprocessing
import os
import platform
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import optuna
from benchmark_workers import InProcessPool, sleeper
from optuna.trial import TrialState
from rich.console import Console
from rich.progress import track

from nasnet_zoo.cli.common import exit_on_interrupt
from nasnet_zoo.files import write_json
from nasnet_zoo.genotype.loader import load_genotype
from nasnet_zoo.genotype.schema import Genotype
from nasnet_zoo.progress import make_progress
from nasnet_zoo.search import EvolutionSampler, search_status
from nasnet_zoo.search.errors import SearchError
from nasnet_zoo.search.evaluator import Evaluation
from nasnet_zoo.search.loop import Search
from nasnet_zoo.search.pruning import ShouldPrune
from nasnet_zoo.search.space import darts_space
from nasnet_zoo.search.study import StudySettings, evaluated_trials, open_study
from nasnet_zoo.training.run import versions

DOCS = Path(__file__).resolve().parents[1] / 'docs'
FILES = {'.lock', 'study.log', 'search.json', 'finals.json', 'cell.json', 'cells.svg', 'report.html'}  # of a search
SPACE = darts_space(2)
NODE: Dict[str, Any] = dict(num_cpus=1, object_store_memory=100 * 2 ** 20)  # each node of the Ray cluster
# The cheapest real training: 256 images of 8 x 8 pixels, one epoch
SEARCH = ['--data', 'digits', '--space', 'darts', '--blocks', '2', '--num-cells', '1', '--cell-filters', '2',
          '--epochs', '1', '--batch-size', '256', '--lr', '0.1', '--pad', '1', '--no-flip', '--limit-train', '256',
          '--top', '1',
          '--final-epochs', '1', '--sampler', 'evolution']


class Result(NamedTuple):
    """What a promise's command found.

    Attributes:
        figures: The figures, for the table.
        problems: A sentence for each way in which the promise was broken.
    """
    figures: Dict[str, Any]
    problems: List[str]


def show(items: Iterable[Any], description: str) -> Iterable[Any]:
    """Return `items`, with a progress bar on standard error."""
    return track(items, description, console=Console(stderr=True), disable=not sys.stderr.isatty())


# Searches in folders

def start_search(out: Path, trials: int, workers: int, log: Path) -> subprocess.Popen:
    """Start or resume a search in a process of its own. What it prints goes to `log`."""
    options = [*SEARCH, '--out', str(out), '--trials', str(trials), '--workers', str(workers), '--json',
               *(['--resume'] if (out / 'search.json').exists() else [])]
    with log.open('w', encoding='utf-8') as file:
        return subprocess.Popen(
            [sys.executable, '-m', 'nasnet_zoo.cli', 'search', *options], stdout=file, stderr=subprocess.STDOUT,
            start_new_session=True, env={**os.environ, 'OMP_NUM_THREADS': '1'})


def evaluated(study: optuna.Study) -> Dict[int, Tuple[Any, ...]]:
    """Return the trials of a study that were evaluated, whether they have an accuracy or failed.

    The values are architecture, state and accuracy.
    """
    return {trial.number: (trial.user_attrs['architecture'], trial.state.name, trial.values)
            for trial in evaluated_trials(study)}


def evaluated_in(out: Path) -> Dict[int, Tuple[Any, ...]]:
    """Return the evaluated trials of the search in a folder, which may not have begun yet."""
    if not (out / 'search.json').exists() or not search_status(out):
        return {}
    return evaluated(open_study(out, json.loads((out / 'search.json').read_text(encoding='utf-8'))['study']))


def repeated(trials: Dict[int, Tuple[Any, ...]]) -> List[str]:
    """Return the architectures that several trials have."""
    architectures = [architecture for architecture, *_ in trials.values()]
    return sorted({one for one in architectures if architectures.count(one) > 1})


# kills

def kills(args: argparse.Namespace) -> Result:
    """Kill a search with two workers at random moments, resume it each time, and let it end at last."""
    rng, problems, kinds = random.Random(args.seed), [], []
    trials = max(4, 3 * args.kills)
    known: Dict[int, Tuple[Any, ...]] = {}
    with tempfile.TemporaryDirectory() as folder:
        out, log = Path(folder) / 'search', Path(folder) / 'log'
        for _ in show(range(args.kills), 'kills'):
            kind = rng.choice(('while it starts', 'at a record', 'at a record', 'while it trains'))
            process = start_search(out, trials, 2, log)
            if not wait_for_moment(process, out, kind, rng):
                problems.append(f'the search ended by itself: {log.read_text(encoding="utf-8")[-500:]}')
                break
            kinds.append(kind)
            kill(process, with_workers=rng.random() < 0.5)
            now = evaluated_in(out)
            problems += [f'child {number} was lost or changed after kill {len(kinds)}'
                         for number, trial in known.items() if now.get(number) != trial]
            known = now
        process = start_search(out, trials, 2, log)
        if process.wait():
            problems.append(f'the last resume failed: {log.read_text(encoding="utf-8")[-500:]}')
        problems += check_folder(out, trials, known)
        found = evaluated_in(out)
    return Result(dict(kills=len(kinds), kinds={kind: kinds.count(kind) for kind in sorted(set(kinds))}, trials=trials,
                       children=len(found), twice=len(repeated(found))), problems)


def wait_for_moment(process: subprocess.Popen, out: Path, kind: str, rng: random.Random) -> bool:
    """Wait until a search is to be killed. Return False if it has ended by itself."""
    journal = out / 'study.log'

    def size() -> int:
        return journal.stat().st_size if journal.exists() else 0
    deadline = time.monotonic() + (rng.uniform(0, 6) if kind == 'while it starts' else 300)
    records, last = rng.randint(1, 6), size()
    while time.monotonic() < deadline and process.poll() is None:
        if kind != 'while it starts' and size() != last:
            last, records = size(), records - 1
            if not records:
                break
        time.sleep(0.0003)
    time.sleep({'at a record': 0.005, 'while it trains': 1.}.get(kind, 0.) * rng.random())
    return process.poll() is None


def kill(process: subprocess.Popen, with_workers: bool) -> None:
    """Kill a search, alone or with its workers, and wait until no process of it is left.

    Raises:
        RuntimeError: If workers are left after a minute.
    """
    if with_workers:
        os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    process.wait()
    for _ in range(600):
        listed = subprocess.check_output(['ps', '-eo', 'pgid=,stat='], text=True).splitlines()
        if not [line for line in listed if line.split()[0] == str(process.pid) and line.split()[1][0] != 'Z']:
            return
        time.sleep(0.1)
    raise RuntimeError('workers of a killed search are left')


def check_folder(out: Path, trials: int, known: Dict[int, Tuple[Any, ...]]) -> List[str]:
    """Return what is wrong with the folder of a search that has ended."""
    found = evaluated_in(out)
    problems = [f'child {number} was lost or changed by the last resume' for number, trial in known.items()
                if found.get(number) != trial]
    problems += [f'architecture {architecture[:12]} was evaluated twice' for architecture in repeated(found)]
    if len(found) != trials:
        problems.append(f'{len(found)} children were evaluated instead of {trials}')
    names = {path.name for path in out.iterdir()}
    if names != FILES:
        problems.append(f'the folder has {sorted(names ^ FILES)} too much or too little')
        return problems
    load_genotype(out / 'cell.json')
    for name in ('search.json', 'finals.json'):
        json.loads((out / name).read_text(encoding='utf-8'))
    if not all((out / name).read_text(encoding='utf-8').endswith(end) for name, end in (
            ('report.html', '</html>\n'), ('cells.svg', '</svg>\n'))):
        problems.append('the drawing or the report is incomplete')
    return problems


# journal

def resume_made_up(folder: Path, trials: int) -> optuna.Study:
    """Start or resume a search in `folder`, whose children get a made-up accuracy in this process."""
    study = open_study(folder, 'made-up', create=StudySettings(lambda _: EvolutionSampler(SPACE, 0, 6, 3)))
    Search(study, SPACE, InProcessPool()).run(trials)
    return study


def complete_children(journal: bytes) -> List[Tuple[int, int]]:
    """Return the number of each child with an accuracy, and where in the journal its last record ends."""
    found, end, duplicates = [], 0, set()
    for line in journal.splitlines(keepends=True):
        end += len(line)
        record = json.loads(line)
        if 'duplicate_of' in record.get('user_attr', {}):
            duplicates.add(record['trial_id'])
        if record['op_code'] == 6 and record['state'] == TrialState.COMPLETE and record['trial_id'] not in duplicates:
            found.append((record['trial_id'], end))
    return found


def damage(kind: str, journal: bytes, place: int, rng: random.Random) -> bytes:
    """Return the journal as a crash or a power failure may leave it, if what was written last begins at `place`."""
    rest = len(journal) - place
    return journal[:place] + {
        'cut': lambda: b'',
        'zeros': lambda: b'\0' * rest,
        'zeros and a line break': lambda: b'\0' * rest + b'\n',
        'random bytes': lambda: rng.randbytes(rest),
        'a hole': lambda: b'\0' * min(64, rest) + journal[place + 64:],
    }[kind]()


def journal(args: argparse.Namespace) -> Result:
    """Resume a search whose journal was cut at each of its last bytes, or is damaged from there on."""
    warnings_off()
    rng, problems = random.Random(args.seed), []
    outcomes = dict(resumed=0, refused=0)
    with tempfile.TemporaryDirectory(dir=memory_folder()) as folder:
        whole = Path(folder) / 'whole'
        whole.mkdir()
        resume_made_up(whole, args.children)
        content = (whole / 'study.log').read_bytes()
        first = max(0, len(content) - args.bytes)
        cases = [('cut', place) for place in range(first, len(content) + 1)]
        cases += [(kind, place) for kind in ('zeros', 'zeros and a line break', 'random bytes', 'a hole')
                  for place in range(first, len(content), max(1, args.bytes // 64))]
        for kind, place in show(cases, 'journals'):
            damaged = Path(folder) / 'damaged'
            damaged.mkdir()
            (damaged / 'study.log').write_bytes(damage(kind, content, place, rng))
            expected = [number for number, end in complete_children(content) if end <= place]
            outcome, problem = resume_damaged(damaged, args.children, expected)
            outcomes[outcome] += 1
            if problem or (kind == 'cut' and outcome != 'resumed'):
                problems.append(f'{kind} at byte {place} of {len(content)}: {problem or outcome}')
            shutil.rmtree(damaged)
    return Result(dict(cuts=len(content) + 1 - first, damaged=len(cases) - (len(content) + 1 - first),
                       journal_bytes=len(content), **outcomes), problems)


def resume_damaged(folder: Path, trials: int, expected: Sequence[int]) -> Tuple[str, str]:
    """Read a damaged journal as ``--status`` does, and resume its search.

    Returns:
        'resumed' or 'refused', and what is wrong with that.
    """
    path = str(folder / 'study.log')
    try:
        study = resume_made_up(folder, trials)
    except SearchError as error:
        is_clear = str(error).startswith(path) and '\n' not in str(error)
        return 'refused', '' if is_clear else f'the message does not name the file: {error}'
    except Exception as error:
        return 'refused', f'{type(error).__name__}: {error}'
    found = evaluated(study)
    lost = [number for number in expected if number not in found]
    again = evaluated(open_study(folder, 'made-up'))
    if lost or repeated(found) or len(found) != trials or again != found:
        return 'resumed', f'lost {lost}, twice {repeated(found)}, {len(found)} children, read again {len(again)}'
    return 'resumed', ''


def warnings_off() -> None:
    """Print neither Optuna's messages nor warnings."""
    import warnings
    warnings.simplefilter('ignore')
    optuna.logging.set_verbosity(optuna.logging.ERROR)


def memory_folder() -> Optional[str]:
    """Return a folder in memory if there is one: these commands write many small files."""
    return '/dev/shm' if os.access('/dev/shm', os.W_OK) else None


# fuzz

CHUNK = 500  # inputs between two updates of the progress bar


def fuzz(args: argparse.Namespace) -> Result:
    """Read changed inputs with every reader; each is accepted or refused with a documented error."""
    from fuzzing import READERS, ReaderProcess, make_input
    if args.repeat:
        name, number = args.repeat.split(':')
        with tempfile.TemporaryDirectory(dir=memory_folder()) as folder:
            subject = READERS[name].prepare(Path(folder))
            subject.read(make_input(subject, name, args.seed, int(number)))  # a traceback is what is wanted here
        return Result({}, [])
    chosen = args.readers.split(',') if args.readers else list(READERS)
    total = sum(READERS[name].share for name in chosen)
    figures = {}
    with tempfile.TemporaryDirectory(dir=memory_folder()) as folder, closing(
            ReaderProcess(args.seed, Path(folder))) as process:
        for name in chosen:
            count = max(1, args.inputs * READERS[name].share // total)
            figures[name] = fuzz_reader(name, range(args.first, args.first + count), process)
    faults = [fault for row in figures.values() for fault in row.pop('faults')]
    return Result(dict(inputs=sum(row['inputs'] for row in figures.values()),
                       accepted=sum(row['accepted'] for row in figures.values()),
                       library_failures=sum(row['library_failures'] for row in figures.values()),
                       most_mib=max(row['most_mib'] for row in figures.values()), readers=figures),
                  [save_fault(fault, args.faults) for fault in faults])


def fuzz_reader(name: str, numbers: range, process: Any) -> Dict[str, Any]:
    """Give the inputs `numbers` to one reader, in a ``ReaderProcess``."""
    started, row = time.monotonic(), dict(
        inputs=0, accepted=0, slowest_ms=0., most_mib=0, library_failures=0, faults=[])
    chunks = [numbers[start:start + CHUNK] for start in range(0, len(numbers), CHUNK)]
    for chunk in show(chunks, f'{name}, {len(numbers):,} inputs'):
        for result in process.read(name, chunk):
            for count in ('inputs', 'accepted', 'library_failures', 'faults'):
                row[count] += result[count]
            row['slowest_ms'] = max(row['slowest_ms'], result['slowest_ms'])
            row['most_mib'] = max(row['most_mib'], result['mib'])
    return dict(row, seconds=round(time.monotonic() - started, 1))


def save_fault(fault: Dict[str, Any], folder: Path) -> str:
    """Write the input of a fault to a file, and return a sentence that says how to repeat it."""
    from fuzzing import READERS, make_input
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f'{fault["reader"]}-{fault["seed"]}-{fault["number"]}'
    with tempfile.TemporaryDirectory(dir=memory_folder()) as scratch:
        subject = READERS[fault['reader']].prepare(Path(scratch))
        content = make_input(subject, fault['reader'], fault['seed'], fault['number'])
    sys.set_int_max_str_digits(0)
    try:
        path.write_bytes(content if isinstance(content, bytes) else ascii(content)[:10_000_000].encode())
    except RecursionError:
        path.write_text(f'{type(content)}, nested too deeply to be written\n', encoding='utf-8')
    return (f'{fault["reader"]}: {fault["fault"]}; the input is in {path}; repeat it with: python tools/reliability.py '
            f'fuzz --seed {fault["seed"]} --repeat {fault["reader"]}:{fault["number"]}')


# ray

class Child:
    """Takes `seconds`, and makes up an accuracy. Each start and each end of a child is a line in a file.

    Args:
        log: The file.
        seconds: How long a child takes.
    """

    def __init__(self, log: Path, seconds: float) -> None:
        self.log, self.seconds = log, seconds

    def __call__(self) -> Callable[[Genotype, Optional[ShouldPrune]], Evaluation]:
        return self.evaluate

    def evaluate(self, genotype: Genotype, should_prune: Optional[ShouldPrune] = None) -> Evaluation:
        with self.log.open('a', encoding='utf-8') as file:
            file.write(genotype.architecture_digest + '\n')
        return sleeper(self.seconds)(genotype, should_prune)


@contextmanager
def ray_cluster(nodes: int) -> Iterator[Any]:
    """Start a Ray cluster on this machine, of nodes that have one CPU each."""
    import ray
    from ray.cluster_utils import Cluster
    os.environ.update(PYTHONPATH=os.pathsep.join([str(Path(__file__).parent), os.environ.get('PYTHONPATH', '')]),
                      RAY_health_check_period_ms='500', RAY_health_check_failure_threshold='3')
    cluster = Cluster(initialize_head=True, head_node_args=dict(NODE, include_dashboard=False))
    try:
        for _ in range(nodes - 1):
            cluster.add_node(**NODE)
        cluster.wait_for_nodes()
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()


def kill_nodes(cluster: Any, seconds: float, rng: random.Random, search: Future) -> int:
    """Kill a node every so many seconds, never the first, and start another one in its place, until a search ends.

    Returns:
        How many were killed.
    """
    killed = 0
    while not wait([search], timeout=seconds).done:
        cluster.remove_node(rng.choice(list(cluster.worker_nodes)), allow_graceful=False)
        cluster.add_node(**NODE)
        killed += 1
    search.result()
    return killed


def on_ray(args: argparse.Namespace) -> Result:
    """Run a search on a Ray cluster, nodes of which are killed."""
    from nasnet_zoo.search.pool_ray import RayPool
    warnings_off()
    problems = []
    with tempfile.TemporaryDirectory() as folder, ray_cluster(args.nodes) as cluster:
        make = Child(Path(folder) / 'begun', args.seconds)
        study = open_study(Path(folder), 'ray', create=StudySettings(lambda _: EvolutionSampler(SPACE, 0)))
        search = Search(study, SPACE, RayPool(make, cluster.address))
        with make_progress('children on Ray') as progress, ThreadPoolExecutor(1) as thread:
            task = progress.add_task('', total=args.children)
            running = thread.submit(
                search.run, args.children, lambda now: progress.update(task, completed=now.finished))
            killed = kill_nodes(cluster, args.every, random.Random(args.seed), running)  # Ray wants the main thread
        study = open_study(Path(folder), 'ray')
        found = evaluated(study)
        failed = [trial.user_attrs['reason'] for trial in study.get_trials() if 'reason' in trial.user_attrs]
        begun = make.log.read_text(encoding='utf-8').splitlines()
    if len(found) != args.children or repeated(found):
        problems.append(f'{len(found)} children instead of {args.children}; twice {repeated(found)}')
    problems += [f'a child failed: {reason}' for reason in failed if not reason.startswith('its worker was lost')]
    problems += [f'child {number} has another accuracy' for number, (architecture, state, values) in found.items()
                 if state == 'COMPLETE' and values != [int(architecture[:4], 16) / 65536]]
    return Result(dict(nodes=args.nodes, killed=killed, children=len(found), seconds_per_child=args.seconds,
                       begun_again=len(begun) - len(set(begun)), twice=len(repeated(found)), failed=len(failed)),
                  problems)


# status

def watch(out: Path, ready: Any, ended: Any, results: Any) -> None:
    """Read the status of a search until `ended` is set, and once more.

    The number of reads, the number of children at the end and the problems are put into the queue `results`.
    """
    warnings_off()
    known: Dict[int, Any] = {}
    reads, problems, is_last = 0, [], False
    ready.wait()
    while not is_last and not problems:
        is_last = ended.is_set()
        if not (out / 'search.json').exists():
            time.sleep(0.001)
            continue
        try:
            now = {child['number']: child for child in search_status(out)}
            for name in ('finals.json', 'search.json'):
                if (out / name).exists():
                    json.loads((out / name).read_text(encoding='utf-8'))
            if (out / 'cell.json').exists():
                load_genotype(out / 'cell.json')
            if (out / 'report.html').exists():
                assert (out / 'report.html').read_text(encoding='utf-8').endswith('</html>\n'), 'half a report'
        except Exception as error:
            problems.append(f'{type(error).__name__}: {error}')
            break
        problems += [f'child {number} was there and is gone or changed' for number in known
                     if now.get(number) != known[number]]
        known, reads = now, reads + 1
        time.sleep(0.05)
    results.put((reads, len(known), problems))


def status(args: argparse.Namespace) -> Result:
    """Read a search from many processes while it runs, and compare it with one that nobody reads."""
    with tempfile.TemporaryDirectory() as folder:
        outs = Path(folder) / 'alone', Path(folder) / 'read'
        _, seen = [run_watched(out, args.children, readers)
                   for out, readers in zip(outs, show((0, args.readers), 'searches'))]
        problems = [problem for *_, found in seen for problem in found]
        alone, read = map(evaluated_in, outs)
        problems += [f'a reader saw {count} of {len(read)} children' for _, count, _ in seen if count != len(read)]
        if alone != read:
            problems.append('the search that was read is another one than the search that was not')
        if len({(out / 'cell.json').read_bytes() for out in outs}) > 1:
            problems.append('the winners differ')
        problems += check_folder(outs[1], args.children, read)
    return Result(dict(readers=args.readers, reads=sum(reads for reads, *_ in seen), children=len(read)), problems)


def run_watched(out: Path, trials: int, readers: int) -> List[Tuple[int, int, List[str]]]:
    """Run a search with one worker, and `readers` processes that read it from its first file on."""
    context = multiprocessing.get_context('spawn')
    ready, ended, results = context.Barrier(readers + 1), context.Event(), context.Queue()
    watchers = [context.Process(target=watch, args=(out, ready, ended, results), daemon=True) for _ in range(readers)]
    for watcher in watchers:
        watcher.start()
    ready.wait(timeout=600)
    process = start_search(out, trials, 1, out.with_suffix('.log'))
    if process.wait():
        raise RuntimeError(out.with_suffix('.log').read_text(encoding='utf-8')[-500:])
    ended.set()
    found = [results.get(timeout=600) for _ in watchers]
    for watcher in watchers:
        watcher.join()
    return found


# The command

class Promise(NamedTuple):
    """A row of the table of promises.

    Attributes:
        run: Shows it.
        full, tiny: The options and their values.
        minutes: How long the full size takes on two cores.
        measured: The figures as text for the table.
    """
    run: Callable[[argparse.Namespace], Result]
    full: Dict[str, Any]
    tiny: Dict[str, Any]
    minutes: float
    measured: str


PROMISES: Dict[str, Promise] = {
    'kills': Promise(kills, dict(kills=50), dict(kills=2), 15, (
        '{kills} kills, {children} children of {trials}: none lost, {twice} twice')),
    'journal': Promise(journal, dict(bytes=4096, children=12), dict(bytes=120, children=4), 6, (
        '{cuts:,} cuts and {damaged} other damages: {resumed:,} resumed, {refused} refused by name')),
    'fuzz': Promise(fuzz, dict(inputs=1_000_000, first=0), dict(inputs=3000, first=0), 35, (
        '{inputs:,} inputs, {accepted:,} of them accepted: no other error, at most {most_mib} MiB; the HDF5 library '
        'hung or crashed {library_failures} times')),
    'ray': Promise(on_ray, dict(nodes=4, children=100, seconds=2., every=10.),
                   dict(nodes=3, children=6, seconds=1., every=8.), 3, (
        '{nodes} nodes, {killed} killed; {children} children, {begun_again} begun again: {twice} twice, {failed} '
        'failed because they were lost four times')),
    'status': Promise(status, dict(readers=8, children=40), dict(readers=2, children=3), 3, (
        '{readers} readers, {reads:,} reads of a search of {children} children: none failed')),
}


def report(args: argparse.Namespace, result: Result) -> Dict[str, Any]:
    """Return what is written to a result file."""
    return dict(promise=args.promise, date=time.strftime('%Y-%m-%d'), cores=os.cpu_count(), machine=platform.machine(),
                versions=versions(), minutes=round((time.monotonic() - args.started) / 60, 1), **result.figures,
                problems=result.problems)


def table() -> str:
    """Return the rows of the table of docs/reliability.md, from the result files."""
    rows = ['| command | measured | when and where |', '|---|---|---|']
    for name, promise in PROMISES.items():
        path = DOCS / 'reliability' / f'{name}.json'
        if path.exists():
            found = json.loads(path.read_text(encoding='utf-8'))
            if found['problems']:
                raise SystemExit(f'{path}: the promise was broken: {found["problems"][0]}')
            measured = f'[{promise.measured.format(**found)}](reliability/{name}.json)'
            where = f'{found["date"]}, {found["cores"]} cores, {found["minutes"]:g} minutes'
            rows.append(f'| `python tools/reliability.py {name}` | {measured} | {where} |')
    return '\n'.join(rows) + '\n'


def write_table() -> None:
    """Put the table into docs/reliability.md."""
    path = DOCS / 'reliability.md'
    text = re.sub(r'\| command \| measured.*?\n(?=\n|$)', lambda _: table(), path.read_text(encoding='utf-8'), count=1,
                  flags=re.DOTALL)
    path.write_text(text, encoding='utf-8')


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest='promise', required=True, metavar='PROMISE')
    for name, promise in PROMISES.items():
        command = commands.add_parser(name, help=promise.run.__doc__, description=promise.run.__doc__)
        for option, value in promise.full.items():
            command.add_argument(f'--{option}', type=type(value), help=(
                f'default: {value}, and {promise.tiny[option]} with --tiny'))
        command.add_argument('--seed', type=int, default=0, help='seed of everything random (default: 0)')
        command.add_argument('--tiny', action='store_true', help='a size that takes seconds')
        command.add_argument('--out', type=Path, help='JSON file to write')
        command.add_argument('--json', action='store_true', help='print the result as JSON')
    fuzz_command = commands.choices['fuzz']
    fuzz_command.add_argument('--readers', help='comma-separated list of readers (default: all)')
    fuzz_command.add_argument('--repeat', metavar='READER:NUMBER', help='read a single input, without catching errors')
    fuzz_command.add_argument('--faults', type=Path, default=Path('faults'), help=(
        'folder for inputs that are read wrongly (default: faults)'))
    commands.add_parser('table', help='write the figures into docs/reliability.md')
    return parser


def main(arguments: Optional[Sequence[str]] = None) -> int:
    args = make_parser().parse_args(arguments)
    if args.promise == 'table':
        write_table()
        return 0
    promise = PROMISES[args.promise]
    for option, value in (promise.tiny if args.tiny else promise.full).items():
        if getattr(args, option) is None:
            setattr(args, option, value)
    size = max(getattr(args, option) / value for option, value in promise.full.items() if value)
    print(f'{args.promise}: about {max(0.2, promise.minutes * size):.1f} minutes on two cores', file=sys.stderr)
    args.started = time.monotonic()
    result = promise.run(args)
    found = report(args, result)
    if args.out:
        write_json(args.out, found)
    if args.json:
        print(json.dumps(found))
    elif result.figures and not result.problems:  # the text says that there were none
        print(promise.measured.format(**found))
    for problem in result.problems:
        print(f'problem: {problem}', file=sys.stderr)
    return 1 if result.problems else 0


if __name__ == '__main__':
    with exit_on_interrupt(lambda: 'nothing was written; the same command starts again'):
        sys.exit(main())

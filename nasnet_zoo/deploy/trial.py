"""Which runtime is faster for a file on this machine: a short trial, whose result is stored."""
import json
import os
import platform
import statistics
import time
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, Optional, Union

from ..data.pictures import cache_folder
from ..files import sha256, write_json

__all__ = ['describe_case', 'read_trial', 'run_trial', 'write_trial']

_SECONDS = 1.5  # for all calls of a trial
_CALLS = 30  # of each candidate, at most
_KEPT = 500  # trials that the file keeps


def describe_case(
        path: Union[str, os.PathLike], versions: Mapping[str, str], threads: Optional[int], **others: Any,
) -> Dict[str, Any]:
    """Return what the result of a trial depends on.

    Args:
        path: The model file.
        versions: The version of each runtime that takes part.
        threads: Number of CPU threads, None for the runtimes' defaults.
        others: Further settings, JSON data.
    """
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
    case = dict(file=sha256(path), versions=dict(versions), cpu=_cpu_name(), cpus=cpus, threads=threads, **others)
    return json.loads(json.dumps(case))  # so that it equals what is read again, where tuples are lists


def _cpu_name() -> str:
    """Return the name of the processor, which ``platform`` does not know on Linux."""
    try:
        lines = Path('/proc/cpuinfo').read_text(encoding='utf-8').splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    facts = dict([part.strip() for part in line.split(':', 1)] for line in lines if ':' in line)
    return ', '.join(f'{name} {facts[name]}' for name in ('model name', 'cpu family', 'model', 'stepping')
                     if name in facts) or platform.machine()


def run_trial(calls: Mapping[str, Callable[[], Any]]) -> Dict[str, float]:
    """Call each candidate in turn, for at most 1.5 seconds in all, and return its median seconds per call.

    Each candidate must have been called before. Slow candidates are called once only, which may take longer.
    """
    seconds: Dict[str, List[float]] = {name: [] for name in calls}
    begun = time.perf_counter()
    for _ in range(_CALLS):
        for name, call in calls.items():
            started = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - started)
        spent = time.perf_counter() - begun
        if spent + spent / len(next(iter(seconds.values()))) > _SECONDS:  # another round would take too long
            break
    return {name: statistics.median(times) for name, times in seconds.items()}


def _file() -> Path:
    return cache_folder() / 'runtime_trials.json'


def _read() -> List[Dict[str, Any]]:
    """Return the stored trials, none if the file is missing or damaged."""
    try:
        trials = json.loads(_file().read_text(encoding='utf-8'))
        return [trial for trial in trials if isinstance(trial['seconds'], dict) and trial['seconds']]
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return []


def read_trial(case: Mapping[str, Any]) -> Optional[Dict[str, float]]:
    """Return the stored seconds of each candidate, None if there was no such trial."""
    return next((trial['seconds'] for trial in _read() if trial.get('case') == case), None)


def write_trial(case: Mapping[str, Any], seconds: Mapping[str, float]) -> None:
    """Store the result of a trial. Where the folder cannot be written to, it is not stored."""
    trials = [trial for trial in _read() if trial.get('case') != case]
    try:
        write_json(_file(), [*trials, dict(case=case, seconds=seconds)][-_KEPT:])
    except OSError:
        pass

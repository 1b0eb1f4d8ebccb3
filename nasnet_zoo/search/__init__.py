"""Search for new cells: search spaces, samplers for Optuna, and searches that are stored in folders."""
import importlib
from typing import Any, List

_LAZY = {  # name: its module, imported on first use; most of them import Optuna
    'GPSampler': '.samplers.gp',
    'PPOSampler': '.samplers.ppo',
    'EvolutionSampler': '.samplers.evolution',
    'LocalSearchSampler': '.samplers.local',
    'Decision': '.space',
    'Space': '.space',
    'SpaceError': '.space',
    'nasnet_space': '.space',
    'darts_space': '.space',
    'ChildSettings': '.config',
    'SearchConfig': '.config',
    'SearchError': '.errors',
    'run_search': '.run',
    'CompareConfig': '.compare_config',
    'run_comparison': '.compare',
    'search_status': '.run',
    'write_report': '.report.pages',
}
__all__ = [*_LAZY]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name], __name__), name)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


def __dir__() -> List[str]:
    return sorted([*globals(), *_LAZY])

"""The optional dependencies of the package, and the error that names the one that is missing."""
from importlib.util import find_spec
from typing import Dict, Tuple

__all__ = ['EXTRAS', 'how_to_install', 'missing_packages', 'require']

EXTRAS: Dict[str, Dict[str, str]] = {  # extra of the package: its packages, each with the module that they contain
    'draw': {'matplotlib': 'matplotlib'},
    'digits': {'scikit-learn': 'sklearn'},
    'keras': {'h5py': 'h5py'},
    'search': {'matplotlib': 'matplotlib', 'optuna': 'optuna', 'scipy': 'scipy'},
    'ray': {'matplotlib': 'matplotlib', 'optuna': 'optuna', 'scipy': 'scipy', 'ray': 'ray'},
    'openvino': {'openvino': 'openvino'},
    'litert': {'litert-torch': 'litert_torch'},
    'train': {'matplotlib': 'matplotlib', 'tensorboard': 'tensorboard'},
    'mlflow': {'mlflow': 'mlflow'},
    'wandb': {'wandb': 'wandb'},
    'demo': {'scikit-learn': 'sklearn', 'matplotlib': 'matplotlib', 'optuna': 'optuna', 'scipy': 'scipy'},
}


def missing_packages(extra: str) -> Tuple[str, ...]:
    """Return the packages of an extra that are not installed."""
    return tuple(package for package, module in EXTRAS[extra].items() if find_spec(module) is None)


def how_to_install(extra: str) -> str:
    """Return the command that installs an extra. The quotation marks are for shells to which brackets are special."""
    return f'pip install "nasnet-zoo[{extra}]"'


def require(what: str, extra: str) -> None:
    """Raise an ImportError with the command that installs an extra, unless all its packages are installed.

    Args:
        what: What needs the extra, as the beginning of a sentence, such as ``'a search'``.
        extra: A name in :data:`EXTRAS`.
    """
    missing = missing_packages(extra)
    if missing:
        raise ImportError(f'{what} needs {" and ".join(missing)}: {how_to_install(extra)}')

"""nasnet-zoo: JSON genotypes compiled to timm models. ``import nasnet_zoo`` registers the zoo with timm."""
import importlib

from . import zoo as zoo  # registers the models
from .genotype import Genotype, GenotypeError, GenotypeWarning
from .loader import list_genotypes, load_genotype
from .network import NASNet, compile_genotype
from .skeleton import Skeleton

__version__ = '0.1.0'
_LAZY = {
    'load_foreign_weights': '.checkpoints', 'draw': '.drawing', 'export_onnx': '.export', 'Classifier': '.runtime',
    'optimize_for_inference': '.inference'}
__all__ = ['Genotype', 'GenotypeError', 'GenotypeWarning', 'NASNet', 'Skeleton', 'compile_genotype', 'list_genotypes',
           'load_genotype', *_LAZY]


def __getattr__(name: str):
    """Import what is heavy or rarely needed on first use."""
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name], __name__), name)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')

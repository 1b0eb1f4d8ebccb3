"""nasnet-zoo: JSON genotypes compiled to timm models. ``import nasnet_zoo`` registers the zoo with timm."""
import importlib

from . import zoo as zoo  # registers the models
from .genotype.loader import list_genotypes, load_genotype
from .genotype.schema import Genotype, GenotypeError, GenotypeWarning
from .network.nasnet import NASNet, compile_genotype
from .network.skeleton import Skeleton

__version__ = '0.1.0'
_LAZY = {  # name: its module, imported on first use because it is heavy or rarely needed
    'import_genotype': '.genotype.importer',
    'load_foreign_weights': '.checkpoints.load',
    'draw': '.drawing',
    'describe': '.description',
    'Recipe': '.training.recipe',
    'train': '.training.trainer',
    'evaluate': '.training.metrics',
    'optimize_for_inference': '.graph.passes',
    'export_onnx': '.deploy.export',
    'Classifier': '.deploy.classifier',
}
__all__ = ['Genotype', 'GenotypeError', 'GenotypeWarning', 'NASNet', 'Skeleton', 'compile_genotype', 'list_genotypes',
           'load_genotype', *_LAZY]


def __getattr__(name: str):
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name], __name__), name)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')

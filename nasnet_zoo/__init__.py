"""nasnet-zoo: JSON genotypes compiled to timm models. ``import nasnet_zoo`` registers the zoo with timm."""
import importlib
from typing import TYPE_CHECKING, Any, List

from . import zoo as zoo  # registers the models
from .genotype.loader import list_genotypes, load_genotype
from .genotype.schema import Genotype, GenotypeError, GenotypeWarning
from .network.nasnet import NASNet, compile_genotype
from .network.skeleton import Skeleton
from .version import __version__ as __version__

if TYPE_CHECKING:  # for type checkers and editors; the imports of _LAZY, which a test compares
    from .checkpoints.load import load_foreign_weights
    from .deploy.classifier import Classifier
    from .deploy.export import export_onnx
    from .description import describe
    from .drawing import draw
    from .genotype.importer import import_genotype
    from .graph.passes import optimize_for_inference
    from .training.metrics import evaluate
    from .training.recipe import Recipe
    from .training.trainer import train

__all__ = [
    'Classifier', 'Genotype', 'GenotypeError', 'GenotypeWarning', 'NASNet', 'Recipe', 'Skeleton', 'compile_genotype',
    'describe', 'draw', 'evaluate', 'export_onnx', 'import_genotype', 'list_genotypes', 'load_foreign_weights',
    'load_genotype', 'optimize_for_inference', 'train',
]
_LAZY = {  # name: its module, imported on first use because it is heavy or rarely needed
    'Classifier': '.deploy.classifier',
    'Recipe': '.training.recipe',
    'describe': '.description',
    'draw': '.drawing',
    'evaluate': '.training.metrics',
    'export_onnx': '.deploy.export',
    'import_genotype': '.genotype.importer',
    'load_foreign_weights': '.checkpoints.load',
    'optimize_for_inference': '.graph.passes',
    'train': '.training.trainer',
}


if not TYPE_CHECKING:  # or else type checkers would take every name for one of ours
    def __getattr__(name: str) -> Any:
        if name in _LAZY:
            return getattr(importlib.import_module(_LAZY[name], __name__), name)
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')

    def __dir__() -> List[str]:
        return sorted({*globals(), *_LAZY})

"""The recipes of ``nasnet-zoo train --recipe``, as data."""
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Dict, Mapping

__all__ = ['NamedRecipe', 'RECIPES', 'DEFAULT_RECIPE']


@dataclass(frozen=True)
class NamedRecipe:
    """A published recipe.

    Attributes:
        description: What it is for.
        source: Where its values are from.
        network: Values for fields of :class:`~nasnet_zoo.training.config.TrainConfig` that are about the network.
        recipe: Values for fields of :class:`~nasnet_zoo.Recipe`; the others have their defaults.
        variants: What differs for some models: names of models, in which ``*`` stands for anything, and values for
            fields of either kind.
    """
    description: str
    source: str
    network: Mapping[str, Any]
    recipe: Mapping[str, Any] = field(default_factory=dict)
    variants: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def values(self, model: str) -> Dict[str, Any]:
        """Return the fields of ``TrainConfig`` for a model, which is given by name; those of its ``recipe`` as a dict.
        """
        changed = {name: value for pattern, values in self.variants.items() if fnmatchcase(model, pattern)
                   for name, value in values.items()}
        network = {name: changed.pop(name, value) for name, value in self.network.items()}
        return dict(network, recipe={**self.recipe, **changed})


DEFAULT_RECIPE = 'cifar'
RECIPES: Dict[str, NamedRecipe] = {
    'cifar': NamedRecipe(
        "Google's for CIFAR",
        source='cifar_config and nasnet_cifar_arg_scope in research/slim/nets/nasnet/nasnet.py of tensorflow/models, '
               'whose values are the defaults of Recipe',
        network=dict(drop_rate=0., drop_path_rate=0.4, aux_head=True),
    ),
    'imagenet': NamedRecipe(
        "Google's for ImageNet",
        source='mobile_imagenet_config, large_imagenet_config and the argument scopes in nasnet.py and pnasnet.py of '
               'research/slim/nets/nasnet in tensorflow/models (batches of 50 times 32 images; 250,000 steps are 312 '
               'epochs); the optimiser, the label smoothing and the moving average: appendix A.4 of arXiv:1707.07012; '
               "AmoebaNet's drop path: amoeba_net_model.py in tensorflow/tpu",
        network=dict(drop_rate=0.5, drop_path_rate=0., aux_head=True),
        recipe=dict(
            epochs=312, batch_size=1600, opt='rmsproptf', opt_eps=1., lr=2., weight_decay=4e-5, sched='step',
            decay_epochs=2.4, decay_rate=0.97, warmup_epochs=0., clip_grad=10., label_smoothing=0.1, ema=0.9999),
        variants={
            'nasnet_*_large': dict(drop_path_rate=0.3, lr=1.5, weight_decay=5e-5),
            'pnasnet5_large': dict(drop_path_rate=0.4, lr=1.5),
            'amoebanet_*': dict(drop_path_rate=0.3),
        },
    ),
    'darts': NamedRecipe(
        "DARTS's for CIFAR",
        source='cnn/train.py in quark0/darts with --auxiliary and --cutout, which decays biases and norms, too, and '
               'raises the drop path rate once per epoch',
        network=dict(drop_rate=0., drop_path_rate=0.2, aux_head=True),
        recipe=dict(batch_size=96, weight_decay=3e-4, warmup_epochs=0., cutout=16),
    ),
}

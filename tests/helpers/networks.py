"""Networks to compare with what they are converted to."""
import re

import timm
import torch

import nasnet_zoo  # noqa: F401  (registers the models)
from nasnet_zoo import compile_genotype, list_genotypes

__all__ = ['GENOTYPES', 'NAMES', 'difference', 'small', 'trained']

NAMES = timm.list_models(module='zoo')
# Of DARTS's space, those with an operation or a wiring that the others lack: for tests that compile each genotype
GENOTYPES = [name for name in list_genotypes() if not re.fullmatch('darts_v1|p.*_darts.*|snas|gdas|dr_nas', name)]


def trained(model):
    """With statistics and weights as training leaves them, none of them zero or one."""
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, (torch.nn.BatchNorm2d, torch.nn.GroupNorm)):
            for tensor in module.state_dict().values():
                if tensor.is_floating_point():
                    tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
    return model.eval()


def difference(a, b):
    return ((a - b).norm() / b.norm()).item()


def small(genotype, **kwargs):
    torch.manual_seed(0)
    return trained(compile_genotype(genotype, **{**dict(
        num_cells=1, cell_filters=6, stem='cifar', num_classes=7), **kwargs}))

"""Networks with random weights and statistics, and what loading other packages' weights into them is measured by."""
import pytest
import torch
from torch import nn

from nasnet_zoo import compile_genotype, load_foreign_weights

__all__ = ['LARGE', 'SIZES', 'SMALL', 'TOLERANCE', 'error', 'images', 'logits', 'randomise', 'refused', 'shapes',
           'small_keras']

SIZES = (65, 92)  # maps of stride 2 have even sides only at the one, odd ones too at the other
TOLERANCE = 1e-4
SMALL = dict(cell_filters=8, stem_filters=16, num_classes=20)
LARGE = dict(SMALL, num_cells=6, skip_reduction_layer_input=True)


def images(size, batch=2, seed=1):
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(seed))


def randomise(model, size):
    """Random weights; random statistics not far from the true ones, so that activations neither vanish nor explode."""
    generator = torch.Generator().manual_seed(0)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.normal_(module.weight, std=module.weight[0].numel() ** -0.5, generator=generator)
    for norm in norms:
        norm.momentum = 1.  # the statistics of the next batch
        norm.weight.data.uniform_(0.5, 1.5, generator=generator)
        norm.bias.data.normal_(0., 0.3, generator=generator)
    with torch.no_grad():
        model.train()(images(size, seed=0))
    for norm in norms:
        noise = torch.randn(norm.num_features, generator=generator)
        norm.running_mean += 0.3 * noise * (norm.running_var + norm.eps).sqrt()
        norm.running_var *= torch.empty_like(noise).uniform_(0.7, 1.5, generator=generator)
        norm.running_var += 0.01
    return model.eval()


def logits(model, size):
    with torch.inference_mode():
        return model.eval()(images(size))


def error(ours, theirs):
    """Relative to what the logits of the two images differ by: a constant network would not pass."""
    assert theirs.isfinite().all()
    return ((ours - theirs).norm() / (theirs - theirs.mean(0)).norm()).item()


def shapes(state_dict):
    return {name: tuple(tensor.shape) for name, tensor in state_dict.items() if 'num_batches_tracked' not in name}


def small_keras(**kwargs):
    return compile_genotype('nasnet_a', num_cells=1, **{**SMALL, **kwargs})


def refused(model, source, match):
    """The message, of a refusal that leaves the model as it was."""
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(ValueError, match=match) as raised:
        load_foreign_weights(model, source)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    return str(raised.value)

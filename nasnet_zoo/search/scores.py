"""Scores of untrained networks, with which cells can be ranked in a fraction of a second.

Each function takes a freshly initialised network and a batch of images, and returns a number that is higher for
networks that are expected to reach a higher accuracy. None of them knows the operations of a genotype. Weights,
gradients and statistics of the network are changed, so a network can be scored only once.
"""
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Tuple

import torch
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

__all__ = ['SCORES', 'Score', 'grad_norm', 'jacobian', 'log_synflow', 'naswot', 'snip', 'swap', 'synflow', 'zico']

_TINY = 1e-5


class Score(NamedTuple):
    """A row of the table of scores.

    Attributes:
        description: One line for help texts.
        function: Takes a network, images [B, C, H, W], normalised, and labels [B].
        images: Number of images, B.
    """
    description: str
    function: Callable[[nn.Module, torch.Tensor, torch.Tensor], float]
    images: int = 64


def synflow(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    """Return the logarithm of the sum of w · dR/dw over all weights of convolutions and linear layers.

    R is the sum of the logits for an image of ones in a network with the absolute values of its weights and without
    batch norms (Tanaka et al., arXiv:2006.05467; as a score of cells: Abdelfattah et al., arXiv:2101.08134).
    """
    return torch.stack([(w * g).sum() for w, g in _flow(model, images)]).sum().log().item()


def log_synflow(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    """Return the sum of abs(w) · log(1 + abs(dR/dw)), in which no layer outweighs the others as in :func:`synflow`
    (Cavagnero et al., FreeREA, arXiv:2207.05135)."""
    return torch.stack([(w * g.abs().log1p()).sum() for w, g in _flow(model, images)]).sum().item()


def _flow(model: nn.Module, images: torch.Tensor) -> List[Tuple[torch.Tensor, torch.Tensor]]:
    """Return the weights that :func:`synflow` describes, in float64, and the gradients of R for them."""
    model = model.double().eval()  # the statistics of new batch norms are 0 and 1, so they change nothing
    weights = _weights(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.abs_()
    total = model(torch.ones_like(images[:1], dtype=torch.float64)).sum()
    return list(zip(weights, torch.autograd.grad(total, weights)))


def _weights(model: nn.Module) -> List[torch.Tensor]:
    """Return the weights of convolutions and linear layers."""
    return [module.weight for module in model.modules() if isinstance(module, (nn.Conv2d, nn.Linear))]


def _loss(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    output = model.train()(images)
    return F.cross_entropy(output[0] if isinstance(output, tuple) else output, labels)


def grad_norm(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    """Return the norm of the loss's gradient for the weights (Abdelfattah et al., arXiv:2101.08134)."""
    grads = torch.autograd.grad(_loss(model, images, labels), _weights(model))
    return torch.stack([grad.square().sum() for grad in grads]).sum().sqrt().item()


def snip(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    """Return the sum of abs(w · g) over the weights, where g is the loss's gradient (Lee et al., arXiv:1810.02340)."""
    weights = _weights(model)
    grads = torch.autograd.grad(_loss(model, images, labels), weights)
    return torch.stack([(weight * grad).abs().sum() for weight, grad in zip(weights, grads)]).sum().item()


def zico(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    """Return the sum over layers of the logarithm of the sum over weights of mean(abs(g)) / std(abs(g)), where g are
    the gradients of four batches (Li et al., arXiv:2301.11300)."""
    weights = _weights(model)
    grads = [torch.autograd.grad(_loss(model, *part), weights) for part in zip(images.chunk(4), labels.chunk(4))]
    total = 0.
    for layer in zip(*grads):
        sizes = torch.stack(layer).abs()
        mean, std = sizes.mean(0), sizes.std(0, correction=0)
        ratio = (mean[std > 0] / std[std > 0]).sum()
        total += ratio.log().item() if ratio > 0 else 0.
    return total


class _ReluInputs(TorchFunctionMode):
    """A context that collects which inputs of ReLUs are positive, bool [B, units], for each ReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.signs: List[torch.Tensor] = []

    def __torch_function__(self, func: Callable, types: Any, args: Tuple = (), kwargs: Optional[Dict] = None) -> Any:
        if func is F.relu:  # which nn.ReLU calls, too
            self.signs.append((args[0] > 0).flatten(1))
        return func(*args, **(kwargs or {}))


@torch.no_grad()
def _relu_signs(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Return whether the input of each unit of a ReLU is positive, bool [B, units], with statistics of the batch."""
    with _ReluInputs() as seen:
        model.train()(images)
    return torch.cat(seen.signs, dim=1)


def naswot(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    """Return the logarithm of the determinant of a kernel of images: the number of units of ReLUs in which two images
    have the same sign (NASWOT; Mellor et al., arXiv:2006.04647)."""
    signs = _relu_signs(model, images).float()
    kernel = (signs @ signs.T + (1 - signs) @ (1 - signs).T).double()
    return torch.linalg.slogdet(kernel).logabsdet.item()


def swap(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    """Return how many different patterns of signs the units of ReLUs have over up to 32 images (SWAP; Peng et al.,
    arXiv:2403.04161, without the regularisation by size)."""
    signs = _relu_signs(model, images[:32])
    codes = sum(sign.long() << i for i, sign in enumerate(signs))
    return float(len(codes.unique()))


def jacobian(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    """Return how little the gradients of the logits' sum for different images correlate: minus the sum of
    log(v) + 1 / v over the eigenvalues v of their correlation matrix (Jacobian covariance; Mellor et al.,
    arXiv:2006.04647, version 1)."""
    images = images.clone().requires_grad_()
    output = model.train()(images)
    total = (output[0] if isinstance(output, tuple) else output).sum()
    rows = torch.autograd.grad(total, images)[0].flatten(1).double()
    values = torch.linalg.eigvalsh(torch.corrcoef(rows)).clamp(min=0) + _TINY
    return -(values.log() + 1 / values).sum().item()


SCORES: Dict[str, Score] = {
    'synflow': Score('flow through the absolute weights, logarithmic', synflow),
    'log_synflow': Score('flow through the absolute weights, with logarithmic gradients', log_synflow),
    'naswot': Score('how differently ReLUs divide the images', naswot),
    'swap': Score('number of different patterns of the ReLUs', swap),
    'jacobian': Score('how little the gradients of different images correlate', jacobian),
    'zico': Score('mean over standard deviation of gradients', zico),
    'grad_norm': Score('norm of the gradient', grad_norm),
    'snip': Score('sensitivity of the loss to the weights', snip),
}

"""timm's Muon, with fewer and larger products of matrices."""
from collections import defaultdict
from typing import Any, Callable, Dict, List, Optional

import torch
from timm.optim.muon import _COEFFICIENTS, Muon, get_lr_scale, resolve_ns_coefficients, zeropower_via_newtonschulz

__all__ = ['StackedMuon', 'stack_matrices']


class StackedMuon(Muon):
    """timm's Muon, which orthogonalises the updates of all parameters of the same shape at once.

    A cell has many small matrices of few shapes. One by one, they take an eighth of a training step of a small network
    on a CPU. The steps are timm's up to the order of summation, in bfloat16.
    """

    @torch.no_grad()
    def step(self, closure: Optional[Callable] = None) -> Any:
        # timm decides in its first step which parameters get which algorithm. Afterwards it does what is left to it:
        # parameters without gradients are skipped.
        done: List[torch.Tensor] = []
        if closure is None:
            for group in self.param_groups:
                if group['algo'] == 'muon' and group['conv_mode'] == 'flatten':
                    params = [p for p in group['params'] if p.grad is not None and 'momentum_buffer' in self.state[p]]
                    self._update(params, group)
                    done += params
        gradients = [p.grad for p in done]
        for p in done:
            p.grad = None
        loss = super().step(closure)
        for p, gradient in zip(done, gradients):
            p.grad = gradient
        return loss

    def _update(self, params: List[torch.Tensor], group: Dict[str, Any]) -> None:
        """Do what timm's ``_single_tensor_muon`` does, in the same order."""
        coefficients = resolve_ns_coefficients(group['ns_coefficients'], _COEFFICIENTS)
        by_shape: Dict[torch.Size, List[torch.Tensor]] = defaultdict(list)
        for p in params:
            by_shape[p.flatten(1).shape].append(p)
        for shape, alike in by_shape.items():
            gradients = [p.grad for p in alike if p.grad is not None]
            averages = [self.state[p]['momentum_buffer'] for p in alike]
            torch._foreach_mul_(alike, 1 - group['lr'] * group['weight_decay'])
            torch._foreach_lerp_(averages, gradients, 1. - group['momentum'])
            updates = torch._foreach_lerp(gradients, averages, group['momentum']) if group['nesterov'] else averages
            orthogonal = zeropower_via_newtonschulz(
                torch.stack([update.flatten(1) for update in updates]), group['ns_steps'], coefficients,
                eps=group['eps'], safety_factor=group['safety_factor'], scale_eps=group['scale_eps'])
            scale = get_lr_scale(shape, group['adjust_lr_fn']) if group['adjust_lr_fn'] else 1.
            for p, update in zip(alike, orthogonal):
                p.add_(update.reshape(p.shape), alpha=-group['lr'] * scale)


def stack_matrices(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """Return the optimiser, in the faster form if there is one."""
    if type(optimizer) is Muon:
        optimizer.__class__ = StackedMuon
    return optimizer

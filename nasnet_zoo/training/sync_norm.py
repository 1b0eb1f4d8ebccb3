"""Batch norm over the images of all processes, on a CPU too."""
import torch
from torch import distributed, nn

__all__ = ['synchronised']


class _AllSum(torch.autograd.Function):
    """The sum over all processes; so is its gradient."""

    @staticmethod
    def forward(ctx, x: torch.Tensor) -> torch.Tensor:
        x = x.clone()
        distributed.all_reduce(x)
        return x

    @staticmethod
    def backward(ctx, grad: torch.Tensor) -> torch.Tensor:
        return _AllSum.apply(grad)


class SyncBatchNorm2d(nn.BatchNorm2d):
    """PyTorch's SyncBatchNorm works on accelerators only; this one wherever `torch.distributed` does.

    Each process must have as many images.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return super().forward(x)
        wide = x if x.dtype == torch.float64 else x.float()
        count = x.numel() // x.shape[1] * distributed.get_world_size()
        mean = _AllSum.apply(wide.sum((0, 2, 3))) / count
        centred = wide - mean[:, None, None]
        var = _AllSum.apply(centred.square().sum((0, 2, 3))) / count
        with torch.no_grad():
            self.num_batches_tracked.add_(1)
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(var * count / (count - 1), self.momentum)
        scale = self.weight * (var + self.eps).rsqrt()
        return (centred * scale[:, None, None] + self.bias[:, None, None]).to(x.dtype)


def synchronised(model: nn.Module) -> nn.Module:
    """The model with synchronised batch norms in the place of its own, which keep their parameters and names."""
    if next(model.parameters()).is_cuda:
        return nn.SyncBatchNorm.convert_sync_batchnorm(model)
    for module in model.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = SyncBatchNorm2d
    return model

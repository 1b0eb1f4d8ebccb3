"""Batch normalisation over the images of all processes, on any device."""
import torch
from torch import distributed, nn

__all__ = ['SyncBatchNorm2d', 'synchronised']


class _AllReduceSum(torch.autograd.Function):
    """The sum of a tensor over all processes. Its gradient is the sum of the gradients over all processes."""

    @staticmethod
    def forward(ctx, x: torch.Tensor) -> torch.Tensor:
        x = x.clone()
        distributed.all_reduce(x)
        return x

    @staticmethod
    def backward(ctx, grad: torch.Tensor) -> torch.Tensor:
        return _AllReduceSum.apply(grad)


class SyncBatchNorm2d(nn.BatchNorm2d):
    """Synchronised batch norm for every device that `torch.distributed` supports.

    PyTorch's own ``SyncBatchNorm`` works on accelerators only. Each process must have the same number of images.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return super().forward(x)
        wide = x if x.dtype == torch.float64 else x.float()
        count = x.numel() // x.shape[1] * distributed.get_world_size()
        mean = _AllReduceSum.apply(wide.sum((0, 2, 3))) / count
        centred = wide - mean[:, None, None]
        var = _AllReduceSum.apply(centred.square().sum((0, 2, 3))) / count
        with torch.no_grad():
            self.num_batches_tracked.add_(1)
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(var * count / (count - 1), self.momentum)
        scale = self.weight * (var + self.eps).rsqrt()
        return (centred * scale[:, None, None] + self.bias[:, None, None]).to(x.dtype)


def synchronised(model: nn.Module) -> nn.Module:
    """Replace the batch norms of a model by synchronised ones, which keep their parameters and names.

    Returns:
        The model, which is changed in place on a CPU.
    """
    if next(model.parameters()).is_cuda:
        return nn.SyncBatchNorm.convert_sync_batchnorm(model)
    for module in model.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = SyncBatchNorm2d
    return model

"""Batch norm over the images of all processes, on a CPU too."""
import torch
from torch import distributed, nn
from torch.distributed.nn.functional import all_reduce

__all__ = ['synchronised']


class SyncBatchNorm2d(nn.BatchNorm2d):
    """PyTorch's SyncBatchNorm works on accelerators only; this one wherever `torch.distributed` does.

    Each process must have as many images.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return super().forward(x)
        count = x.numel() // x.shape[1] * distributed.get_world_size()
        sums = torch.cat([x.sum((0, 2, 3)), x.square().sum((0, 2, 3))])
        mean, square = (all_reduce(sums) / count).chunk(2)
        var = square - mean.square()
        with torch.no_grad():
            self.num_batches_tracked.add_(1)
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(var * count / (count - 1), self.momentum)
        scale = self.weight * (var + self.eps).rsqrt()
        return x * scale[:, None, None] + (self.bias - mean * scale)[:, None, None]


def synchronised(model: nn.Module) -> nn.Module:
    """The model with synchronised batch norms in the place of its own, which keep their parameters and names."""
    if next(model.parameters()).is_cuda:
        return nn.SyncBatchNorm.convert_sync_batchnorm(model)
    for module in model.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = SyncBatchNorm2d
    return model

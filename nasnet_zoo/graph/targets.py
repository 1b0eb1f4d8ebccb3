"""What a graph can be made for: which operations a target can write, and which passes pay there."""
import importlib
from typing import Dict, FrozenSet, NamedTuple, Tuple

__all__ = ['TARGETS', 'Target']


class Target(NamedTuple):
    """Where a graph will run.

    Attributes:
        description: The runtime and the kind of processor.
        module: The module of this package whose table ``WRITERS`` has a writer for each kind of operation.
        passes: The passes that run by default: those that make networks faster there (docs/performance.md).
    """
    description: str
    module: str
    passes: Tuple[str, ...]

    @property
    def kinds(self) -> FrozenSet[str]:
        """The kinds of operation that it can write."""
        # Imported only now: `onnx` takes time to import, and PyTorch does without it.
        return frozenset(importlib.import_module(self.module, __package__).WRITERS)


_EVERYWHERE = (
    'drop_zeros', 'fold_norms', 'push_relu_through_concat', 'eliminate_common_subexpressions', 'sink_scale',
    'fix_padding')
TARGETS: Dict[str, Target] = {
    'torch_cpu': Target(
        'eager PyTorch on a CPU', '.to_torch', (*_EVERYWHERE, 'fuse_reductions', 'pointwise_conv_as_matmul')),
    'torch_gpu': Target(
        'eager PyTorch on a GPU', '.to_torch', (*_EVERYWHERE, 'fuse_reductions')),
    'onnxruntime': Target(
        'ONNX Runtime on a CPU', '.to_onnx',
        (*_EVERYWHERE, 'split_reductions_at_blocks', 'pad_channels', 'add_as_identity_conv')),
    'onnxruntime_int8': Target(
        'ONNX Runtime on a CPU, after quantisation to int8', '.to_onnx',
        (*_EVERYWHERE, 'fuse_reductions', 'pad_channels', 'avg_pool_as_depthwise_conv')),
}

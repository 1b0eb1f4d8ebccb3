"""What a graph can be made for: which operations a target can write, and which passes pay there."""
import importlib
from typing import Dict, FrozenSet, NamedTuple, Optional, Tuple

__all__ = ['ONNX_TARGETS', 'TARGETS', 'Quantization', 'Target']


class Quantization(NamedTuple):
    """How a network is quantised to int8 for a target.

    Attributes:
        passes: The passes that run by default instead of the target's own.
        activations: Type of the features, 'uint8' or 'int8'.
        symmetric: Whether zero is the middle of the type.
        float_operators: ONNX operators that stay in float32.
        float_ends: Whether the first convolution and the classifier stay in float32.
    """
    passes: Tuple[str, ...]
    activations: str = 'uint8'
    symmetric: bool = False
    float_operators: Tuple[str, ...] = ()
    float_ends: bool = False


class Target(NamedTuple):
    """Where a graph will run.

    Attributes:
        description: The runtime and the kind of processor.
        module: The module of this package whose table ``WRITERS`` has a writer for each kind of operation.
        passes: The passes that run by default: those that make networks faster there (docs/performance.md).
        int8: How a network is quantised for it, None if it cannot be.
        runtime: The runtime in which an exported file is compared with its network, if it is installed.
    """
    description: str
    module: str
    passes: Tuple[str, ...]
    int8: Optional[Quantization] = None
    runtime: str = 'onnxruntime'

    @property
    def kinds(self) -> FrozenSet[str]:
        """The kinds of operation that it can write."""
        # Imported only now: `onnx` takes time to import, and PyTorch does without it.
        return frozenset(importlib.import_module(self.module, __package__).WRITERS)


_EVERYWHERE = (
    'drop_zeros', 'fold_norms', 'push_relu_through_concat', 'eliminate_common_subexpressions', 'sink_scale',
    'fix_padding')
_INT8 = Quantization((*_EVERYWHERE, 'fuse_reductions', 'pad_channels', 'avg_pool_as_depthwise_conv'))
TARGETS: Dict[str, Target] = {
    'torch_cpu': Target(
        'eager PyTorch on a CPU', '.to_torch', (*_EVERYWHERE, 'fuse_reductions', 'pointwise_conv_as_matmul')),
    'torch_gpu': Target(
        'eager PyTorch on a GPU', '.to_torch', (*_EVERYWHERE, 'fuse_reductions')),
    # Its kernels run pointwise convolutions and separate reductions faster than what further passes make of them.
    'litert': Target('LiteRT, which converts modules of PyTorch', '.to_torch', _EVERYWHERE),
    'onnxruntime': Target(
        'ONNX Runtime on a CPU', '.to_onnx',
        (*_EVERYWHERE, 'split_reductions_at_blocks', 'pad_channels', 'add_as_identity_conv'), _INT8),
    'openvino': Target(
        'OpenVINO on a CPU', '.to_onnx', _EVERYWHERE, _INT8, runtime='openvino'),
    'web': Target(  # kernels for WebAssembly do not work on blocks of channels
        'ONNX Runtime Web, in WebAssembly', '.to_onnx', (*_EVERYWHERE, 'split_reductions_at_blocks'), _INT8),
    'any': Target(
        'both: what one of them gains much by and the other loses little by', '.to_onnx',
        (*_EVERYWHERE, 'split_reductions_at_blocks', 'pad_channels'), _INT8),
}
ONNX_TARGETS: Dict[str, Target] = {name: row for name, row in TARGETS.items() if row.module == '.to_onnx'}

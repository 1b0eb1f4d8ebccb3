"""Writes a graph as an ONNX model."""
import functools
import hashlib
from typing import Any, Callable, Dict, List, Sequence, Set, Tuple, Union

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from .ir import NO_PADDING, SAME, DilatedSame, Node, check_kinds, ordered, window

__all__ = ['OLDEST_OPSET', 'WRITERS', 'newest_opset', 'smallest_model', 'to_onnx']

OLDEST_OPSET = 15  # from here on, the operators written here are the same
_IR_VERSION = 8  # that of opsets 15 to 18, so that older runtimes read the file


def smallest_model(opset: int = OLDEST_OPSET) -> bytes:
    """Return an ONNX file of one ReLU from [1, 2] to [1, 2], which shows what a runtime accepts."""
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 2]) for name in ('x', 'y')]
    graph = helper.make_graph([helper.make_node('Relu', ['x'], ['y'])], 'relu', ends[:1], ends[1:])
    opsets = [helper.make_opsetid('', opset)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=_IR_VERSION).SerializeToString()


@functools.lru_cache(None)
def newest_opset() -> int:
    """The newest opset that the installed versions of ``onnx`` and ONNX Runtime accept, found by trying."""
    import onnxruntime
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    for opset in range(onnx.defs.onnx_opset_version(), OLDEST_OPSET, -1):
        try:
            onnxruntime.InferenceSession(smallest_model(opset), options, providers=['CPUExecutionProvider'])
            return opset
        except Exception:  # ONNX Runtime's exceptions have no common base class
            continue
    return OLDEST_OPSET


def to_onnx(
        graph: Node,
        input_shape: Sequence[Union[int, str]],
        opset: int = 17,
        half: bool = False,
        uint8: bool = False,
        softmax: bool = False,
) -> onnx.ModelProto:
    """The graph as a model with one input, ``image``, and one output, ``logits`` or, with a softmax, ``probabilities``.

    Args:
        graph: A graph from images [B, C, H, W] to logits [B, classes].
        input_shape: The shape of ``image``; a name stands for a length that is not fixed.
        opset: From :data:`OLDEST_OPSET` to :func:`newest_opset`.
        half: Compute in float16. The output is float32 nevertheless, and so is the input unless it is uint8.
        uint8: ``image`` is uint8 [B, H, W, C] instead of float32 [B, C, H, W].
        softmax: Return probabilities.

    Raises:
        ValueError: For a graph with an operation that ONNX has no writer for.
    """
    check_kinds(graph, WRITERS, 'ONNX')
    nodes = ordered(graph)
    writer = _Writer(np.float16 if half else np.float32, uint8)
    writer.max_pooled.update(x for node in nodes if node.op == 'max_pool' for x in node.inputs)
    results: Dict[Node, str] = {}
    for node in nodes:
        results[node] = WRITERS[node.op](writer, node, [results[x] for x in node.inputs])
    last = results[graph]
    if half:
        last = writer.add('Cast', [last], to=TensorProto.FLOAT)
    if softmax:
        writer.add('Softmax', [last], axis=1)
    output = 'probabilities' if softmax else 'logits'
    writer.nodes[-1].output[0] = output
    input_type = TensorProto.UINT8 if uint8 else TensorProto.FLOAT
    output_shape = [input_shape[0], graph.channels, None, None][:graph.rank]
    proto = helper.make_model(
        helper.make_graph(
            writer.nodes, 'nasnet', [helper.make_tensor_value_info('image', input_type, input_shape)],
            [helper.make_tensor_value_info(output, TensorProto.FLOAT, output_shape)], writer.tensors),
        producer_name='nasnet-zoo', opset_imports=[helper.make_opsetid('', opset)], ir_version=_IR_VERSION)
    proto = onnx.shape_inference.infer_shapes(proto, check_type=True, strict_mode=True, data_prop=True)
    _fix_known_shapes(proto.graph)
    return proto


def _fix_known_shapes(graph: onnx.GraphProto) -> None:
    """Replace each Shape that a Reshape reads by a constant where only the number of images is unknown; in place."""
    lengths = {value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in graph.value_info}
    shapes = {node.output[0]: node for node in graph.node if node.op_type == 'Shape'}
    known = {tensor.name for tensor in graph.initializer}
    for node in graph.node:
        source = shapes.get(node.input[1]) if node.op_type == 'Reshape' else None
        target = [0, *lengths.get(source.input[0], [])[1:]] if source else []  # 0 keeps the number of images
        if len(target) < 2 or not all(target[1:]):
            continue
        node.input[1] = 'shape_' + '_'.join(map(str, target))
        if node.input[1] not in known:
            known.add(node.input[1])
            graph.initializer.append(numpy_helper.from_array(np.array(target), node.input[1]))
    read = {name for node in graph.node for name in node.input}
    for name, node in shapes.items():
        if name not in read:
            graph.node.remove(node)


class _Writer:
    """Collects operators and the tensors that they read, weights among them in float16 or float32."""

    def __init__(self, dtype: type, uint8: bool) -> None:
        self.nodes: List[onnx.NodeProto] = []
        self.tensors: List[onnx.TensorProto] = []
        self.dtype, self.onnx_dtype = dtype, helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        self.uint8 = uint8
        self._names: Dict[Tuple[Any, ...], str] = {}  # of the tensors, by what they contain
        self.max_pooled: Set[Node] = set()  # nodes that a max pool reads

    def add(self, operator: str, inputs: Sequence[str], **attrs: Any) -> str:
        """Add an operator; returns the name of its result."""
        name = f'{operator.lower()}_{len(self.nodes)}'
        self.nodes.append(helper.make_node(operator, list(inputs), [name], name=name, **attrs))
        return name

    def tensor(self, values: Any) -> str:
        """Add a constant, unless there is an equal one; returns its name, for the inputs of the next operator. Integers
        become int64."""
        array = np.asarray(values)
        array = np.ascontiguousarray(array.astype(self.dtype if array.dtype.kind == 'f' else np.int64))
        key = array.dtype, array.shape, hashlib.sha256(array.tobytes()).digest()
        if key not in self._names:
            self._names[key] = f'tensor_{len(self.tensors)}'
            self.tensors.append(numpy_helper.from_array(array, self._names[key]))
        return self._names[key]


def _input(writer: _Writer, node: Node, inputs: List[str]) -> str:
    image = 'image'
    if writer.uint8 or writer.dtype == np.float16:
        image = writer.add('Cast', [image], to=writer.onnx_dtype)
    return writer.add('Transpose', [image], perm=[0, 3, 1, 2]) if writer.uint8 else image


def _windowed(operator: str) -> Callable[[_Writer, Node, List[str]], str]:
    """The writer of a convolution or pool. SAME_UPPER is TensorFlow's padding."""
    def write(writer: _Writer, node: Node, inputs: List[str]) -> str:
        padding = node.attrs['padding']
        attrs = dict(strides=node.attrs['stride'])
        if isinstance(padding, DilatedSame):
            inputs, padding = [_pad(writer, node, inputs)], NO_PADDING
        attrs.update(dict(auto_pad='SAME_UPPER') if padding == SAME else dict(pads=padding))
        if node.op == 'conv':
            attrs.update(group=node.attrs['groups'], dilations=node.attrs['dilation'])
            inputs = inputs + [writer.tensor(node.params['weight']), writer.tensor(node.params['bias'])]
            return writer.add(operator, inputs, kernel_shape=list(node.params['weight'].shape[2:]), **attrs)
        if node.attrs['dilation'] != (1, 1):
            attrs.update(dilations=node.attrs['dilation'])
        return writer.add(operator, inputs, kernel_shape=list(node.attrs['kernel']), **attrs)
    return write


def _avg_pool(writer: _Writer, node: Node, inputs: List[str]) -> str:
    """ONNX's pool has a dilation since opset 19 only; otherwise, a convolution, divided by that of ones."""
    if node.attrs['dilation'] == (1, 1) and not isinstance(node.attrs['padding'], DilatedSame):
        return _windowed('AveragePool')(writer, node, inputs)
    kernel = np.full([1, 1, *node.attrs['kernel']], 1 / np.prod(node.attrs['kernel']))

    def mean(values: str, channels: int) -> str:
        padded = values if node.attrs['padding'] == NO_PADDING else _pad(writer, node, [values])
        return writer.add('Conv', [padded, writer.tensor(kernel.repeat(channels, 0))], group=channels,
                          dilations=node.attrs['dilation'])
    if node.attrs['padding'] == NO_PADDING:
        return mean(inputs[0], node.channels)
    size = writer.add('Shape', inputs, start=2, end=4)
    shape = writer.add('Concat', [writer.tensor([1, 1]), size], axis=0)
    one = numpy_helper.from_array(np.ones(1, writer.dtype))
    ones = writer.add('ConstantOfShape', [shape], value=one)
    return writer.add('Div', [mean(inputs[0], node.channels), mean(ones, 1)])


def _affine(writer: _Writer, node: Node, inputs: List[str]) -> str:
    scale, shift = (node.params[name].reshape([-1] + [1] * (node.rank - 2)) for name in ('scale', 'shift'))
    scaled = writer.add('Mul', [*inputs, writer.tensor(scale)])
    return writer.add('Add', [scaled, writer.tensor(shift)]) if shift.any() else scaled


def _pad(writer: _Writer, node: Node, inputs: List[str]) -> str:
    padding = node.attrs['padding']
    if padding == SAME or isinstance(padding, DilatedSame):
        first, last = _same_pads(writer, node, inputs)
        pads = writer.add('Concat', [writer.tensor([0, 0]), first, writer.tensor([0, 0]), last], axis=0)
    else:
        top, left, bottom, right = padding
        pads = writer.tensor([0, 0, top, left, 0, 0, bottom, right])
    value = np.float64(node.attrs.get('value', 0.))
    if value == 0 and node in writer.max_pooled:
        value = -value  # ONNX Runtime merges a Pad by 0, but not by -0, into a MaxPool, which ignores its own padding
    return writer.add('Pad', [*inputs, pads, writer.tensor(value)])


def _same_pads(writer: _Writer, node: Node, inputs: List[str]) -> Tuple[str, str]:
    """Padding before and behind the rows and columns: kernel - stride + size % stride, the smaller half before.

    With a dilation, size is the number of pixels at this distance, and the sum is such that the size stays.
    """
    size = writer.add('Shape', inputs, start=2, end=4)
    dilated = node.attrs['padding'] if isinstance(node.attrs['padding'], DilatedSame) else None
    kernel, stride = (node.attrs['kernel'], dilated.stride) if dilated else window(node)
    if dilated:
        size = writer.add('Add', [size, writer.tensor([d - 1 for d in dilated.dilation])])
        size = writer.add('Div', [size, writer.tensor(list(dilated.dilation))])
    rest = writer.add('Mod', [size, writer.tensor(list(stride))])
    total = writer.add('Add', [rest, writer.tensor([k - s for k, s in zip(kernel, stride)])])
    first = writer.add('Div', [total, writer.tensor([2, 2])])
    if dilated:
        first = writer.add('Mul', [first, writer.tensor(list(dilated.dilation))])
        total = writer.tensor([d * (k - 1) for d, k in zip(dilated.dilation, kernel)])
    return first, writer.add('Sub', [total, first])


def _group_norm_dilated(writer: _Writer, node: Node, inputs: List[str]) -> str:
    """(x - mean) / sqrt(variance + eps) * weight + bias."""
    groups, (rows, columns) = node.attrs['groups'], node.attrs['dilation']
    limits = [writer.tensor(values) for values in ([0, 0], [2 ** 62, 2 ** 62], [2, 3], [rows, columns])]
    pixels = writer.add('Reshape', [writer.add('Slice', [*inputs, *limits]), writer.tensor([0, groups, 1, -1])])
    mean = writer.add('GlobalAveragePool', [pixels])
    difference = writer.add('Sub', [pixels, mean])
    variance = writer.add('GlobalAveragePool', [writer.add('Mul', [difference, difference])])
    deviation = writer.add('Sqrt', [writer.add('Add', [variance, writer.tensor(np.float64(node.attrs['eps']))])])
    if node.attrs['any_size']:  # a single number is not normalised
        is_one = writer.add('Equal', [writer.add('Shape', [pixels], start=3, end=4), writer.tensor([1])])
        mean = writer.add('Where', [is_one, writer.tensor(np.zeros(1)), mean])
        deviation = writer.add('Where', [is_one, writer.tensor(np.ones(1)), deviation])
    all_pixels = writer.add('Reshape', [*inputs, writer.tensor([0, groups, 1, -1])])
    normal = writer.add('Div', [writer.add('Sub', [all_pixels, mean]), deviation])
    normal = writer.add('Reshape', [normal, writer.add('Shape', inputs)])
    weight, bias = (writer.tensor(node.params[name][:, None, None]) for name in ('weight', 'bias'))
    return writer.add('Add', [writer.add('Mul', [normal, weight]), bias])


def _group_norm(writer: _Writer, node: Node, inputs: List[str]) -> str:
    if node.attrs['dilation'] != (1, 1):
        return _group_norm_dilated(writer, node, inputs)
    weight, bias = node.params['weight'], node.params['bias']
    if node.attrs['groups'] == node.channels:
        normal = writer.add('InstanceNormalization', [*inputs, writer.tensor(weight), writer.tensor(bias)],
                            epsilon=node.attrs['eps'])
        if not node.attrs['any_size']:
            return normal
        # A single pixel is not to be normalised. ONNX normalises it, which leaves only the bias: add the scaled pixel.
        area = writer.add('Mul', [writer.add('Shape', inputs, start=i, end=i + 1) for i in (2, 3)])
        is_pixel = writer.add('Cast', [writer.add('Equal', [area, writer.tensor([1])])], to=writer.onnx_dtype)
        scale = writer.add('Mul', [is_pixel, writer.tensor(weight[:, None, None])])
        return writer.add('Add', [normal, writer.add('Mul', [*inputs, scale])])
    groups = node.attrs['groups']  # ONNX has GroupNormalization only since opset 18
    rows = writer.add('Reshape', [*inputs, writer.tensor([0, groups, -1])])
    ones = weight.new_ones(groups)
    normal = writer.add('InstanceNormalization', [rows, writer.tensor(ones), writer.tensor(0 * ones)],
                        epsilon=node.attrs['eps'])
    back = writer.add('Reshape', [normal, writer.add('Shape', inputs)])
    return writer.add('Add', [writer.add('Mul', [back, writer.tensor(weight[:, None, None])]),
                              writer.tensor(bias[:, None, None])])


def _linear(writer: _Writer, node: Node, inputs: List[str]) -> str:
    return writer.add('Gemm', [*inputs, *(writer.tensor(node.params[name]) for name in ('weight', 'bias'))], transB=1)


# kind of operation: its writer, which returns the name of the result
WRITERS: Dict[str, Callable[[_Writer, Node, List[str]], str]] = {
    'input': _input,
    'conv': _windowed('Conv'),
    'avg_pool': _avg_pool,
    'max_pool': _windowed('MaxPool'),
    'pad': _pad,
    'affine': _affine,
    'group_norm': _group_norm,
    'linear': _linear,
    'scale_pixels': lambda writer, node, inputs: writer.add('Mul', [*inputs, writer.tensor(node.params['factor'])]),
    'relu': lambda writer, node, inputs: writer.add('Relu', inputs),
    'add': lambda writer, node, inputs: writer.add('Add', inputs),
    'concat': lambda writer, node, inputs: writer.add('Concat', inputs, axis=1),
    'flatten': lambda writer, node, inputs: writer.add('Flatten', inputs),
    'global_pool': lambda writer, node, inputs: writer.add(
        {'avg': 'GlobalAveragePool', 'max': 'GlobalMaxPool'}[node.attrs['mode']], inputs),
}

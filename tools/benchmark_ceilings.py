"""How fast a machine can be: products of matrices in each runtime and precision, and copying in memory."""
import math
import timeit
from pathlib import Path
from typing import Any, Callable, Dict

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

from nasnet_zoo.deploy.runtimes import RUNTIME_PRECISIONS, RUNTIMES, open_session
from nasnet_zoo.deploy.session import SessionError

__all__ = ['least_seconds', 'measure_machine']

_PRODUCTS = 6  # in a model, so that quantising its input takes little of the time


def _matrix_products(side: int, int8: bool) -> onnx.ModelProto:
    """Return a model that multiplies a matrix [side, side] by constant ones, one after another."""
    generator = np.random.default_rng(0)
    nodes, tensors, current = [], [], 'x'
    if int8:
        tensors += [numpy_helper.from_array(np.array(value), name) for value, name in (
            (np.float32(0.02), 'step'), (np.uint8(128), 'zero'), (np.float32(0.001), 'weight_step'),
            (np.int8(0), 'weight_zero'))]
    for i in range(_PRODUCTS):
        weight = f'weight_{i}'
        if int8:
            tensors.append(numpy_helper.from_array(generator.integers(-127, 128, (side, side), np.int8), weight))
            nodes += [helper.make_node('QuantizeLinear', [current, 'step', 'zero'], [f'q{i}']),
                      helper.make_node('DequantizeLinear', [f'q{i}', 'step', 'zero'], [f'x{i}']),
                      helper.make_node('DequantizeLinear', [weight, 'weight_step', 'weight_zero'], [f'w{i}'])]
            current, weight = f'x{i}', f'w{i}'
        else:
            values = generator.standard_normal((side, side), np.float32) / math.sqrt(side)
            tensors.append(numpy_helper.from_array(values, weight))
        nodes.append(helper.make_node('MatMul', [current, weight], [f'y{i}']))
        current = f'y{i}'
    inputs, outputs = ([helper.make_tensor_value_info(name, TensorProto.FLOAT, [side, side])]
                       for name in ('x', current))
    graph = helper.make_graph(nodes, 'products', inputs, outputs, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid('', 17)], ir_version=8)


def _best_seconds(call: Callable[[], Any]) -> float:
    """Return the time of the fastest of several calls, after a call that is not counted."""
    call()
    return min(timeit.repeat(call, number=1, repeat=10))


def measure_machine(threads: int, side: int = 2048) -> Dict[str, Any]:
    """Measure how fast the machine can be.

    Args:
        threads: Number of CPU threads.
        side: Height and width of the matrices.

    Returns:
        ``gmacs_per_second``, billions of mult-adds of products of matrices by where they were computed, and
        ``gb_per_second``, GB read and written by a copy in memory.
    """
    a, b, c = (torch.randn(side, side) for _ in range(3))
    x, y = torch.zeros(2, side << 14)
    speeds = {'PyTorch, float32': side ** 3 / _best_seconds(lambda: torch.mm(a, b, out=c)) / 1e9}
    batch = np.random.default_rng(0).standard_normal((side, side), np.float32)
    for runtime, row in RUNTIMES.items():
        for precision in RUNTIME_PRECISIONS if row.is_installed else ():
            content = _matrix_products(side, precision == 'int8').SerializeToString()
            try:
                session = open_session(runtime, content, threads=threads, precision=precision)
            except SessionError:  # this runtime or processor does not have it
                continue
            seconds = _best_seconds(lambda session=session: session.run(batch))
            speeds[f'{row.title}, {precision}'] = _PRODUCTS * side ** 3 / seconds / 1e9
    return dict(gmacs_per_second=speeds, gb_per_second=2 * 4 * x.numel() / _best_seconds(lambda: y.copy_(x)) / 1e9)


def least_seconds(file: Path, machine: Dict[str, Any]) -> Dict[str, float]:
    """Return how long a float32 file must take at least on a machine.

    Each node reads its inputs and writes its output once. ReLUs and additions cost nothing, because ONNX Runtime fuses
    them with the node before.

    Returns:
        ``gmacs``, billions of mult-adds, and ``gb`` of memory traffic; ``sgemm_seconds`` and ``bandwidth_seconds``,
        what they take at the machine's peaks; and ``roofline_seconds``, the sum over all nodes of the larger of both.
    """
    graph = onnx.shape_inference.infer_shapes(onnx.load(file), strict_mode=True).graph
    shapes = {value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
              for value in (*graph.input, *graph.value_info, *graph.output)}
    shapes.update((tensor.name, list(tensor.dims)) for tensor in graph.initializer)
    peak = max(speed for name, speed in machine['gmacs_per_second'].items() if name.endswith('float32'))
    macs = moved = roofline = 0.
    for node in graph.node:
        if node.op_type in ('Relu', 'Add'):
            continue
        out = shapes[node.output[0]]
        weight = shapes[node.input[1]] if node.op_type in ('Conv', 'Gemm') else []
        gmacs = math.prod(out) * math.prod(weight[1:]) / 1e9 if weight else 0.
        gb = 4 * sum(math.prod(shapes[name]) for name in (*node.input, node.output[0]) if name) / 1e9
        macs, moved = macs + gmacs, moved + gb
        roofline += max(gmacs / peak, gb / machine['gb_per_second'])
    return dict(gmacs=macs, gb=moved, sgemm_seconds=macs / peak, bandwidth_seconds=moved / machine['gb_per_second'],
                roofline_seconds=roofline)

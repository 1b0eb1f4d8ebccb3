"""Nothing is computed twice or in vain, and activations stand where a kernel computes them at no cost."""
from typing import Any, Dict, Optional

from ..ir import Node, Size, rewrite

__all__ = ['drop_zeros', 'eliminate_common_subexpressions', 'push_relu_through_concat']


def drop_zeros(graph: Node, size: Optional[Size]) -> Node:
    """Leave out zeros in sums.

        x + conv by 0  →  x

    The operation `none` is lowered to such a convolution.
    """
    def rule(node: Node) -> Node:
        others = [x for x in node.inputs if not (x.op == 'conv' and not any(p.any() for p in x.params.values()))]
        return others[0] if node.op == 'add' and len(others) == 1 else node
    return rewrite(graph, rule)


def push_relu_through_concat(graph: Node, size: Optional[Size]) -> Node:
    """Apply a ReLU to the parts of a concatenation.

        concat(x, y) → relu  →  concat(relu(x), relu(y))

    Where a part is a convolution or a sum, runtimes compute its ReLU before they write the result to memory. Parts that
    have a ReLU already share it (see :func:`eliminate_common_subexpressions`).
    """
    def rule(node: Node) -> Node:
        if node.op == 'relu' and node.inputs[0].op == 'concat':
            return node.inputs[0].replace([part.then('relu') for part in node.inputs[0].inputs])
        return node
    return rewrite(graph, rule)


def eliminate_common_subexpressions(graph: Node, size: Optional[Size]) -> Node:
    """Compute the same operation on the same inputs once.

        f(x), f(x)   →  f(x), read twice
        relu → relu  →  relu

    Cells pool and activate the same state in several blocks.
    """
    known: Dict[Any, Node] = {}

    def rule(node: Node) -> Node:
        if node.op == 'relu' and node.inputs[0].op == 'relu':
            return node.inputs[0]
        key = (node.op, node.inputs, tuple((name, id(value)) for name, value in node.params.items()),
               tuple(node.attrs.items()))
        return known.setdefault(key, node)
    return rewrite(graph, rule)

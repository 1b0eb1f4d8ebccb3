"""The graph that networks are rewritten in: plain operations on feature maps.

The graph is its last node: a node holds its inputs. Nothing in it changes once made; a rewrite makes new nodes.
lower.py makes it from a network, to_torch.py runs it in PyTorch, to_onnx.py writes it as ONNX.
"""
from dataclasses import dataclass, field
from typing import Any, Callable, Dict, List, Tuple

import torch

__all__ = ['Node', 'Rule', 'ordered', 'rewrite', 'window', 'NO_PADDING', 'SAME']

SAME = 'same'  # padding that depends on the input's size, as TensorFlow's
NO_PADDING = (0, 0, 0, 0)


@dataclass(eq=False, frozen=True)
class Node:
    """An operation, of which there are these, by :attr:`op`; features are [B, C, H, W].

    input (attrs ``channels``); relu; add; concat (in depth); flatten (all but the batch);
    conv (params ``weight``, ``bias``; attrs ``stride``, ``dilation``, ``groups``, ``padding``);
    pointwise (``weight`` [out, in], ``bias``), a 1x1 convolution as a product of matrices;
    affine (``scale`` and ``shift`` of each channel, or one for all); scale_pixels (``factor`` [H, W]);
    avg_pool and max_pool (``kernel``, ``stride``, ``padding``, which neither sees);
    pad (``value``; ``padding``, for an operation of ``kernel`` and ``stride``);
    group_norm (``weight``, ``bias``; ``groups``, ``eps``), of layer norm and instance norm (which scales and shifts
    a single pixel only; ``any_size`` says that features may be one);
    global_pool (``kind``: avg or max), to [B, C, 1, 1]; linear (``weight``, ``bias``);
    check_size (``size``), which passes images of one height and width on.

    ``padding`` is of top, left, bottom and right, or SAME.
    """
    op: str
    inputs: Tuple['Node', ...] = ()
    params: Dict[str, torch.Tensor] = field(default_factory=dict)  # float64
    attrs: Dict[str, Any] = field(default_factory=dict)

    def replace(self, inputs: Tuple['Node', ...] = (), params: Dict[str, torch.Tensor] = {}, **attrs: Any) -> 'Node':  # noqa: B006
        """The same with other inputs, parameters or attributes."""
        return Node(self.op, tuple(inputs) or self.inputs, {**self.params, **params}, {**self.attrs, **attrs})

    @property
    def channels(self) -> int:
        """Of what it gives."""
        if 'bias' in self.params:
            return len(self.params['bias'])
        if self.op == 'input':
            return self.attrs['channels']
        return sum(x.channels for x in (self.inputs if self.op == 'concat' else self.inputs[:1]))

    @property
    def rank(self) -> int:
        """Of what it gives: 4, or 2 once flattened."""
        node = self
        while node.op not in ('input', 'flatten', 'linear'):
            node = node.inputs[0]
        return 4 if node.op == 'input' else 2

    @property
    def is_ungrouped_conv(self) -> bool:
        """Whether it is a convolution of one group."""
        return self.op == 'conv' and self.attrs['groups'] == 1


Rule = Callable[[Node], Node]  # a node whose inputs are rewritten, and what takes its place


def ordered(output: Node) -> List[Node]:
    """All nodes that `output` depends on, inputs before their readers, and itself."""
    order, stack = {}, [(output, False)]
    while stack:
        node, inputs_are_done = stack.pop()
        if node in order:
            continue
        if inputs_are_done:
            order[node] = True
        else:
            stack.append((node, True))
            stack.extend((x, False) for x in reversed(node.inputs))
    return list(order)


def rewrite(output: Node, rule: Rule) -> Node:
    """The graph with each node replaced by what `rule` makes of it, from the input on."""
    done: Dict[Node, Node] = {}
    for node in ordered(output):
        done[node] = rule(node.replace([done[x] for x in node.inputs]) if node.inputs else node)
    return done[output]


def window(node: Node) -> Tuple[Tuple[int, int], Tuple[int, int]]:
    """Pixels that an operation spans, and its stride."""
    if node.op == 'conv':
        kernel = node.params['weight'].shape[2:]
        return tuple(d * (k - 1) + 1 for d, k in zip(node.attrs['dilation'], kernel)), node.attrs['stride']
    return node.attrs['kernel'], node.attrs['stride']

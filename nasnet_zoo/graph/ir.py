"""The graph in which a network is rewritten: a node computes one feature map from those of its inputs.

A graph is represented by its last node, because each node holds its inputs. Nodes never change: a rewrite makes new
ones. `lower.py` makes a graph from a network, `passes.py` rewrites it, and `to_torch.py` and `to_onnx.py` write it.

Every operation is a row of :data:`KINDS`. A pass asks the row and does not guess from the name, so a new operation is a
new row here, and a new writer in each target that can run it.
"""
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple, Union

import torch

from ..checked import suggest

__all__ = ['KINDS', 'NO_PADDING', 'SAME', 'ChannelFlow', 'DilatedSame', 'Kind', 'Node', 'Rule', 'Size', 'check_kinds',
           'depthwise_conv', 'fixed_padding', 'ordered', 'rewrite', 'rewrite_sized', 'window']

SAME = 'same'  # TensorFlow's padding, which depends on the size of the input
NO_PADDING = (0, 0, 0, 0)
Size = Tuple[int, int]  # height and width


class DilatedSame(NamedTuple):
    """The padding of :func:`nasnet_zoo.network.dilation.pad_dilated`, with its `stride` and `dilation`."""
    stride: Size
    dilation: Size


class ChannelFlow(Enum):
    """How the output channels of an operation follow from its input channels."""
    SOURCE = 'there are no inputs; the attribute `channels` is their number'
    EACH = 'an output channel is computed from the same channel of each input, and from nothing else'
    JOINED = 'the channels of all inputs, one input after another'
    DENSE = 'an output channel is a weighted sum over all input channels: weight [out, in, ...] and bias [out]'
    MIXED = 'an output channel may depend on all input channels in any way; there are as many as rows in `weight`'


@dataclass(frozen=True)
class Kind:
    """A kind of operation: all that passes and writers may ask about it.

    Attributes:
        summary: What it computes.
        flow: How its channels follow from those of its inputs, or a function of the node that says so.
        params: The axes of each parameter, by the parameter's name. All parameters must be given. One whose first axis
            is ``out`` has an entry for each output channel.
        attrs: Names of its attributes, all of which must be given but those in `defaults`.
        defaults: Values of attributes that are left out.
        inputs: How many inputs it has; None for one or more.
        rank: Number of axes of its output: 4 for [B, C, H, W], 2 for [B, C]; None for that of its first input.
        input_rank: Number of axes that its inputs must have; None for any.
        makes_pixel: Whether its output is a single pixel, whatever the size of its input.
        needs_pixel: Whether its input must be a single pixel, whatever the size of the images.
        size: Height and width of its output, from the node and those of its input.
        is_homogeneous: Whether scaling each input channel by a positive number does no more than scale the same output
            channel by that number. It may say no where the answer depends on values of parameters.
        keeps_zeros: Whether a channel of zeros stays a channel of zeros, if the parameters of this channel are zeros
            too. It matters where the flow is ``EACH``.
    """
    summary: str
    flow: Union[ChannelFlow, Callable[['Node'], ChannelFlow]]
    params: Mapping[str, str] = field(default_factory=dict)
    attrs: Tuple[str, ...] = ()
    defaults: Mapping[str, Any] = field(default_factory=dict)
    inputs: Optional[int] = 1
    rank: Optional[int] = None
    input_rank: Optional[int] = 4
    makes_pixel: bool = False
    needs_pixel: bool = False
    size: Callable[['Node', Size], Size] = lambda node, size: size
    is_homogeneous: Callable[['Node'], bool] = lambda node: False
    keeps_zeros: Callable[['Node'], bool] = lambda node: True

    @property
    def params_per_channel(self) -> List[str]:
        """Names of the parameters that have an entry for each output channel."""
        return [name for name, axes in self.params.items() if axes.split()[0] == 'out']


@dataclass(eq=False, frozen=True, repr=False)
class Node:
    """An operation of a graph.

    Attributes:
        op: Its kind, a name in :data:`KINDS`.
        inputs: The nodes whose results it reads.
        params: Tensors in float64, by name.
        attrs: Whatever else its kind needs, by name; hashable.
        channels: Number of channels of its result.
        rank: Number of axes of its result: 4 for [B, C, H, W], 2 for [B, C].
        is_pixel: Whether its result is a single pixel, whatever the size of the images. Features [B, C] count as one.

    Raises:
        ValueError: For an unknown kind, and for inputs, parameters or attributes that its kind does not have.
        TypeError: For an input that is not a node.
    """
    op: str
    inputs: Tuple['Node', ...] = ()
    params: Dict[str, torch.Tensor] = field(default_factory=dict)
    attrs: Dict[str, Any] = field(default_factory=dict)
    channels: int = field(init=False)
    rank: int = field(init=False)
    is_pixel: bool = field(init=False)

    def __post_init__(self) -> None:
        if self.op not in KINDS:
            raise ValueError(f'graph: unknown operation {self.op!r}; {suggest(self.op, KINDS)}')
        kind = self.kind
        object.__setattr__(self, 'attrs', {**kind.defaults, **self.attrs})
        for x in self.inputs:
            if not isinstance(x, Node):
                raise TypeError(f'{self.op}: its inputs must be nodes of the graph, not a {type(x).__name__}')
        if not self.inputs if kind.inputs is None else len(self.inputs) != kind.inputs:
            raise ValueError(f'{self.op}: takes {"at least 1" if kind.inputs is None else kind.inputs} inputs, not '
                             f'{len(self.inputs)}')
        for what, expected, given in (('parameters', kind.params, self.params), ('attributes', kind.attrs, self.attrs)):
            if set(expected) != set(given):
                raise ValueError(f'{self.op}: its {what} are {_listed(expected)}; given were {_listed(given)}')
        object.__setattr__(self, 'channels', self._count_channels())
        object.__setattr__(self, 'rank', kind.rank or self.inputs[0].rank)
        object.__setattr__(self, 'is_pixel', kind.makes_pixel or bool(self.inputs) and all(
            x.is_pixel for x in self.inputs) and kind.size(self, (1, 1)) == (1, 1))

    def __repr__(self) -> str:  # without what it depends on, which would be repeated for each way that leads there
        return f'Node({self.op!r}, channels={self.channels}, rank={self.rank})'

    def _count_channels(self) -> int:
        flow = self.flow
        if flow is ChannelFlow.SOURCE:
            return self.attrs['channels']
        if flow is ChannelFlow.EACH:
            return self.inputs[0].channels
        if flow is ChannelFlow.JOINED:
            return sum(x.channels for x in self.inputs)
        return len(self.params['weight'])

    def check_shapes(self) -> None:
        """Check that the inputs have the shapes that the operation takes, and that the parameters fit them.

        A new node need not pass: a pass may first replace its inputs, and then its parameters.

        Raises:
            ValueError: If they do not.
        """
        kind = self.kind
        for x in self.inputs:
            if kind.input_rank not in (None, x.rank):
                raise ValueError(f'{self.op}: its input must have {kind.input_rank} axes, not {x.rank}')
            if kind.needs_pixel and not x.is_pixel:
                raise ValueError(f'{self.op}: its input must be a single pixel, such as the result of a global pool')
            if (x.rank, x.is_pixel) != (self.inputs[0].rank, self.inputs[0].is_pixel) or (
                    self.flow is ChannelFlow.EACH and x.channels != self.channels):
                raise ValueError(f'{self.op}: its inputs must have the same shape')
        channels, groups = self.inputs[0].channels if self.inputs else 0, self.attrs.get('groups', 1)
        sizes = {'out': self.channels, 'in': channels, 'in/groups': channels / groups}
        for name, axes in kind.params.items():
            shape, expected = list(self.params[name].shape), [sizes.get(axis) for axis in axes.split()]
            if len(shape) != len(expected) or any(m not in (None, n) for n, m in zip(shape, expected)):
                raise ValueError(f'{self.op}: its {name} [{axes}] has the shape {shape}, which does not fit '
                                 f'{channels} channels of input and {self.channels} of output')

    @property
    def kind(self) -> Kind:
        """The row of its operation."""
        return KINDS[self.op]

    @property
    def flow(self) -> ChannelFlow:
        """How its channels follow from those of its inputs."""
        flow = self.kind.flow
        return flow if isinstance(flow, ChannelFlow) else flow(self)

    @property
    def is_ungrouped_conv(self) -> bool:
        """Whether it is a convolution in one group, every output channel of which reads every input channel."""
        return self.op == 'conv' and self.flow is ChannelFlow.DENSE

    @property
    def is_depthwise_conv(self) -> bool:
        """Whether it is a convolution of each channel by itself."""
        return self.op == 'conv' and self.flow is ChannelFlow.EACH

    def replace(self, inputs: Sequence['Node'] = (), params: Mapping[str, torch.Tensor] = {}, **attrs: Any) -> 'Node':
        """The same operation with other inputs, parameters or attributes; what is not given stays."""
        return Node(self.op, tuple(inputs) or self.inputs, {**self.params, **params}, {**self.attrs, **attrs})

    def then(self, op: str, params: Mapping[str, torch.Tensor] = {}, **attrs: Any) -> 'Node':
        """A new operation whose only input is this node: ``x.then('affine', dict(scale=…, shift=…))``."""
        return Node(op, (self,), dict(params), attrs)


def _listed(names: Sequence[str]) -> str:
    return ', '.join(names) or 'none'


def window(node: Node) -> Tuple[Size, Size]:
    """How many pixels a convolution or pool sees at a time, [height, width], and its stride."""
    kernel = node.params['weight'].shape[2:] if node.op == 'conv' else node.attrs['kernel']
    dilation = node.attrs.get('dilation', (1, 1))
    return tuple(d * (k - 1) + 1 for d, k in zip(dilation, kernel)), node.attrs['stride']


def fixed_padding(node: Node, size: Size) -> Tuple[int, int, int, int]:
    """Padding at the top, left, bottom and right of an input of this height and width."""
    padding = node.attrs['padding']
    if isinstance(padding, DilatedSame):
        sides = [(d * ((k - s + -(-n // d) % s) // 2), d * (k - 1))
                 for n, k, s, d in zip(size, node.attrs['kernel'], *padding)]
        return sides[0][0], sides[1][0], sides[0][1] - sides[0][0], sides[1][1] - sides[1][0]
    if padding != SAME:
        return padding
    rows, columns = (k - s + n % s for n, k, s in zip(size, *window(node)))
    return rows // 2, columns // 2, rows - rows // 2, columns - columns // 2


def _padded_size(node: Node, size: Size) -> Size:
    top, left, bottom, right = fixed_padding(node, size)
    return size[0] + top + bottom, size[1] + left + right


def _window_size(node: Node, size: Size) -> Size:
    return tuple((n - k) // s + 1 for n, k, s in zip(_padded_size(node, size), *window(node)))


def _conv_flow(node: Node) -> ChannelFlow:
    rows, columns = node.params['weight'].shape[:2]
    if node.attrs['groups'] == 1:
        return ChannelFlow.DENSE
    return ChannelFlow.EACH if node.attrs['groups'] == rows and columns == 1 else ChannelFlow.MIXED


def _group_norm_flow(node: Node) -> ChannelFlow:
    return ChannelFlow.EACH if node.attrs['groups'] == len(node.params['weight']) else ChannelFlow.MIXED


def _always(node: Node) -> bool:
    return True


def _pads_with_zeros(node: Node) -> bool:
    return node.attrs['value'] == 0


# `padding` is (top, left, bottom, right), SAME, or for pools and `pad` also a DilatedSame. `stride`, `dilation` and
# `kernel` are (height, width).
_POOL, _NOT_DILATED = ('kernel', 'stride', 'padding', 'dilation'), dict(dilation=(1, 1))
KINDS: Dict[str, Kind] = {
    'input': Kind('the images', ChannelFlow.SOURCE, attrs=('channels',), inputs=0, rank=4),
    'check_size': Kind(
        'images as they are, if their height and width are `size`; an error for all others', ChannelFlow.EACH,
        attrs=('size',), is_homogeneous=_always),
    'relu': Kind('max(x, 0)', ChannelFlow.EACH, input_rank=None, is_homogeneous=_always),
    'add': Kind('the sum of two feature maps of one shape', ChannelFlow.EACH, inputs=2, input_rank=None),
    'concat': Kind('feature maps side by side in depth', ChannelFlow.JOINED, inputs=None, input_rank=None),
    'conv': Kind(
        'a convolution', _conv_flow, dict(weight='out in/groups height width', bias='out'),
        ('stride', 'dilation', 'groups', 'padding'), size=_window_size),
    'pointwise': Kind(
        'a 1x1 convolution with stride 1, computed as a product of matrices', ChannelFlow.DENSE,
        dict(weight='out in', bias='out')),
    'affine': Kind('x * scale + shift', ChannelFlow.EACH, dict(scale='out', shift='out'), input_rank=None),
    'scale_pixels': Kind(
        'x * factor, the same for all channels', ChannelFlow.EACH, dict(factor='height width'), is_homogeneous=_always),
    'avg_pool': Kind(
        'the mean over a window, in which padding does not count', ChannelFlow.EACH, attrs=_POOL,
        defaults=_NOT_DILATED, size=_window_size, is_homogeneous=_always),
    'max_pool': Kind(
        'the maximum over a window, in which padding does not count', ChannelFlow.EACH, attrs=_POOL,
        defaults=_NOT_DILATED, size=_window_size, is_homogeneous=_always),
    'pad': Kind(
        'a border of `value`; where `padding` is SAME, as wide as a window of `kernel` and `stride` needs it',
        ChannelFlow.EACH, attrs=('value', 'padding', 'kernel', 'stride'), size=_padded_size,
        is_homogeneous=_pads_with_zeros, keeps_zeros=_pads_with_zeros),
    'group_norm': Kind(
        'a layer norm (1 group), instance norm (a group for each channel) or group norm, with the statistics of every '
        '`dilation`-th pixel; a group of a single number is only scaled and shifted, and `any_size` says whether this '
        'may happen', _group_norm_flow, dict(weight='out', bias='out'),
        ('groups', 'eps', 'any_size', 'dilation'), _NOT_DILATED),
    'global_pool': Kind(
        "[B, C, H, W] to [B, C, 1, 1]: the mean (`mode` 'avg') or the maximum ('max')", ChannelFlow.EACH,
        attrs=('mode',), makes_pixel=True, size=lambda node, size: (1, 1), is_homogeneous=_always),
    'flatten': Kind('[B, C, 1, 1] to [B, C]', ChannelFlow.EACH, rank=2, needs_pixel=True, is_homogeneous=_always),
    'linear': Kind(
        'a linear layer on [B, C]', ChannelFlow.DENSE, dict(weight='out in', bias='out'), rank=2, input_rank=2),
}


def depthwise_conv(
        x: Node, kernel: Sequence[Sequence[float]], stride: Size, padding: Any, dilation: Size = (1, 1)) -> Node:
    """The convolution of each channel by the same kernel [height][width]."""
    weight = torch.tensor(kernel, dtype=torch.float64).repeat(x.channels, 1, 1, 1)
    return x.then('conv', dict(weight=weight, bias=weight.new_zeros(x.channels)),
                  stride=stride, dilation=dilation, groups=x.channels, padding=padding)


Rule = Callable[[Node], Node]  # from a node whose inputs are rewritten already to what takes its place


def ordered(output: Node) -> List[Node]:
    """All nodes that `output` depends on, and `output` itself; inputs come before the nodes that read them."""
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
    """The graph in which each node, from the input on, is replaced by what `rule` makes of it."""
    done: Dict[Node, Node] = {}
    for node in ordered(output):
        done[node] = rule(node.replace([done[x] for x in node.inputs]) if node.inputs else node)
    return done[output]


def rewrite_sized(output: Node, size: Optional[Size], rule: Callable[[Node, Size], Node]) -> Node:
    """The graph rewritten by a rule that also takes the height and width of the node's input.

    What takes a node's place must have the same height and width as the node. Where the `size` of the images is not
    known, the graph stays as it is.
    """
    if size is None:
        return output
    sizes: Dict[Node, Size] = {}

    def sized_rule(node: Node) -> Node:
        size_before = sizes[node.inputs[0]] if node.inputs else size
        new = rule(node, size_before)
        sizes[new] = node.kind.size(node, size_before)
        return new
    return rewrite(output, sized_rule)


def check_kinds(graph: Node, writers: Mapping[str, Any], target: str) -> None:
    """Raise ValueError if the graph has an operation for which a target has no writer."""
    missing = sorted({node.op for node in ordered(graph)} - set(writers))
    if missing:
        raise ValueError(f'graph: {target} has no writer for {", ".join(missing)}')

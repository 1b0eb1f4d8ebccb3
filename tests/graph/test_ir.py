"""The table of the kinds of operation, and nodes that it refuses."""
import pytest
import torch

from nasnet_zoo.graph.ir import KINDS, NO_PADDING, SAME, ChannelFlow, Node, ordered, rewrite, rewrite_sized
from nasnet_zoo.graph.to_torch import to_module

CHANNELS, SIZE = 6, (7, 10)


def rand(*shape):
    return torch.rand(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 0.5


def source(channels=CHANNELS):
    return Node('input', attrs=dict(channels=channels))


def pool(**padding):
    return dict(kernel=(3, 2), stride=(2, 1), **padding)


def conv(groups, out=CHANNELS, **attrs):
    params = dict(weight=rand(out, CHANNELS // groups, 3, 3), bias=rand(out))
    return 'conv', params, {**dict(stride=(2, 1), dilation=(1, 1), groups=groups, padding=(1, 0, 1, 0)), **attrs}


def norm(groups):
    return 'group_norm', dict(weight=rand(CHANNELS), bias=rand(CHANNELS)), dict(groups=groups, eps=1e-5, any_size=True)


# At least one node of each kind: op, params, attrs
NODES = [
    ('check_size', {}, dict(size=SIZE)), ('relu', {}, {}), ('add', {}, {}), ('concat', {}, {}),
    conv(1, 4), conv(2), conv(CHANNELS), conv(1, 8, padding=NO_PADDING, dilation=(2, 1)), conv(1, padding=SAME),
    ('pointwise', dict(weight=rand(5, CHANNELS), bias=rand(5)), {}),
    ('affine', dict(scale=rand(CHANNELS), shift=rand(CHANNELS)), {}), ('scale_pixels', dict(factor=rand(*SIZE)), {}),
    ('avg_pool', {}, pool(padding=(1, 0, 1, 0))), ('avg_pool', {}, pool(padding=SAME)),
    ('max_pool', {}, pool(padding=(1, 0, 1, 0))), ('max_pool', {}, pool(padding=SAME)),
    ('pad', {}, pool(value=0., padding=(0, 1, 2, 3))), ('pad', {}, pool(value=1., padding=SAME)),
    norm(1), norm(2), norm(CHANNELS), ('global_pool', {}, dict(mode='avg')), ('global_pool', {}, dict(mode='max')),
]


def build(op, params, attrs):
    inputs = KINDS[op].inputs or 2
    return Node(op, (source(),) * inputs, params, attrs)


def compute(node, x):
    return to_module(node, torch.device('cpu'), torch.float64)(x)


def test_all_kinds_are_looked_at():
    assert {op for op, _, _ in NODES} == set(KINDS) - {'input', 'flatten', 'linear'}


@pytest.mark.parametrize('op, params, attrs', NODES)
def test_what_the_table_says_is_so(op, params, attrs):
    node, x = build(op, params, attrs), torch.randn(2, CHANNELS, *SIZE, dtype=torch.float64)
    y = compute(node, x)
    assert (y.shape[1], y.ndim, tuple(y.shape[2:])) == (node.channels, node.rank, node.kind.size(node, SIZE))
    if node.kind.is_homogeneous(node):
        assert len(node.inputs) == 1
        scale = rand(CHANNELS)[:, None, None]
        torch.testing.assert_close(compute(node, x * scale), y * scale)
    if node.flow is ChannelFlow.EACH:
        changed = x.clone()
        changed[:, 0] += 1 + x[:, 0] ** 2  # no other channel notices
        assert torch.equal(compute(node, changed)[:, 1:], y[:, 1:])
        x[:, 2] = 0
        params = {name: value.index_fill(0, torch.tensor([2]), 0.) if name in node.kind.params_per_channel else value
                  for name, value in params.items()}
        assert node.kind.keeps_zeros(node) == (not compute(build(op, params, attrs), x)[:, 2].any())
    if node.flow is ChannelFlow.DENSE:
        zero = compute(node, 0 * x)
        torch.testing.assert_close(compute(node, 2 * x) - zero, 2 * (y - zero))


def test_flat_features():
    flat = source().then('global_pool', mode='avg').then('flatten')
    assert (flat.rank, flat.channels) == (2, CHANNELS)
    logits = flat.then('linear', dict(weight=rand(3, CHANNELS), bias=rand(3)))
    assert (logits.rank, logits.channels) == (2, 3)
    assert compute(logits, torch.randn(2, CHANNELS, *SIZE, dtype=torch.float64)).shape == (2, 3)


@pytest.mark.parametrize('make, error, message', [
    (lambda: Node('swish', (source(),)), ValueError, "unknown operation 'swish'; known: input, "),
    (lambda: Node('max_pol', (source(),)), ValueError, r"unknown operation 'max_pol'; did you mean 'max_pool'\?"),
    (lambda: Node('add', (source(), 1.)), TypeError, 'add: its inputs must be nodes of the graph, not a float'),
    (lambda: Node('add', (source(),)), ValueError, 'add: takes 2 inputs, not 1'),
    (lambda: Node('concat'), ValueError, 'concat: takes at least 1 inputs, not 0'),
    (lambda: source().then('affine', dict(scale=rand(6))), ValueError,
     'affine: its parameters are scale, shift; given were scale'),
    (lambda: source().then('relu', slope=0.1), ValueError, 'relu: its attributes are none; given were slope'),
])
def test_what_is_no_node(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_order_and_rewrite():
    x = source()
    y = Node('concat', (x.then('relu'), x))
    assert [node.op for node in ordered(y)] == ['input', 'relu', 'concat']
    without = rewrite(y, lambda node: node.inputs[0] if node.op == 'relu' else node)
    assert without.inputs[0] is without.inputs[1] and y.inputs[0].op == 'relu'
    sizes = []
    rewrite_sized(x.then('max_pool', **pool(padding=NO_PADDING)).then('relu'), SIZE,
                  lambda node, size: sizes.append(size) or node)
    assert sizes == [(7, 10), (7, 10), (3, 9)]
    assert rewrite_sized(y, None, lambda node, size: 1 / 0) is y

"""Whatever the genotype, the passes and the target: the result is what the network computes."""
import onnxruntime
import pytest
import torch
from hypothesis import Phase, example, find, given, settings
from hypothesis import strategies as st

from helpers.networks import difference, small
from helpers.strategies import genotypes
from nasnet_zoo.genotype.operations import COMBINE_NAMES, OP_NAMES
from nasnet_zoo.graph.ir import NO_PADDING, SAME, Node, ordered
from nasnet_zoo.graph.lower import lower
from nasnet_zoo.graph.passes import PASSES, apply_passes
from nasnet_zoo.graph.targets import ONNX_TARGETS, TARGETS
from nasnet_zoo.graph.to_onnx import to_onnx
from nasnet_zoo.graph.to_torch import to_module

pytestmark = pytest.mark.filterwarnings('ignore::nasnet_zoo.genotype.schema.GenotypeWarning')  # dead blocks


def cell_of_everything(combines):
    """A cell that has each operation once and reads its inputs only, so that a reduction strides in each operation."""
    edges = [[op, f'h{i % 2}'] for i, op in enumerate(OP_NAMES)]
    blocks = [dict(left=left, right=right, combine=combines[i % len(combines)])
              for i, (left, right) in enumerate(zip(edges, edges[1:] + edges[:1]))]
    return dict(blocks=blocks, outputs=[[f'b{i}' for i in range(len(blocks))], ['b0', 'h0']])


def everything(combines):
    cell = cell_of_everything(combines)
    return dict(format=1, name='everything', inputs=2, fit='changed', normal=cell, reduction=cell)


@st.composite
def cases(draw):
    """A genotype, arguments of the network, height and width of the images, and which passes may know them."""
    stem, plain_stride = draw(st.sampled_from([('cifar', 4), ('imagenet', 32)]))
    kwargs = dict(stem=stem, pool_padding=draw(st.sampled_from(['tf', 'timm', 'keras'])),
                  output_stride=plain_stride // draw(st.sampled_from([1, 2, 4])))
    return draw(genotypes()), kwargs, (draw(st.integers(8, 17)), draw(st.integers(8, 17))), draw(st.integers(0, 1))


CIFAR = dict(stem='cifar', pool_padding='tf')
EXAMPLES = [(everything(['add', 'concat']), CIFAR, (9, 12), 0),
            (everything(list(COMBINE_NAMES)), dict(CIFAR, output_stride=1), (12, 9), 1)]


def runs(targets, size, parity):
    """(target, passes, size) for each pass alone, for all that the targets can write, and for each target's own, also
    for int8.

    All targets can write the same. A pass alone knows the size of the images in every other case.
    """
    names = [name for name, pass_ in PASSES.items() if set(pass_.makes) <= TARGETS[targets[0]].kinds]
    for i, name in enumerate(names):
        yield targets[0], [name], size if i % 2 == parity else None
    for known_size in (size, None):
        yield targets[0], names, known_size
        for target in targets:
            for row in filter(None, (TARGETS[target], TARGETS[target].int8)):
                yield target, row.passes, known_size


def kinds(graph):
    return {node.op for node in ordered(graph)}


def check_pytorch(case):
    data, kwargs, size, parity = case
    model = small(data, cell_filters=4, num_classes=3, **kwargs).double()
    graph, x = lower(model), torch.randn(2, 3, *size, dtype=torch.float64)
    with torch.inference_mode():
        expected = model(x)
        for target, passes, known_size in runs(['torch_cpu', 'torch_gpu'], size, parity):
            rewritten = apply_passes(graph, target, known_size, passes)
            makes = [kind for name in passes for kind in PASSES[name].makes]
            assert kinds(rewritten) <= kinds(graph).union(makes), (target, passes)
            module = to_module(rewritten, torch.device('cpu'), torch.float64)
            assert difference(module(x), expected) < 1e-9, (target, passes, known_size)


def check_onnx_runtime(case):
    data, kwargs, size, parity = case
    model = small(data, cell_filters=4, num_classes=3, **kwargs)
    graph, x = lower(model), torch.randn(2, 3, *size)
    with torch.inference_mode():
        expected = model.double()(x.double())
    # Each norm of few pixels amplifies float32's rounding, by up to 1 / sqrt(eps) = 316.
    tolerance = 1e-3 if 'group_norm' in kinds(graph) else 1e-5
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    for target, passes, known_size in runs(list(ONNX_TARGETS), size, parity):
        rewritten = apply_passes(graph, target, known_size, passes)
        proto = to_onnx(rewritten, [2, 3, *(known_size or ['height', 'width'])])
        session = onnxruntime.InferenceSession(proto.SerializeToString(), options, ['CPUExecutionProvider'])
        (result,) = session.run(None, {'image': x.numpy()})
        assert difference(torch.from_numpy(result), expected) < tolerance, (target, passes, known_size)


@example(EXAMPLES[0])
@example(EXAMPLES[1])
@settings(max_examples=4, deadline=None)
@given(cases())
def test_pytorch(case):
    check_pytorch(case)


def test_zeros_around_a_max_pool_count():
    # ONNX Runtime's optimizer merges such padding into the pool, where it would not count.
    graph = Node('input', attrs=dict(channels=1)).then('pad', value=0., padding=SAME, kernel=(3, 3), stride=(2, 2))
    graph = graph.then('max_pool', kernel=(3, 3), stride=(2, 2), padding=NO_PADDING)
    for size in ([4, 4], ['height', 'width']):
        for passes in ([], ['fix_padding']):
            proto = to_onnx(apply_passes(graph, 'onnxruntime', (4, 4), passes), [1, 1, *size])
            session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=['CPUExecutionProvider'])
            (result,) = session.run(None, {'image': -torch.ones(1, 1, 4, 4).numpy()})
            assert result[0, 0].tolist() == [[-1, 0], [0, 0]]


@pytest.mark.slow
@example(EXAMPLES[0])
@example(EXAMPLES[1])
@settings(max_examples=10, deadline=None)
@given(cases())
def test_onnx_runtime(case):
    check_onnx_runtime(case)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize('check', [check_pytorch, check_onnx_runtime])
def test_many_genotypes(check):
    @settings(max_examples=500, deadline=None)
    @given(cases())
    def run(case):
        check(case)
    run()


def has(kind, name):
    """Whether a genotype has an operation or a combine in a reduction cell."""
    def found(data):
        blocks = data['reduction']['blocks']
        return name in ([block['combine'] for block in blocks] if kind == 'combine' else
                        [block[side][0] for block in blocks for side in ('left', 'right')])
    return found


@pytest.mark.parametrize('wanted', [
    *(pytest.param(has('operation', name), id=name) for name in OP_NAMES),
    *(pytest.param(has('combine', name), id=name) for name in COMBINE_NAMES),
    pytest.param(lambda data: data['inputs'] > 2, id='more than two inputs')])
def test_the_strategy_draws(wanted):
    find(genotypes(), wanted, settings=settings(max_examples=2000, database=None, phases=[Phase.generate]))

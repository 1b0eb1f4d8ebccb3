"""Operations and combines of one's own: one row each, and the whole package knows them."""
import re

import onnxruntime
import pytest
import torch
from torch import nn

from helpers.networks import difference, trained
from helpers.paths import ROOT
from nasnet_zoo import (
    GenotypeError,
    compile_genotype,
    describe,
    draw,
    export_onnx,
    load_genotype,
    optimize_for_inference,
)
from nasnet_zoo.description import cell_lines
from nasnet_zoo.drawing import lay_out
from nasnet_zoo.genotype.operations import (
    COMBINES,
    OPERATIONS,
    Combine,
    Operation,
    When,
    register_combine,
    register_operation,
)
from nasnet_zoo.graph.ir import Node
from nasnet_zoo.network.plan import plan_network
from nasnet_zoo.network.skeleton import Skeleton


@pytest.fixture(autouse=True)
def tables_as_they_were():
    before = dict(OPERATIONS), dict(COMBINES)
    yield
    for table, rows in zip((OPERATIONS, COMBINES), before):
        table.clear()
        table.update(rows)


def genotype(left='sep_conv_3x3', right='identity', combine='add'):
    cell = dict(blocks=[dict(left=[left, 'h0'], right=[right, 'h1'], combine=combine)], outputs=[['b0']])
    return load_genotype(dict(format=1, name='own', normal=cell, reduction=cell))


def network(own):
    torch.manual_seed(0)
    return trained(compile_genotype(own, num_cells=1, cell_filters=4, stem='cifar', num_classes=3))


IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def check_inference(model, tmp_path):
    """The optimised network and the exported file compute the same as the network."""
    with torch.no_grad():
        expected = model(IMAGES)
        assert difference(optimize_for_inference(model)(IMAGES), expected) < 1e-4
    path = tmp_path / 'own.onnx'
    export_onnx(model, path, batch_size=2, pictures=None)
    session = onnxruntime.InferenceSession(path, providers=['CPUExecutionProvider'])
    assert session.get_inputs()[0].shape[-2:] == [32, 32]  # export_onnx has compared the results with the network's


def test_the_example_in_the_documentation(tmp_path):
    page = (ROOT / 'docs' / 'architecture.md').read_text(encoding='utf-8')
    code = page.split('## Adding an operation')[1].split('```python\n')[1].split('```')[0]
    with pytest.raises(GenotypeError, match='unknown operation'):
        genotype('plain_conv_5x5')
    exec(compile(code, 'docs/architecture.md', 'exec'), {})
    own = genotype('plain_conv_5x5')
    model = network(own)
    assert model.cells[0].blocks['0'].left[0].kernel_size == (5, 5)
    assert describe(own, num_cells=1, cell_filters=4, stem='cifar', num_classes=3)['params'] == sum(
        p.numel() for p in model.parameters())
    assert own.architecture_digest != genotype().architecture_digest
    assert own.architecture_digest == load_genotype({**own.to_dict(), 'name': 'other'}).architecture_digest
    pytest.importorskip('matplotlib')
    draw(own, tmp_path / 'own.svg')
    assert lay_out(own.normal).boxes['b0.left'].label == 'plain\n5x5'
    check_inference(model, tmp_path)


class Scale(nn.Module):
    """A layer that the package does not know: a factor for each channel."""

    def __init__(self, channels):
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(0.5, 2, channels))

    def forward(self, x):
        return x * self.weight.view(1, -1, 1, 1)

    def lower(self, x):
        scale = self.weight.detach().double()
        return Node('affine', (x,), dict(scale=scale, shift=0 * scale))


class Subtract(nn.Module):
    def forward(self, left, right):
        return left - right

    def lower(self, left, right):
        minus = torch.full((right.channels,), -1., dtype=torch.float64)
        return Node('add', (left, Node('affine', (right,), dict(scale=minus, shift=0 * minus))))


def test_a_layer_of_ones_own_says_how_it_is_lowered(tmp_path):
    register_operation(Operation(
        'scale', lambda in_chs, out_chs, stride, args: nn.Sequential(
            Scale(in_chs), args.conv(in_chs, out_chs, 1, stride=stride)), 'scale', 'conv', pre_activation=When.NEVER))
    check_inference(network(genotype('scale')), tmp_path)


def test_a_combine_whose_operands_have_an_order(tmp_path):
    register_combine(Combine('subtract', lambda channels, args: Subtract(), '{left} - {right}', 'subtract',
                             is_symmetric=False, is_symmetric_up_to_channels=False))
    ops = 'sep_conv_3x3', 'identity'
    one, other = genotype(*ops, combine='subtract'), genotype(*ops, combine='subtract').to_dict()
    for kind in ('normal', 'reduction'):
        block = other[kind]['blocks'][0]
        block['left'], block['right'] = block['right'], block['left']
    other = load_genotype(other)
    assert one.architecture_digest != other.architecture_digest
    assert cell_lines(one.normal)[0] == 'b0 = sep_conv_3x3(h0) - identity(h1)'
    for cell in (one.normal, other.normal):
        boxes = lay_out(cell).boxes
        assert boxes['b0.left'].x < boxes['b0.right'].x
    check_inference(network(one), tmp_path)


@pytest.mark.parametrize('changes, message', [
    (dict(name='identity'), "name: 'identity' is registered already"),
    (dict(name='Not a word'), 'name: must consist of lower-case letters'),
    (dict(family='colourful'), 'family: must be one of sep, conv, pool')])
def test_rows_that_are_refused(changes, message):
    row = dict(name='own', build=nn.Identity, label='own', family='conv') | changes
    with pytest.raises(ValueError, match=re.escape(message)):
        register_operation(Operation(**row))
    assert 'own' not in OPERATIONS


def test_conditions_on_shapes():
    holds = {when: [when.holds(*shape) for shape in ((4, 4, 1), (4, 4, 2), (4, 8, 1), (4, 8, 2))] for when in When}
    assert holds == {
        When.NEVER: [False] * 4, When.ALWAYS: [True] * 4, When.WIDTH_CHANGES: [False, False, True, True],
        When.SHAPE_CHANGES: [False, True, True, True]}


def test_a_row_decides_what_the_plan_says():
    """A pool is computed once for two readers in each cell whose width does not change, and never rectified."""
    own = genotype('avg_pool_3x3', 'avg_pool_3x3').to_dict()
    for kind in ('normal', 'reduction'):
        own[kind]['blocks'][0]['right'][1] = 'h0'
    plan = plan_network(load_genotype(own), Skeleton(stem='cifar', num_cells=1))
    for cell in plan.cells:
        block, = cell.blocks
        assert block.left.cache_slot == block.right.source and block.right.op is None
        assert block.left.uses_drop_path and block.right.uses_drop_path
        assert not block.left.reads_rectified and not cell.inputs[0].is_rectified

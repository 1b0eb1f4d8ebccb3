"""Search spaces: decisions to genotypes and back."""
import random

import pytest

from nasnet_zoo import compile_genotype, load_genotype
from nasnet_zoo.search.importer import ImportedTextError, import_genotype
from nasnet_zoo.search.space import DARTS_OPS, PAPER_OPS, Decision, Space, SpaceError, darts_space, nasnet_space

WITH_NORMS = ('add', 'concat', 'add_layer_norm', 'add_instance_norm')
ALL = [nasnet_space(), nasnet_space(4, combines=WITH_NORMS), nasnet_space(2, ('identity', 'conv_1x1'), ('add',)),
       darts_space(), darts_space(2, DARTS_OPS[:3])]


def draws(space, count=20):
    rng = random.Random(space.name)
    return [tuple(rng.randrange(size) for size in space.sizes) for _ in range(count)]


@pytest.mark.parametrize('space', ALL, ids=lambda space: f'{space.name} {len(space.decisions)}')
def test_tokens_to_genotype_and_back(space):
    for tokens in draws(space):
        genotype = space.genotype(tokens, 'child', search={'seed': 1})
        assert genotype.name == 'child' and genotype.search == {'seed': 1}
        assert space.find(load_genotype(genotype.to_dict())) == tokens
        assert space.tokens(space.choices(tokens)) == tokens
        for cell in genotype.cells.values():
            assert len(cell.live - {'h0', 'h1'}) == len(cell.blocks), 'no block is for nothing'
    compile_genotype(genotype, num_cells=1, cell_filters=2, stem='cifar', num_classes=3)


def test_sizes_are_the_papers():
    """2 x 5 B decisions: two states, two operations and how to combine them, a block."""
    space = nasnet_space()
    assert len(space.decisions) == 2 * 5 * 5 and len(PAPER_OPS) == 13
    assert space.sizes[:10] == (2, 2, 13, 13, 2, 3, 3, 13, 13, 2)
    assert darts_space().sizes[:11] == (7, 7, 3, 7, 7, 6, 7, 7, 10, 7, 7), 'the first node has no choice of states'


def test_outputs_are_the_blocks_that_nothing_reads():
    space = nasnet_space(3)
    choices = space.choices([0] * len(space.decisions))
    choices.update({'normal.b1.left_state': 'b0', 'normal.b1.right_state': 'h1'})
    genotype = space.genotype(space.tokens(choices))
    assert genotype.normal.outputs == (('b1', 'b2'),) and genotype.reduction.outputs == (('b0', 'b1', 'b2'),)


def test_published_cells_are_in_their_spaces():
    tokens = nasnet_space().find(load_genotype('nasnet_a'))
    found = nasnet_space().genotype(tokens)
    assert found.normal.blocks == load_genotype('nasnet_a').normal.blocks
    assert found.normal.outputs[0] == ('b0', 'b1', 'b2', 'b3', 'b4'), 'without h1, which the paper adds'
    with pytest.raises(SpaceError, match='nasnet_b: inputs: 4, nasnet-5 has 2'):
        nasnet_space().find(load_genotype('nasnet_b'))
    with pytest.raises(SpaceError, match='normal: has 4 blocks and hands on 1; in nasnet-5 it is 5 and 1'):
        nasnet_space().find(load_genotype('nasnet_c'))
    with pytest.raises(SpaceError, match="nasnet_c: normal.blocks.1.: combine 'add_instance_norm' is not in nasnet-4"):
        nasnet_space(4).find(load_genotype('nasnet_c'))
    assert nasnet_space(4, combines=WITH_NORMS).find(load_genotype('nasnet_c'))


def test_fingerprints_tell_spaces_apart():
    assert len({space.fingerprint for space in ALL}) == len(ALL)
    assert nasnet_space().fingerprint == nasnet_space().fingerprint


def test_a_space_of_ones_own():
    """The example in the docstring."""
    ops = ('sep_conv_3x3', 'max_pool_3x3')
    space = Space('pairs', [Decision('left', ops), ('right', ops)], build=lambda choices: dict(
        inputs=1, normal=(cell := dict(
            blocks=[dict(left=[choices['left'], 'h0'], right=[choices['right'], 'h0'])], outputs=[['b0']])),
        reduction=cell))
    assert space.genotype([0, 1]).normal.blocks[0].right == ('max_pool_3x3', 'h0')
    with pytest.raises(SpaceError, match='give Space a parse function'):
        space.find(load_genotype('nasnet_a'))


@pytest.mark.parametrize('call, message', [
    (lambda: darts_space().choices([0]), 'darts-4: .0. are not an option for each of its 22 decisions'),
    (lambda: darts_space().choices([7] * 22), 'are not an option'),
    (lambda: darts_space().tokens({'normal.b0.left_op': 'sep_conv_9x9'}), "b0.left_op has no option 'sep_conv_9x9'"),
    (lambda: Space('twice', [('a', 'xy'), ('a', 'xy')], dict), 'decisions: a; each needs a name of its own'),
    (lambda: Space('one', [('a', ('x',))], dict), 'two different options or more'),
    (lambda: Space('none', [], dict), 'there are none')])
def test_what_is_no_space(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# Other people's words

V2 = '''DARTS_V2 = Genotype(
    normal=[('sep_conv_3x3', 0), ('sep_conv_3x3', 1), ('sep_conv_3x3', 0), ('sep_conv_3x3', 1), ('sep_conv_3x3', 1),
            ('skip_connect', 0), ('skip_connect', 0), ('dil_conv_3x3', 2)], normal_concat=[2, 3, 4, 5],
    reduce=[('max_pool_3x3', 0), ('max_pool_3x3', 1), ('skip_connect', 2), ('max_pool_3x3', 1), ('max_pool_3x3', 0),
            ('skip_connect', 2), ('skip_connect', 2), ('max_pool_3x3', 1)], reduce_concat=range(2, 6))'''


def nni(text):
    """The same choices as NNI exports them."""
    genotype = import_genotype(text)
    number = {'h1': 0, 'h0': 1, **{f'b{i}': i + 2 for i in range(4)}}
    words = {'factorized_identity': 'skip_connect', 'dil_sep_conv_3x3': 'dil_conv_3x3'}
    choices = {}
    for kind, cell in (('normal', genotype.normal), ('reduce', genotype.reduction)):
        for i, block in enumerate(cell.blocks):
            for side, (op, state) in enumerate(block.edges):
                choices[f'{kind}/op_{i + 2}_{side}'] = words.get(op, op)
                choices[f'{kind}/input_{i + 2}_{side}'] = [number[state]] if side else number[state]
    return choices


def test_darts_prints_are_read():
    genotype = import_genotype(V2, 'darts_v2')
    assert genotype.name == 'darts_v2' and genotype.fit == 'all'
    assert genotype.normal.blocks[3].edges == (('factorized_identity', 'h1'), ('dil_sep_conv_3x3', 'b0'))
    assert genotype.reduction.blocks[0].edges == (('max_pool_3x3', 'h1'), ('max_pool_3x3', 'h0'))
    assert genotype.reduction.outputs == (('b0', 'b1', 'b2', 'b3'),)
    assert darts_space().genotype(darts_space().find(genotype)).architecture_digest == genotype.architecture_digest
    assert import_genotype(V2.removeprefix('DARTS_V2 = ')).normal == genotype.normal


def test_nnis_choices_are_read():
    import json
    choices = nni(V2)
    for text in (json.dumps(choices), repr(choices), f'arch = {choices!r}'):
        assert import_genotype(text).cells == import_genotype(V2).cells


@pytest.mark.parametrize('text, message', [
    ('__import__("os").system("touch hacked")', 'neither a Genotype'),
    (V2.replace('0)', '__import__("os").system("touch hacked"))', 1), 'is no plain value'),
    (V2.replace('range(2, 6)', 'range(10 ** 9)'), 'is no plain value'),
    (V2.replace("'sep_conv_3x3'", "'sep_conv_9x9'", 1), "node 2: unknown operation 'sep_conv_9x9'; known: skip"),
    (V2.replace("'skip_connect'", "'none'", 1), "node 4: unknown operation 'none'"),
    (V2.replace('2)', '5)', 1), 'normal, node 5: 5 is no state; there are 0 to 4'),
    (V2.replace('normal_concat=[2, 3, 4, 5]', 'normal_concat=7'), 'normal_concat: must be a list'),
    ('Genotype(normal=[("sep_conv_3x3", 0)], normal_concat=[2], reduce=[], reduce_concat=[])', 'normal: has 1 edges'),
    ('Genotype(1)', 'neither a Genotype'), ('', 'neither a Genotype'), ('{}', 'normal: has 0 edges'),
    ('[' * 10_000, 'neither a Genotype'), ('x' * (1 << 21), 'too large')])
def test_what_cannot_be_imported(text, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ImportedTextError, match=message):
        import_genotype(text)
    assert not list(tmp_path.iterdir())

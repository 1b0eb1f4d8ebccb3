"""Genotypes as other software prints them."""
import pytest

from helpers.darts import V2
from nasnet_zoo.genotype.importer import ImportedTextError, import_genotype
from nasnet_zoo.search.space import darts_space


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


def test_integer_that_cannot_be_printed():
    text = V2.replace("('sep_conv_3x3', 0)", f"('sep_conv_3x3', 0x{'f' * 5000})", 1)
    with pytest.raises(ImportedTextError, match='line 2, column 12: is not a literal value'):
        import_genotype(text)


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
    (V2.replace('0)', '__import__("os").system("touch hacked"))', 1), 'is not a literal value'),
    (V2.replace('range(2, 6)', 'range(10 ** 9)'), 'is not a literal value'),
    (V2.replace("'sep_conv_3x3'", "'sep_conv_9x9'", 1), "node 2: unknown operation 'sep_conv_9x9'; known: skip"),
    (V2.replace("'skip_connect'", "'none'", 1), "node 4: unknown operation 'none'"),
    (V2.replace('2)', '5)', 1), 'normal, node 5: 5 is not a state; the states are 0 to 4'),
    (V2.replace('normal_concat=[2, 3, 4, 5]', 'normal_concat=7'), 'normal_concat: must be a list'),
    ('Genotype(normal=[("sep_conv_3x3", 0)], normal_concat=[2], reduce=[], reduce_concat=[])', 'normal: has 1 edges'),
    ('Genotype(1)', 'neither a Genotype'), ('', 'neither a Genotype'), ('{}', 'normal: has 0 edges'),
    ('[' * 10_000, 'neither a Genotype'), ('x' * (1 << 21), 'too large')])
def test_what_cannot_be_imported(text, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ImportedTextError, match=message):
        import_genotype(text)
    assert not list(tmp_path.iterdir())

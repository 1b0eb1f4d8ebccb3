"""Genotypes as other software prints them."""
import json
import re
import time

import pytest

from helpers.darts import (
    FAIR_DARTS_A,
    FAIR_DARTS_B,
    GDAS,
    P_DARTS,
    PC_DARTS_CIFAR,
    PC_DARTS_IMAGENET,
    PRINTED,
    SNAS,
    V1,
    V2,
)
from nasnet_zoo import load_genotype
from nasnet_zoo.genotype.importer import ImportedTextError, import_genotype
from nasnet_zoo.search.space import darts_space

STATES = {'h1': 0, 'h0': 1, **{f'b{i}': i + 2 for i in range(4)}}
WORDS = {'factorized_identity': 'skip_connect', 'dil_sep_conv_3x3': 'dil_conv_3x3', 'dil_sep_conv_5x5': 'dil_conv_5x5'}
CALL = ' '.join(V2.removeprefix('DARTS_V2 = ').split())  # on one line


def nodes(text):
    """For each kind of cell, the edges of each node as DARTS writes them."""
    genotype = import_genotype(text)
    return {kind: [[(WORDS.get(op, op), STATES[state]) for op, state in block.edges] for block in cell.blocks]
            for kind, cell in (('normal', genotype.normal), ('reduce', genotype.reduction))}


def nni(text):
    """The same choices as NNI exports them."""
    choices = {}
    for kind, cell in nodes(text).items():
        for i, edges in enumerate(cell):
            for side, (op, state) in enumerate(edges):
                choices[f'{kind}/op_{i + 2}_{side}'] = op
                choices[f'{kind}/input_{i + 2}_{side}'] = [state] if side else state
    return choices


OLD_OPS = ['maxpool', 'avgpool', 'skipconnect', 'sepconv3x3', 'sepconv5x5', 'dilconv3x3', 'dilconv5x5']
OLD_WORDS = dict(max_pool_3x3='maxpool', avg_pool_3x3='avgpool', skip_connect='skipconnect')


def old_nni(text, number=lambda op: op, switch=lambda chosen, keys: chosen):
    """The same choices as NNI's first DARTS example exports them. It orders the edges of a node by state."""
    choices = {}
    for kind, cell in nodes(text).items():
        for i, edges in enumerate(cell, 2):
            ops = {state: OLD_WORDS.get(op, op.replace('_', '')) for op, state in edges}
            keys = [f'{kind}_n{i}_p{state}' for state in range(i)]
            choices.update({key: number(ops[state]) if state in ops else [] for state, key in enumerate(keys)})
            choices[f'{kind}_n{i}_switch'] = switch([keys[state] for state in sorted(ops)], keys)
    return choices


def nb301(text):
    """The same choices as a configuration of NAS-Bench-301, in which the edges of a node are ordered by state too."""
    first = {2: 0, 3: 2, 4: 5, 5: 9}
    choices = {'NetworkSelectorDatasetInfo:darts:layers': 20, 'OptimizerSelector:optimizer': 'sgd'}
    for kind, cell in nodes(text).items():
        for i, edges in enumerate(cell, 2):
            for op, state in edges:
                choices[f'NetworkSelectorDatasetInfo:darts:edge_{kind}_{first[i] + state}'] = op
            if i > 2:
                choices[f'NetworkSelectorDatasetInfo:darts:inputs_node_{kind}_{i}'] = '_'.join(
                    str(state) for state in sorted(state for _, state in edges))
    return choices


def digest(text, **kwargs):
    return import_genotype(text, **kwargs).architecture_digest


@pytest.mark.parametrize('text', PRINTED, ids=[text.split()[0] for text in PRINTED])
def test_printed_genotypes(text):
    genotype = import_genotype(text)
    assert digest(f'{time.asctime()} {" ".join(re.sub("#.*", "", text).split())}') == genotype.architecture_digest
    assert darts_space().genotype(darts_space().find(genotype)).architecture_digest == genotype.architecture_digest


def test_the_cells_are_what_was_printed():
    genotype = import_genotype(V2, 'darts_v2')
    assert genotype.name == 'darts_v2' and genotype.fit == 'all'
    assert genotype.normal.blocks[3].edges == (('factorized_identity', 'h1'), ('dil_sep_conv_3x3', 'b0'))
    assert genotype.reduction.blocks[0].edges == (('max_pool_3x3', 'h1'), ('max_pool_3x3', 'h0'))
    assert genotype.reduction.outputs == (('b0', 'b1', 'b2', 'b3'),)
    assert import_genotype(GDAS).normal.blocks[2].edges == (('sep_conv_3x3', 'b1'), ('factorized_identity', 'h1'))


def fields(text=V2):
    genotype = nodes(text)
    return {key: value for kind in genotype for key, value in (
        (kind, [edge for node in genotype[kind] for edge in node]), (f'{kind}_concat', [2, 3, 4, 5]))}


@pytest.mark.parametrize('text', [
    CALL, f'11/20 03:45:12 PM genotype = {CALL}', f'INFO:root:epoch 3, best so far: genotype={CALL}; lr 0.1',
    f'\ufeff{V2}\n'.replace('\n', '\r\n'), f'# Result\n\n```python\n{V2}\n```\nDon\'t use it (yet).\n', f'best = {V2}',
    V2.replace('Genotype(', 'genotypes.Genotype('), V2.replace("'", '’'), V2.replace("'", '"'),
    re.sub(r"', (\d)", r"', '\1'", V2), re.sub(r"', (\d)", r"', np.int64(\1)", V2),
    re.sub(r"', (\d)", r"', \1, 0.125", V2), re.sub(r"\b\w+=(?=[\[r])", '', V2),
    json.dumps(fields()), json.dumps(fields(), indent=2), repr(fields()), f'arch: {fields()}',
    json.dumps({'epoch': 49, 'val': {'top1': 97.2, 'best': None}, 'genotype': fields()}),
    json.dumps({'genotype': CALL, 'ok': True}),
    *(text for choices in (
        nni(V2), {**nni(V2), 'width': 36, 'auxiliary': False, 'note': None},
        {f'model/{key}': value for key, value in nni(V2).items()},
        {'best_selected_space': {**nni(V2), 'x': [1]}})
      for text in (json.dumps(choices), repr(choices), f'arch = {choices!r}')),
], ids=str)
def test_forms_that_keep_the_order_of_edges(text):
    assert import_genotype(text).cells == import_genotype(V2).cells


@pytest.mark.parametrize('convert', [
    old_nni, lambda text: old_nni(text, OLD_OPS.index), nb301,
    lambda text: old_nni(text, lambda op: [op == other for other in OLD_OPS],
                         lambda chosen, keys: [key in chosen for key in keys]),
    lambda text: old_nni(text, switch=lambda chosen, keys: [keys.index(key) for key in chosen]),
    lambda text: {'optimized_hyperparamater_config': nb301(text), 'runtime': 3.5},
    lambda text: {key.replace(':', '_COLON_'): value for key, value in nb301(text).items()},
    lambda text: {key.rsplit(':', 1)[-1]: value for key, value in nb301(text).items()}])
@pytest.mark.parametrize('source', [V1, V2, PC_DARTS_CIFAR, P_DARTS], ids=['V1', 'V2', 'PC', 'P'])
def test_forms_that_order_edges_by_state(convert, source):
    assert digest(json.dumps(convert(source))) == digest(source)


FILE = f'''from collections import namedtuple

Genotype = namedtuple('Genotype', 'normal normal_concat reduce reduce_concat')
PRIMITIVES = ['none', 'skip_connect']  # don't
{V1}
{V2}
# OLD = {CALL.replace('sep_conv_3x3', 'sep_conv_7x7')}
DARTS = DARTS_V2
{PC_DARTS_CIFAR}
Networks = {{'DARTS': DARTS, 'normal': V1, 'reduce': V2}}
def parse(gene): return Genotype(normal=gene, normal_concat=range(2, 6), reduce=gene, reduce_concat=range(2, 6))
'''


def test_which_of_several():
    with pytest.warns(UserWarning, match=re.escape(
            'of several genotypes (DARTS_V1, DARTS_V2, DARTS, PC_DARTS_cifar), PC_DARTS_cifar was read; choose with')):
        assert digest(FILE) == digest(PC_DARTS_CIFAR)
    with pytest.warns(UserWarning, match='BEST was read'):
        assert digest(f'{FILE}\nNEW = DARTS\nBEST = NEW # the best\n') == digest(V2)
    for which, text in dict(DARTS_V1=V1, DARTS=V2, DARTS_V2=V2).items():
        assert digest(FILE, which=which) == digest(text)
    with pytest.raises(ImportedTextError, match="no genotype named 'OLD'; the names are DARTS_V1, DARTS_V2, DARTS, "):
        import_genotype(FILE, which='OLD')
    assert digest(f'{V2}\nBEST = DARTS_V2') == digest(V2)  # no warning: it is the same one
    log = ''.join(f'{time.asctime()} genotype = {text.split(" = ")[1]}\n{{"loss": 1}}\n' for text in (V1, V2, P_DARTS))
    assert digest(log) == digest(P_DARTS)


def test_cells_of_fair_darts_have_nodes_with_fewer_edges():
    none = ('none', 'h1')
    genotype = import_genotype(FAIR_DARTS_A)  # node 3 of the normal cell has no edges, and is left out
    assert [block.edges for block in genotype.normal.blocks] == [
        (('sep_conv_3x3', 'h1'), ('sep_conv_5x5', 'h0')), (('max_pool_3x3', 'h1'), none),
        (('sep_conv_3x3', 'h1'), none)]
    assert genotype.normal.outputs == (('b0', 'b1', 'b2'),) and len(genotype.reduction.blocks) == 4
    followed = FAIR_DARTS_A.replace("('max_pool_3x3', 4, 0)", "('max_pool_3x3', 4, 0), ('skip_connect', 4, 3)", 1)
    assert import_genotype(followed).normal == genotype.normal, 'an edge from a node without edges'
    assert import_genotype(FAIR_DARTS_B).cells == load_genotype('fair_darts_b').cells


def test_shipped_cells_are_what_was_printed():
    for name, text in dict(
            darts_v1=V1, darts_v2=V2, pc_darts_cifar=PC_DARTS_CIFAR, pc_darts_imagenet=PC_DARTS_IMAGENET,
            p_darts_cifar=P_DARTS, snas=SNAS, gdas=GDAS).items():
        assert import_genotype(text, name).cells == load_genotype(name).cells


def test_operations_that_darts_itself_does_not_find():
    text = V2.replace("'skip_connect', 0", "'none', 0", 1).replace('max_pool_3x3', 'conv_7x1_1x7', 1)
    genotype = import_genotype(text)
    assert genotype.normal.blocks[2].right == ('none', 'h1')
    assert genotype.reduction.blocks[0].left == ('conv_7x1_1x7', 'h1')


@pytest.mark.parametrize('text, message', [
    ('__import__("os").system("touch hacked")', 'no genotype was found in .__import__.*; the known forms are Genotype'),
    (V2.replace('0)', '__import__("os").system("touch hacked"))', 1), r'Genotype\(…\) in line 1, which is incomplete'),
    (f'\n\n{V2}'[:-1], 'in line 3, which is incomplete'),
    (V2.replace('range(2, 6)', 'range(10 ** 9)'), 'no literals'),
    (V2.replace('range(2, 6)', 'range(1000)'), 'no literals'),
    (V2.replace("'sep_conv_3x3'", "'sep_conv_9x9'", 1), "node 2: unknown operation 'sep_conv_9x9'; known: skip"),
    (V2.replace('2)', '5)', 1), 'normal, node 5: 5 is not a state; the states are 0 to 4'),
    (V2.replace('normal_concat=[2, 3, 4, 5]', 'normal_concat=7'), 'normal_concat: must be a list'),
    (V2.replace('normal_concat=[2, 3, 4, 5],', ''), 'normal_concat: must be a list'),
    (V2.replace('[2, 3, 4, 5]', '[2, 9]'), 'normal_concat: 9 is not a state'),
    (V2.replace('[2, 3, 4, 5]', '[[], {}, -1]'), r'normal_concat: \[\] is not a state'),
    (V2.replace("('sep_conv_3x3', 0)", '({}, 0)', 1), 'node 2: unknown operation {}'),
    (V2.replace("('sep_conv_3x3', 0)", '7', 1), r'normal: 7 is not \(operation, state\)'),
    (FAIR_DARTS_A.replace("4, 0", "'x', 0", 1), 'normal: the nodes in .* must be numbers from 2'),
    ('Genotype(normal=[("sep_conv_3x3", 0)], normal_concat=[2], reduce=[], reduce_concat=[])', 'normal: has 1 edges'),
    ('Genotype(normal=[], normal_concat=[], reduce=[], reduce_concat=[])', 'normal: has no nodes'),
    ('Genotype(1)', 'normal: must be a list'), ('', 'in an empty text; the known'),
    ('{}', "no genotype was found in '{}'"),
    ('{"normal": 1, "edges": {"reduce": 2}}', 'in a dict with the keys normal, edges, reduce; the known'),
    ('{"normal/op_2_0": "sep_conv_3x3"}', "no genotype|node 2: None"),
    ('{"normal/op_2_0": 3, "reduce/op_2_0": 1, "normal/op_4_0": 3}', 'normal, node 2: has 1 edges'),
    ('{"normal_n2_p0": {}, "reduce_n2_p0": [[]], "normal_n2_switch": 7}', 'normal, node 2: has 0 edges'),
    ('{"edge_normal_0": 1, "edge_reduce_0": 1}', 'node 2: unknown operation 1'),
    ('[' * 10_000, 'no genotype was found'), ('x' * ((1 << 24) + 1), 'too large'),
    ('Genotype(' * 1_000, 'incomplete'), ('{' * 50_000, 'too many brackets'),
    ('{"normal' * 9_000, 'no genotype|too many'),
    (f'Genotype({"[" * 5_000}{"]" * 5_000})', 'incomplete|must be')], ids=lambda value: str(value)[:30])
def test_what_cannot_be_imported(text, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ImportedTextError, match=message):
        import_genotype(text)
    assert not list(tmp_path.iterdir())


def test_integer_that_cannot_be_printed():
    with pytest.raises(ImportedTextError):
        import_genotype(V2.replace("('sep_conv_3x3', 0)", f"('sep_conv_3x3', 0x{'f' * 5000})", 1))

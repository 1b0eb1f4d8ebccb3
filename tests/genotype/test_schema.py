"""The language: what is refused and how, round trips, digests."""
import copy
import json
import pickle
import re
import time
import warnings
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helpers.strategies import genotypes, mutants
from nasnet_zoo import Genotype, GenotypeError, GenotypeWarning, compile_genotype, list_genotypes, load_genotype
from nasnet_zoo.genotype.loader import genotypes_dir
from nasnet_zoo.genotype.schema import MAX_BLOCKS, json_schema

NASNET_A = load_genotype('nasnet_a').to_dict()


def edited(**changes):
    """NASNet-A's data with values set by path: ``normal__blocks__2__left=…``; a value of ... removes the key."""
    data = copy.deepcopy(NASNET_A)
    for path, value in changes.items():
        *parents, key = [int(part) if part.isdigit() else part for part in path.split('__')]
        node = data
        for parent in parents:
            node = node[parent]
        if value is ...:
            del node[key]
        else:
            node[key] = value
    return data


def problems(source):
    with pytest.raises(GenotypeError) as error:
        load_genotype(source)
    return str(error.value)


def test_shipped_genotypes():
    assert list_genotypes() == [
        'amoebanet_a', 'amoebanet_b', 'amoebanet_c', 'amoebanet_d', 'darts_v1', 'darts_v2', 'dr_nas', 'enas',
        'fair_darts_b', 'gdas', 'nasnet_a', 'nasnet_b', 'nasnet_c', 'nasnet_z', 'p_darts_cifar', 'pc_darts_cifar',
        'pc_darts_imagenet', 'pnasnet5', 'snas']
    for name in list_genotypes():
        genotype = load_genotype(name)
        assert genotype.name == name and genotype.source.startswith('a search of' if name == 'nasnet_z' else 'arXiv:')
        text = (genotypes_dir() / f'{name}.json').read_text(encoding='utf-8')
        assert genotype.dumps() == text, 'a shipped file is written as dumps() writes it'


AMOEBANETS = {  # arXiv:1802.01548 by state: 0 and 1 are h0 and h1, then the blocks; behind the bar what is handed on
    'amoebanet_a': (
        'avg3(0)+max3(0) sep3(1)+id(1) id(0)+avg3(1) sep3(0)+sep5(2) avg3(5)+sep3(0) | 1 3 4 6',
        'sep3(1)+avg3(0) max3(0)+sep7(2) max3(1)+max3(0) sep3(4)+1x7(0) avg3(1)+sep7(0) | 2 3 4 5 6'),
    'amoebanet_b': (
        '1x1(1)+max3(1) id(1)+sep3(0) 1x1(1)+sep3(0) 1x1(2)+id(2) avg3(1)+1x1(5) | 0 3 4 6',
        'max2(0)+max3(0) id(2)+3x3(1) sep5(2)+max3(2) id(3)+sep3(1) avg3(4)+1x1(3) | 5 6'),
    'amoebanet_c': (
        'avg3(0)+sep3(0) id(0)+sep3(0) avg3(2)+sep3(1) id(0)+sep3(1) avg3(3)+sep3(0) | 1 2 4 5 6',
        'max3(0)+max3(0) sep7(2)+sep3(0) sep7(0)+max3(1) sep5(4)+sep5(4) max3(1)+sep3(1) | 0 2 3 4 5 6'),
    'amoebanet_d': (
        '1x1(1)+max3(1) id(1)+1x7(0) 1x1(0)+1x7(0) max3(2)+id(2) avg3(1)+1x1(5) | 0 3 4 6',
        'max2(0)+max3(0) id(2)+3x3(1) 1x7(2)+max3(2) id(3)+max2(1) avg3(2)+1x1(3) | 4 5 6'),
}


@pytest.mark.parametrize('name', AMOEBANETS)
def test_amoebanets_are_the_papers(name):
    words = {'id': 'identity', '1x1': 'conv_1x1', '3x3': 'conv_3x3', '1x7': 'conv_1x7_7x1', 'avg3': 'avg_pool_3x3',
             **{f'max{k}': f'max_pool_{k}x{k}' for k in (2, 3)}, **{f'sep{k}': f'sep_conv_{k}x{k}' for k in (3, 5, 7)}}
    states = ['h0', 'h1', 'b0', 'b1', 'b2', 'b3', 'b4']
    for text, cell in zip(AMOEBANETS[name], load_genotype(name).cells.values()):
        blocks, outputs = text.split(' | ')
        edges = [[(words[op], states[int(i)]) for op, i in re.findall(r'(\w+)\((\d)\)', block)]
                 for block in blocks.split()]
        assert [list(block.edges) for block in cell.blocks] == edges
        assert cell.outputs == (tuple(states[int(i)] for i in outputs.split()),)
        assert {block.combine for block in cell.blocks} == {'add'}


def test_schema_file_is_that_of_the_code():
    text = (genotypes_dir() / 'schema.json').read_text(encoding='utf-8')
    assert text == json.dumps(json_schema(), indent=2) + '\n', 'run: python tools/write_schema.py'


def test_schema_takes_the_shipped_files():
    jsonschema = pytest.importorskip('jsonschema', reason='pip install jsonschema')
    for name in list_genotypes():
        jsonschema.validate({'$schema': 'schema.json', **load_genotype(name).to_dict()}, json_schema())
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(edited(normal__blocks__0__left=['sep_conv_4x4', 'h0']), json_schema())


def test_an_output_depends_on_an_input():
    none = dict(left=['none', 'h0'], right=['none', 'h1'])
    text = problems(edited(reduction__blocks=[none, dict(left=['identity', 'b0'], right=['none', 'h0'])],
                           reduction__outputs=[['b0', 'b1']]))
    assert "reduction.outputs[0]: depends on no input of the cell, since all operations before it are 'none'" in text
    assert len(text.splitlines()) == 2, 'and the head'
    load_genotype(edited(reduction__blocks=[none, dict(left=['identity', 'b0'], right=['identity', 'h0'])],
                         reduction__outputs=[['b0', 'b1']]))


def test_save_and_load(tmp_path):
    genotype = load_genotype(edited(search={'space': 'nasnet', 'seed': 3}, results=[{'accuracy': 0.5, 'notes': None}]))
    genotype.save(tmp_path / 'cell.json')
    for path in (tmp_path / 'cell.json', str(tmp_path / 'cell.json')):
        assert load_genotype(path) == genotype
    assert [p.name for p in tmp_path.iterdir()] == ['cell.json']
    assert load_genotype({'$schema': 'schema.json', **genotype.to_dict()}) == genotype


@pytest.mark.parametrize('changes, message', [
    ({'normal__blocks__2__left': ['sep_conv_4x4', 'h0']},
     "<dict>: normal.blocks[2].left: unknown operation 'sep_conv_4x4'; did you mean 'sep_conv_5x5'?"),
    ({'normal__blocks__2__combine': 'sum'}, 'normal.blocks[2].combine: unknown combine'),
    ({'normal__blocks__1__left': ['identity', 'b1']}, 'normal.blocks[1].left: b1 is used before it exists'),
    ({'normal__blocks__0__left': ['identity', 'b0']}, 'no block comes before this one'),
    ({'normal__blocks__1__left': ['identity', 'h2']}, 'normal.blocks[1].left: h2 does not exist: "inputs" is 2'),
    ({'normal__blocks__1__left': ['identity', 'x']}, '"x" is not a hidden state'),
    ({'normal__blocks__1__left': ['identity', 'b01']}, '"b01" is not a hidden state'),
    ({'normal__blocks__1__left': ['identity']}, 'normal.blocks[1].left: must be ["operation", "state"]'),
    ({'normal__blocks__1__left': ['identity', 'h0', 'h1']}, 'normal.blocks[1].left: must be ["operation", "state"]'),
    ({'normal__blocks__1__left': 'identity'}, 'normal.blocks[1].left: must be a list'),
    ({'normal__blocks__1__left': ...}, 'normal.blocks[1].left: is missing'),
    ({'normal__blocks__1__left': ['h0', 'identity']}, 'normal.blocks[1].left: must be ["operation", "state"], in this'),
    ({'normal__blocks__1__left': ['identity', 0]}, 'normal.blocks[1].left: must be ["operation", "state"], and 0 is'),
    ({'normal__blocks__1__left': ['skip_connect', 'h0']}, "'skip_connect'; did you mean 'identity'?"),
    ({'normal__blocks__1__left': ['SEP_CONV_3X3', 'h0']}, "did you mean 'sep_conv_3x3'?"),
    ({'normal__outputs': ['b0', 'b1']}, 'normal.outputs[0]: must be a list of states, as in "outputs": [["b0", "b1"]]'),
    ({'normal__blocks__1': 7}, 'normal.blocks[1]: must be an object'),
    ({'normal__blocks__1__lfet': []}, "normal.blocks[1].lfet: unknown key; did you mean 'left'?"),
    ({'normal__blocks': []}, 'normal.blocks: must have at least 1 entries'),
    ({'normal__outputs': [['b0', 'b0']]}, "normal.outputs[0][1]: 'b0' is already in this concatenation"),
    ({'normal__outputs': [['b5']]}, 'normal.outputs[0][0]: b5 is used before it exists; the last one here is b4'),
    ({'normal__outputs': [[]]}, 'normal.outputs[0]: must have at least 1 entries'),
    ({'normal__outputs': [['b0'], ['b1']]}, 'reduction.outputs: 1 outputs, but the normal cell has 2'),
    ({'normal__outputs': [['b0'], ['b1'], ['b2']], 'reduction__outputs': [['b0'], ['b1'], ['b2']]},
     'normal.outputs: 3 outputs, but a cell reads 2 inputs'),
    ({'normal__head': ['h7']}, 'normal.head[0]: h7 does not exist'),
    ({'inputs': 0}, 'inputs: input should be greater than or equal to 1, not 0'),
    ({'inputs': '2'}, 'inputs: input should be a valid integer, not "2"'),
    ({'inputs': True}, 'inputs: input should be a valid integer, not true'),
    ({'inputs': float('nan')}, 'inputs: nan is not a JSON number'),
    ({'results': {'accuracy': float('inf')}}, 'results.accuracy: inf is not a JSON number'),
    ({'results': 'good'}, 'results: must be plain facts'),
    ({'search': {'a': {'b': {'c': 1}}}}, 'search: must be plain facts'),
    ({'search': {'a': [[]] * 100_000}}, 'search: has more than 10,000 entries'),
    ({'results': [{'a': [[]] * 100}] * 2000}, 'results: has more than 10,000 entries'),
    ({'aux_filters': [1]}, 'aux_filters: must have at least 2 entries'),
    ({'aux_filters': [1, 2, 3]}, 'aux_filters: must have at most 2 entries'),
    ({'format': 2}, 'format: this version reads format 1, the file says 2'),
    ({'format': True}, 'format: this version reads format 1, the file says true'),
    ({'name': '../etc'}, 'name: "../etc" is not a name'),
    ({'fit': 'some'}, 'fit: input should be'),
    ({'reduction': ...}, 'reduction: is missing'),
    ({'nromal': {}}, "nromal: unknown key; did you mean 'normal'?"),
])
def test_problems(changes, message):
    assert message in problems(edited(**changes))


def test_all_problems_at_once():
    text = problems(edited(normal__blocks__0__left=['identty', 'h5'], normal__blocks__1__right=['identity', 'b4'],
                           reduction__outputs=[['b1'], ['q']], nam='x'))
    assert len(text.splitlines()) == 6, text
    assert all(line.startswith('<dict>: ') for line in text.splitlines())


@pytest.mark.parametrize('text, message', [
    ('{"a": 1, "a": 2}', 'a: duplicate key; keep one of them'),
    (json.dumps(NASNET_A).replace('"combine": "add"', '"combine": "add", "combine": "concat"', 1),
     'normal.blocks[0].combine: duplicate key'),
    ('{"format": 1,}', 'not JSON: '),
    ('', 'not JSON: '),
    ('[' * 100_000, 'nested too deeply'),
    ('{"a":' * 50 + '1' + '}' * 50, 'nested too deeply'),
    ('[1]', 'must be an object'),
    ('"\\ud800"', 'not JSON data'),
    ('{"inputs": 1' + '0' * 5000 + '}', 'not JSON data'),
    ('{"inputs": 1e999}', 'inputs: inf is not a JSON number'),
])
def test_bad_text(tmp_path, text, message):
    (tmp_path / 'cell.json').write_text(text, encoding='utf-8')
    answer = problems(tmp_path / 'cell.json')
    assert message in answer and 'cell.json' in answer


def test_bad_sources(tmp_path, monkeypatch):
    assert 'No such file' in problems('nowhere.json')
    assert "did you mean 'nasnet_c'" in problems('nasnet_cc')
    assert 'is a name, a path or a dict, not a int' in problems(3)
    assert 'not a int' in problems(10 ** 5000), 'Python does not print integers of so many digits'
    assert 'not JSON data' in problems({'a': {1, 2}})
    (tmp_path / 'latin.json').write_bytes(b'{"name": "caf\xe9"}')
    assert 'not UTF-8' in problems(tmp_path / 'latin.json')
    assert 'cannot be read' in problems(str(tmp_path / '\0.json'))
    assert problems(str(tmp_path)).endswith('is a folder, not a JSON file')
    load_genotype('nasnet_a').save(tmp_path / 'cell.json')
    monkeypatch.chdir(tmp_path.parent)
    assert problems(tmp_path.name).endswith(f'did you mean {Path(tmp_path.name, "cell.json")}?')
    assert problems(str(tmp_path)).endswith('is a folder, not a JSON file; its genotype is cell.json')
    with pytest.raises(GenotypeError, match='a path is not allowed'):
        load_genotype(tmp_path / 'latin.json', allow_path=False)


def test_shared_lists_are_not_written_out():
    shared = []
    for _ in range(14):
        shared = [shared] * 4
    assert 'too large' in problems({'search': shared})


def test_absurd_sizes_are_refused_fast(tmp_path):
    (tmp_path / 'long.json').write_text(' ' * 10_000_000, encoding='utf-8')
    many = edited(normal__blocks=[NASNET_A['normal']['blocks'][0]] * 10_000)
    (tmp_path / 'many.json').write_text(json.dumps(many), encoding='utf-8')
    (tmp_path / 'keys.json').write_text(json.dumps({f'k{i}': 0 for i in range(60_000)}), encoding='utf-8')
    start = time.perf_counter()
    assert 'too large' in problems(tmp_path / 'long.json')
    assert f'normal.blocks: must have at most {MAX_BLOCKS} entries' in problems(tmp_path / 'many.json')
    assert 'more problems' in problems(tmp_path / 'keys.json')
    assert time.perf_counter() - start < 10  # seconds where a quadratic check takes minutes


def test_unused_block_is_named_and_not_compiled():
    data = edited(normal__outputs=[['h1', 'b0', 'b2', 'b3', 'b4']])
    with pytest.warns(GenotypeWarning, match=r'normal\.blocks\[1\]: b1 is read by no output'):
        genotype = load_genotype(data)
    args = dict(num_cells=1, cell_filters=4, device='meta')
    fewer = sum(p.numel() for p in compile_genotype(genotype, **args).parameters())
    assert fewer < sum(p.numel() for p in compile_genotype('nasnet_a', **args).parameters())


def test_genotype_is_immutable():
    with pytest.raises(ValueError):
        load_genotype('nasnet_a').name = 'x'


def digests(data):
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', GenotypeWarning)
        genotype = load_genotype(data)
    return genotype.architecture_digest, genotype.layout_digest


def test_digests_of_equal_architectures():
    architecture, layout = digests(NASNET_A)
    first, *rest = NASNET_A['reduction']['blocks']
    swapped = edited(reduction__blocks=[{**first, 'left': first['right'], 'right': first['left']}, *rest])
    # b0 and b2 change places in the normal cell: nothing but the output reads them
    b0, b1, b2, b3, b4 = NASNET_A['normal']['blocks']
    reordered = edited(normal__blocks=[b2, b1, b0, b3, b4])
    dead = edited(normal__blocks=[b0, b1, b2, b3, b4, b0])
    for data in (swapped, reordered, dead):
        assert digests(data)[0] == architecture
        assert digests(data)[1] != layout
    assert digests(edited(name='other', source='me', results={'accuracy': 0.1})) == (architecture, layout)


def test_digests_of_different_architectures():
    shared = edited(normal__blocks__4__left=['sep_conv_3x3', 'b0'], normal__blocks__4__right=['identity', 'b1'],
                    normal__blocks__1=NASNET_A['normal']['blocks'][0])
    twice = edited(normal__blocks__4__left=['sep_conv_3x3', 'b0'], normal__blocks__4__right=['identity', 'b0'],
                   normal__blocks__1=NASNET_A['normal']['blocks'][0])
    different = [NASNET_A, shared, twice, edited(fit='all'), edited(normal__head=['b0']),
                 edited(normal__blocks__0__combine='concat'), edited(normal__blocks__0__left=['sep_conv_5x5', 'h1']),
                 edited(normal=NASNET_A['reduction'], reduction=NASNET_A['normal'])]
    assert len({digests(data)[0] for data in different}) == len(different)


@st.composite
def renamed(draw):
    """A genotype, and the same with its blocks in another possible order and operands swapped."""
    data = draw(genotypes())
    other = copy.deepcopy(data)
    for kind in ('normal', 'reduction'):
        blocks = other[kind]['blocks']
        order, todo = [], list(range(len(blocks)))
        while todo:
            ready = [i for i in todo if all(
                s[0] == 'h' or int(s[1:]) in order for s in (blocks[i]['left'][1], blocks[i]['right'][1]))]
            order.append(draw(st.sampled_from(ready)))
            todo.remove(order[-1])
        new = {f'b{old}': f'b{i}' for i, old in enumerate(order)}

        def rename(states, new=new):
            return [new.get(state, state) for state in states]

        for i, old in enumerate(order):
            block = data[kind]['blocks'][old]
            edges = [rename(block['left']), rename(block['right'])]
            if draw(st.booleans()):
                edges.reverse()
            blocks[i] = {'left': edges[0], 'right': edges[1], 'combine': block['combine']}
        other[kind]['outputs'] = [rename(output) for output in other[kind]['outputs']]
        if 'head' in other[kind]:
            other[kind]['head'] = rename(other[kind]['head'])
    return data, other


@given(renamed())
@settings(max_examples=60, deadline=None)
def test_architecture_digest_ignores_names(pair):
    assert digests(pair[0])[0] == digests(pair[1])[0]


def load_quietly(data):
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', GenotypeWarning)
        return load_genotype(data)


def compile_small(genotype, **kwargs):
    return compile_genotype(genotype, num_cells=1, cell_filters=3, num_classes=4, **kwargs)


@given(genotypes(), st.sampled_from(['extra', 'replace']), st.booleans())
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_every_valid_genotype_round_trips_and_compiles(data, reductions, skip):
    import torch
    genotype = load_quietly(data)
    assert load_quietly(json.loads(genotype.dumps())) == genotype
    model = compile_small(genotype, stem='cifar', reductions=reductions, skip_reduction_layer_input=skip)
    out = model(torch.randn(2, 3, 12, 9))
    assert out.shape == (2, 4)
    out.sum().backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None], 'all that is compiled is used'


@given(st.sampled_from(['nasnet_a', 'nasnet_b', 'nasnet_c']).flatmap(
    lambda name: mutants(load_genotype(name).to_dict())))
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_every_mutant_compiles_or_is_refused(data):
    try:
        genotype = load_quietly(data)
    except GenotypeError as error:
        assert error.problems and '<dict>' in str(error)
    else:
        assert isinstance(genotype, Genotype)
        compile_small(genotype, device='meta')


def test_the_example_that_teaches_the_language():
    page = (genotypes_dir() / 'README.md').read_text(encoding='utf-8')
    compile_small(load_genotype(json.loads(page.split('```json\n')[1].split('```')[0])), device='meta')


def test_a_long_key_is_shortened_in_the_message():
    data = load_genotype('nasnet_a').to_dict()
    data['normal']['blocks'][1]['x' * 5000] = data['y' * 5000] = 1
    with pytest.raises(GenotypeError, match=r'normal\.blocks\[1\]\.x+…: unknown key') as error:
        load_genotype(data)
    assert len(str(error.value)) < 1000


def test_an_error_can_be_pickled():
    """Processes that train children send it to the one that has started them."""
    with pytest.raises(GenotypeError) as caught:
        load_genotype(dict(NASNET_A, **{f'unknown_{i}': 1 for i in range(60)}))
    loaded = pickle.loads(pickle.dumps(caught.value))
    assert str(loaded) == str(caught.value) and loaded.problems == caught.value.problems


def test_copies():
    """Pydantic would copy the digests of the old cells with the new ones."""
    genotype = load_genotype('nasnet_a')
    assert genotype.model_copy() == genotype and hash(genotype.model_copy(deep=True)) == hash(genotype)
    assert len({genotype, load_genotype('nasnet_a'), load_genotype('nasnet_b')}) == 2
    with pytest.raises(TypeError, match=r"use load_genotype\(\{\*\*genotype.to_dict\(\), 'normal': …\}\)"):
        genotype.model_copy(update=dict(normal=load_genotype('amoebanet_a').normal))

"""Hypothesis strategies for genotypes: valid ones, and what becomes of a valid one when somebody edits it."""
import copy

from hypothesis import strategies as st

from nasnet_zoo.genotype.operations import COMBINE_NAMES, OP_NAMES, OPERATIONS

READING = [name for name in OP_NAMES if OPERATIONS[name].reads_state]  # so that every block depends on an input


@st.composite
def _cells(draw, inputs, outputs):
    blocks = []
    for i in range(draw(st.integers(1, 5))):
        states = [f'h{k}' for k in range(inputs)] + [f'b{k}' for k in range(i)]
        left, right = (
            st.tuples(st.sampled_from(ops), st.sampled_from(states)).map(list) for ops in (READING, OP_NAMES))
        blocks.append({'left': draw(left), 'right': draw(right), 'combine': draw(st.sampled_from(COMBINE_NAMES))})
    states = [f'h{k}' for k in range(inputs)] + [f'b{k}' for k in range(len(blocks))]
    concat = st.lists(st.sampled_from(states), min_size=1, max_size=4, unique=True)
    cell = {'blocks': blocks, 'outputs': [draw(concat) for _ in range(outputs)]}
    if draw(st.booleans()):
        cell['head'] = draw(concat)
    return cell


@st.composite
def genotypes(draw):
    """A valid genotype as JSON data; it may have dead blocks and even dead cells."""
    inputs = draw(st.integers(1, 4))
    outputs = draw(st.integers(1, inputs))
    return {
        'format': 1, 'name': 'drawn', 'inputs': inputs, 'fit': draw(st.sampled_from(['changed', 'all'])),
        'normal': draw(_cells(inputs, outputs)), 'reduction': draw(_cells(inputs, outputs)),
    }


_junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
    | st.sampled_from(['h0', 'h9', 'b0', 'b3', 'b7', 'h00', 'identity', 'sep_conv_3x3', 'add', 'concat', 'all', '']),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(
        st.sampled_from(['left', 'right', 'combine', 'blocks', 'outputs', 'head', 'x']), children, max_size=3),
    max_leaves=5)


@st.composite
def mutants(draw, data):
    """`data` with up to three values replaced, removed, duplicated or added, anywhere."""
    data = copy.deepcopy(data)
    for _ in range(draw(st.integers(1, 3))):
        places = []

        def walk(node, places=places):
            for key in (node if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ()):
                places.append((node, key))
                walk(node[key])

        walk(data)
        if not places:
            break
        node, key = draw(st.sampled_from(places))
        action = draw(st.sampled_from(['replace', 'remove', 'add']))
        if action == 'replace':
            node[key] = draw(_junk)
        elif action == 'remove':
            del node[key]
        elif isinstance(node, dict):
            node[draw(st.sampled_from(['left', 'head', 'inputs', 'nme', 'search', '$schema', '']))] = draw(_junk)
        else:
            node.insert(key, draw(_junk | st.just(copy.deepcopy(node[key]))))
    return data

"""Nested containers become dotted names."""
import pytest
import torch
from torch import nn

from nasnet_zoo.checkpoints.flatten import flatten

ONE = torch.ones(1)


def test_names():
    data = {'a': {'b.c': ONE, 1: 'text'}, 'list': [ONE, 2, {'x': ONE}], ONE: 3, 'none': None}
    assert flatten(data) == {'a.b.c': ONE, 'a.1': 'text', 'list.0': ONE, 'list.2.x': ONE, '2': 3, 'none': None}


def test_parts_of_names_that_say_how_a_module_is_wrapped_are_left_out():
    data = {'_orig_mod.module.cell._checkpoint_wrapped_module.weight': ONE,
            '_modules': {'stem': {'_parameters': {'weight': ONE}, '_buffers': {'mean': ONE}}}}
    assert list(flatten(data)) == ['module.cell.weight', 'stem.weight', 'stem.mean']


def test_containers_that_repeat_or_contain_themselves():
    data = {'a': {'x': ONE}}
    data.update(b=data['a'], self=data)
    assert list(flatten(data)) == ['a.x']
    deep = {'x': ONE}
    for _ in range(10_000):
        deep = {'d': deep}
    assert flatten(deep) == {}
    assert flatten({'x' * 1_000: ONE}) == {}


def test_one_name_for_two_tensors():
    assert flatten({'a.b': 1, 'a': {'b': ONE}}) == flatten({'a': {'b': ONE}, 'a.b': 1}) == {'a.b': ONE}
    with pytest.raises(ValueError, match='several tensors are named a.b'):
        flatten({'a.b': ONE, 'a': {'b': nn.Parameter(ONE)}})

"""Which of the weights in a checkpoint are taken."""
import pytest
import torch

from nasnet_zoo.checkpoints.entries import find_entry
from nasnet_zoo.checkpoints.flatten import flatten

NET = {name: torch.ones(1) for name in ('stem.weight', 'stem.bias', 'head.weight')}


def prefixed(prefix, **others):
    return {**{prefix + name: tensor for name, tensor in NET.items()}, **others}


def find(data, wanted=None):
    return find_entry(flatten(data), NET.__contains__, wanted)


@pytest.mark.parametrize('data, place', [
    (NET, ''), (prefixed('module.'), 'module'), ({'state_dict': NET}, 'state_dict'), ({'anything': NET}, 'anything'),
    ({'model': prefixed('_orig_mod.module.')}, 'model.module'),
    ({'a': {'b': prefixed('student.net.')}}, 'a.b.student.net'),
    ((NET, {'state': {0: {'step': torch.ones(1)}}}), '0'),
    ({'model_state_dict': NET, 'optimizer': {'state': {0: torch.ones(1)}}, 'epoch': 3}, 'model_state_dict'),
    # Averaged weights win, but not incomplete ones, such as an optimizer's moments or averages of parameters only.
    ({'state_dict': NET, 'state_dict_ema': NET.copy()}, 'state_dict_ema'),
    ({'model_ema': prefixed('module.'), 'model': NET}, 'model_ema.module'),
    ({'ema': NET, 'net': NET.copy()}, 'ema'), ({'swa_model': NET, 'state_dict': NET.copy()}, 'swa_model'),
    ({'net': NET, 'exp_avg': {'stem.weight': torch.ones(1)}}, 'net'),
    ({'state_dict_ema': NET, 'model_ema': NET.copy()}, 'state_dict_ema'),
    ({'state_dict': {**prefixed('model.'), **prefixed('ema_model.module.')}}, 'state_dict.ema_model.module'),
    # Lightning's average in a callback is unfinished; the WeightAveraging callback puts the average in state_dict.
    ({'state_dict': prefixed('net.'), 'callbacks': {'SWA': {'average_model_state': prefixed('net.')}}},
     'state_dict.net'),
    ({'current_model_state': prefixed('net.'), 'state_dict': prefixed('net.')}, 'state_dict.net'),
    ({'state_dict': NET, 'model': NET.copy()}, 'state_dict'),  # timm's order
    ({'schema': NET}, 'schema'),
])
def test_place(data, place):
    found = find(data)
    assert found.place == place and found.values.keys() == NET.keys()
    assert found.is_averaged == any(word in place for word in ('ema_', '_ema', 'swa')) or place == 'ema'


def test_several():
    data = {'student': NET, 'teacher': dict(NET)}
    with pytest.raises(ValueError, match="student, teacher; say which one to load with entry='student' or.*-entry"):
        find(data)
    assert find(data, 'teacher').place == 'teacher'
    assert find({'state_dict': prefixed('module.'), 'state_dict_ema': NET}, 'state_dict').place == 'state_dict.module'
    with pytest.raises(ValueError, match="no weights of this network under 'state'; its entries are student, teacher"):
        find(data, 'state')


def test_what_is_said():
    data = {'state_dict': prefixed('net.', **{'loss.weight': torch.ones(1), 'metric.total': torch.ones(1)}),
            'ema': NET, 'optimizer': {'state': {i: {'step': torch.ones(1)} for i in range(9)}}, 'epoch': 3}
    assert find(data).describe() == (
        'loaded ema, which are averaged weights; other weights of this network: state_dict.net; '
        'ignored: state_dict.loss, state_dict.metric, optimizer')
    assert find(NET).describe() == ''
    many = {**prefixed('net.'), **{f'other{i}': torch.ones(1) for i in range(9)}}
    assert find(many).describe() == 'loaded net; ignored: other0, other1, other2, other3, other4, …'

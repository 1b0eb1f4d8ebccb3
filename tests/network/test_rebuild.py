"""A network is written as a folder only if its configuration rebuilds it; else the error says what to call."""
import pytest
import timm
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

from helpers.networks import small, trained
from nasnet_zoo import compile_genotype
from nasnet_zoo.network.rebuild import rebuildable_state


def network(**kwargs):
    return small('nasnet_b', cell_filters=4, img_size=16, num_classes=10, **kwargs)


def set_fc(make):
    def change(model):
        model.head.fc = make(model.num_features)
    return change


def replace_stem(model):
    conv = model.stem.conv
    model.stem.conv = type(conv)(1, conv.out_channels, conv.kernel_size, conv.stride, conv.padding, bias=False)


def replace_pool(model):
    model.head.global_pool = nn.Sequential(nn.AdaptiveMaxPool2d(1), nn.Flatten())


def change_eps(model):
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 0.1


def replace_forward(model):
    model.head.fc.forward = lambda x: x[:, :10]


REFUSED = {
    'classifier': (set_fc(lambda n: nn.Linear(n, 5)), r'returns 5 values.*call model\.reset_classifier\(5\)'),
    'sequential classifier': (set_fc(lambda n: nn.Sequential(nn.Dropout(), nn.Linear(n, 5))),
                              r'call model\.reset_classifier\(5\)'),
    'sequential classifier of the same width': (
        set_fc(lambda n: nn.Sequential(nn.Dropout(), nn.Linear(n, 10))), r'head\.fc.*reset_classifier\(10\)'),
    'classifier without bias': (set_fc(lambda n: nn.Linear(n, 10, bias=False)), r'head\.fc\.bias is missing'),
    'removed classifier': (set_fc(lambda n: nn.Identity()), r'call model\.reset_classifier\(0\)$'),
    'stem': (replace_stem, r'takes 1 channels, but model\.in_chans is 3.*in_chans=1'),
    'pool': (replace_pool, r"global pool was replaced.*global_pool='avg'"),
    'pruned weight': (lambda model: prune.l1_unstructured(model.head.fc, 'weight', 0.5),
                      r"prune\.remove\(model\.get_submodule\('head\.fc'\), 'weight'\)"),
    'parametrised weight': (lambda model: parametrizations.weight_norm(model.head.fc),
                            r"remove_parametrizations\(model\.get_submodule\('head\.fc'\), 'weight'\)"),
    'fewer cells': (lambda model: model.prune_intermediate_layers([0]), 'whose layers were replaced or removed'),
    'hook': (lambda model: model.head.fc.register_forward_hook(lambda module, args, output: 2 * output),
             r'head\.fc has a hook'),
    'forward': (replace_forward, r'head\.fc has a hook or a forward method of its own'),
    'epsilon': (change_eps, r'eps=0\.1.* instead of .*eps=1e-05'),
}


@pytest.mark.parametrize('name', REFUSED)
def test_changed_networks_are_refused_with_the_fix(name):
    model = network()
    change, message = REFUSED[name]
    change(model)
    with pytest.raises(ValueError, match=message):
        rebuildable_state(model)


def test_the_fixes_work():
    model = network()
    prune.l1_unstructured(model.head.fc, 'weight', 0.5)
    prune.remove(model.get_submodule('head.fc'), 'weight')
    parametrizations.weight_norm(model.head.fc)
    parametrize.remove_parametrizations(model.get_submodule('head.fc'), 'weight')
    trained_fc = nn.Linear(model.num_features, 5)
    model.reset_classifier(5)
    model.head.fc.load_state_dict(trained_fc.state_dict())
    assert torch.equal(rebuildable_state(model)['head.fc.weight'], trained_fc.weight)


@pytest.mark.parametrize('change', [
    lambda model: None,
    lambda model: model.half(),
    lambda model: model.to(memory_format=torch.channels_last),
    lambda model: setattr(model, 'aux_head', None),
    lambda model: timm.layers.freeze_batch_norm_2d(model),
    lambda model: nn.SyncBatchNorm.convert_sync_batchnorm(model),
    lambda model: model.reset_classifier(0, ''),
    lambda model: nn.init.constant_(model.head.fc.weight, float('nan')),
], ids=['unchanged', 'half', 'channels last', 'no auxiliary head', 'frozen norms', 'synchronised norms',
        'no classifier', 'not a number'])
def test_what_is_returned_fits_the_rebuilt_network(change):
    model = network(aux_head=True).train()
    change(model)
    model.stem.eval()
    modes = [module.training for module in model.modules()]
    state = rebuildable_state(model)
    assert [module.training for module in model.modules()] == modes
    rebuilt = compile_genotype(**model.config).to(next(model.parameters()).dtype)
    rebuilt.load_state_dict(state)
    images = torch.randn(2, 3, 16, 16, dtype=next(model.parameters()).dtype)
    with torch.no_grad():
        torch.testing.assert_close(rebuilt.eval()(images), model.eval()(images), equal_nan=True)


def test_a_wrapped_network_is_refused():
    with pytest.raises(TypeError, match=r'is a DataParallel, not a NASNet; pass the network that it wraps'):
        rebuildable_state(nn.DataParallel(trained(network())))

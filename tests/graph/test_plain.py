"""What decides what a module computes besides its class and its weights: baked in, or refused by name."""
import copy
import types
import warnings

import pytest
import torch
from timm.layers import freeze_batch_norm_2d
from torch import nn
from torch.nn.modules.module import register_module_forward_hook, register_module_full_backward_hook
from torch.nn.utils import fusion, parametrizations, parametrize, prune, spectral_norm, weight_norm

from helpers.networks import difference, small
from nasnet_zoo import export_onnx, optimize_for_inference
from nasnet_zoo.deploy.export import export_pt2
from nasnet_zoo.graph.lower import lower


def layers(model, *kinds):
    return [module for module in model.modules() if isinstance(module, kinds or (nn.Conv2d, nn.Linear))]


def relative_difference(model):
    """How far the module is from the network, which must not change in between."""
    x, state = torch.randn(2, 3, 16, 16), copy.deepcopy(model.state_dict())
    module = optimize_for_inference(model, check=False)
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    with torch.no_grad():
        return difference(module(x), model(x))


def pruned(amount=0.3):
    model = small('nasnet_a')
    for layer in layers(model):
        prune.l1_unstructured(layer, 'weight', amount)
    return model


def test_pruning_is_baked_in():
    model = pruned()
    state = {name: 1.5 * tensor if name.endswith('_orig') else tensor for name, tensor in model.state_dict().items()}
    model.load_state_dict(state)  # until the next forward, `weight` is that of the old state
    assert relative_difference(model) < 1e-5
    prune.random_unstructured(model.head.fc, 'weight', 0.5)  # a second time
    prune.random_unstructured(model.head.fc, 'bias', 0.5)
    assert relative_difference(model) < 1e-5


def test_files_are_pruned_too(tmp_path):
    model = pruned()
    model.load_state_dict({name: tensor.roll(1) if name.endswith('_mask') else tensor
                           for name, tensor in model.state_dict().items()})
    assert export_onnx(model, tmp_path / 'm.onnx').differences['random']['relative_difference'] < 1e-5
    assert export_pt2(model, tmp_path / 'm.pt2').differences['random']['relative_difference'] < 1e-5


class Doubled(nn.Module):
    def forward(self, x):
        return 2 * x


class LowRank(nn.Module):
    """An update of a weight as LoRA makes it."""

    def __init__(self, weight):
        super().__init__()
        rows = weight.flatten(1)
        self.a, self.b = (nn.Parameter(torch.randn(n, 1)) for n in rows.shape)

    def forward(self, weight):
        return weight + (self.a @ self.b.T).view_as(weight)


@pytest.mark.filterwarnings('ignore:`torch.nn.utils.(weight|spectral)_norm` is deprecated')
@pytest.mark.parametrize('change', [
    weight_norm, spectral_norm, parametrizations.weight_norm, parametrizations.spectral_norm,
    lambda layer: parametrize.register_parametrization(layer, 'weight', Doubled().eval()),
    lambda layer: parametrize.register_parametrization(layer, 'weight', LowRank(layer.weight).eval()),
])
def test_weights_that_something_makes_are_baked_in(change):
    model = small('nasnet_a')
    for layer in layers(model):
        change(layer)
    with torch.no_grad():
        model.train()(torch.randn(4, 3, 16, 16))  # the first forwards estimate the spectral norms
        for parameter in model.eval().parameters():
            parameter.mul_(1.1)
    assert relative_difference(model) < 1e-5


def test_compiled_modules_need_not_be_compiled():
    model = small('nasnet_a')
    model.cells[0].compile()
    lower(model)


def test_convolutions_that_pytorch_has_fused_with_their_norms():
    model = small('nasnet_a')
    for module in layers(model, nn.Sequential):
        for name, norm in [('pw1', 'bn1'), ('pw2', 'bn2'), ('conv', 'bn')]:
            if hasattr(module, name):
                setattr(module, name, fusion.fuse_conv_bn_eval(getattr(module, name), getattr(module, norm)))
                setattr(module, norm, nn.Identity())
    assert relative_difference(model) < 1e-5


def nothing(*args):
    """A hook that does nothing; nobody can know."""


@pytest.mark.parametrize('path', ['', 'stem', 'stem.conv', 'cells.0', 'cells.1.blocks.0', 'head.fc', 'head.drop'])
@pytest.mark.parametrize('register', ['register_forward_hook', 'register_forward_pre_hook'])
def test_hooks_are_refused_wherever_they_are(path, register):
    model = small('nasnet_a')
    handle = getattr(model.get_submodule(path), register)(nothing)
    with pytest.raises(TypeError, match=rf'^model{path and "."}{path}: has a forward hook \(nothing\), .* call remove'):
        lower(model)
    handle.remove()
    lower(model)


def test_hooks_for_all_modules():
    model = small('nasnet_a')
    handle = register_module_forward_hook(nothing)
    try:
        with pytest.raises(TypeError, match='^model: a forward hook for all modules is registered'):
            lower(model)
    finally:
        handle.remove()


def test_harmless_hooks():
    model = small('nasnet_a')
    handle = register_module_full_backward_hook(nothing)
    try:
        for module in model.modules():
            module.register_full_backward_hook(nothing)
            module.register_full_backward_pre_hook(nothing)
            module.register_state_dict_pre_hook(nothing)
            module.register_load_state_dict_pre_hook(nothing)
        model.head.fc.weight.register_hook(nothing)
        assert relative_difference(model) < 1e-5
    finally:
        handle.remove()


@pytest.mark.parametrize('path', ['', 'cells.0', 'cells.1.blocks.0.left', 'head.fc', 'head.global_pool'])
def test_a_replaced_forward_is_refused(path):
    model = small('nasnet_a')
    module = model.get_submodule(path)
    module.forward = types.MethodType(lambda self, *args: type(self).forward(self, *args), module)
    name = f'model{path and "."}{path}'
    with pytest.raises(TypeError, match=f'^{name}: its forward was replaced; .* `del {name}.forward`'):
        lower(model)
    del module.forward
    lower(model)


def test_another_replaced_method_of_a_layer():
    model = small('nasnet_a')
    conv = layers(model, nn.Conv2d)[0]
    conv._conv_forward = lambda x, weight, bias: 2 * nn.Conv2d._conv_forward(conv, x, weight, bias)
    with pytest.raises(TypeError, match=r'^model\.stem\.conv: its method _conv_forward was replaced'):
        lower(model)


@pytest.mark.parametrize('path, module, message', [
    ('head.fc', nn.Sequential(nn.Dropout(), nn.Linear(48, 5)), r'model\.head\.fc\.0: Dropout is in training mode'),
    ('head.fc', nn.Sequential(nn.BatchNorm1d(48), nn.Linear(48, 5)), r'model\.head\.fc\.0: BatchNorm1d is in training'),
    ('stem.bn', nn.BatchNorm2d(18), r'model\.stem\.bn: BatchNorm2d is in training mode; call model\.eval\(\) first'),
])
def test_modules_in_training_mode(path, module, message, tmp_path):
    model = small('nasnet_a')
    if path == 'head.fc':
        module[-1] = nn.Linear(model.head.fc.in_features, 7)
        if isinstance(module[0], nn.BatchNorm1d):
            module[0] = nn.BatchNorm1d(model.head.fc.in_features)
    model.set_submodule(path, module)
    for convert in (optimize_for_inference, lambda model: export_onnx(model, tmp_path / 'm.onnx')):
        with pytest.raises(ValueError, match=message):
            convert(model)
    assert relative_difference(model.eval()) < 1e-5


def test_layers_that_are_the_same_in_training_mode():
    model = small('nasnet_a')
    model.head.fc = nn.Sequential(nn.Linear(model.head.fc.in_features, 9), nn.ReLU(), nn.Linear(9, 7))
    freeze_batch_norm_2d(model)
    assert model.head.fc[0].training and model.stem.bn.training and not model.training
    assert relative_difference(model) < 1e-5


class PrunesInputs(prune.Identity):
    def __call__(self, module, inputs):
        return tuple(x.abs() for x in inputs)


def test_pruning_that_does_more_than_set_a_weight():
    model = small('nasnet_a')
    PrunesInputs.apply(model.head.fc, 'weight')
    with pytest.raises(TypeError, match=r'model\.head\.fc: has a forward hook \(PrunesInputs\)'):
        lower(model)


@pytest.mark.filterwarnings('ignore:`torch.nn.utils.spectral_norm` is deprecated')
def test_a_spectral_norm_in_training_mode():
    model = small('nasnet_a')
    model.head.fc = spectral_norm(nn.Linear(model.head.fc.in_features, 7))
    estimate = model.head.fc.weight_u.clone()
    with pytest.raises(ValueError, match=r'model\.head\.fc: Linear is in training mode'):
        lower(model)
    lower(model.eval())
    assert torch.equal(model.head.fc.weight_u, estimate)


def test_a_parametrization_in_training_mode():
    model = small('nasnet_a')
    parametrize.register_parametrization(model.head.fc, 'weight', Doubled())
    model.eval().head.fc.parametrizations.weight[0].train()
    with pytest.raises(ValueError, match=r'model\.head\.fc: Linear is in training mode'):
        lower(model)


@pytest.mark.parametrize('change, message', [
    (lambda m: m.head.fc.half(),
     r'model\.head\.fc: weight is torch\.float16 on cpu, but the first .* call model.to\(.cpu., torch.float32\)'),
    (lambda m: m.cells[0].to('meta'), r'model\.cells\.0\.\S+: weight is torch\.float32, torch\.strided on meta; only'),
    (lambda m: setattr(m.head, 'fc', nn.LazyLinear(7)), r'model\.head\.fc: LazyLinear has no weights yet; run the'),
    (lambda m: setattr(m.head.fc, 'weight', nn.Parameter(m.head.fc.weight.detach().to(torch.complex64))),
     r'model\.head\.fc: weight is torch\.complex64'),
    (lambda m: setattr(m.head.fc, 'weight', nn.Parameter(m.head.fc.weight.detach().to_sparse())),
     r'model\.head\.fc: weight is torch\.float32, torch\.sparse_coo'),
    (lambda m: setattr(m.head, 'fc', torch.ao.nn.quantized.Linear(m.head.fc.in_features, 7)),
     r'model\.head\.fc: Linear is '),
])
def test_weights_that_cannot_be_lowered(change, message):
    model = small('nasnet_a')
    change(model)
    with warnings.catch_warnings(), pytest.raises((TypeError, ValueError), match=message):
        warnings.simplefilter('ignore')
        lower(model)


class Wrapper(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.module = nn.ModuleDict(dict(net=model))


@pytest.mark.parametrize('wrap, message', [
    (nn.DataParallel, r'not a DataParallel; pass the network inside it, model\.module$'),
    (torch.compile, r'not a OptimizedModule; pass the network inside it, model\._orig_mod$'),
    (torch.optim.swa_utils.AveragedModel, r'not a AveragedModel; pass the network inside it, model\.module$'),
    (Wrapper, r'not a Wrapper; pass the network inside it, model\.module\.net$'),
    (lambda model: nn.Linear(1, 1), 'not a Linear$'),
    (lambda model: model.state_dict(), 'not a OrderedDict$'),
])
def test_wrappers(wrap, message):
    with pytest.raises(TypeError, match=message):
        lower(wrap(small('nasnet_a')))


def test_weights_are_copied():
    model = small('nasnet_a').double()
    x = torch.randn(1, 3, 16, 16, dtype=torch.float64)
    module = optimize_for_inference(model)
    with torch.no_grad():
        before = module(x)
        model.head.fc.weight.mul_(2)
        assert torch.equal(module(x), before)


def test_shared_parameters_and_modules():
    model = small('nasnet_a')
    first, second = [conv for conv in layers(model, nn.Conv2d) if conv.weight.shape == (6, 6, 1, 1)][:2]
    second.weight = first.weight
    norm = nn.BatchNorm2d(18).eval()
    model.stem.bn = nn.Sequential(model.stem.bn, norm, nn.ReLU(), norm).eval()
    assert relative_difference(model) < 1e-5

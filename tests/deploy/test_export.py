"""A trained network as a file, and what ONNX Runtime and PyTorch make of it."""
import json
import subprocess
import sys
from importlib.util import find_spec

import numpy as np
import onnx
import onnxruntime
import pytest
import timm
import torch

from helpers.networks import GENOTYPES, NAMES, difference, small, trained
from nasnet_zoo import compile_genotype
from nasnet_zoo.data import load_digits
from nasnet_zoo.data.preprocessing import METADATA_KEY, make_preprocessing
from nasnet_zoo.deploy import export
from nasnet_zoo.deploy.export import TARGET_KEY, ExportError, export_onnx, export_pt2
from nasnet_zoo.deploy.runtimes import open_session
from nasnet_zoo.graph.targets import ONNX_TARGETS
from nasnet_zoo.graph.to_onnx import newest_opset
from nasnet_zoo.training.recipe import Recipe
from nasnet_zoo.training.trainer import train as fit


def digit_network():
    model = small('nasnet_a', in_chans=1, img_size=8, num_classes=10)
    model.pretrained_cfg.update(mean=(0.3,), std=(0.4,))
    return model


def run(path, images):
    session = onnxruntime.InferenceSession(path, providers=['CPUExecutionProvider'])
    return torch.from_numpy(session.run(None, {'image': np.asarray(images)})[0])


def facts(path):
    proto = onnx.load(path)
    onnx.checker.check_model(proto, full_check=True)
    return proto, {entry.key: entry.value for entry in proto.metadata_props}


@pytest.mark.parametrize('name', NAMES)
def test_every_model_of_the_zoo(name, tmp_path):
    torch.manual_seed(0)
    args = dict(num_cells=1, cell_filters=8) if name != 'nasnet' else dict(genotype='nasnet_a', num_cells=1)
    model = trained(timm.create_model(name, **args, num_classes=11))
    preprocessing = make_preprocessing(model, img_size=(64, 65))  # what is written has been compared
    export_onnx(model, tmp_path / 'any.onnx', preprocessing, batch_size=None, dynamic_size=True)


@pytest.mark.parametrize('genotype', GENOTYPES)
def test_with_and_without_the_passes(genotype, tmp_path):
    model = small(genotype)
    x = torch.randn(1, 3, 17, 16)
    for passes in ([], None):
        export_onnx(model, tmp_path / 'm.onnx', make_preprocessing(model, img_size=(17, 16)), passes=passes)
        with torch.no_grad():
            assert difference(run(tmp_path / 'm.onnx', x), model(x)) < 1e-5


def test_any_size_is_any_size(tmp_path):
    model = small('nasnet_c', pool_padding='keras')
    export_onnx(
        model, tmp_path / 'any.onnx', make_preprocessing(model, img_size=64), batch_size=None, dynamic_size=True)
    for size in ((64, 64), (65, 71), (72, 47), (4, 4)):  # of the last, a single pixel is left
        x = torch.randn(3, 3, *size)
        with torch.no_grad():
            assert difference(run(tmp_path / 'any.onnx', x), model(x)) < 1e-5


@pytest.mark.parametrize('opset', sorted({15, 17, 18, 20, min(23, newest_opset()), newest_opset()}))
def test_opsets(opset, tmp_path):
    model = small('nasnet_c')
    preprocessing = make_preprocessing(model, img_size=16)
    calibration = np.random.default_rng(0).integers(0, 256, (1, 3, 16, 16), np.uint8)
    for kwargs in (dict(dynamic_size=True), dict(calibration=calibration))[:1 if 15 < opset < newest_opset() else 2]:
        export_onnx(model, tmp_path / 'm.onnx', preprocessing, opset=opset, **kwargs)
        proto, _ = facts(tmp_path / 'm.onnx')
        assert [(entry.domain, entry.version) for entry in proto.opset_import if not entry.domain] == [('', opset)]


def test_an_opset_that_is_too_new(tmp_path):
    assert 21 <= newest_opset() <= onnx.defs.onnx_opset_version()
    with pytest.raises(ValueError, match=f'opset: must be from 15 to {newest_opset()}, the newest that the installed'):
        export_onnx(digit_network(), tmp_path / 'm.onnx', opset=newest_opset() + 1)


@pytest.mark.parametrize('target', ONNX_TARGETS)
def test_targets(target, tmp_path):
    model = small('nasnet_a')
    preprocessing = make_preprocessing(model, img_size=16)
    calibration = np.random.default_rng(0).integers(0, 256, (2, 3, 16, 16), np.uint8)
    x = torch.randn(1, 3, 16, 16)
    for images in (None, calibration):
        exported = export_onnx(model, tmp_path / 'm.onnx', preprocessing, target=target, calibration=images)
        assert facts(exported.path)[1][TARGET_KEY] == target
        assert exported.runtime == (ONNX_TARGETS[target].runtime if find_spec('openvino') else 'onnxruntime')
        with torch.no_grad():  # every runtime runs it; here, that of the default target
            assert difference(run(exported.path, x), model(x)) < (1e-5 if images is None else 0.2)


@pytest.mark.parametrize('genotype, kwargs', [
    ('nasnet_a', {}), ('nasnet_c', dict(stem='imagenet')), ('pnasnet5', {}), ('amoebanet_a', dict(num_classes=3))])
def test_onnxslim_finds_nothing_to_remove(genotype, kwargs, tmp_path):
    onnxslim = pytest.importorskip('onnxslim', reason='onnxslim is not installed')
    model = small(genotype, **kwargs)
    for settings in (dict(img_size=32), dict(img_size=32, with_preprocessing=True, softmax=True)):
        export_onnx(model, tmp_path / 'm.onnx', make_preprocessing(model, **settings))
        before, after = onnx.load(tmp_path / 'm.onnx').graph, onnxslim.slim(str(tmp_path / 'm.onnx')).graph
        assert len(after.node) == len(before.node)
        assert sorted(tuple(tensor.dims) for tensor in after.initializer) == sorted(
            tuple(tensor.dims) for tensor in before.initializer)


def test_the_file_says_what_it_takes(tmp_path):
    model = digit_network()
    preprocessing = make_preprocessing(model, list('abcdefghij'), mean=[0.25], std=[0.5])
    exported = export_onnx(model, tmp_path / 'm.onnx', preprocessing, metadata=dict(license='mit'))
    proto, metadata = facts(exported.path)
    assert [i.name for i in proto.graph.input] == ['image'] and [o.name for o in proto.graph.output] == ['logits']
    assert exported.shapes == dict(image=[1, 1, 8, 8], logits=[1, 10])
    assert metadata['license'] == 'mit'
    read = json.loads(metadata[METADATA_KEY])
    assert read == {**read, **dict(input_size=[1, 8, 8], mean=[0.25], std=[0.5], class_names=list('abcdefghij'),
                                   layout='NCHW', dtype='float32', output='logits', color_order='L')}
    assert not {node.op_type for node in proto.graph.node} & {'BatchNormalization', 'Pad', 'Slice'}


def test_half(tmp_path):
    model = small('nasnet_a')
    exported = export_onnx(model, tmp_path / 'm.onnx', make_preprocessing(model, img_size=16), half=True)
    proto, _ = facts(exported.path)
    kinds = {tensor.data_type for tensor in proto.graph.initializer}
    assert kinds == {onnx.TensorProto.FLOAT16} and proto.graph.input[0].type.tensor_type.elem_type == 1
    assert 1e-6 < exported.differences['random']['relative_difference'] < 1e-2


@pytest.mark.parametrize('stem', ['imagenet', 'cifar'])  # one pads, and cannot take the normalisation in
def test_preprocessing_and_softmax(stem, tmp_path):
    model = small('nasnet_a', stem=stem)
    preprocessing = make_preprocessing(model, mean=[0.4, 0.5, 0.6], std=[0.2, 0.3, 0.1], img_size=48, softmax=True,
                             with_preprocessing=True)
    export_onnx(model, tmp_path / 'm.onnx', preprocessing, batch_size=None)
    images = torch.randint(256, (3, 48, 48, 3), dtype=torch.uint8)
    x = (images.permute(0, 3, 1, 2) / 255. - torch.tensor(preprocessing.mean).view(3, 1, 1)) / torch.tensor(
        preprocessing.std).view(3, 1, 1)
    with torch.no_grad():
        assert difference(run(tmp_path / 'm.onnx', images), model(x).softmax(1)) < 1e-5
    proto, _ = facts(tmp_path / 'm.onnx')
    assert [node.op_type for node in proto.graph.node].count('Mul') == (0 if stem == 'imagenet' else 1)


def test_int8(tmp_path):
    pytest.importorskip('sklearn', reason='the digits come with scikit-learn')
    train, test = load_digits()
    torch.manual_seed(0)
    model = fit(compile_genotype('nasnet_a', num_cells=1, cell_filters=6, stem='cifar', img_size=8, in_chans=1,
                                 num_classes=10), train, Recipe(epochs=2, batch_size=64, lr=0.1))
    preprocessing = make_preprocessing(model, test.class_names, test.mean, test.std)
    sizes = []
    for name in ('a', 'b'):
        exported = export_onnx(model, tmp_path / name, preprocessing, batch_size=None,
                               calibration=train.images[:64].numpy(), pictures=test.images[:200].numpy())
        sizes.append((tmp_path / name).read_bytes())
    assert sizes[0] == sizes[1]
    assert exported.differences['pictures']['same_top1'] >= 180
    proto, _ = facts(exported.path)
    assert 'QuantizeLinear' in {node.op_type for node in proto.graph.node}
    export_onnx(model, tmp_path / 'float', preprocessing, batch_size=None)
    assert len(sizes[0]) < (tmp_path / 'float').stat().st_size


def test_same_bytes(tmp_path):
    for name in ('a', 'b'):
        export_onnx(small('nasnet_a'), tmp_path / name, make_preprocessing(small('nasnet_a'), img_size=16))
    assert (tmp_path / 'a').read_bytes() == (tmp_path / 'b').read_bytes()


def test_a_program_needs_nothing_of_ours(tmp_path):
    model = small('nasnet_a')
    export_pt2(model, tmp_path / 'm.pt2', make_preprocessing(model, img_size=16), batch_size=None)
    x = torch.randn(3, 3, 16, 16)
    with torch.no_grad():
        torch.save(model(x), tmp_path / 'expected.pt')
    torch.save(x, tmp_path / 'x.pt')
    code = f'''
import sys, torch
sys.modules['nasnet_zoo'] = sys.modules['timm'] = None
extra = {{{METADATA_KEY!r}: ''}}
model = torch.export.load(r'{tmp_path}/m.pt2', extra_files=extra).module()
x, expected = (torch.load(rf'{tmp_path}/{{name}}.pt') for name in ('x', 'expected'))
with torch.no_grad():
    assert (model(x) - expected).norm() < 1e-5 * expected.norm()
assert 'input_size' in extra[{METADATA_KEY!r}]
'''
    subprocess.run([sys.executable, '-c', code], check=True)


@pytest.mark.slow
def test_a_program_for_any_size(tmp_path):
    model = small('nasnet_a')  # whose strided average pools leave more or less padding out
    export_pt2(model, tmp_path / 'm.pt2', make_preprocessing(model, img_size=32), batch_size=None, dynamic_size=True)
    program = torch.export.load(tmp_path / 'm.pt2').module()
    for size in ((1, 32, 32), (3, 33, 31), (2, 47, 34)):
        x = torch.randn(size[0], 3, *size[1:])
        with torch.no_grad():
            assert difference(program(x), model(x)) < 1e-5


def test_a_file_that_computes_something_else_is_not_written(tmp_path, monkeypatch):
    model = digit_network()
    wrong = digit_network()
    with torch.no_grad():
        wrong.head.fc.bias += 0.1
    monkeypatch.setattr(export, 'lower', lambda _, lower=export.lower: lower(wrong))
    with pytest.raises(ExportError, match=(
        "on random images, the relative difference from the network's outputs is .*; the file is not written")):
        export_onnx(model, tmp_path / 'm.onnx')
    assert not list(tmp_path.iterdir())


def test_a_file_that_onnx_runtime_does_not_take_is_not_written(tmp_path, monkeypatch):
    monkeypatch.setattr(export, 'open_session', lambda name, content: open_session(name, content[:-9]))
    with pytest.raises(ExportError, match='m.onnx: ONNX Runtime cannot run the file: .*INVALID_PROTOBUF'):
        export_onnx(digit_network(), tmp_path / 'm.onnx')
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('kwargs, message', [
    (dict(opset=14), 'opset: must be from 15 to .*, not 14'),
    (dict(target='onnx'), "target: unknown target 'onnx'; known: onnxruntime, openvino, web, any"),
    (dict(half=True, calibration=np.zeros((1, 1, 8, 8), np.uint8)),
     'int8: cannot be combined with half or dynamic_size'),
    (dict(passes=['fold']), "passes: unknown pass 'fold'; known: drop_zeros"),
])
def test_what_cannot_be_exported(kwargs, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        export_onnx(digit_network(), tmp_path / 'm.onnx', **kwargs)
    assert not list(tmp_path.iterdir())


def test_names_by_number():
    model = digit_network()
    model.pretrained_cfg['label_names'] = {str(9 - i): name for i, name in enumerate('abcdefghij')}
    assert make_preprocessing(model).class_names == list('jihgfedcba')


@pytest.mark.parametrize('changes, kwargs, message', [
    (dict(class_names=['a'] * 9), {}, (
        'preprocessing: has 1 channels and 9 class names, but the network has 1 channels and 10 outputs')),
    (dict(layout='NHWC'), {}, 'not NHWC, float32 and L'),
    (dict(color_order='BGR'), {}, 'not NCHW, float32 and BGR'),
    ({}, dict(batch_size=0), 'batch_size: must be 1 or more, or None for any number, not 0'),
    ({}, dict(pictures=np.zeros((2, 1, 8, 8), np.float32)), r'pictures: must be uint8 \[N, 1, 8, 8\], not float32'),
    ({}, dict(calibration=np.zeros((0, 1, 8, 8), np.uint8)), 'calibration: contains no images'),
])
def test_what_does_not_fit_the_network(changes, kwargs, message, tmp_path):
    model = digit_network()
    preprocessing = make_preprocessing(model).model_copy(update=changes)
    with pytest.raises(ValueError, match=message):
        export_onnx(model, tmp_path / 'm.onnx', preprocessing, **kwargs)
    assert not list(tmp_path.iterdir())


def test_what_is_no_contract(tmp_path):
    model = digit_network()
    with pytest.raises(ValueError, match='3 names for 10 classes'):
        make_preprocessing(model, ['a', 'b', 'c'])
    with pytest.raises(ValueError, match='mean: must be 1 numbers, one for each channel'):
        make_preprocessing(model, mean=[0., 0., 0.])
    with pytest.raises(ValueError, match='^input_size: input should be greater than or equal to 1, not 0'):
        make_preprocessing(model, img_size=0)
    with pytest.raises(ValueError, match='2 x 2 pixels are too small for the stem'):
        make_preprocessing(small('nasnet_a', stem='imagenet'), img_size=2)
    with pytest.raises(ValueError, match=r'model: is in torch.float16; call model.float\(\) first'):
        export_onnx(digit_network().half(), tmp_path / 'm.onnx')
    with pytest.raises(ValueError, match='model: returns feature maps'):
        export_onnx(small('nasnet_a', num_classes=0, global_pool=''), tmp_path / 'm.onnx')
    with pytest.raises(ValueError, match='training mode'):
        export_onnx(model.train(), tmp_path / 'm.onnx')
    with pytest.raises(ValueError, match='pt2: a program takes normalised images'):
        export_pt2(model.eval(), tmp_path / 'm.pt2', make_preprocessing(model, softmax=True))

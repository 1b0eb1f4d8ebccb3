"""Folders to deploy, and the command that writes them."""
import hashlib
import json
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from helpers.paths import ROOT
from nasnet_zoo import Classifier, load_genotype
from nasnet_zoo.checkpoints.load import load_foreign_weights
from nasnet_zoo.cli.main import app
from nasnet_zoo.deploy.bundle import deploy, load_checkpoint, load_trained
from nasnet_zoo.deploy.config import ExportConfig
from nasnet_zoo.hub.publish import prepare

MODEL = 'nasnet_c_cifar_small'


@pytest.fixture(scope='module')
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp('pictures')
    noise = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), np.uint8)
    for i, values in enumerate(noise):
        Image.fromarray(values).resize((48, 40), Image.Resampling.BICUBIC).save(folder / f'{i:02}.png')
    return folder


def export_to(folder, command=(), **settings):
    return deploy(ExportConfig(**{**dict(source=MODEL), **settings, 'out': folder}), command)


def tree(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob('*') if path.is_file()}


def test_a_plain_folder(tmp_path, pictures):
    manifest = export_to(tmp_path, pictures=[pictures], timestamp='2026-01-01', command=['x'])
    files = tree(tmp_path)
    assert set(files) == {'model.onnx', 'labels.txt', 'genotype.json', 'manifest.json'}
    assert json.loads(files['manifest.json']) == manifest
    config = ExportConfig.model_validate_json(json.dumps(dict(manifest['config'], out=str(tmp_path))))
    assert config == ExportConfig(source=MODEL, out=tmp_path, pictures=[pictures], timestamp='2026-01-01')
    assert manifest['file']['sha256'] == hashlib.sha256(files['model.onnx']).hexdigest()
    weights = load_trained(MODEL)[1]
    assert manifest['weights']['sha256'] == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert manifest['weights']['accuracy']['top1'] > 0.8
    assert manifest['compared_with_pytorch']['pictures']['count'] == 40
    assert manifest['compared_with_pytorch']['pictures']['relative_difference'] < 1e-5
    assert {'torch', 'onnx', 'onnxruntime', 'nasnet-zoo'} <= set(manifest['versions'])
    assert files['labels.txt'].decode().splitlines() == Classifier(tmp_path / 'model.onnx').class_names
    assert load_genotype(tmp_path / 'genotype.json').to_dict() == load_genotype('nasnet_c').to_dict()


def test_what_fails_leaves_what_is_there(tmp_path, monkeypatch):
    export_to(tmp_path)
    before = tree(tmp_path)
    monkeypatch.setattr('nasnet_zoo.deploy.bundle.sha256', lambda path: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        export_to(tmp_path, opset=18)
    assert tree(tmp_path) == before


@pytest.mark.parametrize('source, name', [
    ('runs/v1.5', 'v1.5'), ('runs/mine/model.safetensors', 'mine'), ('local-dir:runs/mine', 'mine'),
    ('hf-hub:me/cells@main', 'cells'), ('nasnet_a_large', 'nasnet_a_large'), ('cells.json', 'cells')])
def test_what_a_model_is_called(source, name):
    assert ExportConfig(source=source, out='x').model_name == name


@pytest.mark.parametrize('options', [{}, dict(precision='float16'), dict(precision='int8', calibrate=8)])
def test_same_inputs_same_bytes(options, tmp_path, pictures):
    for name in ('a', 'b'):
        export_to(tmp_path / name, pictures=[pictures], timestamp='2026-01-01T00:00:00+00:00', **options)
    assert tree(tmp_path / 'a') == tree(tmp_path / 'b')


def test_photoprism(tmp_path):
    export_to(tmp_path, layout='photoprism', name='cells')
    assert {'cells/cells.onnx', 'cells/labels.txt'} <= set(tree(tmp_path))
    proto = onnx.load(tmp_path / 'cells' / 'cells.onnx')
    found = {entry.key: entry.value for entry in proto.metadata_props}
    entries = {key.split('.', 1)[1]: value for key, value in found.items() if key.startswith('photoprism.')}
    preprocessing = Classifier(tmp_path / 'cells' / 'cells.onnx').preprocessing
    assert json.loads(entries.pop('mean')) == pytest.approx([255 * value for value in preprocessing.mean])
    assert json.loads(entries.pop('std_dev')) == pytest.approx([255 * value for value in preprocessing.std])
    assert entries == dict(
        license='apache-2.0', source=MODEL, quantization='float32', input_name='image', output_name='logits',
        input_width='32', input_height='32', output_width='10', output_count='1', outputs_logits='true',
        layout='NCHW', color_order='RGB', resize_mode='center-crop', resize_short_edge='32', crop_ratio='1.0',
        interpolation='bicubic')
    assert [entry.version for entry in proto.opset_import] == [17]


def test_checkpoint_of_a_training_program(tmp_path):
    trained, _ = load_trained(MODEL)
    trained.reset_classifier(7)
    checkpoint = {'state_dict': {f'module.{name}': tensor for name, tensor in trained.state_dict().items()},
                  'state_dict_ema': {name: tensor + 1 for name, tensor in trained.state_dict().items()},
                  'args': Namespace(model=MODEL), 'optimizer': {'state': {0: torch.ones(1)}}}
    torch.save(checkpoint, tmp_path / 'model_best.pth.tar')
    manifest = export_to(tmp_path / 'out', checkpoint=tmp_path, checkpoint_entry='state_dict')
    assert manifest['shapes']['logits'] == [1, 7]  # the number of classes is that of the weights
    assert manifest['weights']['file'] == 'model_best.pth.tar' and manifest['weights']['entry'] == 'state_dict.module'
    model, found = load_checkpoint(MODEL, tmp_path / 'model_best.pth.tar')
    assert found.is_averaged and found.others == ('state_dict.module',) and found.unused == ('optimizer',)
    assert torch.equal(model.stem.conv.weight, trained.stem.conv.weight + 1)
    with pytest.raises(ValueError, match='--checkpoint-entry: needs --checkpoint'):
        export_to(tmp_path / 'out', checkpoint_entry='state_dict')
    trained.reset_classifier(0)
    torch.save(trained.state_dict(), tmp_path / 'headless.pth')
    with pytest.raises(ValueError, match='headless.pth: has no classifier'):
        load_checkpoint(MODEL, tmp_path / 'headless.pth')


def test_weights_from_elsewhere(tmp_path):
    model, weights = load_trained(MODEL)
    torch.save(model.state_dict(), tmp_path / 'other.pth')
    with pytest.raises(ValueError, match='export MODEL --checkpoint .*other.pth'):
        load_trained(str(tmp_path / 'other.pth'))
    manifest = export_to(tmp_path / 'out', checkpoint=tmp_path / 'other.pth', mean=[0.1, 0.2, 0.3])
    assert manifest['weights']['file'] == 'other.pth' and manifest['weights']['accuracy'] is None
    # What MODEL's own weights are, others need not be.
    assert manifest['license'] == 'unknown' and manifest['preprocessing']['mean'] == [0.1, 0.2, 0.3]
    assert Classifier(tmp_path / 'out' / 'model.onnx').class_names == [str(i) for i in range(10)]
    folder = prepare(MODEL, tmp_path / 'folder', 'me/cells', onnx=True)
    assert Classifier(folder / 'model.onnx').class_names[0] == 'airplane'
    for source in (folder, folder / 'model.safetensors'):
        other, _ = load_trained(str(source))
        assert all(torch.equal(a, b) for a, b in zip(other.state_dict().values(), model.state_dict().values()))
    load_foreign_weights(other, tmp_path / 'other.pth')


@pytest.mark.parametrize('options, message', [
    (dict(layout='tf'), "unknown layout 'tf'; known: plain, web, openvino, triton, triton-openvino, photoprism"),
    (dict(format='tflite'), "unknown format 'tflite'; did you mean 'litert'"),
    (dict(precision='float8'), "unknown precision 'float8'; did you mean 'float"),
    (dict(passes=['fold_norm']), "unknown pass 'fold_norm'; did you mean 'fold_norms'"),
    (dict(layout='triton', batch_size=1), 'cannot be combined with --dynamic-batch or --layout triton'),
    (dict(layout='triton', format='pt2'), 'layout triton: needs format to be onnx, not pt2'),
    (dict(layout='photoprism', softmax=True), 'layout photoprism: needs softmax to be False, not True'),
    (dict(layout='photoprism', batch_size=2), 'layout photoprism: needs batch_size to be 1, not 2'),
    (dict(format='pt2', precision='float16'), 'format pt2: can be written in float32, not in float16'),
    (dict(format='pt2', data='digits'), 'format pt2: its accuracy cannot be measured'),
    (dict(precision='int8'), 'int8: needs images like those that the network will see'),
    (dict(name='../x', layout='photoprism'), "name: '../x' cannot be the name of a folder"),
    (dict(data='digits'), r'the model takes images of \(3, 32, 32\), but digits train has \(1, 8, 8\)'),
    (dict(class_names=['a'] * 9), 'class_names: 9 names for 10 classes'),
    (dict(class_names=['a'] * 9 + ['b\x85c']),
     r"class_names: 'b\\x85c' is not a single line of text, as labels.txt needs"),
])
def test_what_does_not_go_together(options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        export_to(tmp_path / 'out', **options)
    assert not (tmp_path / 'out').exists()


def export(*args):
    return CliRunner().invoke(app, ['export', *map(str, args)])


def test_the_command(tmp_path, pictures):
    done = export(MODEL, '--out', tmp_path, '--int8', '--calibrate', 8, '--pictures', pictures, '--softmax', '--json')
    manifest = json.loads(done.stdout)
    assert manifest['precision'] == 'int8' and manifest['compared_with_pytorch']['pictures']['count'] == 32
    assert 'relative difference from PyTorch' in export(MODEL, '--out', tmp_path, '--passes', 'none').stdout
    for args, message in (
            ((MODEL, '--half', '--int8'), 'choose one'),
            ((MODEL, '--batch-size', 2, '--layout', 'triton'),
             'cannot be combined with --dynamic-batch or --layout triton'),
            ((MODEL, '--labels', pictures / 'none'), 'No such file'),
            (('nasnet_a_cifar',), 'nasnet_a_cifar'),
            ((MODEL, '--pictures', pictures / 'none'), 'there is no such file or folder'),
            (('nasnet_a',), 'is a genotype, which has no weights')):
        done = export(*args, '--out', tmp_path / 'new')
        assert done.exit_code == 1 and done.stderr.startswith('error: ') and message in done.stderr
    assert not Path(tmp_path / 'new').exists()


def test_a_program_of_pytorch(tmp_path):
    pytest.importorskip('sklearn', reason='two photos come with scikit-learn')
    manifest = export_to(tmp_path, format='pt2')
    assert manifest['file']['path'] == 'model.pt2' and (tmp_path / 'model.pt2').exists()
    assert manifest['compared_with_pytorch']['pictures']['count'] == 2  # by default


GUIDE = (ROOT / 'docs' / 'deployment.md').read_text(encoding='utf-8')
CODE = [block.split('```')[0] for block in GUIDE.split('```python\n')[1:]]


def test_the_code_that_runs_a_file_without_this_package(tmp_path, pictures):
    (code,) = (block for block in CODE if 'sys.argv' in block)
    export_to(tmp_path)
    picture = sorted(pictures.iterdir())[0]
    blocked = "import sys; sys.modules.update(dict.fromkeys(['nasnet_zoo', 'torch', 'timm']))\n"
    done = subprocess.run([sys.executable, '-c', blocked + code, tmp_path / 'model.onnx', picture],
                          capture_output=True, text=True, check=True)
    classifier = Classifier(tmp_path / 'model.onnx')
    (expected,) = classifier.predict([picture], top=1)
    assert done.stdout.strip() == classifier.class_names[expected.top[0][0]]


def test_the_commands_and_the_code_of_the_guide(tmp_path, pictures, monkeypatch):
    """All but what needs published weights or other data; the code runs after the commands, whose files it reads."""
    pytest.importorskip('openvino', reason='the guide writes its files')
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'photos').symlink_to(pictures)
    for name in ('one_more.jpg', 'a.jpg', 'b.png'):
        Image.open(pictures / '00.png').save(name)
    prepare(MODEL, tmp_path / 'runs' / 'mine', 'me/mine')
    (tmp_path / 'labels.txt').write_text(''.join(f'{i}\n' for i in range(10)), encoding='utf-8')
    proto = onnx.load(export_to(tmp_path, img_size=224) and 'model.onnx')
    del proto.metadata_props[:]
    onnx.save(proto, 'other.onnx')
    commands = [line.split(' > ')[0].split() for line in GUIDE.replace('\\\n', ' ').splitlines()
                if line.startswith('    nasnet-zoo ')
                and not any(text in line for text in ('nasnetalarge', '--data', '--precision', '--runtime'))]
    assert len(commands) == 10
    for _, *arguments in commands:
        done = CliRunner().invoke(app, arguments)
        assert done.exit_code == 0, (arguments, done.output)
    for code in CODE:
        if 'sys.argv' not in code:
            exec(code, {})
    assert {'deploy/model.pt2', 'repository/cells/config.pbtxt', 'models/cells/cells.onnx', 'model.onnx'} <= set(
        tree(tmp_path))

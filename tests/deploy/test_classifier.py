"""From a file to labels: pictures of all kinds, files from elsewhere."""
import io
import json
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from timm.data import create_transform
from typer.main import get_command
from typer.testing import CliRunner

from nasnet_zoo import compile_genotype
from nasnet_zoo.cli.main import app
from nasnet_zoo.data.pictures import find_pictures
from nasnet_zoo.data.preprocessing import METADATA_KEY, Preprocessing, make_preprocessing
from nasnet_zoo.deploy.classifier import OPTIONS, Classifier
from nasnet_zoo.deploy.export import export_onnx

NAMES = ['red', 'green', 'blue']


def preprocessing(**changes):
    return Preprocessing(**{**dict(
        input_size=[3, 16, 16], mean=[0.5] * 3, std=[0.25] * 3, crop_pct=0.8, class_names=NAMES), **changes})


def color_file(path, metadata=None, batch='n', layout='NCHW', outputs=3, dtype=TensorProto.FLOAT):
    """A file that tells which colour a picture has most of."""
    shape = [batch, 3, 16, 16] if layout == 'NCHW' else [batch, 16, 16, 3]
    weight = np.eye(3, outputs, dtype=np.float32) * 10
    nodes = [helper.make_node('Cast', ['image'], ['f'], to=TensorProto.FLOAT),
             helper.make_node('ReduceMean', ['f'], ['m'], axes=[2, 3] if layout == 'NCHW' else [1, 2], keepdims=0),
             helper.make_node('Gemm', ['m', 'w'], ['logits'])]
    graph = helper.make_graph(
        nodes, 'colors', [helper.make_tensor_value_info('image', dtype, shape)],
        [helper.make_tensor_value_info('logits', TensorProto.FLOAT, [batch, outputs])],
        [numpy_helper.from_array(weight, 'w')])
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid('', 17)], ir_version=8)
    if metadata:
        helper.set_model_props(proto, {METADATA_KEY: metadata if isinstance(metadata, str) else metadata.to_json()})
    onnx.save(proto, path)
    return path


def plain(color, size=(40, 30), mode='RGB'):
    return Image.new('RGB', size, color).convert(mode)


@pytest.fixture
def folder(tmp_path):
    """Pictures that can be classified, in folder/good, and such that cannot, in folder/bad."""
    good, bad = tmp_path / 'good', tmp_path / 'bad'
    (good / 'below').mkdir(parents=True)
    bad.mkdir()
    plain('red').save(good / 'red.png')
    plain('blue').save(good / 'below' / 'blue.jpg')
    plain('lime', mode='CMYK').save(good / 'green-cmyk.jpg')
    plain('red', (1, 1)).save(good / 'red-pixel.png')
    plain('blue').convert('P').save(good / 'blue-palette.gif')
    plain('red').convert('RGBA').save(good / 'red-alpha.png')
    turned = Image.new('RGB', (40, 40), 'blue')  # red where an upright one has its top
    turned.paste('red', (0, 0, 20, 40))
    exif = Image.Exif()
    exif[0x0112] = 6
    turned.save(good / 'red-top.jpg', exif=exif, quality=95)
    (good / 'notes.txt').write_text('no picture', encoding='utf-8')
    whole = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(whole, 'png')
    (bad / 'truncated.png').write_bytes(whole.getvalue()[:900])
    (bad / 'text.jpg').write_text('no picture', encoding='utf-8')
    (bad / 'empty.png').write_bytes(b'')
    plain('red', (1, 5000)).save(bad / 'narrow.png')
    return tmp_path


def test_pictures_of_all_kinds(folder):
    classifier = Classifier(color_file(folder / 'm.onnx', preprocessing()))
    found = list(classifier.predict(find_pictures([folder / 'good'])[0], top=1, batch_size=3))
    assert len(found) == 7
    for prediction in found[:-1]:
        if prediction.path.stem != 'red-top':
            assert NAMES[prediction.top[0][0]] == prediction.path.stem.split('-')[0], prediction
    prepared = preprocessing().prepare(Image.open(folder / 'good' / 'red-top.jpg'))
    assert prepared[0, 0].mean() > 200 > 60 > prepared[0, -1].mean()  # upright


def test_sixteen_bits(folder):
    values = np.full((20, 20), 40_000, np.uint16)
    Image.fromarray(values).save(folder / 'grey.png')
    assert abs(int(preprocessing().prepare(Image.open(folder / 'grey.png')).max()) - 156) <= 1


def test_a_hundred_megapixels(folder):
    Image.new('RGB', (12_000, 8_500), 'blue').save(folder / 'huge.png', compress_level=1)
    classifier = Classifier(color_file(folder / 'm.onnx', preprocessing()))
    (prediction,) = classifier.predict([folder / 'huge.png'])
    assert NAMES[prediction.top[0][0]] == 'blue'


def test_what_cannot_be_read_is_refused_by_name(folder):
    classifier = Classifier(color_file(folder / 'm.onnx', preprocessing()))
    paths = find_pictures([folder / 'bad', folder / 'good' / 'notes.txt', folder / 'good' / 'red.png'])[0]
    found = {p.path.name: p for p in classifier.predict(paths, batch_size=2)}
    assert found.pop('red.png').top[0][0] == 0
    assert set(found) == {'truncated.png', 'text.jpg', 'empty.png', 'narrow.png', 'notes.txt'}
    assert all(p.top is None and p.reason for p in found.values())
    assert found['narrow.png'].reason == '1 x 5000 pixels are too long and narrow'


@pytest.mark.parametrize('interpolation', ['bilinear', 'bicubic', 'lanczos'])
@pytest.mark.parametrize('size', [(16, 16), (12, 20)])
def test_prepared_as_timm_does(interpolation, size):
    noise = np.random.default_rng(0).integers(0, 256, (47, 61, 3), np.uint8)
    for image in (Image.fromarray(noise), Image.new('RGB', (1, 1), 'red')):
        ours = preprocessing(interpolation=interpolation, input_size=[3, *size])
        expected = create_transform((3, *size), mean=ours.mean, std=ours.std, crop_pct=ours.crop_pct,
                                    interpolation=interpolation)(image)
        got = ours.normalized(ours.prepare(image)[None])[0]
        assert np.abs(got - expected.numpy()).max() < 1e-6


def test_a_fixed_batch(folder):
    images = np.random.default_rng(0).integers(0, 256, (7, 3, 16, 16), np.uint8)
    free = Classifier(color_file(folder / 'free.onnx', preprocessing()))
    fixed = Classifier(color_file(folder / 'fixed.onnx', preprocessing(), batch=4))
    assert fixed.batch_size == 4 and free.batch_size is None
    assert np.allclose(free.logits(images), fixed.logits(images))
    assert len(list(fixed.predict(find_pictures([folder / 'good'])[0]))) == 7


def test_files_from_elsewhere(folder):
    path = color_file(folder / 'm.onnx', layout='NHWC')
    with pytest.raises(ValueError, match=r'm.onnx: has no nasnet_zoo.preprocessing .* \(--labels'):
        Classifier(path)
    given = preprocessing(layout='NHWC', color_order='BGR', class_names=NAMES[::-1])
    (prediction,) = Classifier(path, preprocessing=given).predict([folder / 'good' / 'red.png'])
    assert given.class_names[prediction.top[0][0]] == 'red'
    assert sum(share for _, share in prediction.top) == pytest.approx(1)


@pytest.mark.parametrize('metadata, outputs, message', [
    (preprocessing(class_names=['a', 'b']), 3, 'the output has 3 numbers for an image, but there are 2 class names'),
    ('{"format": 1}', 3, 'input_size: field required'),
    ('{', 3, 'the preprocessing, from the metadata and the options, is not valid'),
    ('[' * 100_000, 3, 'the preprocessing, from the metadata and the options, is not valid: maximum recursion depth'),
    (f'{{"{"9" * 10_000}": 1}}', 3, f"unexpected argument '{'9' * 59}…; known: format"),
    (preprocessing(input_size=[3, 8, 8]), 3, '[any, 3, 16, 16], not float32 [2, 3, 8, 8]; pass --img-size'),
    (preprocessing().to_json().replace('[0.5, 0.5, 0.5]', '[0.5]'), 3,
     'mean: must be 3 numbers, one for each channel, not [0.5]'),
    (preprocessing().to_json().replace('0.25', '0.0'), 3, 'std: input should be greater than 0, not 0.0'),
])
def test_what_does_not_fit_is_refused(folder, metadata, outputs, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        Classifier(color_file(folder / 'm.onnx', metadata, outputs=outputs), 'cpu')


def outputs_to(path, *nodes, input_type=TensorProto.FLOAT, output_type=None):
    """A file for images of any number that does not return a row for each of them."""
    output = helper.make_tensor_value_info('out', TensorProto.FLOAT, None)
    output.type.CopyFrom(output_type or output.type)
    graph = helper.make_graph(
        [helper.make_node('Constant', [], ['one_row'], value=numpy_helper.from_array(np.array([1, -1]), 'one_row')),
         *nodes], 'other', [helper.make_tensor_value_info('image', input_type, ['n', 3, 16, 16])], [output])
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid('', 17)], ir_version=8)
    helper.set_model_props(proto, {METADATA_KEY: preprocessing().to_json()})
    onnx.save(proto, path)
    return path


@pytest.mark.parametrize('nodes, types, message', [
    ([('Reshape', ['image', 'one_row'], ['out'])], {}, r'for 2 images, the output is a tensor of shape \[1, 1536\]'),
    ([('ReduceMean', ['image'], ['out'])], dict(keepdims=0), r'for 2 images, the output is a tensor of shape \[\]'),
    ([('SequenceConstruct', ['image'], ['out'])], dict(
        output_type=helper.make_sequence_type_proto(helper.make_tensor_type_proto(TensorProto.FLOAT, None))),
        'the output is no tensor'),
    ([('Shape', ['image'], ['s']), ('Cast', ['s'], ['out'])], dict(to=1, input_type=TensorProto.STRING),
     r'the input is of type tensor\(string\); it must be an image')])
def test_outputs_and_inputs_of_another_kind(tmp_path, nodes, types, message):
    attributes = {name: types.pop(name) for name in ('keepdims', 'to') if name in types}
    nodes = [helper.make_node(*node, **(attributes if node == nodes[-1] else {})) for node in nodes]
    path = outputs_to(tmp_path / 'other.onnx', *nodes, **types)
    with pytest.raises(ValueError, match=f'^{re.escape(str(path))}: .*{message}'):
        Classifier(path, runtime='onnxruntime')


def test_an_input_in_half_precision(folder):
    path = color_file(folder / 'half.onnx', preprocessing(), dtype=TensorProto.FLOAT16)
    top = [prediction.top[0][0] for prediction in Classifier(path).predict([folder / 'good' / 'red.png'])]
    assert top == [0]


def test_arguments_that_are_no_lists_or_too_small(folder):
    classifier, red = Classifier(color_file(folder / 'c.onnx', preprocessing())), folder / 'good' / 'red.png'
    for path in red, str(red):
        with pytest.raises(ValueError, match='paths: must be a list of files, not the path .*red.png'):
            next(classifier.predict(path))
    for name in 'top', 'batch_size', 'readers':
        with pytest.raises(ValueError, match=f'{name}: must be at least 1, not 0'):
            next(classifier.predict([red], **{name: 0}))


def test_no_file_no_provider(folder):
    with pytest.raises(ValueError, match='nothing.onnx: there is no such file'):
        Classifier(folder / 'nothing.onnx')
    (folder / 'broken.onnx').write_text('no model', encoding='utf-8')
    with pytest.raises(ValueError, match='broken.onnx: cannot be run: .*cpu: ') as caught:
        Classifier(folder / 'broken.onnx')
    assert str(caught.value).count('INVALID_PROTOBUF') == 1
    with pytest.raises(ValueError, match="provider: unknown provider 'gpus'; known: auto, tensorrt, cuda, cpu"):
        Classifier(color_file(folder / 'm.onnx', preprocessing()), 'gpus', runtime='onnxruntime')


@pytest.mark.skipif(torch.cuda.is_available(), reason='there is a GPU')
def test_without_a_gpu_it_runs_quietly_on_the_cpu(folder):
    path = color_file(folder / 'm.onnx', preprocessing())
    code = f'from nasnet_zoo import Classifier; print(Classifier({str(path)!r}).provider)'
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert done.stdout == 'cpu\n' and done.stderr == ''
    with pytest.raises(ValueError, match='cannot be run: cuda: '):
        Classifier(path, 'cuda')


def test_many_threads_open_files(folder, capfd):
    path = color_file(folder / 'm.onnx', preprocessing())
    with ThreadPoolExecutor(8) as pool:
        assert {classifier.provider for classifier in pool.map(Classifier, [path] * 32)} <= {'cpu', 'cuda', 'tensorrt'}
    os.write(2, b'still here')
    assert capfd.readouterr().err.endswith('still here')


def test_more_images_than_a_batch(folder):
    classifier = Classifier(color_file(folder / 'm.onnx', preprocessing()))
    images = np.random.default_rng(0).integers(0, 256, (150, 3, 16, 16), np.uint8)
    assert np.allclose(classifier.logits(images)[100], classifier.logits(images[100:101])[0])


def test_images_of_another_kind(folder):
    classifier = Classifier(color_file(folder / 'm.onnx', preprocessing()))
    with pytest.raises(ValueError, match=r'must be uint8 \[N, 3, 16, 16\], not float32 \[2, 3, 16, 16\]'):
        classifier.logits(np.zeros((2, 3, 16, 16), np.float32))
    assert classifier.classify(np.zeros((0, 3, 16, 16), np.uint8)) == []


def classify(*args):
    return CliRunner().invoke(app, ['classify', *map(str, args)])


def test_the_command(folder):
    path = color_file(folder / 'm.onnx', preprocessing())
    done = classify(path, folder / 'good', folder / 'bad', '--json', '--top', 2)
    report = json.loads(done.stdout)
    assert done.exit_code == 0 and len(report['results']) == 7 and len(report['refused']) == 4
    assert report['provider'] == 'cpu' and report['images_per_second'] > 0
    by_name = {Path(result['path']).name: result['top'] for result in report['results']}
    assert [entry['label'] for entry in by_name['red.png']][0] == 'red' and len(by_name['red.png']) == 2
    assert 'refused:' in done.stderr and 'text.jpg' in done.stderr
    assert 'red' in classify(path, folder / 'good' / 'red.png').stdout
    assert classify(path, folder / 'bad').exit_code == 1
    (folder / 'empty').mkdir()
    done = classify(path, folder / 'nothing', folder / 'good' / 'red.png', folder / 'empty', '--json')
    report = json.loads(done.stdout)
    assert done.exit_code == 0 and len(report['results']) == 1
    assert [entry['reason'].split(' (')[0] for entry in report['refused']] == [
        'there is no such file or folder', 'there are no images']
    assert classify(path, folder / 'nothing').exit_code == 1


def test_the_command_says_what_it_leaves_out(folder):
    path = color_file(folder / 'm.onnx', preprocessing())
    photos = folder / 'photos'
    photos.mkdir()
    plain('red').save(photos / os.fsdecode(b'K\xe4fer.png'))
    plain('red').save(photos / '.hidden.png')
    (photos / 'linked').symlink_to('../good')
    (photos / 'loop').symlink_to('.')
    done = classify(path, photos, '--json')
    report = json.loads(done.stdout)
    assert done.exit_code == 0 and len(report['results']) == 8 and report['refused'] == []
    assert report['left_out'] == {
        'hidden': [f'{photos}/.hidden.png'], 'not an image': [f'{photos}/linked/notes.txt'],
        'link to a folder that contains it': [f'{photos}/loop/']}
    text = ' '.join(classify(path, photos).stdout.split())
    assert f'3 files and folders left out: 1 hidden ({photos}/.hidden.png), 1 not an image (' in text
    (folder / 'photos.zip').write_bytes(b'PK')
    done = classify(path, folder / 'photos.zip', folder / 'good')
    assert done.exit_code == 0 and 'photos.zip: is an archive; unpack it and pass the folder' in done.stderr


def test_errors_name_the_options_that_solve_them(folder):
    options = {option for param in get_command(app).commands['classify'].params for option in param.opts}
    assert set(OPTIONS.values()) <= options and set(OPTIONS) <= set(Preprocessing.model_fields)
    path = color_file(folder / 'm.onnx')
    (folder / 'labels.txt').write_text('\n'.join(NAMES) + '\n', encoding='utf-8')
    (folder / 'two.txt').write_text('a\nb\n', encoding='utf-8')
    (folder / 'none.txt').write_text('', encoding='utf-8')
    right = {'--labels': folder / 'labels.txt', '--mean': '0.5,0.5,0.5', '--std': '0.25,0.25,0.25', '--img-size': 16}

    def error(**changes):
        given = {**right, **{f'--{name.replace("_", "-")}': value for name, value in changes.items()}}
        done = classify(path, folder / 'good' / 'red.png', *(
            text for option, value in given.items() if value is not None for text in (option, value)))
        assert done.exit_code == 1 and done.stderr.count('\n') == 1 and 'Traceback' not in done.stderr
        return done.stderr
    for name, field in (('labels', 'class_names'), ('mean', 'mean'), ('std', 'std'), ('img_size', 'input_size')):
        assert error(**{name: None}).endswith(f'{field}: field required; pass --{name.replace("_", "-")}\n')
    assert error(mean=None, labels=None).endswith(
        'mean: field required; class_names: field required; pass --labels, --mean\n')
    for name, value in (('std', '0,0,0'), ('mean', '0.5'), ('crop_pct', 2), ('layout', 'HWC'),
                        ('labels', folder / 'none.txt'), ('labels', folder / 'two.txt')):
        assert error(**{name: value}).endswith(f'; pass --{name.replace("_", "-")}\n')
    for changes in (dict(img_size=20), dict(layout='NHWC'), dict(dtype='uint8'),
                    dict(color_order='L', mean='0.5', std='0.5')):
        assert error(**changes).endswith('; pass --img-size, --layout, --color-order, --dtype\n')


def test_the_command_on_a_file_from_elsewhere(folder):
    path = color_file(folder / 'm.onnx')
    (folder / 'labels.txt').write_text('\n'.join(NAMES) + '\n', encoding='utf-8')
    options = ['--labels', folder / 'labels.txt', '--mean', '0.5,0.5,0.5', '--std', '0.25,0.25,0.25', '--img-size', 16]
    report = json.loads(classify(path, folder / 'good' / 'red.png', *options, '--json').stdout)
    assert report['results'][0]['top'][0]['label'] == 'red'
    done = classify(path, folder / 'good' / 'red.png', *options[:2])
    assert done.exit_code == 1 and 'input_size: field required' in done.stderr
    for option, value, wrong in (('--mean', '0.5,half', "'0.5,half' is not"), ('--img-size', '1,2,3', '3 sides')):
        done = classify(path, folder / 'good' / 'red.png', option, value)
        assert done.exit_code == 2 and f"Invalid value for '{option}'" in done.stderr and wrong in done.stderr
    overruled = Classifier(color_file(folder / 'n.onnx', preprocessing()), preprocessing=dict(crop_pct=1.))
    assert overruled.preprocessing.crop_pct == 1.
    model = compile_genotype('nasnet_a', num_cells=1, cell_filters=4, stem='cifar', in_chans=1, num_classes=2).eval()
    model.pretrained_cfg.update(mean=(0.5,), std=(0.5,))
    export_onnx(model, folder / 'grey.onnx', make_preprocessing(model, img_size=16), dynamic_size=True)
    assert classify(folder / 'grey.onnx', folder / 'good' / 'red.png', '--img-size', '8,12').exit_code == 0

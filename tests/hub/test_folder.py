"""Writing a model folder needs neither deployment nor the code that uploads it."""
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file
from timm.models import save_for_hf
from torch import nn

from helpers.paths import TESTS
from helpers.platforms import posix_only
from nasnet_zoo import compile_genotype
from nasnet_zoo.hub import HubError, write_folder
from nasnet_zoo.hub.folder import CONFIG, cached_weights, read_config, weight_file
from nasnet_zoo.zoo import build, label_names


def small(**kwargs):
    torch.manual_seed(0)
    return compile_genotype('nasnet_b', num_cells=1, cell_filters=4, stem='cifar', img_size=8, num_classes=3, **kwargs)


def test_training_imports_no_upload_code():
    code = '''
import sys
import nasnet_zoo.hub, nasnet_zoo.training.run, nasnet_zoo.training.validate, nasnet_zoo.search.evaluator
loaded = [name for name in sys.modules if name.startswith(('nasnet_zoo.deploy', 'nasnet_zoo.graph', 'nasnet_zoo.hub.'))]
print(*loaded, *({'onnx', 'onnxruntime'} & set(sys.modules)))
'''
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ['nasnet_zoo.hub.folder']


def test_how_pictures_are_prepared_is_kept(tmp_path):
    model = small()
    model.pretrained_cfg.update(crop_pct=0.9, interpolation='bilinear', input_size=(3, 12, 10))
    write_folder(model.eval(), tmp_path, list('abc'), std=np.array([0.1, 0.2, 0.3]))
    config = read_config(tmp_path)
    assert config['label_names'] == ['a', 'b', 'c'] and 'label_names' not in config['pretrained_cfg']
    cfg = timm.create_model(f'local-dir:{tmp_path}').pretrained_cfg
    assert (cfg['crop_pct'], cfg['interpolation'], tuple(cfg['input_size'])) == (0.9, 'bilinear', (3, 12, 10))
    assert tuple(cfg['std']) == (0.1, 0.2, 0.3) and cfg['label_names'] == ['a', 'b', 'c']


def test_where_weights_lie(tmp_path):
    model = small()
    write_folder(model.eval(), tmp_path)
    assert weight_file(str(tmp_path), model) == tmp_path / 'model.safetensors'
    assert weight_file('nasnet_b', model) is None and cached_weights(model) is None


def test_what_is_not_a_model_folder(tmp_path):
    with pytest.raises(HubError, match='is not a model folder'):
        read_config(tmp_path)
    (tmp_path / CONFIG).write_text('[]', encoding='utf-8')
    with pytest.raises(HubError, match=r'has no model\.safetensors'):
        read_config(tmp_path)


def with_timm(model, folder):
    save_for_hf(model, folder, safe_serialization=True)


MODELS = {
    'compiled': small,
    'compiled, one channel': lambda: small(in_chans=1, global_pool='max', drop_path_rate=0.2, aux_head=True),
    'named': lambda: timm.create_model('nasnet_a_cifar_small', pretrained=True),
    'classifier replaced': lambda: timm.create_model('nasnet_c_cifar_small', num_classes=4),
}


def images_for(model):
    return torch.randn(2, model.in_chans, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize('name', MODELS)
@pytest.mark.parametrize('write', [write_folder, with_timm])
def test_every_reader_gets_the_logits_of_the_network(tmp_path, name, write):
    model = MODELS[name]().eval()
    if name == 'classifier replaced':
        model.reset_classifier(5)
    write(model, tmp_path)
    images = images_for(model)
    with torch.no_grad():
        for read in (build, timm.create_model):
            read = read(f'local-dir:{tmp_path}', pretrained=True)
            assert torch.equal(read.eval()(images), model(images))


@pytest.fixture
def transformers():
    return pytest.importorskip('transformers', reason='it is in the test extra')


@pytest.mark.parametrize('name', MODELS)
def test_transformers_reads_a_folder(tmp_path, name, transformers):
    model = MODELS[name]().eval()
    known = ['Käfer', '猫', 'c'] if model.num_classes == 3 else None
    write_folder(model, tmp_path, known)
    images = images_for(model)
    read = transformers.AutoModelForImageClassification.from_pretrained(tmp_path)
    features = transformers.AutoModel.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        assert torch.equal(read.eval()(images).logits, model(images))
        assert torch.equal(features(images).last_hidden_state, model.forward_features(images))
    assert read.timm_model.drop_path_progress == 1, 'it is in no weight file'
    names = known or (label_names(model) if name == 'named' else None)
    assert names is None or list(read.config.id2label.values()) == names
    size = transformers.AutoImageProcessor.from_pretrained(tmp_path).data_config['input_size']
    assert tuple(size) == tuple(read_config(tmp_path)['pretrained_cfg']['input_size'])
    other = transformers.AutoModelForImageClassification.from_pretrained(
        tmp_path, num_labels=6, ignore_mismatched_sizes=True)
    assert other(images).logits.shape == (2, 6)
    read.save_pretrained(tmp_path / 'again')
    with torch.no_grad():
        assert torch.equal(build(str(tmp_path / 'again'), pretrained=True).eval()(images), model(images))


def test_transformers_classifies_and_has_features_without_a_classifier(tmp_path, transformers):
    from PIL import Image
    write_folder(small().eval(), tmp_path / 'a', ['Käfer', '猫', 'c'])
    found = transformers.pipeline('image-classification', model=str(tmp_path / 'a'))(Image.new('RGB', (20, 20)))
    assert {row['label'] for row in found} == {'Käfer', '猫', 'c'}
    model = small(in_chans=3)
    model.reset_classifier(0)
    write_folder(model.eval(), tmp_path / 'b')
    with torch.no_grad():
        read = transformers.AutoModel.from_pretrained(tmp_path / 'b').eval()
        assert torch.equal(read(images_for(model)).pooler_output, model(images_for(model)))


def test_transformers_reads_what_timm_wrote_if_the_arguments_are_passed(tmp_path, transformers):
    model = small().eval()
    with_timm(model, tmp_path)
    args = json.loads((tmp_path / CONFIG).read_text(encoding='utf-8'))['model_args']
    del args['num_classes']  # timm writes it for all models, and transformers passes it too
    read = transformers.AutoModelForImageClassification.from_pretrained(tmp_path, model_args=args).eval()
    with torch.no_grad():
        assert torch.equal(read(images_for(model)).logits, model(images_for(model)))


def test_a_folder_of_an_earlier_version():
    folder = TESTS / 'data' / 'old_folder'
    args = read_config(folder)['model_args']
    assert args['num_classes'] == 3
    model = compile_genotype(**args)
    model.load_state_dict(load_file(folder / 'model.safetensors'))
    read = build(str(folder), pretrained=True)
    assert read.pretrained_cfg['label_names'] == ['Käfer', '猫', 'c']
    images = torch.randn(2, 1, 8, 8)
    with torch.no_grad():
        assert torch.equal(read.eval()(images), model.eval()(images))


def test_a_changed_network_is_refused_before_anything_is_written(tmp_path):
    model = small()
    model.head.fc = nn.Sequential(nn.Dropout(), nn.Linear(model.num_features, 5))
    with pytest.raises(ValueError, match=r'call model\.reset_classifier\(5\)'):
        write_folder(model, tmp_path / 'new')
    for names, message in ((['a', 'b'], '2 names for 3 classes'), ([1, 2, 3], 'must be a list of strings, not 1')):
        with pytest.raises(ValueError, match=message):
            write_folder(small(), tmp_path / 'new', names)
    assert list(tmp_path.iterdir()) == []


def test_class_names_of_another_number_are_not_written(tmp_path):
    model = small()
    model.pretrained_cfg['label_names'] = list('abcdefghij')
    write_folder(model, tmp_path)
    assert 'label_names' not in read_config(tmp_path) and 'abcdefghij' not in str(read_config(tmp_path))
    model.pretrained_cfg['label_names'] = {2: 'c', 0: 'a', 1: 'b'}
    write_folder(model, tmp_path)
    assert read_config(tmp_path)['label_names'] == ['a', 'b', 'c']


@pytest.mark.parametrize('failing', ['save_file', 'draw', 'save_config_for_hf'])
def test_a_folder_is_complete_or_not_there(tmp_path, monkeypatch, failing):
    write_folder(small().eval(), tmp_path / 'old')
    before = {path: path.read_bytes() for path in tmp_path.rglob('*') if path.is_file()}

    def fail(*args, **kwargs):
        raise OSError('No space left on device')
    monkeypatch.setattr(f'nasnet_zoo.hub.folder.{failing}', fail)
    for name in ('old', 'new'):
        with pytest.raises(OSError, match='No space left'):
            write_folder(small(global_pool='max').eval(), tmp_path / name)
    assert {path: path.read_bytes() for path in tmp_path.rglob('*') if path.is_file()} == before
    assert not (tmp_path / 'new').exists()


@posix_only
@pytest.mark.parametrize('umask', [0o022, 0o027], ids=oct)
def test_permissions_of_a_folder(tmp_path, umask):
    before = os.umask(umask)
    try:
        write_folder(small().eval(), tmp_path / 'new')
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / 'new').iterdir()} == {0o666 & ~umask}
    assert (tmp_path / 'new').stat().st_mode & 0o777 == 0o777 & ~umask


@pytest.mark.parametrize('options, message', [
    (dict(mean='abc'), "mean: must be a number for each of the 3 channels, not 'abc'"),
    (dict(mean=0.5), 'mean: must be a number for each of the 3 channels, not 0.5'),
    (dict(mean=(0.5, 0.5)), 'mean: must be a number'), (dict(mean=(float('nan'),) * 3), 'mean: must be a number'),
    (dict(std=(1, 0, 1)), 'std: must be a positive number for each of the 3 channels'),
    (dict(class_names='abc'), "class_names: must be a list of strings, not 'abc'"),
])
def test_what_could_not_be_read_is_not_written(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        write_folder(small(), tmp_path / 'folder', **options)
    assert not (tmp_path / 'folder').exists()


def test_tensors_are_numbers(tmp_path):
    write_folder(small(), tmp_path, mean=torch.tensor([0.25] * 3))
    assert read_config(tmp_path)['pretrained_cfg']['mean'] == [0.25] * 3


def test_a_new_classifier_has_no_names_of_the_old_one(tmp_path):
    known = timm.create_model('nasnet_a_cifar_small', pretrained=True)
    assert label_names(known)[3] == 'cat'
    known.reset_classifier(10)
    others = (timm.create_model('nasnet_a_cifar_small'), timm.create_model('nasnet_a_cifar_small', pretrained=True,
                                                                           num_classes=5))
    assert all(label_names(model) is None for model in (known, *others))

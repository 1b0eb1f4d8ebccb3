"""A damaged model folder: the error names the file and what is wrong."""
import json

import pytest
import timm

from helpers.networks import small
from nasnet_zoo.genotype.schema import GenotypeError
from nasnet_zoo.hub.folder import write_folder
from nasnet_zoo.model_folder import model_folder
from nasnet_zoo.zoo import build


@pytest.fixture
def folder(tmp_path):
    return write_folder(small('nasnet_a', aux_head=True), tmp_path / 'folder')


def test_names_of_folders(folder):
    assert model_folder(str(folder)) == model_folder(f'local-dir:{folder}') == folder
    assert model_folder(str(folder.parent)) is model_folder('nasnet_a') is model_folder(None) is None


def edit(folder, **changes):
    path = folder / 'config.json'
    config = json.loads(path.read_text(encoding='utf-8'))
    config = {name: value for name, value in {**config, **changes}.items() if value is not None}
    path.write_text(json.dumps(config), encoding='utf-8')


@pytest.mark.parametrize('changes, message', [
    (dict(architecture=None), 'is not the configuration of a model; it needs an "architecture"'),
    (dict(num_classes='3'), 'num_classes must be a number, not "3"'),
    (dict(model_args=[]), r'model_args must be an object, not \[\]'),
    (dict(pretrained_cfg=dict(mean='x')), 'mean: input should be a valid tuple'),
])
def test_a_damaged_configuration(folder, changes, message):
    edit(folder, **changes)
    with pytest.raises(ValueError, match=rf'folder.config\.json: {message}'):
        build(str(folder))


@pytest.mark.parametrize('text, message', [
    ('{', 'cannot be read: Expecting property name'), ('[]', 'is not the configuration of a model'),
    (b'\xff', 'cannot be read: .*decode')])
def test_a_configuration_that_is_none(folder, text, message):
    (folder / 'config.json').write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=rf'folder.config\.json: {message}'):
        build(str(folder))


def test_a_wrong_genotype(folder):
    config = json.loads((folder / 'config.json').read_text(encoding='utf-8'))
    edit(folder, model_args=dict(config['model_args'], genotype=dict(format=1)))
    with pytest.raises(GenotypeError, match=r'folder.config\.json: name: is missing'):
        build(str(folder))


def test_damaged_weights(folder):
    file = folder / 'model.safetensors'
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(RuntimeError, match='folder: .*header'):
        build(str(folder), pretrained=True)


def test_weights_of_another_width(folder):
    config = json.loads((folder / 'config.json').read_text(encoding='utf-8'))
    edit(folder, model_args=dict(config['model_args'], cell_filters=8))
    with pytest.raises(RuntimeError) as raised:
        build(str(folder), pretrained=True)
    assert 'these are not the weights of this model: ' in str(raised.value) and 'has the shape [' in str(raised.value)
    assert len(str(raised.value)) < 600 and str(folder) in str(raised.value)


def test_an_auxiliary_head_of_another_size_is_left_out(folder):
    same, other = (timm.create_model(f"local-dir:{folder}", pretrained=True, **size)
                   for size in ({}, dict(img_size=96)))
    for name, tensor in other.state_dict().items():
        assert name.startswith('aux_head.') or tensor.equal(same.state_dict()[name])


@pytest.mark.parametrize('name, message', [
    ('nasnet_a_mobil', "no model and no built-in genotype of this name .*; did you mean 'nasnet_a_mobile'"),
    ('resnet18', 'is a model of timm, not of this package')])
def test_unknown_names(name, message):
    with pytest.raises(ValueError, match=f'^{name}: .*{message}'):
        build(name)


def test_a_folder_without_a_model(tmp_path):
    with pytest.raises(ValueError, match='is not a model folder, because it has no config.json$'):
        build(str(tmp_path))
    (tmp_path / 'run.json').touch()
    with pytest.raises(ValueError, match='no config.json; its training has not finished: continue it with "nasnet-zoo'):
        build(str(tmp_path))

"""Writing a model folder needs neither deployment nor the code that uploads it."""
import subprocess
import sys

import pytest
import timm
import torch

from nasnet_zoo import compile_genotype
from nasnet_zoo.hub import HubError, write_folder
from nasnet_zoo.hub.folder import CONFIG, cached_weights, read_config, weight_file


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
    write_folder(model.eval(), tmp_path, 'abc', std=(0.1, 0.2, 0.3))
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

"""Keras's file formats, old and new, and files that are damaged or hostile."""
import io
import json
import sys
import warnings
import zipfile

import numpy as np
import pytest

from helpers.checkpoints import SIZES, TOLERANCE, error, logits, refused, small_keras
from nasnet_zoo import compile_genotype, load_foreign_weights

pytestmark = pytest.mark.filterwarnings('ignore:__array__ implementation:DeprecationWarning')  # Keras with numpy 2


@pytest.mark.parametrize('suffix', ['.weights.h5', '.keras', '.h5'])
def test_keras_files(keras_files, suffix, tmp_path):
    _, theirs, files = keras_files
    path = tmp_path / 'no suffix tells it'
    path.write_bytes(files[suffix].read_bytes())
    model = small_keras(pool_padding='keras')
    load_foreign_weights(model, path)
    assert error(logits(model, SIZES[1]), theirs) < TOLERANCE
    assert error(logits(compile_like(model, pool_padding='tf'), SIZES[1]), theirs) > TOLERANCE


def compile_like(model, **kwargs):
    """The network with other arguments and the same weights."""
    other = compile_genotype(**{**model.config, **kwargs})
    other.load_state_dict(model.state_dict())
    return other


def test_keras_no_top(keras_nasnet, tmp_path):
    keras_nasnet(SIZES[0], top=False).save_weights(tmp_path / 'model.weights.h5')
    with pytest.warns(UserWarning, match='has no classifier'):
        load_foreign_weights(small_keras(), tmp_path / 'model.weights.h5')
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        load_foreign_weights(small_keras(num_classes=0), tmp_path / 'model.weights.h5')


def without_names(source, target):
    """Copy Keras 3's HDF5 in the form that it had before Keras 3.6, which does not repeat the layers' names."""
    import h5py
    with h5py.File(source) as old, h5py.File(target, 'w') as new:
        paths = []
        old.visit(paths.append)
        for path in paths:
            if isinstance(old[path], h5py.Dataset):
                new[path] = old[path][()]


def test_keras_without_names(keras_files, tmp_path):
    _, theirs, files = keras_files
    without_names(files['.weights.h5'], tmp_path / 'old.weights.h5')
    with pytest.raises(ValueError, match='save the whole model as .keras or .h5 instead'):
        load_foreign_weights(small_keras(), tmp_path / 'old.weights.h5')
    with zipfile.ZipFile(files['.keras']) as archive, zipfile.ZipFile(tmp_path / 'old.keras', 'w') as old:
        old.writestr('config.json', archive.read('config.json'))
        old.write(tmp_path / 'old.weights.h5', 'model.weights.h5')
    model = small_keras(pool_padding='keras')
    load_foreign_weights(model, tmp_path / 'old.keras')
    assert error(logits(model, SIZES[1]), theirs) < TOLERANCE


def test_keras_2(keras_files, tmp_path):
    """As ``save_weights`` of Keras 2 wrote the files that Keras still publishes: at the root, with TensorFlow's :0."""
    import h5py
    peer, theirs, _ = keras_files
    with h5py.File(tmp_path / 'old.h5', 'w') as file:
        for layer in peer.layers:
            for variable, value in zip(layer.weights, layer.get_weights()):
                file[f'{layer.name}/{layer.name}/{variable.name}:0'] = value
    model = small_keras(pool_padding='keras')
    load_foreign_weights(model, tmp_path / 'old.h5')
    assert error(logits(model, SIZES[1]), theirs) < TOLERANCE


def test_keras_optimizer_state(keras, keras_files, tmp_path):
    peer, theirs, _ = keras_files
    copy = keras.models.clone_model(peer)
    copy.set_weights(peer.get_weights())
    copy.compile(optimizer='adam', loss='mse')
    copy.optimizer.build(copy.trainable_variables)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        for name in ('model.keras', 'model.h5'):
            copy.save(tmp_path / name)
    for name in ('model.keras', 'model.h5'):
        model = small_keras(pool_padding='keras')
        load_foreign_weights(model, tmp_path / name)
        assert error(logits(model, SIZES[1]), theirs) < TOLERANCE


def test_needs_h5py(keras_files, monkeypatch):
    monkeypatch.setitem(sys.modules, 'h5py', None)
    for path in keras_files[2].values():
        with pytest.raises(ImportError, match=r'pip install "nasnet-zoo\[keras\]"'):
            load_foreign_weights(small_keras(), path)


@pytest.mark.parametrize('suffix', ['.weights.h5', '.keras', '.h5'])
def test_truncated_keras(keras_files, tmp_path, suffix):
    content = keras_files[2][suffix].read_bytes()
    (tmp_path / 'half').write_bytes(content[:len(content) // 2])
    refused(small_keras(), tmp_path / 'half', 'half: cannot be read')


def test_other_keras_network(keras_files):
    files = keras_files[2]
    refused(small_keras(cell_filters=16), files['.keras'], r'fits\.0\.bn\.weight is \(2,\), the model needs \(4,\)')
    refused(small_keras(num_classes=7), files['.h5'], 'the weights have 20 classes and the model has 7')


def write_h5(write, path):
    h5py = pytest.importorskip('h5py')
    with h5py.File(path, 'w') as file:
        write(h5py, file)
    return path


def link_out(h5py, file):
    file['stem_conv1/kernel'] = h5py.ExternalLink('other.h5', '/secret')


def store_outside(h5py, file):
    file.create_dataset('stem_conv1/kernel', (4,), 'f4', external=[('secret.bin', 0, 16)])


def map_outside(h5py, file):
    layout = h5py.VirtualLayout((4,), 'f4')
    layout[:] = h5py.VirtualSource('other.h5', 'secret', (4,))
    file.create_virtual_dataset('stem_conv1/kernel', layout)


@pytest.mark.parametrize('write, match', [
    (lambda h5py, file: None, 'there are no tensors'),
    (lambda h5py, file: file.create_dataset('a/b/c', data=np.ones(3, 'f4')), 'the tensors are a.c'),
    (lambda h5py, file: file.create_dataset('a/b', data='text'), 'cannot be read as a Keras file'),
    (lambda h5py, file: file.create_dataset('layers/x/vars/y', data=1.), 'layers/x/vars/y has no layer name'),
    (lambda h5py, file: file.create_dataset('stem_conv1/kernel', (1 << 20, 1 << 20), 'f4', chunks=True),
     'would unpack to 4,398,046,511,104'),
    (link_out, 'there are no tensors'),
    (store_outside, 'refers to other files'),
    (map_outside, 'refers to other files'),
], ids=['empty', 'random', 'text', 'nameless', 'bomb', 'link', 'external', 'virtual'])
def test_other_h5(tmp_path, write, match):
    refused(small_keras(), write_h5(write, tmp_path / 'file.h5'), match)


def test_other_keras_archive(keras_files, tmp_path):
    weights = keras_files[2]['.weights.h5'].read_bytes()
    members = {
        'bomb': {'config.json': b'{}', 'model.weights.h5': bytes(1 << 24)},
        'config': {'config.json': b'{', 'model.weights.h5': weights},
        'layers': {'config.json': json.dumps({'config': []}).encode(), 'model.weights.h5': weights},
        'only': {'model.weights.h5': weights},
        'other': {'readme.txt': b'hello'},
    }
    for name, content in members.items():
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, 'w', zipfile.ZIP_DEFLATED) as archive:
            for member, data in content.items():
                archive.writestr(member, data)
        (tmp_path / name).write_bytes(buffer.getvalue())
        refused(small_keras(), tmp_path / name, f'{name}: cannot be read as a PyTorch or Keras archive')

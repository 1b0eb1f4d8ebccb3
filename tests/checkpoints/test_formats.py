"""Files are recognized by their content; none runs code; damaged ones are refused."""
import gzip
import os
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from helpers.checkpoints import LARGE, SIZES, TOLERANCE, error, logits, refused, small_keras
from nasnet_zoo import compile_genotype, load_foreign_weights
from nasnet_zoo.checkpoints import formats
from nasnet_zoo.checkpoints.formats import read_weights


def test_wrapped_and_prefixed(timm_nasnet, tmp_path):
    expected = logits(timm_nasnet, SIZES[0])
    prefixed = {f'module.{name}': tensor for name, tensor in timm_nasnet.state_dict().items()}
    torch.save({'state_dict': prefixed, 'epoch': 3}, tmp_path / 'checkpoint.tar')
    save_file(timm_nasnet.state_dict(), tmp_path / 'model')
    for source in (prefixed, {'model': prefixed}, str(tmp_path / 'checkpoint.tar'), tmp_path / 'model'):
        model = compile_genotype('nasnet_a', pool_padding='timm', **LARGE)
        load_foreign_weights(model, source)
        assert error(logits(model, SIZES[0]), expected) < TOLERANCE


@pytest.mark.parametrize('content, match', [
    (b'', 'this is not a weight file of'),
    (b'some text, not weights\n', 'this is not a weight file of'),
    (b'\x89HDF\r\n\x1a\n', 'cannot be read as a Keras file'),
    (b'PK\x03\x04', 'cannot be read as a PyTorch or Keras archive'),
    (b'\xff' * 8 + b'{"a": 1}', 'cannot be read as a safetensors file'),
    (b'\x80\x02}q\x00.', 'cannot be read as a PyTorch file'),
    (b'BZh9', 'it is compressed: unpack it'), (b'\x1f\x8b\x08', 'cannot be read as an archive with a TensorFlow'),
    (gzip.compress(b'x', mtime=0), 'it is not a tar archive; unpack it'),
    (bytes(257) + b'ustar', 'it is not a tar archive; '),
    (b'\0\0\x04\x08', 'cannot be read as a TensorFlow checkpoint'),
    (b'version https://git-lfs.github.com/spec/v1\n', 'a Git LFS pointer'), (b'\n<!DOCTYPE html>', 'it is a web page'),
    (b'{"a": 1}', 'no "weight_map"'),
], ids=str)
def test_no_weight_file(tmp_path, content, match):
    pytest.importorskip('h5py')
    path = tmp_path / 'file.pth'
    path.write_bytes(content)
    assert 'file.pth: ' in refused(small_keras(), path, match)


@pytest.mark.parametrize('legacy', [True, False])
def test_no_code_is_run(tmp_path, legacy):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / 'ran'),)
    torch.save({'conv0.conv.weight': Evil()}, tmp_path / 'evil.pth', _use_new_zipfile_serialization=not legacy)
    (tmp_path / 'plain.pkl').write_bytes(pickle.dumps(Evil(), protocol=2))
    for name in ('evil.pth', 'plain.pkl'):
        refused(small_keras(), tmp_path / name, 'there are no tensors|was not|not one that torch.save wrote')
    assert not (tmp_path / 'ran').exists()


def test_truncated(timm_nasnet, tmp_path):
    tensors = timm_nasnet.state_dict()
    torch.save(tensors, tmp_path / 'zip.pth')
    torch.save(tensors, tmp_path / 'old.pth', _use_new_zipfile_serialization=False)
    save_file(tensors, tmp_path / 'model.safetensors')
    for name in ('zip.pth', 'old.pth', 'model.safetensors'):
        content = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(content[:len(content) // 2])
        refused(compile_genotype('nasnet_a', **LARGE), tmp_path / name, f'{name}: cannot be read')


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        load_foreign_weights(small_keras(), tmp_path / 'none.pth')


def test_messages_of_libraries(monkeypatch):
    def read(path):
        raise RuntimeError('\x1b[1mWeights only\x1b[0m load failed.\n\tA second sentence \x1b]0;title\x07that '
                           + 'goes on ' * 99)
    monkeypatch.setattr(formats, 'FORMATS', (formats.Format('a file', lambda start: True, read),))
    with pytest.raises(ValueError) as raised:
        read_weights(Path(__file__))
    message = str(raised.value)
    assert message.endswith('goes …') or message.endswith('on …')
    assert 'nothing was loaded: Weights only load failed. A second sentence that goes on' in message

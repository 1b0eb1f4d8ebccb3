"""Files that torch.save and torch.jit.save write, with what training programs put beside the tensors."""
import argparse
import collections
import datetime
import functools
import pathlib
import types
import zipfile

import numpy as np
import pytest
import torch
from timm.utils import CheckpointSaver, ModelEmaV3
from torch import nn

from helpers.checkpoints import images, refused, small_keras
from nasnet_zoo import load_foreign_weights
from nasnet_zoo.checkpoints.formats import read_weights

TENSORS = {
    **{str(dtype): torch.arange(6).to(dtype).view(2, 3) for dtype in (
        torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8,
        torch.uint8, torch.bool, torch.complex64, torch.complex128)},
    'view': torch.arange(12.).view(3, 4).T[1:, 1:], 'shared': torch.arange(12.)[3:5], 'scalar': torch.tensor(2.),
    'empty': torch.empty(0, 3), 'parameter': nn.Parameter(torch.ones(2)), 'expanded': torch.ones(1).expand(4)}
BESIDE = dict(
    args=argparse.Namespace(lr=0.1, path=pathlib.Path('a'), device=torch.device('cpu'), dtype=torch.float16),
    history=collections.defaultdict(list, loss=[1., 2.]), counts=collections.Counter(a=1),
    where=types.SimpleNamespace(a=1),
    best=np.float64(3), array=np.zeros(3), when=datetime.datetime(2026, 1, 1), size=torch.Size([1]), names={'a', 'b'},
    queue=collections.deque([1]), part=functools.partial(print, 1), bytes=b'x', kind=np.dtype('f4'))


def agrees(found, tensors):
    return all(found[name].dtype == tensor.dtype and torch.equal(found[name], tensor)
               for name, tensor in tensors.items())


@pytest.mark.parametrize('protocol', [2, 4])
@pytest.mark.parametrize('legacy', [False, True])
def test_tensors_and_what_is_beside_them(legacy, protocol, tmp_path):
    torch.save({'t': TENSORS, **BESIDE}, tmp_path / 'file.pt', pickle_protocol=protocol,
               _use_new_zipfile_serialization=not legacy)
    found = read_weights(tmp_path / 'file.pt')
    assert agrees(found, {f't.{name}': tensor for name, tensor in TENSORS.items()})
    assert found['args.lr'] == 0.1


def test_newer_types_of_numbers(tmp_path):
    tensors = dict(a=torch.arange(5).to(torch.uint16), b=torch.ones(3).to(torch.float8_e4m3fn))
    torch.save(tensors, tmp_path / 'file.pt')
    found = read_weights(tmp_path / 'file.pt')
    assert torch.equal(found['a'].int(), tensors['a'].int()) and found['b'].dtype == torch.float8_e4m3fn
    assert torch.equal(found['b'].float(), tensors['b'].float())


def test_another_order_of_bytes(tmp_path):
    tensors = {name: torch.arange(3).to(dtype) for name, dtype in dict(a=torch.float32, b=torch.complex64).items()}
    torch.save(tensors, tmp_path / 'little.pt')
    with zipfile.ZipFile(tmp_path / 'little.pt') as little, zipfile.ZipFile(tmp_path / 'big.pt', 'w') as big:
        for name in little.namelist():
            data = little.read(name)
            if '/data/' in name:
                data = np.frombuffer(data, '<u4').astype('>u4').tobytes()
            big.writestr(name, b'big' if name.endswith('byteorder') else data)
    assert agrees(read_weights(tmp_path / 'big.pt'), tensors)


@pytest.mark.parametrize('change', [
    torch.Tensor.to_sparse, lambda tensor: tensor.to('meta'), torch.Tensor.numpy,
    lambda tensor: torch.quantize_per_tensor(tensor, 1., 0, torch.qint8)], ids=['sparse', 'meta', 'numpy', 'quantized'])
@pytest.mark.filterwarnings('ignore')
def test_other_tensors(change, tmp_path):
    tensors = dict(small_keras().state_dict())
    tensors['stem.conv.weight'] = change(tensors['stem.conv.weight'])
    torch.save(tensors, tmp_path / 'file.pt')
    refused(small_keras(), tmp_path / 'file.pt', "'stem.conv.weight' is a .*, not a tensor")


def loaded(path):
    model = small_keras()
    return model, load_foreign_weights(model, path)


@pytest.mark.parametrize('legacy', [False, True])
def test_pickled_networks(legacy, tmp_path):
    network = small_keras()
    torch.save({'net': nn.DataParallel(network), 'optimizer': torch.optim.SGD(network.parameters(), 0.1)},
               tmp_path / 'model.pt', _use_new_zipfile_serialization=not legacy)
    model, entry = loaded(tmp_path / 'model.pt')
    assert entry.place == 'net.module' and agrees(model.state_dict(), network.state_dict())


@pytest.mark.filterwarnings('ignore')
def test_torchscript(tmp_path):
    network = small_keras().eval()
    torch.jit.save(torch.jit.trace(network, images(32), check_trace=False), str(tmp_path / 'model.pt'))
    assert agrees(loaded(tmp_path / 'model.pt')[0].state_dict(), network.state_dict())


def test_timms_training_script(tmp_path):
    network = small_keras()
    averaged = ModelEmaV3(small_keras())
    saver = CheckpointSaver(
        network, torch.optim.SGD(network.parameters(), 0.1), args=argparse.Namespace(model='nasnet_a_mobile', lr=0.1),
        model_ema=averaged, checkpoint_dir=str(tmp_path))
    saver.save_checkpoint(0, metric=0.5)
    model, entry = loaded(tmp_path / 'model_best.pth.tar')
    assert agrees(model.state_dict(), averaged.module.state_dict())
    assert entry.describe() == ('loaded state_dict_ema, which are averaged weights; other weights of this network: '
                                'state_dict')
    model = small_keras()
    load_foreign_weights(model, tmp_path, 'state_dict')  # the folder
    assert agrees(model.state_dict(), network.state_dict())


@pytest.mark.parametrize('wrap', [
    nn.DataParallel, torch.compile, lambda network: nn.DataParallel(torch.compile(network)),
    torch.optim.swa_utils.AveragedModel,
    lambda network: nn.ModuleDict(dict(student=torch.compile(nn.DataParallel(network)), loss=nn.BatchNorm1d(2)))])
def test_wrappers(wrap, tmp_path):
    network = small_keras()
    torch.save({'model': wrap(network).state_dict()}, tmp_path / 'model.pt')
    assert agrees(loaded(tmp_path / 'model.pt')[0].state_dict(), network.state_dict())


def test_damaged_files(tmp_path):
    torch.save({'a': torch.arange(6.)}, tmp_path / 'file.pt', _use_new_zipfile_serialization=False)
    whole = (tmp_path / 'file.pt').read_bytes()
    for cut in range(0, len(whole), 7):
        (tmp_path / 'file.pt').write_bytes(whole[:cut])
        with pytest.raises(ValueError):
            read_weights(tmp_path / 'file.pt')

"""Folders of weight files."""
import json

import pytest
import torch
from safetensors.torch import save_file

from helpers.checkpoints import refused, small_keras
from nasnet_zoo import load_foreign_weights


def write_parts(folder):
    tensors = small_keras().state_dict()
    names = list(tensors)
    parts = {'model-1.safetensors': names[:40], 'model-2.safetensors': names[40:]}
    for file, part in parts.items():
        save_file({name: tensors[name] for name in part}, folder / file)
    index = {name: file for file, part in parts.items() for name in part}
    (folder / 'model.safetensors.index.json').write_text(
        json.dumps(dict(metadata={}, weight_map=index)), encoding='utf-8')
    return tensors, index


def test_weights_in_several_files(tmp_path):
    tensors, index = write_parts(tmp_path)
    for source in (tmp_path, tmp_path / 'model.safetensors.index.json'):
        model = small_keras()
        load_foreign_weights(model, source)
        assert all(torch.equal(tensor, tensors[name]) for name, tensor in model.state_dict().items())
    for weight_map, match in (({**index, 'x': 'model-1.safetensors'}, 'x is not in model-1'),
                              ({'x': '../x'}, 'same folder'),
                              ({'x': 'model.safetensors.index.json'}, 'not a weight file'), ([], 'same folder'),
                              ({'x': 'none.bin'}, 'No such file')):
        (tmp_path / 'model.safetensors.index.json').write_text(
            json.dumps(dict(weight_map=weight_map)), encoding='utf-8')
        refused(small_keras(), tmp_path, match)


def test_the_file_in_a_folder(tmp_path):
    refused(small_keras(), tmp_path, 'is a folder without a weight file')
    for name in ('a.ckpt', 'b.pt', 'c.pth', 'd.pth', 'e.pth', 'f.pth'):
        torch.save(small_keras().state_dict(), tmp_path / name)
        if name == 'a.ckpt':
            load_foreign_weights(small_keras(), tmp_path)
    refused(small_keras(), tmp_path, 'several weight files; pass one of them: a.ckpt, b.pt, c.pth, d.pth, e.pth, …')
    torch.save({}, tmp_path / 'model_best.pth.tar')
    refused(small_keras(), tmp_path, 'there are no tensors')
    (tmp_path / 'dcp').mkdir()
    (tmp_path / 'dcp' / '__0_0.distcp').touch()
    with pytest.raises(ValueError, match='is a distributed checkpoint: convert it'):
        load_foreign_weights(small_keras(), tmp_path / 'dcp')

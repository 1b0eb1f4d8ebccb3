"""One rule for the device of training and of validation."""
import pytest
import torch

from nasnet_zoo.training.device import choose_device


@pytest.mark.parametrize('gpus, mps, chosen', [(2, False, 'cuda:0'), (1, True, 'cuda:0'), (0, True, 'mps'),
                                               (0, False, 'cpu')])
def test_auto(monkeypatch, gpus, mps, chosen):
    monkeypatch.delenv('LOCAL_RANK', raising=False)
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: gpus)
    monkeypatch.setattr(torch.backends.mps, 'is_available', lambda: mps)
    assert choose_device() == torch.device(chosen)
    assert choose_device('cpu') == choose_device(torch.device('cpu')) == torch.device('cpu')
    if gpus == 2:
        assert choose_device('cuda:1') == torch.device('cuda:1')
        monkeypatch.setenv('LOCAL_RANK', '1')
        assert choose_device() == choose_device('cuda') == torch.device('cuda:1')


@pytest.mark.parametrize('name, message', [
    ('gpu', "there is no 'gpu'; use auto"), ('cuda:99', 'cuda:99 does not exist'), ('mps', 'finds no GPU of a Mac')])
def test_what_is_not_there(monkeypatch, name, message):
    monkeypatch.setattr(torch.backends.mps, 'is_available', lambda: False)
    with pytest.raises(ValueError, match=f'device: .*{message}'):
        choose_device(name)

"""Worker processes on this machine: which GPU each of them sees."""
from concurrent.futures import wait

import pytest
import torch

from helpers.search_children import Surroundings
from nasnet_zoo.search.errors import WorkerDied
from nasnet_zoo.search.pool_local import LocalPool, visible_gpus


@pytest.mark.parametrize('listed, count, expected', [
    (None, 0, []), (None, 2, ['0', '1']), ('', 0, []), ('3', 1, ['3']), ('3, 1', 2, ['3', '1']),
    ('0,1,9,2', 2, ['0', '1']), ('GPU-8932f937,GPU-d72c,', 2, ['GPU-8932f937', 'GPU-d72c'])])
def test_visible_gpus(monkeypatch, listed, count, expected):
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: count)
    monkeypatch.delenv('CUDA_VISIBLE_DEVICES', raising=False)
    if listed is not None:
        monkeypatch.setenv('CUDA_VISIBLE_DEVICES', listed)
    assert visible_gpus() == expected


def test_workers_are_spread_over_gpus(monkeypatch):
    """Three workers on two GPUs; one dies, and the process that replaces it sees the same GPU."""
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 2)
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', 'GPU-a,GPU-b')
    pool = LocalPool(Surroundings(), 3)
    try:
        seen = [pool.result(future) for future in [pool.submit('look') for _ in range(3)]]
        assert sorted(seen) == [('GPU-a', False), ('GPU-a', False), ('GPU-b', False)], 'before CUDA is initialised'
        with pytest.raises(WorkerDied):
            pool.result(wait([pool.submit('die')]).done.pop())
        again = [pool.result(future) for future in [pool.submit('look') for _ in range(3)]]
        assert sorted(again) == sorted(seen)
    finally:
        pool.close()


@pytest.mark.parametrize('count, listed', [(0, None), (0, ''), (1, '5')])
def test_a_single_gpu_or_none_is_left_to_cuda(monkeypatch, count, listed):
    """The environment of the workers is that of this process."""
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: count)
    monkeypatch.delenv('CUDA_VISIBLE_DEVICES', raising=False)
    if listed is not None:
        monkeypatch.setenv('CUDA_VISIBLE_DEVICES', listed)
    pool = LocalPool(Surroundings(), 2)
    assert [worker.gpu for worker in pool._idle] == [None, None]
    pool.close()

"""TensorFlow's checkpoints: what they hold, where they lie, and damaged and hostile ones."""
import struct
import tracemalloc

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.tensorflow import AVERAGE, entry, pack, table, varint, write_checkpoint
from nasnet_zoo.checkpoints.crc32c import masked_crc32c
from nasnet_zoo.checkpoints.formats import read_weights

WEIGHTS = {
    'cell_0/1x1/weights': torch.arange(24.).reshape(1, 2, 3, 4),
    'cell_0/separable/depthwise_weights': torch.arange(12.).reshape(2, 2, 3, 1),
    'final_layer/FC/weights': torch.arange(6.).reshape(2, 3),
    'final_layer/FC/biases': torch.arange(3.),
}


def write(folder, variables=WEIGHTS, **kwargs):
    return write_checkpoint(folder / 'model.ckpt', variables, **kwargs)


@pytest.mark.parametrize('shards', [1, 3])
def test_axes_are_pytorchs(tmp_path, shards):
    tensors = read_weights(write(tmp_path, shards=shards))
    assert {name: tuple(tensor.shape) for name, tensor in tensors.items()} == {
        'cell_0.1x1.weights': (4, 3, 1, 2), 'cell_0.separable.depthwise_weights': (3, 1, 2, 2),
        'final_layer.FC.weights': (3, 2), 'final_layer.FC.biases': (3,)}
    assert tensors['cell_0.1x1.weights'][1, 2, 0, 1] == WEIGHTS['cell_0/1x1/weights'][0, 1, 2, 1]
    assert tensors['cell_0.separable.depthwise_weights'][2, 0, 1, 0] == 8


@pytest.mark.parametrize('dtype', [torch.float64, torch.float16, torch.bfloat16])
def test_other_types(tmp_path, dtype):
    values = torch.arange(3.).to(dtype)
    found = read_weights(write(tmp_path, {'x': values, 'nothing': values[:0]}))
    assert torch.equal(found['x'], values) and found['nothing'].shape == (0,)


def test_moving_averages_and_what_is_left_out(tmp_path):
    ones = torch.ones(2)
    found = read_weights(write(tmp_path, {
        'a/beta': ones, 'a/beta' + AVERAGE: 2 * ones, 'a/beta/RMSProp': 3 * ones, 'a/beta/RMSProp_1': 3 * ones,
        'b/beta': 4 * ones, 'c/beta' + AVERAGE: 5 * ones, 'global_step': torch.tensor(7),
        'steps': torch.ones(2).long()}))
    assert {name: tensor[0].item() for name, tensor in found.items()} == {
        'ExponentialMovingAverage.a.beta': 2, 'ExponentialMovingAverage.b.beta': 4,
        'ExponentialMovingAverage.c.beta': 5, 'variables.a.beta': 1, 'variables.b.beta': 4}


def test_where_it_lies(tmp_path):
    (tmp_path / 'folder').mkdir()
    index = write(tmp_path / 'folder')
    data = index.with_name('model.ckpt.data-00000-of-00001')
    for source in (tmp_path / 'folder', index.with_suffix(''), index, data):
        assert len(read_weights(source)) == len(WEIGHTS)
    files = {f'../../{path.name}': path.read_bytes() for path in (data, index)}
    before = sorted(tmp_path.rglob('*'))
    for name in ('model.tar.gz', 'model.tar'):
        archive = pack(tmp_path / name, {'../../evil.txt': b'evil', '/etc/evil': b'evil', **files})
        assert len(read_weights(archive)) == len(WEIGHTS)
        archive.unlink()
    assert sorted(tmp_path.rglob('*')) == before
    assert not (tmp_path.parents[1] / 'evil.txt').exists()
    data.unlink()
    with pytest.raises(ValueError, match='the variables are in model.ckpt.data-00000-of-00001, which is not beside it'):
        read_weights(index)


@pytest.mark.parametrize('files, match', [
    ({}, 'it has 0 checkpoints of TensorFlow'),
    ({'a.index': b'', 'b.index': b''}, 'it has 2 checkpoints'),
    ({'model.pth': b'x'}, 'unpack it and pass the weight file inside'),
    ({'a.index': table([(b'', varint(8) + varint(1)), (b'x', entry(1, (1,), 0, 4, 0))])},
     r'the variables are in a\.data-00000-of-00001, which the archive does not have'),
    ({'zeros': bytes(1 << 20)}, 'it would unpack to more than 20 times its size'),
])
def test_other_archives(tmp_path, files, match):
    with pytest.raises(ValueError, match=f'x.tar.gz: cannot be read as an archive with a TensorFlow .*{match}'):
        read_weights(pack(tmp_path / 'x.tar.gz', files))


def hostile(tmp_path, entries, header=varint(8) + varint(1), numbers=bytes(16)):
    """A checkpoint with these entries, and correct checksums of the index."""
    (tmp_path / 'model.ckpt.data-00000-of-00001').write_bytes(numbers)
    (tmp_path / 'model.ckpt.index').write_bytes(table([(b'', header), *entries]))
    return tmp_path / 'model.ckpt.index'


ZEROS = masked_crc32c(bytes(16))
HUGE = 1 << 62


@pytest.mark.parametrize('entries, match', [
    ([(b'x', entry(1, (4,), 0, 16, ZEROS ^ 1))], 'the checksum of x is wrong'),
    ([(b'x', entry(1, (HUGE,), 0, 16, ZEROS))], 'cannot have 16 bytes'),
    ([(b'x', entry(1, (2 ** 64 - 4,), 0, 16, ZEROS))], 'cannot have 16 bytes'),
    ([(b'x', entry(1, (1,) * 9, 0, 16, ZEROS))], 'a shape in its index is damaged'),
    ([(b'x', entry(1, (HUGE,), 0, 4 * HUGE, ZEROS))], 'its file of numbers is cut off'),
    ([(b'x', entry(1, (4,), 8, 16, ZEROS))], 'beyond the end of the file of numbers'),
    ([(b'x', entry(1, (4,), HUGE, 16, ZEROS))], 'beyond the end of the file of numbers'),
    ([(b'x', entry(1, (4,), 0, 16, ZEROS)), (b'y', entry(1, (4,), 0, 16, ZEROS))], 'its variables overlap'),
    ([(b'x', entry(1, (4,), 0, 16, ZEROS, shard=3))], 'model.ckpt.data-00003-of-00001, which is not beside it'),
    ([(b'x', entry(1, (4,), 0, 16, ZEROS, more=varint(7 << 3 | 2) + b'\0'))], 'divided into several parts'),
    ([(b'x', entry(1, (4,), 0, 16, ZEROS)), (b'x', b'')], 'its names are not in order'),
    ([(b'x' * 100_000 + bytes([i]), b'') for i in range(99)], 'more than 20 times as many'),
    ([(b'x', b'\x0a\xff')], 'it is cut off'), ([(b'x', b'\x0a\x7f')], 'is damaged'),
    ([(b'x', b'\xff' * 11)], 'a number in its index is damaged'),
    ([(b'x', b'\x0b')], 'is damaged'), ([(b'\xff', entry(1, (4,), 0, 16, ZEROS))], 'utf-8'),
])
def test_hostile_entries(tmp_path, entries, match):
    with pytest.raises(ValueError, match=f'model.ckpt.index: cannot be read as a TensorFlow checkpoint.*{match}'):
        read_weights(hostile(tmp_path, entries))


def test_hostile_headers(tmp_path):
    variable = [(b'x', entry(1, (4,), 0, 16, ZEROS))]
    with pytest.raises(ValueError, match='most significant byte first'):
        read_weights(hostile(tmp_path, variable, header=bytes([8, 1, 16, 1])))
    index = hostile(tmp_path, variable)
    content = index.read_bytes()
    flipped = content[:8] + bytes([content[8] ^ 1]) + content[9:]
    for changed, match in ((content[:-1] + b'\0', 'it is cut off, or not the index'),
                           (content[5:], 'not a weight file'), (flipped, 'the checksum of its index is wrong')):
        index.write_bytes(changed)
        with pytest.raises(ValueError, match=match):
            read_weights(index)
    with index.open('r+b') as file:
        file.write(content[:8])
        file.truncate(1 << 25)  # without taking space on the disk
    with pytest.raises(ValueError, match='its index is larger than'):
        read_weights(index)


numbers = st.one_of(st.integers(0, 40), st.integers(0, 2 ** 64 - 1), st.integers(60, 66).map(lambda n: 1 << n - 3))
random_entries = st.builds(
    entry, st.sampled_from([0, 1, 2, 9, 14, 19, 77]), st.lists(numbers, max_size=4), numbers, numbers,
    st.sampled_from([ZEROS, 0]), st.sampled_from([0, 0, 1, 2 ** 63]), st.binary(max_size=12))
keys = st.binary(max_size=12).map(lambda key: b'x' + key)


@settings(max_examples=150, deadline=None)
@given(entries=st.dictionaries(keys, st.one_of(random_entries, st.binary(max_size=30)), max_size=6),
       changes=st.lists(st.tuples(st.integers(0, 1 << 12), st.integers(0, 255)), max_size=3),
       cut=st.integers(0, 40), packed=st.booleans())
def test_mutated_files(tmp_path_factory, entries, changes, cut, packed):
    """A damaged file is read or refused with a ValueError, and takes no more memory than its size."""
    folder = tmp_path_factory.mktemp('mutated')
    path = hostile(folder, sorted(entries.items()))
    if packed:
        path = pack(folder / 'packed.tar.gz', {path.name: path.read_bytes() for path in folder.iterdir()})
    content = bytearray(path.read_bytes())
    for place, value in changes:
        content[place % len(content)] = value
    path.write_bytes(content[:len(content) - cut * (cut > 30)])
    tracemalloc.start()
    try:
        read_weights(path)
    except ValueError:
        pass
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 2 << 20  # two megabytes, of which the tables of the checksum take most


def test_memory_is_that_of_the_numbers(tmp_path):
    index = write(tmp_path, {f'{i}/weights': torch.ones(500, 1000) for i in range(4)})
    read_weights(index)  # the tables of the checksum are made once
    tracemalloc.start()
    found = read_weights(index)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(found) == 4 and peak < 8_000_000 + (4 << 20)


def test_footer_magic():
    assert table([])[-8:] == struct.pack('<Q', 0xdb4775248b80fb57)

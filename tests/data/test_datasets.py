"""Data sets by name, folder and archive."""
import hashlib
import io
import pickle
import tarfile
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from helpers.paths import DATA
from nasnet_zoo.data import DataError, FileSet, ImageSet, load_data, load_digits

ARCHIVE = DATA / 'cifar10-jpeg.tar.gz'


def picture(seed, size=(12, 12)):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), dtype=np.uint8))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Three train and two test pictures for each of two classes."""
    monkeypatch.setenv('NASNET_ZOO_CACHE', str(tmp_path / 'cache'))
    seed = 0
    for split, count in (('train', 3), ('test', 2)):
        for name in ('cat', 'dog'):
            (tmp_path / 'pets' / split / name).mkdir(parents=True)
            for i in range(count):
                seed += 1
                picture(seed).save(tmp_path / 'pets' / split / name / f'{i}.png')
    return tmp_path / 'pets'


def packed(folder, name='pets.tar.gz', top=''):
    with tarfile.open(folder.parent / name, 'w:gz' if name.endswith('gz') else 'w') as archive:
        archive.add(folder, top or '.')
    return folder.parent / name


def test_digits():
    pytest.importorskip('sklearn', reason='the digits come with scikit-learn')
    train, test = load_data('digits')
    assert (train.size(), test.size()) == (1347, 450)
    assert train.input_size == (1, 8, 8) and train.images.dtype == torch.uint8 and train.images.max() == 255
    assert train.normalized().mean().abs() < 1e-4 and (train.normalized().std() - 1).abs() < 1e-3
    assert test.labels.bincount().min() >= 43, 'classes in equal parts'
    assert torch.equal(load_digits()[1].labels, test.labels)
    assert len(torch.cat([train.images, test.images]).flatten(1)) == 1797


def test_a_folder(folder):
    train, test = load_data(folder)
    assert isinstance(train, ImageSet) and train.images.shape == (6, 3, 12, 12) and test.images.shape[0] == 4
    assert train.class_names == ('cat', 'dog') and train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    expected = np.asarray(Image.open(folder / 'train' / 'cat' / '1.png'))
    assert np.array_equal(train.images[1].permute(1, 2, 0).numpy(), expected)
    pixels = train.images.double() / 255
    assert train.mean == test.mean == pytest.approx(pixels.mean((0, 2, 3)).tolist())
    assert train.std == pytest.approx(pixels.std((0, 2, 3), correction=0).tolist())
    images, labels = next(test.batches(3))
    assert images.shape == (3, 3, 12, 12) and images.dtype == torch.float32 and labels.tolist() == [0, 0, 1]


@pytest.mark.parametrize('name, top', [('pets.tar.gz', ''), ('pets.tar', 'some/where'), ('pets.tgz', 'pets')])
def test_an_archive_is_its_folder(folder, name, top):
    for ours, expected in zip(load_data(packed(folder, name, top)), load_data(folder)):
        assert torch.equal(ours.images, expected.images) and torch.equal(ours.labels, expected.labels)
        assert ours.class_names == expected.class_names


def test_images_are_resized_and_cropped_square(folder):
    picture(1, (40, 20)).save(folder / 'train' / 'cat' / '0.png')
    with pytest.raises(DataError, match='choose a size'):
        load_data(folder)
    train, _ = load_data(folder, img_size=10)
    assert train.input_size == (3, 10, 10)
    middle = np.asarray(Image.open(folder / 'train' / 'cat' / '0.png').resize((20, 10), Image.Resampling.BICUBIC))
    assert np.array_equal(train.images[0].permute(1, 2, 0).numpy(), middle[:, 5:15])


def test_words_for_the_test_set(folder):
    (folder / 'test').rename(folder / 'val')
    assert load_data(folder)[1].size() == 4


def test_large_images_go_through_timm(folder):
    train, test = load_data(folder, img_size=96)
    assert isinstance(test, FileSet) and test.input_size == (3, 96, 96) and test.class_names == ('cat', 'dog')
    images, labels = next(test._replace(workers=0).batches(4))
    assert images.shape == (4, 3, 96, 96) and labels.tolist() == [0, 0, 1, 1]
    with pytest.raises(DataError, match='unpack it'):
        load_data(packed(folder), img_size=96)


def test_names_for_timm(folder):
    (folder / 'test').rename(folder / 'validation')
    train, test = load_data('torch/image_folder', folder, img_size=32)
    assert isinstance(train, FileSet) and (train.size(), test.size()) == (6, 4)
    assert train.class_names == ('cat', 'dog') and train.input_size == (3, 32, 32)


# What is wrong with a folder

def test_pictures_that_cannot_be_read_are_skipped_and_counted(folder):
    (folder / 'train' / 'cat' / '0.png').write_bytes(b'no picture')
    whole = (folder / 'train' / 'dog' / '2.png').read_bytes()
    (folder / 'train' / 'dog' / '2.png').write_bytes(whole[:len(whole) // 2])
    for _ in range(2):  # decoded, and from the cache
        with pytest.warns(UserWarning, match=r'2 images that cannot be read \(train/cat/0.png: it is not an image, '):
            train, _ = load_data(folder)
        assert train.labels.tolist() == [0, 0, 1, 1]


def test_large_pictures_that_cannot_be_read(folder):
    (folder / 'test' / 'cat' / '0.png').write_bytes(b'no picture')
    with pytest.warns(UserWarning, match=r'1 image that cannot be read \(test/cat/0.png'):
        _, test = load_data(folder, img_size=96)
    assert test.size() == 3
    assert torch.cat([labels for _, labels in test._replace(workers=0).batches(2)]).tolist() == [0, 1, 1]
    whole = (folder / 'test' / 'dog' / '1.png').read_bytes()
    (folder / 'test' / 'dog' / '1.png').write_bytes(whole[:len(whole) // 2])
    with pytest.warns(UserWarning), pytest.raises(DataError, match=r'test/dog/1.png: cannot be read: .*; remove it'):
        list(load_data(folder, img_size=96)[1]._replace(workers=0).batches(4))


@pytest.mark.parametrize('side', [12, 96])
def test_every_suffix_counts(folder, side):
    for file in (folder / 'test' / 'cat').iterdir():
        Image.open(file).save(file.with_suffix('.webp'), lossless=True)
        file.unlink()
    assert load_data(folder, img_size=side)[1].size() == 4


def test_kinds_of_pictures(folder):
    gray = np.arange(144, dtype=np.uint16).reshape(12, 12) * 400
    for i, image in enumerate([
            Image.fromarray(gray), Image.fromarray((gray >> 8).astype(np.uint8)),
            picture(5).convert('RGBA'), picture(5)]):
        image.save(folder / 'train' / 'cat' / f'x{i}.png')
    images = load_data(folder)[0].images[3:7]
    assert torch.equal(images[0], images[1]) and torch.equal(images[2], images[3])
    turned = picture(6)
    exif = turned.getexif()
    exif[0x0112] = 3  # upside down
    turned.save(folder / 'train' / 'cat' / '0.png', exif=exif)
    assert np.array_equal(load_data(folder)[0].images[0].permute(1, 2, 0), np.asarray(turned)[::-1, ::-1])


def test_a_part_is_held_out_of_large_pictures(folder):
    train, _ = load_data(folder, img_size=96)
    rest, part = train.split(0.34)
    assert (rest.size(), part.size()) == (4, 2) and part.dataset.labels == [0, 1]
    assert not set(rest.dataset.files) & set(part.dataset.files)
    for share in (0., 1., -0.5, 0.01):
        with pytest.raises(DataError, match='val_share: (must be between 0 and 1|.* would be held out)'):
            train.split(share)


def test_hidden_files_and_nested_copies_do_not_count(folder):
    (folder / 'train' / '.ipynb_checkpoints').mkdir()
    (folder / 'train' / 'cat' / '.0.png').write_bytes(b'')
    picture(7).save(folder / '.hidden.png')
    (folder / 'backup' / 'train' / 'cat').mkdir(parents=True)
    picture(8).save(folder / 'backup' / 'train' / 'cat' / 'old.png')
    assert load_data(folder)[0].size() == 6 and load_data(packed(folder))[0].size() == 6


def test_a_damaged_archive_is_not_a_smaller_one(folder):
    content = bytearray(packed(folder, 'pets.tar').read_bytes())
    with tarfile.open(folder.parent / 'pets.tar') as archive:
        content[archive.getmembers()[8].offset + 5] ^= 64
    (folder.parent / 'damaged.tar').write_bytes(content)
    with pytest.raises(DataError, match='damaged.tar: cannot be read as an archive: it is damaged after'):
        load_data(folder.parent / 'damaged.tar')


def test_own_sizes_must_be_one(folder):
    picture(9, (20, 20)).save(folder / 'test' / 'dog' / '1.png')  # not the first of its class
    with pytest.raises(DataError, match='test/dog/1.png is not square or not as large'):
        load_data(folder)


def test_a_damaged_cache_is_named(folder, tmp_path):
    load_data(folder)
    cached, = (tmp_path / 'cache').iterdir()
    cached.write_bytes(cached.read_bytes()[:100])
    with pytest.raises(DataError, match='is damaged: .*; remove it'):
        load_data(folder)


def test_digits_of_another_size():
    pytest.importorskip('sklearn', reason='the digits come with scikit-learn')
    train, _ = load_data('digits', img_size=16)
    assert train.input_size == (1, 16, 16) and train.images.dtype == torch.uint8
    assert (train.normalized().mean() - load_digits()[0].normalized().mean()).abs() < 0.1


def test_a_class_without_a_readable_picture(folder):
    for file in (folder / 'test' / 'dog').iterdir():
        file.write_bytes(b'')
    with pytest.raises(DataError, match='none of the images in test/dog can be read'):
        load_data(folder)
    for file in (folder / 'test' / 'dog').iterdir():
        file.unlink()
    with pytest.raises(DataError, match='test/dog has no images'):
        load_data(folder)
    with pytest.raises(DataError, match='test/dog has no images'):
        load_data(packed(folder))
    (folder / 'test' / 'dog').rmdir()
    with pytest.raises(DataError, match='different classes: dog'):
        load_data(folder)


def test_what_is_no_data_set(tmp_path, folder):
    with pytest.raises(DataError, match='no such file or folder, and it is neither one of digits, cifar10'):
        load_data('cifar11')
    with pytest.raises(DataError, match='has no folders train/CLASS'):
        load_data(folder / 'train' / 'cat')
    (tmp_path / 'x.tar.gz').write_bytes(packed(folder).read_bytes()[:300])
    with pytest.raises(DataError, match='x.tar.gz: cannot be read as an archive'):
        load_data(tmp_path / 'x.tar.gz')


def test_an_archive_writes_nothing_outside(folder, tmp_path):
    evil = tmp_path / 'evil.tar'
    with tarfile.open(evil, 'w') as archive:
        archive.add(folder, '.')
        data = io.BytesIO()
        picture(3).save(data, 'png')
        member = tarfile.TarInfo('../../train/cat/../../../evil.png')
        member.size = len(data.getvalue())
        archive.addfile(member, io.BytesIO(data.getvalue()))
        link = tarfile.TarInfo('train/cat/link.png')
        link.type, link.linkname = tarfile.SYMTYPE, '/etc/passwd'
        archive.addfile(link)
    before = sorted(tmp_path.iterdir())
    assert load_data(evil)[0].size() == 6
    assert [path for path in sorted(tmp_path.iterdir()) if path not in before] in ([], [tmp_path / 'cache'])


# The cache

def test_the_cache_follows_the_folder(folder, tmp_path):
    first, _ = load_data(folder)
    cached, = (tmp_path / 'cache').iterdir()
    written = cached.stat().st_mtime_ns
    assert torch.equal(load_data(folder)[0].images, first.images) and cached.stat().st_mtime_ns == written
    picture(99).save(folder / 'train' / 'cat' / '0.png')
    assert not torch.equal(load_data(folder)[0].images, first.images)


def test_a_decoded_archive_is_not_read_again(folder, monkeypatch):
    archive = packed(folder)
    first, _ = load_data(archive)
    monkeypatch.setattr('tarfile.open', None)
    again, _ = load_data(archive)
    assert torch.equal(again.images, first.images) and again.class_names == ('cat', 'dog')


def test_a_run_that_is_cut_off_leaves_no_half_cache(folder, tmp_path, monkeypatch):
    def cut_off(tensors, path, **kwargs):
        Path(path).write_bytes(b'half')
        raise KeyboardInterrupt
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr('nasnet_zoo.data.pictures.save_file', cut_off)
        load_data(folder)
    assert not list((tmp_path / 'cache').iterdir())
    (tmp_path / 'cache' / '.pets-half.safetensors').write_bytes(b'half')  # as a killed process leaves it
    assert load_data(folder)[0].size() == 6


# A part held out

def test_split_is_by_class_and_by_seed():
    images = ImageSet(torch.zeros(60, 1, 2, 2, dtype=torch.uint8), torch.arange(60) % 3, (0.,), (1.,), ('a', 'b', 'c'))
    images = images._replace(images=torch.arange(60, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 2, 2))
    rest, part = images.split(0.25, seed=1)
    assert part.labels.bincount().tolist() == [5, 5, 5] and rest.size() == 45
    seen = torch.cat([rest.images, part.images])[:, 0, 0, 0]
    assert sorted(seen.tolist()) == list(range(60))
    assert torch.equal(images.split(0.25, seed=1)[1].images, part.images)
    assert not torch.equal(images.split(0.25, seed=2)[1].images, part.images)


# torchvision's sets

@pytest.fixture
def cifar(tmp_path, monkeypatch):
    """A CIFAR-10 of ten images a file in torchvision's layout, as an archive on a server on loopback."""
    datasets = pytest.importorskip('torchvision.datasets')
    base = tmp_path / 'served' / datasets.CIFAR10.base_folder
    base.mkdir(parents=True)

    def write(name, content):
        (base / name).write_bytes(pickle.dumps(content))
        return [name, hashlib.md5((base / name).read_bytes()).hexdigest()]
    generator = np.random.default_rng(0)

    def batch():
        return dict(data=generator.integers(0, 256, (10, 3072), dtype=np.uint8), labels=list(range(10)))
    monkeypatch.setattr(datasets.CIFAR10, 'train_list', [write(f'data_batch_{i}', batch()) for i in range(1, 6)])
    monkeypatch.setattr(datasets.CIFAR10, 'test_list', [write('test_batch', batch())])
    name, md5 = write('batches.meta', dict(label_names=[f'class {i}' for i in range(10)]))
    monkeypatch.setattr(datasets.CIFAR10, 'meta', dict(filename=name, key='label_names', md5=md5))
    archive = tmp_path / 'served' / datasets.CIFAR10.filename
    with tarfile.open(archive, 'w:gz') as file:
        file.add(base, datasets.CIFAR10.base_folder)
    monkeypatch.setattr(datasets.CIFAR10, 'tgz_md5', hashlib.md5(archive.read_bytes()).hexdigest())
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path / 'served'))
    monkeypatch.setattr(SimpleHTTPRequestHandler, 'log_message', lambda *args: None)
    with ThreadingHTTPServer(('127.0.0.1', 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(datasets.CIFAR10, 'url', f'http://127.0.0.1:{server.server_port}/{archive.name}')
        yield base
        server.shutdown()


def test_cifar10_is_downloaded_and_read(cifar, tmp_path):
    with pytest.raises(DataError, match='--download'):
        load_data('cifar10', tmp_path / 'root')
    train, test = load_data('cifar10', tmp_path / 'root', download=True)
    assert train.images.shape == (50, 3, 32, 32) and test.size() == 10 and train.class_names[1] == 'class 1'
    with (cifar / 'test_batch').open('rb') as file:
        raw = pickle.load(file)['data'][0].reshape(3, 32, 32)
    assert np.array_equal(test.images[0].numpy(), raw)
    assert torch.equal(load_data('cifar10', tmp_path / 'root')[0].images, train.images), 'a local root'


def test_a_changed_pickle_is_not_opened(cifar, tmp_path):
    load_data('cifar10', tmp_path / 'root', download=True)
    batch = tmp_path / 'root' / cifar.name / 'data_batch_3'
    batch.write_bytes(batch.read_bytes() + b' ')
    with pytest.raises(DataError, match='not found or corrupted'):
        load_data('cifar10', tmp_path / 'root')


@pytest.mark.skipif(not ARCHIVE.exists(), reason='needs the CIFAR-10 pictures: NASNET_ZOO_DATA=FOLDER')
def test_real_pictures():
    train, test = load_data(ARCHIVE)
    assert train.images.shape == (50000, 3, 32, 32) and test.labels.bincount().tolist() == [1000] * 10
    assert train.class_names[:2] == ('airplane', 'automobile')
    assert train.mean == pytest.approx((0.4914, 0.4822, 0.4465), abs=1e-3)

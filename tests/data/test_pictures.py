"""Images of data sets and of folders: the same as torchvision finds, and nothing left out without a word."""
import json
import os
import pickle
import subprocess
import sys
import tarfile
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from nasnet_zoo.data import DataError, FileSet, load_data
from nasnet_zoo.data.pictures import PictureFolder, find_pictures


def add(path, kind=None, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, kind)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A data set with nested and linked folders, in which three images of a class are easily missed."""
    monkeypatch.setenv('NASNET_ZOO_CACHE', str(tmp_path / 'cache'))
    pets = tmp_path / 'pets'
    for split in ('train', 'test'):
        for i, name in enumerate(('b.png', 'A.PNG', 'young/c.jpg', 'young/small/d.webp', 'young-ones/e.tiff')):
            add(pets / split / 'cat' / name, seed=i)
        add(tmp_path / 'elsewhere' / split / 'dog' / 'f.png', seed=5)
        add(tmp_path / 'elsewhere' / split / 'dogs' / 'g.JPEG', seed=6)
        (pets / split / 'dog').symlink_to(tmp_path / 'elsewhere' / split / 'dog')
        (pets / split / 'dog' / 'more').symlink_to('../dogs')
        (pets / split / 'dog' / 'h.png').symlink_to(pets / split / 'cat' / 'b.png')
        (pets / split / 'cat' / 'notes.txt').write_text('not an image at all', encoding='utf-8')
    return pets


pytestmark = pytest.mark.filterwarnings('ignore:.* left out: ')
NOT_IMAGES = {'not an image': 2}


@pytest.mark.parametrize('linked', [False, True])
def test_the_same_images_and_classes_as_torchvision(folder, linked):
    datasets = pytest.importorskip('torchvision.datasets')
    if linked:
        (folder / 'train').rename(folder.parent / 'train-elsewhere')
        (folder / 'train').symlink_to('../train-elsewhere')
    expected = {split: datasets.ImageFolder(folder / split) for split in ('train', 'test')}
    for data, split in zip(load_data(folder, img_size=96), expected):
        assert data.class_names == tuple(expected[split].classes)
        assert list(zip(map(str, data.dataset.files), data.dataset.labels)) == expected[split].samples
        assert data.size() == 8 and data.left_out == NOT_IMAGES
    images = np.stack([np.asarray(image) for image, _ in expected['train']]).transpose(0, 3, 1, 2)
    train, _ = load_data(folder)
    assert np.array_equal(train.images, images) and train.labels.tolist() == expected['train'].targets


@pytest.mark.parametrize('name', ['pets.tar', 'pets.tgz', 'pets.zip'])
def test_archives(folder, name):
    path = folder.parent / name
    for split in ('train', 'test'):  # what an archive holds without following links must be inside
        (folder / split / 'dog').unlink()
        (folder.parent / 'elsewhere' / split / 'dog').rename(folder / split / 'dog')
        (folder.parent / 'elsewhere' / split / 'dogs').rename(folder / split / 'cat' / 'dogs')
        (folder / split / 'dog' / 'more').unlink()
        (folder / split / 'dog' / 'more').symlink_to('../cat/dogs')
        (folder / split / 'dog' / 'h.png').unlink()
        (folder / split / 'dog' / 'h.png').symlink_to('../cat/b.png')
    if name.endswith('zip'):
        with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as archive:  # follows links to files
            for at, _, files in os.walk(folder, followlinks=True):
                for file in files:
                    archive.write(os.path.join(at, file), os.path.relpath(os.path.join(at, file), folder))
    else:
        with tarfile.open(path, 'w:gz' if name == 'pets.tgz' else 'w') as archive:
            archive.add(folder, 'pets')
    for ours, expected in zip(load_data(path), load_data(folder)):
        assert ours.size() == 9 and torch.equal(ours.labels, expected.labels)
        assert torch.equal(ours.images, expected.images) and ours.left_out == NOT_IMAGES


def test_the_warning_and_the_counts_name_all_that_is_left_out(folder):
    for name in ('.DS_Store', 'loose.png', 'train/loose.png', 'backup/train/cat/old.png', 'val/cat/1.png'):
        add(folder / name, 'png')
    (folder / 'train' / 'cat' / 'broken.png').write_bytes(b'no image')
    (folder / 'test' / 'dog' / 'young').symlink_to('nowhere')
    text = (r'pets: 9 files left out: 1 hidden \(.DS_Store\), 2 not images \(test/cat/notes.txt, train/cat/notes.txt'
            r'\), 1 broken link \(test/dog/young\), 4 in no folder train/CLASS or test/CLASS \(loose.png, '
            r'backup/train/cat/old.png, train/loose.png, val/cat/1.png\), 1 image that cannot be read '
            r'\(train/cat/broken.png: it is not an image\)$')
    for img_size in (None, None, 96):  # decoded, from the cache, and as files
        with pytest.warns(UserWarning, match=text):
            train, test = load_data(folder, img_size=img_size)
        assert (train.size(), test.size()) == (8, 8) and isinstance(train, FileSet) == (img_size == 96)
        assert train.left_out == test.left_out == {
            'hidden': 1, 'not an image': 2, 'broken link': 1, 'in no folder train/CLASS or test/CLASS': 4,
            'image that cannot be read': 1}
        assert train.split(0.5)[1].left_out == train.left_out
        assert pickle.loads(pickle.dumps(train)).left_out == train.left_out


def test_errors_say_what_was_found_instead(folder):
    add(folder / 'train' / 'bird' / 'photo', 'png')
    add(folder / 'train' / 'bird' / '.hidden.png', 'png')
    with pytest.raises(DataError, match=r'train/bird has no images \(4 files left out: 1 hidden \(train/bird/'
                                        r'.hidden.png\), .* 1 image without an image extension \(train/bird/photo\)\); '
                                        'add some'):
        load_data(folder)
    for split in ('train', 'test'):
        add(folder / split / os.fsdecode(b'K\xe4fer') / '1.png')
        add(folder / split / 'bird' / '1.png')
    with pytest.raises(DataError, match=r'the name of the class K\\udce4fer is not UTF-8 or cannot be printed; rename'):
        load_data(folder)
    (folder / 'train').rename(folder / 'Train')
    with pytest.raises(DataError, match=r'has no folders train/CLASS with images \(.* in no folder .*Train/'):
        load_data(folder)


def test_the_digest_changes_with_the_images_that_are_used(folder, monkeypatch):
    digests = [PictureFolder(folder).digest]
    assert PictureFolder(folder).digest == digests[0]
    add(folder.parent / 'elsewhere' / 'train' / 'dogs' / 'new.png')  # reached through two links
    digests.append(PictureFolder(folder).digest)
    (folder / 'train' / 'bird').mkdir()
    digests.append(PictureFolder(folder).digest)
    (folder / 'train' / 'cat' / 'bird').symlink_to('..')
    digests.append(PictureFolder(folder).digest)
    monkeypatch.setattr('nasnet_zoo.data.pictures.image_endings', lambda: frozenset({'.png'}))  # another Pillow
    digests.append(PictureFolder(folder).digest)
    assert len(set(digests)) == 5


def test_an_encrypted_zip_archive(folder):
    path = folder.parent / 'pets.zip'
    with zipfile.ZipFile(path, 'w') as archive:
        for split in ('train', 'test'):
            archive.write(folder / split / 'cat' / 'b.png', f'{split}/cat/b.png')
    content = bytearray(path.read_bytes())
    for signature, offset in ((b'PK\1\2', 8), (b'PK\3\4', 6)):  # set the flag "encrypted"
        at = content.find(signature)
        while at >= 0:
            content[at + offset] |= 1
            at = content.find(signature, at + 1)
    path.write_bytes(content)
    with pytest.raises(DataError, match='none of the images in train/cat can be read .*is encrypted'):
        load_data(path, img_size=12)


def test_images_of_folders(folder):
    files, left_out = find_pictures([folder / 'train', folder / 'test' / 'cat' / 'notes.txt'])
    assert len(files) == 9 and all(file.is_file() for file in files)
    assert left_out == {'not an image': [str(folder / 'train' / 'cat' / 'notes.txt')]}
    (folder.parent / 'photos.ZIP').write_bytes(b'PK')
    (folder.parent / 'gone').symlink_to('nowhere')
    (folder.parent / 'empty').mkdir()
    (folder.parent / 'empty' / '.a.png').touch()
    for name, message in (('photos.ZIP', 'is an archive; unpack it and pass the folder'), ('gone', 'is a broken link'),
                          ('none', 'there is no such file or folder'),
                          ('empty', r'there are no images \(1 file left out: 1 hidden \(.a.png\)\)')):
        with pytest.raises(ValueError, match=f'{name}: {message}$'):
            find_pictures([folder.parent / name])


def test_names_of_classes_are_text_in_every_locale(tmp_path):
    pets = tmp_path / 'pets'
    for split in ('train', 'test'):
        for name in ('Käfer', '猫'):
            add(pets / split / name / 'a.png')
    with tarfile.open(tmp_path / 'pets.tar', 'w') as archive:
        archive.add(pets, 'pets')
    with zipfile.ZipFile(tmp_path / 'pets.zip', 'w') as archive:
        for file in pets.rglob('*.png'):
            archive.write(file, file.relative_to(pets))
    code = """if True:
        import json
        from pathlib import Path
        from nasnet_zoo.data.pictures import PictureFolder
        paths = map(Path, ('pets', 'pets.tar', 'pets.zip'))
        print(json.dumps([list(PictureFolder(path).splits['train']) for path in paths]))
    """
    environ = {**os.environ, 'LC_ALL': 'C', 'PYTHONUTF8': '0', 'PYTHONCOERCECLOCALE': '0'}
    found = subprocess.check_output([sys.executable, '-c', code], cwd=tmp_path, env=environ)
    assert json.loads(found) == [['Käfer', '猫']] * 3

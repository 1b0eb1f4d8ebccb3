"""What is found in a folder, and what is left out of it."""
import json
import os

import pytest
from PIL import Image

from helpers.platforms import posix_only
from nasnet_zoo.data.tree import FolderTree, describe_left_out, image_endings, list_images


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / 'photos'
    folder.mkdir()
    add(folder / 'a.png')
    return folder


def add(path, kind='png'):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new('RGB', (4, 4), 'red').save(path, kind)
    return path


def listed(folder):
    return list_images(FolderTree(folder))


def test_links_and_folders_at_any_depth(folder, tmp_path):
    add(folder / 'x' / 'y' / 'z' / 'deep.png')
    add(tmp_path / 'elsewhere' / 'far.png')
    add(tmp_path / 'elsewhere' / 'below' / 'further.png')
    (folder / 'linked').symlink_to('../elsewhere')
    (folder / 'again').symlink_to('linked')
    (folder / 'link.png').symlink_to('a.png')
    os.link(folder / 'a.png', folder / 'hard.png')
    found = listed(folder)
    assert found.left_out == {} and found.images == [
        'a.png', 'hard.png', 'link.png', 'again/far.png', 'again/below/further.png', 'linked/far.png',
        'linked/below/further.png', 'x/y/z/deep.png']
    assert found.folders == ['again', 'again/below', 'linked', 'linked/below', 'x', 'x/y', 'x/y/z']


def test_loops_end(folder):
    (folder / 'sub').mkdir()
    (folder / 'sub' / 'up').symlink_to('..')
    (folder / 'sub' / 'same').symlink_to('.')
    (folder / 'self').symlink_to('self')
    add(folder / 'one' / '1.png')
    add(folder / 'two' / '2.png')
    (folder / 'one' / 'other').symlink_to('../two')
    (folder / 'two' / 'other').symlink_to('../one')
    found = listed(folder)
    assert found.images == ['a.png', 'one/1.png', 'one/other/2.png', 'two/2.png', 'two/other/1.png']
    assert found.left_out == {
        'broken link': ['self'],
        'link to a folder that contains it': ['one/other/other/', 'sub/same/', 'sub/up/', 'two/other/other/']}


def test_endings_are_those_of_pillow(folder):
    others = {'.pdf', '.eps', '.ps', '.mpg', '.mpeg', '.h5', '.hdf', '.grib', '.bufr', '.wmf', '.emf'}
    assert image_endings() > {'.jpg', '.jpeg', '.jpe', '.jfif', '.png', '.apng', '.bmp', '.gif', '.webp', '.tif',
                              '.tiff', '.ppm', '.pgm', '.pnm', '.mpo', '.jp2', '.tga', '.ico'}
    assert not image_endings() & others
    assert ('.avif' in image_endings()) == ('.avif' in Image.registered_extensions())
    for name in ('B.JPG', 'c.JpEg', 'd.jfif', 'e.jpe', 'f.x.jpg'):
        add(folder / name, 'jpeg')
    assert listed(folder).images == ['B.JPG', 'a.png', 'c.JpEg', 'd.jfif', 'e.jpe', 'f.x.jpg']


@posix_only
def test_every_entry_is_used_or_counted(folder):
    for name in ('.hidden.png', '._a.png', '__MACOSX/a.png', '.git/1.png', '.git/2.png'):
        add(folder / name)
    for name, kind in (('photo', 'png'), ('photo.txt', 'jpeg'), ('b.jpg_original', 'jpeg'), ('c.dat', 'webp')):
        add(folder / name, kind)
    for name in ('notes.txt', 'README', 'empty', 'x.json', 'more.zip', 'more.tar.gz', 'IMG_1.HEIC', 'plan.pdf'):
        (folder / name).write_text('' if name == 'empty' else 'just some text, no image', encoding='utf-8')
    (folder / 'gone.png').symlink_to('nowhere.png')
    (folder / 'gone').symlink_to('nowhere')
    os.mkfifo(folder / 'pipe.png')
    found = listed(folder)
    assert found.images == ['a.png'] and found.left_out == {
        'hidden': ['._a.png', '.git/', '.hidden.png', '__MACOSX/'],
        'not an image': ['README', 'empty', 'notes.txt', 'x.json'],
        'image without an image extension': ['b.jpg_original', 'c.dat', 'photo', 'photo.txt'],
        'image in a format that is not supported': ['IMG_1.HEIC', 'plan.pdf'],
        'archive': ['more.tar.gz', 'more.zip'],
        'broken link': ['gone', 'gone.png'],
        'neither a file nor a folder': ['pipe.png']}
    counted = len(found.images) + sum(map(len, found.left_out.values())) + len(found.folders)
    assert counted == len(os.listdir(folder))


def test_a_folder_that_cannot_be_opened(folder, monkeypatch):
    add(folder / 'locked' / 'b.png')
    scan = os.scandir

    def refuse(path):
        if os.path.basename(path) == 'locked':
            raise PermissionError(13, 'Permission denied', str(path))
        return scan(path)
    monkeypatch.setattr('os.scandir', refuse)  # root may open every folder
    found = listed(folder)
    assert found.images == ['a.png'] and found.folders == []
    assert describe_left_out(found.left_out) == '1 folder left out: 1 that cannot be opened (locked/)'


def test_names_that_are_not_utf_8_and_names_that_differ_by_case(folder):
    name = os.fsdecode(b'K\xe4fer.png')
    for other in (name, 'A.png', 'A.PNG', 'two\nlines.png'):
        add(folder / other)
    (folder / os.fsdecode(b'\xff.txt')).write_text('no', encoding='utf-8')
    found = listed(folder)
    assert set(found.images) == {'a.png', 'A.png', 'A.PNG', name, 'two\nlines.png'}
    assert json.loads(json.dumps(found.stamps))
    text = describe_left_out(found.left_out)
    assert text == r'1 file left out: 1 not an image (\udcff.txt)' and text.encode('utf-8')


def test_the_description():
    assert describe_left_out({}) == describe_left_out({'hidden': []}) == ''
    assert describe_left_out({'hidden': ['.a', '.b'], 'not an image': ['notes.txt']}) == (
        '3 files left out: 2 hidden (.a, .b), 1 not an image (notes.txt)')
    assert describe_left_out({'not an image': list('abcdefg'), 'hidden': ['.git/']}) == (
        '8 files and folders left out: 7 not images (a, b, c, d, e, …), 1 hidden (.git/)')

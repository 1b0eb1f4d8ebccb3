"""What is found in tar and zip archives, and what is left out of them."""
import io
import random
import stat
import tarfile
import zipfile

import pytest
from PIL import Image

from nasnet_zoo.data.archive import ArchiveTree
from nasnet_zoo.data.tree import DataError, FolderTree, list_images


def image(color='red'):
    buffer = io.BytesIO()
    Image.new('RGB', (4, 4), color).save(buffer, 'png')
    return buffer.getvalue()


def tar(path, *members):
    """Write members: name and content, or name, type and target of a link."""
    with tarfile.open(path, 'w:gz' if path.suffix == '.gz' else 'w') as archive:
        for name, content, *target in members:
            info = tarfile.TarInfo(name)
            if len(content) == 1:  # a type
                info.type, info.linkname, content = content, ''.join(target), b''
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def zipped(path, *members):
    """Write members: name and content, or name, type and target of a link."""
    with zipfile.ZipFile(path, 'w') as archive:
        for name, content, *target in members:
            info = zipfile.ZipInfo(name)
            if target:
                info.create_system, info.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
            archive.writestr(info, target[0] if target else content)
    return path


def read(tree, names):
    return {name: load() for name, load in tree.read(names)}


HARD, LINK, FOLDER = tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.DIRTYPE


@pytest.mark.parametrize('name', ['x.tar', 'x.tar.gz', 'x.zip'])
def test_an_archive_is_the_folder_that_it_holds(tmp_path, name):
    top = tmp_path / 'top'
    (top / 'a' / 'below').mkdir(parents=True)
    (top / 'empty').mkdir()
    for path, color in (('a/1.PNG', 'red'), ('a/below/2.png', 'lime'), ('.hidden.png', 'red'), ('photo', 'red')):
        (top / path).write_bytes(image(color))
    (top / 'notes.txt').write_text('no image, but some text', encoding='utf-8')
    for link, target in (('b', 'a'), ('c.png', 'b/below/2.png'), ('d.png', 'c.png'), ('a/up', '..'), ('gone', 'no'),
                         ('self', 'self')):
        (top / link).symlink_to(target)
    if name == 'x.zip':
        members = [(path.relative_to(top).as_posix(), b'', str(path.readlink())) if path.is_symlink() else
                   (f'{path.relative_to(top).as_posix()}/', b'') if path.is_dir() else
                   (path.relative_to(top).as_posix(), path.read_bytes()) for path in top.rglob('*')]
        path = zipped(tmp_path / name, *members)
    else:
        path = tmp_path / name
        with tarfile.open(path, 'w:gz' if name.endswith('gz') else 'w') as archive:
            archive.add(top, '.')
    tree, expected = ArchiveTree(path), list_images(FolderTree(top))
    found = list_images(tree)
    assert found[:3] == expected[:3] and len(found.images) == 6 and len(found.left_out) == 5
    assert read(tree, found.images) == {name: (top / name).read_bytes() for name in found.images}


def test_hard_links_and_links_that_lead_out(tmp_path):
    tree = ArchiveTree(tar(
        tmp_path / 'x.tar', ('a/1.png', image()), ('a/2.png', HARD, 'a/1.png'), ('3.png', HARD, './a/../a/2.png'),
        ('4.png', LINK, '/etc/passwd'), ('a/5.png', LINK, '../../1.png'), ('6.png', HARD, '../1.png'),
        ('7.png', HARD, 'none.png'), ('8.png', tarfile.CHRTYPE), ('b', LINK, 'a')))
    found = list_images(tree)
    assert found.images == ['3.png', 'a/1.png', 'a/2.png', 'b/1.png', 'b/2.png']
    assert set(read(tree, found.images).values()) == {image()}
    assert found.left_out == {
        'broken link': ['7.png'], 'neither a file nor a folder': ['8.png'],
        'link that leads out of the archive': ['4.png', '6.png', 'a/5.png', 'b/5.png']}


@pytest.mark.parametrize('write, name', [(tar, 'x.tar'), (zipped, 'x.zip')])
@pytest.mark.filterwarnings('ignore:Duplicate name')
def test_names_as_no_folder_has_them(tmp_path, write, name):
    tree = ArchiveTree(write(
        tmp_path / name, ('/abs/1.png', image()), ('../out.png', image()), ('a/../../out.png', image()),
        ('./a//2.png', image('red')), ('a/2.png', image('blue')), ('a/../a/3.png', image()), ('a', image()),
        ('f', image()), ('f/4.png', image())))
    found = list_images(tree)
    assert found.images == ['a/2.png', 'a/3.png', 'abs/1.png', 'f/4.png']
    assert read(tree, ['a/2.png']) == {'a/2.png': image('blue')}, 'the last one counts, as if it were unpacked'
    assert found.left_out == {
        'with a name that leads out of the archive': ['../out.png', 'a/../../out.png'],
        'with the name of another entry': ['a', 'a/2.png', 'f']}


def test_names_that_are_not_utf_8(tmp_path):
    with tarfile.open(tmp_path / 'x.tar', 'w', encoding='latin-1', format=tarfile.GNU_FORMAT) as archive:
        info = tarfile.TarInfo('Käfer.png')
        info.size = len(image())
        archive.addfile(info, io.BytesIO(image()))
    tree = ArchiveTree(tmp_path / 'x.tar')
    assert list_images(tree).images == ['K\udce4fer.png'] and list(read(tree, ['K\udce4fer.png']).values()) == [image()]


def test_names_in_zip_archives_of_other_systems(tmp_path):
    path = zipped(tmp_path / 'x.zip', ('a_b.png', image()), ('Kxxfer.png', image()))
    content = path.read_bytes().replace(b'a_b.png', b'a\\b.png').replace(b'Kxxfer', 'Käfer'.encode())
    path.write_bytes(content)
    tree = ArchiveTree(path)
    assert list_images(tree).images == ['Käfer.png', 'a/b.png']
    assert set(read(tree, ['Käfer.png', 'a/b.png']).values()) == {image()}


def test_links_that_multiply_or_never_end(tmp_path):
    links = [(f'l{k}', LINK, f'l{k + 1}/../l{k + 1}') for k in range(50)]
    links += [('l50', FOLDER), ('y', LINK, 'z'), ('z', LINK, 'y')]
    found = list_images(ArchiveTree(tar(tmp_path / 'x.tar', *links)))
    assert found.images == [] and {'l0', 'y', 'z'} <= set(found.left_out['broken link'])
    deep = '/'.join(['d'] * 1100)
    assert list_images(ArchiveTree(tar(tmp_path / 'deep.tar', (f'{deep}/1.png', image())))).images == [f'{deep}/1.png']


@pytest.mark.parametrize('write, name', [(tar, 'x.tar'), (zipped, 'x.zip')])
@pytest.mark.filterwarnings('ignore:Duplicate name')
def test_every_member_is_used_or_counted(tmp_path, write, name):
    for seed in range(30):
        draw = random.Random(seed)
        members = []
        for _ in range(20):
            path = '/'.join(draw.choice(['a', 'b', 'c.png', '..', '.d', '']) for _ in range(draw.randint(1, 4)))
            target = '/'.join(draw.choice(['a', 'b', 'c.png', '..']) for _ in range(draw.randint(1, 3)))
            members.append(draw.choice([(path, image()), (path, LINK, target)]))
        tree = ArchiveTree(write(tmp_path / name, *members))
        found = list_images(tree)
        named = {*found.images, *found.folders, *(entry for names in found.left_out.values() for entry in names)}
        for path, *_ in members:
            parts = [part for part in path.lstrip('/').split('/') if part not in ('', '.')]
            if '..' in parts or not parts:
                continue
            hidden = next((i for i, part in enumerate(parts) if part.startswith('.')), len(parts) - 1)
            short = '/'.join(parts[:hidden + 1])
            assert {short, f'{short}/'} & named, (seed, path, named)


def test_damage(tmp_path):
    path = zipped(tmp_path / 'x.zip', ('a.png', image()))
    path.write_bytes(path.read_bytes()[:-10])
    for content in (path.read_bytes(), b'', b'no archive at all'):
        path.write_bytes(content)
        with pytest.raises(DataError, match='x.zip: cannot be read as an archive: '):
            list_images(ArchiveTree(path))

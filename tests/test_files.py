"""Files and folders appear complete or not at all, with the permissions that the umask gives."""
import os

import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from helpers.platforms import posix_only
from nasnet_zoo.cli.main import app
from nasnet_zoo.files import (
    atomic_folder,
    atomic_write,
    check_purpose,
    read_safetensors,
    remove_partial_files,
    sort_safetensors_metadata,
    write_json,
    write_utf8,
)


@pytest.fixture(params=[0o022, 0o027], ids=oct)
def umask(request):
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def listed(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob('*'))


@posix_only
def test_permissions_are_those_of_the_umask(tmp_path, umask):
    with atomic_write(tmp_path / 'a.safetensors') as part:  # the library replaces the file by one of mode 0600
        save_file({'x': torch.zeros(1)}, part)
    write_json(tmp_path / 'a.json', {})
    with atomic_folder(tmp_path / 'new' / 'folder', last='b.txt') as part:
        write_utf8(part / 'b.txt', 'b')
    modes = {name: (tmp_path / name).stat().st_mode & 0o777 for name in listed(tmp_path)}
    assert modes == {name: (0o777 if 'new' in name and '.' not in name else 0o666) & ~umask for name in modes}
    assert len(modes) == 5


def test_a_folder_that_is_a_file(tmp_path):
    (tmp_path / 'a').write_text('', encoding='utf-8')
    with pytest.raises(ValueError, match='a: is a file, not a folder'), atomic_folder(tmp_path / 'a', last='b'):
        pass


def test_text_has_the_same_bytes_everywhere(tmp_path):
    write_utf8(tmp_path / 'a', 'Käfer\n猫\n')
    assert (tmp_path / 'a').read_bytes() == 'Käfer\n猫\n'.encode()


def test_a_failed_write_leaves_the_old_file(tmp_path):
    write_utf8(tmp_path / 'a', 'old')
    with pytest.raises(OSError, match='disk'), atomic_write(tmp_path / 'a') as part:
        part.write_text('half', encoding='utf-8')
        raise OSError('disk full')
    assert (tmp_path / 'a').read_text(encoding='utf-8') == 'old' and listed(tmp_path) == ['a']


@pytest.mark.parametrize('exists', [False, True])
def test_a_failed_folder_leaves_nothing(tmp_path, exists):
    folder = tmp_path / 'folder'
    if exists:
        folder.mkdir()
        write_utf8(folder / 'a', 'old')
    before = listed(tmp_path)
    with pytest.raises(OSError, match='disk'), atomic_folder(folder, last='a') as part:
        write_utf8(part / 'b', 'new')
        raise OSError('disk full')
    assert listed(tmp_path) == before


def test_files_of_a_folder_are_replaced_together(tmp_path, monkeypatch):
    write_utf8(tmp_path / 'kept', 'kept')
    for text in ('old', 'new'):
        with atomic_folder(tmp_path, last='z/last') as part:
            (part / 'z').mkdir()
            for name in ('a', 'z/last', 'z/other'):
                write_utf8(part / name, text)
    assert listed(tmp_path) == ['a', 'kept', 'z', 'z/last', 'z/other']
    assert {(tmp_path / name).read_text(encoding='utf-8') for name in ('a', 'z/last', 'z/other')} == {'new'}

    def fail(*args):
        raise OSError('disk full')
    with pytest.raises(OSError, match='disk'), atomic_folder(tmp_path, last='z/last') as part:
        write_utf8(part / 'a', 'newest')
        monkeypatch.setattr('pathlib.Path.replace', fail)
    assert not (tmp_path / 'z/last').exists(), 'the files are of two versions, so readers must not accept them'


def test_safetensors_of_equal_content_have_equal_bytes(tmp_path):
    """With five names, the library's random order would differ in all but one of a hundred cases."""
    tensors, metadata = {'b': torch.arange(3.), 'a': torch.ones(2)}, dict.fromkeys('abcde', 'é "x"')
    for name in ('one', 'two'):
        save_file(tensors, tmp_path / name, metadata=metadata)
        sort_safetensors_metadata(tmp_path / name)
    assert (tmp_path / 'one').read_bytes() == (tmp_path / 'two').read_bytes()
    found, facts = read_safetensors(tmp_path / 'one')
    assert facts == metadata and all(torch.equal(found[name], tensor) for name, tensor in tensors.items())


def test_partial_files_are_removed(tmp_path):
    """What a killed process left, and nothing else."""
    kept = ['.lock', '.hidden', 'log.csv', '.model.json', '.notes.20240115.txt', '.a.part-0123456']
    for name in (*kept, '.log.csv.part-1a2b3c4d.csv', '.notes.part-1a2b3c4d'):
        (tmp_path / name).touch()
    (tmp_path / '.folder.part-1a2b3c4d').mkdir()
    (tmp_path / '.folder.part-1a2b3c4d' / 'file').touch()
    remove_partial_files(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(kept)


def test_the_names_of_temporary_files_are_recognized(tmp_path):
    with atomic_write(tmp_path / 'log.csv') as part:
        remove_partial_files(tmp_path)
        assert not part.exists()
        part.touch()
    with atomic_folder(tmp_path / 'new', last='a') as folder:
        remove_partial_files(tmp_path)
        assert not folder.exists()
        folder.mkdir()


@pytest.mark.parametrize('name', ['x' * 250, 'new/folder/file.txt'])
def test_long_names_and_new_folders(tmp_path, name):
    with atomic_write(tmp_path / name) as part:
        part.write_text('text', encoding='utf-8')
    assert (tmp_path / name).read_text(encoding='utf-8') == 'text'


def test_errors_name_the_file_that_was_asked_for(tmp_path):
    with pytest.raises(OSError) as caught, atomic_write(tmp_path / ('x' * 300)):
        pass
    assert caught.value.filename == str(tmp_path / ('x' * 300)) and 'part-' not in str(caught.value)


def test_folders_of_other_commands_are_refused(tmp_path):
    check_purpose(tmp_path / 'nowhere', 'run.json')
    write_json(tmp_path / 'search.json', {})
    check_purpose(tmp_path, 'search.json')
    for command in ('train', 'compare'):
        result = CliRunner().invoke(app, [command, 'nasnet_a', '--data', 'digits', '--out', str(tmp_path)])
        assert result.exit_code == 1, result.output
        assert ' is the folder of a search; choose another --out' in ' '.join(result.stderr.split())
    (tmp_path / 'search.json').rename(tmp_path / 'run.json')
    result = CliRunner().invoke(app, ['search', '--data', 'digits', '--out', str(tmp_path)])
    assert result.exit_code == 1 and 'is the folder of a training run' in result.stderr
    assert listed(tmp_path) == ['run.json']

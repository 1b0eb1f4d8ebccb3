"""Archives as trees of files, read without unpacking them."""
import posixpath
import stat
import tarfile
import zipfile
from collections import defaultdict
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

from .tree import DataError, Entry, LeftOut, ending, image_endings, is_image

__all__ = ['ArchiveTree']

_MAX_LINKS = 40  # on the way to one file, as in Linux


class _Member(NamedTuple):
    """A member of an archive.

    Attributes:
        name: The name as the archive has it.
        kind: 'file', 'folder', 'hard link', 'link', or the reason why it is none of them.
        position: Where it is in the archive.
        target: Where a link leads. A hard link names a member; a symbolic link starts at its own folder.
        opener: Opens the content of a file while the archive is open.
    """
    name: str
    kind: str
    position: int
    target: str
    opener: Callable[[], Any]


def _tar_members(path: Path) -> Iterator[_Member]:
    with tarfile.open(path) as archive:
        last = None
        for last in archive:
            kind = ('file' if last.isreg() else 'folder' if last.isdir() else 'link' if last.issym() else
                    'hard link' if last.islnk() else 'neither a file nor a folder')
            yield _Member(last.name, kind, last.offset, last.linkname, partial(archive.extractfile, last))
        archive.fileobj.seek(archive.offset)
        if archive.fileobj.read(tarfile.BLOCKSIZE).strip(b'\0'):  # tarfile takes a damaged header for the end
            raise tarfile.TarError(f'it is damaged after {last.name if last else "its beginning"}')


def _zip_members(path: Path) -> Iterator[_Member]:
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            name = info.filename.replace('\\', '/')  # written by old programs on Windows
            if not info.flag_bits & 0x800:  # the name is not marked as UTF-8, which macOS writes nevertheless
                try:
                    name = name.encode('cp437').decode('utf-8')
                except UnicodeError:
                    pass
            is_link = stat.S_ISLNK(info.external_attr >> 16)
            target = archive.read(info).decode('utf-8', 'surrogateescape') if is_link else ''
            kind = 'link' if is_link else 'folder' if name.endswith('/') else 'file'
            yield _Member(name, kind, info.header_offset, target, partial(archive.open, info))


class _Node(NamedTuple):
    """What an archive has under a name: a file, a folder, a symbolic link, or something that is left out."""
    kind: str
    position: int = -1
    target: str = ''
    is_image: bool = False


class _LinkError(Exception):
    """A link cannot be followed. The message is the reason for which it is left out."""


class ArchiveTree:
    """A :class:`~nasnet_zoo.data.tree.Tree` of a tar or zip archive, which is read without unpacking it.

    Links are followed as if the archive had been unpacked; of several members with one name the last one counts.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.left_out: LeftOut = defaultdict(list)

    def _members(self) -> Iterator[_Member]:
        try:
            with self.path.open('rb') as file:
                is_zip = file.read(2) == b'PK'
            yield from (_zip_members if is_zip else _tar_members)(self.path)
        except Exception as error:  # damaged archives raise errors of many types
            raise DataError(f'{self.path}: cannot be read as an archive: {error}') from None

    @cached_property
    def _nodes(self) -> Dict[str, _Node]:
        """What there is, by name without '.' and '..'; the archive itself is ''."""
        nodes = {'': _Node('folder')}
        for member in self._members():
            name = _normalized(member.name)
            if name is None:
                self.left_out['with a name that leads out of the archive'].append(member.name)
                continue
            node = _Node(member.kind, member.position, member.target)
            if member.kind == 'hard link':
                target = _normalized(member.target)
                node = (_Node('link that leads out of the archive') if target is None else
                        nodes.get(target, _Node('broken link')))
            elif member.kind == 'file':
                node = node._replace(is_image=ending(name) in image_endings() or is_image(member.opener))
            parts = name.split('/')
            for i in range(1, len(parts)):  # not every archive has members for its folders
                self._add(nodes, '/'.join(parts[:i]), _Node('folder'))
            self._add(nodes, name, node)
        return nodes

    def _add(self, nodes: Dict[str, _Node], name: str, node: _Node) -> None:
        """Add what is there under a name. It replaces what was there before, unless that is a folder."""
        known = nodes.get(name)
        if known and (known.kind, node.kind) != ('folder', 'folder'):
            self.left_out['with the name of another entry'].append(name)
        if not known or known.kind != 'folder':
            nodes[name] = node

    @cached_property
    def _children(self) -> Dict[str, List[str]]:
        children = defaultdict(list)
        for name in self._nodes:
            if name:
                children[posixpath.dirname(name)].append(posixpath.basename(name))
        return children

    def _follow(self, name: str) -> str:
        """Return the name of the file or folder to which a name leads through links. Raises _LinkError."""
        reached, links = '', 0
        ahead = name.split('/')[::-1]
        while ahead:
            part = ahead.pop()
            if part == '..' and not reached:
                raise _LinkError('link that leads out of the archive')
            if part in ('', '.', '..'):
                reached = posixpath.dirname(reached) if part == '..' else reached
                continue
            below = posixpath.join(reached, part)
            node = self._nodes.get(below)
            if node is None or links > _MAX_LINKS:
                raise _LinkError('broken link')
            if node.kind != 'link':
                reached = below
            elif node.target.startswith('/'):
                raise _LinkError('link that leads out of the archive')
            else:
                links += 1
                ahead += node.target.split('/')[::-1]
        return reached

    def entries(self, folder: str) -> List[Entry]:
        real, entries = self._follow(folder), []
        for child in self._children[real]:
            name = posixpath.join(real, child)
            try:
                name = self._follow(name) if self._nodes[name].kind == 'link' else name
                entries.append(Entry(child, self._nodes[name].kind, name))
            except _LinkError as error:
                entries.append(Entry(child, str(error), None))
        return entries

    def key(self) -> Any:
        return ''

    def is_image(self, name: str) -> bool:
        return self._nodes[self._follow(name)].is_image

    def read(self, names: Sequence[str]) -> Iterator[Tuple[str, Callable[[], bytes]]]:
        # The archive is read once, in its own order, since a compressed one cannot be read from the middle.
        wanted: Dict[int, List[str]] = defaultdict(list)
        for name in names:
            wanted[self._nodes[self._follow(name)].position].append(name)
        for member in self._members():
            for name in wanted.pop(member.position, ()):
                yield name, partial(_read, member)
            if not wanted:
                return


def _read(member: _Member) -> bytes:
    with member.opener() as file:
        return file.read()


def _normalized(name: str) -> Optional[str]:
    """Return the name of a member relative to the archive, None if it leads out of it."""
    name = posixpath.normpath('./' + name.lstrip('/'))
    return None if name == '..' or name.startswith('../') else '' if name == '.' else name

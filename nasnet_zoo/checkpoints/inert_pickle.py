"""Unpickles without importing or calling anything that the file names.

A pickle is a program that names classes and functions and calls them. Here each of them is a :class:`Foreign`, which
only records what it was called with. What a tensor is made of can be read from such a record later; see
:mod:`.read_torch`.
"""
import io
import mmap
import pickle
import pickletools
from typing import IO, Any, Callable, Dict, Iterable, Optional, Tuple, Union, cast

__all__ = ['Foreign', 'load_inert']

File = Union[io.BytesIO, mmap.mmap]
_MAX_OPERATIONS = 2_000_000  # of a pickle; a checkpoint has about forty for each tensor
_MAX_NAME = 200  # characters of the name of a class


class Foreign(dict):
    """Stands for an object of any class, or for what any function would return.

    Entries are the items of a mapping and the attributes of an object. Items of lists and sets are dropped.

    Attributes:
        path: The name of the class or function, such as ``'argparse.Namespace'``.
        args: What it was called with.
    """
    __slots__ = ('args',)
    path = ''
    args: Tuple[Any, ...]

    def __new__(cls, *args: Any, **kwargs: Any) -> 'Foreign':
        self = dict.__new__(cls)
        self.args = args
        return self

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()

    def __hash__(self) -> int:  # type: ignore[override]  # it may be a key or a member of a set
        return id(self)

    def __eq__(self, other: object) -> bool:
        return self is other

    def __call__(self, *args: Any) -> 'Foreign':
        return Foreign()

    def __setstate__(self, state: Any) -> None:
        if self.path == 'collections.OrderedDict':
            return  # attributes, such as PyTorch's _metadata, which are no entries
        for part in state if isinstance(state, tuple) else (state,):  # attributes, and those in slots
            if type(part) is dict:
                self.update(part)

    def append(self, item: Any) -> None:
        """Drop an item of a list."""

    def extend(self, items: Iterable[Any]) -> None:
        """Drop items of a list."""

    def add(self, item: Any) -> None:
        """Drop a member of a set."""


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: File, find_storage: Optional[Callable[[Any], Any]]) -> None:
        super().__init__(file, encoding='latin1')  # Python 2's text; never fails
        self._find_storage = find_storage
        self._classes: Dict[str, Any] = {}

    def find_class(self, module: str, name: str) -> Any:
        path = f'{module}.{name}'[:_MAX_NAME]
        if path not in self._classes:
            self._classes[path] = type('Foreign', (Foreign,), {'path': path, '__slots__': ()})
        return self._classes[path]

    def persistent_load(self, pid: Any) -> Any:
        if self._find_storage is None:
            raise pickle.UnpicklingError('it refers to objects outside of the pickle')
        return self._find_storage(pid)


def load_inert(file: File, find_storage: Optional[Callable[[Any], Any]] = None) -> Any:
    """Read the pickle at the position of `file`, and move to its end.

    Args:
        file: A file in memory. Other files would allocate memory for as many bytes as a damaged pickle asks for.
        find_storage: Returns what a persistent identifier stands for.

    Returns:
        Plain Python values, and a :class:`Foreign` for everything else.

    Raises:
        ValueError: If it is not a pickle or has too many operations.
        Exception: Exceptions of many types, if the pickle is damaged.
    """
    begin = file.tell()
    _check_operations(file)
    end = file.tell()
    file.seek(begin)
    value = _Unpickler(file, find_storage).load()
    file.seek(end)  # the unpickler may have read ahead
    return value


def _check_operations(file: File) -> None:
    """Refuse a pickle that would need far more memory than its size."""
    for count, (operation, argument, _) in enumerate(pickletools.genops(cast(IO[bytes], file)), 1):
        if count > _MAX_OPERATIONS:
            raise ValueError(f'its pickle has more than {_MAX_OPERATIONS:,} operations')
        if operation.name.startswith('EXT') or 'PUT' in operation.name and int(argument or 0) > 2 * count + 1_000:
            raise ValueError(f'its pickle has an operation {operation.name} {argument}, which no checkpoint needs')

"""The space of a search: a built-in one, or one from a Python file of the user."""
import hashlib
import importlib.util
import inspect
import os
import random
import sys
import traceback
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple, Type, Union

from ..checked import first_line, shorten, suggest
from ..genotype.schema import GenotypeError
from .errors import SearchError
from .space import SPACES, Space

__all__ = ['OWN_SPACE', 'make_space', 'remake_space']

OWN_SPACE = ('FILE.py:NAME', r'.+\.py:\w+')  # how a space in a file is written, and a regular expression for it
CHECKED_CELLS = 50  # number of random cells of a space from a file that are checked before the search


def make_space(name: str, blocks: Optional[int] = None, forbidden: Sequence[str] = ()) -> Space:
    """Return the space of a search.

    Args:
        name: A name in :data:`~nasnet_zoo.search.space.SPACES`, or ``FILE.py:NAME`` for a :class:`Space` in a file or a
            function that returns one. The function may take ``blocks`` and ``ops``, with defaults.
        blocks: Number of blocks in a cell. The default is that of the function.
        forbidden: Operations that are left out.

    Raises:
        SearchError: If the file has no such space, if its function does not take `blocks` or ``ops``, or if an
            operation is not one of the space's or too few are left.
    """
    if name in SPACES:
        return SPACES[name](**_arguments(SPACES[name], name, blocks, forbidden))
    file, _, attribute = name.rpartition(':')
    found = _load(Path(file), attribute)
    arguments = _arguments(found, name, blocks, forbidden)
    space = found if isinstance(found, Space) else _call(file, lambda: found(**arguments))
    if not isinstance(space, Space):
        raise SearchError(f'space: {name} returns an object of type {type(space).__name__}, not a Space')
    _check_cells(space, name)
    return space


def remake_space(name: str, config: Mapping[str, Any], settings: Mapping[str, Any]) -> Optional[Space]:
    """Return the space of an earlier search.

    Args:
        name: As :func:`make_space` takes it.
        config: ``config`` in ``search.json``, which has the other arguments.
        settings: ``settings`` in ``search.json``, which has the fingerprint of the space.

    Returns:
        The space, or None if the one of this name is another one now.

    Raises:
        SearchError: As :func:`make_space`.
    """
    space = make_space(name, config.get('blocks'), config.get('forbid_op', ()))
    return space if space.fingerprint == settings.get('fingerprint') else None


def _arguments(
        found: Union[Space, Callable[..., Space]], name: str, blocks: Optional[int], forbidden: Sequence[str],
) -> Dict[str, Any]:
    """Return the arguments for the function of a space."""
    takes = {} if isinstance(found, Space) else inspect.signature(found).parameters
    arguments: Dict[str, Any] = {}
    for option, parameter, is_given in (('--blocks', 'blocks', blocks is not None), ('--forbid-op', 'ops', forbidden)):
        if is_given and parameter not in takes:
            kind = 'a Space' if isinstance(found, Space) else f'a function without the parameter {parameter!r}'
            raise SearchError(f'{option}: {name} is {kind}; it must be a function that takes {parameter!r} and returns '
                              'a Space')
    if blocks is not None:
        arguments['blocks'] = blocks
    if forbidden:
        arguments['ops'] = _without(takes['ops'].default, forbidden, name)
    return arguments


def _without(ops: Any, forbidden: Sequence[str], name: str) -> Tuple[str, ...]:
    """Return the operations that are not forbidden."""
    if not isinstance(ops, (tuple, list)):
        raise SearchError(f"--forbid-op: the parameter 'ops' of {name} has no default that lists the operations of the "
                          'space')
    unknown = [op for op in forbidden if op not in ops]
    if unknown:
        raise SearchError(f'--forbid-op: {name} has no operation {shorten(unknown[0])!r}; {suggest(unknown[0], ops)}')
    left = tuple(op for op in ops if op not in forbidden)
    if len(left) < 2:
        raise SearchError(f'--forbid-op: {name} has {len(ops)} operations, and only {len(left)} of them '
                          f'{"is" if len(left) == 1 else "are"} not forbidden; at least two are needed')
    return left


def _load(path: Path, attribute: str) -> Union[Space, Callable[..., Space]]:
    """Import a file, and return the space or the function that has this name in it."""
    if not path.is_file():
        raise SearchError(f'space: {path}: there is no such file')
    name = f'nasnet_zoo_space_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:16]}'
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None, 'the name ends in .py'
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # as in an import; dataclasses look for their module here
    _call(str(path), lambda: spec.loader.exec_module(module))  # type: ignore[union-attr]
    if not hasattr(module, attribute):
        candidates = [key for key, value in vars(module).items() if isinstance(value, Space) or (
            inspect.isfunction(value) and value.__module__ == name)]
        hint = suggest(attribute, candidates) if candidates else 'it has neither a Space nor a function'
        raise SearchError(f'space: {path} has no {shorten(attribute)!r}; {hint}')
    found = getattr(module, attribute)
    if not isinstance(found, Space) and not callable(found):
        raise SearchError(f'space: {path}:{attribute} is an object of type {type(found).__name__}, not a Space or a '
                          'function that returns one')
    return found


def _call(file: str, function: Callable[[], Any], passes: Union[Type[Exception], Tuple[()]] = ()) -> Any:
    """Call code of a file.

    Raises:
        SearchError: If the code raises an exception that is not in `passes`. The message says on which line.
    """
    try:
        return function()
    except passes:
        raise
    except (Exception, SystemExit) as error:
        absolute = os.path.abspath(file)
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == absolute]
        if isinstance(error, SyntaxError) and error.filename == absolute:
            lines.append(error.lineno)
        place = f'{file}, line {lines[-1]}' if lines else file
        text = (error.msg if isinstance(error, SyntaxError) else str(error)).splitlines()
        raise SearchError(f'space: {place}: {type(error).__name__}' + (f': {text[0]}' if text else '')) from None


def _check_cells(space: Space, name: str) -> None:
    """Raise a SearchError if some choices of the space give no cell, or another one each time."""
    rng = random.Random(0)
    draws: List[List[int]] = [[rng.randrange(size) for size in space.sizes] for _ in range(CHECKED_CELLS)]
    draws += [[0] * len(space.sizes), [size - 1 for size in space.sizes]]

    def build() -> List[str]:
        return [space.genotype(tokens).architecture_digest for tokens in draws]
    try:
        first, second = (_call(name.rpartition(':')[0], build, passes=GenotypeError) for _ in range(2))
    except GenotypeError as error:
        raise SearchError(f'space: {name} builds an invalid cell: {first_line(error)}') from None
    if first != second:
        raise SearchError(f'space: {name} builds another cell when it gets the same choices again; the cell must '
                          'depend on the choices alone')

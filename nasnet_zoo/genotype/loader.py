"""Loads and checks genotypes. Every problem is reported with its place and how to fix it."""
import json
import math
import os
import warnings
from pathlib import Path
from typing import Any, List, Mapping, Optional, Sequence, Tuple, Union

from pydantic import ValidationError

from ..checked import shorten, suggest
from .operations import OPERATIONS
from .remote import HUB, download_genotype
from .schema import (
    FORMAT,
    KINDS,
    MAX_BLOCKS,
    MAX_INPUTS,
    MAX_PROBLEMS,
    STATE,
    Block,
    Cell,
    Genotype,
    GenotypeError,
    GenotypeWarning,
    too_large,
)

__all__ = ['load_genotype', 'list_genotypes', 'genotypes_dir']

MAX_BYTES = 1 << 20  # a genotype has a few kilobytes
MAX_DEPTH = 16
MAX_FACTS = 10_000  # entries of 'search' and of 'results', including those inside others


def genotypes_dir() -> Path:
    """Return the folder of the built-in genotypes: inside an installed package, beside the package in a checkout."""
    package = Path(__file__).resolve().parents[1]
    return next((d for d in (package / 'genotypes', package.parent / 'genotypes') if d.is_dir()), package / 'genotypes')


def list_genotypes() -> List[str]:
    """Return the names of the genotypes that ship with the package, for :func:`load_genotype`."""
    return sorted(path.stem for path in genotypes_dir().glob('*.json') if path.stem != 'schema')


def load_genotype(source: Union[str, os.PathLike, Mapping[str, Any], Genotype], allow_path: bool = True) -> Genotype:
    """Load a genotype and check it.

    Args:
        source: The name of a built-in genotype (such as ``'nasnet_a'``), a path that ends in ``.json``, JSON data as a
            dict, ``'hf-hub:OWNER/NAME'`` for the genotype of a repository on the Hugging Face Hub, or a genotype,
            which is returned as it is.
        allow_path: Whether `source` may be a path or a repository. Pass False for a `source` from an untrusted
            configuration.

    Raises:
        GenotypeError: If the genotype cannot be read or is invalid. The message lists all problems, each with its file,
            its JSON path and how to fix it.

    Warns:
        GenotypeWarning: For each block on which neither an output nor the head depends. Such a block is not compiled.
    """
    if isinstance(source, Genotype):
        return source
    label, text = _read(source, allow_path)
    data, problems = _parse(label, text)
    if isinstance(data, dict) and isinstance(data.get('$schema'), str):
        del data['$schema']  # for editors
    problems += _drop_large_facts(data)
    genotype = None
    try:
        genotype = Genotype.model_validate_json(json.dumps(data))
    except ValidationError as error:
        known = {path for path, _ in problems}
        causes = [e for e in error.errors(include_url=False) if _is_cause(e)][:MAX_PROBLEMS + 1]
        problems += [problem for problem in dict.fromkeys(map(_explain, causes)) if problem[0] not in known]
    problems += _check_cells(data)
    problems += _check_inputs(genotype) if genotype and not problems else []
    if problems:
        raise GenotypeError(label, problems)
    for kind, cell in genotype.cells.items():
        for i in range(len(cell.blocks)):
            if f'b{i}' not in cell.live:
                warnings.warn(f'{label}: {kind}.blocks[{i}]: b{i} is read by no output, directly or through other '
                              f'blocks, so it is not compiled; list it in {kind}.outputs or remove it',
                              GenotypeWarning, stacklevel=2)
    return genotype


def _read(source: Any, allow_path: bool) -> Tuple[str, str]:
    """Return what messages call the source, and its JSON text."""
    if isinstance(source, Mapping):
        try:
            text = ''
            for chunk in json.JSONEncoder().iterencode(dict(source)):  # shared lists may be huge in JSON
                text += chunk
                if len(text) > MAX_BYTES:
                    raise too_large('<dict>', MAX_BYTES)
            return '<dict>', text
        except GenotypeError:
            raise
        except (TypeError, RecursionError, ValueError) as error:
            raise GenotypeError('<dict>', [('', f'not JSON data: {shorten(error, 200)}')]) from None
    if not isinstance(source, (str, os.PathLike)):
        raise GenotypeError(f'<{type(source).__name__}>', [  # not its repr(), which may be huge or raise an error
            ('', f'a genotype is a name, a path or a dict, not a {type(source).__name__}')])
    name = os.fspath(source)
    is_remote = isinstance(name, str) and name.startswith(HUB)
    is_path = (is_remote or isinstance(source, os.PathLike) or isinstance(name, bytes) or name.endswith('.json')
               or os.sep in name)
    if is_path and not allow_path:
        raise GenotypeError(shorten(name), [
            ('', 'a path is not allowed here; pass the name of a built-in genotype or load_genotype(path).to_dict()')])
    if not is_path and name not in list_genotypes():
        cell = os.path.join(name, 'cell.json')
        hint = (f'did you mean {cell}?' if allow_path and os.path.exists(cell) else  # which accepts any text
                suggest(name[:100].lower(), list_genotypes()))
        raise GenotypeError(shorten(name), [
            ('', f'there is no built-in genotype of this name (a path must end in .json); {hint}')])
    if is_remote:
        return shorten(name), _read_file(download_genotype(name, MAX_BYTES), shorten(name))
    if is_path:
        path = Path(os.fsdecode(name))
        return shorten(path, 200), _read_file(path, shorten(path, 200))
    return f'{name}.json', _read_file(genotypes_dir() / f'{name}.json', f'{name}.json')


def _read_file(path: Path, label: str) -> str:
    """Return the text of a file, which messages call `label`."""
    try:
        with open(path, 'rb') as file:
            raw = file.read(MAX_BYTES + 1)
        if len(raw) > MAX_BYTES:
            raise too_large(label, MAX_BYTES)
        return raw.decode('utf-8-sig')
    except UnicodeDecodeError as error:
        raise GenotypeError(label, [('', f'not UTF-8 text: byte {error.start} is invalid')]) from None
    except GenotypeError:
        raise
    except (OSError, ValueError) as error:
        if path.is_dir():
            raise GenotypeError(label, [('', 'is a folder, not a JSON file' + (
                '; its genotype is cell.json' if (path / 'cell.json').exists() else ''))]) from None
        raise GenotypeError(label, [('', f'cannot be read: {getattr(error, "strerror", None) or error}')]) from None


def _parse(label: str, text: str) -> Tuple[Any, List[Tuple[str, str]]]:
    """Return JSON text as data, and the problems that Python's parser ignores: duplicate keys, NaN, nesting."""
    problems = []

    def clean(value, path):
        if len(path) > MAX_DEPTH:
            problems.append((_path(path[:MAX_DEPTH]), 'nested too deeply'))
        elif isinstance(value, _Pairs):
            data = {}
            for key, child in value:
                if key in data:
                    problems.append((_path((*path, key)), 'duplicate key; keep one of them'))
                data[key] = clean(child, (*path, shorten(key)))
            return data
        elif isinstance(value, list):
            return [clean(child, (*path, i)) for i, child in enumerate(value)]
        elif isinstance(value, float) and not math.isfinite(value):
            problems.append((_path(path), f'{value} is not a JSON number; write a finite one or null'))
        else:
            return value

    try:
        data = clean(json.loads(text, object_pairs_hook=_Pairs), ())
        json.dumps(data, ensure_ascii=False).encode()  # raises for an unpaired surrogate
        return data, problems
    except json.JSONDecodeError as error:
        message = f'not JSON: {error.msg} at line {error.lineno} column {error.colno}'
    except RecursionError:
        message = 'nested too deeply'
    except ValueError as error:  # an integer of thousands of digits, an unpaired surrogate
        message = f'not JSON data: {shorten(error, 100)}'
    raise GenotypeError(label, [('', message)])


class _Pairs(list):
    """The keys and values of a JSON object, with duplicate keys."""


def _path(location: Sequence[Union[str, int]]) -> str:
    """Write ``('normal', 'blocks', 2, 'left')`` as ``normal.blocks[2].left``."""
    parts = [f'[{part}]' if isinstance(part, int) else f'.{shorten(part)}' for part in location]
    return ''.join(parts).lstrip('.')


_MESSAGES = {  # in terms of JSON, where pydantic's message is in terms of Python
    'missing': 'is missing',
    'extra_forbidden': 'unknown key',
    'tuple_type': 'must be a list',
    'model_type': 'must be an object',
    'dict_type': 'must be an object',
}


def _is_cause(error: Mapping[str, Any]) -> bool:
    """Return False if a list is too short only because pydantic has dropped its invalid entries."""
    return error['type'] != 'too_short' or len(error['input']) < error['ctx']['min_length']


def _explain(error: Mapping[str, Any]) -> Tuple[str, str]:
    """Return the path and the message for one of pydantic's errors."""
    location, kind, context = list(error['loc']), error['type'], error.get('ctx', {})
    # The message says which half of an edge is wrong, so the path ends at the edge.
    for side in ('left', 'right'):
        if side in location:
            location = location[:location.index(side) + 1]
    if location and location[0] in ('search', 'results'):
        return location[0], 'must be plain facts: text, numbers, true, false, null, lists or an object of them'
    given = shorten(json.dumps(error['input'], ensure_ascii=False, default=str))
    is_edge = location[-1:] in (['left'], ['right'])
    if kind == 'missing' and error['loc'][-1] in (0, 1):
        return (_path(location), 'must be ["operation", "state"]') if is_edge else (
            _path(location[:-1]), f'must have at least {error["loc"][-1] + 1} entries')
    message = _MESSAGES.get(kind)
    if is_edge and (
            kind == 'unknown_name' and STATE.fullmatch(error['input'])
            or kind == 'string_pattern_mismatch' and error['input'] in OPERATIONS):
        return _path(location), 'must be ["operation", "state"], in this order'
    if kind == 'tuple_type' and location[-2:-1] == ['outputs']:
        message = f'must be a list of states, as in "outputs": [["b0", "b1"]], not {given}'
    elif kind == 'string_type' and location[-1] in ('left', 'right'):
        message = f'must be ["operation", "state"], and {given} is neither'
    if kind == 'extra_forbidden' and isinstance(error['loc'][-1], str):
        model = Genotype if len(location) == 1 else Block if 'blocks' in location else Cell
        message = f'unknown key; {suggest(location[-1][:100].lower(), list(model.model_fields))}'
    elif kind == 'too_long' and is_edge:
        return _path(location), f'must be ["operation", "state"], not {given}'
    elif kind in ('too_long', 'too_short'):
        bound = 'at most' if kind == 'too_long' else 'at least'
        count = context['max_length' if kind == 'too_long' else 'min_length']
        message = f'must have {bound} {count} entries'
    elif kind == 'string_pattern_mismatch' and location[-1] == 'name':
        message = f'{given} is not a name: letters, digits, "_", "." and "-", at most 100'
    elif kind == 'string_pattern_mismatch':
        message = f'{given} is not a hidden state; cell inputs are "h0", "h1", …, blocks "b0", "b1", …'
    elif location == ['format'] and kind != 'missing':
        message = f'this version reads format {FORMAT}, the file says {given}; a newer nasnet-zoo may read it'
    if message is None and kind != 'unknown_name':
        message = f'{error["msg"][0].lower()}{error["msg"][1:]}, not {given}'
    return _path(location), message or error['msg']


def _drop_large_facts(data: Any) -> List[Tuple[str, str]]:
    """Remove facts that would take long to check. Return the problems."""
    problems = []
    for name in ('search', 'results') if isinstance(data, dict) else ():
        todo, count = [data.get(name)], 0
        while todo and count <= MAX_FACTS:
            value = todo.pop()
            todo += value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
            count += 1
        if todo:
            del data[name]
            problems.append((name, f'has more than {MAX_FACTS:,} entries'))
    return problems


def _check_cells(data: Any):
    """Yield the problems that the models do not find, for those parts of `data` that have the right types."""
    if not isinstance(data, dict):
        return
    inputs = data.get('inputs', Genotype.model_fields['inputs'].default)
    if isinstance(inputs, bool) or not isinstance(inputs, int) or not 1 <= inputs <= MAX_INPUTS:
        inputs = None
    counts = {}
    for kind in KINDS:
        cell = data.get(kind)
        blocks = cell.get('blocks') if isinstance(cell, dict) else None
        if not isinstance(blocks, list) or len(blocks) > MAX_BLOCKS:
            continue
        for i, block in enumerate(blocks):
            for side in ('left', 'right'):
                edge = block.get(side) if isinstance(block, dict) else None
                if isinstance(edge, list) and len(edge) == 2:
                    yield from _check_state(f'{kind}.blocks[{i}].{side}', edge[1], inputs, i)
        outputs = cell.get('outputs')
        listed = [('head', cell.get('head'))]
        if isinstance(outputs, list) and len(outputs) <= MAX_INPUTS:
            counts[kind] = len(outputs)
            listed += [(f'outputs[{k}]', output) for k, output in enumerate(outputs)]
        for where, states in listed:
            if not isinstance(states, list) or len(states) > MAX_BLOCKS + MAX_INPUTS:
                continue
            for j, state in enumerate(states):
                yield from _check_state(f'{kind}.{where}[{j}]', state, inputs, len(blocks))
                if state in states[:j]:
                    yield f'{kind}.{where}[{j}]', f'{shorten(state)!r} is already in this concatenation; list it once'
    if len(set(counts.values())) > 1:
        yield 'reduction.outputs', (f'{counts["reduction"]} outputs, but the normal cell has {counts["normal"]}; '
                                    'a cell reads either one\'s, so both hand on equally many')
    for kind, count in counts.items():
        if inputs is not None and count > inputs:
            yield f'{kind}.outputs', (f'{count} outputs, but a cell reads {inputs} inputs, so the others are never '
                                      f'read; set "inputs" to {count} or more, or concatenate outputs')


def _check_inputs(genotype: Genotype):
    """Yield the problem of outputs on which no input has an effect, because the operations before them give zeros."""
    for kind, cell in genotype.cells.items():
        for where, states in [*((f'outputs[{k}]', output) for k, output in enumerate(cell.outputs)),
                              ('head', cell.head_states)]:
            if not any(state[0] == 'h' for state in cell.needed(states)):
                yield f'{kind}.{where}', ("depends on no input of the cell, since all operations before it are 'none'; "
                                          'replace one of them')


def _check_state(path: str, state: Any, inputs: Optional[int], blocks: int):
    """Yield the problem, if any, with reading `state` where `blocks` blocks exist."""
    match = STATE.fullmatch(state) if isinstance(state, str) else None
    if match is None:
        return  # the models report it
    kind, index = match[1], int(match[2])
    if kind == 'h' and inputs is not None and index >= inputs:
        yield path, f'{state} does not exist: "inputs" is {inputs}, so the last input is h{inputs - 1}'
    if kind == 'b' and index >= blocks:
        have = f'the last one here is b{blocks - 1}' if blocks else 'no block comes before this one'
        yield path, f'{state} is used before it exists; {have}'

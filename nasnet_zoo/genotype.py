"""The genotype language: a pair of searched cells as JSON, checked like a program before it is compiled.

``genotypes/README.md`` teaches the language; ``genotypes/schema.json`` is generated from the models below. A genotype
is data: nothing in it is evaluated.
"""
import difflib
import hashlib
import json
import math
import os
import re
import warnings
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Dict, FrozenSet, Iterable, List, Literal, Mapping, Optional, Sequence, Tuple, Union

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, WithJsonSchema
from pydantic_core import PydanticCustomError

__all__ = ['Genotype', 'GenotypeError', 'GenotypeWarning', 'Cell', 'Block', 'Edge', 'load_genotype', 'list_genotypes',
           'json_schema', 'OP_NAMES', 'COMBINE_NAMES']

FORMAT = 1
MAX_BYTES = 1 << 20  # a genotype is a page of text; whatever is larger is not one
MAX_BLOCKS = 64
MAX_INPUTS = 16
MAX_PROBLEMS = 50
MAX_DEPTH = 16

# The vocabulary. `ops.py` gives each word its module and a test keeps the two equal.
OP_NAMES = (
    'identity', 'factorized_identity',
    'conv_1x1', 'conv_3x3', 'conv_1x3_3x1', 'conv_1x7_7x1', 'dil_conv_3x3',
    'sep_conv_3x3', 'sep_conv_5x5', 'sep_conv_7x7', 'dil_sep_conv_3x3', 'dil_sep_conv_5x5',
    'avg_pool_3x3', 'max_pool_2x2', 'max_pool_3x3', 'max_pool_5x5', 'max_pool_7x7',
)
COMBINE_NAMES = ('add', 'concat', 'add_layer_norm', 'add_instance_norm')
KINDS = ('normal', 'reduction')

_STATE = re.compile(r'([hb])(0|[1-9][0-9]{0,2})')


class GenotypeError(ValueError):
    """A genotype that cannot be compiled.

    Attributes:
        source: What was read, a file name, a shipped name or ``<dict>``.
        problems: Every problem found, as ``(JSON path, message)`` pairs; the path is ``''`` for the whole document.
    """

    def __init__(self, source: str, problems: Sequence[Tuple[str, str]]) -> None:
        self.source = source
        self.problems = list(problems)
        shown = [': '.join(part for part in (source, *problem) if part) for problem in self.problems[:MAX_PROBLEMS]]
        if len(self.problems) > MAX_PROBLEMS:
            shown.append(f'{source}: … and {len(self.problems) - MAX_PROBLEMS} more problems')
        super().__init__('\n'.join(shown))


class GenotypeWarning(UserWarning):
    """A genotype that compiles, though part of it has no effect."""


def _suggest(word: str, known: Sequence[str]) -> str:
    """The mend for an unknown word: the nearest known one, or all of them."""
    def likeness(candidate):  # of equally like words, the one nearest in size: sep_conv_4x4 is no sep_conv_7x7
        size, size_meant = (sum(map(int, re.findall('[0-9]', text))) for text in (candidate, word))
        return difflib.SequenceMatcher(None, word, candidate).ratio(), -abs(size - size_meant), candidate
    nearest = max(known, key=likeness)
    return f'did you mean {nearest!r}?' if likeness(nearest)[0] > 0.6 else f'known: {", ".join(known)}'


def _word(kind: str, known: Sequence[str]):
    """A string type that only takes `known` words, names the nearest one and shows them all in the JSON schema."""
    def check(word: str) -> str:
        if word not in known:
            raise PydanticCustomError('unknown_word', '{text}', {
                'text': f'unknown {kind} {_shorten(word)!r}; {_suggest(word[:100], known)}'})
        return word
    return Annotated[str, AfterValidator(check), WithJsonSchema({'type': 'string', 'enum': list(known)})]


def _shorten(text: Any, limit: int = 60) -> str:
    text = str(text)
    return text if len(text) <= limit else text[:limit] + '…'


OpName = _word('operation', OP_NAMES)
CombineName = _word('combine', COMBINE_NAMES)
StateName = Annotated[str, Field(pattern=f'^{_STATE.pattern}$', description='h0… cell inputs, b0… blocks')]
States = Annotated[Tuple[StateName, ...], Field(min_length=1, max_length=MAX_BLOCKS + MAX_INPUTS)]
Edge = Tuple[OpName, StateName]
# What is only carried along: scalars and lists of scalars by name, or one such object a level below.
_Scalar = Union[str, int, float, bool, None]
_Facts = Dict[str, Union[_Scalar, List[_Scalar], Dict[str, Union[_Scalar, List[_Scalar]]]]]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra='forbid', strict=True)


class Block(_Model):
    """Two operations on two hidden states, and how their results are combined (paper, section 3.1)."""
    left: Edge
    right: Edge
    combine: CombineName = 'add'

    @property
    def edges(self) -> Tuple[Edge, Edge]:
        return self.left, self.right


class Cell(_Model):
    """Blocks in order, the hidden states the cell hands on, and those the classifier reads if it is the last cell."""
    blocks: Annotated[Tuple[Block, ...], Field(min_length=1, max_length=MAX_BLOCKS)]
    outputs: Annotated[Tuple[States, ...], Field(min_length=1, max_length=MAX_INPUTS, description=(
        'hidden states the cell hands on, each a concatenation in depth'))]
    head: Annotated[Optional[States], Field(description=(
        'what the classifier reads when this is the last cell, a concatenation; default: all the outputs'))] = None

    @property
    def head_states(self) -> Tuple[str, ...]:
        """What the classifier reads if this is the last cell; every state once."""
        return self.head or tuple(dict.fromkeys(state for output in self.outputs for state in output))

    def needed(self, states: Sequence[str]) -> FrozenSet[str]:
        """`states` and every state they depend on, in this cell."""
        needed, todo = set(), list(states)
        while todo:
            state = todo.pop()
            if state not in needed:
                needed.add(state)
                if state[0] == 'b':
                    todo += [source for _, source in self.blocks[int(state[1:])].edges]
        return frozenset(needed)

    @property
    def live(self) -> FrozenSet[str]:
        """The states that an output or the classifier depends on. No other state is compiled."""
        return self.needed([*self.head_states, *(state for output in self.outputs for state in output)])

    def width(self, states: Sequence[str]) -> int:
        """Channels of the concatenation of `states`, in units of the cell's filters F."""
        return sum(2 if s[0] == 'b' and self.blocks[int(s[1:])].combine == 'concat' else 1 for s in states)


class Genotype(_Model):
    """A pair of searched cells. Made by :func:`load_genotype`, which checks it; compiled by ``compile_genotype``."""
    format: Annotated[int, Field(ge=FORMAT, le=FORMAT, description='version of this language')]
    name: Annotated[str, Field(pattern=r'^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$')]
    source: Annotated[Optional[str], Field(max_length=1000, description='where the cells come from')] = None
    inputs: Annotated[int, Field(ge=1, le=MAX_INPUTS, description='hidden states a cell reads: h0 is the newest')] = 2
    fit: Annotated[Literal['changed', 'all'], Field(description=(
        'inputs brought to F filters by ReLU-1x1-BN: h0 and those whose shape differs, or all'))] = 'changed'
    normal: Cell
    reduction: Cell
    search: Annotated[Optional[_Facts], Field(description='how the cells were found')] = None
    results: Annotated[Optional[Union[_Facts, List[_Facts]]], Field(description='measured figures')] = None

    @property
    def cells(self) -> Dict[str, Cell]:
        return {kind: getattr(self, kind) for kind in KINDS}

    def to_dict(self) -> Dict[str, Any]:
        """The genotype as JSON data, without the optional parts that it does not use."""
        data = self.model_dump(mode='json', exclude_none=True)
        if self.fit == type(self).model_fields['fit'].default:
            del data['fit']
        return data

    def dumps(self) -> str:
        """The genotype as JSON text, a block a line. :func:`load_genotype` of it is equal to this genotype."""
        return _format_json(self.to_dict()) + '\n'

    def save(self, path: Union[str, os.PathLike]) -> None:
        """Write :meth:`dumps` to `path`, whole or not at all."""
        path = Path(path)
        part = path.with_name(f'{path.name}.{os.getpid()}.part')
        try:
            part.write_text(self.dumps(), encoding='utf-8')
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)

    @cached_property
    def layout_digest(self) -> str:
        """SHA-256 (hex) of the cells as written. Weights belong to a layout: block order permutes channels."""
        return _sha256(self.model_dump(mode='json', include={'inputs', 'fit', *KINDS}))

    @cached_property
    def architecture_digest(self) -> str:
        """SHA-256 (hex) of the cells up to names: equal for duplicates, whatever the order of blocks or operands.

        Dead states do not count. States are told apart by colour refinement over the cell's graph, from what each
        reads and from what reads it, so a block used twice differs from two equal blocks.
        """
        return _sha256([self.fit, *(_canonical_cell(cell) for cell in self.cells.values())])


def _sha256(data: Any) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True, separators=(',', ':')).encode()).hexdigest()


def _canonical_cell(cell: Cell) -> List[Any]:
    """A cell as nested lists that do not depend on block order, on operand order or on dead states."""
    live = sorted(cell.live)
    colour = {state: state if state[0] == 'h' else 'b' for state in live}
    # An output is known by its position, the head by its own; neither depends on the order of its states.
    readers = {state: [str(k) for k, output in enumerate(cell.outputs) if state in output] for state in live}
    for state in cell.head_states:
        readers[state].append('head')
    for _ in live:  # a colour travels one edge a round; no path is longer than the number of states
        seen = {state: [colour[state], sorted(readers[state])] for state in live}
        for state in live:
            if state[0] == 'b':
                block = cell.blocks[int(state[1:])]
                seen[state].append([block.combine, sorted([op, colour[source]] for op, source in block.edges)])
                for op, source in block.edges:
                    seen[source].append(['read by', op, block.combine, colour[state]])
        for state in live:
            seen[state][2:] = sorted(seen[state][2:], key=repr)
        colour = {state: (state if state[0] == 'h' else '') + _sha256(seen[state]) for state in live}
    return [
        sorted(colour.values()),
        [sorted(colour[state] for state in output) for output in cell.outputs],
        sorted(colour[state] for state in cell.head_states),
    ]


def _format_json(value: Any, indent: str = '', path: Tuple = ()) -> str:
    """JSON with one line for each block, each output and each plain fact."""
    inner = indent + '  '
    if isinstance(value, dict) and not (path[-2:-1] == ('blocks',)):
        rows = [f'{inner}{json.dumps(k)}: {_format_json(v, inner, (*path, k))}' for k, v in value.items()]
        return '{\n' + ',\n'.join(rows) + f'\n{indent}}}'
    if path[-1:] == ('blocks',):
        rows = [inner + _format_json(v, inner, (*path, i)) for i, v in enumerate(value)]
        return '[\n' + ',\n'.join(rows) + f'\n{indent}]'
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def json_schema() -> Dict[str, Any]:
    """The language as a JSON schema, for editors: the content of ``genotypes/schema.json``."""
    schema = Genotype.model_json_schema()
    schema['properties']['$schema'] = {'type': 'string', 'description': 'for editors; ignored'}
    return {'$schema': 'https://json-schema.org/draft/2020-12/schema', '$id': 'schema.json', **schema}


def _genotypes_dir() -> Path:
    """The shipped genotypes: inside the package in a wheel, beside it in a checkout."""
    here = Path(__file__).resolve().parent
    return next((d for d in (here / 'genotypes', here.parent / 'genotypes') if d.is_dir()), here / 'genotypes')


def list_genotypes() -> List[str]:
    """Names of the genotypes that ship with the package, for :func:`load_genotype`."""
    return sorted(path.stem for path in _genotypes_dir().glob('*.json') if path.stem != 'schema')


def load_genotype(source: Union[str, os.PathLike, Mapping[str, Any], Genotype], allow_path: bool = True) -> Genotype:
    """Load a genotype and check it.

    Args:
        source: A shipped name (``'nasnet_a'``), a path that ends in ``.json``, JSON data as a dict, or a genotype.
        allow_path: False to take no path, for a `source` that comes from a configuration of somebody else's.

    Raises:
        GenotypeError: With all problems at once, each with its file, JSON path and mend.

    Warns:
        GenotypeWarning: For each block that no output and no head depends on. It is not compiled.
    """
    if isinstance(source, Genotype):
        return source
    label, text = _read(source, allow_path)
    data, problems = _parse(label, text)
    if isinstance(data, dict) and isinstance(data.get('$schema'), str):
        del data['$schema']  # for editors
    genotype = None
    try:
        genotype = Genotype.model_validate_json(json.dumps(data))
    except ValidationError as error:
        problems = _merge(problems, map(_explain, filter(_is_cause, error.errors(include_url=False))))
    problems = _merge(problems, _check_cells(data))
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
    """What to call the source in messages, and its JSON text."""
    if isinstance(source, Mapping):
        try:
            text = json.dumps(dict(source))
        except (TypeError, ValueError, RecursionError) as error:
            raise GenotypeError('<dict>', [('', f'not JSON data: {_shorten(error, 200)}')]) from None
        if len(text) > MAX_BYTES:
            raise GenotypeError('<dict>', [('', f'too large: {len(text)} bytes of JSON, at most {MAX_BYTES}')])
        return '<dict>', text
    if not isinstance(source, (str, os.PathLike)):
        raise GenotypeError(_shorten(repr(source)), [
            ('', f'a genotype is a name, a path or a dict, not a {type(source).__name__}')])
    name = os.fspath(source)
    is_path = isinstance(source, os.PathLike) or isinstance(name, bytes) or name.endswith('.json') or os.sep in name
    if is_path and not allow_path:
        raise GenotypeError(_shorten(name), [
            ('', 'a path is not allowed here; pass a shipped name or load_genotype(path).to_dict()')])
    if not is_path and name not in list_genotypes():
        raise GenotypeError(_shorten(name), [
            ('', f'no genotype ships under this name; {_suggest(name[:100], list_genotypes())} '
                 'A path must end in .json')])
    path = Path(os.fsdecode(name)) if is_path else _genotypes_dir() / f'{name}.json'
    label = path.name if not is_path else _shorten(path, 200)
    try:
        with open(path, 'rb') as file:
            raw = file.read(MAX_BYTES + 1)
        if len(raw) > MAX_BYTES:
            raise GenotypeError(label, [('', f'too large: over {MAX_BYTES} bytes; a genotype is a page of text')])
        return label, raw.decode('utf-8-sig')
    except UnicodeDecodeError as error:
        raise GenotypeError(label, [('', f'not UTF-8 text: byte {error.start} is wrong')]) from None
    except (OSError, ValueError) as error:
        if isinstance(error, GenotypeError):
            raise
        raise GenotypeError(label, [('', f'cannot be read: {getattr(error, "strerror", None) or error}')]) from None


def _parse(label: str, text: str) -> Tuple[Any, List[Tuple[str, str]]]:
    """JSON text as data, and the problems that Python's parser lets through: duplicate keys, NaN, depth."""
    problems = []

    def clean(value, path):
        if len(path) > MAX_DEPTH:
            problems.append((_path(path[:MAX_DEPTH]), 'nested too deeply'))
        elif isinstance(value, _Pairs):
            data = {}
            for key, child in value:
                if key in data:
                    problems.append((_path((*path, _shorten(key))), 'duplicate key; keep one of them'))
                data[key] = clean(child, (*path, _shorten(key)))
            return data
        elif isinstance(value, list):
            return [clean(child, (*path, i)) for i, child in enumerate(value)]
        elif isinstance(value, float) and not math.isfinite(value):
            problems.append((_path(path), f'{value} is not a JSON number; write a finite one or null'))
        else:
            return value

    try:
        data = clean(json.loads(text, object_pairs_hook=_Pairs), ())
        json.dumps(data, ensure_ascii=False).encode()  # raises for half a surrogate pair, which is no text
        return data, problems
    except json.JSONDecodeError as error:
        message = f'not JSON: {error.msg} at line {error.lineno} column {error.colno}'
    except RecursionError:
        message = 'nested too deeply'
    except ValueError as error:  # whole numbers of thousands of digits, half a surrogate pair
        message = f'not JSON data: {_shorten(error, 100)}'
    raise GenotypeError(label, [('', message)])


class _Pairs(list):
    """A JSON object's keys and values before duplicates are lost."""


def _path(location: Sequence[Union[str, int]]) -> str:
    """``('normal', 'blocks', 2, 'left')`` as ``normal.blocks[2].left``."""
    parts = [f'[{part}]' if isinstance(part, int) else f'.{part}' for part in location]
    return ''.join(parts).lstrip('.')


_RENAMED = {  # pydantic's words for what a reader of JSON calls otherwise
    'missing': 'is missing',
    'extra_forbidden': 'unknown key',
    'tuple_type': 'must be a list',
    'model_type': 'must be an object',
    'dict_type': 'must be an object',
}


def _is_cause(error: Mapping[str, Any]) -> bool:
    """False for a list that is too short only because pydantic has dropped its wrong entries."""
    return error['type'] != 'too_short' or len(error['input']) < error['ctx']['min_length']


def _explain(error: Mapping[str, Any]) -> Tuple[str, str]:
    """One of pydantic's errors as a path and a message in the language's own words."""
    location, kind, context = list(error['loc']), error['type'], error.get('ctx', {})
    # An edge's two halves are told apart by the message; the union branches that pydantic tried are nobody's business.
    for side in ('left', 'right'):
        if side in location:
            location = location[:location.index(side) + 1]
    if location and location[0] in ('search', 'results'):
        return _path(location[:2]), 'must be plain facts: text, numbers, true, false, null, lists or an object of them'
    given = _shorten(json.dumps(error['input'], ensure_ascii=False, default=str))
    if kind == 'missing' and error['loc'][-1] in (0, 1):
        return _path(location), 'must be ["operation", "state"]'
    message = _RENAMED.get(kind)
    if kind == 'extra_forbidden' and isinstance(error['loc'][-1], str):
        model = Genotype if len(location) == 1 else Block if 'blocks' in location else Cell
        message = f'unknown key; {_suggest(location[-1][:100], list(model.model_fields))}'
    elif kind == 'too_long' and context.get('max_length') == 2:
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
    elif message is None and kind != 'unknown_word':
        message = f'{error["msg"][0].lower()}{error["msg"][1:]}, not {given}'
    return _path(location), message or error['msg']


def _merge(found: List[Tuple[str, str]], more: Iterable[Tuple[str, str]]) -> List[Tuple[str, str]]:
    """`found` and those of `more` that are about something else."""
    paths = {path for path, _ in found}
    return found + [problem for problem in dict.fromkeys(more) if problem[0] not in paths]


def _check_cells(data: Any):
    """Problems beyond shape, for whatever part of `data` has the right shape."""
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
                    yield f'{kind}.{where}[{j}]', f'{_shorten(state)!r} is already in this concatenation; list it once'
    if len(set(counts.values())) > 1:
        yield 'reduction.outputs', (f'{counts["reduction"]} outputs, but the normal cell has {counts["normal"]}; '
                                    'a cell reads either one\'s, so both hand on equally many')
    for kind, count in counts.items():
        if inputs is not None and count > inputs:
            yield f'{kind}.outputs', (f'{count} outputs, but a cell reads {inputs} inputs, so the others are never '
                                      f'read; set "inputs" to {count} or more, or concatenate outputs')


def _check_state(path: str, state: Any, inputs: Optional[int], blocks: int):
    """The problem, if any, with reading `state` where `blocks` blocks exist."""
    match = _STATE.fullmatch(state) if isinstance(state, str) else None
    if match is None:
        return  # a matter of shape
    kind, index = match[1], int(match[2])
    if kind == 'h' and inputs is not None and index >= inputs:
        yield path, f'{state} does not exist: "inputs" is {inputs}, so the last input is h{inputs - 1}'
    if kind == 'b' and index >= blocks:
        have = f'only b0 to b{blocks - 1} exist here' if blocks else 'no block comes before this one'
        yield path, f'{state} is used before it exists; {have}'

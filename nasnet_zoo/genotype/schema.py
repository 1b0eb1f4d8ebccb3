"""The genotype language: a pair of searched cells as JSON, checked like a program before it is compiled.

``genotypes/README.md`` teaches the language; ``genotypes/schema.json`` is generated from the models below. A genotype
is data: nothing in it is evaluated.
"""
import difflib
import hashlib
import json
import os
import re
from functools import cached_property
from typing import Annotated, Any, Dict, FrozenSet, List, Literal, Optional, Sequence, Tuple, Union

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

from ..files import atomic_write

__all__ = ['Genotype', 'GenotypeError', 'GenotypeWarning', 'Cell', 'Block', 'json_schema', 'OP_NAMES', 'COMBINE_NAMES']

FORMAT = 1
MAX_BLOCKS = 64
MAX_INPUTS = 16
MAX_PROBLEMS = 50

# The vocabulary. `ops.py` gives each word its module and a test keeps the two equal.
OP_NAMES = (
    'identity', 'factorized_identity',
    'conv_1x1', 'conv_3x3', 'conv_1x3_3x1', 'conv_1x7_7x1', 'dil_conv_3x3',
    'sep_conv_3x3', 'sep_conv_5x5', 'sep_conv_7x7', 'dil_sep_conv_3x3', 'dil_sep_conv_5x5',
    'avg_pool_3x3', 'max_pool_2x2', 'max_pool_3x3', 'max_pool_5x5', 'max_pool_7x7',
)
COMBINE_NAMES = ('add', 'concat', 'add_layer_norm', 'add_instance_norm')
KINDS = ('normal', 'reduction')
_ALIASES = {'skip_connect': 'identity', 'skip': 'identity', 'sum': 'add', 'cat': 'concat'}  # others' words for ours

STATE = re.compile(r'([hb])(0|[1-9][0-9]{0,2})')


class GenotypeError(ValueError):
    """A genotype that cannot be compiled.

    Attributes:
        source: What was read, a file name, a shipped name or ``<dict>``.
        problems: The problems found, as ``(JSON path, message)`` pairs; the path is ``''`` for the whole document.
            There are fifty at most: whoever has more has passed a file of another kind.
    """

    def __init__(self, source: str, problems: Sequence[Tuple[str, str]]) -> None:
        self.source = source
        self.problems = list(problems[:MAX_PROBLEMS])
        shown = [': '.join(part for part in (source, *problem) if part) for problem in self.problems]
        if len(problems) > MAX_PROBLEMS:
            shown.append(f'{source}: … and more problems')
        super().__init__('\n'.join(shown))


class GenotypeWarning(UserWarning):
    """A genotype that compiles, though part of it has no effect."""


def suggest(word: str, known: Sequence[str]) -> str:
    """The mend for an unknown word: the nearest known one, or all of them."""
    word = _ALIASES.get(word.lower(), word.lower())
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
                'text': f'unknown {kind} {shorten(word)!r}; {suggest(word[:100], known)}'})
        return word
    return Annotated[str, AfterValidator(check), WithJsonSchema({'type': 'string', 'enum': list(known)})]


def shorten(text: Any, limit: int = 60) -> str:
    """`text` for a message, without most of it where it is long."""
    text = str(text)
    return text if len(text) <= limit else text[:limit] + '…'


OpName = _word('operation', OP_NAMES)
CombineName = _word('combine', COMBINE_NAMES)
StateName = Annotated[str, Field(pattern=f'^{STATE.pattern}$', description='h0… cell inputs, b0… blocks')]
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
    """A pair of searched cells. Made by ``load_genotype``, which checks it; compiled by ``compile_genotype``."""
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
        """The genotype as JSON text, a block a line. ``load_genotype`` of it is equal to this genotype."""
        return _format_json(self.to_dict()) + '\n'

    def save(self, path: Union[str, os.PathLike]) -> None:
        """Write :meth:`dumps` to `path`, whole or not at all."""
        with atomic_write(path) as part:
            part.write_text(self.dumps(), encoding='utf-8')

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

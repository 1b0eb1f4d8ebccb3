"""The genotype language: a pair of searched cells as JSON, checked as a compiler checks a program.

``genotypes/README.md`` teaches the language. ``genotypes/schema.json`` is generated from the models below. A genotype
is data: nothing in it is evaluated.
"""
import hashlib
import json
import os
import re
from functools import cached_property
from typing import Annotated, Any, Dict, FrozenSet, List, Literal, Mapping, Optional, Sequence, Tuple, Union

from pydantic import Field

from ..checked import Checked, OneOf
from ..files import write_utf8
from .operations import COMBINE_ALIASES, COMBINES, OP_ALIASES, OPERATIONS

__all__ = ['Genotype', 'GenotypeError', 'GenotypeWarning', 'Cell', 'Block', 'Edge', 'json_schema', 'FORMAT', 'KINDS',
           'MAX_BLOCKS', 'MAX_INPUTS', 'MAX_PROBLEMS', 'STATE', 'Width', 'too_large']

FORMAT = 1
MAX_BLOCKS = 64
MAX_INPUTS = 16
MAX_PROBLEMS = 50

KINDS = ('normal', 'reduction')

STATE = re.compile(r'([hb])(0|[1-9][0-9]{0,2})')


class GenotypeError(ValueError):
    """Raised for a genotype that cannot be compiled. The message lists all problems that were found.

    Attributes:
        source: What was read: a file name, the name of a built-in genotype, or ``<dict>``.
        problems: The problems, as pairs ``(JSON path, message)``; the path is ``''`` for the whole document. At most
            fifty are kept, because a file with more is probably not a genotype at all.
    """

    def __init__(self, source: str, problems: Sequence[Tuple[str, str]]) -> None:
        self.source = source
        self.problems = list(problems[:MAX_PROBLEMS])
        self._given = source, list(problems[:MAX_PROBLEMS + 1])
        shown = [': '.join(part for part in (source, *problem) if part) for problem in self.problems]
        if len(problems) > MAX_PROBLEMS:
            shown.append(f'{source}: … and more problems')
        super().__init__('\n'.join(shown))

    def __reduce__(self) -> Tuple[Any, ...]:
        return type(self), self._given


def too_large(source: str, max_bytes: int) -> GenotypeError:
    """Return the error for a document of more than `max_bytes` bytes."""
    return GenotypeError(source, [('', f'too large: over {max_bytes} bytes; a genotype is a page of text')])


class GenotypeWarning(UserWarning):
    """Warns of a genotype that can be compiled although a part of it has no effect."""


OpName = Annotated[str, OneOf('operation', OPERATIONS, OP_ALIASES)]
CombineName = Annotated[str, OneOf('combine', COMBINES, COMBINE_ALIASES)]
StateName = Annotated[str, Field(pattern=f'^{STATE.pattern}$', description='h0… cell inputs, b0… blocks')]
States = Annotated[Tuple[StateName, ...], Field(min_length=1, max_length=MAX_BLOCKS + MAX_INPUTS)]
Edge = Tuple[OpName, StateName]
Width = Annotated[int, Field(ge=1, le=4096)]
# Facts are stored but not used: scalars and lists of scalars by name, and objects of them one level down.
_Scalar = Union[str, int, float, bool, None]
_Facts = Dict[str, Union[_Scalar, List[_Scalar], Dict[str, Union[_Scalar, List[_Scalar]]]]]


class Block(Checked):
    """Two operations on two hidden states, and how their results are combined (paper, section 3.1)."""
    left: Edge
    right: Edge
    combine: CombineName = 'add'

    @property
    def edges(self) -> Tuple[Edge, Edge]:
        return self.left, self.right

    @property
    def reading(self) -> Dict[str, str]:
        """The states on which its result depends, by side. The operation 'none' depends on no state."""
        return {side: state for side, (op, state) in zip(('left', 'right'), self.edges) if OPERATIONS[op].reads_state}


class Cell(Checked):
    """Blocks in order, the hidden states the cell hands on, and those the classifier reads if it is the last cell."""
    blocks: Annotated[Tuple[Block, ...], Field(min_length=1, max_length=MAX_BLOCKS)]
    outputs: Annotated[Tuple[States, ...], Field(min_length=1, max_length=MAX_INPUTS, description=(
        'hidden states the cell hands on, each a concatenation in depth'))]
    head: Annotated[Optional[States], Field(description=(
        'what the classifier reads when this is the last cell, a concatenation; default: all the outputs'))] = None

    @property
    def head_states(self) -> Tuple[str, ...]:
        """The states that the classifier reads if this is the last cell, without duplicates."""
        return self.head or tuple(dict.fromkeys(state for output in self.outputs for state in output))

    def needed(self, states: Sequence[str]) -> FrozenSet[str]:
        """Return `states` and every state of this cell that they depend on."""
        needed, todo = set(), list(states)
        while todo:
            state = todo.pop()
            if state not in needed:
                needed.add(state)
                if state[0] == 'b':
                    todo += self.blocks[int(state[1:])].reading.values()
        return frozenset(needed)

    @property
    def live(self) -> FrozenSet[str]:
        """The states that an output or the classifier depends on. Other states are neither compiled nor drawn."""
        return self.needed([*self.head_states, *(state for output in self.outputs for state in output)])

    def width(self, states: Sequence[str]) -> int:
        """Return the number of channels of the concatenation of `states`, in units of the cell's filters F."""
        return sum(COMBINES[self.blocks[int(s[1:])].combine].width if s[0] == 'b' else 1 for s in states)


class Genotype(Checked):
    """A pair of searched cells. Made by ``load_genotype``, which checks it; compiled by ``compile_genotype``."""
    format: Annotated[int, Field(ge=FORMAT, le=FORMAT, description='version of this language')]
    name: Annotated[str, Field(pattern=r'^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$')]
    source: Annotated[Optional[str], Field(max_length=1000, description='where the cells come from')] = None
    inputs: Annotated[int, Field(ge=1, le=MAX_INPUTS, description='hidden states a cell reads: h0 is the newest')] = 2
    fit: Annotated[Literal['changed', 'all'], Field(description=(
        'inputs brought to F filters by ReLU-1x1-BN: h0 and those whose shape differs, or all'))] = 'changed'
    normal: Cell
    reduction: Cell
    aux_filters: Annotated[Optional[Tuple[Width, Width]], Field(description=(
        "widths of the two convolutions of the auxiliary head with which the cells were published, if they are not "
        "NASNet's"))] = None
    search: Annotated[Optional[_Facts], Field(description='how the cells were found')] = None
    results: Annotated[Optional[Union[_Facts, List[_Facts]]], Field(description='measured figures')] = None

    def __hash__(self) -> int:
        return hash(self.layout_digest)

    def model_copy(self, *, update: Optional[Mapping[str, Any]] = None, deep: bool = False) -> 'Genotype':
        """Return a copy.

        Raises:
            TypeError: If fields are to be changed: pydantic would neither check them nor forget the digests.
        """
        if update:
            raise TypeError('a changed genotype must be checked: use load_genotype({**genotype.to_dict(), '
                            f'{next(iter(update))!r}: …}})')
        return super().model_copy(deep=deep)

    @property
    def cells(self) -> Dict[str, Cell]:
        """The two cells by kind."""
        return {kind: getattr(self, kind) for kind in KINDS}

    def to_dict(self) -> Dict[str, Any]:
        """Return the genotype as JSON data, without the optional parts that it does not use."""
        data = self.model_dump(mode='json', exclude_none=True)
        if self.fit == type(self).model_fields['fit'].default:
            del data['fit']
        return data

    def dumps(self) -> str:
        """Return the genotype as JSON text with one line for each block. Loading it gives an equal genotype."""
        return _format_json(self.to_dict()) + '\n'

    def save(self, path: Union[str, os.PathLike]) -> None:
        """Write :meth:`dumps` to `path` atomically: an interrupted write leaves the old file as it was."""
        write_utf8(path, self.dumps())

    @cached_property
    def layout_digest(self) -> str:
        """SHA-256 (hex) of the cells as written. Weights belong to a layout, since block order permutes channels."""
        return _sha256(self.model_dump(mode='json', include={'inputs', 'fit', *KINDS}))

    @cached_property
    def architecture_digest(self) -> str:
        """SHA-256 (hex) that is equal for genotypes with the same architecture.

        Names, unused blocks and the order of blocks do not matter, and the order of operands matters only if the
        combine's row says so. States are distinguished by colour refinement of the cell's graph, that is, by what each
        state reads and what reads it. Therefore a block that is used twice differs from two equal blocks.
        """
        return _sha256([self.fit, *(_canonical_cell(cell) for cell in self.cells.values())])


def _sha256(data: Any) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True, separators=(',', ':')).encode()).hexdigest()


def _canonical_cell(cell: Cell) -> List[Any]:
    """Return the cell as nested lists in which names, order and unused states do not matter."""
    live = sorted(cell.live)
    colour = {state: state if state[0] == 'h' else 'b' for state in live}
    # An output is identified by its index, the head by its name. The order of their states does not matter.
    readers = {state: [str(k) for k, output in enumerate(cell.outputs) if state in output] for state in live}
    for state in cell.head_states:
        readers[state].append('head')
    for _ in live:  # a colour spreads by one edge in each round, and no path is longer than the number of states
        seen = {state: [colour[state], sorted(readers[state])] for state in live}
        for state in live:
            if state[0] == 'b':
                block = cell.blocks[int(state[1:])]
                is_ordered = not COMBINES[block.combine].is_symmetric_up_to_channels
                edges = [[op, colour[source] if OPERATIONS[op].reads_state else ''] for op, source in block.edges]
                seen[state].append([block.combine, edges if is_ordered else sorted(edges)])
                for side, (op, source) in zip(('left', 'right'), block.edges):
                    if OPERATIONS[op].reads_state:
                        seen[source].append(['read by', op, block.combine, colour[state], *[side] * is_ordered])
        for state in live:
            seen[state][2:] = sorted(seen[state][2:], key=repr)
        colour = {state: (state if state[0] == 'h' else '') + _sha256(seen[state]) for state in live}
    return [
        sorted(colour.values()),
        [sorted(colour[state] for state in output) for output in cell.outputs],
        sorted(colour[state] for state in cell.head_states),
    ]


def _format_json(value: Any, indent: str = '', path: Tuple = ()) -> str:
    """Return JSON text with one line for each fact and for each object in a list, such as a block or a result."""
    inner = indent + '  '
    if isinstance(value, dict) and not (path and isinstance(path[-1], int)):
        rows = [f'{inner}{json.dumps(k)}: {_format_json(v, inner, (*path, k))}' for k, v in value.items()]
        return '{\n' + ',\n'.join(rows) + f'\n{indent}}}'
    if isinstance(value, list) and value and isinstance(value[0], dict):
        rows = [inner + _format_json(v, inner, (*path, i)) for i, v in enumerate(value)]
        return '[\n' + ',\n'.join(rows) + f'\n{indent}]'
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def json_schema() -> Dict[str, Any]:
    """Return the language as a JSON schema for editors, the content of ``genotypes/schema.json``."""
    schema = Genotype.model_json_schema()
    schema['properties']['$schema'] = {'type': 'string', 'description': 'for editors; ignored'}
    return {'$schema': 'https://json-schema.org/draft/2020-12/schema', '$id': 'schema.json', **schema}

"""Search spaces: an ordered list of categorical decisions, and the conversion of choices to a genotype and back."""
import hashlib
import json
from collections import Counter
from functools import cache
from itertools import combinations
from typing import Any, Callable, Dict, Iterator, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from ..genotype.loader import load_genotype
from ..genotype.schema import KINDS, Block, Genotype

__all__ = ['Choices', 'Decision', 'Space', 'SpaceError', 'nasnet_space', 'darts_space', 'SPACES', 'PAPER_OPS',
           'DARTS_OPS']

Choices = Dict[str, str]

PAPER_OPS = (  # the thirteen operations of the paper, section 3.1
    'identity', 'conv_1x3_3x1', 'conv_1x7_7x1', 'dil_conv_3x3', 'avg_pool_3x3', 'max_pool_3x3', 'max_pool_5x5',
    'max_pool_7x7', 'conv_1x1', 'conv_3x3', 'sep_conv_3x3', 'sep_conv_5x5', 'sep_conv_7x7')
DARTS_OPS = (
    'max_pool_3x3', 'avg_pool_3x3', 'factorized_identity', 'sep_conv_3x3', 'sep_conv_5x5', 'dil_sep_conv_3x3',
    'dil_sep_conv_5x5')


class SpaceError(ValueError):
    """The space does not contain this genotype or these choices. The message says why."""


class Decision(NamedTuple):
    """A choice of one of several options.

    Attributes:
        name: The name of the decision, unique in its space.
        options: The words to choose from.
    """
    name: str
    options: Tuple[str, ...]


class Space:
    """An ordered list of decisions, and the genotype that each set of choices stands for.

    To define a space of your own, list its decisions and give a function that writes the genotype::

        ops = ('sep_conv_3x3', 'max_pool_3x3')
        space = Space('pairs', [Decision('left', ops), Decision('right', ops)], build=lambda choices: dict(
            inputs=1, normal=(cell := dict(
                blocks=[dict(left=[choices['left'], 'h0'], right=[choices['right'], 'h0'])], outputs=[['b0']])),
            reduction=cell))

    A space can be pickled if both functions can, for example if they are defined at the top level of a module.

    Args:
        name: The name of the space, part of its fingerprint.
        decisions: The decisions, in the order in which a controller makes them. Each has at least two options.
        build: Converts choices (option by name of decision) to a genotype as JSON data. ``format`` and ``name`` may be
            left out.
        parse: Converts a genotype to choices, and raises a SpaceError if the space does not contain it. Without this
            function a search cannot be warm-started with genotypes, or reuse children of another space.

    Raises:
        ValueError: If names are repeated, a decision has fewer than two different options, or a name or an option is
            not a string.
    """

    def __init__(
            self,
            name: str,
            decisions: Sequence[Decision],
            build: Callable[[Choices], Mapping[str, Any]],
            parse: Optional[Callable[[Genotype], Choices]] = None,
    ) -> None:
        self.name, self.decisions = name, tuple(Decision(n, tuple(options)) for n, options in decisions)
        self._build, self._parse = build, parse
        texts = [name, *(text for decision in self.decisions for text in (decision.name, *decision.options))]
        others = [text for text in texts if not isinstance(text, str)]
        if others:
            raise ValueError('the name of the space, the names of its decisions and their options must be strings, '
                             f'and {others[0]!r} is an object of type {type(others[0]).__name__}')
        names = Counter(decision.name for decision in self.decisions)
        wrong = [d.name for d in self.decisions if names[d.name] > 1 or len(set(d.options)) < max(2, len(d.options))]
        if wrong or not names:
            raise ValueError(f'decisions: {wrong[0] if wrong else "there are none"}; each decision needs a unique name '
                             'and at least two different options')

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hexadecimal) of name and decisions. A search can be resumed in the same space only."""
        return hashlib.sha256(json.dumps([self.name, self.decisions]).encode()).hexdigest()

    @property
    def sizes(self) -> Tuple[int, ...]:
        """The number of options of each decision."""
        return tuple(len(decision.options) for decision in self.decisions)

    @property
    def distributions(self) -> Dict[str, Any]:
        """The decisions as Optuna's distributions, by name, for example for ``Study.ask`` and ``create_trial``."""
        from optuna.distributions import CategoricalDistribution
        return {name: CategoricalDistribution(options) for name, options in self.decisions}

    def choices(self, tokens: Sequence[int]) -> Choices:
        """Convert tokens (for each decision the index of an option) to choices (option by name of decision).

        Raises:
            SpaceError: If the tokens do not belong to this space.
        """
        try:
            if len(tokens) == len(self.decisions) and min(tokens) >= 0:
                return {name: options[token] for (name, options), token in zip(self.decisions, tokens)}
        except IndexError:
            pass
        raise SpaceError(f'{self.name}: {list(tokens)[:50]} are not the indices of an option for each of the '
                         f'{len(self.decisions)} decisions')

    def tokens(self, choices: Mapping[str, str]) -> Tuple[int, ...]:
        """Convert choices to tokens, the inverse of :meth:`choices`.

        Raises:
            SpaceError: If a choice is missing or is not an option.
        """
        for name, options in self.decisions:
            if name not in choices:
                raise SpaceError(f'{self.name}: there is no choice for {name}')
            if choices[name] not in options:
                raise SpaceError(f'{self.name}: {name} has no option {choices[name]!r}; known: {", ".join(options)}')
        return tuple(options.index(choices[name]) for name, options in self.decisions)

    def build(self, tokens: Sequence[int]) -> Mapping[str, Any]:
        """Return the genotype of tokens as JSON data, as the space's function writes it, without checking it."""
        return self._build(self.choices(tokens))

    def genotype(self, tokens: Sequence[int], name: str = 'cell', **fields: Any) -> Genotype:
        """Return the genotype of tokens, with further `fields` such as ``search`` and ``results``."""
        return load_genotype({'format': 1, 'name': name, **self.build(tokens), **fields})

    def suggest(self, trial: Any) -> Tuple[int, ...]:
        """Let an Optuna trial suggest all choices, with any sampler, and return them as tokens.

        A ``FixedTrial`` or ``FrozenTrial`` gives the choices that it has.
        """
        return self.tokens({name: trial.suggest_categorical(name, options) for name, options in self.decisions})

    def find(self, genotype: Genotype) -> Tuple[int, ...]:
        """Return the tokens of a genotype. Its outputs are ignored where the space derives them from the blocks.

        Raises:
            SpaceError: If the space does not contain the genotype, or has no parse function.
        """
        if self._parse is None:
            raise SpaceError(f'{self.name}: cannot convert genotypes to choices; give Space a parse function')
        return self.tokens(self._parse(genotype))


def nasnet_space(
        blocks: int = 5,
        ops: Sequence[str] = PAPER_OPS,
        combines: Sequence[str] = ('add', 'concat'),
) -> Space:
    """Return the paper's space (section 3.1): for each block two states, two operations and how to combine them.

    The output of a cell is the concatenation of the blocks that no other block reads. (The output of NASNet-A's normal
    cell also contains h1; :meth:`Space.find` returns the cell without it.) In the search for NASNet-B and NASNet-C,
    `combines` also had ``add_layer_norm`` and ``add_instance_norm``.

    Args:
        blocks: Number of blocks in each of the two cells (the paper's B).
        ops: Names of operations of the genotype language.
        combines: Names of combines of the genotype language.
    """
    cells = _NasnetCells(blocks, tuple(ops), tuple(combines))
    return Space(cells.name, [Decision(f'{kind}.b{i}.{part}', options) for kind in KINDS for i in range(blocks)
                              for part, options in cells.parts(i) if len(options) > 1], cells.build, cells.parse)


class _NasnetCells(NamedTuple):
    """The conversion between choices and genotypes in the paper's space. Its methods can be pickled."""
    blocks: int
    ops: Tuple[str, ...]
    combines: Tuple[str, ...]

    @property
    def name(self) -> str:
        return f'nasnet-{self.blocks}'

    def parts(self, i: int) -> List[Tuple[str, Tuple[str, ...]]]:
        """Return the decisions about block `i`, with their options."""
        states = ('h0', 'h1', *(f'b{k}' for k in range(i)))
        return [('left_state', states), ('right_state', states), ('left_op', self.ops), ('right_op', self.ops),
                ('combine', self.combines)]

    def build(self, choices: Choices) -> Dict[str, Any]:
        genotype: Dict[str, Any] = dict(inputs=2)
        for kind in KINDS:
            rows = [{part: choices.get(name, first) for part, name, first in parts}
                    for parts in _named_parts(self, kind)]
            read = {row[side] for row in rows for side in ('left_state', 'right_state')}
            genotype[kind] = dict(
                blocks=[dict(left=[row['left_op'], row['left_state']], right=[row['right_op'], row['right_state']],
                             combine=row['combine']) for row in rows],
                outputs=[[f'b{i}' for i in range(self.blocks) if f'b{i}' not in read]])
        return genotype

    def parse(self, genotype: Genotype) -> Choices:
        choices = {}
        for kind, i, block in _blocks(genotype, self.name, self.blocks):
            (left_op, left_state), (right_op, right_state) = block.edges
            values = left_state, right_state, left_op, right_op, block.combine
            for (part, options), value in zip(self.parts(i), values):
                _expect(value in options, genotype, f'{kind}.blocks[{i}]: {part} {value!r} is not in {self.name}')
                choices[f'{kind}.b{i}.{part}'] = value
        return choices


@cache  # a search builds many thousands of genotypes
def _named_parts(cells: _NasnetCells, kind: str) -> List[List[Tuple[str, str, str]]]:
    """Return for each block of a cell the decisions about it, with their full names and first options."""
    return [[(part, f'{kind}.b{i}.{part}', options[0]) for part, options in cells.parts(i)]
            for i in range(cells.blocks)]


def darts_space(nodes: int = 4, ops: Sequence[str] = DARTS_OPS) -> Space:
    """Return the space of DARTS (arXiv:1806.09055): each node adds two operations on two different earlier states.

    The output of a cell is the concatenation of all nodes. Both inputs are fitted, as in the network of DARTS.

    Args:
        nodes: Number of nodes in each of the two cells.
        ops: Names of operations of the genotype language.
    """
    cells, decisions = _DartsCells(nodes, tuple(ops)), []
    for kind in KINDS:
        for i in range(nodes):
            if len(cells.pairs(i)) > 1:
                decisions.append(Decision(f'{kind}.b{i}.states', tuple(cells.pairs(i))))
            decisions += [Decision(f'{kind}.b{i}.{side}_op', cells.ops) for side in ('left', 'right')]
    return Space(cells.name, decisions, cells.build, cells.parse)


class _DartsCells(NamedTuple):
    """The conversion between choices and genotypes in the space of DARTS. Its methods can be pickled."""
    nodes: int
    ops: Tuple[str, ...]

    @property
    def name(self) -> str:
        return f'darts-{self.nodes}'

    @staticmethod
    @cache  # a search builds many thousands of genotypes
    def pairs(i: int) -> List[str]:
        """Return pairs of states in the order of DARTS, which calls h1 0 and h0 1."""
        return ['+'.join(pair) for pair in combinations(['h1', 'h0', *(f'b{k}' for k in range(i))], 2)]

    def build(self, choices: Choices) -> Dict[str, Any]:
        genotype: Dict[str, Any] = dict(inputs=2, fit='all')
        for kind in KINDS:
            rows = []
            for i in range(self.nodes):
                states = choices.get(f'{kind}.b{i}.states', self.pairs(i)[0]).split('+')
                rows.append({side: [choices[f'{kind}.b{i}.{side}_op'], state]
                             for side, state in zip(('left', 'right'), states)})
            genotype[kind] = dict(blocks=rows, outputs=[[f'b{i}' for i in range(self.nodes)]])
        return genotype

    def parse(self, genotype: Genotype) -> Choices:
        choices = {}
        for kind, i, block in _blocks(genotype, self.name, self.nodes):
            order = ['h1', 'h0', *(f'b{k}' for k in range(i))]
            edges = sorted(block.edges, key=lambda edge: order.index(edge[1]))
            states = '+'.join(state for _, state in edges)
            _expect(block.combine == 'add' and states in self.pairs(i), genotype,
                    f'{kind}.blocks[{i}]: a block of this space adds two different states')
            choices[f'{kind}.b{i}.states'] = states
            for side, (op, _) in zip(('left', 'right'), edges):
                _expect(op in self.ops, genotype, f'{kind}.blocks[{i}].{side}: {op} is not an operation of {self.name}')
                choices[f'{kind}.b{i}.{side}_op'] = op
        return choices


def _blocks(genotype: Genotype, space: str, count: int) -> Iterator[Tuple[str, int, Block]]:
    """Yield kind of cell, index and block, and check that the cells have `count` blocks and one output."""
    _expect(genotype.inputs == 2, genotype, f'inputs: is {genotype.inputs}; in {space} it is 2')
    for kind, cell in genotype.cells.items():
        found = len(cell.blocks), len(cell.outputs)
        _expect(found == (count, 1), genotype, f'{kind}: has {found[0]} blocks and {found[1]} outputs; in {space} a '
                                               f'cell has {count} and 1')
        yield from ((kind, i, block) for i, block in enumerate(cell.blocks))


def _expect(condition: bool, genotype: Genotype, message: str) -> None:
    if not condition:
        raise SpaceError(f'{genotype.name}: {message}')


def _darts_space_of_blocks(blocks: int = 4, ops: Sequence[str] = DARTS_OPS) -> Space:
    return darts_space(blocks, ops)


# each function takes the number of blocks of a cell and the operations, and has defaults for both
SPACES: Dict[str, Callable[..., Space]] = {'nasnet': nasnet_space, 'darts': _darts_space_of_blocks}

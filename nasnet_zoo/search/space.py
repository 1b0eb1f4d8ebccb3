"""Search spaces: an ordered list of categorical decisions, and the way from choices to a genotype and back."""
import hashlib
import json
from collections import Counter
from itertools import combinations
from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from ..genotype.loader import load_genotype
from ..genotype.schema import KINDS, Genotype

__all__ = ['Choices', 'Decision', 'Space', 'SpaceError', 'nasnet_space', 'darts_space', 'SPACES', 'PAPER_OPS',
           'DARTS_OPS']

Choices = Dict[str, str]

# The paper's thirteen, section 3.1.
PAPER_OPS = (
    'identity', 'conv_1x3_3x1', 'conv_1x7_7x1', 'dil_conv_3x3', 'avg_pool_3x3', 'max_pool_3x3', 'max_pool_5x5',
    'max_pool_7x7', 'conv_1x1', 'conv_3x3', 'sep_conv_3x3', 'sep_conv_5x5', 'sep_conv_7x7')
DARTS_OPS = (
    'max_pool_3x3', 'avg_pool_3x3', 'factorized_identity', 'sep_conv_3x3', 'sep_conv_5x5', 'dil_sep_conv_3x3',
    'dil_sep_conv_5x5')


class SpaceError(ValueError):
    """A genotype that a space does not contain, and where it leaves it."""


class Decision(NamedTuple):
    """One choice among options, all of them words."""
    name: str
    options: Tuple[str, ...]


class Space:
    """Decisions in the order in which a controller takes them.

    A space of one's own is its decisions and a function that writes the genotype::

        ops = ('sep_conv_3x3', 'max_pool_3x3')
        space = Space('pairs', [Decision('left', ops), Decision('right', ops)], build=lambda choices: dict(
            inputs=1, normal=(cell := dict(
                blocks=[dict(left=[choices['left'], 'h0'], right=[choices['right'], 'h0'])], outputs=[['b0']])),
            reduction=cell))

    Args:
        name: For people; part of the fingerprint.
        decisions: Each with two options or more; names are unique.
        build: From choices, an option by decision, to a genotype as JSON data (``format`` and ``name`` may be missing).
        parse: The way back, from a genotype to choices; it raises a SpaceError for one that the space lacks. Without it
            nothing can be warm-started from a genotype.
    """

    def __init__(
            self,
            name: str,
            decisions: Sequence[Decision],
            build: Callable[[Choices], Mapping[str, Any]],
            parse: Optional[Callable[[Genotype], Choices]] = None,
    ) -> None:
        self.name, self.decisions = name, tuple(Decision(*decision) for decision in decisions)
        self._build, self._parse = build, parse
        names = Counter(decision.name for decision in self.decisions)
        wrong = [d.name for d in self.decisions if names[d.name] > 1 or len(set(d.options)) < max(2, len(d.options))]
        if wrong or not names:
            raise ValueError(f'decisions: {wrong[0] if wrong else "there are none"}; each needs a name of its own and '
                             'two different options or more')

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of name and decisions: what was learnt in one space means nothing in another."""
        return hashlib.sha256(json.dumps([self.name, self.decisions]).encode()).hexdigest()

    @property
    def sizes(self) -> Tuple[int, ...]:
        """The number of options of each decision."""
        return tuple(len(decision.options) for decision in self.decisions)

    def choices(self, tokens: Sequence[int]) -> Choices:
        """Option by decision from tokens, an option's index a decision.

        Raises:
            SpaceError: For tokens of another space.
        """
        if len(tokens) != len(self.decisions) or not all(0 <= t < n for t, n in zip(tokens, self.sizes)):
            raise SpaceError(f'{self.name}: {list(tokens)[:50]} are not an option for each of its '
                             f'{len(self.decisions)} decisions')
        return {decision.name: decision.options[token] for decision, token in zip(self.decisions, tokens)}

    def tokens(self, choices: Mapping[str, str]) -> Tuple[int, ...]:
        """The way back from :meth:`choices`.

        Raises:
            SpaceError: For a decision without a choice and a choice that is no option.
        """
        for name, options in self.decisions:
            if choices.get(name) not in options:
                raise SpaceError(f'{self.name}: {name} has no option {choices.get(name)!r}; it has '
                                 f'{", ".join(options)}')
        return tuple(options.index(choices[name]) for name, options in self.decisions)

    def genotype(self, tokens: Sequence[int], name: str = 'cell', **facts: Any) -> Genotype:
        """The genotype of tokens, with `facts` such as ``search`` and ``results``."""
        return load_genotype({'format': 1, 'name': name, **self._build(self.choices(tokens)), **facts})

    def suggest(self, trial: Any) -> Tuple[int, ...]:
        """Tokens that an Optuna trial suggests, whatever its study's sampler."""
        return self.tokens({name: trial.suggest_categorical(name, options) for name, options in self.decisions})

    def find(self, genotype: Genotype) -> Tuple[int, ...]:
        """Tokens of a genotype. Its outputs are the space's: see :func:`nasnet_space`.

        Raises:
            SpaceError: For one that the space lacks.
        """
        if self._parse is None:
            raise SpaceError(f'{self.name}: has no way from a genotype to choices; give Space a parse function')
        return self.tokens(self._parse(genotype))


def nasnet_space(
        blocks: int = 5,
        ops: Sequence[str] = PAPER_OPS,
        combines: Sequence[str] = ('add', 'concat'),
) -> Space:
    """The paper's space (section 3.1): for each block two states, two operations and how to combine them.

    A cell hands on its blocks that no other block reads, side by side in depth. (NASNet-A's normal cell hands on h1
    besides; :meth:`Space.find` takes it for the cell without.) The search for NASNet-B and C also had
    ``add_layer_norm`` and ``add_instance_norm`` among `combines`.

    Args:
        blocks: B, in each of the two cells.
        ops, combines: Words of the genotype language.
    """
    def parts(i: int) -> List[Tuple[str, Sequence[str]]]:
        states = ['h0', 'h1', *(f'b{k}' for k in range(i))]
        return [('left_state', states), ('right_state', states), ('left_op', ops), ('right_op', ops),
                ('combine', combines)]

    def build(choices: Choices) -> Dict[str, Any]:
        genotype: Dict[str, Any] = dict(inputs=2)
        for kind in KINDS:
            rows = [{part: choices.get(f'{kind}.b{i}.{part}', options[0]) for part, options in parts(i)}
                    for i in range(blocks)]
            read = {row[side] for row in rows for side in ('left_state', 'right_state')}
            genotype[kind] = dict(
                blocks=[dict(left=[row['left_op'], row['left_state']], right=[row['right_op'], row['right_state']],
                             combine=row['combine']) for row in rows],
                outputs=[[f'b{i}' for i in range(blocks) if f'b{i}' not in read]])
        return genotype

    def parse(genotype: Genotype) -> Choices:
        choices = {}
        for kind, i, block in _blocks(genotype, name, blocks):
            (left_op, left_state), (right_op, right_state) = block.edges
            values = left_state, right_state, left_op, right_op, block.combine
            for (part, options), value in zip(parts(i), values):
                _expect(value in options, genotype, f'{kind}.blocks[{i}]: {part} {value!r} is not in {name}')
                choices[f'{kind}.b{i}.{part}'] = value
        return choices

    name = f'nasnet-{blocks}'
    return Space(name, [Decision(f'{kind}.b{i}.{part}', tuple(options)) for kind in KINDS for i in range(blocks)
                        for part, options in parts(i) if len(options) > 1], build, parse)


def darts_space(nodes: int = 4, ops: Sequence[str] = DARTS_OPS) -> Space:
    """DARTS's space (arXiv:1806.09055): nodes that add two operations on two different earlier states, all handed on.

    Both inputs are fitted, as DARTS's own network does.
    """
    def pairs(i: int) -> List[str]:
        """The older state first, as DARTS numbers them: its 0 is our h1, its 1 our h0."""
        return ['+'.join(pair) for pair in combinations(['h1', 'h0', *(f'b{k}' for k in range(i))], 2)]

    def build(choices: Choices) -> Dict[str, Any]:
        genotype: Dict[str, Any] = dict(inputs=2, fit='all')
        for kind in KINDS:
            rows = []
            for i in range(nodes):
                states = choices.get(f'{kind}.b{i}.states', pairs(i)[0]).split('+')
                rows.append({side: [choices[f'{kind}.b{i}.{side}_op'], state]
                             for side, state in zip(('left', 'right'), states)})
            genotype[kind] = dict(blocks=rows, outputs=[[f'b{i}' for i in range(nodes)]])
        return genotype

    def parse(genotype: Genotype) -> Choices:
        choices = {}
        for kind, i, block in _blocks(genotype, name, nodes):
            order = ['h1', 'h0', *(f'b{k}' for k in range(i))]
            edges = sorted(block.edges, key=lambda edge: order.index(edge[1]))
            states = '+'.join(state for _, state in edges)
            _expect(block.combine == 'add' and states in pairs(i), genotype,
                    f'{kind}.blocks[{i}]: DARTS adds two different states')
            choices[f'{kind}.b{i}.states'] = states
            for side, (op, _) in zip(('left', 'right'), edges):
                _expect(op in ops, genotype, f'{kind}.blocks[{i}].{side}: {op} is not an operation of {name}')
                choices[f'{kind}.b{i}.{side}_op'] = op
        return choices

    name = f'darts-{nodes}'
    decisions = []
    for kind in KINDS:
        for i in range(nodes):
            if len(pairs(i)) > 1:
                decisions.append(Decision(f'{kind}.b{i}.states', tuple(pairs(i))))
            decisions += [Decision(f'{kind}.b{i}.{side}_op', tuple(ops)) for side in ('left', 'right')]
    return Space(name, decisions, build, parse)


def _blocks(genotype: Genotype, space: str, count: int):
    """Kind, number and block of each; of cells that the space may contain."""
    _expect(genotype.inputs == 2, genotype, f'inputs: {genotype.inputs}, {space} has 2')
    for kind, cell in genotype.cells.items():
        found = len(cell.blocks), len(cell.outputs)
        _expect(found == (count, 1), genotype, f'{kind}: has {found[0]} blocks and hands on {found[1]}; in {space} it '
                                               f'is {count} and 1')
        yield from ((kind, i, block) for i, block in enumerate(cell.blocks))


def _expect(condition: bool, genotype: Genotype, what: str) -> None:
    if not condition:
        raise SpaceError(f'{genotype.name}: {what}')


# name: builder of the space with its usual size; options are its arguments
SPACES: Dict[str, Callable[..., Space]] = {'nasnet': nasnet_space, 'darts': darts_space}

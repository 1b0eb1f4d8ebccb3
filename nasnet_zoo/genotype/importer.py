"""Reads genotypes as other software prints them. The text is parsed, never evaluated."""
import ast
from typing import Any, Dict, List, Tuple

from ..checked import shorten
from .loader import MAX_BYTES, load_genotype
from .schema import Genotype

__all__ = ['ImportedTextError', 'import_genotype']

# DARTS's names of operations, and ours. Its dilated convolutions are separable, and its skip connection is a factorized
# reduction at stride 2.
_OPS = {
    'skip_connect': 'factorized_identity', 'dil_conv_3x3': 'dil_sep_conv_3x3', 'dil_conv_5x5': 'dil_sep_conv_5x5',
    **{name: name for name in ('max_pool_3x3', 'avg_pool_3x3', 'sep_conv_3x3', 'sep_conv_5x5', 'sep_conv_7x7')}}
_KINDS = {'normal': 'normal', 'reduce': 'reduction'}
Edge = Tuple[str, int]


class ImportedTextError(ValueError):
    """Raised for a text in which no genotype can be found. The message says why."""


def import_genotype(text: str, name: str = 'imported') -> Genotype:
    """Read a genotype of DARTS's search space (arXiv:1806.09055) as DARTS or NNI writes it.

    Args:
        text: Either what DARTS and its successors print, ``Genotype(normal=[('sep_conv_3x3', 0), …], normal_concat=[2,
            3, 4, 5], reduce=[…], reduce_concat=range(2, 6))``, with or without ``NAME =`` before it; or the choices
            that NNI exports, ``{"normal/op_2_0": "sep_conv_3x3", "normal/input_2_0": 0, …}``, as JSON or as a Python
            dict. NNI does not write the outputs, so they are all nodes of a cell, as in DARTS.
        name: Name of the genotype.

    Raises:
        ImportedTextError: If the text is neither of these.
        GenotypeError: If its cells are not a valid genotype, for example because they have too many nodes.
    """
    if len(text) > MAX_BYTES:
        raise ImportedTextError(f'too large: over {MAX_BYTES} bytes; a genotype is a few lines')
    try:
        tree = ast.parse(text.strip())
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ImportedTextError(f'neither a Genotype(…) nor a dict of choices: {error}') from None
    value = tree.body[-1].value if tree.body and isinstance(tree.body[-1], (ast.Expr, ast.Assign)) else None
    if isinstance(value, ast.Call) and _name(value.func) == 'Genotype' and not value.args:
        cells = _from_darts({keyword.arg: _literal(keyword.value) for keyword in value.keywords})
    elif isinstance(value, ast.Dict):
        cells = _from_nni(_literal(value))
    else:
        raise ImportedTextError(f'neither a Genotype(…) with named arguments nor a dict of choices: {shorten(text)}')
    return load_genotype(dict(format=1, name=name, inputs=2, fit='all', **{
        _KINDS[kind]: _cell(kind, *cell) for kind, cell in cells.items()}))


def _name(node: ast.AST) -> str:
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ''


def _literal(node: ast.AST) -> Any:
    """Return the value of a literal or of range() of literals."""
    try:
        if isinstance(node, ast.Call) and _name(node.func) == 'range' and not node.keywords:
            bounds = [ast.literal_eval(bound) for bound in node.args]
            if all(isinstance(bound, int) and 0 <= bound <= 100 for bound in bounds):
                return list(range(*bounds))
        value = ast.literal_eval(node)
        repr(value)  # raises ValueError for an integer of thousands of digits, which no message could show
        return value
    except (ValueError, TypeError, RecursionError, MemoryError):
        raise ImportedTextError(f'line {node.lineno}, column {node.col_offset + 1}: is not a literal value') from None


def _from_darts(parts: Dict[str, Any]) -> Dict[str, Tuple[List[Edge], List[int]]]:
    missing = [name for kind in _KINDS for name in (kind, f'{kind}_concat') if not isinstance(
        parts.get(name), (list, tuple))]
    if missing:
        raise ImportedTextError(f'{missing[0]}: must be a list in Genotype(…)')
    return {kind: (list(parts[kind]), list(parts[f'{kind}_concat'])) for kind in _KINDS}


def _from_nni(choices: Dict[str, Any]) -> Dict[str, Tuple[List[Edge], List[int]]]:
    cells = {}
    for kind in _KINDS:
        edges: List[Edge] = []
        while f'{kind}/op_{len(edges) // 2 + 2}_0' in choices:
            for side in (0, 1):
                where = f'{len(edges) // 2 + 2}_{side}'
                source = choices.get(f'{kind}/input_{where}')
                edges.append((choices.get(f'{kind}/op_{where}'), source[0] if isinstance(source, list) and source
                              else source))
        cells[kind] = edges, list(range(2, len(edges) // 2 + 2))
    return cells


def _cell(kind: str, edges: List[Edge], outputs: List[int]) -> Dict[str, Any]:
    """Convert a cell. DARTS numbers its states: 0 is the older cell input, 1 the newer one, 2, 3, … are the nodes."""
    if not edges or len(edges) % 2:
        raise ImportedTextError(f'{kind}: has {len(edges)} edges; each node has two')
    states = ['h1', 'h0', *(f'b{i}' for i in range(len(edges) // 2))]

    def state(number: Any, where: str, known: int) -> str:
        if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < known:
            raise ImportedTextError(f'{where}: {shorten(repr(number))} is not a state; the states are 0 to {known - 1}')
        return states[number]

    def edge(i: int) -> List[str]:
        where = f'{kind}, node {i // 2 + 2}'
        if not isinstance(edges[i], (list, tuple)) or len(edges[i]) != 2:
            raise ImportedTextError(f'{where}: {shorten(repr(edges[i]))} is not (operation, state)')
        op, number = edges[i]
        if not isinstance(op, str) or op not in _OPS:
            raise ImportedTextError(f'{where}: unknown operation {shorten(repr(op))}; known: {", ".join(_OPS)}')
        return [_OPS[op], state(number, where, i // 2 + 2)]
    return dict(
        blocks=[dict(left=edge(i), right=edge(i + 1)) for i in range(0, len(edges), 2)],
        outputs=[[state(number, f'{kind}_concat', len(states)) for number in outputs]])

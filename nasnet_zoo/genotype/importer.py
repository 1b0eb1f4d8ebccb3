"""Reads genotypes as other software prints them. The text is parsed, never evaluated.

Calls of ``Genotype(…)`` and dicts are looked for anywhere in the text, so that it may be a log or a Python file. A
table of forms, :data:`FORMS`, says how the values in them are read.
"""
import ast
import re
import warnings
from typing import Any, Callable, Dict, Iterator, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from ..checked import join_first, shorten
from .loader import load_genotype
from .schema import Genotype

__all__ = ['FORMS', 'ImportedTextError', 'import_genotype']

# DARTS's names of operations, and ours. Its dilated convolutions are separable, and its skip connection is a factorized
# reduction at stride 2.
_OPS = {
    'skip_connect': 'factorized_identity', 'dil_conv_3x3': 'dil_sep_conv_3x3', 'dil_conv_5x5': 'dil_sep_conv_5x5',
    'zero': 'none', **{name: name for name in (
        'max_pool_3x3', 'max_pool_5x5', 'max_pool_7x7', 'avg_pool_3x3', 'sep_conv_3x3', 'sep_conv_5x5', 'sep_conv_7x7',
        'conv_1x1', 'conv_7x1_1x7', 'none')}}
# The operations of NNI's first DARTS example, in the order in which it numbers them.
_OLD_NNI_OPS = {
    'maxpool': 'max_pool_3x3', 'avgpool': 'avg_pool_3x3', 'skipconnect': 'skip_connect', 'sepconv3x3': 'sep_conv_3x3',
    'sepconv5x5': 'sep_conv_5x5', 'dilconv3x3': 'dil_conv_3x3', 'dilconv5x5': 'dil_conv_5x5', 'none': 'none'}
_KINDS = {'normal': 'normal', 'reduce': 'reduction'}
_FIELDS = ('normal', 'normal_concat', 'reduce', 'reduce_concat')  # of Genotype, in DARTS's order

_MAX_TEXT = 1 << 24  # characters; the log of a search has a few megabytes
_MAX_CALL = 1 << 20  # characters of a call or a dict
_MAX_WASTED = 1 << 25  # characters in brackets that turn out to hold no genotype
_MAX_SHOWN = 10  # names in a message
_QUOTES = str.maketrans({'‘': "'", '’': "'", '“': '"', '”': '"', '\xa0': ' ', '\ufeff': None})

Edge = Tuple[Any, Any]  # an operation and the number of a state
Cell = Tuple[List[List[Edge]], Sequence[Any]]  # the edges of each node, and the states that are concatenated
Cells = Dict[str, Cell]


class ImportedTextError(ValueError):
    """Raised for a text in which no genotype can be found. The message says why."""


class Form(NamedTuple):
    """A way to write a genotype as a dict. A call of ``Genotype(…)`` is read as the dict of its arguments.

    Attributes:
        description: The form in an error message.
        recognize: Whether a dict with these keys has this form.
        read: Returns the cells.
    """
    description: str
    recognize: Callable[[Sequence[str]], bool]
    read: Callable[[Mapping[str, Any]], Cells]


class _Found(NamedTuple):
    """A genotype in a text, or another name for an earlier one."""
    names: Tuple[str, ...]
    cells: Callable[[], Cells]


def import_genotype(text: str, name: str = 'imported', which: Optional[str] = None) -> Genotype:
    """Read a genotype of DARTS's search space (arXiv:1806.09055) as DARTS, its successors or tools print it.

    The text may be a line, a log with times before the lines, a Python file or Markdown. If it has several genotypes,
    the last one is read, or the one that a last line such as ``BEST = DARTS_V2`` names.

    Args:
        text: A text with one of these:

            - ``Genotype(normal=[('sep_conv_3x3', 0), …], normal_concat=[2, 3, 4, 5], reduce=[…], reduce_concat=range(2,
              6))``, as DARTS and its successors print it; the arguments may also be positional, the edges grouped by
              node as in GDAS, followed by weights, or written as (operation, node, state) as in FairDARTS.
            - The same fields as JSON or a Python dict.
            - The choices that NNI exports, ``{"normal/op_2_0": "sep_conv_3x3", "normal/input_2_0": 0, …}``, or those of
              its older versions, ``{"normal_n2_p0": "sepconv3x3", "normal_n2_switch": ["normal_n2_p0", …], …}``.
            - A configuration of NAS-Bench-301, ``{"NetworkSelectorDatasetInfo:darts:edge_normal_0": …, …}``.

            The last two do not write the outputs, which are all nodes of a cell, as in DARTS.
        name: Name of the returned genotype.
        which: Name of the variable to read, such as ``'DARTS_V2'``.

    Raises:
        ImportedTextError: If there is no such genotype, or if it cannot be expressed.
        GenotypeError: If its cells are not a valid genotype, for example because they have too many nodes.

    Warns:
        UserWarning: The text has genotypes of other names, and `which` is not given.
    """
    if len(text) > _MAX_TEXT:
        raise ImportedTextError(f'too large: over {_MAX_TEXT:,} characters')
    text = text.replace('\r\n', '\n').translate(_QUOTES)
    found = list(_find(text))
    names = list(dict.fromkeys(name for entry in found for name in entry.names))
    others = join_first(names, _MAX_SHOWN)
    if which is not None:
        found = [entry for entry in found if which in entry.names]
        if not found:
            raise ImportedTextError(f'there is no genotype named {shorten(which)!r}; the names are {others or "none"}')
    if not found:
        raise ImportedTextError(_explain(text))
    if which is None and len({entry.names for entry in found}) > 1 and len({entry.cells for entry in found}) > 1:
        chosen = ' = '.join(found[-1].names) or 'the last one, which has no name'
        warnings.warn(f'of several genotypes ({others}), {chosen} was read; choose with which=', stacklevel=2)
    return load_genotype(dict(format=1, name=name, inputs=2, fit='all', **{
        _KINDS[kind]: _cell(kind, *cell) for kind, cell in found[-1].cells().items()}))


# -- Genotypes in a text

_START = re.compile(
    r'(?P<call>\bGenotype\s*\()|(?P<dict>\{)|'
    r'^(?P<alias>[A-Za-z_]\w*)[ \t]*=[ \t]*(?P<target>[A-Za-z_]\w*)[ \t]*(?:#.*)?$', re.MULTILINE)
_NAMES = re.compile(r'(?:\b[A-Za-z_]\w*\s*(?::\s*\w+\s*)?=\s*)+$')
_TOKEN = re.compile(r"""'(?:[^'\\\n]|\\.)*'|"(?:[^"\\\n]|\\.)*"|\#[^\n]*|[()\[\]{}]""")


def _find(text: str) -> Iterator[_Found]:
    """Yield the genotypes in a text, and the other names that it gives to them."""
    known: Dict[str, _Found] = {}
    position, wasted = 0, 0
    while True:
        match = _START.search(text, position)
        if match is None:
            return
        position = match.end()
        found: Optional[_Found] = None
        if match['alias']:
            target = known.get(match['target'])
            found = target and _Found((match['alias'],), target.cells)
        elif match['dict'] or not _is_comment(text, match.start()):
            end = _find_end(text, match.end() - 1)
            part = text[match.start():end] if end else ''
            cells = _parse(part)
            if cells:
                names = _NAMES.search(text, max(match.start() - 200, 0), match.start())
                found = _Found(tuple(re.findall(r'([A-Za-z_]\w*)[^=]*=', names[0])) if names else (), cells)
            if end and (cells or not re.search('normal|Genotype', part)):
                position = end
            else:
                wasted += len(part) or min(_MAX_CALL, len(text) - position)
            if wasted > _MAX_WASTED:
                raise ImportedTextError('too many brackets that hold no genotype: pass only the lines that have it')
        if found:
            known.update((name, found) for name in found.names)
            yield found


def _is_comment(text: str, position: int) -> bool:
    line = text[max(text.rfind('\n', 0, position) + 1, position - 1_000):position]
    return re.search(r'(^|\s)#', line) is not None


def _find_end(text: str, start: int) -> Optional[int]:
    """Return where the bracket at `start` is closed, None if it is not."""
    depth = 0
    for match in _TOKEN.finditer(text, start, start + _MAX_CALL):
        token = match[0]
        depth += (token in '([{') - (token in ')]}')
        if depth == 0:
            return match.end()
    return None


def _parse(text: str) -> Optional[Callable[[], Cells]]:
    """Return the reader of a call or a dict, None if it is not a genotype."""
    if not re.match('Genotype', text) and not ('normal' in text and 'reduce' in text):
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # of escape sequences in a foreign text
            tree: Any = ast.parse(text, mode='eval').body
        if isinstance(tree, ast.Call):
            fields = dict(zip(_FIELDS, tree.args), **{word.arg: word.value for word in tree.keywords if word.arg})
            value = {name: _literal(field) for name, field in fields.items() if name in _FIELDS}
            return lambda: _read_fields(value)
        return _find_form(_literal(tree))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _find_form(value: Any, depth: int = 0) -> Optional[Callable[[], Cells]]:
    """Return the reader of a dict of a known form, or of the first such dict inside of it."""
    if isinstance(value, dict) and depth < 10:
        for form in FORMS:
            if form.recognize([key for key in value if isinstance(key, str)]):
                return lambda: form.read(value)
        return next(filter(None, (_find_form(entry, depth + 1) for entry in value.values())), None)
    return None


def _literal(node: Any) -> Any:
    """Return the value of a literal of Python or JSON; a range; or a number of NumPy. Raise a ValueError for others."""
    if isinstance(node, ast.Constant):
        repr(node.value)  # raises a ValueError for an integer of thousands of digits, which no message could show
        return node.value
    if isinstance(node, (ast.List, ast.Tuple)):
        return [_literal(entry) for entry in node.elts]
    if isinstance(node, ast.Dict):
        return {_hashable(_literal(key)): _literal(value) for key, value in zip(node.keys, node.values)}
    if isinstance(node, ast.Name) and node.id in _JSON:
        return _JSON[node.id]
    if isinstance(node, ast.UnaryOp):
        return ast.literal_eval(node)  # a negative number
    if isinstance(node, ast.Call) and not node.keywords:
        function = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, 'attr', '')
        args = [_literal(arg) for arg in node.args]
        if function == 'range' and 1 <= len(args) <= 3 and all(type(arg) is int and 0 <= arg <= 100 for arg in args):
            return list(range(*args))
        if re.fullmatch(r'(int|float|str_)\d*|list|tuple', function) and len(args) == 1:
            return args[0]
    raise ValueError('not a literal')


_JSON = {'true': True, 'false': False, 'null': None, 'NaN': None, 'Infinity': None, 'nan': None, 'inf': None}


def _hashable(value: Any) -> Any:
    return str(value) if isinstance(value, (list, dict)) else value


def _explain(text: str) -> str:
    """Return the message for a text without a genotype."""
    forms = '; '.join(form.description for form in FORMS)
    found = f'{shorten(" ".join(text.split()))!r}' if text.strip() else 'an empty text'
    keys = re.findall(r'''["']([^"'\n]{1,60})["']\s*:''', text[:10_000]) if text.lstrip()[:1] == '{' else []
    if keys:
        found = f'a dict with the keys {join_first(keys, 5)}'
    call = re.search(r'\bGenotype\s*\(', text)
    if call:
        line = text.count('\n', 0, call.start()) + 1
        found = f'the call of Genotype(…) in line {line}, which is incomplete or has arguments that are no literals'
    return f'no genotype was found in {found}; the known forms are {forms}'


# -- Forms

def _read_fields(fields: Mapping[str, Any]) -> Cells:
    missing = [name for name in _FIELDS if not isinstance(fields.get(name), list)]
    if missing:
        raise ImportedTextError(f'{missing[0]}: must be a list')
    return {kind: _read_edges(kind, fields[kind], fields[f'{kind}_concat']) for kind in _KINDS}


def _read_edges(kind: str, edges: List[Any], outputs: List[Any]) -> Cell:
    """Group edges by node. They are written in pairs, or grouped already, or as (operation, node, state)."""
    if edges and all(isinstance(edge, list) and edge and isinstance(edge[0], list) for edge in edges):
        return [[_edge(kind, edge) for edge in node] for node in edges], outputs
    if edges and all(isinstance(edge, list) and len(edge) == 3 and type(edge[2]) is int for edge in edges):
        numbers = [_number(edge[1]) for edge in edges]
        if not all(type(number) is int and 2 <= number < 100 for number in numbers):
            raise ImportedTextError(f'{kind}: the nodes in (operation, node, state) must be numbers from 2')
        return _fill_nodes([[(edge[0], edge[2]) for edge, number in zip(edges, numbers) if number == node]
                            for node in range(2, max(numbers) + 1)], outputs)
    if len(edges) % 2:
        raise ImportedTextError(f'{kind}: has {len(edges)} edges; each node has two')
    return [[_edge(kind, edge) for edge in edges[i:i + 2]] for i in range(0, len(edges), 2)], outputs


def _fill_nodes(nodes: List[List[Edge]], outputs: List[Any]) -> Cell:
    """Return a cell in which each node has two edges, from one of FairDARTS in which nodes may have fewer.

    A node with one edge gets ``none`` as its second. A node without edges is left out, as in FairDARTS's code, and so
    are the edges from it.
    """
    numbers: Dict[Any, int] = {}  # of nodes in the new cell
    left_out: List[int] = []
    filled: List[List[Edge]] = []
    for number, edges in enumerate(nodes, 2):
        edges = [(op, numbers.get(state, state)) for op, state in edges if state not in left_out]
        if edges:
            numbers[number] = len(filled) + 2
            filled.append([*edges, *[('none', edges[0][1])] * (len(edges) == 1)])
        else:
            left_out.append(number)
    outputs = [_number(output) for output in outputs if _number(output) not in left_out]
    return filled, [numbers.get(output, output) if isinstance(output, int) else output for output in outputs]


def _edge(kind: str, edge: Any) -> Edge:
    if not (isinstance(edge, list) and len(edge) in (2, 3)):  # the third is a weight
        raise ImportedTextError(f'{kind}: {shorten(repr(edge))} is not (operation, state)')
    return edge[0], edge[1]


_NNI = re.compile(r'(?:.*/)?(normal|reduce)/(op|input)_(\d{1,2})_(\d)')
_OLD_NNI = re.compile(r'(normal|reduce)_n(\d{1,2})_(?:p(\d{1,2})|switch)')
_NB301 = re.compile(r'(?:.*[:_])?(edge|inputs_node)_(normal|reduce)_(\d{1,2})')


def _match_keys(pattern: 're.Pattern[str]', choices: Mapping[str, Any]) -> Dict[Tuple[Any, ...], Any]:
    """Return the choices whose keys have a pattern by its groups, in which numbers are converted."""
    matches = ((pattern.fullmatch(key), value) for key, value in choices.items() if isinstance(key, str))
    return {tuple(int(part) if part and part.isdecimal() else part for part in match.groups()): value
            for match, value in matches if match}


def _read_nni(choices: Mapping[str, Any]) -> Cells:
    values = _match_keys(_NNI, choices)

    def edges(kind: str, node: int) -> List[Edge]:
        sides = sorted(side for k, what, n, side in values if (k, what, n) == (kind, 'op', node))
        return [(values[kind, 'op', node, side], _only(values.get((kind, 'input', node, side)))) for side in sides]
    return _with_all_outputs({kind: [n for k, _, n, _ in values if k == kind] for kind in _KINDS}, edges)


def _read_old_nni(choices: Mapping[str, Any]) -> Cells:
    values = _match_keys(_OLD_NNI, choices)

    def edges(kind: str, node: int) -> List[Edge]:
        states = sorted(p for k, n, p in values if (k, n) == (kind, node) and p is not None)
        keys = [f'{kind}_n{node}_p{state}' for state in states]
        chosen = _chosen(values.get((kind, node, None), keys), keys)
        ops = {state: _chosen(values[kind, node, state], list(_OLD_NNI_OPS)) for state in states}
        return [(_OLD_NNI_OPS.get(str(op), op), state) for state in states for op in ops[state][:1]
                if keys[states.index(state)] in chosen]
    return _with_all_outputs({kind: [n for k, n, _ in values if k == kind] for kind in _KINDS}, edges)


def _chosen(value: Any, options: List[str]) -> List[Any]:
    """Return what is chosen of `options` by name, by number, by a list of either, or by a list of truth values."""
    values = value if isinstance(value, list) else [value]
    if values and all(isinstance(entry, bool) for entry in values):
        return [option for option, is_chosen in zip(options, values) if is_chosen]
    return [options[entry] if type(entry) is int and 0 <= entry < len(options) else entry for entry in values]


def _read_nb301(choices: Mapping[str, Any]) -> Cells:
    values = _match_keys(_NB301, choices)

    def edges(kind: str, node: int) -> List[Edge]:
        default = '0_1' if node == 2 else ''  # the first node has no choice
        states = [_number(part) for part in str(values.get(('inputs_node', kind, node), default)).split('_')]
        first = (node - 2) * (node + 1) // 2  # edges are numbered by node, then by state
        return [(values.get(('edge', kind, first + state)), state) for state in states if isinstance(state, int)]
    return _with_all_outputs({kind: [2, 3, 4, 5] for kind in _KINDS}, edges)


def _with_all_outputs(nodes: Mapping[str, List[int]], edges: Callable[[str, int], List[Edge]]) -> Cells:
    """Return cells whose output consists of all nodes."""
    counts = {kind: max([1, *numbers]) for kind, numbers in nodes.items()}
    return {kind: ([edges(kind, node) for node in range(2, last + 1)], list(range(2, last + 1)))
            for kind, last in counts.items()}


def _only(value: Any) -> Any:
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def _has(pattern: 're.Pattern[str]') -> Callable[[Sequence[str]], bool]:
    return lambda keys: any(pattern.fullmatch(key) for key in keys)


FORMS: Tuple[Form, ...] = (
    Form('Genotype(normal=[…], normal_concat=[…], reduce=[…], reduce_concat=[…]) of DARTS and its successors, or its '
         'fields as JSON', lambda keys: 'normal' in keys and 'reduce' in keys, _read_fields),
    Form("NNI's choices (normal/op_2_0, normal/input_2_0, …)", _has(_NNI), _read_nni),
    Form("the choices of NNI's first DARTS example (normal_n2_p0, normal_n2_switch, …)", _has(_OLD_NNI), _read_old_nni),
    Form('a configuration of NAS-Bench-301 (…edge_normal_0, …inputs_node_normal_3, …)', _has(_NB301), _read_nb301),
)


# -- Cells

def _number(value: Any) -> Any:
    """Return a number that is written as text as a number, and any other value as it is."""
    return int(value) if isinstance(value, str) and re.fullmatch('[0-9]{1,3}', value) else value


def _cell(kind: str, nodes: List[List[Edge]], outputs: Sequence[Any]) -> Dict[str, Any]:
    """Convert a cell. DARTS numbers its states: 0 is the older cell input, 1 the newer one, 2, 3, … are the nodes."""
    if not nodes:
        raise ImportedTextError(f'{kind}: has no nodes')
    states = ['h1', 'h0', *(f'b{i}' for i in range(len(nodes)))]

    def state(number: Any, where: str, known: int) -> str:
        number = _number(number)
        if type(number) is not int or not 0 <= number < known:
            raise ImportedTextError(f'{where}: {shorten(repr(number))} is not a state; the states are 0 to {known - 1}')
        return states[number]

    def edge(op: Any, number: Any, i: int) -> List[str]:
        where = f'{kind}, node {i + 2}'
        if not isinstance(op, str) or op not in _OPS:
            raise ImportedTextError(f'{where}: unknown operation {shorten(repr(op))}; known: {", ".join(_OPS)}')
        return [_OPS[op], state(number, where, i + 2)]
    blocks = []
    for i, edges in enumerate(nodes):
        if len(edges) != 2:
            raise ImportedTextError(f'{kind}, node {i + 2}: has {len(edges)} edges; a node of this package has two')
        left, right = edges
        blocks.append(dict(left=edge(*left, i), right=edge(*right, i)))
    return dict(blocks=blocks, outputs=[[state(number, f'{kind}_concat', len(states)) for number in outputs]])

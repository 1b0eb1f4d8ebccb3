"""Reads the structure of Python source: who imports whom, and how long functions are. Nothing is imported or run."""
import ast
import re
from pathlib import Path
from typing import Dict, Iterator, List, NamedTuple, Optional, Set, Tuple

__all__ = ['Function', 'Import', 'encoding_problems', 'find_cycle', 'functions', 'imports', 'layer_of',
           'layer_problems', 'modules', 'read_layers', 'size_problems']

LAYERS_HEADING = '## Layers'


class Import(NamedTuple):
    """An import of `target`, which is a module of the package, in a line of `module`."""
    module: str
    line: int
    target: str


class Function(NamedTuple):
    name: str
    line: int
    length: int
    arguments: int


def modules(root: Path) -> Dict[str, str]:
    """The source of each module below `root`'s parent that belongs to the package in `root`, by dotted name.

    A package's ``__init__`` bears the name of the package.
    """
    sources = {}
    for path in sorted(root.rglob('*.py')):
        parts = path.relative_to(root.parent).with_suffix('').parts
        sources['.'.join(parts[:-1] if parts[-1] == '__init__' else parts)] = path.read_text(encoding='utf-8')
    return sources


def imports(sources: Dict[str, str], packages: Set[str]) -> List[Import]:
    """All imports of the package's own modules: in functions and under TYPE_CHECKING too, relative and absolute, and
    by ``import_module`` with a literal name.

    ``from package import name`` is an import of the submodule of that name if there is one, and else of the package's
    ``__init__``. The import of a package that runs before that of its submodule is not counted.

    Args:
        sources: Source by module, as `modules` returns it.
        packages: The modules among them that are packages.
    """
    found = []
    top_levels = {module.split('.')[0] for module in sources}
    for module, source in sources.items():
        package = module if module in packages else module.rpartition('.')[0]
        for node in ast.walk(ast.parse(source)):
            for name in _imported(node, package, sources):
                if name.split('.')[0] in top_levels:
                    found.append(Import(module, node.lineno, name))
    return found


def _imported(node: ast.AST, package: str, sources: Dict[str, str]) -> Iterator[str]:
    """The dotted names of what a node imports; for a name in a module, the module."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        base = _absolute('.' * node.level + (node.module or ''), package)
        for alias in node.names:
            submodule = f'{base}.{alias.name}'
            yield submodule if submodule in sources else base
    elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
        function = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, 'id', None)
        if function in ('import_module', '__import__') and isinstance(node.args[0].value, str):
            yield _absolute(node.args[0].value, package)


def _absolute(name: str, package: str) -> str:
    level = len(name) - len(name.lstrip('.'))
    if not level:
        return name
    parts = package.split('.')
    return '.'.join(parts[:len(parts) - level + 1] + [name[level:]] * bool(name[level:]))


def read_layers(text: str) -> List[str]:
    """The layers in the first fenced block below the heading "Layers": the first word of each of its lines."""
    match = re.search(rf'^{LAYERS_HEADING}$.*?^```\w*\n(.*?)^```$', text, re.DOTALL | re.MULTILINE)
    if match is None:
        raise ValueError(f'there is no fenced block below {LAYERS_HEADING!r}')
    return [line.split()[0] for line in match[1].splitlines() if line.strip()]


def layer_of(module: str, layers: List[str], package: str) -> Optional[str]:
    """The layer that a module belongs to; None for none.

    A layer is a module, or a package with all in it. The ``__init__`` of a package that is itself no layer belongs to
    the first layer in it.
    """
    name = module.removeprefix(package + '.')
    within = [layer for layer in layers if name == layer or name.startswith(layer + '.')]
    below = [layer for layer in layers if layer.startswith(name + '.')]
    return max(within, key=len) if within else below[0] if below else None


def layer_problems(found: List[Import], layers: List[str], package: str, packages: Set[str]) -> List[str]:
    """Imports that point upwards: at a later layer, at the top level of the package, at the own package's
    ``__init__`` or at something outside, such as a script."""
    rank = {layer: i for i, layer in enumerate(layers)}
    problems = []
    for module, line, target in found:
        place = f'{module}, line {line}: imports {target}'
        layer, other = (layer_of(name, layers, package) for name in (module, target))
        if module == package or module == f'{target}.__main__':
            continue  # the one re-exports from all layers, the other runs its package
        if target == package:
            problems.append(f'{place}, which only re-exports: import from the module that defines the name')
        elif target in packages and module.startswith(target + '.'):
            problems.append(f"{place}, the module's own package: import from the module that defines the name")
        elif other is None:
            problems.append(f'{place}, which is in no layer')
        elif layer is not None and rank[other] > rank[layer]:
            problems.append(f'{place}, but layer {other} comes after {layer}')
    return problems


def find_cycle(found: List[Import]) -> List[str]:
    """Modules that import each other in a circle, the first one repeated at the end; empty if there is no circle."""
    graph: Dict[str, Set[str]] = {}
    for module, _, target in found:
        graph.setdefault(module, set()).add(target)
    done: Set[str] = set()

    def search(path: List[str]) -> List[str]:
        for target in sorted(graph.get(path[-1], ())):
            if target in path:
                return path[path.index(target):] + [target]
            if target not in done:
                cycle = search([*path, target])
                if cycle:
                    return cycle
        done.add(path[-1])
        return []
    return next((cycle for cycle in (search([module]) for module in sorted(graph) if module not in done) if cycle), [])


def functions(source: str) -> List[Function]:
    """All functions and methods, nested ones too.

    The length is in lines, from ``def`` to the end: decorators and the docstring are not counted, comments and blank
    lines are. Arguments are those with a name of their own: ``*args``, ``**kwargs``, ``self`` and ``cls`` are not
    counted.
    """
    return list(_functions(ast.parse(source), in_class=False))


def _functions(tree: ast.AST, in_class: bool) -> Iterator[Function]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield Function(node.name, node.lineno, _length(node), _arguments(node, in_class))
        yield from _functions(node, isinstance(node, ast.ClassDef))


def _length(node: ast.FunctionDef) -> int:
    length = node.end_lineno - node.lineno + 1
    if ast.get_docstring(node, clean=False) is not None:
        length -= node.body[0].end_lineno - node.body[0].lineno + 1
    return length


def _arguments(node: ast.FunctionDef, in_class: bool) -> int:
    args = node.args
    names = [arg.arg for arg in (*args.posonlyargs, *args.args, *args.kwonlyargs)]
    return len(names) - (in_class and names[:1] in (['self'], ['cls']))


def size_problems(label: str, source: str, limits: Tuple[Optional[int], int, Optional[int]]) -> List[str]:
    """What is longer than `limits` allows: lines of the file, lines of a function, arguments; None sets no limit."""
    max_lines, max_function_lines, max_arguments = limits
    problems = []
    lines = len(source.splitlines())
    if max_lines is not None and lines > max_lines:
        problems.append(f'{label}: has {lines} lines, at most {max_lines} are allowed')
    for function in functions(source):
        place = f'{label}, line {function.line}: {function.name}'
        if function.length > max_function_lines:
            problems.append(f'{place} has {function.length} lines, at most {max_function_lines} are allowed')
        if max_arguments is not None and function.arguments > max_arguments:
            problems.append(f'{place} takes {function.arguments} arguments, at most {max_arguments} are allowed')
    return problems


def encoding_problems(place: str, source: str) -> List[str]:
    """The calls that read or write text without naming an encoding, so that it would be the platform's.

    It goes by the names of methods, whereas ruff's rule PLW1514 finds only calls on objects whose type it can infer.
    """
    problems = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call) or any(keyword.arg in ('encoding', None) for keyword in node.keywords):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, 'id', '')
        if name in ('read_text', 'write_text'):
            is_text = True
        elif name == 'open' and isinstance(node.func, ast.Attribute):  # ruff finds the builtin function
            modes = [arg.value for arg in node.args if isinstance(arg, ast.Constant)]
            is_module = getattr(node.func.value, 'id', '') in ('gzip', 'tarfile')
            is_text = not is_module and (not node.args or any(set(str(mode)) <= set('rwaxt+') for mode in modes))
        else:
            is_text = False
        if is_text:
            problems.append(f'{place}, line {node.lineno}: {name} names no encoding')
    return problems

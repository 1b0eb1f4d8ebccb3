"""Executes the notebooks of docs/tutorials and stores their outputs in them.

    python tools/run_tutorials.py                              # all of them, as a reader would
    python tools/run_tutorials.py own_genotype --set EPOCHS=1 --out tried

A notebook has a cell tagged ``parameters`` with its sizes. ``--set`` replaces them while it is executed; the cell
itself is not changed. Cells tagged ``skip-execution``, such as the installation, are left out. Execution counts and the
path of the working folder are removed, so that executing a notebook again changes only what it prints.

Needs pip install nbclient ipykernel.
"""
import argparse
import ast
import os
import re
import sys
import tempfile
from pathlib import Path
from typing import Any, Dict, Tuple

import nbformat
from nbclient import NotebookClient

TUTORIALS = Path(__file__).resolve().parents[1] / 'docs' / 'tutorials'


def execute(notebook: nbformat.NotebookNode, folder: Path, values: Dict[str, Any]) -> nbformat.NotebookNode:
    """Execute a notebook in a folder. Return it with its outputs, which have no execution counts and no local paths.

    Args:
        notebook: The notebook.
        folder: The working folder of its cells.
        values: New values of names that its cell tagged ``parameters`` assigns.

    Raises:
        ValueError: If that cell does not assign one of the names.
        CellExecutionError: If a cell fails, or a command in it.
    """
    cells = [cell for cell in notebook.cells if cell.cell_type == 'code']
    sources = [cell.source for cell in cells]
    for cell in cells:
        if 'parameters' in cell.metadata.get('tags', ()):
            cell.source = _replace_values(cell.source, values)
        if cell.source.startswith('!'):
            cell.source += '\nassert not _exit_code'  # without this, a notebook goes on after a command that fails
    os.environ['PYTHONWARNINGS'] = 'ignore:IProgress not found'  # of tqdm: its progress bars are not stored anyway
    os.environ['PATH'] = os.pathsep.join([str(Path(sys.executable).parent), os.environ['PATH']])
    NotebookClient(notebook, timeout=None, coalesce_streams=True, record_timing=False,
                   resources=dict(metadata=dict(path=str(folder)))).execute()
    for cell, source in zip(cells, sources):
        cell.source, cell.execution_count = source, None
        cell.outputs = [_clean(output, str(folder.resolve())) for output in cell.outputs]
    return notebook


def _replace_values(source: str, values: Dict[str, Any]) -> str:
    """Return the source of a cell with other values assigned to names."""
    for name, value in values.items():
        source, count = re.subn(
            rf'^{name} = .*$', lambda _, line=f'{name} = {value!r}': line, source, flags=re.MULTILINE)
        if count != 1:
            raise ValueError(f'{name}: is assigned {count} times in the cell tagged parameters, instead of once')
    return source


def _clean(output: nbformat.NotebookNode, folder: str) -> nbformat.NotebookNode:
    """Remove terminal escape sequences from an output, and what differs from one machine to the next."""
    if 'execution_count' in output:
        output.execution_count = None
    if 'text' in output:
        text = re.sub(r'\x1b\[[0-9;?]*[A-Za-z]', '', output.text)
        text = text.replace('\r\n', '\n').replace(f'{folder}{os.sep}', '')
        output.text = re.sub(rf'{re.escape(tempfile.gettempdir())}[/\\]tmp\w+', 'temporary', text)
    return output


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('names', nargs='*', default=sorted(path.stem for path in TUTORIALS.glob('*.ipynb')),
                        help='Names of notebooks. The default is all of them.')
    parser.add_argument('--set', action='append', default=[], metavar='NAME=VALUE', type=_parse_value,
                        help='Another value for a parameter. May be repeated.')
    parser.add_argument('--folder', type=Path, help='Working folder of the cells. The default is a temporary one.')
    parser.add_argument('--out', type=Path, default=TUTORIALS, help=(
        'Folder to which the executed notebooks are written. By default they are replaced.'))
    return parser


def _parse_value(pair: str) -> Tuple[str, Any]:
    """Read NAME=VALUE. What is not a Python literal is a string."""
    name, _, text = pair.partition('=')
    try:
        return name, ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return name, text


def main() -> None:
    args = make_parser().parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for name in args.names:
        with tempfile.TemporaryDirectory(prefix='tutorial-') as folder:
            notebook = nbformat.read(TUTORIALS / f'{name}.ipynb', as_version=4)
            nbformat.write(execute(notebook, args.folder or Path(folder), dict(args.set)), args.out / f'{name}.ipynb')
        print(f'{name}: executed')


if __name__ == '__main__':
    main()

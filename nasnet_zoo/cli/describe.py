"""The ``describe`` command."""
from pathlib import Path
from typing import Any, Dict, Optional

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..genotype.loader import load_genotype
from ..network.skeleton import depth_label
from ..network.stems import STEMS
from .common import AsJson, drop_none, exit_on_error, print_report

__all__ = ['describe']

_STEM_HELP = f"Stem of the network. {'; '.join(f'{name}: {stem.summary}' for name, stem in STEMS.items())}."


def describe(
        source: str = typer.Argument(metavar='NAME_OR_JSON', help=(
            'The name of a model or of a built-in genotype, a genotype file, a model folder, or hf-hub:OWNER/NAME.')),
        num_cells: Optional[int] = typer.Option(None, help='Number of normal cells in each stage (N in the paper).'),
        num_layers: Optional[int] = typer.Option(None, help=(
            'Number of all cells behind the stem, as DARTS counts; an alternative to --num-cells.')),
        cell_filters: Optional[int] = typer.Option(None, help=(
            'Number of filters in the cells of the first stage (F in the paper).')),
        filters: Optional[int] = typer.Option(None, help=(
            'Width of the penultimate layer, the second number in "N @ filters"; an alternative to --cell-filters.')),
        stem: Optional[str] = typer.Option(None, help=_STEM_HELP),
        img_size: Optional[int] = typer.Option(None, help=(
            "Height and width of the input in pixels. The default is the input size of the model.")),
        num_classes: Optional[int] = typer.Option(None, help='Number of classes.'),
        draw: Optional[Path] = typer.Option(None, help=(
            'Also draw both cells and write the drawing to this .svg, .png or .pdf file.')),
        as_json: AsJson = False,
) -> None:
    """Show the cells, parameters, mult-adds and feature shapes of a model or a genotype."""
    from ..description import describe as measure
    options = drop_none(
        num_cells=num_cells, num_layers=num_layers, cell_filters=cell_filters, filters=filters, stem=stem,
        num_classes=num_classes)
    with exit_on_error():
        report = measure(source, img_size, **options)
        if draw:
            from ..drawing import draw as draw_cells
            draw_cells(report['genotype'], draw)
    print_report(report, as_json, lambda report: _print_tables(source, report))
    if draw and not as_json:
        print(f'drawn: {draw}')


def _print_tables(source: str, report: Dict[str, Any]) -> None:
    """Print the report as text and tables."""
    from ..description import cell_lines
    genotype = load_genotype(report['genotype'])
    console = Console(highlight=False)
    skeleton = report['skeleton']
    console.print(f'[bold]{escape(source)}[/]: genotype {genotype.name}, {depth_label(skeleton)}, '
                  f'F = {skeleton["cell_filters"]}, {skeleton["stem"]} stem, input {_shape(report["input_size"])}')
    for kind, cell in genotype.cells.items():
        console.print(f'\n[bold]{kind} cell[/]')
        for line in cell_lines(cell):
            console.print(f'  {line}', markup=False)
    table = Table('features', 'stride', 'shape', title='Features', title_justify='left')
    for feature in report['features']:
        table.add_row(feature['module'], str(feature['reduction']), _shape(feature['shape']))
    console.print('', table)
    table = Table('part', 'kind', 'F', 'parameters', 'mult-adds', title='Cost of one image', title_justify='left')
    for cell in report['cells']:
        table.add_row(cell['name'], cell['kind'], str(cell['filters']), f'{cell["params"]:,}', f'{cell["macs"]:,}')
    table.add_row('total, with stem and head', '', '', f'{report["params"]:,}', f'{report["macs"]:,}', style='bold')
    console.print(table)


def _shape(sizes) -> str:
    return ' x '.join(map(str, sizes))

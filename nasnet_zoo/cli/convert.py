"""The command that converts weights."""
from pathlib import Path
from typing import Optional

import typer

from .common import drop_none, exit_on_error

__all__ = ['convert']


def convert(
        source: str = typer.Argument(metavar='SOURCE', help=(
            'With --model, a weight file of another package or training program, a TensorFlow checkpoint or an archive '
            'of one. With --to, a model folder or the name of a model that has weights.')),
        out: Path = typer.Option(..., help='The model folder to write, or the file with --to.'),
        model: Optional[str] = typer.Option(None, help=(
            'Write a model folder: the name of the model that the weights are for, or a genotype.')),
        to: Optional[str] = typer.Option(None, help=(
            'Write a weight file for another package, under its names: timm or cadene (pretrainedmodels). It is a '
            'safetensors file if the name of --out ends in .safetensors, and otherwise a PyTorch file.')),
        entry: Optional[str] = typer.Option(
            None, '--checkpoint-entry', help='Which weights to take if the file has several.'),
        num_cells: Optional[int] = typer.Option(None, help='Number of normal cells in each stage (N in the paper).'),
        num_layers: Optional[int] = typer.Option(None, help=(
            'Number of all cells behind the stem, as DARTS counts; an alternative to --num-cells.')),
        cell_filters: Optional[int] = typer.Option(None, help=(
            'Number of filters in the cells of the first stage (F in the paper).')),
        stem: Optional[str] = typer.Option(None, help='Stem of the network.'),
        stem_filters: Optional[int] = typer.Option(None, help='Number of filters of the stem.'),
        pool_padding: Optional[str] = typer.Option(None, help=(
            'How the package that trained the weights pads pools: tf, timm or keras. (default: tf)')),
) -> None:
    """Convert weights of another package to a model folder (--model), or the reverse (--to)."""
    from ..convert import convert_to_folder, export_weights
    network = drop_none(num_cells=num_cells, num_layers=num_layers, cell_filters=cell_filters, stem=stem,
                        stem_filters=stem_filters, pool_padding=pool_padding)
    with exit_on_error():
        if (model is None) == (to is None):
            raise ValueError('say either which model the weights are for (--model) or the package for which to write '
                             'a file (--to)')
        if model is not None:
            loaded = convert_to_folder(source, model, out, entry, **network)
            print('\n'.join(filter(None, [loaded, f'written: {out}'])))
            return
        if network or entry:
            raise ValueError('with --to, the network is that of the model folder; leave out --checkpoint-entry '
                             'and the options for its size')
        print(f'written: {out}; the network for it: {export_weights(source, to or "", out)}')

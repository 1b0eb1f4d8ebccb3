"""The ``demo`` command."""
from pathlib import Path

import typer

from ..demo import DemoSettings, run_demo
from .common import exit_on_error, exit_on_interrupt

__all__ = ['demo']


def demo(
        out: Path = typer.Option(Path('demo'), help='Folder for the files.'),
        trials: int = typer.Option(16, min=2, help='Number of children in the search.'),
        epochs: int = typer.Option(10, min=1, help='Number of epochs for which the networks are trained.'),
        seed: int = typer.Option(0, help='Seed of all random numbers.'),
) -> None:
    """Search for a cell on handwritten digits, train it, export it, and classify images.

    The winner is compared with NASNet-A and NASNet-Z. The demo needs no download and takes about two minutes on two CPU
    cores.
    """
    with exit_on_error(), exit_on_interrupt(lambda: 'run the same command to continue the search'):
        run_demo(DemoSettings(out, trials, epochs, seed))

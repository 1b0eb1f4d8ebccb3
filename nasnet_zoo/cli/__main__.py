"""Run the command as ``python -m nasnet_zoo.cli``."""
from . import app

app()

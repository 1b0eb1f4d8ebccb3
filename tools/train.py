"""Train a network: python tools/train.py nasnet_a --data digits --out run [--epochs 25 …], see --help."""
import sys

from nasnet_zoo.cli.main import app

app(['train', *sys.argv[1:]])

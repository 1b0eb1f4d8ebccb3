"""Search for a new cell: python tools/search.py --out DIR [--data digits --trials 100 …], see --help."""
import sys

from nasnet_zoo.cli.main import app

if __name__ == '__main__':  # workers import this file
    app(['search', *sys.argv[1:]])

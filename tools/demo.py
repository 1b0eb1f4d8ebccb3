"""Run the demo: python tools/demo.py [--out DIR …], the same as nasnet-zoo demo."""
import sys

from nasnet_zoo.cli.main import app

app(['demo', *sys.argv[1:]])

"""Cells, parameters, mult-adds and feature shapes: python tools/describe.py nasnet_a_mobile [--json] [--draw a.svg]"""
import sys

from nasnet_zoo.cli.main import app

app(['describe', *sys.argv[1:]])

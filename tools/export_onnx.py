"""A trained model as an ONNX file that runs without this package: python tools/export_onnx.py MODEL --out DIR"""
import sys

from nasnet_zoo.cli.main import app

app(['export', *sys.argv[1:]])

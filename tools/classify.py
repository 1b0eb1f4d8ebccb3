"""Classify images with an ONNX file: python tools/classify.py model.onnx PATH… [--json]"""
import sys

from nasnet_zoo.cli.main import app

app(['classify', *sys.argv[1:]])

"""Accuracy of a trained model on a data set: python tools/validate.py MODEL --data cifar10 [--json] [--record]"""
import sys

from nasnet_zoo.cli.main import app

app(['validate', *sys.argv[1:]])

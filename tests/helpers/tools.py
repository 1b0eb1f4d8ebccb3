"""Imports the scripts in tools/, so that tests can call their functions."""
import importlib
import sys

import pytest

from .paths import ROOT


def import_tool(name):
    """Return the module tools/NAME.py, which may import its neighbours."""
    folder = str(ROOT / 'tools')
    if sys.path[0] != folder:  # ONNX Runtime puts a folder with a module "benchmark" there
        sys.path.insert(0, folder)
    return importlib.import_module(name)


def skip_unless_all_tools_can_be_imported():
    """Skip the test if a package is missing that some of the tools import."""
    for package in 'optuna', 'onnxscript', 'nbclient':
        pytest.importorskip(package, reason='some tools need it')

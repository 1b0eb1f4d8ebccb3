"""Where things are."""
import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]  # of the checkout
TESTS = ROOT / 'tests'
DATA = Path(os.environ.get('NASNET_ZOO_DATA', ROOT.parent / 'shared' / 'data')).resolve()  # see CONTRIBUTING.md

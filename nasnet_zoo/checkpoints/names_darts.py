"""Names of DARTS's networks (quark0/darts, cnn/model.py), which its successors have kept."""
import re

from .renaming import NameTable

__all__ = ['DARTS']

_MAX_NODES = 16  # in a cell; DARTS's have four

DARTS = NameTable(
    code_bases=('DARTS',),
    # DARTS does not say which of its cells are reduction cells.
    cell=re.compile(r'(?P<before>)cells\.(?P<number>\d{1,4})(?P<kind>)\.(?P<after>(?:preprocess[01]|_ops\.\d{1,3})\..+)'),
    cell_groups={'': 'normal'},
    rules=(
        (r'^stem\.0\.', 'stem.conv.'),
        (r'^stem\.1\.', 'stem.bn.'),
        *((rf'^stem{stem}\.{layer}\.', f'stem.{ours}.') for stem, layer, ours in (
            (0, 0, 'convs.0'), (0, 1, 'norms.0'), (0, 3, 'convs.1'), (0, 4, 'norms.1'), (1, 1, 'convs.2'),
            (1, 2, 'norms.2'))),
        (r'^classifier\.', 'head.fc.'),
        (r'^auxiliary_head\.classifier\.', 'aux_head.head.fc.'),
        *((rf'^auxiliary_head\.features\.{layer}\.', f'aux_head.{ours}.') for layer, ours in (
            (2, 'conv1'), (3, 'bn1'), (5, 'conv2'), (6, 'bn2'))),
        (r'\.preprocess0\.', '.fits.1.'),
        (r'\.preprocess1\.', '.fits.0.'),
        *((rf'\._ops\.{2 * node + number}\.', f'.blocks.{node}.{side}.')
          for node in range(_MAX_NODES) for number, side in enumerate(('left', 'right'))),
        (r'\.(fits\.\d|left|right)\.conv_([12])\.', r'.\1.reduce.path_\2.'),
        (r'\.(fits\.\d|left|right)\.bn\.', r'.\1.reduce.bn.'),
        (r'\.(fits\.\d)\.op\.1\.', r'.\1.conv.'),
        (r'\.(fits\.\d)\.op\.2\.', r'.\1.bn.'),
        *((rf'\.op\.{number}\.', f'.{layer}.') for number, layer in (
            (1, 'dw1'), (2, 'pw1'), (3, 'bn1'), (5, 'dw2'), (6, 'pw2'), (7, 'bn2'))),
        *((rf'\.(left|right)\.{number}\.', rf'.\1.{layer}.') for number, layer in (
            (1, 'conv0'), (2, 'conv1'), (3, 'bn'))),
    ),
    # The layers of an operation are numbered, whatever they are.
    alternatives=((r'\.(dw|pw|bn)1\.', r'.\1.'), (r'\.dw1\.', '.conv0.'), (r'\.pw1\.', '.bn0.')),
)

"""Names of Google's own code: TF-slim's NASNet-A and PNASNet-5, and the TPU code's AmoebaNet.

The sources are nasnet.py, nasnet_utils.py and pnasnet.py (tensorflow/models, research/slim/nets/nasnet), and
models/official/amoeba_net (tensorflow/tpu). The reader writes dots instead of slashes.
"""
import re

from .renaming import NameTable

__all__ = ['TENSORFLOW']

_VARIABLES = 'weights|depthwise_weights|pointwise_weights|gamma|beta|moving_mean|moving_variance'

TENSORFLOW = NameTable(
    code_bases=("Google's code",),
    cell=re.compile(rf'(?P<before>)(?P<kind>cell_stem|cell|reduction_cell)_(?P<number>\d{{1,4}})'
                    rf'\.(?P<after>.+\.(?:{_VARIABLES}))'),
    cell_groups={'cell_stem': 'stem', 'cell': 'normal', 'reduction_cell': 'reduction'},
    rules=(
        (r'^(?:(?:stem\.)?conv0|l1_stem_3x3)\.', 'stem.conv.'),
        (r'^(?:(?:stem\.)?conv0_bn|l1_stem_bn)\.', 'stem.bn.'),
        (r'^final_layer\.FC\.', 'head.fc.'),
        (r'^aux_\d+\.aux_logits\.', 'aux_head.'),
        (r'^aux_head\.proj\.', 'aux_head.conv1.'),
        (r'^aux_head\.aux_bn0\.', 'aux_head.bn1.'),
        (r'^aux_head\.Conv\.', 'aux_head.conv2.'),
        (r'^aux_head\.aux_bn1\.', 'aux_head.bn2.'),
        (r'^aux_head\.FC\.', 'aux_head.head.fc.'),
        # How inputs are fitted, and how they are projected to the cell's output
        (r'^(cells\.\d+)\.1x1\.', r'\1.fits.0.conv.'),
        (r'^(cells\.\d+)\.beginning_bn\.', r'\1.fits.0.bn.'),
        (r'^(cells\.\d+)\.prev_1x1\.', r'\1.fits.1.conv.'),
        (r'^(cells\.\d+)\.prev_bn\.', r'\1.fits.1.bn.'),
        (r'^(cells\.\d+)\.(path\d_conv|final_path_bn)\.', r'\1.fits.1.\2.'),
        (r'\.cell_output\.reduction_(\d+)\.', r'.outputs.0.projections.#\1.'),
        (r'\.path_(conv|bn)\.', r'.\1.'),
        (r'\.path([12])_conv\.', r'.reduce.path_\1.'),
        (r'\.final_path_bn\.', '.reduce.bn.'),
        # Operations
        (r'\.comb_iter_(\d+)\.(left|right)\.', r'.blocks.\1.\2.'),
        (r'\.separable_\dx\d_(\d)\.depthwise_weights$', r'.dw\1.weight'),
        (r'\.separable_\dx\d_(\d)\.pointwise_weights$', r'.pw\1.weight'),
        (r'\.bn_sep_\dx\d_(\d)\.', r'.bn\1.'),
        (r'\.pre_1x1\.', '.conv#0.'),
        (r'\.pre_bn\.', '.bn#0.'),
        (r'\.(?:1x3|1x7|3x3)\.', '.conv#1.'),
        (r'\.(?:bn_1x3_3x1|bn_1x7_7x1)\.', '.bn#1.'),
        (r'\.(?:3x1|7x1)\.', '.conv#2.'),
        (r'(\.blocks\.\d+\.\w+)\.bn\.', r'\1.bn#2.'),
        (r'\.post_1x1\.', '.conv#3.'),
        (r'\.post_bn\.', '.bn#3.'),
        (r'\.1x1\.', '.conv.'),
        (r'\.bn_1\.', '.bn.'),
        # Variables
        (r'\.(?:weights|gamma)$', '.weight'),
        (r'\.(?:biases|beta)$', '.bias'),
        (r'\.moving_mean$', '.running_mean'),
        (r'\.moving_variance$', '.running_var'),
    ),
    # The layers of a 1x1 convolution have the names of those that change the shape of an identity or behind a pool.
    alternatives=((r'(\.blocks\.\d+\.\w+\.(?:conv|bn))\.', r'\g<1>0.'),),
)

"""Names of the PyTorch ports: timm's ``nasnetalarge`` and ``pnasnet5large``, and Cadene's ``pretrainedmodels``."""
import re

from .renaming import NameTable

__all__ = ['TORCH']

TORCH = NameTable(
    code_bases=('timm', 'pretrainedmodels'),
    cell=re.compile(r'(?P<before>)(?P<kind>cell_stem|cell|reduction_cell)_(?P<number>\d{1,4})\.(?P<after>.+)'),
    cell_groups={'cell_stem': 'stem', 'cell': 'normal', 'reduction_cell': 'reduction'},
    rules=(
        (r'^conv_?0\.', 'stem.'),
        (r'^last_linear\.', 'head.fc.'),
        (r'\.conv_1x1\.', '.fits.0.'),
        (r'\.(?:conv_prev_1x1\.)?path_([12])\.conv\.', r'.fits.1.reduce.path_\1.'),
        (r'\.(?:conv_prev_1x1\.)?final_path_bn\.', '.fits.1.reduce.bn.'),
        (r'\.conv_prev_1x1\.', '.fits.1.'),
        (r'\.comb_iter_(\d)_(left|right)\.', r'.blocks.\1.\2.'),
        (r'\.separable_([12])\.depthwise_conv2d\.', r'.dw\1.'),
        (r'\.separable_([12])\.pointwise_conv2d\.', r'.pw\1.'),
        (r'\.bn_sep_([12])\.', r'.bn\1.'),
    ),
)

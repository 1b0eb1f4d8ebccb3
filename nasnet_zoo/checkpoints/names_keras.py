"""Names of ``keras.applications.nasnet`` (keras/src/applications/nasnet.py). The reader joins layer and variable."""
import re

from .renaming import NameTable

__all__ = ['KERAS']

KERAS = NameTable(
    code_bases=('Keras',),
    cell=re.compile(r'(?P<before>[^.]+?)_(?:(?P<kind>stem|reduce)_)?(?P<number>\d{1,4})(?P<after>\.\w+)'),
    cell_groups={'stem': 'stem', '': 'normal', 'reduce': 'reduction'},
    rules=(
        (r'^stem_(conv|bn)1\.', r'stem.\1.'),
        (r'^predictions\.', 'head.fc.'),
        (r'\.(?:normal|reduction)_(conv|bn)_1\.', r'.fits.0.\1.'),
        (r'\.adjust_conv_([12])\.', r'.fits.1.reduce.path_\1.'),
        (r'\.adjust_conv_projection\.', '.fits.1.conv.'),
        (r'\.adjust_bn\.', '.fits.1.bn.'),
        (r'_reduction_left4\.', '_reduction_left5.'),  # a misnomer: the fourth block has pools only, this is the fifth
        *((rf'\.separable_conv_([12])_bn_(?:normal|reduction)_(left|right){block + 1}\.', rf'.blocks.{block}.\2.bn\1.')
          for block in range(5)),
        *((rf'\.separable_conv_([12])_(?:normal|reduction)_(left|right){block + 1}\.', rf'.blocks.{block}.\2.sep\1.')
          for block in range(5)),
        (r'\.sep([12])\.depthwise_kernel$', r'.dw\1.weight'),
        (r'\.sep([12])\.pointwise_kernel$', r'.pw\1.weight'),
        (r'\.(?:kernel|gamma)$', '.weight'),
        (r'\.beta$', '.bias'),
        (r'\.moving_mean$', '.running_mean'),
        (r'\.moving_variance$', '.running_var'),
    ),
    # The batch norm behind a projection and the one behind a factorized reduction have the same name.
    alternatives=((r'\.fits\.1\.bn\.', '.fits.1.reduce.bn.'),),
)

"""A space around NASNet-A, and variants of NASNet-A to start a search with: python space.py FOLDER

The space is that of the paper, with separable convolutions and 3x3 pools only, and without concatenation in blocks:
--space space.py:space. The variants differ from NASNet-A in two to five decisions: --warm-start FOLDER/variant_00.json
"""
import random
import sys
from pathlib import Path

from nasnet_zoo import load_genotype
from nasnet_zoo.search import nasnet_space

OPS = ('identity', 'avg_pool_3x3', 'max_pool_3x3', 'sep_conv_3x3', 'sep_conv_5x5', 'sep_conv_7x7', 'dil_sep_conv_3x3',
       'dil_sep_conv_5x5')


def space(blocks=5, ops=OPS):
    return nasnet_space(blocks, ops, combines=('add',))


def write_variants(folder, count=18):
    cells, rng = space(), random.Random(0)
    nasnet_a = cells.find(load_genotype('nasnet_a'))
    cells.genotype(nasnet_a, 'nasnet_a_in_space').save(folder / 'nasnet_a.json')
    for i in range(count):
        tokens = list(nasnet_a)
        for k in rng.sample(range(len(tokens)), rng.choice([2, 3, 4, 5])):
            tokens[k] = rng.choice([option for option in range(cells.sizes[k]) if option != tokens[k]])
        cells.genotype(tokens, f'variant_{i}').save(folder / f'variant_{i:02d}.json')


if __name__ == '__main__':
    target = Path(sys.argv[1])
    target.mkdir(parents=True, exist_ok=True)
    write_variants(target)

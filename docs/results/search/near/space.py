"""A space around NASNet-A, and cells of it to start a search with, as files in a folder.

    python space.py variants FOLDER             NASNet-A, and cells that differ from it in two to five decisions
    python space.py children FOLDER NUMBER…     children of the search, from children.json
    python space.py changed FOLDER              child 43 with the changes that third.json lists

The space is that of the paper, with the identity, 3x3 pools and separable convolutions (also dilated) as the only
operations, and without concatenation in blocks: --space space.py:space.
"""
import json
import random
import sys
from pathlib import Path

from nasnet_zoo import load_genotype
from nasnet_zoo.search import nasnet_space

HERE = Path(__file__).parent
OPS = ('identity', 'avg_pool_3x3', 'max_pool_3x3', 'sep_conv_3x3', 'sep_conv_5x5', 'sep_conv_7x7', 'dil_sep_conv_3x3',
       'dil_sep_conv_5x5')


def space(blocks=5, ops=OPS):
    return nasnet_space(blocks, ops, combines=('add',))


def variants(count=18):
    cells, rng = space(), random.Random(0)
    nasnet_a = cells.find(load_genotype('nasnet_a'))
    yield 'nasnet_a', nasnet_a
    for i in range(count):
        tokens = list(nasnet_a)
        for k in rng.sample(range(len(tokens)), rng.choice([2, 3, 4, 5])):
            tokens[k] = rng.choice([option for option in range(cells.sizes[k]) if option != tokens[k]])
        yield f'variant_{i:02d}', tokens


def children(*numbers):
    for row in json.loads((HERE / 'children.json').read_text(encoding='utf-8')):
        if str(row['number']) in numbers:
            yield f'near_{row["number"]}', row['tokens']


def changed():
    cells, rows = space(), json.loads((HERE / 'third.json').read_text(encoding='utf-8'))
    child_43 = cells.choices(cells.find(load_genotype(HERE / 'near_43.json')))
    for row in rows:
        if 'changes' in row:
            yield row['cell'], cells.tokens({**child_43, **row['changes']})


if __name__ == '__main__':
    kind, folder, *rest = sys.argv[1:]
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    for name, chosen in dict(variants=variants, children=children, changed=changed)[kind](*rest):
        space().genotype(chosen, name).save(target / f'{name}.json')

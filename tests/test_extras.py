"""The table of optional dependencies."""
import re
import tomllib

from helpers.paths import ROOT
from nasnet_zoo.extras import EXTRAS

DECLARED = tomllib.loads((ROOT / 'pyproject.toml').read_text(encoding='utf-8'))['project']['optional-dependencies']


def packages(extra):
    """The names of the packages of an extra, those of the extras in it included."""
    names = set()
    for requirement in DECLARED[extra]:
        name, inner = re.match(r'([\w.-]+)(?:\[([\w,-]+)\])?', requirement).groups()
        names |= set().union(*map(packages, inner.split(','))) if name == 'nasnet-zoo' else {name}
    return names


def test_the_table_says_what_pyproject_says():
    assert {extra: set(names) for extra, names in EXTRAS.items()} == {extra: packages(extra) for extra in EXTRAS}


def test_messages_name_extras_that_exist():
    for path in [*(ROOT / 'nasnet_zoo').rglob('*.py'), *(ROOT / 'docs').glob('*.md'), ROOT / 'README.md']:
        for extras in re.findall(r'(?:nasnet-zoo|-e \.)\[([\w,-]+)\]', path.read_text(encoding='utf-8')):
            assert set(extras.split(',')) <= DECLARED.keys(), path

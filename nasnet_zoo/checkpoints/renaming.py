"""Translates another code base's tensor names to ours by a table."""
import re
from typing import Collection, Dict, Iterable, List, Mapping, NamedTuple, Sequence, Set, Tuple

from ..network.plan import CellPlan

__all__ = ['NameTable', 'rename']

Rule = Tuple[str, str]  # a regular expression and its replacement


class NameTable(NamedTuple):
    """How a code base names its tensors.

    Attributes:
        code_bases: Who uses these names, for error messages.
        cell: A regular expression for the names of tensors in cells, with the groups ``before`` (which may be empty),
            ``kind``, ``number`` and ``after``.
        cell_groups: For each ``kind``, the cells that it stands for: ``stem``, ``normal`` or ``reduction``. Within a
            group, numbers grow from the stem to the classifier.
        rules: Substitutions, applied in this order. Tensors in cells enter as ``cells.POSITION.BEFORE AFTER`` (without
            a space), others by their full name. In the result, ``#NUMBER`` stands for one of the numbers that our
            names have at this place. Both are matched in ascending order.
        alternatives: Substitutions that are tried on a translated name that the network does not have. They are for
            layers that have one name there and several names here.
    """
    code_bases: Tuple[str, ...]
    cell: 're.Pattern[str]'
    cell_groups: Mapping[str, str]
    rules: Tuple[Rule, ...]
    alternatives: Tuple[Rule, ...] = ()

    def recognizes(self, names: Iterable[str]) -> bool:
        """Whether any of the names is that of a tensor in a cell."""
        return any(self.cell.fullmatch(name) for name in names)


def rename(
        table: NameTable, names: Collection[str], our_names: Collection[str], cells: Sequence[CellPlan],
) -> Dict[str, str]:
    """Translate names.

    Args:
        table: The table of the code base that the names are from.
        names: The names to translate.
        our_names: The tensor names of the network that the tensors are for.
        cells: The planned cells of that network.

    Returns:
        Our name for each of `names`. A name that no rule knows stays as it is.
    """
    positions = find_cell_positions(table, names, cells)
    renamed = _apply_rules(table, names, positions)
    renamed = dict(zip(renamed, _match_numbers(renamed.values(), our_names)))
    for name, ours in renamed.items():
        candidates = [re.sub(pattern, replacement, ours) for pattern, replacement in table.alternatives]
        renamed[name] = next((name for name in [ours, *candidates] if name in our_names), ours)
    return renamed


def _apply_rules(table: NameTable, names: Iterable[str], positions: Mapping[str, int]) -> Dict[str, str]:
    """Return what the rules make of each name."""
    renamed = {}
    for name in names:
        ours = name
        match = table.cell.fullmatch(name)
        if match:
            ours = f'cells.{positions[name]}.{match["before"]}{match["after"]}'
        for pattern, replacement in table.rules:
            ours = re.sub(pattern, replacement, ours)
        renamed[name] = ours
    return renamed


def _match_numbers(names: Collection[str], our_names: Iterable[str]) -> List[str]:
    """Return names with our numbers for ``#NUMBER``, see `NameTable`. Numbers beyond ours stay as they are."""
    theirs: Dict[str, Set[int]] = {}
    for name in names:
        for before, number in re.findall(r'(.*)#(\d+)', name):
            theirs.setdefault(before, set()).add(int(number))
    ours: Dict[str, Set[int]] = {before: set() for before in theirs}
    for name in our_names:
        for match in re.finditer(r'\d+', name):
            if name[:match.start()] in ours:
                ours[name[:match.start()]].add(int(match[0]))
    matched = {f'{before}#{number}': f'{before}{our_number}' for before in theirs
               for number, our_number in zip(sorted(theirs[before]), sorted(ours[before]))}
    return [re.sub(r'.*#\d+', lambda match: matched.get(match[0], match[0]), name) for name in names]


def find_cell_positions(table: NameTable, names: Iterable[str], cells: Sequence[CellPlan]) -> Dict[str, int]:
    """For each name of a tensor in a cell, the index of that cell in our network.

    The numbers of a group need not be consecutive: Cadene's mobile network counts its four normal cells in a stage as
    if there were six. A code base that has no name for reduction cells counts them among the normal ones, as for
    PNASNet-5.

    Raises:
        ValueError: If the network has another number of cells of a group.
    """
    found: Dict[str, Tuple[str, int]] = {}
    for name in names:
        match = table.cell.fullmatch(name)
        if match:
            found[name] = table.cell_groups[match['kind'] or ''], int(match['number'])
    groups = {group for group, _ in found.values()}
    indices: Dict[Tuple[str, int], int] = {}
    for group in sorted(groups):
        ours = [i for i, cell in enumerate(cells) if _group(cell, groups) == group]
        theirs = sorted({number for other, number in found.values() if other == group})
        if len(theirs) != len(ours):
            raise ValueError(f'these are not the weights of this model\n  they have {len(theirs)} {group} cells, the '
                             f'model has {len(ours)}: create the model with the same stem and number of cells')
        indices.update(((group, number), index) for number, index in zip(theirs, ours))
    return {name: indices[key] for name, key in found.items()}


def _group(cell: CellPlan, groups: Set[str]) -> str:
    group = 'stem' if cell.in_stem else cell.kind
    return group if group in groups else 'normal'

"""Translates another code base's tensor names to ours by a table."""
import re
from typing import Collection, Dict, Iterable, List, Mapping, NamedTuple, Tuple

__all__ = ['NameTable', 'rename']

Rule = Tuple[str, str]  # a regular expression and its replacement


class NameTable(NamedTuple):
    """How a code base names its tensors.

    Attributes:
        code_bases: Who uses these names, for error messages.
        cell: A regular expression for the names of tensors in cells, with the groups ``before`` (which may be empty),
            ``kind``, ``number`` and ``after``.
        cell_order: For each kind of cell (a, b): sorting cells by a · number + b puts them in the order from the stem
            to the classifier.
        rules: Substitutions, applied in this order. Tensors in cells enter as ``cells.POSITION.BEFORE AFTER`` (without
            a space), others by their full name.
        alternatives: Substitutions that are tried on a translated name that the network does not have. They are for
            layers that have one name there and several names here.
    """
    code_bases: Tuple[str, ...]
    cell: 're.Pattern[str]'
    cell_order: Mapping[str, Tuple[float, float]]
    rules: Tuple[Rule, ...]
    alternatives: Tuple[Rule, ...] = ()

    def recognizes(self, names: Iterable[str]) -> bool:
        """Whether any of the names is that of a tensor in a cell."""
        return any(self.cell.fullmatch(name) for name in names)


def rename(table: NameTable, names: Collection[str], our_names: Collection[str]) -> Dict[str, str]:
    """Translate names.

    Args:
        table: The table of the code base that the names are from.
        names: The names to translate.
        our_names: The tensor names of the network that the tensors are for.

    Returns:
        Our name for each of `names`. A name that no rule knows stays as it is.
    """
    positions = find_cell_positions(table, names)
    renamed = {}
    for name in names:
        ours = name
        match = table.cell.fullmatch(name)
        if match:
            ours = f'cells.{positions[name]}.{match["before"]}{match["after"]}'
        for pattern, replacement in table.rules:
            ours = re.sub(pattern, replacement, ours)
        candidates = [re.sub(pattern, replacement, ours) for pattern, replacement in table.alternatives]
        renamed[name] = next((name for name in [ours, *candidates] if name in our_names), ours)
    return renamed


def find_cell_positions(table: NameTable, names: Iterable[str]) -> Dict[str, int]:
    """For each name of a tensor in a cell, the index of that cell in our network.

    It is the rank of the cell among those that the names mention: our networks and all known code bases leave out the
    same cells, those whose outputs nothing reads.
    """
    sort_keys: Dict[str, float] = {}
    for name in names:
        match = table.cell.fullmatch(name)
        if match:
            a, b = table.cell_order[match['kind'] or '']
            sort_keys[name] = a * int(match['number']) + b
    ranks: List[float] = sorted(set(sort_keys.values()))
    positions = {key: rank for rank, key in enumerate(ranks)}
    return {name: positions[key] for name, key in sort_keys.items()}

"""Finds the weights of a network among the entries of a checkpoint.

There is no list of containers and prefixes. The weights are where the network's tensor names appear, whatever comes
before them: ``state_dict.``, ``model.module.`` or ``state_dict.student.``.
"""
import re
from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Optional, Tuple

import torch

from ..checked import join_first

__all__ = ['Entry', 'find_entry']

_AVERAGED = re.compile(r'(?<![a-z])(ema|swa|avg|averaged?|averaging|polyak|shadow|exponentialmovingaverage)(?![a-z])')
_TIMM_ORDER = ('state_dict_ema', 'model_ema', 'state_dict', 'model')  # what timm.models.load_state_dict prefers
_MAX_SHOWN = 5  # entries in a message


class Entry(NamedTuple):
    """The weights of a network in a checkpoint.

    Attributes:
        place: The part of the names that all tensors of the network share, such as ``'state_dict.module'``; empty if
            the names are the network's own.
        values: The tensors, and other values, by the rest of their names.
        others: Places of other weights of the network, such as those that are not averaged.
        unused: Other entries with tensors, such as ``'optimizer'`` and ``'state_dict.criterion'``.
    """
    place: str
    values: Dict[str, Any]
    others: Tuple[str, ...] = ()
    unused: Tuple[str, ...] = ()

    @property
    def is_averaged(self) -> bool:
        """Whether the name of the place says that these are averaged weights."""
        return _is_averaged(self.place)

    def describe(self) -> str:
        """Return what was used and what was not, in words; empty if there was no choice."""
        parts = []
        if self.place:
            parts.append(f'loaded {self.place}' + (', which are averaged weights' if self.is_averaged else ''))
        if self.others:
            parts.append(f'other weights of this network: {_join(self.others)}')
        if self.unused:
            parts.append(f'ignored: {_join(self.unused)}')
        return '; '.join(parts)


def find_entry(leaves: Mapping[str, Any], is_known: Callable[[str], bool], wanted: Optional[str] = None) -> Entry:
    """Find the weights of a network.

    If there are several sets of weights, the averaged ones are taken, as in timm, and otherwise those that timm would
    take.

    Args:
        leaves: A flattened checkpoint.
        is_known: Whether a name is that of a tensor of the network.
        wanted: The place of the weights, or the beginning of it, to take these instead.

    Raises:
        ValueError: If the checkpoint has several sets of weights, none of which is preferred, or no `wanted` weights.
    """
    tensors = [name for name, value in leaves.items() if isinstance(value, torch.Tensor)]
    counts: Dict[str, int] = {}
    for name in tensors:
        for begin in (0, *(match.end() for match in re.finditer(r'\.', name))):
            if is_known(name[begin:]):
                counts[name[:begin]] = counts.get(name[:begin], 0) + 1
    if wanted:
        counts = {prefix: count for prefix, count in counts.items() if prefix.startswith(f'{wanted}.')}
        if not counts:
            raise ValueError(f'it has no weights of this network under {wanted!r}; its entries are '
                             f'{_join(_group(tensors, []))}')
    most = max(counts.values(), default=0)
    places = [prefix for prefix, count in counts.items() if count == most]
    if not places:
        return Entry('', {name: leaves[name] for name in tensors})
    chosen = _prefer(places)
    values = {name.removeprefix(chosen): value for name, value in leaves.items() if name.startswith(chosen)}
    rest = [name for name in tensors if not name.startswith(tuple(places))]
    others = tuple(place.rstrip('.') for place in places if place != chosen)
    return Entry(chosen.rstrip('.'), values, others, tuple(_group(rest, places)))


def _is_averaged(place: str) -> bool:
    # Lightning's callbacks keep averages whose batch norm statistics are not those of the averaged weights.
    return bool(_AVERAGED.search(place.lower())) and not place.startswith('callbacks.')


def _prefer(places: List[str]) -> str:
    """Return the one of several sets of weights that is taken."""
    averaged = [place for place in places if _is_averaged(place)] or places
    for first in _TIMM_ORDER:
        averaged = [place for place in averaged if place.split('.')[0] == first] or averaged
    if len(averaged) > 1:
        raise ValueError(f'it has several sets of weights of this network: {_join(averaged)}; say which one to load '
                         f"with entry={averaged[0].rstrip('.')!r} or, on the command line, --checkpoint-entry")
    return averaged[0]


def _group(names: List[str], places: List[str]) -> List[str]:
    """Return names without what comes after the first part in which they differ from all of `places`."""
    def shared(name: str, place: str) -> int:
        return next((i for i, (ours, theirs) in enumerate(zip(name.split('.'), place.split('.'))) if ours != theirs), 0)
    return list(dict.fromkeys('.'.join(
        name.split('.')[:max((shared(name, place) for place in places), default=0) + 1]) for name in names))


def _join(names: Any) -> str:
    return join_first([name.rstrip('.') for name in names], _MAX_SHOWN)

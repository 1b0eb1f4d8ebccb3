"""Presets of whole searches: values for the settings of :class:`~nasnet_zoo.search.config.SearchConfig`."""
from typing import Any, Dict, Mapping, NamedTuple

__all__ = ['SEARCH_PRESETS', 'Preset']


class Preset(NamedTuple):
    """The settings of a whole search.

    Attributes:
        description: One line for help texts.
        settings: Values for fields of ``SearchConfig``; those of ``child`` and ``child.recipe`` are nested. Settings
            that are not here keep their defaults.
    """
    description: str
    settings: Mapping[str, Any]


SEARCH_PRESETS: Dict[str, Preset] = {
    'laptop': Preset('150 cheap children of equal cost on two CPU cores', dict(
        trials=150, workers=2, top=5, final_epochs=10, protocol='quick',
        child=dict(match='params', match_below=True))),
    'gpu': Preset('300 children of N = 2 and F = 16 on one or more GPUs, four at a time', dict(
        trials=300, workers=4, top=10, final_epochs=60, protocol='paper',
        child=dict(match='params', match_below=True, num_cells=2, cell_filters=16, recipe=dict(
            epochs=20, batch_size=128, opt='nmuon', lr=0.01, momentum=0.95, weight_decay=0.02, pad_mode='edge',
            bf16=True)))),
    'cluster': Preset("1,000 children of the paper's size on a Ray cluster, with a GPU each", dict(
        ray='auto', gpus_per_child=1., trials=1000, top=20, final_epochs=100, protocol='paper',
        child=dict(match='params', match_below=True, num_cells=2, cell_filters=32, recipe=dict(
            epochs=20, batch_size=128, lr=0.05, bf16=True)))),
}


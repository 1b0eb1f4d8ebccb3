"""Presets of whole searches."""
import json

import pytest

from nasnet_zoo.search.config import ChildRecipe, ChildSettings, SearchConfig
from nasnet_zoo.search.folder import study_settings, upgrade_settings
from nasnet_zoo.search.presets import SEARCH_PRESETS
from nasnet_zoo.search.protocols import merge_settings
from nasnet_zoo.search.space import nasnet_space

ANY = pytest.mark.parametrize('preset', SEARCH_PRESETS)


@ANY
def test_settings_of_a_preset_are_those_of_a_search(preset):
    config = SearchConfig(out='x', preset=preset)
    stored = json.loads(config.model_dump_json())
    assert merge_settings(stored, SEARCH_PRESETS[preset].settings) == stored
    assert config != SearchConfig(out='x').model_copy(update=dict(preset=preset)), 'it changes something'


@ANY
def test_what_is_given_counts(preset):
    given = dict(trials=7, child=dict(cell_filters=5, recipe=dict(epochs=2)))
    config = SearchConfig(out='x', preset=preset, **given)
    assert (config.trials, config.child.cell_filters, config.child.recipe.epochs) == (7, 5, 2)
    assert config.child.recipe.batch_size == SearchConfig(out='x', preset=preset).child.recipe.batch_size
    models = dict(given, child=ChildSettings(cell_filters=5, recipe=ChildRecipe(epochs=2)))
    assert SearchConfig(out='x', preset=preset, **models) == config


def test_a_default_can_be_given():
    default = SearchConfig(out='x').trials
    assert SearchConfig(out='x', preset='laptop').trials != default
    assert SearchConfig(out='x', preset='laptop', trials=default).trials == default


def test_a_search_can_be_resumed_with_or_without_its_preset():
    """What is compared are the values. Earlier versions stored another setting as "preset"."""
    named = SearchConfig(out='x', preset='laptop')
    spelt_out = SearchConfig(out='x', **SEARCH_PRESETS['laptop'].settings)
    settings = [study_settings(config, nasnet_space()) for config in (named, spelt_out)]
    assert settings[0] == settings[1] == upgrade_settings(settings[0]) and 'preset' not in named.stored()


@pytest.mark.parametrize('preset', ['laptops', 5])
def test_unknown_presets(preset):
    with pytest.raises(ValueError, match='^preset: '):
        SearchConfig(out='x', preset=preset)

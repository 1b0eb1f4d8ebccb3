"""Protocols and rewards of children."""
import math

import pytest

from nasnet_zoo.search.config import ChildSettings, SearchConfig
from nasnet_zoo.search.protocols import PROTOCOLS, REWARDS, Measured, default_protocol, merge_settings

CIFAR = 32, 50_000  # side and number of the images


@pytest.mark.parametrize('name', PROTOCOLS)
def test_a_protocol_is_valid_settings(name):
    child = SearchConfig(out='x', protocol=name).with_protocol(False, *CIFAR).child
    assert child == ChildSettings(**PROTOCOLS[name].child)
    assert child.recipe.seed == 0, 'the seed is the user\'s'


def test_the_paper_is_the_default_child():
    assert ChildSettings(**PROTOCOLS['paper'].child) == ChildSettings()


def test_the_default_depends_on_the_device():
    config = SearchConfig(out='x')
    assert config.with_protocol(False, *CIFAR).protocol == default_protocol(False) == 'quick'
    assert config.with_protocol(True, *CIFAR).protocol == default_protocol(True) == 'paper'
    assert config.with_protocol(True, *CIFAR).child == ChildSettings()


def test_a_small_data_set_is_neither_enlarged_nor_seen_less_often():
    quick = PROTOCOLS['quick'].child
    digits = SearchConfig(out='x', protocol='quick').with_protocol(False, 8, 1347).child
    assert digits.img_size is None and quick['img_size'] == 16
    seen = digits.recipe.epochs * 1212
    assert abs(seen - quick['limit_train'] * quick['recipe']['epochs']) < 1212
    assert PROTOCOLS['paper'].settings(8, 1212) == {}
    assert (digits.recipe.batch_size, PROTOCOLS['quick'].settings(8, 27)['recipe']['batch_size']) == (128, 27)


def test_options_override_the_protocol():
    quick = ChildSettings(**PROTOCOLS['quick'].child)
    given = ChildSettings(num_cells=2, recipe=dict(epochs=20, seed=7))  # 2 and 20 are the paper's, but they are given
    child = SearchConfig(out='x', protocol='quick', child=given).with_protocol(False, *CIFAR).child
    assert (child.num_cells, child.recipe.epochs, child.recipe.seed) == (2, 20, 7)
    assert child.reward == quick.reward and child.recipe.opt == quick.recipe.opt


def test_settings_are_merged_without_changing_them():
    defaults, settings = dict(a=1, inner=dict(b=2, c=3)), dict(inner=dict(c=4), d=5)
    assert merge_settings(defaults, settings) == dict(a=1, inner=dict(b=2, c=4), d=5)
    assert defaults == dict(a=1, inner=dict(b=2, c=3)) and settings == dict(inner=dict(c=4), d=5)


def test_rewards():
    child = Measured(accuracy=0.5, loss=math.log(4), train_losses=[math.log(8)] * 5 + [math.log(2)])
    values = {name: reward.function(child) for name, reward in REWARDS.items()}
    assert values == dict(accuracy=0.5, val_loss=pytest.approx(1 / 4), train_loss=pytest.approx(1 / 4),
                          train_losses=pytest.approx(2 ** (-16 / 6)))
    better = Measured(0.6, 1., [1.] * 6)
    assert all(reward.function(better) > values[name] for name, reward in REWARDS.items())

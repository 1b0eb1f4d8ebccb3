"""Settings of a training run, and the options made of them."""
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from nasnet_zoo.cli.main import app
from nasnet_zoo.data.datasets import DATA_SETS
from nasnet_zoo.training import run as runs
from nasnet_zoo.training.config import TrainConfig
from nasnet_zoo.training.recipe import Recipe


def test_defaults():
    config = TrainConfig(source='nasnet_a', out='run')
    assert config.out == Path('run') and config.recipe == Recipe() and config.data == 'digits'
    assert config.network_args == dict(drop_rate=0., drop_path_rate=0.4, aux_head=True)


def test_json():
    config = TrainConfig(source='nasnet_a', out='run', stem='cifar', recipe=Recipe(sizes=((0, 16), (3, 32))))
    assert TrainConfig(**json.loads(config.model_dump_json())) == config


@pytest.mark.parametrize('fields, message', [
    (dict(val_share=1.), 'val_share: input should be less than 1, not 1.0'),
    (dict(num_cells='4'), "num_cells: input should be a valid integer, not '4'"),
    (dict(recipe=dict(lr=0.)), r'recipe\.lr: input should be greater than 0, not 0\.0'),
    (dict(recipe=dict(opt='momentun')), r"recipe\.opt: unknown optimiser 'momentun'; did you mean 'momentum'\?"),
    (dict(workers=-1), 'workers: '),
])
def test_what_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        TrainConfig(**fields, source='nasnet_a', out='run')


def test_a_recipe_says_which_field_is_wrong():
    with pytest.raises(ValueError, match='^epochs: input should be greater than or equal to 1, not 0 of type int$'):
        Recipe(epochs=0)
    assert Recipe(opt='lookahead_AdamW').opt == 'lookahead_AdamW'


def test_the_command_hands_its_options_on(monkeypatch, tmp_path):
    seen = []
    monkeypatch.setattr(runs, 'run_training', lambda config, **kwargs: seen.append(config))
    options = ['--data', 'cifar10', '--out', str(tmp_path), '--resume', '--val-share', '0.1', '--data-root', 'there',
               '--download', '--img-size', '32', '--num-cells', '2', '--cell-filters', '8', '--stem', 'cifar',
               '--bn-momentum', '0.2', '--drop-path-rate', '0.2', '--no-aux-head', '--pretrained', '--device', 'cpu',
               '--workers', '0',
               '--sizes', '0:16,10:32', '--no-flip', '--opt', 'nmuon', '--epochs', '3', '--bf16']
    result = CliRunner().invoke(app, ['train', 'nasnet_b', *options])
    assert result.exit_code == 0, result.output
    assert seen == [TrainConfig(
        source='nasnet_b', data='cifar10', out=tmp_path, resume=True, val_share=0.1, data_root='there', download=True,
        img_size=32, num_cells=2, cell_filters=8, stem='cifar', bn_momentum=0.2, drop_path_rate=0.2, aux_head=False,
        pretrained=True, device='cpu', workers=0,
        recipe=Recipe(sizes=((0, 16), (10, 32)), flip=False, opt='nmuon', epochs=3, bf16=True))]


def test_new_data_sets_appear_in_the_help():
    for command in ('train', 'validate'):
        text = CliRunner().invoke(app, [command, '--help'], env=dict(COLUMNS='200')).output
        assert all(name in text for name in DATA_SETS)

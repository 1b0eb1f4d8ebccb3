"""Published recipes, and how they and the options of the command make the settings of a run."""
import json

import pytest
import torch
from typer.testing import CliRunner

from nasnet_zoo import Recipe, compile_genotype, load_genotype
from nasnet_zoo.cli.main import app
from nasnet_zoo.data.datasets import ImageSet
from nasnet_zoo.training import run as runs
from nasnet_zoo.training.config import TrainConfig
from nasnet_zoo.training.recipes import RECIPES
from nasnet_zoo.training.trainer import Trainer


def config(source='nasnet_a', **fields):
    return TrainConfig(source=source, out='run', **fields)


@pytest.mark.parametrize('name', RECIPES)
def test_each_recipe(name):
    assert config(recipe_name=name).recipe == Recipe(**RECIPES[name].recipe)
    assert RECIPES[name].source and RECIPES[name].description
    for pattern, values in RECIPES[name].variants.items():
        changed = config(pattern.replace('*', 'a'), recipe_name=name).model_dump()
        assert {**changed, **changed['recipe']}.items() >= values.items()


def test_the_paper_is_the_default():
    assert config() == config(recipe_name='cifar') and config().recipe == Recipe()
    assert config().network_args == dict(drop_rate=0., drop_path_rate=0.4, aux_head=True)


@pytest.mark.parametrize('source, drop_path_rate, lr', [
    ('nasnet_a_mobile', 0., 2.), ('nasnet_a_large.tf_in1k', 0.3, 1.5), ('pnasnet5_large', 0.4, 1.5),
    ('pnasnet5_mobile', 0., 2.), ('amoebanet_a_mobile', 0.3, 2.), ('cells.json', 0., 2.)])
def test_imagenet_of_a_variant(source, drop_path_rate, lr):
    found = config(source, recipe_name='imagenet')
    assert (found.drop_path_rate, found.recipe.lr, found.drop_rate) == (drop_path_rate, lr, 0.5)


def test_what_is_given_comes_first(monkeypatch):
    seen = []
    monkeypatch.setattr(runs, 'run_training', lambda config, **kwargs: seen.append(config))
    options = ['--recipe', 'darts', '--epochs', '3', '--lr', '0.025', '--cutout', '8', '--drop-path-rate', '0.1',
               '--no-aux-head', '--out', 'run']
    result = CliRunner().invoke(app, ['train', 'nasnet_a', *options])
    assert result.exit_code == 0, result.output
    changed = dict(epochs=3, lr=0.025, cutout=8)
    assert seen == [config(recipe_name='darts', drop_path_rate=0.1, aux_head=False, recipe=changed)]
    assert seen[0].recipe == Recipe(batch_size=96, weight_decay=3e-4, warmup_epochs=0., **changed)
    assert config(**json.loads(seen[0].model_dump_json(exclude={'source', 'out'}))) == seen[0]


def test_a_recipe_as_an_object():
    class Short(Recipe):
        epochs: int = 5

    found = config(recipe_name='darts', recipe=Short(lr=0.1, cutout=0)).recipe  # 0 is a default, and was given
    assert (found.epochs, found.lr, found.batch_size, found.cutout) == (5, 0.1, 96, 0)


def test_refusals():
    with pytest.raises(ValueError, match="recipe_name: unknown recipe 'imagnet'; did you mean 'imagenet'"):
        config(recipe_name='imagnet')
    result = CliRunner().invoke(app, ['train', 'nasnet_a', '--out', 'run', '--recipe', 'x'], env=dict(COLUMNS='200'))
    assert result.exit_code and 'known: cifar, imagenet, darts' in result.output


def test_imagenet_trains_as_google_does():
    recipe = Recipe(**{**RECIPES['imagenet'].recipe, 'epochs': 5, 'batch_size': 8})
    images = torch.zeros(16, 3, 8, 8, dtype=torch.uint8)
    data = ImageSet(images, torch.arange(16) % 2, (0.5,) * 3, (0.5,) * 3, ('a', 'b'))
    model = compile_genotype(load_genotype('nasnet_a'), num_cells=1, cell_filters=4, stem='cifar', num_classes=2)
    trainer = Trainer(model, data, recipe)
    rates = []
    for step in range(5 * 2):
        trainer.scheduler.step_update(step)
        rates.append(trainer._lr)
    assert rates == pytest.approx([2. * 0.97 ** int(step / 2 / 2.4) for step in range(10)])
    group = trainer.optimizer.param_groups[0]
    assert (group['eps'], group['alpha'], group['momentum']) == (1., 0.9, 0.9)
    trainer.run_epoch()

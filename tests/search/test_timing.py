"""The duration of a child, from a few of its steps."""
import torch

from nasnet_zoo.data.datasets import ImageSet
from nasnet_zoo.search.config import ChildSettings
from nasnet_zoo.search.evaluator import Evaluator
from nasnet_zoo.search.space import darts_space
from nasnet_zoo.search.timing import child_seconds


def evaluator(epochs, **settings):
    images = torch.randint(0, 256, (640, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    data = ImageSet(images, torch.arange(640) % 3, (0.5,), (0.3,), ('a', 'b', 'c'))
    recipe = dict(epochs=epochs, batch_size=16, pad=1, flip=False)
    return Evaluator(data, ChildSettings(num_cells=1, cell_filters=2, recipe=recipe, **settings))


def test_a_few_steps_tell_the_duration_of_a_whole_training():
    genotype = darts_space(2).genotype([0] * 10)
    made = evaluator(4)
    seconds = made(genotype).seconds
    assert seconds / 4 < child_seconds(made, genotype) < 4 * seconds
    longer = evaluator(4000)
    assert child_seconds(longer, genotype) > 50 * seconds
    assert child_seconds(evaluator(4000, time_limit=5.), genotype) == 5


def test_an_epoch_of_one_step():
    made = evaluator(1, limit_train=16)
    assert 0 < child_seconds(made, darts_space(2).genotype([0] * 10)) < 60

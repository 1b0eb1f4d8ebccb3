"""Data sets of the same name are told apart."""
import pytest
import torch

from nasnet_zoo.data import ImageSet
from nasnet_zoo.search.image_facts import ImageFacts


def facts(number=3, class_names=('cat', 'dog'), mean=(.5, .4), std=(.2, .2)):
    return ImageFacts(number, class_names, mean, std)


def test_facts_of_a_data_set():
    data = ImageSet(torch.zeros(3, 2, 4, 4, dtype=torch.uint8), torch.zeros(3).long(), (.5, .4), (.2, .2),
                    ('cat', 'dog'))
    assert ImageFacts.of(data) == facts()


@pytest.mark.parametrize('other, message', [
    (facts(4), 'there were 3 training images, and there are 4'),
    (facts(class_names=('dog', 'cat')), 'the classes have other names or another order'),
    (facts(class_names=('cat', 'dog', 'emu')), 'the classes have other names or another order'),
    (facts(mean=(.5, .41)), 'the mean of their channels was 0.500, 0.400 and is 0.500, 0.410'),
    (facts(std=(.2, .19)), 'the std of their channels was 0.200, 0.200 and is 0.200, 0.190'),
    (facts(mean=(.5,)), 'the mean of their channels was 0.500, 0.400 and is 0.500')])
def test_other_images(other, message):
    assert other.difference(facts().stored()) == message


def test_the_same_images():
    """Decoders differ a little, and earlier versions stored the number only, or nothing."""
    assert facts(mean=(.5005, .3995)).difference(facts().stored()) == ''
    assert facts().difference({}) == facts().difference(dict(num_images=3)) == ''
    assert facts().difference(dict(num_images=2))

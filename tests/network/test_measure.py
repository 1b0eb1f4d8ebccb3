"""What a network takes and returns is read from its modules."""
import pytest
from torch import nn

from helpers.networks import small
from nasnet_zoo.data import make_preprocessing
from nasnet_zoo.network.measure import check_counts, input_channels, output_width


@pytest.mark.parametrize('settings, width', [
    (dict(), 7), (dict(in_chans=1, global_pool='max'), 7), (dict(num_classes=0), 192),
    (dict(num_classes=0, global_pool='catavgmax'), 384), (dict(num_classes=0, global_pool=''), 192)])
def test_counts_of_unchanged_networks(settings, width):
    model = small('nasnet_b', **settings)
    assert (input_channels(model), output_width(model)) == (settings.get('in_chans', 3), width)
    check_counts(model)


def test_a_replaced_classifier_gets_no_names_of_other_classes():
    model = small('nasnet_b', num_classes=10)
    model.pretrained_cfg['label_names'] = list('abcdefghij')
    model.head.fc = nn.Linear(model.num_features, 5)
    assert output_width(model) == 5
    for names in (None, list('vwxyz')):
        with pytest.raises(ValueError, match=r'5 values, but model\.num_classes is 10.*reset_classifier\(5\)'):
            make_preprocessing(model, names)
    model.reset_classifier(5)
    assert make_preprocessing(model).class_names == list('01234')

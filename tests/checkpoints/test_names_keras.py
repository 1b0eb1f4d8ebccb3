"""Keras's own networks, with random weights and statistics, against ours with the same weights."""
import pytest
import timm
import torch

from helpers.checkpoints import SIZES, SMALL, TOLERANCE, error, logits, shapes
from helpers.keras import keras_logits, randomise_keras
from nasnet_zoo import compile_genotype, load_foreign_weights
from nasnet_zoo.checkpoints.load import convert_state_dict

pytestmark = pytest.mark.filterwarnings('ignore:__array__ implementation:DeprecationWarning')  # Keras with numpy 2


def test_keras_other_parity_and_wiring(keras, keras_nasnet, tmp_path):
    peer = keras_nasnet(SIZES[0], blocks=2, skip=True)
    randomise_keras(keras, peer, SIZES[0])
    peer.save_weights(tmp_path / 'model.weights.h5')
    model = compile_genotype(
        'nasnet_a', num_cells=2, skip_reduction_layer_input=True, pool_padding='keras', **SMALL)
    load_foreign_weights(model, tmp_path / 'model.weights.h5')
    assert error(logits(model, SIZES[0]), keras_logits(keras, peer, SIZES[0])) < TOLERANCE


@pytest.mark.parametrize('name, kwargs', [
    ('nasnet_a_mobile', dict(size=224, filters=1056, blocks=4, stem=32)),
    ('nasnet_a_large', dict(size=331, filters=4032, blocks=6, stem=96, skip=True)),
])
def test_keras_published(keras_nasnet, keras, name, kwargs):
    with pytest.MonkeyPatch.context() as patch:
        for initializer in (keras.initializers.HeNormal, keras.initializers.GlorotUniform):  # they take longest
            patch.setattr(initializer, '__call__', lambda self, shape, dtype=None: keras.ops.zeros(shape, dtype))
        peer = keras_nasnet(classes=1000, **kwargs)
    model = timm.create_model(name, device='meta')
    names = {f'{layer.name}.{variable.name}': torch.empty(variable.shape, device='meta')
             for layer in peer.layers for variable in layer.weights}
    converted = convert_state_dict(names, model)
    assert set(converted) == set(shapes(model.state_dict()))
    assert {name: tensor.numel() for name, tensor in converted.items()} == {
        name: tensor.numel() for name, tensor in model.state_dict().items() if name in converted}

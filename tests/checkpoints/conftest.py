"""Networks of the other packages, small and with random weights, and their files."""
import os
import warnings

import pytest
from timm.models.nasnet import NASNetALarge

from helpers.checkpoints import SIZES, randomise
from helpers.keras import keras_logits, randomise_keras


@pytest.fixture(scope='session')
def timm_nasnet():
    return randomise(NASNetALarge(num_features=24 * 8, stem_size=16, num_classes=20, pad_type='same'), SIZES[0])


@pytest.fixture(scope='session')
def keras():
    os.environ.setdefault('KERAS_BACKEND', 'torch')
    pytest.importorskip('h5py', reason='reads Keras files')
    return pytest.importorskip('keras', reason='writes Keras files')


@pytest.fixture(scope='session')
def keras_nasnet(keras):
    """A builder: the public ones refuse some of Keras' backends, the inner one does not."""
    from keras.src.applications import nasnet

    def build(size, filters=24 * 8, blocks=1, stem=16, skip=False, top=True, classes=20):
        return nasnet.NASNet(
            (size, size, 3), filters, blocks, stem, skip, 2, include_top=top, weights=None, classes=classes,
            default_size=size, classifier_activation=None)
    return build


@pytest.fixture(scope='session')
def keras_files(keras, keras_nasnet, tmp_path_factory):
    """A small Keras model, what it answers and its files, by suffix."""
    model = keras_nasnet(SIZES[1])
    randomise_keras(keras, model, SIZES[1])
    folder = tmp_path_factory.mktemp('keras')
    files = {suffix: folder / f'model{suffix}' for suffix in ('.weights.h5', '.keras', '.h5')}
    model.save_weights(files['.weights.h5'])
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # of the old format
        model.save(files['.keras'])
        model.save(files['.h5'])
    return model, keras_logits(keras, model, SIZES[1]), files

"""Random weights and statistics for Keras's networks. Keras itself is imported by a fixture, because it is optional."""
import numpy as np
import torch

from helpers.checkpoints import images

__all__ = ['keras_logits', 'randomise_keras']


def randomise_keras(keras, model, size):
    rng = np.random.default_rng(0)
    norms = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    for layer in model.layers:
        if layer not in norms:
            layer.set_weights([
                rng.normal(0., np.prod(w.shape[:2] if 'depthwise' in v.name else w.shape[:-1]) ** -0.5, w.shape)
                for v, w in zip(layer.weights, layer.get_weights())])
    for norm in norms:
        norm.momentum = 0.  # the statistics of the next batch
        norm.set_weights([rng.uniform(0.5, 1.5, w.shape) if v.name == 'gamma' else rng.normal(0., 0.3, w.shape)
                          if v.name == 'beta' else w for v, w in zip(norm.weights, norm.get_weights())])
    model(images(size, seed=0).permute(0, 2, 3, 1).numpy(), training=True)
    for norm in norms:
        gamma, beta, mean, var = norm.get_weights()
        mean += 0.3 * rng.normal(size=mean.shape) * np.sqrt(var + 1e-3)
        norm.set_weights([gamma, beta, mean, var * rng.uniform(0.7, 1.5, var.shape) + 0.01])


def keras_logits(keras, model, size):
    x = images(size).permute(0, 2, 3, 1).numpy()
    return torch.from_numpy(np.array(keras.ops.convert_to_numpy(model(x, training=False))))

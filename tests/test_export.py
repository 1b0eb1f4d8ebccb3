"""A trained network as an ONNX file, and what ONNX Runtime makes of it."""
import json

import numpy as np
import onnx
import pytest
import torch

from nasnet_zoo import compile_genotype
from nasnet_zoo.data import load_digits
from nasnet_zoo.export import CONTRACT, export_onnx
from nasnet_zoo.recipe import Recipe
from nasnet_zoo.runtime import Classifier
from nasnet_zoo.training import train

pytest.importorskip('sklearn', reason='the digits come with scikit-learn')
TRAIN, TEST = load_digits()


def small(**kwargs):
    torch.manual_seed(0)
    return compile_genotype(
        'nasnet_a', num_cells=1, cell_filters=6, stem='cifar', img_size=8, num_classes=10, in_chans=1, **kwargs)


@pytest.fixture(scope='module')
def exported(tmp_path_factory):
    model = train(small(), TRAIN, Recipe(epochs=1, batch_size=64, lr=0.1))
    path = tmp_path_factory.mktemp('onnx') / 'model.onnx'
    return model, export_onnx(model, path, TEST.mean, TEST.std, TEST.class_names)


def test_onnx_runtime_agrees(exported):
    model, path = exported
    classifier = Classifier(path)
    for count in (1, 2, 450):  # any batch
        logits = classifier.logits(TEST.images[:count].numpy())
        with torch.no_grad():
            expected = model(TEST.normalized()[:count]).numpy()
        assert np.linalg.norm(logits - expected) < 1e-5 * np.linalg.norm(expected)
    assert classifier.classify(TEST.images[:5].numpy()) == [str(i) for i in expected[:5].argmax(1)]


def test_onnx_file_says_what_it_takes(exported):
    proto = onnx.load(exported[1])
    onnx.checker.check_model(proto, full_check=True)
    assert [o.version for o in proto.opset_import if o.domain == ''] == [18]
    assert [i.name for i in proto.graph.input] == ['image'] and [o.name for o in proto.graph.output] == ['logits']
    contract = json.loads(next(p.value for p in proto.metadata_props if p.key == CONTRACT))
    assert contract['input_size'] == [1, 8, 8] and contract['class_names'] == list('0123456789')


def test_what_cannot_be_exported(tmp_path):
    args = (tmp_path / 'm.onnx', TEST.mean, TEST.std)
    with pytest.raises(ValueError, match='training mode'):
        export_onnx(small(), *args, TEST.class_names)
    with pytest.raises(ValueError, match='3 names for 10 classes'):
        export_onnx(small().eval(), *args, ['a', 'b', 'c'])
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_classified(exported, tmp_path):
    classifier = Classifier(exported[1])
    with pytest.raises(ValueError, match=r'must be uint8 \[N, 1, 8, 8\], not float32 \[2, 1, 8, 8\]'):
        classifier.logits(np.zeros((2, 1, 8, 8), np.float32))
    proto = onnx.load(exported[1])
    del proto.metadata_props[:]
    onnx.save(proto, tmp_path / 'bare.onnx')
    with pytest.raises(ValueError, match='it is not known how to prepare images'):
        Classifier(tmp_path / 'bare.onnx')

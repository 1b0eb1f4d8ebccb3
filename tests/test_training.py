"""Digits in, a classifier out, in PyTorch and in ONNX Runtime."""
import json

import numpy as np
import onnx
import pytest
import torch

from nasnet_zoo import compile_genotype
from nasnet_zoo.data import load_digits
from nasnet_zoo.export import CONTRACT, export_onnx
from nasnet_zoo.runtime import Classifier
from nasnet_zoo.training import evaluate, train

pytest.importorskip('sklearn', reason='the digits come with scikit-learn')
TRAIN, TEST = load_digits()


def small(**kwargs):
    torch.manual_seed(0)
    return compile_genotype(
        'nasnet_a', num_cells=1, cell_filters=6, stem='cifar', img_size=8, num_classes=10, in_chans=1, **kwargs)


def test_digits():
    assert (len(TRAIN.images), len(TEST.images)) == (1347, 450)
    assert TRAIN.images.shape[1:] == (1, 8, 8) and TRAIN.images.dtype == torch.uint8 and TRAIN.images.max() == 255
    assert TRAIN.normalized().mean().abs() < 1e-4 and (TRAIN.normalized().std() - 1).abs() < 1e-3
    assert TEST.labels.bincount().min() >= 43, 'classes in equal parts'
    assert torch.equal(load_digits()[1].labels, TEST.labels)
    both = torch.cat([TRAIN.images, TEST.images]).flatten(1)
    assert len(both) == 1797


def test_trains_on_digits():
    model = small(drop_path_rate=0.1, aux_head=True)
    steps = []
    train(model, TRAIN, epochs=5, on_step=steps.append)
    assert not model.training
    assert evaluate(model, TEST) > 0.9
    assert len(steps) == 5 * (1347 // 64) == steps[-1]['steps']
    assert max(s['lr'] for s in steps) == pytest.approx(0.1, rel=0.05) and steps[-1]['lr'] < 0.01
    assert model.drop_path_progress == pytest.approx((len(steps) - 1) / len(steps))


def test_same_seed_same_weights():
    first, second, other = (
        train(small(drop_path_rate=0.2), TRAIN, epochs=1, batch_size=256, seed=seed) for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values()))
    assert not torch.equal(first.head.fc.weight, other.head.fc.weight)


def test_what_cannot_be_trained():
    with pytest.raises(FloatingPointError, match='a lower lr than 1e'):
        train(small(), TRAIN, epochs=1, lr=1e30, batch_size=256)
    with pytest.raises(ValueError, match='batch_size: 2000 is more than the 1347 images'):
        train(small(), TRAIN, batch_size=2000)


@pytest.fixture(scope='module')
def exported(tmp_path_factory):
    model = train(small(), TRAIN, epochs=1)
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

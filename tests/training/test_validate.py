"""Accuracy, with how far to trust it."""
import json
import math
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from typer.testing import CliRunner

from helpers.paths import DATA
from nasnet_zoo import Classifier, compile_genotype
from nasnet_zoo.cli.main import app
from nasnet_zoo.data import DataError, ImageSet, load_data, load_digits, make_preprocessing
from nasnet_zoo.deploy.bundle import deploy
from nasnet_zoo.deploy.config import ExportConfig
from nasnet_zoo.hub import folder as hub
from nasnet_zoo.training.config import TrainConfig
from nasnet_zoo.training.metrics import Accuracy, evaluate
from nasnet_zoo.training.recipe import Recipe
from nasnet_zoo.training.run import run_training
from nasnet_zoo.training.validate import validate

ARCHIVE = DATA / 'cifar10-jpeg.tar.gz'


class Fixed(torch.nn.Module):
    """Says for image i, whose pixels are i, the classes of row i, best first."""

    def __init__(self, ranking):
        super().__init__()
        self.ranking = torch.tensor(ranking)

    def forward(self, x):
        rows = self.ranking[x[:, 0, 0, 0].mul(255).round().long()]
        return torch.zeros(rows.shape).scatter(1, rows, torch.arange(rows.shape[1], 0, -1.).expand_as(rows))


def test_accuracy_counts():
    data = ImageSet(torch.arange(4, dtype=torch.uint8).view(4, 1, 1, 1), torch.tensor([0, 1, 2, 6]), (0.,), (1.,),
                    tuple('abcdefg'))
    ranking = [[0, 1, 2, 3, 4, 5, 6], [0, 2, 3, 4, 1, 5, 6], [2, 0, 1, 3, 4, 5, 6], [0, 1, 2, 3, 4, 5, 6]]
    seen = []
    model = Fixed(ranking).train()
    found = evaluate(model, data, batch_size=3, on_batch=seen.append)
    loss = math.log(sum(map(math.exp, range(1, 8)))) - (7 + 3 + 7 + 1) / 4
    assert found == Accuracy(0.5, 0.75, 4, pytest.approx(loss), [True, False, True, False])
    assert seen == [3, 1] and model.training


@pytest.mark.parametrize('top1, count, low, high', [
    (0.9, 10000, 0.89397, 0.90572), (1., 100, 0.96300, 1.), (0., 10, 0., 0.27753), (0.5, 100, 0.40383, 0.59617)])
def test_interval(top1, count, low, high):  # Wilson's, by statsmodels' proportion_confint
    assert Accuracy(top1, 1., count, 0., []).interval == pytest.approx((low, high), abs=2e-5)


@pytest.fixture
def folder(tmp_path):
    torch.manual_seed(0)
    model = compile_genotype(
        'nasnet_b', num_cells=1, cell_filters=4, stem='cifar', img_size=8, num_classes=10, in_chans=1)
    data = load_digits()[1]
    return hub.write_folder(model.eval(), tmp_path / 'model', data.class_names, (0.2,), (0.3,))


def test_images_are_prepared_as_the_model_wants(folder):
    pytest.importorskip('sklearn', reason='the digits come with scikit-learn')
    data = load_digits()[1]._replace(mean=(0.2,), std=(0.3,))
    expected = evaluate(timm.create_model(f'local-dir:{folder}', pretrained=True), data)
    result = validate(str(folder), 'digits')
    assert result['top1'] == expected.top1 and result['count'] == 450 and result['dataset'] == 'digits'
    assert validate(f'local-dir:{folder}', 'digits', split='train')['count'] == 1347


def test_command_records(folder):
    result = CliRunner().invoke(app, ['validate', str(folder), '--data', 'digits', '--record', '--json'])
    assert result.exit_code == 0, result.output
    assert hub.read_accuracy(folder / hub.WEIGHTS) == json.loads(result.stdout)
    assert hub.read_accuracy(folder / hub.WEIGHTS)['interval_95'][0] < json.loads(result.stdout)['top1']


def test_what_cannot_be_recorded_is_said_first(folder, monkeypatch):
    model = timm.create_model(f'local-dir:{folder}')
    monkeypatch.setattr('nasnet_zoo.training.validate.build', lambda source, **kwargs: model)
    monkeypatch.setattr('nasnet_zoo.training.validate.load_data', None)  # not reached
    with pytest.raises(DataError, match='not in a local safetensors file'):
        validate('hf-hub:someone/model', 'digits', record=True)
    with pytest.raises(ValueError, match="split: must be 'train' or 'test', not 'val'"):
        validate(str(folder), 'digits', split='val')


def test_a_model_of_another_package_is_refused(tmp_path):
    timm.models._hub.save_for_hf(timm.create_model('resnet10t', num_classes=10), tmp_path, safe_serialization=True)
    with pytest.raises(ValueError, match='is a ResNet, not a network of this package'):
        validate(str(tmp_path), 'digits')


def test_data_of_other_classes_is_refused(folder, tmp_path):
    config = json.loads((folder / 'config.json').read_text(encoding='utf-8'))
    config['label_names'] = config['label_names'][::-1]
    (folder / 'config.json').write_text(json.dumps(config), encoding='utf-8')
    with pytest.raises(DataError, match='its classes are 9, 8, 7, …, but those of digits test are 0, 1, 2'):
        validate(str(folder), 'digits')
    with pytest.raises(DataError, match=r'takes images of \(3, 8, 8\), but digits train has \(1, 8, 8\)'):
        torch.manual_seed(0)
        other = compile_genotype('nasnet_a', num_cells=1, cell_filters=4, stem='cifar', img_size=8, num_classes=10)
        validate(str(hub.write_folder(other.eval(), tmp_path / 'rgb')), 'digits')


def tinted(path, label, seed):
    """A picture of two classes whose tint and border differ, so that a crop matters."""
    generator = np.random.default_rng(seed)
    side = int(generator.integers(30, 60))
    pixels = generator.integers(0, 160, (side, side + 7 * (seed % 3), 3), np.uint8)
    pixels[..., label] += 60
    Image.fromarray(pixels).save(path)


@pytest.mark.parametrize('img_size', [24, 72], ids=['in memory', 'from files'])
def test_classify_sees_the_pixels_that_the_accuracy_was_measured_on(img_size, tmp_path, monkeypatch):
    """A network with the ImageNet stem, whose usual crop is 0.875: trained, validated, exported, and run."""
    monkeypatch.setenv('NASNET_ZOO_CACHE', str(tmp_path / 'cache'))
    for split, count in (('train', 24), ('test', 20)):
        for label, name in enumerate(('cat', 'dog')):
            (tmp_path / 'pets' / split / name).mkdir(parents=True)
            for i in range(count):
                tinted(tmp_path / 'pets' / split / name / f'{i:02}.png', label, 100 * count + 2 * i + label)
    torch.manual_seed(0)
    network = compile_genotype('nasnet_c', num_cells=1, cell_filters=4, num_classes=2, bn_momentum=0.1)
    run_training(TrainConfig(
        source=str(hub.write_folder(network, tmp_path / 'network')), data=str(tmp_path / 'pets'), out=tmp_path / 'run',
        img_size=img_size, aux_head=False, drop_path_rate=0., val_share=0.25, workers=0,
        recipe=Recipe(epochs=4, batch_size=8, lr=0.05, flip=False, pad=1)), say=list)
    measured = validate(str(tmp_path / 'run'), str(tmp_path / 'pets'))
    model = timm.create_model(f'local-dir:{tmp_path / "run"}', pretrained=True).eval()
    assert model.skeleton.stem == 'imagenet' and model.pretrained_cfg['crop_pct'] == (1. if img_size == 24 else 0.875)

    manifest = deploy(ExportConfig(
        source=str(tmp_path / 'run'), out=tmp_path / 'out', pictures=(tmp_path / 'pets' / 'test',)))
    assert manifest['preprocessing']['crop_pct'] == model.pretrained_cfg['crop_pct']
    files = sorted((tmp_path / 'pets' / 'test').rglob('*.png'))
    found = list(Classifier(tmp_path / 'out' / 'model.onnx', 'cpu').predict(files, top=2))
    labels = [prediction.top[0][0] for prediction in found]
    assert set(labels) == {0, 1}
    names = [path.parent.name for path in files]
    assert sum(('cat', 'dog')[k] == name for k, name in zip(labels, names)) / len(files) == measured['top1']

    preprocessing = make_preprocessing(model)
    _, test = load_data(tmp_path / 'pets', preprocessing=preprocessing)
    test = test if img_size == 24 else test._replace(workers=0)
    with torch.inference_mode():
        logits = torch.cat([model(images) for images, _ in test.batches(16)])
    assert logits.argmax(1).tolist() == labels
    shares = np.array([[dict(prediction.top)[k] for k in range(2)] for prediction in found])
    assert np.allclose(shares, logits.softmax(1), atol=1e-5)
    other_crop = Classifier(tmp_path / 'out' / 'model.onnx', 'cpu', preprocessing=dict(crop_pct=0.6))
    others = np.array([[dict(prediction.top)[k] for k in range(2)] for prediction in other_crop.predict(files, top=2)])
    assert not np.allclose(shares, others, atol=1e-4), 'a crop makes a difference'


SHIPPED = [name for name in timm.list_pretrained('nasnet_*') if '_cifar' in name]


@pytest.mark.parametrize('name', SHIPPED)
def test_shipped_weights_say_what_they_reach(name):
    weights = Path(timm.get_pretrained_cfg(name).file)
    record = hub.read_accuracy(weights)
    assert record['dataset'] == 'cifar10-jpeg' and record['split'] == 'test' and record['count'] == 10_000
    assert weights.stat().st_size < 4_000_000
    assert sum(p.numel() for p in timm.create_model(name).parameters()) < 700_000


@pytest.mark.skipif(not ARCHIVE.exists(), reason='needs the CIFAR-10 pictures: NASNET_ZOO_DATA=FOLDER')
@pytest.mark.parametrize('name', SHIPPED)
def test_shipped_weights_reach_about_what_they_say(name):
    """On 500 pictures, for which three standard errors are at most 0.046."""
    model = timm.create_model(name, pretrained=True).eval()
    _, test = load_data(str(ARCHIVE), preprocessing=make_preprocessing(model))
    recorded = hub.read_accuracy(timm.get_pretrained_cfg(name).file)
    _, part = test.split(0.05)
    assert evaluate(model, part).top1 == pytest.approx(recorded['top1'], abs=0.046)


@pytest.mark.slow
@pytest.mark.skipif(not ARCHIVE.exists(), reason='needs the CIFAR-10 pictures: NASNET_ZOO_DATA=FOLDER')
@pytest.mark.timeout(1200)  # 10,000 pictures, beside other tests
@pytest.mark.parametrize('name', SHIPPED)
def test_shipped_weights_reach_what_they_say(name):
    recorded = hub.read_accuracy(timm.get_pretrained_cfg(name).file)
    assert validate(name, str(ARCHIVE))['top1'] == pytest.approx(recorded['top1'], abs=5e-4)

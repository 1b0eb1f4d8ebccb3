"""Pictures are prepared in the same way wherever they come from."""
import numpy as np
import pytest
import torch
from PIL import Image

from nasnet_zoo import compile_genotype
from nasnet_zoo.data import DataError, FileSet, ImageSet, Preprocessing, load_data, load_digits, make_preprocessing

SIZES = [(12, 12), (16, 16), (23, 17), (17, 24), (40, 31)]


def preprocessing(**changes):
    return Preprocessing(**{**dict(
        input_size=[3, 16, 16], mean=[0.4, 0.5, 0.6], std=[0.25] * 3, class_names=['cat', 'dog']), **changes})


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Pictures of several sizes."""
    monkeypatch.setenv('NASNET_ZOO_CACHE', str(tmp_path / 'cache'))
    generator = np.random.default_rng(0)
    for split in ('train', 'test'):
        for name in ('cat', 'dog'):
            (tmp_path / 'pets' / split / name).mkdir(parents=True)
            for i, (width, height) in enumerate(SIZES):
                pixels = generator.integers(0, 256, (height, width, 3), np.uint8)
                Image.fromarray(pixels).save(tmp_path / 'pets' / split / name / f'{i}.png')
    return tmp_path / 'pets'


def files(folder):
    return sorted((folder / 'test').rglob('*.png'))


@pytest.mark.parametrize('changes', [
    {}, dict(crop_pct=0.875), dict(crop_mode='squash'), dict(interpolation='bilinear', crop_pct=0.9),
    dict(input_size=[3, 12, 20]), dict(input_size=[1, 16, 16], color_order='L', mean=[0.4], std=[0.25])])
@pytest.mark.parametrize('small', [True, False], ids=['in memory', 'from files'])
def test_a_data_set_has_the_pixels_that_classify_sees(folder, changes, small, monkeypatch):
    if not small:
        monkeypatch.setattr('nasnet_zoo.data.datasets.SMALL', 1)
    chosen = preprocessing(**changes)
    _, test = load_data(folder, preprocessing=chosen)
    assert isinstance(test, ImageSet if small else FileSet)
    expected = np.stack([chosen.read(path) for path in files(folder)])
    test = test if small else test._replace(workers=0)
    found = torch.cat([images for images, _ in test.batches(4)])
    torch.testing.assert_close(found, torch.from_numpy(chosen.normalized(expected)), rtol=0, atol=1e-6)
    described = test.preprocessing.model_dump()
    assert described == chosen.model_dump()


def test_a_side_is_a_preprocessing_without_a_crop(folder):
    _, test = load_data(folder, img_size=16)
    assert test.was_resized and test.crop_pct == 1
    assert np.array_equal(test.images, np.stack([preprocessing().read(path) for path in files(folder)]))
    again, _ = load_data(folder, preprocessing=preprocessing())
    assert again.mean == (0.4, 0.5, 0.6) and len(list((folder.parent / 'cache').iterdir())) == 1, 'the same cache'


def test_images_in_memory_are_resized_as_their_files(tmp_path):
    pytest.importorskip('sklearn', reason='the digits come with scikit-learn')
    data = load_digits()[1]
    resized = data.resized(13)
    assert resized.was_resized and not data.resized(8).was_resized
    assert torch.equal(data.resized(8).images, data.images)
    for image, expected in list(zip(data.images, resized.images))[:20]:
        Image.fromarray(image[0].numpy()).save(tmp_path / 'digit.png')
        assert np.array_equal(resized.preprocessing.read(tmp_path / 'digit.png'), expected)
    with pytest.raises(DataError, match=r'takes images of \(3, 16, 16\), but digits test has \(1, 8, 8\)'):
        data.prepared(preprocessing())


@pytest.mark.parametrize('stem', ['imagenet', 'cifar'])
def test_a_model_says_how_its_pictures_are_prepared(stem):
    model = compile_genotype('nasnet_c', num_cells=1, cell_filters=4, stem=stem, img_size=32, num_classes=2)
    before = make_preprocessing(model)
    assert before.crop_pct == (0.875 if stem == 'imagenet' else 1) and before.class_names == ['0', '1']
    chosen = preprocessing(crop_pct=0.9, interpolation='bilinear')
    chosen.write_to(model)
    assert make_preprocessing(model) == chosen
    preprocessing(class_names=['one', 'too', 'many']).write_to(model)
    assert make_preprocessing(model).class_names == ['cat', 'dog']

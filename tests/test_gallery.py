"""The page of the shipped genotypes: what it shows, and that it shows texts as texts."""
import json
import xml.etree.ElementTree as ET

import pytest
from typer.testing import CliRunner

import nasnet_zoo
from nasnet_zoo import gallery, list_genotypes, load_genotype
from nasnet_zoo.cli.main import app
from nasnet_zoo.zoo import models_of

pytest.importorskip('matplotlib', reason='the page has drawings')
EVIL = '</p><script>alert("1")</script>'


@pytest.fixture
def small(monkeypatch):
    """Only two genotypes, one of which has named models, at sizes that are quickly measured."""
    models = {'nasnet_c': {'nasnet_c_cifar_small': models_of('nasnet_c')['nasnet_c_cifar_small']}}
    monkeypatch.setattr(gallery, 'list_genotypes', lambda: ['nasnet_c', 'amoebanet_d'])
    monkeypatch.setattr(gallery, 'models_of', lambda name: models.get(name, {}))
    monkeypatch.setattr(gallery, '_SIZES', {'tiny': dict(num_cells=1, cell_filters=4, stem='cifar')})


def test_page(small, tmp_path):
    result = CliRunner().invoke(app, ['gallery', '--out', str(tmp_path / 'new' / 'site'), '--json'])
    assert result.exit_code == 0, result.output
    page = (tmp_path / 'new' / 'site' / 'index.html')
    assert json.loads(result.stdout) == dict(page=str(page)) and list(page.parent.iterdir()) == [page]
    text = page.read_text(encoding='utf-8')
    for name in ('nasnet_c', 'amoebanet_d'):
        genotype = load_genotype(name)
        assert f'<a href="#{name}">' in text and f'<section id="{name}">' in text
        assert genotype.source in text and genotype.architecture_digest in text and genotype.layout_digest in text
    drawings = [f'<svg{part.split("</svg>")[0]}</svg>' for part in text.split('<svg')[1:]]
    assert len([ET.fromstring(drawing) for drawing in drawings]) == 2
    assert '<td class=text>nasnet_c_cifar_small</td>' in text and '<td>0.205 M</td><td>38.5 M</td>' in text
    assert '<td class=text>3 @ 960, 224 pixels</td><td>27.5</td><td>9.0</td>' in text and 'top1 error, %' in text
    assert 'timm.create_model(&#x27;nasnet_c_cifar_small&#x27;)' in text
    assert ' src=' not in text and 'url(http' not in text  # nothing is loaded


def test_the_code_builds_the_network():
    args = dict(num_cells=1, cell_filters=4, stem='cifar')
    model = eval(gallery._call('amoebanet_d', args), dict(nasnet_zoo=nasnet_zoo))
    assert model.genotype == load_genotype('amoebanet_d') and model.skeleton.cell_filters == 4


def test_texts_are_escaped(small, tmp_path, monkeypatch):
    data = dict(load_genotype('nasnet_c').to_dict(), source=EVIL, search=dict(method=EVIL), results=dict(x=EVIL))
    monkeypatch.setattr(gallery, 'load_genotype', lambda name: load_genotype(data))
    text = gallery.write_gallery(tmp_path).read_text(encoding='utf-8')
    assert '<script' not in text and text.count('&lt;script&gt;') >= 6


def test_every_genotype_has_a_source():
    assert all(load_genotype(name).source for name in list_genotypes())
    assert set(models_of('pnasnet5')) == {'pnasnet5_mobile', 'pnasnet5_large'} and 'nasnet' not in models_of('nasnet_a')


def test_a_folder_that_cannot_be_written(small, tmp_path):
    (tmp_path / 'file').touch()
    result = CliRunner().invoke(app, ['gallery', '--out', str(tmp_path / 'file')])
    assert result.exit_code == 1 and 'error: ' in result.output

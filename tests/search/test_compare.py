"""Comparisons of cells, with real training runs on the digits."""
import csv
import json

import pytest
import timm
from typer.testing import CliRunner

from nasnet_zoo import load_genotype
from nasnet_zoo.cli.main import app
from nasnet_zoo.search.compare_config import CompareConfig
from nasnet_zoo.search.config import ChildRecipe
from nasnet_zoo.search.errors import SearchError
from nasnet_zoo.search.evaluator import DataSource
from nasnet_zoo.training.run import versions

pytest.importorskip('sklearn', reason='the digits come with scikit-learn')
pytest.importorskip('scipy', reason='tests of significance need SciPy')
OPTIONS = ['--num-cells', '1', '--cell-filters', '3', '--epochs', '1', '--batch-size', '512', '--pad', '1', '--no-flip',
           '--match', 'params', '--match-below', '--split', 'validation']


def compare(out, *options):
    return CliRunner().invoke(app, ['compare', '--out', str(out), *OPTIONS, *options])


@pytest.fixture(scope='module')
def done(tmp_path_factory):
    out = tmp_path_factory.mktemp('compare') / 'cells'
    result = compare(out, 'nasnet_a', 'pnasnet5', '--seeds', '2', '--json', '--log', 'csv')
    assert result.exit_code == 0, result.output
    return out, json.loads(result.stdout)


def test_result(done):
    out, result = done
    assert [cell['name'] for cell in result['cells']] == ['nasnet_a', 'pnasnet5']
    assert [(row['cell'], row['seed']) for row in result['rows']] == [
        ('nasnet_a', 0), ('pnasnet5', 0), ('nasnet_a', 1), ('pnasnet5', 1)]
    assert result['cells'][0]['cell_filters'] == 3 and result['cells'][0]['params'] == result['target']
    assert result['cells'][1]['params'] <= result['target'], '--match-below'
    assert all(0 <= row['accuracy'] <= 1 for row in result['rows'])
    assert len({row['accuracy'] for row in result['rows']}) > 1
    assert all(row['eval_loss'] > 0 and row['eval_loss'] != row['loss'] for row in result['rows'])
    assert result['differences'][0]['difference'] == pytest.approx(
        result['cells'][0]['mean'] - result['cells'][1]['mean'])
    low, high = result['differences'][0]['interval_95_images']
    assert low < result['differences'][0]['difference'] < high and 0 < result['differences'][0]['p_images'] <= 1
    stored = json.loads((out / 'compare.json').read_text(encoding='utf-8'))
    assert stored['differences'] == result['differences'] and (out / 'compare.svg').exists()
    assert (out / 'runs' / 'pnasnet5-1' / 'log.csv').exists()
    assert not list(out.glob('runs/*/tensorboard')), '--log csv: nothing else'


def test_other_images_can_be_held_out(tmp_path):
    results = [compare(tmp_path / seed, 'nasnet_a', '--val-seed', seed, '--seeds', '1', '--json') for seed in '01']
    rows = [json.loads(result.stdout)['rows'][0] for result in results]
    assert rows[0]['eval_loss'] != rows[1]['eval_loss']
    for seed, row in zip('01', rows):
        log = tmp_path / seed / 'runs' / 'nasnet_a-0' / 'log.csv'
        *_, last = csv.DictReader(log.read_text(encoding='utf-8').splitlines())
        assert float(last['val_accuracy']) == row['accuracy'], 'the images that were held out while it was trained'
    path = tmp_path / '0' / 'compare.json'
    stored = json.loads(path.read_text(encoding='utf-8'))
    assert stored['settings'].pop('val_seed') == 0  # earlier versions did not store it
    path.write_text(json.dumps(stored), encoding='utf-8')
    for seed, code in (('0', 0), ('1', 1)):
        again = compare(tmp_path / '0', 'nasnet_a', '--val-seed', seed, '--seeds', '1', '--resume')
        assert again.exit_code == code, again.output


def test_a_logger_that_is_missing(tmp_path, monkeypatch):
    monkeypatch.setattr('nasnet_zoo.extras.find_spec', lambda name: None if name == 'wandb' else True)
    refused = compare(tmp_path / 'cells', 'nasnet_a', '--log', 'wandb')
    assert refused.exit_code == 1 and '--log wandb needs wandb' in refused.stderr
    assert not (tmp_path / 'cells').exists()


def test_a_comparison_is_resumed_and_extended(done):
    """Rows that are known are kept, a row that was lost comes from its run's folder, and a seed may be added."""
    out, result = done
    path = out / 'compare.json'
    stored = json.loads(path.read_text(encoding='utf-8'))
    lost = stored['rows'].pop()
    stored['rows'][0]['accuracy'] = 0.123
    path.write_text(json.dumps(stored), encoding='utf-8')
    again = compare(out, 'nasnet_a', 'pnasnet5', '--seeds', '2', '--resume', '--json')
    assert again.exit_code == 0, again.output
    rows = json.loads(again.stdout)['rows']
    assert rows[0]['accuracy'] == 0.123 and rows[-1]['accuracy'] == lost['accuracy']
    assert compare(out, 'nasnet_a', '--seeds', '1', '--resume').exit_code == 0, 'fewer cells and seeds'


@pytest.mark.parametrize('options, message', [
    (['nasnet_a'], 'contains a comparison already; add --resume'),
    (['nasnet_a', '--resume', '--epochs', '2'], 'started with other settings: recipe.epochs was 1 and is 2'),
    (['nasnet_a', 'GENOTYPE', '--resume'], 'has the same architecture as nasnet_a; list each cell once'),
    (['nasnet_b9', '--resume'], 'nasnet_b9'),
    (['nasnet_a', '--split', 'test', '--val-seed', '1'], 'val_seed: has no effect without --split validation'),
    (['nasnet_a', '--match', 'luck'], "match: unknown match 'luck'; known: params, macs"),
    (['nasnet_a', '--resume', '--cost-target', '10'], 'even with a single filter')])
def test_what_is_refused(done, tmp_path, options, message):
    out, _ = done
    copy = load_genotype(dict(load_genotype('nasnet_a').to_dict(), name='copy'))
    copy.save(tmp_path / 'copy.json')
    result = compare(out, *(str(tmp_path / 'copy.json') if word == 'GENOTYPE' else word for word in options))
    assert result.exit_code == 1 and message in result.stderr, result.stderr


def test_defaults_of_the_recipe_are_those_of_children():
    """Also those that are not given beside others that are."""
    config = CompareConfig(cells=('nasnet_a',), out='cells', recipe=dict(lr=0.1))
    assert (config.recipe.lr, config.recipe.epochs) == (0.1, ChildRecipe().epochs)


def test_the_seed_of_the_recipe_is_refused(tmp_path):
    assert compare(tmp_path / 'cells', 'nasnet_a', '--seed', '7').exit_code == 2, 'there is no such option'
    with pytest.raises(ValueError, match='--first-seed'):
        CompareConfig(cells=['nasnet_a'], out=tmp_path / 'cells', recipe=dict(seed=7))


def test_options_of_match_need_it(tmp_path):
    for option in (dict(match_below=True), dict(cost_target=1e5)):
        with pytest.raises(ValueError, match=f'{next(iter(option))}: has no effect without --match'):
            CompareConfig(cells=('nasnet_a',), out=tmp_path, **option)


def test_other_data_are_refused(done):
    out, _ = done
    path = out / 'compare.json'
    stored = json.loads(path.read_text(encoding='utf-8'))
    assert stored['rows'][0]['versions'] == versions()
    stored['num_images']['test'] = 1
    path.write_text(json.dumps(stored), encoding='utf-8')
    refused = compare(out, 'nasnet_a', '--seeds', '1', '--resume')
    assert refused.exit_code == 1 and 'images.test was 1 and is 450' in refused.stderr, refused.stderr
    del stored['num_images']  # earlier versions did not store them
    path.write_text(json.dumps(stored), encoding='utf-8')
    assert compare(out, 'nasnet_a', '--seeds', '1', '--resume').exit_code == 0


def test_a_refused_recipe_leaves_no_comparison(tmp_path):
    refused = compare(tmp_path / 'cells', 'nasnet_a', '--batch-size', '1300')
    assert refused.exit_code == 1 and 'batch_size: 1300 is more than the 1217 images' in refused.stderr
    assert not (tmp_path / 'cells' / 'compare.json').exists()


def test_another_cell_of_the_same_name_gets_a_name_of_its_own(done, tmp_path):
    out, _ = done
    other = load_genotype(dict(load_genotype('nasnet_b').to_dict(), name='nasnet_a'))
    other.save(tmp_path / 'cell.json')
    result = compare(out, str(tmp_path / 'cell.json'), 'nasnet_a', '--resume', '--seeds', '1', '--json')
    assert result.exit_code == 0, result.output
    names = [row['cell'] for row in json.loads(result.stdout)['rows']]
    assert names == [f'nasnet_a-{other.architecture_digest[:8]}', 'nasnet_a']
    assert load_genotype(out / 'runs' / 'nasnet_a-0' / 'cell.json') == load_genotype('nasnet_a')


def test_cells_of_one_name_keep_their_names(tmp_path):
    """Also if the comparison was interrupted before the first row, and is resumed with the cells in another order."""
    cells, out = [load_genotype(name) for name in ('nasnet_a', 'pnasnet5')], tmp_path / 'out'
    files = [str(tmp_path / f'{i}.json') for i in range(2)]
    for file, cell in zip(files, cells):
        load_genotype(dict(cell.to_dict(), name='found')).save(file)
    first = compare(out, *files, '--seeds', '1', '--json')
    assert first.exit_code == 0, first.output
    rows = json.loads(first.stdout)['rows']
    assert [row['cell'] for row in rows] == ['found', f'found-{cells[1].architecture_digest[:8]}']
    stored = json.loads((out / 'compare.json').read_text(encoding='utf-8'))
    (out / 'compare.json').write_text(json.dumps(stored | dict(rows=[])), encoding='utf-8')
    again = compare(out, *files[::-1], '--seeds', '1', '--json', '--resume')
    assert again.exit_code == 0, again.output
    results = [[(row['cell'], row['architecture'], row['loss']) for row in found]
               for found in (rows, json.loads(again.stdout)['rows'])]
    assert results[0] == results[1][::-1]


def test_an_auxiliary_head_does_not_count(tmp_path):
    result = compare(tmp_path / 'out', 'nasnet_a', 'pnasnet5', '--seeds', '1', '--aux-head', '--json')
    assert result.exit_code == 0, result.output
    for row in json.loads(result.stdout)['rows']:
        folder = tmp_path / 'out' / 'runs' / f'{row["cell"]}-0'
        report = json.loads((folder / 'report.json').read_text(encoding='utf-8'))
        assert report['model']['cell_filters'] == row['cell_filters']
        model = timm.create_model(f'local-dir:{folder}', aux_head=False)
        assert row['params'] == sum(p.numel() for p in model.parameters())


def test_there_is_nothing_to_resume(tmp_path):
    result = compare(tmp_path / 'typo', 'nasnet_a', '--resume')
    assert result.exit_code == 1 and 'typo: there is no comparison to resume' in result.stderr
    (tmp_path / 'empty').mkdir()
    assert compare(tmp_path / 'empty', 'nasnet_a', '--resume').exit_code == 1
    assert [path.name for path in tmp_path.rglob('*')] == ['empty'], 'nothing is written'


def test_large_images_have_to_be_resized(tmp_path):
    from PIL import Image
    for name in ('a', 'b'):
        for split in ('train', 'test'):
            (tmp_path / 'data' / split / name).mkdir(parents=True)
            Image.new('RGB', (100, 100)).save(tmp_path / 'data' / split / name / '0.png')
    result = compare(tmp_path / 'out', 'nasnet_a', '--data', str(tmp_path / 'data'))
    assert result.exit_code == 1
    assert 'has images of 100 pixels, and cells are trained on images of up to 64 pixels' in result.stderr
    source = DataSource(str(tmp_path / 'data'), img_size=16)
    assert source.load().input_size == (3, 16, 16)
    with pytest.raises(SearchError, match='have them resized with --img-size'):
        source._replace(img_size=None).load()

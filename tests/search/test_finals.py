"""The longer training of the best children: with every seed, each run once, and the mean decides."""
import json
from concurrent.futures import Future

import pytest
import torch
from safetensors.torch import save_file

from nasnet_zoo.data.datasets import ImageSet
from nasnet_zoo.files import read_safetensors
from nasnet_zoo.search.config import ChildSettings, SearchConfig
from nasnet_zoo.search.errors import ChildError, SearchError
from nasnet_zoo.search.evaluator import DataSource, Evaluation, Evaluator
from nasnet_zoo.search.finals import Finalist, FinalRun, make_final_evaluator, mean_results, train_finalists
from nasnet_zoo.search.run import _final_settings
from nasnet_zoo.search.space import darts_space

SPACE = darts_space(2)
CELLS = [SPACE.genotype([i % size for size in SPACE.sizes]) for i in range(3)]
FINALISTS = [Finalist(10 + i, 0.5, cells) for i, cells in enumerate(CELLS)]
ACCURACIES = [{0: 0.9, 1: 0.5, 2: 0.5}, {0: 0.8, 1: 0.8, 2: 0.8}, {0: 0.7, 1: 0.6, 2: 0.6}]


class Pool:
    """Workers that know the accuracies already, and note what they are asked to train."""
    size, host = 1, '127.0.0.1'

    def __init__(self, fails=()):
        self.fails, self.runs = fails, []

    def submit(self, run, should_prune=None):
        run = CELLS.index(run.genotype), run.seed
        self.runs.append(run)
        future = Future()
        if run in self.fails:
            future.set_exception(ChildError('too large'))
        else:
            accuracy = ACCURACIES[run[0]][run[1]]
            future.set_result(Evaluation(accuracy, accuracy, 100, 1000, 2.))
        return future

    def result(self, future):
        return future.result()

    def close(self):
        self.runs.append('closed')


def finish(path, seeds, finalists=FINALISTS, **options):
    """Train the finalists. Return the rows by number, and what the workers trained."""
    pool = Pool(**options)
    rows = train_finalists(path, path.with_name('checkpoints'), finalists, pool, 10, seeds, 1, lambda line: None)
    assert pool.runs.pop() == 'closed'
    return {row['number']: row for row in rows}, pool.runs


def test_the_mean_over_the_seeds_decides(tmp_path):
    rows, runs = finish(tmp_path / 'finals.json', range(3))
    assert runs == [(child, seed) for seed in range(3) for child in range(3)], 'every child once before any twice'
    assert max(rows, key=lambda number: rows[number]['accuracy']) == 11
    assert rows[10]['accuracy'] == pytest.approx(1.9 / 3) and rows[10]['accuracies'] == [0.9, 0.5, 0.5]
    assert rows[10]['seconds'] == 6 and rows[10]['params'] == 100 and rows[10]['seeds'] == [0, 1, 2]
    assert rows[10]['reward'] == rows[10]['accuracy']
    stored = json.loads((tmp_path / 'finals.json').read_text(encoding='utf-8'))
    assert [(row['number'], row['seed']) for row in stored] == [(10 + child, seed) for child, seed in runs]


def test_checkpoints_are_kept_until_all_runs_have_finished(tmp_path, monkeypatch):
    path, checkpoints = tmp_path / 'finals.json', tmp_path / 'checkpoints'

    def fill_the_disk(self, future):
        raise OSError('checkpoint: No space left on device')
    with monkeypatch.context() as patch:
        patch.setattr(Pool, 'result', fill_the_disk)
        with pytest.raises(SearchError, match='No space left on device; free some space and continue with --resume'):
            finish(path, range(1))
    assert checkpoints.exists() and not path.exists()
    finish(path, range(1), fails=[(2, 0)])
    assert checkpoints.exists(), 'a run that has failed is tried again'
    finish(path, range(1))
    assert not checkpoints.exists()


def test_workers_continue_from_checkpoints(tmp_path):
    pytest.importorskip('sklearn', reason='the digits come with scikit-learn')
    source, folder = DataSource('digits'), tmp_path / 'checkpoints'
    settings = ChildSettings(num_cells=1, cell_filters=2, limit_train=200, recipe=dict(epochs=1, batch_size=100, pad=1))
    evaluate = make_final_evaluator(source, settings, str(folder))
    found = evaluate(FinalRun(CELLS[0], 3))
    assert not folder.exists(), 'as on another machine'
    folder.mkdir()
    assert evaluate(FinalRun(CELLS[0], 3)).rewards == found.rewards
    checkpoint, = folder.iterdir()
    tensors, metadata = read_safetensors(checkpoint)
    save_file(tensors, checkpoint, dict(metadata, seconds='1000.0'))
    assert evaluate(FinalRun(CELLS[0], 3)).seconds > 1000 > evaluate(FinalRun(CELLS[0], 4)).seconds


def test_no_run_is_repeated(tmp_path):
    path = tmp_path / 'finals.json'
    finish(path, range(2), FINALISTS[:2])
    rows, runs = finish(path, range(3))
    assert runs == [(2, 0), (2, 1), (0, 2), (1, 2), (2, 2)]
    assert [len(row['accuracies']) for row in rows.values()] == [3, 3, 3]
    fewer, runs = finish(path, range(1))
    assert runs == [] and [row['accuracies'] for row in fewer.values()] == [[0.9], [0.8], [0.7]]


def test_a_child_may_have_another_number_than_before(tmp_path):
    """Its trial was lost with the end of a damaged journal, and it was trained again."""
    path = tmp_path / 'finals.json'
    finish(path, range(1))
    moved = [one._replace(number=one.number + 10, accuracy=0.4) for one in FINALISTS]
    rows, runs = finish(path, range(1), moved)
    assert runs == [] and {number: row['accuracy'] for number, row in rows.items()} == {20: 0.9, 21: 0.8, 22: 0.7}
    stored = json.loads(path.read_text(encoding='utf-8'))
    assert [(row['number'], row['child_value']) for row in stored] == [(20, 0.4), (21, 0.4), (22, 0.4)]


def test_rows_of_earlier_versions_have_the_first_seed(tmp_path):
    path = tmp_path / 'finals.json'
    finish(path, range(1))
    rows = json.loads(path.read_text(encoding='utf-8'))
    old = [{key: value for key, value in row.items() if key != 'seed'} for row in rows]
    path.write_text(json.dumps(old), encoding='utf-8')
    _, runs = finish(path, range(2))
    assert runs == [(0, 1), (1, 1), (2, 1)]
    assert [row['accuracies'] for row in mean_results(rows)] == [[0.9], [0.8], [0.7]]


def test_a_run_that_fails_is_tried_again(tmp_path):
    path = tmp_path / 'finals.json'
    rows, _ = finish(path, range(2), fails=[(0, 1), (2, 0), (2, 1)])
    assert rows.keys() == {10, 11} and rows[10]['accuracies'] == [0.9]
    rows, runs = finish(path, range(2))
    assert sorted(runs) == [(0, 1), (2, 0), (2, 1)] and rows[10]['accuracies'] == [0.9, 0.5]


def test_only_the_seed_differs():
    images = ImageSet(torch.randint(256, (64, 3, 8, 8), dtype=torch.uint8), torch.arange(64) % 4, (0.5,) * 3,
                      (0.25,) * 3, tuple('abcd'))
    settings = dict(num_cells=1, cell_filters=2, val_share=0.25)
    evaluator = Evaluator(images, ChildSettings(**settings))
    other, direct = evaluator.with_seed(7), Evaluator(images, ChildSettings(**settings, recipe=dict(seed=7)))
    weights = [next(one.build(CELLS[0]).parameters()) for one in (evaluator, other, direct)]
    assert torch.equal(weights[1], weights[2]) and not torch.equal(weights[0], weights[1])
    assert other.settings == direct.settings and evaluator.settings.recipe.seed == 0
    assert other.val is evaluator.val and torch.equal(other.val.images, direct.val.images)


@pytest.mark.parametrize('given, epochs', [(None, 57), (10, 57), (19, 57), (20, 20)])
def test_finalists_are_trained_for_longer(given, epochs):
    config = SearchConfig(out='x', final_epochs=given, child=dict(recipe=dict(epochs=19)))
    assert _final_settings(config).recipe.epochs == epochs

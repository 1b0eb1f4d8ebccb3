"""From a genotype to a reward."""
import pytest
import torch
from safetensors.torch import save_file

from nasnet_zoo import load_genotype
from nasnet_zoo.data import load_digits
from nasnet_zoo.files import read_safetensors
from nasnet_zoo.search.config import ChildSettings, SearchConfig
from nasnet_zoo.search.errors import ChildError, Pruned
from nasnet_zoo.search.evaluator import Evaluator
from nasnet_zoo.search.protocols import REWARDS

pytest.importorskip('sklearn', reason='the digits come with scikit-learn')
TRAIN = load_digits()[0]
RECIPE = dict(epochs=2, batch_size=64, opt='nesterov', lr=0.1, pad=1, pad_mode='edge', flip=False)
CELLS = load_genotype('nasnet_c')


def evaluator(recipe=None, **settings):
    return Evaluator(TRAIN, ChildSettings(**{
        'num_cells': 1, 'cell_filters': 4, **settings, 'recipe': {**RECIPE, **(recipe or {})}}))


def test_a_child_is_trained_and_validated():
    evaluate = evaluator(recipe=dict(epochs=3))
    found = evaluate(CELLS)
    assert found.accuracy > 0.4 and found.seconds > 0 and found.params > 10_000 and found.macs > 10_000
    assert evaluate(CELLS)[:3] == found[:3], 'the same seed, the same child'
    assert evaluate.train.size() + evaluate.val.size() == 1347 and 125 < evaluate.val.size() < 135
    assert evaluator(limit_train=200).train.size() == 200


def test_a_child_is_pruned():
    seen = []

    def report(epoch, accuracy):
        seen.append((epoch, accuracy))
        return epoch == 2
    with pytest.raises(Pruned, match='pruned after epoch 2, with'):
        evaluator(recipe=dict(epochs=4), limit_train=300)(CELLS, report)
    assert [epoch for epoch, _ in seen] == [1, 2] and all(0 <= accuracy <= 1 for _, accuracy in seen)
    whole = evaluator(limit_train=300)(CELLS)
    assert evaluator(limit_train=300)(CELLS, lambda epoch, accuracy: False)[:3] == whole[:3], 'watching changes nothing'


def test_an_interrupted_training_continues_from_its_last_epoch(tmp_path):
    recipe, seen = dict(epochs=3), []

    def interrupt(epoch, accuracy):
        if epoch == 2:
            raise KeyboardInterrupt

    def follow(epoch, accuracy):
        seen.append(epoch)
    evaluate = evaluator(recipe, limit_train=300, drop_path_rate=0.5)
    with pytest.raises(KeyboardInterrupt):
        evaluate(CELLS, interrupt, tmp_path)
    checkpoint, = tmp_path.iterdir()
    tensors, metadata = read_safetensors(checkpoint)
    save_file(tensors, checkpoint, dict(metadata, seconds='1000.0'))
    again = evaluate(CELLS, follow, tmp_path)
    assert not seen, 'the third epoch is the last one'
    whole = evaluate(CELLS, follow)
    assert again.rewards == whole.rewards and again.seconds > 1000 > whole.seconds
    seen.clear()
    evaluate.with_seed(1)(CELLS, follow, tmp_path)
    assert seen == [1, 2] and len(list(tmp_path.iterdir())) == 2, 'another training has a checkpoint of its own'
    evaluate(CELLS, checkpoints=tmp_path / 'missing')
    assert not (tmp_path / 'missing').exists()


def test_a_damaged_checkpoint_is_replaced(tmp_path):
    evaluate = evaluator(dict(epochs=1), limit_train=300)
    found = evaluate(CELLS, checkpoints=tmp_path)
    checkpoint, = tmp_path.iterdir()
    content = checkpoint.read_bytes()
    checkpoint.write_bytes(b'x' * 100)
    assert evaluate(CELLS, checkpoints=tmp_path).rewards == found.rewards
    assert len(checkpoint.read_bytes()) >= len(content) - 100, 'only the duration may have another length'


def test_latency_and_the_size_of_images():
    evaluate = evaluator(latency=True, img_size=16)
    costs = evaluate.costs(CELLS)
    assert 0.1 < costs['latency'] < 1000 and evaluate.train.input_size == evaluate.val.input_size == (1, 16, 16)
    assert costs['macs'] > evaluator().costs(CELLS)['macs'] and evaluator().costs(CELLS)['latency'] is None


def test_defaults_are_the_papers():
    settings = ChildSettings()
    assert (settings.num_cells, settings.cell_filters, settings.recipe.epochs, settings.val_share) == (2, 32, 20, 0.1)
    assert (settings.recipe.opt, settings.recipe.momentum, settings.recipe.sched) == ('momentum', 0.9, 'cosine')


@pytest.mark.parametrize('settings, message', [
    (dict(max_params=1000), r'has [\d,]+ parameters, more than --max-params 1,000'),
    (dict(max_macs=1000), r'has [\d,]+ mult-adds, more than --max-macs 1,000'),
    (dict(cell_filters=2048, num_cells=32), 'cell_filters: nasnet_c of this size'),
    (dict(time_limit=1e-3), 'takes longer than 0.001 s; it was stopped after step 1 of 38'),
    (dict(recipe=dict(lr=1e30, warmup_epochs=0)), 'a lower lr than 1e'),
    (dict(recipe=dict(batch_size=2000)), 'batch_size: 2000 is more than the')])
def test_a_child_that_gives_no_accuracy_says_why(settings, message):
    with pytest.raises(ChildError, match=message):
        evaluator(**settings)(CELLS)


@pytest.mark.parametrize('error', [torch.OutOfMemoryError('CUDA out of memory. Tried'), MemoryError(), RuntimeError(
    "DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes")])
def test_out_of_memory(monkeypatch, error):
    def run_epoch(self, on_step=None):
        raise error
    monkeypatch.setattr('nasnet_zoo.training.trainer.Trainer.run_epoch', run_epoch)
    with pytest.raises(ChildError, match='out of memory'):
        evaluator()(CELLS)


def test_other_errors_are_errors(monkeypatch):
    def run_epoch(self, on_step=None):
        raise RuntimeError('a mistake of ours')
    monkeypatch.setattr('nasnet_zoo.training.trainer.Trainer.run_epoch', run_epoch)
    with pytest.raises(RuntimeError, match='of ours'):
        evaluator()(CELLS)


def test_settings_are_checked():
    with pytest.raises(TypeError, match="unexpected argument 'filters'"):
        ChildSettings(filters=3)
    with pytest.raises(ValueError, match='val_share'):
        ChildSettings(val_share=1.)
    with pytest.raises(ValueError, match='recipe.rate: extra inputs are not permitted'):
        ChildSettings(recipe=dict(rate=3))
    with pytest.raises(ValueError, match=r'^trials: input should be greater than or equal to 1, not 0 of type int; '
                                         r"child\.recipe\.lr: input should be a valid number, not '1' of type str$"):
        SearchConfig(out='x', trials=0, child=dict(recipe=dict(lr='1')))
    with pytest.raises(TypeError, match="unexpected argument 'tirals'; known: out, "):
        SearchConfig(out='x', tirals=3)
    with pytest.raises(ValueError, match='^out: field required$'):
        SearchConfig()
    with pytest.raises(ValueError, match='^prune: Optuna prunes by a single objective only'):
        SearchConfig(out='x', prune='median', objective='macs')
    recipe = ChildSettings(recipe=dict(lr=0.2)).recipe
    assert recipe.lr == 0.2 and recipe.epochs == 20, "the defaults are those of a child's recipe"


def test_a_child_of_fewer_cells():
    whole, short = (evaluator(**settings) for settings in (dict(), dict(reductions='replace', stages=2)))
    assert [cell.kind for cell in whole.build(CELLS).plan.cells] == ['normal', 'reduction', 'normal', 'reduction',
                                                                     'normal']
    assert [cell.kind for cell in short.build(CELLS).plan.cells] == ['normal', 'reduction']
    assert 0 < short(CELLS).accuracy < 1


def test_rewards_of_a_training():
    found = evaluator(reward='val_loss', limit_train=300)(CELLS)
    assert found.reward == found.rewards['val_loss'] != found.accuracy == found.rewards['accuracy']
    assert all(0 < reward < 1 for reward in found.rewards.values()) and set(found.rewards) == set(REWARDS)
    assert found[1:4] == evaluator(limit_train=300)(CELLS)[1:4], 'the reward does not change the training'

"""Digits in, a classifier out."""
import json
import math

import pytest
import torch

from nasnet_zoo import compile_genotype
from nasnet_zoo.data import load_digits
from nasnet_zoo.training.metrics import evaluate
from nasnet_zoo.training.recipe import Recipe
from nasnet_zoo.training.sync_norm import synchronised
from nasnet_zoo.training.trainer import Trainer, train

pytest.importorskip('sklearn', reason='the digits come with scikit-learn')
TRAIN, TEST = load_digits()
DIGITS = dict(batch_size=64, opt='nesterov', lr=0.1, pad=1, pad_mode='edge', flip=False)


def small(genotype='nasnet_a', **kwargs):
    torch.manual_seed(0)
    return compile_genotype(
        genotype, num_cells=1, cell_filters=6, stem='cifar', img_size=8, num_classes=10, in_chans=1, **kwargs)


def recipe(**kwargs):
    return Recipe(**{**DIGITS, 'epochs': 1, **kwargs})


def same(model, other):
    return all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), other.state_dict().values()))


def test_trains_on_digits():
    model = small(drop_path_rate=0.1, aux_head=True)
    steps = []
    trained = train(model, TRAIN, recipe(epochs=5), on_step=steps.append)
    assert trained is model and not model.training
    assert evaluate(model, TEST).top1 > 0.9
    assert len(steps) == 5 * (1347 // 64) == steps[-1]['steps'] == steps[-1]['step']
    assert max(s['lr'] for s in steps) == pytest.approx(0.1, rel=0.05) and steps[-1]['lr'] < 0.01
    assert model.drop_path_progress == pytest.approx((len(steps) - 1) / len(steps))
    assert steps[-1]['accuracy'] > 0.7 and steps[-1]['images_per_second'] > 0


@pytest.mark.parametrize('genotype', ['nasnet_b', 'nasnet_c', 'amoebanet_d'])
def test_other_cells_learn(genotype):
    assert evaluate(train(small(genotype), TRAIN, recipe(epochs=3)), TEST).top1 > 0.5


def test_defaults_are_the_papers():
    default = Recipe()
    assert (default.opt, default.momentum, default.lr, default.batch_size, default.epochs) == (
        'momentum', 0.9, 0.025, 32, 600)
    assert (default.sched, default.weight_decay, default.clip_grad, default.aux_weight) == ('cosine', 5e-4, 5, 0.4)


def test_norms_and_biases_do_not_decay():
    groups = Trainer(small(), TRAIN, recipe()).optimizer.param_groups
    assert sorted(group['weight_decay'] for group in groups) == [0, 5e-4]
    assert all(p.ndim > 1 for group in groups for p in group['params'] if group['weight_decay'])


def test_same_seed_same_weights():
    first, second, other = (train(small(drop_path_rate=0.2), TRAIN, recipe(batch_size=256, seed=seed))
                            for seed in (1, 1, 2))
    assert same(first, second) and not same(first, other)


@pytest.mark.parametrize('options', [
    dict(opt='adamw', lr=2e-3, ema=0.9, label_smoothing=0.1), dict(opt='lamb', lr=1e-2),
    dict(mixup=0.2, cutmix=0.2, cutout=4), dict(bf16=True),
    dict(sched='poly', channels_last=False, sizes=((0, 8), (1, 10)))],
    ids=['adamw, average', 'lamb', 'mixup', 'bf16', 'sizes'])
def test_state_is_all_that_the_next_epoch_needs(options):
    chosen, few = recipe(epochs=3, batch_size=128, **options), TRAIN._replace(
        images=TRAIN.images[:400], labels=TRAIN.labels[:400])
    whole = Trainer(small(drop_path_rate=0.2, aux_head=True), few, chosen)
    rows = [whole.run_epoch() for _ in range(3)]
    assert all(math.isfinite(row['loss']) for row in rows) and rows[-1]['epoch'] == 3

    halves = Trainer(small(drop_path_rate=0.2, aux_head=True), few, chosen)
    halves.run_epoch()
    tensors, rest = halves.state()
    tensors, rest = {name: tensor.clone() for name, tensor in tensors.items()}, json.loads(json.dumps(rest))
    torch.manual_seed(77)
    resumed = Trainer(small(genotype='nasnet_a', drop_path_rate=0.2, aux_head=True), few, chosen)
    resumed.load_state(tensors, rest)
    for row in rows[1:]:
        assert resumed.run_epoch()['loss'] == row['loss']
    assert same(resumed.model, whole.model) and same(resumed.result, whole.result)


def test_average_is_the_result():
    trainer = Trainer(small(), TRAIN, recipe(batch_size=256, ema=0.99))
    trainer.run_epoch()
    assert trainer.result is not trainer.model and not same(trainer.result, trainer.model)


def test_small_images_may_be_smaller_at_first():
    sizes = []
    model = small()
    model.stem.register_forward_pre_hook(lambda module, args: sizes.append(args[0].shape[-1]))
    train(model, TRAIN, recipe(epochs=3, batch_size=1000, sizes=((0, 4), (2, 6))))
    assert sizes == [4, 4, 6]


def test_auxiliary_loss_is_weighed():
    losses = {}
    for weight in (0., 0.4):
        steps = []
        train(small(aux_head=True), TRAIN, recipe(batch_size=1000, aux_weight=weight), on_step=steps.append)
        losses[weight] = steps[0]['loss']
    assert losses[0.4] > losses[0.] + 0.3


def test_what_cannot_be_trained():
    with pytest.raises(FloatingPointError, match='a lower lr than 1e'):
        train(small(), TRAIN, recipe(lr=1e30, batch_size=256, warmup_epochs=0))
    with pytest.raises(ValueError, match='batch_size: 2000 is more than the 1347 images'):
        train(small(), TRAIN, recipe(batch_size=2000))
    with pytest.raises(ValueError, match='lr: .* not -1'):
        recipe(lr=-1.)
    with pytest.raises(TypeError, match="unexpected argument 'learning_rate'"):
        recipe(learning_rate=0.1)
    with pytest.raises(ValueError, match='epochs'):
        recipe(epochs=0)
    with pytest.raises(ValueError, match='sched'):
        recipe(sched='none')
    with pytest.raises(ValueError, match="opt: unknown optimiser 'adamv'; did you mean 'adam"):
        recipe(opt='adamv')
    with pytest.raises(ValueError, match='lr'):
        Recipe(lr=-1.)
    with pytest.raises(ValueError, match=(
        'batch_size: mixup and cutmix need an even number of images in each process, not 5')):
        train(small(), TRAIN, recipe(batch_size=5, mixup=0.2))


def test_warm_up_is_at_most_a_fifth():
    steps = []
    train(small(), TRAIN, recipe(batch_size=128, warmup_epochs=5), on_step=steps.append)
    rates = [step['lr'] for step in steps]
    assert rates.index(max(rates)) == 2 and max(rates) > 0.09 and rates[-1] < 0.01


def test_synchronised_norm_is_stable(tmp_path):
    """Alone, it is PyTorch's, for activations far from 0 and in half precision too."""
    torch.distributed.init_process_group('gloo', init_method=f'file://{tmp_path / "store"}', rank=0, world_size=1)
    try:
        torch.manual_seed(0)
        for dtype in (torch.float32, torch.bfloat16):
            x = (torch.randn(8, 3, 4, 4) * 0.1 + 1000).to(dtype)
            plain, ours = torch.nn.BatchNorm2d(3), synchronised(torch.nn.Sequential(torch.nn.BatchNorm2d(3)))
            for module in (plain, ours):
                module.train()
            torch.testing.assert_close(ours(x), plain(x), rtol=1e-2, atol=1e-2)
            torch.testing.assert_close(ours[0].running_var, plain.running_var, rtol=1e-3, atol=1e-3)
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
@pytest.mark.parametrize('compiled', [False, True], ids=['eager', 'compiled'])
def test_trains_on_a_gpu(compiled):
    model = train(small(aux_head=True), TRAIN, recipe(epochs=5, bf16=True, compile=compiled), 'cuda')
    assert evaluate(model, TEST, device='cuda').top1 > 0.9


def test_a_batch_of_one_image_that_a_batch_norm_cannot_take():
    model = small(aux_head=True)  # its last norm sees a single value for each channel
    with pytest.raises(ValueError, match='batch_size: a batch of one image .* use batches of two or more images'):
        train(model, TRAIN, recipe(batch_size=1))

"""timm's and Cadene's own networks, with random weights and statistics, against ours with the same weights."""
import pytest
import timm
import torch

from helpers.checkpoints import LARGE, SIZES, TOLERANCE, error, logits, randomise, shapes
from nasnet_zoo import compile_genotype, load_foreign_weights
from nasnet_zoo.checkpoints.load import convert_state_dict


def test_timm_nasnet(timm_nasnet):
    model = compile_genotype('nasnet_a', pool_padding='timm', **LARGE)
    load_foreign_weights(model, timm_nasnet.state_dict())
    other = compile_genotype('nasnet_a', pool_padding='tf', **LARGE)
    load_foreign_weights(other, timm_nasnet.state_dict())
    for size in SIZES:
        theirs = logits(timm_nasnet, size)
        assert error(logits(model, size), theirs) < TOLERANCE
        assert error(logits(other, size), theirs) > TOLERANCE  # the measure tells so small a difference


def test_timm_pnasnet():
    peer = randomise(timm.create_model('pnasnet5large'), SIZES[0])
    model = timm.create_model('pnasnet5_large', pool_padding='timm')
    load_foreign_weights(model, peer.state_dict())
    for size in SIZES:
        assert error(logits(model, size), logits(peer, size)) < TOLERANCE


def test_cadene_mobile(cadene, tmp_path):
    peer = randomise(cadene('nasnet_mobile').NASNetAMobile(), 224)
    path = tmp_path / 'weights'
    torch.save(peer.state_dict(), path, _use_new_zipfile_serialization=False)  # as the published file is
    model = timm.create_model('nasnet_a_mobile')
    load_foreign_weights(model, path)
    assert error(logits(model, 224), logits(peer, 224)[:, 1:]) < TOLERANCE


def test_cadene_large(cadene):
    peer = cadene('nasnet').NASNetALarge(num_classes=20, stem_filters=16, penultimate_filters=24 * 8)
    peer = randomise(peer, 331)
    model = compile_genotype('nasnet_a', **LARGE)
    load_foreign_weights(model, peer.state_dict())
    assert error(logits(model, 331), logits(peer, 331)) < TOLERANCE


@pytest.mark.parametrize('theirs, ours', [('nasnetalarge', 'nasnet_a_large'), ('pnasnet5large', 'pnasnet5_large')])
def test_timm_published(theirs, ours):
    model = timm.create_model(ours, device='meta')
    peer = timm.create_model(theirs, device='meta').state_dict()
    assert shapes(convert_state_dict(peer, model)) == shapes(model.state_dict())


@pytest.mark.parametrize('module, theirs, ours, classes', [
    ('nasnet_mobile', 'NASNetAMobile', 'nasnet_a_mobile', 1001),
    ('nasnet', 'NASNetALarge', 'nasnet_a_large', 1000),
    ('nasnet', 'NASNetALarge', 'nasnet_a_large', 1001),
])
def test_cadene_published(cadene, module, theirs, ours, classes):
    model = timm.create_model(ours, device='meta')
    with torch.device('meta'):
        peer = getattr(cadene(module), theirs)(num_classes=classes).state_dict()
    assert shapes(convert_state_dict(peer, model)) == shapes(model.state_dict())

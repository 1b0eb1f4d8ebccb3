"""What `nasnet-zoo describe` prints, as a user types it."""
import copy
import json
import subprocess
import sys

import pytest
import timm
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from typer.testing import CliRunner

from helpers.paths import ROOT
from nasnet_zoo import compile_genotype, load_genotype
from nasnet_zoo.cli.main import app
from nasnet_zoo.description import cell_lines, describe


def run(*args):
    return CliRunner().invoke(app, ['describe', *args])


def test_counts_are_those_of_the_real_network():
    model = compile_genotype('nasnet_c', num_cells=1, cell_filters=4, num_classes=5).eval()
    macs = 0

    def count(module, inputs, output):
        nonlocal macs
        macs += output[0].numel() * module.weight[0].numel() if isinstance(module, nn.Conv2d) else module.weight.numel()

    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            module.register_forward_hook(count)
    features = model.forward_features(torch.randn(1, 3, 65, 65))
    model.forward_head(features)
    report = describe('nasnet_c', num_cells=1, cell_filters=4, num_classes=5, img_size=65)
    assert report['macs'] == macs
    assert report['params'] == sum(p.numel() for p in model.parameters())
    assert report['features'][-1]['shape'] == list(features.shape[1:])
    stem_and_head = sum(p.numel() for part in (model.stem, model.head) for p in part.parameters())
    assert sum(cell['params'] for cell in report['cells']) + stem_and_head == report['params']
    assert report['input_size'] == [3, 65, 65]


def test_json_and_picture(tmp_path):
    path = tmp_path / 'cell.json'
    load_genotype('pnasnet5').save(path)
    result = run(str(path), '--json', '--draw', str(tmp_path / 'cell.svg'), '--num-cells', '2', '--filters', '240',
                 '--stem', 'cifar', '--img-size', '48', '--num-classes', '7')
    assert result.exit_code == 0, result.output
    report = json.loads(result.output)
    assert report['skeleton']['cell_filters'] == 12 and report['num_classes'] == 7
    assert report['params'] > 0 and report['macs'] > 0 and report['input_size'] == [3, 48, 48]
    assert (tmp_path / 'cell.svg').read_text(encoding='utf-8').lstrip().startswith('<?xml')


def test_table():
    result = run('nasnet_a_cifar')
    assert result.exit_code == 0
    parts = 'N = 6, F = 32', 'normal cell', 'b0 = sep_conv_5x5(h0) + sep_conv_3x3(h1)', '768 x 8 x 8', '3,346,538'
    assert all(part in result.output for part in parts), result.output


def test_cells_as_text():
    lines = cell_lines(load_genotype('nasnet_c').reduction)
    assert lines[:2] == ['b0 = concat(max_pool_3x3(h0), max_pool_3x3(h0))',
                         'b1 = conv_1x7_7x1(h0) + max_pool_3x3(h1), then layer norm']
    assert lines[-1] == 'output 0: b0, b1, b2, b3'


@pytest.mark.parametrize('args, message', [
    (['nasnet_cc'], "did you mean 'nasnet_c'"),
    (['nowhere.json'], 'No such file'),
    (['nasnet_a', '--filters', '1000'], 'the nearest are 984 (cell_filters=41) and 1008 (cell_filters=42)'),
    (['nasnet_a', '--num-cells', '0'], 'num_cells: '),
    (['nasnet_a', '--stem', 'mnist'], 'stem: '),
    (['nasnet_a', '--draw', 'a.bmp'], '.bmp'),
    (['nasnet_a', '--img-size', '2'], 'img_size: 2 x 2 pixels are too small for the stem'),
    (['nasnet_a_mobile.bogus'], 'Invalid pretrained tag'),
    (['[/x]/a.json'], 'No such file'),
])
def test_errors_are_sentences(args, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run(*args)
    assert result.exit_code == 1 and message in result.stderr and not result.stdout
    assert isinstance(result.exception, SystemExit), 'no traceback'


def test_the_tool_is_the_subcommand(tmp_path):
    process = subprocess.run(
        [sys.executable, ROOT / 'tools' / 'describe.py', 'nasnet_cc'], cwd=tmp_path, capture_output=True, text=True)
    assert process.returncode == 1 and "did you mean 'nasnet_c'" in process.stderr and not process.stdout


def test_model_card_figures_are_measured():
    """Each row of MODEL_CARD.md's cost table: | `name` | ... | our parameters | our mult-adds | Google's parameters |.

    Ours are in millions.
    """
    rows = [[cell.strip() for cell in line.strip('|\n ').split('|')]
            for line in (ROOT / 'MODEL_CARD.md').read_text(encoding='utf-8').splitlines()
            if line.startswith('| `') and line.count('|') == 10]
    names = set()
    for row in rows:
        name = row[0].strip('`')
        report = describe(name)
        names.add(name)
        assert (row[4], row[5]) == (f'{report["params"] / 1e6:.3f} M', f'{report["macs"] / 1e6:,.1f} M'), name
        assert row[2] == f'{report["input_size"][-1]}', name
        assert row[6] in ('–', f'{report["params"]:,}'), name
    import timm
    assert names == set(timm.list_models(module='zoo')) - {'nasnet'}


@pytest.mark.parametrize('name', ['nasnet_a_cifar_small', 'nasnet_b_cifar_small', 'nasnet_c_cifar_small',
                                  'pnasnet5_mobile', 'amoebanet_c_mobile'])
def test_counting_tools_agree(name):
    """They also count batch norms, pools and activations, for which they are told to count nothing here."""
    thop, ptflops = pytest.importorskip('thop'), pytest.importorskip('ptflops')
    model = timm.create_model(name).eval()
    size, report = model.default_cfg['input_size'], describe(name)
    others = (nn.BatchNorm2d, nn.AvgPool2d, nn.MaxPool2d, nn.AdaptiveAvgPool2d, nn.GroupNorm, nn.ReLU)
    macs, params = thop.profile(
        copy.deepcopy(model), (torch.zeros(1, *size),), verbose=False,
        custom_ops=dict.fromkeys(others, lambda module, inputs, output: None))
    norms = sum(p.numel() for m in model.modules() if isinstance(m, nn.GroupNorm) for p in m.parameters())
    assert (macs, params) == (report['macs'], report['params'] - norms)  # thop has no rule for group norms
    macs, params = ptflops.get_model_complexity_info(
        copy.deepcopy(model), size, as_strings=False, print_per_layer_stat=False, backend='pytorch',
        ignore_modules=list(others), backend_specific_config=dict(count_functional=False))
    assert (macs, params) == (report['macs'] + model.num_classes, report['params'])  # it counts the classifier's bias
    with FlopCounterMode(display=False) as counter:
        model.train()(torch.zeros(2, *size))
    assert counter.get_total_flops() == 2 * 2 * report['macs'], 'PyTorch counts the same in training'

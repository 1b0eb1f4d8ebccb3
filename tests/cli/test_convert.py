"""`nasnet-zoo convert`."""
import pytest
import torch
from typer.testing import CliRunner

from nasnet_zoo import compile_genotype
from nasnet_zoo.cli import app
from nasnet_zoo.zoo import build


def test_a_folder_from_a_file(tmp_path):
    source = compile_genotype('nasnet_c', num_cells=1, cell_filters=4, stem='cifar', num_classes=3, aux_head=True)
    torch.save({'model': source.state_dict()}, tmp_path / 'model.pth')
    result = CliRunner().invoke(app, [
        'convert', str(tmp_path / 'model.pth'), '--model', 'nasnet_c', '--out', str(tmp_path / 'out'),
        '--num-cells', '1', '--cell-filters', '4', '--stem', 'cifar'])
    assert result.exit_code == 0, result.output
    assert result.output.replace('\n', ' ').startswith('loaded model; ignored: aux_head written: ')
    model = build(str(tmp_path / 'out'), pretrained=True)
    assert torch.equal(model.head.fc.weight, source.head.fc.weight)


def test_weights_of_a_network_of_layers(tmp_path):
    args = dict(num_layers=4, cell_filters=4, num_classes=3)
    torch.save(compile_genotype('darts_v2', stem='darts_cifar', **args).state_dict(), tmp_path / 'model.pth')
    result = CliRunner().invoke(app, [
        'convert', str(tmp_path / 'model.pth'), '--model', 'darts_v2_cifar', '--out', str(tmp_path / 'out'),
        '--num-layers', '4', '--cell-filters', '4'])
    assert result.exit_code == 0, result.output
    assert build(str(tmp_path / 'out'), pretrained=True).skeleton.num_layers == 4


@pytest.mark.parametrize('options, message', [
    ([], 'say either which model the weights are for (--model) or the package'),
    (['--model', 'nasnet_c', '--to', 'timm'], 'say either which model'),
    (['--to', 'timm', '--num-cells', '3'], 'with --to, the network is that of the model folder'),
    (['--model', 'nasnet_c'], 'No such file'),
])
def test_errors_are_a_line(tmp_path, options, message):
    result = CliRunner().invoke(app, ['convert', str(tmp_path / 'none'), '--out', str(tmp_path / 'out'), *options])
    assert result.exit_code == 1
    assert message in result.stderr and len(result.stderr.splitlines()) == 1

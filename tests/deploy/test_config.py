"""The settings of an export, and the command that is generated from them."""
import json

import pytest
from typer.testing import CliRunner

from nasnet_zoo.cli.main import app
from nasnet_zoo.deploy.compare import PRECISIONS
from nasnet_zoo.deploy.config import ExportConfig
from nasnet_zoo.deploy.formats import FORMATS
from nasnet_zoo.deploy.layouts import LAYOUTS
from nasnet_zoo.graph.passes import PASSES

MODEL = 'nasnet_c_cifar_small'


@pytest.mark.parametrize('settings', [
    dict(img_size=(32, 48), mean=[0.1, 0.2, 0.3], passes=[], pictures=['a', 'b.png'], checkpoint='c.pth'),
    dict(img_size=40, passes=('fold_norms',), class_names=['a', 'b'], batch_size=3, precision='int8'),
    dict(layout='triton', name='cells')])
def test_settings_survive_json(settings):
    config = ExportConfig(source=MODEL, out='x', **settings)
    assert ExportConfig.model_validate_json(config.model_dump_json()) == config
    assert ExportConfig(**dict(config)) == config


@pytest.mark.parametrize('settings, batch_size', [
    ({}, 1), (dict(batch_size=4), 4), (dict(dynamic_batch=True), None), (dict(layout='triton'), None),
    (dict(layout='photoprism'), 1)])
def test_images_at_a_time(settings, batch_size):
    assert ExportConfig(source=MODEL, out='x', **settings).fixed_batch_size == batch_size


def test_an_error_is_one_line():
    match = '^--batch-size: cannot be combined with --dynamic-batch or --layout triton, triton-openvino$'
    with pytest.raises(ValueError, match=match):
        ExportConfig(source=MODEL, out='x', batch_size=2, dynamic_batch=True)
    with pytest.raises(TypeError, match="unexpected argument 'optset'"):
        ExportConfig(source=MODEL, out='x', optset=17)


def test_the_help_lists_the_tables():
    text = CliRunner(env=dict(COLUMNS='800')).invoke(app, ['export', '--help']).stdout
    for table in (FORMATS, LAYOUTS, PRECISIONS):
        for name, row in table.items():
            assert f'{name} ({row.description})' in text
    for name in PASSES:
        assert name in text


@pytest.mark.parametrize('options, exit_code, message', [
    (['--mean', 'x'], 2, "Invalid value for '--mean'"),
    (['--std', '0.5,'], 2, "Invalid value for '--std'"),
    (['--img-size', '1,2,3'], 2, '3 sides'),
    (['--batch-size', '0'], 2, "Invalid value for '--batch-size'"),
    (['--calibrate', 'many'], 2, "Invalid value for '--calibrate'"),
    (['--opset', 'new'], 2, "Invalid value for '--opset'"),
    (['--layout', 'tf'], 1, "layout: unknown layout 'tf'; known: plain, web, openvino, triton"),
    (['--passes', 'fold_norms,share'], 1, "passes: unknown pass 'share'"),
    (['--img-size', 'large'], 2, 'not a number of pixels'),
    (['--format', 'pt2', '--opset', '19'], 1, 'format pt2: has no opsets; leave --opset out'),
    (['--precision', 'int8', '--half'], 1, '--precision, --half: choose one'),
    (['--half', '--format', 'pt2'], 1, 'format pt2: can be written in float32, not in float16'),
])
def test_a_bad_option_is_named(options, exit_code, message, tmp_path):
    done = CliRunner(env=dict(COLUMNS='200')).invoke(app, ['export', MODEL, '--out', str(tmp_path / 'out'), *options])
    assert done.exit_code == exit_code and message in done.stderr and 'Traceback' not in done.output
    assert not (tmp_path / 'out').exists()


def test_the_options_reach_the_manifest(tmp_path):
    (tmp_path / 'labels.txt').write_text(''.join(f'class {i}\n' for i in range(10)), encoding='utf-8')
    done = CliRunner().invoke(app, [
        'export', MODEL, '--out', str(tmp_path / 'out'), '--labels', str(tmp_path / 'labels.txt'), '--half',
        '--mean', '0.4,0.5,0.6', '--img-size', '40', '--passes', 'none', '--dynamic-batch', '--opset', '18', '--json'])
    manifest = json.loads(done.stdout)
    assert manifest['preprocessing']['class_names'][9] == 'class 9' and manifest['precision'] == 'float16'
    assert manifest['preprocessing']['input_size'] == [3, 40, 40] and manifest['passes'] == []
    assert manifest['shapes']['image'][0] == 'batch' and manifest['opset'] == 18
    assert manifest['config']['mean'] == [0.4, 0.5, 0.6] and manifest['config']['img_size'] == [40, 40]

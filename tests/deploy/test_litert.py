"""LiteRT files, run by LiteRT."""
import json

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from nasnet_zoo.cli.main import app
from nasnet_zoo.deploy.bundle import deploy, load_trained
from nasnet_zoo.deploy.config import ExportConfig

MODEL = 'nasnet_c_cifar_small'


def export_to(folder, **settings):
    return deploy(ExportConfig(source=MODEL, format='litert', out=folder, **settings))


def test_what_it_needs(tmp_path):
    with pytest.raises(ValueError, match='format litert: takes a fixed number of images of a fixed size; leave'):
        export_to(tmp_path / 'out', dynamic_batch=True)
    with pytest.raises(ValueError, match='format litert: can be written in float32, not in int8'):
        export_to(tmp_path / 'out', precision='int8')
    with pytest.raises(ValueError, match='layout web: needs format to be onnx, not litert'):
        export_to(tmp_path / 'out', layout='web')
    try:
        import litert_torch  # noqa: F401
    except ImportError:
        done = CliRunner().invoke(app, ['export', MODEL, '--format', 'litert', '--out', str(tmp_path / 'out')])
        assert done.exit_code == 1 and 'pip install "nasnet-zoo[litert]"' in done.stderr
    assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize('settings', [{}, dict(batch_size=2, with_preprocessing=True, softmax=True)])
def test_results(tmp_path, capfd, settings):
    pytest.importorskip('litert_torch', reason='converts networks to LiteRT')
    from ai_edge_litert import schema_py_generated as schema
    from ai_edge_litert.interpreter import Interpreter
    manifest = export_to(tmp_path, **settings)
    assert capfd.readouterr().out == ''
    path, count = tmp_path / 'model.tflite', settings.get('batch_size', 1)
    assert manifest['file']['path'] == path.name and manifest['compared_with_pytorch']['random']['count'] >= count
    runner, images = Interpreter(str(path)).get_signature_runner(), np.random.default_rng(0).integers(
        0, 256, (count, 3, 32, 32), np.uint8)
    found = schema.ModelT.InitFromPackedBuf(path.read_bytes())
    entry, = (entry for entry in found.metadata if entry.name == b'nasnet_zoo.preprocessing')
    preprocessing = json.loads(bytes(found.buffers[entry.buffer].data))
    assert preprocessing == manifest['preprocessing']
    mean, std = (torch.tensor(preprocessing[name]).reshape(-1, 1, 1) for name in ('mean', 'std'))
    normalised = (torch.from_numpy(images) / 255 - mean) / std
    with torch.no_grad():
        expected = load_trained(MODEL)[0](normalised)
    if settings:
        got = runner(image=images.transpose(0, 2, 3, 1))['probabilities']
        expected = expected.softmax(1)
    else:
        got = runner(image=normalised.numpy())['logits']
    np.testing.assert_allclose(got, expected.numpy(), rtol=1e-4, atol=1e-5)

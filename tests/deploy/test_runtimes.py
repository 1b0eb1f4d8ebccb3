"""The same file in each runtime."""
import gc
import importlib.util
import json
import re
import signal
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import timm
from PIL import Image
from typer.testing import CliRunner

from helpers.networks import small
from nasnet_zoo import Classifier, export_onnx
from nasnet_zoo.cli.main import app
from nasnet_zoo.data.preprocessing import make_preprocessing
from nasnet_zoo.deploy import runtimes, session_onnxruntime, session_openvino
from nasnet_zoo.deploy.runtimes import RUNTIMES, open_session
from nasnet_zoo.deploy.session import InputError, SessionError, read_precision
from nasnet_zoo.deploy.session_openvino import HINTS, shared_core
from nasnet_zoo.graph.compare import relative_difference

needs_openvino = pytest.mark.skipif(
    importlib.util.find_spec('openvino') is None, reason='OpenVINO is not installed')


def need_precision(precision):
    """Skip the test if OpenVINO cannot compute in a precision on this processor."""
    pytest.importorskip('openvino', reason='OpenVINO is not installed')
    if HINTS[precision].capability not in shared_core().get_property('CPU', 'OPTIMIZATION_CAPABILITIES'):
        pytest.skip(f'OpenVINO does not compute in {precision} on this processor')


@needs_openvino
@pytest.mark.skipif(not hasattr(signal, 'SIGUSR1'), reason='this system has no such signal')
def test_signals_after_two_files(file):
    """Where each file has an ``openvino.Core`` of its own, the process ends here on processors with AMX."""
    first, second = Classifier(file, runtime='openvino'), Classifier(file, runtime='openvino')
    del first
    gc.collect()
    del second
    gc.collect()
    received = []
    previous = signal.signal(signal.SIGUSR1, lambda *_: received.append(1))
    try:
        signal.raise_signal(signal.SIGUSR1)
    finally:
        signal.signal(signal.SIGUSR1, previous)
    assert received == [1]


def images(count, side=16):
    return np.random.default_rng(0).integers(0, 256, (count, 3, side, side), np.uint8)


@pytest.fixture(scope='module')
def file(tmp_path_factory):
    """A network that takes any number of images."""
    model = small('nasnet_a')
    path = tmp_path_factory.mktemp('file') / 'm.onnx'
    export_onnx(model, path, make_preprocessing(model, img_size=16), batch_size=None)
    return path


@pytest.fixture(scope='module')
def int8_file(tmp_path_factory):
    model = small('nasnet_a')
    path = tmp_path_factory.mktemp('int8') / 'm.onnx'
    export_onnx(model, path, make_preprocessing(model, img_size=16), calibration=images(2))
    return path


@needs_openvino
@pytest.mark.parametrize('settings, kwargs', [
    ({}, dict(batch_size=None, dynamic_size=True)),
    (dict(with_preprocessing=True, softmax=True), dict(batch_size=2)),
    ({}, dict(half=True))])
def test_the_same_results(settings, kwargs, tmp_path):
    model = small('nasnet_a')
    export_onnx(model, tmp_path / 'm.onnx', make_preprocessing(model, img_size=16, **settings), **kwargs)
    ours, other = (Classifier(tmp_path / 'm.onnx', runtime=name, threads=1) for name in ('onnxruntime', 'openvino'))
    assert (other.runtime, other.provider, other.batch_size) == ('openvino', 'cpu', ours.batch_size)
    assert other.preprocessing == ours.preprocessing
    tolerance = 5e-3 if kwargs.get('half') else 1e-5
    for batch in (images(3), images(1)):
        assert relative_difference(other.logits(batch), ours.logits(batch)) < tolerance


@needs_openvino
def test_int8(int8_file):
    ours, other = (Classifier(int8_file, runtime=name).logits(images(20)) for name in RUNTIMES)
    assert relative_difference(other, ours) < 0.1
    assert read_precision(str(int8_file)) == 'int8' and Classifier(
        int8_file, runtime='openvino', precision='int8').precision == 'int8'


@pytest.mark.parametrize('runtime', ['onnxruntime', pytest.param('openvino', marks=needs_openvino)])
def test_an_input_that_does_not_fit_is_refused(file, runtime):
    session = open_session(runtime, str(file))
    for batch in (np.zeros((1, 1, 16, 16), np.float32), np.zeros((1, 3, 16, 16), np.uint8),
                  np.zeros((3, 16, 16), np.float32)):
        with pytest.raises(InputError, match=re.escape('the file takes float32 [any, 3, 16, 16], not ')):
            session.run(batch)


@needs_openvino
def test_from_memory(file):
    batch = np.zeros((1, 3, 16, 16), np.float32)
    assert np.allclose(*(open_session(name, file.read_bytes()).run(batch) for name in RUNTIMES), rtol=1e-4, atol=1e-5)
    with pytest.raises(SessionError, match='it is not an ONNX file: '):
        open_session('openvino', b'no model')


def test_precisions(file):
    need_precision('float16')
    exact = Classifier(file, runtime='openvino')
    reduced = Classifier(file, precision='float16')  # which only OpenVINO has
    assert (reduced.runtime, reduced.precision, exact.precision) == ('openvino', 'float16', None)
    assert 1e-6 < relative_difference(reduced.logits(images(4)), exact.logits(images(4))) < 5e-3
    again = reduced.in_own_precision()
    assert again.runtime == 'openvino' and np.array_equal(again.logits(images(4)), exact.logits(images(4)))
    assert Classifier(file, runtime='onnxruntime', precision='float32').precision == 'float32'


@needs_openvino
@pytest.mark.parametrize('name, options, message', [
    ('file', dict(runtime='onnxruntime', precision='bfloat16'),
     'ONNX Runtime computes in the precision of the file, which is float32; OpenVINO can compute in bfloat16'),
    ('file', dict(runtime='openvino', precision='int8'),
     'the file is in float32; int8 needs a file that was quantised (export --int8)'),
    ('int8_file', dict(precision='float32'), 'float32 needs a file that was exported without --int8'),
    ('file', dict(precision='float8'), "precision: unknown precision 'float8'; did you mean 'float"),
    ('file', dict(runtime='openvin'), "runtime: unknown runtime 'openvin'; did you mean 'openvino'?"),
    ('file', dict(provider='npu'), 'openvino, npu: OpenVINO finds no NPU on this machine; it finds CPU'),
    ('file', dict(provider='cuda', runtime='openvino'), "provider: unknown provider 'cuda'; known: auto, cpu, gpu"),
    ('file', dict(provider='webgpu'), 'its plug-in is not installed: pip install onnxruntime-ep-webgpu'),
])
def test_what_a_runtime_cannot_do(name, options, message, request):
    with pytest.raises(ValueError, match=re.escape(message)):
        Classifier(request.getfixturevalue(name), **options)


@needs_openvino
def test_a_processor_without_a_precision(file, monkeypatch):
    monkeypatch.setitem(session_openvino.HINTS, 'bfloat16', session_openvino.Hint('bf16', 'BF15'))
    with pytest.raises(ValueError, match='the CPU of this machine does not compute in bfloat16'):
        Classifier(file, runtime='openvino', precision='bfloat16')


def test_without_openvino(file, monkeypatch):
    monkeypatch.setattr(runtimes, 'find_spec', lambda name: None if name == 'openvino' else True)
    assert Classifier(file).runtime == 'onnxruntime'
    for options in (dict(runtime='openvino'), dict(provider='npu')):
        with pytest.raises(ValueError, match=re.escape(
                'runtime: OpenVINO is not installed; pip install "nasnet-zoo[openvino]"')):
            Classifier(file, **options)
    with pytest.raises(ValueError, match=re.escape(
            'OpenVINO (pip install "nasnet-zoo[openvino]") can compute in bfloat16')):
        Classifier(file, precision='bfloat16')


def test_the_command(file, tmp_path):
    need_precision('bfloat16')
    for i, image in enumerate(images(5)):
        Image.fromarray(image.transpose(1, 2, 0)).save(tmp_path / f'{i}.png')

    def classify(*options):
        done = CliRunner().invoke(app, ['classify', str(file), *options])
        assert done.exit_code == 0, done.output
        return done.stdout
    report = json.loads(classify(str(tmp_path), '--precision', 'bfloat16', '--json'))
    assert (report['runtime'], report['precision'], report['accuracy']) == ('openvino', 'bfloat16', None)
    assert report['cost']['count'] == 5 and 1e-5 < report['cost']['relative_difference'] < 0.1
    text = classify(str(tmp_path), '--precision', 'bfloat16')
    assert "bfloat16: relative difference from the file's own precision " in text and 'in OpenVINO on cpu' in text
    assert json.loads(classify(str(tmp_path), '--runtime', 'onnxruntime', '--json'))['cost'] is None
    done = CliRunner().invoke(app, ['classify', str(file)])
    assert done.exit_code == 1 and 'nothing to classify' in done.stderr


def test_accuracy_of_a_precision(tmp_path):
    need_precision('bfloat16')
    pytest.importorskip('sklearn', reason='the digits come with scikit-learn')
    model = timm.create_model('nasnet', genotype='nasnet_a', stem='cifar', num_cells=1, cell_filters=4, img_size=8,
                              in_chans=1, num_classes=10).eval()
    model.pretrained_cfg.update(mean=(0.3,), std=(0.4,))
    export_onnx(model, tmp_path / 'm.onnx', batch_size=None)
    done = CliRunner().invoke(app, [
        'classify', str(tmp_path / 'm.onnx'), '--data', 'digits', '--precision', 'bfloat16', '--json'])
    found = json.loads(done.stdout)['accuracy']
    assert done.exit_code == 0 and found['dataset'] == 'digits' and found['count'] == 450
    assert 0 < found['relative_difference'] < 0.1 and abs(found['file'] - found['own_precision']) < 0.05


def test_a_plug_in(file, monkeypatch):
    """ONNX Runtime's own provider for the CPU, in the place of a plug-in's."""
    import onnxruntime
    if not hasattr(onnxruntime, 'register_execution_provider_library'):
        pytest.skip('this version of ONNX Runtime has no plug-ins')
    loaded = []
    monkeypatch.setitem(sys.modules, 'onnxruntime_ep_webgpu', SimpleNamespace(get_library_path=lambda: 'x.so'))
    monkeypatch.setattr(onnxruntime, 'register_execution_provider_library', lambda *args: loaded.append(args))
    session_onnxruntime._load_plugin.cache_clear()
    for _ in range(2):  # the library must be loaded once only
        with pytest.raises(ValueError, match='webgpu: its plug-in finds no device on this machine that it can use'):
            Classifier(file, 'webgpu')
    assert loaded == [('WebGpuExecutionProvider', 'x.so')]
    monkeypatch.setitem(session_onnxruntime.PROVIDERS, 'webgpu', session_onnxruntime.Provider(
        'CPUExecutionProvider', 'onnxruntime_ep_webgpu'))
    found = Classifier(file, 'webgpu')
    assert (found.runtime, found.provider) == ('onnxruntime', 'webgpu')
    assert np.array_equal(found.logits(images(2)), Classifier(file, 'cpu', runtime='onnxruntime').logits(images(2)))
    session_onnxruntime._load_plugin.cache_clear()

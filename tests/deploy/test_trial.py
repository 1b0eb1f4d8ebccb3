"""The trial that chooses a runtime, and what is remembered of it."""
import importlib.util
import json
import time

import pytest

from helpers.networks import small
from nasnet_zoo import Classifier, export_onnx
from nasnet_zoo.data.preprocessing import make_preprocessing
from nasnet_zoo.deploy import classifier, trial

needs_openvino = pytest.mark.skipif(
    importlib.util.find_spec('openvino') is None, reason='OpenVINO is not installed')


@pytest.fixture
def store(tmp_path, monkeypatch):
    """The file of trials, in a folder that does not exist yet."""
    monkeypatch.setenv('NASNET_ZOO_CACHE', str(tmp_path / 'cache'))
    return tmp_path / 'cache' / 'runtime_trials.json'


def test_the_faster_one():
    seconds = trial.run_trial(dict(slow=lambda: time.sleep(0.02), fast=lambda: None))
    assert seconds['fast'] < seconds['slow'] and seconds['slow'] >= 0.02


def test_a_trial_ends_in_time():
    calls = []
    started = time.perf_counter()
    trial.run_trial(dict(a=lambda: time.sleep(0.4), b=lambda: calls.append(time.sleep(0.4))))
    assert time.perf_counter() - started < 2 and len(calls) == 1


def test_what_is_stored(store, tmp_path, monkeypatch):
    (tmp_path / 'm.onnx').write_bytes(b'1')
    case = trial.describe_case(tmp_path / 'm.onnx', dict(a='1.0', b=''), None, size=(16, 17))
    assert trial.read_trial(case) is None
    monkeypatch.setattr(trial, '_KEPT', 2)
    for i in range(3):
        trial.write_trial(dict(case, threads=i), dict(a=1., b=2.))
    assert len(json.loads(store.read_text(encoding='utf-8'))) == 2
    assert trial.read_trial(dict(case, threads=0)) is None
    assert trial.read_trial(dict(case, threads=2)) == dict(a=1., b=2.)
    (tmp_path / 'm.onnx').write_bytes(b'2')
    assert trial.describe_case(tmp_path / 'm.onnx', dict(a='1.0', b=''), None, size=(16, 17)) != case
    for text in ('', '{', '[1]', '{"a": 1}', '[{"case": 1, "seconds": 2}]', '[' * 100_000):
        store.write_text(text, encoding='utf-8')
        assert trial.read_trial(case) is None
        trial.write_trial(case, dict(a=1.))
        assert trial.read_trial(case) == dict(a=1.)


def test_a_folder_that_cannot_be_written(store):
    store.parent.write_text('a file', encoding='utf-8')
    trial.write_trial(dict(case=1), dict(a=1.))
    assert trial.read_trial(dict(case=1)) is None


@needs_openvino
def test_auto_tries_once(store, tmp_path, monkeypatch):
    model = small('nasnet_a')
    export_onnx(model, tmp_path / 'm.onnx', make_preprocessing(model, img_size=16))
    path = tmp_path / 'm.onnx'
    assert Classifier(path, trial=False).runtime == 'onnxruntime' and not store.exists()
    monkeypatch.setattr(classifier, 'run_trial', lambda calls: dict(zip(calls, (2., 1.))))
    assert Classifier(path).runtime == 'openvino' and store.exists()
    monkeypatch.setattr(classifier, 'run_trial', lambda calls: pytest.fail('tried again'))
    opened = []
    open_session = classifier.open_session
    monkeypatch.setattr(classifier, 'open_session', lambda *args: opened.append(args[0]) or open_session(*args))
    assert Classifier(path, 'cpu').runtime == Classifier(path, 'cpu', trial=False).runtime == 'openvino'
    assert Classifier(path, 'cpu', runtime='onnxruntime', threads=2).runtime == 'onnxruntime'
    assert opened == ['openvino', 'openvino', 'onnxruntime']
    with pytest.raises(pytest.fail.Exception, match='tried again'):
        Classifier(path, 'cpu', threads=1)

"""The files that layouts write beside a model, read by the software that they are for."""
import json

import numpy as np
import onnx
import pytest

from nasnet_zoo import Classifier
from nasnet_zoo.data.preprocessing import METADATA_KEY
from nasnet_zoo.deploy.bundle import deploy
from nasnet_zoo.deploy.config import ExportConfig
from nasnet_zoo.deploy.layouts import LAYOUTS
from nasnet_zoo.deploy.session_openvino import shared_core

MODEL = 'nasnet_c_cifar_small'


def export_to(folder, **settings):
    return deploy(ExportConfig(**{**dict(source=MODEL), **settings, 'out': folder}))


def paths(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob('*') if path.is_file()}


@pytest.mark.parametrize('layout', [name for name, row in LAYOUTS.items() if '{name}' in row.model])
def test_everything_is_in_the_folder_of_the_model(tmp_path, layout):
    if 'openvino' in layout:
        pytest.importorskip('openvino', reason='writes the IR files')
    manifest = export_to(tmp_path, layout=layout, name='cells')
    assert {path.split('/')[0] for path in paths(tmp_path)} == {'cells'}
    assert (tmp_path / manifest['file']['path']).is_file() and 'cells/labels.txt' in paths(tmp_path)


def test_openvino(tmp_path):
    pytest.importorskip('openvino', reason='writes and runs the IR files')
    export_to(tmp_path, layout='openvino', batch_size=2, with_preprocessing=True)
    assert {'model.onnx', 'model.xml', 'model.bin'} <= paths(tmp_path)
    network, classifier = shared_core().read_model(tmp_path / 'model.xml'), Classifier(tmp_path / 'model.onnx')
    found = json.loads(network.get_rt_info(['framework', METADATA_KEY]).astype(str))
    assert found == classifier.preprocessing.model_dump()
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 32, 32), np.uint8)
    compiled = shared_core().compile_model(network, 'CPU', {'INFERENCE_PRECISION_HINT': 'f32'})
    got = compiled(classifier.preprocessing.feed(images))[0]
    np.testing.assert_allclose(got, classifier.logits(images), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('layout, backend', [('triton', 'onnxruntime'), ('triton-openvino', 'openvino')])
def test_triton(tmp_path, layout, backend):
    text_format = pytest.importorskip('google.protobuf.text_format', reason='protobuf is not here')
    model_config = pytest.importorskip('tritonclient.grpc.model_config_pb2', reason='tritonclient[grpc] is not here')
    if backend == 'openvino':
        pytest.importorskip('openvino', reason='writes the IR files')
    manifest = export_to(tmp_path, layout=layout, name='cells', with_preprocessing=True)
    assert manifest['compared_with_pytorch']['pictures']['count'] == 2  # not those that fill a batch up
    assert paths(tmp_path) == {f'cells/{name}' for name in (
        '1/model.onnx', 'labels.txt', 'config.pbtxt', 'genotype.json', 'manifest.json')} | (
            {'cells/1/model.xml', 'cells/1/model.bin'} if backend == 'openvino' else set())
    text = (tmp_path / 'cells' / 'config.pbtxt').read_text(encoding='utf-8')
    config = text_format.Parse(text, model_config.ModelConfig())
    assert (config.name, config.backend) == ('cells', backend)
    # Triton adds the axis of the images where it forms batches, and the OpenVINO backend cannot.
    assert config.HasField('dynamic_batching') == (config.max_batch_size > 1) == (backend == 'onnxruntime')
    graph = onnx.load(tmp_path / 'cells' / '1' / 'model.onnx').graph
    for described, value in ((config.input[0], graph.input[0]), (config.output[0], graph.output[0])):
        kind = value.type.tensor_type
        assert described.name == value.name
        assert model_config.DataType.Name(described.data_type) == {
            onnx.TensorProto.UINT8: 'TYPE_UINT8', onnx.TensorProto.FLOAT: 'TYPE_FP32'}[kind.elem_type]
        dims = [d.dim_value or -1 for d in kind.shape.dim]
        assert dims[0] == -1 and list(described.dims) == (dims[1:] if config.max_batch_size else dims)
    assert config.output[0].label_filename == 'labels.txt'


def test_results_that_are_not_those_of_the_file(tmp_path, monkeypatch):
    pytest.importorskip('openvino', reason='writes the IR files')
    monkeypatch.setattr('nasnet_zoo.deploy.openvino_ir.reference_image', lambda size: np.full((1, *size), 9, np.uint8))
    monkeypatch.setattr(Classifier, 'logits', lambda self, images: np.ones((len(images), 10), np.float32))
    with pytest.raises(RuntimeError, match=r'model\.xml: .* relative difference .* is not written'):
        export_to(tmp_path / 'out', layout='openvino')
    assert not (tmp_path / 'out').exists()

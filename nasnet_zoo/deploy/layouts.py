"""How the files of a deployment are arranged, for people and for servers: a row of :data:`LAYOUTS` for each layout."""
import json
from pathlib import Path
from typing import Any, Callable, Dict, Mapping, NamedTuple, Optional, Tuple

from ..files import write_utf8
from .deployment import Deployment, ModelFacts
from .openvino_ir import write_ir
from .web import check_page, write_page

__all__ = ['LAYOUTS', 'Layout']


class Layout(NamedTuple):
    """Where the files go, and what else a server needs. All paths are relative to the folder.

    Attributes:
        description: For help texts.
        model: Path of the model file; ``{name}`` and ``{suffix}`` are replaced.
        labels: Path of the file of class names. ``genotype.json`` and ``manifest.json`` lie beside it.
        check: Raises ValueError, before anything is exported, if the layout cannot be written for a model; the other
            argument is ``ExportConfig.ort_web``.
        write: Writes further files beside the model file.
        metadata: Returns further entries of the model file's own metadata.
        requires: For fields of ``ExportConfig``, the values that the layout can work with.
        target: The default target, a name in ``ONNX_TARGETS``.
        options: The fields of ``ExportConfig`` that only this layout uses.
        any_batch_size: Whether the file must take any number of images, as servers expect it that form batches.
        extra: The extra of the package that `write` needs.
    """
    description: str
    model: str
    labels: str
    check: Callable[[ModelFacts, Optional[Path]], None] = lambda facts, ort_web: None
    write: Callable[[Deployment], None] = lambda deployment: None
    metadata: Callable[[ModelFacts], Dict[str, str]] = lambda facts: {}
    requires: Mapping[str, Tuple[Any, ...]] = {}
    target: str = 'onnxruntime'
    options: Tuple[str, ...] = ()
    any_batch_size: bool = False
    extra: Optional[str] = None


def _write_triton_config(deployment: Deployment, backend: str, max_batch_size: int) -> None:
    """Write Triton's description of a model, in the text format of protocol buffers. Triton puts images together to
    batches of up to `max_batch_size`; with 0 it passes on the batches of the clients."""
    facts = deployment.facts
    (image, shape), (output, _) = deployment.exported.shapes.items()
    dtype = 'TYPE_UINT8' if facts.preprocessing.dtype == 'uint8' else 'TYPE_FP32'
    axes, classes = shape[1:] if max_batch_size else shape, [len(facts.preprocessing.class_names)]
    dims, output_dims = (', '.join('-1' if isinstance(side, str) else str(side) for side in sides)
                         for sides in (axes, classes if max_batch_size else [shape[0], *classes]))
    text = f'''name: {json.dumps(facts.name)}
backend: "{backend}"
max_batch_size: {max_batch_size}
input [
  {{ name: "{image}" data_type: {dtype} dims: [ {dims} ] }}
]
output [
  {{ name: "{output}" data_type: TYPE_FP32 dims: [ {output_dims} ] label_filename: "labels.txt" }}
]
'''
    if max_batch_size:
        text += 'dynamic_batching { max_queue_delay_microseconds: 200 }\n'
    write_utf8(deployment.folder / facts.name / 'config.pbtxt', text)


def _write_triton_onnxruntime(deployment: Deployment) -> None:
    _write_triton_config(deployment, 'onnxruntime', max_batch_size=64)


def _write_triton_openvino(deployment: Deployment) -> None:
    """Write IR files, which this backend reads, and a configuration without dynamic batching: the backend would fix the
    batch size of the network, and fill every smaller batch up."""
    write_ir(deployment)
    _write_triton_config(deployment, 'openvino', max_batch_size=0)


def _photoprism_metadata(facts: ModelFacts) -> Dict[str, str]:
    """Return the metadata that PhotoPrism reads from a model that labels images (its package internal/ai/onnx)."""
    preprocessing = facts.preprocessing
    _, height, width = preprocessing.input_size
    entries = dict(
        license=facts.license, source=facts.source, quantization=facts.precision, input_name='image',
        output_name=preprocessing.output, input_width=width, input_height=height,
        output_width=len(preprocessing.class_names), output_count=1, outputs_logits=preprocessing.output == 'logits',
        layout=preprocessing.layout, color_order=preprocessing.color_order,
        mean=[255 * value for value in preprocessing.mean], std_dev=[255 * value for value in preprocessing.std],
        resize_mode={'center': 'center-crop', 'squash': 'stretch'}[preprocessing.crop_mode],
        resize_short_edge=int(min(height, width) / preprocessing.crop_pct), crop_ratio=preprocessing.crop_pct,
        interpolation={'bilinear': 'linear'}.get(preprocessing.interpolation, preprocessing.interpolation))
    return {f'photoprism.{key}': value if isinstance(value, str) else json.dumps(value)
            for key, value in entries.items()}


LAYOUTS: Dict[str, Layout] = {
    'plain': Layout('the files side by side', 'model{suffix}', 'labels.txt'),
    'web': Layout(
        'a page that classifies pictures in the browser', 'model{suffix}', 'labels.txt', check=check_page,
        write=write_page, requires=dict(format=('onnx',), batch_size=(None, 1)), target='web', options=('ort_web',),
        extra='draw'),
    'openvino': Layout(
        'IR files of OpenVINO beside the ONNX file', 'model{suffix}', 'labels.txt', write=write_ir,
        requires=dict(format=('onnx',)), target='openvino', extra='openvino'),
    'triton': Layout(
        'a model repository of the Triton Inference Server', '{name}/1/model{suffix}', '{name}/labels.txt',
        write=_write_triton_onnxruntime, requires=dict(format=('onnx',)), any_batch_size=True),
    'triton-openvino': Layout(
        'the same for its OpenVINO backend', '{name}/1/model{suffix}', '{name}/labels.txt',
        write=_write_triton_openvino, requires=dict(format=('onnx',)), target='openvino', any_batch_size=True,
        extra='openvino'),
    'photoprism': Layout(
        'a model folder of PhotoPrism', '{name}/{name}{suffix}', '{name}/labels.txt', metadata=_photoprism_metadata,
        requires=dict(format=('onnx',), batch_size=(None, 1), dynamic_batch=(False,), dynamic_size=(False,),
                      with_preprocessing=(False,), softmax=(False,))),
}

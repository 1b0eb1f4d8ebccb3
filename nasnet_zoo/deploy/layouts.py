"""How the files of a deployment are arranged, for people and for servers: a row of :data:`LAYOUTS` for each layout."""
import json
from typing import Any, Callable, Dict, Mapping, NamedTuple, Sequence, Tuple, Union

from ..data.preprocessing import Preprocessing

__all__ = ['LAYOUTS', 'Layout', 'ModelFacts']

Shapes = Mapping[str, Sequence[Union[int, str]]]  # of the input and the output, by name


class ModelFacts(NamedTuple):
    """What a layout's own files and metadata can say about a model.

    Attributes:
        name: What the model is called on a server.
        source: Where the model comes from.
        license: Licence of the weights.
        precision: What the file computes with; one of ``PRECISIONS``.
        preprocessing: How the file's input is prepared, and the class names.
    """
    name: str
    source: str
    license: str
    precision: str
    preprocessing: Preprocessing


class Layout(NamedTuple):
    """Where the files go, and what else a server needs. All paths are relative to the folder.

    Attributes:
        description: For help texts.
        model: Path of the model file; ``{name}`` and ``{suffix}`` are replaced.
        labels: Path of the file of class names. ``genotype.json`` and ``manifest.json`` lie beside it.
        files: Returns further files, their paths and texts.
        metadata: Returns further entries of the model file's own metadata.
        requires: For fields of ``ExportConfig``, the values that the layout can work with.
        forms_batches: Whether the server puts batches together, so that the file must take any number of images.
    """
    description: str
    model: str
    labels: str
    files: Callable[[ModelFacts, Shapes], Dict[str, str]] = lambda facts, shapes: {}
    metadata: Callable[[ModelFacts], Dict[str, str]] = lambda facts: {}
    requires: Mapping[str, Tuple[Any, ...]] = {}
    forms_batches: bool = False


def _triton_config(facts: ModelFacts, shapes: Shapes) -> Dict[str, str]:
    """Return Triton's description of a model, in the text format of protocol buffers."""
    (image, shape), (output, _) = shapes.items()
    dtype = 'TYPE_UINT8' if facts.preprocessing.dtype == 'uint8' else 'TYPE_FP32'
    dims = ', '.join('-1' if isinstance(side, str) else str(side) for side in shape[1:])
    return {f'{facts.name}/config.pbtxt': f'''name: {json.dumps(facts.name)}
backend: "onnxruntime"
max_batch_size: 64
input [
  {{ name: "{image}" data_type: {dtype} dims: [ {dims} ] }}
]
output [
  {{ name: "{output}" data_type: TYPE_FP32 dims: [ {len(facts.preprocessing.class_names)} ] \
label_filename: "labels.txt" }}
]
dynamic_batching {{ max_queue_delay_microseconds: 200 }}
'''}


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
    'triton': Layout(
        'a model repository of the Triton Inference Server', '{name}/1/model{suffix}', '{name}/labels.txt',
        files=_triton_config, requires=dict(format=('onnx',)), forms_batches=True),
    'photoprism': Layout(
        'a model folder of PhotoPrism', '{name}/{name}{suffix}', '{name}/labels.txt', metadata=_photoprism_metadata,
        requires=dict(format=('onnx',), batch_size=(None, 1), dynamic_batch=(False,), dynamic_size=(False,),
                      with_preprocessing=(False,), softmax=(False,))),
}

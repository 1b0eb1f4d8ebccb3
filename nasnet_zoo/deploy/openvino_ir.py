"""A model in OpenVINO's own format (IR) beside the ONNX file: ``model.xml`` is the graph, ``model.bin`` the weights."""
import numpy as np

from .classifier import Classifier
from .compare import ExportError, check_differences, compare_results
from .deployment import Deployment, reference_image
from .session_openvino import shared_core

__all__ = ['write_ir']


def write_ir(deployment: Deployment) -> None:
    """Write the IR files of an ONNX file beside it, after comparing their results with those of the file.

    For int8, they are only checked to be finite.

    The entries of the ONNX file's metadata are kept as runtime information, under ``framework``. Weights have the
    precision of the file.

    Raises:
        ImportError: If OpenVINO is not installed.
        ExportError: If OpenVINO cannot convert the file, or if its results are not those of the file.
    """
    import openvino
    path, facts = deployment.exported.path, deployment.facts
    core, target = shared_core(), path.with_suffix('.xml')
    (images, *_), _ = deployment.exported.shapes.values()
    image = reference_image(facts.preprocessing.input_size)
    expected = Classifier(path, provider='cpu', runtime='onnxruntime').logits(image)
    try:
        openvino.save_model(core.read_model(path), target, compress_to_fp16=False)
        network = core.compile_model(target, 'CPU', {'INFERENCE_PRECISION_HINT': 'f32'})
        batch = np.repeat(facts.preprocessing.feed(image), images if isinstance(images, int) else 1, 0)
        results = network(batch)[0][:1]
    except RuntimeError as error:
        raise ExportError(f'{target.name}: OpenVINO cannot convert or run the file: {error}') from None
    check_differences(target.name, dict(random=compare_results(results, expected)), facts.precision)

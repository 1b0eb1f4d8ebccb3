"""A folder for any static web server: a page that classifies pictures in the browser, with ONNX Runtime Web.

    index.html    draws the cells, takes pictures, and shows the results
    model.json    what the page needs of the model: its preprocessing, the hashes of the files that it loads, and the
                  output for a reference image, with which the page compares what the browser computes
    page.js, worker.js, prepare.js, page.css, icon.svg    the same for every model, from ``web_page/``
    _headers      lets ONNX Runtime use several threads, on servers that read such a file
    ort/          the files of ONNX Runtime Web, unless they come from the CDN
"""
import base64
import hashlib
import shutil
from importlib.resources import files
from pathlib import Path
from typing import Any, Dict, Mapping, NamedTuple, Optional

from .. import html
from ..description import count_macs
from ..files import write_json, write_utf8
from .classifier import Classifier
from .deployment import Deployment, ModelFacts, reference_image

__all__ = ['ISOLATION', 'ORT_WEB_VERSION', 'RUNTIMES', 'check_page', 'write_page']

ORT_WEB_VERSION = '1.30.0'
_CDN = 'https://cdn.jsdelivr.net/npm/'  # serves the files of npm's packages


class RuntimeFile(NamedTuple):
    """A file of the npm package onnxruntime-web.

    Attributes:
        path: Where the page finds it.
        integrity: Its hash, as browsers expect it.
        bytes: Its size.
    """
    path: str
    integrity: str
    bytes: int


def _on_cdn(name: str, integrity: str, size: int) -> RuntimeFile:
    return RuntimeFile(f'{_CDN}onnxruntime-web@{ORT_WEB_VERSION}/dist/{name}', integrity, size)


# By execution provider: the script and the WebAssembly program that run a model, as they are on the CDN
RUNTIMES: Dict[str, Dict[str, RuntimeFile]] = {
    'wasm': dict(
        script=_on_cdn('ort.wasm.bundle.min.mjs', (
            'sha384-PLWz+nHEVHpjwBsO0YVdvQj6n5814Iv8E3b8FG0Rp/uIAtjFMCKOpP66iPzedrIG'), 73_054),
        wasm=_on_cdn('ort-wasm-simd-threaded.wasm', (
            'sha384-vjBJ1z7qrhkTyYsNqKeF6c7N+nOJSU94czEo+tvZcu8G75JparGq9kB+kTnEUNVM'), 14_239_897)),
    'webgpu': dict(
        script=_on_cdn('ort.webgpu.bundle.min.mjs', (
            'sha384-1ntMeyj+z5diX6vBR5h+zlJBPc4iNvhCxE6nlammh8daBYcLBZkzrwDkuJjhwI+f'), 117_732),
        wasm=_on_cdn('ort-wasm-simd-threaded.asyncify.wasm', (
            'sha384-EPVDLTxuO663dkZO/pcKJF6vOyyfq/5z9FY1oksN0UWFX2ABH4wDDZQHeNoUleWR'), 26_781_914)),
}

# A page that is isolated from others by these headers may use threads that share memory.
ISOLATION = {'Cross-Origin-Opener-Policy': 'same-origin', 'Cross-Origin-Embedder-Policy': 'require-corp'}

_POLICY = (f"default-src 'none'; script-src 'self' 'wasm-unsafe-eval' blob:; worker-src 'self' blob:; "
           f"connect-src 'self' blob: {_CDN}; style-src 'self' 'unsafe-inline'; img-src 'self' blob:; "
           "media-src 'self' blob:; base-uri 'none'; form-action 'none'")
_PAGE = files(__package__) / 'web_page'
_COPIED = ('page.js', 'worker.js', 'prepare.js', 'page.css', 'icon.svg')

# How much the browser's output for the reference image may differ (norm of the difference over norm). WebGPU computes
# float16 in another way than CPUs, and int8 kernels round and saturate in ways of their own (0.009 was measured).
_TOLERANCES = {'float32': 1e-3, 'float16': 5e-2, 'int8': 0.2}


def check_page(facts: ModelFacts, ort_web: Optional[Path]) -> None:
    """Raise ValueError if no page can be made for a model, or if a file is missing in the folder `ort_web`."""
    channels = facts.preprocessing.input_size[0]
    if channels not in (1, 3):
        raise ValueError(f'layout web: pictures have 1 or 3 channels, but the model takes {channels}')
    if ort_web is not None:
        _runtime_files(ort_web)


def _runtime_files(package: Path) -> Dict[str, Dict[str, Path]]:
    """Return where the files of :data:`RUNTIMES` are in an npm package, or in its ``dist``.

    Raises:
        ValueError: If one of them is missing.
    """
    dist = package / 'dist' if (package / 'dist').is_dir() else package
    found = {provider: {role: dist / file.path.rpartition('/')[2] for role, file in row.items()}
             for provider, row in RUNTIMES.items()}
    for path in (path for row in found.values() for path in row.values()):
        if not path.is_file():
            raise ValueError(f'--ort-web: {dist} has no {path.name}; pass the folder of the npm package '
                             f'onnxruntime-web, for example of version {ORT_WEB_VERSION}')
    return found


def write_page(deployment: Deployment) -> None:
    """Write the page beside the model file.

    Raises:
        ImportError: If matplotlib, which draws the cells, is not installed.
    """
    folder = deployment.folder
    for name in _COPIED:
        write_utf8(folder / name, (_PAGE / name).read_text(encoding='utf-8'))
    write_utf8(folder / '_headers', '/*\n' + ''.join(f'  {name}: {value}\n' for name, value in ISOLATION.items()))
    write_json(folder / 'model.json', _describe(deployment))
    write_utf8(folder / 'index.html', _index(deployment))


def _describe(deployment: Deployment) -> Dict[str, Any]:
    """Return the content of model.json."""
    path, preprocessing = deployment.exported.path, deployment.facts.preprocessing
    classifier = Classifier(path, provider='cpu', runtime='onnxruntime')
    output = classifier.logits(reference_image(preprocessing.input_size))[0]
    runtime = RUNTIMES if deployment.ort_web is None else _copy_runtime(deployment.ort_web, deployment.folder / 'ort')
    return dict(
        name=deployment.facts.name, file=_measure(path, path.name)._asdict(),
        preprocessing=preprocessing.model_dump(),
        reference=dict(output=[float(value) for value in output],
                       tolerance=_TOLERANCES[deployment.facts.precision]),
        runtime={name: {role: file._asdict() for role, file in row.items()} for name, row in runtime.items()})


def _copy_runtime(source: Path, target: Path) -> Dict[str, Dict[str, RuntimeFile]]:
    """Copy the files of an npm package, or of its ``dist``, to a folder beside the page."""
    target.mkdir()
    return {provider: {role: _measure(shutil.copyfile(path, target / path.name), f'{target.name}/{path.name}')
                       for role, path in row.items()}
            for provider, row in _runtime_files(source).items()}


def _measure(file: Path, path: str) -> RuntimeFile:
    content = file.read_bytes()
    digest = base64.b64encode(hashlib.sha384(content).digest()).decode('ascii')
    return RuntimeFile(path, f'sha384-{digest}', len(content))


def _index(deployment: Deployment) -> str:
    """Return the page."""
    name, genotype = deployment.facts.name, deployment.model.genotype
    names = deployment.facts.preprocessing.class_names
    return html.page(name, [
        html.paragraph(f'An image classifier that is built from {genotype.name} cells and runs in your browser.'),
        (_PAGE / 'classify.html').read_text(encoding='utf-8'),
        html.section('Model', html.facts(_facts(deployment))),
        html.section('Cells', html.pictures([html.show_cells('Normal and reduction cell', genotype)])),
        html.details(f'{len(names)} classes', html.paragraph(', '.join(names))),
    ], styles=['page.css'], scripts=['page.js'], icon='icon.svg', policy=_POLICY)


def _facts(deployment: Deployment) -> Dict[str, Optional[str]]:
    """Return the model's facts, for the page."""
    model, (_, height, width) = deployment.model, deployment.facts.preprocessing.input_size
    return {
        'Cells': model.genotype.name,
        'Parameters': f'{sum(parameter.numel() for parameter in model.parameters()) / 1e6:,.3f} M',
        'Mult-adds': f'{count_macs(model, (height, width)) / 1e6:,.1f} M',
        'Input': f'{width} x {height} pixels',
        'Classes': f'{len(deployment.facts.preprocessing.class_names):,}',
        **_accuracy(deployment.accuracy),
        'File': f'{deployment.exported.path.stat().st_size / 1e6:,.1f} MB, {deployment.facts.precision}',
        'Licence': deployment.facts.license}


def _accuracy(record: Optional[Mapping[str, Any]]) -> Dict[str, Optional[str]]:
    if record is None or not {'dataset', 'split'} <= record.keys():
        return {}
    return {f'Top-1 accuracy, {record["dataset"]} {record["split"]}': f'{record["top1"]:.2%}'}

"""The ONNX files that ``tools/benchmark.py infer`` compares: those of this package, and plain ones of its peers."""
import importlib.util
import io
import warnings
from pathlib import Path
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple
from unittest import mock

import numpy as np
import onnx
import timm
import torch
from torch import nn

from nasnet_zoo.checkpoints.load import load_foreign_weights
from nasnet_zoo.data.preprocessing import make_preprocessing
from nasnet_zoo.deploy.export import export_onnx
from nasnet_zoo.graph.targets import ONNX_TARGETS

__all__ = ['EXPORTS', 'PEERS', 'QUANTIZATIONS', 'Peer', 'build_networks', 'cadene_mobile', 'find_exports',
           'find_pass_changes', 'write_export']


class Peer(NamedTuple):
    """A network of another package, and ours of the same architecture.

    Attributes:
        build: Builds the peer's network.
        ours: The name of our model.
        side: Height and width of the images, in pixels.
        args: Arguments for our model.
    """
    build: Callable[[], nn.Module]
    ours: str
    side: int
    args: Dict[str, Any] = {}


def cadene_mobile() -> nn.Module:
    """Return NASNet-A mobile of pretrainedmodels (by Remi Cadene).

    Its file is loaded on its own, because importing the package needs dependencies that it does not declare.
    """
    origin = importlib.util.find_spec('pretrainedmodels').origin
    spec = importlib.util.spec_from_file_location('cadene', Path(origin).parent / 'models' / 'nasnet_mobile.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.NASNetAMobile(num_classes=1000)


_NARROW = dict(num_cells=1, cell_filters=8, num_classes=10)
PEERS = {
    'nasnetamobile': Peer(cadene_mobile, 'nasnet_a_mobile', 224),
    'nasnetalarge': Peer(lambda: timm.create_model('nasnetalarge'), 'nasnet_a_large', 331, dict(pool_padding='timm')),
    'pnasnet5large': Peer(
        lambda: timm.create_model('pnasnet5large'), 'pnasnet5_large', 331, dict(pool_padding='timm')),
    # To try the benchmark: the peer is our own network, exported by PyTorch.
    'tiny': Peer(lambda: timm.create_model('nasnet_a_mobile', **_NARROW), 'nasnet_a_mobile', 64, _NARROW),
}


def build_networks(peer: Peer) -> Tuple[nn.Module, nn.Module]:
    """Return the peer's network and ours with the same random weights, and batch statistics as after training."""
    torch.manual_seed(0)
    theirs = peer.build().eval()
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_(0, 0.1)
    ours = timm.create_model(peer.ours, **peer.args).eval()
    load_foreign_weights(ours, theirs.state_dict())
    return theirs, ours


class Export(NamedTuple):
    """A way to write a file.

    Attributes:
        plain: Options of ``torch.onnx.export``, None for our own exporter.
        slim_of: The name of another export, to whose file onnxslim is applied.
        target: For our exporter, the target.
        passes: For our exporter, the passes; None for those of the target.
        quantization: For our exporter, changes of the target's settings for int8; None for float32.
    """
    plain: Optional[Dict[str, Any]] = None
    slim_of: Optional[str] = None
    target: str = 'onnxruntime'
    passes: Optional[Tuple[str, ...]] = None
    quantization: Optional[Dict[str, Any]] = None

    @property
    def kind(self) -> str:
        """'plain', 'ours' or 'int8'."""
        return 'plain' if self.plain is not None else 'ours' if self.quantization is None else 'int8'


_PLAIN = {
    **{f'TorchScript exporter, opset {opset}': dict(dynamo=False, opset_version=opset) for opset in range(17, 21)},
    **{f'default exporter, opset {opset}': dict(dynamo=True, opset_version=opset) for opset in (18, 19, 20)},
    'default exporter as it comes': dict(dynamo=True),
}
EXPORTS: Dict[str, Export] = {
    **{name: Export(plain) for name, plain in _PLAIN.items()},
    **{f'{name}, onnxslim': Export(plain, slim_of=name) for name, plain in _PLAIN.items()},
    **{f'ours for {target}': Export(target=target) for target in ONNX_TARGETS},
    **{f'ours for {target}, int8': Export(target=target, quantization={}) for target in ONNX_TARGETS},
}
# What --quantizations measures beside a target's own settings
QUANTIZATIONS: Dict[str, Dict[str, Any]] = {
    'symmetric int8': dict(activations='int8', symmetric=True),
    'symmetric uint8': dict(symmetric=True),
    'float sums': dict(float_operators=('Add',)),
    'float pools': dict(float_operators=('AveragePool', 'MaxPool', 'GlobalAveragePool')),
    'float sums, pools and concatenations': dict(
        float_operators=('Add', 'Concat', 'AveragePool', 'MaxPool', 'GlobalAveragePool')),
    'float ends': dict(float_ends=True),
}


def find_exports(quantizations: bool, parts: Sequence[str] = ()) -> Dict[str, Export]:
    """Return the exports that this installation can write, each kind of file once.

    Args:
        parts: Return only exports whose names contain one of these texts; all exports if there are none.
        quantizations: Add the variants of int8 in :data:`QUANTIZATIONS` for each target.
    """
    found = {}
    has_slim = importlib.util.find_spec('onnxslim') is not None
    rows = set()
    for name, export in EXPORTS.items():
        row = ONNX_TARGETS[export.target]
        same = (export.kind, row.int8 if export.kind == 'int8' else row.passes)
        if export.slim_of and not has_slim or export.kind != 'plain' and same in rows:
            continue
        if export.kind != 'plain':
            rows.add(same)
        found[name] = export
        if export.kind == 'int8' and quantizations:
            found.update({f'{name}, {what}': export._replace(quantization=changes)
                          for what, changes in QUANTIZATIONS.items()})
    chosen = {name for name in found if not parts or any(part in name for part in parts)}
    chosen.update(export.slim_of for name, export in found.items() if name in chosen and export.slim_of)
    return {name: export for name, export in found.items() if name in chosen}


def find_pass_changes(target: str, int8: bool, known: List[str]) -> Dict[str, Export]:
    """Return our export for a target, the same without each single pass, and with each pass that it does not have.

    Args:
        target: The target.
        int8: Quantise the network.
        known: Names of all passes whose result an ONNX file can contain.
    """
    row, quantization = ONNX_TARGETS[target], {} if int8 else None
    own = (row.int8 if int8 else row).passes
    base = Export(target=target, quantization=quantization, passes=own)
    return {'ours': base,
            **{f'ours without {name}': base._replace(passes=tuple(p for p in own if p != name)) for name in own},
            **{f'ours with {name}': base._replace(passes=(*own, name)) for name in known if name not in own}}


def write_export(
        name: str, exports: Dict[str, Export], theirs: nn.Module, ours: nn.Module, images: torch.Tensor,
        files: Dict[str, Path], calibration: Optional[np.ndarray] = None) -> None:
    """Write a file: of the peer's network if the export is a plain one, and otherwise of ours.

    Args:
        name: The name of the export in `exports` and of the file in `files`.
        images: A batch of the input.
        calibration: uint8 images of the same size, for int8.
    """
    export, file = exports[name], files[name]
    if export.slim_of is not None:
        import onnxslim
        onnx.save(onnxslim.slim(str(files[export.slim_of])), file)
        return
    if export.plain is not None:
        _write_plain(theirs, images, file, **export.plain)
        return
    row = ONNX_TARGETS[export.target]
    changed = row._replace(int8=row.int8._replace(**export.quantization or {}))
    with mock.patch.dict(ONNX_TARGETS, {export.target: changed}):
        export_onnx(
            ours, file, make_preprocessing(ours, img_size=tuple(images.shape[2:])), batch_size=len(images),
            target=export.target, passes=export.passes,
            calibration=None if export.quantization is None else calibration)


def _write_plain(model: nn.Module, images: torch.Tensor, file: Path, dynamo: bool, **options: Any) -> None:
    """Write a network with an exporter of ``torch.onnx``, as a single file."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        if dynamo:
            torch.onnx.export(model, (images,), dynamo=True, verbose=False, **options).save(buffer)
        else:
            torch.onnx.export(model, (images,), buffer, dynamo=False, **options)
    onnx.save(onnx.load_from_string(buffer.getvalue()), file)

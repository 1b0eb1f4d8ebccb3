"""A trained network as an ONNX file that runs without this package."""
import json
import os
import warnings
from pathlib import Path
from typing import Sequence, Tuple, Union

import torch
from timm.layers import to_2tuple

from .files import written_whole
from .network import NASNet
from .runtime import CONTRACT

__all__ = ['export_onnx']


def export_onnx(
        model: NASNet,
        path: Union[str, os.PathLike],
        mean: Sequence[float],
        std: Sequence[float],
        class_names: Sequence[str],
        img_size: Union[int, Tuple[int, int], None] = None,
        opset: int = 18,
) -> Path:
    """Write a network as ONNX, checked, with what a caller must know of its input in the file's metadata.

    The graph takes ``image``, float32 [batch, in_chans, H, W] of any batch, and gives ``logits`` [batch, num_classes].

    Args:
        model: In evaluation mode.
        path: The file to write, whole or not at all.
        mean, std: Of the channels, over 0 to 1, that the input is normalised by.
        class_names: As many as there are classes.
        img_size: Height and width, or a side; the skeleton's by default.
        opset: ONNX's; the file is checked to have it.

    Raises:
        ValueError: For class names or statistics that do not match the network, for a network in training mode, and for
            an opset that the exporter cannot keep to.
    """
    import onnx
    if model.training:
        raise ValueError('model: is in training mode; call model.eval() first')
    if len(class_names) != model.num_classes:
        raise ValueError(f'class_names: {len(class_names)} names for {model.num_classes} classes')
    if not len(mean) == len(std) == model.in_chans:
        raise ValueError(f'mean, std: {len(mean)} and {len(std)} numbers for {model.in_chans} channels')
    size = model.skeleton.size if img_size is None else to_2tuple(img_size)
    image = torch.zeros(2, model.in_chans, *size, device=next(model.parameters()).device)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter('ignore')  # the exporter's, about itself
        program = torch.onnx.export(
            model, (image,), input_names=['image'], output_names=['logits'], opset_version=opset, dynamo=True,
            dynamic_shapes=({0: torch.export.Dim('batch', min=1, max=2 ** 16)},), verbose=False)
    proto = program.model_proto
    written = {entry.domain: entry.version for entry in proto.opset_import}.get('')
    if written != opset:
        raise ValueError(f"opset: the exporter wrote {written}, not {opset}; the graph's operations need it")
    contract = dict(input_size=[model.in_chans, *size], mean=list(mean), std=list(std), class_names=list(class_names))
    onnx.helper.set_model_props(proto, {CONTRACT: json.dumps(contract)})
    onnx.checker.check_model(proto, full_check=True)
    with written_whole(path) as part:
        onnx.save(proto, part)
    return Path(path)

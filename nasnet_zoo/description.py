"""Describes a network and counts its parameters and mult-adds, on PyTorch's meta device: no weights are allocated."""
from typing import Any, Dict, List, Mapping, Optional, Tuple, Union

import torch
from timm.layers import get_device_dtype
from torch.utils.flop_counter import FlopCounterMode

from .genotype.operations import COMBINES
from .genotype.schema import Cell, Genotype
from .network.nasnet import NASNet
from .zoo import build

__all__ = ['cell_lines', 'count_macs', 'describe']


def describe(
        source: Union[str, Mapping[str, Any], Genotype],
        img_size: Optional[int] = None,
        **kwargs: Any,
) -> Dict[str, Any]:
    """Describe a network as JSON data: its structure, its cost and the features that it offers.

    Args:
        source: The name of a model or of a built-in genotype, the path of a genotype or of a model folder, JSON data,
            or a genotype.
        img_size: Height and width of the input in pixels; the default is the input size of the model.
        **kwargs: Arguments of ``compile_genotype``.

    Returns:
        A dict with ``params`` and ``macs`` of the network and of each cell, the shapes [C, H, W] of its features, its
        genotype with both digests, and its skeleton. ``macs`` are the multiply-adds of convolutions and matrix products
        for one image. Batch norms, pools and sums are not counted, as in the papers.

    Raises:
        ValueError: If there is no such model, or if an argument is out of bounds.
    """
    if img_size is not None:
        kwargs['img_size'] = img_size
    try:
        model = build(source, **kwargs, device='meta').eval()
    except RuntimeError as error:  # timm's error for a pretrained tag that does not exist
        raise ValueError(f'{source}: {error}') from None
    size = model.skeleton.size
    x = torch.zeros(1, model.in_chans, *size, device='meta')
    flops = _count_flops(model, x)
    cells = [
        dict(name=plan.name, kind=plan.kind, filters=plan.filters, params=_params(cell),
             macs=flops[f'NASNet.{plan.name}'] // 2)
        for cell, plan in zip(model.cells, model.plan.cells)]
    features = model.forward_intermediates(x, intermediates_only=True)
    return dict(
        genotype=model.genotype.to_dict(),
        architecture_digest=model.genotype.architecture_digest,
        layout_digest=model.genotype.layout_digest,
        skeleton=model.skeleton.model_dump(mode='json'),
        num_classes=model.num_classes,
        input_size=[model.in_chans, *size],
        params=_params(model),
        macs=flops['Global'] // 2,
        features=[dict(info, shape=list(f.shape[1:])) for info, f in zip(model.feature_info, features)],
        cells=cells,
    )


def count_macs(model: NASNet, size: Tuple[int, int]) -> int:
    """Return the multiply-adds of a network, in evaluation mode, for one image of a height and width; see
    :func:`describe`."""
    return _count_flops(model, torch.zeros(1, model.in_chans, *size, **get_device_dtype(model)))['Global'] // 2


def _count_flops(model: NASNet, images: torch.Tensor) -> Dict[str, int]:
    """Return the floating-point operations of each module by name, and of the whole network as ``Global``."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(images)
    return {name: sum(counts.values()) for name, counts in counter.get_flop_counts().items()}


def _params(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def cell_lines(cell: Cell) -> List[str]:
    """Write a cell as text with one line for each block: ``b0 = sep_conv_5x5(h0) + sep_conv_3x3(h1)``."""
    lines = []
    for i, block in enumerate(cell.blocks):
        left, right = (f'{op}({state})' for op, state in block.edges)
        lines.append(f'b{i} = {COMBINES[block.combine].text.format(left=left, right=right)}')
    return lines + [f'output {k}: {", ".join(output)}' for k, output in enumerate(cell.outputs)] + (
        [f'head: {", ".join(cell.head)}'] if cell.head else [])

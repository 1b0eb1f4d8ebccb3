"""What a network is and costs, without building it: everything runs on PyTorch's meta device."""
from typing import Any, Dict, List, Mapping, Optional, Union

import torch
from torch.utils.flop_counter import FlopCounterMode

from .genotype.schema import Cell, Genotype
from .zoo import build

__all__ = ['describe', 'cell_lines']


def describe(
        source: Union[str, Mapping[str, Any], Genotype],
        img_size: Optional[int] = None,
        **kwargs: Any,
) -> Dict[str, Any]:
    """Parameters, mult-adds and feature shapes as JSON data.

    Args:
        source: A model of the zoo, a shipped genotype, a path of one, its data or a genotype.
        img_size: Side of the input in pixels; the network's usual one by default.
        **kwargs: For ``compile_genotype``.

    Returns:
        A dict with ``params`` and ``macs`` (multiplications in convolutions and matrix products, for one image) of the
        whole and of each cell, and shapes [C, H, W] of the features. Batch norms, pools and sums are not counted, as in
        the papers.
    """
    if img_size is not None:
        kwargs['img_size'] = img_size
    try:
        model = build(source, **kwargs, device='meta').eval()
    except RuntimeError as error:  # timm's, for a tag that a model does not have
        raise ValueError(f'{source}: {error}') from None
    size = model.skeleton.size
    x = torch.zeros(1, model.in_chans, *size, device='meta')
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(x)
    flops = {name: sum(counts.values()) for name, counts in counter.get_flop_counts().items()}
    cells = [
        dict(name=f'cells.{i}', kind=position.kind, filters=position.filters, params=_params(cell),
             macs=flops[f'NASNet.cells.{i}'] // 2)
        for i, (cell, position) in enumerate(zip(model.cells, model.positions))]
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


def _params(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def cell_lines(cell: Cell) -> List[str]:
    """A cell as text, a block a line: ``b0 = sep_conv_5x5(h0) + sep_conv_3x3(h1)``."""
    lines = []
    for i, block in enumerate(cell.blocks):
        left, right = (f'{op}({state})' for op, state in block.edges)
        how = block.combine.removeprefix('add_').replace('_', ' ')
        text = f'concat({left}, {right})' if how == 'concat' else f'{left} + {right}'
        lines.append(f'b{i} = {text}' + ('' if how in ('add', 'concat') else f', then {how}'))
    return lines + [f'output {k}: {", ".join(output)}' for k, output in enumerate(cell.outputs)] + (
        [f'head: {", ".join(cell.head)}'] if cell.head else [])

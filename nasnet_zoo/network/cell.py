"""Compiles one cell of a genotype to a module."""
from collections import Counter
from dataclasses import dataclass
from typing import List, Mapping, Optional, Sequence

import torch
from torch import nn
from torch.nn import functional as F

from ..genotype.schema import Cell as CellGenotype
from .cpu_autograd import concatenate
from .ops import COMBINES, OPS, LayerArgs, PreActivation, factorized_reduction

__all__ = ['CellInput', 'Cell', 'drop_path']


@dataclass(frozen=True)
class CellInput:
    """What a cell knows of a hidden state that it is given."""
    channels: int
    stride: int = 1  # pixels of it to one of h0, along a side
    missing: bool = False  # the history does not reach so far back: the raw stem stands in


def drop_path(x: torch.Tensor, drop_prob: torch.Tensor) -> torch.Tensor:
    """Zero whole examples of `x` [B, C, H, W] with probability `drop_prob` (a scalar) and scale the others up."""
    keep_prob = 1. - drop_prob.float()
    kept = torch.rand_like(x[:, :1, :1, :1], dtype=torch.float32) < keep_prob
    return x * (kept / keep_prob).to(x.dtype)


class Block(nn.Module):
    """Two operations on two hidden states, combined. Results that others want too become states of their own."""

    def __init__(self, left: nn.Module, right: nn.Module, combine: nn.Module, sources: Sequence[int],
                 drops: Sequence[bool], shares: Sequence[bool]) -> None:
        super().__init__()
        self.left = left
        self.right = right
        self.combine = combine
        self.left_source, self.right_source = sources
        self.left_uses_drop_path, self.right_uses_drop_path = drops
        self.left_is_cached, self.right_is_cached = shares
        self.left_rectified, self.right_rectified = (isinstance(op, PreActivation) for op in (left, right))

    def forward(
            self, states: List[torch.Tensor], rectified: List[torch.Tensor], drop_prob: Optional[torch.Tensor],
    ) -> torch.Tensor:
        left = self.left((rectified if self.left_rectified else states)[self.left_source])
        if self.left_is_cached:
            states.append(left)
            rectified.append(left)
        right = self.right((rectified if self.right_rectified else states)[self.right_source])
        if self.right_is_cached:
            states.append(right)
            rectified.append(right)
        if drop_prob is not None:
            if self.left_uses_drop_path:
                left = drop_path(left, drop_prob)
            if self.right_uses_drop_path:
                right = drop_path(right, drop_prob)
        return self.combine(left, right)


class Output(nn.Module):
    """Hidden states side by side in depth; those whose shape is not F at the cell's resolution are projected first."""

    def __init__(self, sources: Sequence[int], projections: Sequence[nn.Module]) -> None:
        super().__init__()
        self.sources: List[int] = list(sources)
        self.projections = nn.ModuleList(projections)

    def forward(self, states: List[torch.Tensor]) -> torch.Tensor:
        parts: List[torch.Tensor] = []
        for i, project in enumerate(self.projections):
            parts.append(project(states[self.sources[i]]))
        return concatenate(parts, self.training) if len(parts) > 1 else parts[0]


class Cell(nn.Module):
    """One cell, with the states that `outputs` depend on and no others.

    Google's rules (nasnet_utils.py) for fitting inputs and for projecting inputs that are listed as outputs.

    Args:
        genotype: The cell to compile.
        inputs: Those of the cell inputs h0, h1, … that `outputs` depend on, in this order.
        outputs: The concatenations to hand on, each a list of states.
        filters: The cell's filters F.
        stride: Stride of the operations on cell inputs: 2 in a reduction cell.
        fit_all: True to fit every input to F, False for h0 and those whose shape differs.
        args: What layers are built with.
        drop_scale: The share of the network's drop path probability that this cell takes.
    """

    def __init__(
            self,
            genotype: CellGenotype,
            inputs: Mapping[str, CellInput],
            outputs: Sequence[Sequence[str]],
            filters: int,
            stride: int,
            fit_all: bool,
            args: LayerArgs,
            drop_scale: float = 1.,
    ) -> None:
        super().__init__()
        self.drop_scale = drop_scale
        needed = genotype.needed([state for output in outputs for state in output])
        channels, index = {}, {}  # of every compiled state; index also of shared results, by their edges

        self.fits = nn.ModuleList()
        for name, given in inputs.items():
            index[name] = len(index)
            changed = name == 'h0' or given.stride > 1 or (given.channels != filters and not given.missing)
            if changed or fit_all:
                self.fits.append(PreActivation(factorized_reduction(given.channels, filters, given.stride, args)))
            else:
                self.fits.append(nn.Identity())
            channels[name] = filters if changed or fit_all else given.channels
        self.fit_rectified: List[bool] = [isinstance(fit, PreActivation) for fit in self.fits]

        live = {f'b{i}': block for i, block in enumerate(genotype.blocks) if f'b{i}' in needed}
        uses = Counter(edge for block in live.values() for edge in block.edges)
        self.blocks = nn.ModuleDict()  # by their numbers in the genotype
        for name, block in live.items():
            combine = COMBINES[block.combine](filters, args)
            ops, sources, drops, shares = [], [], [], []
            for edge in block.edges:
                name_of_op, source = edge
                is_shared = edge in index
                op = nn.Identity() if is_shared else OPS[name_of_op](
                    channels[source], filters, stride if source[0] == 'h' else 1, args)
                ops.append(op)
                sources.append(index[edge if is_shared else source])
                # Google spares an identity even where it is a convolution, DARTS its own only where it is none.
                drops.append(is_shared or name_of_op != 'identity' and not isinstance(op, nn.Identity))
                # What has no weights, a pool, is computed once for all that apply it to the same state.
                shares.append(drops[-1] and uses[edge] > 1 and not is_shared and not any(True for _ in op.parameters()))
                if shares[-1]:
                    index[edge] = len(index)
            self.blocks[name[1:]] = Block(*ops, combine, sources, drops, shares)
            index[name] = len(index)
            channels[name] = filters * genotype.width([name])
        # A state is rectified once, for all its readers, if any wants it.
        wanted = {source for block in self.blocks.values() for source, rectified in (
            (block.left_source, block.left_rectified), (block.right_source, block.right_rectified)) if rectified}
        self.rectify: List[bool] = [i in wanted for i in range(len(index))]

        self.outputs = nn.ModuleList()
        self.out_channels: List[int] = []
        for output in outputs:
            projections = [
                nn.Sequential(factorized_reduction(channels[state], filters, stride, args))
                if state[0] == 'h' and (stride > 1 or channels[state] != filters) else nn.Identity()
                for state in output
            ]
            self.outputs.append(Output([index[state] for state in output], projections))
            self.out_channels.append(filters * genotype.width(output))

    def forward(self, inputs: List[torch.Tensor], drop_prob: Optional[torch.Tensor] = None) -> List[torch.Tensor]:
        """Hidden states in, hidden states out.

        Args:
            inputs: The cell's inputs, [B, C, H, W] each, in the order of the constructor's.
            drop_prob: The network's drop path probability, a scalar; None for no drop path.
        """
        states: List[torch.Tensor] = []
        rectified: List[torch.Tensor] = []
        if drop_prob is not None:
            drop_prob = drop_prob * self.drop_scale
        for i, fit in enumerate(self.fits):
            x = fit(F.relu(inputs[i]) if self.fit_rectified[i] else inputs[i])
            rectified.append(F.relu(x) if self.rectify[len(states)] else x)
            states.append(x)
        for block in self.blocks.values():
            x = block(states, rectified, drop_prob)
            rectified.append(F.relu(x) if self.rectify[len(states)] else x)
            states.append(x)
        return [output(states) for output in self.outputs]

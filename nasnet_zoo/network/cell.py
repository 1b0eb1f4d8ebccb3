"""The module of a cell, made from its plan."""
from typing import Dict, List, Optional

import torch
from torch import nn
from torch.nn import functional as F

from .cpu_autograd import concatenate
from .ops import LayerArgs, Layers, build_combine, build_operation, factorized_reduction
from .plan import BlockPlan, CellPlan, InputPlan, OperandPlan, OutputPlan, PartPlan

__all__ = ['Cell', 'drop_path']


def drop_path(x: torch.Tensor, drop_prob: torch.Tensor) -> torch.Tensor:
    """Set whole examples of `x` [B, C, H, W] to zero with probability `drop_prob` (a scalar); scale up the others."""
    keep_prob = 1. - drop_prob.float()
    kept = torch.rand_like(x[:, :1, :1, :1], dtype=torch.float32) < keep_prob
    return x * (kept / keep_prob).to(x.dtype)


class Block(nn.Module):
    """Two operations on two hidden states, and their combination."""

    def __init__(self, plan: BlockPlan, args: LayerArgs) -> None:
        super().__init__()
        left, right = plan.left, plan.right
        self.left = _operation(left, args)
        self.right = _operation(right, args)
        self.combine = build_combine(plan.combine, plan.filters, args)
        self.slot, self.is_rectified = plan.slot, plan.is_rectified
        self.left_source, self.right_source = left.source, right.source
        self.left_reads_rectified, self.right_reads_rectified = left.reads_rectified, right.reads_rectified
        self.left_uses_drop_path, self.right_uses_drop_path = left.uses_drop_path, right.uses_drop_path
        self.left_cache_slot, self.right_cache_slot = (  # -1 if the result is not kept
            -1 if operand.cache_slot is None else operand.cache_slot for operand in (left, right))

    def forward(
            self, states: Dict[int, torch.Tensor], rectified: Dict[int, torch.Tensor],
            drop_prob: Optional[torch.Tensor],
    ) -> torch.Tensor:
        left = self.left((rectified if self.left_reads_rectified else states)[self.left_source])
        if self.left_cache_slot >= 0:
            states[self.left_cache_slot] = left
        right = self.right((rectified if self.right_reads_rectified else states)[self.right_source])
        if self.right_cache_slot >= 0:
            states[self.right_cache_slot] = right
        if drop_prob is not None:
            if self.left_uses_drop_path:
                left = drop_path(left, drop_prob)
            if self.right_uses_drop_path:
                right = drop_path(right, drop_prob)
        return self.combine(left, right)


def _operation(plan: OperandPlan, args: LayerArgs) -> nn.Module:
    if plan.op is None:  # the result is already there
        return nn.Identity()
    return build_operation(plan.op, plan.in_chs, plan.out_chs, plan.stride, args)


class Output(nn.Module):
    """A concatenation of hidden states, of which some are projected first."""

    def __init__(self, plan: OutputPlan, filters: int, args: LayerArgs) -> None:
        super().__init__()
        self.sources: List[int] = [part.source for part in plan.parts]
        self.projections = nn.ModuleList(_projection(part, filters, args) for part in plan.parts)

    def forward(self, states: Dict[int, torch.Tensor]) -> torch.Tensor:
        parts: List[torch.Tensor] = []
        for i, project in enumerate(self.projections):
            parts.append(project(states[self.sources[i]]))
        return concatenate(parts, self.training)


def _projection(plan: PartPlan, filters: int, args: LayerArgs) -> nn.Module:
    if not plan.is_projected:
        return nn.Identity()
    return Layers(factorized_reduction(plan.in_chs, filters, plan.stride, args))


def _fit(plan: InputPlan, filters: int, args: LayerArgs) -> nn.Module:
    if not plan.is_fitted:
        return nn.Identity()
    return Layers(factorized_reduction(plan.channels, filters, plan.stride, args))


class Cell(nn.Module):
    """A cell with the states that its outputs depend on and no others.

    Args:
        plan: What to compute.
        args: Settings of the layers.
    """

    def __init__(self, plan: CellPlan, args: LayerArgs) -> None:
        super().__init__()
        self.drop_path_scale = plan.drop_path_scale
        self.fits = nn.ModuleList(_fit(x, plan.filters, args) for x in plan.inputs)
        self.input_slots: List[int] = [x.slot for x in plan.inputs]
        self.input_is_fitted: List[bool] = [x.is_fitted for x in plan.inputs]
        self.input_is_rectified: List[bool] = [x.is_rectified for x in plan.inputs]
        self.blocks = nn.ModuleDict({str(block.index): Block(block, args) for block in plan.blocks})
        self.outputs = nn.ModuleList(Output(output, plan.filters, args) for output in plan.outputs)

    def forward(self, inputs: List[torch.Tensor], drop_prob: Optional[torch.Tensor] = None) -> List[torch.Tensor]:
        """Compute the outputs.

        Args:
            inputs: The planned inputs, [B, C, H, W] each.
            drop_prob: The network's drop path rate, a scalar; None for no drop path.
        """
        states: Dict[int, torch.Tensor] = {}
        rectified: Dict[int, torch.Tensor] = {}  # those states that an operation reads through a ReLU
        if drop_prob is not None:
            drop_prob = drop_prob * self.drop_path_scale
        for i, fit in enumerate(self.fits):
            x = fit(F.relu(inputs[i]) if self.input_is_fitted[i] else inputs[i])
            states[self.input_slots[i]] = x
            if self.input_is_rectified[i]:
                rectified[self.input_slots[i]] = F.relu(x)
        for block in self.blocks.values():
            x = block(states, rectified, drop_prob)
            states[block.slot] = x
            if block.is_rectified:
                rectified[block.slot] = F.relu(x)
        return [output(states) for output in self.outputs]

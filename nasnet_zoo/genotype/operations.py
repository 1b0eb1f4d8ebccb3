"""The words of the genotype language: one row for each operation, one for each way to combine two results.

A row holds all that the rest of the package wants to know about an operation: how its module is built, how it is drawn,
whether it starts with a ReLU, whether drop path applies to it. No other code looks at an operation's name. This module
does not import PyTorch; ``network/ops.py`` and ``network/combines.py`` have the built-in builders.

:func:`register_operation` and :func:`register_combine` add a row of your own. ``docs/architecture.md`` has an example.
"""
import enum
import re
from dataclasses import dataclass, field
from typing import Any, Callable, Dict, Mapping, Union

__all__ = ['Operation', 'Combine', 'When', 'OPERATIONS', 'COMBINES', 'OP_NAMES', 'COMBINE_NAMES', 'OP_ALIASES',
           'COMBINE_ALIASES', 'FAMILIES', 'register_operation', 'register_combine']

# Kinds of boxes in drawings; each has its own colour in drawing.py.
FAMILIES = ('sep', 'conv', 'pool', 'identity', 'none', 'combine', 'concat')
Builder = Union[str, Callable[..., Any]]  # a function, or where to find it, as 'package.module:function'
_NAME = re.compile(r'[a-z][a-z0-9_]{0,63}')


class When(enum.Enum):
    """On which changes of shape an operation has a property."""
    NEVER = 'never'
    WIDTH_CHANGES = 'the number of channels changes'
    SHAPE_CHANGES = 'the number of channels or the resolution changes'
    ALWAYS = 'always'

    def holds(self, in_chs: int, out_chs: int, stride: int) -> bool:
        """Return whether the property holds for an operation from `in_chs` to `out_chs` channels with `stride`."""
        is_wider = in_chs != out_chs
        return {
            When.NEVER: False, When.WIDTH_CHANGES: is_wider, When.SHAPE_CHANGES: is_wider or stride > 1,
            When.ALWAYS: True,
        }[self]


@dataclass(frozen=True)
class Operation:
    """An operation of the genotype language.

    Attributes:
        name: The word for it in genotypes.
        build: ``build(in_chs, out_chs, stride, args, **options)`` returns a module that maps [B, in_chs, H, W] to
            [B, out_chs, ceil(H / stride), ceil(W / stride)]. ``args`` is a :class:`~nasnet_zoo.network.ops.LayerArgs`,
            which makes convolutions and batch norms. If the module contains layers of a class of your own, then that
            class needs a method ``lower(*inputs)``, which returns the :class:`~nasnet_zoo.graph.ir.Node` that
            computes the same in evaluation mode; ``optimize_for_inference`` and ``export_onnx`` call it. Layers of
            PyTorch and of ``network/ops.py`` need none.
        label: Text of its box in drawings; a line break starts a new line.
        family: What colours its box: one of :data:`FAMILIES`.
        pre_activation: When the operation starts with a ReLU. The cell applies it, so that operations on the same state
            share it, and the module must not contain it.
        has_weights: When the module has parameters or buffers. An operation without them that a cell applies twice to
            the same state is computed once.
        uses_drop_path: When drop path applies to its result.
        reads_state: Whether its result depends on the state that it is applied to. The module of an operation that
            does not is given any input of the cell, from which it learns the shape of its result.
        options: Further arguments for `build`.
    """
    name: str
    build: Builder
    label: str
    family: str
    pre_activation: When = When.ALWAYS
    has_weights: When = When.ALWAYS
    uses_drop_path: When = When.ALWAYS
    reads_state: bool = True
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Combine:
    """A way to combine the results of a block's two operations.

    Attributes:
        name: The word for it in genotypes.
        build: ``build(channels, args, **options)`` returns a module that maps two tensors [B, channels, H, W] to one of
            [B, width · channels, H, W]. See :class:`Operation` for ``args`` and for layers of your own.
        text: How a block is written on a line, with the places ``{left}`` and ``{right}``.
        label, family: As in :class:`Operation`.
        width: Channels of the result, in units of the operands'.
        is_symmetric: Whether the result is the same if the operands are swapped. Drawings then swap them where that
            saves a crossing.
        is_symmetric_up_to_channels: Whether the result is the same up to the order of its channels. The architecture
            digest then ignores the order of the operands: the weights that read the result can absorb it.
        options: Further arguments for `build`.
    """
    name: str
    build: Builder
    text: str
    label: str
    family: str = 'combine'
    width: int = 1
    is_symmetric: bool = True
    is_symmetric_up_to_channels: bool = True
    options: Mapping[str, Any] = field(default_factory=dict)


OPERATIONS: Dict[str, Operation] = {}
COMBINES: Dict[str, Combine] = {}


def register_operation(operation: Operation) -> None:
    """Add an operation to the language.

    Raises:
        ValueError: If the name is taken or is not a word of lower-case letters, digits and underscores, or if the
            family is unknown.
    """
    _register(OPERATIONS, operation)


def register_combine(combine: Combine) -> None:
    """Add a way to combine two results to the language. Raises a ValueError as :func:`register_operation` does."""
    _register(COMBINES, combine)


def _register(table: Dict[str, Any], row: Union[Operation, Combine]) -> None:
    if not _NAME.fullmatch(row.name):
        raise ValueError(f'name: must consist of lower-case letters, digits and underscores, not {row.name!r}')
    if row.name in table:
        raise ValueError(f'name: {row.name!r} is registered already')
    if row.family not in FAMILIES:
        raise ValueError(f'family: must be one of {", ".join(FAMILIES)}, not {row.family!r}')
    table[row.name] = row


_OPS, _COMBINES = 'nasnet_zoo.network.ops:', 'nasnet_zoo.network.combines:'  # the modules of the built-in builders

for _row in (
    Operation('identity', _OPS + 'identity', 'iden\ntity', 'identity', pre_activation=When.SHAPE_CHANGES,
              has_weights=When.SHAPE_CHANGES, uses_drop_path=When.NEVER),  # Google: not even if it is a convolution
    Operation('factorized_identity', _OPS + 'factorized_identity', 'factor.\nidentity', 'identity',
              pre_activation=When.SHAPE_CHANGES, has_weights=When.SHAPE_CHANGES,
              uses_drop_path=When.SHAPE_CHANGES),  # DARTS
    Operation('none', _OPS + 'zeros', 'none', 'none', pre_activation=When.NEVER, has_weights=When.NEVER,
              uses_drop_path=When.NEVER, reads_state=False),  # DARTS
    Operation('conv_1x1', _OPS + 'full_conv', 'conv\n1x1', 'conv', options=dict(kernels=((1, 1),), bottleneck=1)),
    Operation('conv_3x3', _OPS + 'full_conv', 'conv\n3x3', 'conv', options=dict(kernels=((3, 3),))),
    Operation('conv_1x3_3x1', _OPS + 'full_conv', '1x3\n3x1', 'conv',
              options=dict(kernels=((1, 3), (3, 1)), bottleneck=3 / 8)),
    Operation('conv_1x7_7x1', _OPS + 'full_conv', '1x7\n7x1', 'conv', options=dict(kernels=((1, 7), (7, 1)))),
    Operation('conv_7x1_1x7', _OPS + 'conv_pair', '7x1\n1x7', 'conv', options=dict(kernels=((1, 7), (7, 1)))),  # DARTS
    Operation('dil_conv_3x3', _OPS + 'full_conv', 'dil\n3x3', 'conv', options=dict(kernels=((3, 3),), dilation=2)),
    *(Operation(f'sep_conv_{k}x{k}', _OPS + 'sep_conv', f'sep\n{k}x{k}', 'sep', options=dict(kernel_size=k))
      for k in (3, 5, 7)),
    *(Operation(f'dil_sep_conv_{k}x{k}', _OPS + 'dil_sep_conv', f'dil sep\n{k}x{k}', 'sep',
                options=dict(kernel_size=k)) for k in (3, 5)),
    *(Operation(f'{mode}_pool_{k}x{k}', _OPS + 'pool', f'{mode}\n{k}x{k}', 'pool', pre_activation=When.NEVER,
                has_weights=When.WIDTH_CHANGES, options=dict(mode=mode, kernel_size=k))
      for mode, k in (('avg', 3), ('max', 2), ('max', 3), ('max', 5), ('max', 7))),
):
    register_operation(_row)

for _row in (
    Combine('add', _COMBINES + 'add', '{left} + {right}', 'add'),
    Combine('concat', _COMBINES + 'concat', 'concat({left}, {right})', 'concat', 'concat', width=2, is_symmetric=False),
    Combine('add_layer_norm', _COMBINES + 'add_layer_norm', '{left} + {right}, then layer norm', 'add\nlayer norm'),
    Combine('add_instance_norm', _COMBINES + 'add_instance_norm', '{left} + {right}, then instance norm',
            'add\ninstance norm'),
):
    register_combine(_row)

# What the package itself has; the tables also hold what was registered since.
OP_NAMES, COMBINE_NAMES = tuple(OPERATIONS), tuple(COMBINES)

# What other software calls these operations and combines, for the hints in error messages.
OP_ALIASES = {'skip_connect': 'identity', 'skip': 'identity', 'zero': 'none', 'zeros': 'none'}
COMBINE_ALIASES = {'sum': 'add', 'cat': 'concat'}

"""Writes TensorFlow checkpoints, under the names of Google's code, without TensorFlow."""
import io
import re
import struct
import tarfile

import torch

from nasnet_zoo.checkpoints.crc32c import masked_crc32c

__all__ = ['AVERAGE', 'entry', 'googles_names', 'pack', 'table', 'varint', 'write_checkpoint', 'write_network']

AVERAGE = '/ExponentialMovingAverage'
_DTYPES = {'torch.float32': 1, 'torch.float64': 2, 'torch.int64': 9, 'torch.bfloat16': 14, 'torch.float16': 19}


def varint(value):
    """An unsigned number of variable length."""
    data = bytearray()
    while value > 127:
        data.append(value & 127 | 128)
        value >>= 7
    return bytes([*data, value])


def _field(number, value):
    if isinstance(value, bytes):
        return varint(number << 3 | 2) + varint(len(value)) + value
    return varint(number << 3) + varint(value) if value else b''


def entry(dtype, shape, offset, size, checksum, shard=0, more=b''):
    """A variable in an index, a BundleEntryProto."""
    dimensions = b''.join(_field(2, _field(1, side)) for side in shape)
    return (_field(1, dtype) + _field(2, dimensions) + _field(3, shard) + _field(4, offset) + _field(5, size)
            + varint(6 << 3 | 5) + struct.pack('<I', checksum) + more)


def _block(pairs):
    """A block of a table with its type and its checksum. Keys are shortened to what differs from the one before."""
    data, last = b'', b''
    for key, value in pairs:
        shared = next((i for i, (a, b) in enumerate(zip(key, last)) if a != b), min(len(key), len(last)))
        data += varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
        last = key
    data += struct.pack('<II', 0, 1) + b'\0'
    return data + struct.pack('<I', masked_crc32c(data))


def table(pairs, pairs_per_block=100):
    """A table in LevelDB's format from pairs of keys and values, in this order."""
    data, handles = b'', []
    for begin in range(0, len(pairs), pairs_per_block):
        part = pairs[begin:begin + pairs_per_block]
        block = _block(part)
        handles.append((part[-1][0], varint(len(data)) + varint(len(block) - 5)))
        data += block
    footer = b''
    for block in (_block([]), _block(handles)):
        footer += varint(len(data)) + varint(len(block) - 5)
        data += block
    return data + footer.ljust(40, b'\0') + struct.pack('<Q', 0xdb4775248b80fb57)


def write_checkpoint(prefix, variables, shards=1):
    """Write variables, tensors by name in TensorFlow's order of axes, and return the path of the index."""
    numbers = [bytearray() for _ in range(shards)]
    pairs = [(b'', _field(1, shards) + _field(3, _field(1, 1)))]
    for i, (name, tensor) in enumerate(sorted(variables.items())):
        data = tensor.contiguous().view(-1).view(dtype=torch.uint8).numpy().tobytes()
        shard = i % shards
        pairs.append((name.encode(), entry(
            _DTYPES[str(tensor.dtype)], tensor.shape, len(numbers[shard]), len(data), masked_crc32c(data), shard)))
        numbers[shard] += data
    for shard, data in enumerate(numbers):
        prefix.with_name(f'{prefix.name}.data-{shard:05}-of-{shards:05}').write_bytes(data)
    index = prefix.with_name(f'{prefix.name}.index')
    index.write_bytes(table(pairs))
    return index


def pack(path, files):
    """Write a tar archive, compressed if its name says so, of contents by name, and return its path."""
    with (tarfile.open(path, 'w:gz', compresslevel=1) if path.name.endswith('gz') else tarfile.open(path, 'w')
          ) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def write_network(prefix, model, averages=True, **kwargs):
    """Write a network as Google's code would. With `averages`, those are its weights and the others are zeros."""
    tensors = model.state_dict()
    variables = {}
    for name, theirs in googles_names(model).items():
        tensor = tensors[name]
        if tensor.ndim == 4:
            tensor = tensor.permute((2, 3, 0, 1) if theirs.endswith('depthwise_weights') else (2, 3, 1, 0))
        tensor = tensor.T if tensor.ndim == 2 else tensor
        variables.update({theirs: tensor * 0, theirs + AVERAGE: tensor} if averages else {theirs: tensor})
    return write_checkpoint(prefix, variables, **kwargs)


def googles_names(model):
    """Google's name of each of a network's tensors."""
    cells, counts = {}, {}
    for cell in model.plan.cells:
        kind = ('cell_stem' if cell.in_stem else
                'reduction_cell' if cell.kind == 'reduction' and model.skeleton.reductions == 'extra' else 'cell')
        counts[kind] = counts.get(kind, -1) + 1
        cells[cell.name] = f'{kind}_{counts[kind]}', cell
    return {name: _googles_name(name, cells, model) for name in model.state_dict() if 'num_batches' not in name}


_OUTSIDE = {
    'head.fc': 'final_layer/FC', 'aux_head.conv1': 'aux_1/aux_logits/proj', 'aux_head.bn1': 'aux_1/aux_logits/aux_bn0',
    'aux_head.conv2': 'aux_1/aux_logits/Conv', 'aux_head.bn2': 'aux_1/aux_logits/aux_bn1',
    'aux_head.head.fc': 'aux_1/aux_logits/FC'}
_REDUCTION = {'reduce.path_1': 'path1_conv', 'reduce.path_2': 'path2_conv', 'reduce.bn': 'final_path_bn'}
_FITS = {'fits.0.conv': '1x1', 'fits.0.bn': 'beginning_bn', 'fits.1.conv': 'prev_1x1', 'fits.1.bn': 'prev_bn',
         **{f'fits.1.{ours}': theirs for ours, theirs in _REDUCTION.items()}}
_PROJECTIONS = {'conv': 'path_conv', 'bn': 'path_bn', **_REDUCTION}
# Of each operation, Google's names of its convolutions and of its norms, without those of a bottleneck
_FULL = {'conv_3x3': (('3x3',), ('bn',)), 'conv_1x7_7x1': (('1x7', '7x1'), ('bn_1x7_7x1', 'bn'))}


def _googles_name(name, cells, model):
    layer, _, variable = name.rpartition('.')
    is_norm = re.search(r'(?:^|\.)bn\d*$', layer)
    variable = {'running_mean': 'moving_mean', 'running_var': 'moving_variance',
                'weight': 'gamma' if is_norm else 'weights', 'bias': 'beta' if is_norm else 'biases'}[variable]
    if layer.startswith('stem'):
        prefix = 'l1_stem_' if model.skeleton.stem == 'cifar' else (
            'stem/conv0' if model.genotype.name.startswith('amoebanet') else 'conv0')
        ending = {'l1_stem_': ('3x3', 'bn')}.get(prefix, ('', '_bn'))[bool(is_norm)]
        return f'{prefix}{ending}/{variable}'
    if layer in _OUTSIDE:
        return f'{_OUTSIDE[layer]}/{variable}'
    number, rest = re.fullmatch(r'(cells\.\d+)\.(.+)', layer).groups()
    scope, cell = cells[number]
    if rest.startswith('fits'):
        return f'{scope}/{_FITS[rest]}/{variable}'
    if rest.startswith('outputs'):
        _, _, _, place, part = rest.split('.', 4)
        state = cell.outputs[0].parts[int(place)].state
        return f'{scope}/cell_output/reduction_{state[1:]}/{_PROJECTIONS[part]}/{variable}'
    _, block, side, part = rest.split('.')
    plan = next(plan for plan in cell.blocks if plan.index == int(block))
    op = getattr(plan, side).op
    return f'{scope}/comb_iter_{block}/{side}/' + _in_operation(op, part, variable, layer, model)


def _in_operation(op, part, variable, layer, model):
    """Google's name of a layer's variable in an operation."""
    kernel = op.rpartition('_')[-1]
    kind, number = re.fullmatch(r'([a-z]+)(\d*)', part).groups()
    if kind in ('dw', 'pw'):
        return f'separable_{kernel}_{number}/{"depth" if kind == "dw" else "point"}wise_weights'
    if op.startswith('sep_conv'):
        return f'bn_sep_{kernel}_{number}/{variable}'
    if op not in _FULL:
        return f'{dict(conv="1x1", bn="bn_1")[kind]}/{variable}'
    convs, norms = _FULL[op]
    operation = model.get_submodule(layer.rpartition('.')[0])
    if hasattr(operation, f'conv{len(convs)}'):  # there is a bottleneck
        convs, norms = ('pre_1x1', *convs, 'post_1x1'), ('pre_bn', *norms, 'post_bn')
    return f'{(convs if kind == "conv" else norms)[int(number)]}/{variable}'

"""What ``tools/reliability.py fuzz`` reads: for each reader of foreign data, its inputs and the errors it may raise.

Input `number` of a reader is a function of the seed and of the number alone, so any input can be made again.
"""
import io
import json
import multiprocessing
import resource
import signal
import time
import traceback
import warnings
import zipfile
from collections import OrderedDict
from pathlib import Path
from random import Random
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Tuple, Type

import numpy as np
import torch
from mutations import (
    NUMBERS,
    TEXTS,
    Opaque,
    change_bytes,
    change_json,
    change_pickle,
    change_text,
    dump,
    leaf,
    parse,
    plain,
    split_pickle,
)
from safetensors.torch import save as to_safetensors

from nasnet_zoo.checkpoints.formats import read_weights
from nasnet_zoo.checkpoints.load import load_foreign_weights
from nasnet_zoo.data.preprocessing import METADATA_KEY, make_preprocessing
from nasnet_zoo.deploy.classifier import Classifier, _read_preprocessing
from nasnet_zoo.deploy.export import export_onnx
from nasnet_zoo.genotype.importer import ImportedTextError, import_genotype
from nasnet_zoo.genotype.loader import genotypes_dir, list_genotypes, load_genotype
from nasnet_zoo.genotype.schema import GenotypeError
from nasnet_zoo.network.nasnet import NASNet, compile_genotype

__all__ = ['MEMORY_LIMIT', 'READERS', 'TIME_LIMIT', 'Reader', 'ReaderProcess', 'Subject', 'make_input', 'read_inputs']


class Subject(NamedTuple):
    """A reader that is ready to read.

    Attributes:
        make: Makes an input, given a random generator.
        read: Reads it and checks what comes out; it raises an error of another type than `refusals` if that is wrong.
        refusals: The documented errors.
        label: How the message of each of these errors begins.
    """
    make: Callable[[Random], Any]
    read: Callable[[Any], None]
    refusals: Tuple[Type[Exception], ...]
    label: str = ''


class Reader(NamedTuple):
    """A row of the table of readers.

    Attributes:
        description: What is read, and by which function.
        share: How many of a thousand inputs it gets: many if it is fast.
        prepare: Returns the subject, given a folder for files.
        library: A library in C on which the reader depends and which no Python code can interrupt. When it hangs or
            crashes, that is counted, but it is not a fault.
    """
    description: str
    share: int
    prepare: Callable[[Path], Subject]
    library: str = ''


def make_input(subject: Subject, name: str, seed: int, number: int) -> Any:
    """Return an input of the reader `name`."""
    try:
        return subject.make(Random(f'{seed}-{name}-{number}'))
    except MemoryError:  # the changes, of which each is small, have made a text of gigabytes
        return subject.make(Random(f'{seed}-{name}-{number}-again'))


# Genotypes

_ODD_OBJECTS = (object(), b'bytes', {1, 2}, (1, 2), 1j, float('nan'), float('inf'), 10 ** 5000, {1: 2}, {None: 1},
                {(1, 2): 3}, np.float32(1), np.zeros(3), range(3), Path('x'), int)


def _shipped() -> List[str]:
    return [(genotypes_dir() / f'{name}.json').read_text(encoding='utf-8') for name in list_genotypes()]


def _odd_object(rng: Random) -> Any:
    """Return a value that JSON may not be able to represent, for genotypes that are passed as dicts."""
    kind = rng.randrange(12)
    if kind == 0:
        return Opaque(rng.choice(_ODD_OBJECTS))
    if kind == 1:
        deep: Any = []
        for _ in range(rng.choice((5, 16, 17, 500, 20_000))):
            deep = [deep] if rng.random() < 0.9 else {'a': deep}
        return Opaque(deep)
    if kind == 2:
        loop: List[Any] = [1]
        loop.append(loop)
        return Opaque(rng.choice((loop, ['x' * 1000] * 5000)))
    return leaf(rng)


def _check_genotype(genotype: Any) -> None:
    """Raise an AssertionError unless a genotype that was accepted survives being written and read."""
    text = genotype.dumps()
    assert len(genotype.architecture_digest) == len(genotype.layout_digest) == 64
    assert load_genotype(json.loads(text)) == genotype, 'it is another genotype after it was written and read'
    text.encode()


def _read_genotype(source: Any) -> None:
    _check_genotype(load_genotype(source))


def prepare_dicts(folder: Path) -> Subject:
    """Genotypes as dicts, as a configuration or a program passes them."""
    texts = _shipped()
    others = [parse(text) for text in texts]

    def make(rng: Random) -> Any:
        value = plain(change_json(parse(rng.choice(texts)), rng, others, _odd_object))
        return value if isinstance(value, dict) or rng.random() < 0.1 else {'normal': value}
    return Subject(make, _read_genotype, (GenotypeError,))


def prepare_genotype_files(folder: Path) -> Subject:
    """Genotypes in JSON files."""
    texts = _shipped()
    others, path = [parse(text) for text in texts], folder / 'genotype.json'
    raw = [text.encode() for text in texts]

    def make(rng: Random) -> bytes:
        if rng.random() < 0.2:
            return change_bytes(rng.choice(raw), rng, raw)
        text = dump(change_json(parse(rng.choice(texts)), rng, others))
        if rng.random() < 0.2:
            text = change_text(text, rng, texts)
        return text.encode(rng.choice(('utf-8',) * 8 + ('utf-8-sig', 'utf-16')), errors='surrogatepass')

    def read(content: bytes) -> None:
        path.write_bytes(content)
        _read_genotype(path)
    return Subject(make, read, (GenotypeError,), str(path))


_IMPORTS = (
    "Genotype(normal=[('sep_conv_3x3', 1), ('sep_conv_3x3', 0), ('skip_connect', 0), ('sep_conv_3x3', 1), ("
    "'skip_connect', 0), ('sep_conv_3x3', 1), ('sep_conv_3x3', 0), ('skip_connect', 2)], normal_concat=[2, 3, 4, 5], "
    "reduce=[('max_pool_3x3', 0), ('max_pool_3x3', 1), ('skip_connect', 2), ('max_pool_3x3', 0), ('max_pool_3x3', 0), ("
    "'skip_connect', 2), ('skip_connect', 2), ('avg_pool_3x3', 0)], reduce_concat=range(2, 6))",
    "DARTS_V2 = Genotype(\n    normal=[('dil_conv_5x5', 0), ('sep_conv_5x5', 1)],\n    normal_concat=range(2, 3),\n"
    "    reduce=[('max_pool_3x3', 0), ('avg_pool_3x3', 1)],  # a comment\n    reduce_concat=[2])\n",
    "2019-05-01 12:00:00,123 genotype = Genotype(normal=[('sep_conv_3x3', 0), ('sep_conv_3x3', 1)], "
    "normal_concat=range(2, 3), reduce=[('max_pool_3x3', 0), ('avg_pool_3x3', 1)], reduce_concat=range(2, 3))",
    'from collections import namedtuple\n'
    'Genotype = namedtuple("Genotype", "normal normal_concat reduce reduce_concat")\n'
    "V1 = Genotype(normal=[('sep_conv_3x3', 0), ('sep_conv_3x3', 1)], normal_concat=[2], reduce=[('skip_connect', 0), ("
    "'skip_connect', 1)], reduce_concat=[2])\nDARTS = V1\n",
    json.dumps({f'{kind}/{part}': value for kind in ('normal', 'reduce') for part, value in (
        ('op_2_0', 'sep_conv_3x3'), ('input_2_0', 0), ('op_2_1', 'max_pool_3x3'), ('input_2_1', 1),
        ('op_3_0', 'skip_connect'), ('input_3_0', [0]), ('op_3_1', 'dil_conv_3x3'), ('input_3_1', 2))}))


def prepare_imports(folder: Path) -> Subject:
    """Texts with genotypes of DARTS and NNI."""
    tree = parse(_IMPORTS[-1])

    def make(rng: Random) -> str:
        if rng.random() < 0.2:
            return dump(change_json(parse(_IMPORTS[-1]), rng, [tree]))
        return change_text(rng.choice(_IMPORTS), rng, _IMPORTS)
    return Subject(make, lambda text: _check_genotype(import_genotype(text)), (ImportedTextError, GenotypeError))


# Weights

def _small_network() -> NASNet:
    torch.manual_seed(0)
    return compile_genotype('nasnet_a', num_cells=1, cell_filters=2, stem='cifar', num_classes=3).eval()


def _tensors(count: int = 4) -> Dict[str, torch.Tensor]:
    return dict(list(_small_network().state_dict().items())[:count])


def _saved(data: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(data, buffer, **options)
    return buffer.getvalue()


def _members(content: bytes) -> Dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def _zip(members: List[Tuple[str, bytes]], compression: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # names that are there twice are wanted
        with zipfile.ZipFile(buffer, 'w', compression) as archive:
            for name, content in members:
                archive.writestr(name.encode(errors='replace').decode().replace('\0', '_') or '_', content)
    return buffer.getvalue()


def _checkpoints() -> List[Any]:
    """What training code saves."""
    tensors = _tensors()
    odd = dict(half=torch.ones(2, dtype=torch.float16), sparse=torch.eye(3).to_sparse(), scalar=torch.tensor(1.),
               empty=torch.zeros(0, 3), slice=torch.arange(12.).reshape(3, 4).t()[1:],
               parameter=torch.nn.Parameter(torch.ones(2)),
               quantized=torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8))
    return [tensors, OrderedDict((f'module.{name}', tensor) for name, tensor in tensors.items()),
            dict(state_dict=tensors, epoch=3, arch='nasnet', optimizer=dict(state={0: dict(step=1)}, groups=[])),
            odd]


def prepare_torch(folder: Path) -> Subject:
    """Checkpoints of PyTorch in its current format (ZIP archives) and in the old one (pickles)."""
    checkpoints = _checkpoints()
    archives = [_saved(data) for data in checkpoints]
    old = [_saved(data, _use_new_zipfile_serialization=False) for data in checkpoints]
    members = [_members(archive) for archive in archives]
    pickles = [split_pickle(next(content for name, content in some.items() if name.endswith('/data.pkl')))
               for some in members]
    old_pickles = [split_pickle(content) for content in old]

    def make(rng: Random) -> bytes:
        chosen, kind = rng.randrange(len(archives)), rng.randrange(10)
        if kind < 2:
            return change_bytes(archives[chosen], rng, archives)
        if kind < 3:
            return change_bytes(old[chosen], rng, old)
        if kind < 5:
            return change_pickle(old_pickles[chosen], rng)
        changed = dict(members[chosen])
        name = rng.choice(list(changed))
        if kind < 8:
            name = next(name for name in changed if name.endswith('/data.pkl'))
            changed[name] = change_pickle(pickles[chosen], rng)
        else:
            changed[name] = change_bytes(changed[name], rng, list(changed.values()))
        items = list(changed.items())
        if kind == 9:
            items.append((rng.choice([*changed, *TEXTS]), rng.choice(items)[1] * rng.choice((0, 1, 1000))))
            items.pop(rng.randrange(len(items)))
        return _zip(items, rng.choice((zipfile.ZIP_STORED,) * 4 + (zipfile.ZIP_DEFLATED,)))
    return _weight_reader(make, folder / 'model.pth')


def prepare_safetensors(folder: Path) -> Subject:
    """Files of safetensors."""
    contents = [to_safetensors(_tensors(count), metadata=metadata) for count, metadata in (
        (1, None), (4, {'format': 'pt'}), (12, {'config': '{}'}))]
    headers = [content[8:8 + int.from_bytes(content[:8], 'little')].decode() for content in contents]
    others = [parse(header) for header in headers]

    def make(rng: Random) -> bytes:
        chosen = rng.randrange(len(contents))
        content = contents[chosen]
        if rng.random() < 0.3:
            return change_bytes(content, rng, contents)
        data = content[8 + len(headers[chosen]):]
        header = dump(change_json(parse(headers[chosen]), rng, others)).encode(errors='surrogatepass')
        if rng.random() < 0.2:
            data = change_bytes(data, rng, [data])
        size = len(header) if rng.random() < 0.9 else rng.choice(NUMBERS[:24])
        return int(size % 2 ** 64).to_bytes(8, 'little') + header + data
    return _weight_reader(make, folder / 'model.safetensors')


def _keras_file(rng: Random, odd: bool) -> bytes:
    """Return a weight file in one of Keras's layouts. If it is to be odd, one dataset is not what Keras writes."""
    import h5py
    buffer = io.BytesIO()
    with h5py.File(buffer, 'w') as h5:
        if rng.random() < 0.5:  # Keras 3
            group = h5.create_group('layers/conv2d/vars')
            group.attrs['name'] = 'stem_conv1'
            h5.create_group('layers/batch_normalization/vars').attrs['name'] = 'stem_bn1'
            places = ['layers/conv2d/vars/0', *(f'layers/batch_normalization/vars/{i}' for i in range(4))]
        else:  # Keras 2
            places = ['stem_conv1/stem_conv1/kernel:0', *(
                f'stem_bn1/stem_bn1/{name}:0' for name in ('gamma', 'beta', 'moving_mean', 'moving_variance'))]
        for place in places:
            h5[place] = np.ones((3, 3, 3, 4) if place == places[0] else 4, np.float32)
        if odd:
            place = rng.choice(places)
            del h5[place]
            try:
                _ODD_DATASETS[rng.randrange(len(_ODD_DATASETS))](h5, place, rng)
            except (TypeError, ValueError, OSError, RuntimeError):
                pass  # HDF5 cannot write it
            if rng.random() < 0.3:
                h5[place.rpartition('/')[0]].attrs['name'] = rng.choice(
                    (1, b'\xff', 'a.b', '', np.ones(3), h5py.Empty('f4')))
    return buffer.getvalue()


def _odd_dtype(h5: Any, place: str, rng: Random) -> None:
    import h5py
    kind = rng.choice(('f2', '>f4', 'f8', 'i1', '<u8', 'S5', '?', 'c8', h5py.string_dtype(), h5py.ref_dtype, 'V7',
                       h5py.vlen_dtype('f4'), h5py.enum_dtype({'a': 1}), [('a', 'f4'), ('b', 'i2')], ('f4', (2, 2))))
    h5.create_dataset(place, rng.choice(((), (4,), (0,), (3, 3, 3, 4), (1,) * 20)), kind)


def _odd_size(h5: Any, place: str, rng: Random) -> None:
    size = rng.choice((0, 2 ** 20, 2 ** 31, 2 ** 40, 2 ** 62))
    h5.create_dataset(place, (size,), 'f4', chunks=(min(size or 1, 2 ** 16),), maxshape=(None,), fillvalue=rng.random(),
                      compression=rng.choice((None, 'gzip', 'lzf')))


def _odd_link(h5: Any, place: str, rng: Random) -> None:
    import h5py
    h5[place] = rng.choice((h5py.SoftLink('/'), h5py.SoftLink(place), h5py.SoftLink('/nowhere'),
                            h5py.ExternalLink('/dev/zero', '/'), h5py.ExternalLink('other.h5', '/x'), h5['/'],
                            np.float32(1)))


def _odd_storage(h5: Any, place: str, rng: Random) -> None:
    import h5py
    if rng.random() < 0.5:
        h5.create_dataset(place, (4,), 'f4', external=[('/etc/hostname', 0, 16)])
    else:
        layout = h5py.VirtualLayout((4,), 'f4')
        layout[:] = h5py.VirtualSource('other.h5', 'x', (4,))
        h5.create_virtual_dataset(place, layout)


def _odd_place(h5: Any, place: str, rng: Random) -> None:
    name = rng.choice([text.encode(errors='replace').decode().replace('\0', '_') for text in TEXTS])
    h5[rng.choice((f'{place}/{name}/vars/0', f'{name}/{place}', f'vars/{name}', name * 3, f'layers/vars/{name}', '0',
                   f'model_weights/{name}/kernel:0', 'a/' * 500 + 'kernel'))] = np.ones(3, np.float32)


_ODD_DATASETS = (_odd_dtype, _odd_dtype, _odd_size, _odd_link, _odd_storage, _odd_place)
_KERAS_CONFIG = json.dumps({'config': {'layers': [
    {'class_name': 'Conv2D', 'config': {'name': 'stem_conv1'}},
    {'class_name': 'BatchNormalization', 'config': {'name': 'stem_bn1'}}]}})


def prepare_keras(folder: Path) -> Subject:
    """Files of Keras: HDF5 files, and ZIP archives with an HDF5 file inside."""
    plain_files = [_keras_file(Random(seed), odd=False) for seed in range(8)]
    others = [parse(_KERAS_CONFIG)]

    def make(rng: Random) -> bytes:
        kind = rng.randrange(10)
        content = rng.choice(plain_files)
        if kind < 5:
            return change_bytes(content, rng, plain_files)
        if kind < 8:
            return _keras_file(rng, odd=True)
        config = dump(change_json(parse(_KERAS_CONFIG), rng, others)).encode(errors='surrogatepass')
        if kind == 9:
            content = change_bytes(content, rng, plain_files)
        return _zip([('config.json', config), ('model.weights.h5', content)])
    return _weight_reader(make, folder / 'model.h5')


def _weight_reader(make: Callable[[Random], bytes], path: Path) -> Subject:
    def read(content: bytes) -> None:
        path.write_bytes(content)
        read_weights(path)
    return Subject(make, read, (ValueError,), str(path))


def _odd_tensor(rng: Random, tensor: torch.Tensor) -> Any:
    """Return something that may stand for a tensor, but should not."""
    make = rng.choice((
        lambda: tensor.half(), lambda: tensor.to(torch.bfloat16), lambda: tensor.long(), lambda: tensor.bool(),
        lambda: tensor.to(torch.complex64), lambda: tensor[None], lambda: tensor[:0], lambda: tensor.flatten()[:1],
        lambda: tensor.to('meta'), lambda: tensor.to_sparse() if tensor.ndim else tensor, lambda: tensor * float('nan'),
        lambda: torch.zeros(1).expand(2 ** 40), lambda: torch.zeros(()).expand(tensor.shape), lambda: None,
        lambda: [1.], lambda: tensor.numpy(), lambda: torch.zeros(1001, 3), lambda: torch.zeros(()), lambda: 'text',
        lambda: {},
        lambda: torch.quantize_per_tensor(torch.ones(tensor.shape), 0.1, 0, torch.qint8),
        lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
    ))
    try:
        return make()
    except (RuntimeError, IndexError, TypeError):  # it is odd already, and does not have the operation
        return tensor


def _their_names(model: NASNet) -> List[str]:
    """Names of tensors as other code bases write them, for cells that `model` may or may not have."""
    return [f'{prefix}.{part}' for prefix in (
        'cell_stem_0', 'cell_stem_1', 'cell_0', 'cell_1', 'cell_17', 'reduction_cell_0', 'cell_99999999999999999999')
        for part in (
            'conv_1x1.conv.weight', 'comb_iter_0_left.separable_1.depthwise_conv2d.weight', 'prev_conv.bn.bias',
            'comb_iter_4.left.conv.weight', 'path_1.conv.weight', '')] + ['conv0.conv.weight', 'last_linear.bias']


def prepare_networks(folder: Path) -> Subject:
    """State dicts, loaded into a network."""
    model = _small_network()
    own = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    theirs = _their_names(model)
    parameters = list(model.state_dict().values())

    def make(rng: Random) -> Any:
        tensors: Dict[Any, Any] = dict(own)
        if rng.random() < 0.3:
            tensors = {name: torch.ones(2) for name in rng.sample(theirs, 8)}
        for _ in range(rng.choice((0, 1, 1, 2, 5))):
            name = rng.choice(list(tensors))
            kind = rng.randrange(4)
            if kind == 0:
                del tensors[name]
                tensors = tensors or {'a': torch.ones(1)}
            elif kind == 1:
                other = rng.choice((*TEXTS, *theirs, f'{name}x', f'module.{name}', 1, None, b'x', ('a',)))
                tensors[other] = tensors[name]
            elif isinstance(tensors[name], torch.Tensor):
                tensors[name] = _odd_tensor(rng, tensors[name])
        if rng.random() < 0.3:
            tensors = {rng.choice(('module.', '_orig_mod.', 'model.', 'module.module.', 'x.')) + str(name): tensor
                       for name, tensor in tensors.items()}
        for _ in range(rng.choice((0, 0, 1, 2, 30))):
            tensors = {rng.choice(('state_dict', 'model', 'state_dict_ema', 'net', 'other')): tensors, 'epoch': 1}
        return tensors

    def read(source: Any) -> None:
        before = [tensor._version for tensor in parameters]
        try:
            load_foreign_weights(model, source)
        except ValueError:
            if [tensor._version for tensor in parameters] != before:
                raise AssertionError('the network was changed although the weights were refused') from None
            raise
    return Subject(make, read, (ValueError,), 'the state dict')


# ONNX files

def prepare_metadata(folder: Path) -> Subject:
    """The preprocessing in the metadata of ONNX files, and the options that change it."""
    model = _small_network()
    texts = [make_preprocessing(model, ['cat', 'dog', 'Käfer']).to_json(),
             make_preprocessing(model, softmax=True, with_preprocessing=True).to_json()]
    others = [parse(text) for text in texts]
    path = folder / 'model.onnx'

    def make(rng: Random) -> Tuple[str, Dict[str, Any]]:
        text = dump(change_json(parse(rng.choice(texts)), rng, others))
        if rng.random() < 0.2:
            text = change_text(text, rng, texts)
        changes = {}
        if rng.random() < 0.3:
            field = rng.choice(('img_size', 'mean', 'class_names', 'color_order', 'input_size', rng.choice(TEXTS)))
            changes[field] = plain(rng.choice((leaf(rng), 8, [8, 8], [0.5] * 3)))
        return text, changes

    def read(source: Tuple[str, Dict[str, Any]]) -> None:
        text, changes = source
        preprocessing = _read_preprocessing(path, {METADATA_KEY: text}, changes)
        preprocessing.to_json().encode()
        assert len(preprocessing.input_size) == 3 and len(preprocessing.mean) == preprocessing.input_size[0]
    return Subject(make, read, (ValueError,), str(path))


def prepare_onnx(folder: Path) -> Subject:
    """Whole ONNX files with changed metadata, opened and run."""
    import onnx
    path = folder / 'whole.onnx'
    export_onnx(_small_network(), path)
    whole = onnx.load(str(path))
    texts = [entry.value for entry in whole.metadata_props if entry.key == METADATA_KEY]
    others = [parse(text) for text in texts]

    def make(rng: Random) -> bytes:
        del whole.metadata_props[:]
        for _ in range(rng.choice((1, 1, 1, 2))):
            text = dump(change_json(parse(rng.choice(texts)), rng, others)).encode(errors='replace').decode()
            whole.metadata_props.add(key=METADATA_KEY if rng.random() < 0.95 else 'other', value=text)
        content = whole.SerializeToString()
        first = content.find(METADATA_KEY.encode())  # the metadata are the end of the file
        if first >= 0 and rng.random() < 0.2:
            content = content[:first] + change_bytes(content[first:], rng, [content])
        return content

    def read(content: bytes) -> None:
        path.write_bytes(content)
        Classifier(path, provider='cpu', threads=1, runtime='onnxruntime')
    return Subject(make, read, (ValueError,), str(path))


READERS: Dict[str, Reader] = {
    'genotype-dict': Reader('genotypes as dicts (`load_genotype`)', 300, prepare_dicts),
    'genotype-file': Reader('genotypes in JSON files (`load_genotype`)', 200, prepare_genotype_files),
    'import': Reader('genotypes of DARTS and NNI (`import_genotype`)', 200, prepare_imports),
    'torch': Reader("PyTorch's checkpoints (`read_weights`)", 120, prepare_torch),
    'safetensors': Reader('safetensors files (`read_weights`)', 75, prepare_safetensors),
    'keras': Reader("Keras's HDF5 files and archives (`read_weights`)", 20, prepare_keras, library='HDF5'),
    'network': Reader('state dicts, loaded into a network (`load_foreign_weights`)', 10, prepare_networks),
    'metadata': Reader('the preprocessing in the metadata of ONNX files (`Classifier`)', 73, prepare_metadata),
    'onnx': Reader('whole ONNX files with changed metadata, opened and run (`Classifier`)', 2, prepare_onnx),
}


# Running

TIME_LIMIT = 20  # seconds for an input
MAX_MESSAGE = 50_000  # characters; a genotype may have fifty problems
MEMORY_LIMIT = 1 << 30  # bytes that the process may take beyond what it takes before the first input


class _TooLong(BaseException):
    """An input took too long. It is no Exception, since readers catch those."""


def _find_fault(subject: Subject, content: Any) -> Tuple[bool, str]:
    """Read an input.

    Returns:
        Whether it was accepted, and what is wrong with how it was read or refused; '' if nothing is.
    """
    signal.setitimer(signal.ITIMER_REAL, TIME_LIMIT)
    try:
        subject.read(content)
        return True, ''
    except subject.refusals as error:
        message = str(error)
        if not message.startswith(subject.label):
            return False, f'the message does not name the place: {ascii(message[:200])}'
        if not 0 < len(message) < MAX_MESSAGE:
            return False, f'the message has {len(message)} characters'
        return False, ''
    except _TooLong:
        return False, f'it takes more than {TIME_LIMIT} s'
    except BaseException as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        return False, (f'{type(error).__name__} in {Path(place.filename).name}, line {place.lineno}: '
                       f'{ascii(str(error)[:200])}')
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def read_inputs(subject: Subject, name: str, seed: int, numbers: range, current: Any) -> Dict[str, Any]:
    """Read the inputs `numbers`, and return what came of them. `current` gets the number of each before it is read."""
    accepted, faults, slowest = 0, [], 0.
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number in numbers:
        current.value = number
        content = make_input(subject, name, seed, number)
        started = time.perf_counter()
        is_accepted, fault = _find_fault(subject, content)
        slowest = max(slowest, time.perf_counter() - started)
        before, resident = resident, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        if (resident - before) * 1024 > MEMORY_LIMIT:
            fault = fault or f'it takes {(resident - before) >> 10} MiB'
        accepted += is_accepted
        if fault:
            faults.append(dict(reader=name, number=number, seed=seed, fault=fault))
    return dict(inputs=len(numbers), accepted=accepted, faults=faults, slowest_ms=round(1000 * slowest, 1),
                library_failures=0)


def serve(seed: int, folder: Path, current: Any, connection: Any) -> None:
    """Read inputs in a process of its own: get names of readers with ranges, and answer with what came of them."""
    def too_long(*args: Any) -> None:
        raise _TooLong
    warnings.simplefilter('ignore')
    torch.set_num_threads(1)
    signal.signal(signal.SIGALRM, too_long)
    subjects: Dict[str, Subject] = {}
    while True:
        name, numbers = connection.recv()
        if name not in subjects:
            resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            subjects[name] = READERS[name].prepare(folder)
            resident = _limit_memory()
        result = read_inputs(subjects[name], name, seed, numbers, current)
        result['mib'] = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - resident) >> 10
        connection.send(result)


def _limit_memory() -> int:
    """Limit how much memory this process may take from now on. Return what it takes, in KiB."""
    try:
        Path('/proc/self/clear_refs').write_text('5', encoding='utf-8')  # the peak so far is forgotten
        size = next(int(line.split()[1]) << 10 for line in Path('/proc/self/status').read_text(
            encoding='utf-8').splitlines() if line.startswith('VmSize'))
        resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY_LIMIT, resource.RLIM_INFINITY))
    except OSError:
        pass  # it is not Linux, so the memory is measured only
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


class ReaderProcess:
    """A process that reads inputs. It is replaced when it dies, and the input that killed it is a fault.

    Args:
        seed: The seed of the inputs.
        folder: A folder for files, best in memory.
    """

    def __init__(self, seed: int, folder: Path) -> None:
        self._seed, self._folder = seed, folder
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context('spawn')
        self._current = context.Value('q', -1, lock=False)
        self._connection, other = context.Pipe()
        self._process = context.Process(
            target=serve, args=(self._seed, self._folder, self._current, other), daemon=True)
        self._process.start()
        other.close()

    def read(self, name: str, numbers: range) -> List[Dict[str, Any]]:
        """Read inputs, and return the results of :func:`read_inputs`: one, or more if the process died in between."""
        results: List[Dict[str, Any]] = []
        while numbers:
            self._current.value = -1  # until the subject is ready
            self._connection.send((name, numbers))
            result = self._wait()
            if result is not None:
                return [*results, result]
            died_at = self._current.value
            if died_at < 0:
                raise RuntimeError(f'{name}: the process ended before the first input')
            fault = f'the process ended with code {self._process.exitcode}' if self._process.exitcode else 'it hangs'
            self.close()
            self._start()
            results.append(read_inputs_before(numbers, died_at))
            if READERS[name].library:
                results[-1]['library_failures'] = 1
            else:
                results[-1]['faults'].append(dict(reader=name, number=died_at, seed=self._seed, fault=fault))
            numbers = range(died_at + 1, numbers.stop)
        return results

    def _wait(self) -> Optional[Dict[str, Any]]:
        """Return the answer of the process; None if it dies, or reads one input for far too long."""
        number, since = -1, time.monotonic()
        while not self._connection.poll(1):
            if self._current.value != number or number < 0:
                number, since = self._current.value, time.monotonic()
            if not self._process.is_alive() or time.monotonic() - since > 1.5 * TIME_LIMIT:
                return None
        try:
            return self._connection.recv()
        except EOFError:
            self._process.join()
            return None

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.join()
        self._connection.close()


def read_inputs_before(numbers: range, died_at: int) -> Dict[str, Any]:
    """Return the result for inputs up to the one that ended the process. How many were accepted is not known."""
    return dict(inputs=died_at + 1 - numbers.start, accepted=0, faults=[], slowest_ms=0., mib=0, library_failures=0)

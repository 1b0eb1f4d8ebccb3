"""Random changes to JSON data, program texts, pickles and bytes, for ``tools/reliability.py fuzz``.

Random bytes seldom get past the first check of a reader, so most changes keep the structure of the input: a value of
another type, a key that is there twice, a list that is far too long, the instruction of another pickle. Everything is a
function of the random generator that is passed in.
"""
import copy
import json
import pickletools
import re
import struct
from random import Random
from typing import Any, Callable, List, NamedTuple, Sequence, Tuple

__all__ = ['NUMBERS', 'Opaque', 'Pairs', 'Raw', 'TEXTS', 'change_bytes', 'change_json', 'change_pickle', 'change_text',
           'dump', 'leaf', 'parse', 'plain', 'split_pickle']

_LONG = 5000  # more digits than Python converts between text and integers
_MAX_REPEATED = 100_000  # characters; changes in a row would otherwise make texts of gigabytes

TEXTS = (
    '', ' ', '\0', 'a\0b', '\ud800', 'x\udfff', '\ufeff', '\u202e', '\U0010ffff', 'é', 'ﬁ', 'x' * 101, 'x' * 10_000,
    'a\nb', 'a\rb', '\x1b[31m', '../../etc/passwd', '/dev/zero', 'C:\\x', '%s%n', '{0}', '{', '__class__', 'None',
    'NaN', 'null', '0', '-1', 'h0', 'h1', 'h2', 'h15', 'h16', 'h999', 'h00', 'b0', 'b1', 'b4', 'b63', 'b64', 'b999',
    'B0', 'h0 ', 'identity', 'sep_conv_3x3', 'sep_conv_4x4', 'SEP_CONV_3X3', 'max_pool_3x3', 'concat', 'add', 'changed',
    'all', 'nasnet_a', 'nasnet_a.json', 'schema', 'normal', 'reduction', 'blocks', 'outputs', '$schema', 'NHWC',
    'uint8')
NUMBERS = (0, 1, 2, 3, 4, 15, 16, 17, 63, 64, 65, 255, 256, 1000, 1001, -1, -2, 2 ** 15, 2 ** 31 - 1, 2 ** 31, -2 ** 31,
           2 ** 32, 2 ** 40, 2 ** 53 + 1, 2 ** 63 - 1, 2 ** 63, 2 ** 64, 10 ** 30, 0.0, -0.0, 0.5, 1.0, 2.0, 1e-320,
           1e308, -1e308)


class Pairs(list):
    """A JSON object as a list of ``[key, value]``, so that a key may be there twice."""


class Raw(str):
    """JSON text that stands for itself."""


class Opaque(NamedTuple):
    """An object that :func:`plain` puts into the data as it is, for example a list that contains itself."""
    value: Any


RAWS = (
    Raw('NaN'), Raw('Infinity'), Raw('-Infinity'), Raw('1e999'), Raw('-1e999'), Raw('9' * _LONG),
    Raw('-' + '9' * _LONG), Raw('0.' + '1' * _LONG), Raw('1e-99999'), Raw('01'), Raw('1.'), Raw('.5'), Raw('True'),
    Raw('undefined'),
    Raw("'a'"),
    Raw(r'"\ud800"'), Raw(r'"\ud83d\ude00"'), Raw(r'"\u0000"'), Raw('"\t"'), Raw('"unclosed'), Raw('[1,]'),
    Raw('{"a"}'), Raw('/* comment */ 1'), Raw(''))


def parse(text: str) -> Any:
    """Return JSON text as data in which each object is of the class :class:`Pairs`."""
    return json.loads(text, object_pairs_hook=lambda pairs: Pairs(map(list, pairs)))


def dump(value: Any) -> str:
    """Return data as JSON text. Unlike the standard library's function, it writes what is not valid JSON, too."""
    if isinstance(value, Raw):
        return str(value)
    if isinstance(value, Pairs):
        return '{' + ', '.join(f'{json.dumps(key)}: {dump(child)}' for key, child in value) + '}'
    if isinstance(value, list):
        return '[' + ', '.join(map(dump, value)) + ']'
    try:
        return json.dumps(value)
    except (TypeError, ValueError, RecursionError):  # an object that JSON does not have
        return json.dumps(type(value).__name__)


def plain(value: Any) -> Any:
    """Return data with dicts instead of :class:`Pairs`, as a Python program would pass it."""
    if isinstance(value, Opaque):
        return value.value
    if isinstance(value, Raw):
        return str(value)
    if isinstance(value, Pairs):
        return {key: plain(child) for key, child in value}
    return [plain(child) for child in value] if isinstance(value, list) else value


def nested(rng: Random) -> Raw:
    """Return deeply nested JSON text."""
    depth = rng.choice((5, 17, 100, 500, 2000, 100_000))
    opening, closing = rng.choice((('[', ']'), ('{"a": ', '}'), ('[[],', ']')))
    return Raw(opening * depth + '1' + closing * depth * rng.choice((1, 1, 0)))


def leaf(rng: Random) -> Any:
    """Return a value that is unlikely to be right."""
    kind = rng.randrange(20)
    if kind < 8:
        return rng.choice(TEXTS)
    if kind < 15:
        return rng.choice(NUMBERS)
    if kind < 17:
        return rng.choice((None, True, False))
    if kind < 18:
        return [] if rng.random() < 0.5 else Pairs()
    return rng.choice(RAWS) if kind < 19 else nested(rng)


def slots(value: Any) -> List[Tuple[List[Any], int]]:
    """Return every place in JSON data as a list and an index in it; the data itself is not one of them."""
    found, todo = [], [value]
    while todo:
        container = todo.pop()
        for i, child in enumerate(container):
            holder, index = (child, 1) if isinstance(container, Pairs) else (container, i)
            found.append((holder, index))
            if isinstance(holder[index], list):
                todo.append(holder[index])
    return found


def change_json(value: Any, rng: Random, others: Sequence[Any], odd_values: Callable[[Random], Any] = leaf) -> Any:
    """Change JSON data at one to four places.

    Args:
        value: The data, with :class:`Pairs`. It is changed in place where possible.
        rng: The random generator.
        others: More data of the same kind, parts of which are put into `value`.
        odd_values: Returns a value that is unlikely to be right.

    Returns:
        The changed data.
    """
    for _ in range(rng.choice((1, 1, 1, 2, 2, 4))):
        places = slots(value)
        if not places or rng.random() < 0.01:
            return odd_values(rng)
        holder, index = rng.choice(places)
        _CHANGES[rng.randrange(len(_CHANGES))](holder, index, rng, others, odd_values)
    return value


def _replace(holder: List[Any], index: int, rng: Random, others: Sequence[Any], odd: Callable[[Random], Any]) -> None:
    holder[index] = odd(rng)


def _splice(holder: List[Any], index: int, rng: Random, others: Sequence[Any], odd: Callable[[Random], Any]) -> None:
    """Put another value in its place, usually one of the same type, so that the result may be valid."""
    places = slots(rng.choice(others))
    if rng.random() < 0.8:
        places = [(other, at) for other, at in places if type(other[at]) is type(holder[index])]
    if places:
        other, at = rng.choice(places)
        holder[index] = copy.deepcopy(other[at])


def _wrap(holder: List[Any], index: int, rng: Random, others: Sequence[Any], odd: Callable[[Random], Any]) -> None:
    old = holder[index]
    holder[index] = rng.choice(([old], [old, old], Pairs([['a', old]]), old[:1] if isinstance(old, (str, list)) else [],
                                dump(old) if isinstance(old, (int, float, Pairs)) else 1))


def _edit(holder: List[Any], index: int, rng: Random, others: Sequence[Any], odd: Callable[[Random], Any]) -> None:
    """Change the list, the object, the text or the number itself a little."""
    old = holder[index]
    if isinstance(old, list):
        entry = rng.randrange(len(old)) if old else 0
        kind = rng.randrange(5)
        if kind == 0 or not old:
            old.insert(entry, [rng.choice(TEXTS), odd(rng)] if isinstance(old, Pairs) else odd(rng))
        elif kind == 1:
            del old[entry]
        elif kind == 2:
            old[:] = old + [old[entry]] * rng.choice((1, 1, 2, 64, 1000))  # a key twice, or a list that is too long
        elif kind == 3:
            rng.shuffle(old)
        elif isinstance(old, Pairs):
            old[entry] = [rng.choice((rng.choice(TEXTS), old[entry][0] + 's', old[entry][0].upper())), old[entry][1]]
        else:
            del old[entry:]
    elif isinstance(old, str):
        holder[index] = change_text(old, rng, [rng.choice(TEXTS)])
    elif isinstance(old, (int, float)):
        holder[index] = rng.choice((old + 1, old - 1, -old, old * 10, old * 1_000_003, float(old), bool(old), str(old)))


def _swap(
        holder: List[Any], index: int, rng: Random, others: Sequence[Any], odd: Callable[[Random], Any]) -> None:
    """Swap two values of the same list, or else put a word of the language in its place."""
    second = rng.randrange(len(holder))
    if type(holder[index]) is type(holder[second]) and second != index and not isinstance(holder, Pairs):
        holder[index], holder[second] = holder[second], holder[index]
    else:
        holder[index] = rng.choice(TEXTS)


_CHANGES = (_replace, _splice, _splice, _wrap, _edit, _edit, _swap)

WORDS = (
    '(', ')', '[', ']', '{', '}', ',', ':', '=', '.', '*', '**', '-', '~', 'not ', 'lambda: ', 'range', 'range(',
    'None', 'True', '...', "'", '"', "'''", '\\', '\n', '\t', '\r', ' ', ';', '#', '\0', '\ud800', '\ufeff', 'é', '№',
    'f"{x}"',
    'b"x"', 'Genotype', 'normal', 'reduce', 'normal_concat', 'reduce_concat', 'skip_connect', 'none', 'sep_conv_3x3',
    'normal/op_2_0', 'normal/input_2_0', '0', '1', '2', '-1', '100', '101', '1e400', '1j', '1_0', '9' * _LONG,
    '0x' + 'f' * _LONG, '0b1', '2**99999', '10**10**10', '__import__("os").abort()', 'x for x in y', 'yield', 'await x',
    '@', ':=', '\f', '\\N{DIGIT ONE}', '\x1a')


def change_text(text: str, rng: Random, others: Sequence[str]) -> str:
    """Change a text at one to four places, by words and signs.

    Args:
        text: The text.
        rng: The random generator.
        others: More texts of the same kind, parts of which are put into `text`.
    """
    words = re.findall(r'\w+|\s+|.', text, re.DOTALL) or ['']
    for _ in range(rng.choice((1, 1, 2, 4))):
        first = rng.randrange(len(words))
        last = min(len(words), first + rng.choice((1, 1, 1, 2, 8, 40)))
        kind = rng.randrange(8)
        if kind == 0:
            words[first:last] = []
        elif kind == 1:
            part, times = words[first:last], rng.choice((2, 2, 3, 50))
            if times * sum(map(len, part)) < _MAX_REPEATED:
                words[first:last] = part * times
        elif kind == 2:
            words[first:last] = [rng.choice(WORDS)]
        elif kind == 3:
            words.insert(first, rng.choice(WORDS) * rng.choice((1, 1, 1, 1, 3, 120, 5000)))
        elif kind == 4:
            other = re.findall(r'\w+|\s+|.', rng.choice(others), re.DOTALL) or ['']
            start = rng.randrange(len(other))
            words[first:last] = other[start:start + rng.randrange(1, 40)]
        elif kind == 5:
            second = rng.randrange(len(words))
            words[first], words[second] = words[second], words[first]
        elif kind == 6:
            del words[first:]
        else:
            words[first] = ''.join(chr((ord(sign) ^ 1 << rng.randrange(8)) or 1) for sign in words[first][:8])
        words = words or ['']
    return ''.join(words)


_INTEGERS = (0, 1, 0x7f, 0xff, 0x7fff, 0xffff, 0x7fffffff, 0xffffffff, 2 ** 40, 2 ** 63 - 1, 2 ** 64 - 1)


def change_bytes(data: bytes, rng: Random, others: Sequence[bytes]) -> bytes:
    """Change bytes at one to eight places; `others` are more inputs of the same kind."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 3, 8))):
        size = len(changed)
        first = rng.randrange(size) if size else 0
        last = min(size, first + rng.choice((1, 2, 4, 8, 16, 64, 512)))
        kind = rng.randrange(9)
        if kind <= 1 and size:
            changed[first] ^= 1 << rng.randrange(8)
        elif kind == 2:
            changed[first:last] = rng.randbytes(last - first)
        elif kind == 3:
            number = rng.choice(_INTEGERS)
            packed = struct.pack(rng.choice('<>') + 'Q', number)
            width = rng.choice((1, 2, 4, 8))
            changed[first:first + width] = packed[:width] if rng.random() < 0.8 else packed[-width:]
        elif kind == 4:
            changed[first:last] = b''
        elif kind == 5:
            changed[first:last] = changed[first:last] * 2
        elif kind == 6:
            other = rng.choice(others)
            start = rng.randrange(len(other)) if other else 0
            changed[first:last] = other[start:start + rng.choice((1, 4, 16, 256))]
        elif kind == 7 and rng.random() < 0.5:
            del changed[first:]
        else:
            changed[first:last] = bytes([rng.choice((0, 0, 255))]) * (last - first)
    return bytes(changed)


# Instructions of pickles: classes that may be allowed, numbers, and calls.
_INSTRUCTIONS = (
    b'cbuiltins\nbytearray\n', b'cbuiltins\neval\n', b'cbuiltins\nset\n', b'cbuiltins\ncomplex\n', b'cos\nsystem\n',
    b'ctorch\nTensor\n', b'ctorch\nSize\n', b'ctorch\nFloatStorage\n', b'ctorch\nfloat16\n', b'c_codecs\nencode\n',
    b'ccollections\nOrderedDict\n', b'ccollections\nCounter\n', b'ctorch._utils\n_rebuild_tensor_v2\n',
    b'ctorch._utils\n_rebuild_parameter\n', b'ctorch._utils\n_rebuild_sparse_tensor\n', b'cargparse\nNamespace\n',
    b'ctorch._utils\n_rebuild_meta_tensor_no_storage\n', b'ctorch._utils\n_rebuild_qtensor\n',
    b'ctorch.nn.parameter\nParameter\n', b'ctorch.storage\nUntypedStorage\n', b'cnumpy\nndarray\n', b'cnumpy\ndtype\n',
    b'K\x00', b'K\x01', b'M\xff\xff', b'J\xff\xff\xff\x7f', b'J\xff\xff\xff\xff', b'J\x00\x00\x00\x40',
    b'\x8a\x06\x00\x00\x00\x00\x00\x01', b'\x8a\x08' + b'\xff' * 7 + b'\x7f', b'\x8a\xff' + b'\x7f' * 255,
    b'G\x7f\xf8\0\0\0\0\0\0', b'X\x01\0\0\0a', b'X\xff\xff\xff\x7fa', b'X\x03\0\0\0cpu', b'X\x04\0\0\0meta',
    b'X\x04\0\0\0cuda', b'N', b'\x88', b']', b'}', b')', b'(', b'\x85', b'\x86', b'\x87', b't', b'l', b'R', b'\x81',
    b'b',
    b'Q', b's', b'u', b'a', b'e', b'0', b'2', b'1', b'.', b'q\x00', b'h\x00', b'r\xff\xff\xff\x7f',
    b'j\xff\xff\xff\x7f',
    b'cbuiltins\nbytearray\nJ\x00\x00\x00\x40\x85R', b'cbuiltins\nbytearray\nJ\xff\xff\xff\x7f\x85R',
    b'ctorch\nTensor\nJ\xff\xff\xff\x7f\x85R', b'ctorch\nTensor\nK\x03\x85R', b'(' * 3000, b'](' * 2000)


def split_pickle(data: bytes) -> List[bytes]:
    """Return the instructions of a pickle, or of several one after the other."""
    parts, start = [], 0
    while start < len(data):
        try:
            places = [position for _, _, position in pickletools.genops(data[start:])]
        except ValueError:  # what follows the pickles, as in the old format of PyTorch
            return [*parts, data[start:]]
        places.append(data.index(b'.', start + places[-1]) + 1 - start)
        parts += [data[start + first:start + last] for first, last in zip(places, places[1:])]
        start += places[-1]
    return parts


def change_pickle(parts: Sequence[bytes], rng: Random) -> bytes:
    """Change the instructions of a pickle, from :func:`split_pickle`, at one to four places."""
    changed = list(parts)
    for _ in range(rng.choice((1, 1, 2, 4))):
        first = rng.randrange(len(changed))
        last = first + rng.choice((1, 1, 2, 6))
        kind = rng.randrange(6)
        if kind == 0 and len(changed) > last:
            del changed[first:last]
        elif kind == 1:
            changed.insert(first, rng.choice(_INSTRUCTIONS))
        elif kind == 2:
            changed[first] = rng.choice(_INSTRUCTIONS)
        elif kind == 3:
            changed[first] = rng.choice(parts)
        elif kind == 4:
            changed[first:last] = changed[first:last] * rng.choice((2, 20))
        else:
            changed[first] = change_bytes(changed[first], rng, _INSTRUCTIONS)
    return b''.join(changed)

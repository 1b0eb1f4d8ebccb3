"""Hostile pickles: nothing that they name is imported or called, and they cannot ask for much memory."""
import functools
import io
import os
import pickle
import struct
import sys

import pytest
import torch

from nasnet_zoo.checkpoints.inert_pickle import Foreign, load_inert


class Call:
    """Pickled as the call of a function."""
    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize('protocol', [0, 2, 4])
@pytest.mark.parametrize('call', [
    lambda: Call(os.mkdir, 'ran'), lambda: Call(os.system, 'mkdir ran'), lambda: Call(eval, 'open("ran", "w")'),
    lambda: Call(exec, 'import os; os.mkdir("ran")'), lambda: Call(functools.partial, os.mkdir, 'ran'),
    lambda: Call(getattr, os.mkdir, '__call__'), lambda: Call(torch.save, {}, 'ran'),
    lambda: Call(bytearray, 1 << 40), lambda: [Call(os.mkdir, 'ran')] * 3, lambda: {Call(os.mkdir, 'ran'): 1},
])
def test_no_function_is_called(call, protocol, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    load_inert(io.BytesIO(pickle.dumps(call(), protocol)))
    assert not list(tmp_path.iterdir())


def test_no_module_is_imported():
    value = load_inert(io.BytesIO(b'\x80\x02cantigravity\nfly\n)\x81.'))
    assert value.path == 'antigravity.fly' and 'antigravity' not in sys.modules


def test_what_is_left_of_objects():
    class Options(dict):
        pass
    sys.modules[__name__].Options = Options
    Options.__qualname__ = 'Options'
    options = Options(a=1)
    options.b = 2
    found = load_inert(io.BytesIO(pickle.dumps((options, {3}, 1.5, None, b'x', 'ä'), 4)))
    assert dict(found[0]) == dict(a=1, b=2) and found[0].path.endswith('.Options')
    assert found[1:] == ({3}, 1.5, None, b'x', 'ä')


@pytest.mark.parametrize('code, match', [
    (b'ccollections\nOrderedDict\nN}U\x01xU\x01ys\x86b', 'state'),  # set an attribute of a class
    (b'cos\nsystem\n}U\x08__call__U\x01ysb', 'state'),
    (b'Nr\xff\xff\xff\x7f', 'LONG_BINPUT'),  # a memo of 16 GiB
    (b'\x8e' + struct.pack('<Q', 1 << 40), 'bytes'), (b'\x82\x01', 'EXT1'),
    (b'(' + b'}' * 2_000_001 + b'l', 'more than'),
    (b'Pabc\n', 'outside'), (b')U\x01xU\x01ys', 'item assignment'), (b'', 'not enough|underflow|exhausted|stack'),
])
def test_refused(code, match):
    with pytest.raises(Exception, match=match):
        load_inert(io.BytesIO(b'\x80\x04' + code + b'.'))
    assert not hasattr(Foreign, 'x')


def test_the_file_is_left_at_the_end_of_the_pickle():
    file = io.BytesIO(pickle.dumps(1) + pickle.dumps([2]) + b'rest')
    assert (load_inert(file), load_inert(file), file.read()) == (1, [2], b'rest')

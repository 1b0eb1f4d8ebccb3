import os

import pytest

from nasnet_zoo.checked import printable


@pytest.mark.parametrize('text, shown', [
    ('Käfer.png', 'Käfer.png'),
    (os.fsdecode(b'K\xe4fer.png'), r'K\udce4fer.png'),
    ('two\nlines', r'two\nlines'),
    ('\x1b[1;31mred\x1b[0m', 'red'),
    ('\x1b]0;title\x07text', 'text'),
    ('bell\x07', r'bell\x07'),
    (ValueError('an error'), 'an error'),
])
def test_printable(text, shown):
    assert printable(text) == shown and shown.isprintable()
    assert printable('a\n\tb\x07', keep='\n\t') == 'a\n\tb\\x07'

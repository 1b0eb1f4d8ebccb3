"""Progress bars: where they are drawn, and with which colours."""
import io
import re
import sys

from nasnet_zoo.progress import line_printer, make_progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


def drawn(stream, monkeypatch, **environment):
    """What a finished progress bar and a long line leave on standard error."""
    for name in ('NO_COLOR', 'FORCE_COLOR', 'TTY_COMPATIBLE', 'TTY_INTERACTIVE'):
        monkeypatch.delenv(name, raising=False)
    for name, value in {'TERM': 'xterm-256color', 'COLUMNS': '80', **environment}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, 'stderr', stream)
    with make_progress('children') as progress:
        progress.update(progress.add_task('', total=2), completed=2)
        line_printer(progress)('[bold]' + 'x' * 100)
    return stream.getvalue()


def test_bars_are_drawn_on_terminals_only(monkeypatch):
    colour = re.compile(r'\x1b\[[0-9;]*3[0-9]')
    text = drawn(Terminal(), monkeypatch)
    assert '2/2' in text and colour.search(text)
    text = drawn(Terminal(), monkeypatch, NO_COLOR='1')
    assert '2/2' in text and not colour.search(text)
    assert drawn(Terminal(), monkeypatch, TERM='dumb') == '[bold]' + 'x' * 100 + '\n'
    for environment in ({}, dict(FORCE_COLOR='1')):
        assert drawn(io.StringIO(), monkeypatch, **environment) == '[bold]' + 'x' * 100 + '\n'

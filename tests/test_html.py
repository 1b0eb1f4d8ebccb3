"""Pages are well-formed, and whatever is in a text stays a text."""
import pytest

from helpers.html import parse
from nasnet_zoo import html

EVIL = '</script><script>alert("1")</script><img src=x onerror=\'alert(2)\'>&amp;'


@pytest.mark.parametrize('part', [
    lambda text: html.section(text, html.paragraph(text), html.paragraph(text, soft=True)),
    lambda text: html.details(text, html.items([text])),
    lambda text: html.code(text),
    lambda text: html.facts({text: text, 'left out': None}),
    lambda text: html.table(text, [{text: text, 'number': '1'}], texts=[text]),
    lambda text: html.pictures([html.Picture(text, '<svg ></svg>', text, [html.Key(text, text)]), None])])
def test_texts_are_escaped(part):
    checker = parse(html.page(EVIL, [part(EVIL)]))
    assert EVIL in checker.texts and not {'script', 'img'} & set(checker.names)
    assert 'left out' not in checker.texts


def test_nothing_is_executed_or_loaded():
    page = html.page('title', [])
    assert "default-src 'none'" in page and 'refresh' not in page
    assert '<meta http-equiv="refresh" content="30">' in html.page('title', [], refresh=30)


def test_what_is_empty_is_left_out():
    assert html.section('title', '', '') == html.table('title', []) == html.items([]) == html.pictures([None]) == ''


def test_pictures_have_alternative_texts_and_legends():
    styles = ('solid', 'dashed', 'dotted', 'dot', 'bar')
    keys = [html.Key(style, '#123456', style) for style in styles]
    checker = parse(html.pictures([html.Picture('Title', '<svg ></svg>', 'What it shows', keys)]))
    assert 'Title. What it shows' in checker.values and 'img' in checker.values
    assert set(styles) <= set(checker.texts) and checker.names.count('svg') == 1 + len(styles)
    assert 'max="10" value="3"' in html.progress(3, 10)

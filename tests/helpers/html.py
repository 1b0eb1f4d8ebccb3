"""Parses HTML, and checks that it is well-formed."""
from html.parser import HTMLParser

# Elements without an end tag, or with an optional one
EMPTY = {'meta', 'br', 'li', 'path', 'circle', 'img', 'link', 'input'}


class Checker(HTMLParser):
    """Collects texts and names of elements, and checks that elements end in the right order."""

    def __init__(self):
        super().__init__()
        self.open, self.names, self.texts, self.values = [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.names.append(tag)
        self.values += [value for _, value in attrs if value]
        if tag not in EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in EMPTY:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def parse(text):
    checker = Checker()
    checker.feed(text)
    assert not checker.open
    return checker

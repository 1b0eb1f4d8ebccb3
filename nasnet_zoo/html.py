"""The parts of which pages consist. All texts are escaped here, so no other module writes HTML."""
import io
import re
from html import escape
from typing import Any, Iterable, Mapping, NamedTuple, Optional, Sequence

from .drawing import draw
from .genotype.schema import Genotype

__all__ = ['Key', 'Picture', 'code', 'contents', 'details', 'facts', 'items', 'page', 'paragraph', 'pictures',
           'progress', 'section', 'show_cells', 'svg_element', 'table']


class Key(NamedTuple):
    """An entry of a legend.

    Attributes:
        text: What it stands for.
        colour: A colour of CSS.
        style: ``solid``, ``dashed``, ``dotted``, ``dot`` or ``bar``.
    """
    text: str
    colour: str
    style: str = 'solid'


class Picture(NamedTuple):
    """A plot or a drawing.

    Attributes:
        title: Its title.
        svg: The SVG element.
        text: What it shows, for those who see it and for those who do not.
        legend: Its legend.
        is_drawing: Whether it needs a white background, and the width of the page.
    """
    title: str
    svg: str
    text: str = ''
    legend: Sequence[Key] = ()
    is_drawing: bool = False


_STYLE = '''
:root { color-scheme: light dark; --ink: #1c2024; --soft: #60646c; --line: #d9dce0; --card: #fff; --back: #f6f7f9;
  --accent: #2b6cb0 }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e6ea; --soft: #a0a6af; --line: #353a41; --card: #1c2025; --back: #131619; --accent: #6cb0ee }
}
* { box-sizing: border-box }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--back); margin: 0 auto;
  max-width: 76rem; padding: 1rem }
h1 { font-size: 1.7rem; line-height: 1.2; margin: .5rem 0; overflow-wrap: anywhere }
a { color: var(--accent) }
h2 { font-size: 1.25rem; margin: 2.2rem 0 .6rem; line-height: 1.3 }
p, li { max-width: 48rem; overflow-wrap: anywhere } p { margin: .5rem 0 }
.soft, figcaption p { color: var(--soft); font-size: .9rem }
.facts { display: grid; grid-template-columns: repeat(auto-fill, minmax(9.5rem, 1fr)); gap: .6rem; margin: 1rem 0 }
.facts div, figure, .scroll, pre { background: var(--card); border: 1px solid var(--line); border-radius: .5rem }
.facts div { padding: .5rem .8rem } .facts dt { color: var(--soft); font-size: .85rem }
.facts dd { margin: 0; font-size: 1.2rem; font-variant-numeric: tabular-nums; overflow-wrap: anywhere }
.pictures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 27rem), 1fr)); gap: .8rem }
figure { margin: 0; padding: .8rem; min-width: 0 } figure h3 { font-size: 1rem; margin: 0 0 .3rem; line-height: 1.3 }
figure svg { display: block; width: 100%; height: auto; margin: 0 auto }
.drawing .canvas { background: #fff; border-radius: .3rem; padding: .3rem; overflow-x: auto }
.drawing svg { max-height: 32rem; min-width: 24rem }
.legend { display: flex; flex-wrap: wrap; gap: .1rem 1rem; list-style: none; margin: .4rem 0; padding: 0;
  font-size: .9rem }
.legend svg { display: inline-block; width: 1.8rem; height: .8rem; margin-right: .35rem; vertical-align: -.05rem }
.scroll { overflow-x: auto; margin: .6rem 0 } table { border-collapse: collapse; width: 100% }
th, td { padding: .35rem .8rem; text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap }
th { font-size: .85rem; color: var(--soft); font-weight: 600; vertical-align: bottom }
tr + tr > * { border-top: 1px solid var(--line) }
td.text, th.text { text-align: left; white-space: normal; min-width: 8rem }
pre { padding: .8rem; overflow-x: auto; font-size: .85rem; line-height: 1.4 }
details { margin: 2.2rem 0 } summary { font-size: 1.25rem; font-weight: 700; cursor: pointer }
progress { width: 100%; accent-color: var(--accent) }
'''

# By default, nothing on a page is executed or loaded, whatever is in it.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"

_SWATCHES = {  # by the style of a key
    'solid': '<path d="M0 6H30" stroke="{0}" stroke-width="3"/>',
    'dashed': '<path d="M0 6H30" stroke="{0}" stroke-width="3" stroke-dasharray="8 3"/>',
    'dotted': '<path d="M0 6H30" stroke="{0}" stroke-width="3" stroke-dasharray="3 3"/>',
    'dot': '<circle cx="15" cy="6" r="4" fill="{0}"/>',
    'bar': '<path d="M4 1H26V11H4Z" fill="{0}"/>',
}


def page(
        title: str, parts: Iterable[str], refresh: Optional[int] = None, styles: Sequence[str] = (),
        scripts: Sequence[str] = (), icon: Optional[str] = None, policy: str = _POLICY,
) -> str:
    """Return a page.

    Args:
        title: Its title.
        parts: What the functions of this module return.
        refresh: The number of seconds after which a browser loads the page again.
        styles, scripts, icon: Addresses of style sheets, scripts and the page's icon, which `policy` must allow.
        policy: What the page may load and execute, as a Content-Security-Policy; by default nothing.
    """
    head = f'<meta http-equiv="refresh" content="{refresh:d}">\n' if refresh else ''
    head += f'<link rel="icon" href="{escape(icon)}">\n' if icon else ''
    head += ''.join(f'<link rel="stylesheet" href="{escape(address)}">\n' for address in styles)
    head += ''.join(f'<script src="{escape(address)}" defer></script>\n' for address in scripts)
    return (f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            f'<meta http-equiv="Content-Security-Policy" content="{escape(policy, quote=False)}">\n'
            f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f'<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n{head}</head>\n<body>\n<main>\n'
            f'<h1>{escape(title)}</h1>\n' + '\n'.join(filter(None, parts)) + '\n</main>\n</body>\n</html>\n')


def section(title: str, *parts: str) -> str:
    """Return a section with a heading, or nothing if all of its parts are empty."""
    content = '\n'.join(filter(None, parts))
    return f'<section id="{_anchor(title)}">\n<h2>{escape(title)}</h2>\n{content}\n</section>' if content else ''


def contents(titles: Sequence[str]) -> str:
    """Return links to the sections with these titles."""
    return '<nav><ul class="legend">' + ''.join(
        f'<li><a href="#{_anchor(title)}">{escape(title)}</a></li>' for title in titles) + '</ul></nav>'


def _anchor(title: str) -> str:
    """Return the identifier of the section with this title."""
    return re.sub(r'[^\w.-]', '-', title)


def details(title: str, *parts: str) -> str:
    """Return parts that are hidden until the reader opens them."""
    return f'<details><summary>{escape(title)}</summary>\n' + '\n'.join(filter(None, parts)) + '\n</details>'


def paragraph(text: str, soft: bool = False) -> str:
    """Return a paragraph; a `soft` one is less prominent."""
    return f'<p class="soft">{escape(text)}</p>' if soft else f'<p>{escape(text)}</p>'


def items(texts: Sequence[str]) -> str:
    """Return a list, or nothing if there are no texts."""
    return '<ul>' + ''.join(f'<li>{escape(text)}</li>' for text in texts) + '</ul>' if texts else ''


def code(text: str) -> str:
    """Return lines of code."""
    return f'<pre tabindex="0"><code>{escape(text)}</code></pre>'


def facts(values: Mapping[str, Optional[str]]) -> str:
    """Return named values; those that are None are left out."""
    return '<dl class="facts">' + ''.join(
        f'<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>'
        for name, value in values.items() if value is not None) + '</dl>'


def progress(value: int, maximum: int) -> str:
    """Return a progress bar."""
    return f'<progress max="{maximum:d}" value="{value:d}" aria-label="finished part of the search"></progress>'


def table(title: str, rows: Sequence[Mapping[str, str]], texts: Sequence[str] = ()) -> str:
    """Return a table, or nothing if there are no rows.

    Args:
        title: What the table shows, for those who do not see it.
        rows: For each row the text in each column. All rows have the same columns.
        texts: The columns that hold texts; the others hold numbers.
    """
    if not rows:
        return ''

    def cell(tag: str, column: str, text: str) -> str:
        return f'<{tag}{" class=text" if column in texts else ""}>{escape(text)}</{tag.split()[0]}>'
    head = ''.join(cell('th scope=col', column, column) for column in rows[0])
    body = '\n'.join('<tr>' + ''.join(cell('td', column, text) for column, text in row.items()) + '</tr>'
                     for row in rows)
    return (f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(title)}"><table>\n<tr>{head}</tr>\n'
            f'{body}\n</table></div>')


def pictures(shown: Iterable[Optional[Picture]]) -> str:
    """Return pictures beside each other, as far as there is room. Those that are None are left out."""
    figures = [_figure(picture) for picture in shown if picture is not None]
    return '<div class="pictures">\n' + '\n'.join(figures) + '\n</div>' if figures else ''


def svg_element(figure: Any) -> str:
    """Return a figure of matplotlib as an SVG element without its size, which the page sets, and without names of its
    groups."""
    buffer = io.StringIO()
    figure.savefig(buffer, format='svg', metadata={'Date': None})
    svg = buffer.getvalue()
    svg = re.sub(r'<metadata>.*?</metadata>\s*', '', svg[svg.index('<svg'):], flags=re.DOTALL)
    svg = re.sub(r'<svg [^>]*?(viewBox="[^"]*")[^>]*>', r'<svg xmlns:xlink="http://www.w3.org/1999/xlink" \1>', svg,
                 count=1)
    return re.sub(r'<g id="[^"]*">', '<g>', svg)


def show_cells(title: str, genotype: Genotype) -> Picture:
    """Return the drawing of a pair of cells."""
    figure = draw(genotype)
    from matplotlib import style
    with style.context(['default', {'svg.hashsalt': genotype.layout_digest}], after_reset=True):
        return Picture(title, svg_element(figure), is_drawing=True)


def _figure(picture: Picture) -> str:
    """Return a figure: its title, the SVG with an alternative text, the legend and the caption."""
    label = escape('. '.join(filter(None, [picture.title, picture.text])))
    svg = picture.svg.replace('<svg ', f'<svg role="img" aria-label="{label}" ', 1)
    legend = ''.join(
        f'<li><svg viewBox="0 0 30 12" aria-hidden="true">{_SWATCHES[style].format(escape(colour))}</svg>{escape(text)}'
        for text, colour, style in picture.legend)
    # A drawing may be wider than a phone. The keyboard can scroll only what has the focus.
    scrolled = f' tabindex="0" role="region" aria-label="{escape(picture.title)}"' if picture.is_drawing else ''
    return (f'<figure{" class=drawing" if picture.is_drawing else ""}><h3>{escape(picture.title)}</h3>'
            f'<div class="canvas"{scrolled}>{svg}</div>\n<figcaption>'
            + (f'<ul class="legend">{legend}</ul>' if legend else '')
            + (f'<p>{escape(picture.text)}</p>' if picture.text else '') + '</figcaption></figure>')

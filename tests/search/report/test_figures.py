"""The plots: SVG that fits into a page, for many children and for few."""
import re
import xml.etree.ElementTree as ET
from dataclasses import replace

import matplotlib
import pytest

from nasnet_zoo import html
from nasnet_zoo.search.report import figures
from nasnet_zoo.search.report.record import SearchRecord


def first(record, children):
    """The search as it was after some children."""
    return replace(record, trials=record.trials[:record.children[children - 1].number + 1])


def checked(picture):
    """The texts in a plot, which must be an element that takes its colours and its size from the page."""
    root = ET.fromstring(picture.svg)
    assert root.tag.endswith('svg') and root.get('viewBox') and not root.get('width')
    assert '#010203' not in picture.svg and not re.search(r'<script|(src|href)="[^#]', picture.svg)
    return ' '.join(root.itertext())


@pytest.mark.parametrize('children', [1, 3, 30, None])
@pytest.mark.parametrize('number', [1, 2])
def test_plots_of_few_and_many_children(records, children, number):
    searches = [first(record, children) if children else record for record in records[:number]]
    for picture in (figures.plot_tops(searches), figures.plot_learning(searches), figures.plot_cost(searches, 'macs')):
        assert 'validation accuracy' in checked(picture) and '%' in checked(picture)
        assert [key.text for key in picture.legend][:number] == ['evolution', 'random'][:number]
    assert (figures.plot_distribution(searches) is None) == (number == 1)


def test_settings_of_matplotlib_are_kept(records):
    with matplotlib.rc_context({'font.size': 33, 'svg.fonttype': 'path'}):
        assert checked(figures.plot_tops(records)) == checked(figures.plot_tops(records))
        assert matplotlib.rcParams['font.size'] == 33


def test_random_children_are_drawn_only_where_they_say_something(records):
    evolution, random = records
    assert 'expected best of random children' in str(figures.plot_tops([evolution]).legend)
    for searches in ([evolution, random], [random], [first(evolution, 20)]):
        assert 'expected best' not in str(figures.plot_tops(searches).legend)


def test_predictions_are_plotted_if_there_are_any(records, monkeypatch):
    record = records[0]
    assert figures.plot_predictions(records) is None
    predicted = [child._replace(predicted=(child.reward, 0.01)) for child in record.children]
    known = SearchRecord(record.label, record.settings, record.trials, 60)
    monkeypatch.setitem(vars(known), 'children', predicted)
    picture = figures.plot_predictions([known])
    assert 'predicted validation accuracy' in checked(picture)
    assert f'rank correlation 1.00 over {len(predicted)} children; 100% within two' in picture.text


def test_shares_name_operations_and_states(records):
    group = ('all', '#123456', records[0], records[0].children)
    operations, edges = map(checked, figures.plot_shares([group]))
    assert 'sep_conv_3x3' in operations and 'normal cell' in operations and 'reduction cell' in operations
    assert 'h0' in edges and 'b2' in edges
    unknown = replace(records[0], space=None)
    assert figures.plot_shares([('all', '#123456', unknown, unknown.children)]) == []


def test_cells_are_shown(records):
    picture = html.show_cells('Cells', records[0].genotype(records[0].best))
    assert ET.fromstring(picture.svg).tag.endswith('svg') and picture.is_drawing

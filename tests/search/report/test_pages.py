"""The report of a search, and the comparison of searches."""
import json
import re
import shutil
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from nasnet_zoo.search.errors import SearchError
from nasnet_zoo.search.report.pages import STATES, search_page, write_report


def headings(page):
    return re.findall('<h2>(.*?)</h2>', page)


def test_a_finished_search(records):
    record = records[0]
    winner = record.genotype(record.best, 'the-winner')
    finals = [dict(number=record.best.number, child_value=0.8, accuracy=0.91, accuracies=[0.91], params=1234, macs=5678,
                   seconds=60., architecture='abc', cell_filters=7)]
    page = search_page(replace(record, winner=winner, finals=finals))
    assert headings(page) == ['The winner', 'The best children, trained again', 'Rewards', 'Accuracy and cost',
                              'What good cells consist of', 'Ancestors of the winner', 'Failed and pruned children']
    assert 'the-winner' in page and '91.00%' in page and '1,234' in page and 'compile_genotype' in page
    assert 'refresh' not in page and '<progress' not in page
    assert 'has too many &lt;parameters&gt;' in page and '<parameters>' not in page


def test_a_running_search(records):
    record = replace(records[0], wanted=120)
    began = min(trial.datetime_start for trial in record.trials).astimezone(UTC)
    page = search_page(record, 'running', since=min(began, datetime.now(UTC) - timedelta(hours=1)), seconds_left=2400.)
    assert 'http-equiv="refresh"' in page and STATES['running'] in page and 'max="120" value="60"' in page
    assert '60 of 120' in page and 'children per hour' in page and 'UTC, in 40 min' in page
    assert 'Ancestors of the best child so far' in page and f'child-{record.best.number}' in page


@pytest.mark.parametrize('trials', [0, 1, 3])
def test_a_search_with_few_children(records, trials):
    page = search_page(replace(records[0], trials=records[0].trials[:trials]), 'stopped')
    assert ('No child has been trained yet.' in page) == (trials == 0)
    assert STATES['stopped'] in page and page.endswith('</html>\n')


def test_a_baseline_is_in_all_plots(records):
    page = search_page(records[0], baseline=records[1])
    assert page.count('</svg>random') == 5 and 'Differences' in headings(page)
    assert 'Differences' not in headings(search_page(records[0]))


def test_a_baseline_that_is_gone_is_left_out(folders, tmp_path):
    search = tmp_path / 'search'
    shutil.copytree(folders[0], search)
    content = json.loads((search / 'search.json').read_text(encoding='utf-8'))
    for baseline in tmp_path / 'moved', tmp_path:  # the second is a folder without a search
        content['config']['baseline'] = str(baseline)
        (search / 'search.json').write_text(json.dumps(content), encoding='utf-8')
        write_report([search], tmp_path / 'page.html')
        page = (tmp_path / 'page.html').read_text(encoding='utf-8')
        assert 'Differences' not in headings(page) and f'Its baseline, {baseline}, is not there any more.' in page


def test_no_search_is_compared_with_itself(folders, tmp_path):
    with pytest.raises(ValueError, match='a folder is given twice'):
        write_report([folders[0], folders[0] / '..' / folders[0].name], tmp_path / 'page.html')


def test_a_report_is_an_html_page(folders):
    before = (folders[0] / 'search.json').read_bytes()
    with pytest.raises(ValueError, match=r'--out: .*search.json does not end in .html'):
        write_report(folders[:1], folders[0] / 'search.json')
    assert (folders[0] / 'search.json').read_bytes() == before


def test_a_comparison(folders, records, tmp_path):
    result = write_report(folders, tmp_path / 'page.html')
    page = (tmp_path / 'page.html').read_text(encoding='utf-8')
    assert headings(page) == ['Results', 'Rewards', 'Accuracy and cost', 'Differences', 'What good cells consist of',
                              'The best cells']
    assert 'evolution: child-' in page and 'random: child-' in page
    json.dumps(result)
    evolution, random = result['searches']
    assert evolution['children'] == len(records[0].children) and evolution['failed'] == records[0].failures.total()
    assert evolution['rewards']['best'] == records[0].best.reward == evolution['curves']['best'][-1][1]
    assert random['settings']['sampler'] == 'random' and random['winner'] is None
    (pair,) = result['differences']
    assert (pair['search'], pair['other'], pair['children']) == ('evolution', 'random', 60)
    assert {one['name'] for one in pair['differences']} >= {'best', 'mean of the top 25'}


def test_searches_that_cannot_be_compared_are_named(folders, tmp_path):
    other = tmp_path / 'evolution'
    shutil.copytree(folders[0], other)
    content = json.loads((other / 'search.json').read_text(encoding='utf-8'))
    content['settings']['child']['recipe']['epochs'] = 3
    (other / 'search.json').write_text(json.dumps(content), encoding='utf-8')
    write_report([folders[0], other], tmp_path / 'page.html')
    page = (tmp_path / 'page.html').read_text(encoding='utf-8')
    assert 'The rewards cannot be compared' in headings(page) and 'child.recipe.epochs' in page
    assert str(other) in page, 'searches of the same name are told apart by their paths'


def test_names_are_escaped(folders, tmp_path):
    evil = tmp_path / '<img src=x onerror=alert(1)>'
    shutil.copytree(folders[0], evil)
    for searches in ([evil], [evil, folders[1]]):
        write_report(searches, tmp_path / 'page.html')
        page = (tmp_path / 'page.html').read_text(encoding='utf-8')
        assert '<img' not in page and '&lt;img src=x' in page and "default-src 'none'" in page


def test_what_is_no_search(folders, tmp_path):
    with pytest.raises(SearchError, match='there is no search here'):
        write_report([folders[0], tmp_path], tmp_path / 'page.html')
    assert not (tmp_path / 'page.html').exists()

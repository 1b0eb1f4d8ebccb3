"""Children of one search that another one takes over."""
import json
import re
import shutil
import textwrap
from itertools import product

import pytest
from optuna.trial import create_trial
from typer.testing import CliRunner

from nasnet_zoo import load_genotype
from nasnet_zoo.cli.main import app
from nasnet_zoo.search.config import ChildSettings, SearchConfig
from nasnet_zoo.search.errors import SearchError
from nasnet_zoo.search.image_facts import ImageFacts
from nasnet_zoo.search.make_space import make_space
from nasnet_zoo.search.reuse import read_reused
from nasnet_zoo.search.study import open_study

pytest.importorskip('sklearn', reason='the digits come with scikit-learn')
CHILD = ['--protocol', 'paper', '--num-cells', '1', '--cell-filters', '2', '--epochs', '1', '--batch-size', '100',
         '--limit-train', '200', '--top', '1', '--final-epochs', '1', '--json']
SPACES = '''
    from nasnet_zoo.search import Decision, Space, SpaceError, darts_space

    def small(nodes=1):
        return darts_space(2, ('max_pool_3x3', 'sep_conv_3x3'))

    def unparsed():
        return Space('darts-2', small().decisions, small()._build)

    def large():
        """With one more operation, and without cells whose first block pools twice."""
        inner = darts_space(2, ('max_pool_3x3', 'sep_conv_3x3', 'sep_conv_5x5'))

        def parse(genotype):
            if [op for op, _ in genotype.normal.blocks[0].edges] == ['max_pool_3x3'] * 2:
                raise SpaceError('two pools')
            return inner.choices(inner.find(genotype))

        return Space('large', inner.decisions, inner._build, parse)

    def other():
        return Space('other', darts_space(2).decisions, darts_space(2)._build)

    def broken():
        return Space('broken', darts_space(2).decisions, darts_space(2)._build, lambda genotype: genotype['normal'])
'''


def command(out, *options):
    return CliRunner().invoke(app, ['search', '--out', str(out), *CHILD, *options])


def trials_in(out):
    return open_study(out, json.loads((out / 'search.json').read_text(encoding='utf-8'))['study']).trials


@pytest.fixture(scope='module')
def first(tmp_path_factory):
    """The file with the spaces, and the folder of a search of six children in the first of them."""
    folder = tmp_path_factory.mktemp('reuse')
    file = folder / 'spaces.py'
    file.write_text(textwrap.dedent(SPACES), encoding='utf-8')
    result = command(folder / 'first', '--space', f'{file}:small', '--sampler', 'random', '--trials', '6')
    assert result.exit_code == 0, result.output
    return file, folder / 'first'


def test_children_are_taken_over(first, tmp_path):
    """Into another space, with the same rewards; the sampler learns from them, and a resumed search has them once."""
    file, old = first
    options = ['--space', f'{file}:large', '--sampler', 'evolution', '--reuse', str(old), '--reuse', str(old)]
    known = {trial.user_attrs['architecture']: trial for trial in trials_in(old)}
    pools = [trial for trial in known.values() if [
        trial.params[f'normal.b0.{side}_op'] for side in ('left', 'right')] == ['max_pool_3x3'] * 2]
    count = 6 - len(pools)
    assert 0 < count < 6, 'the seed draws cells of both kinds'

    result = command(tmp_path / 'new', *options, '--trials', str(count + 1))
    assert result.exit_code == 0, result.output
    assert f'{old}: {count} of 6 children are in the space large' in result.stderr
    assert re.search('^about .*: 1 more child', result.stderr, re.M)
    *reused, new = trials_in(tmp_path / 'new')
    assert len(reused) == count and new.user_attrs['architecture'] not in known
    for trial in reused:
        before = known[trial.user_attrs['architecture']]
        assert trial.value == before.value and trial.user_attrs['reused'] == f'first/{before.number}'
        assert {name: before.user_attrs[name] for name in ('accuracy', 'params', 'macs', 'rewards')}.items() <= (
            trial.user_attrs.items())
    assert [trial.value for trial in reused] == sorted(trial.value for trial in reused)
    assert new.system_attrs['nasnet_zoo']['parent'] in range(count), 'a child of one that was taken over'
    report = (tmp_path / 'new' / 'report.html').read_text(encoding='utf-8')
    assert re.search(rf'children from other searches.{{1,40}}\b{count}\b', report, re.S)
    cell = load_genotype(tmp_path / 'new' / 'cell.json')
    won = next(trial for trial in trials_in(tmp_path / 'new') if trial.number == cell.search['trial'])
    assert cell.search.get('reused') == won.user_attrs.get('reused')

    again = command(tmp_path / 'new', *options, '--trials', str(count + 1), '--resume')
    assert again.exit_code == 0 and json.loads(again.stdout) == json.loads(result.stdout)
    assert len(trials_in(tmp_path / 'new')) == count + 1


def test_random_search_goes_on_with_other_cells(first, tmp_path):
    """It does not draw those of the other search again, which had the same seed. The same space needs no `parse`."""
    file, old = first
    result = command(tmp_path / 'new', '--space', f'{file}:unparsed', '--reuse', str(old), '--trials', '7', '--sampler',
                     'random', '--time-limit', '1000')
    assert result.exit_code == 0, result.output
    *reused, new = trials_in(tmp_path / 'new')
    assert [trial.value for trial in reused] == sorted(trial.value for trial in trials_in(old))
    assert new.user_attrs['architecture'] not in [trial.user_attrs['architecture'] for trial in reused]


def test_only_results_are_taken_over(first, tmp_path):
    """Not, for example, that a child was trained again for an interrupted one. The seed of the children may differ."""
    file, old = first
    copied = shutil.copytree(old, tmp_path / 'copied')
    settings = json.loads((copied / 'search.json').read_text(encoding='utf-8'))
    study, space = open_study(copied, settings['study']), make_space(f'{file}:small')
    known = {trial.user_attrs['architecture'] for trial in study.trials}
    tokens, architecture = next(
        (tokens, found) for tokens in product(*map(range, space.sizes))
        if (found := space.genotype(tokens).architecture_digest) not in known)
    study.add_trial(create_trial(
        params=space.choices(tokens), distributions=space.distributions, value=0.,
        user_attrs=dict(study.trials[0].user_attrs, architecture=architecture, again_for=3)))

    child = ChildSettings(**settings['settings']['child'])
    child = child.model_copy(update=dict(recipe=child.recipe.model_copy(update=dict(seed=7))))
    config = SearchConfig(out=tmp_path / 'new', space=f'{file}:small', child=child, reuse=(old, copied))
    lines: list = []
    facts = ImageFacts(settings['num_images'], **{
        name: tuple(values) for name, values in settings['images'].items()})
    reused = read_reused(config, space, facts, lines.append)
    assert lines == [f'{folder}: {count} of {count} children are in the space darts-2'
                     for folder, count in ((old, 6), (copied, 7))]
    assert len(reused) == 13 and sorted(reused, key=lambda trial: trial.value) == reused
    assert sorted(reused, key=lambda trial: trial.datetime_complete) == reused, 'evolution keeps the newest'
    assert reused[0].user_attrs['architecture'] == architecture, 'the reward is the lowest'
    assert not [name for trial in reused for name in ('again_for', 'seconds') if name in trial.user_attrs]
    with pytest.raises(SearchError, match='trained or rated in another way: the mean of their channels was'):
        read_reused(config, space, facts._replace(mean=(0.9,)), lines.append)


@pytest.mark.parametrize('space, options, message', [
    ('small', ['--lr', '0.3'], 'its children were trained or rated in another way: child.recipe.lr was'),
    ('small', ['--objective', 'params'], "rated in another way: objective was None and is 'params'"),
    ('other', [], 'none of its 6 children is in the space other: other: cannot convert genotypes to choices; give'),
    ('broken', [], 'the parse function of broken fails with TypeError'),
    ('missing', [], "has no 'missing'"),
])
def test_what_cannot_be_taken_over_is_said(first, tmp_path, space, options, message):
    file, old = first
    result = command(tmp_path / 'new', '--space', f'{file}:{space}', '--reuse', str(old), '--trials', '7', *options)
    assert result.exit_code == 1 and message in result.stderr and not (tmp_path / 'new').exists()


def test_files_that_the_user_has_not_named_are_not_executed(first, tmp_path):
    """What a search folder says about its space is not trusted."""
    file, old = first
    result = command(tmp_path / 'new', '--space', 'darts', '--reuse', str(old), '--trials', '7')
    assert result.exit_code == 1
    assert f'its space, {file}:small, is in a Python file; put the space of the new search into' in result.stderr
    unlike = tmp_path / 'unlike.py'
    unlike.write_text(textwrap.dedent(SPACES).replace("'sep_conv_3x3')", "'sep_conv_7x7')"), encoding='utf-8')
    result = command(tmp_path / 'new', '--space', f'{unlike}:large', '--reuse', str(old), '--trials', '7')
    assert result.exit_code == 1 and f'{unlike}:small is not the space of that search' in result.stderr
    result = command(tmp_path / 'new', '--space', f'{file}:large', '--reuse', str(tmp_path / 'none'), '--trials', '7')
    assert result.exit_code == 1 and f"{tmp_path / 'none'}: there is no search here" in result.stderr


def test_a_space_that_builds_other_cells_now(first, tmp_path):
    file, old = first
    changed = tmp_path / 'changed.py'
    spaces = textwrap.dedent(SPACES).replace('return darts_space(2, (', 'return swapped(2, (', 1)
    changed.write_text(spaces + textwrap.dedent('''
        def swapped(nodes, ops):
            inner = darts_space(nodes, ops)

            def build(choices):
                cell = inner._build(choices)
                return dict(cell, normal=cell['reduction'], reduction=cell['normal'])
            return Space(inner.name, inner.decisions, build, inner._parse)
        '''), encoding='utf-8')
    result = command(tmp_path / 'new', '--space', f'{changed}:large', '--reuse', str(old), '--trials', '7')
    assert result.exit_code == 1 and 'the space darts-2 has changed: it builds another cell' in result.stderr

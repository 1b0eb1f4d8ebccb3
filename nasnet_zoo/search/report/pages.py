"""The two pages: the report of a search, and a comparison of searches. Both consist of the same plots and tables."""
import re
from datetime import UTC, datetime, timedelta
from itertools import chain, combinations
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence

from optuna.trial import TrialState

from ... import html
from ...files import flattened, write_utf8
from ..folder import rating_settings
from ..forecast import show_duration
from . import figures
from .record import SearchRecord, read_baseline, read_record
from .statistics import TOPS, ancestors, best_fifth, differences, top_means

__all__ = ['REFRESH', 'STATES', 'search_page', 'write_report']

REFRESH = 30  # seconds after which a browser loads the page of a running search again
STATES = {  # of a search: what its page says
    'running': 'The search is running. This page is written again from time to time, and loads itself again every '
               f'{REFRESH} seconds. If it stays as it is, the search has been stopped: --resume continues it.',
    'stopped': 'The search was stopped before its end. --resume continues it.',
    'unfinished': 'The search has not ended. Unless it is running, --resume continues it.',
    'finished': '',
}


def search_page(
        record: SearchRecord, state: str = 'finished', baseline: Optional[SearchRecord] = None,
        since: Optional[datetime] = None, seconds_left: Optional[float] = None,
) -> str:
    """Return the report of a search as an HTML page.

    Args:
        record: The search.
        state: Its state, a key of `STATES`.
        baseline: Another search to compare with.
        since: When the process began, with a time zone; for the number of children per hour of a running search.
        seconds_left: How long a running search will still take, if that is known.
    """
    searches = [record, *([baseline] if baseline else [])]
    shown = [search for search in searches if search.children]
    is_gone = record.baseline is not None and baseline is None
    return html.page(
        record.label,
        [_progress(record, state, since, seconds_left),
         html.paragraph(f'Its baseline, {record.baseline}, is not there any more.') if is_gone else '',
         _unequal_settings(searches),
         *(_winner(record) if record.children else [html.paragraph('No child has been trained yet.')]),
         *(_plots(shown) if record.children else []),
         _cells_of_good_children([
             ('best fifth', figures.COLOURS[0], record, best_fifth(record)),
             ('all children', figures.GREY, record, record.children)]) if record.children else '',
         _ancestors(record), _differences(shown), _failures(record), _settings(record)],
        refresh=REFRESH if state == 'running' else None)


def comparison_page(records: Sequence[SearchRecord]) -> str:
    """Return a comparison of searches as an HTML page."""
    shown = [record for record in records if record.children]
    names = ', '.join(record.label for record in records)
    cells = [html.show_cells(f'{record.label}: {genotype.name}', genotype)
             for record in records if (genotype := _best_cells(record))]
    return html.page(
        f'Comparison of {len(records)} searches',
        [html.paragraph(names), _unequal_settings(records),
         html.section('Results', html.table('results of the searches', [_summary_row(record) for record in records],
                                            texts=['search', 'sampler', 'space', 'winner'])),
         *(_plots(shown) if shown else []), _differences(shown),
         _cells_of_good_children([(f'best fifth of {record.label}', colour, record, best_fifth(record))
                                  for record, colour in figures.colours(shown)]),
         html.section('The best cells', html.pictures(cells))])


def write_report(
        folders: Sequence[Path], out: Path, storage: Optional[str] = None, space: Optional[str] = None,
        children: Sequence[int] = (),
) -> Dict[str, Any]:
    """Write the report of a search, or a comparison of several searches, as an HTML page that needs no other file.

    Args:
        folders: The folders of the searches, which may be running.
        out: The page to write.
        storage: The URL of the storage of those searches whose trials are not in their folder.
        space: The space of those searches that have one of the user's own, as FILE.py:NAME. The file is executed.
        children: Numbers of children whose cells are written beside the page, as ``child_NUMBER.json``.

    Returns:
        JSON data: ``page`` (its path), ``cells`` (the paths of the children's cells), ``searches`` (for each one its
        settings and results) and ``differences`` (for each pair of searches the differences of their rewards after
        equal numbers of children, and their p-values).

    Raises:
        SearchError: If a folder contains no search, or the cells of the children cannot be built.
        ValueError: If a folder is given twice, there are several searches and `children`, or `out` does not end in
            .html.
    """
    if out.suffix not in ('.html', '.htm'):
        raise ValueError(f'--out: {out} does not end in .html; the report is an HTML page')
    if children and len(folders) > 1:
        raise ValueError('--child: needs a single search; give one DIR')
    resolved = [Path(folder).resolve() for folder in folders]
    if len(set(resolved)) < len(resolved):
        raise ValueError('DIR: a folder is given twice; give each search once')
    labels = [folder.name for folder in resolved]
    if len(set(labels)) < len(labels):
        labels = [str(folder) for folder in folders]
    records = [read_record(Path(folder), storage, label, space) for folder, label in zip(folders, labels)]
    cells = {out.parent / f'child_{number}.json': records[0].documented_genotype(number) for number in children}
    if len(records) == 1:
        known = records[0].baseline  # it may be gone
        baseline = None
        if known and (known / 'search.json').exists():
            baseline = read_baseline(known, Path(folders[0]), storage)
        text = search_page(records[0], 'finished' if records[0].has_ended else 'unfinished', baseline)
    else:
        text = comparison_page(records)
    write_utf8(out, text)
    for path, cell in cells.items():
        cell.save(path)
    return dict(
        page=str(out), cells=[str(path) for path in cells], searches=[_summary(record) for record in records],
        differences=[
            dict(search=a.label, other=b.label, children=children, differences=[found._asdict() for found in rows])
            for a, b in combinations(records, 2) for children, rows in [differences(a, b)]])


def _summary(record: SearchRecord) -> Dict[str, Any]:
    """Return the settings and the results of a search as JSON data."""
    final = record.finals[0] if record.finals else None
    return dict(
        name=record.label, settings=dict(record.settings), children=len(record.children),
        failed=sum(trial.state == TrialState.FAIL for trial in record.evaluated),
        pruned=sum(trial.state == TrialState.PRUNED for trial in record.evaluated),
        seconds=record.training_seconds,
        rewards={name: means[-1] if (means := top_means(record, top)[1]) else None for name, top in TOPS.items()},
        curves={name: [list(point) for point in zip(*top_means(record, top))] for name, top in TOPS.items()},
        winner=record.winner.name if record.winner else None, final=dict(final) if final else None)


def _summary_row(record: SearchRecord) -> Dict[str, str]:
    """Return the results of a search as a row of a table."""
    found = _summary(record)
    final = found['final'] or {}
    return {
        'search': record.label, 'sampler': str(record.settings.get('sampler')),
        'space': str(record.settings.get('space')),
        'seed': str(record.seed), 'children': str(found['children']), 'failed': str(found['failed']),
        **{name: _reward(record, value) for name, value in found['rewards'].items()},
        'training time': show_duration(found['seconds']), 'winner': found['winner'] or '',
        'after longer training': _percent(final.get('accuracy')),
        'parameters': f'{final["params"]:,}' if final else '', 'mult-adds': f'{final["macs"]:,}' if final else ''}


def _percent(value: Optional[float]) -> str:
    return '' if value is None else f'{value:.2%}'


def _reward(record: SearchRecord, value: Optional[float]) -> str:
    return '' if value is None else f'{value:{record.reward_format}}'


def _difference(record: SearchRecord, value: float) -> str:
    """Return a difference between rewards; that of percentages in percentage points."""
    return f'{100 * value:+.2f} points' if record.reward_format.endswith('%') else f'{value:+{record.reward_format}}'


def _progress(
        record: SearchRecord, state: str, since: Optional[datetime], seconds_left: Optional[float]) -> str:
    """Return how far a search is, and when it will probably end."""
    now = datetime.now(UTC)
    done, failed = len(record.evaluated), record.failures.total()
    per_hour = end = None
    if since is not None and state == 'running':
        finished = [t.datetime_complete.astimezone(UTC) for t in record.evaluated if t.datetime_complete]
        recent = sum(time >= since for time in finished)
        if recent and done < record.wanted:
            per_hour = f'{3600 * recent / max((now - since).total_seconds(), 1e-9):.3g}'
    if seconds_left is not None and state == 'running':
        end = f'{now + timedelta(seconds=seconds_left):%d %b %H:%M} UTC, in {show_duration(seconds_left)}'
    values = {
        f'best {record.reward_name}': _reward(record, record.best.reward) if record.best else None,
        'children': f'{done} of {record.wanted}', 'failed or pruned': str(failed) if failed else None,
        'children from other searches': str(record.reused) if record.reused else None,
        'children per hour': per_hour, 'expected end of the search': end,
        'training time': show_duration(record.training_seconds),
        'best children trained again': str(len(record.finals)) if record.finals else None,
        'as of': f'{now:%d %b %Y %H:%M:%S} UTC',
    }
    return '\n'.join([html.paragraph(_description(record), soft=True), html.facts(values),
                      html.progress(min(done, record.wanted), record.wanted) if state != 'finished' else '',
                      html.paragraph(STATES[state]) if STATES[state] else ''])


def _description(record: SearchRecord) -> str:
    """Return the main settings of a search in one line."""
    settings = record.settings
    names = ('space', 'sampler', 'ppo_preset', 'data', 'protocol', 'prune', 'objective')
    shown = {name: settings.get(name) for name in names} | {
        'match': settings.get('child', {}).get('match'), 'seed': record.seed}
    return ', '.join(f'{name.replace("_", " ")} {value}' for name, value in shown.items() if value is not None)


def _best_cells(record: SearchRecord) -> Optional[Any]:
    """Return the winner, or the best child so far if it is known how it looks."""
    if record.winner or not record.best:
        return record.winner
    return record.genotype(record.best, f'child-{record.best.number}')


def _winner(record: SearchRecord) -> List[str]:
    """Return the sections on the winner, or the best child so far, and on the longer training."""
    cells = _best_cells(record)
    drawing = html.pictures([html.show_cells(cells.name, cells)]) if cells else ''
    rows = [{
        'child': str(row['number']), 'accuracy in the search': _percent(row['child_value']),
        'accuracy after longer training': _percent(row['accuracy']), 'training runs': str(len(row['accuracies'])),
        'parameters': f'{row["params"]:,}',
        'mult-adds': f'{row["macs"]:,}', 'filters (F)': str(row.get('cell_filters') or ''),
        'training time': show_duration(row['seconds']), 'architecture': row['architecture'][:12]}
        for row in record.finals]
    finals = html.section('The best children, trained again', html.table(
        'accuracies after longer training', rows, texts=['architecture']))
    if record.winner is None:
        return [html.section('The best child so far', drawing), finals]
    return [html.section(
        'The winner', drawing,
        html.paragraph('The best children were trained again, for longer. The winner is the best of them on the '
                       'held-out images. To build it at ImageNet size:'),
        html.code('import nasnet_zoo\n'
                  "model = nasnet_zoo.compile_genotype('cell.json', num_cells=4, cell_filters=44)")), finals]


def _plots(searches: Sequence[SearchRecord]) -> List[str]:
    """Return the sections with plots of the rewards of searches, each of which has children."""
    costs = [cost for cost in searches[0].costs if all(cost in search.costs for search in searches)]
    return [
        html.section('Rewards', html.pictures([
            figures.plot_tops(searches), figures.plot_learning(searches), figures.plot_distribution(searches),
            figures.plot_predictions(searches)])),
        html.section('Accuracy and cost', html.pictures([figures.plot_cost(searches, cost) for cost in costs]))]


def _cells_of_good_children(groups: Sequence[figures.Group]) -> str:
    return html.section('What good cells consist of', html.pictures(figures.plot_shares(groups)))


def _ancestors(record: SearchRecord) -> str:
    """Return the line of ancestors of the winner, if its sampler changes earlier children."""
    line = ancestors(record, record.winning_child) if record.winning_child else []
    if len(line) < 2:
        return ''
    return html.section(
        'Ancestors of the winner' if record.winner else 'Ancestors of the best child so far',
        html.table('line of ancestors', [{
            'child': str(one.number), 'reward': 'failed' if one.reward is None else _reward(record, one.reward),
            'changes': '; '.join(f'{name}: {old} → {new}' for name, old, new in one.changes)} for one in line],
            texts=['changes']))


def _differences(searches: Sequence[SearchRecord]) -> str:
    """Return the table of differences between searches, if there are several."""
    rows = []
    reused = [one.label for one in searches if one.reused]
    for a, b in combinations(searches, 2):
        children, found = differences(a, b)
        rows += [{'searches': f'{a.label} minus {b.label}', 'children of each': str(children), 'reward': one.name,
                  'difference': _difference(a, one.value), 'p': f'{one.p:.2g}'} for one in found]
    return html.section(
        'Differences', html.table('differences between searches', rows, texts=['searches', 'reward']),
        html.paragraph(
            f'{", ".join(reused)}: not tested, because children were taken over from another search. Two searches that '
            'share children are not independent.', soft=True) if reused else '',
        html.paragraph(
            'p is from a two-sided permutation test over the children, which counts the children of a search as '
            'independent. It says whether these two searches differ, and not whether their samplers would differ again '
            'with other seeds. Rewards of short training runs are noisy, and the best of them is partly lucky: use '
            '"nasnet-zoo compare" before you claim that one cell is better than another.', soft=True) if rows else '')


def _unequal_settings(records: Sequence[SearchRecord]) -> str:
    """Return a warning if the searches differ in how children are trained and rated."""
    settings = [rating_settings(record.settings) for record in records]
    names = [name for name in dict.fromkeys(chain(*settings)) if len({str(one.get(name)) for one in settings}) > 1]
    return html.section(
        'The rewards cannot be compared', html.paragraph('These searches train or rate children in different ways:'),
        html.table('settings that differ', [
            {'setting': name, **{record.label: str(one.get(name)) for record, one in zip(records, settings)}}
            for name in names], texts=['setting'])) if names else ''


def _failures(record: SearchRecord) -> str:
    """Return why children failed. Reasons that differ only in numbers are counted together; one of them is shown."""
    groups: Dict[str, List[str]] = {}
    for reason in record.failures.elements():
        groups.setdefault(re.sub(r'\d[\d.,]*', '#', reason), []).append(reason)
    largest = sorted(groups.values(), key=len, reverse=True)[:10]
    return html.section('Failed and pruned children', html.items(
        [f'{len(reasons)} × {"for example: " if len(set(reasons)) > 1 else ""}{reasons[0]}' for reasons in largest]))


def _settings(record: SearchRecord) -> str:
    """Return the settings of the search that are not None."""
    return html.details('Settings', html.table('settings of the search', [
        {'setting': name, 'value': str(value)} for name, value in flattened(record.settings).items()
        if value is not None], texts=['setting', 'value']))


"""The plots of reports. Each function draws one plot for any number of searches, so all pages show the same plots."""
import re
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

import numpy as np

from ...html import Key, Picture, svg_element
from ..objectives import OBJECTIVES
from .record import Child, SearchRecord
from .statistics import TOPS, expected_best, moving_mean, pareto_front, shares, top_means

__all__ = ['COLOURS', 'colours', 'plot_cost', 'plot_distribution', 'plot_learning', 'plot_predictions', 'plot_shares',
           'plot_tops']

# Of the same lightness, so that they are visible on light and on dark pages, and distinguishable for the colour-blind.
COLOURS = ('#3a86c8', '#d9722e', '#2a9d78', '#b565a7', '#b08a1a', '#7a6fd0', '#c2504a', '#5e9ba8')
GREY = '#8b9098'
_INK = '#010203'  # replaced by the colour of the page's text
_STYLES = dict(zip(TOPS, ('solid', 'dashed', 'dotted')))
_SETTINGS = {
    'svg.fonttype': 'none', 'svg.hashsalt': 'nasnet-zoo', 'text.parse_math': False, 'font.size': 10,
    'text.color': _INK, 'axes.labelcolor': _INK, 'axes.edgecolor': _INK, 'xtick.color': _INK, 'ytick.color': _INK,
    'axes.facecolor': 'none', 'figure.facecolor': 'none', 'axes.spines.top': False, 'axes.spines.right': False,
    'axes.grid': True, 'grid.color': GREY, 'grid.alpha': 0.25, 'grid.linewidth': 0.6, 'axes.linewidth': 0.6,
    'axes.axisbelow': True, 'lines.linewidth': 1.7, 'lines.markersize': 4, 'axes.titlesize': 10,
}


def _plot(paint: Callable[..., None], panels: int = 1, height: float = 3.4) -> str:
    """Return the SVG of a plot, which `paint` draws on the given axes.

    The user's settings of matplotlib do not change it; they are restored afterwards.
    """
    from matplotlib import style
    from matplotlib.figure import Figure
    with style.context(['default', _SETTINGS], after_reset=True):
        figure = Figure(figsize=(5.6, height), layout='constrained')
        paint(*figure.subplots(1, panels, squeeze=False)[0])
        return svg_element(figure).replace(_INK, 'currentColor')


def _percent_axis(axis: Any) -> None:
    """Show the values of an axis as percentages."""
    from matplotlib.ticker import PercentFormatter
    axis.set_major_formatter(PercentFormatter(1))


def _reward_axis(axis: Any, search: SearchRecord, text: str = '') -> None:
    """Label an axis with what the reward of a search is, after `text`."""
    axis.set_label_text(text + search.reward_name)
    if search.reward_format.endswith('%'):
        _percent_axis(axis)


def _show_upper_part(axes: Any, values: Sequence[float]) -> None:
    """Leave the lowest twentieth of the values out of a plot, in which they would take most of the room."""
    low, high = np.quantile(values, 0.05 if len(values) >= 20 else 0), max(values)
    margin = 0.05 * (high - low) or 0.01
    axes.set_ylim(low - margin, high + margin)


def colours(searches: Sequence[SearchRecord]) -> List[Tuple[SearchRecord, str]]:
    """Return each search with its colour. If there are more than eight, colours are used again."""
    return [(search, COLOURS[i % len(COLOURS)]) for i, search in enumerate(searches)]


def _keys(searches: Sequence[SearchRecord], style: str = 'solid') -> List[Key]:
    """Return the entries of a legend for the colours of the searches."""
    return [Key(search.label, colour, style) for search, colour in colours(searches)]


def plot_tops(searches: Sequence[SearchRecord]) -> Picture:
    """Plot the best reward and the means of the best 5 and 25 over the number of children, as in figure 6 of the paper.

    If none of the searches is a random one, the first one's random children show what random search would have found.
    """
    text = 'The best child so far, and the means of the best 5 and 25 children so far.'
    keys = _keys(searches) + [Key(name, 'currentColor', style) for name, style in _STYLES.items()]
    draws = searches[0].random_draws
    is_compared = any(search.settings.get('sampler') == 'random' for search in searches)
    expected = expected_best(draws) if not is_compared and 1 < len(draws) < len(searches[0].evaluated) else []
    if expected:
        keys.append(Key('expected best of random children', GREY))
        text += (f' The grey line is estimated from the {len(expected)} children that {searches[0].label} drew at '
                 'random. It cannot be estimated for more children.')

    def paint(axes: Any) -> None:
        if expected:
            axes.plot(range(1, 1 + len(expected)), expected, color=GREY)
        lines = []
        for search, colour in colours(searches):
            for name, top in TOPS.items():
                places, means = top_means(search, top)
                if places:
                    ends = [*places, len(search.evaluated)], [*means, means[-1]]
                    axes.step(*ends, where='post', color=colour, linestyle=_STYLES[name])
                    axes.plot(ends[0][-1], ends[1][-1], 'o', color=colour)
                    lines += means
        if lines:
            _show_upper_part(axes, lines)
        _reward_axis(axes.yaxis, searches[0])
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set(xlabel='children')
    return Picture('Best children so far', _plot(paint), text, keys)


def plot_learning(searches: Sequence[SearchRecord]) -> Picture:
    """Plot the reward of each child and the moving mean, which shows whether a sampler learns."""
    width = max(len(search.children) for search in searches) // 10

    def paint(axes: Any) -> None:
        for search, colour in colours(searches):
            places = [child.place for child in search.children]
            rewards = [child.reward for child in search.children]
            axes.plot(places, rewards, '.' if width > 1 else 'o', color=colour, alpha=0.4 if width > 1 else 1.)
            if width > 1:
                axes.plot(places, moving_mean(rewards, width), color=colour)
        _show_upper_part(axes, [child.reward for search in searches for child in search.children])
        _reward_axis(axes.yaxis, searches[0])
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set(xlabel='children in the order of their proposal')
    return Picture(
        'Rewards of all children', _plot(paint),
        'Each dot is a child.' + (f' The lines are means of the last {width} children.' if width > 1 else ''),
        _keys(searches, 'solid' if width > 1 else 'dot'))


def plot_distribution(searches: Sequence[SearchRecord]) -> Optional[Picture]:
    """Plot which fraction of the children has at least a given reward, if there are several searches."""
    if len(searches) == 1:
        return None

    def paint(axes: Any) -> None:
        for search, colour in colours(searches):
            rewards = np.sort([child.reward for child in search.children])
            axes.ecdf(rewards, complementary=True, color=colour)
        _reward_axis(axes.xaxis, searches[0])
        _percent_axis(axes.yaxis)
        axes.set(ylabel='children with at least this reward', ylim=(0, 1.02))
    return Picture('Distribution of the rewards', _plot(paint),
                   'The farther to the right a line is, the better are the children of the search.',
                   _keys(searches))


def plot_predictions(searches: Sequence[SearchRecord]) -> Optional[Picture]:
    """Plot the rewards that the samplers have predicted against the measured ones, if there are any."""
    predicted = [(search, colour, [child for child in search.children if child.predicted])
                 for search, colour in colours(searches)]
    predicted = [row for row in predicted if len(row[2]) > 1]
    if not predicted:
        return None
    texts = [f'{search.label}: {_quality(children)}' for search, _, children in predicted]

    def paint(axes: Any) -> None:
        ends: List[float] = []
        for _, colour, children in predicted:
            means, sds = np.array([child.predicted for child in children]).T
            rewards = [child.reward for child in children]
            axes.errorbar(means, rewards, xerr=sds, fmt='.', color=colour, alpha=0.5, elinewidth=0.5)
            ends += [means.min(), means.max(), min(rewards), max(rewards)]
        axes.plot([min(ends), max(ends)], [min(ends), max(ends)], '--', color=GREY, linewidth=1)
        _reward_axis(axes.xaxis, searches[0], 'predicted ')
        _reward_axis(axes.yaxis, searches[0], 'measured ')
    return Picture('Predicted and measured reward', _plot(paint), ' '.join(
        ['The horizontal lines are one standard deviation of the prediction to each side.', *texts]),
        [*(Key(search.label, colour, 'dot') for search, colour, _ in predicted), Key('equal', GREY, 'dashed')])


def _quality(children: Sequence[Any]) -> str:
    """Return how good predictions are, as a text."""
    from scipy.stats import spearmanr
    means, sds = np.array([child.predicted for child in children]).T
    rewards = np.array([child.reward for child in children])
    return (f'rank correlation {spearmanr(means, rewards).statistic:.2f} over {len(children)} children; '
            f'{np.mean(np.abs(means - rewards) <= 2 * sds):.0%} within two standard deviations.')


def plot_cost(searches: Sequence[SearchRecord], cost: str) -> Picture:
    """Plot the rewards against a cost, a name in :data:`~nasnet_zoo.search.objectives.OBJECTIVES`."""
    _, label, unit = OBJECTIVES[cost]

    def paint(axes: Any) -> None:
        shown: List[float] = []
        for search, colour in colours(searches):
            points = [(child.measured[cost] / unit, child.accuracy) for child in search.children
                      if child.measured.get(cost) is not None]
            if points:
                shown += [accuracy for _, accuracy in points]
                axes.plot(*zip(*points), '.', color=colour, alpha=0.4)
                axes.plot(*zip(*(points[i] for i in pareto_front(points))), 'o-', color=colour)
        _show_upper_part(axes, shown)
        _percent_axis(axes.yaxis)
        axes.set(xlabel=label, ylabel='validation accuracy')
    return Picture(
        f'Accuracy and {OBJECTIVES[cost].description}', _plot(paint),
        'The lines are the Pareto fronts: no other child is both cheaper and better.', _keys(searches, 'solid'))


Group = Tuple[str, str, SearchRecord, Sequence[Child]]
"""Children whose cells are counted together: the name of the group, its colour, the search, the children."""


def plot_shares(groups: Sequence[Group]) -> List[Picture]:
    """Plot how frequent each operation, and each source of an edge, is in the cells of groups of children.

    Returns:
        Two plots, or none if the cells of no group are known.
    """
    groups = [group for group in groups if group[2].space]
    found = [shares(record, children) for _, _, record, children in groups]
    keys = [Key(label, colour, 'bar') for label, colour, *_ in groups]
    texts = {
        'operation': ('Operations', 'How many of the operations are of each type.'),
        'source': ('Edges', 'How many of the operations read each state: h0 is the output of the previous cell, h1 '
                            'that of the cell before it, and b0, b1, … are the blocks of the cell itself.')}
    return [Picture(title, _bars([group[part] for group in found], [key.colour for key in keys]), text, keys)
            for part, (title, text) in texts.items() if found]


def _bars(groups: Sequence[Dict[str, Dict[str, float]]], colours: Sequence[str]) -> str:
    """Return a plot with a panel for each kind of cell and a bar for each name and group."""
    kinds = list(groups[0])
    names = {name for group in groups for kind in group.values() for name in kind}

    def order(name: str) -> Tuple[Any, ...]:
        """Put states in their order in the cell, from the top, and operations by their share in the first group."""
        if re.fullmatch(r'[hb]\d+', name):
            return name[0] == 'h', int(name[1:]) if name[0] == 'h' else -int(name[1:])
        return sum(groups[0][kind].get(name, 0.) for kind in kinds), name
    rows = sorted(names, key=order)
    thickness = 0.8 / len(groups)

    def paint(*panels: Any) -> None:
        for axes, kind in zip(panels, kinds):
            for i, (group, colour) in enumerate(zip(groups, colours)):
                places = [row + thickness * ((len(groups) - 1) / 2 - i) for row in range(len(rows))]
                axes.barh(places, [group.get(kind, {}).get(name, 0.) for name in rows], thickness, color=colour)
            axes.set(title=f'{kind} cell', ylim=(-0.6, len(rows) - 0.4))
            axes.set_yticks(range(len(rows)), rows if axes is panels[0] else [''] * len(rows))
            axes.grid(axis='y', visible=False)
            _percent_axis(axes.xaxis)
    return _plot(paint, len(kinds), 1. + 0.1 * len(rows) * (1 + len(groups)))

"""Statistics of comparisons."""
import math
from typing import NamedTuple

import numpy as np
import pytest

from nasnet_zoo import load_genotype
from nasnet_zoo.genotype.schema import Genotype
from nasnet_zoo.search.compare_report import error_over_images, pack, plot, summarise

pytest.importorskip('scipy', reason='tests of significance need SciPy')


class Cell(NamedTuple):
    name: str
    genotype: Genotype


CELLS = [Cell(name, load_genotype(name)) for name in ('nasnet_a', 'pnasnet5', 'amoebanet_a')]


def rows(*accuracies):
    return [dict(architecture=cell.genotype.architecture_digest, seed=seed, accuracy=accuracy, cell_filters=8,
                 params=70_000, macs=3_000_000)
            for cell, mine in zip(CELLS, accuracies) for seed, accuracy in reversed(list(enumerate(mine)))]


def test_differences_are_paired_by_seed():
    """The seeds vary by far more than the cells differ, which only a paired test can see."""
    seeds = [0.60, 0.70, 0.80, 0.65, 0.75]
    better = [accuracy + gap for accuracy, gap in zip(seeds, (0.010, 0.012, 0.008, 0.011, 0.009))]
    result = summarise(CELLS, rows(better, seeds, [0.5] * 5))
    assert [cell['name'] for cell in result['cells']] == ['nasnet_a', 'pnasnet5', 'amoebanet_a']
    assert result['cells'][1]['mean'] == pytest.approx(0.70) and result['cells'][1]['std'] == pytest.approx(0.0790569)
    pair = result['differences'][0]
    assert (pair['cell'], pair['other']) == ('nasnet_a', 'pnasnet5') and len(result['differences']) == 3
    assert pair['difference'] == pytest.approx(0.01)
    # By hand: the standard deviation of the differences is 0.0015811, so t = 0.01 / (0.0015811 / √5) = 14.14.
    assert pair['p_t_test'] == pytest.approx(0.000145, rel=0.01)
    assert pair['interval_95'] == pytest.approx([0.01 - 2.7764 * 0.00070711, 0.01 + 2.7764 * 0.00070711], rel=1e-3)
    assert pair['p_wilcoxon'] == pytest.approx(2 / 2 ** 5)


def test_without_a_spread_there_is_no_test():
    single = summarise(CELLS[:2], rows([0.6], [0.5]))
    assert single['cells'][0]['std'] is None
    assert single['differences'][0]['difference'] == pytest.approx(0.1)
    assert single['differences'][0]['p_t_test'] is None and single['differences'][0]['interval_95'] is None


def image_rows(*correct):
    """Rows of two cells, given which images each is right about, [seeds, images]."""
    return [dict(row, images=len(right), correct=pack(right)) for row, right in zip(
        rows(*([np.mean(right) for right in mine] for mine in correct)),
        [right for mine in correct for right in reversed(mine)])]


def test_a_single_seed_is_tested_over_the_images():
    """By hand: of 1,000 images, 30 are right with the first cell only, and 10 with the second one only."""
    first, second = np.arange(1000) < 830, (np.arange(1000) >= 30) & (np.arange(1000) < 840)
    pair = summarise(CELLS[:2], image_rows([first], [second]))['differences'][0]
    error = math.sqrt((40 / 1000 - 0.02 ** 2) / 999)
    assert pair['difference'] == pytest.approx(0.02) and pair['p_t_test'] is None
    # Of 999 degrees of freedom: 97.5 % of the t-distribution are below 1.962341.
    assert pair['interval_95_images'] == pytest.approx([0.02 - 1.962341 * error, 0.02 + 1.962341 * error])
    assert pair['p_images'] == pytest.approx(math.erfc(0.02 / error / math.sqrt(2)), rel=0.05)
    assert summarise(CELLS[:2], image_rows([first], [first]))['differences'][0]['interval_95_images'] is None


@pytest.mark.parametrize('luck_of_images, luck_of_seeds', [(0., 0.), (0.3, 0.), (0., 0.05), (0.3, 0.05)])
def test_the_error_over_images_and_seeds_is_what_is_observed(luck_of_images, luck_of_seeds):
    """Many comparisons of two equal cells, each with other images and other runs. The error may be too large."""
    rng, images, seeds = np.random.default_rng(0), 400, 4
    means, errors = [], []
    for _ in range(400):
        right = []
        for _ in range(2):
            odds = 0.6 + luck_of_images * rng.uniform(-1, 1, images) + luck_of_seeds * rng.uniform(-1, 1, (seeds, 1))
            right.append(rng.uniform(size=(seeds, images)) < odds)
        both = image_rows(*right)
        mean, error, _ = error_over_images(both[:seeds], both[seeds:])
        means.append(mean)
        errors.append(error)
    assert 0.92 < np.sqrt(np.mean(np.square(errors))) / np.std(means) < 1.3


def test_few_seeds_that_differ_much_leave_few_degrees_of_freedom():
    """By hand: with one of two seeds the cells differ by half of the images, and with the other one by none."""
    first = np.array([[True] * 400, [True, False] * 200])
    second = np.array([[True, False] * 200, [True, False] * 200])
    pair = summarise(CELLS[:2], image_rows(first, second))['differences'][0]
    # The gaps of the seeds are 0.5 and 0, and those of the images 0 and 0.5, with variances of 0.125 and 0.0626.
    images, seeds, both = 0.0626566 / 400, 0.125 / 2, 0.0626566 / 400
    variance = images + seeds - both
    freedom = variance ** 2 / (images ** 2 / 399 + seeds ** 2 + both ** 2 / 399)
    assert pair['difference'] == pytest.approx(0.25) and freedom == pytest.approx(1, abs=1e-4)
    # With one degree of freedom, it is Cauchy's distribution.
    t = 0.25 / math.sqrt(variance)
    assert pair['p_images'] == pytest.approx(1 - 2 / math.pi * math.atan(t), rel=1e-3)


def test_gaps_that_differ_by_rounding_only_are_equal():
    pair = summarise(CELLS[:2], rows([345 / 360, 343 / 360], [343 / 360, 341 / 360]))['differences'][0]
    assert pair['difference'] == pytest.approx(2 / 360) and pair['p_t_test'] is None and pair['p_wilcoxon'] is None


@pytest.mark.parametrize('seeds, most', [(2, 0.12), (3, 0.09), (5, 0.09)])
def test_equal_cells_are_seldom_found_different(seeds, most):
    """By about 5 % of the tests, also where the accuracy mostly depends on the seed; by some more if there are two."""
    rng, found = np.random.default_rng(0), 0
    for _ in range(400):
        right = [rng.uniform(size=(seeds, 500)) < 0.6 + 0.1 * rng.normal(size=(seeds, 1)) for _ in range(2)]
        found += summarise(CELLS[:2], image_rows(*right))['differences'][0]['p_images'] < 0.05
    assert found / 400 < most


def test_rows_of_earlier_versions_have_no_images():
    pair = summarise(CELLS[:2], rows([0.6, 0.7], [0.5, 0.65]))['differences'][0]
    assert pair['p_t_test'] is not None and pair['p_images'] is None and pair['interval_95_images'] is None


def test_plot(tmp_path):
    result = summarise(CELLS, rows([0.6, 0.7], [0.5, 0.6], [0.4, 0.6]))
    plot(result['cells'], tmp_path / 'plot.svg', 'test')
    text = (tmp_path / 'plot.svg').read_text(encoding='utf-8')
    assert 'pnasnet5' in text and 'accuracy on the test images' in text

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskwise.evaluate.integrate import Ranking, cityscapes, coco, mean_known, oxford, ranking, sds, voc07

ALL = (oxford, sds, coco, voc07, cityscapes)

# One ranking, 3 ground truths:   right  wrong  wrong  right  right
# precision                         1     1/2    1/3    1/2    3/5
# envelope                          1     3/5    3/5    3/5    3/5
# recall                           1/3    1/3    1/3    2/3     1
GOLDEN = ranking([np.array([0.9, 0.8, 0.7, 0.6, 0.5])], [np.array([1, 0, 0, 1, 1], bool)], 3)
EXPECTED = {
    oxford: (0.7000, (1 + Fraction(1, 2) + Fraction(3, 5)) / 3),
    sds: (0.7333, (1 + Fraction(3, 5) + Fraction(3, 5)) / 3),
    coco: (0.7347, (34 * 1 + 67 * Fraction(3, 5)) / 101),  # recall 0 ... .33 and .34 ... 1
    voc07: (0.7455, (4 * 1 + 7 * Fraction(3, 5)) / 11),  # recall 0 ... .3 and .4 ... 1
    # widths of recall 1/3 each, heights the mean of 1 and 1; 1/3 and 1/2; 1/2 and 3/5; the drops are vertical
    cityscapes: (0.6556, ((1 + 1) + (Fraction(1, 3) + Fraction(1, 2)) + (Fraction(1, 2) + Fraction(3, 5))) / 6),
}


@pytest.mark.parametrize("integral", ALL, ids=lambda f: f.__name__)
def test_the_same_ranking_has_five_average_precisions(integral):
    shown, exact = EXPECTED[integral]
    assert round(integral(GOLDEN), 4) == shown
    assert integral(GOLDEN) == pytest.approx(float(exact), abs=1e-15)


@pytest.mark.parametrize("integral", ALL, ids=lambda f: f.__name__)
@pytest.mark.parametrize(
    ("right", "positives", "expected"),
    [([], 0, math.nan), ([0, 0], 0, math.nan), ([], 2, 0.0), ([0, 0], 2, 0.0), ([1, 1], 2, 1.0)],
)
def test_extremes(integral, right, positives, expected):
    scores = np.linspace(1, 0.5, len(right))
    found = integral(ranking([scores], [np.array(right, bool)], positives))
    assert found == pytest.approx(expected, abs=1e-15, nan_ok=True)


def test_ranking_joins_images_and_keeps_the_order_of_equal_scores():
    scores = [np.array([0.5, 0.9]), np.zeros(0), np.array([0.9, 0.5])]
    found = ranking(scores, [np.array([1, 0], bool), np.zeros(0, bool), np.array([1, 0], bool)], 4)
    assert found.scores.tolist() == [0.9, 0.9, 0.5, 0.5]
    assert found.right.tolist() == [False, True, True, False]


def test_equal_scores_are_one_point_of_the_cityscapes_curve():
    """4 detections of score 1, 2 right, 4 ground truths: r = p = 1/2, so r (1 + p) / 2 = 3/8, and not r p = 1/4."""
    constant = Ranking(np.ones(4), np.array([1, 0, 1, 0], bool), 4)
    assert cityscapes(constant) == 3 / 8
    assert cityscapes(constant._replace(right=constant.right[::-1])) == 3 / 8


def test_recall_of_three_tenths_reaches_the_level_of_three_tenths():
    """In floating point 3 * .1 > 3 / 10: a grid made by adding .1 would lose a level here."""
    assert voc07(Ranking(np.ones(3), np.ones(3, bool), 10)) == pytest.approx(4 / 11)


def test_mean_of_what_is_known():
    assert mean_known([1.0, math.nan, 0.0]) == 0.5
    assert math.isnan(mean_known([math.nan]))
    assert math.isnan(mean_known([]))


@settings(deadline=None, max_examples=100)
@given(right=st.lists(st.booleans(), max_size=30), missed=st.integers(0, 5), seed=st.integers(0, 10**6))
def test_laws(right, missed, seed):
    right = np.array(right, bool)
    scores = np.sort(np.random.default_rng(seed).random(len(right)))[::-1]
    one = Ranking(scores, right, int(right.sum()) + missed)
    if not one.positives:
        return
    values = {integral: integral(one) for integral in ALL}
    assert all(0 <= value <= 1 + 1e-12 for value in values.values())
    assert values[oxford] <= values[sds] + 1e-12  # an envelope only lifts
    assert abs(values[coco] - values[sds]) <= 1 / 101 + 1e-12  # a mean over levels of the same curve
    tail = Ranking(np.append(scores, -1.0), np.append(right, False), one.positives)
    for integral, value in values.items():
        assert integral(tail) == pytest.approx(value, abs=1e-12)  # a wrong one behind all others costs nothing

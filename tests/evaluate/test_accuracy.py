import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskwise.evaluate.accuracy import accuracy
from maskwise.evaluate.files import compare
from maskwise.evaluate.overlaps import of_kind


def test_by_hand(comparison_of):
    """Image one: an object of 10 pixels met at IoU .8, one missed, one detection on nothing. Image two: met exactly."""
    first = ([(slice(0, 10), 0, False), (slice(30, 40), 0, False)], [(slice(0, 8), 0, 0.9), (slice(20, 25), 0, 0.8)])
    second = ([(slice(0, 10), 0, False)], [(slice(0, 10), 0, 0.1)])
    numbers = accuracy(comparison_of(first, second)).numbers
    assert numbers["accuracy_0.5"] == pytest.approx(2 / 4)
    assert numbers["accuracy_0.9"] == pytest.approx(1 / 5)
    assert numbers["mean_0.5"] == pytest.approx((1 / 3 + 1) / 2)
    assert numbers["mean_0.9"] == pytest.approx((0 + 1) / 2)
    assert numbers["mean_DSB"] == pytest.approx((7 * 2 / 3 + 3 * 1 / 2) / 10)


def test_one_detection_is_right_for_one_object(comparison_of):
    """Two objects on each other and two detections: one fits both, the other only the second."""
    both = slice(0, 10)
    truths = [(slice(0, 10), 0, False), (slice(0, 12), 0, False)]
    founds = [(both, 0, 0.9), (slice(0, 14), 0, 0.8)]
    numbers = accuracy(comparison_of((truths, founds))).numbers
    assert numbers["accuracy_0.8"] == 1  # 10 with 10, and 14 with 12 at .857
    assert numbers["accuracy_0.9"] == pytest.approx(1 / 3)


def test_crowds_excuse_and_are_not_missed(comparison_of):
    crowd = [(slice(0, 10), 0, True)]
    assert math.isnan(accuracy(comparison_of((crowd, [(slice(0, 5), 0, 0.9)]))).numbers["accuracy_0.5"])
    outside = accuracy(comparison_of((crowd, [(slice(20, 25), 0, 0.9)])))
    assert outside.numbers["accuracy_0.5"] == 0


def test_of_two_that_fit_one_object_the_better_is_paired_and_the_other_excused(comparison_of):
    """IoU .9 and just .5; more than half of the second, and little of the first, lies in the crowd."""
    truths = [(slice(0, 10), 0, False), (slice(8, 30), 0, True)]
    better, worse = (slice(0, 9), 0, 0.5), (slice(2, 16), 0, 0.5)
    for founds in ([better, worse], [worse, better]):
        assert accuracy(comparison_of((truths, founds))).numbers["accuracy_0.5"] == 1


def test_extremes(comparison_of):
    assert all(math.isnan(v) for v in accuracy(comparison_of()).numbers.values())
    assert all(math.isnan(v) for v in accuracy(comparison_of(([], []), classes=2)).numbers.values())
    missed = accuracy(comparison_of(([(slice(0, 3), 1, False)], []), classes=2))
    assert missed.numbers["accuracy_0.5"] == 0
    assert missed.ground_truths == 1


@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 10**6))
def test_above_half_of_disjoint_masks_the_partners_are_clear(seed, comparison_of):
    """So that plain counting of pairs above the threshold is the oracle."""
    rng = np.random.default_rng(seed)
    cells = np.arange(40).reshape(8, 5)

    def drawn():
        rows = rng.permutation(8)[: rng.integers(0, 9)]
        return [(slice(int(cells[r][0]), int(cells[r][rng.integers(2, 5)]) + 1), 0) for r in rows]

    truths, founds = [(*one, False) for one in drawn()], [(*one, float(rng.random())) for one in drawn()]
    comparison = comparison_of((truths, founds))
    [pair] = comparison.pairs
    right = int((of_kind("segm").iou(pair.truth, pair.found) >= 0.6).sum())
    total = len(truths) + len(founds) - right
    expected = right / total if total else math.nan
    assert accuracy(comparison).numbers["accuracy_0.6"] == pytest.approx(expected, nan_ok=True)


def test_boxes_and_several_classes(data_set):
    comparison = compare(*data_set(3, crowd=0))
    report = accuracy(comparison, "bbox")
    known = [row.numbers["accuracy_0.5"] for row in report.classes if not math.isnan(row.numbers["accuracy_0.5"])]
    assert report.numbers["accuracy_0.5"] == pytest.approx(np.mean(known))
    assert 0 <= report.numbers["accuracy_0.9"] < report.numbers["accuracy_0.5"] < 1

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskwise.evaluate.cityscapes import THRESHOLDS, cityscapes

SIZE = (20, 50)  # rows of a picture read as one line: 1000 pixels
A, B, C = slice(0, 100), slice(100, 200), slice(200, 300)
FAR = slice(800, 900)


@pytest.fixture(scope="module")
def draw(comparison_of):
    def drawn(*images, classes=1):
        return comparison_of(*images, classes=classes, size=SIZE)

    return drawn


def objects(*where):
    return [(w, 0, False) for w in where]


def ap50(comparison, **options):
    return cityscapes(comparison, **options).numbers["AP50"]


def test_golden_ranking(draw):
    """right wrong wrong right right of 3: trapezoids (1+1)/2, (1/3+1/2)/2, (1/2+3/5)/2, each of width 1/3."""
    founds = [(A, 0, 0.9), (FAR, 0, 0.8), (FAR, 0, 0.7), (B, 0, 0.6), (C, 0, 0.5)]
    report = cityscapes(draw((objects(A, B, C), founds)))
    assert report.policy == "cityscapes"
    assert report.numbers["AP50"] == pytest.approx((2 + 5 / 6 + 11 / 10) / 6)
    assert round(report.numbers["AP"], 4) == 0.6556


def test_overlap_must_exceed_the_threshold(draw):
    """IoU 60/100 is a match below .6 and not at it: right at .5 and .55 of ten thresholds."""
    report = cityscapes(draw((objects(A), [(slice(0, 60), 0, 0.9)])))
    assert report.numbers == pytest.approx({"AP": 2 / 10, "AP50": 1})


def test_constant_scores_are_one_point(draw):
    """2 of 4 found with 2 false ones: r = p = 1/2, and the area is r (1 + p) / 2 = 3/8."""
    truth = objects(A, B, C, slice(300, 400))
    founds = [(w, 0, 1.0) for w in (A, FAR, B, slice(900, 1000))]
    assert ap50(draw((truth, founds))) == 3 / 8


def test_the_best_of_two_matches_is_right_and_the_other_wrong(draw):
    """The first in the file has the lower score: (1, 1) and then (1, 1/2), a vertical drop."""
    assert ap50(draw((objects(A), [(A, 0, 0.3), (slice(0, 90), 0, 0.9)]))) == 1
    # one more object, found last: points (1/2, 1), (1/2, 1/2), (1, 2/3)
    founds = [(A, 0, 0.5), (slice(0, 90), 0, 0.9), (B, 0, 0.1)]
    assert ap50(draw((objects(A, B), founds))) == pytest.approx((1 + 1) / 4 + (1 / 2 + 2 / 3) / 4)


def test_small_objects_do_not_count_and_excuse_what_lies_on_them(draw):
    small = slice(500, 599)
    truth = objects(A, small)
    assert cityscapes(draw((truth, [(A, 0, 0.5), (small, 0, 0.9)]))).numbers["AP"] == 1
    assert cityscapes(draw((truth, []))).ground_truths == 1
    assert cityscapes(draw((truth, [])), min_pixels=99).ground_truths == 2
    assert ap50(draw((truth, [(A, 0, 0.5), (small, 0, 0.9)])), min_pixels=99) == 1


def test_a_group_excuses_by_share_and_not_by_iou(draw):
    """40 of 100 pixels on a group of 400 excuse nothing; 60 excuse at .5 and .55 and no more from .6 on."""
    group = (slice(300, 700), 0, True)
    report = cityscapes(draw(([*objects(A), group], [(A, 0, 0.5), (slice(660, 760), 0, 0.9)])))
    assert report.ground_truths == 1
    assert report.numbers["AP50"] == _late()
    report = cityscapes(draw(([*objects(A), group], [(A, 0, 0.5), (slice(640, 740), 0, 0.9)])))
    assert report.numbers["AP50"] == 1
    assert report.numbers["AP"] == pytest.approx((2 * 1 + 8 * _late()) / 10)


def _late():
    """One right behind one wrong: (0, 1), (0, 0), (1, 1/2): a trapezoid of heights 0 and 1/2."""
    return 1 / 4


def test_a_group_of_another_class_excuses_nothing(draw):
    group = (slice(300, 700), 1, True)
    two = draw(([*objects(A), group], [(A, 0, 0.5), (slice(300, 400), 0, 0.9)]), classes=2)
    assert ap50(two) == _late()


def test_void_excuses_every_class(draw, rle):
    void = np.zeros(SIZE, bool)
    void.reshape(-1)[800:851] = True
    one = draw((objects(A), [(A, 0, 0.5), (FAR, 0, 0.9)]))
    assert ap50(one) == _late()
    assert ap50(one, void=[rle(void)]) == 1  # 51 of 100
    void.reshape(-1)[850] = False
    assert ap50(one, void=[rle(void)]) == _late()  # 50 of 100 is not more than half
    assert ap50(one, void=[None]) == _late()
    with pytest.raises(ValueError, match="0 void masks for 1 images"):
        cityscapes(one, void=[])


def test_a_small_group_excuses_twice_as_in_the_script(draw):
    """30 of its 100 pixels lie on a group of 30, counted as 60: excused at .5."""
    group = (slice(300, 330), 0, True)
    assert ap50(draw(([*objects(A), group], [(A, 0, 0.5), (slice(300, 400), 0, 0.9)]))) == 1


def test_everything_excused_is_zero_where_the_script_fails(draw, rle):
    every = np.ones(SIZE, bool)
    every.reshape(-1)[A] = False
    assert cityscapes(draw((objects(A), [(FAR, 0, 0.9)])), void=[rle(every)]).numbers["AP"] == 0


def test_extremes(draw):
    assert all(math.isnan(v) for v in cityscapes(draw()).numbers.values())
    assert all(math.isnan(v) for v in cityscapes(draw(([], [(A, 0, 1.0)]))).numbers.values())
    assert cityscapes(draw((objects(A), []), ([], []))).numbers == {"AP": 0, "AP50": 0}
    empty = (slice(0, 0), 0, 0.99)
    assert cityscapes(draw((objects(A), [empty, (A, 0, 0.5)]))).numbers == {"AP": 1, "AP50": 1}
    half = cityscapes(draw((objects(A), [(A, 0, 0.5)]), classes=2))
    assert half.numbers["AP"] == 1
    assert math.isnan(half.classes[1].numbers["AP"])
    with pytest.raises(ValueError, match="iou must be 'segm', got 'bbox'"):
        cityscapes(draw(), "bbox")


def _script(pairs, label, threshold):
    """The rules again, on dense pixels and in plain loops."""
    curve, positives = [], 0
    for truth, found in pairs:
        truth = [t for t in truth if t[1] == label]
        kept = [t for t in truth if not t[2] and t[0].sum() >= 100]
        positives += len(kept)
        found = [f for f in found if f[1] == label and f[0].any()]
        for t in kept:
            scores = sorted(s for bits, _, s in found if iou(bits, t[0]) > threshold)
            curve += [(s, 0) for s in scores[:-1]] + [(s, 1) for s in scores[-1:]]
        for bits, _, score in found:
            if any(iou(bits, t[0]) > threshold for t in truth):
                continue
            excused = sum((bits & t[0]).sum() * (int(t[2]) + int(t[0].sum() < 100)) for t in truth)
            if excused / bits.sum() <= threshold:
                curve.append((score, 0))
    points = [(0.0, 1.0)]
    for score in sorted({s for s, _ in curve}, reverse=True):
        right = [ok for s, ok in curve if s >= score]
        points.append((sum(right) / max(positives, 1), sum(right) / len(right)))
    area = sum((b[0] - a[0]) * (a[1] + b[1]) / 2 for a, b in pairwise(points))
    return area if positives else math.nan


def iou(a, b):
    return (a & b).sum() / (a | b).sum()


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 10**6))
def test_random_pictures_equal_the_rules_on_dense_pixels(seed, comparison_of):
    """Ground truths and detections overlap, groups and small objects among them, scores tie."""
    rng = np.random.default_rng(seed)
    pairs = []
    for _ in range(3):
        truth, found = [], []
        for _ in range(5):
            bits = np.zeros((30, 30), bool)
            y, x = rng.integers(0, 22, 2)
            bits[y : y + rng.integers(5, 15), x : x + rng.integers(5, 15)] = True
            label = int(rng.integers(0, 2))
            truth.append((bits, label, bool(rng.random() < 0.25)))
            for _ in range(rng.integers(0, 3)):
                found.append((np.roll(bits, rng.integers(-2, 3), 0), label, round(float(rng.random()), 1)))
        pairs.append((truth, found))
    report = cityscapes(comparison_of(*pairs, classes=2, size=(30, 30)))
    for label, row in enumerate(report.classes):
        expected = [_script(pairs, label, t) for t in THRESHOLDS]
        assert row.numbers["AP50"] == pytest.approx(expected[0], abs=1e-12, nan_ok=True)
        assert row.numbers["AP"] == pytest.approx(float(np.mean(expected)), abs=1e-12, nan_ok=True)

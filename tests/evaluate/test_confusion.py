import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskwise.evaluate.coco import COCO, matches, operating_points
from maskwise.evaluate.confusion import LEFT_OUT, NOTHING, USUAL_CUT, assign, best_cuts, confusion
from maskwise.evaluate.files import compare
from maskwise.evaluate.overlaps import of_kind

SEGM = of_kind("segm")
EVERYTHING = -np.inf


def assigned(pair, cuts):
    return assign(pair, SEGM, np.asarray(cuts, float))


def test_worked_by_hand(comparison_of):
    a, b = slice(0, 10), slice(20, 30)
    truths = [(a, 0, False), (b, 1, False), (slice(35, 40), 1, False)]
    founds = [
        (a, 1, 0.9),  # of the other class, and strong: but the object goes to its own class first
        (a, 0, 0.5),
        (b, 0, 0.8),  # takes what is left of class 1
        (slice(12, 18), 1, 0.7),  # on nothing
        (b, 1, 0.1),  # below the cut
    ]
    comparison = comparison_of((truths, founds), classes=2)
    [pair] = comparison.pairs
    verdict = assigned(pair, [0.3, 0.3])
    assert verdict.truth.tolist() == [NOTHING, 0, 1, NOTHING, LEFT_OUT]
    assert verdict.missed.tolist() == [2]
    expected = [[1, 0, 0], [1, 0, 1], [0, 2, 0]]
    assert confusion(comparison, [verdict]).tolist() == expected


def test_a_weak_detection_below_the_cut_leaves_its_object_to_others(comparison_of):
    a = slice(0, 10)
    comparison = comparison_of(([(a, 0, False)], [(a, 0, 0.2), (a, 1, 0.6)]), classes=2)
    [pair] = comparison.pairs
    assert assigned(pair, [0.5, 0.5]).truth.tolist() == [LEFT_OUT, 0]
    assert assigned(pair, [0.1, 0.5]).truth.tolist() == [0, NOTHING]


def test_what_lies_in_a_crowd_is_left_out(comparison_of):
    comparison = comparison_of(([(slice(0, 20), 0, True)], [(slice(0, 5), 0, 0.9), (slice(30, 35), 0, 0.8)]))
    verdict = assigned(comparison.pairs[0], [0.0])
    assert verdict.truth.tolist() == [LEFT_OUT, NOTHING]
    assert not len(verdict.missed)
    assert confusion(comparison, [verdict]).tolist() == [[0, 0], [1, 0]]


def test_cuts_are_those_of_the_best_f1(comparison_of):
    a, b = slice(0, 10), slice(20, 30)
    comparison = comparison_of(
        ([(a, 0, False), (b, 0, False)], [(a, 0, 0.9), (b, 0, 0.6), (slice(12, 17), 0, 0.3)]), classes=2
    )
    assert best_cuts(operating_points(comparison)).tolist() == [0.6, USUAL_CUT]


@given(seed=st.integers(0, 10_000))
@settings(max_examples=15, deadline=None)
def test_f1_of_a_class_can_be_read_off_at_its_best_cut(seed, data_set):
    """Twice what is right, over the sum of the row and of the column, whatever ranks masks."""
    truth, results = data_set(seed, images=3)
    comparison = compare(truth, [r | {"class_score": r["score"], "score": 1 - r["score"]} for r in results])
    points = operating_points(comparison)
    counts = confusion(comparison, [assigned(pair, best_cuts(points)) for pair in comparison.pairs])
    sums = counts.sum(axis=0) + counts.sum(axis=1)
    for label, point in enumerate(points):
        if point.f1 > 0:
            assert 2 * counts[label, label] / sums[label] == pytest.approx(point.f1)


@given(seed=st.integers(0, 10_000), cut=st.sampled_from([EVERYTHING, 0.3, 0.6]))
@settings(max_examples=15, deadline=None)
def test_rows_are_all_objects_columns_all_shown_and_the_diagonal_is_coco_s(seed, cut, data_set):
    comparison = compare(*data_set(seed, images=3))
    k = len(comparison.categories)
    verdicts = [assigned(pair, np.full(k, cut)) for pair in comparison.pairs]
    counts = confusion(comparison, verdicts)
    for label in range(k):
        objects = sum(int(((p.truth.labels == label) & ~p.truth.crowd).sum()) for p in comparison.pairs)
        assert counts[label].sum() == objects
    assert counts.sum(axis=0)[:k].sum() == sum(int((v.truth != LEFT_OUT).sum()) for v in verdicts)
    assert counts[k, k] == 0
    if cut == EVERYTHING:
        right = [
            sum(int(((m.truth >= 0) & ~m.ignored)[0, 0].sum()) for m in of) for of in matches(comparison, SEGM, COCO)
        ]
        assert np.diag(counts)[:k].tolist() == right


def test_no_object_is_given_twice(data_set):
    comparison = compare(*data_set(3, images=6))
    for pair in comparison.pairs:
        taken = assigned(pair, np.zeros(len(comparison.categories))).truth
        taken = taken[taken >= 0]
        assert len(taken) == len(set(taken.tolist()))


@pytest.mark.parametrize("images", [[], [([], [])]])
def test_nothing_gives_zeros(comparison_of, images):
    comparison = comparison_of(*images, classes=2)
    verdicts = [assigned(pair, [0.5, 0.5]) for pair in comparison.pairs]
    assert not confusion(comparison, verdicts).any()

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskwise.evaluate.coverage import (
    best_overlap,
    coverage,
    coverage_numbers,
    dice,
    dice_numbers,
    foreground_dice,
    symmetric_best_dice,
)
from maskwise.evaluate.files import compare
from maskwise.evaluate.objects import above
from maskwise.evaluate.pixels import cross, shared_of_maps, shared_of_masks

# Two objects of 10 and 20 pixels. p covers 8 of the first and 2 beside both; q covers 10 of the second; r touches none.
A, B = slice(0, 10), slice(10, 30)
BITS_P = np.zeros((4, 10), bool)
BITS_P.reshape(-1)[[*range(8), 30, 31]] = True
Q, R = slice(20, 30), slice(34, 39)


@pytest.fixture(scope="module")
def golden(comparison_of):
    return comparison_of(([(A, 0, False), (B, 0, False)], [(BITS_P, 0, 0.9), (Q, 0, 0.8), (R, 0, 0.3)]))


def test_best_dice_by_hand(golden):
    """Dice: p with A 16/20, q with B 20/30. Over objects (.8 + 2/3) / 2, over detections (.8 + 2/3 + 0) / 3."""
    numbers = dice(golden).numbers
    assert numbers["SBD"] == pytest.approx((0.8 + 2 / 3) / 3)
    assert numbers["|DiC|"] == numbers["DiC"] == 1
    assert numbers["FGBGDice"] == pytest.approx(2 * 18 / (25 + 30))
    assert dice(above(golden, 0.5)).numbers["SBD"] == pytest.approx((0.8 + 2 / 3) / 2)


def test_counts_of_too_few_and_too_many_cancel_only_without_the_bars(comparison_of):
    images = ([(A, 0, False), (B, 0, False)], [(A, 0, 1.0)]), ([(A, 0, False)], [(A, 0, 1.0), (B, 0, 1.0)])
    numbers = dice(comparison_of(*images)).numbers
    assert (numbers["|DiC|"], numbers["DiC"]) == (1, 0)


def test_coverage_by_hand(golden):
    """IoU: p with A 8 / 12, q with B 10 / 20. Foreground 25 found, 30 true, 18 both, of 40 pixels."""
    expected = {
        "MWCov": 10 / 30 * 8 / 12 + 20 / 30 * 10 / 20,
        "MUCov": (8 / 12 + 10 / 20) / 2,
        "AvgFP": 1,
        "AvgFN": 0,
        "AvgPr": (8 / 10 + 1 + 0) / 3,
        "AvgRe": (8 / 10 + 10 / 20) / 2,
        "ObjPr": 2 / 3,
        "ObjRe": 1,
        "FgIoU": 18 / 37,
        "BgIoU": 3 / 22,
        "FgBgIoU": (18 / 37 + 3 / 22) / 2,
        "FgPr": 18 / 25,
        "FgRe": 18 / 30,
        "PixelAcc": 21 / 40,
    }
    assert coverage(golden).numbers == pytest.approx(expected)


def test_means_over_images_and_over_instances_differ(comparison_of):
    """First image: one of one covered. Second: one of two. MUCov (1 + 1/2) / 2; ObjRe 2 / 3; AvgFN 1 / 2."""
    images = ([(A, 0, False)], [(A, 0, 1.0)]), ([(A, 0, False), (B, 0, False)], [(A, 0, 1.0)])
    numbers = coverage(comparison_of(*images)).numbers
    assert numbers["MUCov"] == 3 / 4
    assert numbers["ObjRe"] == pytest.approx(2 / 3)
    assert numbers["AvgFN"] == 1 / 2


def test_detections_may_overlap(comparison_of):
    """Both copies count, their foreground counts once."""
    twice = comparison_of(([(A, 0, False)], [(A, 0, 1.0), (slice(0, 5), 0, 0.5)]))
    assert dice(twice).numbers == pytest.approx({"SBD": (1 + 2 / 3) / 2, "|DiC|": 1, "DiC": 1, "FGBGDice": 1})
    assert coverage(twice).numbers["AvgPr"] == 1
    assert coverage(twice).numbers["FgIoU"] == 1


def test_images_without_objects_are_skipped_but_counted(comparison_of):
    images = ([(A, 0, False)], [(A, 0, 1.0)]), ([], [(B, 0, 1.0)]), ([], [])
    comparison = comparison_of(*images)
    assert dice(comparison).numbers == pytest.approx({"SBD": 1, "|DiC|": 1 / 3, "DiC": 1 / 3, "FGBGDice": 1})
    numbers = coverage(comparison).numbers
    assert (numbers["MWCov"], numbers["MUCov"], numbers["AvgFP"]) == (1, 1, pytest.approx(1 / 3))
    assert all(math.isnan(v) for v in dice(comparison_of()).numbers.values())
    assert all(math.isnan(v) for v in coverage(comparison_of()).numbers.values())
    nothing_found = comparison_of(([(A, 0, False)], []))
    assert dice(nothing_found).numbers == {"SBD": 0, "|DiC|": 1, "DiC": -1, "FGBGDice": 0}
    assert coverage(nothing_found).numbers["MWCov"] == 0
    assert coverage(nothing_found).numbers["AvgFN"] == 1


def test_crowds_and_masks_without_pixels_do_not_exist(comparison_of):
    odd = comparison_of(([(A, 0, False), (B, 0, True)], [(A, 0, 1.0), (slice(0, 0), 0, 1.0)]))
    assert dice(odd).numbers == {"SBD": 1, "|DiC|": 0, "DiC": 0, "FGBGDice": 1}
    assert coverage(odd).numbers["AvgFP"] == 0


def test_best_overlap_is_a_mean_over_classes_of_means_over_objects(comparison_of):
    """Class 0: best IoU 1 and 1/2; class 1: its object is covered by class 0 alone."""
    truths = [(A, 0, False), (B, 0, False), (slice(30, 40), 1, False), (R, 0, True)]
    founds = [(A, 0, 0.1), (Q, 0, 0.2), (slice(30, 40), 0, 0.9)]
    comparison = comparison_of((truths, founds), classes=3)
    assert best_overlap(comparison).numbers["ABO"] == pytest.approx((3 / 4 + 0) / 2)
    assert best_overlap(comparison, any_class=True).numbers["ABO"] == pytest.approx((3 / 4 + 1) / 2)
    assert [row.ground_truths for row in best_overlap(comparison).classes] == [2, 1, 0]
    assert math.isnan(best_overlap(comparison).classes[2].numbers["ABO"])


@pytest.mark.parametrize("policy", [dice, coverage])
def test_only_masks(golden, policy):
    with pytest.raises(ValueError, match="iou must be 'segm', got 'bbox'"):
        policy(golden, "bbox")


def maps(seed, size=(12, 15), most=6):
    rng = np.random.default_rng(seed)
    return rng.integers(0, most, (2, *size)) * (rng.random((2, *size)) < 0.5)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10**6), shift=st.sampled_from([0, 10**6]))
def test_pairs_of_a_label_map_are_counted_in_one_pass(seed, shift):
    first, second = maps(seed) + np.array([[[0]], [[shift]]])
    counted = cross(first, second)
    expected = [[((first == a) & (second == b)).sum() for b in np.unique(second)] for a in np.unique(first)]
    assert counted.first.tolist() == np.unique(first).tolist()
    assert counted.second.tolist() == np.unique(second).tolist()
    assert counted.counts.tolist() == expected
    other = cross(first.astype(np.uint16), second.astype(np.uint64))
    assert other.counts.tolist() == expected


def test_label_maps_that_cannot_be_compared():
    with pytest.raises(ValueError, match=r"different sizes: \(2, 3\) and \(3, 2\)"):
        cross(np.zeros((2, 3), int), np.zeros((3, 2), int))
    with pytest.raises(ValueError, match="from 0 on, got -1"):
        cross(np.full((2, 3), -1), np.zeros((2, 3), int))
    assert cross(np.zeros((0, 3), np.uint8), np.zeros((0, 3), np.uint8)).counts.shape == (0, 0)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10**6))
def test_masks_and_label_maps_give_the_same_and_labels_have_no_meaning(seed, comparison_of):
    found, truth = maps(seed)

    def rows(ids, extra):
        return [((ids == i), 0, extra) for i in np.unique(ids[ids > 0])]

    pair = comparison_of((rows(truth, False), rows(found, 1.0)), size=found.shape).pairs[0]
    by_masks, by_maps = shared_of_masks(pair), shared_of_maps(found, truth)
    for a, b in zip(by_masks, by_maps, strict=True):
        np.testing.assert_array_equal(a, b)
    renamed = np.random.default_rng(seed).permutation(np.arange(1, 7)) * 50
    other = shared_of_maps(np.append(0, renamed)[found], truth)
    for numbers in (dice_numbers, coverage_numbers):
        assert numbers([other]) == pytest.approx(numbers([by_maps]), nan_ok=True)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10**6))
def test_laws(seed):
    found, truth = maps(seed)
    same, there, back = shared_of_maps(truth, truth), shared_of_maps(found, truth), shared_of_maps(truth, found)
    if not (truth.any() and found.any()):
        return
    assert symmetric_best_dice(same) == foreground_dice(same) == 1
    assert symmetric_best_dice(there) == pytest.approx(symmetric_best_dice(back))
    numbers = coverage_numbers([there])
    assert all(0 <= numbers[name] <= 1 for name in ("MWCov", "MUCov", "AvgPr", "AvgRe", "ObjPr", "ObjRe"))
    perfect = coverage_numbers([same])
    assert {perfect[n] for n in ("MWCov", "MUCov", "AvgPr", "AvgRe", "ObjPr", "ObjRe", "PixelAcc")} == {1}
    assert perfect["AvgFP"] == perfect["AvgFN"] == 0


def test_random_files(data_set):
    comparison = compare(*data_set(3))
    assert 0 < dice(comparison).numbers["SBD"] < 1
    assert 0 < coverage(comparison).numbers["MWCov"] < 1
    assert 0 < best_overlap(comparison, "bbox").numbers["ABO"] < 1

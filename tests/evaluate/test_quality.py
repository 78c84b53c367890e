import copy
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from maskwise.evaluate.coco import coco
from maskwise.evaluate.files import compare
from maskwise.evaluate.overlaps import OVERLAPS
from maskwise.evaluate.quality import calibrate, pearson, quality, spearman, true_iou


def bar(rle, length, total=100):
    return rle(np.arange(total)[None] < length)


def scene(rle, lengths, *, truth=(50,), crowd=(), labels=None):
    """One image of one row; every object and every detection is a bar from its left end."""
    objects = [(length, 0) for length in truth] + [(length, 1) for length in crowd]
    data = {
        "images": [{"id": 1, "height": 1, "width": 100}],
        "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}],
        "annotations": [
            {"id": i, "image_id": 1, "category_id": 1, "segmentation": bar(rle, n), "iscrowd": c}
            for i, (n, c) in enumerate(objects, 1)
        ],
    }
    results = [
        {"image_id": 1, "category_id": label, "segmentation": bar(rle, n), "score": 0.5}
        for n, label in zip(lengths, labels or [1] * len(lengths), strict=True)
    ]
    return data, results


def test_true_iou_is_that_of_the_best_object_of_the_class(rle):
    pair = compare(*scene(rle, [50, 40, 40, 25], truth=(50, 20), labels=[1, 1, 2, 1])).pairs[0]
    assert true_iou(pair, OVERLAPS["segm"]).tolist() == [1, 0.8, 0, 0.8]


def test_true_iou_in_a_crowd_is_unknown_unless_one_object_fits(rle):
    pair = compare(*scene(rle, [50, 20], truth=(50,), crowd=(100,))).pairs[0]
    np.testing.assert_array_equal(true_iou(pair, OVERLAPS["segm"]), [1, np.nan])
    report = quality(compare(*scene(rle, [50, 20], truth=(50,), crowd=(100,))))
    assert report.numbers["detections"] == 1
    assert "1 detections inside crowds left out" in report.notes


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(-3, 3)), min_size=2, max_size=20))
def test_correlations_equal_scipy(pairs):
    first, second = np.array(pairs, float).T
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        assert math.isnan(pearson(first, second))
        assert math.isnan(spearman(first, second))
    else:
        assert pearson(first, second) == pytest.approx(stats.pearsonr(first, second).statistic)
        assert spearman(first, second) == pytest.approx(stats.spearmanr(first, second).statistic)


def test_calibration_by_hand():
    """Two bins: (.2, .4) predicted against (.1, .2) true; .9 and 1.5 (beyond 1) against 1 and .6."""
    found = calibrate(np.array([0.2, 0.4, 0.9, 1.5]), np.array([0.1, 0.2, 1, 0.6]), bins=2)
    low, high = found.bins
    assert (low.low, low.high, low.detections, high.detections) == (0, 0.5, 2, 2)
    assert (low.predicted, low.true) == (pytest.approx(0.3), pytest.approx(0.15))
    assert (high.predicted, high.true) == (pytest.approx(1.2), pytest.approx(0.8))
    assert found.error == pytest.approx((2 * 0.15 + 2 * 0.4) / 4)
    assert math.isnan(calibrate(np.zeros(0), np.zeros(0)).error)


def with_quality(truth, results, of):
    """Results whose quality is a function of their true IoU."""
    comparison = compare(truth, results)
    results = copy.deepcopy(results)
    for pair in comparison.pairs:
        mine = [r for r in results if r["image_id"] == pair.image]
        for result, iou in zip(mine, true_iou(pair, OVERLAPS["segm"]), strict=True):
            result["class_score"] = result["score"]
            result["quality"] = float(of(np.nan_to_num(iou)))
            result["score"] *= result["quality"]
    return results


def test_a_perfect_quality_reaches_the_oracle(data_set):
    truth, results = data_set(4, images=12, crowd=0, ties=False)
    numbers = quality(compare(truth, with_quality(truth, results, lambda iou: iou))).numbers
    assert numbers["pearson_quality"] == pytest.approx(1)
    assert numbers["spearman_quality"] == pytest.approx(1)
    assert numbers["calibration_error"] == pytest.approx(0, abs=1e-12)
    assert numbers["AP_by_mask_score"] == pytest.approx(numbers["AP_bound"])
    assert numbers["AP_by_mask_score"] == pytest.approx(numbers["AP_oracle"])
    assert numbers["AP_oracle"] > numbers["AP_by_score"]


@pytest.mark.parametrize(("predicted", "ap"), [(0.5, 1.0), (0.9, 0.5)])
def test_the_oracle_leaves_what_hits_nothing_where_it_was_ranked(rle, predicted, ap):
    """A mask on nothing with class score .9, and after it one that is right with .5."""
    truth, results = scene(rle, [50, 50], labels=[1, 1])
    right, wrong = results
    wrong |= {"segmentation": rle(np.arange(100)[None] >= 60), "class_score": 0.9, "quality": predicted}
    wrong |= {"score": 0.9 * predicted}
    right |= {"class_score": 0.5, "quality": 0.2, "score": 0.1}
    numbers = quality(compare(truth, results)).numbers
    assert numbers["AP_bound"] == pytest.approx(1, abs=0.01)
    assert numbers["AP_oracle"] == pytest.approx(ap, abs=0.01)
    assert numbers["AP_by_mask_score"] == pytest.approx(0.5, abs=0.01)


def test_hits_are_judged_by_their_masks_alone(comparison_of):
    """Three of IoU 1, .8 and .6 with scores in the wrong order, and two on nothing with low ones."""
    objects = [(slice(10 * i, 10 * i + 10), 0, False) for i in range(3)]
    found = [(slice(0, 10), 0, 0.7), (slice(10, 18), 0, 0.8), (slice(20, 26), 0, 0.9)]
    numbers = quality(comparison_of((objects, [*found, (slice(30, 33), 0, 0.1), (slice(35, 40), 0, 0.2)]))).numbers
    assert numbers["spearman_of_hits_score"] == pytest.approx(-1)
    assert numbers["spearman_score"] > 0
    assert (numbers["detections"], numbers["hits"]) == (5, 3)


def test_sure_hits_are_those_of_a_class_score_above_a_half(comparison_of):
    """Four of IoU 1 to .7: among the three sure ones the scores are in the wrong order, not among all."""
    objects = [(slice(10 * i, 10 * i + 10), 0, False) for i in range(4)]
    scores = (0.7, 0.8, 0.9, 0.5)  # a half is not above it
    found = [(slice(10 * i, 10 * i + 10 - i), 0, score) for i, score in enumerate(scores)]
    numbers = quality(comparison_of((objects, found))).numbers
    assert numbers["spearman_of_sure_hits_score"] == pytest.approx(-1)
    assert numbers["spearman_of_hits_score"] > 0
    assert (numbers["hits"], numbers["sure_hits"]) == (4, 3)


def test_a_quality_upside_down_is_seen(data_set):
    truth, results = data_set(4, images=12, crowd=0, ties=False)
    numbers = quality(compare(truth, with_quality(truth, results, lambda iou: 1 - iou))).numbers
    assert numbers["pearson_quality"] == pytest.approx(-1)
    assert numbers["AP_by_quality"] < numbers["AP_by_score"] < numbers["AP_oracle"]


def test_ap_under_the_ranking_of_the_file_is_the_ap(data_set):
    truth, results = data_set(6, images=8)
    comparison = compare(truth, results)
    report = quality(comparison)
    assert report.numbers["AP_by_mask_score"] == coco(comparison).numbers["AP"]
    assert math.isnan(report.numbers["pearson_quality"])  # no result states one
    assert report.to_json()["pearson_quality"] is None
    assert report.numbers["AP_bound"] > report.numbers["AP_by_score"]  # also where no quality is predicted


def test_min_iou_leaves_out_poor_masks_of_correlations_only(data_set):
    truth, results = data_set(6, images=8)
    comparison = compare(truth, results)
    every, good = quality(comparison), quality(comparison, min_iou=0.5)
    true = np.concatenate([true_iou(pair, OVERLAPS["segm"]) for pair in comparison.pairs])
    assert good.numbers["detections"] == (true >= 0.5).sum() < every.numbers["detections"]
    assert good.numbers["AP_oracle"] == every.numbers["AP_oracle"]
    assert sum(row["detections"] for row in good.tables["calibration"]) == good.numbers["detections"]


def test_no_detections(data_set):
    report = quality(compare(data_set(1)[0], []))
    assert report.numbers["detections"] == 0
    assert math.isnan(report.numbers["calibration_error"])

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskwise.evaluate.files import compare
from maskwise.evaluate.overlaps import of_kind
from maskwise.evaluate.region_ap import (
    CIHP,
    OXFORD,
    SDS,
    VOC07,
    average_precisions,
    cihp,
    judge,
    matching_iou,
    oxford,
    sds,
    voc07,
)

POLICIES = (sds, voc07, oxford, cihp)


@pytest.fixture(scope="module")
def golden(comparison_of):
    """3 objects of 10 pixels; by score: exact, on nothing, on nothing, 7 of 10 pixels (IoU .7), exact."""
    a, b, c = slice(0, 10), slice(10, 20), slice(20, 30)
    nothing = slice(30, 34)
    founds = [(a, 0, 0.9), (nothing, 0, 0.8), (nothing, 0, 0.7), (slice(10, 17), 0, 0.6), (c, 0, 0.5)]
    return comparison_of(([(a, 0, False), (b, 0, False), (c, 0, False)], founds))


@pytest.mark.parametrize(("policy", "at_half"), [(sds, 11 / 15), (voc07, 8.2 / 11), (oxford, 0.7), (cihp, 11 / 15)])
def test_golden_ranking(golden, policy, at_half):
    assert policy(golden, "segm").numbers["AP50"] == pytest.approx(at_half, abs=1e-12)


def test_iou_equal_to_the_threshold_is_enough_only_for_sds_and_voc07(golden):
    """At .7 the fourth detection (IoU 7/10) stays right, or it turns wrong: right, wrong x 3, right (precision 2/5)."""
    assert sds(golden).numbers["AP70"] == pytest.approx(11 / 15)
    assert voc07(golden).numbers["AP70"] == pytest.approx(8.2 / 11)
    assert oxford(golden).numbers["AP70"] == pytest.approx((1 + 2 / 5) / 3)
    assert cihp(golden).numbers["AP70"] == pytest.approx((1 + 2 / 5) / 3)


def test_vol_and_avg_are_means_over_named_thresholds(golden):
    """.1 to .7 give 11/15 and .8, .9 give 7/15 under sds; the strict rule of cihp loses .7 too."""
    high, low = 11 / 15, 7 / 15
    assert sds(golden).numbers["APvol"] == pytest.approx((7 * high + 2 * low) / 9)
    assert sds(golden).numbers["APavg"] == pytest.approx((3 * high + 2 * low) / 5)
    assert cihp(golden).numbers["APvol"] == pytest.approx((6 * high + 3 * low) / 9)
    assert "vol = mean over IoU 0.1:.1:0.9" in sds(golden).notes
    assert list(sds(golden).numbers)[:3] == ["APvol", "APavg", "AP10"]
    assert list(voc07(golden).numbers) == ["AP50", "AP70"]


def test_a_second_detection_of_the_same_object(comparison_of):
    """Two objects, the first one found twice: right, wrong for sds (AP 1/2); right twice for oxford (1 + 1) / 2."""
    a, b = slice(0, 10), slice(10, 20)
    twice = comparison_of(([(a, 0, False), (b, 0, False)], [(a, 0, 0.9), (a, 0, 0.8)]))
    assert sds(twice).numbers["AP50"] == 0.5
    assert oxford(twice).numbers["AP50"] == 1
    assert cihp(twice).numbers["AP50"] == 1


def test_a_detection_never_settles_for_its_second_best_object():
    """It covers object 0 best, which is taken; object 1 would do but is not asked (COCO's matching would take it)."""
    iou = np.array([[0.9, 0.1], [0.6, 0.55]])
    assert judge(iou, np.array([0.5]), SDS).tolist() == [[True, False]]
    assert judge(iou, np.array([0.5]), OXFORD).tolist() == [[True, True]]


def test_void_pixels_are_taken_out_of_detections(comparison_of, rle):
    """10 pixels of object found with 6 of void beside it: IoU 10/16, and 1 when void is out."""
    one = comparison_of(([(slice(0, 10), 0, False)], [(slice(0, 16), 0, 0.9)]))
    void = np.zeros((4, 10), bool)
    void[1] = True
    assert oxford(one).numbers["AP60"] == 1
    assert oxford(one).numbers["AP70"] == 0
    report = oxford(one, void=[rle(void)])
    assert report.numbers["AP90"] == 1
    assert "void pixels taken out of detections" in report.notes
    assert oxford(one, void=[None]).numbers == oxford(one).numbers
    with pytest.raises(ValueError, match="2 void masks for 1 images"):
        oxford(one, void=[None, None])
    with pytest.raises(ValueError, match="image 0: void pixels lie on an object"):
        oxford(one, void=[rle(~void)])
    with pytest.raises(ValueError, match="iou must be 'segm', got 'bbox'"):
        oxford(one, "bbox", void=[None])


def test_crowds_are_no_ground_truth(comparison_of):
    crowd = comparison_of(([(slice(0, 10), 0, True)], [(slice(0, 10), 0, 0.9)]))
    assert all(math.isnan(v) for v in sds(crowd).numbers.values())
    beside = comparison_of(([(slice(0, 10), 0, True), (slice(10, 20), 0, False)], [(slice(0, 20), 0, 0.9)]))
    assert sds(beside).numbers["AP50"] == 1  # 10 / 20 with the object alone; the crowd takes nothing
    assert sds(beside).ground_truths == 1


def test_a_class_without_ground_truth_is_unknown_and_left_out_of_the_mean(comparison_of):
    a = slice(0, 10)
    two = comparison_of(([(a, 0, False)], [(a, 0, 0.9), (a, 1, 0.9)]), ([], [(a, 1, 0.5)]), ([], []), classes=2)
    for policy in POLICIES:
        report = policy(two)
        assert report.policy == policy.__name__
        assert report.numbers["AP50"] == 1
        assert math.isnan(report.classes[1].numbers["AP50"])
        assert report.classes[0].ground_truths == 1
        json.dumps(report.to_json(), allow_nan=False)


@pytest.mark.parametrize("policy", POLICIES)
def test_nothing_found_is_zero_and_nothing_there_is_unknown(comparison_of, policy):
    assert set(policy(comparison_of(([(slice(0, 9), 0, False)], []))).numbers.values()) == {0.0}
    assert all(math.isnan(v) for v in policy(comparison_of(([], []))).numbers.values())
    assert all(math.isnan(v) for v in policy(comparison_of()).numbers.values())


def test_boxes_are_ranked_and_compared_as_boxes(comparison_of):
    corner = np.zeros((4, 10), bool)
    corner[0], corner[:, 0] = True, True
    one = comparison_of(([(np.ones((4, 10), bool), 0, False)], [(corner, 0, 0.9)]))
    assert sds(one, "bbox").numbers["AP90"] == 1
    assert sds(one, "segm").numbers["AP50"] == 0


def test_matching_iou_pools_pixels_of_the_best_pairing(comparison_of):
    """Detection 0 shares 6 with a (union 14) and 4 with b (16); detection 1 shares 4 with a (union 10) and none with b.
    Sum of IoU: 6/14 + 0 = .43 or 4/16 + 4/10 = .65, so the second pairing: (4 + 4) / (16 + 10)."""
    a, b = slice(0, 10), slice(10, 20)
    one = comparison_of(([(a, 0, False), (b, 0, False)], [(slice(4, 14), 0, 0.5), (slice(0, 4), 0, 0.9)]))
    assert matching_iou(one).numbers["MatchingIoU"] == pytest.approx(8 / 26)
    assert matching_iou(comparison_of(([(a, 0, False)], []))).numbers["MatchingIoU"] == 0
    assert math.isnan(matching_iou(comparison_of(([], [(a, 0, 1.0)]))).numbers["MatchingIoU"])
    with pytest.raises(ValueError, match="iou must be 'segm'"):
        matching_iou(one, "bbox")


def _plain(comparison, label, t, rules):
    """The definitions again, one detection at a time over the whole data set."""
    rows = []
    for i, (_, truth, found) in enumerate(comparison.pairs):
        n = np.flatnonzero((truth.labels == label) & ~truth.crowd)
        iou = of_kind("segm").iou(truth, found)[:, n]
        rows += [(found.mask_scores[d], i, iou[d]) for d in np.flatnonzero(found.labels == label)]
    positives = sum(int(((p.truth.labels == label) & ~p.truth.crowd).sum()) for p in comparison.pairs)
    right, taken = [], set()
    for _, i, iou in sorted(rows, key=lambda row: -row[0]):
        best = int(iou.argmax()) if len(iou) else -1
        ok = best >= 0 and (iou[best] >= t if rules.at_threshold else iou[best] > t)
        ok &= not (rules.taken_once and (i, best) in taken)
        if ok:
            taken.add((i, best))
        right.append(bool(ok))
    precision = [sum(right[: k + 1]) / (k + 1) for k in range(len(right))]
    if not positives:
        return math.nan
    if rules is OXFORD:
        return sum(p for p, ok in zip(precision, right, strict=True) if ok) / positives
    recall = [sum(right[: k + 1]) / positives for k in range(len(right))]
    if rules is VOC07:
        points = list(zip(recall, precision, strict=True))
        return sum(max([p for r, p in points if r >= level / 10], default=0) for level in range(11)) / 11
    return sum(max(precision[k:]) for k, ok in enumerate(right) if ok) / positives


@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 10**6), rules=st.sampled_from([SDS, VOC07, OXFORD, CIHP]))
def test_random_data_equals_the_definition_read_aloud(seed, rules, data_set):
    comparison = compare(*data_set(seed))
    table = average_precisions(comparison, "segm", rules)
    plain = [[_plain(comparison, label, t, rules) for t in rules.thresholds] for label in range(3)]
    np.testing.assert_allclose(table, plain, atol=1e-12)


@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 10**6))
def test_found_exactly_is_one_and_order_of_ground_truths_does_not_matter(seed, data_set):
    truth, results = data_set(seed, crowd=0)
    drawn = {a["segmentation"]["counts"]: a for a in truth["annotations"]}  # twins would be found twice
    truth["annotations"] = list(drawn.values())
    exact = [
        {"image_id": a["image_id"], "category_id": a["category_id"], "segmentation": a["segmentation"], "score": 0.5}
        for a in truth["annotations"]
    ]
    for policy in POLICIES:
        numbers = policy(compare(truth, exact)).numbers
        assert all(v == pytest.approx(1) or math.isnan(v) for v in numbers.values())
    shuffled = truth | {"annotations": truth["annotations"][::-1]}
    for policy in (oxford, cihp):
        assert policy(compare(truth, results)).numbers == policy(compare(shuffled, results)).numbers

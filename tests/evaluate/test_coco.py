import json
import math
from dataclasses import replace

import hotcoco.mask
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.cocoeval import COCOeval

from maskwise.categories import Categories
from maskwise.evaluate import boundary
from maskwise.evaluate.coco import AREAS, COCO, Settings, by_own_matching, coco, curves, matches, operating_points
from maskwise.evaluate.files import compare
from maskwise.evaluate.matching import Ranked, best_f1, ranked
from maskwise.evaluate.objects import Comparison
from maskwise.evaluate.overlaps import OVERLAPS, of_kind
from maskwise.evaluate.structures import pair
from maskwise.masks import Masks
from maskwise.predict import Options, keeper
from maskwise.rle import from_string
from maskwise.structures import Instances, Targets

TWELVE = ["AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl"]
OTHER_SETTINGS = {
    "thresholds": (Settings(thresholds=(0.3, 0.5, 0.9)), {"iouThrs": np.array([0.3, 0.5, 0.9])}),
    "two limits": (Settings(max_dets=(1, 3)), {"maxDets": [1, 3]}),
    "four limits": (Settings(max_dets=(2, 4, 6, 8)), {"maxDets": [2, 4, 6, 8]}),
    "areas": (
        Settings(areas={"all": (0.0, 1e10), "tiny": (0.0, 100.0), "big": (100.0, 1e10)}),
        {"areaRng": [[0, 1e10], [0, 100], [100, 1e10]], "areaRngLbl": ["all", "tiny", "big"]},
    ),
    "no classes": (Settings(class_agnostic=True, max_dets=(1, 5, 7)), {"useCats": 0, "maxDets": [1, 5, 7]}),
}


def minus_one(values):
    return np.where(np.isnan(values), -1, values)


def assert_equal(found, oracle):
    for name in ("precision", "recall", "scores"):
        np.testing.assert_allclose(minus_one(getattr(found, name)), oracle.eval[name], rtol=0, atol=1e-12, err_msg=name)


data_sets = given(
    seed=st.integers(0, 2**32 - 1),
    images=st.integers(1, 5),
    classes=st.integers(1, 4),
    crowd=st.sampled_from([0, 0.3, 1]),
    ties=st.booleans(),
)


@pytest.mark.parametrize("iou", ["bbox", "segm"])
@settings(deadline=None, max_examples=60)
@data_sets
def test_equals_pycocotools(iou, data_set, pycocotools_eval, **dials):
    truth, results = data_set(**dials)
    comparison = compare(truth, results, iou)
    if not results:
        assert all(math.isnan(v) or v == 0 for v in coco(comparison, iou).numbers.values())
        return
    oracle = pycocotools_eval(truth, results, iou)
    report = coco(comparison, iou)
    assert list(report.numbers) == TWELVE
    np.testing.assert_allclose(minus_one(list(report.numbers.values())), oracle.stats, rtol=0, atol=1e-9)
    assert_equal(curves(comparison, iou), oracle)
    assert_equal(by_own_matching(comparison, OVERLAPS[iou]), oracle)


@pytest.mark.parametrize(("ours", "theirs"), OTHER_SETTINGS.values(), ids=OTHER_SETTINGS)
@pytest.mark.parametrize("iou", ["bbox", "segm"])
@settings(deadline=None, max_examples=6)
@given(seed=st.integers(0, 2**32 - 1))
def test_equals_pycocotools_under_other_settings(iou, ours, theirs, data_set, pycocotools_eval, seed):
    truth, results = data_set(seed, found=14)
    if results:
        oracle = pycocotools_eval(truth, results, iou, **theirs)
        comparison = compare(truth, results, iou)
        assert_equal(curves(comparison, iou, ours), oracle)
        assert_equal(by_own_matching(comparison, OVERLAPS[iou], ours), oracle)


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 2**32 - 1))
def test_equals_pycocotools_where_results_have_their_own_boxes(seed, data_set, pycocotools_eval):
    """Decimals, and extents of 32 and 96 that decide about the size."""
    truth, results = data_set(seed, size=(120, 120))
    rng = np.random.default_rng(seed)
    boxes = [[*rng.random(2).round(2).tolist(), *rng.choice([31.99, 32, 96], 2).tolist()] for _ in results]
    results = [
        {"bbox": box, **{k: r[k] for k in ("image_id", "category_id", "score")}}
        for r, box in zip(results, boxes, strict=True)
    ]
    if results:
        assert_equal(curves(compare(truth, results, "bbox"), "bbox"), pycocotools_eval(truth, results, "bbox"))


def test_size_split_of_masks_ignores_a_box_in_the_results(data_set):
    truth, results = data_set(3, images=8)
    with_boxes = [result | {"bbox": [0.0, 0.0, 500.0, 500.0]} for result in results]
    assert str(coco(compare(truth, results)).numbers) == str(coco(compare(truth, with_boxes)).numbers)


def test_boxes_are_ranked_by_class_score_and_masks_by_score(data_set, pycocotools_eval):
    truth, results = data_set(5, images=8, ties=False)
    other = [result | {"class_score": 1 - result["score"]} for result in results]
    swapped = [result | {"score": 1 - result["score"]} for result in results]
    for iou, ranking in (("bbox", swapped), ("segm", results)):
        oracle = pycocotools_eval(truth, ranking, iou)
        assert_equal(curves(compare(truth, other, iou), iou), oracle)
    assert coco(compare(truth, other, "bbox"), "bbox").numbers != coco(compare(truth, results, "bbox"), "bbox").numbers


def test_ids_zero_and_text_are_ids_like_any_other(data_set):
    truth, results = data_set(11, images=4)
    expected = coco(compare(truth, results)).numbers
    names = {picture["id"]: f"{i:03}.png" for i, picture in enumerate(sorted(truth["images"], key=lambda p: p["id"]))}
    for picture in truth["images"]:
        picture["id"] = names[picture["id"]]
    for entry in truth["annotations"] + results:
        entry["image_id"] = names[entry["image_id"]]
    for entry in truth["annotations"]:
        entry["id"] -= 1
    assert str(coco(compare(truth, results)).numbers) == str(expected)


def test_nothing_to_measure_is_nan_and_null(data_set):
    truth, _ = data_set(1, objects=0)
    report = coco(compare(truth, []))
    assert all(math.isnan(value) for value in report.numbers.values())
    stored = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert list(stored)[:14] == ["policy", "iou", *TWELVE]
    assert stored["AP"] is None
    assert math.isnan(coco(compare({"images": [], "annotations": [], "categories": []}, [])).numbers["AP"])


def test_found_nothing_is_zero(data_set):
    truth, _ = data_set(1, crowd=0)
    report = coco(compare(truth, []))
    assert report.numbers["AP"] == report.numbers["AR100"] == 0
    assert report.ground_truths == sum(row.ground_truths for row in report.classes) == len(truth["annotations"])


def perfect(truth):
    found = [a for a in truth["annotations"] if not a["iscrowd"]]
    return [{k: a[k] for k in ("image_id", "category_id", "segmentation")} | {"score": 0.5} for a in found]


@pytest.mark.parametrize("iou", ["bbox", "segm", "boundary"])
def test_the_truth_itself_is_perfect(iou, data_set):
    truth, _ = data_set(8, crowd=0)
    for annotation in truth["annotations"]:
        annotation.pop("bbox")
    report = coco(compare(truth, perfect(truth), iou), iou)
    assert report.numbers["AP"] == pytest.approx(1)
    row = next(row for row in report.classes if row.ground_truths)
    assert row.numbers["F1"] == pytest.approx(1)
    assert row.numbers["score_at_F1"] == 0.5


def test_the_operating_point_is_where_f1_is_best(comparison_of):
    """Two objects, found at .9 and .6; wrong are .7, .2, .2: F1 goes 2/3, 1/2, 4/5, 4/7."""
    a, b, nothing = slice(0, 5), slice(10, 15), slice(20, 25)
    founds = [(a, 0, 0.9), (nothing, 0, 0.7), (b, 0, 0.6), (nothing, 0, 0.2), (nothing, 0, 0.2)]
    [point] = operating_points(comparison_of(([(a, 0, False), (b, 0, False)], founds)))
    assert point == (pytest.approx(0.8), 0.6)


@pytest.mark.parametrize("first_right", [True, False])
def test_equal_scores_are_shown_together(first_right, comparison_of):
    """No score tells one of two detections of .5 from the other, so F1 is 2/3 and never 1, in any order."""
    founds = [(slice(0, 5), 0, 0.5), (slice(20, 25), 0, 0.5)]
    [point] = operating_points(comparison_of(([(slice(0, 5), 0, False)], founds[:: 1 if first_right else -1])))
    assert point == (pytest.approx(2 / 3), 0.5)


def test_a_thousandth_of_the_objects_is_told():
    """999 of 1000 are found, then nothing else: recall levels know .99 alone."""
    scores = np.linspace(1, 0.5, 1500)
    right = np.arange(1500) < 999
    assert best_f1(Ranked(scores, right[None], ~right[None], 1000)) == (pytest.approx(2 * 999 / 1999), scores[998])


@pytest.mark.parametrize("iou", ["bbox", "segm", "boundary"])
def test_masks_are_cut_by_class_score_as_predictions_are(iou, data_set):
    """Whatever ranks them: `min_score` of a prediction knows no other score."""
    truth, results = data_set(5, images=8)
    ranked_otherwise = [r | {"class_score": r["score"], "score": r["score"] ** 3 / 2} for r in results]
    points = operating_points(compare(truth, ranked_otherwise, iou), iou)
    np.testing.assert_allclose(points, operating_points(compare(truth, results, iou), iou))
    assert {point.score for point in points if point.f1 > 0} <= {r["score"] for r in results}


def test_a_prediction_from_that_score_on_has_that_f1():
    """Of four objects three are found, one of them with a poor mask; single precision, in which models score."""
    dense = torch.zeros(5, 20, 50, dtype=torch.bool)
    for picture, start in zip(dense, (0, 10, 20, 30, 40), strict=True):
        picture[:, start : start + 5] = True
    scores, quality = torch.tensor([0.9, 0.7, 0.3, 0.2]), torch.tensor([0.2, 1.0, 0.9, 0.4])
    masks = Masks.from_dense(dense[[0, 1, 2, 4]])
    labels = torch.zeros(4, dtype=torch.int64)
    found = Instances(
        boxes=masks.boxes(), labels=labels, scores=scores, quality=quality, mask_scores=scores * quality, masks=masks
    ).ranked()
    names = Categories(names=("a",))
    truth = Targets.from_masks(Masks.from_dense(dense[:4]), labels)
    [point] = operating_points(Comparison(categories=names, pairs=(pair("a.png", truth, found),)))
    assert sorted(keeper(names, Options(min_score=point.score))(found).scores.tolist()) == sorted(scores[:3].tolist())
    assert point.f1 == pytest.approx(2 * 3 / (4 + 3))


def f1_of_each_cut(truth, results, iou, most, pycocotools_eval):
    """Of each class, from pycocotools alone, which is asked again for every cut."""
    classes = {category["id"]: {} for category in truth["categories"]}
    for cut in sorted({r["score"] for r in results}, reverse=True):
        shown = [r for r in results if r["score"] >= cut]
        dials = {"iouThrs": np.array([0.5]), "areaRng": [[0, 1e10]], "areaRngLbl": ["all"], "maxDets": [most]}
        entries = [e for e in pycocotools_eval(truth, shown, iou, **dials).evalImgs if e is not None]
        for id_, cuts in classes.items():
            mine = [e for e in entries if e["category_id"] == id_]
            right = sum(((e["dtMatches"] > 0) & ~e["dtIgnore"].astype(bool)).sum() for e in mine)
            counted = sum((~e["dtIgnore"].astype(bool)).sum() for e in mine)
            objects = sum((np.array(e["gtIgnore"]) == 0).sum() for e in mine)
            if objects:
                cuts[cut] = 2 * right / (objects + counted)
    return classes.values()


@pytest.mark.parametrize("iou", [pytest.param("bbox", marks=pytest.mark.long), "segm"])
@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 2**32 - 1), ties=st.booleans(), crowd=st.sampled_from([0, 0.3]), most=st.sampled_from([2, 100])
)
def test_no_cut_has_a_better_f1(iou, seed, ties, crowd, most, data_set, pycocotools_eval):
    truth, results = data_set(seed, images=3, ties=ties, crowd=crowd)
    if not results:
        return
    points = operating_points(compare(truth, results, iou), iou, Settings(max_dets=(1, most)))
    for point, cuts in zip(points, f1_of_each_cut(truth, results, iou, most, pycocotools_eval), strict=True):
        best = max(cuts.values(), default=math.nan)
        assert point.f1 == pytest.approx(best, nan_ok=True)
        if best > 0:
            assert point.score == next(cut for cut, f1 in cuts.items() if f1 == pytest.approx(best))
        else:
            assert math.isnan(point.score)


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 2**32 - 1), max_dets=st.sampled_from([(1, 10, 100), (1, 3)]))
def test_both_matchings_lead_to_the_same_operating_points(seed, max_dets, data_set):
    comparison = compare(*data_set(seed))
    dials = replace(COCO, max_dets=max_dets, thresholds=(0.5,), areas={"all": AREAS["all"]})
    classes = matches(comparison, of_kind("segm"), dials)
    own = [best_f1(ranked(images, max_dets[-1], (1, 1))[0]) for images in classes]
    np.testing.assert_array_equal(operating_points(comparison, "segm", dials), own)


@pytest.mark.parametrize("iou", ["bbox", "segm", "boundary"])
def test_nothing_to_find_and_nothing_to_show(iou, comparison_of):
    """Classes: without objects, found nowhere, found wrongly alone. What reaches an F1 of 0 is no score."""
    truths, founds = [(slice(0, 5), 1, False), (slice(10, 15), 2, False)], [(slice(20, 25), k, 0.9) for k in (0, 2)]
    points = operating_points(comparison_of((truths, founds), classes=3), iou)
    np.testing.assert_array_equal(points, [(math.nan, math.nan), (0, math.nan), (0, math.nan)])
    np.testing.assert_array_equal(operating_points(comparison_of(), iou), [(math.nan, math.nan)])


def eroded(bits, times):
    """3 x 3 erosion, one step after the other."""
    for _ in range(times):
        padded = np.pad(bits, 1)
        bits = np.all([padded[y : y + len(bits), x : x + bits.shape[1]] for y in range(3) for x in range(3)], axis=0)
    return bits


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 10**6), distance=st.integers(1, 5), height=st.integers(1, 20), width=st.integers(1, 20))
def test_boundary_is_what_erosion_takes_away(seed, distance, height, width):
    bits = np.random.default_rng(seed).random((height, width)) < 0.97
    assert np.array_equal(boundary.inner_boundary(bits, distance), bits & ~eroded(bits, distance))


def test_boundary_width_follows_the_diagonal_and_the_edge_of_the_image_counts(rle):
    """2 % of the diagonal of 300 x 400 is 10: the frame of a full mask has 300 * 400 - 280 * 380 pixels."""
    frame, nothing = boundary.boundaries([rle(np.ones((300, 400))), rle(np.zeros((300, 400)))])
    assert from_string(frame["counts"])[1::2].sum() == 300 * 400 - 280 * 380
    assert from_string(nothing["counts"]).tolist() == [300 * 400]
    assert boundary.boundaries([]) == []


def test_boundary_iou_by_hand(rle):
    """20 x 20 squares in 50 x 50 (distance 1), one shifted by one: rings of 76 that share 18 + 18; masks share 380."""
    bits = np.zeros((2, 50, 50), bool)
    bits[0, 10:30, 10:30], bits[1, 10:30, 11:31] = True, True
    first, second = (rle(b) for b in bits)
    ring = (19 + 19) / (76 + 76 - 38)
    assert boundary.touching_boundaries([second], [first], np.array([False])).iou.item() == pytest.approx(ring)
    assert boundary.touching_boundaries([second], [first], np.array([True])).iou.item() == pytest.approx(380 / 400)


class BoundaryEval(COCOeval):
    """pycocotools with another IoU matrix, from dense masks."""

    def computeIoU(self, image, category):
        iou = super().computeIoU(image, category)
        truth, found = self._gts[image, category], self._dts[image, category]
        if len(truth) and len(found):
            best = np.argsort([-d["score"] for d in found], kind="mergesort")[: self.params.maxDets[-1]]
            rings = [[ring(o) for o in objects] for objects in ([found[i] for i in best], truth)]
            for (d, n), value in np.ndenumerate(iou):
                a, b = rings[0][d], rings[1][n]
                if not truth[n]["iscrowd"]:
                    iou[d, n] = min(value, (a & b).sum() / max((a | b).sum(), 1))
        return iou


def ring(entry):
    bits = hotcoco.mask.decode(entry["segmentation"]).astype(bool)
    return bits & ~eroded(bits, max(1, round(0.02 * math.hypot(*bits.shape))))


@pytest.mark.long
@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 2**32 - 1))
def test_boundary_ap_equals_pycocotools_with_that_matrix(seed, data_set, pycocotools_eval):
    truth, results = data_set(seed, size=(60, 90))  # two pixels wide
    if results:
        oracle = pycocotools_eval(truth, results, "segm", kind=BoundaryEval)
        assert_equal(curves(compare(truth, results, "boundary"), "boundary"), oracle)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_dets": (10, 1)}, r"max_dets must rise from 1 or more, got \(10, 1\)"),
        ({"max_dets": (0, 1)}, "max_dets must rise"),
        ({"thresholds": ()}, "must not be empty"),
        ({"thresholds": (0.5, 1.5)}, r"above 0 and at most 1, got \(0.5, 1.5\)"),
        ({"thresholds": (float("nan"),)}, "above 0 and at most 1"),
        ({"thresholds": (0.0,)}, "above 0 and at most 1"),
    ],
)
def test_settings_that_make_no_sense(changes, message):
    with pytest.raises(ValueError, match=message):
        Settings(**changes)


def test_unknown_overlap_and_threshold(data_set):
    comparison = compare(*data_set(1))
    with pytest.raises(ValueError, match="unknown kind of overlap 'area'; known: bbox, segm, boundary"):
        coco(comparison, "area")
    with pytest.raises(ValueError, match=r"IoU threshold 0\.62 was not evaluated"):
        curves(comparison).average_precision(threshold=0.62)
    assert list(AREAS) == ["all", "s", "m", "l"]

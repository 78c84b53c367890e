import json
import math

import hotcoco.mask
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.cocoeval import COCOeval

from maskwise.evaluate import boundary
from maskwise.evaluate.coco import AREAS, Settings, by_own_matching, coco, curves
from maskwise.evaluate.files import compare
from maskwise.evaluate.overlaps import OVERLAPS
from maskwise.rle import from_string

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
    for iou, ranked in (("bbox", swapped), ("segm", results)):
        oracle = pycocotools_eval(truth, ranked, iou)
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


def test_the_operating_point_is_where_f1_is_best(data_set, rle):
    """Two objects, found at .9 and .6; wrong are .7, .2, .2: F1 goes 2/3, 1/2, 4/5, 2/3, 4/7."""
    bits = np.zeros((2, 20, 20), bool)
    bits[0, :5, :5], bits[1, 10:, 10:] = True, True
    codes = [rle(b) for b in bits]
    empty = rle(np.zeros((20, 20)))
    truth = {
        "images": [{"id": 1, "height": 20, "width": 20}],
        "categories": [{"id": 1, "name": "a"}],
        "annotations": [{"id": i, "image_id": 1, "category_id": 1, "segmentation": c} for i, c in enumerate(codes)],
    }
    ranking = [(codes[0], 0.9), (empty, 0.7), (codes[1], 0.6), (empty, 0.2), (empty, 0.2)]
    results = [{"image_id": 1, "category_id": 1, "segmentation": c, "score": s} for c, s in ranking]
    f1, score = curves(compare(truth, results)).operating_point(0)
    assert (f1, score) == (pytest.approx(0.8), 0.6)


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
    assert boundary.boundary_iou([second], [first], np.array([False])).item() == pytest.approx(ring)
    assert boundary.boundary_iou([second], [first], np.array([True])).item() == pytest.approx(380 / 400)


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

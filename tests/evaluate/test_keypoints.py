import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskwise.evaluate.coco import AREAS, Settings
from maskwise.evaluate.files import compare
from maskwise.evaluate.keypoints import COCO_SIGMAS, keypoints, oks, usual_sigmas

NAMES = ("AP", "AP50", "AP75", "APm", "APl", "AR", "AR50", "AR75", "ARm", "ARl")


def people(seed, *, points=17, images=4, person=("person",)):
    """COCO keypoint files: people of many sizes, some without a visible point, crowds, ties, misses."""
    rng = np.random.default_rng(seed)
    pictures = [{"id": 10 + i, "height": 300, "width": 400} for i in range(images)]
    annotations, results = [], []
    for picture in pictures:
        for _ in range(rng.integers(0, 6)):
            side = float(rng.choice([20, 60, 150]))
            corner = rng.random(2) * 200
            shown = rng.integers(0, 3, points) * (rng.random() < 0.8)
            place = np.round(corner + rng.random((points, 2)) * side, 2)
            category = int(rng.integers(1, len(person) + 1))
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": picture["id"],
                    "category_id": category,
                    "bbox": [*corner.tolist(), side, side],
                    "area": side * side * float(rng.choice([0.4, 0.6])),
                    "iscrowd": int(rng.random() < 0.1),
                    "num_keypoints": int((shown > 0).sum()),
                    "keypoints": (np.column_stack([place, shown]) * (shown > 0)[:, None]).reshape(-1).tolist(),
                }
            )
            for _ in range(rng.integers(0, 3)):
                moved = place + rng.normal(0, rng.choice([0.01, 0.05, 0.3]) * side, (points, 2))
                results.append(
                    {
                        "image_id": picture["id"],
                        "category_id": category,
                        "keypoints": np.column_stack([moved, np.ones(points)]).reshape(-1).tolist(),
                        "score": round(float(rng.random()), 1),
                    }
                )
    categories = [{"id": i, "name": n, "keypoints": [str(p) for p in range(points)]} for i, n in enumerate(person, 1)]
    return {"images": pictures, "annotations": annotations, "categories": categories}, results


def one_person(**changed):
    truth, _ = people(0, points=2, images=1)
    truth["annotations"] = [
        {"id": 1, "image_id": 10, "category_id": 1, "area": 100.0, "bbox": [0, 0, 10, 10], "iscrowd": 0}
        | {"keypoints": [0, 0, 2, 10, 0, 1]}
        | changed
    ]
    return truth


def result(points, score=0.5):
    return {"image_id": 10, "category_id": 1, "keypoints": points, "score": score}


def test_oks_by_hand():
    """s^2 = 100, sigmas .1 and .2. Point one is right: 1. Point two is off by 3 and 4: exp(-25 / (2 * 100 * .16))."""
    found = np.array([[[0.0, 0, 1], [13, 4, 1]]])
    truth = np.array([[[0.0, 0, 2], [10, 0, 1]], [[0, 0, 2], [10, 0, 0]], [[0, 0, 0], [0, 0, 0]]])
    boxes = np.array([[0.0, 0, 10, 10], [0, 0, 10, 10], [0, 0, 1, 1]])
    sigmas = np.array([0.1, 0.2])
    # the third shows none: box 0 0 1 1 widened to -1 -1 2 2, the second point is 11 and 2 off
    expected = [(1 + math.exp(-25 / 32)) / 2, 1, (1 + math.exp(-125 / 32)) / 2]
    similarity = oks(found, truth, np.array([100.0, 100, 100]), boxes, sigmas)
    np.testing.assert_allclose(similarity, [expected], rtol=1e-12)


def test_sigmas_of_coco():
    tenfold = [0.26, 0.25, 0.25, 0.35, 0.35, 0.79, 0.79, 0.72, 0.72, 0.62, 0.62, 1.07, 1.07, 0.87, 0.87, 0.89, 0.89]
    np.testing.assert_allclose(COCO_SIGMAS, np.array(tenfold) / 10)


def check(truth, results, evaluator, report, tolerance=1e-9):
    for name, expected in zip(NAMES, evaluator.stats, strict=True):
        expected = math.nan if expected == -1 else expected
        assert report.numbers[name] == pytest.approx(expected, abs=tolerance, nan_ok=True), name


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 10**6))
def test_equal_to_pycocotools(seed, pycocotools_eval):
    truth, results = people(seed)
    if not (results and truth["annotations"]):
        return
    report = keypoints(compare(truth, results, "keypoints"))
    check(truth, results, pycocotools_eval(truth, results, "keypoints"), report)
    assert tuple(report.numbers) == NAMES
    assert report.max_dets == (20,)


@settings(deadline=None, max_examples=8)
@given(seed=st.integers(0, 10**6), points=st.integers(1, 5))
def test_other_sigmas_equal_pycocotools_told_the_same(seed, points, pycocotools_eval):
    truth, results = people(seed, points=points, person=("cat", "dog"))
    if not (results and truth["annotations"]):
        return
    sigmas = np.random.default_rng(seed).uniform(0.02, 0.2, points)
    evaluator = pycocotools_eval(truth, results, "keypoints", kpt_oks_sigmas=sigmas)
    evaluator.summarize()
    report = keypoints(compare(truth, results, "keypoints"), sigmas=sigmas.tolist())
    check(truth, results, evaluator, report)
    assert [row.name for row in report.classes] == ["cat", "dog"]
    assert f"{points} sigmas" in report.notes


def test_points_of_which_no_more_is_known_have_one_sigma():
    assert usual_sigmas(17) == COCO_SIGMAS
    assert usual_sigmas(5) == (0.067,) * 5
    assert sum(COCO_SIGMAS) / 17 == pytest.approx(0.067, abs=5e-4)
    truth, results = people(3, points=5)
    assert "5 sigmas of 0.067" in keypoints(compare(truth, results, "keypoints"), sigmas=usual_sigmas(5)).notes


def test_a_truth_without_visible_points_excuses_once():
    """The box excuses what lies in it: the first of two detections is ignored, the second is wrong."""
    hidden = {"id": 2, "bbox": [100, 100, 50, 50], "keypoints": [0] * 6, "area": 2500.0}
    truth = one_person()
    truth["annotations"].append(truth["annotations"][0] | hidden)
    right, inside = result([0, 0, 1, 10, 0, 1], 0.5), result([110, 110, 1, 120, 120, 1], 0.9)
    sigmas = (0.1, 0.1)
    report = keypoints(compare(truth, [right, inside], "keypoints"), sigmas=sigmas)
    assert (report.numbers["AP"], report.ground_truths) == (pytest.approx(1), 1)
    report = keypoints(compare(truth, [right, inside, inside], "keypoints"), sigmas=sigmas)
    assert report.numbers["AP"] == pytest.approx(0.5)


def test_extremes():
    sigmas = (0.1, 0.1)
    nobody = one_person() | {"annotations": []}
    numbers = keypoints(compare(nobody, [result([0, 0, 1, 10, 0, 1])], "keypoints"), sigmas=sigmas).numbers
    assert all(math.isnan(v) for v in numbers.values())
    numbers = keypoints(compare(one_person(area=2000.0), [], "keypoints"), sigmas=sigmas).numbers
    assert (numbers["AP"], numbers["AR"], numbers["APm"]) == (0, 0, 0)
    assert math.isnan(numbers["APl"])
    exact = keypoints(compare(one_person(), [result([0, 0, 1, 10, 0, 1])], "keypoints"), sigmas=sigmas)
    assert exact.numbers["AP"] == pytest.approx(1)
    assert exact.numbers["AR75"] == 1
    no_area = keypoints(compare(one_person(area=0), [result([0, 0, 1, 10, 0, 1])], "keypoints"), sigmas=sigmas)
    assert no_area.numbers["AP"] == pytest.approx(1)


def test_complaints():
    comparison = compare(one_person(), [result([0, 0, 1, 10, 0, 1])], "keypoints")
    with pytest.raises(ValueError, match="17 sigmas, but the ground truth has 2 keypoints: pass theirs"):
        keypoints(comparison)
    with pytest.raises(ValueError, match="iou must be 'keypoints', got 'segm'"):
        keypoints(comparison, "segm")
    with pytest.raises(ValueError, match="compares keypoints, but the ground truth has none"):
        keypoints(compare(one_person(), [], "bbox"))


def test_own_settings():
    options = Settings(areas={"all": AREAS["all"]}, thresholds=(0.6,), max_dets=(1,), class_agnostic=True)
    truth = one_person()
    report = keypoints(compare(truth, [result([0, 0, 1, 10, 0, 1])], "keypoints"), sigmas=(0.1, 0.1), settings=options)
    assert report.numbers == {"AP": pytest.approx(1), "AR": 1}
    assert report.classes == ()

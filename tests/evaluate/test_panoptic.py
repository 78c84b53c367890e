import copy
import math

import hotcoco
import numpy as np
import pytest
from hotcoco.panoptic import PanopticEval
from hypothesis import given, settings
from hypothesis import strategies as st

from maskwise.categories import Categories
from maskwise.evaluate.objects import above
from maskwise.evaluate.panoptic import Segmentation, panoptic, panoptic_quality, tally

TWO = Categories(names=("thing", "stuff"))


def segmentation(line, labels, crowd=()):
    """A picture of one row; `labels` by id."""
    return Segmentation(
        map=np.array([line]),
        ids=tuple(labels),
        labels=np.array(list(labels.values()), np.int64),
        crowd=np.array([i in crowd for i in labels], bool),
    )


def numbers(truth, found, things=(0,)):
    return panoptic_quality([(truth, found)], TWO, things=things).numbers


def test_by_hand():
    """Things: 1 with 7 of IoU 3/5; 8 is wrong; 2 is missed. PQ = .6 / (1 + 1/2 + 1/2), SQ = .6, RQ = 1/2. Stuff: 1."""
    truth = segmentation([1, 1, 1, 1, 2, 2, 3, 3, 3, 3], {1: 0, 2: 0, 3: 1})
    found = segmentation([7, 7, 7, 8, 7, 0, 9, 9, 9, 9], {7: 0, 8: 0, 9: 1})
    expected = {
        "PQ": 0.65,
        "SQ": 0.8,
        "RQ": 0.75,
        "PQth": 0.3,
        "SQth": 0.6,
        "RQth": 0.5,
        "PQst": 1,
        "SQst": 1,
        "RQst": 1,
    }
    assert numbers(truth, found) == pytest.approx(expected)
    assert panoptic_quality([(truth, found)], TWO, things=[0]).ground_truths == 3


def test_half_is_no_match():
    truth, found = segmentation([1, 1, 1, 0], {1: 0}), segmentation([5, 5, 5, 0], {5: 0})
    assert numbers(truth, found)["PQ"] == 1
    assert numbers(segmentation([1, 1], {1: 0}), segmentation([1, 0], {1: 0}))["PQ"] == 0


def test_void_pixels_leave_the_union_and_excuse():
    """1 against 5: 3 shared, union 3 + 5 - 3 - 2 void = 3. And 6: two of three pixels void, so it is no error."""
    truth = segmentation([1, 1, 1, 0, 0, 0, 0, 2], {1: 0, 2: 1})
    found = segmentation([5, 5, 5, 5, 5, 6, 6, 6], {5: 0, 6: 0})
    assert numbers(truth, found)["PQth"] == 1
    half = segmentation([5, 5, 5, 5, 5, 0, 6, 6], {5: 0, 6: 0})  # one of two is not more than half
    assert numbers(truth, half)["PQth"] == pytest.approx(1 / 1.5)


def test_a_crowd_excuses_its_class_alone_and_is_never_missed():
    truth = segmentation([1, 1, 4, 4, 4, 4], {1: 0, 4: 0}, crowd={4})
    found = segmentation([1, 1, 5, 5, 5, 0], {1: 0, 5: 0})
    assert numbers(truth, found)["PQ"] == 1
    other = segmentation([1, 1, 5, 5, 5, 0], {1: 0, 5: 1})
    assert numbers(truth, other)["PQth"] == 1
    assert numbers(truth, other)["PQst"] == 0


def test_extremes():
    empty = segmentation([0, 0], {})
    assert all(math.isnan(v) for v in numbers(empty, empty).values())
    assert all(math.isnan(v) for v in panoptic_quality([], TWO, things=[0]).numbers.values())
    only = numbers(segmentation([1, 0], {1: 0}), empty)
    assert (only["PQ"], only["SQ"], only["RQ"]) == (0, 0, 0)
    assert math.isnan(only["PQst"])
    one = segmentation([1, 2], {1: 0, 2: 1})
    assert set(numbers(one, one).values()) == {1.0}


def test_map_and_list_must_agree():
    good = segmentation([1, 0], {1: 0})
    with pytest.raises(
        ValueError, match=r"prediction: segments listed but without a pixel: \[3\], in the map but not listed: \[1\]"
    ):
        tally(good, segmentation([1, 0], {3: 0}), 2)
    with pytest.raises(ValueError, match="truth: a segment id is listed more than once"):
        tally(Segmentation(map=good.map, ids=(1, 1), labels=np.zeros(2, np.int64), crowd=np.zeros(2, bool)), good, 2)


def test_instances_are_drawn_best_score_and_smallest_truth_on_top(comparison_of):
    """The small object lies on the large one. Found exactly, and the large one once more with a low score: below, so
    that none of it is seen."""
    large, small = slice(0, 30), slice(10, 15)
    truths = [(large, 0, False), (small, 1, False)]
    founds = [(small, 1, 0.9), (large, 0, 0.8), (large, 0, 0.1)]
    report = panoptic(comparison_of((truths, founds), classes=2))
    assert (report.numbers["PQ"], report.ground_truths) == (1, 2)
    worst = [(small, 1, 0.1), (large, 0, 0.8)]  # small one hidden: large 25 of 30, small missed
    report = panoptic(comparison_of((truths, worst), classes=2))
    assert report.classes[0].numbers["PQ"] == pytest.approx(25 / 30)
    assert report.classes[1].numbers["PQ"] == 0
    # background is no void: what is found there is wrong
    more = comparison_of((truths, [*founds, (slice(30, 35), 0, 0.2)]), classes=2)
    assert panoptic(more).classes[0].numbers["PQ"] == pytest.approx(1 / 1.5)
    assert panoptic(above(more, 0.5)).numbers["PQ"] == 1
    with pytest.raises(ValueError, match="iou must be 'segm', got 'boundary'"):
        panoptic(comparison_of(), "boundary")


def test_crowds_are_drawn_below(comparison_of):
    truths = [(slice(0, 30), 0, False), (slice(0, 20), 0, True)]
    report = panoptic(comparison_of((truths, [(slice(0, 30), 0, 1.0)])))
    assert (report.numbers["PQ"], report.ground_truths) == (1, 1)


def random_maps(rng, size=(14, 18)):
    ids = np.zeros(size, np.int64)
    for i in range(1, 8):
        y, x = rng.integers(0, 10, 2)
        ids[y : y + rng.integers(2, 9), x : x + rng.integers(2, 9)] = i
    ids[rng.random(size) < 0.05] = 0
    return ids


def described(ids, rng, crowd):
    present = np.unique(ids[ids > 0])
    return Segmentation(
        map=ids,
        ids=tuple(present.tolist()),
        labels=rng.integers(0, 3, len(present)),
        crowd=(rng.random(len(present)) < crowd),
    )


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 10**6))
def test_random_maps_equal_hotcoco_and_ids_have_no_meaning(seed, rle):
    """hotcoco reads segments as masks; at most one crowd a class and image, as panopticapi would forget others."""
    rng = np.random.default_rng(seed)
    images, annotations, results, files = [], [], [], []
    for image in range(1, 4):
        truth = described(random_maps(rng), rng, 0.3)
        crowd = truth.crowd.copy()
        for label in range(3):
            crowd[np.flatnonzero(crowd & (truth.labels == label))[1:]] = False
        truth = Segmentation(map=truth.map, ids=truth.ids, labels=truth.labels, crowd=crowd)
        shifted = np.where(rng.random() < 0.8, np.roll(truth.map, rng.integers(0, 2), axis=0), random_maps(rng))
        found = described(shifted, rng, 0)
        images.append((truth, found))
        files.append({"id": image, "height": 14, "width": 18, "file_name": f"{image}.png"})
        for of, rows in ((truth, annotations), (found, results)):
            for i, label, is_crowd in zip(of.ids, of.labels.tolist(), of.crowd.tolist(), strict=True):
                rows.append(
                    {
                        "id": len(rows) + 1,
                        "image_id": image,
                        "category_id": label + 1,
                        "segmentation": rle(of.map == i),
                        "iscrowd": int(is_crowd),
                        "area": float((of.map == i).sum()),
                        "bbox": [0, 0, 1, 1],
                        "score": 1.0,
                    }
                )
    categories = [{"id": k + 1, "name": str(k), "isthing": int(k < 2)} for k in range(3)]
    oracle = _hotcoco(files, categories, annotations, results)
    ours = panoptic_quality(images, Categories(names=("0", "1", "2")), things=[0, 1])
    for group, end in (("All", ""), ("Things", "th"), ("Stuff", "st")):
        for name in ("pq", "sq", "rq"):
            expected = oracle[group][name] if oracle[group]["n"] else math.nan
            assert ours.numbers[name.upper() + end] == pytest.approx(expected, abs=1e-12, nan_ok=True)
    names = rng.permutation(100) + 1
    renamed = [(_renamed(truth, names), _renamed(found, names[::-1])) for truth, found in images]
    again = panoptic_quality(renamed, Categories(names=("0", "1", "2")), things=[0, 1])
    assert again.numbers == pytest.approx(ours.numbers, nan_ok=True)


def _hotcoco(images, categories, annotations, results):
    truth = hotcoco.COCO({"images": images, "categories": categories, "annotations": copy.deepcopy(annotations)})
    found = hotcoco.COCO({"images": images, "categories": categories, "annotations": copy.deepcopy(results)})
    evaluator = PanopticEval(truth, found)
    evaluator.evaluate()
    return evaluator.results()


def _renamed(of, names):
    table = np.append(0, names)
    return Segmentation(map=table[of.map], ids=tuple(table[list(of.ids)].tolist()), labels=of.labels, crowd=of.crowd)

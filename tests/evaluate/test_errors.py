import hotcoco
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskwise.evaluate.coco import Settings, coco
from maskwise.evaluate.errors import KINDS, errors
from maskwise.evaluate.files import compare

THEIR_NAMES = {
    "Cls": "classification",
    "Loc": "localisation",
    "Both": "both",
    "Dupe": "duplicate",
    "Bkg": "background",
    "Miss": "missed",
    "FP": "false_positive",
    "FN": "false_negative",
}


def tide_of_hotcoco(truth, results, iou):
    data = hotcoco.COCO(truth)
    evaluator = hotcoco.COCOeval(data, data.load_res(results), iou)
    evaluator.evaluate()
    evaluator.accumulate()
    found = evaluator.tide_errors()
    gains = {THEIR_NAMES[name]: value for name, value in found["delta_ap"].items()}
    return {"AP": found["ap_base"]} | gains | {f"n_{THEIR_NAMES[name]}": n for name, n in found["counts"].items()}


@pytest.mark.long
@pytest.mark.parametrize("iou", ["bbox", "segm"])
@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 2**32 - 1))
def test_equals_hotcoco_where_there_are_no_crowds(iou, seed, data_set):
    """With crowds it does not: hotcoco sees localisation errors against them, TIDE and we do not."""
    truth, results = data_set(seed, crowd=0, ties=False)
    if results and truth["annotations"]:
        ours = errors(compare(truth, results, iou), iou).numbers
        theirs = tide_of_hotcoco(truth, results, iou)
        assert set(ours) == set(theirs)
        for name, value in theirs.items():
            if name not in ("missed", "false_negative") or found_in_every_class(truth, results, iou):
                assert ours[name] == pytest.approx(value, abs=1e-9), name


def found_in_every_class(truth, results, iou):
    """Where nothing of a class is found, TIDE has no number for what is missed."""
    rows = coco(compare(truth, results, iou), iou).classes
    return all(row.numbers["F1"] > 0 for row in rows if row.ground_truths)


def bar(rle, start, end):
    places = np.arange(100)
    return rle(((places >= start) & (places < end))[None])


def scene(rle, found, truth=((0, 20, 1), (40, 60, 2)), crowd=()):
    """A picture of one row: (start, end, class) of objects, and of detections with falling scores."""
    objects = [(*o, 0) for o in truth] + [(*o, 1) for o in crowd]
    data = {
        "images": [{"id": 1, "height": 1, "width": 100}],
        "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}],
        "annotations": [
            {"id": i, "image_id": 1, "category_id": c, "segmentation": bar(rle, a, b), "iscrowd": crowded}
            for i, (a, b, c, crowded) in enumerate(objects, 1)
        ],
    }
    results = [
        {"image_id": 1, "category_id": c, "segmentation": bar(rle, a, b), "score": 0.9 - 0.1 * i}
        for i, (a, b, c) in enumerate(found)
    ]
    return compare(data, results)


ONE_OF_EACH = {
    "right": ((0, 20, 1), None),
    "localisation": ((12, 32, 1), "localisation"),
    "classification": ((0, 20, 2), "classification"),
    "both": ((12, 32, 2), "both"),
    "background": ((80, 90, 1), "background"),
}


@pytest.mark.parametrize(("found", "kind"), ONE_OF_EACH.values(), ids=ONE_OF_EACH)
def test_one_of_each_kind(rle, found, kind):
    numbers = errors(scene(rle, [found])).numbers
    assert {k: numbers[f"n_{k}"] for k in KINDS} == {k: int(k == kind) for k in KINDS}
    aimed = kind in (None, "localisation", "classification")
    assert numbers["n_missed"] == (1 if aimed else 2)


def test_a_duplicate(rle):
    numbers = errors(scene(rle, [(0, 20, 1), (1, 20, 1)])).numbers
    assert numbers["n_duplicate"] == 1
    assert sum(numbers[f"n_{kind}"] for kind in KINDS) == 1


def test_what_a_repair_gains_by_hand(rle):
    """Class a: background first, then right: AP 1/2. Class b: of the wrong class and so not found: AP 0."""
    numbers = errors(scene(rle, [(80, 90, 1), (0, 20, 1), (41, 60, 1)])).numbers
    assert numbers["AP"] == pytest.approx(0.25)
    assert numbers["background"] == pytest.approx(0.25)
    assert numbers["classification"] == pytest.approx(0.5)
    assert numbers["missed"] == 0
    assert numbers["false_positive"] == pytest.approx(0.25)


B = (40, 60, 2)


@pytest.mark.parametrize(
    ("wrong", "missed", "gained"),
    [
        ([], [B], 1),
        ([], [B, (70, 80, 2)], 1),
        ([(85, 95, 2)], [B], 1 / 2),  # the object comes after what is on nothing
        ([(85, 95, 2)], [B, (62, 70, 2), (72, 80, 2)], 3 / 4),
        ([(52, 72, 2)], [B, (0, 10, 2)], 51 / 101 / 2),  # aimed at the first: recall ends at 1/2
    ],
)
def test_a_class_that_is_wholly_missed_has_much_to_gain(rle, wrong, missed, gained):
    """Class a is perfect, b has AP 0."""
    numbers = errors(scene(rle, [(20, 30, 1), *wrong], truth=[(20, 30, 1), *missed])).numbers
    assert (numbers["AP"], numbers["missed"]) == (pytest.approx(1 / 2), pytest.approx(gained / 2))


def test_nothing_found_at_all(rle):
    numbers = errors(scene(rle, [])).numbers
    assert (numbers["AP"], numbers["n_missed"]) == (0, 2)
    assert numbers["missed"] == numbers["false_negative"] == pytest.approx(1)
    assert all(numbers[kind] == numbers[f"n_{kind}"] == 0 for kind in KINDS)


def test_where_something_is_found_the_rest_is_missed_as_tide_says(rle):
    """Right, then wrong; two more are missed: 34 of 101 levels at precision 1 become all."""
    numbers = errors(scene(rle, [(0, 20, 1), (80, 90, 1)], truth=[(0, 20, 1), (25, 35, 1), (40, 60, 1)])).numbers
    assert numbers["AP"] == pytest.approx(34 / 101)
    assert numbers["missed"] == numbers["false_negative"] == pytest.approx(67 / 101)


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 2**32 - 1), ties=st.booleans())
def test_there_is_something_to_gain_where_something_is_missed_and_only_there(seed, ties, data_set):
    """And it is never more than from all that is not found."""
    numbers = errors(compare(*data_set(seed, images=2, ties=ties))).numbers
    if not np.isnan(numbers["AP"]):
        assert (numbers["missed"] > 1e-9) == (numbers["n_missed"] > 0)
        assert -1e-9 < numbers["missed"] <= numbers["false_negative"] + 1e-9


def test_other_limits(rle):
    """Of two objects found, one counts."""
    found = scene(rle, [(0, 20, 1), (40, 60, 1)], truth=[(0, 20, 1), (40, 60, 1)])
    assert errors(found).numbers["n_missed"] == 0
    report = errors(found, max_dets=1)
    assert (report.numbers["n_missed"], report.max_dets) == (1, (1,))


def test_two_that_aim_at_one_object_repair_it_once(rle):
    """The better one gets it; the other is gone: AP 1 for class a."""
    numbers = errors(scene(rle, [(12, 32, 1), (10, 32, 1)], truth=[(0, 20, 1)])).numbers
    assert numbers["n_localisation"] == 2
    assert (numbers["AP"], numbers["localisation"]) == (0, pytest.approx(1))


def test_what_lies_in_a_crowd_is_no_error(rle):
    numbers = errors(scene(rle, [(70, 80, 1), (90, 100, 2)], crowd=[(60, 100, 1)])).numbers
    assert numbers["n_background"] == 1
    assert sum(numbers[f"n_{kind}"] for kind in KINDS) == 1


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 2**32 - 1), foreground=st.sampled_from([0.5, 0.75]))
def test_ap_is_that_of_coco_and_kinds_add_up(seed, foreground, data_set):
    truth, results = data_set(seed)
    comparison = compare(truth, results)
    report = errors(comparison, foreground=foreground)
    expected = coco(comparison, "segm", Settings(thresholds=(foreground,))).numbers["AP"]
    assert report.numbers["AP"] == pytest.approx(expected, nan_ok=True)
    for kind in (*KINDS, "missed"):
        assert sum(row.numbers[kind] for row in report.classes) == report.numbers[f"n_{kind}"]


def test_no_images():
    report = errors(compare({"images": [], "annotations": [], "categories": []}, []))
    assert np.isnan(report.numbers["AP"])

import contextlib
import copy
import io
import json
import logging

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO

from maskwise import rle
from maskwise.evaluate.files import compare, load_comparison
from maskwise.evaluate.segmentation import first_malformed, to_rle

SIZE = (30, 40)
SQUARE = {
    "id": 1,
    "image_id": 9,
    "category_id": 2,
    "segmentation": [[2.0, 3.0, 12.5, 3.0, 12.5, 20.25, 2.0, 20.25]],
    "area": 180.5,
    "bbox": [2, 3, 10.5, 17.25],
}
CROWD = {
    "id": 8,
    "image_id": 9,
    "category_id": 5,
    "segmentation": {"size": [30, 40], "counts": [5, 9, 1186]},
    "iscrowd": 1,
}
BAR = to_rle({"size": [30, 40], "counts": [31, 9, 1160]}, SIZE)


def data():
    return {
        "images": [{"id": 9, "height": 30, "width": 40}, {"id": 4, "height": 30, "width": 40}],
        "categories": [{"id": 5, "name": "b"}, {"id": 2, "name": "a"}],
        "annotations": copy.deepcopy([SQUARE, CROWD]),
    }


def good(**changes):
    entry = {"image_id": 9, "category_id": 2, "segmentation": BAR, "score": 0.5} | changes
    return {name: value for name, value in entry.items() if value != "absent"}


def test_reads_files(tmp_path):
    (tmp_path / "gt.json").write_text(json.dumps(data()))
    (tmp_path / "results.json").write_text(json.dumps([good(class_score=0.9, quality=0.8), good(score=1)]))
    found = load_comparison(tmp_path / "gt.json", tmp_path / "results.json", "segm")
    assert [pair.image for pair in found.pairs] == [4, 9]
    assert found.categories.ids == (2, 5)
    assert found.data == "gt.json"
    empty, full = found.pairs
    assert len(empty.truth) == len(empty.found) == 0
    assert full.truth.labels.tolist() == [0, 1]
    assert full.truth.crowd.tolist() == [False, True]
    assert full.truth.areas.tolist() == [180.5, 9]
    assert full.truth.boxes.tolist() == [[2, 3, 12.5, 20.25], [0, 5, 1, 14]]
    assert full.found.scores.tolist() == [0.9, 1]
    assert full.found.mask_scores.tolist() == [0.5, 1]
    assert full.found.quality.tolist() == [0.8, 1]
    assert full.found.boxes.tolist() == [[1, 1, 2, 10]] * 2


@settings(deadline=None, max_examples=60)
@given(
    st.lists(
        st.lists(st.floats(-10, 60), min_size=6, max_size=14).map(lambda p: p[: len(p) // 2 * 2]),
        min_size=1,
        max_size=3,
    )
)
def test_polygons_are_drawn_as_pycocotools_draws_them(polygons):
    truth = data()
    truth["annotations"][0]["segmentation"] = polygons
    with contextlib.redirect_stdout(io.StringIO()):
        oracle = COCO()
        oracle.dataset = copy.deepcopy(truth)
        oracle.createIndex()
    pair = compare(truth, []).pairs[1]
    assert pair.truth.masks is not None
    expected = [oracle.annToRLE(oracle.anns[id_])["counts"].decode() for id_ in pair.truth.ids]
    assert [mask["counts"] for mask in pair.truth.masks] == expected


def test_boxes_alone_and_masks_alone():
    box = good(segmentation="absent", bbox=[1, 2, 3, 4])
    found = compare(data(), [box, good()], "bbox").pairs[1].found
    assert found.boxes.tolist() == [[1, 2, 4, 6], [1, 1, 2, 10]]
    assert found.masks is None
    with pytest.raises(ValueError, match=r"results\[0\]: no 'segmentation'"):
        compare(data(), [box], "segm")


def as_tables_write(rows):
    """7 is 7.0."""
    return [{name: float(v) if type(v) is int else v for name, v in row.items()} for row in rows]


def test_ids_with_a_point_are_those_without():
    truth = {table: as_tables_write(rows) for table, rows in data().items()}
    pairs = compare(truth, as_tables_write([good()])).pairs
    assert str(pairs) == str(compare(data(), [good()]).pairs)
    assert {type(pair.image) for pair in pairs} == {int}
    assert [len(pair.found) for pair in pairs] == [0, 1]


def test_keypoints():
    truth = data()
    truth["categories"][1]["keypoints"] = ["head", "foot"]
    truth["annotations"][0]["keypoints"] = [1, 2, 2, 3, 4, 1]
    points = compare(truth, [good(keypoints=[5, 6, 1, 2, 9, 1])], "keypoints").pairs[1]
    assert points.truth.keypoints is not None
    assert points.truth.keypoints[:, :, 2].tolist() == [[2, 1], [0, 0]]
    assert points.found.boxes.tolist() == [[2, 6, 5, 9]]
    with pytest.raises(ValueError, match=r"results\[0\]: 'keypoints' must be 6 numbers \(x, y, v\), got 3"):
        compare(truth, [good(keypoints=[5, 6, 1])], "keypoints")
    with pytest.raises(ValueError, match=r"results\[0\]: no 'keypoints'"):
        compare(truth, [good()], "keypoints")


def code(counts, size=SIZE):
    return {"segmentation": {"size": list(size), "counts": counts}}


RUNS = "'counts' must be text or a list of run lengths"
MALFORMED = r"malformed run-length code for a mask of \[30, 40\]"
BAD_RESULTS = {
    "unknown image": ({"image_id": 999}, "unknown image_id 999"),
    "image as text": ({"image_id": "9"}, "unknown image_id '9'"),
    "unhashable image": ({"image_id": {}}, "unknown image_id {}"),
    "unknown category": ({"category_id": 1}, "unknown category_id 1"),
    "no image": ({"image_id": "absent"}, "no 'image_id'"),
    "no category": ({"category_id": None}, "no 'category_id'"),
    "no score": ({"score": "absent"}, "no 'score'"),
    "infinite score": ({"score": float("nan")}, "'score' must be a finite number, got nan"),
    "endless score": ({"score": 10**400}, "'score' must be a finite number"),
    "score as text": ({"score": "0.5"}, "'score' must be a finite number, got '0.5'"),
    "true is no score": ({"score": True}, "'score' must be a finite number"),
    "infinite class score": ({"class_score": float("inf")}, "'class_score' must be a finite number"),
    "no mask": ({"segmentation": []}, "no 'segmentation'"),
    "wrong size": (code("0", (40, 30)), r"mask of size \[40, 30\] in an image of \[30, 40\]"),
    "no size": ({"segmentation": {"counts": "0"}}, "mask of size None"),
    "size is a number": ({"segmentation": {"counts": "0", "size": 3}}, "mask of size 3"),
    "no counts": ({"segmentation": {"size": [30, 40]}}, RUNS),
    "short runs": (code([3, 4]), "runs of 7 pixels for a mask of 30 x 40 = 1200"),
    "negative runs": (code([-1, 1201]), RUNS),
    "short code": (code("o0:"), MALFORMED),
    "cut code": (code(BAR["counts"][:-1]), MALFORMED),
    "empty code": (code(""), MALFORMED),
    "strange letters": (code("é~"), MALFORMED),
    "endless number": (code("o" * 50 + "0"), MALFORMED),
    "two corners": ({"segmentation": [[1, 2, 3, 4]]}, "part 0 of 'segmentation' must be three corners or more, got 4"),
    "far corner": ({"segmentation": [[1, 2, 3, 4, 5, float("inf")]]}, "must be a list of finite numbers"),
    "not a mask": ({"segmentation": "mask"}, "'segmentation' must be polygons or a run-length code, got str"),
    "box of three": ({"bbox": [1, 2, 3]}, "'bbox' must be x, y, width, height"),
    "negative width": ({"bbox": [1, 2, -3, 3]}, "no negative extent"),
}


@pytest.mark.parametrize(("changes", "message"), BAD_RESULTS.values(), ids=BAD_RESULTS)
def test_a_bad_result_is_named_by_its_index(changes, message):
    with pytest.raises(ValueError, match=r"^results\[1\]: .*" + message):
        compare(data(), [good(), good(**changes), good()])


def test_other_entries_are_named_too():
    truth = data()
    truth["annotations"][1]["image_id"] = 3
    with pytest.raises(ValueError, match=r"annotations\[1\] \(id 8\): unknown image_id 3"):
        compare(truth, [])
    with pytest.raises(ValueError, match=r"images\[0\]: no 'id'"):
        compare(data() | {"images": [{}]}, [])
    with pytest.raises(ValueError, match=r"images\[1\] \(id 4\): 'id' must be .* that no other image has"):
        compare(data() | {"images": [{"id": 4, "height": 1, "width": 1}] * 2}, [])
    with pytest.raises(ValueError, match=r"images\[0\] \(id 4\): 'height' must be 1 or more pixels, got 0"):
        compare(data() | {"images": [{"id": 4, "height": 0, "width": 1}]}, [])
    with pytest.raises(ValueError, match=r"annotations\[0\] \(id 1\): .* exceed u32"):
        compare(data() | {"images": [{"id": i, "height": 10**9, "width": 10**9} for i in (4, 9)]}, [])
    with pytest.raises(ValueError, match=r"results\[0\]: expected an object, got int"):
        compare(data(), [3])
    with pytest.raises(ValueError, match="expected a list 'images', got NoneType"):
        compare({"annotations": [], "categories": []}, [])


def test_an_area_below_0_is_an_error():
    truth = data()
    truth["annotations"][0]["area"] = -1
    with pytest.raises(ValueError, match=r"annotations\[0\] \(id 1\): 'area' must be 0 or more, got -1"):
        compare(truth, [])
    truth["annotations"][0]["area"] = 0
    assert compare(truth, []).pairs[1].truth.areas.tolist() == [0, 9]


@pytest.mark.parametrize("iou", ["bbox", "segm", "boundary", "keypoints"])
def test_where_no_area_is_stated_it_is_that_of_the_mask_whatever_is_compared(iou):
    truth = data()
    truth["categories"][1]["keypoints"] = ["head"]
    truth["annotations"] = [SQUARE | {"area": None}, CROWD | {"bbox": [0, 0, 9, 9]}]
    assert compare(truth, [], iou).pairs[1].truth.areas.tolist() == [187, 9]


def test_where_there_is_no_mask_either_it_is_that_of_the_box():
    truth = data()
    truth["annotations"] = [SQUARE | {"area": None, "segmentation": []}, SQUARE | {"id": 2, "segmentation": None}]
    assert compare(truth, [], "bbox").pairs[1].truth.areas.tolist() == [10.5 * 17.25, 180.5]


@pytest.mark.parametrize(("stated", "is_crowd"), [(0, False), (1, True), (None, False), (False, False), (1.0, True)])
def test_a_crowd_is_what_the_file_says_is_one(stated, is_crowd):
    truth = data()
    truth["annotations"][0]["iscrowd"] = stated
    assert compare(truth, []).pairs[1].truth.crowd.tolist() == [is_crowd, True]


@pytest.mark.parametrize("stated", ["0", "1", "false", 2, -1, [0], float("nan")])
def test_what_is_neither_a_crowd_nor_none_is_an_error(stated):
    truth = data()
    truth["annotations"][0]["iscrowd"] = stated
    with pytest.raises(ValueError, match=r"annotations\[0\] \(id 1\): 'iscrowd' must be 0 or 1, got"):
        compare(truth, [])


def test_two_categories_of_one_name_are_told_apart_as_where_they_are_learned_from():
    """Roboflow names a group of classes as a class, and no annotation has the group."""
    truth = data()
    truth["categories"].append({"id": 0, "name": "a"})
    found = compare(truth, [good()])
    assert (found.categories.names, found.categories.ids) == (("a", "b"), (2, 5))
    assert found.pairs[1].truth.labels.tolist() == [0, 1]
    with_both = compare(truth, [good(category_id=0)])
    assert (with_both.categories.names, with_both.categories.ids) == (("a", "a (2)", "b"), (0, 2, 5))
    truth["categories"].append({"id": 0, "name": "c"})
    with pytest.raises(ValueError, match="ground truth: two categories have the same 'id'"):
        compare(truth, [])


@pytest.mark.parametrize("text", [b"", b"[", b"\xff\xfe", b"[" * 100_000])
def test_files_that_are_no_json(tmp_path, text):
    (tmp_path / "gt.json").write_bytes(text)
    with pytest.raises(ValueError, match=r"gt\.json: not JSON"):
        load_comparison(tmp_path / "gt.json", tmp_path / "gt.json")
    with pytest.raises(ValueError, match=r"absent\.json: cannot be read: No such file"):
        load_comparison(tmp_path / "absent.json", tmp_path / "gt.json")


def test_files_of_another_kind(tmp_path):
    (tmp_path / "gt.json").write_text(json.dumps(data()))
    (tmp_path / "results.json").write_text("[]")
    with pytest.raises(ValueError, match=r"results\.json: expected a COCO data set \(an object\), got list"):
        load_comparison(tmp_path / "results.json", tmp_path / "results.json")
    with pytest.raises(
        ValueError, match=r"gt\.json: expected COCO results \(a list\), or a data set .* 2 of 2 have none"
    ):
        load_comparison(tmp_path / "gt.json", tmp_path / "gt.json")


def test_nothing_at_all():
    found = compare({"images": [], "annotations": [], "categories": []}, [])
    assert found.pairs == ()


@settings(deadline=None, max_examples=100)
@given(runs=st.lists(st.integers(0, 400), min_size=1, max_size=12), more=st.integers(1, 50))
def test_codes_that_do_not_fill_the_picture(runs, more):
    size = (1, sum(runs))
    whole = to_rle({"size": list(size), "counts": runs}, size)
    assert first_malformed([whole, whole]) is None
    assert first_malformed([whole, {"size": [1, sum(runs) + more], "counts": whole["counts"]}]) == 1
    assert first_malformed([whole, {"size": [more, sum(runs) + 1], "counts": whole["counts"]}, whole]) == 1


@settings(deadline=None, max_examples=300)
@given(st.text(st.sampled_from([chr(48 + v) for v in range(64)]), min_size=1, max_size=7))
def test_random_letters_pass_as_they_would_one_by_one(letters):
    """The many-at-once check against the reader of single codes."""
    try:
        runs = rle.from_string(letters)
        pixels = int(runs.sum()) if (runs >= 0).all() else None
    except ValueError:
        pixels = None
    size = [1, pixels or 1]
    assert (first_malformed([BAR, {"size": size, "counts": letters}, BAR]) is None) == (pixels == size[1])


# Predictions in the form of a data set


def predicted(*names, classes=((1, "a"), (2, "b"))):
    """As `predict --save coco` writes it: with ids of its own."""
    images = [{"id": i, "file_name": name, "height": 30, "width": 40} for i, name in enumerate(names, 1)]
    rows = [
        {"id": i, "image_id": i, "category_id": 1, "segmentation": BAR, "area": 9, "bbox": [0, 5, 1, 9], "iscrowd": 0}
        | {"score": 0.5, "class_score": 0.9, "quality": 0.8}
        for i in range(1, len(names) + 1)
    ]
    return {"images": images, "annotations": rows, "categories": [{"id": i, "name": n} for i, n in classes]}


def loaded(tmp_path, written, names=("val/one.png", "two.png")):
    truth = data()
    for image, name in zip(truth["images"], names, strict=True):
        image["file_name"] = name
    (tmp_path / "gt.json").write_text(json.dumps(truth))
    (tmp_path / "found.json").write_text(json.dumps(written))
    return load_comparison(tmp_path / "gt.json", tmp_path / "found.json")


def test_a_data_set_with_scores_may_have_ids_with_a_point(tmp_path):
    written = predicted("one.png", "two.png")
    pairs = loaded(tmp_path, {table: as_tables_write(rows) for table, rows in written.items()}).pairs
    assert str(pairs) == str(loaded(tmp_path, written).pairs)


@pytest.mark.parametrize("names", [("val/one.png", "two.png"), ("one.png", "photos/two.png")])
def test_a_data_set_with_scores_is_results_by_the_names_of_pictures_and_classes(tmp_path, names):
    found = {pair.image: pair.found for pair in loaded(tmp_path, predicted(*names)).pairs}
    assert [len(found[image]) for image in (9, 4)] == [1, 1]
    assert found[9].labels.tolist() == [0]  # 'a', which the truth has under the id 2 and the prediction under 1
    assert (found[9].scores.tolist(), found[9].quality.tolist(), found[9].mask_scores.tolist()) == ([0.9], [0.8], [0.5])


def test_of_two_classes_of_one_name_the_one_that_annotations_have_is_meant(tmp_path):
    truth = data()
    truth["categories"] = [{"id": 2, "name": "a"}, {"id": 5, "name": "b"}, {"id": 0, "name": "a"}]
    truth["images"][0]["file_name"] = "one.png"
    (tmp_path / "gt.json").write_text(json.dumps(truth))
    (tmp_path / "found.json").write_text(json.dumps(predicted("one.png")))
    found = load_comparison(tmp_path / "gt.json", tmp_path / "found.json")
    assert found.categories.ids == (2, 5)
    assert found.pairs[1].found.labels.tolist() == [0]


@pytest.mark.parametrize("names", [("cell", "cell"), ("cell", "cell (5)")], ids=["as they were", "as they are learned"])
@pytest.mark.parametrize("used", [(2, 5), (5,)], ids=str)
def test_two_classes_of_one_name_are_found_again_under_their_ids(names, used, tmp_path):
    truth = data()
    truth["categories"] = [{"id": 2, "name": "cell"}, {"id": 5, "name": "cell"}]
    truth["images"][0]["file_name"] = "one.png"
    truth["annotations"] = [SQUARE | {"id": i, "category_id": i} for i in used]
    written = predicted("one.png", classes=zip((2, 5), names, strict=True))
    written["annotations"] = [written["annotations"][0] | {"id": i, "category_id": i} for i in (2, 5)]
    (tmp_path / "gt.json").write_text(json.dumps(truth))
    (tmp_path / "found.json").write_text(json.dumps(written))
    comparison = load_comparison(tmp_path / "gt.json", tmp_path / "found.json")
    (found,) = (pair.found.labels.tolist() for pair in comparison.pairs if len(pair.found.labels))
    assert [comparison.categories.ids[label] for label in found] == [2, 5]


def test_one_class_is_one_class_whatever_they_are_called(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    truth = data() | {"annotations": [SQUARE | {"id": 1, "category_id": 5}]}
    truth["categories"] = [{"id": 5, "name": "nucleus"}]
    truth["images"][0]["file_name"] = "one.png"
    (tmp_path / "gt.json").write_text(json.dumps(truth))
    (tmp_path / "found.json").write_text(json.dumps(predicted("one.png", classes=[(1, "object")])))
    comparison = load_comparison(tmp_path / "gt.json", tmp_path / "found.json")
    assert comparison.categories.names == ("nucleus",)
    assert [label for pair in comparison.pairs for label in pair.found.labels.tolist()] == [0]
    assert "its one class, object, is taken for the one of the truth, nucleus" in caplog.text


@pytest.mark.parametrize(
    ("written", "complaint"),
    [
        (predicted("three.png"), "no picture of the truth can be meant by 'three.png'"),
        (predicted("one.png", "val/one.png"), "two of its pictures have the name of one"),
        (predicted("one.png", classes=[(1, "cat")]), "the truth has no class cat; it has b, a"),
        (predicted("one.png", classes=[(7, "a")]), "category_id 1, which the file itself does not list"),
        (
            predicted("one.png") | {"annotations": [{"image_id": 1, "category_id": [1], "score": 1}]},
            r"category_id \[1\]",
        ),
        (predicted("one.png") | {"annotations": [3]}, r"found.json: annotations\[0\]: expected an object, got int"),
    ],
)
def test_what_cannot_be_matched_is_an_error_that_says_why(tmp_path, written, complaint):
    with pytest.raises(ValueError, match=complaint):
        loaded(tmp_path, written)


def test_a_name_that_may_be_two_pictures_is_refused(tmp_path):
    with pytest.raises(ValueError, match="2 pictures of the truth can be meant"):
        loaded(tmp_path, predicted("one.png"), names=("a/one.png", "b/one.png"))

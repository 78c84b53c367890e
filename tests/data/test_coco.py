import json
import pickle
import tempfile
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as reference

from maskwise.categories import Categories
from maskwise.data.dataset import Item
from maskwise.data.formats import coco
from maskwise.data.formats.coco_results import read_results, write_results
from maskwise.data.open import open_data
from maskwise.masks import Masks
from maskwise.structures import Instances, Targets

CATEGORIES = Categories(names=("cat", "große Kuh", "dog"), ids=(90, 3, 0))
SIZE = (20, 30)
SQUARE = [[4, 4, 10, 4, 10, 12, 4, 12]]
BOX = [4, 4, 6, 8]


def entry(id_, segmentation=SQUARE, **rest):
    return {"id": id_, "image_id": 1, "category_id": 1, "segmentation": segmentation} | rest


def content(annotations, images=None, categories=None):
    default = [{"id": 1, "file_name": "a.png", "height": SIZE[0], "width": SIZE[1]}]
    return {
        "images": default if images is None else images,
        "annotations": annotations,
        "categories": categories or [{"id": 1, "name": "cell"}],
    }


@pytest.fixture
def dataset(tmp_path):
    def write(annotations, images=None, categories=None, path="train.json"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(json.dumps(content(annotations, images, categories)))
        return coco.read(tmp_path)

    return write


def found(data):
    """Rules with the places they are about, of the index and of all pictures."""
    problems = [*data.problems, *(p for record in data for p in record.labelled().problems)]
    assert all(p.file == "train.json" for p in problems)
    return sorted((p.where, p.rule, p.severity) for p in problems)


def rle(bits):
    code = reference.encode(np.asfortranarray(bits.astype(np.uint8)))
    return {"size": code["size"], "counts": code["counts"].decode()}


def drawn(*polygons):
    code = reference.merge(reference.frPyObjects(list(polygons), *SIZE))
    return {"size": code["size"], "counts": code["counts"].decode()}


# --- masks


def test_every_way_to_write_a_mask(dataset):
    bits = np.zeros(SIZE, bool)
    bits[4:12, 4:10] = True
    runs = {"size": list(SIZE), "counts": [84, *[8, 12] * 5, 8, 408]}
    data = dataset(
        [entry(7), entry(5, rle(bits), iscrowd=1), entry(9, runs), entry(2, [*SQUARE, [20, 1, 25, 1, 25, 5]])]
    )
    read = data[0].labelled()
    assert read.ids == (7, 5, 9, 2)
    assert read.problems == ()
    assert read.targets.crowd.tolist() == [False, True, False, False]
    masks = read.targets.masks.rle()
    assert masks == [rle(bits), rle(bits), rle(bits), drawn(*SQUARE, [20, 1, 25, 1, 25, 5])]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.floats(-25, 55), st.floats(-15, 35)), min_size=3, max_size=9))
def test_polygons_are_drawn_as_by_pycocotools(corners):
    points = [float(v) for corner in corners for v in corner]
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "train.json").write_text(json.dumps(content([entry(1, [points])])))
        read = coco.read(Path(folder))[0].labelled()
    expected = drawn(points)
    if len(read.targets):
        assert read.targets.masks.rle() == [expected]
    else:
        assert read.problems
        assert not reference.area(expected) or len(set(corners)) < 3


def test_areas_are_as_stated(dataset):
    areas = dataset([entry(1, area=17.5), entry(2), entry(3, area=-1)])[0].labelled().targets.areas
    assert areas.tolist() == [17.5, 48, 48]


def test_keypoints(dataset):
    person = {
        "id": 1,
        "name": "person",
        "keypoints": ["nose", "left_eye", "right_eye"],
        "skeleton": [[1, 2], [2, 3], [3, 9]],
    }
    points = [1, 2, 2, 3, 4, 1, 0, 0, 0]
    data = dataset([entry(1, keypoints=points), entry(2), entry(3, keypoints=[1, 2])], categories=[person])
    assert data.categories.keypoints == ("nose", "left_eye", "right_eye")
    assert data.categories.keypoint_flip == (0, 2, 1)
    assert data.categories.skeleton == ((0, 1), (1, 2))
    assert data[0].labelled().targets.keypoints.tolist() == [
        [[1.5, 2.5, 2], [3.5, 4.5, 1], [0, 0, 0]],  # the middle of the pixel that the file names
        [[0, 0, 0]] * 3,
        [[0, 0, 0]] * 3,
    ]
    assert found(data) == [("annotation 3", "bad-keypoints", "warning")]


def test_predictions_in_a_data_set_are_read_back(dataset):
    data = dataset([entry(1, score=0.25, class_score=0.5, quality=0.75), entry(2, score=0.5)])
    instances = data[0].labelled().instances()
    assert instances.mask_scores.tolist() == [0.5, 0.25]
    assert instances.scores.tolist() == [0.5, 0.5]
    assert instances.quality.tolist() == [1, 0.75]
    data = dataset([entry(1, score=0.25), entry(2)])
    assert (data[0].labelled().scores, found(data)) == (None, [("image a.png", "missing-scores", "warning")])


# --- what is wrong


CASES = {
    "two points": ([[1, 1, 5, 5, 1, 1, 5, 5]], "degenerate-polygon"),
    "odd": ([[1, 1, 5, 5, 1]], "degenerate-polygon"),
    "empty part": ([[]], "degenerate-polygon"),
    "nan": ([[1, 1, float("nan"), 5, 9, 9]], "bad-number"),
    "infinity": ([[1, 1, float("inf"), 5, 9, 9]], "bad-number"),
    "text": ([["1", 1, 4, 5, 9, 9]], "bad-number"),
    "truth value": ([[True, 1, 4, 5, 9, 9]], "bad-number"),
    "longer than a float": ([[10**400, 1, 4, 5, 9, 9]], "bad-number"),
    "damage": ([[1e300, 1, 4, 5, 9, 9]], "bad-number"),
    "flat": ([1, 1, 5, 1, 5, 5], "bad-mask"),
    "a number": (5, "bad-mask"),
    "nothing": (None, "no-mask"),
    "no parts": ([], "no-mask"),
    "outside": ([[100, 100, 120, 100, 120, 120]], "outside-image"),
    "around a corner": ([[-90, 5, 5, -90, -90, -90]], "outside-image"),
    "letters": ({"size": list(SIZE), "counts": "é~"}, "bad-rle"),
    "cut off": ({"size": list(SIZE), "counts": "o"}, "bad-rle"),
    "too short": ({"size": list(SIZE), "counts": [5, 5]}, "bad-rle"),
    "negative run": ({"size": list(SIZE), "counts": [-5, 605]}, "bad-rle"),
    "huge runs": ({"size": list(SIZE), "counts": [10**30, 5]}, "bad-rle"),
    "long letters": ({"size": list(SIZE), "counts": "o" * 500 + "0"}, "bad-rle"),
    "no counts": ({"size": list(SIZE)}, "bad-rle"),
    "swapped": ({"size": [30, 20], "counts": [600]}, "size-swapped"),
    "other size": ({"size": [2, 3], "counts": [6]}, "size-differs"),
    "no size": ({"counts": [600]}, "size-differs"),
    "no pixel": ({"size": list(SIZE), "counts": [600]}, "empty-mask"),
}


@pytest.mark.parametrize("name", CASES)
def test_a_bad_mask_is_left_out_and_listed(dataset, name):
    segmentation, rule = CASES[name]
    data = dataset([entry(5), entry(17, segmentation)])
    assert found(data) == [("annotation 17", rule, "error")]
    assert data[0].labelled().ids == (5,)


def test_a_bad_part_costs_only_itself(dataset):
    data = dataset([entry(1, [*SQUARE, [1, 1, 2, 2]])])
    assert found(data) == [("annotation 1", "degenerate-polygon", "error")]
    assert data[0].labelled().targets.masks.area().tolist() == [48]


def test_a_size_far_beyond_the_picture_costs_no_memory(dataset, tmp_path, picture):
    picture(tmp_path / "a.png", (8, 8))
    side = 5000
    runs = {"size": [side, side], "counts": [0, side * side]}
    images = [{"id": 1, "file_name": "a.png", "height": side, "width": side}]
    (record,) = dataset([entry(i, runs) for i in range(1, 17)], images)
    tracemalloc.start()
    labelled = record.labelled()
    assert tracemalloc.get_traced_memory()[1] < 10_000_000
    tracemalloc.stop()
    assert len(labelled.targets) == 0
    assert [(p.where, p.rule) for p in labelled.problems] == [("image a.png", "size-differs")]
    (tmp_path / "a.png").unlink()
    (record,) = dataset([entry(i, runs) for i in range(1, 4)], images)
    assert len(record.labelled().targets) == 3


def test_what_reaches_out_of_the_picture_is_cut_off_in_no_time(dataset):
    start = time.process_time()
    data = dataset([entry(1, [[4, 4, 1e9, 4, 1e9, 1e9, 4, 1e9]]), entry(2, [[20, 4, 36, 4, 36, 9, 20, 9]])])
    assert data[0].labelled().targets.masks.area().tolist() == [26 * 16, 10 * 5]
    assert found(data) == [(f"annotation {i}", "outside-image", "warning") for i in (1, 2)]
    assert time.process_time() - start < 5


@pytest.mark.parametrize(
    ("field", "value", "rule"),
    [
        ("bbox", [0, 0, 30, 20], "box-differs"),
        ("bbox", [0, 0, -3, 4], "bad-number"),
        ("bbox", [0, 0, 3], "bad-number"),
        ("bbox", "x", "bad-number"),
        ("area", float("nan"), "bad-number"),
        ("area", 1e300, "bad-number"),
        ("area", "x", "bad-number"),
        ("iscrowd", 7, "bad-number"),
        ("iscrowd", [1], "bad-number"),
        ("score", "x", "bad-number"),
    ],
)
def test_odd_fields_beside_a_good_mask_are_warnings(dataset, field, value, rule):
    data = dataset([entry(1, **{field: value})])
    assert found(data) == [("annotation 1", rule, "warning")]
    assert data[0].labelled().targets.boxes.tolist() == [[4, 4, 10, 12]]
    assert found(dataset([entry(1, bbox=BOX, area=48, iscrowd=0)])) == []


def test_annotations_of_nothing_known_are_listed(dataset):
    annotations = [
        entry(1),
        entry(1),
        entry(2, category_id=9),
        entry(3, category_id="1"),
        entry(4, image_id=9),
        entry(5, image_id=[1]),
    ]
    data = dataset([*annotations, "x"])
    assert found(data) == [
        ("annotation 1", "duplicate-id", "error"),
        ("annotation 2", "unknown-category", "error"),
        ("annotation 3", "unknown-category", "error"),
        ("annotation 4", "unknown-image", "error"),
        ("annotation 5", "unknown-image", "error"),
        ("annotations[6]", "bad-entry", "error"),
    ]
    assert data[0].labelled().ids == (1, 1)


@pytest.mark.parametrize("field", ["segmentation", "bbox", "keypoints"])
def test_lists_that_are_nested_too_deep_cost_only_their_annotation(dataset, field):
    deep: list = []
    for _ in range(600):
        deep = [deep]
    data = dataset([entry(1), entry(2, **{field: deep})])
    assert found(data) == [("annotation 2", "bad-entry", "error")]
    assert data[0].labelled().ids == (1,)


def test_annotations_without_id_are_named_by_their_place(dataset):
    data = dataset([{k: v for k, v in entry(1).items() if k != "id"}] * 2)
    assert found(data) == [("", "missing-id", "warning")]
    assert data[0].labelled().ids == ("#0", "#1")


def test_many_crowds_are_said_aloud(dataset):
    assert found(dataset([entry(i, iscrowd=int(i < 3)) for i in range(10)])) == [("", "crowd-share", "warning")]
    assert found(dataset([entry(i, iscrowd=int(i < 2)) for i in range(10)])) == []


def image(id_, name, height=20, width=30):
    return {"id": id_, "file_name": name, "height": height, "width": width}


def test_images_that_contradict_each_other(dataset, tmp_path, picture):
    picture(tmp_path / "f.png", (7, 9))
    images = [
        image(1, "a.png"),
        image(1, "b.png"),
        image(2, "a.png"),
        image("x", "../../etc/passwd"),
        image(4, "C:\\data\\d.png"),
        image(5, ""),
        image(None, "e.png"),
        image(6, "f.png", height=-1),
        image(7, "sub\\g.png", height=10**9, width=10**9),
    ]
    data = dataset([entry(1, image_id=6)], images)
    assert [record.name for record in data] == ["a.png", "passwd", "d.png", "f.png", "sub/g.png"]
    assert [record.id for record in data] == [1, "x", 4, 6, 7]
    assert sorted((p.where, p.rule) for p in data.problems) == [
        ("image 1", "duplicate-image-id"),
        ("image 2", "duplicate-file"),
        ("image 4", "foreign-path"),
        ("image 5", "missing-image"),
        ("image 6", "bad-number"),
        ("image 7", "bad-number"),
        ("image x", "foreign-path"),
        ("images[6]", "bad-id"),
    ]
    assert data[3].labelled().targets.masks.size == (7, 9)


NO_FILES = (
    "",
    ".",
    "..",
    "/",
    "a/..",
    "a/.",
    "a/",
    "/..",
    "x/../..",
    "C:/..",
    "a\\..",
    "a/../",
    "a\0.png",
    "\ud800.png",
)


@pytest.mark.parametrize("name", NO_FILES)
def test_a_name_that_no_picture_can_have_costs_only_its_picture(dataset, tmp_path, picture, name):
    data = dataset([entry(1), entry(2, image_id=2)], [image(1, "a.png"), image(2, name)])
    assert [record.name for record in data] == ["a.png"]
    assert [(p.where, p.rule) for p in data.problems] == [
        ("image 2", "missing-image"),
        ("annotation 2", "unknown-image"),
    ]
    out = tmp_path / "out"
    picture(tmp_path / "a.png", SIZE)
    picture(out / "a.png", (1, 1))  # is replaced: no other split that is there has it
    (out / "val.json").write_text(json.dumps(content([], [image(2, name)])))
    coco.write(out, data.categories, [Item.of(data[0])])
    assert [record.name for record in coco.read(out, split="train")] == ["a.png"]


def test_categories_are_sorted_by_id_and_told_apart(dataset):
    categories = [
        {"id": 9, "name": "b"},
        {"id": 4, "name": "a", "supercategory": "s"},
        {"id": 4, "name": "c"},
        {"id": 0, "name": "a"},
        {"id": 5},
    ]
    data = dataset([entry(1, category_id=4), entry(2, category_id=9)], categories=categories)
    assert data.categories.ids == (4, 5, 9)
    assert data.categories.names == ("a", "category 5", "b")
    assert data.categories.supercategories == ("s", "", "")
    assert found(data) == [
        ("category 0", "duplicate-category", "warning"),
        ("category 4", "duplicate-category", "error"),
        ("category 5", "nameless-category", "error"),
    ]
    both = dataset([entry(1, category_id=4), entry(2, category_id=0)], categories=categories)
    assert both.categories.names == ("a", "a (4)", "category 5", "b")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "an object"),
        ('{"images": [], "annotations": []}', "'categories'"),
        ('{"images": 3, "annotations": [], "categories": []}', "'images'"),
        ('{"images": [], "annotations": [], "categories": [{"id": "1", "name": "a"}]}', "whole number"),
    ],
)
def test_an_index_that_cannot_be_read_is_an_error_with_its_name(tmp_path, text, reason):
    (tmp_path / "train.json").write_text(text)
    with pytest.raises(ValueError, match=reason) as error:
        coco.read(tmp_path / "train.json")
    assert "train.json" in str(error.value)


# --- where files lie


@pytest.mark.parametrize(
    ("annotations", "pictures", "names", "split"),
    [
        ("train.json", "", "a.png", "train"),
        ("train.json", "images", "images/a.png", "train"),
        ("train.json", "train", "train/a.png", "train"),
        ("annotations/instances_train2017.json", "train2017", "train2017/a.png", "train2017"),
        ("annotations/instances_train2017.json", "images/train2017", "images/train2017/a.png", "train2017"),
        ("train/_annotations.coco.json", "train", "train/a.png", "train"),
        ("train/annotations.json", "train/images", "train/images/a.png", "train"),
    ],
)
def test_layouts(tmp_path, picture, annotations, pictures, names, split):
    path = tmp_path / annotations
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content([entry(1)])))
    picture(tmp_path / pictures / "a.png", SIZE)
    assert coco.detect(tmp_path)
    data = coco.read(tmp_path, split="train")
    assert (data.split, data[0].name, data[0].path.is_file()) == (split, names, True)
    given = coco.read(path)
    assert (len(given), given[0].path.is_file()) == (1, True)


def test_the_folder_of_one_split_is_a_data_set(tmp_path, picture):
    folder = tmp_path / "train"
    picture(folder / "a.png", SIZE)
    (folder / "_annotations.coco.json").write_text(json.dumps(content([entry(1)])))
    data = open_data(folder)
    assert (data.format, data.split, data[0].name) == ("coco", "train", "a.png")


def test_other_jsons_are_no_annotations(tmp_path):
    (tmp_path / "annotations").mkdir()
    for name in ("captions_val2017", "person_keypoints_val2017", "instances_val2017"):
        (tmp_path / f"annotations/{name}.json").write_text(json.dumps(content([])))
    (tmp_path / "package.json").write_text('{"name": "x"}')
    (tmp_path / "results.json").write_text('[{"image_id": 1}]')
    (tmp_path / "shape.json").write_text('{"shapes": [], "images": 1}')
    assert coco.splits(tmp_path) == ("val2017",)


def test_records_are_small_and_travel(dataset):
    data = dataset([entry(i) for i in range(50)])
    packed = pickle.dumps(data[0])
    assert len(packed) < 50 * 200
    assert pickle.loads(packed).labelled().ids == tuple(range(50))


def test_twenty_thousand_annotations_are_indexed_quickly(dataset):
    images = [image(i, f"{i}.png") for i in range(200)]
    annotations = [entry(i, image_id=i % 200, bbox=BOX, area=48.0, iscrowd=0) for i in range(20_000)]
    start = time.process_time()
    data = dataset(annotations, images)
    assert len(data) == 200
    assert time.process_time() - start < 4, "writing included"


# --- out, and in again


def runs(targets, categories):
    masks = (mask["counts"] for mask in targets.masks.rle())
    names = (categories.name(label) for label in targets.labels.tolist())
    return list(zip(masks, names, targets.crowd.tolist(), strict=True))


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), count=st.integers(0, 5), kind=st.sampled_from(["rle", "polygon"]))
def test_round_trip(truth, seed, count, kind):
    targets = truth(seed, count, 3, overlap=seed % 2 == 0, crowd=True)
    areas = torch.arange(len(targets), dtype=torch.float32) + 0.5
    targets = Targets.from_masks(targets.masks, targets.labels, crowd=targets.crowd, areas=areas)
    ids = tuple(range(100, 100 - len(targets), -1))
    item = Item(name="ü/a.png", size=targets.masks.size, labelled=targets, id=12, ids=ids)
    with tempfile.TemporaryDirectory() as folder:
        written = coco.write(Path(folder), CATEGORIES, [item], segmentation=kind)
        data = coco.read(Path(folder))
    assert not written.losses
    assert (data[0].name, data[0].id, data[0].size) == ("ü/a.png", 12, targets.masks.size)
    assert dict(zip(data.categories.names, data.categories.ids, strict=True)) == {"cat": 90, "große Kuh": 3, "dog": 0}
    read = data[0].labelled()
    assert not read.problems
    assert runs(read.targets, data.categories) == runs(targets, CATEGORIES)
    assert (read.ids, read.targets.areas.tolist()) == (ids, areas.tolist())
    assert torch.equal(read.targets.boxes, targets.boxes)


def test_stated_boxes_stay_those_that_are_judged_by(dataset, tmp_path):
    data = dataset([entry(1, bbox=[3.5, 4.25, 6.75, 8.5]), entry(2)])
    coco.write(tmp_path / "out", data.categories, [Item.of(data[0], picture=False)])
    before, after = (one[0].labelled() for one in (data, coco.read(tmp_path / "out")))
    assert after.truth().boxes.tolist() == [[3.5, 4.25, 10.25, 12.75], [4, 4, 10, 12]]
    assert after.truth().boxes.equal(before.truth().boxes)
    assert after.targets.boxes.equal(before.targets.boxes)


def test_polygons_where_there_are_no_holes(tmp_path):
    ring = np.ones((5, 5), bool)
    ring[2, 2] = False
    two = np.zeros((5, 5), bool)
    two[0, 0] = two[3:, 3:] = True
    masks = Masks.from_dense(torch.from_numpy(np.stack([ring, two, two])))
    targets = Targets.from_masks(masks, torch.zeros(3, dtype=torch.int64), crowd=torch.tensor([False, False, True]))
    item = Item(name="a.png", size=(5, 5), labelled=targets)
    coco.write(tmp_path, CATEGORIES, [item], segmentation="polygon")
    annotations = json.loads((tmp_path / "train.json").read_text())["annotations"]
    assert [type(row["segmentation"]) for row in annotations] == [dict, list, dict]
    assert len(annotations[1]["segmentation"]) == 2
    assert [row["area"] for row in annotations] == [24, 5, 5]


def test_ids_that_cannot_stay_are_counted(tmp_path):
    masks = Masks.from_dense(torch.ones(2, 3, 3, dtype=torch.bool))
    targets = Targets.from_masks(masks, torch.tensor([0, 2]))
    items = [
        Item(name="a.png", size=(3, 3), labelled=targets, id="first", ids=(5, 5)),
        Item(name="b.png", size=(3, 3), labelled=targets, id=1, ids=(7, "x")),
    ]
    written = coco.write(tmp_path, CATEGORIES, items)
    assert written.losses == {"image ids": 1, "annotation ids": 2}
    data = coco.read(tmp_path)
    assert [record.id for record in data] == [2, 1]
    assert [record.labelled().ids for record in data] == [(5, 8), (7, 9)]


def test_masks_without_pixels_are_left_out_and_counted(tmp_path):
    masks = Masks.from_dense(torch.zeros(1, 3, 3, dtype=torch.bool))
    item = Item(name="a.png", size=(3, 3), labelled=Targets.from_masks(masks, torch.tensor([0])))
    assert coco.write(tmp_path, CATEGORIES, [item]).losses == {"instances without pixels": 1}
    assert len(coco.read(tmp_path)[0].labelled().targets) == 0


def test_two_pictures_cannot_share_a_name(tmp_path):
    item = Item(name="a.png", size=(3, 3), labelled=Targets.none((3, 3)))
    with pytest.raises(ValueError, match=r"both be written as a\.png"):
        coco.write(tmp_path, CATEGORIES, [item, item])
    assert not (tmp_path / "train.json").exists()


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("nose", "left_eye", "right_eye"), (0, 2, 1)),
        (("Left Eye", "Right Eye", "Tail"), (1, 0, 2)),
        (("l_hip", "hip-R", "r_hip"), (2, 1, 0)),
        (("collar", "toe.L", "toe.R"), (0, 2, 1)),
        (("left toe", "Left toe", "right toe"), ()),  # which of the two?
    ],
)
def test_sides_of_keypoints(dataset, names, expected):
    data = dataset([], categories=[{"id": 1, "name": "person", "keypoints": list(names)}])
    assert data.categories.keypoint_flip == expected


def test_numbers_as_tables_write_them(dataset):
    row = entry(5.0, image_id=1.0, category_id=1.0)
    picture = {"id": 1.0, "file_name": "a.png", "height": float(SIZE[0]), "width": float(SIZE[1])}
    data = dataset([row], [picture], [{"id": 1.0, "name": "cell", "supercategory": "x"}])
    assert found(data) == []
    assert (data.categories.ids, data[0].id, data[0].labelled().ids) == ((1,), 1, (5,))
    assert found(dataset([entry(1, category_id=1.5)])) == [("annotation 1", "unknown-category", "error")]


def test_no_annotation_is_called_0_which_pycocotools_takes_for_no_match(tmp_path):
    masks = Masks.from_dense(torch.ones(2, 3, 3, dtype=torch.bool))
    item = Item(name="a.png", size=(3, 3), labelled=Targets.from_masks(masks, torch.tensor([0, 0])), id=0, ids=(0, 7))
    assert coco.write(tmp_path, CATEGORIES, [item]).losses == {"annotation ids": 1}
    data = coco.read(tmp_path)
    assert (data[0].id, data[0].labelled().ids) == (0, (8, 7))


def test_keypoints_survive(tmp_path):
    categories = Categories(names=("person",), keypoints=("left", "right"), keypoint_flip=(1, 0), skeleton=((0, 1),))
    masks = Masks.from_dense(torch.ones(1, 3, 3, dtype=torch.bool))
    points = torch.tensor([[[1, 2, 2], [0, 0, 0]]], dtype=torch.float32)
    targets = Targets.from_masks(masks, torch.tensor([0]), keypoints=points)
    assert not coco.write(tmp_path, categories, [Item(name="a.png", size=(3, 3), labelled=targets)]).losses
    data = coco.read(tmp_path)
    assert data.categories == categories
    assert torch.equal(data[0].labelled().targets.keypoints, points)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), count=st.integers(0, 4))
def test_predictions_survive_as_a_data_set_and_as_results(found, seed, count):
    instances = found(seed, count, 3, overlap=True)
    item = Item(name="a.png", size=instances.masks.size, labelled=instances, id="einz")
    other = Item(name="b.png", size=(2, 2), labelled=Instances.none((2, 2)), id=7)
    sizes = {"einz": instances.masks.size, 7: (2, 2), 8: (3, 3)}
    with tempfile.TemporaryDirectory() as folder:
        coco.write(Path(folder), CATEGORIES, [item])
        data = coco.read(Path(folder))
        from_set = data[0].labelled().instances()
        results = read_results(write_results(Path(folder) / "r.json", CATEGORIES, [item, other]), CATEGORIES, sizes)
    assert [len(results[image]) for image in (7, 8)] == [0, 0]
    names = [CATEGORIES.name(label) for label in instances.labels.tolist()]
    assert [data.categories.name(label) for label in from_set.labels.tolist()] == names
    assert results["einz"].labels.tolist() == instances.labels.tolist()
    for read in (from_set, results["einz"]):
        assert read.masks.rle() == instances.masks.rle()
        for field in ("boxes", "scores", "quality", "mask_scores"):
            assert torch.equal(getattr(read, field), getattr(instances, field))


def test_keypoints_of_predictions_are_cocos_pixels_in_the_file_and_places_here(tmp_path):
    """The middle of the first pixel is 0 there and 0.5 here."""
    people = Categories(names=("person",), keypoints=("nose", "tail"))
    points = torch.tensor([[[0.5, 2.25, 0.9], [7.5, 3.5, -1.5]]])
    found = Instances(
        boxes=torch.tensor([[0.0, 0, 2, 2]]),
        labels=torch.tensor([0]),
        scores=torch.tensor([0.5]),
        quality=torch.ones(1),
        mask_scores=torch.tensor([0.5]),
        masks=Masks.from_dense(torch.ones(1, *SIZE, dtype=torch.bool)),
        keypoints=points,
    )
    item = Item(name="a.png", size=SIZE, labelled=found, id=1)
    path = write_results(tmp_path / "r.json", people, [item])
    [written] = json.loads(path.read_text())
    assert written["keypoints"] == pytest.approx([0, 1.75, 0.9, 7, 3, -1.5])
    torch.testing.assert_close(read_results(path, people, {1: SIZE})[1].keypoints, points)
    coco.write(tmp_path / "set", people, [item])
    again = Item.of(coco.read(tmp_path / "set")[0])
    torch.testing.assert_close(again.labelled.keypoints, points)


def result(**change):
    segmentation = {"size": list(SIZE), "counts": [84, 8, 508]}
    base = {"image_id": 1, "category_id": 3, "segmentation": segmentation, "score": 0.5, "bbox": [1, 2, 3, 4]}
    return {k: v for k, v in (base | change).items() if v is not None}


def test_plain_results_of_other_programs(tmp_path):
    (tmp_path / "r.json").write_text(json.dumps([result(), result(bbox=None, score=1)]))
    read = read_results(tmp_path / "r.json", CATEGORIES, {1: SIZE})[1]
    assert read.boxes.tolist() == [[4, 4, 5, 12], [1, 2, 4, 6]]
    assert (read.scores.tolist(), read.quality.tolist(), read.mask_scores.tolist()) == ([1, 0.5], [1, 1], [1, 0.5])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"image_id": 2}, "unknown image_id 2"),
        ({"image_id": [1]}, "unknown image_id"),
        ({"category_id": 4}, "unknown category_id 4"),
        ({"score": None}, "'score' must be a finite number"),
        ({"quality": "x"}, "'quality'"),
        ({"bbox": [1, 2, -3, 4]}, "'bbox'"),
        ({"segmentation": None}, "no segmentation"),
        ({"segmentation": {"size": [1, 2], "counts": "02"}}, "height and width"),
        ({"segmentation": {"size": list(SIZE), "counts": "~"}}, "bad-rle"),
    ],
)
def test_a_bad_result_is_an_error_with_its_index(tmp_path, change, reason):
    (tmp_path / "r.json").write_text(json.dumps([result(), result(**change)]))
    with pytest.raises(ValueError, match=rf"r\.json: results\[1\]: .*{reason}"):
        read_results(tmp_path / "r.json", CATEGORIES, {1: SIZE})


def test_results_need_image_ids_and_predictions(tmp_path):
    for labelled, reason in ((Instances.none((1, 1)), "image id"), (Targets.none((1, 1)), "are predictions")):
        with pytest.raises(ValueError, match=reason):
            write_results(tmp_path / "r.json", CATEGORIES, [Item(name="a.png", size=(1, 1), labelled=labelled)])
    (tmp_path / "r.json").write_text("{}")
    with pytest.raises(ValueError, match="a list"):
        read_results(tmp_path / "r.json", CATEGORIES, {})

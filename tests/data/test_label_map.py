import csv
import json
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from maskwise.categories import Categories
from maskwise.data.dataset import Item
from maskwise.data.formats import cityscapes, coco, label_map, labelme, mask_folder, voc, yolo
from maskwise.data.formats.pictures import TOO_LONG
from maskwise.data.images import read_image, read_label_map, write_label_map
from maskwise.masks import Masks
from maskwise.structures import Targets

CATEGORIES = Categories(names=("cell, round", 'the "Änd"', "unseen"), ids=(7, 3, 90))


def put(path, ids):
    path.parent.mkdir(parents=True, exist_ok=True)
    write_label_map(path, np.asarray(ids))
    return path


@pytest.fixture
def example(tmp_path, picture):
    """One picture with the ids 1, 300 and 2; no table."""
    picture(tmp_path / "images/a.jpg", (2, 4))
    put(tmp_path / "masks/a.png", [[1, 1, 0, 300], [0, 2, 2, 300]])
    return tmp_path


def rules(problems):
    return [p.rule for p in problems]


def test_reads_ids_of_16_bits_as_one_class(example):
    assert label_map.detect(example) == "masks/a.png lies beside images/a.jpg"
    data = label_map.read(example)
    assert (data.split, data.categories.names, data.problems) == ("", ("object",), ())
    assert [(r.name, r.id, r.path) for r in data] == [("images/a.jpg", "a", example / "images/a.jpg")]
    labelled = pickle.loads(pickle.dumps(data[0])).labelled()
    assert labelled.ids == (1, 2, 300)
    assert labelled.targets.masks.area().tolist() == [2, 2, 2]
    assert (labelled.problems, labelled.scores) == ((), None)


def test_a_table_may_spell_one_picture_in_several_ways(example):
    (example / "labels.csv").write_text("image,id,category\na,1,x\nimages/a.jpg,2,y\na.jpg,300,x\na.jpg,1,y\n")
    data = label_map.read(example)
    assert [(p.rule, p.message) for p in data.problems] == [
        ("duplicate-id", "instance 1 of 'a.jpg' has a line under 'a' already; this one was left out")
    ]
    labelled = data[0].labelled()
    assert labelled.ids == (1, 2, 300)
    assert [data.categories.name(k) for k in labelled.targets.labels.tolist()] == ["x", "y", "x"]


def test_a_spelling_belongs_to_the_picture_that_it_fits_best(tmp_path, picture):
    for key in ("a", "images/a"):
        picture(tmp_path / f"images/{key}.png", (1, 1))
        put(tmp_path / f"masks/{key}.png", [[1]])
    (tmp_path / "labels.csv").write_text("image,id,category\nimages/a.png,1,x\nimages/images/a.png,1,y\n")
    data = label_map.read(tmp_path)
    classes = {r.name: data.categories.name(int(r.labelled().targets.labels[0])) for r in data}
    assert (classes, data.problems) == ({"images/a.png": "x", "images/images/a.png": "y"}, ())


@pytest.fixture
def shared(tmp_path, picture):
    """Two splits below one folder of pictures, each with one picture of one instance."""
    for key in ("train/a", "val/b"):
        picture(tmp_path / f"images/{key}.png", (1, 1))
        put(tmp_path / f"masks/{key}.png", [[1]])
    return tmp_path


@pytest.mark.parametrize("spelling", ["images/train/a.png", "train/a.png", "train/a", "a.png", "a"])
def test_a_table_may_name_the_split_of_a_picture(shared, spelling):
    table(shared, "image,id,category", f"{spelling},1,x")
    data = label_map.read(shared, split="train")
    assert (data.problems, data.categories.names, data[0].labelled().ids) == ((), ("x",), (1,))


def test_splits_may_share_a_table(shared):
    table(shared, "image,id,category", "images/train/a.png,1,x", "val/b.png,1,y", "c.png,1,x")
    for split, label in (("train", 0), ("val", 1)):
        data = label_map.read(shared, split=split)
        assert [str(p) for p in data.problems] == [
            "labels.csv: 'c.png' is no picture of this data set; its lines were left out [unknown-image]"
        ]
        assert data[0].labelled().targets.labels.tolist() == [label]


def test_a_table_of_one_split_does_not_speak_about_another(tmp_path, picture):
    for home, key in (("train", "a"), ("val", "b")):
        picture(tmp_path / f"{home}/images/{key}.png", (1, 1))
        put(tmp_path / f"{home}/masks/{key}.png", [[1]])
    table(tmp_path / "train", "image,id,category", "a.png,1,x", "b.png,1,y")
    assert rules(label_map.read(tmp_path, split="train").problems) == ["unknown-image"]


LAYOUTS = {
    "masks of CVPPP": ("A1/plant001_rgb.png", "A1/plant001_label.png", "A1"),
    "masks of Cellpose": ("000_img.png", "000_masks.png", ""),
    "masks of Cellpose beside any picture": ("cells.tif", "cells_cp_masks.tif", ""),
    "splits above": ("train/images/a.png", "train/labels/a.png", "train"),
    "splits below": ("imgs/val/sub/a.png", "masks/val/sub/a.png", "val"),
    "names with endings": ("images/a.png", "masks/a_mask.png", ""),
    "names in capitals": ("Images/a.PNG", "Masks/a.TIF", ""),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_finds_maps_beside_pictures(tmp_path, picture, layout):
    image, labels, split = LAYOUTS[layout]
    written = picture(tmp_path / "scratch.png", (1, 2))
    (tmp_path / image).parent.mkdir(parents=True, exist_ok=True)
    Image.open(written).save(tmp_path / image)
    written.unlink()
    put(tmp_path / labels, [[0, 5]])
    data = label_map.read(tmp_path)
    assert (data.split, [r.name for r in data], data.problems) == (split, [image], ())
    assert data[0].labelled().ids == (5,)


def test_what_other_formats_look_like_is_not_claimed(tmp_path, picture):
    assert label_map.detect(tmp_path) is None
    picture(tmp_path / "images/a.png")
    assert label_map.detect(tmp_path) is None
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels/a.txt").write_text("0 0 0 1 0 1 1")
    assert label_map.detect(tmp_path) is None
    put(tmp_path / "masks/a/1.png", [[1]])
    assert label_map.detect(tmp_path) is None


def test_says_what_is_missing_or_double(example, picture):
    picture(example / "images/b.png")
    picture(example / "images/a.png")
    put(example / "masks/c.tif", [[1]])
    data = label_map.read(example)
    assert [r.name for r in data] == ["images/a.jpg"]
    assert [(p.rule, p.file, p.severity) for p in data.problems] == [
        ("duplicate-file", "images/a.png", "error"),
        ("missing-labels", "images/b.png", "warning"),
        ("missing-image", "masks/c.tif", "error"),
    ]


@pytest.mark.parametrize(
    ("shape", "rule"), [((2, 4), "empty-label-map"), ((4, 2), "size-swapped"), ((2, 5), "size-differs")]
)
def test_maps_that_are_empty_or_of_another_size(example, shape, rule):
    put(example / "masks/a.png", np.full(shape, int(shape != (2, 4))))
    labelled = label_map.read(example)[0].labelled()
    assert (rules(labelled.problems), len(labelled.targets), labelled.targets.masks.size) == ([rule], 0, (2, 4))


def test_a_map_in_colours_is_no_map(example, picture):
    picture(example / "masks/a.png", (2, 4))
    (problem,) = label_map.read(example)[0].labelled().problems
    assert (problem.rule, problem.file) == ("unreadable-labels", "masks/a.png")
    assert "this is a picture in colours" in problem.message


def table(folder, *lines):
    (folder / "labels.csv").write_text("\n".join(lines))


def test_the_table_gives_classes_crowds_and_scores(example):
    table(example, "id,image,crowd,category,score,quality", "1,b,1,leaf,.5,.5", "2,a.jpg,0,stem,1,1")
    problems = [str(p) for p in label_map.read(example).problems]
    assert problems == ["labels.csv: 'b' is no picture of this data set; its lines were left out [unknown-image]"]
    table(example, "id,image,crowd,category,score,quality", "1,a,1,leaf,.5,.5", "2,a,,stem,1,", "300,a,0,leaf,0,1")
    data = label_map.read(example)
    labelled = data[0].labelled()
    assert (data.categories.names, labelled.targets.labels.tolist()) == (("leaf", "stem"), [0, 1, 0])
    assert labelled.targets.crowd.tolist() == [True, False, False]
    assert labelled.scores is not None
    assert [x.tolist() for x in (labelled.scores.scores, labelled.scores.quality, labelled.scores.mask_scores)] == [
        [0.5, 1.0, 0.0],
        [0.5, 1.0, 1.0],
        [0.25, 1.0, 0.0],
    ]
    assert labelled.instances().labels.tolist() == [1, 0, 0]


def test_the_table_and_the_map_must_agree(example):
    table(example, "image,id,category", "images/a.jpg,1,leaf", "images/a.jpg,9,leaf", "images/a.jpg,300,thorn")
    (example / "categories.json").write_text('{"names": ["leaf"], "ids": [4]}')
    data = label_map.read(example)
    labelled = data[0].labelled()
    assert (labelled.ids, data.categories.ids) == ((1,), (4,))
    assert [str(p) for p in labelled.problems] == [
        "masks/a.png: instance 2: it has no line in labels.csv; it was left out [unknown-category]",
        "masks/a.png: instance 300: it is a 'thorn', which is no category; it was left out [unknown-category]",
        "masks/a.png: instance 9: it is in labels.csv, but no pixel has its id; it was left out [empty-mask]",
    ]


def test_bad_lines_are_named(example):
    table(
        example,
        "image,id,crowd,score",
        "a,1,maybe,.5",
        "a,x,0,.5",
        "a,2,0,nan",
        "a,300,0,1",
        "a,300,0,1",
        "a,4,0,",
    )
    data = label_map.read(example)
    assert sorted((p.where, p.rule) for p in data.problems) == [
        ("line 2", "bad-number"),
        ("line 3", "bad-number"),
        ("line 4", "bad-number"),
        ("line 6", "duplicate-id"),
    ]
    assert data[0].labelled().ids == (300,)


def test_a_line_without_a_score_costs_only_the_scores_of_its_picture(example, picture):
    picture(example / "images/b.png", (1, 2))
    put(example / "masks/b.png", [[1, 2]])
    table(example, "image,id,score,quality", "a,1,,", "a,2, ,x", "a,300,,", "b,1,.5,1", "b,2,.25,1")
    data = label_map.read(example)
    first, second = (record.labelled() for record in data)
    assert (data.problems, first.ids, first.scores, first.problems) == ((), (1, 2, 300), None, ())
    assert second.scores.scores.tolist() == [0.5, 0.25]
    table(example, "image,id,score", "a,1,.5", "a,2,", "a,300,1")
    first = label_map.read(example)[0].labelled()
    assert (first.ids, first.scores) == ((1, 2, 300), None)
    assert [str(p) for p in first.problems] == [
        "masks/a.png: 1 of 3 instances have no score; the scores of the others were left out [missing-scores]"
    ]
    assert first.problems[0].severity == "warning"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"", "columns image, id are missing; found nothing"),
        (b"image,category\n", "columns id are missing; found image, category"),
        (b'image,id\n"a', "unexpected end of data"),
        (b"\xff\xfe\x00", "decode"),
        (b"image,id,category\na,1,k\xf6rper\n", "decode"),
    ],
)
def test_a_table_that_cannot_be_read_is_an_error(example, text, reason):
    (example / "labels.csv").write_bytes(text)
    with pytest.raises(ValueError, match=rf"labels.csv: .*{reason}"):
        label_map.read(example)


@pytest.mark.parametrize("text", ["", "[]", '{"names": 3}', '{"nomes": []}', "[" * 100_000, '{"names": ["a", "a"]}'])
def test_broken_categories_are_an_error(example, text):
    (example / "categories.json").write_text(text)
    with pytest.raises(ValueError, match=r"categories\.json: "):
        label_map.read(example)


@pytest.mark.parametrize("names", ["dog", ["dog", 3], {"dog": 1}, None])
def test_names_of_categories_are_a_list_of_texts(example, names):
    (example / "categories.json").write_text(json.dumps({"names": names}))
    with pytest.raises(ValueError, match=r"categories\.json: 'names' must be a list of texts, got "):
        label_map.read(example)


@given(seed=st.integers(0, 10**6), count=st.integers(0, 6), suffix=st.sampled_from([".png", ".tif"]))
def test_ground_truth_reads_back(seed, count, suffix, tmp_path_factory, picture, truth, same):
    root = tmp_path_factory.mktemp("maps")
    targets = truth(seed, count, 3, crowd=True)
    size = targets.masks.size
    image = picture(root / "in/a.png", size)
    ids = tuple(range(60_000, 60_000 + len(targets)))
    items = [
        Item(name='images/ü/"a", b.png', size=size, labelled=targets, image=image, ids=ids),
        Item(name="empty.png", size=size, labelled=Targets.none(size), image=image, link=True),
    ]
    written = label_map.write(root / "out", CATEGORIES, items, split="val", suffix=suffix)
    assert written.losses == {}
    assert all(path.is_file() for path in written.files)
    data = label_map.read(root / "out")
    assert (data.split, data.categories, data.problems) == ("val", CATEGORIES, ())
    empty, full = data.records
    assert full.name == 'val/images/ü/"a", b.png'
    assert (empty.path.is_symlink(), full.path.is_symlink()) == (True, False)
    assert (len(empty.labelled().targets), empty.labelled().problems) == (0, ())
    labelled = full.labelled()
    assert (labelled.ids, labelled.problems) == (ids, ())
    assert same(labelled.targets, targets)


@given(seed=st.integers(0, 10**6), count=st.integers(1, 6))
def test_predictions_read_back_with_their_scores(seed, count, tmp_path_factory, picture, found):
    root = tmp_path_factory.mktemp("maps")
    instances = found(seed, count, 2)
    image = picture(root / "in/a.png", instances.masks.size)
    item = Item(name="a.png", size=instances.masks.size, labelled=instances, image=image)
    assert label_map.write(root / "out", CATEGORIES, [item]).losses == {}
    again = label_map.read(root / "out")[0].labelled().instances()
    assert again.masks.rle() == instances.masks.rle()
    for name in ("labels", "scores", "quality", "mask_scores", "boxes"):
        assert torch.equal(getattr(again, name), getattr(instances, name)), name


@given(seed=st.integers(0, 10**6), count=st.integers(1, 6))
def test_the_better_prediction_is_in_front_and_losses_are_counted(seed, count, tmp_path_factory, found):
    root = tmp_path_factory.mktemp("maps")
    instances = found(seed, count, 2, overlap=True)
    item = Item(name="a.png", size=instances.masks.size, labelled=instances)
    losses = label_map.write(root, CATEGORIES, [item]).losses
    shown = read_label_map(root / "train/masks/a.png")
    dense = instances.masks.dense().numpy()
    numbers = np.arange(1, len(dense) + 1)[:, None, None]
    expected = np.where(dense, numbers, len(dense) + 1).min(0, initial=len(dense) + 1)  # best first
    expected[expected > len(dense)] = 0
    assert (shown == expected).all()
    hidden = sum(i + 1 not in shown for i in range(len(dense)))
    counts = {
        "pixels where masks overlapped": dense.sum() - dense.any(0).sum(),
        "instances wholly covered by others": hidden,
    }
    assert losses == {what: count for what, count in counts.items() if count}
    with (root / "train/labels.csv").open(newline="") as file:
        assert [int(row["id"]) for row in csv.DictReader(file)] == [i for i in range(1, len(dense) + 1) if i in shown]


def test_the_nearer_one_is_in_front_and_fields_without_a_place_are_counted(tmp_path):
    dense = torch.ones(2, 1, 3, dtype=torch.bool)
    dense[1, 0, 2] = False
    targets = Targets.from_masks(
        Masks.from_dense(dense), torch.zeros(2, dtype=torch.int64), depth=torch.tensor([0, 1]), areas=torch.ones(2)
    )
    losses = label_map.write(tmp_path, CATEGORIES, [Item(name="a.png", size=(1, 3), labelled=targets)]).losses
    assert read_label_map(tmp_path / "train/masks/a.png").tolist() == [[1, 1, 1]]
    assert losses["depth"] == losses["stated areas"] == 2


def test_a_class_without_a_name_is_refused(tmp_path):
    """Its lines in the table would be those of class 'object'."""
    with pytest.raises(ValueError, match="cannot be called ''"):
        label_map.write(tmp_path, Categories(names=("a", "")), [])


def test_more_instances_than_16_bits_count_are_refused(tmp_path):
    nothing = torch.zeros(65_536, dtype=torch.int64)
    empty = Masks(torch.zeros(0, dtype=torch.bool), nothing[:, None].expand(-1, 4), (1, 1))
    targets = Targets(boxes=torch.zeros(65_536, 4), labels=nothing, masks=empty, crowd=nothing > 0)
    item = Item(name="a.png", size=(1, 1), labelled=targets)
    with pytest.raises(ValueError, match="65,536 instances, but this format holds at most 65,535"):
        label_map.write(tmp_path, CATEGORIES, [item])


@pytest.mark.parametrize(
    ("format", "ids", "lost"),
    [
        (label_map, (7, 9), 0),
        (label_map, (7, 70_000), 2),
        (label_map, (1, 70_000), 1),
        (voc, (7, 9), 0),
        (voc, (7, 900), 2),
        (mask_folder, (7, 70_000), 0),
        (mask_folder, ("left", "right"), 2),
        (labelme, (1, 2), 0),
        (labelme, (1, 3), 1),
        (yolo, (7, 9), 2),
    ],
)
def test_instances_that_cannot_keep_their_ids_are_counted(format, ids, lost, tmp_path):
    masks, _ = Masks.from_label_map(np.array([[1, 2]]))
    targets = Targets.from_masks(masks, torch.zeros(2, dtype=torch.int64))
    item = Item(name="a.png", size=(1, 2), labelled=targets, ids=ids)
    assert format.write(tmp_path, CATEGORIES, [item], split="train").losses.get("instance ids", 0) == lost


# --- names that a format cannot give its files


ALL = [cityscapes, coco, label_map, labelme, mask_folder, voc, yolo]
LONGEST = 255
"""Bytes of a name, on most file systems."""


def of_car(name, image=None):
    targets = Targets.from_masks(Masks.from_dense(torch.ones(1, 2, 3, dtype=torch.bool)), torch.tensor([0]))
    return Item(name=name, size=(2, 3), labelled=targets, image=image)


@pytest.mark.parametrize("format", ALL)
@pytest.mark.parametrize("name", [".a.png", ".a/b.png", "x/.a/.b.png", "_a.png", "_leftImg8bit.png"])
def test_no_picture_is_hidden_from_readers(format, name, tmp_path, picture):
    image = picture(tmp_path / "in.png", (2, 3))
    written = format.write(tmp_path / "out", Categories(names=("car",)), [of_car(name, image)])
    assert all(path.is_relative_to(tmp_path / "out") for path in written.files)
    (record,) = (data := format.read(tmp_path / "out")).records
    assert (len(record.labelled().targets), data.problems) == (1, ())
    assert np.array_equal(read_image(record.path), read_image(image))


@pytest.mark.parametrize("format", ALL)
@pytest.mark.parametrize("over", [0, 1])
@pytest.mark.parametrize("has_picture", [True, False])
def test_a_name_that_is_too_long_costs_only_its_picture(format, over, has_picture, tmp_path, picture, caplog):
    """Annotations may name pictures that are not there, and formats add endings."""
    image = picture(tmp_path / "in.png", (2, 3))
    name = f"{'a' * (LONGEST - 4 + over)}.png"
    items = [of_car(name, image if has_picture else None), of_car("b.png", image)]
    written = format.write(tmp_path / "out", Categories(names=("car",)), items)
    is_lost = format in (labelme, cityscapes) or (over and (has_picture or format is not coco))
    assert written.losses.get(TOO_LONG, 0) == is_lost
    assert caplog.text.count(f"{name}: left out of {tmp_path / 'out'}") == is_lost
    if is_lost:
        (record,) = (data := format.read(tmp_path / "out")).records
        assert (len(record.labelled().targets), data.problems) == (1, ())

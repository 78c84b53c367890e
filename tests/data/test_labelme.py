import base64
import io
import json
import pickle
import tempfile
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from maskwise.categories import Categories
from maskwise.data.dataset import Item
from maskwise.data.formats import labelme
from maskwise.masks import Masks
from maskwise.structures import Targets

CATEGORIES = Categories(names=("no", "große Kuh", "cat"), ids=(9, 3, 0))
SIZE = (20, 30)
SQUARE = [[4, 4], [10, 4], [10, 12], [4, 12]]


def shape(points=SQUARE, shape_type="polygon", label="cat", **rest):
    return {"label": label, "points": points, "shape_type": shape_type, "group_id": None, "flags": {}} | rest


def png(bits, mode="1"):
    file = io.BytesIO()
    Image.fromarray(np.array(bits, bool)).convert(mode).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def save(path, shapes, **fields):
    path.parent.mkdir(parents=True, exist_ok=True)
    base = {"imagePath": f"{path.stem}.png", "imageHeight": SIZE[0], "imageWidth": SIZE[1]}
    path.write_text(json.dumps(base | {"shapes": shapes} | fields))


@pytest.fixture
def dataset(tmp_path, picture):
    def write(shapes, **fields):
        picture(tmp_path / "a.png", SIZE)
        save(tmp_path / "a.json", shapes, **fields)
        return labelme.read(tmp_path)

    return write


def found(data):
    problems = [*data.problems, *(p for record in data for p in record.labelled().problems)]
    return [(p.where, p.rule, p.severity) for p in problems]


def test_every_kind_of_shape_with_an_area(dataset):
    bits = [[1, 1, 1], [1, 0, 1], [1, 1, 1]]
    data = dataset(
        [
            shape(),
            shape([[20.0, 9.0], [12.0, 3.0]], "rectangle", "dog"),
            shape([[12, 3], [20, 3], [20, 9], [12, 9]], "rectangle"),
            shape([[10, 10], [10, 13]], "circle"),
            shape([[27, 17], [29, 19]], "mask", mask=png(bits)),
            shape([[27, 17], [29, 19]], "mask", mask=png(bits, "L")),
            shape(shape_type=None),
        ]
    )
    assert (data.format, data.split, data.categories.names, found(data)) == ("labelme", "", ("cat", "dog"), [])
    read = pickle.loads(pickle.dumps(data[0])).labelled()
    assert read.ids == (1, 2, 3, 4, 5, 6, 7)
    assert read.targets.labels.tolist() == [0, 1, 0, 0, 0, 0, 0]
    assert read.targets.masks.area().tolist() == [48, 48, 48, 32, 8, 8, 48]
    assert read.targets.boxes[[1, 3, 4]].tolist() == [[12, 3, 20, 9], [7, 7, 13, 13], [27, 17, 30, 20]]
    assert not read.targets.masks.dense()[4, 18, 28]


def test_a_group_is_one_object(dataset):
    apart = [[20, 1], [24, 1], [24, 5], [20, 5]]
    shapes = [
        shape(group_id=3),
        shape(apart, group_id=3),
        shape(apart, label="dog", group_id=3),
        shape(apart, group_id="3"),
    ]
    read = dataset(shapes)[0].labelled()
    assert read.ids == (1, 3, 4)
    assert read.targets.masks.area().tolist() == [48 + 16, 16, 16]


@pytest.mark.parametrize(
    ("bad", "rule"),
    [
        (shape([[1, 1], [5, 5]]), "degenerate-polygon"),
        (shape([[1, 1], [5, 5], [1, 1]]), "degenerate-polygon"),
        (shape([[1, 1], [5, float("nan")], [1, 9]]), "bad-number"),
        (shape([[1, 1], [5, 1e300], [1, 9]]), "bad-number"),
        (shape([[1, 1], [5], [1, 9]]), "bad-number"),
        (shape("x"), "bad-number"),
        (shape([]), "degenerate-polygon"),
        (shape([[100, 100], [110, 100], [110, 110]]), "outside-image"),
        (shape([[5, 5], [9, 9]], "line"), "unsupported-shape"),
        (shape([[5, 5]], "point"), "unsupported-shape"),
        (shape([[5, 5], [9, 9], [5, 9]], "linestrip"), "unsupported-shape"),
        (shape([[5, 5]], "circle"), "degenerate-polygon"),
        (shape([[5, 5], [5, 5]], "circle"), "empty-mask"),
        (shape([[500, 5], [502, 5]], "circle"), "empty-mask"),
        (shape([[5, 5], [6, 6]], "mask"), "bad-mask"),
        (shape([[5, 5], [6, 6]], "mask", mask="%"), "bad-mask"),
        (shape([[5, 5], [6, 6]], "mask", mask="AAAA"), "bad-mask"),
        (shape([[0, 0], [99, 99]], "mask", mask=png(np.ones((100, 100)))), "bad-mask"),
        (shape([[5, 5], [6, 6]], "mask", mask=png(np.zeros((2, 2)))), "empty-mask"),
        (shape([[50, 5], [51, 6]], "mask", mask=png(np.ones((2, 2)))), "empty-mask"),
        (shape([], "mask", mask=png(np.ones((2, 2)))), "degenerate-polygon"),
        (shape(label=""), "unknown-category"),
        (shape(label=5), "unknown-category"),
        ("x", "bad-entry"),
    ],
)
def test_a_bad_shape_is_left_out_and_listed(dataset, bad, rule):
    data = dataset([shape(), bad])
    assert found(data) == [("shape 2", rule, "error")]
    assert data[0].labelled().ids == (1,)


def test_what_reaches_out_of_the_picture_is_cut_off(dataset):
    circle = shape([[0, 0], [1e8, 0]], "circle")
    bitmap = shape([[-1, -1], [1, 1]], "mask", mask=png(np.ones((3, 3))))
    data = dataset([shape([[4, 4], [1e9, 4], [1e9, 1e9], [4, 1e9]]), circle, bitmap])
    assert data[0].labelled().targets.masks.area().tolist() == [26 * 16, 600, 4]
    assert found(data) == [("shape 1", "outside-image", "warning")]


def test_odd_fields_are_warnings(dataset):
    bitmap = shape([[5, 5], [9, 9]], "mask", mask=png(np.ones((2, 2))))
    data = dataset([shape(group_id=[1]), bitmap], imageHeight=-1)
    assert data[0].size is None
    assert data[0].labelled().targets.masks.size == SIZE
    assert found(data) == [
        ("shape 1", "bad-id", "warning"),
        ("", "bad-number", "warning"),
        ("shape 2", "size-differs", "warning"),
    ]


def test_a_size_far_beyond_the_picture_costs_no_memory(dataset):
    side = 5000
    whole = [shape([[0, 0], [side, 0], [side, side], [0, side]])] * 16
    data = dataset(whole, imageHeight=side, imageWidth=side)
    tracemalloc.start()
    labelled = data[0].labelled()
    assert tracemalloc.get_traced_memory()[1] < 10_000_000
    tracemalloc.stop()
    assert (len(labelled.targets), found(data)) == (0, [("", "size-differs", "error")])
    assert labelled.problems[0].file == "a.json"
    data = dataset(whole[:3], imageHeight=SIZE[0] + 1)
    assert len(data[0].labelled().targets) == 3


def test_scores_ride_in_the_description(dataset):
    first = shape(description="seen by Ann; score=0.5 quality=0.25 mask_score=0.125")
    read = dataset([first, shape(description="score=1e-3 quality=0.5")])[0].labelled()
    assert read.scores.scores.tolist() == pytest.approx([0.5, 0.001])
    assert read.scores.quality.tolist() == [0.25, 0.5]
    assert read.scores.mask_scores.tolist() == pytest.approx([0.125, 0.0005])
    data = dataset([first, shape(description="score=high")])
    assert data[0].labelled().scores is None
    assert found(data) == [("", "missing-scores", "warning")]


# --- files


def test_files_that_are_broken_or_something_else(dataset, tmp_path):
    dataset([shape()])
    (tmp_path / "b.json").write_text('{"shapes": [')
    (tmp_path / "c.json").write_text('{"shapes": 5}')
    (tmp_path / "d.json").write_text('{"name": "x"}')
    (tmp_path / ".hidden.json").write_text("{")
    data = labelme.read(tmp_path)
    assert [record.name for record in data] == ["a.png"]
    assert [(p.file, p.rule) for p in data.problems] == [("b.json", "bad-json"), ("c.json", "bad-entry")]


@pytest.mark.parametrize(
    ("image_path", "there", "name", "rules"),
    [
        ("a.png", "a.png", "sub/a.png", []),
        ("..\\pictures\\a.png", "../pictures/a.png", "pictures/a.png", []),
        ("../pictures/a.png", "../pictures/a.png", "pictures/a.png", []),
        ("C:\\me\\b.png", "b.png", "sub/b.png", ["foreign-path"]),
        ("/home/me/b.png", "b.png", "sub/b.png", ["foreign-path"]),
        ("../../../etc/passwd", "a.jpg", "sub/a.jpg", ["foreign-path"]),
        ("gone.png", None, "sub/gone.png", []),
        ("../../gone.jpg", None, "sub/a.jpg", []),
        ("..", None, "sub/a.png", []),
        (None, "a.png", "sub/a.png", ["missing-image"]),
        ("", "a.png", "sub/a.png", []),
        ("a\0.png", "a.png", "sub/a.png", ["missing-image"]),
        ("\ud800.png", "a.png", "sub/a.png", ["missing-image"]),
    ],
)
def test_finds_the_picture(tmp_path, picture, image_path, there, name, rules):
    if there:
        picture(tmp_path / "sub" / there, SIZE)
    save(tmp_path / "sub/a.json", [shape()], imagePath=image_path)
    data = labelme.read(tmp_path)
    assert (data[0].name, data[0].path.exists()) == (name, bool(there))
    assert [p.rule for p in data.problems] == rules


def test_the_root_is_the_same_by_any_name(tmp_path, picture, monkeypatch):
    picture(tmp_path / "images/a.png", SIZE)
    save(tmp_path / "labels/a.json", [shape()], imagePath="..\\images\\a.png")
    monkeypatch.chdir(tmp_path / "labels")
    names = [[record.name for record in labelme.read(root)] for root in (tmp_path / "labels", Path())]
    assert names == [["a.png"]] * 2
    picture(tmp_path / "labels/b.png", SIZE)
    save(tmp_path / "labels/a.json", [shape()], imagePath="b.png")
    assert [record.name for record in labelme.read(tmp_path / "images/../labels")] == ["b.png"]


def test_two_files_about_one_picture(dataset, tmp_path):
    dataset([shape()])
    save(tmp_path / "b.json", [shape()], imagePath="a.png")
    data = labelme.read(tmp_path)
    assert ([record.name for record in data], [p.rule for p in data.problems]) == (["a.png"], ["duplicate-file"])


def test_splits_share_their_classes(tmp_path):
    save(tmp_path / "train/a.json", [shape(label="b")])
    save(tmp_path / "val/deep/a.json", [shape(label="a"), "x"])
    assert labelme.splits(tmp_path) == ("train", "val")
    train, val = (labelme.read(tmp_path, split=split) for split in ("train", "val"))
    assert train.categories == val.categories == Categories(names=("a", "b"))
    assert ([r.name for r in train], [r.name for r in val]) == (["train/a.png"], ["val/deep/a.png"])
    assert ([len(data.problems) for data in (train, val)]) == [0, 1]
    save(tmp_path / "test2017/a.json", [shape(label="a")])
    assert labelme.splits(tmp_path) == ("test2017", "train", "val")
    save(tmp_path / "a.json", [])
    assert labelme.splits(tmp_path) == ("",)
    assert len(labelme.read(tmp_path)) == 4


def test_a_single_file_is_a_data_set(dataset, tmp_path):
    dataset([shape()])
    assert labelme.detect(tmp_path / "a.json") == "a.json has shapes"
    assert [record.name for record in labelme.read(tmp_path / "a.json")] == ["a.png"]


def test_labels_txt_names_the_classes(dataset, tmp_path):
    (tmp_path / "labels.txt").write_text("__ignore__\n_background_\nzebra\ncat\n\n")
    data = dataset([shape(), shape(label="dog"), shape(label="__ignore__")])
    assert data.categories.names == ("zebra", "cat")
    assert found(data) == [("shape 2", "unknown-category", "error")]
    (tmp_path / "labels.txt").write_text("a\na\n")
    with pytest.raises(ValueError, match=r"labels\.txt: .*more than once"):
        labelme.read(tmp_path)


# --- out, and in again


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), count=st.integers(0, 5), split=st.sampled_from(["train", ""]))
def test_round_trip(truth, same, seed, count, split):
    targets = truth(seed, count, 3, overlap=seed % 2 == 0, crowd=True)
    item = Item(name="sub/ü b.png", size=targets.masks.size, labelled=targets)
    with tempfile.TemporaryDirectory() as folder:
        written = labelme.write(Path(folder), CATEGORIES, [item], split=split)
        data = labelme.read(Path(folder), split=split)
        read = data[0].labelled()
    assert written.losses == {"category ids": 3}
    assert (data[0].name, data[0].size) == (f"{split}/sub/ü b.png".lstrip("/"), targets.masks.size)
    assert (data.problems, read.problems, data.categories.names) == ((), (), CATEGORIES.names)
    assert same(read.targets, targets)
    assert read.targets.labels.tolist() == targets.labels.tolist()


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), count=st.integers(0, 4))
def test_predictions_keep_their_scores(found, seed, count):
    instances = found(seed, count, 3, overlap=True)
    with tempfile.TemporaryDirectory() as folder:
        labelme.write(
            Path(folder), CATEGORIES, [Item(name="a.png", size=instances.masks.size, labelled=instances)], split=""
        )
        back = labelme.read(Path(folder))[0].labelled().instances()
    assert back.masks.rle() == instances.masks.rle()
    for field in ("labels", "scores", "quality", "mask_scores"):
        assert getattr(back, field).tolist() == getattr(instances, field).tolist()


def test_bitmaps_only_where_there_are_holes(tmp_path):
    ring = np.ones((5, 5), bool)
    ring[2, 2] = False
    two = np.zeros((5, 5), bool)
    two[0, 0] = two[3:, 3:] = True
    masks = Masks.from_dense(torch.from_numpy(np.stack([ring, two, np.zeros((5, 5), bool)])))
    targets = Targets.from_masks(masks, torch.zeros(3, dtype=torch.int64))
    written = labelme.write(tmp_path, CATEGORIES, [Item(name="a.png", size=(5, 5), labelled=targets)], split="")
    assert written.losses == {"category ids": 3, "instances without pixels": 1}
    content = json.loads((tmp_path / "a.json").read_text())
    assert [row["shape_type"] for row in content["shapes"]] == ["mask", "polygon", "polygon"]
    assert [row["group_id"] for row in content["shapes"]] == [None, 2, 2]
    assert content["shapes"][0]["points"] == [[0, 0], [4, 4]]
    assert {"version", "flags", "imagePath", "imageData", "imageHeight", "imageWidth"} < set(content)


def test_what_cannot_be_written(tmp_path):
    none = Targets.none((3, 3))
    items = [Item(name=name, size=(3, 3), labelled=none) for name in ("a.png", "a.jpg")]
    with pytest.raises(ValueError, match="both be written"):
        labelme.write(tmp_path, CATEGORIES, items)
    with pytest.raises(ValueError, match="other categories"):
        labelme.write(tmp_path, Categories(names=("x",)), items[:1])
    for name in ("__ignore__", "a\nb", " a", ""):
        with pytest.raises(ValueError, match="cannot be called"):
            labelme.write(tmp_path / "new", Categories(names=(name,)), items[:1])

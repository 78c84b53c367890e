import pickle
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from maskwise import outlines
from maskwise.categories import Categories
from maskwise.data.dataset import Item
from maskwise.data.formats import yolo
from maskwise.data.formats.rings import clipped, one_ring
from maskwise.data.images import ImageReadError, write_image
from maskwise.masks import Masks
from maskwise.outlines import Polygon
from maskwise.structures import Instances, Targets

CATEGORIES = Categories(names=("cat", "große Kuh: a", "no"), ids=(90, 3, 0))
SIZE = (10, 20)
SQUARE = "0.2 0.2 0.5 0.2 0.5 0.6 0.2 0.6"


@pytest.fixture
def dataset(tmp_path, picture):
    """One picture with the lines given; None: no label file."""

    def write(lines, names="[cat, dog]"):
        picture(tmp_path / "images/train/a.png", SIZE)
        (tmp_path / "labels/train").mkdir(parents=True, exist_ok=True)
        if lines is not None:
            (tmp_path / "labels/train/a.txt").write_text(lines)
        (tmp_path / "data.yaml").write_text(f"train: images/train\nnames: {names}\n")
        return yolo.read(tmp_path)

    return write


def rules(data):
    problems = [*data.problems, *(p for record in data for p in record.labelled().problems)]
    return [(p.where, p.rule, p.severity) for p in problems]


def test_reads_polygons_in_shares_of_the_sides(dataset):
    data = dataset(f"1 {SQUARE}\n\n0.0 0 0 1 0 1 1 0 1\n")
    assert (data.format, data.split, data.problems, data.categories.ids) == ("yolo", "train", (), (0, 1))
    assert (data[0].name, data[0].size) == ("images/train/a.png", None)
    read = pickle.loads(pickle.dumps(data[0])).labelled()
    assert (read.ids, read.problems, read.scores) == ((1, 3), (), None)
    assert read.targets.labels.tolist() == [1, 0]
    assert read.targets.boxes.tolist() == [[4, 2, 10, 6], [0, 0, 20, 10]]


def test_an_odd_count_ends_in_a_confidence(dataset):
    read = dataset(f"1 {SQUARE} 0.25\n0 {SQUARE} 0.5\n")[0].labelled()
    instances = read.instances()
    assert instances.mask_scores.tolist() == [0.5, 0.25]
    assert (instances.labels.tolist(), instances.quality.tolist()) == ([0, 1], [1, 1])
    data = dataset(f"1 {SQUARE} 0.25\n0 {SQUARE}\n")
    assert (data[0].labelled().scores, data[0].labelled().ids) == (None, (2,))
    assert rules(data) == [("line 1", "degenerate-polygon", "error")]


def test_a_polygon_that_lost_a_number_has_no_confidence(dataset, tmp_path, picture):
    lost = SQUARE.removesuffix(" 0.6")
    data = dataset(f"1 {SQUARE}\n0 {lost}\n1 {SQUARE}\n")
    assert (data[0].labelled().scores, data[0].labelled().ids) == (None, (1, 3))
    assert rules(data) == [("line 2", "degenerate-polygon", "error")]
    assert (
        "an odd count of 7 numbers, but most lines here end in no confidence" in data[0].labelled().problems[0].message
    )
    for i in range(150):  # alone in its file, too; of so many only some are asked
        picture(tmp_path / f"images/train/{i}.png", SIZE)
        (tmp_path / f"labels/train/{i}.txt").write_text(f"0 {lost if i in (0, 70) else SQUARE}\n")
    read = {record.name: record.labelled() for record in yolo.read(tmp_path)}
    assert not any(one.scores for one in read.values())
    assert [name for name, one in read.items() if not one.ids] == ["images/train/0.png", "images/train/70.png"]


def test_a_prediction_that_lost_a_number_costs_only_itself(dataset):
    data = dataset(f"1 {SQUARE} 0.25\n0 {SQUARE}\n0 {SQUARE} 0.5\n")
    assert data[0].labelled().instances().mask_scores.tolist() == [0.5, 0.25]
    assert rules(data) == [("line 2", "degenerate-polygon", "error")]


def test_label_files_that_cannot_be_read_say_nothing_about_the_others(dataset, tmp_path, picture):
    dataset(f"1 {SQUARE} 0.25\n")
    for name, content in {"b": b"\xff", "c": b"", "d": b"0 0.5 0.5 0.2 0.2\n" * 3}.items():
        picture(tmp_path / f"images/train/{name}.png", SIZE)
        (tmp_path / f"labels/train/{name}.txt").write_bytes(content)
    assert yolo.read(tmp_path)[0].labelled().scores.scores.tolist() == [0.25]


@pytest.mark.parametrize(
    ("line", "rule"),
    [
        ("0 0.5 0.5 0.2 0.2", "box-only"),
        ("0 0.5 0.5 0.2 0.2 0.9", "box-only"),
        ("0", "degenerate-polygon"),
        ("0 0.1 0.2 0.3", "degenerate-polygon"),
        ("0 0.1 0.1 0.5 0.5 0.1 0.1", "degenerate-polygon"),
        (f"2 {SQUARE}", "unknown-category"),
        (f"-1 {SQUARE}", "unknown-category"),
        (f"0.5 {SQUARE}", "unknown-category"),
        (f"cat {SQUARE}", "bad-number"),
        ("0 0.1 0.1 nan 0.2 0.3 0.3", "bad-number"),
        ("0 0.1 0.1 1e400 0.2 0.3 0.3", "bad-number"),
        ("0 0.1 0.1 1e300 0.2 0.3 0.3", "bad-number"),
        ("0 2 2 3 2 3 3", "outside-image"),
        ("0 0.5 0.5 0.5 0.5001 0.5001 0.5", "empty-mask"),
    ],
)
def test_a_bad_line_is_left_out_and_listed(dataset, line, rule):
    data = dataset(f"0 {SQUARE}\n{line}\n")
    assert rules(data) == [("line 2", rule, "error")]
    assert data[0].labelled().ids == (1,)


def test_coordinates_in_pixels_are_cut_off_with_a_warning(dataset):
    data = dataset("0 0 0 100 0 100 100 0 100")
    assert rules(data) == [("line 1", "outside-image", "warning")]
    assert data[0].labelled().targets.masks.area().tolist() == [200]


def test_pictures_without_objects_or_without_labels(dataset):
    assert rules(dataset("")) == []
    assert len(dataset("")[0].labelled().targets) == 0


def test_missing_label_files_are_counted(dataset):
    data = dataset(None)
    assert rules(data) == [("train", "missing-labels", "warning")]
    assert "1 of 1" in data.problems[0].message
    assert len(data[0].labelled().targets) == 0


def test_labels_that_belong_to_nothing_or_are_no_text(dataset, tmp_path):
    dataset("")
    (tmp_path / "labels/train/b.txt").write_text(f"0 {SQUARE}")
    (tmp_path / "labels/train/a.txt").write_bytes(b"\xff\xfe\x00")
    data = yolo.read(tmp_path)
    assert [(p.file, p.rule) for p in data.problems] == [("labels/train/b.txt", "missing-image")]
    (problem,) = data[0].labelled().problems
    assert (problem.file, problem.rule) == ("labels/train/a.txt", "unreadable-labels")


def test_a_picture_that_cannot_be_read_has_no_size(dataset, tmp_path):
    data = dataset(f"0 {SQUARE}")
    (tmp_path / "images/train/a.png").write_bytes(b"")
    with pytest.raises(ImageReadError, match="empty file"):
        data[0].labelled()


# --- the configuration


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ("[cat, dog]", {0: "cat", 1: "dog"}),
        ("{0: cat, 7: 'no'}", {0: "cat", 7: "no"}),
        ("{3: dog, 1: cat}", {1: "cat", 3: "dog"}),
        ("[1, 2.5, no]", {0: "1", 1: "2.5", 2: "False"}),
    ],
)
def test_names_as_list_or_by_number(dataset, names, expected):
    categories = dataset("", names).categories
    assert dict(zip(categories.ids, categories.names, strict=True)) == expected


@pytest.mark.parametrize("names", ["['', dog]", "{0: '', 1: dog}"])
def test_a_class_without_a_name_is_called_by_its_number(dataset, names):
    data = dataset(f"0 {SQUARE}\n", names)
    assert data.categories.names == ("category 0", "dog")
    assert rules(data) == [("class 0", "nameless-category", "error")]
    assert len(data[0].labelled().targets) == 1


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("names: [a, a]\ntrain: x", "more than once"),
        ("names: ['', category 0]\ntrain: x", "more than once"),
        ("names: 5\ntrain: x", "list or numbers"),
        ("names: {a: b}\ntrain: x", "numbered 0, 1, 2"),
        ("names: {-1: b}\ntrain: x", "numbered 0, 1, 2"),
        ("names: [[a]]\ntrain: x", "the name of class 0 must be text, got list"),
        ("names: {0: a, 3: {b: c}}\ntrain: x", "the name of class 3 must be text, got dict"),
        ("names: [~]\ntrain: x", "the name of class 0 must be text, got NoneType"),
        ("names: [a]\ntrain: {b: c}", "a path or a list of paths"),
        ("names: [a]\ntrain: nowhere", "no folder nowhere"),
        ("names: [a]\ntrain: nowhere.txt", "nowhere.txt"),
        ("names: [a", "not readable as YAML"),
        ("- 1", "expected names and splits"),
        ("a: 2020-99-99", "not readable as YAML"),
        ("[" * 300, "not readable as YAML"),
        ("x: !!python/object/apply:os.system [ls]", "not readable as YAML"),
    ],
)
def test_a_configuration_that_cannot_be_read_is_an_error_with_its_name(tmp_path, text, reason):
    (tmp_path / "data.yaml").write_text(text)
    with pytest.raises(ValueError, match=reason) as error:
        yolo.read(tmp_path)
    assert str(tmp_path) in str(error.value)


@pytest.mark.parametrize("end", ["names: [*a8]\ntrain: x", "names: [a]\ntrain: *a8"])
def test_lists_that_name_each_other_are_not_written_out(tmp_path, end):
    nested = "".join(f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 9))
    (tmp_path / "data.yaml").write_text(f"a0: &a0 [x]\n{nested}{end}\n")
    start = time.process_time()
    with pytest.raises(ValueError, match=r"data.yaml: .*got list"):
        yolo.read(tmp_path)
    assert time.process_time() - start < 1


def test_other_yaml_files_are_no_data_sets(tmp_path):
    assert yolo.detect(tmp_path) is None
    (tmp_path / "config.yml").write_text("train: x")
    assert yolo.detect(tmp_path) is None
    with pytest.raises(ValueError, match="no YAML file"):
        yolo.read(tmp_path)
    (tmp_path / "coco8.yml").write_text("train: x\nnames: [a]")
    assert yolo.detect(tmp_path) == "coco8.yml has names and splits"


@pytest.mark.parametrize("inner", ["../train/images", "train/images", ".\\train\\images"])
def test_paths_as_roboflow_and_windows_write_them(tmp_path, picture, inner):
    picture(tmp_path / "data/train/images/a.png", SIZE)
    (tmp_path / "data/train/labels").mkdir()
    (tmp_path / "data/train/labels/a.txt").write_text(f"0 {SQUARE}")
    (tmp_path / "data/data.yaml").write_text(f"train: '{inner}'\nvalid: x\ntest: ../test/images\nnames: [a]")
    (tmp_path / "data/x").mkdir()
    data = yolo.read(tmp_path / "data", split="train")
    assert [record.name for record in data] == ["train/images/a.png"]
    assert len(data[0].labelled().targets) == 1
    assert yolo.splits(tmp_path / "data/data.yaml") == ("train", "valid")
    assert rules(data) == [("", "missing-split", "warning")]
    assert "test: there is no ../test/images" in str(data.problems[0])
    with pytest.raises(ValueError, match=r"there is no folder \.\./test/images"):
        yolo.read(tmp_path / "data", split="test")


def test_splits_get_the_names_that_trainers_look_for(tmp_path):
    truth = Targets.none(SIZE)
    for split in ("train2017", "valid", "val2014", "holdout"):
        item = Item(name=f"{split}.png", size=SIZE, labelled=truth, image=None)
        yolo.write(tmp_path, CATEGORIES, [item], split=split)
    stored = yaml.safe_load((tmp_path / "data.yaml").read_text())
    assert stored["train"] == ["images/train2017", "images/holdout"]
    assert stored["val"] == ["images/valid", "images/val2014"]
    assert yolo.splits(tmp_path) == ("train", "val")


def test_a_path_lists_and_several_folders(tmp_path, picture):
    for name in ("one/images/a.png", "one/images/b.png", "two/c.png", "else/d.png"):
        picture(tmp_path / "set" / name if not name.startswith("else") else tmp_path / name, SIZE)
    lines = ["./one/images/b.png", "", "one\\images\\a.png", "../else/d.png", "one/images/none.png", "a\0b"]
    (tmp_path / "set/list.txt").write_text("\n".join(lines))
    (tmp_path / "my.yaml").write_text("path: set\ntrain: [list.txt, one/images, two]\nval:\nnames: [a]")
    data = yolo.read(tmp_path / "my.yaml")
    names = [
        *("set/one/images/b.png", "set/one/images/a.png", "else/d.png"),
        "set/one/images/none.png",
        "set/two/c.png",
    ]
    assert [record.name for record in data] == names
    assert sorted(p.rule for p in data.problems) == ["duplicate-file"] * 2 + ["missing-image", "missing-labels"]


@pytest.fixture
def sites(tmp_path, picture):
    """Pictures of one name in two places, and a configuration beside them."""
    for site, shares in {"A": SQUARE, "B": SQUARE.replace("0.2", "0.1")}.items():
        picture(tmp_path / site / "images/1.png", SIZE)
        (tmp_path / site / "labels").mkdir()
        (tmp_path / site / "labels/1.txt").write_text(f"0 {shares}\n")

    def write(**splits):
        (tmp_path / "config").mkdir(exist_ok=True)
        (tmp_path / "config/data.yaml").write_text(yaml.safe_dump({"names": ["leaf"], **splits}))
        return tmp_path / "config"

    return write


@pytest.mark.parametrize("form", ["folders", "list"])
def test_pictures_of_one_name_in_several_places_are_told_apart(sites, tmp_path, form):
    places = [f"{tmp_path}/{site}/images" for site in "AB"]
    (tmp_path / "list.txt").write_text("".join(f"{place}/1.png\n" for place in places))
    config = sites(train=places if form == "folders" else f"{tmp_path}/list.txt")
    data = yolo.read(config)
    assert [record.name for record in data] == ["A/images/1.png", "B/images/1.png"]
    assert data.problems == ()
    assert [len(record.labelled().targets) for record in data] == [1, 1]


def test_names_of_pictures_are_unique_over_splits(sites, tmp_path):
    (tmp_path / "list.txt").write_text(f"{tmp_path}/B/images/1.png\n")
    for val in (f"{tmp_path}/B/images", "../B/images", f"{tmp_path}/list.txt"):
        config = sites(train=f"{tmp_path}/A/images", val=val)
        names = [record.name for split in ("train", "val") for record in yolo.read(config, split=split)]
        assert names == ["A/images/1.png", "B/images/1.png"]


@pytest.mark.parametrize("beside", [True, False])
def test_a_root_below_a_folder_called_images(tmp_path, picture, beside):
    """Labels lie beside the pictures, or below labels/ where the root itself is that of the pictures."""
    root = tmp_path / "images/field"
    picture(root / "a.png", SIZE)
    labels = root if beside else tmp_path / "labels/field"
    labels.mkdir(parents=True, exist_ok=True)
    (labels / "a.txt").write_text(f"0 {SQUARE}\n")
    (root / "data.yaml").write_text("names: [leaf]\ntrain: .\n")
    data = yolo.read(root)
    assert (len(data[0].labelled().targets), data.problems) == (1, ())


# --- out, and in again


@settings(max_examples=150, deadline=None)
@given(arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 12))))
def test_one_ring_with_keyholes_shows_the_same_pixels(bits):
    if not bits.any():
        return
    (polygons,) = Masks.from_dense(torch.from_numpy(bits[None])).outlines()
    ring = one_ring(polygons)
    window = outlines.fill([Polygon(ring, [])], bits.shape)
    drawn = np.zeros_like(bits)
    drawn[window.y0 :, window.x0 :][: window.bits.shape[0], : window.bits.shape[1]] = window.bits
    assert np.array_equal(drawn, bits)
    corners = sum(len(r) for p in polygons for r in (p.outer, *p.holes))
    rings = sum(1 + len(p.holes) for p in polygons)
    assert len(ring) == corners + 2 * (rings - 1)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.floats(-50, 50), st.floats(-50, 50)), min_size=3, max_size=8))
def test_clipping_keeps_what_is_inside(corners):
    points = np.array(corners)
    cut = clipped(points, np.array([-7.0, -9.0]), np.array([8.0, 11.0]))
    if len(cut):
        assert (cut.min(0) >= [-7 - 1e-9, -9 - 1e-9]).all()
        assert (cut.max(0) <= [8 + 1e-9, 11 + 1e-9]).all()
    moved, inside = points + 20, clipped(points, np.array([-60.0, -60.0]), np.array([60.0, 60.0]))
    assert np.array_equal(inside, points)
    assert len(clipped(moved, np.array([-99.0, -99.0]), np.array([-40.0, -40.0]))) == 0


def read_back(items, **options):
    with tempfile.TemporaryDirectory() as folder:
        for item in items:
            (Path(folder) / "in").mkdir(exist_ok=True)
            write_image(Path(folder) / "in" / Path(item.name).name, np.zeros((*item.size, 3), np.uint8))
        given = [
            Item(
                name=item.name,
                size=item.size,
                labelled=item.labelled,
                image=Path(folder) / "in" / Path(item.name).name,
            )
            for item in items
        ]
        written = yolo.write(Path(folder) / "out", CATEGORIES, given, **options)
        data = yolo.read(Path(folder) / "out")
        return written, data, [record.labelled() for record in data]


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), count=st.integers(0, 5), wide=st.booleans())
def test_round_trip(truth, seed, count, wide):
    targets = truth(seed, count, 3, overlap=seed % 2 == 0, crowd=True)
    if wide:
        masks = targets.masks.crop(0, 0, (targets.masks.size[0], 9973))
        targets = Targets.from_masks(masks, targets.labels, crowd=targets.crowd)
    item = Item(name="images/ü b.png", size=targets.masks.size, labelled=targets)
    written, data, (read,) = read_back([item])
    kept = targets[~targets.crowd]
    crowds = int(targets.crowd.sum())
    assert written.losses == {"category ids": 3} | ({"crowd regions left out": crowds} if crowds else {})
    assert (data.problems, read.problems, data[0].name) == ((), (), "images/train/ü b.png")
    assert data.categories == Categories(names=CATEGORIES.names, ids=(0, 1, 2))
    assert read.targets.masks.rle() == kept.masks.rle()
    assert read.targets.labels.tolist() == kept.labels.tolist()


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), count=st.integers(1, 4))
def test_predictions_keep_their_mask_score(found, seed, count):
    instances = found(seed, count, 3, overlap=True)
    item = Item(name="a.png", size=instances.masks.size, labelled=instances)
    written, _, (read,) = read_back([item])
    assert written.losses == {"category ids": 3, "qualities": len(instances)}
    back = read.instances()
    assert back.masks.rle() == instances.masks.rle()
    assert torch.equal(back.mask_scores, instances.mask_scores)
    assert back.labels.tolist() == instances.labels.tolist()


def test_a_second_split_is_added_and_other_names_are_refused(tmp_path):
    item = Item(name="a.png", size=(3, 3), labelled=Targets.none((3, 3)))
    yolo.write(tmp_path, CATEGORIES, [item])
    yolo.write(tmp_path, CATEGORIES, [item], split="val")
    stored = yaml.safe_load((tmp_path / "data.yaml").read_text("utf-8"))
    assert stored == {"train": "images/train", "val": "images/val", "names": dict(enumerate(CATEGORIES.names))}
    assert (tmp_path / "labels/val/a.txt").read_text() == ""
    assert yolo.splits(tmp_path) == ("train", "val")
    with pytest.raises(ValueError, match="other categories"):
        yolo.write(tmp_path, Categories(names=("x",)), [item], split="test")
    listed = stored | {"names": list(CATEGORIES.names)}
    (tmp_path / "data.yaml").write_text(yaml.safe_dump(listed))
    yolo.write(tmp_path, CATEGORIES, [item], split="test")
    assert yolo.splits(tmp_path) == ("train", "val", "test")


def test_names_that_cannot_be_written(tmp_path):
    none = Targets.none((3, 3))
    items = [Item(name=name, size=(3, 3), labelled=none) for name in ("a.png", "images/a.jpg")]
    with pytest.raises(ValueError, match="both be written"):
        yolo.write(tmp_path, CATEGORIES, items)
    with pytest.raises(ValueError, match="name of a picture"):
        yolo.write(tmp_path, CATEGORIES, [Item(name="b", size=(3, 3), labelled=none)])


def test_masks_without_pixels_are_counted():
    masks = Masks.from_dense(torch.zeros(1, 3, 3, dtype=torch.bool))
    empty = Targets.from_masks(masks, torch.tensor([0]))
    written, _, (read,) = read_back([Item(name="a.png", size=(3, 3), labelled=empty)])
    assert written.losses["instances without pixels"] == 1
    assert len(read.targets) == 0
    assert isinstance(read.instances(), Instances)

import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from maskwise.categories import Categories
from maskwise.data.dataset import Item
from maskwise.data.formats import mask_folder
from maskwise.masks import Masks
from maskwise.structures import Targets

CATEGORIES = Categories(names=("cell", "..", "a/b", "Zelle ü", "unseen"), ids=(5, 4, 3, 2, 1))


def put(path, bits, mode="L"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(bits, np.uint8) * 255).convert(mode).save(path)


def rules(problems):
    return sorted(p.rule for p in problems)


@pytest.fixture
def bowl(tmp_path, picture):
    """The layout of the Data Science Bowl 2018: two nuclei, one in two parts."""
    picture(tmp_path / "00ae/images/00ae.png", (2, 4))
    put(tmp_path / "00ae/masks/07a9bf1d.png", [[1, 0, 0, 1], [1, 0, 0, 0]])
    put(tmp_path / "00ae/masks/b2fe01c9.png", [[0, 1, 0, 0], [0, 1, 0, 0]], mode="1")
    return tmp_path


def test_reads_the_layout_of_the_bowl(bowl):
    assert mask_folder.detect(bowl) == "00ae/masks holds the masks of 00ae/images/00ae.png"
    data = mask_folder.read(bowl)
    assert (data.split, data.categories.names, data.problems) == ("", ("object",), ())
    assert [(r.name, r.id) for r in data] == [("00ae/images/00ae.png", "00ae")]
    labelled = pickle.loads(pickle.dumps(data[0])).labelled()
    assert labelled.ids == ("07a9bf1d.png", "b2fe01c9.png")
    assert labelled.targets.masks.area().tolist() == [3, 2]
    assert labelled.problems == ()


def test_stages_of_the_bowl_are_splits(bowl, tmp_path_factory):
    root = tmp_path_factory.mktemp("stages")
    bowl.rename(root / "stage1_train")
    assert mask_folder.splits(root) == ("stage1_train",)
    assert mask_folder.read(root)[0].name == "stage1_train/00ae/images/00ae.png"


def test_says_what_is_missing(bowl, picture):
    picture(bowl / "11/images/11.png")
    put(bowl / "22/masks/a.png", [[1]])
    picture(bowl / "33/images/a.png")
    picture(bowl / "33/images/b.png")
    (bowl / "33/masks").mkdir()
    problems = mask_folder.read(bowl).problems
    assert [(p.rule, p.file) for p in problems] == [
        ("missing-labels", "11/images/11.png"),
        ("missing-image", "22/masks"),
        ("missing-image", "33/masks"),
    ]
    assert "found 2" in problems[2].message


def test_says_what_is_wrong_with_a_mask(bowl, picture):
    masks = bowl / "00ae/masks"
    put(masks / "overlaps.png", [[1, 1, 0, 0], [0, 0, 0, 0]])
    put(masks / "empty.png", np.zeros((2, 4)))
    put(masks / "turned.png", np.ones((4, 2)))
    put(masks / "other.png", np.ones((3, 3)))
    (masks / "broken.png").write_bytes(b"x")
    picture(masks / "colours.png", (2, 4))
    labelled = mask_folder.read(bowl)[0].labelled()
    assert labelled.ids == ("07a9bf1d.png", "b2fe01c9.png", "overlaps.png")
    assert sorted((p.rule, p.file.rpartition("/")[2]) for p in labelled.problems) == [
        ("empty-mask", "empty.png"),
        ("overlapping-masks", "masks"),
        ("size-differs", "other.png"),
        ("size-swapped", "turned.png"),
        ("unreadable-labels", "broken.png"),
        ("unreadable-labels", "colours.png"),
    ]
    (overlap,) = (p for p in labelled.problems if p.rule == "overlapping-masks")
    assert (overlap.message[:9], overlap.severity) == ("2 pixels ", "warning")


@pytest.mark.parametrize(
    ("names", "classes"),
    [
        (["cell/1.png", "cell/2.png", "dirt/1.png"], ["cell", "cell", "dirt"]),
        (["cell_001.png", "dirt-2.png", "cell 3.png"], ["cell", "cell", "dirt"]),
        (["a_cell_1.png", "a_dirt_1.png"], ["cell", "dirt"]),
        (["mask_1.png", "mask_2.png"], ["object", "object"]),
        (["a_1.png", "a_2.png"], ["object", "object"]),
        (["cell_1.png", "2.png"], ["object", "object"]),
        (["07a9_1.png"], ["object"]),
        (["cell_1.png", "crowd_cell_2.png"], ["cell", "cell"]),
    ],
)
def test_classes_come_from_folders_or_names(tmp_path, picture, names, classes):
    picture(tmp_path / "images/a.jpg", (1, len(names)))
    for row, name in zip(np.eye(len(names)), names, strict=True):
        put(tmp_path / "masks/a" / name, row[None])
    data = mask_folder.read(tmp_path)
    targets = data[0].labelled().targets
    assert sorted(data.categories.name(k) for k in targets.labels.tolist()) == classes
    assert targets.crowd.sum() == sum("crowd" in name for name in names)


def test_a_class_that_is_not_listed_is_named(tmp_path, picture):
    picture(tmp_path / "images/a.jpg", (1, 1))
    put(tmp_path / "masks/a/leaf/1.png", [[1]])
    put(tmp_path / "masks/a/thorn/1.png", [[1]])
    put(tmp_path / "masks/b/leaf/1.png", [[1]])
    (tmp_path / "masks/c").mkdir()
    (tmp_path / "categories.json").write_text('{"names": ["leaf"]}')
    data = mask_folder.read(tmp_path)
    labelled = data[0].labelled()
    assert (labelled.ids, rules(labelled.problems)) == ((1,), ["unknown-category"])
    assert "'thorn' is no category" in labelled.problems[0].message
    assert [(p.rule, p.file) for p in data.problems] == [("missing-image", "masks/b")]


def test_other_layouts_are_not_claimed(tmp_path, picture):
    assert mask_folder.detect(tmp_path) is None
    picture(tmp_path / "images/a.png")
    picture(tmp_path / "masks/a.png")
    assert mask_folder.detect(tmp_path) is None
    picture(tmp_path / "sub/val/images/a.png")
    picture(tmp_path / "sub/val/masks/a.png")
    assert mask_folder.detect(tmp_path / "sub") is None


@given(seed=st.integers(0, 10**6), count=st.integers(0, 6))
def test_what_is_written_reads_back(seed, count, tmp_path_factory, picture, truth, same):
    root = tmp_path_factory.mktemp("folders")
    targets = truth(seed, count, 4, overlap=True, crowd=True)
    size = targets.masks.size
    image = picture(root / "in/a.png", size)
    ids = tuple(range(100, 100 + len(targets)))
    items = [
        Item(name="ü/a.png", size=size, labelled=targets, image=image, ids=ids),
        Item(name="empty.png", size=size, labelled=Targets.none(size), image=image),
    ]
    written = mask_folder.write(root / "out", CATEGORIES, items, split="val")
    assert written.losses == {}
    assert all(path.is_file() for path in written.files)
    data = mask_folder.read(root / "out")
    assert (data.split, data.categories, data.problems) == ("val", CATEGORIES, ())
    empty, full = data.records
    assert (len(empty.labelled().targets), full.name) == (0, "val/images/ü/a.png")
    labelled = full.labelled()
    assert sorted(labelled.ids) == [*ids]
    assert set(rules(labelled.problems)) <= {"overlapping-masks"}
    assert same(labelled.targets, targets)
    assert not [path for path in (root / "out").rglob("*.png") if not path.resolve().is_relative_to(root / "out")]


def test_losses_are_counted(tmp_path, found):
    instances = found(1, 3, 2)
    item = Item(name="a.png", size=instances.masks.size, labelled=instances)
    assert mask_folder.write(tmp_path, CATEGORIES, [item]).losses == {"scores": len(instances)}


def test_masks_that_a_picture_had_before_are_gone(tmp_path):
    def write(*names, ids):
        masks, found = Masks.from_label_map(np.array([ids]))
        targets = Targets.from_masks(masks, torch.zeros(len(found), dtype=torch.int64))
        items = [Item(name=name, size=(1, 3), labelled=targets, ids=found) for name in names]
        mask_folder.write(tmp_path, CATEGORIES, items)
        return {p.relative_to(tmp_path / "train/masks").as_posix() for p in tmp_path.rglob("*.png")}

    write("a.png", "a/b.png", "c.png", ids=[1, 2, 3])
    put(tmp_path / "train/masks/a/4.png", [[1, 1, 1]])
    kept = {f"c/cell/{i}.png" for i in (1, 2, 3)}
    assert write("a/b.png", "a.png", ids=[1, 1, 0]) == {"a/cell/1.png", "a/b/cell/1.png", *kept}


@pytest.fixture
def nested(tmp_path, picture):
    """Writes pictures of which one has the name of a folder of others, with their masks and classes."""

    def write(**given):
        items = []
        for name, (ids, labels) in given.items():
            masks, found = Masks.from_label_map(np.array([ids]))
            targets = Targets.from_masks(masks, torch.tensor(labels))
            inner = name.replace("_", "/") + ".png"
            image = picture(tmp_path / "in" / inner, (1, 4))
            items.append(Item(name=inner, size=(1, 4), labelled=targets, ids=found, image=image))
        mask_folder.write(tmp_path / "out", Categories(names=("cell", "b")), items)

    def read():
        records = {record.name.removeprefix("train/images/"): record for record in mask_folder.read(tmp_path / "out")}
        read = {name: record.labelled() for name, record in records.items()}
        assert not [problem for labelled in read.values() for problem in labelled.problems]
        return {name: (sorted(one.ids), sorted(one.targets.labels.tolist())) for name, one in read.items()}

    return write, read


def test_masks_of_a_picture_may_lie_below_those_of_another(nested):
    """One of them has a class that is called as the other picture is."""
    write, read = nested
    given = {"a": ([1, 1, 2, 0], [0, 1]), "a_b": ([5, 0, 6, 6], [0, 1]), "a_b_b": ([0, 0, 7, 8], [1, 0])}
    expected = {
        "a.png": ([1, 2], [0, 1]),
        "a/b.png": ([5, 6], [0, 1]),
        "a/b/b.png": ([7, 8], [0, 1]),
    }
    write(**given)
    assert read() == expected
    write(**dict(reversed(given.items())))
    assert read() == expected


def test_masks_of_a_picture_that_is_not_written_anew_stay(nested):
    write, read = nested
    write(a=([1, 1, 2, 0], [0, 1]), a_b=([5, 0, 6, 6], [0, 1]))
    write(a=([3, 3, 3, 3], [1]))
    assert read() == {"a.png": ([3], [1]), "a/b.png": ([5, 6], [0, 1])}
    write(a_b=([4, 4, 4, 4], [0]))
    assert read() == {"a.png": ([3], [1]), "a/b.png": ([4], [0])}


def test_masks_without_classes_may_lie_below_those_of_another(tmp_path, picture):
    for name in ("a", "a/b"):
        picture(tmp_path / f"images/{name}.png", (1, 2))
    put(tmp_path / "masks/a/1.png", [[1, 0]])
    put(tmp_path / "masks/a/b/1.png", [[1, 1]])
    data = mask_folder.read(tmp_path)
    assert data.categories.names == ("object",)
    areas = {record.name: record.labelled().targets.masks.area().tolist() for record in data}
    assert areas == {"images/a.png": [1], "images/a/b.png": [2]}


def test_a_class_that_is_too_long_for_a_folder_is_refused_first(tmp_path):
    with pytest.raises(ValueError, match=r"category 'ü{78}.* is too long for the name of a folder"):
        mask_folder.write(tmp_path, Categories(names=("a", "ü" * 90)), [])
    assert not list(tmp_path.rglob("*.json"))

import os
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from maskwise.categories import Categories
from maskwise.data.dataset import Item
from maskwise.data.formats import voc
from maskwise.masks import Masks
from maskwise.structures import Targets

CATEGORIES = Categories(names=("cat", "große Kuh", "dog"), ids=(3, 77, 254))


def rules(problems):
    return sorted(p.rule for p in problems)


def write_map(path, values, colours=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(np.asarray(values, np.uint8))
    if colours is not None:
        image.putpalette(colours.tobytes())
    image.save(path)


@pytest.fixture
def example(tmp_path, picture):
    """Two instances, 1 a person (15) in a band of 255, and 2 a bicycle (2)."""
    picture(tmp_path / "JPEGImages/2007_000032.jpg", (4, 6))
    instances = [[255, 255, 255, 0, 0, 0], [255, 1, 255, 0, 2, 2], [255, 255, 255, 0, 2, 2], [0] * 6]
    classes = [[255, 255, 255, 0, 0, 0], [255, 15, 255, 0, 2, 2], [255, 255, 255, 0, 2, 2], [0] * 6]
    write_map(tmp_path / "SegmentationObject/2007_000032.png", instances, voc.palette())
    write_map(tmp_path / "SegmentationClass/2007_000032.png", classes, voc.palette())
    (tmp_path / "ImageSets/Segmentation").mkdir(parents=True)
    (tmp_path / "ImageSets/Segmentation/val.txt").write_text("2007_000032\n")
    return tmp_path


def test_reads_instances_and_looks_their_class_up(example):
    assert "SegmentationObject" in (voc.detect(example) or "")
    data = voc.read(example)
    assert (data.split, [r.id for r in data], data.problems) == ("val", ["2007_000032"], ())
    labelled = pickle.loads(pickle.dumps(data[0])).labelled()
    assert labelled.ids == (1, 2)
    assert [data.categories.name(k) for k in labelled.targets.labels.tolist()] == ["person", "bicycle"]
    assert labelled.targets.masks.area().tolist() == [1, 4]
    assert labelled.targets.boxes[0].tolist() == [1, 1, 2, 2]
    assert labelled.problems == ()
    assert voc.ignored(data[0]).sum() == 8


def test_the_list_of_all_is_no_split_beside_its_parts(example):
    lists = example / "ImageSets/Segmentation"
    (lists / "trainval.txt").write_text("2007_000032\n")
    assert voc.splits(example) == ("trainval", "val")
    (lists / "train.txt").write_text("")
    assert voc.splits(example) == ("train", "val")
    assert len(voc.read(example, split="trainval")) == 1


def test_palette_is_that_of_the_challenge():
    known = {0: (0, 0, 0), 1: (128, 0, 0), 2: (0, 128, 0), 15: (192, 128, 128), 20: (0, 64, 128), 255: (224, 224, 192)}
    assert {i: tuple(voc.palette()[i].tolist()) for i in known} == known


def test_maps_in_colours_are_read_by_their_colours(example):
    for folder in ("SegmentationObject", "SegmentationClass"):
        path = example / folder / "2007_000032.png"
        Image.open(path).convert("RGB").save(path)
    labelled = voc.read(example)[0].labelled()
    assert (labelled.targets.labels.tolist(), labelled.problems) == ([14, 1], ())
    Image.new("RGB", (6, 4), (1, 2, 3)).save(path)
    assert "colours that stand for nothing, such as (1, 2, 3)" in voc.read(example)[0].labelled().problems[0].message


def test_names_of_classes_come_from_the_files_of_annotation_tools(example):
    (example / "labelmap.txt").write_text("# label:color_rgb:parts:actions\nperson:192,128,128::\nbackground:0,0,0::\n")
    data = voc.read(example)
    assert (data.categories.names, data.categories.ids) == (("person",), (15,))
    labelled = data[0].labelled()
    assert rules(labelled.problems) == ["unknown-category"]
    assert labelled.ids == (1,)
    (example / "labelmap.txt").unlink()
    (example / "class_names.txt").write_text("__ignore__\n_background_\nleaf\nstem\n")
    assert voc.read(example).categories == Categories(names=("leaf", "stem"))
    (example / "labelmap.txt").write_text("person 192\n")
    with pytest.raises(ValueError, match=r"labelmap.txt: expected name:red,green,blue"):
        voc.read(example)


def test_says_what_is_wrong_with_an_instance(example):
    classes = np.zeros((4, 6), np.uint8)
    classes[2, 4:] = 2
    classes[1, 4:] = [5, 2]
    classes[3, 0] = 9
    write_map(example / "SegmentationClass/2007_000032.png", classes)
    labelled = voc.read(example)[0].labelled()
    assert labelled.ids == (2,)
    said = {p.rule: str(p) for p in labelled.problems}
    assert "instance 1: no pixel of it has a class" in said["unknown-category"]
    assert "only 3 of its 4 pixels are bicycle" in said["mixed-classes"]
    assert "1 pixels have a class but belong to no instance" in said["class-without-instance"]


@pytest.mark.parametrize(("size", "rule"), [((6, 4), "size-swapped"), ((4, 5), "size-differs")])
def test_maps_of_another_size_are_left_out(example, picture, size, rule):
    picture(example / "JPEGImages/2007_000032.jpg", size)
    labelled = voc.read(example)[0].labelled()
    assert rules(labelled.problems) == [rule, rule]
    assert (len(labelled.targets), labelled.targets.masks.size) == (0, size)


def test_says_which_files_are_missing(example, picture):
    picture(example / "JPEGImages/unlabelled.jpg")
    listed = example / "ImageSets/Segmentation/val.txt"
    listed.write_text("2007_000032\n\nunlabelled \nabsent\n2007_000032\n")
    data = voc.read(example)
    assert [r.id for r in data] == ["2007_000032"]
    assert [(p.rule, p.file, p.where) for p in data.problems] == [
        ("duplicate-file", "ImageSets/Segmentation/val.txt", "line 5"),
        ("missing-labels", "JPEGImages/unlabelled.jpg", ""),
        ("missing-image", "JPEGImages/absent", ""),
    ]
    (example / "SegmentationObject/2007_000032.png").write_bytes(b"no picture")
    assert rules(data[0].labelled().problems) == ["unreadable-labels"]


def test_a_split_must_be_chosen_where_there_are_several(example):
    (example / "ImageSets/Segmentation/train.txt").write_text("")
    assert voc.splits(example) == ("train", "val")
    with pytest.raises(ValueError, match="choose one of: train, val"):
        voc.read(example)
    with pytest.raises(ValueError, match="no split 'test'; known: train, val"):
        voc.read(example, split="test")
    assert len(voc.read(example, split="train")) == 0


@given(seed=st.integers(0, 10**6), count=st.integers(0, 6))
def test_what_is_written_reads_back(seed, count, tmp_path_factory, picture, truth, same):
    root = tmp_path_factory.mktemp("voc")
    targets = truth(seed, count, 3)
    image = picture(root / "in/a b.png", targets.masks.size)
    item = Item(name="images/ü/a b.png", size=targets.masks.size, labelled=targets, image=image)
    written = voc.write(root / "out", CATEGORIES, [item], split="val")
    assert written.losses == {}
    assert all(path.is_file() for path in written.files)
    data = voc.read(root / "out")
    assert (data.split, data.categories, data.problems) == ("val", CATEGORIES, ())
    labelled = data[0].labelled()
    assert labelled.problems == ()
    assert same(labelled.targets, targets)
    again = voc.write(root / "again", data.categories, [Item.of(data[0])], split="val")
    maps = "SegmentationObject/ü/a b.png"
    assert (root / "again" / maps).read_bytes() == (root / "out" / maps).read_bytes()
    assert again.losses == {}


def test_losses_are_counted(tmp_path):
    dense = torch.zeros(4, 2, 4, dtype=torch.bool)
    dense[0, :, :2] = True
    dense[1, 0, :3] = True  # smaller, and so in front
    dense[2] = True  # a crowd, behind everything
    targets = Targets.from_masks(
        Masks.from_dense(dense), torch.tensor([0, 1, 2, 0]), crowd=torch.tensor([False, False, True, False])
    )
    written = voc.write(tmp_path, CATEGORIES, [Item(name="a.png", size=(2, 4), labelled=targets)])
    assert written.losses == {
        "pixels where masks overlapped": 7,
        "instances without pixels": 1,
        "crowds written as pixels to ignore": 1,
    }
    shown = np.asarray(Image.open(tmp_path / "SegmentationObject/a.png"))
    assert shown.tolist() == [[2, 2, 2, 255], [1, 1, 255, 255]]
    assert np.asarray(Image.open(tmp_path / "SegmentationClass/a.png")).tolist() == [
        [77, 77, 77, 255],
        [3, 3, 255, 255],
    ]


def test_what_the_format_cannot_hold_is_refused(tmp_path):
    masks = Masks.from_label_map(np.arange(1, 256)[None])[0]
    targets = Targets.from_masks(masks, torch.zeros(255, dtype=torch.int64))
    with pytest.raises(ValueError, match="255 instances, but this format holds at most 254"):
        voc.write(tmp_path, CATEGORIES, [Item(name="a.png", size=(1, 255), labelled=targets)])
    with pytest.raises(ValueError, match=r"labelmap.txt names other categories"):
        voc.write(tmp_path, Categories(names=("x",)), [])
    empty = [Item(name=name, size=(1, 1), labelled=Targets.none((1, 1))) for name in ("x/a.png", "x/a.jpg")]
    with pytest.raises(ValueError, match=r"x/a.png and x/a.jpg would both be written as x/a"):
        voc.write(tmp_path, CATEGORIES, empty)


def test_ids_of_categories_that_do_not_fit_are_given_up_and_counted(tmp_path):
    written = voc.write(tmp_path, Categories(names=("a", "b"), ids=(0, 1000)), [])
    assert written.losses == {"category ids": 2}
    for folder in ("JPEGImages", "SegmentationObject", "SegmentationClass"):
        (tmp_path / folder).mkdir()
    assert voc.read(tmp_path).categories == Categories(names=("a", "b"))


def test_a_picture_of_another_split_is_not_written_over(tmp_path, picture, truth, same):
    """All splits share one folder of pictures here: where another one has the name, the split goes before it."""
    found = {split: truth(seed, 3, 3) for split, seed in (("train", 1), ("val", 2))}
    for _ in range(2):
        for split, targets in found.items():
            image = picture(tmp_path / split / "images/1.png", targets.masks.size)
            item = Item(name=f"{split}/images/1.png", size=targets.masks.size, labelled=targets, image=image)
            voc.write(tmp_path / "out", CATEGORIES, [item], split=split)
    for split, targets in found.items():
        (record,) = voc.read(tmp_path / "out", split=split)
        assert record.id == {"train": "1", "val": "val/1"}[split]
        assert record.path.read_bytes() == (tmp_path / split / "images/1.png").read_bytes()
        assert same(record.labelled().targets, targets)


@pytest.mark.parametrize("stem", [b"Bl\xe4tt", "a\u2028b".encode(), "a\x85b".encode()])
def test_names_that_are_no_text_or_hold_odd_separators_are_listed_as_they_are(tmp_path, picture, stem):
    name = os.fsdecode(stem + b".png")
    item = Item(name=name, size=(2, 3), labelled=Targets.none((2, 3)), image=picture(tmp_path / "a.png", (2, 3)))
    voc.write(tmp_path / "out", CATEGORIES, [item], split="val")
    assert (tmp_path / "out/ImageSets/Segmentation/val.txt").read_bytes() == stem + b"\n"
    data = voc.read(tmp_path / "out")
    assert ([record.name for record in data], data.problems) == ([f"JPEGImages/{name}"], ())


def test_a_picture_that_has_no_name_left_is_refused(tmp_path):
    def item(name):
        return Item(name=name, size=(1, 1), labelled=Targets.none((1, 1)))

    voc.write(tmp_path, CATEGORIES, [item("1.png"), item("val/1.png")])
    with pytest.raises(ValueError, match=r"train.txt lists 1 and val/1 already; rename 1.png"):
        voc.write(tmp_path, CATEGORIES, [item("1.png")], split="val")

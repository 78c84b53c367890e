import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from maskwise.categories import Categories
from maskwise.data.check import check
from maskwise.data.convert import convert
from maskwise.data.dataset import DataSet, Item, Record
from maskwise.data.formats import label_map, mask_folder
from maskwise.data.images import list_images, write_label_map
from maskwise.data.open import candidates, open_data
from maskwise.data.stats import Spread, stats
from maskwise.masks import Masks
from maskwise.structures import Targets

CATEGORIES = Categories(names=("leaf", "stem", "root"))


def targets(*rows, labels=None, crowd=None):
    """Masks drawn as text: a letter in each pixel, the same letter for the same instance."""
    letters = np.array([list(row) for row in rows])
    names = sorted(set("".join(rows)) - {"."})
    dense = torch.from_numpy(np.stack([letters == name for name in names]))
    return Targets.from_masks(
        Masks.from_dense(dense),
        torch.tensor(labels or [0] * len(names)),
        crowd=torch.tensor(crowd or [False] * len(names)),
    )


def block(side, **rest):
    return targets(*["a" * side + "."] * side, **rest)


@pytest.fixture
def make(tmp_path, picture):
    """Write label maps of pictures, split by split, and read them back."""

    def write(splits):
        for split, pictures in splits.items():
            items = []
            for name, found in pictures.items():
                size = found.masks.size
                items.append(Item(name=name, size=size, labelled=found, image=picture(tmp_path / f"in/{name}", size)))
            label_map.write(tmp_path / "set", CATEGORIES, items, split=split)
        return [label_map.read(tmp_path / "set", split=split) for split in splits]

    return write


def rules(problems):
    return [(p.rule, p.severity) for p in problems]


def test_nothing_is_wrong_with_a_good_one(make):
    rows = ["aaaabbbb"] * 4 + ["cccccccc"] * 2
    (data,) = make({"train": {"a.png": targets(*rows, labels=[0, 1, 2])}})
    assert check(data) == []


@pytest.mark.parametrize("format", ["coco", "labelme", "yolo"])
def test_a_name_that_no_file_can_have_is_a_missing_picture(tmp_path, format):
    name = "x" * 300 + ".png"
    image = {"id": 1, "file_name": name, "width": 4, "height": 3}
    sheet = {"imagePath": name, "imageWidth": 4, "imageHeight": 3, "shapes": []}
    files = {
        "coco": {"train.json": json.dumps({"images": [image], "annotations": [], "categories": []})},
        "labelme": {"a.json": json.dumps(sheet)},
        "yolo": {"data.yaml": "train: train.txt\nnames: [leaf]\n", "train.txt": f"images/{name}\n"},
    }
    (tmp_path / "images").mkdir()
    for file, text in files[format].items():
        (tmp_path / file).write_text(text)
    assert ("missing-image", "error") in rules(check(open_data(tmp_path, format=format)))


def test_names_what_is_wrong_with_the_whole(make):
    crowd = block(5, labels=[0], crowd=[True])
    (data,) = make({"train": {"a.png": crowd, "b.png": targets("ab", labels=[0, 0])}})
    problems = check(data)
    assert rules(problems) == [("tiny-objects", "note"), ("crowd-share", "warning"), ("unused-category", "note")]
    assert [p.message for p in problems] == [
        "2 of 3 (67 %) instances have fewer than 16 pixels",
        "1 of 3 (33 %) instances are crowds, which are neither trained nor judged; was that meant?",
        "2 of 3 categories have no instance: stem, root",
    ]
    assert {p.file for p in problems} == {"train"}


def test_a_data_set_without_instances_or_pictures_is_an_error(make):
    (data,) = make({"val": {"a.png": Targets.none((3, 3))}})
    assert rules(check(data)) == [("no-instances", "error")]
    assert rules(check(DataSet("voc", data.root, "", CATEGORIES, (), ()))) == [("no-pictures", "error")]


def test_pictures_with_the_same_bytes_are_named_once(make):
    train, val = make({"train": {"a.png": block(4)}, "val": {"b.png": block(4), "c.png": block(4)}})
    val[0].path.write_bytes(train[0].path.read_bytes())
    twins = [p for p in check(train, val) if p.rule == "duplicate-image"]
    assert [(p.file, p.severity) for p in twins] == [("val/images/b.png", "warning")]
    assert "same picture as train/images/a.png of split train: what is learned there is judged here" in twins[0].message
    assert not [p for p in check(val) if p.rule == "duplicate-image"]


def test_a_picture_that_is_closed_to_us_is_one_finding(make, monkeypatch):
    (data,) = make({"train": {"a.png": block(4), "b.png": block(4)}})
    closed, opened = data[0].path, Path.open
    data[1].path.write_bytes(closed.read_bytes())

    def refuse(path, *rest, **options):
        if path == closed:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return opened(path, *rest, **options)

    monkeypatch.setattr(Path, "open", refuse)
    assert [p for p in check(data) if p.rule == "duplicate-image"] == []


@pytest.mark.parametrize("told", [True, False], ids=["permissions tell", "only trying tells"])
def test_what_is_closed_to_us_is_passed_over_where_nobody_asked_for_it(told, make, monkeypatch, caplog):
    (data,) = make({"train": {"a.png": block(4)}})
    closed, known = data.root / "closed", {name: getattr(Path, name) for name in ("open", "stat", "iterdir")}
    closed.mkdir()
    (data.root / "x.json").write_text("{}")

    def refuse(name, path, *rest, **options):
        if path.parent == closed or (name != "stat" and path in (closed, data.root / "x.json")):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return known[name](path, *rest, **options)

    for name in known:
        monkeypatch.setattr(Path, name, lambda *rest, name=name, **options: refuse(name, *rest, **options))
    known["scandir"] = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: refuse("scandir", Path(path)))
    monkeypatch.setattr(os, "access", lambda path, _: path != closed or not told)
    assert {path.name for path in list_images(data.root)} == {"a.png"}
    assert candidates(data.root).keys() == {"label_map"}
    assert caplog.messages == [f"{closed}: closed to us, passed over"]


def test_an_object_annotated_twice_is_named(make):
    (data,) = make({"train": {"a.png": block(4)}})
    masks = Masks.from_dense(torch.ones(4, 4, 5, dtype=torch.bool))
    fourfold = Targets.from_masks(masks, torch.tensor([0, 1, 0, 0]))
    record = data[0]
    labelled = record.labelled()
    twins = type(labelled)(fourfold, (7, 8, 9, 10))
    data = DataSet("x", data.root, "", CATEGORIES, (Record(record.name, record.path, 1, (4, 5), lambda: twins),), ())
    found = [(p.where, p.message) for p in check(data) if p.rule == "duplicate-instance"]
    assert found == [(f"annotation {i}", "the same mask and class as annotation 7") for i in (9, 10)]


def test_pictures_are_missing_damaged_or_of_another_size(make, picture):
    pictures = {f"{name}.png": block(4) for name in "abcd"}
    (data,) = make({"train": pictures})
    data[0].path.unlink()
    data[1].path.write_bytes(b"")
    picture(data[2].path, (5, 4))
    whole = data[3].path.read_bytes()
    data[3].path.write_bytes(whole[: len(whole) // 2])
    assert [(p.rule, p.file) for p in check(data)][:3] == [
        ("missing-image", "train/images/a.png"),
        ("unreadable-image", "train/images/b.png"),
        ("size-swapped", "train/masks/c.png"),
    ]
    deep = [p.file for p in check(data, pixels=True) if p.rule == "unreadable-image"]
    assert deep == ["train/images/b.png", "train/images/d.png"]


@pytest.mark.long
def test_workers_find_the_same(make):
    splits = make({"train": {"a.png": block(4), "b.png": targets("ab")}, "val": {"a.png": block(2)}})
    splits[0][1].path.unlink()
    alone = check(*splits)
    assert "missing-image" in [p.rule for p in alone]
    assert check(*splits, workers=1) == alone


_UNGUARDED = """
import sys
from pathlib import Path
from maskwise.data.check import check
from maskwise.data.open import open_data

with Path(__file__).with_name("runs").open("a") as file:
    file.write("run ")
print(len(check(open_data(sys.argv[1], split="train"), workers=1)))
"""


@pytest.mark.long
def test_workers_leave_the_script_alone(make, tmp_path):
    splits = make({"train": {"a.png": block(4), "b.png": targets("ab")}})
    script = tmp_path / "script.py"
    script.write_text(_UNGUARDED)
    command = [sys.executable, str(script), str(splits[0].root)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert (done.returncode, done.stdout) == (0, f"{len(check(*splits))}\n"), done.stderr
    assert (tmp_path / "runs").read_text() == "run "


def test_counts(make, tmp_path):
    ring = targets("aaa..", "a.a.b", "aaa..", "....b", "ccccc", labels=[0, 1, 2], crowd=[False, False, True])
    (data,) = make({"val": {"a.png": ring, "b.png": Targets.none((2, 7)), "c.png": block(100), "d.png": block(40)}})
    data[1].path.write_bytes(b"")
    counted = stats(data)
    assert (counted.format, counted.split, counted.pictures, counted.unreadable, counted.empty) == (
        *("label_map", "val", 4, 1, 0),
    )
    assert (counted.instances, counted.crowd, counted.sizes) == (4, 1, 3)
    assert (counted.small, counted.medium, counted.large) == (2, 1, 1)
    assert (counted.with_holes, counted.in_parts) == (1, 1)
    assert counted.areas == Spread(2, 804, 10_000)
    assert counted.per_picture == Spread(1, 1, 2)
    assert counted.widths == Spread(5, 41, 101)
    assert counted.covered == pytest.approx((10 + 10_000 + 1600) / (25 + 10_100 + 1640))
    assert counted.overlap == 0
    assert [(c.name, c.instances, c.pictures, c.small, c.medium, c.large) for c in counted.classes] == [
        ("leaf", 3, 3, 1, 1, 1),
        ("stem", 1, 1, 1, 0, 0),
        ("root", 0, 0, 0, 0, 0),
    ]


@pytest.mark.parametrize(
    ("rows", "holes", "parts"),
    [
        (["a"], 0, 0),
        (["a.", ".a"], 0, 0),
        (["a..", "..a"], 0, 1),
        ([".a.", "a.a", ".a."], 1, 0),
        (["a.a", "aaa", "a.a"], 0, 0),
        (["aaaa", "a..a", "aaa."], 1, 0),
        (["a.a"], 0, 1),
        (["aaa", "...", "aaa"], 0, 1),
    ],
)
def test_holes_and_parts(make, rows, holes, parts):
    counted = stats(make({"train": {"a.png": targets(*rows)}})[0])
    assert (counted.with_holes, counted.in_parts) == (holes, parts)


def test_overlap_is_the_share_of_pixels_of_more_than_one(make):
    (data,) = make({"train": {"a.png": block(2)}})
    dense = torch.zeros(2, 2, 3, dtype=torch.bool)
    dense[0] = True
    dense[1, 0] = True
    labelled = type(data[0].labelled())(Targets.from_masks(Masks.from_dense(dense), torch.tensor([0, 0])), (1, 2))
    record = Record("a.png", data[0].path, 1, None, lambda: labelled)
    counted = stats(DataSet("x", data.root, "", CATEGORIES, (record,), ()))
    assert (counted.covered, counted.overlap) == (1.0, 0.5)


def test_statistics_of_nothing(tmp_path):
    counted = stats(DataSet("x", tmp_path, "", CATEGORIES, (), ()))
    assert (counted.pictures, counted.areas, counted.per_picture) == (0, None, None)
    assert (counted.covered, counted.overlap) == (0, 0)


def test_conversion_keeps_instances_and_counts_losses(make, tmp_path, same):
    tree = targets("aab", "aac", labels=[2, 1, 0], crowd=[False, True, False])
    (data,) = make({"val": {"x/a.png": tree, "b.png": block(4), "c.png": block(4)}})
    data[0].path.unlink()
    write_label_map(tmp_path / "set/val/masks/c.png", np.full((4, 5), 2))
    done = convert(data, tmp_path / "out", "mask_folder")
    assert (done.split, done.pictures, done.instances) == ("val", 2, 3)
    assert done.losses == {"annotations or files left out for an error": 3, "pictures": 1}
    assert sorted(p.rule for p in done.problems) == ["empty-mask", "missing-image", "unknown-category"]
    again = {r.id: r.labelled().targets for r in mask_folder.read(tmp_path / "out")}
    assert same(again["x/a"], tree)
    assert len(again["c"]) == 0

import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from maskwise.categories import Categories
from maskwise.data.dataset import Item
from maskwise.data.formats import cityscapes
from maskwise.data.images import write_label_map
from maskwise.masks import Masks
from maskwise.structures import Targets

ULM = "ulm/ulm_000000_000019"


@pytest.fixture
def example(tmp_path, picture):
    """Two cars, a group of people, a caravan, road (7), void (4), and a tunnel (16)."""
    picture(tmp_path / f"leftImg8bit/train/{ULM}_leftImg8bit.png", (2, 6))
    ids = np.array([[26000, 26000, 26001, 24, 24, 7], [29000, 4, 26001, 24, 16, 7]])
    path = tmp_path / f"gtFine/train/{ULM}_gtFine_instanceIds.png"
    path.parent.mkdir(parents=True)
    write_label_map(path, ids)
    return tmp_path


def test_reads_instances_and_groups(example):
    assert "gtFine" in (cityscapes.detect(example) or "")
    data = cityscapes.read(example)
    assert (data.split, data.problems) == ("train", ())
    assert [(r.name, r.id) for r in data] == [(f"leftImg8bit/train/{ULM}_leftImg8bit.png", "ulm_000000_000019")]
    labelled = pickle.loads(pickle.dumps(data[0])).labelled()
    assert labelled.ids == (24, 26000, 26001)
    targets = labelled.targets
    assert [data.categories.name(k) for k in targets.labels.tolist()] == ["person", "car", "car"]
    assert targets.crowd.tolist() == [True, False, False]
    assert targets.masks.area().tolist() == [3, 2, 2]
    assert [(p.rule, p.severity) for p in labelled.problems] == [("class-not-judged", "note")]
    assert "1 of caravan" in labelled.problems[0].message
    assert cityscapes.ignored(data[0]).tolist() == [[False] * 6, [False, True, False, False, True, False]]


def test_ids_of_no_class_are_named(example):
    path = example / f"gtFine/train/{ULM}_gtFine_instanceIds.png"
    write_label_map(path, np.array([[40001, 40002, 0, 0, 0, 0], [0] * 6]))
    (problem,) = cityscapes.read(example)[0].labelled().problems
    assert (problem.rule, problem.severity) == ("unknown-category", "error")
    assert "2 instances of class 40" in problem.message


def test_says_which_files_are_missing_or_of_another_size(example, picture):
    picture(example / "leftImg8bit/train/ulm/ulm_1_1_leftImg8bit.png")
    other = example / "gtFine/train/ulm/ulm_2_2_gtFine_instanceIds.png"
    write_label_map(other, np.zeros((2, 6), int))
    data = cityscapes.read(example)
    assert len(data) == 1
    assert [(p.rule, p.file, p.severity) for p in data.problems] == [
        ("missing-labels", "leftImg8bit/train/ulm/ulm_1_1_leftImg8bit.png", "warning"),
        ("missing-image", "gtFine/train/ulm/ulm_2_2_gtFine_instanceIds.png", "error"),
    ]
    write_label_map(example / f"gtFine/train/{ULM}_gtFine_instanceIds.png", np.zeros((6, 2), int))
    labelled = data[0].labelled()
    assert ([p.rule for p in labelled.problems], len(labelled.targets)) == (["size-swapped"], 0)


def test_an_empty_picture_is_no_problem(example):
    write_label_map(example / f"gtFine/train/{ULM}_gtFine_instanceIds.png", np.full((2, 6), 7))
    labelled = cityscapes.read(example)[0].labelled()
    assert (len(labelled.targets), labelled.problems) == (0, ())


@given(seed=st.integers(0, 10**6), count=st.integers(0, 6))
def test_what_is_written_reads_back(seed, count, tmp_path_factory, picture, truth, same):
    root = tmp_path_factory.mktemp("cityscapes")
    targets = truth(seed, count, 8)
    image = picture(root / "in/7.png", targets.masks.size)
    item = Item(name="bonn/7.png", size=targets.masks.size, labelled=targets, image=image)
    written = cityscapes.write(root / "out", cityscapes.CATEGORIES, [item], split="val")
    assert written.losses == {}
    assert all(path.is_file() for path in written.files)
    data = cityscapes.read(root / "out")
    assert (data.split, data.problems, data[0].name) == ("val", (), "leftImg8bit/val/bonn/7_leftImg8bit.png")
    assert data[0].path.read_bytes() == image.read_bytes()
    assert same(data[0].labelled().targets, targets)
    cityscapes.write(root / "again", data.categories, [Item.of(data[0])], split="val")
    for path in written.files:
        assert (root / "again" / path.relative_to(root / "out")).read_bytes() == path.read_bytes()


def test_groups_and_ids_survive_and_losses_are_counted(example, picture):
    data = cityscapes.read(example)
    written = cityscapes.write(example / "out", data.categories, [Item.of(data[0])])
    assert written.losses == {}
    assert cityscapes.read(example / "out")[0].labelled().ids == (24, 26000, 26001)

    dense = torch.eye(5, dtype=torch.bool)[:, None]
    categories = Categories(names=("zebra", "bus"))
    crowd = torch.tensor([False, True, True, False, False])
    targets = Targets.from_masks(Masks.from_dense(dense), torch.tensor([0, 1, 1, 1, 1]), crowd=crowd)
    image = picture(example / "IMG_7.jpg", (1, 5))
    item = Item(name="IMG_7.jpg", size=(1, 5), labelled=targets, image=image, ids=(1, 2, 3, 28005, 28005))
    written = cityscapes.write(example / "other", categories, [item])
    counted = {"instances of other classes": 1, "crowds merged into one of their class": 1}
    assert written.losses == counted | {"instance ids": 1}, "one of the two that are 28005"
    (record,) = cityscapes.read(example / "other").records
    assert record.name == "leftImg8bit/train/IMG/IMG_7_leftImg8bit.png"
    assert record.path.read_bytes()[1:4] == b"PNG"
    labelled = record.labelled()
    assert labelled.ids == (28, 28000, 28005)
    assert labelled.targets.masks.area().tolist() == [2, 1, 1]


def test_what_the_format_cannot_hold_is_refused(tmp_path):
    masks = Masks.from_label_map(np.arange(1, 1003)[None])[0]
    targets = Targets.from_masks(masks, torch.zeros(1002, dtype=torch.int64))
    item = Item(name="a.png", size=(1, 1002), labelled=targets)
    with pytest.raises(ValueError, match=r"a.png: this format holds 1,000 instances of class 24, there are more"):
        cityscapes.write(tmp_path, cityscapes.CATEGORIES, [item])
    with pytest.raises(ValueError, match="none of the categories is one of them: leaf"):
        cityscapes.write(tmp_path, Categories(names=("leaf",)), [])


def test_results_are_written_as_the_benchmark_reads_them(tmp_path, found):
    predictions = found(3, 4, 9, overlap=True)
    categories = Categories(names=("zebra", *cityscapes.CATEGORIES.names))
    predictions.labels[:2] = torch.tensor([0, 8])
    item = Item(name=f"leftImg8bit/test/{ULM}_leftImg8bit.png", size=predictions.masks.size, labelled=predictions)
    written = cityscapes.write_results(tmp_path, categories, [item])
    assert written.losses == {"instances of other classes": 1}
    lines = [line.split(" ") for line in (tmp_path / "ulm_000000_000019.txt").read_text().splitlines()]
    kept = [i for i in range(len(predictions)) if predictions.labels[i] > 0]
    assert [float(score) for _, _, score in lines] == predictions.mask_scores[kept].tolist()
    assert lines[0][1] == "33"
    for (name, _, _), i in zip(lines, kept, strict=True):
        mask = np.asarray(Image.open(tmp_path / name))
        assert (mask.dtype, mask.ndim) == (np.uint8, 2)
        assert ((mask != 0) == predictions.masks.dense()[i].numpy()).all()


def test_results_need_scores_and_names_without_spaces(tmp_path):
    nothing = Item(name="a b.png", size=(1, 1), labelled=Targets.none((1, 1)))
    with pytest.raises(ValueError, match="must have none"):
        cityscapes.write_results(tmp_path, cityscapes.CATEGORIES, [nothing])
    nothing = Item(name="a.png", size=(1, 1), labelled=Targets.none((1, 1)))
    with pytest.raises(ValueError, match="predictions with scores, got ground truth"):
        cityscapes.write_results(tmp_path, cityscapes.CATEGORIES, [nothing])

import pickle
from dataclasses import replace
from functools import partial

import pytest
import torch

from maskwise.categories import Categories
from maskwise.data.dataset import DataSet, Item, Labelled, Problem, Record, Scores, crowds_as_instances, picture_problem
from maskwise.data.formats.table import FORMATS
from maskwise.data.open import candidates, open_data
from maskwise.structures import Instances, Targets


def labelled(targets, ids=None, scores=None):
    return Labelled(targets, ids or tuple(range(len(targets))), scores=scores)


def record(path, targets, size=None):
    return Record(name=path.name, path=path, id=1, size=size, labelled=partial(labelled, targets))


def test_problem_reads_as_a_line():
    assert str(Problem("a.json", "annotation 3", "bad-rle", "cut off")) == "a.json: annotation 3: cut off [bad-rle]"
    assert str(Problem("a.json", "", "bad-json", "empty")) == "a.json: empty [bad-json]"


def test_as_many_ids_as_instances(truth):
    targets = truth(1, 3, 2)
    with pytest.raises(ValueError, match=f"{len(targets)} instances but 1 ids"):
        Labelled(targets, (7,))


def test_predictions_are_ranked_by_mask_score(truth):
    targets = truth(5, 4, 2)
    n = len(targets)
    assert n > 1
    scores = Scores(torch.linspace(1, 0.5, n), torch.linspace(0.1, 1, n), torch.linspace(0.2, 0.9, n))
    found = labelled(targets, scores=scores).instances()
    assert found.mask_scores.tolist() == sorted(scores.mask_scores.tolist(), reverse=True)
    assert found.masks.rle() == targets.masks.rle()[::-1]
    with pytest.raises(ValueError, match="no scores"):
        labelled(targets).instances()


def test_nothing_found_needs_no_scores():
    found = labelled(Targets.none((3, 4))).instances()
    assert isinstance(found, Instances)
    assert (len(found), found.masks.size) == (0, (3, 4))


@pytest.mark.parametrize(
    ("stated", "rule"), [(None, None), ((6, 8), None), ((8, 6), "size-swapped"), ((6, 9), "size-differs")]
)
def test_compares_the_stated_size_with_the_picture(tmp_path, picture, stated, rule):
    problem = picture_problem(record(picture(tmp_path / "a.png", (6, 8)), Targets.none((6, 8)), stated))
    assert (problem and problem.rule) == rule


def test_missing_and_unreadable_pictures_are_told_apart(tmp_path):
    (tmp_path / "bad.png").write_bytes(b"\x89PNG\r\n")
    rules = [picture_problem(record(tmp_path / name, Targets.none((1, 1)))) for name in ("none.png", "bad.png")]
    assert [problem and problem.rule for problem in rules] == ["missing-image", "unreadable-image"]


@pytest.mark.parametrize("name", ["", ".", "/etc/passwd", "../a.png", "a/../../b.png", "a\0.png"])
def test_a_name_stays_inside_the_data_set(name):
    with pytest.raises(ValueError, match="relative path inside"):
        Item(name=name, size=(1, 1), labelled=Targets.none((1, 1)))


def test_an_item_fits_itself(truth):
    targets = truth(2, 3, 1)
    with pytest.raises(ValueError, match="the picture is"):
        Item(name="a.png", size=(999, 1), labelled=targets)
    with pytest.raises(ValueError, match="ids"):
        Item(name="a.png", size=targets.masks.size, labelled=targets, ids=("x",) * (len(targets) + 1))


def test_an_item_of_a_record_keeps_ids_of_truth_and_drops_those_of_ranked_predictions(tmp_path, truth):
    targets = truth(3, 4, 2)
    item = Item.of(record(tmp_path / "a.png", targets))
    assert (item.ids, item.size, item.image) == (tuple(range(len(targets))), targets.masks.size, tmp_path / "a.png")
    ones = torch.ones(len(targets))
    scored = partial(labelled, targets, scores=Scores(ones, ones, ones))
    found = Item.of(replace(record(tmp_path / "a.png", targets), labelled=scored))
    assert found.ids is None
    assert isinstance(found.labelled, Instances)


def test_crowds_can_be_read_as_instances(tmp_path, truth):
    targets = truth(4, 5, 2)
    targets = replace(targets, crowd=torch.ones(len(targets), dtype=torch.bool))
    data = DataSet("x", tmp_path, "", Categories(names=("a",)), (record(tmp_path / "a.png", targets),), ())
    read = pickle.loads(pickle.dumps(crowds_as_instances(data)))[0].labelled()
    assert not read.targets.crowd.any()
    assert read.targets.masks.rle() == targets.masks.rle()


@pytest.mark.parametrize("name", ["coco", "yolo", "labelme", "voc", "label_map", "mask_folder"])
def test_opens_what_it_wrote_and_says_why(tmp_path, name, picture, truth, caplog):
    targets = truth(6, 3, 2)
    item = Item(
        name="ä b.png", size=targets.masks.size, labelled=targets, image=picture(tmp_path / "p.png", targets.masks.size)
    )
    FORMATS[name].write(tmp_path / "out", Categories(names=("a", "b")), [item])
    with caplog.at_level("INFO"):
        data = open_data(tmp_path / "out")
    assert (data.format, len(data), len(data[0].labelled().targets)) == (name, 1, len(targets))
    assert f"{name}, because" in caplog.text
    assert [open_data(tmp_path / "out", format=name, split=data.split).format] == [name]


@pytest.mark.parametrize("name", ["yolo", "voc", "label_map", "mask_folder"])
def test_a_picture_that_its_reader_would_not_see_is_not_written(tmp_path, name):
    item = Item(name="images/frame.0001", size=(2, 2), labelled=Targets.none((2, 2)))
    with pytest.raises(ValueError, match=r"images/frame.0001: expected the name of a picture, such as frame\.png"):
        FORMATS[name].write(tmp_path, Categories(names=("a",)), [item])


def test_refuses_what_is_unclear(tmp_path, truth):
    with pytest.raises(ValueError, match="no such file"):
        open_data(tmp_path / "none")
    with pytest.raises(ValueError, match="none of the formats coco, yolo"):
        open_data(tmp_path)
    with pytest.raises(ValueError, match="unknown format 'cocoo'"):
        open_data(tmp_path, format="cocoo")
    item = Item(name="a.png", size=(2, 2), labelled=Targets.none((2, 2)))
    for name in ("coco", "yolo"):
        FORMATS[name].write(tmp_path, Categories(names=("a",)), [item])
    assert set(candidates(tmp_path)) == {"coco", "yolo"}
    with pytest.raises(ValueError, match=r"more than one format: coco \(.*yolo \("):
        open_data(tmp_path)
    assert open_data(tmp_path, format="coco").format == "coco"


def test_what_predictions_say_of_themselves_is_no_data_set(tmp_path):
    (tmp_path / "predict.json").write_text('{"model": {"name": "nuclei"}, "categories": [], "sources": []}')
    with pytest.raises(ValueError, match=r"it holds predictions, whose data sets are folders in it, such as .*coco"):
        open_data(tmp_path)
    (tmp_path / "predict.json").write_text('{"categories": [], "images": [], "annotations": []}')
    assert set(candidates(tmp_path)) == {"coco"}


def test_a_split_must_be_chosen_where_there_are_two(tmp_path):
    item = Item(name="a.png", size=(2, 2), labelled=Targets.none((2, 2)))
    for split in ("train", "val2017"):
        FORMATS["coco"].write(tmp_path, Categories(names=("a",)), [item], split=split)
    with pytest.raises(ValueError, match="choose one of: train, val2017"):
        open_data(tmp_path)
    assert open_data(tmp_path, split="val").split == "val2017"
    with pytest.raises(ValueError, match="no split 'test'"):
        open_data(tmp_path, split="test")

import json
import logging
from dataclasses import replace

import pytest
import torch
from pictures import write_scenes
from tiny_method import METHODS, Tiny, tiny_run

from maskwise.data.source import FileSource
from maskwise.data.synthetic.scenes import Scenes
from maskwise.data.transforms import HorizontalFlip, VerticalFlip
from maskwise.evaluate.structures import truth_of
from maskwise.methods import mask_rcnn
from maskwise.model import load
from maskwise.recipes.coco import MIRRORED
from maskwise.recipes.run import Data, Files, Schedule, Synthetic
from maskwise.recipes.sources import mirrors_told, opened_split, sources
from maskwise.recipes.table import RECIPES
from maskwise.train import train

PAIRS = ("eye", "ear", "shoulder", "elbow", "wrist", "hip", "knee", "ankle")
POINTS = ["nose", *(f"{side}_{of}" for of in PAIRS for side in ("left", "right"))]


def test_pictures_without_annotations_are_learned_from_or_not_but_always_judged(tmp_path):
    data = write_scenes(tmp_path / "data", train=4, val=3)
    for split in ("train", "val"):
        stored = json.loads((data / f"{split}.json").read_text())
        first = stored["images"][0]["id"]
        stored["annotations"] = [one for one in stored["annotations"] if one["image_id"] != first]
        (data / f"{split}.json").write_text(json.dumps(stored))
    for empty, expected in ((True, (4, 3)), (False, (3, 3))):
        found = sources(Data(source=Files(path=str(data), empty=empty)))
        assert (len(found.train), len(found.val)) == expected
    assert len(opened_split(Files(path=str(data)), None)) == 3


def test_the_format_is_said_once(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    source = Files(path=str(write_scenes(tmp_path / "data", train=1, val=1)))
    sources(Data(source=source))
    assert caplog.text.count("because") == 1
    opened_split(source, None)
    assert caplog.text.count("because") == 2


def test_splits_of_other_classes_are_refused(tmp_path):
    data = write_scenes(tmp_path / "data", train=1, val=1)
    (data / "val.json").write_text((data / "val.json").read_text().replace("disc", "dish"))
    with pytest.raises(ValueError, match="the splits train and val have different categories"):
        sources(Data(source=Files(path=str(data))))


@pytest.fixture
def people(tmp_path):
    """COCO's people, as they come, but in one class of scenes."""
    data = write_scenes(tmp_path / "people", train=2, val=2)
    (data / "annotations").mkdir()
    for split in ("train", "val"):
        stored = json.loads((data / f"{split}.json").read_text())
        (data / f"{split}.json").unlink()
        stored["categories"] = [{"id": 1, "name": "person", "keypoints": POINTS}]
        (data / f"{split}2017").mkdir()
        for one in stored["images"]:
            (data / one["file_name"]).rename(data / f"{split}2017" / one["file_name"])
        for one in stored["annotations"]:
            x, y, w, h = one["bbox"]
            one |= {"category_id": 1, "keypoints": [x + w / 2, y + h / 2, 2] * 17, "num_keypoints": 17}
        (data / "annotations" / f"person_keypoints_{split}2017.json").write_text(json.dumps(stored))
    return data


def test_the_keypoint_recipe_reads_cocos_files_and_mirrors_as_they_say(people):
    run = RECIPES["keypoint_rcnn_r50_fpn_coco"](data=str(people))
    found = sources(run.data)
    assert (len(found.train), len(found.val)) == (2, 2)
    assert found.categories.keypoint_flip == MIRRORED == run.data.change[1].keypoints
    assert isinstance(found.train, FileSource)
    assert found.train[0].pixels.shape == (3, 32, 32)


@pytest.mark.parametrize(
    ("names", "learned"), [(POINTS, 0), (POINTS, 17), (["left eye", "Left eye", "right eye", *map(str, range(14))], 0)]
)
def test_mirrors_know_keypoints_from_the_data(people, names, learned):
    for path in (people / "annotations").iterdir():
        stored = json.loads(path.read_text())
        stored["categories"][0]["keypoints"] = names
        path.write_text(json.dumps(stored))
    source = sources(Data(source=Files(path=str(people), train="person_keypoints_train", val=None))).train
    run = tiny_run(data={"change": (HorizontalFlip(probability=1), VerticalFlip(probability=1))})
    run = replace(run, config=mask_rcnn.Config(num_classes=1, keypoints=learned))
    expected = MIRRORED if names == POINTS else tuple(range(17))
    assert [step.keypoints for step in mirrors_told(run, source)] == [expected] * 2
    if names != POINTS:
        run = replace(run, config=mask_rcnn.Config(num_classes=1, keypoints=17))
        with pytest.raises(ValueError, match="what each keypoint becomes in a mirror is not to be seen from their nam"):
            mirrors_told(run, source)


def test_crowds_are_objects_where_that_is_asked_for(tmp_path):
    data = write_scenes(tmp_path / "data", train=1, val=1)
    path = data / "train.json"
    path.write_text(path.read_text().replace('"iscrowd":0', '"iscrowd":1').replace('"iscrowd": 0', '"iscrowd": 1'))
    for asked in (False, True):
        source = sources(Data(source=Files(path=str(data), crowds_as_instances=asked))).train
        assert source[0].targets.crowd.any().item() is not asked


def test_keypoints_that_the_data_has_not_are_not_waited_for(tmp_path):
    run = tiny_run(epochs=1, watch={"best": "keypoints"})
    with pytest.raises(ValueError, match=r"watch\.best: the data has no keypoints to judge by"):
        train(run, tmp_path / "run", methods=METHODS)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("count", [17, 5])
def test_the_best_weights_can_be_those_of_the_best_keypoints(count, people, tmp_path):
    class Pointing(Tiny):
        """Says that every keypoint is in the corner."""

        def predict(self, images):
            return [replace(one, keypoints=torch.zeros(len(one), count, 3)) for one in super().predict(images)]

    for path in (people / "annotations").iterdir():
        stored = json.loads(path.read_text())
        stored["categories"][0]["keypoints"] = POINTS[:count]
        for one in stored["annotations"]:
            one["keypoints"] = one["keypoints"][: 3 * count]
        path.write_text(json.dumps(stored))
    source = Files(path=str(people), train="person_keypoints_train", val="person_keypoints_val")
    run = tiny_run(epochs=1, watch={"best": "keypoints"}, data={"source": source, "change": ()})
    methods = {"tiny": replace(METHODS["tiny"], build=Pointing)}
    path = train(run, tmp_path / "run", methods=methods)
    report = json.loads((tmp_path / "run" / "eval" / "report.json").read_text())
    assert path.name == "best.safetensors"
    assert report["keypoints"]["AP"] == 0
    assert "val/keypoints_AP" in (tmp_path / "run" / "metrics.csv").read_text()


@pytest.mark.parametrize("kind", ["files", "scenes"])
def test_all_classes_may_be_learned_as_one(kind, tmp_path):
    made = Synthetic(scenes=Scenes(size=(40, 48), count=(2, 4)), train=3, val=2)
    source = Files(path=str(write_scenes(tmp_path / "data", train=3, val=2))) if kind == "files" else made
    told, one = sources(Data(source=source)), sources(Data(source=source, as_one=True))
    assert one.categories.names == ("object",)
    assert any(told.train[i].targets.labels.any() for i in range(3))
    for before, after in ((told.train, one.train), (told.val, one.val)):
        assert [before.size(i) for i in range(len(before))] == [after.size(i) for i in range(len(after))]
        for i in range(len(before)):
            assert torch.equal(before[i].targets.boxes, after[i].targets.boxes)
            assert not after[i].targets.labels.any()
            assert not truth_of(after, i).labels.any()


def test_proposals_are_judged_by_their_recall_also_on_data_of_many_classes(tmp_path):
    """Training as one class; then `maskwise val` on the same files, which have many."""
    run = replace(RECIPES["tiny_deepmask"](), schedule=Schedule(epochs=1, warmup=0))
    data = write_scenes(tmp_path / "data", train=4, val=2)
    run = replace(run, data=replace(run.data, source=Files(path=str(data))))
    path = train(run, tmp_path / "run")
    report = json.loads((tmp_path / "run" / "eval" / "report.json").read_text())
    assert path.name == "best.safetensors"
    assert {"AR10", "AR100", "AR1000", "AUC"} <= report["proposals"].keys()
    model = load(path, device="cpu")
    assert model.categories.names == ("object",)
    again = model.val(data, split="val").to_json()
    assert again["proposals"] == report["proposals"]
    assert [row["name"] for row in again["classes"]] == ["object"]

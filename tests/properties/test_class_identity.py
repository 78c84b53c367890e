"""A class keeps its id and its name all the way: file, training, model, saved model, prediction, files again."""

import pytest
from pictures import SCENES, write_scenes
from tiny_method import METHODS, tiny_run

from maskwise import methods
from maskwise.categories import Categories
from maskwise.data.open import open_data
from maskwise.model import load
from maskwise.recipes.run import Files
from maskwise.train import train

IDS = {"gaps": (90, 3), "from zero": (0, 1), "from one": (1, 2), "backwards": (2, 1)}


@pytest.mark.parametrize("ids", IDS.values(), ids=IDS)
def test_a_class_keeps_its_id_and_its_name_all_the_way(ids, tmp_path, monkeypatch):
    monkeypatch.setitem(methods.METHODS, "tiny", METHODS["tiny"])
    wanted = Categories(names=SCENES.categories.names, ids=ids)
    pairs = set(zip(wanted.names, wanted.ids, strict=True))
    data = write_scenes(tmp_path / "data", categories=wanted, train=2, val=2)
    train(tiny_run(epochs=1, data={"source": Files(path=str(data))}), tmp_path / "run", methods=METHODS)
    model = load(load(tmp_path / "run").save(tmp_path / "saved"))
    assert set(zip(model.categories.names, model.categories.ids, strict=True)) == pairs
    for record in open_data(data, split="val"):
        result = model.predict(record.path, min_score=0.0)
        names = [model.categories.name(label) for label in result.instances.labels.tolist()]
        assert names
        entries = result.to_coco()
        assert {(name, entry["category_id"]) for name, entry in zip(names, entries, strict=True)} <= pairs
        again = open_data(result.save(tmp_path / record.path.stem, save=("coco",)) / "coco")
        assert set(zip(again.categories.names, again.categories.ids, strict=True)) == pairs
        assert [again.categories.name(label) for label in again[0].labelled().targets.labels.tolist()] == names


@pytest.mark.parametrize("ids", IDS.values(), ids=IDS)
def test_labels_that_are_learned_from_are_those_of_the_names(ids, tmp_path):
    wanted = Categories(names=SCENES.categories.names, ids=ids)
    data = open_data(write_scenes(tmp_path / "data", categories=wanted, train=5), split="train")
    seen = set()
    for i, record in enumerate(data):
        names = [data.categories.name(label) for label in record.labelled().targets.labels.tolist()]
        assert names == [SCENES.categories.name(label) for label in SCENES.scene(i).targets.labels.tolist()]
        seen |= set(names)
    assert seen == {"disc", "square"}

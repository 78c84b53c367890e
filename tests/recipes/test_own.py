"""The recipe that is chosen for data: what it measures, what it chooses, and what of the data it keeps back."""

import json
import shutil
from dataclasses import replace

import pytest
from pictures import write_scenes
from tiny_method import METHODS, tiny_run

from maskwise import cli
from maskwise.commands import val
from maskwise.data.open import open_data
from maskwise.data.split import held_out
from maskwise.data.transforms import Enlarge, RandomCrop, Resize
from maskwise.methods import METHODS as METHODS_OF_ALL
from maskwise.model import load, train_model
from maskwise.recipes import own
from maskwise.recipes.chosen import chosen
from maskwise.recipes.judging import Known
from maskwise.recipes.own import LARGE, SMALL, Measured, fitting, measured, reasons, scale
from maskwise.recipes.run import Data, Files
from maskwise.recipes.sources import sources, without_those_learned_from
from maskwise.recipes.stored import from_json
from maskwise.report.run_folder import write
from maskwise.train import train

MEASURED = Measured(
    pictures=500, held_out=100, short=480, long=640, most=20, side=60.0, small=20.0, empty=0, looked_at=200
)


def whole(tmp_path, count):
    """Pictures without a split."""
    data = write_scenes(tmp_path / "photos", train=count, val=0)
    (data / "val.json").unlink(missing_ok=True)
    return data


def test_an_only_split_is_never_learned_from_and_judged_by(tmp_path):
    data = write_scenes(tmp_path / "photos", val=10)
    found = sources(own.own(str(data)).data)
    learned, judged = ({part.data[i].name for i in range(len(part))} for part in (found.train, found.val))
    assert (len(learned), len(judged)) == (8, 2)
    assert not learned & judged


def test_pictures_and_objects_are_measured(tmp_path):
    data = open_data(whole(tmp_path, 6))
    found = measured(data)
    areas = [float(a) for record in data for a in record.labelled().targets.masks.area()]
    assert (found.pictures, found.looked_at, found.empty) == (6, 6, 0)
    assert found.most == max(len(record.labelled().targets) for record in data)
    assert min(areas) ** 0.5 <= found.small <= found.side <= max(areas) ** 0.5


def test_without_any_object_there_is_nothing_to_choose_by(tmp_path):
    data = whole(tmp_path, 2)
    stored = json.loads((data / "train.json").read_text())
    (data / "train.json").write_text(json.dumps({**stored, "annotations": []}))
    with pytest.raises(ValueError, match="no object in any of the 2 pictures"):
        measured(open_data(data))


@pytest.mark.parametrize(
    ("short", "long", "small", "expected"),
    [
        (480, 640, 20, 1.0),  # as they are
        (256, 256, 8, 2.0),  # small pictures of small objects
        (256, 256, 12, 16 / 12),
        (480, 640, 8, 1.0),  # no larger than fits
        (3000, 4000, 400, 0.16),  # photographs of large things
        (3000, 4000, 32, 0.5),  # of small ones
        (20_000, 20_000, 10, 1.0),  # a mosaic is never enlarged
    ],
)
def test_objects_get_the_pixels_that_they_need(short, long, small, expected):
    assert scale(replace(MEASURED, short=short, long=long, small=small), SMALL) == pytest.approx(expected)


def kinds(steps):
    return [type(step) for step in steps]


def test_the_run_follows_from_what_was_measured():
    source = Files(path="photos", train=None, val=None, held_out=0.2)
    run = fitting(MEASURED, source, SMALL)
    assert run.data.view == ()
    assert RandomCrop in kinds(run.data.change)
    assert run.schedule.epochs == 30  # 3,000 steps of 4 of 400 pictures
    tiny = fitting(replace(MEASURED, short=256, long=256, small=8.0, most=300, pictures=10, held_out=2), source, SMALL)
    assert tiny.data.view == (Enlarge(short=512),)
    assert tiny.config.max_instances == 450
    assert tiny.schedule.epochs == 300
    large = fitting(replace(MEASURED, short=3000, long=4000, small=400.0), source, LARGE)
    assert kinds(large.data.view) == [Resize]
    assert large.config.backbone == "resnet50"
    assert large.config.anchor_scale == 8


def test_what_is_chosen_suits_the_device_that_is_named(tmp_path, monkeypatch):
    """A GPU that is there and not asked for chooses nothing."""
    data, networks = str(whole(tmp_path, 6)), []
    for there, device in ((True, None), (True, "cpu"), (True, "mps"), (False, "auto"), (False, "cuda:1")):
        monkeypatch.setattr("torch.cuda.is_available", lambda there=there: there)
        run = chosen("own", data=data, device=device)
        networks.append((run.config.backbone == LARGE.backbone, run.device))
    assert networks == [(True, "auto"), (False, "cpu"), (False, "mps"), (False, "auto"), (True, "cuda:1")]


def test_every_choice_is_said():
    source = Files(path="photos", train=None, val=None, held_out=0.2)
    found = replace(MEASURED, empty=7)
    text = "\n".join(reasons(found, fitting(found, source, SMALL), SMALL))
    for words in ("500 pictures", "for no GPU", "objects are large enough", "100 of them are held out", "7 of 200"):
        assert words in text


def test_of_few_pictures_none_is_held_out_and_that_is_said(tmp_path):
    source = Files(path="photos", train=None, val=None, held_out=0.2)
    for pictures, held, words in (
        (4, 0, "no picture is held out to judge by, there are fewer than 5:"),
        (500, 0, "no picture is held out to judge by, all are tiles of one:"),
        (5, 1, "1 of them are held out to judge by:"),
    ):
        found = replace(MEASURED, pictures=pictures, held_out=held)
        assert words in "\n".join(reasons(found, fitting(found, source, SMALL), SMALL))
    run = tiny_run(epochs=1)
    files = Files(path=str(whole(tmp_path, 4)), train="train", val=None, held_out=0.2)
    train(replace(run, data=replace(run.data, source=files)), tmp_path / "run", methods=METHODS)
    text = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "none of its pictures was held out, and so there is no AP" in text
    assert "Learning rate" in text


def test_a_run_is_judged_by_what_it_held_out_also_where_its_own_data_is_named(tmp_path):
    data = whole(tmp_path, 10)
    run = tiny_run()
    run = replace(run, data=replace(run.data, source=Files(path=str(data), train=None, val=None, held_out=0.2)))
    by_default, named, all_of_it = (
        val._opened(given, split, Known(run.data.source), None).source
        for given, split in ((None, None), (str(data / "images" / ".."), None), (str(data), "train"))
    )
    names = [[source[i].name for i in range(len(source))] for source in (by_default, named, all_of_it)]
    assert len(names[0]) == 2
    assert names[1] == names[0]
    assert len(names[2]) == 10


def test_a_run_is_judged_by_what_it_held_out_whatever_came_since(tmp_path, monkeypatch):
    """A picture that it learned from must not judge it: the names in `split.json` decide, not a draw among more."""
    folder, run = tmp_path / "run", tiny_run(epochs=1)

    def judged(recipe=None):
        source = val._opened(None, None, val._known(recipe, model, None), None).source
        return [source[i].name for i in range(len(source))]

    data = whole(tmp_path, 10)
    run = replace(run, data=replace(run.data, source=Files(path=str(data), val=None, held_out=0.2)))
    model = load(train(run, folder, methods=METHODS), methods=METHODS)
    kept = json.loads((folder / "split.json").read_text())["val"]
    shutil.rmtree(data)
    write_scenes(data, train=30, val=0)
    monkeypatch.setattr("maskwise.recipes.chosen.saved", lambda *_, **__: run)
    monkeypatch.chdir(tmp_path)
    for recipe in (None, str(folder), str(folder / "run.json")):
        assert judged(recipe) == kept
    assert model.val("photos").masks.images == 2
    assert model.val(data, split="train").masks.images == 30
    assert model.val(write_scenes(tmp_path / "others", train=3)).masks.images == 3
    assert "there is no AP" not in write(folder).read_text(encoding="utf-8")
    shutil.rmtree(data)
    write_scenes(data, train=3, val=0)
    with pytest.raises(ValueError, match=r"train-00\d\.png is gone, which the run learned from or was judged by"):
        judged()
    (folder / "split.json").write_text("[]")
    with pytest.raises(ValueError, match=r"split\.json: expected lists of names, train and val"):
        judged()


def test_a_run_is_judged_by_what_it_held_out_wherever_its_data_lies(tmp_path, caplog):
    data, run = whole(tmp_path, 10), tiny_run(epochs=1)
    run = replace(run, data=replace(run.data, source=Files(path=str(data), val=None, held_out=0.2)))
    model = load(train(run, tmp_path / "run", methods=METHODS), methods=METHODS)
    assert json.loads((tmp_path / "run" / "eval" / "report.json").read_text())["data"] == f"{data}, what was held out"
    moved = data.rename(tmp_path / "moved")
    for named in (moved, moved / "train.json"):
        caplog.clear()
        assert model.val(named).masks.images == 2
        assert "these have the names of the run's own pictures" in caplog.text
    assert model.val(moved, split="train").masks.images == 10


def test_where_nothing_was_held_out_nothing_judges_wherever_the_data_lies(tmp_path):
    data, run = whole(tmp_path, 4), tiny_run(epochs=1)
    run = replace(run, data=replace(run.data, source=Files(path=str(data), val=None, held_out=0.2)))
    model = load(train(run, tmp_path / "run", methods=METHODS), methods=METHODS)
    with pytest.raises(ValueError, match="no picture was held out"):
        model.val(data)
    with pytest.raises(ValueError, match="moved: the run learned from all of it"):
        model.val(data.rename(tmp_path / "moved"))


def test_what_a_model_has_learned_from_does_not_judge_those_that_begin_with_it(tmp_path, monkeypatch, caplog):
    """Nor those that begin with them in turn, where there are more pictures, another draw, or the data was moved."""
    monkeypatch.setitem(METHODS_OF_ALL, "tiny", METHODS["tiny"])
    data, first = whole(tmp_path, 10), tiny_run(epochs=1)

    def begun(model, name, data, seed):
        source = Files(path=str(data), val=None, held_out=0.4, held_out_seed=seed)
        run = replace(first, data=replace(first.data, source=source))
        return model.train(run, tmp_path / name) if model else train_model(run, tmp_path / name)

    def split(name):
        return {part: set(n) for part, n in json.loads((tmp_path / name / "split.json").read_text()).items()}

    model, learned = begun(None, "0", data, 0), set()
    write_scenes(data, train=30, val=0)
    data = data.rename(tmp_path / "moved")
    for seed in (1, 2):
        learned |= split(str(seed - 1))["train"]
        model = begun(model, str(seed), data, seed)
        assert split(str(seed))["val"]
        assert not split(str(seed))["val"] & learned
    assert split("2")["val"] <= split("1")["val"]
    others = write_scenes(tmp_path / "others", train=25, val=0)  # of the same names, but not all of them
    begun(model, "3", others, 3)
    assert split("3")["val"] & learned
    assert "no news" not in caplog.text


def test_where_a_model_has_learned_from_all_it_is_said(tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(METHODS_OF_ALL, "tiny", METHODS["tiny"])
    data, run = whole(tmp_path, 10), tiny_run(epochs=1)
    source = Files(path=str(data), val=None)
    model = train_model(replace(run, data=replace(run.data, source=source)), tmp_path / "0")
    again = replace(run, data=replace(run.data, source=replace(source, held_out=0.4)))
    model.train(again, tmp_path / "1")
    assert "has learned from these pictures: what is held out of them is no news to it" in caplog.text


def test_what_was_learned_from_judges_only_where_that_is_asked_for(tmp_path):
    data, run = whole(tmp_path, 4), tiny_run(epochs=1)
    run = replace(run, data=replace(run.data, source=Files(path=str(data), val=None)))
    model = load(train(run, tmp_path / "run", methods=METHODS), methods=METHODS)
    with pytest.raises(ValueError, match="photos: the run learned from all of it; name other data, or a split"):
        model.val(data)
    assert model.val(data, split="train").masks.images == 4
    write_scenes(data, first=20, val=3)
    assert model.val(data).masks.images == 3, "a split that it did not learn from"


def test_pictures_without_an_object_do_not_change_what_judges(tmp_path):
    """Where they are not learned from: the same are drawn for training and afterwards."""
    data = whole(tmp_path, 12)
    content = json.loads((data / "train.json").read_text())
    emptied = {image["id"] for image in content["images"][::3]}
    content["annotations"] = [one for one in content["annotations"] if one["image_id"] not in emptied]
    (data / "train.json").write_text(json.dumps(content))
    for seed in range(20):
        source = Files(path=str(data), val=None, held_out=0.3, held_out_seed=seed, empty=False)
        judged = sources(Data(source=source)).split["val"]
        assert [record.name for record in without_those_learned_from(source)] == judged


def test_what_is_held_out_depends_on_names_only(tmp_path):
    data = open_data(whole(tmp_path, 10))
    learned, judged = held_out(data, 0.2)
    assert len(learned) == 8
    assert {r.name for r in learned} | {r.name for r in judged} == {r.name for r in data}
    turned = replace(data, records=data.records[::-1])
    assert {r.name for r in held_out(turned, 0.2)[1]} == {r.name for r in judged}
    assert {r.name for r in held_out(data, 0.2, seed=1)[1]} != {r.name for r in judged}
    assert held_out(replace(data, records=data.records[:4]), 0.2)[1] is None


def test_a_run_and_what_judges_it_hold_out_the_same_whole_things(tmp_path):
    """By an expression that finds the one in names of five pictures and the other in those of five."""
    source = Files(path=str(whole(tmp_path, 10)), val=None, held_out=0.5, held_out_by=r"00(?=[0-4]\.)|0(?=0[5-9]\.)")
    judged = sources(Data(source=source)).split["val"]
    assert measured(open_data(source.path), share=0.5).held_out == 5
    assert sorted(judged) in ([f"train-{i:03}.png" for i in few] for few in (range(5), range(5, 10)))
    assert [record.name for record in without_those_learned_from(source)] == judged


def test_a_split_of_the_data_and_one_of_ours_exclude_each_other():
    with pytest.raises(ValueError, match="not by both"):
        Files(path="photos", held_out=0.2)
    with pytest.raises(ValueError, match="below 1, got 1"):
        Files(path="photos", val=None, held_out=1.0)
    for wrong, reason in (("(", "missing"), ("a{99999999999}", "too large")):
        with pytest.raises(ValueError, match=f"is no regular expression: .*{reason}"):
            Files(path="photos", val=None, held_out=0.2, held_out_by=wrong)
    with pytest.raises(ValueError, match="held_out_by: nothing is held out"):
        Files(path="photos", held_out_by="plant")


def test_a_run_keeps_the_names_and_goes_on_with_no_others(tmp_path):
    data = whole(tmp_path, 6)
    source = Files(path=str(data), train="train", val=None, held_out=0.2)
    run = tiny_run(epochs=1)
    run = replace(run, data=replace(run.data, source=source))
    train(run, tmp_path / "run", methods=METHODS)
    names = json.loads((tmp_path / "run" / "split.json").read_text())
    assert [len(names[name]) for name in ("train", "val")] == [5, 1]
    shutil.rmtree(data)
    write_scenes(data, train=7, val=0)
    with pytest.raises(ValueError, match=r"not those that split\.json names"):
        train(run, tmp_path / "run", methods=METHODS, resume=True)


def test_data_alone_is_enough_to_train(tmp_path, monkeypatch, capsys):
    """From the command to the run; the training itself is another test's."""
    data, chosen = whole(tmp_path, 6), []

    def begun(run, folder, **_):
        chosen.append((run, folder))
        raise ValueError("far enough")

    monkeypatch.setattr("maskwise.train.train", begun)
    assert cli.main(["train", "--data", str(data)]) == 2
    [(run, folder)] = chosen
    assert folder.parts == ("runs", "photos")
    assert run.data.source == Files(path=str(data), format="coco", train="train", val=None, held_out=own.HELD_OUT)
    assert len(sources(Data(source=run.data.source)).val) == 1
    assert from_json(type(run.data), json.loads(json.dumps(run.to_json()["data"])), "data") == run.data
    assert cli.main(["train"]) == 2
    assert "say what to train" in capsys.readouterr().err

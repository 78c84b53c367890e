import inspect
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from maskwise.categories import Categories
from maskwise.data.dataset import Item
from maskwise.data.formats.table import FORMATS
from maskwise.methods import METHODS
from maskwise.recipes.chosen import changed, chosen, needs_data, stretched, summary
from maskwise.recipes.run import Files, Run, Schedule, differences
from maskwise.recipes.stored import from_json
from maskwise.recipes.table import RECIPES
from maskwise.structures import Targets

ROOT = Path(__file__).parents[2]
WRITTEN = [name for name in RECIPES if name != "own"]  # which looks at the data first: see test_own.py
CONFIGS = {name: entry.config for name, entry in METHODS.items()}


def built(name: str) -> Run:
    return chosen(name, data="some data" if needs_data(RECIPES[name]) else None)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_named_as_its_function_and_says_what_it_is(name):
    assert RECIPES[name].__name__ == name
    text = summary(RECIPES[name])
    assert text.endswith(".")
    assert len(text) <= 110
    whole = (inspect.getdoc(RECIPES[name]) or "") + (inspect.getdoc(inspect.getmodule(RECIPES[name])) or "")
    assert "maskwise train" in whole, "the command is to be read beside it"


@pytest.mark.parametrize("name", WRITTEN)
def test_a_recipe_is_a_whole_run_that_comes_back_from_json(name):
    run = built(name)
    assert isinstance(run.config, CONFIGS[run.method])
    again = Run.from_json(json.loads(json.dumps(run.to_json(), allow_nan=False)), CONFIGS)
    assert again == run
    assert run.fitted(Categories(names=("a", "b"))).config.num_classes == 2
    if isinstance(run.data.source, Files):
        assert run.data.source.path == "some data"


@pytest.mark.parametrize("name", [name for name in RECIPES if name.endswith("_18e")])
def test_the_papers_schedule_is_18_epochs_with_a_tenth_after_14_and_17(name):
    run, short = built(name), built(name.removesuffix("_18e"))
    factors = [run.schedule.factor(step, 1000) for step in (13_999, 14_000, 17_000, 17_999)]
    assert factors == pytest.approx([1, 0.1, 0.01, 0.01])
    assert run.schedule.epochs == 18
    assert (run.config.soft_nms_sigma, run.config.min_score) == (0.6, 0.001)
    left = {line.split(":")[0] for line in differences(run.to_json(), short.to_json())}
    assert left == {"config.soft_nms_sigma", "config.min_score", "schedule.epochs", "schedule.milestones"}


@pytest.mark.parametrize("name", [name for name in WRITTEN if name.endswith(("_r50_fpn_coco", "_1x"))])
def test_the_rate_falls_after_the_published_shares_of_training(name):
    """60,000 and 80,000 of 90,000 steps; of PANet 120,000 of 160,000."""
    schedule = built(name).schedule
    published = (3 / 4,) if name.startswith("panet") else (60 / 90, 80 / 90)
    assert [milestone / schedule.epochs for milestone in schedule.milestones] == pytest.approx(published, abs=5e-4)


def test_mask_scoring_on_coco_starts_as_its_authors_repository():
    run = built("ms_rcnn_r50_fpn_coco")
    assert run.optim.rate(16) == 0.02
    assert run.schedule.factor(0, 7000) == pytest.approx(1 / 3)
    assert run.schedule.factor(500, 7000) == 1
    assert run.config.frozen_stages == 2


# Choosing and changing


def test_an_unknown_recipe_is_refused_with_the_nearest():
    with pytest.raises(ValueError, match="unknown recipe ms_rcnn_scene; did you mean ms_rcnn_scenes"):
        chosen("ms_rcnn_scene")


def test_files_where_they_are_needed_and_only_there():
    with pytest.raises(ValueError, match=r"ms_rcnn_facades learns from files: .* --data"):
        chosen("ms_rcnn_facades")
    with pytest.raises(ValueError, match="tiny_ms_rcnn makes its own data"):
        chosen("tiny_ms_rcnn", data="x")


def test_a_run_that_was_saved_is_a_recipe_too(tmp_path):
    run = built("ms_rcnn_facades")
    (tmp_path / "run.json").write_text(json.dumps(run.to_json()))
    assert chosen(str(tmp_path)) == chosen(str(tmp_path / "run.json")) == run
    moved = chosen(str(tmp_path), data="elsewhere")
    assert differences(run.to_json(), moved.to_json()) == ["data.source.path: 'some data', now 'elsewhere'"]
    (tmp_path / "run.json").write_text(json.dumps(run.to_json() | {"sede": 3}))
    with pytest.raises(ValueError, match=r"run\.json: run: unknown field sede; did you mean seed"):
        chosen(str(tmp_path))
    (tmp_path / "run.json").write_text("[]")
    with pytest.raises(ValueError, match=r"run\.json: "):
        chosen(str(tmp_path))


def test_other_data_has_its_own_format_unless_it_may_have_that_of_the_run(tmp_path):
    item = Item(name="a.png", size=(2, 2), labelled=Targets.none((2, 2)))
    for name, format in (("coco", "coco"), ("yolo", "yolo"), ("both", "yolo"), ("both", "coco")):
        FORMATS[format].write(tmp_path / name, Categories(names=("a",)), [item])
    run = RECIPES["ms_rcnn_facades"](data=str(tmp_path / "coco"))
    run = changed(run, ["data.source.format=coco"])
    (tmp_path / "run.json").write_text(json.dumps(run.to_json()))
    again = [chosen(str(tmp_path / "run.json"), data=str(tmp_path / name)) for name in ("coco", "yolo", "both")]
    assert [one.data.source.format for one in again] == ["coco", None, "coco"]
    (tmp_path / "strange").mkdir()
    strange = chosen(str(tmp_path / "run.json"), data=str(tmp_path / "strange"))
    assert strange.data.source.format == "coco", "nothing else is to be seen there"


def test_any_field_can_be_changed():
    changes = ["optim.lr=1e-3", "config.backbone=resnet34", "config.weights=null", "data.view.0.short=400"]
    changes += ["schedule.milestones=[2, 3.5]", "optim.clip=1", 'data.change=[{"kind": "RightAngles"}]']
    run = changed(built("ms_rcnn_r50_fpn_coco"), changes)
    assert run.optim.lr == 0.001
    assert (run.config.backbone, run.config.weights) == ("resnet34", None)
    assert run.data.view[0].short == 400
    assert run.schedule.milestones == (2.0, 3.5)
    assert run.optim.clip == 1.0
    assert [type(change).__name__ for change in run.data.change] == ["RightAngles"]


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ("optim.lrr=1", "run.optim: unknown field lrr; did you mean lr"),
        ("optm.lr=1", "run: unknown field optm; did you mean optim"),
        ("optim.lr=fast", "run.optim.lr: expected float, got 'fast'"),
        ("config.backbone=resnet51", "run.config.backbone: unknown value resnet51; did you mean resnet"),
        ("data.view.3.short=1", r"run.data.view: expected a number below 1, got '3'"),
        ("seed.x=1", "run.seed: has no fields, it is 0"),
        ("data.batch=0", "batch: expected at least 1, got 0"),
        (
            'data.view=[{"kind": "HorizontalFlip"}]',
            "view: pictures are predicted on whole and as they lie, without Hor",
        ),
        ("optim.lr", "expected a change like optim.lr=0.01, got 'optim.lr'"),
        ("=3", "expected a change like"),
    ],
)
def test_a_change_that_cannot_be_is_refused(change, complaint):
    with pytest.raises(ValueError, match=complaint):
        changed(built("ms_rcnn_r50_fpn_coco"), [change])


def test_more_epochs_stretch_the_schedule():
    schedule = stretched(Schedule(epochs=12, milestones=(8, 11)), 24)
    assert (schedule.epochs, schedule.milestones) == (24, (16, 22))
    assert stretched(schedule, 12) == replace(schedule, epochs=12, milestones=(8, 11))


def test_imagenet_is_a_word_and_no_path():
    kind = CONFIGS["ms_rcnn"]
    assert from_json(kind, {"num_classes": 2, "weights": "imagenet"}, "config").weights == "imagenet"
    assert from_json(kind, {"num_classes": 2, "weights": "a.pth"}, "config").weights.name == "a.pth"


# What pages say

PLACE = r"[a-z_]+(?:\.\w+)+=[^\s`]+"
SET = re.compile(rf"--set +((?:{PLACE}\s+)*{PLACE})")


def settings(text: str) -> list[list[str]]:
    """The changes of each `--set` in a text; one on the next line of a shell is a change, too."""
    return [found.split() for found in SET.findall(text.replace("\\\n", " "))]


def test_settings_are_found_as_people_write_them():
    text = "`--set a.b=1 c.d.0.e=[1,2]`, `--set config...`, --set optim.lr=0.1 \\\n data.batch=4   # less"
    assert settings(text) == [["a.b=1", "c.d.0.e=[1,2]"], ["optim.lr=0.1", "data.batch=4"]]


@pytest.mark.parametrize("name", WRITTEN)
def test_what_a_recipe_says_can_be_set_can_be_set(name):
    written = inspect.getdoc(RECIPES[name]) or ""
    module = inspect.getdoc(inspect.getmodule(RECIPES[name])) or ""
    assert ("--set" in written) == bool(settings(written))
    for changes in [*settings(written), *(settings(module) if f"train {name} " in module else [])]:
        assert differences(changed(built(name), changes).to_json(), built(name).to_json())


PAGES = [path for path in (*(ROOT / "docs").rglob("*.md"), *(ROOT / "src").rglob("*.md")) if settings(path.read_text())]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_what_a_page_says_can_be_set_can_be_set(page):
    """Of the recipe that its command names, else of one that learns from files."""
    for line in page.read_text().replace("\\\n", " ").splitlines():
        named = re.search(rf"maskwise train ({'|'.join(WRITTEN)}) ", line)
        name = named[1] if named else "ms_rcnn_nuclei"
        for changes in settings(line):
            assert changed(built(name), changes).method == built(name).method


def test_a_number_is_taken_for_the_word_that_is_written_so():
    run = built("embed_mask_r50_fpn_coco")
    assert changed(run, ["config.version=2020"]).config.version == "2020"
    with pytest.raises(ValueError, match="unknown value 2019; did you mean 2021"):
        changed(run, ["config.version=2019"])

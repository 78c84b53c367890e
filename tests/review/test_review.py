"""What an annotator should look at first."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
from bright import NAMES, Bright, found, picture

from maskwise import cli, model
from maskwise.data.dataset import Item
from maskwise.data.formats import coco
from maskwise.data.images import write_image
from maskwise.data.open import open_data
from maskwise.models import published
from maskwise.predict import Options
from maskwise.predictions.folder import Job, results, run
from maskwise.predictions.sources import named
from maskwise.review.page import render
from maskwise.review.ranking import Doubt, Truth, catch, rank

GOOD, POOR = (250, 240, 10), (250, 90, 10)


@pytest.fixture
def home(tmp_path):
    """Two pictures with good and poor masks, their predictions, and a truth in which poor masks are half as large."""
    (tmp_path / "in").mkdir()
    items = []
    for i in range(2):
        pixels = picture((60, 80), (4, 4, 20, 20), (40, 6, 60, 30), colour=GOOD)
        pixels += picture((60, 80), (4 + i, 40, 24, 50), colour=POOR)
        name = f"a<{i}>.png"
        write_image(tmp_path / "in" / name, pixels)
        pixels[40:45] = 0
        items.append(Item(name=name, size=(60, 80), labelled=_targets(pixels), image=tmp_path / "in" / name))
    coco.write(tmp_path / "truth", NAMES, items, split="val")
    job = Job(out=tmp_path / "out", model={}, sources=[], options=Options(), save=())
    run(Bright(), named([tmp_path / "in"]), job)
    return tmp_path


def _targets(pixels):
    from maskwise.structures import Targets

    instances = found(pixels)
    return Targets.from_masks(instances.masks, instances.labels)


def doubts(home, *, truth=True):
    return rank(results(home / "out"), Truth.of(open_data(home / "truth")) if truth else None)


def test_the_worst_come_first(home):
    ranked = doubts(home, truth=False)
    assert [d.quality for d in ranked] == sorted(d.quality for d in ranked)
    assert [(d.picture, d.box) for d in ranked[:2]] == [(0, (4, 40, 24, 50)), (1, (5, 40, 24, 50))]
    assert {d.true_iou for d in ranked} == {None}


def test_the_true_iou_is_that_of_the_best_object_of_any_class(home):
    ranked = doubts(home)
    assert [d.true_iou for d in ranked] == pytest.approx([0.5, 0.5, 1, 1, 1, 1])


def test_a_picture_without_truth_is_not_judged(home):
    truth = Truth.of(open_data(home / "truth"))
    lonely = replace(truth, by_path={}, by_name={"a<0>.png": truth.by_name["a<0>.png"]})
    ranked = rank(results(home / "out"), lonely)
    assert {d.picture for d in ranked if d.true_iou is None} == {1}
    assert catch(ranked).masks == 3


@pytest.mark.parametrize("first", ["A", "B"])
def test_a_picture_is_not_judged_by_the_truth_of_another_that_is_called_the_same(first, tmp_path):
    pixels = {"A": picture((30, 40), (3, 4, 9, 9)), "B": picture((30, 40), (20, 10, 30, 20))}
    for side, one in pixels.items():
        (tmp_path / side).mkdir()
        write_image(tmp_path / side / "1.png", one)
    item = Item(name="1.png", size=(30, 40), labelled=_targets(pixels["A"]), image=tmp_path / "A/1.png", link=True)
    coco.write(tmp_path / "truth", NAMES, [item], split="val")
    truth = Truth.of(open_data(tmp_path / "truth"))
    sides = sorted(pixels, reverse=first == "B")

    def judged(sources):
        out = tmp_path / "-".join(["out", *(source.name for source in sources)])
        run(Bright(), named(sources), Job(out=out, model={}, sources=[], options=Options(min_score=0), save=()))
        return {d.name: d.true_iou for d in rank(results(out), truth)}

    assert judged([tmp_path / side for side in sides]) == {"A/1.png": 1, "B/1.png": None}
    (tmp_path / "C").mkdir()
    write_image(tmp_path / "C/1.png", pixels["A"])
    assert judged([tmp_path / "C"]) == {"1.png": 1}
    assert judged([tmp_path / "B", tmp_path / "C"]) == {"B/1.png": None, "C/1.png": None}


def doubt(quality, score, true_iou):
    return Doubt(
        picture=0, instance=0, name="", category="", quality=quality, score=score, mask_score=quality * score, area=1,
        box=(0, 0, 1, 1), true_iou=true_iou,
    )  # fmt: skip


def test_what_looking_at_the_worst_finds():
    several = [doubt(0.1 * i, 1 - 0.05 * i, 0.2 if i < 2 else 0.9) for i in range(1, 11)]
    caught = catch([*several, doubt(0.0, 0.0, None)])
    assert (caught.masks, caught.bad, caught.looked_at) == (10, 1, 2)
    assert caught.found == {"mask_scores": 1, "quality": 1, "scores": 0}
    assert catch([]).found == {"mask_scores": 0, "quality": 0, "scores": 0}


def page(home, *, most=200):
    return render("t<i>tle", doubts(home), lambda: results(home / "out"), truth=None, most=most)


def test_the_page_needs_nothing_else_and_is_escaped(home):
    shown = page(home)
    assert shown.count("<li") == 6
    assert shown.count("data:image/jpeg;base64,") == 6
    assert "a<0>" not in shown
    assert "t&lt;i&gt;tle" in shown
    assert "http" not in shown.replace("http-equiv", "")
    assert page(home, most=2).count("<li") == 2


def test_a_picture_that_is_gone_leaves_its_outlines(home):
    for path in (home / "in").iterdir():
        path.unlink()
    shown = page(home)
    assert "data:image" not in shown
    assert shown.count('class="found"') == 6


def test_nothing_found_is_a_page_too(tmp_path):
    write_image(tmp_path / "black.png", np.zeros((9, 9, 3), np.uint8))
    run(Bright(), named([tmp_path]), Job(out=tmp_path / "out", model={}, sources=[], options=Options(), save=()))
    assert "Nothing was found" in render("", [], lambda: results(tmp_path / "out"))


# The command


def review(*words, capsys, code=0):
    assert cli.main(["review", *map(str, words)]) == code
    return capsys.readouterr()


def test_the_command_writes_a_page_and_a_table(home, capsys):
    shown = review(home / "out", capsys=capsys).out
    assert "6 masks, 2 with a predicted quality below 0.7" in shown
    with (home / "out" / "review.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["rank"] for row in rows] == list("123456")
    assert float(rows[0]["quality"]) == pytest.approx(doubts(home)[0].quality, rel=1e-5)
    assert rows[0]["true_iou"] == ""
    assert (home / "out" / "review.html").read_text().startswith("<!doctype html>")


def test_with_the_truth_it_says_what_the_ranking_is_worth(home, capsys):
    words = (home / "out", "--truth", home / "truth", "--out", home / "elsewhere")
    assert json.loads(review(*words, "--json", capsys=capsys).out)["truth"]["found"]["mask_scores"] == 2
    assert "review.html exists already" in review(*words, capsys=capsys, code=2).err
    assert "2 of 2" in review(*words, "--exist-ok", capsys=capsys).out
    assert "truth" in (home / "elsewhere" / "review.html").read_text()


def test_pictures_are_predicted_on_first(home, capsys, monkeypatch):
    monkeypatch.chdir(home)
    (home / "weights.safetensors").write_bytes(b"")
    monkeypatch.setattr(model, "load", lambda *_, **__: Bright())
    monkeypatch.setattr(published, "_of", lambda *_: home / "weights.safetensors")
    (home / "in" / "bad.png").write_bytes(b"")
    shown = review("in", "--json", capsys=capsys, code=3)
    assert json.loads(shown.out)["masks"] == 6
    assert "is not empty" in review("in", capsys=capsys, code=2).err
    review("in", "--exist-ok", capsys=capsys, code=3)


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--most", "0"], "--most: "),
        (["--truth", "nowhere"], "nowhere: "),
        (["--model", "x", "--conf", "0"], "--model and --conf: for pictures; these are predictions"),
        (["--device", "cpu"], "--device: for pictures"),
        (["--split", "val"], "--split val: part of the --truth, and there is none"),
    ],
)
def test_wrong_usage_is_refused(words, complaint, home, capsys):
    assert f"maskwise review: {complaint}" in review(home / "out", *words, capsys=capsys, code=2).err

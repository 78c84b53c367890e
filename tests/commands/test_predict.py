"""`maskwise predict`, with a model that needs no weights."""

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from bright import Bright, Few, picture

from maskwise import cli, model
from maskwise.data.images import write_image
from maskwise.models import published


@pytest.fixture
def home(tmp_path, monkeypatch):
    """Three pictures, and a model called bright."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    for i in range(3):
        colour = (255, 255, 10) if i else (200, 150, 10)
        write_image(tmp_path / "in" / f"{i}.png", picture((30, 40), (3, 4, 9, 9), (20, 4, 30, 20), colour=colour))
    weights = tmp_path / "bright.safetensors"
    weights.write_bytes(b"none")
    monkeypatch.setitem(published.PUBLISHED, "bright", published.Published(title="", licence="", at=tmp_path))
    monkeypatch.setattr(published, "_of", lambda *_: weights)
    monkeypatch.setattr(model, "load", lambda *_, **__: Bright())
    return tmp_path


def maskwise(*words, capsys, code=0):
    assert cli.main(["predict", "--model", "bright", *words]) == code
    return capsys.readouterr()


def test_a_folder_is_looked_at(home, capsys):
    shown = maskwise("in", "--save", "overlay,csv", capsys=capsys)
    assert "0.png: 2 spot, quality 0.61, 2 to review" in shown.err
    assert "3 pictures, 6 instances, 2 of them to review" in shown.out
    assert {p.name for p in (home / "predictions").iterdir()} == {
        "overlay", "csv", "predict.json", "predictions.jsonl", "failures.jsonl"
    }  # fmt: skip


def test_a_table_in_physical_units(home, capsys):
    maskwise("in", "--save", "csv", capsys=capsys)
    maskwise("in", "--save", "csv", "--pixel-size", "0.5 µm", "--out", "out", capsys=capsys)
    pixels, lengths = (
        list(csv.DictReader((home / name / "csv" / "measurements.csv").read_text("utf-8").splitlines()))
        for name in ("predictions", "out")
    )
    assert [float(row["area_um2"]) for row in lengths] == [float(row["area_px2"]) / 4 for row in pixels]
    assert len(lengths) == 6
    maskwise("in", "--save", "csv", "--pixel-size", "0.5um", "--out", "out", "--resume", capsys=capsys)
    said = maskwise("in", "--save", "csv", "--out", "out", "--resume", capsys=capsys, code=2).err
    assert "pixel_size: '0.5um', now None" in said


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("--pixel-size", "half"), "--pixel-size: expected a length, such as 0.325um, got 'half'"),
        (("--pixel-size", "0um"), "--pixel-size: the size of a pixel must be positive, from 1e-30 to 1e30, got 0.0"),
        (("--pixel-size", "1um", "--save", "coco"), "--pixel-size is the unit of csv, which --save does not name"),
    ],
)
def test_a_size_of_pixels_that_says_nothing(home, capsys, words, complaint):
    assert complaint in maskwise("in", *words, capsys=capsys, code=2).err
    assert not (home / "predictions").exists()


def test_a_picture_is_one_line_whatever_it_is_called(home, capsys):
    names = ["two\nlines.png", "bell\a.png", os.fsdecode(b"\xff.png")]
    for name in names:
        write_image(home / "in" / name, picture((30, 40)))
        (home / "in" / f"bad {name}").write_bytes(b"no picture")
    shown = maskwise("in", "--json", "--save", "overlay", capsys=capsys, code=3)
    assert len(shown.err.splitlines()) == 9
    assert "two\\nlines.png: nothing found" in shown.err
    assert sorted(line["name"] for line in json.loads(shown.out)["failures"]) == sorted(f"bad {n}" for n in names)


def test_numbers_for_programs(home, capsys):
    out = maskwise("in", "--json", "--save", "png,coco", "--out", "out", capsys=capsys).out
    found = json.loads(out)
    assert found["pictures"] == 3
    assert found["instances"] == 6
    assert found["to_review"] == 2
    assert found["classes"]["spot"]["instances"] == 6
    assert found["failures"] == []
    assert found["out"] == "out"


def test_some_cannot_be_read(home, capsys):
    (home / "in" / "bad.png").write_bytes(b"")
    shown = maskwise("in", "nowhere.png", "--json", capsys=capsys, code=3)
    assert [f["name"] for f in json.loads(shown.out)["failures"]] == ["in/bad.png", "nowhere.png"]
    assert "no such file" in shown.err
    assert len((home / "predictions" / "failures.jsonl").read_text().splitlines()) == 2


def test_none_can_be_read(home, capsys):
    (home / "bad.png").write_bytes(b"")
    shown = maskwise("bad.png", capsys=capsys, code=2)
    assert "none of the pictures could be read" in shown.err
    assert "wrote" not in shown.out


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ([], "say what to look at"),
        (["in", "--stdin"], "say what to look at"),
        (["in/*.tif"], "no pictures there"),
        (["in", "--save", "cocoa"], "did you mean 'coco'"),
        (["in", "--conf", "7"], "--conf: expected a number from 0 to 1, got 7"),
        (["in", "--max-pixels", "0"], "--max-pixels: expected at least 1, got 0"),
        (["in", "--min-quality", "7"], "--min-quality: expected"),
        (["in", "--classes", "Spots"], "unknown category 'Spots'; did you mean 'spot'?"),
        (["nowhere.png", "neither.png"], "no such file: nowhere.png, neither.png"),
        (["in", "clip.mp4"], "pip install 'maskwise[video]'"),
        (["in", "--hlep"], "did you mean --help?"),
        (["in", "--exits-ok"], "--exist-ok"),
    ],
)
def test_wrong_usage_is_refused_before_there_is_a_folder(words, complaint, home, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    assert complaint in maskwise(*words, capsys=capsys, code=2).err
    assert not (home / "predictions").exists()


def test_what_is_there_is_left_alone_or_gone_on_with_or_written_over(home, capsys):
    maskwise("in", capsys=capsys)
    assert "go on with --resume" in maskwise("in", capsys=capsys, code=2).err
    assert "0.png" not in maskwise("in", "--resume", capsys=capsys).err
    assert "0.png" in maskwise("in", "--exist-ok", capsys=capsys).err


def test_a_folder_that_is_written_into_is_looked_at_twice_with_the_same_result(home, capsys, monkeypatch):
    monkeypatch.chdir(home / "in")
    maskwise(".", capsys=capsys)
    first = (home / "in/predictions/predictions.jsonl").read_text()
    for again in ("--resume", "--exist-ok"):
        shown = maskwise(".", again, "--json", capsys=capsys)
        assert json.loads(shown.out)["pictures"] == 3
        assert (home / "in/predictions/predictions.jsonl").read_text() == first


def test_options_that_were_edited_are_another_model(home, capsys):
    (home / "config.json").write_text("{}")
    maskwise("in", capsys=capsys)
    maskwise("in", "--resume", capsys=capsys)
    (home / "config.json").write_text('{"view": []}')
    assert "model.config" in maskwise("in", "--resume", capsys=capsys, code=2).err


def test_a_list_on_standard_input(home, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("in/0.png\n\nin/2.png\n"))
    maskwise("-", "in/1.png", capsys=capsys)
    lines = (home / "predictions" / "predictions.jsonl").read_text().splitlines()
    assert [json.loads(line)["name"] for line in lines] == ["0.png", "2.png", "1.png"]


def test_an_empty_list_on_standard_input(home, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    assert "names no pictures" in maskwise("-", capsys=capsys, code=2).err
    assert not (home / "predictions").exists()


def test_the_bytes_of_a_picture_on_standard_input(home, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO((home / "in" / "0.png").read_bytes())))
    found = json.loads(maskwise("--stdin", "--json", "--save", "labelme", capsys=capsys).out)
    assert found["instances"] == 2
    assert (home / "predictions" / "labelme" / "stdin.png").exists()


def test_options_reach_the_finder(home, capsys):
    found = json.loads(maskwise("in", "--json", "--min-quality", "0.7", capsys=capsys).out)
    assert found["instances"] == 4
    about = json.loads((home / "predictions" / "predict.json").read_text())
    assert about["options"]["min_quality"] == 0.7
    assert about["model"]["name"] == "bright"


def test_a_picture_with_more_objects_than_are_reported_is_said(home, capsys, monkeypatch):
    monkeypatch.setattr(model, "load", lambda *_, **__: Few())
    patches = [(x, y, x + 9, y + 9) for x in range(20, 600, 250) for y in range(20, 600, 250)]
    write_image(home / "in" / "many.png", picture((600, 600), *patches))
    shown = maskwise("in", "--save", "csv", capsys=capsys)
    assert "many.png: 9 spot" in shown.err
    assert "; more than are reported at once: cut into tiles of 300" in shown.err
    told = json.loads(maskwise("in", "--save", "csv", "--resume", "--json", capsys=capsys).out)
    assert (told["tiled"], told["limited"]) == ({"many.png": 300}, [])
    words = ("in/many.png", "--out", "few", "--tile", "none")
    shown = maskwise(*words, capsys=capsys)
    assert "many.png: 5 spot" in shown.err
    assert "; there may be more" in shown.err
    assert "there may be more, in 1: many.png; try a smaller --tile, or --max-det" in shown.out
    assert json.loads(maskwise(*words, "--resume", "--json", capsys=capsys).out)["limited"] == ["many.png"]
    shown = maskwise("in/many.png", "--out", "chosen", "--max-det", "7", capsys=capsys)
    assert "there may be more, in 1: many.png; raise --max-det" in shown.out


def test_what_a_format_cannot_hold_is_said(home, capsys):
    hollow = picture((30, 40), (3, 4, 20, 20))
    hollow[8:12, 8:12] = 0
    write_image(home / "in" / "0.png", hollow)
    assert "yolo cannot hold: " in maskwise("in", "--save", "yolo", capsys=capsys).out


def test_where_links_are_not_allowed_pictures_are_copied(home, capsys, monkeypatch):
    def refuse(*_, **__):
        raise OSError("not for you")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "symlink_to", refuse)
        maskwise("in", "--save", "yolo", capsys=capsys)
    assert (home / "predictions/yolo/images/train/0.png").is_file()
    assert "links are not allowed" not in maskwise("in", "--save", "yolo", "--resume", capsys=capsys).err


def test_whether_links_are_allowed_is_asked_where_they_shall_lie(home, capsys, monkeypatch):
    link = Path.symlink_to

    def refuse(path, *rest, **options):
        if path.resolve().is_relative_to(home / "disk"):
            raise OSError(95, "Operation not supported")
        link(path, *rest, **options)

    monkeypatch.setattr(Path, "symlink_to", refuse)
    (home / "disk").mkdir()
    shown = maskwise("in", "--save", "yolo", "--out", "disk/new/out", capsys=capsys)
    assert "links are not allowed here: the pictures are copied" in shown.err
    copied = home / "disk/new/out/yolo/images/train/0.png"
    assert copied.is_file()
    assert not copied.is_symlink()
    assert not [path for path in (home / "disk").iterdir() if path.name.startswith(".")]


def test_help_needs_no_torch():
    code = "import sys; from maskwise import cli; cli.main(['predict', '--help']); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0

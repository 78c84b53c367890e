import json
import logging
import os
import shutil
import subprocess
import sys
from typing import get_args

import numpy as np
import pytest
import torch

from maskwise.categories import Categories
from maskwise.data.command import FormatName, main
from maskwise.data.dataset import Item
from maskwise.data.formats import label_map
from maskwise.data.formats.table import FORMATS
from maskwise.data.images import read_image, write_label_map
from maskwise.data.open import open_data
from maskwise.masks import Masks
from maskwise.structures import Targets

CATEGORIES = Categories(names=("leaf", "stem"))


@pytest.fixture
def plants(tmp_path, picture):
    """Two pictures to train, one to judge; nothing is wrong."""
    ids = np.zeros((8, 12), int)
    ids[:4, :5], ids[4:, 6:] = 1, 2
    masks = Masks.from_label_map(ids)[0]
    for split, names in {"train": "ab", "val": "c"}.items():
        targets = Targets.from_masks(masks, torch.tensor([0, 1]))
        items = [
            Item(name=f"{n}.png", size=(8, 12), labelled=targets, image=picture(tmp_path / f"in/{n}.png", (8, 12)))
            for n in names
        ]
        label_map.write(tmp_path / "plants", CATEGORIES, items, split=split)
    return tmp_path / "plants"


def answer(capsys, *argv):
    """Exit code and the one JSON object on standard output."""
    code = main([*map(str, argv), "--json"])
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    return code, json.loads(out)


def test_check_of_a_good_data_set(plants, capsys, caplog):
    caplog.set_level(logging.INFO)
    assert main(["check", str(plants)]) == 0
    assert "✓ nothing is wrong with 3 pictures; only their headers were read" in " ".join(
        capsys.readouterr().out.split()
    )
    assert main(["check", str(plants), "--pixels"]) == 0
    assert "headers" not in capsys.readouterr().out
    assert "label_map, because train/masks/a.png lies beside train/images/a.png" in caplog.text
    code, said = answer(capsys, "check", plants)
    assert (code, said["format"], said["splits"], said["pictures"]) == (0, "label_map", ["train", "val"], 3)
    assert (said["errors"], said["problems"]) == (0, [])


def test_check_of_a_bad_one(plants, capsys):
    write_label_map(plants / "train/masks/a.png", np.full((12, 8), 1))
    for name in "bc":
        write_label_map(plants / f"train/masks/{name}.png", np.full((8, 12), 9))
    code, said = answer(capsys, "check", plants, "--split", "train")
    assert code == 1
    assert (said["errors"], said["warnings"], said["notes"]) == (6, 0, 0)
    assert said["problems"][0] == {
        "file": "train/masks/c.png",
        "where": "",
        "rule": "missing-image",
        "message": "there is no picture c for these labels",
        "severity": "error",
    }
    assert main(["check", str(plants), "--split", "train", "--most", "1"]) == 1
    out = capsys.readouterr().out
    assert "error empty-mask  2" in out
    assert "… and 1 more" in out
    assert "✗ 6 errors in 2 pictures" in out


def test_stats(plants, capsys):
    code, said = answer(capsys, "stats", plants)
    assert code == 0
    train, val = said["splits"]
    assert (train["pictures"], train["instances"], val["pictures"], val["instances"]) == (2, 4, 1, 2)
    assert train["areas"] == {"min": 20, "median": 22, "max": 24}
    assert [row["name"] for row in train["classes"]] == ["leaf", "stem"]
    assert main(["stats", str(plants), "--most", "1"]) == 0
    out = capsys.readouterr().out
    assert [line.split() for line in out.splitlines() if line.startswith("pictures ")] == [["pictures", "2", "1"]]
    assert "… and 1 more classes with 3 instances" in out


def test_convert_and_back(plants, tmp_path, capsys, same):
    code, said = answer(capsys, "convert", plants, tmp_path / "folders", "--to", "mask_folder")
    assert (code, said["to"]) == (0, "mask_folder")
    assert [(s["split"], s["pictures"], s["instances"], s["losses"]) for s in said["splits"]] == [
        ("train", 2, 4, {}),
        ("val", 1, 2, {}),
    ]
    assert main(["convert", str(tmp_path / "folders"), str(tmp_path / "maps"), "--to", "label_map", "--link"]) == 0
    assert "train: 2 pictures with 4 instances written as label_map" in " ".join(capsys.readouterr().out.split())
    first, again = (label_map.read(root, split="train")[0] for root in (plants, tmp_path / "maps"))
    assert again.path.is_symlink()
    assert same(first.labelled().targets, again.labelled().targets)


def test_convert_to_tiles(plants, tmp_path, capsys):
    options = ["--to", "coco", "--tile", "6", "--overlap", "0", "--min-visible", "0.5", "--skip-empty"]
    code, said = answer(capsys, "convert", plants, tmp_path / "json", *options)
    assert code == 0
    train, val = said["splits"]
    assert (train["pictures"], train["tiles"], val["tiles"]) == (2, 8, 4)
    assert read_image(tmp_path / "json/train/images/a_y02_x06.png").shape == (6, 6, 3)
    assert main(["convert", str(plants), str(tmp_path / "out"), *options]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "train: 2 pictures with 4 instances, cut into 8 tiles, written as coco" in out
    code, said = answer(capsys, "convert", plants, tmp_path / "whole", "--to", "coco")
    assert (code, set(said["splits"][0])) == (
        0,
        {"split", "pictures", "instances", "files", "losses", "problems"},
    )


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--overlap", "2"], "--overlap: there are no tiles without --tile"),
        (["--min-visible", "0", "--skip-empty"], "--min-visible, --skip-empty: there are no tiles without --tile"),
        (["--tile", "4", "--overlap", "4"], "overlap: expected 0 or more and less than the tile of 4, got 4"),
        (["--tile", "0"], "tile: a side of at least 1 pixel is needed, got 0"),
        (["--tile", "4", "--min-visible", "2"], "min-visible: expected a share from 0 to 1, got 2.0"),
        (["--tile", "4", "--max-pixels", "95"], "a.png: 12 x 8 = 96 pixels; max-pixels is 95"),
        (["--max-pixels", "0"], "max-pixels: expected 1 or more, got 0"),
    ],
)
def test_convert_refuses_tiles_that_cannot_be(plants, tmp_path, capsys, options, reason):
    assert main(["convert", str(plants), str(tmp_path / "out"), "--to", "coco", *options]) == 2
    assert reason in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()


def test_convert_tells_what_is_lost_and_what_is_wrong(plants, tmp_path, capsys):
    dense = torch.ones(2, 3, 4, dtype=torch.bool)
    dense[0, 0] = False
    crowded = Targets.from_masks(Masks.from_dense(dense), torch.tensor([0, 1]), crowd=torch.tensor([False, True]))
    from_folder = FORMATS["mask_folder"]
    from_folder.write(plants / "in", CATEGORIES, [Item(name="a.png", size=(3, 4), labelled=crowded)], split="val")
    (plants / "in/val/images").mkdir()
    (plants / "in/val/images/a.png").write_bytes((plants / "val/images/c.png").read_bytes())
    assert main(["convert", str(plants / "in"), str(tmp_path / "out"), "--to", "voc"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "annotations or files left out for an error 2" in out
    assert "2 problems in what was read: see check" in out
    code, said = answer(capsys, "convert", plants / "in", tmp_path / "again", "--to", "voc")
    assert (code, said["splits"][0]["losses"]["annotations or files left out for an error"]) == (0, 2)


@pytest.mark.parametrize("format", sorted(set(FORMATS) - {"cityscapes"}))
def test_convert_keeps_pictures_of_one_name_in_two_splits(plants, tmp_path, picture, format):
    for folder, end in (("images", "png"), ("masks", "png")):
        (plants / f"val/{folder}/c.{end}").rename(plants / f"val/{folder}/a.{end}")
    table = plants / "val/labels.csv"
    table.write_text(table.read_text().replace("c.png", "a.png"))
    assert main(["convert", str(plants), str(tmp_path / "out"), "--to", format]) == 0
    for split in ("train", "val"):
        before, after = (open_data(root, split=split) for root in (plants, tmp_path / "out"))
        pixels = [sorted(record.path.read_bytes() for record in data) for data in (before, after)]
        assert pixels[0] == pixels[1]


WORST = "\x1b]0;owned\x07\u009b2J[red]"


def test_names_cannot_steer_the_terminal(plants, capsys):
    category = {"names": [WORST, "stem"]}
    (plants / "train/categories.json").write_text(json.dumps(category))
    table = plants / "train/labels.csv"
    table.write_text(table.read_text().replace("leaf", WORST, 1).replace("stem", f"no {WORST}", 1))
    assert main(["check", str(plants), "--split", "train"]) == 1
    assert main(["stats", str(plants), "--split", "train"]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "\x07" not in out
    assert "\x9b" not in out
    assert "\\x1b]0;owned\\x07\\x9b2J[red]" in out


def test_an_error_cannot_steer_the_terminal(tmp_path, capsys):
    (tmp_path / "data.yaml").write_text(json.dumps({"names": [WORST, WORST], "train": "x"}))
    assert main(["check", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert "\x1b" not in said
    assert "\\x1b" in said


def test_names_of_files_that_are_no_text(plants, tmp_path, capsys):
    name = os.fsdecode(b"Bl\xe4tt.png")
    shutil.copy(plants / "train/images/a.png", plants / "train/images" / name)
    assert main(["check", str(plants)]) == 0
    assert "Bl\\udce4tt.png" in capsys.readouterr().out
    code, said = answer(capsys, "check", plants)
    assert (code, said["problems"][0]["file"]) == (0, f"train/images/{name}")
    shutil.copy(plants / "train/masks/a.png", plants / "train/masks" / name)
    code, said = answer(capsys, "preview", plants, "--out", tmp_path / name)
    assert (code, said["pictures"][0]) == (0, f"{name.removesuffix('.png')} · 0 objects")


@pytest.mark.parametrize("format", sorted(FORMATS))
def test_an_empty_folder_is_no_data_set_without_faults(tmp_path, format):
    assert main(["check", str(tmp_path), "--from", format]) != 0


def test_a_format_of_which_nothing_is_found_is_named(plants, capsys):
    for command in ("check", "stats", "preview"):
        assert main([command, str(plants), "--from", "cityscapes"]) == 2
        assert "plants: found nothing of the format cityscapes there" in capsys.readouterr().err


def test_convert_does_not_write_over_what_is_there(plants, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    arguments = ["convert", str(plants), str(tmp_path / "out"), "--to", "voc", "--split", "train"]
    assert main(arguments) == 0
    assert main(arguments) == 2
    assert "out exists already; choose another place, or allow it with --exist-ok" in capsys.readouterr().err
    assert main([*arguments, "--exist-ok"]) == 0


@pytest.mark.parametrize("source", ["out", "out/train.json"])
def test_convert_does_not_write_over_what_it_reads(plants, tmp_path, capsys, source):
    out = tmp_path / "out"
    assert main(["convert", str(plants), str(out), "--to", "coco", "--split", "train"]) == 0
    before = (out / "train.json").read_bytes()
    assert main(["convert", str(tmp_path / source), str(out), "--to", "coco", "--exist-ok"]) == 2
    assert "write over the data set that is read" in capsys.readouterr().err
    assert (out / "train.json").read_bytes() == before


def test_preview_of_a_data_set(plants, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["preview", str(plants), "--cell", "48"]) == 0
    assert "previews/plants.png: 2 pictures" in capsys.readouterr().out
    sheet = read_image(tmp_path / "previews/plants.png")
    code, said = answer(
        capsys, "preview", plants, "--count", 1, "--cell", 48, "--split", "val", "--out", tmp_path / "x.png"
    )
    assert (code, said["pictures"]) == (0, ["c · 2 objects"])
    assert main(["preview", str(plants), "--count", "1", "--out", str(tmp_path / "y.png")]) == 0
    assert " ".join(capsys.readouterr().out.split()).endswith("y.png: 1 picture")
    assert read_image(tmp_path / "x.png").shape[1] < sheet.shape[1]


def test_preview_passes_over_pictures_that_cannot_be_read(plants, tmp_path, capsys, caplog):
    (plants / "train/images/a.png").write_bytes(b"")
    code, said = answer(capsys, "preview", plants, "--cell", 48, "--out", tmp_path / "x.png")
    assert (code, said["pictures"]) == (3, ["b · 2 objects"])
    assert "a.png: empty file" in caplog.text
    (plants / "train/images/b.png").write_bytes(b"")
    assert main(["preview", str(plants), "--out", str(tmp_path / "x.png")]) == 2
    assert "none of 2 pictures" in capsys.readouterr().err


def test_preview_of_scenes(tmp_path, capsys):
    code, said = answer(capsys, "preview", "scenes", "--count", 6, "--cell", 96, "--out", tmp_path / "s.png")
    assert code == 0
    assert [caption.split(" ")[0] for caption in said["pictures"]] == [
        *("still", "many", "salient", "parts", "clip", "crowd"),
    ]
    assert len(np.unique(read_image(tmp_path / "s.png").reshape(-1, 3), axis=0)) > 1000


@pytest.mark.parametrize(
    ("argv", "reason"),
    [
        (["check", "absent"], "absent: there is no such file or folder"),
        (["check", "."], "say which it is: --from NAME"),
        (["check", "pictures"], "there are pictures, but no annotations were found"),
        (["stats", ".", "--from", "label_map", "--split", "x"], "has no split 'x'; known: none"),
        (["preview", "scenes", "--count", "0"], "at least one picture"),
        (["convert", ".", "out", "--to", "cooc"], "cooc"),
        (["check", ".", "--jsno"], "--json"),
        (["chekc", "."], "check"),
        ([], "check"),
    ],
)
def test_wrong_usage_and_unreadable_data_end_with_2(argv, reason, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.png").touch()
    assert main(argv) == 2
    caught = capsys.readouterr()
    assert caught.out == ""
    assert reason in " ".join(caught.err.split())


def test_the_formats_of_the_command_are_those_of_the_table():
    assert sorted(get_args(FormatName)) == sorted(FORMATS)


def test_help_imports_neither_torch_nor_pictures():
    code = "import sys; from maskwise.data.command import main; main(['--help']); print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "convert" in run.stdout
    assert not {"torch", "PIL", "scipy"} & set(run.stdout.splitlines()[-1].split())

"""A folder of predictions: read back to the bit, resumed to the byte."""

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from bright import NAMES, Bright, found, picture, same

from maskwise.categories import Categories
from maskwise.data.check import check
from maskwise.data.formats.measurements import Scale
from maskwise.data.images import read_image, write_image
from maskwise.data.open import open_data
from maskwise.predict import Options
from maskwise.predictions import formats
from maskwise.predictions.folder import Job, results, run
from maskwise.predictions.pictures import Asked
from maskwise.predictions.sources import named

EVERYTHING = ("overlay", "coco", "labelme", "yolo", "png", "csv")


@pytest.fixture
def pictures(tmp_path):
    for i in range(9):
        pixels = picture((30 + i % 2, 40), *[(3 + 9 * k, 4, 9 + 9 * k, 5 + i) for k in range(i % 4)])
        if i == 8:
            pixels[6:8, 5:7] = 0  # a hole

        (tmp_path / "in").mkdir(exist_ok=True)
        write_image(tmp_path / "in" / f"{i}.png", pixels)
    (tmp_path / "in" / "4.png").write_bytes(b"no picture")
    return tmp_path / "in"


def job(pictures, name="out", **rest):
    rest = {"options": Options(min_score=0, batch=2), "save": EVERYTHING, **rest}
    return Job(out=pictures.parent / name, model={"name": "bright"}, sources=[str(pictures)], **rest)


def tree(folder: Path) -> dict[str, bytes | str]:
    """Every file, hidden ones too; of a link where it leads."""
    files = (p for p in sorted(folder.rglob("*")) if not p.is_dir())
    return {p.relative_to(folder).as_posix(): str(p.readlink()) if p.is_symlink() else p.read_bytes() for p in files}


def test_what_is_written_is_read_back_to_the_bit(pictures):
    wanted = job(pictures)
    done = run(Bright(), named([pictures]), wanted)
    assert (done.results, done.failures) == (8, 1)
    read = list(results(wanted.out))
    assert [r.name for r in read] == [f"{i}.png" for i in range(9) if i != 4]
    for result in read:
        assert same(result.instances, found(read_image(pictures / result.name)))
    [failure] = map(json.loads, (wanted.out / "failures.jsonl").read_text().splitlines())
    assert failure["name"] == "4.png"
    assert failure["error"]["stage"] == "read"


@pytest.mark.parametrize("format", ["coco", "labelme", "yolo", "png"])
def test_every_format_is_read_back_to_the_same_instances(format, pictures):
    wanted = job(pictures, save=(format,))
    run(Bright(), named([pictures]), wanted)
    assert_read_back(wanted, format)


def test_names_that_are_no_text_are_names_all_the_same(pictures):
    odd = os.fsdecode(b"caf\xe9.png")
    try:
        (pictures / "3.png").rename(pictures / odd)
    except OSError:  # those of macOS and Windows
        pytest.skip("this file system has only names that are text")
    wanted = job(pictures)
    assert run(Bright(), named([pictures]), wanted).results == 8
    for format in ("coco", "labelme", "yolo", "png"):
        assert odd in assert_read_back(wanted, format)
    assert "caf\\udce9.png" in (wanted.out / "csv" / "measurements.csv").read_text("utf-8")


def assert_read_back(wanted, format):
    """The names of the pictures."""
    data = open_data(wanted.out / format)
    assert set(data.categories.names) >= {"spot", "blob"}
    by_name = {Path(record.name).name: record for record in data}
    expected = {r.name: r.instances for r in results(wanted.out)}
    assert by_name.keys() == expected.keys()
    for name, record in by_name.items():
        read, instances = record.labelled(), expected[name]
        assert not [p for p in read.problems if p.severity == "error"]
        assert record.path.exists()
        got = read.instances() if format != "yolo" else read.targets
        assert described(got, data.categories, scores=format != "yolo") == described(
            instances, NAMES, scores=format != "yolo"
        )
    return by_name.keys()


def described(found, categories, *, scores):
    """Everything but the order, which formats without scores have not."""
    columns = [[categories.name(label) for label in found.labels.tolist()], [m["counts"] for m in found.masks.rle()]]
    if scores:
        columns += [getattr(found, name).tolist() for name in ("scores", "quality", "mask_scores")]
    return sorted(zip(*columns, strict=True))


def test_a_video_that_cannot_be_read_is_a_failure_with_its_path(pictures):
    video = pictures / "bad.mp4"
    video.write_bytes(b"no video")
    wanted = job(pictures, save=())
    assert run(Bright(), named([video, pictures / "0.png"]), wanted).failures == 1
    [failure] = map(json.loads, (wanted.out / "failures.jsonl").read_text().splitlines())
    assert (failure["name"], failure["path"]) == ("bad/000000.png", str(video))


def test_wrong_classes_are_refused_before_there_is_a_folder(pictures):
    wanted = job(pictures, options=Options(classes=("blot",)))
    with pytest.raises(ValueError, match="did you mean 'blob'"):
        run(Bright(), named([pictures]), wanted)
    assert not wanted.out.exists()


def test_names_that_a_format_refuses_are_refused_before_there_is_a_folder(pictures):
    wanted = job(pictures)
    with pytest.raises(ValueError, match="--save labelme: a category cannot be called 'spot ' in this format"):
        run(Bright(categories=Categories(names=("spot ", "blob"), ids=(7, 3))), named([pictures]), wanted)
    assert not wanted.out.exists()


def test_our_own_check_has_no_complaint_about_boxes(pictures):
    class Wide(Bright):
        def instances(self, pictures):
            several = Bright.instances(self, pictures)
            return [replace(one, boxes=one.boxes + torch.tensor([-9.0, 0, 0, 9])) for one in several]

    wanted = job(pictures, save=("coco",))
    run(Wide(), named([pictures]), wanted)
    assert not [p for p in check(open_data(wanted.out / "coco")) if p.rule == "box-differs"]
    rows = json.loads((wanted.out / "coco" / "predictions.json").read_text())["annotations"]
    assert (rows[0]["bbox"], rows[0]["predicted_bbox"]) == ([3, 4, 6, 2], [-6, 4, 15, 11])


def test_a_picture_that_is_no_file_is_kept_beside_its_annotations(tmp_path):
    wanted = replace(job(tmp_path / "in"), save=("labelme",))
    pixels = picture((20, 20), (3, 3, 9, 9))
    run(Bright(), [Asked.of(pixels, name="a.png")], wanted)
    [record] = open_data(wanted.out / "labelme")
    assert (read_image(record.path) == pixels).all()


def test_links_or_copies(pictures):
    linked, copied = job(pictures, save=("yolo",)), job(pictures, "copied", save=("yolo",), link=False)
    for wanted in (linked, copied):
        run(Bright(), named([pictures]), wanted)
    assert (linked.out / "yolo/images/train/0.png").is_symlink()
    assert not (copied.out / "yolo/images/train/0.png").is_symlink()


def test_what_was_half_written_first_is_no_reason_not_to_go_on(pictures):
    wanted = job(pictures)
    wanted.out.mkdir(parents=True)
    (wanted.out / ".0123456789abcdef.tmp").touch()
    run(Bright(), named([pictures]), wanted)
    assert (wanted.out / "predictions.jsonl").is_file()


class Stop(Exception):
    pass


def stopping(after):
    """A finder that fails at a call."""
    calls = []

    def count():
        calls.append(1)
        if len(calls) > after:
            raise Stop

    return Bright(before=count)


@pytest.mark.parametrize(("after", "damage"), [(0, b""), (2, b'{"name": "3.p'), (5, b"")])
def test_a_run_that_goes_on_ends_as_if_it_had_never_stopped(after, damage, pictures):
    whole, broken = job(pictures), job(pictures, "broken")
    run(Bright(), named([pictures]), whole)
    with pytest.raises(Stop):
        run(stopping(after), named([pictures]), broken)
    lines = broken.out / "predictions.jsonl"
    done = lines.read_bytes().count(b"\n")
    lines.write_bytes(lines.read_bytes() + damage)
    (broken.out / "overlay").mkdir(exist_ok=True)
    (broken.out / "overlay" / ".0123456789abcdef.tmp").write_bytes(b"half")
    told = []
    run(Bright(), named([pictures]), replace(broken, resume=True), told=told.append)
    assert len(told) == 9 - done // 2 * 2
    assert tree(broken.out) == tree(whole.out)


def test_a_run_that_is_complete_may_go_on(pictures):
    wanted = job(pictures)
    run(Bright(), named([pictures]), wanted)
    before = tree(wanted.out)
    finder = Bright()
    run(finder, named([pictures]), replace(wanted, resume=True))
    assert not finder.calls
    assert tree(wanted.out) == before


def test_what_is_finished_is_not_written_over(pictures):
    for i, save in enumerate(EVERYTHING[1:]):
        wanted = job(pictures, f"out{i}", save=(save,))
        first = run(Bright(), named([pictures]), wanted)
        corrected = next(p for p in sorted((wanted.out / save).rglob("*.*")) if p.is_file() and not p.is_symlink())
        corrected.write_bytes(b"corrected")
        before = tree(wanted.out)
        again = run(Bright(), named([pictures]), replace(wanted, resume=True))
        assert tree(wanted.out) == before
        assert again.written[save].losses == first.written[save].losses


def test_a_data_set_that_was_taken_away_is_written_again(pictures):
    wanted = job(pictures, save=("labelme", "csv"))
    run(Bright(), named([pictures]), wanted)
    before = tree(wanted.out)
    (wanted.out / "labelme").rename(pictures / ".corrected")
    run(Bright(), named([pictures]), replace(wanted, resume=True))
    assert tree(wanted.out) == before


def test_corrections_are_not_written_over_because_there_are_more_pictures(pictures):
    wanted = job(pictures, save=("labelme", "csv"))
    run(Bright(), named([pictures]), wanted)
    write_image(pictures / "9.png", picture((9, 9)))
    corrected = wanted.out / "labelme/1.json"
    words = corrected.read_bytes()
    corrected.write_bytes(b"corrected")
    before = tree(wanted.out)
    with pytest.raises(ValueError, match="labelme was changed since it was written: move it elsewhere"):
        run(Bright(), named([pictures]), replace(wanted, resume=True))
    assert tree(wanted.out) == before
    corrected.write_bytes(words)
    run(Bright(), named([pictures]), replace(wanted, resume=True))
    run(Bright(), named([pictures]), job(pictures, "whole", save=("labelme", "csv")))
    assert tree(wanted.out) == tree(pictures.parent / "whole")


def test_pictures_that_cannot_be_read_any_more_leave_nothing_behind(pictures):
    wanted = job(pictures)
    run(Bright(), named([pictures]), wanted)
    kept = (wanted.out / "predictions.jsonl").read_bytes().splitlines(keepends=True)[:2]
    (wanted.out / "predictions.jsonl").write_bytes(b"".join(kept) + b"damaged\n")
    (pictures / "3.png").write_bytes(b"no picture")
    run(Bright(), named([pictures]), replace(wanted, resume=True))
    run(Bright(), named([pictures]), job(pictures, "whole"))
    assert tree(wanted.out) == tree(pictures.parent / "whole")


def test_a_link_in_the_place_of_a_data_set_stays(pictures):
    wanted, far = job(pictures, save=("labelme",)), pictures.parent / "far"
    run(Bright(), named([pictures]), wanted)
    (wanted.out / "labelme").rename(far)
    (wanted.out / "labelme").symlink_to(far)
    write_image(pictures / "9.png", picture((9, 9)))
    run(Bright(), named([pictures]), replace(wanted, resume=True))
    assert (wanted.out / "labelme").is_symlink()
    assert (far / "9.json").exists()


def test_what_was_half_written_anew_is_no_correction(pictures, monkeypatch):
    wanted, write = job(pictures, save=("csv",)), formats.DATA["csv"]
    run(Bright(), named([pictures]), wanted)
    write_image(pictures / "9.png", picture((9, 9), (3, 3, 5, 5)))

    def half(root, categories, items, scale):
        written = write(root, categories, items, scale)
        if root.parent == wanted.out:
            raise OSError("no space")
        return written

    monkeypatch.setitem(formats.DATA, "csv", half)
    with pytest.raises(OSError, match="no space"):
        run(Bright(), named([pictures]), replace(wanted, resume=True))
    monkeypatch.undo()
    run(Bright(), named([pictures]), replace(wanted, resume=True))
    assert "csv" in json.loads((wanted.out / "predict.json").read_text())["written"]


def test_data_sets_that_were_written_before_another_failed_are_left_as_they_are(pictures, monkeypatch):
    wanted, write = job(pictures, save=("labelme", "csv")), formats.DATA["csv"]

    def full(root, categories, items, scale):
        if root.parent == wanted.out:
            raise OSError("no space")
        return write(root, categories, items, scale)

    monkeypatch.setitem(formats.DATA, "csv", full)
    with pytest.raises(OSError, match="no space"):
        run(Bright(), named([pictures]), wanted)
    monkeypatch.undo()
    (wanted.out / "labelme/1.json").write_bytes(b"corrected")
    run(Bright(), named([pictures]), replace(wanted, resume=True))
    assert (wanted.out / "labelme/1.json").read_bytes() == b"corrected"
    assert (wanted.out / "csv/measurements.csv").exists()


SLOW = """
import sys, time
from pathlib import Path
from bright import Bright
from maskwise.predict import Options
from maskwise.predictions import formats
from maskwise.predictions.folder import Job, run
from maskwise.predictions.sources import named
source, out = map(Path, sys.argv[1:])
job = Job(out=out, model={"name": "bright"}, sources=[str(source)], options=Options(min_score=0, batch=2),
          save=("overlay", "coco", "labelme", "yolo", "png", "csv"))
run(Bright(before=lambda: time.sleep(0.15)), named([source]), job)
"""


@pytest.mark.slow
def test_a_run_that_was_killed_goes_on_to_the_same_bytes(pictures):
    whole, killed = job(pictures), job(pictures, "killed")
    run(Bright(), named([pictures]), whole)
    command = [sys.executable, "-c", SLOW, str(pictures), str(killed.out)]
    process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])})
    lines, deadline = killed.out / "predictions.jsonl", time.monotonic() + 60
    while time.monotonic() < deadline and not (lines.exists() and lines.read_bytes().count(b"\n") >= 3):
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert 3 <= lines.read_bytes().count(b"\n") < 9
    run(Bright(), named([pictures]), replace(killed, resume=True))
    assert tree(killed.out) == tree(whole.out)


@pytest.mark.parametrize("change", [{"resume": True}, {"exist_ok": True}, {}])
def test_a_folder_that_is_being_written_to_is_refused(change, pictures):
    whole, wanted, refused = job(pictures), job(pictures, "both"), []

    def meanwhile():
        if not refused:
            with pytest.raises(ValueError, match="both: another process is predicting into it; wait") as complaint:
                run(Bright(), named([pictures]), replace(wanted, **change))
            refused.append(complaint)

    run(Bright(), named([pictures]), whole)
    run(Bright(before=meanwhile), named([pictures]), wanted)
    assert refused
    assert tree(wanted.out) == tree(whole.out)
    run(Bright(), named([pictures]), replace(wanted, resume=True))
    assert tree(wanted.out) == tree(whole.out)


def test_the_lock_of_a_run_that_was_killed_locks_nothing(pictures):
    wanted = job(pictures)
    wanted.out.mkdir()
    (wanted.out / ".lock").touch()
    assert run(Bright(), named([pictures]), wanted).results == 8
    assert not (wanted.out / ".lock").exists()


def test_a_file_in_the_place_of_the_folder_is_refused(pictures):
    wanted = job(pictures)
    wanted.out.write_text("mine")
    with pytest.raises(ValueError, match="out is a file: choose another --out"):
        run(Bright(), named([pictures]), replace(wanted, exist_ok=True))
    assert wanted.out.read_text() == "mine"


def test_a_folder_that_holds_something_is_left_alone(pictures):
    wanted = job(pictures, save=("csv",))
    wanted.out.mkdir()
    (wanted.out / "mine.txt").write_text("mine")
    with pytest.raises(ValueError, match="is not empty: go on with --resume"):
        run(Bright(), named([pictures]), wanted)
    run(Bright(), named([pictures]), replace(wanted, exist_ok=True))
    assert (wanted.out / "mine.txt").read_text() == "mine"


def test_folders_of_others_are_neither_written_into_nor_taken_away(pictures):
    wanted = job(pictures, save=("csv",))
    (wanted.out / "png").mkdir(parents=True)
    (wanted.out / "png/mine.png").write_bytes(b"mine")
    with pytest.raises(ValueError, match="png is there, and not of earlier predictions"):
        run(Bright(), named([pictures]), replace(wanted, exist_ok=True, save=("png",)))
    for _ in range(2):
        run(Bright(), named([pictures]), replace(wanted, exist_ok=True))
    assert (wanted.out / "png/mine.png").read_bytes() == b"mine"
    with pytest.raises(ValueError, match="png is there, and not of earlier predictions"):
        run(Bright(), named([pictures]), replace(wanted, exist_ok=True, save=("csv", "png")))
    assert (wanted.out / "csv").is_dir()


@pytest.mark.parametrize(
    "mine",
    [
        {"predictions.jsonl": "mine\n"},
        {"predict.json": "[]", "predictions.jsonl": "mine\n"},
        {"predict.json": '{"save": ["csv"]}', "failures.jsonl": "mine\n"},
        {"predict.json": "mine"},
        {"predict.json/mine.txt": "mine"},
        {"predict.json": "[" * 200_000},
    ],
)
def test_files_of_others_are_neither_added_to_nor_taken_away(pictures, mine):
    wanted = job(pictures, save=())
    for name, words in mine.items():
        (wanted.out / name).parent.mkdir(parents=True, exist_ok=True)
        (wanted.out / name).write_text(words)
    with pytest.raises(ValueError, match=r"\.jsonl? is there, and not of earlier predictions|predict\.json: not JSON"):
        run(Bright(), named([pictures]), replace(wanted, exist_ok=True))
    assert tree(wanted.out) == {name: words.encode() for name, words in mine.items()}


@pytest.mark.parametrize("source", ["~nobody.png", "~nobody*.png"])
def test_a_source_that_looks_like_the_home_of_nobody_is_a_file(source, pictures, monkeypatch):
    monkeypatch.chdir(pictures)
    write_image(pictures / "~nobody.png", picture((9, 9)))
    wanted = job(pictures, save=(), exist_ok=True)
    for _ in range(2):
        assert run(Bright(), named([source]), replace(wanted, sources=[source])).results == 1


@pytest.mark.parametrize("inner", ["pictures", "pictures/0.png", "pictures/*.png"])
def test_sources_are_not_taken_away(pictures, inner):
    wanted = job(pictures, save=("coco",))
    run(Bright(), (Asked.of(read_image(p), name=p.name) for p in sorted(pictures.glob("[0-3].png"))), wanted)
    kept = tree(wanted.out)
    assert "pictures/0.png" in kept
    again = replace(wanted, sources=[str(wanted.out / inner)], exist_ok=True)
    with pytest.raises(ValueError, match="in what would be written over"):
        run(Bright(), named(again.sources), again)
    assert tree(wanted.out) == kept


def test_what_a_folder_says_of_itself_takes_nothing_else_away(pictures, tmp_path):
    wanted = job(pictures, save=("csv",))
    run(Bright(), named([pictures]), wanted)
    about = json.loads((wanted.out / "predict.json").read_text())
    (tmp_path / "mine").mkdir()
    (wanted.out / "pictures").mkdir()
    (wanted.out / "csv/measurements.csv").unlink()
    (wanted.out / "csv").rmdir()
    (wanted.out / "csv").symlink_to(tmp_path / "mine")
    (tmp_path / "mine/mine.txt").write_text("mine")
    (wanted.out / "predict.json").write_text(json.dumps(about | {"save": ["../mine", "csv", ["png"]]}))
    run(Bright(), named([pictures]), replace(wanted, exist_ok=True))
    assert (tmp_path / "mine/mine.txt").read_text() == "mine"
    assert (wanted.out / "pictures").is_dir()
    assert not (wanted.out / "csv").is_symlink()


@pytest.mark.parametrize("save", [(), ("overlay",), ("csv",), EVERYTHING])
def test_predictions_that_are_written_over_leave_nothing_behind(pictures, save):
    wanted = job(pictures, save=save)
    run(Bright(), named([pictures]), wanted)
    (pictures / "0.png").unlink()
    (pictures / "1.png").rename(pictures / "renamed.png")
    run(Bright(), named([pictures]), replace(wanted, exist_ok=True))
    assert not [name for name in tree(wanted.out) if Path(name).stem in ("0", "1")]


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"options": Options(min_score=0.3, batch=2)}, r"options.min_score: 0, now 0.3"),
        ({"model": {"name": "other"}}, "model.name: 'bright', now 'other'"),
        ({"save": ("csv",)}, "save"),
        ({"scale": Scale(0.5, "um")}, "pixel_size: None, now '0.5um'"),
    ],
)
def test_only_the_same_run_goes_on(change, complaint, pictures):
    run(Bright(), named([pictures]), job(pictures))
    with pytest.raises(ValueError, match=f"(?s)holds other predictions.*{complaint}"):
        run(Bright(), named([pictures]), replace(job(pictures, resume=True), **change))


def test_pictures_that_changed_in_between_are_noticed(pictures):
    run(Bright(), named([pictures]), job(pictures))
    write_image(pictures / "0.jpg", picture((9, 9)))
    with pytest.raises(ValueError, match=r"0\.png was looked at, now 0\.jpg is in its place"):
        run(Bright(), named([pictures]), job(pictures, resume=True))


def test_pictures_that_went_in_between_are_noticed(pictures):
    run(Bright(), named([pictures]), job(pictures))
    for i in range(5, 9):
        (pictures / f"{i}.png").unlink()
    with pytest.raises(ValueError, match=r"5\.png was looked at, now nothing is in its place"):
        run(Bright(), named([pictures]), job(pictures, resume=True))


def test_a_run_that_was_killed_before_its_first_picture_goes_on(pictures):
    wanted = job(pictures, save=("csv",))
    run(Bright(), named([pictures]), wanted)
    before = tree(wanted.out)
    for path in wanted.out.glob("*.jsonl"):
        path.unlink()
    run(Bright(), named([pictures]), replace(wanted, resume=True))
    assert tree(wanted.out) == before


@pytest.mark.parametrize(
    ("number", "old", "new"),
    [
        (5, b'{"name"', b"\0" * 500),
        (8, b'{"name"', b"\0" * 500),
        (5, b'{"name"', b"\xff\xfe"),
        (5, b'"size"', b'"na'),
        (5, None, b"[]\n"),
        (8, None, b"{}\n"),
        (5, None, b'"error"\n'),
        (5, None, b'{"name": "5.png"}\n'),
        (5, None, b'{"name": "5.png", "error": 3}\n'),
        (5, b'"labels": [0', b'"labels": [9'),
        (5, b'"labels": [0', b'"labels": [99999999999999999999'),
        (5, b'"boxes": [[', b'"boxes": [[3, '),
        (5, b'"scores": [', b'"scores": [0.5, '),
        (5, b'"size": [31', b'"size": [1e999'),
    ],
)
def test_lines_that_are_damaged_are_mended_by_going_on(number, old, new, pictures):
    wanted = job(pictures, save=("csv",))
    run(Bright(), named([pictures]), wanted)
    before, lines = tree(wanted.out), wanted.out / "predictions.jsonl"
    several = lines.read_bytes().splitlines(keepends=True)
    several[number] = several[number].replace(old or several[number], new)
    lines.write_bytes(b"".join(several))
    assert tree(wanted.out) != before
    with pytest.raises(ValueError, match=f"line {number + 1}: .*; --resume mends it"):
        list(results(wanted.out))
    told = []
    run(Bright(), named([pictures]), replace(wanted, resume=True), told=told.append)
    assert len(told) == 9 - number // 2 * 2
    assert tree(wanted.out) == before


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("predict.json", b"{", r"predict\.json"),
        ("predictions.jsonl", b"{}\n", r"line 1: ValueError: expected an object with a name; --resume mends it"),
        ("predictions.jsonl", b"[1", "line 1"),
        ("predictions.jsonl", b"\0" * 500 + b"\n", "line 1.{0,150}; --resume mends it$"),
        ("predictions.jsonl", b"[" * 200_000 + b"\n", "line 1: RecursionError"),
    ],
)
def test_a_damaged_folder_is_refused(name, content, complaint, pictures):
    wanted = job(pictures, save=("csv",))
    run(Bright(), named([pictures]), wanted)
    (wanted.out / name).write_bytes(content)
    with pytest.raises(ValueError, match=complaint):
        list(results(wanted.out))


def test_a_folder_of_something_else_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"no predictions here: there is no predict\.json"):
        list(results(tmp_path))

import csv
import json
import re
import types
from dataclasses import asdict, fields
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from bright import NAMES, Bright, Few, found, picture, same
from PIL import Image, ImageSequence

import maskwise
from maskwise.data.formats import pictures
from maskwise.data.images import MAX_PIXELS, ImageReadError, read_image, write_image
from maskwise.data.open import open_data
from maskwise.predict import Failed, Options, Result, keeper, outcomes, predict
from maskwise.predictions import formats
from maskwise.predictions.pictures import Asked

SPOTS = [(5, 5, 20, 15), (30, 10, 44, 30), (2, 30, 3, 31)]
PIXELS = picture((40, 50), *SPOTS)
ALL = Options(min_score=0.0)


@pytest.fixture
def folder(tmp_path):
    """Pictures of two sizes in two folders, and a file that is none."""
    for i in range(5):
        path = tmp_path / "in" / ("deep" if i % 2 else "") / f"päge {i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_image(path, picture((40 + 8 * (i % 2), 50), *SPOTS[: i + 1]))
    (tmp_path / "in" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    return tmp_path / "in"


def test_one_picture_one_result_however_it_is_given(tmp_path):
    path = tmp_path / "a.png"
    write_image(path, PIXELS)
    tensor = torch.from_numpy(PIXELS).permute(2, 0, 1)
    for given in (path, str(path), path.read_bytes(), PIXELS, tensor, Image.fromarray(PIXELS)):
        result = predict(Bright(), given, ALL)
        assert isinstance(result, Result)
        assert same(result.instances, found(PIXELS))
        assert result.size == (40, 50)
        np.testing.assert_array_equal(result.pixels, PIXELS)
    assert result.path is None
    assert predict(Bright(), path, ALL).path == path


def test_files_and_memory_are_one_picture(tmp_path):
    write_image(tmp_path / "a.png", PIXELS)
    data = (tmp_path / "a.png").read_bytes()
    with (tmp_path / "a.png").open("rb") as file:
        for given in (file, BytesIO(data), bytearray(data), memoryview(data)):
            assert same(predict(Bright(), given, ALL).instances, found(PIXELS))
        assert [len(one) for one in predict(Bright(), [file, BytesIO(data)], ALL)] == [3, 3]


@pytest.mark.parametrize("kind", ["array", "tensor", "pillow", "bytes", "file"])
def test_what_is_given_may_be_used_again(kind):
    """As cameras do with their memory: the next picture comes before this one is looked at."""
    pictures = [PIXELS, np.zeros_like(PIXELS), PIXELS[::-1].copy()]
    buffer = np.zeros_like(PIXELS)
    shown, data = Image.new("RGB", (50, 40)), bytearray()

    def given():
        for pixels in pictures:
            buffer[:] = pixels
            shown.paste(Image.fromarray(pixels))
            data[:] = saved(pixels)
            yield {
                "array": buffer,
                "tensor": torch.from_numpy(buffer).permute(2, 0, 1),
                "pillow": shown,
                "bytes": data,
                "file": BytesIO(data),
            }[kind]

    results = list(predict(Bright(), given(), ALL))
    assert all(same(r.instances, found(p)) for r, p in zip(results, pictures, strict=True))
    for result, pixels in zip(results, pictures, strict=True):
        np.testing.assert_array_equal(result.pixels, pixels)


def saved(pixels):
    data = BytesIO()
    Image.fromarray(pixels).save(data, "PNG")
    return data.getvalue()


def test_what_is_looked_at_may_be_written_to():
    """`torch.from_numpy` warns of what may not."""

    class Asking(Bright):
        def instances(self, pictures):
            assert all(pixels.flags.writeable for pixels in pictures)
            return Bright.instances(self, pictures)

    frozen = PIXELS.copy()
    frozen.flags.writeable = False
    for given in (frozen, np.asarray(Image.fromarray(PIXELS)), Image.fromarray(PIXELS), saved(PIXELS)):
        assert len(predict(Asking(), given, ALL)) == 3


def test_a_damaged_picture_of_pillow_is_passed_over_like_a_file(caplog):
    noise = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    with Image.open(BytesIO(saved(noise)[:-900])) as damaged:
        assert [len(r) for r in predict(Bright(), iter([damaged, PIXELS]), ALL)] == [3]
    assert "passed over 000000.png: cannot read" in caplog.text


def test_a_home_is_one_in_python_too(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    (tmp_path / "in").mkdir()
    write_image(tmp_path / "in" / "a.png", PIXELS)
    assert len(predict(Bright(), "~/in/a.png", ALL)) == 3
    assert [len(r) for r in predict(Bright(), ["~/in/a.png", Path("~/in/a.png")], ALL)] == [3, 3]
    for several in ("~/in", "~/in/*.png"):
        assert [r.name for r in predict(Bright(), several, ALL)] == ["a.png"]


def test_a_list_gives_a_list_in_its_order():
    several = [picture((20, 20 + i % 2), (1, 1, 4 + i, 5)) for i in range(5)]
    finder = Bright()
    results = predict(finder, several, Options(batch=4))
    assert isinstance(results, list)
    assert all(same(r.instances, found(p)) for r, p in zip(results, several, strict=True))
    assert finder.calls == [[(20, 20)] * 2, [(20, 21)] * 2, [(20, 20)]]
    assert predict(Bright(), [], ALL) == []


def test_a_folder_a_pattern_and_an_iterator_are_streams(folder, caplog):
    for source, count in [
        (folder, 5),
        (str(folder / "*.png"), 3),
        (str(folder / "**" / "p*.png"), 5),
        (iter([PIXELS]), 1),
    ]:
        stream = predict(Bright(), source, ALL)
        assert isinstance(stream, types.GeneratorType)
        assert len(list(stream)) == count
    assert "passed over broken.png: cannot read" in caplog.text
    names = [r.name for r in predict(Bright(), folder, ALL)]
    assert names == ["deep/päge 1.png", "deep/päge 3.png", "päge 0.png", "päge 2.png", "päge 4.png"]


def test_a_stream_holds_only_a_few_pictures():
    made = []

    def endless():
        while True:
            made.append(1)
            yield PIXELS

    stream = predict(Bright(), endless(), Options(batch=2))
    for _ in range(6):
        next(stream)
    assert len(made) <= 6 + 2 * 2
    stream.close()


def test_what_cannot_be_read_is_an_error_in_a_list(folder):
    with pytest.raises(ImageReadError, match=r"broken\.png"):
        predict(Bright(), [folder / "broken.png", PIXELS], ALL)
    with pytest.raises(ImageReadError, match="no such file"):
        predict(Bright(), folder / "none.png", ALL)
    with pytest.raises(ValueError, match="no pictures there"):
        next(predict(Bright(), str(folder / "*.tif"), ALL))


def test_only_what_is_good_enough_is_reported():
    pixels = (
        PIXELS
        + picture((40, 50), (40, 35, 45, 39), colour=(70, 20, 0))
        + picture((40, 50), (25, 35, 30, 39), colour=(0, 0, 99))
    )
    assert len(predict(Bright(), pixels, ALL)) == 5
    assert len(predict(Bright(), pixels, Options())) == 3
    assert len(predict(Bright(), pixels, Options(min_score=0, min_quality=0.1))) == 3
    blobs = predict(Bright(), pixels, Options(min_score=0, classes=("blob",)))
    assert blobs.instances.labels.tolist() == [1]
    assert same(predict(Bright(), pixels, Options(min_score=0, classes="blob")).instances, blobs.instances)
    with pytest.raises(ValueError, match="unknown category 'blot'"):
        predict(Bright(), pixels, Options(classes=("blot",)))


@pytest.mark.parametrize(
    "options", [{"min_score": 1.5}, {"min_quality": -1}, {"batch": 0}, {"tile": 3}, {"max_det": 0}, {"max_pixels": 0}]
)
def test_options_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match=f"{next(iter(options))}: expected"):
        Options(**options)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"max_pixels": None}, "a whole number, got None"),
        ({"max_pixels": 1e6}, "a whole number, got 1000000.0"),
        ({"tile": "none"}, "a whole number or 'auto' or None, got 'none'"),
        ({"max_det": 2.5}, "a whole number or None, got 2.5"),
        ({"max_det": True}, "a whole number or None, got True"),
        ({"batch": "8"}, "a whole number or 'auto', got '8'"),
        ({"min_score": "0.5"}, "a number from 0 to 1, got '0.5'"),
        ({"min_score": None}, "a number from 0 to 1, got None"),
        ({"classes": []}, "one name or several, or None for all, got []"),
        ({"classes": [1]}, "one name or several, or None for all, got [1]"),
        ({"classes": 1}, "one name or several, or None for all, got 1"),
    ],
)
def test_options_of_another_kind_are_refused(options, expected):
    with pytest.raises(ValueError, match=f"^{re.escape(f'{next(iter(options))}: expected {expected}')}$"):
        unchecked(**options)


def unchecked(**wishes):
    """Options, which the tests' own checks of types would refuse before we do."""
    options = object.__new__(Options)
    for one in fields(Options):
        object.__setattr__(options, one.name, wishes.get(one.name, one.default))
    options.__post_init__()
    return options


def test_numbers_of_numpy_are_numbers():
    options = unchecked(min_score=np.float32(0.25), batch=np.int64(2), tile=np.uint16(64), max_det=np.int32(5))
    assert json.dumps(asdict(options)) == json.dumps(asdict(Options(min_score=0.25, batch=2, tile=64, max_det=5)))


def test_options_called_otherwise_are_refused_with_what_was_meant():
    for name, meant in [("conf", "min_score"), ("clases", "classes"), ("confidense", "min_score")]:
        with pytest.raises(TypeError, match=f"unknown option '{name}'; did you mean '{meant}'"):
            Options.named(**{name: 0.4})
    with pytest.raises(TypeError, match="known: min_score, "):
        Options.named(xyz=1)
    assert Options.named(min_score=0.4) == Options(min_score=0.4)


def test_of_equal_masks_of_a_class_only_the_best_is_reported():
    class Twice(Bright):
        def instances(self, pictures):
            return [one[[0, 0, 1, 2, 2]] for one in Bright.instances(self, pictures)]

    assert same(predict(Twice(), PIXELS, ALL).instances, found(PIXELS))
    other = found(PIXELS)[[0, 0]]
    other.labels[1] = 1
    assert len(keeper(NAMES, ALL)(other)) == 2
    other.labels[1] = 0
    assert same(keeper(NAMES, ALL)(other), found(PIXELS)[[0]])


def test_large_pictures_are_cut_into_tiles():
    pixels = picture((300, 700), (120, 100, 380, 200), (600, 5, 690, 20))
    finder = Bright()
    assert same(predict(finder, pixels, Options(tile=128)).instances, found(pixels))
    assert max(max(size) for call in finder.calls for size in call) == 128
    finder.calls.clear()
    predict(finder, pixels, Options(tile=None))
    assert finder.calls == [[(300, 700)]]


GRID = picture((600, 600), *[(x, y, x + 9, y + 9) for x in range(20, 600, 100) for y in range(20, 600, 100)])
BAND = (10, 590, 590, 598)


def outlines(instances):
    """In some order: many are as good as others."""
    return sorted(mask["counts"] for mask in instances.masks.rle())


def test_a_picture_with_more_objects_than_are_reported_is_cut_into_tiles(caplog):
    finder = Few()
    finder.limit = 20
    pixels = np.maximum(GRID, picture((600, 600), BAND))
    result = predict(finder, pixels, ALL)
    assert outlines(result.instances) == outlines(found(pixels))
    assert (result.tile, result.limited) == (300, False)
    assert not caplog.text
    assert predict(finder, GRID[:200, :200], ALL).tile is None


def test_a_large_object_that_no_tile_shows_whole_is_taken_from_the_whole_picture():
    """Of which nobody could tell what they are."""

    class Blind(Few):
        def instances(self, pictures):
            several = Few.instances(self, pictures)
            return [f[f.masks.area() < 100] if max(f.masks.size) < 600 else f for f in several]

    finder = Blind()
    finder.limit = 37
    pixels = np.maximum(GRID, picture((600, 600), BAND, colour=(255, 255, 0)))
    assert outlines(predict(finder, pixels, ALL).instances) == outlines(found(pixels))


@pytest.mark.parametrize("options", [{"tile": None}, {"tile": 200}, {}])
def test_what_may_be_missing_is_said(options, caplog):
    """The last: tiles would be too small."""
    pixels = GRID if options else GRID[:400, :400]
    finder = Few()
    finder.limit = 3
    result = predict(finder, pixels, Options(min_score=0, **options))
    assert result.limited
    assert "picture.png: there may be more than these" in caplog.text


def test_what_is_not_wanted_anyway_is_not_missing():
    finder = Few()
    finder.limit = 20
    result = predict(finder, GRID, Options(min_score=0.99))
    assert (len(result), result.tile, result.limited) == (5, None, False)


@pytest.mark.parametrize(("most", "count", "limited"), [(3, 3, True), (20, 20, True), (99, 36, False)])
def test_the_most_instances_can_be_chosen(most, count, limited):
    finder = Few()
    result = predict(finder, GRID, Options(min_score=0, max_det=most))
    assert same(result.instances, found(GRID)[:count])
    assert (result.tile, result.limited) == (None, limited)
    assert len(predict(Bright(), GRID, Options(min_score=0, max_det=3))) == 3


def series(path, kind, count):
    pages = [Image.fromarray(picture((40, 50), (1 + i, 1, 9 + i, 9))) for i in range(count)]
    with path.open("w+b") as file:
        pages[0].save(file, kind, save_all=True, append_images=pages[1:])
    return path


@pytest.mark.parametrize("kind", ["TIFF", "GIF", "PNG", "WEBP"])
def test_that_a_file_holds_more_pictures_is_said(kind, tmp_path, caplog):
    path = series(tmp_path / "a.png", kind, 3)
    assert predict(Bright(), path, ALL).frames == 3
    assert "a.png: only the first of 3 pages or frames" in caplog.text
    assert predict(Bright(), path.read_bytes(), ALL).frames == 3
    caplog.clear()
    with Image.open(path) as every:
        several = list(predict(Bright(), ImageSequence.Iterator(every), ALL))
    assert [(r.frames, r.instances.boxes[0, 0].item()) for r in several] == [(1, 1), (1, 2), (1, 3)]
    assert predict(Bright(), series(tmp_path / "b.png", kind, 1), ALL).frames == 1
    assert not caplog.text


def test_what_fits_into_no_memory_is_lost_alone():
    finder = Bright(most=60 * 60)
    pictures = [picture((50, 50)), picture((100, 50)), picture((50, 50), (3, 3, 9, 9))]
    got = list(outcomes(finder, _asked(pictures), Options(batch=3)))
    assert [type(one) for one in got] == [Result, Failed, Result]
    assert got[1].stage == "predict"
    assert len(got[2]) == 1


def _asked(pictures):
    from maskwise.predictions.pictures import Asked

    return [Asked.of(p, name=f"{i}.png") for i, p in enumerate(pictures)]


def test_files_with_too_many_pixels_are_refused_before_they_are_decoded(folder):
    with pytest.raises(ImageReadError, match="too many pixels"):
        predict(Bright(), folder / "päge 0.png", Options(max_pixels=100))


# Results


@pytest.fixture
def result(tmp_path):
    write_image(tmp_path / "a.png", PIXELS)
    return predict(Bright(), tmp_path / "a.png", ALL)


def test_a_result_can_be_looked_at(result):
    shown = result.plot(labels=False)
    assert shown.shape == (40, 50, 3)
    assert (shown != PIXELS).any()
    page = result._repr_html_()
    assert page.count("<tr>") == 1 + len(result)
    assert 'src="data:image/jpeg;base64,' in page


def test_what_a_notebook_shows_is_escaped(tmp_path):
    write_image(tmp_path / "a<b>.png", PIXELS)
    page = predict(Bright(), tmp_path / "a<b>.png", ALL)._repr_html_()
    assert "a<b>" not in page
    assert "a&lt;b&gt;.png" in page


def test_a_result_is_measured(result):
    rows = result.measurements()
    assert [row["category"] for row in rows] == ["spot"] * 3
    assert [row["area_px2"] for row in rows] == result.instances.masks.area().tolist()
    in_mm = result.measurements(pixel_size=0.5, unit="mm")
    assert [row["area_mm2"] for row in in_mm] == [row["area_px2"] / 4 for row in rows]
    for size in (0, -1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="size of a pixel must be positive"):
            result.measurements(pixel_size=size)


def test_a_result_as_coco(result):
    entries = result.to_coco(image_id=12)
    assert [e["image_id"] for e in entries] == [12] * 3
    assert {e["category_id"] for e in entries} == {7}
    assert [e["segmentation"] for e in entries] == result.instances.masks.rle()
    assert result.to_coco()[0]["image_id"] == "a.png"


@pytest.mark.parametrize("given", ["file", "array"])
def test_a_result_is_saved_and_read_back(given, result, tmp_path):
    result = result if given == "file" else predict(Bright(), PIXELS, ALL)
    out = result.save(tmp_path / "out", save=("overlay", "coco", "labelme", "yolo", "png", "csv"))
    for format in ("coco", "labelme", "yolo", "png"):
        [record] = open_data(out / format)
        read = record.labelled()
        assert {m["counts"] for m in read.targets.masks.rle()} == {m["counts"] for m in result.instances.masks.rle()}, (
            format
        )
        assert record.path.exists()
    assert (out / "overlay" / result.name).is_file()
    with (out / "csv" / "measurements.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 3


@pytest.mark.parametrize("format", ["coco", "labelme", "yolo", "png", "csv"])
@pytest.mark.parametrize("given", ["files", "arrays"])
def test_a_result_is_not_written_over_that_of_another_picture(given, format, tmp_path):
    pictures = [PIXELS, PIXELS[::-1].copy()]
    names = [tmp_path / f"{'a' * (i + 1)}.png" for i in range(2)]
    for path, pixels in zip(names, pictures, strict=True):
        write_image(path, pixels)
    first, second = predict(Bright(), names if given == "files" else pictures, ALL)
    out = first.save(tmp_path / "out", save=("overlay", format))
    first.save(out, save=("overlay", format))
    before = {path: path.read_bytes() for path in out.rglob("*.*")}
    with pytest.raises(ValueError, match=rf"{format}.* is of another picture.*maskwise predict"):
        second.save(out, save=("overlay", format))
    assert {path: path.read_bytes() for path in out.rglob("*.*")} == before


def test_pictures_that_are_called_the_same_are_told_apart_by_their_pixels(tmp_path):
    first, second = (predict(Bright(), pixels, ALL) for pixels in (PIXELS, PIXELS[::-1].copy()))
    out = first.save(tmp_path / "out")
    first.save(out)
    with pytest.raises(ValueError, match=r"picture\.png is of another picture"):
        second.save(out)


@pytest.mark.parametrize("format", ["coco", "labelme", "yolo", "png"])
def test_a_picture_above_the_usual_limit_is_saved(format, tmp_path, monkeypatch):
    """Also where it is written anew, because its name is none of a picture."""
    most = MAX_PIXELS + 10**6
    with (tmp_path / "slide.svs").open("wb") as file:
        Image.fromarray(PIXELS).save(file, "TIFF")
    result = predict(Bright(), tmp_path / "slide.svs", Options(max_pixels=most))
    limits = []

    def read(source, *, max_pixels=MAX_PIXELS):
        limits.append(max_pixels)
        return read_image(source, max_pixels=max_pixels)

    for module in (formats, pictures):
        monkeypatch.setattr(module, "read_image", read)
    for _ in range(2):
        result.save(tmp_path / "out", save=(format,))
    assert set(limits) == {most}


def test_overlays_of_many_pictures_lie_in_one_folder(tmp_path):
    for result in predict(Bright(), [PIXELS, PIXELS], ALL):
        result.save(tmp_path / "out", save="overlay")
    assert len(list((tmp_path / "out/overlay").iterdir())) == 2


def test_a_result_as_one_file(result, tmp_path):
    assert maskwise.read_image(result.save(tmp_path / "deep" / "a.jpg")).shape == (40, 50, 3)
    assert result.save(tmp_path / "a.csv").read_text().startswith("image,id,category,area_px2")
    in_mm = result.save(tmp_path / "mm", save="csv", pixel_size=0.5, unit="mm") / "csv" / "measurements.csv"
    assert in_mm.read_text().startswith("image,id,category,area_mm2")
    with pytest.raises(ValueError, match=r"ending in \.png, \.jpg or \.csv, or a folder, got \.tif"):
        result.save(tmp_path / "a.tif")
    with pytest.raises(ValueError, match="unknown format 'cocoa'; did you mean 'coco'"):
        result.save(tmp_path / "out", save=("cocoa",))


def test_nothing_found_is_a_result_like_any_other(tmp_path):
    result = predict(Bright(), np.zeros((1, 1, 3), np.uint8), ALL)
    assert len(result) == 0
    assert result, "a result is one: `if result:` does not ask how much was found"
    assert "<table>" not in result._repr_html_()
    out = result.save(tmp_path / "out", save=("overlay", "coco", "labelme", "yolo", "png", "csv"))
    assert len(open_data(out / "coco")[0].labelled().targets) == 0
    assert json.loads((out / "coco" / "predictions.json").read_text())["annotations"] == []
    assert result.categories == NAMES


def test_a_mosaic_that_lies_on_the_disk_stays_there(tmp_path):
    pixels = picture((40, 30))
    np.save(tmp_path / "mosaic.npy", pixels)
    mosaic = np.load(tmp_path / "mosaic.npy", mmap_mode="r")
    assert np.shares_memory(Asked.of(mosaic, name="m.png").read(), mosaic)
    assert not np.shares_memory(Asked.of(pixels, name="p.png").read(), pixels)

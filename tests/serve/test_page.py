"""The page in a real browser: Chromium without a screen. `pytest -m browser tests/serve`."""

import base64
import csv
import io
import json
import shutil
import zipfile
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from serve.chromium import Tab, browser
from serve.fakes import CATEGORIES, Bright, as_file, served, spots

from maskwise import outlines, rle
from maskwise.data.dataset import Item
from maskwise.data.formats import coco, labelme, measurements
from maskwise.data.formats.measurements import Scale
from maskwise.data.images import read_label_map
from maskwise.rle import Window
from maskwise.serve.guard import Access
from maskwise.serve.limits import Limits
from maskwise.structures import Instances

pytestmark = pytest.mark.browser

SHOWN = "document.querySelectorAll('#rows li:not([hidden])').length"
HELD = "document.querySelector('#rows [aria-selected=true]')?.id ?? ''"
DONE = "document.querySelector('#main').classList.contains('has-instances')"


@pytest.fixture(scope="module")
def tab():
    with browser() as tab:
        yield tab


@pytest.fixture
def model() -> Bright:
    return Bright()


@pytest.fixture
def page(tab, model):
    """The page, freshly opened, on a screen of usual size."""
    tab.screen(1280, 800)
    tab.prefer()
    tab.complaints.clear()
    with served(model) as client:
        tab.open(str(client.base_url))
        yield tab
        tab.call("Page.navigate", url="about:blank")
    assert tab.complaints == []


@pytest.fixture
def picture(tmp_path) -> Path:
    path = tmp_path / "spöts 1.png"
    path.write_bytes(as_file(spots()))
    return path


@pytest.fixture
def opened(page, picture) -> Tab:
    page.upload(picture)
    page.wait(DONE)
    return page


def found(least: float = 0.5, pixels: np.ndarray | None = None) -> Instances:
    [instances] = Bright().instances([spots() if pixels is None else pixels])
    return instances[instances.scores >= least]


def on_screen(tab: Tab, x: float, y: float) -> tuple[float, float]:
    """Where a place of the picture of 64 x 48 is, while all of it is shown."""
    left, top, width, height = tab.js(
        "(() => { const r = document.querySelector('#marks').getBoundingClientRect();"
        " return [r.x, r.y, r.width, r.height] })()"
    )
    margin = min(24, width / 20)
    scale = min((width - 2 * margin) / 64, (height - 2 * margin) / 48, 64)
    return left + (width - 64 * scale) / 2 + x * scale, top + (height - 48 * scale) / 2 + y * scale


def colour_at(tab: Tab, x: float, y: float) -> tuple[int, ...]:
    shown = Image.open(io.BytesIO(tab.screenshot())).convert("RGB")
    return shown.getpixel(tuple(round(v) for v in on_screen(tab, x, y)))


def test_an_upload_shows_what_was_found(opened, model):
    assert opened.js(SHOWN) == len(found())
    everything = len(found(0.05))
    assert opened.text("#counts") == f"{len(found())} of {everything} shown"
    assert opened.text("#name") == "spöts 1.png"
    assert opened.text("#model") == "bright.safetensors · 2 classes"
    red, _, blue = colour_at(opened, 14, 14)
    assert blue > red + 10, "a good mask is tinted blue"
    assert len(set(colour_at(opened, 60, 5))) == 1, "the picture itself is grey"


def test_sliders_act_without_asking_again(opened, model):
    asked = len(model.batches)
    opened.slide("score", 0.9)
    assert opened.js(SHOWN) == len(found(0.9))
    assert opened.text("#score-value") == "0.90"
    opened.slide("score", 0.05)
    assert opened.js(SHOWN) == len(found(0.05)) > len(found(0.5))
    opened.slide("quality", 0.9)
    fits = found(0.05).quality >= 0.9
    assert opened.js(SHOWN) == int(fits.sum()) < len(found(0.05))
    assert opened.text("#middle").startswith("median quality")
    opened.slide("quality", 1)
    opened.slide("score", 1)
    assert opened.text("#counts").startswith("0 of ")
    assert len(set(colour_at(opened, 14, 14))) == 1, "the mask has gone from the picture too"
    assert len(model.batches) == asked


def test_hovering_tells_an_instance_and_a_click_holds_it(opened):
    opened.mouse("Moved", *on_screen(opened, 14, 14))
    opened.wait("!document.querySelector('#card').hidden")
    text = opened.text("#card")
    disc = next(i for i in range(len(found())) if found().masks.area()[i] == 193)
    assert "nucleus" in text
    assert f"{found().quality[disc]:.3f}" in text
    assert f"{found().scores[disc]:.3f}" in text
    assert "193 px" in text
    opened.mouse("Moved", *on_screen(opened, 40, 20))
    opened.wait("document.querySelector('#card').hidden")  # the hole of the ring
    opened.click_at(*on_screen(opened, 14, 14))
    opened.mouse("Moved", *on_screen(opened, 60, 5))
    assert opened.js(HELD) != ""
    assert "193 px" in opened.text("#card")
    opened.click_at(*on_screen(opened, 60, 5))
    assert opened.js(HELD) == ""


def test_the_list_is_sorted_by_quality_worst_first(opened):
    values = "[...document.querySelectorAll('#rows li:not([hidden]) .q')].map((e) => Number(e.textContent))"
    worst_first = opened.js(values)
    assert worst_first == sorted(round(q, 2) for q in found().quality.tolist())
    opened.click("#order")
    assert opened.js(values) == worst_first[::-1]
    assert opened.text("#order") == "Best first"


def test_everything_works_with_keys(opened):
    opened.js("document.querySelector('#marks').focus()")
    opened.press("ArrowRight")
    first = opened.js(HELD)
    assert first
    seen = {first}
    for key in ("ArrowLeft", "ArrowUp", "ArrowDown", "ArrowRight", "ArrowDown", "ArrowLeft", "ArrowUp") * 2:
        opened.press(key)
        seen.add(opened.js(HELD))
    assert len(seen) >= 3
    order = opened.js("[...document.querySelectorAll('#rows li:not([hidden])')].map((e) => e.id)")
    opened.press("Escape")
    assert opened.js(HELD) == ""
    walked = []
    for _ in order:
        opened.press("n")
        walked.append(opened.js(HELD))
    assert walked == order, "N goes through the list, the worst first"
    assert opened.text("#status").startswith(("nucleus, quality", "cell, quality"))
    opened.press("p")
    assert opened.js(HELD) == order[-2]
    opened.js("document.querySelector('#rows').focus()")
    opened.press("ArrowUp")
    assert opened.js(HELD) == order[-3]
    opened.press("?")
    assert opened.js("document.querySelector('#help').open")
    opened.click("[data-close]")
    opened.press("t")
    assert opened.js("!document.querySelector('#numbers').hidden")
    opened.press("t")
    opened.press("h")
    assert opened.js("document.querySelector('#peek').getAttribute('aria-pressed')") == "true"
    opened.press("h")


def test_zooming_keeps_the_place_under_the_pointer(opened):
    x, y = on_screen(opened, 14, 14)
    for _ in range(8):
        opened.mouse("Wheel", x, y, deltaX=0, deltaY=-200)
    opened.mouse("Moved", x + 1, y)
    opened.wait("!document.querySelector('#card').hidden")
    assert "193 px" in opened.text("#card")
    opened.press("0")
    opened.js("new Promise((done) => setTimeout(done, 300))")
    opened.mouse("Moved", *on_screen(opened, 60, 5))
    assert opened.js("document.querySelector('#card').hidden")


def test_the_table_leaves_the_picture_where_it_was(opened):
    x, y = on_screen(opened, 14, 14)
    for _ in range(4):
        opened.mouse("Wheel", x, y, deltaX=0, deltaY=-200)
    before = opened.js("document.querySelector('#base').toDataURL()")
    opened.press("t")
    opened.press("t")
    opened.wait(f"document.querySelector('#base').toDataURL() === {before!r}")


def test_dragging_moves_and_is_no_click(opened):
    x, y = on_screen(opened, 14, 14)
    opened.mouse("Pressed", x, y, button="left", clickCount=1)
    for step in range(1, 6):
        opened.mouse("Moved", x + 20 * step, y, buttons=1)
    opened.mouse("Released", x + 100, y, button="left", clickCount=1)
    assert opened.js(HELD) == ""
    opened.mouse("Moved", x + 100, y)
    opened.wait("!document.querySelector('#card').hidden")
    assert "193 px" in opened.text("#card")


def test_classes_can_be_left_out(opened):
    chips = "[...document.querySelectorAll('#classes button')].map((e) => e.textContent.split(' ')[0])"
    assert opened.js(chips) == ["cell", "nucleus"]
    opened.click("#classes button:first-child")
    assert opened.js(SHOWN) == int((found().labels == 1).sum())
    opened.click("#classes button:first-child")
    assert opened.js(SHOWN) == len(found())


def test_a_class_that_was_hidden_in_another_picture_can_be_shown_again(opened, tmp_path):
    """Also where it is the only one of the picture."""
    opened.click("#classes button:last-child")
    alone = np.full((48, 64, 3), 20, np.uint8)
    alone[10:30, 10:30] = 250
    (tmp_path / "alone.png").write_bytes(as_file(alone))
    opened.upload(tmp_path / "alone.png")
    opened.wait("document.querySelectorAll('.tile[data-state=done]').length === 2")
    opened.press("]")
    opened.wait("document.querySelectorAll('#classes button').length === 1")
    assert opened.js(SHOWN) == 0
    opened.click("#classes button")
    assert opened.js(SHOWN) == 1


def test_the_table_measures_as_the_library_does(opened):
    opened.click("#tab-numbers")
    rows = opened.js(
        "[...document.querySelectorAll('#numbers tbody tr')].map((r) => [...r.cells].map((c) => c.textContent))"
    )
    lines = list(measurements.measure(Item(name="x", size=(48, 64), labelled=found()), CATEGORIES))
    expected = {(line[2], f"{float(line[4]):.1f}", f"{float(line[6]):.1f}", str(line[13])) for line in lines}
    assert {(row[0], row[4], row[6], row[11]) for row in rows} == expected
    opened.click("#numbers th:nth-child(4) button")
    areas = opened.js("[...document.querySelectorAll('#numbers tbody tr')].map((r) => Number(r.cells[3].textContent))")
    assert areas == sorted(areas)
    opened.slide("score", 0.9)
    assert opened.js("document.querySelectorAll('#numbers tbody tr').length") == len(found(0.9))
    opened.click("#tab-picture")


CELLS = "[...document.querySelectorAll('#numbers tr')].map((r) => [...r.cells].map((c) => c.textContent))"


def measured(scale: Scale = measurements.PIXELS, least: float = 0.5) -> list[dict[str, str]]:
    """By the library, in the order of the page's CSV."""
    item = Item(name="spöts 1.png", size=(48, 64), labelled=found(least))
    names = measurements.header(scale)
    rows = measurements.measure(item, CATEGORIES, scale)
    return [{name: str(v) for name, v in zip(names, row, strict=True)} for row in rows]


def is_shown_as(text: str, number: float, *, step: float) -> bool:
    """All digits of a cell are right, and they tell a step from the next, or are four."""
    shown = Decimal(text.replace(",", ""))
    digit = 10.0 ** int(shown.as_tuple().exponent)
    if not number:
        return not shown
    return abs(float(shown) - number) <= 0.501 * digit and digit <= max(step, 0.001 * number) * 1.001


@pytest.mark.parametrize(
    ("written", "unit"),
    [("0.325 µm", "µm"), (".325", "µm"), ("12cm", "cm"), ("0.0065mm", "mm"), ("3.25e-7m", "m"), ("325000 nm", "nm")],
)
def test_the_table_is_in_the_unit_of_a_pixel_as_the_library_has_it(opened, model, written, unit):
    asked, scale = len(model.batches), Scale.parse(written)
    opened.click("#tab-numbers")
    opened.write("pixel-size", written)
    head, *rows = opened.js(CELLS)
    lengths = ("perimeter", "diameter", "centre x", "centre y", "width", "height")
    assert head[3:] == [f"area {unit}²", *(f"{name} {unit}" for name in lengths), "parts", "holes"]
    for row, right in zip(rows, sorted(measured(scale), key=lambda right: float(right["quality"])), strict=True):
        expected = [float(v) for name, v in right.items() if name.endswith((f"_{scale.unit}", f"_{scale.unit}2"))]
        area, perimeter, diameter, x, y, x0, y0, x1, y1 = expected
        assert is_shown_as(row[3], area, step=scale.side**2)
        for text, number in zip(row[4:8], (perimeter, diameter, x, y), strict=True):
            assert is_shown_as(text, number, step=scale.side / 10)
        for text, number in zip(row[8:10], (x1 - x0, y1 - y0), strict=True):
            assert is_shown_as(text, number, step=scale.side)
    assert len(model.batches) == asked
    opened.click("#tab-picture")


def test_list_and_card_are_in_the_unit_of_a_pixel(opened):
    opened.write("pixel-size", "0.5 µm")
    assert opened.text("#status") == "Shown in µm."
    assert opened.text("#area-unit") == "area µm²"
    areas = "[...document.querySelectorAll('#rows .a')].map((e) => e.textContent)"
    shown = sorted(opened.js(areas), key=float)
    for text, area in zip(shown, sorted(found(0.05).masks.area().tolist()), strict=True):
        assert is_shown_as(text, area / 4, step=0.25)
    opened.click_at(*on_screen(opened, 14, 14))
    assert "48.3 µm²" in opened.text("#card")
    assert opened.text("#status").endswith("48.3 µm²")
    assert opened.js("document.querySelector('#rows [aria-selected=true]').ariaLabel").endswith("48.3 µm²")
    opened.write("pixel-size", "")
    assert "193 px²" in opened.text("#card"), "at once, while it is held"
    assert opened.js("document.querySelector('#rows [aria-selected=true]').ariaLabel").endswith("193 pixels")


def test_the_unit_stays_from_picture_to_picture(opened, tmp_path):
    opened.write("pixel-size", "0.5 µm")
    (tmp_path / "b.png").write_bytes(as_file(spots(65)))
    opened.upload(tmp_path / "b.png")
    opened.wait("document.querySelectorAll('.tile[data-state=done]').length === 2")
    opened.press("]")
    opened.press("t")
    assert opened.js(CELLS)[0][3] == "area µm²"
    opened.press("t")
    assert "48.3" in opened.js("[...document.querySelectorAll('#rows .a')].map((e) => e.textContent)")
    opened.js("document.querySelector('#scope').value = 'all'")
    with zipfile.ZipFile(opened.downloaded("[data-format=label_map]")) as archive:
        lines = archive.read("measurements.csv").decode().splitlines()
    assert lines[0] == ",".join(measurements.header(Scale(0.5, "um")))
    assert sum(",48.25," in line for line in lines) == 2


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ("0,325 µm", "Write it with a point: 0.325 µm."),
        ("0", "It must be more than 0."),
        ("-1um", "It must be more than 0."),
        ("wide", "Expected a length, such as 0.325 µm."),
        ("1um2", "Expected a length, such as 0.325 µm."),
    ],
)
def test_what_is_no_length_is_told_beside_the_field_and_nothing_else_stops(opened, written, told):
    invalid = "document.querySelector('#pixel-size').ariaInvalid"
    opened.write("pixel-size", "0.5um")
    opened.write("pixel-size", written)
    assert opened.js(invalid) == "true"
    assert opened.text("#pixel-size-wrong") == opened.text("#status") == f"{told} Shown in pixels."
    assert opened.js("document.querySelector('#notice').hidden")
    assert opened.text("#area-unit") == "area px²"
    opened.slide("score", 0.9)
    assert opened.js(SHOWN) == len(found(0.9))
    header = opened.downloaded("[data-format=csv]").read_text().splitlines()[0]
    assert header == ",".join(measurements.header())
    opened.write("pixel-size", "")
    assert opened.js(invalid) == "false"
    assert opened.text("#pixel-size-wrong") == ""


def test_the_size_of_a_pixel_is_written_with_keys(opened):
    """What is not yet written to its end is not told to be wrong; keys of the page are letters in the field."""
    opened.click("#pixel-size")
    for key in "0.5 nm":
        opened.press(key)
        assert opened.text("#pixel-size-wrong") == ""
    assert opened.js(HELD) == ""
    assert opened.text("#area-unit") == "area nm²"
    opened.press("2")
    opened.press("Tab")
    assert opened.text("#pixel-size-wrong") == "Expected a length, such as 0.325 µm. Shown in pixels."
    assert opened.js("document.activeElement.id") != "pixel-size"


LENGTHS = st.text(alphabet="0123456789.,+-eE uµμmMÅ²/\t", max_size=12) | st.from_regex(
    r"[+-]?[0-9]{0,3}\.?[0-9]{0,3}(e[+-]?[0-9]{1,3})? ?[a-zµμ]{0,3}", fullmatch=True
)
"""Digits are those of ASCII: the library reads others too."""


def test_a_size_of_a_pixel_is_read_as_the_library_reads_it(page):
    page.js("import('/page/scale.js').then(({ read }) => { window.read = read })")

    @given(LENGTHS)
    @example("1e400um")
    @example("1e-400um")
    @example("1e30")
    @example("1e31 um")
    @example("2e-3\u03bcm")
    @example(".5 \u00b5m ")
    @example("1 u m")
    @example("inf")
    @example("1" + 20 * "m")
    @example("1" + 21 * "m")
    @example("1" + 31 * "0")
    @settings(max_examples=150, deadline=None)
    def check(text: str) -> None:
        scale, wrong = page.js(
            f"(() => {{ const {{ scale, wrong }} = read({json.dumps(text)}); return [scale, wrong] }})()"
        )
        try:
            right = Scale.parse(text) if text.strip() else measurements.PIXELS
        except ValueError:
            assert wrong
            right = measurements.PIXELS
        else:
            assert wrong == ""
        assert (scale["side"], scale["unit"]) == (right.side, right.unit)

    check()


def test_lines_of_the_table_can_be_held_by_mouse_and_keys(opened):
    held = "[...document.querySelectorAll('#numbers tr.held td:nth-child(4)')].map((e) => e.textContent)"
    areas = "[...document.querySelectorAll('#numbers td:nth-child(4)')].map((e) => e.textContent)"
    opened.click("#tab-numbers")
    order = opened.js(areas)
    opened.click("#numbers tbody tr:nth-child(2)")
    assert opened.js(held) == [order[1]]
    assert opened.js(HELD) != ""
    opened.js("document.querySelector('#numbers').focus()")
    walked = []
    for key in ("ArrowDown", "ArrowUp", "ArrowUp", "ArrowUp"):
        opened.press(key)
        walked += opened.js(held)
    assert walked == [order[2 % len(order)], order[1], order[0], order[-1]]
    opened.click("#numbers th:nth-child(4) button")
    assert opened.js(held) == [order[-1]], "also after sorting"
    opened.press("Escape")
    assert opened.js(held) == []
    opened.click("#tab-picture")


def read_coco(path: Path, pictures: Path, into: Path) -> Instances:
    into.mkdir()
    shutil.copy(path, into / "train.json")
    for picture in pictures.parent.glob("*.png"):
        shutil.copy(picture, into)
    data = coco.read(into)
    assert data.categories == CATEGORIES
    read = data[0].labelled()
    assert not [*data.problems, *read.problems]
    return read.instances()


def same(again: Instances, first: Instances) -> None:
    """What was shown came back, in whatever order."""
    place = {code["counts"]: i for i, code in enumerate(first.masks.rle())}
    order = [place[code["counts"]] for code in again.masks.rle()]
    assert sorted(order) == list(range(len(first)))
    assert again.labels.tolist() == first.labels[order].tolist()
    for name in ("scores", "quality", "mask_scores"):
        assert getattr(again, name).tolist() == pytest.approx(getattr(first, name)[order].tolist())


def boxes(annotations: list[dict]) -> list:
    return sorted((row["bbox"], row["predicted_bbox"]) for row in annotations)


def test_coco_comes_back(opened, picture, tmp_path):
    opened.slide("score", 0.05)
    file = opened.downloaded("[data-format=coco]")
    assert file.name == "spöts 1.coco.json"
    written = json.loads(file.read_text())["annotations"]
    item = Item(name=picture.name, size=(48, 64), labelled=found(0.05), image=picture)
    *_, ours = coco.write(tmp_path / "ours", CATEGORIES, [item], split="val").files
    expected = json.loads(ours.read_text())["annotations"]
    assert boxes(written) == boxes(expected)
    assert all(row["bbox"] != row["predicted_bbox"] for row in written)
    same(read_coco(file, picture, tmp_path / "coco"), found(0.05))


def test_labelme_comes_back_holes_included(opened, picture, tmp_path):
    file = opened.downloaded("[data-format=labelme]")
    (tmp_path / "labelme").mkdir()
    shutil.copy(file, tmp_path / "labelme" / "spöts 1.json")
    shutil.copy(picture, tmp_path / "labelme")
    data = labelme.read(tmp_path / "labelme")
    read = data[0].labelled()
    assert not [*data.problems, *read.problems]
    assert any(shape["shape_type"] == "mask" for shape in json.loads(file.read_text())["shapes"])
    same(read.instances(), found())


@pytest.mark.parametrize("written", ["", "0.325 µm", "12 cm", "3.25e-7m"])
def test_csv_has_what_the_library_writes(opened, written):
    opened.slide("score", 0.05)
    opened.write("pixel-size", written)
    lines = list(csv.DictReader(io.StringIO(opened.downloaded("[data-format=csv]").read_text())))
    expected = measured(Scale.parse(written) if written else measurements.PIXELS, 0.05)
    for line, right in zip(lines, expected, strict=True):
        assert list(line) == list(right)
        texts, numbers = list(line.values()), list(right.values())
        assert texts[:3] == numbers[:3]
        assert [float(v) for v in texts[3:]] == pytest.approx([float(v) for v in numbers[3:]], rel=1e-6, abs=0)


def test_the_label_map_comes_back(opened):
    file = opened.downloaded("[data-format=label_map]")
    assert np.array_equal(read_label_map(file), found().masks.label_map())
    assert file.read_bytes()[24] == 16


def test_the_overlay_has_the_size_of_the_picture(opened):
    with Image.open(opened.downloaded("[data-format=overlay]")) as overlay:
        drawn = np.asarray(overlay.convert("RGB")).astype(int)
    assert drawn.shape == (48, 64, 3)
    inside = found().masks.label_map() > 0
    assert np.ptp(drawn[inside], axis=1).mean() > 20, "masks have colours"
    assert np.ptp(drawn[4, 60:]) == 0, "where nothing is, the picture is as it was"


def test_an_instance_can_be_left_out_of_the_files(opened, picture, tmp_path):
    opened.press("n")
    opened.press("Delete")
    assert "left out" in opened.text("#status")
    assert opened.text("#counts").startswith(f"{len(found()) - 1} of")
    assert len(read_coco(opened.downloaded("[data-format=coco]"), picture, tmp_path / "coco")) == len(found()) - 1
    opened.press("Delete")
    assert opened.text("#counts").startswith(f"{len(found())} of")


def test_that_there_may_be_more_is_said(page, model, picture):
    model.most_instances, model.up_to = 5, lambda _most: model
    page.upload(picture)
    page.wait(DONE)
    assert page.text("#notice").startswith("There may be more instances: this model gives at most 5 of a picture")


def test_several_pictures_in_one_file_each(page, tmp_path):
    paths = [tmp_path / name for name in ("a.png", "b.png", "c.png")]
    for i, path in enumerate(paths):
        path.write_bytes(as_file(spots(64 + i)))
    page.upload(*paths)
    page.wait("document.querySelectorAll('.tile[data-state=done]').length === 3")
    page.press("]")
    assert page.text("#name") == "b.png"
    page.js("document.querySelector('#scope').value = 'all'")
    content = json.loads(page.downloaded("[data-format=coco]").read_text())
    known = [(image["file_name"], image["width"]) for image in content["images"]]
    assert known == [("a.png", 64), ("b.png", 65), ("c.png", 66)]
    assert len(content["annotations"]) == 3 * len(found())
    with zipfile.ZipFile(page.downloaded("[data-format=labelme]")) as archive:
        assert archive.testzip() is None
        archive.extractall(tmp_path)
    data = labelme.read(tmp_path)
    assert data.categories.names == CATEGORIES.names
    assert [len(record.labelled().targets) for record in data] == [len(found())] * 3
    with zipfile.ZipFile(page.downloaded("[data-format=label_map]")) as archive:
        assert set(archive.namelist()) == {"a_labels.png", "b_labels.png", "c_labels.png", "measurements.csv"}


def test_what_a_browser_cannot_decode_is_shown_as_the_model_sees_it(page, tmp_path):
    path = tmp_path / "deep.tif"
    Image.fromarray(spots()[..., 0].astype(np.uint16) * 16).save(path)
    page.upload(path)
    page.wait(DONE)
    assert page.js("document.querySelector('#notice').hidden")
    assert colour_at(page, 14, 14)[2] > 100


@pytest.mark.parametrize("turn", [2, 3, 6])
def test_what_a_browser_does_not_turn_upright_is_shown_as_the_model_sees_it(page, tmp_path, turn):
    """Of WebP Chromium passes over the orientation, also where its size does not tell."""
    exif = Image.Exif()
    exif[0x0112] = turn
    back = {2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90}[turn]
    path = tmp_path / "turned.webp"
    Image.fromarray(spots()).transpose(back).save(path, lossless=True, exif=exif)
    page.upload(path)
    page.wait(DONE)
    red, _, blue = colour_at(page, 14, 14)
    assert blue > 200 > red - 50, "the disc and its mask lie on each other"
    assert max(colour_at(page, 60, 5)) < 40


def failing(page: Tab, path: Path) -> str:
    page.upload(path)
    page.wait("document.querySelector('.notice.wrong')")
    return page.text("#notice")


def test_no_picture_is_told(page, tmp_path):
    path = tmp_path / "notes.png"
    path.write_text("these are no pixels")
    text = failing(page, path)
    assert "notes.png: The picture cannot be read: not a picture in" in text
    assert page.text("#counts") == "No answer"


def test_an_empty_file_is_told(page, tmp_path):
    path = tmp_path / "empty.png"
    path.touch()
    assert "This file is empty." in failing(page, path)


def test_too_large_and_too_many_pixels_are_told(tab, tmp_path):
    (tmp_path / "large.png").write_bytes(as_file(np.random.default_rng(0).integers(0, 255, (300, 300, 3), np.uint8)))
    (tmp_path / "wide.png").write_bytes(as_file(np.zeros((300, 400, 3), np.uint8)))
    with served(Bright(), Limits(max_body=2**17, max_pixels=100_000)) as client:
        tab.open(str(client.base_url))
        assert "Up to 0.1 megapixels" in tab.text("#limits")
        assert "This file is too large: 0.3 MiB. The server takes 0.1 MiB." in failing(tab, tmp_path / "large.png")
        tab.js("document.querySelector('#notice').className = ''")
        tab.upload(tmp_path / "wide.png")
        tab.wait("document.querySelector('#notice').textContent.includes('wide.png')")
        assert "too many pixels: 400 x 300 = 120,000 > 100,000" in tab.text("#notice")
        tab.call("Page.navigate", url="about:blank")


def test_a_server_that_went_away_is_told_and_asked_again(tab, picture):
    with served(Bright()) as client:
        tab.open(str(client.base_url))
    text = failing(tab, picture)
    assert "The server cannot be reached." in text
    assert tab.text("#notice button") == "Try again"


def test_where_the_queue_is_full_it_waits_and_asks_again(tab, picture):
    with served(Bright(), Limits(queue=3)) as client:
        tab.open(str(client.base_url))
        service = client.app.state.service
        service.accepted = 3
        tab.upload(picture)
        tab.wait("document.querySelector('#notice').textContent.includes('The server is busy. Trying again in')")
        service.accepted = 0
        tab.wait(DONE, seconds=40)
        assert tab.js("document.querySelector('#notice').hidden")
        tab.call("Page.navigate", url="about:blank")


def test_a_model_that_fails_is_told_and_can_be_asked_again(tab, tmp_path):
    path = tmp_path / "odd.png"
    path.write_bytes(as_file(spots(corner=99)))
    model = Bright(fails_on=99)
    with served(model) as client:
        tab.open(str(client.base_url))
        assert "The model failed on this picture" in failing(tab, path)
        model.fails_on = None
        tab.click("#notice button")
        tab.wait(DONE)
        tab.call("Page.navigate", url="about:blank")


def test_a_key_is_asked_for_and_kept_in_the_tab(tab, picture):
    with served(Bright(), access=Access(key="correct horse battery")) as client:
        tab.call("Page.navigate", url=str(client.base_url))
        tab.wait("document.querySelector('#key')?.open")
        for value in ("wrong wrong wrong wrong", "correct horse battery"):
            tab.wait("document.querySelector('#key').open")
            tab.js(f"document.querySelector('#key-value').value = {value!r}")
            tab.click("#key-use")
        tab.wait("document.querySelector('#model').textContent !== ''")
        tab.upload(picture)
        tab.wait(DONE)
        tab.open(str(client.base_url))
        assert not tab.js("document.querySelector('#key').open")
        tab.js("sessionStorage.clear()")
        tab.call("Page.navigate", url="about:blank")


def test_where_no_key_was_given_it_is_asked_for_again(tab, picture):
    with served(Bright(), access=Access(key="correct horse battery")) as client:
        tab.call("Page.navigate", url=str(client.base_url))
        tab.wait("document.querySelector('#key')?.open")
        tab.press("Escape")
        tab.wait("!document.querySelector('#key').open")
        tab.upload(picture)
        tab.wait("document.querySelector('#counts').textContent.startsWith('Waiting')")
        assert "This server asks for a key." in tab.text("#notice")
        tab.click("#notice button")
        tab.js("document.querySelector('#key-value').value = 'correct horse battery'")
        tab.click("#key-use")
        tab.wait(DONE)
        assert tab.js("document.querySelector('#notice').hidden")
        tab.js("sessionStorage.clear()")
        tab.call("Page.navigate", url="about:blank")


def test_a_server_that_did_not_answer_at_first_can_be_asked_again_with_a_picture_open(tab, picture, monkeypatch):
    with served(Bright()) as client:
        model = client.app.state.service.model
        monkeypatch.setattr(Bright, "categories", None)
        tab.call("Page.navigate", url=str(client.base_url))
        tab.wait("document.querySelector('#notice button')")
        tab.upload(picture)
        tab.wait("document.querySelector('#counts').textContent.startsWith('Waiting')")
        assert tab.text("#notice button") == "Try again"
        monkeypatch.undo()
        assert model.categories is CATEGORIES
        tab.click("#notice button")
        tab.wait(DONE)
        assert tab.js("document.querySelector('#notice').hidden")
        tab.call("Page.navigate", url="about:blank")


def test_dropped_files_are_taken(page):
    data = "Uint8Array.from(atob('{}'), (c) => c.charCodeAt(0))"
    file = base64.b64encode(as_file(spots())).decode()
    page.js(
        f"(() => {{ const d = new DataTransfer(); d.items.add(new File([{data.format(file)}], 'dropped.png'));"
        " document.querySelector('#drop').dispatchEvent("
        "new DragEvent('drop', {dataTransfer: d, bubbles: true, cancelable: true})) })()"
    )
    page.wait(DONE)
    assert page.text("#name") == "dropped.png"


def test_two_files_of_one_name_are_told_apart(page, picture):
    page.upload(picture)
    page.wait(DONE)
    page.upload(picture)
    page.wait("document.querySelectorAll('.tile[data-state=done]').length === 2")
    page.upload(shutil.copy(picture, picture.with_suffix(".TIF")))  # whose annotations would have the name of the first
    page.wait("document.querySelectorAll('.tile[data-state=done]').length === 3")
    titles = page.js("[...document.querySelectorAll('.tile')].map((e) => e.title)")
    assert titles == ["spöts 1.png", "spöts 1-2.png", "spöts 1-3.TIF"]


def test_dark_is_dark(opened):
    ground = "getComputedStyle(document.body).backgroundColor"
    light = opened.js(ground)
    opened.prefer(prefers_color_scheme="dark")
    assert opened.js(ground) != light
    assert max(Image.open(io.BytesIO(opened.screenshot())).convert("RGB").getpixel((400, 5))) < 60


@pytest.mark.parametrize("width", [320, 390, 760, 761, 1024])
def test_no_width_makes_the_page_scroll_sideways(opened, width):
    opened.screen(width, 700)
    assert opened.js("document.documentElement.scrollWidth") <= width
    assert opened.js("document.querySelector('#marks').clientHeight") > 200


def test_in_a_low_window_the_panel_scrolls_and_the_picture_stays(opened):
    opened.screen(1024, 520)
    opened.write("pixel-size", "wide")
    assert opened.js("document.documentElement.scrollHeight") <= 520
    assert opened.downloaded("[data-format=overlay]").suffix == ".png"


def test_on_a_phone_a_tap_holds_an_instance(page, picture):
    page.screen(390, 844, ratio=3, phone=True)
    page.upload(picture)
    page.wait(DONE)
    x, y = on_screen(page, 14, 14)
    page.call("Input.dispatchTouchEvent", type="touchStart", touchPoints=[{"x": x, "y": y}])
    page.call("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])
    page.wait(HELD)
    assert "193 px" in page.text("#card")
    width = page.js("document.querySelector('#view').clientWidth")
    assert page.js("document.querySelector('#base').width") == 3 * width


def test_two_fingers_zoom(page, picture):
    page.screen(390, 844, ratio=2, phone=True)
    page.upload(picture)
    page.wait(DONE)
    x, y = on_screen(page, 14, 14)
    for kind, apart in (("Start", 20), ("Move", 30), ("Move", 60), ("Move", 90)):
        points = [{"x": x - apart, "y": y, "id": 0}, {"x": x + apart, "y": y, "id": 1}]
        page.call("Input.dispatchTouchEvent", type=f"touch{kind}", touchPoints=points)
    page.call("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])
    near_border = on_screen(page, 20, 14)[0] - x
    page.call("Input.dispatchTouchEvent", type="touchStart", touchPoints=[{"x": x + 2 * near_border, "y": y}])
    page.call("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])
    page.wait(HELD)  # twice as far from the middle as the disc reached before


def test_with_reduced_motion_nothing_glides(opened):
    opened.prefer(prefers_reduced_motion="reduce")
    opened.press("n")
    before = opened.screenshot()
    opened.js("new Promise((done) => setTimeout(done, 300))")
    assert opened.screenshot() == before


def test_names_for_those_who_hear_the_page(opened):
    tree = opened.call("Accessibility.getFullAXTree")["nodes"]
    named = [(n["role"]["value"], n.get("name", {}).get("value", "")) for n in tree if not n.get("ignored")]
    for role in ("button", "slider", "option", "tab", "radio", "combobox", "textbox"):
        names = [name for kind, name in named if kind == role]
        assert all(names), f"a {role} has no name"
    assert any(role == "option" and "quality" in name for role, name in named)
    assert ("textbox", "Size of a pixel") in named


def test_four_hundred_instances_are_drawn_and_filtered_quickly(page, tmp_path):
    pixels = np.full((1024, 1280, 3), 15, np.uint8)
    y, x = np.mgrid[-22:22, -22:22]
    rng = np.random.default_rng(0)
    for row in range(20):
        for column in range(24):
            place = pixels[25 + 50 * row - 22 :, 30 + 52 * column - 22 :][:44, :44]
            place[x**2 + y**2 < rng.integers(8, 22) ** 2] = rng.integers(130, 255)
    (tmp_path / "many.png").write_bytes(as_file(pixels))
    page.upload(tmp_path / "many.png")
    page.wait(DONE)
    assert page.js("document.querySelectorAll('#rows li').length") == 480
    spent = page.js(
        "(async () => { const slider = document.querySelector('#quality'), began = performance.now();"
        " for (let i = 0; i < 20; i++) { slider.value = 0.7 + i / 100; slider.dispatchEvent(new Event('input'));"
        " await new Promise(requestAnimationFrame); } return (performance.now() - began) / 20 })()"
    )
    assert spent < 400, f"{spent:.0f} ms a step, without a graphics card"


bitmaps = st.tuples(st.integers(1, 9), st.integers(1, 9)).flatmap(
    lambda size: st.lists(st.booleans(), min_size=size[0] * size[1], max_size=size[0] * size[1]).map(
        lambda bits: np.array(bits).reshape(size)
    )
)


def test_masks_are_decoded_traced_and_measured_as_in_python(page):
    page.js("import('/page/masks.js').then((masks) => { window.masks = masks })")

    @given(bitmaps, st.integers(0, 5), st.integers(0, 5))
    @settings(max_examples=150, deadline=None)
    def check(bits: np.ndarray, x0: int, y0: int) -> None:
        size = (bits.shape[0] + y0 + 2, bits.shape[1] + x0 + 1)
        [code] = rle.encode([Window(x0, y0, bits)], size)
        tight = rle.decode(code)
        window, rings, measures = page.js(
            f"(() => {{ const w = masks.decode({json.dumps(code)}); "
            "return [{...w, bits: [...w.bits]}, masks.trace(w), masks.measure(w)] })()"
        )
        assert window["bits"] == tight.bits.ravel().tolist()
        polygons = outlines.trace(tight.bits, corner=(tight.x0, tight.y0))
        expected = [ring for polygon in polygons for ring in (polygon.outer, *polygon.holes)]
        assert canonical(np.reshape(ring, (-1, 2)) for ring in rings) == canonical(expected)
        if bits.any():
            assert measures["area"] == int(bits.sum())
            assert measures["parts"] == measurements.parts(tight.bits)
            assert measures["holes"] == measurements.holes(tight.bits)
            assert measures["perimeter"] == pytest.approx(measurements.perimeter(tight.bits))

    check()


def canonical(rings) -> list[tuple]:
    """Rings begin where they like; here each begins at its least corner."""
    turned = []
    for ring in rings:
        corners = [tuple(int(v) for v in corner) for corner in ring]
        starts = [i for i, corner in enumerate(corners) if corner == min(corners)]
        turned.append(min(tuple(corners[i:] + corners[:i]) for i in starts))
    return sorted(turned)

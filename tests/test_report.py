import json
import re
import subprocess
import sys
from dataclasses import replace
from functools import lru_cache
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_method import tiny_run

from maskwise import cli, rle
from maskwise.categories import Categories
from maskwise.data.images import read_image
from maskwise.data.synthetic.scenes import Scenes
from maskwise.evaluate.coco import COCO, coco
from maskwise.evaluate.errors import errors
from maskwise.evaluate.objects import Comparison, Found, Pair, mask_boxes
from maskwise.evaluate.quality import quality
from maskwise.evaluate.structures import truth
from maskwise.evaluate.validation import image_id, results, validation
from maskwise.recipes.run import Synthetic
from maskwise.recipes.sources import sources
from maskwise.report import charts, history, judged, run_folder
from maskwise.report.crops import MOST
from maskwise.report.findings import find
from maskwise.report.history import History
from maskwise.report.page import write
from maskwise.report.svg import Plot, Scale, share
from maskwise.rle import Window

SCENES = Scenes(size=(64, 80), count=(3, 6), visible=30)
VOID = {"meta", "input", "br", "img", "hr", "link"}
HISTORY = [
    {"epoch": 1, "step": 2, "loss/mask": 0.8, "loss/class": 0.5, "val/AP": 0.2, "val/AP50": 0.4, "val/AP75": None},
    {"epoch": 2, "step": 4, "loss/mask": 0.5, "loss/class": 0.3, "val/AP": 0.31, "val/AP50": 0.6, "val/AP75": 0.3},
    *({"step": s, "loss/mask": 1 / s, "loss/class": 0.4, "lr": 0.01 * s} for s in range(1, 5)),
]


# Something to report of


def shifted(rng, mask, size):
    """Moved, and quality that knows by how much."""
    by = int(rng.integers(0, 5))
    window = rle.decode(mask)
    bits = np.zeros((size[0] + 10, size[1] + 10), bool)
    h, w = window.bits.shape
    bits[window.y0 + by : window.y0 + by + h, window.x0 : window.x0 + w] = window.bits
    [code] = rle.encode([Window(0, 0, bits[: size[0], : size[1]])], size)
    return code, float(np.clip(1 - by / 6 + rng.normal(0, 0.05), 0, 1))


def found_of(rng, true, classes):
    chosen = [n for n in range(len(true)) if rng.random() < 0.85]
    drawn = [shifted(rng, true.masks[n], true.size) for n in chosen]
    masks = tuple(code for code, _ in drawn)
    labels = [int(true.labels[n]) if rng.random() < 0.8 else int(rng.integers(classes)) for n in chosen]
    scores, values = (np.float32(v).astype(float) for v in (rng.random(len(chosen)), [value for _, value in drawn]))
    return Found(
        labels=np.array(labels, np.int64),
        boxes=mask_boxes(masks),
        scores=scores,
        quality=values,
        mask_scores=np.float32(scores * values).astype(float),  # as models have them
        masks=masks,
        keypoints=None,
    )


def made(pictures=8, *, seed=0, data="scenes <of> tests"):
    rng, source = np.random.default_rng(seed), SCENES.samples(pictures)
    pairs = []
    for i in range(pictures):
        true = truth(source[i].targets)
        pairs.append(Pair(source[i].name, true, found_of(rng, true, len(SCENES.categories))))
    return Comparison(categories=SCENES.categories, pairs=tuple(pairs), data=data)


@lru_cache
def pixels(name):
    return SCENES.scene(int(str(name).removeprefix("scene-"))).pixels


@pytest.fixture(scope="module")
def comparison():
    return made()


def without_found(pair):
    empty = {name: getattr(pair.found, name)[:0] for name in ("labels", "boxes", "scores", "quality", "mask_scores")}
    return pair._replace(found=replace(pair.found, **empty, masks=()))


def without_truth(pair):
    empty = {name: getattr(pair.truth, name)[:0] for name in ("labels", "boxes", "areas", "crowd")}
    return pair._replace(truth=replace(pair.truth, **empty, masks=(), ids=()))


def renamed(comparison, *names):
    rest = tuple(f"class {k}" for k in range(len(names), len(comparison.categories)))
    return replace(comparison, categories=Categories(names=(*names, *rest)))


# Reading a page back


class Page(HTMLParser):
    """Checks that every element is closed, and keeps tables (by caption), texts and ids."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.source = text
        self.open, self.ids, self.links, self.svgs, self.tables, self.words = [], [], [], [], {}, []
        self.paths, self.row, self.cell, self.caption = [], None, None, ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        assert tag not in ("script", "iframe", "object", "embed", "link", "img")
        assert not [name for name in attrs if name.startswith("on")]
        if tag not in VOID:
            self.open.append(tag)
        self.ids += [attrs["id"]] if "id" in attrs else []
        self.links += [attrs["href"]] if "href" in attrs else []
        if tag == "svg" and "role" in attrs:
            self.svgs.append(attrs["aria-label"])
        if tag == "path":
            self.paths.append(attrs["d"])
        if tag == "tr":
            self.row = []
        if tag in ("td", "th"):
            self.cell = []
        if tag == "data" and self.cell is not None:
            self.cell.append(float(attrs["value"]) if attrs["value"] else None)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag):
        if tag in VOID:
            return
        assert self.open.pop() == tag
        if tag in ("td", "th"):
            numbers = [part for part in self.cell if not isinstance(part, str)]
            self.row.append(numbers[0] if numbers else "".join(self.cell))
            self.cell = None
        if tag == "tr" and self.row:
            self.tables.setdefault(self.caption, []).append(self.row)

    def handle_data(self, data):
        self.words.append(data)
        if self.open[-1:] == ["caption"]:
            self.caption = data
        if self.cell is not None:
            self.cell.append(data)

    @property
    def text(self):
        return " ".join("".join(self.words).split())

    def table(self, start):
        [found] = [rows for caption, rows in self.tables.items() if caption.startswith(start)]
        return found


@pytest.fixture(scope="module")
def page(comparison, tmp_path_factory):
    """Of everything."""
    path = tmp_path_factory.mktemp("page") / "report.html"
    about = {"seed": 1, "run": {"optim": {"lr": 0.1}}}
    write(path, comparison=comparison, pixels=pixels, title="a run", history=HISTORY, about=about)
    return Page(path.read_text(encoding="utf-8"))


@pytest.fixture
def page_of(tmp_path):
    def read(comparison, **options):
        options = {"pixels": pixels, "title": "a run", **options}
        path = write(tmp_path / "new" / "report.html", comparison=comparison, **options)
        return Page(path.read_text(encoding="utf-8"))

    return read


def known(number):
    return None if isinstance(number, float) and np.isnan(number) else number


# Numbers


def test_numbers_are_those_of_the_evaluator(page, comparison):
    masks, boxes = coco(comparison), coco(comparison, "bbox")
    for name, in_masks, in_boxes in page.table("COCO's numbers")[1:]:
        assert in_masks == known(masks.numbers[name])
        assert in_boxes == known(boxes.numbers[name])
    head, *rows = page.table("Lowest AP first")
    classes = {row.name: row for row in masks.classes}
    assert {row[0] for row in rows} == set(classes)
    names = {"best F1": "F1", "score at best F1": "score_at_F1"}
    for row in rows:
        expected = classes[row[0]]
        assert row[1] == expected.ground_truths
        assert row[2:] == [known(expected.numbers[names.get(name, name)]) for name in head[2:]]
    aps = [row[2] for row in rows if row[1]]
    assert aps == sorted(aps)


def test_quality_and_errors_are_those_of_the_evaluator(page, comparison):
    measured, wrong = quality(comparison), errors(comparison)
    for (_, *row), bin_ in zip(page.table("Calibration")[1:], measured.tables["calibration"], strict=True):
        assert row == [known(bin_[name]) for name in ("detections", "predicted", "true")]
    ranked = [row[1] for row in page.table("The same detections")[1:]]
    assert ranked == [measured.numbers[f"AP_{name}"] for name in ("by_score", "by_quality", "by_mask_score", "bound")]
    for kind, count, gain in page.table("By kind")[1:]:
        name = kind.split()[0]
        assert (count, gain) == (wrong.numbers[f"n_{name}"], wrong.numbers[name])
    assert f"Spearman {measured.numbers['spearman_score']:.3f} with true IoU" in page.text
    assert f"Spearman {measured.numbers['spearman_quality']:.3f} with true IoU" in page.text


def test_confusions_are_those_of_the_evaluator(page, comparison):
    head, *rows = page.table("Rows are what is there")
    assert head == ["", *comparison.categories.names, "missed"]
    shown = [[0 if cell in ("0", "") else cell for cell in row[1:]] for row in rows]
    assert shown == find(comparison).confusion.tolist()
    assert sum(map(sum, shown)) > 0


def test_the_policy_has_a_name_and_its_limits_are_said(page_of, comparison):
    page = page_of(comparison, settings=replace(COCO, max_dets=(1, 10, 400)))
    assert "Policy coco, segm, IoU 0.50 to 0.95 by 0.05, at most 400 detections a picture and class" in page.text
    assert "Policy tide, segm, IoU 0.50, at most 400 detections a picture and class" in page.text
    page = page_of(comparison, settings=replace(COCO, thresholds=(0.3, 0.75)))
    assert "IoU 0.30, 0.75" in page.text


# What a page is


def test_a_page_needs_nobody_else(page):
    text = page.source
    assert "default-src 'none'" in text
    assert "http:" not in text
    assert "https:" not in text
    assert re.findall(r"url\(|@import", text) == []
    assert all(link.startswith(("#", "data:image/jpeg;base64,")) for link in page.links)
    assert len(page.ids) == len(set(page.ids))
    assert {link[1:] for link in page.links if link.startswith("#")} <= set(page.ids)
    assert all(page.svgs)
    assert "optim.lr" in page.text


def test_the_same_input_gives_the_same_bytes(tmp_path, comparison):
    pages = [
        write(tmp_path / name, comparison=comparison, pixels=pixels, title="t", history=HISTORY, about={"a": [1, 2]})
        for name in ("a.html", "b.html")
    ]
    assert pages[0].read_bytes() == pages[1].read_bytes()


def test_markup_in_names_stays_text(page_of, comparison, tmp_path):
    evil = "<img src=x onerror=alert(1)>\"'&amp;</title>"
    hostile = replace(comparison, pairs=tuple(p._replace(image=f"{i}{evil}") for i, p in enumerate(comparison.pairs)))
    hostile = replace(renamed(hostile, evil, "細胞核", "خلية", "half \ud800"), data=evil)
    row = {"epoch": 1, "step": 1, f"loss/{evil}": 1.0, "val/AP": 0.5}
    page = page_of(hostile, pixels=None, title=evil, history=[row], about={evil: evil, f"{evil} 2": {evil: [evil]}})
    text = (tmp_path / "new" / "report.html").read_text(encoding="utf-8")
    assert "<img" not in text
    assert page.text.count(evil) >= 8
    assert "細胞核" in page.text
    assert "خلية" in page.text


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (without_found, "Nothing was found"),
        (without_found, "nothing near it"),
        (without_truth, "There are no objects in the truth"),
        (lambda pair: without_truth(without_found(pair)), "There are neither objects nor detections"),
    ],
)
def test_nothing_to_show_is_said(page_of, comparison, change, words):
    page = page_of(replace(comparison, pairs=tuple(map(change, comparison.pairs))))
    assert words in page.text
    assert not [path for path in page.paths if "nan" in path or "inf" in path]


def test_a_data_set_without_pictures_and_one_with_one_class(page_of, comparison):
    assert "0 pictures · 0 objects · 0 detections" in page_of(replace(comparison, pairs=())).text
    one = [
        pair._replace(
            truth=replace(pair.truth, labels=pair.truth.labels * 0),
            found=replace(pair.found, labels=pair.found.labels * 0),
        )
        for pair in comparison.pairs
    ]
    page = page_of(Comparison(categories=Categories(names=("cell",)), pairs=tuple(one)))
    assert "1 class" in page.text
    assert len(page.table("Lowest AP first")) == 2


def test_many_classes_are_folded_and_confusions_become_a_list(page_of, comparison):
    names = tuple(f"kind {k}" for k in range(80))
    page = page_of(replace(comparison, categories=Categories(names=names)))
    assert len(page.table("Lowest AP first")) == 81
    assert "Show all 80" in page.text
    counts = find(comparison).confusion[:-1, :-1] * (1 - np.eye(len(comparison.categories), dtype=int))
    shown = page.table("Most frequent confusions")[1:]
    assert [row[1] for row in shown] == sorted(counts[counts > 0].tolist(), reverse=True)[: len(shown)]
    assert not [caption for caption in page.tables if caption.startswith("Rows are")]


def test_without_predicted_quality_nothing_is_said_of_it(page_of, comparison):
    plain = [
        p._replace(found=replace(p.found, quality=p.found.quality * 0 + 1, mask_scores=p.found.scores))
        for p in comparison.pairs
    ]
    page = page_of(replace(comparison, pairs=tuple(plain)))
    assert "This method predicts no quality" in page.text
    assert "Calibration" not in page.tables
    assert "Predicted quality against true IoU" not in page.text


def test_many_detections_are_thinned_and_that_is_said(page_of, comparison, monkeypatch):
    monkeypatch.setattr(charts, "MOST_POINTS", 20)
    page = page_of(comparison)
    total = sum(len(pair.found) for pair in comparison.pairs)
    assert total > 20
    assert f"20 of {total} detections are drawn" in page.text
    assert "of 20 detections. Spearman" in " ".join(page.svgs)


def test_evenly_takes_the_first_and_the_last_and_never_too_many():
    assert charts.evenly(0, 5).tolist() == []
    assert charts.evenly(3, 5).tolist() == [0, 1, 2]
    assert charts.evenly(100, 5).tolist() == [0, 25, 50, 74, 99]


# Pictures


def test_pictures_are_few_and_each_is_there_once(page):
    images = [link for link in page.links if link.startswith("data:")]
    uses = [link for link in page.links if re.match(r"#(overrated|confused|missed|best)\d", link)]
    assert 8 < len(images) <= 4 * MOST
    assert len(uses) == 2 * len(images)
    assert sum(svg.startswith("Picture, truth and prediction of ") for svg in page.svgs) == len(images)


def test_pictures_show_the_true_iou_that_the_evaluator_has(page, comparison):
    found = find(comparison)
    best = float(np.nanmax(found.detections.true_iou))
    [first, *_] = re.findall(r"Best highest true IoU.*?true IoU ?([\d.]+)", page.text)
    assert first == f"{best:.2f}"


def test_what_was_missed_is_shown_with_what_comes_nearest(page, comparison):
    verdicts = zip(comparison.pairs, find(comparison).assignments, strict=True)
    missed = [(pair, n) for pair, verdict in verdicts for n in verdict.missed]
    pair, n = max(missed, key=lambda one: one[0].truth.areas[one[1]])
    label = comparison.categories.names[pair.truth.labels[n]]
    assert re.search(f"Missed the largest first ?{label} ?{pair.image}", page.text)
    assert f"Picture, truth and prediction of {label}, which was missed" in page.svgs


def test_without_pictures_there_is_no_empty_pane(page_of, comparison):
    page = page_of(comparison, pixels=None)
    assert "From left to right: truth among its neighbours" in page.text
    assert page.source.count('class="pane"') == 2 * sum(svg.startswith("Picture, truth and") for svg in page.svgs) > 0


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (lambda name: read_image(f"{name}<gone>"), "cannot read scene-000"),
        (lambda _: np.zeros((5, 4, 3), np.uint8), "the picture is 4 x 5, its masks are for 80 x 64"),
    ],
)
def test_a_picture_that_cannot_be_shown_says_why(page_of, comparison, broken, words):
    page = page_of(comparison, pixels=broken)
    assert words in page.text
    assert not [link for link in page.links if link.startswith("data:")]
    assert sum(svg.startswith("Picture, truth and prediction of ") for svg in page.svgs) > 8


def test_masks_without_pixels_and_of_one_pixel(page_of):
    size = (40, 30)
    windows = [np.zeros((0, 0), bool), np.ones((1, 1), bool), np.ones((40, 30), bool)]
    masks = tuple(rle.encode([Window(0, 0, bits) for bits in windows], size))
    true = truth(SCENES.samples(1)[0].targets)
    true = replace(
        true, size=size, labels=np.zeros(3, np.int64), boxes=mask_boxes(masks), areas=np.array([0.0, 1, 1200]),
        crowd=np.zeros(3, bool), masks=masks, ids=(1, 2, 3),
    )  # fmt: skip
    one = np.array([0.9, 0.8, 0.7])
    found = Found(
        labels=np.zeros(3, np.int64), boxes=mask_boxes(masks), scores=one, quality=one, mask_scores=one * one,
        masks=masks, keypoints=None,
    )  # fmt: skip
    comparison = Comparison(categories=Categories(names=("dot",)), pairs=(Pair(1, true, found),))
    assert "dot" in page_of(comparison, pixels=lambda _: np.zeros((*size, 3), np.uint8)).text


# The course of a training


def test_curves_are_drawn_by_epoch(page, page_of, comparison):
    assert "best 0.310 at epoch 2" in page.text
    assert "last 0.800" in page.text
    assert any(svg.startswith("Loss by epoch: from 1.3 to 0.8") for svg in page.svgs)
    assert any(svg.startswith("Learning rate by epoch: at most 0.04") for svg in page.svgs)
    assert "Training" not in page_of(comparison).text


def test_where_there_is_no_number_no_chart_says_nan(page_of, comparison):
    rows = [{"epoch": 1, "step": 2, "loss/mask": 1.0}, {"epoch": 2, "step": 4, "loss/mask": None, "lr": 0.1}]
    one = [p._replace(found=replace(p.found, scores=p.found.scores * 0 + 0.5)) for p in comparison.pairs]
    page = page_of(replace(comparison, pairs=tuple(one)), history=rows)
    assert "Loss by epoch: from 1 to not measurable." in page.svgs
    assert any(svg.endswith("Spearman correlation not measurable.") for svg in page.svgs)
    assert not [svg for svg in page.svgs if "nan" in svg.split()]


def test_steps_lie_between_the_epochs():
    course = History.of(HISTORY)
    assert course.x(course.steps) == [0.5, 1, 1.5, 2]
    assert History.of(HISTORY[2:]).x(History.of(HISTORY[2:]).steps) == [1, 2, 3, 4]
    assert History.of(HISTORY[2:]).unit == "step"


def test_a_line_that_is_being_written_is_left_out(tmp_path):
    (tmp_path / "metrics.csv").write_text("epoch,step,loss/mask,val/AP\n1,2,0.5,\n")
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "lr": 0.1}\n{"step": 2, "l')
    rows = history.read(tmp_path)
    assert rows == [{"epoch": 1, "step": 2, "loss/mask": 0.5, "val/AP": None}, {"step": 1, "lr": 0.1}]
    assert history.read(tmp_path / "nowhere") == []


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("[1]", "expected an object, got list"),
        ('{"step": 2, "l', "not JSON"),
        ('{"step": [2]}', r"step: expected a number, got \[2\]"),
    ],
)
def test_an_odd_line_is_named(tmp_path, line, complaint):
    (tmp_path / "metrics.jsonl").write_text(f'{{"step": 1}}\n{line}\n{{"step": 3}}\n')
    with pytest.raises(ValueError, match=rf"metrics\.jsonl, line 2: {complaint}"):
        history.read(tmp_path)


# Charts


def test_scales_have_round_ticks():
    assert Scale.around([0.03, 0.87], "x", low=0.0).ticks == (0, 0.2, 0.4, 0.6, 0.8, 1.0)
    assert Scale.around([], "x").ticks[0] == 0
    assert Scale.around([3.0], "x").low <= 3 <= Scale.around([3.0], "x").high
    assert (Scale.until(12, "x").ticks, Scale.until(12, "x").high) == ((0, 5, 10), 12)
    assert Scale.until(2, "x").ticks == (0, 1, 2)


def test_a_line_has_gaps_where_there_is_no_number_and_a_dot_for_one():
    plot = Plot(x=share(""), y=share(""), width=154, height=148)  # 100 x 100 inside
    assert 'd="M44 110h0"' in plot.line([0, 1], [0, float("nan")], "c0")
    assert 'd="M44 110h0M144 10h0"' in plot.line([0, 0.5, 1], [0, float("nan"), 1], "c0")
    assert plot.line([0.5], [float("nan")], "c0") == ""
    assert 'd="M44 60h0L144 60"' in plot.line([0, 0.3, 0.6, 1], [0.5] * 4, "c0")


# The command


@pytest.fixture
def files(tmp_path, comparison):
    """COCO files and pictures; one name leads out of the folder."""
    ids, names = range(1, len(comparison.pairs) + 1), [f"{p.image}.png" for p in comparison.pairs]
    truth_json = {
        "categories": [{"id": i, "name": n} for i, n in enumerate(comparison.categories.names, 1)],
        "images": [
            {"id": i, "file_name": f"../elsewhere/{name}" if i == 1 else name, "height": 64, "width": 80}
            for i, name in zip(ids, names, strict=True)
        ],
        "annotations": [
            {"image_id": i, "category_id": int(k) + 1, "segmentation": m, "area": float(a), "iscrowd": 0}
            for i, pair in zip(ids, comparison.pairs, strict=True)
            for k, m, a in zip(pair.truth.labels, pair.truth.masks, pair.truth.areas, strict=True)
        ],
    }
    (tmp_path / "images").mkdir()
    for name in names:
        Image.fromarray(pixels(Path(name).stem)).save(tmp_path / "images" / name)
    (tmp_path / "truth.json").write_text(json.dumps(truth_json))
    (tmp_path / "results.json").write_text(json.dumps(results(comparison, list(ids))))
    return tmp_path


def test_the_command_reads_coco_files(files, comparison, capsys):
    words = ["--truth", "truth.json", "--results", "results.json", "--images", "images", "--out", "out.html"]
    given = [str(files / word) if "." in word or word == "images" else word for word in words]
    assert cli.main(["report", *given]) == 0
    assert capsys.readouterr().out == f"{files / 'out.html'}\n"
    page = Page((files / "out.html").read_text(encoding="utf-8"))
    assert page.table("COCO's numbers")[1][1] == coco(comparison).numbers["AP"]
    assert len([link for link in page.links if link.startswith("data:")]) > 8
    assert "cannot read" not in page.text


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ([], "expected the folder of a run, or both --truth and --results"),
        (["--truth", "a.json"], "expected the folder of a run, or both"),
        (["run", "--truth", "a.json", "--results", "b.json"], "expected the folder of a run, or both"),
        (["nowhere"], "run.json: cannot be read"),
        (["run", "--title", "x"], "--title: for --truth and --results; a run has its own"),
        (["run", "--max-dets", "100"], "--max-dets: for --truth and --results; a run has its own"),
        (["run", "--images", "x", "--title", "x"], "--images and --title: for --truth and --results"),
        (["run", "--out", ".", "--exist-ok"], ". is a folder: name a file in it, such as report.html"),
    ],
)
def test_wrong_usage_is_said_in_one_line(words, complaint, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["report", *words]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert complaint in err
    assert err.count("\n") == 1


def test_help_needs_no_torch():
    code = "import sys; from maskwise import cli; cli.main(['report', '--help']); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


# The folder of a run


@pytest.fixture
def run(tmp_path):
    """What training leaves, with what was found in its validation data."""
    settings = tiny_run()
    settings = replace(settings, data=replace(settings.data, source=Synthetic(scenes=SCENES, train=2, val=4)))
    opened = sources(settings.data)
    rng, val = np.random.default_rng(4), opened.val
    trues = [truth(val[i].targets) for i in range(len(val))]
    pairs = tuple(Pair(val[i].name, t, found_of(rng, t, len(SCENES.categories))) for i, t in enumerate(trues))
    comparison = Comparison(categories=opened.categories, pairs=pairs, data="4 scenes")
    folder = tmp_path / "first run"
    (folder / "eval").mkdir(parents=True)
    contents = {
        "run.json": settings.to_json(),
        "environment.json": {"maskwise": "0.0", "git": None, "packages": {"torch": "2"}},
        "eval/results.json": results(comparison, [image_id(val, i) for i in range(len(val))]),
        "eval/report.json": {"epoch": 3, **validation(comparison).to_json()},
    }
    for name, content in contents.items():
        (folder / name).write_text(json.dumps(content))
    (folder / "metrics.csv").write_text("epoch,step,loss/mask,val/AP\n1,2,0.5,0.125\n2,4,0.4,0.25\n")
    return folder, comparison, val


def test_a_run_is_reported_at_once_or_later(run, capsys):
    folder, comparison, val = run
    told = {"title": run_folder.title(folder), "history": history.read(folder), "about": run_folder.about(folder)}
    path = judged.write(folder / "report.html", comparison=comparison, source=val, **told)
    at_once = Page(path.read_text(encoding="utf-8"))
    assert cli.main(["report", str(folder)]) == 0
    assert capsys.readouterr().out == f"{folder / 'report.html'}\n"
    later = Page(path.read_text(encoding="utf-8"))
    for page in (at_once, later):
        assert page.table("COCO's numbers")[1][1] == coco(comparison).numbers["AP"]
        assert "tiny: first run" in page.text
        assert "best 0.250 at epoch 2" in page.text
        assert ["data", "4 scenes"] in page.tables["What was run"]
        assert ["epoch of these results", "3"] in page.tables["What was run"]
        assert len([link for link in page.links if link.startswith("data:")]) > 4
    assert at_once.tables["Lowest AP first"] == later.tables["Lowest AP first"]
    assert at_once.links == later.links


def test_one_validation_makes_no_curve(run):
    folder, _, _ = run
    (folder / "metrics.csv").write_text("epoch,step,loss/mask,val/AP\n1,2,0.5,0.25\n")
    assert cli.main(["report", str(folder)]) == 0
    page = Page((folder / "report.html").read_text(encoding="utf-8"))
    assert any(svg.startswith("Loss by epoch") for svg in page.svgs)
    assert not any(svg.startswith("Validation") for svg in page.svgs)


def test_a_run_that_was_not_judged_says_so_and_shows_its_course(run, capsys):
    folder, _, _ = run
    (folder / "eval/report.json").unlink()  # killed after it wrote the results
    assert cli.main(["report", str(folder)]) == 0
    page = Page((folder / "report.html").read_text(encoding="utf-8"))
    assert "has not been judged yet, and so there is no AP" in page.text
    assert any(svg.startswith("Loss by epoch") for svg in page.svgs)
    stored = json.loads((folder / "run.json").read_text())
    stored["data"]["source"]["val"] = 0
    (folder / "run.json").write_text(json.dumps(stored))
    assert cli.main(["report", str(folder)]) == 0
    text = (folder / "report.html").read_text()
    assert "This run had nothing to be judged by, and so there is no AP" in text


def test_half_a_line_about_a_picture_is_passed_over_and_an_odd_one_is_named(run, capsys):
    folder, _, _ = run
    (folder / "failures.jsonl").write_text('{"path": "a.png"}\n{"path": "b.p')
    assert cli.main(["report", str(folder)]) == 0
    (folder / "failures.jsonl").write_text('{"path": "a.png"}\n{"path": "b.p\n')
    assert cli.main(["report", str(folder)]) == 2
    assert "failures.jsonl, line 2: not JSON" in capsys.readouterr().err


def test_a_file_that_is_there_is_written_over_only_where_that_is_asked_for(files, run, capsys):
    foreign = files / "mine.html"
    foreign.write_text("mine")
    of_files = ["--truth", str(files / "truth.json"), "--results", str(files / "results.json")]
    for words in (of_files, [str(run[0])]):
        assert cli.main(["report", *words, "--out", str(foreign)]) == 2
        assert "mine.html exists" in capsys.readouterr().err
        assert foreign.read_text() == "mine"
    assert cli.main(["report", *of_files, "--out", str(foreign), "--exist-ok"]) == 0
    assert foreign.read_text().startswith("<!")


def test_crops_are_told_by_the_names_of_files(files, capsys):
    of_files = ["--truth", str(files / "truth.json"), "--results", str(files / "results.json")]
    assert cli.main(["report", *of_files, "--out", str(files / "out.html")]) == 0
    captions = re.findall(r'class="soft file"><bdi>([^<]*)<', (files / "out.html").read_text())
    assert captions
    assert all(caption.endswith(".png") for caption in captions)

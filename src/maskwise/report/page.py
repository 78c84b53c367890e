"""`write`: one file with everything in it. The same input gives the same bytes; no clock is read.

Nothing in the page is loaded or run: a policy in its head forbids the browser to.
"""

from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template

import numpy as np

from maskwise.data.files import replacing
from maskwise.evaluate.coco import COCO, Settings
from maskwise.evaluate.objects import Comparison
from maskwise.report import charts, crops, tables
from maskwise.report.crops import Pixels
from maskwise.report.findings import MATCH, Findings, find
from maskwise.report.history import History, Row
from maskwise.report.markup import figure, grid, name, nothing, section
from maskwise.version import __version__


def write(
    path: Path | str,
    *,
    comparison: Comparison,
    pixels: Pixels | None,
    title: str,
    history: Sequence[Row] = (),
    about: Mapping[str, object] | None = None,
    settings: Settings = COCO,
) -> Path:
    """The report of what was found beside the truth, and of the training that led there.

    `pixels` gives the picture of an image id of the comparison; without it outlines are drawn on plain ground.
    `history`: rows of metrics.csv and metrics.jsonl. `about`: what was run; mappings inside become sections of their
    own. `settings`: limits and thresholds of COCO's numbers.
    """
    found = find(comparison, settings)
    return _saved(Path(path), page(found, pixels=pixels, title=title, history=History.of(history), about=about or {}))


def write_unjudged(
    path: Path, *, why: str, title: str, history: Sequence[Row], about: Mapping[str, object] | None = None
) -> Path:
    """The same of a training alone: its course, and `why` nothing is known of its masks."""
    sections = {
        "training": ("Training", _training(History.of(history))),
        "precision": ("Precision and recall", nothing(why)),
        "about": ("What was run", tables.about(about or {})),
    }
    return _saved(path, _filled(sections, title=title, data="not judged", headline=""))


def check_free(path: Path, *, exist_ok: bool) -> None:
    """What is there is somebody's: it is written over only where that is asked for."""
    if path.is_dir():
        raise ValueError(f"{path} is a folder: name a file in it, such as {path / 'report.html'}")
    if path.exists() and not exist_ok:
        raise ValueError(
            f"{path} exists: choose another name, or allow to write over it (exist_ok, in a shell --exist-ok)"
        )


def _saved(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        file.write(text.encode("utf-8", "replace"))  # names out of files may hold half a character
    return path


def page(found: Findings, *, pixels: Pixels | None, title: str, history: History, about: Mapping[str, object]) -> str:
    sections = {
        "training": ("Training", _training(history)),
        "precision": ("Precision and recall", _precision(found)),
        "quality": ("Quality", _quality(found)),
        "pictures": ("Predictions", _pictures(found, pixels)),
        "errors": ("Errors", _errors(found)),
        "confusion": ("Confusions", _confusion(found)),
        "classes": ("Classes", _classes(found)),
        "about": ("What was run", tables.about(about)),
    }
    return _filled(sections, title=title, data=_data(found), headline=tables.headline(found))


def _filled(sections: Mapping[str, tuple[str, str]], *, title: str, data: str, headline: str) -> str:
    """The page with those of its sections that have anything in them."""
    shown = {anchor: (heading, content) for anchor, (heading, content) in sections.items() if content}
    links = "".join(f'<li><a href="#{anchor}">{heading}</a></li>' for anchor, (heading, _) in shown.items())
    body = "".join(section(anchor, heading, content) for anchor, (heading, content) in shown.items())
    template = Template(files("maskwise.report").joinpath("page.html").read_text(encoding="utf-8"))
    return template.substitute(
        title=escape(title),
        data=data,
        links=links,
        headline=headline,
        sections=body,
        version=escape(__version__),
    )


def _data(found: Findings) -> str:
    comparison, masks = found.comparison, found.masks
    parts = [name(comparison.data)] if comparison.data else []
    parts += [
        _counted(masks.images, "picture"),
        _counted(masks.ground_truths, "object"),
        _counted(len(found.detections.row), "detection"),
        _counted(len(comparison.categories), "class", "classes"),
    ]
    return " · ".join(parts)


def _counted(count: int, one: str, many: str = "") -> str:
    return f"{count:,} {one if count == 1 else many or one + 's'}"


# Sections: a lead that says how to read what follows, and what follows.


def _lead(words: str) -> str:
    return f'<p class="lead">{words}</p>'


def _training(history: History) -> str:
    return charts.training(history) if history.epochs or history.steps else ""


def _precision(found: Findings) -> str:
    if not found.masks.ground_truths:
        return nothing("There are no objects in the truth: precision and recall are not defined.")
    if not len(found.detections.row):
        return nothing("Nothing was found: precision is not defined, recall is 0.")
    return _lead("Detections ranked by mask score, at 101 levels of recall.") + charts.precision_recall(found)


def _quality(found: Findings) -> str:
    if np.isnan(found.detections.true_iou).all():
        return nothing("No detection has a true IoU: there is nothing to compare scores with.")
    lead = (
        "The class score says <em>what</em> it is, the predicted quality <em>how well</em> the mask fits. The more "
        "closely the points climb to the right, the better a mask can be judged without knowing the truth."
        if found.has_quality
        else "This method predicts no quality: masks are ranked by the class score, which was not made for it."
    )
    ranked = figure("What ranking by quality brings", tables.rankings(found), look="wide")
    calibrated = grid(charts.calibration(found), ranked) + tables.calibration(found) if found.has_quality else ""
    return _lead(lead) + charts.scatters(found) + calibrated


def _pictures(found: Findings, pixels: Pixels | None) -> str:
    cases = crops.choose(found)
    kinds = (
        ("overrated", "Most overrated", "mask score furthest above the true IoU", cases.overrated),
        ("confused", "Taken for another class", "highest mask score first", cases.confused),
        ("missed", "Missed", "the largest first", cases.missed),
        ("best", "Best", "highest true IoU", cases.best),
    )
    parts = [
        f'<h3>{heading} <span class="soft">{words}</span></h3>{crops.gallery(found, some, pixels, prefix=key)}'
        for key, heading, words, some in kinds
        if some
    ]
    if not parts:
        return nothing("There are neither objects nor detections to look at.")
    first = "the picture, " if pixels else ""
    lead = (
        f"At IoU {MATCH:g}, of the detections from the class score at which their class has its best F1. "
        f'From left to right: {first}<span class="swatch true">truth</span> among its neighbours, '
        '<span class="swatch found">prediction</span> over the outline of the truth.'
    )
    return _lead(lead) + "".join(parts)


def _errors(found: Findings) -> str:
    if not found.masks.ground_truths:
        return nothing("There are no objects in the truth: nothing is gained by setting errors right.")
    lead = "How much AP would rise if one kind of error were set right and all others left: where work pays."
    return _lead(lead) + tables.errors(found)


def _confusion(found: Findings) -> str:
    lead = (
        f"At IoU {MATCH:g}, of the detections from the class score at which their class has its best F1 "
        "(<i>score at best F1</i> among the classes)."
    )
    return _lead(lead) + tables.confusion(found)


def _classes(found: Findings) -> str:
    return tables.classes(found) if len(found.comparison.categories) else ""

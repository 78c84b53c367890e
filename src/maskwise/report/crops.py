"""Predictions beside the truth: which ones are shown, and each as picture, truth and prediction side by side.

A cut-out is in the page once, as a small JPEG, and the outlines lie over it as paths, sharp at every size.
Legend: d detections, r of them ranked.
"""

import base64
import io
import math
from collections.abc import Callable, Sequence
from html import escape
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from PIL import Image

from maskwise import outlines, rle
from maskwise.evaluate.confusion import LEFT_OUT, NOTHING
from maskwise.evaluate.objects import Pair, box_iou, mask_boxes, present
from maskwise.evaluate.overlaps import of_kind
from maskwise.evaluate.runs import highest
from maskwise.report.findings import MATCH, Findings, nearest
from maskwise.report.markup import name, number
from maskwise.rle import RLE

Pixels = Callable[[int | str], UInt8[np.ndarray, "_ _ 3"]]
"""The picture of an image id; ValueError or OSError where it cannot be read."""

MOST = 6
"""Of each kind; four kinds."""
MOST_NEIGHBOURS = 60
"""Outlines of other objects in a crop."""
SIDE = 240
"""Pixels of a cut-out in the page; outlines are traced no finer than that twice."""
ROOM = 1.8
"""Side of a cut-out, in sides of what it is about."""
SMALLEST = 32
NEAR = 0.1
"""IoU from which a detection is shown beside an object that it missed."""
QUALITY = 85
PANE, GAP = 100, 3


class Case(NamedTuple):
    """One thing to look at: a detection, an object, or both."""

    picture: int
    found: int
    """detection, or NOTHING"""
    truth: int
    """object, or NOTHING"""
    is_missed: bool = False


class Cases(NamedTuple):
    """Of the detections that are shown."""

    overrated: list[Case]
    """mask score furthest above the true IoU, and no other class that would explain it"""
    confused: list[Case]
    """on an object of another class, highest mask score first"""
    best: list[Case]
    """highest true IoU"""
    missed: list[Case]
    """largest objects that nothing found"""


class View(NamedTuple):
    """What a cut-out shows of its picture."""

    x0: int
    y0: int
    width: int
    height: int


def choose(found: Findings) -> Cases:
    """Few of one picture, so that many pictures are seen."""
    d = found.detections
    assigned = np.concatenate([np.zeros(0, np.int64), *(a.truth for a in found.assignments)])
    shown = np.flatnonzero((assigned != LEFT_OUT) & ~np.isnan(d.true_iou))
    over = d.mask_scores[shown] - d.true_iou[shown]
    is_confused = _confused(found)[shown]
    each = max(1, math.ceil(MOST / max(len(found.comparison.pairs), 1)))

    def first(ranked: Int[np.ndarray, " r"]) -> list[Case]:
        return [_of_detection(found, i) for i in _few_of_each(shown[ranked], d.picture, each)]

    by_score = np.argsort(-d.mask_scores[shown], kind="stable")
    worst_first = np.lexsort((-d.mask_scores[shown], -over))
    worst_first = worst_first[over[worst_first] > 0]
    best_first = np.lexsort((-d.mask_scores[shown], -d.true_iou[shown]))
    best_first = best_first[d.true_iou[shown][best_first] >= MATCH]
    return Cases(
        overrated=first(worst_first[~is_confused[worst_first]]),
        confused=first(by_score[is_confused[by_score]]),
        best=first(best_first),
        missed=_missed(found, each),
    )


def _confused(found: Findings) -> Bool[np.ndarray, " d"]:
    """Whether a detection takes an object of another class."""
    wrong = [
        (a.truth >= 0) & (np.append(pair.truth.labels, NOTHING)[np.maximum(a.truth, NOTHING)] != pair.found.labels)
        for a, pair in zip(found.assignments, found.comparison.pairs, strict=True)
    ]
    return np.concatenate([np.zeros(0, bool), *wrong])


def _few_of_each(ranked: Int[np.ndarray, " r"], picture: Int[np.ndarray, " d"], each: int) -> list[int]:
    """The first ones, at most `each` of a picture."""
    used: dict[int, int] = {}
    chosen: list[int] = []
    for i in ranked.tolist():
        at = int(picture[i])
        if used.get(at, 0) < each:
            used[at] = used.get(at, 0) + 1
            chosen.append(i)
        if len(chosen) == MOST:
            break
    return chosen


def _of_detection(found: Findings, i: int) -> Case:
    picture, row = int(found.detections.picture[i]), int(found.detections.row[i])
    return Case(picture, row, nearest(found.comparison.pairs[picture], row))


def _missed(found: Findings, each: int) -> list[Case]:
    """With the shown detection that comes nearest, of any class."""
    rows = [(p, int(n)) for p, a in enumerate(found.assignments) for n in a.missed]
    pairs = found.comparison.pairs
    areas = np.array([pairs[p].truth.areas[n] for p, n in rows])
    pictures = np.array([p for p, _ in rows], np.int64)
    chosen = [rows[i] for i in _few_of_each(np.argsort(-areas, kind="stable"), pictures, each)]
    return [Case(p, _closest(pairs[p], n, found.assignments[p].truth), n, True) for p, n in chosen]


def _closest(pair: Pair, n: int, assigned: Int[np.ndarray, " d"]) -> int:
    iou = np.where(assigned == LEFT_OUT, 0.0, _iou_with(pair, n))
    return int(iou.argmax()) if iou.max(initial=0.0) >= NEAR else NOTHING


def _iou_with(pair: Pair, n: int) -> Float[np.ndarray, " d"]:
    """Of all detections with one object."""
    met = of_kind("segm").touching(pair.truth, pair.found)
    met = met.chosen(met.truth == n)
    return highest(met.found, met.iou, len(pair.found))


# Drawing


def gallery(found: Findings, cases: Sequence[Case], pixels: Pixels | None, *, prefix: str) -> str:
    """`prefix` makes the ids of the pictures in the page."""
    figures = [_figure(found, case, pixels, f"{prefix}{i}") for i, case in enumerate(cases)]
    return f'<div class="crops">{"".join(figures)}</div>'


def _figure(found: Findings, case: Case, pixels: Pixels | None, key: str) -> str:
    pair = found.comparison.pairs[case.picture]
    view = _view(pair, case)
    image, complaint = _cut_out(pair, view, pixels)
    caption, words = _caption(found, case)
    note = f'<p class="soft">{escape(complaint)}</p>' if complaint else ""
    drawn = _triple(found, case, view, image, key, f"Picture, truth and prediction of {words}")
    return f'<figure class="crop">{drawn}<figcaption>{caption}{note}</figcaption></figure>'


def _caption(found: Findings, case: Case) -> tuple[str, str]:
    """As markup, and in plain words."""
    pair, names = found.comparison.pairs[case.picture], found.comparison.categories.names
    where = f'<span class="soft file">{name(pair.image)}</span>'
    is_ = names[int(pair.truth.labels[case.truth])] if case.truth != NOTHING else None
    as_ = names[int(pair.found.labels[case.found])] if case.found != NOTHING else None
    if case.is_missed:
        iou = float(_iou_with(pair, case.truth)[case.found]) if as_ else 0.0
        near = f"nearest is {name(as_)}, IoU {number(iou, 2)}" if as_ else "nothing near it"
        return f'<b>{name(is_)}</b> {where}<span class="soft near">{near}</span>', f"{is_}, which was missed"
    title = f"<b>{name(as_)}</b>"
    if is_ != as_:
        title += f" on {name(is_)}" if is_ else " on nothing"
    values = _values(found, case)
    shown = "".join(f"<span>{label}{number(value, 2)}</span>" for label, value in values.items())
    told = ", ".join(f"{label} {value:.2f}" for label, value in values.items())
    return f'{title} {where}<span class="values">{shown}</span>', f"{as_}: {told}"


def _values(found: Findings, case: Case) -> dict[str, float]:
    pair = found.comparison.pairs[case.picture]
    start = int(np.searchsorted(found.detections.picture, case.picture))
    f = pair.found
    values = {"score": float(f.scores[case.found])}
    if found.has_quality:
        values |= {"quality": float(f.quality[case.found]), "mask score": float(f.mask_scores[case.found])}
    return values | {"true IoU": float(found.detections.true_iou[start + case.found])}


def _view(pair: Pair, case: Case) -> View:
    """A square around both masks with room to see where it is, inside the picture."""
    boxes = [mask_boxes([mask])[0] for mask in _case_masks(pair, case) if mask is not None]
    x0, y0 = np.min([box[:2] for box in boxes], axis=0)
    x1, y1 = np.max([box[2:] for box in boxes], axis=0)
    height, width = pair.truth.size
    side = max(SMALLEST, math.ceil(ROOM * max(x1 - x0, y1 - y0)))
    w, h = min(side, width), min(side, height)
    left = min(max(round((x0 + x1 - w) / 2), 0), width - w)
    top = min(max(round((y0 + y1 - h) / 2), 0), height - h)
    return View(left, top, w, h)


def _case_masks(pair: Pair, case: Case) -> tuple[RLE | None, RLE | None]:
    truth, found = present(pair.truth.masks, "ground truth"), present(pair.found.masks, "prediction")
    return (
        truth[case.truth] if case.truth != NOTHING else None,
        found[case.found] if case.found != NOTHING else None,
    )


def _cut_out(pair: Pair, view: View, pixels: Pixels | None) -> tuple[str, str]:
    """A data URL, or none and the reason."""
    if pixels is None:
        return "", ""
    try:
        picture = pixels(pair.image)
    except (ValueError, OSError) as error:
        return "", str(error)
    if picture.shape[:2] != tuple(pair.truth.size):
        (h, w), (th, tw) = picture.shape[:2], pair.truth.size
        return "", f"the picture is {w} x {h}, its masks are for {tw} x {th}"
    part = Image.fromarray(picture[view.y0 : view.y0 + view.height, view.x0 : view.x0 + view.width])
    if max(part.size) > SIDE:
        part.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    part.save(file, "JPEG", quality=QUALITY, subsampling=0, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode("ascii"), ""


def _triple(found: Findings, case: Case, view: View, image: str, key: str, description: str) -> str:
    """Three panes in one drawing; the second and third use the picture of the first."""
    pair = found.comparison.pairs[case.picture]
    true_mask, found_mask = _case_masks(pair, case)
    truths = present(pair.truth.masks, "ground truth")
    others = [truths[i] for i in _in_view(pair, view) if i != case.truth]
    outline = _path(true_mask, view)
    picture = f'<use href="#{key}"/>' if image else ""
    size = f'x="{view.x0}" y="{view.y0}" width="{view.width}" height="{view.height}"'
    first = f'<image id="{key}" {size} preserveAspectRatio="none" href="{image}"/>'
    neighbours = "".join(f'<path class="neighbour" d="{_path(mask, view)}"/>' for mask in others)
    panes = [first] if image else []
    panes.append(picture + neighbours + _drawn("true", outline))
    reference = f'<path class="reference" d="{outline}"/>' if outline else ""
    panes.append(picture + _drawn("found", _path(found_mask, view), below=reference))
    shown = "".join(_pane(i, pane, view) for i, pane in enumerate(panes))
    width = len(panes) * (PANE + GAP) - GAP
    look = "" if image else ' class="plain"'
    label = f'role="img" aria-label="{escape(description)}"'
    return f'<svg viewBox="0 0 {width} {PANE}"{look} {label}>{shown}</svg>'


def _pane(i: int, content: str, view: View) -> str:
    """A window on the picture, in the picture's own coordinates."""
    at = f'x="{i * (PANE + GAP)}" width="{PANE}" height="{PANE}"'
    box = f'viewBox="{view.x0} {view.y0} {view.width} {view.height}"'
    return f'<rect class="pane" {at}/><svg {at} {box}>{content}</svg>'


def _drawn(look: str, path: str, *, below: str = "") -> str:
    """A dark line under a bright one is seen on any picture; `below` comes between them."""
    under, over = (f'<path class="{style}" d="{path}"/>' if path else "" for style in ("under", look))
    return under + below + over


def _in_view(pair: Pair, view: View) -> list[int]:
    """Objects of which something may be seen, in the order of the file."""
    frame = np.array([[view.x0, view.y0, view.x0 + view.width, view.y0 + view.height]], float)
    boxes = mask_boxes(present(pair.truth.masks, "ground truth"))
    return np.flatnonzero(box_iou(frame, boxes)[0] > 0)[:MOST_NEIGHBOURS].tolist() if len(boxes) else []


def _path(mask: RLE | None, view: View) -> str:
    """Outline of what is seen of a mask, in pixels of the picture; of large ones every second, third ... pixel."""
    if mask is None:
        return ""
    window = rle.decode(mask)
    x0, y0 = max(window.x0, view.x0), max(window.y0, view.y0)
    x1 = min(window.x0 + window.bits.shape[1], view.x0 + view.width)
    y1 = min(window.y0 + window.bits.shape[0], view.y0 + view.height)
    if x1 <= x0 or y1 <= y0:
        return ""
    step = max(1, max(view.width, view.height) // (2 * SIDE))
    seen = window.bits[y0 - window.y0 : y1 - window.y0 : step, x0 - window.x0 : x1 - window.x0 : step]
    rings = [ring for part in outlines.trace(seen) for ring in (part.outer, *part.holes)]
    return "".join(_ring(ring * step + (x0, y0)) for ring in rings)


def _ring(corners: np.ndarray) -> str:
    """Relative moves are short."""
    whole = corners.round().astype(np.int64)
    moves = " ".join(f"{x} {y}" for x, y in np.diff(whole, axis=0).tolist())
    return f"M{whole[0, 0]} {whole[0, 1]}l{moves}z"

"""The page of a review: each doubtful mask cut out with its surroundings, its outline sharp at every size."""

import base64
from collections.abc import Callable, Iterable, Sequence
from html import escape
from importlib import resources
from io import BytesIO
from string import Template
from typing import NamedTuple

import numpy as np
from PIL import Image

from maskwise.masks import Masks
from maskwise.predict import Result
from maskwise.predictions.pictures import Picture
from maskwise.review.ranking import BAD, LOOKED_AT, Catch, Doubt, Truth
from maskwise.structures import Targets
from maskwise.version import __version__

SIDE = 224
"""Pixels of a cut-out in the page."""
ROOM = 1.7
"""Side of what is shown, in sides of the object."""
SMALLEST = 40
NEIGHBOURS = 40
"""Outlines of other masks that are drawn."""
FAIR = 0.85
BINS = 20

_RANKINGS = {
    "mask_scores": "score × predicted quality",
    "quality": "predicted quality",
    "scores": "score of the class alone",
}


class Frame(NamedTuple):
    """The part of a picture that is shown."""

    x0: int
    y0: int
    x1: int
    y1: int


def render(
    title: str,
    doubts: Sequence[Doubt],
    results: Callable[[], Iterable[Result]],
    *,
    truth: Truth | None = None,
    caught: Catch | None = None,
    most: int = 200,
) -> str:
    """The whole page. Of the results only the pictures of the masks that are shown are read, one after another."""
    shown = doubts[:most]
    template = Template(resources.files("maskwise.review").joinpath("page.html").read_text("utf-8"))
    return template.substitute(
        title=escape(title),
        version=escape(__version__),
        lead=_lead(len(doubts), len(shown)),
        tiles=_tiles(doubts),
        catch=_catch(caught),
        histogram=_histogram([doubt.quality for doubt in doubts]),
        cards=_cards(shown, results, truth),
    )


def _lead(total: int, shown: int) -> str:
    which = "All masks" if shown == total else f"The <b>{shown:,}</b> worst of <b>{total:,}</b> masks"
    return f"{which}, ordered by the quality (IoU with the object) that the model itself predicts: worst first."


def _tiles(doubts: Sequence[Doubt]) -> str:
    quality = sorted(doubt.quality for doubt in doubts)
    median = f"{quality[len(quality) // 2]:.2f}" if quality else "–"
    low = sum(value < BAD for value in quality)
    facts = [
        ("", "pictures with masks", f"{len({doubt.picture for doubt in doubts}):,}"),
        ("", "masks", f"{len(doubts):,}"),
        ("", "median quality", median),
        ("bad", f"below {BAD:g}", f"{low:,}"),
    ]
    return "".join(f'<div class="{look}"><dt>{name}</dt><dd>{value}</dd></div>' for look, name, value in facts)


def _catch(caught: Catch | None) -> str:
    if caught is None:
        return ""
    rows = "".join(
        f"<tr{' class=own' if name == 'mask_scores' else ''}><th>{words}</th>"
        f"<td>{caught.found[name]} of {caught.bad}</td></tr>"
        for name, words in _RANKINGS.items()
    )
    head = (
        f"Of the {caught.bad:,} masks with a true IoU below {BAD:g}, "
        f"how many are among the worst {LOOKED_AT:.0%} ({caught.looked_at:,} masks), ranked by"
    )
    return f'<table class="catch"><caption>{head}</caption>{rows}</table>'


def _histogram(quality: Sequence[float]) -> str:
    counts = np.histogram(np.clip(quality, 0, 1), BINS, (0, 1))[0].tolist()
    bars = "".join(_bar(i, count, max(1, *counts)) for i, count in enumerate(counts))
    places = {0: "start", 5: "end"}
    ticks = (f'<text x="{96 * t}" y="104" text-anchor="{places.get(t, "middle")}">{t / 5:g}</text>' for t in range(6))
    label = 'role="img" aria-label="histogram of predicted quality"'
    chart = f'<svg class="histogram" viewBox="0 0 480 108" {label}>{bars}{"".join(ticks)}</svg>'
    return f"<figure><figcaption>masks by predicted quality</figcaption>{chart}</figure>"


def _bar(i: int, count: int, most: int) -> str:
    low, high, width, length = i / BINS, (i + 1) / BINS, 480 / BINS, 84 * count / most
    look = ' class="bad"' if high <= BAD + 1e-9 else ""
    place = f'x="{i * width + 1:g}" y="{90 - length:.1f}" width="{width - 2:g}" height="{length:.1f}"'
    return f"<rect{look} {place} rx='1.5'><title>{low:.2f} to {high:.2f}: {count}</title></rect>"


# Cards


def _cards(shown: Sequence[Doubt], results: Callable[[], Iterable[Result]], truth: Truth | None) -> str:
    if not shown:
        return '<p class="nothing">Nothing was found in these pictures, so there is nothing to look at.</p>'
    wanted: dict[int, list[int]] = {}
    for rank, doubt in enumerate(shown):
        wanted.setdefault(doubt.picture, []).append(rank)
    cards = [""] * len(shown)
    for i, result in enumerate(results()):
        if i not in wanted:
            continue
        pixels = _pixels(result)
        targets = None if truth is None or shown[wanted[i][0]].true_iou is None else truth.targets(result)
        for rank in wanted[i]:
            cards[rank] = _card(rank + 1, shown[rank], result, pixels, targets)
    looks = {"": "the mask", "k-other": "other masks"} | ({"k-true": "truth"} if truth is not None else {})
    key = "".join(f'<span><i class="{look}"></i>{words}</span>' for look, words in looks.items())
    key += "<span>bar and number: predicted quality</span><span>point at a picture to see it without outlines</span>"
    return f'<p class="key">{key}</p><ol>{"".join(cards)}</ol>'


def _pixels(result: Result) -> Picture | None:
    """None where the picture is no longer there: its masks are shown without."""
    try:
        return result.pixels if result.path is not None or result.given is not None else None
    except ValueError:
        return None


def _card(rank: int, doubt: Doubt, result: Result, pixels: Picture | None, targets: Targets | None) -> str:
    look = "bad" if doubt.quality < BAD else "fair" if doubt.quality < FAIR else ""
    name, category = escape(doubt.name), escape(doubt.category)
    iou = "" if doubt.true_iou is None else f" · true {doubt.true_iou:.2f}"
    about = f"{doubt.name}: {doubt.category}, predicted quality {doubt.quality:.2f}, score {doubt.score:.2f}"
    return (
        f'<li class="{look}"><span class="shot" tabindex="0" role="img" aria-label="{escape(about)}">'
        f'{_shot(doubt, result, pixels, targets)}<span class="rank">{rank}</span></span>'
        f'<div class="meter"><i style="width:{100 * min(1, max(0, doubt.quality)):.0f}%"></i></div>'
        f'<div class="line"><b>{category}</b><span>{doubt.quality:.2f}{iou}</span></div>'
        f'<div class="small">score {doubt.score:.2f} · {doubt.area:,} px · at {doubt.box[0]}, {doubt.box[1]}</div>'
        f'<div class="small" title="{name}">{name}</div></li>'
    )


def _shot(doubt: Doubt, result: Result, pixels: Picture | None, targets: Targets | None) -> str:
    frame = _frame(doubt.box, result.size)
    side = max(frame.x1 - frame.x0, frame.y1 - frame.y0)
    masks = result.instances.masks
    others = [i for i in _inside(masks, frame) if i != doubt.instance][:NEIGHBOURS]
    own, rest = _path(masks[[doubt.instance]], frame), _path(masks[others], frame)
    true = "" if targets is None else _path(targets.masks[_inside(targets.masks, frame)[:NEIGHBOURS]], frame)
    paths = [("other", rest), ("true", true), ("halo", own), ("found", own)]
    drawn = "".join(f'<path class="{look}" d="{path}"/>' for look, path in paths if path)
    picture = "" if pixels is None else f'<img alt="" loading="lazy" src="{_jpeg(pixels, frame)}">'
    return f'{picture}<svg viewBox="0 0 {side} {side}" aria-hidden="true">{drawn}</svg>'


def _frame(box: tuple[int, int, int, int], size: tuple[int, int]) -> Frame:
    """A square around the object, moved into the picture where that has room for it."""
    x0, y0, x1, y1 = box
    side = max(SMALLEST, round(ROOM * max(x1 - x0, y1 - y0)))
    height, width = size
    left = max(0, min(round((x0 + x1 - side) / 2), width - side))
    top = max(0, min(round((y0 + y1 - side) / 2), height - side))
    return Frame(left, top, left + side, top + side)


def _inside(masks: Masks, frame: Frame) -> list[int]:
    x0, y0, x1, y1 = masks.windows.numpy().T
    return np.flatnonzero((x0 < frame.x1) & (x1 > frame.x0) & (y0 < frame.y1) & (y1 > frame.y0)).tolist()


def _path(masks: Masks, frame: Frame) -> str:
    """Outlines of all, in the coordinates of the frame; what leaves it is hidden by the picture's edge."""
    fine = max(0.0, (frame.x1 - frame.x0) / (2 * SIDE))
    rings = [
        ring
        for polygons in masks.outlines(tolerance=fine)
        for polygon in polygons
        for ring in (polygon.outer, *polygon.holes)
    ]
    corner = np.array([frame.x0, frame.y0])
    return "".join(f"M{' '.join(f'{x:g},{y:g}' for x, y in (ring - corner).round(1).tolist())}Z" for ring in rings)


def _jpeg(pixels: Picture, frame: Frame) -> str:
    """On grey where the picture is smaller than the frame."""
    side = frame.x1 - frame.x0
    square = np.full((side, side, 3), 128, np.uint8)
    cut = pixels[frame.y0 : frame.y1, frame.x0 : frame.x1]
    square[: cut.shape[0], : cut.shape[1]] = cut
    smooth = Image.Resampling.LANCZOS if side > SIDE else Image.Resampling.BICUBIC
    data = BytesIO()
    Image.fromarray(square).resize((SIDE, SIDE), smooth).save(data, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(data.getvalue()).decode()}"

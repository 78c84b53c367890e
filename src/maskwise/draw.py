"""Draw what was found, or the truth, over a picture; and many pictures on one sheet.

Every mask is drawn in its own window and every label as its own small tile: memory follows the picture once, whatever
the number of instances.
"""

from collections.abc import Sequence
from functools import lru_cache
from math import ceil, sqrt
from typing import Literal, NamedTuple, TypeAlias, get_args

import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image, ImageDraw, ImageFont

from maskwise.categories import Categories
from maskwise.masks import Masks
from maskwise.rle import Window
from maskwise.structures import Instances, Targets

Picture = UInt8[np.ndarray, "h w 3"]
Resized = UInt8[np.ndarray, "h2 w2 3"]
Colour = tuple[int, int, int]
Colours: TypeAlias = Literal["instance", "class", "part", "quality"]
"""What a colour stands for."""

QUALITY = ((213, 45, 30), (245, 200, 60), (30, 120, 200))
"""Of bad masks, of middling and of good ones."""
PALETTE: tuple[Colour, ...] = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (204, 121, 167),
)
"""Of Okabe and Ito: told apart by people with any kind of colour blindness."""

WHITE, BLACK, PAPER = (255, 255, 255), (0, 0, 0), (247, 247, 244)
FAR = 1e6
"""Pixels; files may place keypoints further out than the numbers of a drawing reach."""
HATCH = 0.35  # of a stripe of a crowd's hatching, added to the opacity
ELLIPSIS = "…"


def colour(number: int) -> Colour:
    """The palette, then the same lighter, then darker; after 21 it starts again."""
    plain = PALETTE[number % len(PALETTE)]
    match number // len(PALETTE) % 3:
        case 0:
            return plain
        case 1:
            r, g, b = (c + (255 - c) * 5 // 9 for c in plain)
        case _:
            r, g, b = (c * 5 // 9 for c in plain)
    return r, g, b


def overlay(
    pixels: Picture,
    found: Targets | Instances,
    categories: Categories,
    *,
    colours: Colours = "instance",
    fill: float = 0.4,
    contour: bool = True,
    labels: bool = True,
    keypoints: bool = True,
    zoom: int = 1,
) -> Resized:
    """The picture with masks laid over it, the best or smallest on top.

    `fill` is how opaque masks are; 0 leaves their contours alone. Crowds are hatched. A label says the class, then of
    what was found its score and, where a method predicts it, the quality; it is left out where no place is free.
    An object keeps its colour in all frames of a clip. `part` colours and draws the parts of objects instead of the
    objects; `quality` goes from red, an IoU of .5, over yellow to blue. `zoom` enlarges the result, so that labels fit
    on small pictures.
    """
    if pixels.shape[:2] != tuple(found.masks.size):
        raise ValueError(f"masks for a picture of {found.masks.size}, this one is {pixels.shape[:2]}")
    if colours not in (known := get_args(Colours)):
        raise ValueError(f"colours: expected one of {', '.join(known)}, got {colours!r}")
    canvas = _enlarged(pixels, zoom)
    size = (canvas.shape[0], canvas.shape[1])
    layer = _layer(found, colours)
    masks = layer.masks if zoom == 1 else layer.masks.resize(size)
    wide = max(1, round(min(size) / 250))
    edges = masks.boundary(wide).crops() if contour else []
    crops = masks.crops()
    for i in layer.order:
        _fill(canvas, crops[i], layer.tones[i], fill, hatched=layer.crowd[i])
        if contour:
            _blend(canvas, edges[i], layer.tones[i], 1.0)
    if keypoints and found.keypoints is not None:
        _draw_skeletons(canvas, found.keypoints.cpu().numpy() * (zoom, zoom, 1), categories, wide)
    if labels:
        tones = (_layer(found, "instance") if colours == "part" else layer).tones
        _draw_labels(canvas, found, categories, tones, zoom)
    return canvas


def contact_sheet(
    pictures: Sequence[UInt8[np.ndarray, "_ _ 3"]],
    captions: Sequence[str] | None = None,
    *,
    columns: int | None = None,
    cell: int = 256,
    gap: int = 12,
) -> Picture:
    """Pictures of any size side by side, each made to fit a square cell and its caption below it."""
    if not pictures:
        raise ValueError("a contact sheet needs at least one picture")
    if captions is not None and len(captions) != len(pictures):
        raise ValueError(f"{len(pictures)} pictures but {len(captions)} captions")
    columns = min(columns or ceil(sqrt(len(pictures))), len(pictures))
    points = max(11, cell // 18)
    line = 0 if captions is None else round(points * 1.7)
    rows = -(-len(pictures) // columns)
    sheet = np.empty((gap + rows * (cell + line + gap), gap + columns * (cell + gap), 3), np.uint8)
    sheet[:] = PAPER
    for i, picture in enumerate(pictures):
        x, y = gap + i % columns * (cell + gap), gap + i // columns * (cell + line + gap)
        shown = _fitted(picture, cell)
        h, w = shown.shape[:2]
        sheet[y + (cell - h) // 2 :, x + (cell - w) // 2 :][:h, :w] = shown
        if captions is not None:
            text = _text(_shortened(captions[i], points, cell), points)
            middle = y + cell + (line - text.shape[0]) // 2
            _blend(sheet, _Stamp(x + (cell - text.shape[1]) // 2, middle, text), (60, 60, 60), 1.0)
    return sheet


# --- masks


class _Layer(NamedTuple):
    """Masks to be drawn, with their colours, and in which order."""

    masks: Masks
    tones: list[Colour]
    crowd: list[bool]
    order: list[int]


def _layer(found: Targets | Instances, colours: str) -> _Layer:
    if colours == "part":
        if isinstance(found, Instances) or found.parts is None:
            raise ValueError("there are no parts to draw")
        parts = found.parts
        tones = [colour(label) for label in parts.labels.tolist()]
        return _Layer(parts.masks, tones, [False] * len(tones), list(range(len(tones))))
    if colours == "quality":
        if isinstance(found, Targets):
            raise ValueError("the truth has no quality to draw")
        tones = [_of_quality(value) for value in found.quality.tolist()]
        return _Layer(found.masks, tones, [False] * len(tones), found.mask_scores.argsort(stable=True).tolist())
    keys = found.labels if colours == "class" else found.tracks
    numbers = list(range(len(found))) if keys is None else keys.tolist()
    if isinstance(found, Instances):
        crowd, rank = [False] * len(found), found.mask_scores
    else:
        crowd, rank = found.crowd.tolist(), -found.masks.area()
    return _Layer(found.masks, [colour(n) for n in numbers], crowd, rank.argsort(stable=True).tolist())


def _of_quality(value: float) -> Colour:
    """Colours that the colour-blind tell apart, too."""
    place = min(max(2 * value - 1, 0.0), 1.0) * (len(QUALITY) - 1)
    first = min(int(place), len(QUALITY) - 2)
    share = place - first
    r, g, b = (round(low + share * (high - low)) for low, high in zip(QUALITY[first], QUALITY[first + 1], strict=True))
    return r, g, b


def _fill(canvas: Picture, window: Window, tone: Colour, opacity: float, *, hatched: bool) -> None:
    if opacity:
        _blend(canvas, window, tone, opacity)
    if hatched:
        h, w = window.bits.shape
        period = max(6, round(min(canvas.shape[:2]) / 50))
        stripes = (np.arange(h)[:, None] + window.y0 + np.arange(w) + window.x0) % period < period // 3
        _blend(canvas, window._replace(bits=window.bits & stripes), tone, min(1.0, opacity + HATCH))


class _Stamp(NamedTuple):
    """A window of opacities instead of bits; it may stick out of the picture."""

    x0: int
    y0: int
    bits: Float32[np.ndarray, "h w"]


def _blend(canvas: Picture, stamp: Window | _Stamp, tone: Colour, opacity: float) -> None:
    """Lay a colour over the pixels of a window."""
    top, left = max(-stamp.y0, 0), max(-stamp.x0, 0)
    place = canvas[max(stamp.y0, 0) :, max(stamp.x0, 0) :][: stamp.bits.shape[0] - top, : stamp.bits.shape[1] - left]
    share = stamp.bits[top:, left:][: place.shape[0], : place.shape[1]]
    for channel, value in enumerate(tone):
        plane = place[..., channel]
        mixed = plane + (np.float32(value) - plane) * (share * np.float32(opacity))
        np.copyto(plane, mixed + np.float32(0.5), casting="unsafe")


def _enlarged(pixels: Picture, zoom: int) -> Resized:
    if zoom < 1:
        raise ValueError(f"zoom must be at least 1, got {zoom}")
    if zoom == 1:
        return pixels.copy()
    h, w = pixels.shape[:2]
    return np.array(Image.fromarray(pixels).resize((w * zoom, h * zoom), Image.Resampling.BICUBIC))


def _fitted(picture: Picture, cell: int) -> Resized:
    h, w = picture.shape[:2]
    by = cell / max(h, w)
    size = max(1, round(w * by)), max(1, round(h * by))
    how = Image.Resampling.LANCZOS if by < 1 else Image.Resampling.BICUBIC
    return np.asarray(Image.fromarray(picture).resize(size, how)) if by != 1 else picture


# --- keypoints


def _draw_skeletons(canvas: Picture, points: np.ndarray, categories: Categories, wide: int) -> None:
    """White lines between the labelled keypoints, and a dot on each: coloured where seen, white where hidden."""
    fine = 4  # drawn so much larger, for smooth edges
    for k, person in enumerate(points):
        there = (person[:, 2] > 0) & ~np.isnan(person).any(1)
        if not there.any():
            continue
        pad = 3 * wide + 2
        x0, y0 = np.maximum(np.floor(person[there, :2].min(0)), 0) - pad
        x1, y1 = np.minimum(np.ceil(person[there, :2].max(0)), canvas.shape[1::-1]) + pad
        if x0 >= x1 or y0 >= y1:  # nobody of whom the picture shows anything
            continue
        at = [tuple(p) for p in (person[:, :2].clip(-FAR, FAR) - (x0, y0)) * fine]
        size = (int(x1 - x0) * fine, int(y1 - y0) * fine)
        white, inner = Image.new("L", size), Image.new("L", size)
        for a, b in categories.skeleton:
            if there[a] and there[b]:
                ImageDraw.Draw(white).line([at[a], at[b]], 170, round(1.2 * wide * fine))
        for i in np.flatnonzero(there):
            ImageDraw.Draw(white).circle(at[i], 2 * wide * fine, 255)
            if person[i, 2] != 1:  # of the truth 1 means hidden; predictions have a score here
                ImageDraw.Draw(inner).circle(at[i], 1.4 * wide * fine, 255)
        for tile, tone in ((white, WHITE), (inner, colour(k))):
            small = np.asarray(tile.reduce(fine)).astype(np.float32) / 255
            _blend(canvas, _Stamp(int(x0), int(y0), small), tone, 1.0)


# --- labels


def _draw_labels(
    canvas: Picture, found: Targets | Instances, categories: Categories, tones: list[Colour], zoom: int
) -> None:
    """The best or largest first, each where it hides no other label."""
    points = min(max(11, round(min(canvas.shape[:2]) / 32)), 40)
    boxes = (found.boxes * zoom).round().int().tolist()
    order = range(len(found)) if isinstance(found, Instances) else found.masks.area().argsort(descending=True).tolist()
    used = np.zeros((len(found), 4), np.int64)
    for count, i in enumerate(order):
        text = _text(f" {_words(found, i, categories)} ", points)
        h, w = text.shape
        if (place := _free(boxes[i], (w, h), canvas.shape, used[:count])) is None:
            continue
        used[count] = (*place, place[0] + w, place[1] + h)
        tone = tones[i]
        _blend(canvas, _Stamp(*place, np.ones((h, w), np.float32)), tone, 0.85)
        bright = 0.299 * tone[0] + 0.587 * tone[1] + 0.114 * tone[2] > 125
        _blend(canvas, _Stamp(*place, text), BLACK if bright else WHITE, 1.0)


def _words(found: Targets | Instances, i: int, categories: Categories) -> str:
    name = categories.name(int(found.labels[i]))
    if isinstance(found, Instances):
        quality = float(found.quality[i])
        return f"{name} {float(found.scores[i]):.2f}" + (f" q{quality:.2f}" if quality != 1 else "")
    return f"{name} (crowd)" if found.crowd[i] else name


def _free(box: list[int], size: tuple[int, int], picture: tuple[int, ...], used: np.ndarray) -> tuple[int, int] | None:
    """Corner for a label above a box, inside it, or below it."""
    (x0, y0, x1, y1), (w, h) = box, size
    for x, y in ((x0, y0 - h), (x0, y0), (x0, y1), (x1 - w, y1 - h), ((x0 + x1 - w) // 2, (y0 + y1 - h) // 2)):
        x, y = max(min(x, picture[1] - w), 0), max(min(y, picture[0] - h), 0)
        apart = (x >= used[:, 2]) | (x + w <= used[:, 0]) | (y >= used[:, 3]) | (y + h <= used[:, 1])
        if apart.all():
            return x, y
    return None


@lru_cache(maxsize=16)
def _font(points: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(points)


def _text(words: str, points: int) -> Float32[np.ndarray, "h w"]:
    """How much of each pixel is ink."""
    font = _font(points)
    width, height = ceil(font.getlength(words)), round(points * 1.3)
    tile = Image.new("L", (max(width, 1), height))
    ImageDraw.Draw(tile).text((0, round(points * 0.05)), words, fill=255, font=font)
    return np.asarray(tile).astype(np.float32) / 255


def _shortened(words: str, points: int, width: int) -> str:
    """Cut, and marked as cut, to what fits."""
    font = _font(points)
    if font.getlength(words) <= width:
        return words
    while words and font.getlength(words + ELLIPSIS) > width:
        words = words[:-1]
    return words + ELLIPSIS

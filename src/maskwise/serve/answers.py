"""What was found in a picture, in the form that was asked for. Nothing is written to disk.

Pictures have no names here: in a table the first is `1`, in LabelMe's JSON `imagePath` is `picture.png`.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from jaxtyping import Integer, UInt8
from PIL import Image

from maskwise import draw
from maskwise.categories import Categories
from maskwise.data.dataset import Item
from maskwise.data.formats import json_file, labelme, measurements
from maskwise.data.formats.painting import paint
from maskwise.serve.batching import Picture
from maskwise.serve.failure import Failure
from maskwise.serve.schema import Format, Options
from maskwise.structures import Instances

KINDS: dict[Format, tuple[str, str]] = {
    "rle": ("application/json", ""),
    "polygons": ("application/json", ""),
    "overlay": ("image/png", "overlay.png"),
    "labelme": ("application/json", "picture.json"),
    "csv": ("text/csv; charset=utf-8", "measurements.csv"),
    "label_map": ("image/png", "label_map.png"),
}
"""Media type of each format, and a name to save it under where it is a file."""

SEVERAL: tuple[Format, ...] = ("rle", "polygons", "csv")
"""Formats that hold more than one picture."""
MOST_IDS = 65_535


class Answer(NamedTuple):
    body: bytes
    media_type: str
    file_name: str
    limit_reached: int | None = None
    """As in `schema.Picture`, for formats that cannot say it."""


def part(
    index: int,
    picture: Picture,
    found: Instances,
    options: Options,
    categories: Categories,
    *,
    notes: Mapping[str, int | None] = MappingProxyType({}),
) -> bytes:
    """The answer about one picture, or its share of it. `notes`: fields of `schema.Picture` that JSON has besides."""
    kept = found[(found.scores >= options.min_score) & (found.quality >= options.min_quality)]
    match options.format:
        case "rle" | "polygons":
            noted = {name: value for name, value in notes.items() if value is not None}
            return _json(_described(index, kept, categories, options.format) | noted)
        case "overlay":
            return png(draw.overlay(picture, kept, categories))
        case "label_map":
            return _label_map(kept)
        case "labelme":
            return _json(labelme.sheet(_item("picture.png", kept), categories)[0])
        case "csv":
            return _lines(measurements.measure(_item(str(index + 1), kept), categories, options.scale))


def whole(parts: Sequence[bytes | Failure], options: Options, *, model: str, request_id: str) -> Answer:
    """The parts in one; those that failed have their place in JSON only. All failed: the first failure is raised."""
    failures = [part for part in parts if isinstance(part, Failure)]
    if failures and (options.format not in ("rle", "polygons") or len(failures) == len(parts)):
        raise failures[0]
    media_type, name = KINDS[options.format]
    done = [_failed(i, part) if isinstance(part, Failure) else part for i, part in enumerate(parts)]
    match options.format:
        case "rle" | "polygons":
            head = _json({"model": model, "request_id": request_id})
            body = head[:-1] + b',"pictures":[' + b",".join(done) + b"]}"
        case "csv":
            body = _lines([measurements.header(options.scale)]) + b"".join(done)
        case _:
            [body] = done
    return Answer(body, media_type, name)


def png(pixels: UInt8[np.ndarray, "_ _ 3"] | Integer[np.ndarray, "_ _"]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(file, "PNG", compress_level=1)
    return file.getvalue()


def _described(index: int, found: Instances, categories: Categories, format: Format) -> dict[str, object]:
    masks = found.masks.rle() if format == "rle" else [_polygons(parts) for parts in found.masks.outlines()]
    columns = (found.labels, found.scores, found.quality, found.mask_scores, found.boxes, found.masks.area())
    rows = zip(*(column.tolist() for column in columns), masks, strict=True)
    height, width = found.masks.size
    return {
        "index": index,
        "width": width,
        "height": height,
        "instances": [
            {
                "class": categories.name(label),
                "label": label,
                "score": score,
                "quality": quality,
                "mask_score": mask_score,
                "box": box,
                "area": area,
                "mask": mask,
            }
            for label, score, quality, mask_score, box, area, mask in rows
        ],
    }


def _polygons(parts: Sequence) -> list[dict[str, object]]:
    return [{"outer": p.outer.ravel().tolist(), "holes": [hole.ravel().tolist() for hole in p.holes]} for p in parts]


def _failed(index: int, failure: Failure) -> bytes:
    return _json({"index": index, "error": failure.error()})


def _label_map(found: Instances) -> bytes:
    if len(found) > MOST_IDS:
        raise Failure(422, "too_many_instances", f"{len(found):,} instances; a label map holds {MOST_IDS:,}")
    ids, _ = paint(found, list(range(1, len(found) + 1)))
    return png(ids.astype(np.uint16))


def _item(name: str, found: Instances) -> Item:
    height, width = found.masks.size
    return Item(name=name, size=(height, width), labelled=found)


def _lines(rows) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode("utf-8", "backslashreplace")


def _json(value: object) -> bytes:
    return json_file.text(value, separators=(",", ":")).encode()

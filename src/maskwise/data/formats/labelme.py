"""LabelMe: a JSON beside each picture, with polygons, rectangles, circles and bitmaps.

Shapes of one label with the same `group_id` are parts of one object. Written are exact polygons, and a `mask` shape (a
bitmap of the whole object) where there are holes, which polygons there cannot have: nothing is lost. Scores ride in
`description` as 'score=0.9 quality=0.8 mask_score=0.72', because the program shows `flags` as boxes to tick; crowds
have the flag 'crowd'. Not held: ids, keypoints, category ids.

Classes are those of `labels.txt` where the root has one, else the labels that were met, sorted.
"""

import base64
import io
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool
from PIL import Image

from maskwise import outlines
from maskwise.categories import Categories
from maskwise.data.dataset import DataSet, Item, Labelled, Problem, Record, Written
from maskwise.data.files import absolute, exists, replacing
from maskwise.data.formats import json_file
from maskwise.data.formats.coco_index import MOST_PIXELS, Problems
from maskwise.data.formats.folders import SPLITS, far_beyond, is_path, one_split, relative
from maskwise.data.formats.painting import renumbered, unheld
from maskwise.data.formats.pictures import TOO_LONG, claim, fits, inner_name, put_picture
from maskwise.data.formats.rings import FARTHEST, Complain, finite_numbers, usable
from maskwise.data.formats.sidecars import scores_of
from maskwise.data.images import IMAGE_SUFFIXES, image_size, read_label_map
from maskwise.masks import Masks
from maskwise.outlines import Polygon
from maskwise.rle import Size, Window
from maskwise.structures import Instances, Targets

VERSION = "5.5.0"
"""Of LabelMe: the first one with bitmaps is 5.3."""
LABELS_FILE = "labels.txt"
_NO_CLASSES = ("__ignore__", "_background_")
_SCORE = re.compile(r"\b(score|quality|mask_score)=([-+.\deE]+)")


class Shape(NamedTuple):
    """One shape; what is `object` is as the file has it."""

    number: int
    label: str
    group: int | str | None
    kind: str
    points: object
    bitmap: object
    is_crowd: bool
    scores: tuple[float, float, float] | None
    """score, quality, mask score"""


class Sheet(NamedTuple):
    """What one file says."""

    path: Path
    file: str
    """As problems name it."""
    picture: str
    size: Size | None
    shapes: tuple[Shape, ...]


def detect(root: Path) -> str | None:
    paths = [root] if root.is_file() else _json_files(root)
    found = next((path for path in paths if "shapes" in json_file.first_keys(path)), None)
    return None if found is None else f"{found.name} has shapes"


def splits(root: Path) -> tuple[str, ...]:
    """Folders called train, val2017 ... where no annotations lie outside of them."""
    inner = {_top(root, path) for path in _json_files(root)}
    return tuple(sorted(inner)) if inner and all(name.startswith(SPLITS) for name in inner) else ("",)


def read(root: Path, *, split: str | None = None) -> DataSet:
    """All splits are looked through, so that a label means the same in each."""
    split = one_split(root, splits(root), split)
    base = root.parent if root.is_file() else root
    problems, labels = Problems(""), set()
    sheets: list[Sheet] = []
    for path in [root] if root.is_file() else _json_files(root):
        found = Problems(relative(base, path))
        sheet = _sheet(path, found)
        labels |= {shape.label for shape in sheet.shapes} if sheet else set()
        if not split or _top(root, path) == split:
            problems.found.extend(found.found)
            sheets += [sheet] if sheet else []
    categories = _categories(base, labels)
    records = _records(base, sheets, categories, problems)
    return DataSet("labelme", base, split, categories, records, tuple(problems.found))


def write(root: Path, categories: Categories, items: Iterable[Item], *, split: str = "train") -> Written:
    """`<split>/<name>.json` beside the pictures; with split '' in the root itself."""
    losses: Counter[str] = Counter()
    if categories.ids != tuple(range(1, len(categories) + 1)):
        losses["category ids"] = len(categories)
    files, taken = [_write_labels(root, categories)], {}
    for item in items:
        name = inner_name(item.name, split)
        key = claim(taken, name.with_suffix("").as_posix(), item)
        if not fits(root, item.name, name, f"{key}.json"):
            losses[TOO_LONG] += 1
            continue
        files += put_picture(item, root / split / name)
        content, lost = sheet(item, categories)
        losses += lost
        files.append(json_file.save(root / split / f"{key}.json", content | {"imagePath": name.name}))
    return Written(tuple(files), +losses)


def sheet(item: Item, categories: Categories) -> tuple[dict[str, object], Counter[str]]:
    """What the file of one picture holds, and what it could not."""
    shapes, losses = _written_shapes(item, categories)
    content: dict[str, object] = {
        "version": VERSION,
        "flags": {},
        "shapes": shapes,
        "imagePath": PurePosixPath(item.name).name,
        "imageData": None,
        "imageHeight": item.size[0],
        "imageWidth": item.size[1],
    }
    return content, losses


# Reading files


def _json_files(root: Path) -> list[Path]:
    """All below the root; hidden files and folders are passed over."""
    if not root.is_dir():
        return []
    inner = (path.relative_to(root) for path in root.rglob("*.json") if path.is_file())
    return [root / path for path in sorted(inner) if not any(part.startswith(".") for part in path.parts)]


def _top(root: Path, path: Path) -> str:
    """The folder of the root in which a file lies, at whatever depth."""
    parts = path.relative_to(root).parts
    return parts[0] if len(parts) > 1 else ""


def _sheet(path: Path, problems: Problems) -> Sheet | None:
    """A file that is no LabelMe file, as a data set may have them, is passed over; a broken one is listed."""
    try:
        content = json_file.load(path)
    except ValueError as error:
        problems.add("", "bad-json", f"{str(error).removeprefix(f'{path}: ')}; left out")
        return None
    if not isinstance(content, dict) or not isinstance(content.get("shapes"), list):
        if isinstance(content, dict) and "shapes" in content:
            problems.add("", "bad-entry", f"'shapes' must be a list, got {type(content['shapes']).__name__}; left out")
        return None
    shapes = [_shape(i, entry, problems) for i, entry in enumerate(content["shapes"], 1)]
    picture = content.get("imagePath")
    if not isinstance(picture, str) or not is_path(picture):
        problems.add(
            "", "missing-image", f"imagePath is {picture!r:.80}; looked for by the name of this file", "warning"
        )
        picture = ""
    size = _size(content, problems)
    return Sheet(path, problems.file, picture, size, tuple(shape for shape in shapes if shape is not None))


def _shape(number: int, entry: object, problems: Problems) -> Shape | None:
    where = f"shape {number}"
    if not isinstance(entry, dict):
        problems.add(where, "bad-entry", f"expected an object, got {type(entry).__name__}; left out")
        return None
    label, group, flags = entry.get("label"), entry.get("group_id"), entry.get("flags")
    if not isinstance(label, str) or not label:
        problems.add(where, "unknown-category", f"its label is {label!r:.80}; left out")
        return None
    if group is not None and type(group) not in (int, str):
        problems.add(where, "bad-id", f"group_id is {group!r:.80}; taken as none", "warning")
        group = None
    return Shape(
        number=number,
        label=label,
        group=group,
        kind=str(entry.get("shape_type") or "polygon"),
        points=entry.get("points"),
        bitmap=entry.get("mask"),
        is_crowd=isinstance(flags, dict) and flags.get("crowd") is True,
        scores=_read_scores(entry.get("description")),
    )


def _read_scores(description: object) -> tuple[float, float, float] | None:
    """score, quality and mask score as `write` puts them; people may have written around them."""
    found = dict(_SCORE.findall(description)) if isinstance(description, str) else {}
    try:
        score = float(found["score"])
        quality = float(found.get("quality", 1))
        return score, quality, float(found.get("mask_score", score * quality))
    except (KeyError, ValueError):
        return None


def _size(content: Mapping[str, object], problems: Problems) -> Size | None:
    height, width = content.get("imageHeight"), content.get("imageWidth")
    if height is None and width is None:
        return None
    if isinstance(height, int) and isinstance(width, int) and min(height, width) > 0 and height * width <= MOST_PIXELS:
        return height, width
    message = f"imageHeight and imageWidth are {height!r:.40} and {width!r:.40}; taken from the picture"
    problems.add("", "bad-number", message, "warning")
    return None


def _categories(root: Path, labels: set[str]) -> Categories:
    path = root / LABELS_FILE
    if not path.is_file():
        return Categories(names=tuple(sorted(labels - set(_NO_CLASSES))))
    try:
        names = [name for line in path.read_text("utf-8-sig").split("\n") if (name := line.strip())]
        return Categories(names=tuple(name for name in names if name not in _NO_CLASSES))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from None


def _records(root: Path, sheets: Sequence[Sheet], categories: Categories, problems: Problems) -> tuple[Record, ...]:
    records: dict[str, Record] = {}
    for sheet in sheets:
        path = _picture(root, sheet, problems)
        name = relative(root, path)
        if name in records:
            message = f"another file annotates {name}; this one was left out"
            problems.found.append(Problem(sheet.file, "", "duplicate-file", message))
            continue
        decode = partial(_labelled, sheet._replace(path=path), categories)
        records[name] = Record(name=name, path=path, id=name, size=sheet.size, labelled=decode)
    return tuple(records.values())


def _picture(root: Path, sheet: Sheet, problems: Problems) -> Path:
    """The picture that is named; else one beside the file, of that name or of the name of the file."""
    inner = PurePosixPath(sheet.picture.replace("\\", "/"))
    folder = sheet.path.parent
    named = root / os.path.normpath(folder.relative_to(root) / inner)  # the root may have '..' of its own
    has_name = inner.name not in ("", "..")
    is_inside = has_name and absolute(named).is_relative_to(absolute(root))
    if is_inside and exists(named):
        return named
    beside = [folder / inner.name] if has_name else []
    beside += [sheet.path.with_suffix(suffix) for suffix in sorted(IMAGE_SUFFIXES)]
    found = next((path for path in beside if exists(path)), None)
    if found is None:
        return named if is_inside else sheet.path.with_suffix(inner.suffix or ".png")
    if sheet.picture:
        message = f"{sheet.picture!r} is not in the data set; {found.name} beside this file was taken"
        problems.found.append(Problem(sheet.file, "", "foreign-path", message, "warning"))
    return found


# Decoding


def _labelled(sheet: Sheet, categories: Categories) -> Labelled:
    """`sheet.path` is that of the picture here."""
    size = sheet.size or image_size(sheet.path)
    problems = Problems(sheet.file, far_beyond(size, sheet.path, len(sheet.shapes), sheet.file))
    objects: dict[object, list[tuple[Shape, Window]]] = {}
    for shape in () if problems.found else sheet.shapes:
        window = _window(shape, size, partial(problems.add, f"shape {shape.number}"))
        if shape.label in _NO_CLASSES or window is None:
            continue
        if shape.label not in categories.names:
            problems.add(
                f"shape {shape.number}", "unknown-category", f"{shape.label!r:.80} is not in {LABELS_FILE}; left out"
            )
            continue
        key = shape.number if shape.group is None else (shape.label, shape.group)
        objects.setdefault(key, []).append((shape, window))
    first = [parts[0][0] for parts in objects.values()]
    masks = Masks.of([outlines.union([window for _, window in parts]) for parts in objects.values()], size)
    targets = Targets.from_masks(
        masks,
        torch.tensor([categories.label_of(shape.label) for shape in first], dtype=torch.int64),
        crowd=torch.tensor([shape.is_crowd for shape in first], dtype=torch.bool),
    )
    scores = scores_of([shape.scores for shape in first], partial(problems.add, ""))
    return Labelled(targets, tuple(shape.number for shape in first), tuple(problems.found), scores)


def _window(shape: Shape, size: Size, complain: Complain) -> Window | None:
    points = _points(shape, complain)
    if points is None:
        return None
    match shape.kind:
        case "polygon" | "oriented_rectangle":
            window = _polygon(points, size, complain)
        case "rectangle":
            window = _polygon(_four_corners(points), size, complain)
        case "circle":
            window = _circle(points, size, complain)
        case "mask":
            window = _bitmap(shape.bitmap, points, size, complain)
        case kind:
            complain("unsupported-shape", f"a shape of type {kind!r:.40} has no area; left out")
            return None
    if window is not None and not window.bits.any():
        complain("empty-mask", "the shape has no pixel in the picture; left out")
        return None
    return window


def _points(shape: Shape, complain: Complain) -> np.ndarray | None:
    pairs = shape.points if isinstance(shape.points, list) else [None]
    numbers = [finite_numbers(pair) for pair in pairs]
    if not all(pair is not None and len(pair) == 2 and (np.abs(pair) <= FARTHEST).all() for pair in numbers):
        complain("bad-number", "its points must be pairs of finite numbers; left out")
        return None
    return np.array(numbers, np.float64).reshape(-1, 2)


def _polygon(points: np.ndarray, size: Size, complain: Complain) -> Window | None:
    ring = usable(points, size, complain)
    return None if ring is None else outlines.fill([Polygon(ring, [])], size)


def _four_corners(points: np.ndarray) -> np.ndarray:
    """Of a rectangle: two opposite corners; newer versions write all four."""
    return points[[[0, 0], [1, 0], [1, 1], [0, 1]], [0, 1]] if len(points) == 2 else points


def _circle(points: np.ndarray, size: Size, complain: Complain) -> Window | None:
    """A centre and a point of the circle; a pixel belongs to it by its own centre."""
    if len(points) != 2:
        complain("degenerate-polygon", f"a circle has two points, this one {len(points)}; left out")
        return None
    (x, y), radius = points[0], float(np.hypot(*(points[1] - points[0])))
    low = np.clip(np.floor(points[0] - radius), 0, (size[1], size[0])).astype(int)
    high = np.clip(np.ceil(points[0] + radius), 0, (size[1], size[0])).astype(int)
    down, across = np.arange(low[1], high[1])[:, None] + 0.5 - y, np.arange(low[0], high[0]) + 0.5 - x
    return Window(int(low[0]), int(low[1]), down**2 + across**2 <= radius**2)


def _bitmap(bitmap: object, points: np.ndarray, size: Size, complain: Complain) -> Window | None:
    """A PNG in base64 whose first pixel lies at the first point."""
    if not len(points):
        complain("degenerate-polygon", "a bitmap without points lies nowhere; left out")
        return None
    try:
        png = base64.b64decode(bitmap if isinstance(bitmap, str) else "", validate=True)
        bits = read_label_map(png, max_pixels=size[0] * size[1], orientation="as_stored") > 0
    except ValueError as error:
        complain("bad-mask", f"its bitmap cannot be read: {error}; left out")
        return None
    x0, y0 = points.min(0).round().astype(int).tolist()
    x1, y1 = points.max(0).round().astype(int).tolist()
    if bits.shape != (stated := (y1 - y0 + 1, x1 - x0 + 1)):
        message = f"its bitmap has height and width {bits.shape}, its points say {stated}; the bitmap counts"
        complain("size-differs", message, "warning")
    return _inside(Window(x0, y0, bits), size)


def _inside(window: Window, size: Size) -> Window:
    """The part in the picture; an empty window where there is none."""
    y0, x0 = max(window.y0, 0), max(window.x0, 0)
    bits = window.bits[y0 - window.y0 :, x0 - window.x0 :][: max(size[0] - y0, 0), : max(size[1] - x0, 0)]
    return Window(x0, y0, bits) if bits.size else Window(0, 0, np.zeros((0, 0), bool))


# Writing


def _write_labels(root: Path, categories: Categories) -> Path:
    """So that classes keep their order, and those without an instance their place."""
    if bad := [name for name in categories.names if not _is_line(name) or name in _NO_CLASSES]:
        raise ValueError(f"a category cannot be called {bad[0]!r} in this format")
    text = "".join(f"{name}\n" for name in (*_NO_CLASSES, *categories.names))
    path = root / LABELS_FILE
    if path.is_file() and path.read_text("utf-8") != text:
        raise ValueError(f"{path} names other categories; write to another folder")
    root.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        file.write(text.encode())
    return path


def _is_line(name: str) -> bool:
    return name == name.strip() != "" and "\n" not in name


def _written_shapes(item: Item, categories: Categories) -> tuple[list[dict[str, object]], Counter[str]]:
    labelled, shapes = item.labelled, []
    for i, (polygons, window) in enumerate(zip(labelled.masks.outlines(), labelled.masks.tight().crops(), strict=True)):
        if not polygons:
            continue
        drawn = (
            [_bitmap_shape(window)] if any(p.holes for p in polygons) else [_polygon_shape(p.outer) for p in polygons]
        )
        shared = {
            "label": categories.name(int(labelled.labels[i])),
            "group_id": i + 1 if len(drawn) > 1 else None,
            "description": _description(labelled, i),
            "flags": {"crowd": True} if isinstance(labelled, Targets) and labelled.crowd[i] else {},
        }
        shapes += [shared | shape for shape in drawn]
    losses = unheld(labelled, held=("crowd flags", "scores"))
    kept = labelled.masks.area().nonzero()[:, 0].tolist()
    losses["instances without pixels"] = len(labelled) - len(kept)
    losses += renumbered(item, {i: number for number, i in enumerate(kept, 1)})
    return shapes, +losses


def _polygon_shape(ring: np.ndarray) -> dict[str, object]:
    return {"shape_type": "polygon", "points": ring.tolist(), "mask": None}


def _bitmap_shape(window: Window) -> dict[str, object]:
    height, width = window.bits.shape
    points = [[window.x0, window.y0], [window.x0 + width - 1, window.y0 + height - 1]]
    return {"shape_type": "mask", "points": points, "mask": base64.b64encode(_png(window.bits)).decode()}


def _png(bits: Bool[np.ndarray, "h w"]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(bits)).save(file, "PNG")
    return file.getvalue()


def _description(labelled: Targets | Instances, i: int) -> str:
    if isinstance(labelled, Targets):
        return ""
    values = {"score": labelled.scores, "quality": labelled.quality, "mask_score": labelled.mask_scores}
    return " ".join(f"{name}={float(column[i]):.9g}" for name, column in values.items())

"""The index of a COCO data set: tables of categories, images and annotations that may contradict each other.

Everything is looked at once; the segmentations are packed by picture and judged when they are decoded.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import cast

from maskwise.categories import Categories, told_apart
from maskwise.data.dataset import Id, Labelled, Problem, Record, Severity
from maskwise.data.formats import coco_annotation
from maskwise.data.formats.coco_annotation import Row, Source, is_number, pack
from maskwise.data.formats.coco_files import Pictures
from maskwise.data.formats.folders import names_a_file
from maskwise.data.formats.json_file import whole
from maskwise.rle import Size

MOST_PIXELS = 1 << 30
"""Larger pictures are taken for damage: one mask could fill the memory."""
SIDES = {"l": "left", "r": "right"}
MANY_CROWDS = 0.2
"""CVAT, for one, marks every mask as a crowd; then nothing is learned from them."""

Entry = dict[str, object]


@dataclass(frozen=True, slots=True)
class Problems:
    """What was found in one file."""

    file: str
    found: list[Problem] = field(default_factory=list)

    def add(self, where: str, rule: str, message: str, severity: Severity = "error") -> None:
        self.found.append(Problem(self.file, where, rule, message, severity))


def entries(content: Mapping[str, object], table: str, problems: Problems) -> list[Entry]:
    """The objects of one list of the file."""
    rows = content.get(table)
    if not isinstance(rows, list):
        raise ValueError(f"{problems.file}: a COCO data set has a list {table!r}, found {type(rows).__name__}")
    for i, row in enumerate(rows):
        if not isinstance(row, dict):
            problems.add(f"{table}[{i}]", "bad-entry", f"expected an object, got {type(row).__name__}; left out")
    return [row for row in rows if isinstance(row, dict)]


def read_categories(rows: Sequence[Entry], used: Counter[int], problems: Problems) -> Categories:
    """Sorted by id, so that all splits of a data set have the same labels. `used`: annotations of each id."""
    named: dict[int, str] = {}
    for row in rows:
        id_, name = whole(row.get("id")), row.get("name")
        if type(id_) is not int:
            raise ValueError(f"{problems.file}: the id of a category must be a whole number, got {id_!r:.80}")
        if id_ in named:
            message = f"already given to {named[id_]!r}; {name!r:.80} was left out"
            problems.add(f"category {id_}", "duplicate-category", message)
            continue
        if not isinstance(name, str) or not name:
            problems.add(f"category {id_}", "nameless-category", f"its name is {name!r:.80}; called 'category {id_}'")
            name = f"category {id_}"
        named[id_] = name
    named = _told_apart(named, used, problems)
    first = {whole(row["id"]): row for row in reversed(rows)}
    above = tuple(str(first[id_].get("supercategory") or "") for id_ in named)
    points = _keypoints([first[id_] for id_ in named], problems)
    return Categories(
        names=tuple(named.values()),
        ids=tuple(named),
        supercategories=above if any(above) else (),
        keypoints=points,
        keypoint_flip=_mirrored(points),
        skeleton=_skeleton([first[id_] for id_ in named], len(points)),
    )


def _told_apart(named: dict[int, str], used: Counter[int], problems: Problems) -> dict[int, str]:
    """And what was done about it."""
    kept = told_apart(named, used)
    for id_, name in named.items():
        if kept.get(id_) != name:
            done = f"it is called {kept[id_]} here" if id_ in kept else "no annotation has it; left out"
            severity: Severity = "error" if id_ in kept else "warning"
            problems.add(f"category {id_}", "duplicate-category", f"another one is called {name!r}; {done}", severity)
    return kept


def _keypoints(rows: Sequence[Entry], problems: Problems) -> tuple[str, ...]:
    """Those of the first category that has any."""
    kinds = [row["keypoints"] for row in rows if isinstance(row.get("keypoints"), list) and row["keypoints"]]
    if not kinds:
        return ()
    if any(kind != kinds[0] for kind in kinds):
        message = "categories have different keypoints; those of the first are read, others do not fit them"
        problems.add("categories", "keypoints-differ", message, "warning")
    return tuple(str(name) for name in cast(list[object], kinds[0]))


def _mirrored(points: tuple[str, ...]) -> tuple[int, ...]:
    """Which point each one becomes in a mirror, by 'left' and 'right' in the names, or by 'l' and 'r' as words."""
    points = tuple(re.sub(r"(?<![a-z])([lr])(?![a-z])", lambda side: SIDES[side[1]], p.lower()) for p in points)
    other = [p.replace("left", "\0").replace("right", "left").replace("\0", "right") for p in points]
    places = tuple(points.index(o) if o in points else i for i, o in enumerate(other))
    return places if sorted(places) == list(range(len(points))) else ()


def _skeleton(rows: Sequence[Entry], points: int) -> tuple[tuple[int, int], ...]:
    """Bones between points, which the file counts from 1."""
    bones = next((row["skeleton"] for row in rows if row.get("keypoints") and row.get("skeleton")), [])
    pairs = [b for b in bones if isinstance(b, list) and len(b) == 2] if isinstance(bones, list) else []
    return tuple((a - 1, b - 1) for a, b in pairs if all(type(end) is int and 1 <= end <= points for end in (a, b)))


def read_records(
    images: Sequence[Entry], packed: Mapping[Id, bytes], pictures: Pictures, categories: Categories, problems: Problems
) -> tuple[Record, ...]:
    """One for each picture that is listed; of two with the same id or file the first stays."""
    source = Source(problems.file, len(categories.keypoints))
    records: dict[Id, Record] = {}
    names: dict[str, Id] = {}
    nothing = pack(())
    for entry in images:
        id_ = cast(Id, entry["id"])
        where = f"image {id_}"
        name, is_foreign = pictures.place(cast(str, entry["file_name"]))
        if is_foreign:
            message = f"{entry['file_name']!r} leads out of the data set; {name} was taken instead"
            problems.add(where, "foreign-path", message, "warning")
        if id_ in records:
            message = f"{records[id_].name} has this id already; {name} was left out"
            problems.add(where, "duplicate-image-id", message)
        elif name in names:
            message = f"{name} is listed as image {names[name]} already; left out, with its annotations"
            problems.add(where, "duplicate-file", message)
        else:
            names[name], path, size = id_, pictures.root / name, _size(entry, problems)
            rows = packed.get(id_) or nothing
            decode = cast("partial[Labelled]", partial(coco_annotation.labelled, rows, size, path, source))
            records[id_] = Record(name=name, path=path, id=id_, size=size, labelled=decode, empty=rows == nothing)
    return tuple(records.values())


def usable_images(rows: Sequence[Entry], problems: Problems) -> list[Entry]:
    """Those that have an id and a file name."""
    kept = []
    for i, one in enumerate(rows):
        row = {**one, "id": whole(one.get("id"))}
        name = row.get("file_name")
        if type(row.get("id")) not in (int, str):
            problems.add(f"images[{i}]", "bad-id", f"an id is a number or text, got {row.get('id')!r:.80}; left out")
        elif not isinstance(name, str) or not names_a_file(name):
            problems.add(f"image {row['id']}", "missing-image", f"its file name is {name!r:.80}; left out")
        else:
            kept.append(row)
    return kept


def _size(entry: Entry, problems: Problems) -> Size | None:
    """Height and width; None where the picture must be asked."""
    height, width = whole(entry.get("height")), whole(entry.get("width"))
    if isinstance(height, int) and isinstance(width, int) and min(height, width) > 0 and height * width <= MOST_PIXELS:
        return height, width
    message = f"height and width are {height!r:.40} and {width!r:.40}; taken from the picture"
    problems.add(f"image {entry['id']}", "bad-number", message, "warning")
    return None


def read_rows(
    annotations: Sequence[Entry], images: Sequence[Entry], categories: Categories, problems: Problems
) -> dict[Id, bytes]:
    """Annotations by image, packed; those of no known image or category are left out."""
    labels = {id_: label for label, id_ in enumerate(categories.ids)}
    by_image: dict[Id, list[Row]] = {cast(Id, entry["id"]): [] for entry in images}
    seen: set[Id] = set()
    crowds = nameless = 0
    for i, entry in enumerate(annotations):
        id_, image, category = (whole(entry.get(key)) for key in ("id", "image_id", "category_id"))
        if type(id_) not in (int, str):
            id_, nameless = f"#{i}", nameless + 1
        where = f"annotation {id_}"
        if id_ in seen:
            message = "another annotation has this id; both are kept"
            problems.add(where, "duplicate-id", message)
        seen.add(cast(Id, id_))
        if type(image) not in (int, str) or image not in by_image:
            problems.add(where, "unknown-image", f"there is no image {image!r:.80}; left out")
        elif type(category) is not int or category not in labels:
            problems.add(where, "unknown-category", f"there is no category {category!r:.80}; left out")
        else:
            row = _row(cast(Id, id_), labels[category], entry, where, problems)
            crowds += row.is_crowd
            by_image[cast(Id, image)].append(row)
    _warn_of(nameless, crowds, len(annotations), problems)
    return {image: _packed(rows, problems) for image, rows in by_image.items()}


def _packed(rows: Sequence[Row], problems: Problems) -> bytes:
    """Lists in lists in lists ... are left out: what JSON allows may be too deep to be packed."""
    try:
        return pack(rows)
    except RecursionError:
        return pack([row for row in rows if _is_flat(row, problems)])


def _is_flat(row: Row, problems: Problems) -> bool:
    try:
        pack([row])
    except RecursionError:
        problems.add(f"annotation {row.id}", "bad-entry", "it has lists in lists, too deep to be read; left out")
        return False
    return True


def _row(id_: Id, label: int, entry: Entry, where: str, problems: Problems) -> Row:
    crowd = entry.get("iscrowd")
    if crowd not in (None, 0, 1):
        problems.add(where, "bad-number", f"iscrowd is {crowd!r:.40}, expected 0 or 1; taken as 0", "warning")
    return Row(
        id=id_,
        label=label,
        is_crowd=crowd == 1,
        area=entry.get("area"),
        box=entry.get("bbox"),
        segmentation=entry.get("segmentation"),
        keypoints=entry.get("keypoints"),
        scores=_scores(entry, where, problems) if "score" in entry else None,
    )


def _scores(entry: Entry, where: str, problems: Problems) -> tuple[float, float, float] | None:
    score = entry["score"]
    values = (entry.get("class_score", score), entry.get("quality", 1.0), score)
    if not all(is_number(value) for value in values):
        problems.add(where, "bad-number", f"scores must be finite numbers, got {values!r:.80}; left out", "warning")
        return None
    return cast(tuple[float, float, float], values)


def _warn_of(nameless: int, crowds: int, total: int, problems: Problems) -> None:
    if nameless:
        message = f"{nameless} annotations have no id; they are called by their place in the list, from #0"
        problems.add("", "missing-id", message, "warning")
    if crowds > MANY_CROWDS * total:
        message = f"{crowds} of {total} annotations are marked as crowds, which nothing is learned from"
        problems.add("", "crowd-share", f"{message}, but with data.source.crowds_as_instances=true", "warning")

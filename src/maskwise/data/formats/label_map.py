"""Label maps: beside each picture an image of ids, 0 where there is nothing (PNG or TIFF of 8 to 32 bits).

Found are a folder of pictures beside one of maps (`images/` and `masks/`, `labels/` ...), with the splits above or
below them; and maps in the same folder: `plant001_rgb.png` with `plant001_label.png` as in CVPPP, `cells.tif` or
`cells_img.tif` with `cells_masks.png` as in Cellpose. Classes, crowds and scores are in `labels.csv`; without it all
instances are of one class (`sidecars.py`).
"""

from collections import Counter
from collections.abc import Container, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch

from maskwise.categories import Categories
from maskwise.data.dataset import DataSet, Item, Labelled, Problem, Record, Written
from maskwise.data.formats.coco_index import Problems
from maskwise.data.formats.folders import (
    Pair,
    by_key,
    folder_pairs,
    one_split,
    paired,
    pictures_in,
    read_ids,
    relative,
    subfolders,
)
from maskwise.data.formats.painting import numbers, paint, renumbered, unheld
from maskwise.data.formats.pictures import TOO_LONG, claim, fits, inner_name, put_picture, refuse_unknown_suffix
from maskwise.data.formats.sidecars import (
    LABELS_FILE,
    Row,
    Rows,
    lines_of,
    read_categories,
    read_rows,
    scores_of,
    write_categories,
    write_rows,
)
from maskwise.data.images import write_label_map
from maskwise.masks import Masks
from maskwise.structures import Targets

MOST = 65_535
LABEL_ENDINGS = ("_cp_masks", "_masks", "_mask", "_labels", "_label", "_instances")
PICTURE_ENDINGS = ("_rgb", "_img")
NO_PICTURES = ("_fg", "_centers", "_flows", "_cp_output", "_outlines")
"""Endings of what CVPPP and Cellpose lay beside pictures and maps."""


class Part(NamedTuple):
    """The files of one split."""

    home: Path
    """Where `labels.csv` and `categories.json` are looked for."""
    folder: Path
    """That of the pictures of all splits."""
    pictures: Mapping[str, Path]
    labels: Mapping[str, Path]
    problems: tuple[Problem, ...] = ()

    def shared(self) -> str | None:
        """A key that is on both sides."""
        return next((key for key in self.pictures if key in self.labels), None)


def detect(root: Path) -> str | None:
    for part in _parts(root).values():
        if key := part.shared():
            picture, labels = (relative(root, paths[key]) for paths in (part.pictures, part.labels))
            return f"{labels} lies beside {picture}"
    return None


def splits(root: Path) -> tuple[str, ...]:
    return tuple(_parts(root))


def read(root: Path, *, split: str | None = None) -> DataSet:
    parts = _parts(root)
    part = parts[split := one_split(root, tuple(parts), split)]
    pairs, unpaired = paired(root, part.pictures, part.labels)
    table = part.home / LABELS_FILE
    rows, problems = read_rows(table, relative(root, table)) if table.is_file() else (None, [])
    categories = read_categories(part.home, _names(rows))
    spellings = _spellings(root, part, {pair.key: pair.picture for pair in pairs})
    others = [other for name, other in parts.items() if name != split and other.home == part.home]
    elsewhere = {name for other in others for name in _spellings(root, other, other.pictures)}
    told, more = _by_picture(rows or {}, spellings, elsewhere, relative(root, table))
    records = []
    for pair in pairs:
        of_picture = None if rows is None else told.get(pair.key, {})
        labelled = partial(_labelled, root, pair, categories, of_picture)
        name = relative(root, pair.picture)
        records.append(Record(name=name, path=pair.picture, id=pair.key, size=None, labelled=labelled))
    problems = (*part.problems, *unpaired, *sorted([*problems, *more], key=str))
    return DataSet("label_map", root, split, categories, tuple(records), problems)


def write(
    root: Path,
    categories: Categories,
    items: Iterable[Item],
    *,
    split: str = "train",
    suffix: Literal[".png", ".tif"] = ".png",
) -> Written:
    """Maps of 16 bits. Where masks overlap, one is in front (`painting.paint`)."""
    if "" in categories.names:
        raise ValueError("a category cannot be called '' in this format")
    home = root / split
    losses: Counter[str] = Counter()
    files, lines = [write_categories(home, categories)], []
    taken: dict[str, str] = {}
    (home / "masks").mkdir(exist_ok=True)
    for item in items:
        name = inner_name(item.name, split)
        key = claim(taken, name.with_suffix("").as_posix(), item)
        refuse_unknown_suffix(item, name)
        if not fits(home, item.name, name, f"{key}{suffix}"):
            losses[TOO_LONG] += 1
            continue
        own = numbers(item, most=MOST)
        shown, lost = paint(item.labelled, own)
        losses += lost + renumbered(item, dict(enumerate(own))) + unheld(item.labelled, held=("scores", "crowd flags"))
        files += put_picture(item, home / "images" / name)
        files.append(home / "masks" / f"{key}{suffix}")
        files[-1].parent.mkdir(parents=True, exist_ok=True)
        write_label_map(files[-1], shown)
        visible = set(np.unique(shown).tolist())
        lines += [line for line in lines_of(item, name.as_posix(), categories, own) if line[1] in visible]
    files.append(write_rows(home / LABELS_FILE, lines))
    return Written(tuple(files), losses)


# Which files


def _parts(root: Path) -> dict[str, Part]:
    parts = {name: _apart(root, *pair) for name, pair in folder_pairs(root).items()}
    parts = parts or {name: _together(root, folder) for name, folder in _folders(root).items()}
    return {name: part for name, part in parts.items() if part.shared() is not None}


def _folders(root: Path) -> dict[str, Path]:
    """The root where pictures lie in it, else its folders."""
    return {"": root} if pictures_in(root) else {folder.name: folder for folder in subfolders(root)}


def _apart(root: Path, pictures: Path, labels: Path) -> Part:
    """Folders side by side; a map may have the name of its picture and one of the endings."""
    found, problems = by_key(root, pictures)
    maps, more = by_key(root, labels)
    by_picture = {_without(key, found): path for key, path in maps.items()}
    is_beside = pictures.parent == labels.parent  # else these are folders of a split in both
    home, folder = (pictures.parent, pictures) if is_beside else (root, pictures.parent)
    return Part(home, folder, found, by_picture, (*problems, *more))


def _without(key: str, pictures: Mapping[str, Path]) -> str:
    shorter = (key.removesuffix(ending) for ending in LABEL_ENDINGS)
    return key if key in pictures else next((s for s in shorter if s in pictures), key)


def _together(root: Path, folder: Path) -> Part:
    paths = pictures_in(folder)
    labels, problems = by_key(root, folder, paths, endings=LABEL_ENDINGS)
    rest = [p for p in paths if not p.stem.endswith((*LABEL_ENDINGS, *NO_PICTURES))]
    marked, _ = by_key(root, folder, rest, endings=PICTURE_ENDINGS)
    has_marks = any(key in labels for key in marked)
    pictures, more = (marked, []) if has_marks else by_key(root, folder, rest)
    return Part(folder, folder, pictures, labels, (*problems, *more))


# Reading


def _names(rows: Rows | None) -> list[str]:
    return [row.category for of_picture in (rows or {}).values() for row in of_picture.values()]


def _spellings(root: Path, part: Part, pictures: Mapping[str, Path]) -> dict[str, str]:
    """What `labels.csv` may call pictures, and their keys; what fits two is that of the one it says more about."""
    names = [
        (*(relative(base, path) for base in (root, part.home, part.folder)), key + path.suffix, below, key)
        for key, path in pictures.items()
        for below in [path.relative_to(part.folder).with_suffix("").as_posix()]
    ]
    found: dict[str, str] = {}
    for rank in range(6):
        for of_picture in names:
            found.setdefault(of_picture[rank], of_picture[-1])
    return found


def _by_picture(
    rows: Rows, spellings: Mapping[str, str], elsewhere: Container[str], file: str
) -> tuple[dict[str, dict[int, Row]], list[Problem]]:
    """The lines of each picture by its key, however it is spelled, and those that were left out.

    `elsewhere`: spellings of pictures of other splits, about which the same file may speak.
    """
    found: dict[str, dict[int, Row]] = {}
    first: dict[tuple[str, int], str] = {}
    problems = []
    for image, lines in rows.items():
        if image not in spellings and image in elsewhere:
            continue
        if image not in spellings:
            message = f"{image!r} is no picture of this data set; its lines were left out"
            problems.append(Problem(file, "", "unknown-image", message))
            continue
        key = spellings[image]
        for id_, row in lines.items():
            if (before := first.setdefault((key, id_), image)) == image:
                found.setdefault(key, {})[id_] = row
            else:
                message = f"instance {id_} of {image!r} has a line under {before!r} already; this one was left out"
                problems.append(Problem(file, "", "duplicate-id", message))
    return found, problems


def _labelled(root: Path, pair: Pair, categories: Categories, rows: Mapping[int, Row] | None) -> Labelled:
    found = read_ids(root, pair.picture, pair.labels)
    if found.ids is None:
        return Labelled(Targets.none(found.size), (), found.problems)
    file = relative(root, pair.labels)
    masks, ids = Masks.from_label_map(found.ids)
    if rows is None:
        labels, problems = torch.zeros(len(ids), dtype=torch.int64), _unlabelled(file, ids)
        return Labelled(Targets.from_masks(masks, labels), ids, problems)
    problems = Problems(file, [*_without_class(file, ids, categories, rows), *_without_mask(file, ids, rows)])
    kept = [i for i, number in enumerate(ids) if number in rows and rows[number].category in categories.names]
    chosen = [rows[ids[i]] for i in kept]
    targets = Targets.from_masks(
        masks[kept],
        torch.tensor([categories.label_of(row.category) for row in chosen], dtype=torch.int64),
        crowd=torch.tensor([row.crowd for row in chosen], dtype=torch.bool),
    )
    scores = scores_of([row.scores for row in chosen], partial(problems.add, ""))
    return Labelled(targets, tuple(ids[i] for i in kept), tuple(problems.found), scores)


def _unlabelled(file: str, ids: tuple[int, ...]) -> tuple[Problem, ...]:
    if ids:
        return ()
    message = "no pixel has an id: a picture without objects, or one that was never labelled"
    return (Problem(file, "", "empty-label-map", message, "warning"),)


def _without_class(file: str, ids: tuple[int, ...], categories: Categories, rows: Mapping[int, Row]) -> list[Problem]:
    reasons = {i: f"has no line in {LABELS_FILE}" for i in ids if i not in rows}
    named = {i: rows[i].category for i in ids if i in rows}
    reasons |= {i: f"is a {name!r}, which is no category" for i, name in named.items() if name not in categories.names}
    return [
        Problem(file, f"instance {i}", "unknown-category", f"it {why}; it was left out")
        for i, why in sorted(reasons.items())
    ]


def _without_mask(file: str, ids: tuple[int, ...], rows: Mapping[int, Row]) -> list[Problem]:
    message = f"it is in {LABELS_FILE}, but no pixel has its id; it was left out"
    lost = sorted(set(rows) - set(ids))
    return [Problem(file, f"instance {i}", "empty-mask", message) for i in lost]

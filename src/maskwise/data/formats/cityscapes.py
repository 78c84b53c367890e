"""Cityscapes: leftImg8bit/<split>/<city>/*_leftImg8bit.png and gtFine/<split>/<city>/*_gtFine_instanceIds.png.

A 16-bit id is class * 1000 + n for instance n; below 1000 it is a region without instances: of an instance class a
group, which is a crowd here; else a background that is no object. Eight classes are judged. Caravans and trailers have
instances too, but are not among them: they are noted and left out, and `ignored` counts their groups as void.

`write_results` writes predictions as the benchmark's own script wants them, where masks may overlap.
"""

from collections import Counter
from collections.abc import Iterable
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from jaxtyping import Bool, Int32

from maskwise.categories import Categories
from maskwise.data.dataset import DataSet, Item, Labelled, Problem, Record, Written
from maskwise.data.files import replacing
from maskwise.data.formats.folders import Pair, by_key, one_split, paired, read_ids, relative, subfolders
from maskwise.data.formats.painting import paint, renumbered, unheld, white, write_png
from maskwise.data.formats.pictures import TOO_LONG, claim, fits, inner_name, put_picture
from maskwise.data.images import read_label_map, write_label_map
from maskwise.masks import Masks
from maskwise.structures import Instances, Targets

CATEGORIES = Categories(
    names=("person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle"),
    ids=(24, 25, 26, 27, 28, 31, 32, 33),
    supercategories=("human", "human", *["vehicle"] * 6),
)
NOT_JUDGED = {29: "caravan", 30: "trailer"}
VOID = (*range(7), 9, 10, 14, 15, 16, 18, *NOT_JUDGED)
"""Ids of regions that count neither for nor against a detection."""
PICTURES, LABELS = "leftImg8bit", "gtFine"
PICTURE_END, LABEL_END = f"_{PICTURES}", f"_{LABELS}_instanceIds"
PER_CLASS = 1000


def detect(root: Path) -> str | None:
    if not all((root / name).is_dir() for name in (PICTURES, LABELS)):
        return None
    return f"there are folders {PICTURES} and {LABELS}"


def splits(root: Path) -> tuple[str, ...]:
    labelled = {folder.name for folder in subfolders(root / LABELS)}
    return tuple(folder.name for folder in subfolders(root / PICTURES) if folder.name in labelled)


def read(root: Path, *, split: str | None = None) -> DataSet:
    split = one_split(root, splits(root), split)
    pictures, problems = by_key(root, root / PICTURES / split, endings=(PICTURE_END,))
    labels, more = by_key(root, root / LABELS / split, endings=(LABEL_END,))
    pairs, unpaired = paired(root, pictures, labels)
    records = tuple(
        Record(
            name=relative(root, pair.picture),
            path=pair.picture,
            id=PurePosixPath(pair.key).name,
            size=None,
            labelled=partial(_labelled, root, pair),
        )
        for pair in pairs
    )
    return DataSet("cityscapes", root, split, CATEGORIES, records, (*problems, *more, *unpaired))


def ignored(record: Record) -> Bool[np.ndarray, "h w"]:
    """The void pixels of a record of this format, which the policy `cityscapes` asks for."""
    assert isinstance(record.labelled, partial)
    return np.isin(read_label_map(record.labelled.args[1].labels), VOID)


def write(root: Path, categories: Categories, items: Iterable[Item], *, split: str = "train") -> Written:
    """Where masks overlap, one is in front (`painting.paint`). Pictures become PNG, other classes are left out."""
    ids = class_ids(categories)
    losses: Counter[str] = Counter()
    files: list[Path] = []
    taken: dict[str, str] = {}
    for item in items:
        key = claim(taken, _key(item, split), item)
        if not fits(root, item.name, f"{key}{LABEL_END}.png"):
            losses[TOO_LONG] += 1
            continue
        files += put_picture(item, root / PICTURES / split / f"{key}{PICTURE_END}.png")
        shown, lost = _painted(item, ids)
        losses += lost
        files.append(root / LABELS / split / f"{key}{LABEL_END}.png")
        files[-1].parent.mkdir(parents=True, exist_ok=True)
        write_label_map(files[-1], shown)
    return Written(tuple(files), losses)


def write_results(root: Path, categories: Categories, items: Iterable[Item]) -> Written:
    """Predictions to submit: for each picture a text file with lines 'masks/x.png labelID confidence'."""
    ids = class_ids(categories)
    losses: Counter[str] = Counter()
    files: list[Path] = []
    taken: dict[str, str] = {}
    (root / "masks").mkdir(parents=True, exist_ok=True)
    for item in items:
        name = claim(taken, PurePosixPath(_key(item, "")).name, item)
        if len(name.split()) != 1 or name != name.strip():
            raise ValueError(f"{item.name!r}: lines of this format are split at spaces, so names must have none")
        if not isinstance(item.labelled, Instances):
            raise ValueError(f"{item.name}: results are predictions with scores, got ground truth")
        made, lost = _write_result(root, name, item.labelled, ids)
        files += made
        losses += lost
    return Written(tuple(files), losses)


def class_ids(categories: Categories) -> tuple[int | None, ...]:
    """The id that each label has in this format, by its name; None for what is not among the eight classes."""
    found = tuple(CATEGORIES.id(CATEGORIES.label_of(n)) if n in CATEGORIES.names else None for n in categories.names)
    if len(categories) and not any(found):
        known, given = ", ".join(CATEGORIES.names), ", ".join(categories.names[:8])
        raise ValueError(f"this format holds only {known}; none of the categories is one of them: {given}")
    return found


def _key(item: Item, split: str) -> str:
    """City and name, as in 'ulm/ulm_000000_000019'; a picture from elsewhere has its folders for a city."""
    name = inner_name(item.name, split)
    city = "_".join(name.parts[:-1]) or (name.stem.partition("_")[0] if "_" in name.stem else "") or "pictures"
    return f"{city}/{name.stem.removesuffix(PICTURE_END) or name.stem}"


# Reading


def _labelled(root: Path, pair: Pair) -> Labelled:
    found = read_ids(root, pair.picture, pair.labels)
    if found.ids is None:
        return Labelled(Targets.none(found.size), (), found.problems)
    ids = found.ids
    classes = np.where(ids >= 1000, ids // 1000, ids)
    masks, kept = Masks.from_label_map(np.where(np.isin(classes, CATEGORIES.ids), ids, 0))
    labels = [CATEGORIES.label(i // 1000 if i >= 1000 else i) for i in kept]
    targets = Targets.from_masks(
        masks,
        torch.tensor(labels, dtype=torch.int64),
        crowd=torch.tensor([i < 1000 for i in kept], dtype=torch.bool),
    )
    return Labelled(targets, kept, _left_out(relative(root, pair.labels), ids))


def _left_out(file: str, ids: Int32[np.ndarray, "h w"]) -> tuple[Problem, ...]:
    """Instances of classes that are not judged, and ids that mean nothing."""
    others = Counter(i // 1000 for i in np.unique(ids[ids >= 1000]).tolist() if i // 1000 not in CATEGORIES.ids)
    return tuple(
        Problem(file, "", "class-not-judged", f"{count} of {NOT_JUDGED[number]}, left out", "note")
        if number in NOT_JUDGED
        else Problem(file, "", "unknown-category", f"{count} instances of class {number}, which has none; left out")
        for number, count in others.items()
    )


# Writing


def _painted(item: Item, ids: tuple[int | None, ...]) -> tuple[Int32[np.ndarray, "h w"], Counter[str]]:
    labelled = item.labelled
    known = [i for i, label in enumerate(labelled.labels.tolist()) if ids[label] is not None]
    losses = Counter({"instances of other classes": len(labelled) - len(known)})
    kept = labelled[known]
    own = [item.ids[i] if item.ids else None for i in known]
    crowd = kept.crowd.tolist() if isinstance(kept, Targets) else [False] * len(kept)
    classes = [ids[label] or 0 for label in kept.labels.tolist()]
    groups = [number for number, is_crowd in zip(classes, crowd, strict=True) if is_crowd]
    losses["crowds merged into one of their class"] = len(groups) - len(set(groups))
    numbers = _numbers(item.name, classes, crowd, own)
    shown, lost = paint(kept, numbers)
    lost += renumbered(item, {i: n for i, n, is_crowd in zip(known, numbers, crowd, strict=True) if not is_crowd})
    return shown, +(losses + lost + unheld(kept, held=("crowd flags",)))


def _numbers(name: str, classes: list[int], crowd: list[bool], own: list[int | str | None]) -> list[int]:
    """Ids of the file they came from where they suit the class and are free, else the next free one."""
    suits = [
        i if isinstance(i, int) and i // 1000 == number and not is_crowd else None
        for number, is_crowd, i in zip(classes, crowd, own, strict=True)
    ]
    free = {c: iter(sorted(set(range(c * 1000, c * 1000 + PER_CLASS)) - set(suits))) for c in set(classes)}
    numbers: list[int] = []
    for number, is_crowd, i in zip(classes, crowd, suits, strict=True):
        mine = number if is_crowd else i if i is not None and i not in numbers else next(free[number], None)
        if mine is None:
            raise ValueError(f"{name}: this format holds {PER_CLASS:,} instances of class {number}, there are more")
        numbers.append(mine)
    return numbers


def _write_result(
    root: Path, name: str, found: Instances, ids: tuple[int | None, ...]
) -> tuple[list[Path], Counter[str]]:
    files, lines = [], []
    losses = unheld(found, held=("scores",))
    scores, areas = found.mask_scores.tolist(), found.masks.area().tolist()
    for i, label in enumerate(found.labels.tolist()):
        if ids[label] is None or areas[i] == 0:
            losses["instances of other classes" if ids[label] is None else "instances without pixels"] += 1
            continue
        files.append(root / "masks" / f"{name}_{i}.png")
        write_png(files[-1], white(found.masks[[i]]))
        lines.append(f"masks/{files[-1].name} {ids[label]} {scores[i]!r}\n")
    files.append(root / f"{name}.txt")
    with replacing(files[-1]) as file:
        file.write("".join(lines).encode())
    return files, losses

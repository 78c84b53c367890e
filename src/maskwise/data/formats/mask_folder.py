"""One picture of a mask for each instance, white (not 0) where the instance is; masks may overlap.

Found are the layout of the Data Science Bowl 2018, `<id>/images/*.png` beside `<id>/masks/*.png`, and `images/` beside
`masks/<name of the picture>/*.png`, with splits above or below them. The class of a mask is the folder that it lies in
below that, `masks/a/cell/1.png`, or, where all names of the data set have one, what stands before the number in its own
name, `cell_001.png`; else there is one class. `crowd_...png` is a crowd: a convention of this library. Of pictures
`a.png` and `a/b.png` the masks of the second lie below those of the first.
"""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import partial
from itertools import accumulate
from pathlib import Path, PurePosixPath
from typing import NamedTuple
from urllib.parse import quote, unquote

import numpy as np
import torch

from maskwise.categories import Categories
from maskwise.data.dataset import DataSet, Item, Labelled, Problem, Record, Written, size_problem
from maskwise.data.formats.folders import (
    Pair,
    by_key,
    folder_pairs,
    one_split,
    paired,
    pictures_in,
    relative,
    subfolders,
)
from maskwise.data.formats.painting import renumbered, unheld, white, write_png
from maskwise.data.formats.pictures import (
    TOO_LONG,
    claim,
    fits,
    inner_name,
    is_too_long,
    put_picture,
    refuse_unknown_suffix,
)
from maskwise.data.formats.sidecars import CATEGORIES_FILE, OBJECT, read_categories, write_categories
from maskwise.data.images import IMAGE_SUFFIXES, ImageReadError, image_size, list_images, read_label_map
from maskwise.masks import Masks
from maskwise.structures import Instances, Targets

CROWD = "crowd_"
NO_CLASSES = frozenset(("mask", "masks", "instance", "object", "obj", "crowd", "segmentation"))
"""What stands before the number in a name and says nothing."""
_NUMBERED = re.compile(r"([^\W\d_].*?)[ _-]+\d+")


class MaskFile(NamedTuple):
    """One mask: where it lies below the folder of its picture, and what that says."""

    path: str
    category: str
    """'' where the path names none."""

    @property
    def crowd(self) -> bool:
        return PurePosixPath(self.path).name.startswith(CROWD)


class Part(NamedTuple):
    """The files of one split."""

    home: Path
    pairs: tuple[Pair, ...]
    problems: tuple[Problem, ...]


def detect(root: Path) -> str | None:
    for part in _parts(root).values():
        pair = part.pairs[0]
        return f"{relative(root, pair.labels)} holds the masks of {relative(root, pair.picture)}"
    return None


def splits(root: Path) -> tuple[str, ...]:
    return tuple(_parts(root))


def read(root: Path, *, split: str | None = None) -> DataSet:
    parts = _parts(root)
    part = parts[split := one_split(root, tuple(parts), split)]
    stated = read_categories(part.home, ()) if (part.home / CATEGORIES_FILE).is_file() else None
    stems = _in_each_other(part.pairs)
    listed = [_listed(pair, stems, None if stated is None else stated.names) for pair in part.pairs]
    categories = Categories(names=tuple(sorted(_names(listed)))) if stated is None else stated
    if stated is None and categories.names == (OBJECT,):
        listed = [tuple(mask._replace(category=OBJECT) for mask in masks) for masks in listed]
    records = tuple(
        Record(
            name=relative(root, pair.picture),
            path=pair.picture,
            id=pair.key,
            size=None,
            labelled=partial(_labelled, root, pair, masks, categories),
        )
        for pair, masks in zip(part.pairs, listed, strict=True)
    )
    return DataSet("mask_folder", root, split, categories, records, part.problems)


def write(root: Path, categories: Categories, items: Iterable[Item], *, split: str = "train") -> Written:
    """Masks are called by their ids where these are numbers, else 1, 2, 3 ..."""
    home = root / split
    losses: Counter[str] = Counter()
    _refuse_long(home, categories)
    files = [write_categories(home, categories)]
    taken: dict[str, str] = {}
    stems = {home / "masks" / key: path.stem for key, path in _there(root, home / "images").items()}
    for item in items:
        name = inner_name(item.name, split)
        key = claim(taken, name.with_suffix("").as_posix(), item)
        refuse_unknown_suffix(item, name)
        if not fits(home, item.name, name, key):
            losses[TOO_LONG] += 1
            continue
        own = _numbers(item)
        losses += renumbered(item, dict(enumerate(own))) + unheld(item.labelled, held=("crowd flags",))
        files += put_picture(item, home / "images" / name)
        stems[home / "masks" / key] = name.stem
        _clear(home / "masks" / key, stems, categories.names)
        made = _write_masks(home / "masks" / key, item.labelled, own, categories)
        losses["instances without pixels"] += len(item.labelled) - len(made)
        files += made
    return Written(tuple(files), +losses)


# Which files


def _parts(root: Path) -> dict[str, Part]:
    beside = {name: _apart(root, *pair) for name, pair in folder_pairs(root).items()}
    found = {name: part for name, part in beside.items() if part.pairs}
    if found:
        return found
    bowls = {"": _bowl(root, root)} | {folder.name: _bowl(root, folder) for folder in subfolders(root)}
    return {name: part for name, part in bowls.items() if not all(map(_is_label_map, part.pairs))}


def _is_label_map(pair: Pair) -> bool:
    """Whether what lies in `masks/` has the name of the picture: an image of ids, not a mask."""
    return pair.picture.stem in {path.stem for path in pictures_in(pair.labels)}


def _apart(root: Path, pictures: Path, labels: Path) -> Part:
    """`images/a.png` and the folder `masks/a/`."""
    found, problems = by_key(root, pictures)
    folders = {key: labels / key for key in found if (labels / key).is_dir()}
    claimed = {PurePosixPath(key).parts[0] for key in folders}
    stray = [f for f in subfolders(labels) if f.name not in claimed and list_images(f)]
    pairs, unpaired = paired(root, found, folders | {f.name: f for f in stray})
    home = pictures.parent if pictures.parent == labels.parent else root
    return Part(home, tuple(pairs) if folders else (), (*problems, *unpaired))


def _bowl(root: Path, folder: Path) -> Part:
    """`<id>/images/<id>.png` and the folder `<id>/masks/`."""
    pairs, problems = [], []
    for place in subfolders(folder):
        pictures, masks = pictures_in(place / "images"), place / "masks"
        if len(pictures) == 1 and masks.is_dir():
            pairs.append(Pair(place.name, pictures[0], masks))
        elif len(pictures) == 1:
            message = "no folder of masks labels this picture; it was left out"
            problems.append(Problem(relative(root, pictures[0]), "", "missing-labels", message, "warning"))
        elif masks.is_dir():
            message = f"one picture was expected in {place.name}/images, found {len(pictures)}; left out"
            problems.append(Problem(relative(root, masks), "", "missing-image", message))
    return Part(folder, tuple(pairs), tuple(problems))


# Reading


def _listed(pair: Pair, stems: Mapping[Path, str], names: Collection[str] | None) -> tuple[MaskFile, ...]:
    paths = list_images(pair.labels)
    if pair.labels in stems:
        paths = [path for path in paths if _owner(path, stems, names) == pair.labels]
    inner = [path.relative_to(pair.labels) for path in paths]
    return tuple(MaskFile(path.as_posix(), _category(path, pair.picture.stem)) for path in inner)


def _in_each_other(pairs: Sequence[Pair]) -> dict[Path, str]:
    """Folders of masks that lie in another one or hold one, mostly none, with the names of their pictures."""
    keys = {pair.key for pair in pairs}
    above = {key: keys.intersection(accumulate(key.split("/")[:-1], "{}/{}".format)) for key in keys if "/" in key}
    found = {key for key, outer in above.items() if outer}.union(*above.values())
    return {pair.labels: pair.picture.stem for pair in pairs if pair.key in found}


def _owner(mask: Path, stems: Mapping[Path, str], names: Collection[str] | None) -> Path | None:
    """Of folders of masks in each other, with the names of their pictures, the one that a mask belongs to: the inmost;
    where it is stated which classes there are, the inmost in which it has one. `a/b/1.png` may be a mask of `a/b.png`,
    or one of class b of `a.png`."""
    above = [folder for folder in mask.parents if folder in stems]
    if names is None or len(above) < 2:
        return above[0] if above else None
    fitting = (folder for folder in above if _category(mask.relative_to(folder), stems[folder]) in names)
    return next(fitting, above[0])


def _category(path: Path, picture: str) -> str:
    if len(path.parts) > 1:
        return unquote(path.parts[0])
    stem = path.stem.removeprefix(CROWD).removeprefix(picture).lstrip(" _-")
    found = _NUMBERED.fullmatch(stem)
    return "" if found is None or found[1].lower() in NO_CLASSES else found[1]


def _names(listed: Sequence[Sequence[MaskFile]]) -> set[str]:
    """The classes that names of files tell; `object` alone where not all of them tell one."""
    names = {mask.category for masks in listed for mask in masks}
    return {OBJECT} if "" in names or not names else names


def _labelled(root: Path, pair: Pair, masks: tuple[MaskFile, ...], categories: Categories) -> Labelled:
    size = image_size(pair.picture)
    kept, found = [], [Masks.none(size)]
    problems = [_unknown(root, pair, mask) for mask in masks if mask.category not in categories.names]
    for mask in (mask for mask in masks if mask.category in categories.names):
        read = _read_mask(root, pair.labels / mask.path, size)
        if isinstance(read, Problem):
            problems.append(read)
        else:
            kept.append(mask)
            found.append(read)
    together = Masks.cat(found)
    targets = Targets.from_masks(
        together,
        torch.tensor([categories.label_of(mask.category) for mask in kept], dtype=torch.int64),
        crowd=torch.tensor([mask.crowd for mask in kept], dtype=torch.bool),
    )
    if overlap := _overlap(together):
        message = f"{overlap} pixels belong to more than one mask; all masks were kept whole"
        problems.append(Problem(relative(root, pair.labels), "", "overlapping-masks", message, "warning"))
    return Labelled(targets, tuple(_id(mask) for mask in kept), tuple(problems))


def _unknown(root: Path, pair: Pair, mask: MaskFile) -> Problem:
    message = f"{mask.category!r} is no category of this data set; it was left out"
    return Problem(relative(root, pair.labels / mask.path), "", "unknown-category", message)


def _id(mask: MaskFile) -> int | str:
    """The number that is the name of the file, else its path."""
    stem = PurePosixPath(mask.path).stem.removeprefix(CROWD)
    return int(stem) if stem.isascii() and stem.isdigit() and stem == str(int(stem)) else mask.path


def _read_mask(root: Path, path: Path, size: tuple[int, int]) -> Masks | Problem:
    file = relative(root, path)
    try:
        ids = read_label_map(path)
    except ImageReadError as error:
        return Problem(file, "", "unreadable-labels", f"{error.reason}; left out")
    if (problem := size_problem(file, size, ids.shape)) is not None:
        return problem
    if not ids.any():
        return Problem(file, "", "empty-mask", "no pixel of this mask is set; it was left out")
    return Masks.from_dense(torch.from_numpy(ids > 0)[None])


def _overlap(masks: Masks) -> int:
    covers = np.zeros(masks.size, np.uint16)
    for window in masks.crops():
        height, width = window.bits.shape
        covers[window.y0 : window.y0 + height, window.x0 : window.x0 + width] += window.bits
    return int((covers > 1).sum())


# Writing


def _there(root: Path, pictures: Path) -> dict[str, Path]:
    """Pictures that were written before, by their path without suffix."""
    return by_key(root, pictures)[0] if pictures.is_dir() else {}


def _clear(folder: Path, stems: Mapping[Path, str], names: Collection[str]) -> None:
    """Remove the masks that a picture had before; another one may have its own below them."""
    for path in [path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES]:
        if _owner(path, stems, names) == folder:
            path.unlink()


def _refuse_long(home: Path, categories: Categories) -> None:
    home.mkdir(parents=True, exist_ok=True)
    if bad := [name for name in categories.names if is_too_long(home / _quoted(name))]:
        raise ValueError(f"category {bad[0]!r:.80} is too long for the name of a folder")


def _write_masks(folder: Path, labelled: Targets | Instances, own: Sequence[int], categories: Categories) -> list[Path]:
    files = []
    folder.mkdir(parents=True, exist_ok=True)
    crowd = labelled.crowd.tolist() if isinstance(labelled, Targets) else [False] * len(labelled)
    rows = zip(labelled.masks.area().tolist(), labelled.labels.tolist(), crowd, own, strict=True)
    for i, (area, label, is_crowd, number) in enumerate(rows):
        if not area:
            continue
        place = folder / _quoted(categories.name(label))
        files.append(place / f"{CROWD if is_crowd else ''}{number}.png")
        write_png(files[-1], white(labelled.masks[[i]]))
    return files


def _numbers(item: Item) -> list[int]:
    ids = [i for i in item.ids or () if isinstance(i, int) and i >= 0]
    return ids if len(set(ids)) == len(item.labelled) else list(range(1, len(item.labelled) + 1))


def _quoted(name: str) -> str:
    """A name of a category as the name of a folder."""
    text = quote(name, safe=" ()+,;=@!'&")
    return text.replace(".", "%2E") if not text.strip(". ") or text.startswith(".") else text

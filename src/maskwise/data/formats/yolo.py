"""YOLO segmentation: `data.yaml`, pictures below images/, and beside that labels/ with a text file a picture.

A line is `class x y x y ...` in shares of the width and the height. In predictions, as Ultralytics writes them, a
confidence follows, which makes the count odd, as a number that got lost does. So what most lines of a split say counts
for all of it, and the others are damaged.

One ring a line, so holes and parts are joined by keyholes (`rings.one_ring`): paths of no width that the even-odd rule
does not see, so that masks read back pixel for pixel. Classes are numbered from 0. Not held: crowds (left out, not
turned into objects), ids, quality, keypoints. A picture without a label file counts as one without objects.

PyYAML reads the configuration: a parser of our own would differ from it in quotes, escapes and anchors.
"""

import contextlib
import itertools
import math
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import yaml

from maskwise import outlines
from maskwise.categories import Categories
from maskwise.data.dataset import DataSet, Item, Labelled, Problem, Record, Written
from maskwise.data.files import absolute, exists, replacing
from maskwise.data.formats.coco_index import Problems
from maskwise.data.formats.folders import one_split, relative, visible
from maskwise.data.formats.painting import renumbered, unheld
from maskwise.data.formats.pictures import TOO_LONG, claim, fits, inner_name, put_picture, refuse_unknown_suffix
from maskwise.data.formats.rings import FARTHEST, one_ring, usable
from maskwise.data.formats.sidecars import scores_of
from maskwise.data.images import image_size, list_images
from maskwise.masks import Masks
from maskwise.outlines import Polygon
from maskwise.rle import Size, Window
from maskwise.structures import Instances, Targets

SPLITS = ("train", "val", "test")
DIGITS = 9
"""After the point: exact to a thousandth of a pixel in a picture of a million."""
_BOX = 4
_ASKED, _OPENED = 64, 1000
"""Files with outlines that say whether lines end in a confidence; and how many are opened to find them."""


class Listing(NamedTuple):
    """What a `data.yaml` says."""

    file: Path
    root: Path
    categories: Categories
    splits: Mapping[str, tuple[str, ...]]
    """Folders of pictures, or text files that list them."""
    nameless: tuple[int, ...] = ()
    """Classes whose name is empty."""


def detect(root: Path) -> str | None:
    path = _yaml_in(root)
    return None if path is None else f"{path.name} has names and splits"


def splits(root: Path) -> tuple[str, ...]:
    """Those that are there: Roboflow names a test set also where it made none."""
    return _there(_listing(root))


def read(root: Path, *, split: str | None = None) -> DataSet:
    listing = _listing(root)
    there = _there(listing)
    split = one_split(root, there if split is None else tuple(listing.splits), split)
    problems = Problems(relative(listing.root, listing.file))
    for absent in [name for name in listing.splits if name not in (*there, split)]:
        problems.add("", "missing-split", f"{absent}: there is no {', '.join(listing.splits[absent])}", "warning")
    for id_ in listing.nameless:
        problems.add(f"class {id_}", "nameless-category", f"its name is empty; called {_instead(id_)!r}")
    places: dict[str, Path] = {}
    labels: dict[str, Path] = {}
    sources = {source: _pictures(listing, source, problems) for source in listing.splits[split]}
    home = _home(listing, sources)
    for source in listing.splits[split]:
        folder, pictures = sources[source]
        for path in pictures:
            name = absolute(path).relative_to(home).as_posix()
            if name in places:
                problems.add(source, "duplicate-file", f"{name} is listed twice; it was read once", "warning")
                continue
            places[name], labels[name] = path, _labels_of(home, path)
        if not source.endswith(".txt"):
            problems.found.extend(_orphans(listing.root, home, folder, pictures))
    if without := sum(not exists(path) for path in labels.values()):
        message = f"{without} of {len(places)} pictures have no label file; they count as without objects"
        problems.add(split, "missing-labels", message, "warning")
    scored = _end_in_confidences(list(labels.values()))
    records = []
    for name, path in places.items():
        decode = partial(_labelled, listing.root, path, labels[name], listing.categories, scored)
        records.append(Record(name=name, path=path, id=name, size=None, labelled=decode))
    return DataSet("yolo", listing.root, split, listing.categories, tuple(records), tuple(problems.found))


def write(root: Path, categories: Categories, items: Iterable[Item], *, split: str = "train") -> Written:
    """`images/<split>/`, `labels/<split>/` and `data.yaml`, to which a further split is added."""
    losses: Counter[str] = Counter()
    if categories.ids != tuple(range(len(categories))):
        losses["category ids"] = len(categories)
    config = _config(root, categories, split)
    files, taken = [], {}
    for item in items:
        name = inner_name(item.name, split)
        key = claim(taken, name.with_suffix("").as_posix(), item)
        refuse_unknown_suffix(item, name)
        if not fits(root, item.name, name, f"{key}.txt"):
            losses[TOO_LONG] += 1
            continue
        files += put_picture(item, root / "images" / split / name)
        lines, lost = _lines(item)
        losses += lost
        files.append(_save(root / "labels" / split / f"{key}.txt", "".join(f"{line}\n" for line in lines)))
    (root / "images" / split).mkdir(parents=True, exist_ok=True)
    files.append(_save(root / "data.yaml", yaml.safe_dump(config, sort_keys=False, allow_unicode=True)))
    return Written(tuple(files), losses)


# The configuration


def _yaml_in(root: Path) -> Path | None:
    """The file that says what the classes are called and where the splits are."""
    paths = [root] if root.is_file() else visible(root)
    candidates = [p for p in paths if p.suffix.lower() in (".yaml", ".yml") and p.is_file()]
    candidates.sort(key=lambda p: p.stem not in ("data", "dataset"))
    for path in candidates:
        try:
            content = _parse(path)
        except ValueError:
            if path.stem in ("data", "dataset"):
                return path  # so that reading it says what is wrong
            continue
        if "names" in content and not content.keys().isdisjoint(SPLITS):
            return path
    return None


def _parse(path: Path) -> dict[object, object]:
    try:
        content = yaml.safe_load(path.read_text("utf-8-sig"))
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        raise ValueError(
            f"{path}: not readable as YAML: {str(error).splitlines()[0] if str(error) else error!r}"
        ) from None
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected names and splits, got {type(content).__name__}")
    return content


def _listing(root: Path) -> Listing:
    path = _yaml_in(root)
    if path is None:
        raise ValueError(f"{root}: no YAML file with 'names' and one of {', '.join(SPLITS)}")
    content = _parse(path)
    base = path.parent
    stated = content.get("path")
    if isinstance(stated, str) and (base / stated).is_dir():
        base = base / stated
    found: dict[str, tuple[str, ...]] = {}
    for name in (*SPLITS, "valid"):
        value = content.get(name)
        sources = value if isinstance(value, list) else [value]
        if value and all(isinstance(source, str) for source in sources):
            found[name] = tuple(str(source) for source in sources)
        elif value:
            raise ValueError(f"{path}: {name!r} must be a path or a list of paths, got {type(value).__name__}")
    named = _named(content.get("names"), path)
    nameless = tuple(id_ for id_, name in named.items() if not name)
    return Listing(path, base, _categories(named, path), found, nameless)


def _named(names: object, path: Path) -> dict[int, str]:
    """Classes are numbered from 0 in a list, as they say in a mapping."""
    match names:
        case list():
            numbered: dict[object, object] = dict(enumerate(names))
        case dict():
            numbered = dict(names)
        case _:
            raise ValueError(f"{path}: 'names' must be a list or numbers with names, got {type(names).__name__}")
    ids = [id_ for id_ in numbered if type(id_) is int and id_ >= 0]
    if len(ids) != len(numbered):
        raise ValueError(f"{path}: classes are numbered 0, 1, 2 ..., got {list(numbered)!r:.120}")
    for id_, name in numbered.items():
        if not isinstance(name, str | int | float):  # a list may be short in the file and endless as text
            raise ValueError(f"{path}: the name of class {id_} must be text, got {type(name).__name__}")
    return {id_: str(numbered[id_]) for id_ in sorted(ids)}


def _categories(named: Mapping[int, str], path: Path) -> Categories:
    """Those without a name are called by their number, as other formats need one."""
    try:
        return Categories(names=tuple(name or _instead(id_) for id_, name in named.items()), ids=tuple(named))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _instead(id_: int) -> str:
    return f"category {id_}"


def _config(root: Path, categories: Categories, split: str) -> dict[str, object]:
    """What is in the root already, with this split; it must name the same classes. Under the names that trainers look
    for: a split that has none of these is learned from, and of two for one name both stand there."""
    names = dict(enumerate(categories.names))
    path = root / "data.yaml"
    known = _parse(path) if path.is_file() else {}
    if known and _named(known.get("names"), path) != names:
        raise ValueError(f"{path} names other categories; write to another folder")
    kept = {str(k): v for k, v in known.items() if k != "names"}
    name = next((name for name in SPLITS if re.search(rf"(?<![a-z]){name}", split.lower())), SPLITS[0])
    folder, before = f"images/{split}".rstrip("/"), kept.get(name, [])
    folders = [*before] if isinstance(before, list) else [before]
    if folder not in folders:
        folders.append(folder)
    return {**kept, name: folders[0] if len(folders) == 1 else folders, "names": names}


# Pictures and their labels


def _there(listing: Listing) -> tuple[str, ...]:
    """Splits with a place that exists; all of them where none has."""
    found = [name for name, places in listing.splits.items() if any(_place(listing, one).exists() for one in places)]
    return tuple(found or listing.splits)


def _place(listing: Listing, source: str) -> Path:
    """Roboflow writes '../train/images' for what lies beside the file."""
    plain = source.replace("\\", "/")
    choices = [
        base / inner for base in (listing.root, listing.file.parent) for inner in (plain, plain.removeprefix("../"))
    ]
    return next((choice for choice in choices if choice.exists()), choices[0])


def _pictures(listing: Listing, source: str, problems: Problems) -> tuple[Path, list[Path]]:
    """The folder, and the pictures in it or in a list."""
    path = _place(listing, source)
    if path.is_dir():
        return path, list_images(path)
    if path.suffix.lower() != ".txt":
        raise ValueError(f"{listing.file}: there is no folder {source}")
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: {error}") from None
    found = []
    for number, line in enumerate(lines, 1):
        inner = line.strip().replace("\\", "/")
        if not inner:
            continue
        if "\0" in inner:
            problems.add(f"{path.name} line {number}", "missing-image", f"no file has the name {inner!r:.80}; left out")
            continue
        options = [path.parent / inner, listing.root / inner]
        found.append(next((option for option in options if exists(option)), options[0]))
    return path.parent, found


def _home(listing: Listing, read: Mapping[str, tuple[Path, list[Path]]]) -> Path:
    """What names begin below: the root, or what it shares with the places of pictures outside of it.

    Those of all splits, so that a name is that of one picture in all of them.
    """
    folders = {listing.root}
    for source in itertools.chain(*listing.splits.values()):
        place = _place(listing, source)
        if place.is_dir():
            folders.add(place)
        elif source in read:
            folders.update(path.parent for path in read[source][1])
        elif place.exists():
            with contextlib.suppress(ValueError):  # which is for the reader of that split
                folders.update(path.parent for path in _pictures(listing, source, Problems(""))[1])
    return Path(os.path.commonpath([absolute(folder) for folder in folders]))


def _labels_of(home: Path, picture: Path) -> Path:
    """The last folder called images is labels; one above `home` only where no labels lie beside the picture."""
    parts, beside = list(picture.parent.parts), picture.parent / f"{picture.stem}.txt"
    above = max(0, len(parts) - len(absolute(picture.parent).parts) + len(home.parts))
    if "images" not in parts or ("images" not in parts[above:] and exists(beside)):
        return beside
    parts[len(parts) - 1 - parts[::-1].index("images")] = "labels"
    return Path(*parts) / beside.name


def _orphans(root: Path, home: Path, folder: Path, pictures: Sequence[Path]) -> list[Problem]:
    """Label files without a picture, of a folder that was read as a whole."""
    labels = _labels_of(home, folder / "x").parent
    if labels == folder or not labels.is_dir():
        return []
    known = {_labels_of(home, path) for path in pictures}
    found = [path for path in sorted(labels.rglob("*.txt")) if path not in known and path.name != "classes.txt"]
    return [
        Problem(relative(root, path), "", "missing-image", "there is no picture for these labels") for path in found
    ]


# Lines


def _end_in_confidences(labels: Sequence[Path]) -> bool:
    """What most lines with an outline do, of files that are spread over the split."""
    step = max(1, len(labels) // _ASKED)
    spread = itertools.chain.from_iterable(labels[start::step] for start in range(step))
    opened = itertools.islice(spread, _OPENED)
    counts = ([len(words) - 1 for _, words in _rows(path, Problems(""))] for path in opened)
    outlined = ([count for count in of_file if count > _BOX + 1] for of_file in counts)
    votes = [count % 2 for of_file in itertools.islice(filter(None, outlined), _ASKED) for count in of_file]
    return 2 * sum(votes) > len(votes)


class _Line(NamedTuple):
    number: int
    label: int
    window: Window
    confidence: float | None


def _labelled(root: Path, picture: Path, labels: Path, categories: Categories, scored: bool) -> Labelled:
    """`scored`: lines end in a confidence."""
    size, problems = image_size(picture), Problems(relative(root, labels))
    decoded = (_decoded(*row, size, categories, scored, problems) for row in _rows(labels, problems))
    lines = [line for line in decoded if line is not None]
    masks = Masks.of([line.window for line in lines], size)
    targets = Targets.from_masks(masks, torch.tensor([line.label for line in lines], dtype=torch.int64))
    # the one confidence ranks boxes and masks; no quality is known
    values = [None if line.confidence is None else (line.confidence, 1.0, line.confidence) for line in lines]
    scores = scores_of(values, partial(problems.add, ""))
    return Labelled(targets, tuple(line.number for line in lines), tuple(problems.found), scores)


def _rows(labels: Path, problems: Problems) -> list[tuple[int, list[str]]]:
    """Words of each line that has any."""
    if not exists(labels):
        return []
    try:
        text = labels.read_text("utf-8-sig")
    except (OSError, ValueError) as error:
        problems.add("", "unreadable-labels", f"{error}; left out")
        return []
    return [(number, words) for number, line in enumerate(text.splitlines(), 1) if (words := line.split())]


def _decoded(
    number: int, words: list[str], size: Size, categories: Categories, scored: bool, problems: Problems
) -> _Line | None:
    where = f"line {number}"
    try:
        values = [float(word) for word in words]
    except ValueError:
        values = [math.nan]
    if not all(abs(value) <= FARTHEST for value in values):
        problems.add(where, "bad-number", f"expected numbers that can be shares, got {' '.join(words)!r:.80}; left out")
        return None
    class_, *shares = values
    if class_ != int(class_) or not categories.has_id(int(class_)):
        problems.add(where, "unknown-category", f"there is no class {words[0]:.40}; left out")
        return None
    if len(shares) in (_BOX, _BOX + 1):
        problems.add(where, "box-only", "a box, but no outline; left out")
        return None
    if len(shares) > _BOX and len(shares) % 2 != scored:
        parity, end = ("even", "a confidence") if scored else ("odd", "no confidence")
        message = f"an {parity} count of {len(shares)} numbers, but most lines here end in {end}; left out"
        problems.add(where, "degenerate-polygon", message)
        return None
    confidence = shares.pop() if len(shares) % 2 else None
    if len(shares) < _BOX:
        problems.add(where, "degenerate-polygon", f"{len(shares)} coordinates, expected 6 or more; left out")
        return None
    points = np.array(shares).reshape(-1, 2) * (size[1], size[0])
    ring = usable(points, size, partial(problems.add, where))
    if ring is None:
        return None
    window = outlines.fill([Polygon(ring, [])], size)
    if not window.bits.any():
        problems.add(where, "empty-mask", "the mask has no pixel in the picture; left out")
        return None
    return _Line(number, categories.label(int(class_)), window, confidence)


def _lines(item: Item) -> tuple[list[str], Counter[str]]:
    """One an instance that has pixels and is no crowd; of predictions the mask score is the confidence."""
    labelled = item.labelled
    areas = labelled.masks.area().tolist()
    crowd = labelled.crowd.tolist() if isinstance(labelled, Targets) else [False] * len(areas)
    kept = [i for i, area in enumerate(areas) if area and not crowd[i]]
    losses = unheld(labelled, held=("crowd flags",)) + renumbered(item, {i: row for row, i in enumerate(kept, 1)})
    losses["crowd regions left out"] = sum(crowd)
    losses["instances without pixels"] = areas.count(0)
    if isinstance(labelled, Instances):
        losses["qualities"] = losses.pop("scores", 0)
    lines, outlines = [], labelled.masks.outlines()
    for i in kept:
        shares = one_ring(outlines[i]) / (item.size[1], item.size[0])
        words = [str(int(labelled.labels[i])), *map(_short, shares.ravel().tolist())]
        if isinstance(labelled, Instances):
            words.append(f"{labelled.mask_scores[i]:.9g}")  # as many digits as tell 32-bit floats apart
        lines.append(" ".join(words))
    return lines, +losses


def _short(number: float) -> str:
    return f"{number:.{DIGITS}f}".rstrip("0").rstrip(".")


def _save(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        file.write(text.encode())
    return path

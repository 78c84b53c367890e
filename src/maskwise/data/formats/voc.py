"""Pascal VOC: JPEGImages/, SegmentationObject/ and SegmentationClass/ with palette PNGs, ImageSets/Segmentation/ lists.

A pixel's number in SegmentationObject is its instance, in SegmentationClass its class; an instance has the class that
most of its pixels have. 255 is neither object nor background: the band around objects, and what was too hard to label.
It belongs to no mask here, and `ignored` gives it to whoever judges by VOC's rules. Written the other way round,
crowds, which this format has not, become 255.

Classes are those of the challenge unless `labelmap.txt` (name:red,green,blue::, as CVAT writes) or `class_names.txt`
(background first, as LabelMe writes) names others. Maps in RGB instead of a palette are read by their colours.
"""

from collections import Counter
from collections.abc import Iterable
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from jaxtyping import Bool, Int32, UInt8

from maskwise.categories import Categories
from maskwise.data.dataset import DataSet, Item, Labelled, Problem, Record, Written
from maskwise.data.files import replacing
from maskwise.data.formats.folders import Pair, by_key, one_split, read_ids, relative, visible
from maskwise.data.formats.painting import numbers, paint, renumbered, unheld, write_png
from maskwise.data.formats.pictures import TOO_LONG, claim, fits, inner_name, put_picture, refuse_unknown_suffix
from maskwise.data.images import ImageReadError, read_image, read_label_map
from maskwise.masks import Masks
from maskwise.structures import Targets

VOID = 255
MOST = 254

CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog"),
    *("horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
LISTS = Path("ImageSets/Segmentation")
_LEFT_OUT = "no pixel of it has a class; it was left out"


def palette() -> UInt8[np.ndarray, "256 3"]:
    """The colours of VOC: bits 0, 3, 6 of the number are the upper bits of red, 1, 4, 7 of green, 2, 5 of blue."""
    number, colours = np.arange(256), np.zeros((256, 3), np.uint8)
    for bit in range(8):
        colours |= ((number[:, None] >> (3 * bit + np.arange(3))) & 1).astype(np.uint8) << (7 - bit)
    return colours


def detect(root: Path) -> str | None:
    folders = [_folder(root, name) for name in ("SegmentationObject", "SegmentationClass")]
    if not all(folder.is_dir() for folder in folders):
        return None
    return f"there are folders {' and '.join(folder.name for folder in folders)}"


def splits(root: Path) -> tuple[str, ...]:
    """Without the list of all where its parts are there; it can be asked for."""
    lists = _lists(root)
    return tuple(name for name in lists if name != "trainval" or not {"train", "val"} <= set(lists))


def read(root: Path, *, split: str | None = None) -> DataSet:
    split = one_split(root, splits(root) if split is None else _lists(root), split)
    categories, colours = _categories(root)
    pictures, problems = by_key(root, root / "JPEGImages")
    objects, more = by_key(root, _folder(root, "SegmentationObject"))
    classes, _ = by_key(root, _folder(root, "SegmentationClass"))
    problems += more
    wanted, repeated = _listed(root, split) if split else (list(objects), [])
    problems += repeated
    records = []
    for key in wanted:
        if missing := _missing(root, key, pictures, objects, classes):
            problems.append(missing)
            continue
        name = relative(root, pictures[key])
        labelled = partial(_labelled, root, Pair(key, pictures[key], objects[key]), classes[key], categories, colours)
        records.append(Record(name=name, path=pictures[key], id=key, size=None, labelled=labelled))
    return DataSet("voc", root, split, categories, tuple(records), tuple(problems))


def ignored(record: Record) -> Bool[np.ndarray, "h w"]:
    """The pixels of a record of this format that count neither as object nor as background."""
    assert isinstance(record.labelled, partial)
    return _indices(record.labelled.args[1].labels) == VOID


def write(root: Path, categories: Categories, items: Iterable[Item], *, split: str = "train") -> Written:
    """Where masks overlap, one is in front (`painting.paint`). Pictures keep the format they have."""
    ids = categories.ids if all(1 <= i <= MOST for i in categories.ids) else tuple(range(1, len(categories) + 1))
    if len(ids) > MOST:
        raise ValueError(f"{len(ids)} categories, but this format holds at most {MOST}")
    losses: Counter[str] = Counter({"category ids": len(ids)} if ids != categories.ids else {})
    files, others = [_write_labelmap(root, categories, ids)], _others(root, split)
    taken: dict[str, str] = {}
    listed: list[str] = []
    for item in items:
        name = _own_name(root, item, split, others)
        key = claim(taken, name.with_suffix("").as_posix(), item)
        if key != key.strip() or "\n" in key:
            raise ValueError(f"{item.name!r}: a list of names, one a line, cannot hold this one")
        refuse_unknown_suffix(item, name)
        if not fits(root, item.name, name, f"{key}.png"):
            losses[TOO_LONG] += 1
            continue
        listed.append(key)
        files += put_picture(item, root / "JPEGImages" / name)
        maps, lost = _maps(item, ids)
        losses += lost
        for folder, values in maps.items():
            files.append(root / folder / f"{key}.png")
            write_png(files[-1], values, colours=palette())
    files.append(root / LISTS / f"{split}.txt")
    files[-1].parent.mkdir(parents=True, exist_ok=True)
    with replacing(files[-1]) as file:
        file.write("".join(f"{key}\n" for key in listed).encode(errors="surrogateescape"))
    return Written(tuple(files), losses)


def _lists(root: Path) -> tuple[str, ...]:
    return tuple(path.stem for path in visible(root / LISTS) if path.suffix == ".txt") or ("",)


def _others(root: Path, split: str) -> dict[str, str]:
    """Keys that lists of other splits have, and these lists: all splits share one folder of pictures."""
    lists = (name for name in _lists(root) if name not in ("", split))
    return {key: name for name in lists for key in _listed(root, name)[0]}


def _own_name(root: Path, item: Item, split: str, others: dict[str, str]) -> PurePosixPath:
    """The name of a picture, in a folder of its split where another split has that name."""
    name = inner_name(item.name, split)
    names = (name, split / name)
    keys = [one.with_suffix("").as_posix() for one in names]
    free = next((one for one, key in zip(names, keys, strict=True) if key not in others), None)
    if free is None:
        path = root / LISTS / f"{others[keys[0]]}.txt"
        raise ValueError(f"{path} lists {' and '.join(keys)} already; rename {item.name}")
    return free


def _folder(root: Path, name: str) -> Path:
    """LabelMe has written PNGs to ...PNG and arrays to the folder without."""
    return png if (png := root / f"{name}PNG").is_dir() else root / name


def _listed(root: Path, split: str) -> tuple[list[str], list[Problem]]:
    path = root / LISTS / f"{split}.txt"
    try:
        text = path.read_text("utf-8-sig", errors="surrogateescape")  # names of files may be no text
        lines = [line.strip() for line in text.split("\n")]  # names may hold other separators
    except OSError as error:
        raise ValueError(f"{path}: {error}") from None
    keys: dict[str, None] = {}
    problems = []
    for n, line in enumerate(lines, 1):
        if line in keys:
            message = f"{line} was listed before; it was read once"
            problems.append(Problem(relative(root, path), f"line {n}", "duplicate-file", message, "warning"))
        elif line:
            keys[line] = None
    return list(keys), problems


def _missing(
    root: Path, key: str, pictures: dict[str, Path], objects: dict[str, Path], classes: dict[str, Path]
) -> Problem | None:
    if key not in pictures:
        return Problem(f"JPEGImages/{key}", "", "missing-image", "there is no picture of this name; left out")
    for folder, found in (("SegmentationObject", objects), ("SegmentationClass", classes)):
        if key not in found:
            return Problem(relative(root, pictures[key]), "", "missing-labels", f"nothing in {folder}; left out")
    return None


def _labelled(root: Path, pair: Pair, classes: Path, categories: Categories, colours: dict[int, int]) -> Labelled:
    found = read_ids(root, pair.picture, pair.labels, decode=_indices)
    of_class = read_ids(root, pair.picture, classes, decode=partial(_indices, colours=colours))
    problems = [*found.problems, *of_class.problems]
    if found.ids is None or of_class.ids is None:
        return Labelled(Targets.none(found.size), (), tuple(problems))
    file = relative(root, pair.labels)
    masks, ids = Masks.from_label_map(found.ids, background=(0, VOID))
    kept, labels = [], []
    for i, (number, window) in enumerate(zip(ids, masks.crops(), strict=True)):
        height, width = window.bits.shape
        region = of_class.ids[window.y0 : window.y0 + height, window.x0 : window.x0 + width]
        label, complaint = _class_of(region[window.bits], categories)
        if complaint:
            rule, severity = ("unknown-category", "error") if label is None else ("mixed-classes", "warning")
            problems.append(Problem(file, f"instance {number}", rule, complaint, severity))
        if label is not None:
            kept.append(i)
            labels.append(label)
    orphans = int(((of_class.ids != 0) & (of_class.ids != VOID) & (found.ids == 0)).sum())
    if orphans:
        message = f"{orphans} pixels have a class but belong to no instance; they were left out"
        problems.append(Problem(file, "", "class-without-instance", message, "warning"))
    targets = Targets.from_masks(masks[kept], torch.tensor(labels, dtype=torch.int64))
    return Labelled(targets, tuple(ids[i] for i in kept), tuple(problems))


def _class_of(values: Int32[np.ndarray, " n"], categories: Categories) -> tuple[int | None, str]:
    """Label of most of the pixels of an instance, and what is odd about them."""
    counts = np.bincount(values, minlength=VOID + 1)
    counts[[0, VOID]] = 0
    number = int(counts.argmax())
    most = int(counts[number])
    if not most:
        return None, _LEFT_OUT
    if not categories.has_id(number):
        return None, f"class {number} has no name; it was left out"
    label = categories.label(number)
    if most == len(values):
        return label, ""
    return label, f"only {most} of its {len(values)} pixels are {categories.name(label)}; it was taken for one"


def _indices(path: Path, *, colours: dict[int, int] | None = None) -> Int32[np.ndarray, "h w"]:
    """Numbers of a map: as stored where it has a palette or is grey, by their colours where it is RGB."""
    if not _is_rgb(path):
        return read_label_map(path)
    red, green, blue = np.moveaxis(read_image(path).astype(np.int32), -1, 0)
    codes, places = np.unique((red << 16) | (green << 8) | blue, return_inverse=True)
    known = {code: number for number, code in enumerate(_codes(palette()))} | (colours or {})
    if unknown := [code for code in codes.tolist() if code not in known]:
        shown = (unknown[0] >> 16, (unknown[0] >> 8) & 255, unknown[0] & 255)
        raise ImageReadError(str(path), f"{len(unknown)} colours that stand for nothing, such as {shown}")
    return np.array([known[code] for code in codes.tolist()], np.int32)[places].reshape(red.shape)


def _is_rgb(path: Path) -> bool:
    """Whether a PNG stores colours: its colour type, in the header."""
    try:
        with path.open("rb") as file:
            header = file.read(26)
    except OSError:
        return False
    return header[1:4] == b"PNG" and header[25:26] in (b"\x02", b"\x06")


def _codes(colours: UInt8[np.ndarray, "n 3"]) -> list[int]:
    return (colours.astype(np.int64) @ np.array([1 << 16, 1 << 8, 1])).tolist()


# Names of the classes


def _categories(root: Path) -> tuple[Categories, dict[int, int]]:
    """The classes, and the numbers of the colours that their maps may have instead of numbers."""
    for name, parse in (("labelmap.txt", _parse_labelmap), ("class_names.txt", _parse_names)):
        path = root / name
        if path.is_file():
            try:
                return parse(path.read_text("utf-8-sig").splitlines())
            except ValueError as error:
                raise ValueError(f"{path}: {error}") from None
    return Categories(names=CLASSES), {}


def _parse_names(lines: list[str]) -> tuple[Categories, dict[int, int]]:
    names = [line.strip() for line in lines if line.strip() and line.strip() != "__ignore__"]
    return Categories(names=tuple(names[1:])), {}


def _parse_labelmap(lines: list[str]) -> tuple[Categories, dict[int, int]]:
    """A class has the number that its colour has in the palette; where a colour is not in it, its place in the file."""
    rows = [_parse_row(line) for line in lines if line.strip() and not line.startswith("#")]
    rows = [row for row in rows if row[0] != "background"]
    number = {code: i for i, code in enumerate(_codes(palette()))}
    ids = [number.get(code, 0) for _, code in rows]
    if not all(1 <= i <= MOST for i in ids) or len(set(ids)) < len(ids):
        ids = list(range(1, len(rows) + 1))
    colours = {code: i for (_, code), i in zip(rows, ids, strict=True)}
    return Categories(names=tuple(name for name, _ in rows), ids=tuple(ids)), colours


def _parse_row(line: str) -> tuple[str, int]:
    name, *rest = line.rsplit(":", 3)
    try:
        red, green, blue = (int(value) for value in rest[0].split(","))
    except (IndexError, ValueError):
        raise ValueError(f"expected name:red,green,blue::, got {line!r}") from None
    return name, (red << 16) | (green << 8) | blue


def _write_labelmap(root: Path, categories: Categories, ids: tuple[int, ...]) -> Path:
    colours = palette()
    rows = [("background", 0), *zip(categories.names, ids, strict=True)]
    if bad := [name for name in categories.names if "\n" in name or name == "background" or name.startswith("#")]:
        raise ValueError(f"a category cannot be called {bad[0]!r} in this format")
    text = "".join(f"{name}:{','.join(map(str, colours[i]))}::\n" for name, i in rows)
    path = root / "labelmap.txt"
    if path.is_file() and path.read_text("utf-8") != text:
        raise ValueError(f"{path} names other categories; write to another folder")
    root.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        file.write(text.encode())
    return path


# Maps


def _maps(item: Item, ids: tuple[int, ...]) -> tuple[dict[str, UInt8[np.ndarray, "h w"]], Counter[str]]:
    crowd = item.labelled.crowd if isinstance(item.labelled, Targets) else torch.zeros(len(item.labelled)).bool()
    own = numbers(item, most=MOST)
    shown, losses = paint(item.labelled, [VOID if is_crowd else n for n, is_crowd in zip(own, crowd, strict=True)])
    class_of = np.zeros(256, np.uint8)
    class_of[own] = np.array(ids, np.uint8)[item.labelled.labels.numpy()] if own else 0
    class_of[VOID] = VOID
    losses["crowds written as pixels to ignore"] = int(crowd.sum())
    maps = {"SegmentationObject": shown.astype(np.uint8), "SegmentationClass": class_of[shown]}
    objects = {i: own[i] for i, is_crowd in enumerate(crowd.tolist()) if not is_crowd}
    return maps, losses + renumbered(item, objects) + unheld(item.labelled, held=("crowd flags",))

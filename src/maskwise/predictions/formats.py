"""Results as files: overlays, data sets that annotation tools read and so do we, a table of measurements."""

import csv
import difflib
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Literal, TypeAlias, get_args

import numpy as np

from maskwise.categories import Categories
from maskwise.data.dataset import Item, Written
from maskwise.data.formats import coco, label_map, labelme, measurements, yolo
from maskwise.data.formats.measurements import PIXELS, Scale
from maskwise.data.formats.pictures import fits, inner_name, unhidden
from maskwise.data.images import list_images, read_image, write_image
from maskwise.draw import overlay
from maskwise.predictions.pictures import Picture

Save: TypeAlias = Literal["overlay", "coco", "labelme", "yolo", "png", "csv"]
"""Ways to save results."""

OURS = (*get_args(Save), "pictures")
"""Folders in it that we write."""

Write: TypeAlias = Callable[[Path, Categories, Iterable[Item], Scale], Written]


def _csv(root: Path, categories: Categories, items: Iterable[Item], scale: Scale) -> Written:
    return Written((measurements.write(root / "measurements.csv", categories, items, scale),), {})


def _in_pixels(write: Callable[..., Written], split: str) -> Write:
    """Of annotations, which have no other unit."""
    return lambda root, categories, items, _: write(root, categories, items, split=split)


DATA: Mapping[Save, Write] = {
    "coco": _in_pixels(coco.write, "predictions"),
    "labelme": _in_pixels(labelme.write, ""),
    "yolo": _in_pixels(yolo.write, "train"),
    "png": _in_pixels(label_map.write, ""),
    "csv": _csv,
}
"""All but the overlays: how the results of many pictures are written below a folder."""

NEED_PICTURES: frozenset[Save] = frozenset({"coco", "labelme", "yolo", "png"})
"""Formats that want the pictures beside the annotations."""


def chosen(words: str | Sequence[str]) -> tuple[Save, ...]:
    """From 'overlay,coco' or a list."""
    names = words.split(",") if isinstance(words, str) else list(words)
    known = get_args(Save)
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
            raise ValueError(f"unknown format {name!r}; {hint}")
    return tuple(save for save in known if save in names)


def refuse_names(categories: Categories, save: Iterable[Save]) -> None:
    """Classes that a format cannot hold: known before the first picture, as a data set of none is written."""
    with tempfile.TemporaryDirectory() as folder:
        for name in save:
            try:
                write(Path(folder), categories, list, [name])
            except ValueError as error:
                raise ValueError(f"--save {name}: {error}") from None


def refuse_another(
    folder: Path, name: str, pixels: Callable[[], Picture], save: Iterable[Save], *, max_pixels: int
) -> None:
    """A data set of another picture than this one, which would be lost: it is written whole."""
    for format in (format for format in save if format in DATA and (folder / format).is_dir()):
        if (other := _another(folder / format, format, name, pixels, max_pixels)) is not None:
            raise ValueError(
                f"{other} is of another picture, and a data set is written whole: save to one folder a picture, or "
                f"all pictures at once with maskwise predict SOURCE... --save {format}"
            )


def _another(root: Path, format: Save, name: str, pixels: Callable[[], Picture], max_pixels: int) -> Path | None:
    """What is of another picture. Formats keep the end of a picture's name."""
    if format == "csv":
        return _another_table(root / "measurements.csv", name)
    home = root / "images" if format == "png" else root
    end = inner_name(name, "").with_suffix("").parts
    for path in list_images(home) if home.is_dir() else ():
        inner = inner_name(path.relative_to(home).as_posix(), "").with_suffix("").parts
        if inner[-len(end) :] != end or not np.array_equal(read_image(path, max_pixels=max_pixels), pixels()):
            return path
    return None


def _another_table(path: Path, name: str) -> Path | None:
    """Tables have no pictures, only their names."""
    if not path.is_file():
        return None
    with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        names = {row.get("image") for row in csv.DictReader(file)}
    return path if names - {name.encode("utf-8", "backslashreplace").decode()} else None


def write(
    folder: Path,
    categories: Categories,
    items: Callable[[], Iterable[Item]],
    save: Iterable[Save],
    *,
    scale: Scale = PIXELS,
) -> dict[str, Written]:
    """Each format in its own folder; `items` is asked for the pictures once a format."""
    return {name: DATA[name](folder / name, categories, items(), scale) for name in save if name in DATA}


def write_overlay(folder: Path, pixels: Picture, item: Item, categories: Categories) -> Path | None:
    """PNG, or JPEG of what was one; None where its name is too long for a file."""
    path = _overlay(folder, item.name)
    if not fits(folder / "overlay", item.name, path.relative_to(folder)):
        return None
    path.parent.mkdir(parents=True, exist_ok=True)
    write_image(path, overlay(pixels, item.labelled, categories))
    return path


def remove_overlay(folder: Path, name: str) -> None:
    """Of a picture that could be read once, and cannot any more."""
    path = _overlay(folder, name)
    if os.path.lexists(path):
        path.unlink()


def _overlay(folder: Path, name: str) -> Path:
    path = folder / "overlay" / unhidden(PurePosixPath(name))
    return path.with_suffix(".jpg" if path.suffix.lower() in (".jpg", ".jpeg") else ".png")


def write_picture(folder: Path, pixels: Picture, name: str) -> Path:
    """Of a picture that is no file, so that there is one beside its annotations."""
    path = folder / "pictures" / PurePosixPath(name).with_suffix(".png")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_image(path, pixels)
    return path

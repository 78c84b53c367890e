"""Results as files: overlays, data sets that annotation tools read and so do we, a table of measurements."""

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Literal, TypeAlias, get_args

from maskwise.categories import Categories
from maskwise.data.dataset import Item, Written
from maskwise.data.formats import coco, label_map, labelme, measurements, yolo
from maskwise.data.images import write_image
from maskwise.draw import overlay
from maskwise.predictions.pictures import Picture

Save: TypeAlias = Literal["overlay", "coco", "labelme", "yolo", "png", "csv"]
"""Ways to save results."""

ABOUT = "predict.json"
"""What a folder of predictions has."""
OURS = (*get_args(Save), "pictures")
"""Folders in it that we write."""

Write: TypeAlias = Callable[[Path, Categories, Iterable[Item]], Written]


def _csv(root: Path, categories: Categories, items: Iterable[Item]) -> Written:
    return Written((measurements.write(root / "measurements.csv", categories, items),), {})


DATA: Mapping[Save, Write] = {
    "coco": partial(coco.write, split="predictions"),
    "labelme": partial(labelme.write, split=""),
    "yolo": partial(yolo.write, split="train"),
    "png": partial(label_map.write, split=""),
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


def write(
    folder: Path, categories: Categories, items: Callable[[], Iterable[Item]], save: Iterable[Save]
) -> dict[str, Written]:
    """Each format in its own folder; `items` is asked for the pictures once a format."""
    return {name: DATA[name](folder / name, categories, items()) for name in save if name in DATA}


def write_overlay(folder: Path, pixels: Picture, item: Item, categories: Categories) -> Path:
    """PNG, or JPEG of what was one."""
    name = PurePosixPath(item.name)
    suffix = ".jpg" if name.suffix.lower() in (".jpg", ".jpeg") else ".png"
    path = folder / "overlay" / name.with_suffix(suffix)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_image(path, overlay(pixels, item.labelled, categories))
    return path


def write_picture(folder: Path, pixels: Picture, name: str) -> Path:
    """Of a picture that is no file, so that there is one beside its annotations."""
    path = folder / "pictures" / PurePosixPath(name).with_suffix(".png")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_image(path, pixels)
    return path

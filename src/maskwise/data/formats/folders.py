"""Pictures in one folder and what labels them in another: which belongs to which, and what is left over."""

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int32

from maskwise.data.dataset import Problem, size_problem
from maskwise.data.files import is_open
from maskwise.data.formats.pictures import PICTURE_FOLDERS
from maskwise.data.images import IMAGE_SUFFIXES, ImageReadError, image_size, list_images, read_label_map
from maskwise.rle import Size

LABEL_FOLDERS = ("masks", "mask", "labels", "label", "label_maps", "instances", "annotations", "gt")
MUCH = 1 << 26
"""Pixels of all masks of a picture, from which it is asked first whether it has that size."""
FAR = 64
"""Times the pixels that a picture has: a size that was not stated for a smaller or larger copy of it."""
SPLITS = ("train", "training", "val", "valid", "validation", "test", "testing")


class Pair(NamedTuple):
    """A picture and the file or folder that labels it."""

    key: str
    """Path of the picture in its folder, without suffix."""
    picture: Path
    labels: Path


class FolderPair(NamedTuple):
    pictures: Path
    labels: Path


class Ids(NamedTuple):
    """An image of ids, or None and why not."""

    ids: Int32[np.ndarray, "h w"] | None
    size: Size
    problems: tuple[Problem, ...]


def one_split(root: Path, known: Sequence[str], wanted: str | None) -> str:
    """The split that is wanted, or the only one there is."""
    shown = ", ".join(known)
    if wanted is None and len(known) > 1:
        raise ValueError(f"{root} has more than one split; choose one of: {shown}")
    if not known or (wanted is not None and wanted not in known):
        raise ValueError(f"{root} has no split {wanted or ''!r}; known: {shown or 'none'}")
    return known[0] if wanted is None else wanted


def read_ids(
    root: Path, picture: Path, labels: Path, *, decode: Callable[[Path], Int32[np.ndarray, "h w"]] = read_label_map
) -> Ids:
    """The image of ids of a picture. An `ImageReadError` is about the picture, never about the labels."""
    size, file = image_size(picture), relative(root, labels)
    try:
        ids = decode(labels)
    except ImageReadError as error:
        return Ids(None, size, (Problem(file, "", "unreadable-labels", f"{error.reason}; left out"),))
    if (problem := size_problem(file, size, ids.shape)) is not None:
        return Ids(None, size, (problem,))
    return Ids(ids, size, ())


def far_beyond(stated: Size, picture: Path, masks: int, file: str, where: str = "") -> list[Problem]:
    """What is wrong with a stated size that would fill the memory with masks of a small picture."""
    if masks * stated[0] * stated[1] <= MUCH:
        return []
    try:
        found = image_size(picture)
    except ImageReadError:
        return []
    problem = size_problem(file, found, stated, where=where)
    return [problem] if problem and stated[0] * stated[1] > FAR * found[0] * found[1] else []


def folder_pairs(root: Path) -> dict[str, FolderPair]:
    """By split: `images/` beside `masks/` in the root, or in each folder below it.

    In the root the split is '', or, where `images/` holds nothing but `train/`, `val/` ..., one of these.
    """
    here = _pair(root)
    if here is None:
        pairs = {folder.name: _pair(folder) for folder in subfolders(root)}
        return {name: pair for name, pair in pairs.items() if pair is not None}
    names = [{p.name for p in visible(folder)} for folder in here]
    shared = [name for name in SPLITS if all(name in found for found in names)]
    if shared and names[0] <= set(SPLITS):
        return {name: FolderPair(here.pictures / name, here.labels / name) for name in shared}
    return {"": here}


def _pair(folder: Path) -> FolderPair | None:
    found = {p.name.lower(): p for p in subfolders(folder)}
    pictures = next((found[name] for name in PICTURE_FOLDERS if name in found), None)
    labels = next((found[name] for name in LABEL_FOLDERS if name in found), None)
    return FolderPair(pictures, labels) if pictures and labels else None


def visible(folder: Path) -> list[Path]:
    """What a folder holds, sorted; hidden things are passed over."""
    return sorted(p for p in folder.iterdir() if not p.name.startswith(".")) if folder.is_dir() else []


def subfolders(folder: Path) -> list[Path]:
    """Those that we may look into."""
    return [p for p in visible(folder) if p.is_dir() and is_open(p)]


def pictures_in(folder: Path) -> list[Path]:
    """Pictures that lie in the folder itself."""
    return [p for p in visible(folder) if p.suffix.lower() in IMAGE_SUFFIXES and not p.is_dir()]


def by_key(
    root: Path, folder: Path, paths: Iterable[Path] | None = None, *, endings: Sequence[str] = ("",)
) -> tuple[dict[str, Path], list[Problem]]:
    """Pictures below `folder` by their path without suffix and without the first of the `endings` that fits.

    Of two with the same key the first stays.
    """
    found: dict[str, Path] = {}
    problems = []
    for path in list_images(folder) if paths is None else paths:
        stem = path.relative_to(folder).with_suffix("").as_posix()
        ending = next((e for e in endings if stem.endswith(e) and len(stem) > len(e)), None)
        if ending is None:
            continue
        key = stem.removesuffix(ending)
        if key in found:
            message = f"same name as {found[key].name} but for the ending; this one was left out"
            problems.append(Problem(relative(root, path), "", "duplicate-file", message))
        else:
            found[key] = path
    return found, problems


def paired(root: Path, pictures: Mapping[str, Path], labels: Mapping[str, Path]) -> tuple[list[Pair], list[Problem]]:
    """What belongs together by its key; a picture without labels is left out with a warning."""
    pairs = [Pair(key, path, labels[key]) for key, path in pictures.items() if key in labels]
    problems = [
        Problem(relative(root, path), "", "missing-labels", "no file labels this picture; it was left out", "warning")
        for key, path in pictures.items()
        if key not in labels
    ]
    problems += [
        Problem(relative(root, path), "", "missing-image", f"there is no picture {key} for these labels")
        for key, path in labels.items()
        if key not in pictures
    ]
    return pairs, problems


def is_path(text: str) -> bool:
    """Whether a text out of an annotation can be the path of anything."""
    try:
        return b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        return False


def names_a_file(text: str) -> bool:
    """And is not that of a folder; also of paths of Windows."""
    return is_path(text) and re.split(r"[/\\]", text)[-1] not in ("", ".", "..")


def relative(root: Path, path: Path) -> str:
    """How a problem or a record names a file."""
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)

"""Where the files of a COCO data set lie.

Annotations: `train.json`, `annotations/instances_train2017.json`, or Roboflow's `train/_annotations.coco.json`; the
split is 'train', 'train2017', 'train'. Pictures: beside them or in images/, in a folder called like the split, or both,
looked for from the annotations and from the root.
"""

import posixpath
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from maskwise.data.files import OF_PREDICTIONS, exists
from maskwise.data.formats import json_file
from maskwise.data.formats.folders import one_split, relative, subfolders, visible

IN_SPLIT_FOLDERS = ("_annotations.coco.json", "annotations.json")
_SAMPLE = 20
"""Pictures that are looked for before a folder is believed."""


def annotation_files(root: Path) -> dict[str, Path]:
    """By split; a JSON given directly is the only one."""
    if root.is_file():
        return {_split_of(root): root}
    found = {_split_of(path): path for path in _preferred(visible(root)) + _preferred(visible(root / "annotations"))}
    for folder in subfolders(root):
        for name in IN_SPLIT_FOLDERS:
            if folder.name != "annotations" and is_coco(folder / name):
                found.setdefault(folder.name, folder / name)
    if not found and is_coco(own := root / IN_SPLIT_FOLDERS[0]):  # the folder of one split
        return {root.resolve().name: own}
    return found


def is_coco(path: Path) -> bool:
    """LabelMe's files have shapes, and what predictions say of themselves has categories, too."""
    keys = json_file.first_keys(path)
    if "shapes" in keys or (path.name == OF_PREDICTIONS and "model" in keys):
        return False
    return not keys.isdisjoint({"images", "annotations", "categories"})


def choose(root: Path, found: Sequence[str], wanted: str | None) -> str:
    """The split that is wanted, also by the beginning of its name: 'train' for 'train2017', 'val' for 'valid'."""
    if wanted and wanted not in found:
        beginning = [name for name in found if name.startswith(wanted)]
        wanted = beginning[0] if len(beginning) == 1 else wanted
    return one_split(root, found, wanted)


def _preferred(paths: Iterable[Path]) -> list[Path]:
    """Files with instances; those with captions or keypoints of the same pictures only where there are no others."""
    coco = [path for path in paths if path.name not in IN_SPLIT_FOLDERS[:1] and is_coco(path)]
    instances = [path for path in coco if path.stem.startswith("instances")]
    return instances or [path for path in coco if not path.stem.startswith("captions")]


def _split_of(path: Path) -> str:
    if path.name in IN_SPLIT_FOLDERS:
        return path.parent.name
    return path.stem.removeprefix("instances_")


@dataclass(frozen=True, slots=True)
class Pictures:
    """Finds the pictures of one annotation file."""

    root: Path
    folder: Path

    @classmethod
    def of(cls, root: Path, annotations: Path, split: str, names: Sequence[str]) -> "Pictures":
        """The first folder that holds any of the first names; the one of the annotations where none does."""
        if root.is_file():
            root = root.parent.parent if root.parent.name == "annotations" else root.parent
        bases, words = dict.fromkeys([annotations.parent, root]), split.split("_")
        called = ["_".join(words[i:]) for i in range(len(words))]  # person_keypoints_train2017 is about train2017
        inner = ["", "images", *called, *(f"images/{one}" for one in called)]
        folders = [base / one for base in bases for one in inner]
        guesses = (cls(root, folder) for folder in folders)
        return next((g for g in guesses if g._holds_any(names)), cls(root, annotations.parent))

    def _holds_any(self, names: Sequence[str]) -> bool:
        return any(exists(self.root / self.place(name)[0]) for name in names[:_SAMPLE])

    def place(self, name: str) -> tuple[str, bool]:
        """Path from the root, and whether the name led out of the root, so that only its last part was used."""
        inner = name.replace("\\", "/")
        prefix = relative(self.root, self.folder)
        if not (inner.startswith("/") or inner[1:2] == ":" or ".." in inner):
            return posixpath.normpath(f"{prefix}/{inner}"), False
        path = posixpath.normpath(f"{prefix}/{inner}")
        if inner.startswith("/") or inner[1:2] == ":" or path.startswith(".."):
            return posixpath.normpath(f"{prefix}/{PurePosixPath(inner).name}"), True
        return path, False

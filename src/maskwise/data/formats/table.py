"""The formats that can be read and written, by name. This is the only list of them."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Protocol

from maskwise.categories import Categories
from maskwise.data.dataset import DataSet, Item, Written
from maskwise.data.formats import cityscapes, coco, label_map, labelme, mask_folder, voc, yolo


class Format(Protocol):
    """What each module of this package offers. A writer may have further options of its own."""

    def detect(self, root: Path) -> str | None:
        """Why `root` looks like this format, in words; None where it does not."""
        ...

    def splits(self, root: Path) -> tuple[str, ...]:
        """Names of the parts that can be read; ('',) where the format knows none."""
        ...

    def read(self, root: Path, *, split: str | None = None) -> DataSet:
        """The index; without `split` there must be only one."""
        ...

    def write(self, root: Path, categories: Categories, items: Iterable[Item], *, split: str = "train") -> Written:
        """Write a data set below `root`: each file whole or not at all, losses counted."""
        ...


FORMATS: Mapping[str, Format] = {
    "coco": coco,
    "yolo": yolo,
    "labelme": labelme,
    "voc": voc,
    "cityscapes": cityscapes,
    "label_map": label_map,
    "mask_folder": mask_folder,
}

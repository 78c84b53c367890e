"""A data set, whatever its format: records of pictures, what is wrong with it, and what a writer takes and tells.

Nothing is decoded before it is asked for. Every reader obeys one rule: an index that cannot be read is a ValueError
with file and reason; a bad annotation is left out or mended and becomes a `Problem`. Legend: n instances of a picture.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from maskwise.categories import OBJECT, Categories
from maskwise.data.files import exists
from maskwise.data.images import MAX_PIXELS, ImageReadError, image_size
from maskwise.masks import positions
from maskwise.rle import Size
from maskwise.structures import Instances, Targets

Severity = Literal["error", "warning", "note"]
"""An error is wrong for training or judging; of a warning one should know; a note is nothing bad, but unusual."""

Id = int | str


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with a data set."""

    file: str
    """Relative to the root where it lies below it."""
    where: str
    """'annotation 17', 'line 3', 'shape 2'; '' for the whole file."""
    rule: str
    """Short stable name, such as 'degenerate-polygon'."""
    message: str
    """A plain sentence with the value found, what was expected, and what was done."""
    severity: Severity = "error"

    @property
    def place(self) -> str:
        return f"{self.file}: {self.where}" if self.where else self.file

    def __str__(self) -> str:
        return f"{self.place}: {self.message} [{self.rule}]"


@dataclass(frozen=True, slots=True)
class Scores:
    """What a file of predictions says beside the masks; the fields of `Instances`."""

    scores: Float[Tensor, " n"]
    quality: Float[Tensor, " n"]
    mask_scores: Float[Tensor, " n"]

    def __getitem__(self, which: Int[Tensor, " m"]) -> "Scores":
        return Scores(self.scores[which], self.quality[which], self.mask_scores[which])


@dataclass(frozen=True, slots=True)
class Labelled:
    """The annotations of one picture, decoded."""

    targets: Targets
    ids: tuple[Id, ...]
    """As the file names them, one an instance."""
    problems: tuple[Problem, ...] = ()
    """What was left out or mended here."""
    scores: Scores | None = None
    """Where the file holds predictions."""
    stated_boxes: Float[Tensor, "n 4"] | None = None
    """Those of the file, which need not be tight: for judging, never for learning. None: it has none of its own."""

    def __post_init__(self) -> None:
        if len(self.ids) != len(self.targets):
            raise ValueError(f"{len(self.targets)} instances but {len(self.ids)} ids")
        if self.stated_boxes is not None and len(self.stated_boxes) != len(self.targets):
            raise ValueError(f"{len(self.targets)} instances but {len(self.stated_boxes)} stated boxes")

    def __getitem__(self, keep: Tensor) -> "Labelled":
        """Some of the instances, by their positions or by truth values."""
        which = positions(keep, len(self.targets), device=self.targets.labels.device)
        return replace(
            self,
            targets=self.targets[which],
            ids=tuple(self.ids[i] for i in which.tolist()),
            scores=None if self.scores is None else self.scores[which],
            stated_boxes=None if self.stated_boxes is None else self.stated_boxes[which],
        )

    def truth(self) -> Targets:
        """What the file says, to judge by."""
        return self.targets if self.stated_boxes is None else replace(self.targets, boxes=self.stated_boxes)

    def instances(self) -> Instances:
        """The same as predictions, best first."""
        if not len(self.targets):
            return Instances.none(self.targets.masks.size)
        if self.scores is None:
            raise ValueError("these annotations have no scores: they are no predictions")
        found = Instances(
            boxes=self.targets.boxes,
            labels=self.targets.labels,
            masks=self.targets.masks,
            scores=self.scores.scores,
            quality=self.scores.quality,
            mask_scores=self.scores.mask_scores,
            keypoints=self.targets.keypoints,
        )
        return found.ranked()


@dataclass(frozen=True, slots=True)
class Record:
    """One picture of a data set: cheap to hold by the hundred thousand, and picklable."""

    name: str
    """Unique in the data set, relative to its root, '/'-separated."""
    path: Path
    id: Id
    size: Size | None
    """As the annotations state it; None where only the picture knows."""
    labelled: Callable[[], Labelled]
    """Decodes the annotations (`functools.partial` of a module-level function). Where `size` is None it raises
    `ImageReadError` if the picture cannot be read."""
    empty: bool = False
    """The index tells, without decoding anything, that there is no annotation."""


@dataclass(frozen=True, slots=True)
class DataSet:
    """A sequence of records, and what their labels mean."""

    format: str
    root: Path
    split: str
    """'' where the format or this data set has none."""
    categories: Categories
    records: tuple[Record, ...]
    problems: tuple[Problem, ...]
    """Found while the index was read. Those of a picture are found by `Record.labelled` and `picture_problem`."""

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, i: int) -> Record:
        return self.records[i]

    def __iter__(self) -> Iterator[Record]:
        return iter(self.records)


def crowds_as_instances(data: DataSet) -> DataSet:
    """The same data with no crowds: for sets whose tool marked every mask as one."""
    records = tuple(replace(record, labelled=partial(_without_crowds, record.labelled)) for record in data.records)
    return replace(data, records=records)


def _without_crowds(labelled: Callable[[], Labelled]) -> Labelled:
    read = labelled()
    return replace(read, targets=replace(read.targets, crowd=torch.zeros_like(read.targets.crowd)))


def classes_as_one(data: DataSet) -> DataSet:
    """The same data with objects of one class, 'object': for methods that do not tell classes apart."""
    records = tuple(replace(record, labelled=partial(_of_one_class, record.labelled)) for record in data.records)
    return replace(data, records=records, categories=OBJECT)


def _of_one_class(labelled: Callable[[], Labelled]) -> Labelled:
    read = labelled()
    return replace(read, targets=replace(read.targets, labels=torch.zeros_like(read.targets.labels), keypoints=None))


def picture_problem(record: Record) -> Problem | None:
    """What is wrong with the picture of a record, from its header: missing, unreadable, or not of the stated size."""
    if not exists(record.path):
        return Problem(record.name, "", "missing-image", f"there is no picture {record.path}")
    try:
        found = image_size(record.path)
    except ImageReadError as error:
        return Problem(record.name, "", "unreadable-image", error.reason)
    return None if record.size is None else size_problem(record.name, found, record.size)


def size_problem(file: str, picture: Size, stated: Size, *, where: str = "") -> Problem | None:
    """Whether annotations for a picture of the `stated` height and width fit the picture there is."""
    if tuple(picture) == tuple(stated):
        return None
    swapped = tuple(picture) == tuple(reversed(stated))
    hint = ": were the annotations made before it was turned upright by its EXIF orientation?" if swapped else ""
    return Problem(
        file,
        where,
        "size-swapped" if swapped else "size-differs",
        f"the picture is {_sides(picture)}, the annotations are for {_sides(stated)} (width x height){hint}",
    )


def _sides(size: Size) -> str:
    return f"{size[1]} x {size[0]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """What a writer is given for one picture."""

    name: str
    """Where the picture shall lie, relative and '/'-separated; formats with their own folders keep the rest of it."""
    size: Size
    labelled: Targets | Instances
    image: Path | None = None
    """Copied beside the annotations; None: only annotations are written, with `pixels` where there are any."""
    pixels: UInt8[np.ndarray, "h w 3"] | None = None
    """Of a picture that is no file; its name ends in `.png`."""
    link: bool = False
    """Lay a symbolic link instead of a copy."""
    max_pixels: int = MAX_PIXELS
    """Of the image, where it is read to be written anew."""
    id: Id | None = None
    ids: tuple[Id, ...] | None = None
    """Of the instances; None: numbered by the writer."""

    def __post_init__(self) -> None:
        path = PurePosixPath(self.name)
        if not path.name or path.is_absolute() or ".." in path.parts or "\0" in self.name:
            raise ValueError(f"a picture's name must be a relative path inside the data set, got {self.name!r}")
        if tuple(self.labelled.masks.size) != tuple(self.size):
            raise ValueError(f"{self.name}: masks for {self.labelled.masks.size}, the picture is {self.size}")
        if self.pixels is not None and self.pixels.shape[:2] != tuple(self.size):
            raise ValueError(f"{self.name}: pixels of {self.pixels.shape[:2]}, the picture is {self.size}")
        if self.ids is not None and len(self.ids) != len(self.labelled):
            raise ValueError(f"{self.name}: {len(self.labelled)} instances but {len(self.ids)} ids")

    @classmethod
    def of(
        cls,
        record: Record,
        read: Labelled | None = None,
        *,
        picture: bool = True,
        link: bool = False,
        max_pixels: int = MAX_PIXELS,
    ) -> "Item":
        """A record as it was read, for conversion."""
        read = record.labelled() if read is None else read
        return cls(
            name=record.name,
            size=read.targets.masks.size,
            labelled=read.truth() if read.scores is None else read.instances(),
            image=record.path if picture else None,
            link=link,
            max_pixels=max_pixels,
            id=record.id,
            ids=read.ids if read.scores is None else None,  # predictions were ranked anew
        )


@dataclass(frozen=True, slots=True)
class Written:
    """What a writer did."""

    files: tuple[Path, ...]
    losses: Mapping[str, int]
    """What the format could not hold, counted: {'instances whose holes were filled': 3}; nothing lost is left out."""

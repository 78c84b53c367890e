"""From one format to another, whole or in tiles, with the count of what the other cannot hold."""

import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path, PurePosixPath

import numpy as np
from jaxtyping import UInt8

from maskwise.data.cutting import EMPTY, Tiling, cut
from maskwise.data.dataset import DataSet, Item, Labelled, Problem, Record
from maskwise.data.formats.table import FORMATS
from maskwise.data.images import MAX_PIXELS, ImageReadError, allowing, image_size, read_image
from maskwise.data.survey import NO_PICTURE, read_labels
from maskwise.data.tiles import name_of


@dataclass(frozen=True, slots=True)
class Converted:
    """One split."""

    split: str
    pictures: int
    instances: int
    """As they were read; losses are among them."""
    files: int
    losses: Mapping[str, int]
    problems: tuple[Problem, ...]
    """Of what was read."""
    tiles: int | None = None
    """That were written, pictures no larger than one among them; None where none were asked for."""


def convert(
    data: DataSet,
    out: Path,
    format: str,
    *,
    link: bool = False,
    tiling: Tiling | None = None,
    max_pixels: int = MAX_PIXELS,
) -> Converted:
    """Write a split below `out`, with copies of its pictures or links to them, or with tiles of those that are larger.

    Where a picture is missing its annotations are kept if they say how large it is.
    """
    home = data.root.parent if data.root.is_file() else data.root
    if out.resolve() == home.resolve():
        raise ValueError(f"{out}: this could write over the data set that is read; choose another place")
    if max_pixels < 1:
        raise ValueError(f"max-pixels: expected 1 or more, got {max_pixels}")
    if tiling is not None:
        refuse_to_cut([data], tiling, max_pixels)
    reading = _Reading(data, link=link, tiling=tiling, max_pixels=max_pixels, problems=list(data.problems))
    split = data.split or "train"
    with allowing(max_pixels):
        written = FORMATS[format].write(out, data.categories, reading.items(), split=split)
    left_out = {"annotations or files left out for an error": sum(p.severity == "error" for p in reading.problems)}
    losses = Counter(written.losses) + Counter(left_out) + Counter({"pictures": reading.counts["no picture"]})
    return Converted(
        split=split,
        pictures=reading.counts["pictures"],
        instances=reading.counts["instances"],
        files=len(written.files),
        losses=dict(losses + reading.losses),
        problems=tuple(reading.problems),
        tiles=None if tiling is None else reading.counts["tiles"],
    )


def refuse_to_cut(splits: Sequence[DataSet], tiling: Tiling, max_pixels: int) -> None:
    """Before anything is written of any split: tiles without their picture, which the limit forbids to read, help
    nobody; and tiles of 'a.png' and 'a.jpg' would have the same names, as might a picture that stays whole."""
    whole: dict[PurePosixPath, Path] = {}
    cut: dict[PurePosixPath, Path] = {}
    for record in chain.from_iterable(splits):
        try:
            height, width = image_size(record.path, max_pixels=sys.maxsize)
        except ImageReadError:  # which is told in its turn
            continue
        if height * width > max_pixels:
            pixels = f"{width} x {height} = {height * width:,} pixels"
            raise ValueError(f"{record.path}: {pixels}; max-pixels is {max_pixels:,}, allow more to read this one")
        if not tiling.cuts((height, width)):
            whole[PurePosixPath(record.name).with_suffix("")] = record.path
            continue
        for tile in tiling.tiles((height, width)):
            name = PurePosixPath(name_of(record.name, tile, (height, width))).with_suffix("")
            if (other := cut.setdefault(name, record.path)) != record.path:
                raise ValueError(f"tiles of {other} and of {record.path} would have the same names; rename one of them")
    for name in whole.keys() & cut.keys():
        raise ValueError(f"{whole[name]} is called as a tile of {cut[name]} would be; rename one of them")


@dataclass(frozen=True, slots=True)
class _Reading:
    """What is met while a writer asks for one picture after another."""

    data: DataSet
    link: bool
    tiling: Tiling | None
    max_pixels: int
    problems: list[Problem]
    counts: Counter[str] = field(default_factory=Counter)
    losses: Counter[str] = field(default_factory=Counter)
    """From cutting."""

    def items(self) -> Iterator[Item]:
        for record in self.data:
            labelled, problems = read_labels(record)
            self.problems.extend(problems)
            has_picture = not any(p.rule in NO_PICTURE for p in problems)
            self.counts["no picture"] += not has_picture
            if labelled is None:
                continue
            self.counts["pictures"] += 1
            self.counts["instances"] += len(labelled.targets)
            if self.tiling is None:
                yield self._whole(record, labelled, has_picture)
            else:
                yield from self._tiles(record, labelled, has_picture, self.tiling)

    def _whole(self, record: Record, labelled: Labelled, has_picture: bool) -> Item:
        return Item.of(record, labelled, picture=has_picture, link=self.link, max_pixels=self.max_pixels)

    def _tiles(self, record: Record, labelled: Labelled, has_picture: bool, tiling: Tiling) -> Iterator[Item]:
        """A picture that is no larger than a tile stays as it is."""
        size = labelled.targets.masks.size
        if has_picture and tuple(image_size(record.path)) != tuple(size):
            self.losses["pictures of another size than their annotations"] += 1
        elif tiling.cuts(size):
            yield from self._parts(record, labelled, has_picture, tiling)
        elif tiling.skips(labelled):
            self.losses[EMPTY] += 1
        else:
            self.counts["tiles"] += 1
            yield self._whole(record, labelled, has_picture)

    def _parts(self, record: Record, labelled: Labelled, has_picture: bool, tiling: Tiling) -> Iterator[Item]:
        """The picture is decoded once, and not at all where nothing of it is written."""
        parts, losses = cut(labelled, tiling)
        self.losses.update(losses)
        pixels = self._pixels(record) if has_picture and parts else None
        for tile, of_tile in parts:
            name = name_of(record.name, tile, labelled.targets.masks.size)
            self.counts["tiles"] += 1
            # A copy: a view would keep the whole picture in memory while the next one is read.
            shown = None if pixels is None else pixels[tile.y0 : tile.y1, tile.x0 : tile.x1].copy()
            yield replace(Item.of(record, of_tile, picture=False), name=name, pixels=shown, id=None)

    def _pixels(self, record: Record) -> UInt8[np.ndarray, "h w 3"] | None:
        """None, as for a picture that is missing, where it is damaged behind its header."""
        try:
            return read_image(record.path)
        except ImageReadError as error:
            self.problems.append(Problem(record.name, "", "unreadable-image", error.reason))
            self.counts["no picture"] += 1
            return None

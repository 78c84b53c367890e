"""What is wrong with a data set: file by file, annotation by annotation, and as a whole.

What readers find is here with what only shows on decoded masks or on all pictures together.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from maskwise.data.dataset import DataSet, Problem, Record
from maskwise.data.files import exists
from maskwise.data.images import ImageReadError, read_image
from maskwise.data.survey import NO_PICTURE, over, read_labels
from maskwise.structures import Targets

TINY = 16
"""Pixels below which an object is tiny: 4 x 4, one cell of the finest features of most networks."""
MOST_CROWD = 0.2
"""Share of crowds above which they are likely a mistake of an export."""


@dataclass(frozen=True, slots=True)
class Examined:
    """One picture."""

    problems: tuple[Problem, ...]
    labels: tuple[int, ...]
    crowd: int
    tiny: int


def check(*splits: DataSet, pixels: bool = False, workers: int = 0) -> list[Problem]:
    """All problems of a data set, or of several splits of one: of the index, then per picture, then as a whole.

    Of pictures the headers are read, with `pixels` everything, which finds those that were cut off.
    """
    problems = [problem for data in splits for problem in data.problems]
    pictures = over(partial(_examine, pixels=pixels), splits, workers=workers)
    for data in splits:
        of_split = [next(pictures) for _ in data]
        problems += [problem for picture in of_split for problem in picture.problems]
        problems += _of_split(data, of_split)
    return [*problems, *duplicates(splits)]


def duplicates(splits: Sequence[DataSet]) -> list[Problem]:
    """Pictures with the same bytes: each is named once, with the first one like it."""
    first: dict[bytes, tuple[DataSet, Record]] = {}
    problems = []
    for data, record, digest in _digests(splits):
        twin_data, twin = first.setdefault(digest, (data, record))
        if twin.path == record.path and data is twin_data:
            continue
        across = data.split != twin_data.split
        where = f" of split {twin_data.split}: what is learned there is judged here" if across else ""
        message = f"the same picture as {twin.name}{where}"
        problems.append(Problem(record.name, "", "duplicate-image", message, "warning"))
    return problems


def _digests(splits: Sequence[DataSet]) -> Iterator[tuple[DataSet, Record, bytes]]:
    """Of pictures that have the same length as another one: the others cannot have a twin."""
    by_length: dict[int, list[tuple[DataSet, Record]]] = defaultdict(list)
    for data in splits:
        for record in data:
            if exists(record.path) and record.path.is_file():
                by_length[record.path.stat().st_size].append((data, record))
    for several in by_length.values():
        if len(several) > 1:
            digests = ((data, record, _digest(record.path)) for data, record in several)
            yield from ((data, record, digest) for data, record, digest in digests if digest is not None)


def _digest(path: Path) -> bytes | None:
    """None of a file that is closed to us, which is a finding of its own already."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "blake2b").digest()
    except OSError:
        return None


# One picture


def _examine(record: Record, *, pixels: bool) -> Examined:
    labelled, problems = read_labels(record)
    if pixels and not any(p.rule in NO_PICTURE for p in problems):
        problems = (*_undecodable(record), *problems)
    if labelled is None:
        return Examined(problems, (), 0, 0)
    targets = labelled.targets
    areas = targets.masks.area()
    return Examined(
        problems=(*problems, *_twins(record, targets, labelled.ids)),
        labels=tuple(targets.labels.tolist()),
        crowd=int(targets.crowd.sum()),
        tiny=int((areas < TINY).sum()),
    )


def _undecodable(record: Record) -> Iterator[Problem]:
    try:
        read_image(record.path)
    except ImageReadError as error:
        yield Problem(record.name, "", "unreadable-image", error.reason)


def _twins(record: Record, targets: Targets, ids: Sequence[int | str]) -> Iterator[Problem]:
    """Objects that were annotated twice, pixel by pixel."""
    like: dict[tuple[float, ...], list[int]] = defaultdict(list)
    keys = torch.cat([targets.boxes, targets.labels[:, None], targets.masks.area()[:, None]], 1)
    for i, key in enumerate(keys.tolist()):
        like[tuple(key)].append(i)
    for several in (several for several in like.values() if len(several) > 1):
        seen: dict[str, int] = {}
        for i, mask in zip(several, targets.masks[several].rle(), strict=True):
            if (twin := seen.setdefault(mask["counts"], i)) != i:
                message = f"the same mask and class as annotation {ids[twin]}"
                yield Problem(record.name, f"annotation {ids[i]}", "duplicate-instance", message, "warning")


# One split


def _of_split(data: DataSet, pictures: Sequence[Examined]) -> Iterator[Problem]:
    place = data.split or data.root.name
    counts = Counter(label for picture in pictures for label in picture.labels)
    total = counts.total()
    if not pictures:
        yield Problem(place, "", "no-pictures", "this split has no picture that could be read")
    elif not total:
        yield Problem(place, "", "no-instances", f"none of the {len(pictures)} pictures has an instance")
    else:
        said = {problem.rule for problem in data.problems}  # a reader may have counted crowds in its index
        yield from (problem for problem in _shares(place, pictures, total) if problem.rule not in said)
        if unused := [name for label, name in enumerate(data.categories.names) if not counts[label]]:
            shown = ", ".join(unused[:8]) + (" ..." if len(unused) > 8 else "")
            message = f"{len(unused)} of {len(data.categories)} categories have no instance: {shown}"
            yield Problem(place, "", "unused-category", message, "note")


def _shares(place: str, pictures: Sequence[Examined], total: int) -> Iterator[Problem]:
    if tiny := sum(picture.tiny for picture in pictures):
        message = f"{_of(tiny, total)} instances have fewer than {TINY} pixels"
        yield Problem(place, "", "tiny-objects", message, "note")
    if (crowd := sum(picture.crowd for picture in pictures)) > MOST_CROWD * total:
        message = f"{_of(crowd, total)} instances are crowds, which are neither trained nor judged; was that meant?"
        yield Problem(place, "", "crowd-share", message, "warning")


def _of(count: int, total: int) -> str:
    return f"{count:,} of {total:,} ({100 * count / total:.0f} %)"

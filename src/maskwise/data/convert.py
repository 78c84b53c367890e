"""From one format to another, with the count of what the other cannot hold."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from maskwise.data.dataset import DataSet, Item, Problem
from maskwise.data.formats.table import FORMATS
from maskwise.data.survey import NO_PICTURE, read_labels


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


def convert(data: DataSet, out: Path, format: str, *, link: bool = False) -> Converted:
    """Write a split below `out`, with copies of its pictures or links to them.

    Where a picture is missing its annotations are kept if they say how large it is.
    """
    home = data.root.parent if data.root.is_file() else data.root
    if format == data.format and out.resolve() == home.resolve():
        raise ValueError(f"{out}: this would write over the data set that is read; choose another place")
    reading = _Reading(data, link, Counter(), list(data.problems))
    split = data.split or "train"
    written = FORMATS[format].write(out, data.categories, reading.items(), split=split)
    left_out = {"annotations or files left out for an error": sum(p.severity == "error" for p in reading.problems)}
    return Converted(
        split=split,
        pictures=reading.counts["pictures"],
        instances=reading.counts["instances"],
        files=len(written.files),
        losses=dict(Counter(written.losses) + Counter(left_out) + Counter({"pictures": reading.counts["no picture"]})),
        problems=tuple(reading.problems),
    )


@dataclass(frozen=True, slots=True)
class _Reading:
    """What is met while a writer asks for one picture after another."""

    data: DataSet
    link: bool
    counts: Counter[str]
    problems: list[Problem]

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
            yield Item.of(record, labelled, picture=has_picture, link=self.link)

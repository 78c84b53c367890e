"""Where samples come from: anything with a length and samples by their position."""

from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch

from maskwise.data.dataset import DataSet, Problem, classes_as_one
from maskwise.data.images import MAX_PIXELS, image_size, read_image
from maskwise.data.sample import Sample
from maskwise.rle import Size


@runtime_checkable
class Source(Protocol):
    """Picklable, and the same sample for the same position, since workers hold copies."""

    def __len__(self) -> int: ...

    def __getitem__(self, i: int, /) -> Sample: ...


@runtime_checkable
class SizedSource(Source, Protocol):
    """One that knows the sizes of its pictures without decoding them."""

    def size(self, i: int, /) -> Size: ...


@runtime_checkable
class FileBacked(Source, Protocol):
    """One whose pictures are files, so that a bad one can be named."""

    def path(self, i: int, /) -> str: ...


@runtime_checkable
class Indexed(Protocol):
    """One with an index, from which something may have been left out before any picture was read."""

    def left_out(self) -> tuple[Problem, ...]: ...


@dataclass(frozen=True, slots=True)
class FileSource:
    """The pictures and annotations of a data set, read when they are asked for."""

    data: DataSet
    max_pixels: int = MAX_PIXELS

    def __len__(self) -> int:
        return len(self.data)

    def size(self, i: int) -> Size:
        record = self.data[i]
        return record.size or image_size(record.path, max_pixels=self.max_pixels)

    def path(self, i: int) -> str:
        return str(self.data[i].path)

    def left_out(self) -> tuple[Problem, ...]:
        return tuple(problem for problem in self.data.problems if problem.severity == "error")

    def __getitem__(self, i: int) -> Sample:
        record = self.data[i]
        read = record.labelled()
        pixels = torch.from_numpy(read_image(record.path, max_pixels=self.max_pixels)).permute(2, 0, 1).contiguous()
        errors = tuple(problem for problem in read.problems if problem.severity == "error")
        sample = Sample(pixels=pixels, targets=read.targets, name=record.name, problems=errors)
        return sample.losing("left out or mended when read", len(errors))


@dataclass(frozen=True, slots=True)
class OneClass:
    """Another source, with objects of one class."""

    source: Source

    def __len__(self) -> int:
        return len(self.source)

    def size(self, i: int) -> Size:
        assert isinstance(self.source, SizedSource), "nobody asks who has not looked"
        return self.source.size(i)

    def __getitem__(self, i: int) -> Sample:
        sample = self.source[i]
        return replace(sample, targets=replace(sample.targets, labels=torch.zeros_like(sample.targets.labels)))


def as_one(source: Source) -> Source:
    """All classes as one; its labels are those of `categories.OBJECT`."""
    if isinstance(source, FileSource):
        return replace(source, data=classes_as_one(source.data))
    return OneClass(source)

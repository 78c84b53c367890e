"""What finds instances: a `Model`, or anything that can do the same."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch

from maskwise.categories import Categories
from maskwise.predictions.pictures import Picture
from maskwise.rle import Size
from maskwise.structures import Instances


@runtime_checkable
class Finder(Protocol):
    """In the coordinates of each picture, on the CPU, nothing left out."""

    @property
    def categories(self) -> Categories: ...

    def instances(self, pictures: Sequence[Picture], /) -> list[Instances]: ...


@runtime_checkable
class Placed(Finder, Protocol):
    """One that knows how large it sees a picture, and can move to another device."""

    @property
    def device(self) -> torch.device: ...

    def viewed_size(self, size: Size, /) -> Size: ...

    def to(self, device: torch.device, /) -> "Placed": ...


@runtime_checkable
class Limited(Finder, Protocol):
    """One that reports only its best instances of a picture, where there are many."""

    @property
    def most_instances(self) -> int | None:
        """None: it reports all."""

    def up_to(self, most: int, /) -> "Limited":
        """The same with another limit; itself where it has none that can be moved."""
        ...

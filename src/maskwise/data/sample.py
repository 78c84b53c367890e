"""A picture with its ground truth on the way from a source to a batch."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from jaxtyping import Float, UInt8
from torch import Tensor

from maskwise.data.dataset import Problem
from maskwise.rle import Size
from maskwise.structures import Targets

Pixels = UInt8[Tensor, "3 _ _"] | Float[Tensor, "3 _ _"]
"""RGB; bytes, or numbers in 0..1."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sample:
    """One picture, its ground truth, and what happened to them so far."""

    pixels: Pixels
    targets: Targets
    name: str
    scale: tuple[float, float] = (1.0, 1.0)
    """How many pixels here, along x and along y, one pixel of the file has become."""
    lost: Mapping[str, int] = field(default_factory=dict)
    """Instances that are no longer here, counted by the reason."""
    problems: tuple[Problem, ...] = ()
    """What was wrong with the annotations, and left out or mended."""

    def __post_init__(self) -> None:
        if tuple(self.targets.masks.size) != self.size:
            raise ValueError(f"{self.name}: the picture is {self.size}, the masks are for {self.targets.masks.size}")

    @property
    def size(self) -> Size:
        return int(self.pixels.shape[1]), int(self.pixels.shape[2])

    @property
    def original(self) -> Size:
        """Height and width of what is shown, in pixels of the file: of the whole picture as long as nothing cut it."""
        (h, w), (x, y) = self.size, self.scale
        return max(1, round(h / y)), max(1, round(w / x))

    def losing(self, reason: str, count: int) -> "Sample":
        """The same, with so many more instances written off."""
        return replace(self, lost=Counter(self.lost) + Counter({reason: count})) if count else self

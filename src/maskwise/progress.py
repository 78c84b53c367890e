"""Where training stands, besides what optimiser, loader and weights know themselves."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Progress:
    """All of it is in a checkpoint."""

    step: int = 0
    """Steps done."""
    epoch: int = 0
    """Epochs trained and judged."""
    best: float = -1.0
    """Mask AP."""
    stale: int = 0
    """Validations since then."""
    bad: int = 0
    """Steps passed over."""
    sums: dict[str, float] = field(default_factory=dict)
    """Of the numbers of the steps of this epoch, on rank 0."""
    counted: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    """A row an epoch."""

    def add(self, numbers: Mapping[str, float]) -> None:
        """What is no number, as the gradient of a step that float16 was too small for, is left out."""
        self.counted += 1
        for name, value in numbers.items():
            self.sums[name] = self.sums.get(name, 0.0) + (value if math.isfinite(value) else 0.0)

    def means(self) -> dict[str, float]:
        return {name: value / self.counted for name, value in self.sums.items()}

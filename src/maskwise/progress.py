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
    """The best AP so far, of what `Watch.best` names."""
    stale: int = 0
    """Validations since then."""
    bad: int = 0
    """Steps passed over."""
    sums: dict[str, float] = field(default_factory=dict)
    """Each number added up over the steps of this epoch, on rank 0."""
    counted: int = 0
    """Steps that are in these sums."""
    history: list[dict[str, Any]] = field(default_factory=list)
    """A row an epoch."""

    def add(self, numbers: Mapping[str, float]) -> None:
        """What is not finite counts as 0, as the norm of a gradient that float16 was too small for."""
        self.counted += 1
        for name, value in numbers.items():
            self.sums[name] = self.sums.get(name, 0.0) + (value if math.isfinite(value) else 0.0)

    def means(self) -> dict[str, float]:
        return {name: value / self.counted for name, value in self.sums.items()}

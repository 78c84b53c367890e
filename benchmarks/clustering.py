"""Seconds that one core needs to find 50 objects in 512 x 512 pixels. Prints a table, writes results/clustering.json.

Maps as a trained network gives them: each object's own vector, or its middle, and noise on every pixel.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from maskwise.parts.clustering import around_modes, around_seeds
from maskwise.parts.label_maps import drawn

FILE = Path(__file__).parent / "results" / "clustering.json"
SIDE, OBJECTS, DIMENSIONS = 512, 50, 8
MOST = 3.0
"""Seconds; more is a failure."""


def owners() -> Tensor:
    """50 discs on a grid, which cover a half of the picture."""
    y, x = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    column, row = x * 10 // SIDE, y * 5 // SIDE
    away = ((x / SIDE * 10 % 1 - 0.5) * 51.2) ** 2 + ((y / SIDE * 5 % 1 - 0.5) * 102.4) ** 2
    return torch.where(away < 25**2, row * 10 + column, -1)


def seconds(work: Callable[[], object], *, repeats: int = 3) -> float:
    """Of the processor, by the fastest of several."""
    taken = []
    for _ in range(repeats):
        start = time.process_time()
        work()
        taken.append(time.process_time() - start)
    return round(min(taken), 2)


def main() -> None:
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    owner = owners()
    inside = owner[owner >= 0]
    means = 4 * torch.randn(DIMENSIONS, OBJECTS, generator=generator)
    vectors = means[:, inside] + 0.25 * torch.randn(DIMENSIONS, len(inside), generator=generator)
    middles = torch.stack([(inside % 10 + 0.5) * 51.2, (inside // 10 + 0.5) * 102.4]) / SIDE
    there = middles + 0.005 * torch.randn(2, len(inside), generator=generator)
    scale = torch.full_like(there, 0.5 / 0.02**2)
    score = 0.9 + 0.1 * torch.rand(len(inside), generator=generator)
    sure = (owner >= 0).float()
    times = {
        "mean shift": seconds(lambda: around_modes(vectors, bandwidth=1.5)),
        "threshold": seconds(lambda: around_modes(vectors, bandwidth=1.5, rounds=0)),
        "seeds": seconds(lambda: around_seeds(there, scale, score, threshold=0.9)),
        "drawn at 1024 x 1024": seconds(lambda: drawn(owner, sure, (1024, 1024))),
    }
    found = {
        "mean shift": around_modes(vectors, bandwidth=1.5).centres.shape[1],
        "seeds": len(around_seeds(there, scale, score, threshold=0.9).seeds),
    }
    for name, value in times.items():
        print(f"{name:22} {value:5.2f} s  {found.get(name, '')}")
    what = f"seconds of one core for {OBJECTS} objects of {len(inside)} pixels in {SIDE} x {SIDE}"
    FILE.write_text(json.dumps({"what": what, "seconds": times, "found": found}, indent=2) + "\n")
    if max(times.values()) > MOST:
        raise SystemExit(f"expected at most {MOST} s, got {times}")


if __name__ == "__main__":
    main()

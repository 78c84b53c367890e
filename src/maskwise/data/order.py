"""Which samples come when: shuffled by epoch, grouped by shape, dealt out to ranks. Whole numbers only, no reading."""

from collections.abc import Iterator, Sequence
from itertools import cycle, islice
from typing import Literal

import torch

from maskwise.data.chance import generator

Last = Literal["keep", "pad", "drop"]
"""What is done with the samples that fill no last step of all ranks.

`keep`: each sample comes once; the last batch is smaller, and a rank may have one batch less than another: for judging.
`pad`: filled with samples from the beginning of the epoch, so that all ranks have equally many full batches.
`drop`: left out this epoch.
"""


def batches(
    count: int,
    *,
    batch_size: int,
    seed: int,
    epoch: int,
    shuffle: bool,
    last: Last,
    rank: int = 0,
    world: int = 1,
    parts: int = 1,
    tall: Sequence[bool] | None = None,
) -> list[tuple[int, ...]]:
    """Batches of one rank, of which it takes `parts` in a step. In one step all ranks together take
    `batch_size * world * parts` samples that are neighbours in the order, and, where `tall` says which pictures are
    higher than wide, as long as there are enough, of one kind."""
    chance = generator(seed, epoch)
    order = torch.randperm(count, generator=chance).tolist() if shuffle else list(range(count))
    size = batch_size * world * parts
    steps = list(_steps(order, size, tall))
    if steps and (missing := size - len(steps[-1])):
        if last == "drop":
            steps.pop()
        elif last == "pad":
            steps[-1] = [*steps[-1], *islice(cycle(order), missing)]
    return [
        tuple(mine[start : start + batch_size])
        for step in steps
        for mine in [step[rank::world]]
        for start in range(0, len(mine), batch_size)
    ]


def _steps(order: Sequence[int], size: int, tall: Sequence[bool] | None) -> Iterator[list[int]]:
    wide_ones: list[int] = []
    tall_ones: list[int] = []
    for i in order:
        group = tall_ones if tall is not None and tall[i] else wide_ones
        group.append(i)
        if len(group) == size:
            yield group.copy()
            group.clear()
    rest = wide_ones + tall_ones
    yield from (rest[start : start + size] for start in range(0, len(rest), size))

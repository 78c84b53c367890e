"""Pictures and annotations that tests of formats write themselves."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from maskwise.data.images import write_image
from maskwise.masks import Masks
from maskwise.structures import Instances, Targets


@pytest.fixture(scope="session")
def picture() -> Callable[..., Path]:
    """Write a noisy picture of height x width."""

    def write(path: Path, size: tuple[int, int] = (6, 8)) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        seed = sum(path.name.encode())
        write_image(path, np.random.default_rng(seed).integers(0, 256, (*size, 3)).astype(np.uint8))
        return path

    return write


@pytest.fixture(scope="session")
def truth() -> Callable[..., Targets]:
    """Random masks, with holes and several parts, that share no pixel unless they may."""

    def make(seed: int, count: int, classes: int, *, overlap: bool = False, crowd: bool = False) -> Targets:
        rng = np.random.default_rng(seed)
        size = tuple(rng.integers(1, 20, 2))
        ids = rng.integers(0, count + 1, size)
        dense = np.stack([ids == i for i in range(1, count + 1)]) if count else np.zeros((0, *size), bool)
        if overlap:
            dense |= rng.random(dense.shape) < 0.3
        dense = dense[dense.any((1, 2))]
        labels = torch.from_numpy(rng.integers(0, classes, len(dense)))
        crowds = torch.from_numpy(rng.random(len(dense)) < (0.3 if crowd else 0))
        return Targets.from_masks(Masks.from_dense(torch.from_numpy(dense)), labels, crowd=crowds)

    return make


@pytest.fixture(scope="session")
def found(truth: Callable[..., Targets]) -> Callable[..., Instances]:
    """Random predictions, best first."""

    def make(seed: int, count: int, classes: int, *, overlap: bool = False) -> Instances:
        base = truth(seed, count, classes, overlap=overlap)
        scores, quality = torch.rand(2, len(base), generator=torch.Generator().manual_seed(seed))
        return Instances(
            boxes=base.boxes,
            labels=base.labels,
            masks=base.masks,
            scores=scores,
            quality=quality,
            mask_scores=scores * quality,
        ).ranked()

    return make


@pytest.fixture(scope="session")
def same() -> Callable[[Targets, Targets], bool]:
    """Whether two hold the same instances, in any order."""

    def rows(targets: Targets) -> list[tuple[str, int, bool]]:
        runs = [mask["counts"] for mask in targets.masks.rle()]
        return sorted(zip(runs, targets.labels.tolist(), targets.crowd.tolist(), strict=True))

    return lambda one, other: one.masks.size == other.masks.size and rows(one) == rows(other)

"""Draws from a `torch.Generator`: all chance of transforms and loader comes from one that is handed in."""

import numpy as np
import torch


def generator(*keys: int) -> torch.Generator:
    """A stream of chance that its keys decide: whole numbers, none of them negative."""
    seed = int(np.random.SeedSequence(keys).generate_state(1, np.uint64)[0])
    return torch.Generator().manual_seed(seed)


def uniform(source: torch.Generator, low: float, high: float) -> float:
    return low + (high - low) * float(torch.rand((), generator=source))


def whole(source: torch.Generator, low: int, high: int) -> int:
    """From low to high, both included."""
    return int(torch.randint(low, high + 1, (), generator=source))


def happens(source: torch.Generator, probability: float) -> bool:
    return float(torch.rand((), generator=source)) < probability

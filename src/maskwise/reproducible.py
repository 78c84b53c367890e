"""Chance, and operations that leave room for it: seeded, saved, and restored to the bit."""

import os
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def seed(number: int) -> None:
    torch.manual_seed(number)
    np.random.seed(number)  # noqa: NPY002  a method may use any of the three
    random.seed(number)


def chance(on: torch.device) -> dict[str, Any]:
    """The state of every generator that a method may draw from, for a checkpoint."""
    version, numbers, spare = random.getstate()
    array = np.random.get_state(legacy=False)  # noqa: NPY002
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(on) if on.type == "cuda" else None,
        "mps": torch.mps.get_rng_state() if on.type == "mps" else None,
        "numpy": {**array, "state": {**array["state"], "key": array["state"]["key"].tolist()}},
        "python": [version, list(numbers), spare],
    }


def restore(stored: Mapping[str, Any], on: torch.device) -> None:
    """What was stored on another kind of device says nothing of this one's generator, which stays as it is."""
    version, numbers, spare = stored["python"]
    random.setstate((version, tuple(numbers), spare))
    state = stored["numpy"]["state"]
    np.random.set_state({**stored["numpy"], "state": {**state, "key": np.array(state["key"], np.uint32)}})  # noqa: NPY002
    torch.set_rng_state(stored["torch"])
    if on.type == "cuda" and stored["cuda"] is not None:
        torch.cuda.set_rng_state(stored["cuda"], on)
    if on.type == "mps" and stored["mps"] is not None:
        torch.mps.set_rng_state(stored["mps"])


@contextmanager
def deterministic(wanted: bool) -> Iterator[None]:
    before = torch.are_deterministic_algorithms_enabled()
    if wanted:  # without it cuBLAS refuses to be deterministic; it is read at the first call to the GPU
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(wanted or before)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


@contextmanager
def no_denormals() -> Iterator[None]:
    """Numbers below 1e-38 count as zero: a CPU takes many times as long for them, and averages have them."""
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)

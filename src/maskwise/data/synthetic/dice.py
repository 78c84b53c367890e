"""Chance that falls the same way everywhere: numbers made from the raw bits of PCG64 and from nothing else.

numpy promises that the bits of a `SeedSequence` and of PCG64 never change, but not what `Generator` makes of them; and
sine, logarithm and matrix product differ in the last bit between machines. Here numbers come from those bits with the
operations that IEEE 754 fixes: + - * / and the square root.
"""

from collections.abc import Sequence
from math import sqrt
from typing import TypeVar

import numpy as np
from jaxtyping import Float32, UInt8

T = TypeVar("T")
Vector = tuple[float, float]
"""x and y; as a direction, of length 1."""

_AT_ONCE = 256


class Dice:
    """A stream of chance that its keys decide: whole numbers, none of them negative."""

    __slots__ = ("_bits", "_next")

    def __init__(self, *keys: int) -> None:
        self._bits = np.random.PCG64(np.random.SeedSequence(keys))
        self._next = iter(())

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        """From low to high, high not included."""
        value = next(self._next, None)
        if value is None:
            raw = self._bits.random_raw(_AT_ONCE) >> np.uint64(11)
            self._next = iter((raw * 2.0**-53).tolist())
            value = next(self._next)
        return low + (high - low) * value

    def whole(self, low: int, high: int) -> int:
        """From low to high, both included."""
        return low + int(self.uniform() * (high - low + 1))

    def happens(self, chance: float) -> bool:
        return self.uniform() < chance

    def pick(self, several: Sequence[T]) -> T:
        return several[self.whole(0, len(several) - 1)]

    def direction(self) -> Vector:
        """Any, all equally likely: a point of the unit disc, moved onto its rim."""
        while True:
            x, y = self.uniform(-1, 1), self.uniform(-1, 1)
            if 0.01 < (square := x * x + y * y) < 1:
                return x / sqrt(square), y / sqrt(square)

    def around(self, most: float) -> Vector:
        """A direction not far from (1, 0): turned by at most 2 arctan(`most`)."""
        return turn(self.uniform(-most, most))

    def bytes(self, *shape: int) -> UInt8[np.ndarray, "..."]:
        count = int(np.prod(shape))
        raw = self._bits.random_raw(-(-count // 8))
        return raw.astype("<u8", copy=False).view(np.uint8)[:count].reshape(shape)

    def grid(self, *shape: int) -> Float32[np.ndarray, "..."]:
        """Numbers from 0 to 1 in 256 steps."""
        return self.bytes(*shape) * np.float32(1 / 255)


def turn(t: float) -> Vector:
    """The direction that (1, 0) becomes when turned by 2 arctan(t)."""
    return (1 - t * t) / (1 + t * t), 2 * t / (1 + t * t)


def turned(a: Vector, b: Vector) -> Vector:
    """Direction a, turned by what turns (1, 0) into b."""
    return a[0] * b[0] - a[1] * b[1], a[1] * b[0] + a[0] * b[1]

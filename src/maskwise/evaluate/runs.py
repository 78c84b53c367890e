"""Masks of one picture as runs of pixels: what those of two sides share, what they cover, what is seen of them.

Objects meet few others, so pairs that share nothing are never looked at: time and memory follow the runs and the pairs
of runs that meet. Legend: r runs of all masks together, p pairs of masks that share a pixel.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Int, Integer, Shaped

from maskwise import rle
from maskwise.rle import RLE

AT_ONCE = 1 << 21
"""pairs of runs that are looked at together, which bounds the memory where many masks lie on each other"""


class Runs(NamedTuple):
    """Pixels are counted down the columns of the picture; runs have a pixel and those of one mask do not overlap."""

    start: Int[np.ndarray, " r"]
    end: Int[np.ndarray, " r"]
    """not included"""
    owner: Int[np.ndarray, " r"]
    """place of the mask"""


class Pairs(NamedTuple):
    """By the first side and then by the second; what is not listed shares nothing."""

    first: Int[np.ndarray, " p"]
    second: Int[np.ndarray, " p"]
    pixels: Int[np.ndarray, " p"]


def of_masks(masks: Sequence[RLE]) -> Runs:
    """Mask by mask, rising."""
    counts, per_mask = rle.from_strings([mask["counts"] for mask in masks])
    ends = counts.cumsum()
    before = np.concatenate([[0], ends])[per_mask.cumsum() - per_mask]
    owner = np.repeat(np.arange(len(masks)), per_mask)
    ends -= before[owner]
    kept = (rle.places(per_mask) % 2 == 1) & (counts > 0)
    return Runs((ends - counts)[kept], ends[kept], owner[kept])


def areas(runs: Runs, masks: int) -> Int[np.ndarray, " n"]:
    """Pixels of each of so many masks."""
    return sums(runs.owner, runs.end - runs.start, masks)


def shared(first: Runs, second: Runs) -> Pairs:
    """Pixels in common. Of two runs that meet, one begins in the other; where both begin together it is the second."""
    parts = [
        *_beginning_within(first, second, "left"),
        *(Pairs(b, a, pixels) for a, b, pixels in _beginning_within(second, first, "right")),
    ]
    return added(*(np.concatenate([np.zeros(0, np.int64), *column]) for column in zip(*parts, strict=True)))


def union(runs: Runs) -> Runs:
    """What any of the masks covers, as one mask."""
    order = np.argsort(runs.start, kind="stable")
    start, reach = runs.start[order], np.maximum.accumulate(runs.end[order])
    apart = start[1:] > reach[:-1]
    begins, ends = np.append(True, apart)[: len(start)], np.append(apart, True)[: len(start)]
    return Runs(start[begins], reach[ends], np.zeros(begins.sum(), np.int64))


def visible(runs: Runs, order: Int[np.ndarray, " n"]) -> Runs:
    """What is seen of each mask if all are painted in that order, the last on top."""
    painted = np.argsort(np.argsort(order)[runs.owner], kind="stable")
    start, end, owner = (column[painted] for column in runs)
    edges = np.sort(np.concatenate([start, end]))
    edges = edges[changes(edges)]
    top = np.full(len(edges), -1)
    for which, at in _within(np.searchsorted(edges, start), np.searchsorted(edges, end)):
        top[at] = owner[which]
    seen = np.flatnonzero(top >= 0)
    return Runs(edges[seen], edges[seen + 1], top[seen])


def added(first: Int[np.ndarray, " q"], second: Int[np.ndarray, " q"], pixels: Int[np.ndarray, " q"]) -> Pairs:
    """Each pair once."""
    columns = int(second.max(initial=-1)) + 1
    if len(first) and (int(first.max()) + 1) * columns <= len(first):  # most of all pairs meet
        total = sums(first * columns + second, pixels, 0)
        met = np.flatnonzero(total)
        return Pairs(met // columns, met % columns, total[met])
    order = np.lexsort((second, first))
    first, second = first[order], second[order]
    begins = changes(first, second)
    return Pairs(first[begins], second[begins], np.add.reduceat(pixels[order], begins))


def table(
    first: Int[np.ndarray, " p"],
    second: Int[np.ndarray, " p"],
    values: Shaped[np.ndarray, " p"],
    shape: tuple[int, int],
) -> Shaped[np.ndarray, "d n"]:
    """All pairs, 0 where none is given."""
    full = np.zeros(shape, values.dtype)
    full[first, second] = values
    return full


def highest(where: Int[np.ndarray, " p"], values: Float[np.ndarray, " p"], count: int) -> Float[np.ndarray, " n"]:
    """Of each place, 0 without any."""
    best = np.zeros(count)
    np.maximum.at(best, where, values)
    return best


def sums(where: Int[np.ndarray, " p"], pixels: Int[np.ndarray, " p"], count: int) -> Int[np.ndarray, " n"]:
    """Pixels by place; a sum stays below 2^53, so that it is exact."""
    return np.bincount(where, pixels, minlength=count).astype(np.int64)


def changes(*columns: Integer[np.ndarray, " q"]) -> Int[np.ndarray, " p"]:
    """Where any of them has another value than before, the beginning included."""
    differs = np.any([column[1:] != column[:-1] for column in columns], axis=0)
    return np.flatnonzero(np.append(True, differs)[: len(columns[0])])


def _beginning_within(outer: Runs, inner: Runs, side: Literal["left", "right"]) -> Iterator[Pairs]:
    """Runs of `inner` that begin in one of `outer`; with `left` also those that begin where it does."""
    start, end, owner = (column[np.argsort(inner.start, kind="stable")] for column in inner)
    low, high = np.searchsorted(start, outer.start, side), np.searchsorted(start, outer.end)
    yield Pairs(*np.zeros((3, 0), np.int64))
    for which, at in _within(low, high):
        yield added(outer.owner[which], owner[at], np.minimum(outer.end[which], end[at]) - start[at])


def _within(
    low: Int[np.ndarray, " r"], high: Int[np.ndarray, " r"]
) -> Iterator[tuple[Int[np.ndarray, " q"], Int[np.ndarray, " q"]]]:
    """All (i, j) with low[i] <= j < high[i], some at a time."""
    counts = high - low
    ends = counts.cumsum()
    cuts = np.searchsorted(ends, np.arange(AT_ONCE, counts.sum(), AT_ONCE)).tolist()
    for a, b in pairwise(sorted({0, *cuts, len(ends)})):
        which = np.repeat(np.arange(a, b), counts[a:b])
        yield which, np.arange(len(which)) + (low - ends + counts)[which] + int(ends[a] - counts[a])

"""Run-length masks in COCO's compressed form, many at once and in numpy alone.

A mask of height H is read down its columns; its runs of zeros and ones, zeros first, are written as variable-length
numbers in printable characters, each (from the fourth on) as the difference to the run two before it. The strings are
byte for byte those of pycocotools. Legend: r runs of all masks together, n masks.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple, TypedDict

import numpy as np
from jaxtyping import Bool, Int, Integer

Size = tuple[int, int]


class RLE(TypedDict):
    """One mask as COCO files hold it: `size` is [height, width]."""

    size: list[int]
    counts: str


class Window(NamedTuple):
    """A rectangle of a picture, x1 and y1 not included, and what the mask shows in it."""

    x0: int
    y0: int
    bits: Bool[np.ndarray, "h w"]


def encode(windows: Sequence[Window], size: Size) -> list[RLE]:
    """Compressed runs of masks that are given by their windows alone."""
    edges, per_mask = _edges(windows, size[0])
    counts, per_mask = _counts(edges, per_mask, total=size[0] * size[1])
    return [{"size": list(size), "counts": text} for text in _to_strings(counts, per_mask)]


def decode(rle: RLE) -> Window:
    """The tight window of a compressed mask."""
    return decode_all([rle])[0]


def decode_all(masks: Sequence[RLE]) -> list[Window]:
    """The tight windows of compressed masks; small ones are decoded several times as fast as one by one."""
    runs, per_mask = from_strings([mask["counts"] for mask in masks])
    parts = np.split(runs, per_mask.cumsum()[:-1]) if masks else []
    return [from_counts(part, (mask["size"][0], mask["size"][1])) for part, mask in zip(parts, masks, strict=True)]


def from_counts(counts: Int[np.ndarray, " r"], size: Size) -> Window:
    """The tight window of a mask given by its runs, zeros first."""
    height, width = size
    if counts.sum() != height * width or (counts < 0).any():
        raise ValueError(
            f"runs cover {int(counts.sum())} pixels, the picture has {height} x {width} = {height * width}"
        )
    edges = counts.cumsum()
    starts, ends = edges[0:-1:2], edges[1::2]
    starts, ends = starts[starts < ends], ends[starts < ends]
    if not len(starts):
        return Window(0, 0, np.zeros((0, 0), bool))
    x0, x1 = int(starts[0]) // height, int(ends[-1] - 1) // height + 1
    first, last = starts % height, (ends - 1) % height
    wraps = (starts // height != (ends - 1) // height).any()
    y0, y1 = (0, height) if wraps else (int(first.min()), int(last.max()) + 1)
    rows = y1 - y0
    change = np.zeros((x1 - x0) * rows + 1, np.int8)
    change[(starts // height - x0) * rows + first - y0] += 1
    change[((ends - 1) // height - x0) * rows + last - y0 + 1] -= 1
    columns = change[:-1].cumsum(dtype=np.int8).view(bool).reshape(x1 - x0, rows)
    return Window(x0, y0, np.ascontiguousarray(columns.T))


def from_string(text: str | bytes) -> Int[np.ndarray, " r"]:
    """Runs of a compressed string."""
    return from_strings([text])[0]


def from_strings(texts: Sequence[str | bytes]) -> tuple[Int[np.ndarray, " r"], Int[np.ndarray, " n"]]:
    """Runs of many compressed strings, one mask after another, and how many of them each mask has."""
    parts = [text.encode() if isinstance(text, str) else text for text in texts]
    raw = np.frombuffer(b"".join(parts), np.uint8).astype(np.int64) - 48
    ends = np.array([len(part) for part in parts], np.int64).cumsum()
    if ((raw < 0) | (raw > 63)).any() or (raw[ends[ends > 0] - 1] & 32).any():
        raise ValueError("not a compressed COCO mask: a character that it cannot hold, or cut off in the middle")
    last = np.flatnonzero((raw & 32) == 0)
    first = np.concatenate([[0], last[:-1] + 1]) if len(last) else last
    if (last - first > 11).any():
        raise ValueError("not a compressed COCO mask: a run of more than 60 bits")
    place = np.arange(len(raw)) - np.repeat(first, last - first + 1)
    numbers = np.add.reduceat((raw & 31) << (5 * place), first) if len(first) else first
    numbers = np.where(raw[last] & 16, numbers - (1 << 5 * (last - first + 1)), numbers)
    per_mask = np.diff(np.searchsorted(last, ends), prepend=0)
    return _undifferenced(numbers, per_mask), per_mask


def places(per_mask: Int[np.ndarray, " n"]) -> Int[np.ndarray, " r"]:
    """Of each run in its mask."""
    return np.arange(per_mask.sum()) - np.repeat(per_mask.cumsum() - per_mask, per_mask)


def _undifferenced(numbers: Int[np.ndarray, " r"], per_mask: Int[np.ndarray, " n"]) -> Int[np.ndarray, " r"]:
    """The second and every other number of a mask add up, and so do the third and every other."""
    place, runs = places(per_mask), numbers.copy()
    for begin in (1, 2):
        chain = np.flatnonzero((place >= begin) & (place % 2 == begin % 2))
        sums, starts = numbers[chain].cumsum(), np.flatnonzero(place[chain] == begin)
        before = sums[starts] - numbers[chain[starts]]
        runs[chain] = sums - np.repeat(before, np.diff(starts, append=len(chain)))
    return runs


def to_string(counts: Int[np.ndarray, " r"]) -> str:
    """Compressed string of the runs of one mask."""
    return _to_strings(counts, np.array([len(counts)]))[0]


def _edges(windows: Sequence[Window], height: int) -> tuple[Int[np.ndarray, " r"], Int[np.ndarray, " n"]]:
    """Places where a mask, read down its columns, begins or ends; and how many of them each mask has."""
    if not windows:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    rows, columns = (np.array([w.bits.shape[i] for w in windows], np.int64) for i in (0, 1))
    offsets = np.concatenate([[0], ((rows + 1) * columns).cumsum()])
    flat = np.zeros(offsets[-1] + 1, bool)  # each column is followed by one zero, so that no run leaves it
    for window, at, end in zip(windows, offsets[:-1] + 1, offsets[1:] + 1, strict=True):
        h, w = window.bits.shape
        flat[at:end].reshape(w, h + 1)[:, :h] = window.bits.T
    places = np.flatnonzero(flat[1:] != flat[:-1])
    owner = np.searchsorted(offsets, places, side="right") - 1
    column, row = np.divmod(places - offsets[owner], rows[owner] + 1)
    x0, y0 = (np.array([w[i] for w in windows], np.int64) for i in (0, 1))
    edges = (x0[owner] + column) * height + y0[owner] + row
    joins = np.flatnonzero((edges[1:-1:2] == edges[2::2]) & (owner[1:-1:2] == owner[2::2])) * 2 + 1
    keep = np.ones(len(edges), bool)
    keep[joins] = keep[joins + 1] = False  # a run that goes on in the next column
    return edges[keep], np.bincount(owner[keep], minlength=len(windows))


def _counts(
    edges: Int[np.ndarray, " r"], per_mask: Int[np.ndarray, " n"], *, total: int
) -> tuple[Int[np.ndarray, " s"], Int[np.ndarray, " n"]]:
    """Lengths of runs from places of change; a last run of zeros is written only if it is not empty."""
    ends = per_mask.cumsum()
    reaches_end = np.zeros(len(per_mask), bool)
    reaches_end[per_mask > 0] = edges[ends[per_mask > 0] - 1] == total
    runs = per_mask + ~reaches_end
    stops = np.insert(edges, ends[~reaches_end], total)
    starts = np.concatenate([[0], stops[:-1]]) if len(stops) else stops
    starts[(runs.cumsum() - runs)] = 0
    return stops - starts, runs


def _to_strings(counts: Int[np.ndarray, " r"], per_mask: Int[np.ndarray, " n"]) -> list[str]:
    ends = per_mask.cumsum()
    place = places(per_mask)
    numbers = counts.astype(np.int64, copy=True)
    later = np.flatnonzero(place > 2)
    numbers[later] -= counts[later - 2]
    length = _groups(numbers)
    most = int(length.max(initial=1))
    group = np.arange(most)
    letters = (numbers[:, None] >> (5 * group)) & 31
    letters += 48 + 32 * (group < length[:, None] - 1)
    text = letters.astype(np.uint8)[group < length[:, None]].tobytes().decode("ascii")
    stops = np.concatenate([[0], length.cumsum()])[np.concatenate([[0], ends])].tolist()
    return [text[a:b] for a, b in pairwise(stops)]


def _groups(numbers: Integer[np.ndarray, " r"]) -> Int[np.ndarray, " r"]:
    """How many groups of five bits a signed number needs."""
    magnitude = np.where(numbers < 0, ~numbers, numbers)
    length = np.ones(len(numbers), np.int64)
    while (over := magnitude >= (1 << (5 * length - 1))).any():
        length += over
    return length

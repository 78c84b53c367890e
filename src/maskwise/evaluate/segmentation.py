"""The three ways in which COCO files write a mask, turned into one: the compressed run-length code."""

import sys
from collections.abc import Sequence
from typing import TypeGuard, cast

import hotcoco.mask
import numpy as np
from jaxtyping import Bool, Int

from maskwise import rle
from maskwise.rle import RLE

LONGEST = 7
"""letters of one run: 35 bits hold every length that a picture can have"""
AT_ONCE = 500
"""masks that are checked together: enough to be fast, few enough to stay small"""


def to_rle(segmentation: object, size: tuple[int, int]) -> RLE:
    """Polygons (their union), plain or compressed run-length code; drawn and packed as pycocotools does, to the byte.

    Compressed code is passed on unread: `first_malformed` looks at many at once.
    """
    if isinstance(segmentation, list):
        drawn = hotcoco.mask.merge(hotcoco.mask.fr_py_objects(_polygons(segmentation), *size))
    elif isinstance(segmentation, dict):
        drawn = _run_lengths(segmentation, size)
    else:
        raise ValueError(f"'segmentation' must be polygons or a run-length code, got {type(segmentation).__name__}")
    counts = drawn["counts"]
    return {"size": list(size), "counts": counts.decode("ascii") if isinstance(counts, bytes) else str(counts)}


def is_finite(value: object) -> TypeGuard[int | float]:
    """A number that a float can hold; JSON also knows NaN, Infinity and integers of any length."""
    return (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and -sys.float_info.max <= value <= sys.float_info.max
    )


def _polygons(parts: Sequence[object]) -> list[list[float]]:
    """x y x y ... of three corners or more; a part of four numbers would be taken for a box."""
    for i, part in enumerate(parts):
        if not isinstance(part, list) or not all(is_finite(v) for v in part):
            raise ValueError(f"part {i} of 'segmentation' must be a list of finite numbers")
        if len(part) < 6 or len(part) % 2:
            raise ValueError(f"part {i} of 'segmentation' must be three corners or more, got {len(part)} numbers")
    if not parts:
        raise ValueError("'segmentation' has no parts")
    return cast(list[list[float]], parts)


def _run_lengths(code: dict[str, object], size: tuple[int, int]) -> dict[str, object]:
    stated = code.get("size")
    if not isinstance(stated, list | tuple) or list(stated) != list(size):
        raise ValueError(f"mask of size {stated} in an image of {list(size)} (height, width)")
    counts = code.get("counts")
    if isinstance(counts, str | bytes):
        return code
    if not isinstance(counts, list) or not all(type(run) is int and run >= 0 for run in counts):
        raise ValueError("'counts' must be text or a list of run lengths")
    if sum(counts) != size[0] * size[1]:
        raise ValueError(f"runs of {sum(counts)} pixels for a mask of {size[0]} x {size[1]} = {size[0] * size[1]}")
    return hotcoco.mask.fr_py_objects(code, *size)


def first_malformed(masks: Sequence[RLE]) -> int | None:
    """The first compressed mask whose runs cannot be read, are negative, or do not fill the picture exactly."""
    for start in range(0, len(masks), AT_ONCE):
        some = masks[start : start + AT_ONCE]
        pixels = np.array([mask["size"] for mask in some], np.int64).prod(axis=1)
        bad = _do_not_fill([mask["counts"].encode("ascii", "replace") for mask in some], pixels)
        if bad.any():
            return start + int(bad.argmax())
    return None


def _do_not_fill(texts: Sequence[bytes], pixels: Int[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
    """Which are no strings of masks, or have runs that do not add up; all are looked at together."""
    lengths = np.array([len(text) for text in texts], np.int64)
    letters = np.frombuffer(b"".join(texts), np.uint8).astype(np.int64) - 48
    of_letter = np.repeat(np.arange(len(texts)), lengths)
    ends = lengths.cumsum()
    bad = lengths == 0
    bad[~bad] |= letters[ends[~bad] - 1] & 32 > 0  # cut off inside a number
    bad[of_letter[(letters < 0) | (letters > 63)]] = True
    if bad.any():
        return bad
    last = np.flatnonzero(letters & 32 == 0)
    first = np.concatenate([[0], last[:-1] + 1])
    owner = of_letter[last]
    bad[owner[last - first >= LONGEST]] = True
    if bad.any():
        return bad
    runs, per_mask = rle.from_strings(texts)
    bad[owner[runs < 0]] = True
    return bad | (np.add.reduceat(runs, per_mask.cumsum() - per_mask) != pixels)

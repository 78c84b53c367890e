"""Pixels that the detections and the ground truths of one image share, counted from masks or from two label maps.

Legend: D detections, N ground truths, of one image.
"""

from collections.abc import Sequence
from typing import NamedTuple

import hotcoco.mask
import numpy as np
from jaxtyping import Bool, Float, Int, Integer

from maskwise.evaluate.objects import Pair, intersections, mask_areas, plain, present
from maskwise.rle import RLE, to_string

TABLE = 1 << 22
"""pairs of ids up to which they are counted as they are; larger ids are numbered afresh first, which is slower"""


class Cross(NamedTuple):
    """Two label maps of one picture laid over each other."""

    first: Int[np.ndarray, " a"]
    """ids that occur, rising"""
    second: Int[np.ndarray, " b"]
    counts: Int[np.ndarray, "a b"]


class Shared(NamedTuple):
    """Pixel counts of one image; masks without a pixel are left out. Masks may overlap: foregrounds are unions."""

    both: Int[np.ndarray, "d n"]
    found: Int[np.ndarray, " d"]
    truth: Int[np.ndarray, " n"]
    found_on_truth: Int[np.ndarray, " d"]
    """pixels of each detection that lie on any ground truth"""
    truth_on_found: Int[np.ndarray, " n"]
    found_foreground: int
    truth_foreground: int
    both_foreground: int
    picture: int

    @property
    def iou(self) -> Float[np.ndarray, "d n"]:
        return self.both / (self.found[:, None] + self.truth - self.both)

    @property
    def dice(self) -> Float[np.ndarray, "d n"]:
        return 2 * self.both / (self.found[:, None] + self.truth)


def cross(first: Integer[np.ndarray, "h w"], second: Integer[np.ndarray, "h2 w2"]) -> Cross:
    """All pairs in one pass: pixels of the picture counted by (id in the first, id in the second)."""
    if first.shape != second.shape:
        raise ValueError(f"label maps of different sizes: {first.shape} and {second.shape}")
    if not first.size:
        return Cross(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((0, 0), np.int64))
    if (lowest := min(first.min(), second.min())) < 0:
        raise ValueError(f"a label map holds ids from 0 on, got {lowest}")
    if (int(first.max()) + 1) * (int(second.max()) + 1) <= TABLE:
        return _counted(first, second)
    first_ids, first_places = np.unique(first, return_inverse=True)
    second_ids, second_places = np.unique(second, return_inverse=True)
    places = _counted(first_places.reshape(first.shape), second_places.reshape(first.shape))
    return Cross(first_ids.astype(np.int64), second_ids.astype(np.int64), places.counts)


def shared_of_masks(pair: Pair) -> Shared:
    """Of an image of a comparison; crowds are no ground truth."""
    found = _drawn(present(pair.found.masks, "prediction"), np.ones(len(pair.found), bool))
    truth = _drawn(present(pair.truth.masks, "ground truth"), ~pair.truth.crowd)
    all_found, all_truth = union(found, pair.truth.size), union(truth, pair.truth.size)
    return Shared(
        both=intersections(found, truth),
        found=mask_areas(found),
        truth=mask_areas(truth),
        found_on_truth=intersections(found, [all_truth])[:, 0],
        truth_on_found=intersections(truth, [all_found])[:, 0],
        found_foreground=int(mask_areas([all_found])[0]),
        truth_foreground=int(mask_areas([all_truth])[0]),
        both_foreground=int(intersections([all_found], [all_truth])[0, 0]),
        picture=pair.truth.size[0] * pair.truth.size[1],
    )


def shared_of_maps(found: Integer[np.ndarray, "h w"], truth: Integer[np.ndarray, "h2 w2"]) -> Shared:
    """Of two label maps, 0 is background. The numbers of the labels do not matter and may have gaps."""
    crossed = cross(found, truth)
    d, n = crossed.first != 0, crossed.second != 0
    both = crossed.counts[np.ix_(d, n)]
    return Shared(
        both=both,
        found=crossed.counts[d].sum(axis=1),
        truth=crossed.counts[:, n].sum(axis=0),
        found_on_truth=both.sum(axis=1),
        truth_on_found=both.sum(axis=0),
        found_foreground=int(crossed.counts[d].sum()),
        truth_foreground=int(crossed.counts[:, n].sum()),
        both_foreground=int(both.sum()),
        picture=found.size,
    )


def union(masks: Sequence[RLE], size: tuple[int, int]) -> RLE:
    """Pixels of any of the masks."""
    if not masks:
        return {"size": list(size), "counts": to_string(np.array([size[0] * size[1]]))}
    merged = hotcoco.mask.merge(plain(masks))
    return {"size": list(size), "counts": merged["counts"].decode("ascii")}


def _drawn(masks: Sequence[RLE], wanted: Bool[np.ndarray, " n"]) -> list[RLE]:
    """Those wanted that have a pixel."""
    return [masks[i] for i in np.flatnonzero(wanted & (mask_areas(masks) > 0)).tolist()]


def _counted(first: Integer[np.ndarray, "h w"], second: Integer[np.ndarray, "h w"]) -> Cross:
    k = int(second.max()) + 1
    pair = first.reshape(-1).astype(np.int64) * k
    np.add(pair, second.reshape(-1), out=pair, casting="unsafe")  # without it uint64 would become float
    counts = np.bincount(pair, minlength=(int(first.max()) + 1) * k).reshape(-1, k)
    rows, columns = np.flatnonzero(counts.any(axis=1)), np.flatnonzero(counts.any(axis=0))
    return Cross(rows, columns, counts[np.ix_(rows, columns)])

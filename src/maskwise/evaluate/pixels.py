"""Pixels that the detections and the ground truths of one image share, counted from masks or from two label maps.

Legend: D detections, N ground truths, of one image; p pairs of them that share a pixel.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, Integer

from maskwise.evaluate import runs
from maskwise.evaluate.objects import Pair, check_one_size, present
from maskwise.evaluate.runs import Pairs, Runs

AT_ONCE = 1 << 24
"""pixels of two label maps that are compared together"""


class Cross(NamedTuple):
    """Two label maps of one picture laid over each other."""

    first: Int[np.ndarray, " a"]
    """ids that occur, rising"""
    second: Int[np.ndarray, " b"]
    pairs: Pairs
    """by place of the ids"""

    @property
    def counts(self) -> Int[np.ndarray, "a b"]:
        """Of all pairs of ids; mind the memory where there are thousands."""
        return runs.table(*self.pairs, (len(self.first), len(self.second)))


class Shared(NamedTuple):
    """Pixel counts of one image; masks without a pixel are left out. Masks may overlap: foregrounds are unions."""

    both: Pairs
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
    def iou(self) -> Float[np.ndarray, " p"]:
        d, n, pixels = self.both
        return pixels / (self.found[d] + self.truth[n] - pixels)

    @property
    def dice(self) -> Float[np.ndarray, " p"]:
        d, n, pixels = self.both
        return 2 * pixels / (self.found[d] + self.truth[n])

    def best_of_found(self, values: Float[np.ndarray, " p"]) -> Float[np.ndarray, " d"]:
        """The highest of each detection, 0 if it touches nothing."""
        return runs.highest(self.both.first, values, len(self.found))

    def best_of_truth(self, values: Float[np.ndarray, " p"]) -> Float[np.ndarray, " n"]:
        return runs.highest(self.both.second, values, len(self.truth))


def cross(first: Integer[np.ndarray, "h w"], second: Integer[np.ndarray, "h2 w2"]) -> Cross:
    """All pairs in one pass: pixels of the picture counted by (id in the first, id in the second)."""
    if first.shape != second.shape:
        raise ValueError(f"label maps of different sizes: {first.shape} and {second.shape}")
    if first.size and (lowest := min(first.min(), second.min())) < 0:
        raise ValueError(f"a label map holds ids from 0 on, got {lowest}")
    rows = max(1, AT_ONCE // max(1, first.shape[1]))
    parts = [
        _counted(first[y : y + rows].reshape(-1), second[y : y + rows].reshape(-1))
        for y in range(0, max(1, len(first)), rows)
    ]
    a, b, pixels = (np.concatenate(column) for column in zip(*parts, strict=True))
    first_ids, a = np.unique(a, return_inverse=True)
    second_ids, b = np.unique(b, return_inverse=True)
    return Cross(first_ids, second_ids, runs.added(a, b, pixels))


def shared_of_masks(pair: Pair) -> Shared:
    """Of an image of a comparison; crowds are no ground truth."""
    found_masks, truth_masks = present(pair.found.masks, "prediction"), present(pair.truth.masks, "ground truth")
    check_one_size([*found_masks, *truth_masks])
    found, d = _drawn(runs.of_masks(found_masks))
    truth, n = _drawn(runs.of_masks([truth_masks[i] for i in np.flatnonzero(~pair.truth.crowd).tolist()]))
    all_found, all_truth = runs.union(found), runs.union(truth)
    return Shared(
        both=runs.shared(found, truth),
        found=runs.areas(found, d),
        truth=runs.areas(truth, n),
        found_on_truth=_on(found, all_truth, d),
        truth_on_found=_on(truth, all_found, n),
        found_foreground=int(runs.areas(all_found, 1)[0]),
        truth_foreground=int(runs.areas(all_truth, 1)[0]),
        both_foreground=int(_on(all_found, all_truth, 1)[0]),
        picture=pair.truth.size[0] * pair.truth.size[1],
    )


def shared_of_maps(found: Integer[np.ndarray, "h w"], truth: Integer[np.ndarray, "h2 w2"]) -> Shared:
    """Of two label maps, 0 is background. The numbers of the labels do not matter and may have gaps."""
    crossed = cross(found, truth)
    first, second, pixels = crossed.pairs
    d, n = crossed.first != 0, crossed.second != 0
    inside = d[first] & n[second]
    both = Pairs((d.cumsum() - 1)[first[inside]], (n.cumsum() - 1)[second[inside]], pixels[inside])
    found_areas, truth_areas = runs.sums(first, pixels, len(d))[d], runs.sums(second, pixels, len(n))[n]
    return Shared(
        both=both,
        found=found_areas,
        truth=truth_areas,
        found_on_truth=runs.sums(both.first, both.pixels, len(found_areas)),
        truth_on_found=runs.sums(both.second, both.pixels, len(truth_areas)),
        found_foreground=int(found_areas.sum()),
        truth_foreground=int(truth_areas.sum()),
        both_foreground=int(both.pixels.sum()),
        picture=found.size,
    )


def _drawn(masks: Runs) -> tuple[Runs, int]:
    """Without the masks that have no pixel, and how many are left."""
    owners, owner = np.unique(masks.owner, return_inverse=True)
    return masks._replace(owner=owner), len(owners)


def _on(masks: Runs, area: Runs, count: int) -> Int[np.ndarray, " n"]:
    """Pixels of each mask in an area."""
    met = runs.shared(masks, area)
    return runs.sums(met.first, met.pixels, count)


def _counted(first: Integer[np.ndarray, " p"], second: Integer[np.ndarray, " p"]) -> Pairs:
    """By id. Neighbours that are alike are counted as one: there are far fewer such runs than pixels."""
    begins = runs.changes(first, second)
    lengths = np.diff(begins, append=len(first))
    return runs.added(first[begins].astype(np.int64), second[begins].astype(np.int64), lengths)

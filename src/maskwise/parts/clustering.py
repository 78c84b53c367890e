"""From a vector for each pixel to groups of pixels, one group after the other.

Legend: d dimensions of a vector, n pixels, k clusters.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from maskwise.parts.label_maps import NOBODY

TOLERANCE = 1e-4
"""A mean that moves less has arrived."""


class Clusters(NamedTuple):
    owner: Int[Tensor, " n"]
    """The cluster that each pixel belongs to, or NOBODY."""
    centres: Float[Tensor, "d k"]


class SeededClusters(NamedTuple):
    owner: Int[Tensor, " n"]
    """The cluster that each pixel belongs to, or NOBODY."""
    seeds: Int[Tensor, " k"]
    """The pixel that each cluster was grown from, best first."""


# --- density


def around_modes(
    points: Float[Tensor, "d n"],
    *,
    bandwidth: float,
    rounds: int = 100,
    least: int = 10,
    leftover: int = 100,
    most: int = 1000,
    seed: int = 0,
) -> Clusters:
    """A pixel by chance that belongs to nobody, from it to a mode of the density, and all pixels near that mode.

    A mode whose surroundings belong to others by more than a half is none: they are passed over, and so is what lies
    around the pixel that led there. It ends when fewer than `leftover` pixels are left, or `most` were tried, which
    only noise needs; clusters of fewer than `least` are dropped. With no `rounds` of mean shift it is the pixels near
    the first one that are taken. The chance is the same each time.
    """
    chance = torch.Generator().manual_seed(seed)
    owner = torch.full(points.shape[1:], NOBODY, device=points.device)
    free = torch.ones_like(owner, dtype=torch.bool)
    centres: list[Tensor] = []
    for _ in range(most):
        if len(left := torch.where(free)[0]) < max(leftover, 1):
            break
        first = left[int(torch.randint(len(left), (), generator=chance))]
        mode = shifted(points, points[:, first], bandwidth=bandwidth, rounds=rounds)
        near = within(points, mode, bandwidth)
        fresh = near & free
        count = int(fresh.sum())
        if 2 * count < int(near.sum()):
            free &= ~within(points, points[:, first], bandwidth / 2)
        elif count >= least:
            owner[fresh] = len(centres)
            centres.append(mode)
        free &= ~near
        free[first] = False  # also where it is near nothing, not even itself: numbers that are none
    return Clusters(owner, torch.stack(centres, 1) if centres else points[:, :0])


def shifted(
    points: Float[Tensor, "d n"], start: Float[Tensor, " d"], *, bandwidth: float, rounds: int = 100
) -> Float[Tensor, " d"]:
    """Mean shift (Cheng, 1995) with a flat kernel: to the mean of the points within the bandwidth, until it stays.

    Only points within three bandwidths of where it began are looked at: all that it meets before it has moved by two.
    """
    anchor = mode = start
    region = squares = None
    for _ in range(rounds):
        if region is None or squares is None or (mode - anchor).norm() > 2 * bandwidth:
            anchor, near = mode, within(points, mode, 3 * bandwidth)
            region = points[:, near] - anchor[:, None]  # small numbers, for the squares below
            squares = region.square().sum(0)
        at = mode - anchor
        close = (squares - 2 * (at @ region) <= bandwidth**2 - at @ at).to(region.dtype)
        count = close.sum()
        if count == 0:
            break
        mean = anchor + (region @ close) / count
        arrived = bool((mean - mode).norm() < TOLERANCE)
        mode = mean
        if arrived:
            break
    return mode


def within(points: Float[Tensor, "d n"], middle: Float[Tensor, " d"], radius: float) -> Bool[Tensor, " n"]:
    return (points - middle[:, None]).square().sum(0) <= radius**2


# --- seeds


def likeness(
    points: Float[Tensor, "d *n"], centre: Float[Tensor, "d *m"], scale: Float[Tensor, "d *m"]
) -> Float[Tensor, "*r"]:
    """phi of Neven et al.: exp(-sum_d scale_d (point_d - centre_d)²), where scale is 1 / (2 sigma²)."""
    return (-(scale * (points - centre).square()).sum(0)).exp()


def around_seeds(
    points: Float[Tensor, "d n"],
    scale: Float[Tensor, "d n"],
    score: Float[Tensor, " n"],
    *,
    threshold: float,
    least: int = 128,
    fresh_share: float = 0.5,
    most: int = 1000,
) -> SeededClusters:
    """The pixel of the best score that nobody has, and all that are more than half like it by its own scale.

    They are a cluster where they are more than `least` and more than that share of them is new; used they are anyway.
    It ends at a score below the threshold, or when `most` seeds were tried, which only noise needs.
    """
    owner = torch.full(score.shape, NOBODY, device=points.device)
    left = score.clone()
    seeds: list[Tensor] = []
    for _ in range(most if len(score) else 0):
        best = left.argmax()
        if not bool(left[best] >= threshold):
            break
        near = likeness(points, points[:, best, None], scale[:, best, None]) > 0.5
        fresh = near & left.isfinite()
        size = int(near.sum())
        if size > least and int(fresh.sum()) > fresh_share * size:
            owner[fresh] = len(seeds)
            seeds.append(best)
        left[near] = -torch.inf
        left[best] = -torch.inf
    return SeededClusters(owner, torch.stack(seeds) if seeds else owner[:0])

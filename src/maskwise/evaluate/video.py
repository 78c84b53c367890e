"""Video objects as DAVIS judges them: J (region), F (contour) and their mean.

J is the IoU of an object in a frame, 1 if both are empty. F compares contours of one pixel (a pixel that differs from
its right, lower or diagonal neighbour): precision is the share of the found contour within ceil(.008 * diagonal) pixels
of the true one, recall the reverse, F = 2 P R / (P + R); both empty 1, one empty 0. Per object: mean over frames,
recall (share of frames above .5) and decay (mean of the first quarter - mean of the last; quarters share a frame). The
numbers of a data set are means over its objects. Unlike the script, frames beyond the 255th are binned rightly.
Legend: T frames, N true objects and D proposals of a sequence.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import hotcoco.mask
import numpy as np
from jaxtyping import Bool, Float, Int, Integer
from scipy.ndimage import distance_transform_edt
from scipy.optimize import linear_sum_assignment

from maskwise.evaluate.integrate import mean_known
from maskwise.evaluate.objects import plain
from maskwise.evaluate.report import ClassRow, Report
from maskwise.rle import RLE

TOLERANCE = 0.008
"""of the diagonal; 1 or more is in pixels"""

Bits: TypeAlias = Bool[np.ndarray, "h w"]
Frame: TypeAlias = Integer[np.ndarray, "_ _"] | Mapping[int, RLE]
"""a map of ids, 0 is background, or masks by id, which may overlap"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Video:
    """One sequence."""

    name: str
    truth: Sequence[Frame]
    found: Sequence[Frame]


class Scores(NamedTuple):
    """J and F of every found object with every true one, in every frame."""

    j: Float[np.ndarray, "t d n"]
    f: Float[np.ndarray, "t d n"]


class Statistics(NamedTuple):
    """Of one object over the frames."""

    mean: float
    recall: float
    decay: float


def semi_supervised(
    videos: Iterable[Video], *, void: int = 255, tolerance: float = TOLERANCE, data: str = ""
) -> Report:
    """The objects of the truth were given in the first frame, so ids must agree. First and last frame do not count.

    As in the script, void pixels of the truth are background here.
    """
    return _report("davis-semi-supervised", _of_given_ids(videos, void, tolerance), data)


def unsupervised(
    videos: Iterable[Video], *, most: int = 20, void: int = 255, tolerance: float = TOLERANCE, data: str = ""
) -> Report:
    """At most 20 proposals a sequence, paired with the objects for the largest mean of (J + F) / 2 over all frames.

    Void pixels of the truth belong to nobody.
    """
    return _report("davis-unsupervised", _of_best_pairs(videos, most, void, tolerance), data)


def region_similarity(found: Bits, truth: Bits) -> float:
    """J: IoU, 1 if both are empty."""
    union = (found | truth).sum()
    return float((found & truth).sum() / union) if union else 1.0


def contour_accuracy(found: Bits, truth: Bits, *, tolerance: float = TOLERANCE) -> float:
    """F of two masks."""
    radius = _radius(found.shape, tolerance)
    return _f_measure(_contour(found, radius), _contour(truth, radius))


def statistics(values: Float[np.ndarray, " t"]) -> Statistics:
    """Mean, recall and decay over frames; NaN without a frame."""
    if not len(values):
        return Statistics(np.nan, np.nan, np.nan)
    edges = np.round(np.linspace(1, len(values), 5) + 1e-10).astype(np.int64) - 1
    first, last = values[: edges[1] + 1], values[edges[3] :]
    return Statistics(float(values.mean()), float((values > 0.5).mean()), float(first.mean() - last.mean()))


def compare_frames(
    truth: Sequence[Frame],
    found: Sequence[Frame],
    *,
    true_ids: Sequence[int],
    found_ids: Sequence[int],
    void: int | None = None,
    tolerance: float = TOLERANCE,
) -> Scores:
    """J and F of all pairs of ids; pixels that the truth marks as `void` are taken out of both sides."""
    shape = (len(truth), len(found_ids), len(true_ids))
    scores = Scores(np.zeros(shape), np.zeros(shape))
    for t, (true_frame, found_frame) in enumerate(zip(truth, found, strict=True)):
        size = _size(true_frame, found_frame)
        kept = np.ones(size, bool) if void is None else ~_mask(true_frame, void, size)
        true_masks = [_mask(true_frame, i, size) & kept for i in true_ids]
        found_masks = [_mask(found_frame, i, size) & kept for i in found_ids]
        scores.j[t], scores.f[t] = _pairwise(found_masks, true_masks, tolerance)
    return scores


class _Judged(NamedTuple):
    """One sequence after ids were settled."""

    name: str
    ids: Sequence[int]
    j: Float[np.ndarray, "t n"]
    f: Float[np.ndarray, "t n"]


class _Contour(NamedTuple):
    places: Int[np.ndarray, " c"]
    """in the flat picture"""
    near: Bool[np.ndarray, " p"]
    """whether a place is within the tolerance"""


def _of_given_ids(videos: Iterable[Video], void: int, tolerance: float) -> Iterator[_Judged]:
    for video in videos:
        _check_length(video, least=3)
        truth, found = video.truth[1:-1], video.found[1:-1]
        ids = [i for i in _ids(video.truth[:1]) if i != void]  # what comes later was not given
        if unknown := sorted(set(_ids(found)) - set(ids)):
            raise ValueError(f"{video.name}: found ids {unknown} are no objects of the truth, which are {ids}")
        scores = compare_frames(truth, found, true_ids=ids, found_ids=ids, tolerance=tolerance)
        same = np.arange(len(ids))
        yield _Judged(video.name, ids, scores.j[:, same, same], scores.f[:, same, same])


def _of_best_pairs(videos: Iterable[Video], most: int, void: int, tolerance: float) -> Iterator[_Judged]:
    for video in videos:
        _check_length(video, least=1)
        ids, found_ids = [i for i in _ids(video.truth) if i != void], _ids(video.found)
        if len(found_ids) > most:
            raise ValueError(f"{video.name}: {len(found_ids)} proposals, at most {most} are allowed")
        nowhere = [-1 - i for i in range(len(ids) - len(found_ids))]  # a partner for every object, if only an empty one
        scores = compare_frames(
            video.truth, video.found, true_ids=ids, found_ids=[*found_ids, *nowhere], void=void, tolerance=tolerance
        )
        d, n = linear_sum_assignment(((scores.j + scores.f) / 2).mean(axis=0), maximize=True)
        d = d[np.argsort(n)]
        yield _Judged(video.name, ids, scores.j[:, d, np.arange(len(ids))], scores.f[:, d, np.arange(len(ids))])


def _report(policy: str, videos: Iterable[_Judged], data: str) -> Report:
    objects, frames = [], 0
    for video in videos:
        frames += len(video.j)
        objects += [
            (f"{video.name} {i}", statistics(video.j[:, n]), statistics(video.f[:, n])) for n, i in enumerate(video.ids)
        ]
    rows = [(name, _numbers(j, f)) for name, j, f in objects]
    names = list(_numbers(statistics(np.zeros(0)), statistics(np.zeros(0))))
    return Report(
        policy=policy,
        iou="J and F",
        numbers={name: mean_known([numbers[name] for _, numbers in rows]) for name in names},
        images=frames,
        ground_truths=len(rows),
        classes=tuple(ClassRow(name=name, ground_truths=1, numbers=numbers) for name, numbers in rows),
        data=data,
        notes=("means over objects", "recall: share of frames above 0.5"),
    )


def _numbers(j: Statistics, f: Statistics) -> dict[str, float]:
    numbers = {"J&F": (j.mean + f.mean) / 2}
    for name, of in (("J", j), ("F", f)):
        numbers |= {name: of.mean, f"{name}recall": of.recall, f"{name}decay": of.decay}
    return numbers


def _check_length(video: Video, *, least: int) -> None:
    if len(video.truth) != len(video.found) or len(video.truth) < least:
        raise ValueError(
            f"{video.name}: {len(video.truth)} true frames and {len(video.found)} found ones; "
            f"expected as many, and {least} or more"
        )


def _ids(frames: Sequence[Frame]) -> list[int]:
    """That occur anywhere, rising."""
    known: set[int] = set()
    for frame in frames:
        known.update(frame if isinstance(frame, Mapping) else np.unique(frame).tolist())
    if known and min(known) < 0:
        raise ValueError(f"ids of objects are 1 or more, got {min(known)}")
    return sorted(known - {0})


def _size(*frames: Frame) -> tuple[int, int]:
    """Of the picture; frames without any mask have none, and then everything in them is empty."""
    for frame in frames:
        if not isinstance(frame, Mapping):
            return frame.shape[0], frame.shape[1]
        for mask in frame.values():
            return mask["size"][0], mask["size"][1]
    return 0, 0


def _mask(frame: Frame, id_: int, size: tuple[int, int]) -> Bits:
    if isinstance(frame, Mapping):
        bits = hotcoco.mask.decode(plain([frame[id_]])[0]).astype(bool) if id_ in frame else np.zeros(size, bool)
    else:
        bits = frame == id_
    if bits.shape != size:
        raise ValueError(f"frames of one video have different sizes: {size} and {bits.shape}")
    return bits


def _pairwise(found: Sequence[Bits], truth: Sequence[Bits], tolerance: float) -> tuple[np.ndarray, np.ndarray]:
    j = np.array([[region_similarity(a, b) for b in truth] for a in found]).reshape(len(found), len(truth))
    contours = [[_contour(m, _radius(m.shape, tolerance)) for m in masks] for masks in (found, truth)]
    f = np.array([[_f_measure(a, b) for b in contours[1]] for a in contours[0]]).reshape(j.shape)
    return j, f


def _radius(size: tuple[int, ...], tolerance: float) -> float:
    return tolerance if tolerance >= 1 else float(np.ceil(tolerance * np.linalg.norm(size)))


def _contour(mask: Bits, radius: float) -> _Contour:
    """The last row and column have no neighbour beyond them and look along themselves."""
    near = np.zeros(mask.shape, bool)
    if mask.all() or not mask.any():
        return _Contour(np.zeros(0, np.int64), near.reshape(-1))
    beyond = np.pad(mask, ((0, 1), (0, 1)), mode="edge")
    line = (mask ^ beyond[:-1, 1:]) | (mask ^ beyond[1:, :-1]) | (mask ^ beyond[1:, 1:])
    window = tuple(_reach(np.asarray(line.any(axis=axis)), int(radius)) for axis in (1, 0))
    near[window] = np.asarray(distance_transform_edt(~line[window])) <= radius
    return _Contour(np.flatnonzero(line), near.reshape(-1))


def _reach(occupied: Bool[np.ndarray, " p"], margin: int) -> slice:
    places = np.flatnonzero(occupied)
    return slice(max(int(places[0]) - margin, 0), int(places[-1]) + margin + 1)


def _f_measure(found: _Contour, truth: _Contour) -> float:
    if not len(found.places) or not len(truth.places):
        return float(len(found.places) == len(truth.places))
    precision, recall = truth.near[found.places].mean(), found.near[truth.places].mean()
    return float(2 * precision * recall / (precision + recall)) if precision + recall else 0.0

"""Policies that compare objects: the numbers of whole tables of pairs, without the tables."""

import itertools
import time
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from maskwise import rle
from maskwise.categories import Categories
from maskwise.evaluate.accuracy import IN_CROWD, SHOWN, accuracy
from maskwise.evaluate.coco import Settings, coco
from maskwise.evaluate.coverage import best_overlap, coverage, dice
from maskwise.evaluate.errors import errors
from maskwise.evaluate.objects import Comparison, Found, Pair, Truth
from maskwise.evaluate.overlaps import of_kind
from maskwise.evaluate.panoptic import Segmentation, panoptic, panoptic_quality
from maskwise.evaluate.quality import true_iou
from maskwise.report.crops import choose
from maskwise.report.findings import find

SIZE, CLASSES = (7, 9), 3


def blobs(rng, n):
    """Overlapping, of one pixel, empty, of the whole picture."""
    bits = np.zeros((n, *SIZE), bool)
    for b in bits:
        y, x = rng.integers(0, SIZE[0]), rng.integers(0, SIZE[1])
        h, w = rng.choice([(0, 0), (1, 1), (3, 4), (4, 2), (9, 9)], p=[0.1, 0.2, 0.3, 0.35, 0.05])
        b[y : y + h, x : x + w] = True
    return bits


def image(seed, *, crowd=0.25, most=7):
    """Dense masks of both sides, and the image that a comparison has."""
    rng = np.random.default_rng(seed)
    true, extra = blobs(rng, rng.integers(0, most)), blobs(rng, rng.integers(0, most))
    near = [np.roll(b, rng.integers(-1, 2), axis=int(rng.integers(0, 2))) for b in true if rng.random() < 0.8]
    found = np.concatenate([extra, np.array(near, bool).reshape(-1, *SIZE)])
    d, n = len(found), len(true)
    scores = rng.random(d).round(1)
    codes = [tuple(rle.encode([rle.Window(0, 0, b) for b in bits], SIZE)) for bits in (true, found)]
    truth = Truth(
        size=SIZE,
        labels=rng.integers(0, CLASSES, n),
        boxes=np.zeros((n, 4)),
        areas=true.sum((1, 2)).astype(float),
        crowd=rng.random(n) < crowd,
        masks=codes[0],
        keypoints=None,
        ids=tuple(range(n)),
    )
    side = Found(
        labels=rng.integers(0, CLASSES, d),
        boxes=np.zeros((d, 4)),
        scores=scores,
        quality=np.ones(d),
        mask_scores=scores,
        masks=codes[1],
        keypoints=None,
    )
    return true, found, Pair(seed, truth, side)


def comparison_of(*pairs):
    return Comparison(categories=Categories(names=tuple("abc"[:CLASSES])), pairs=pairs)


def counted(found, true):
    """Shared pixels and areas of all pairs."""
    both = (found[:, None] & true[None]).sum((2, 3))
    return both, found.sum((1, 2))[:, None], true.sum((1, 2))[None]


def table_of(true, found, pair):
    """IoU of all pairs; of a crowd what a detection has in it."""
    both, found_areas, true_areas = counted(found, true)
    return both / np.maximum(np.where(pair.truth.crowd, found_areas, found_areas + true_areas - both), 1)


@settings(deadline=None, max_examples=80)
@given(seed=st.integers(0, 10**6))
def test_best_dice_and_coverage_equal_whole_tables(seed):
    true, found, pair = image(seed)
    true, found = (bits[bits.any((1, 2))] for bits in (true[~pair.truth.crowd], found))
    both, found_areas, true_areas = counted(found, true)
    any_true, any_found = true.any(axis=0), found.any(axis=0)
    leaves, cars = (policy(comparison_of(pair)).numbers for policy in (dice, coverage))
    if len(true):
        table = 2 * both / (found_areas + true_areas)
        best = [table.max(axis, initial=0) for axis in (0, 1)]
        assert leaves["SBD"] == (min(b.mean() for b in best) if len(found) else 0)
        assert leaves["FGBGDice"] == 2 * (any_true & any_found).sum() / (any_true.sum() + any_found.sum())
    iou = both / (found_areas + true_areas - both)
    best_found, best_truth = iou.max(axis=1, initial=0), iou.max(axis=0, initial=0)
    expected = {
        "MUCov": best_truth,
        "AvgPr": (found & any_true).sum((1, 2)) / found_areas[:, 0],
        "AvgRe": (true & any_found).sum((1, 2)) / true_areas[0],
        "ObjPr": best_found >= 0.5,
        "ObjRe": best_truth >= 0.5,
    }
    for name, values in expected.items():
        np.testing.assert_equal(cars[name], values.mean() if len(values) else np.nan)
    assert (cars["AvgFP"], cars["AvgFN"]) == ((best_found == 0).sum(), (best_truth == 0).sum())
    if (either := (any_true | any_found).sum()) > 0:
        assert cars["FgIoU"] == (any_true & any_found).sum() / either


@settings(deadline=None, max_examples=80)
@given(seed=st.integers(0, 10**6))
def test_panoptic_quality_of_masks_equals_that_of_painted_maps(seed):
    true, found, pair = image(seed)
    true_order = sorted(range(len(true)), key=lambda i: (not pair.truth.crowd[i], -true[i].sum(), -i))
    found_order = sorted(range(len(found)), key=lambda i: (pair.found.mask_scores[i], -i))
    maps = [
        segmentation(true, true_order, pair.truth.labels, pair.truth.crowd),
        segmentation(found, found_order, pair.found.labels, np.zeros(len(found), bool)),
    ]
    comparison = comparison_of(pair)
    expected = panoptic_quality([tuple(maps)], comparison.categories, things=range(CLASSES), zero_is_void=False)
    report = panoptic(comparison)
    np.testing.assert_array_equal(list(report.numbers.values()), list(expected.numbers.values()))
    assert report.ground_truths == expected.ground_truths


def segmentation(bits, order, labels, crowd):
    ids = np.zeros(SIZE, np.int64)
    for i in order:
        ids[bits[i]] = i + 1
    left = np.unique(ids[ids > 0])
    return Segmentation(map=ids, ids=tuple(left.tolist()), labels=labels[left - 1], crowd=crowd[left - 1])


@pytest.mark.long
@settings(deadline=None, max_examples=150)
@given(seed=st.integers(0, 10**6))
def test_accuracy_pairs_as_well_as_the_best_of_all_pairings(seed):
    """Of equally good pairings any may be taken, which matters where what is left over may lie in a crowd."""
    true, found, pair = image(seed)
    crowd, iou = pair.truth.crowd, table_of(true, found, pair)
    report = accuracy(comparison_of(pair))
    for label, threshold in itertools.product(range(CLASSES), SHOWN):
        mine, theirs = pair.found.labels == label, pair.truth.labels == label
        excused = iou[mine][:, theirs & crowd].max(axis=1, initial=0) > IN_CROWD
        table = iou[mine][:, theirs & ~crowd]
        shares = [best_share(table, excused, threshold, nudge) for nudge in (1e-7, -1e-7)]
        share = report.classes[label].numbers[f"accuracy_{threshold:g}"]
        assert shares[0] <= share <= shares[1] or np.isnan([share, *shares]).all()


def best_share(iou, excused, threshold, nudge):
    fits = iou >= threshold - 1e-12
    gain = fits * (1 + iou / (2 * min(iou.shape) + 1) + nudge * excused[:, None])
    rows, columns = linear_sum_assignment(gain, maximize=True)
    taken = rows[fits[rows, columns]]
    left = np.ones(len(iou), bool)
    left[taken] = False
    total = len(taken) + (left & ~excused).sum() + iou.shape[1] - len(taken)
    return len(taken) / total if total else np.nan


@settings(deadline=None, max_examples=80)
@given(seed=st.integers(0, 10**6))
def test_best_overlaps_equal_whole_tables(seed):
    true, found, pair = image(seed)
    crowd, iou = pair.truth.crowd, table_of(true, found, pair)
    iou = np.where(pair.found.labels[:, None] == pair.truth.labels, iou, 0)
    report = best_overlap(comparison_of(pair))
    for label, row in enumerate(report.classes):
        best = iou.max(axis=0, initial=0)[(pair.truth.labels == label) & ~crowd]
        np.testing.assert_equal(row.numbers["ABO"], best.mean() if len(best) else np.nan)
    single, group = (np.where(of, iou, 0).max(axis=1, initial=0) for of in (~crowd, crowd))
    expected = np.where((group >= 0.5) & (single < 0.5), np.nan, single)
    np.testing.assert_array_equal(true_iou(pair, of_kind("segm")), expected)


def nuclei(side):
    """side x side objects of 8 x 8 pixels, each found twice: two pixels beside its place, where it touches a neighbour,
    and one."""
    size = (9 * side, 9 * side)
    y, x = (9 * of.reshape(-1) for of in np.indices((side, side)))
    whole = np.ones((8, 8), bool)
    corners = list(zip(x.tolist(), y.tolist(), strict=True))
    true, first, second = (
        tuple(rle.encode([rle.Window(a + off, b, whole[:, : size[1] - a - off]) for a, b in corners], size))
        for off in (0, 2, 1)
    )
    _, _, pair = image(0)
    n = side * side
    boxes = np.stack([x, y, x + 8, y + 8], axis=1).astype(float)
    scores = np.linspace(1, 0.1, 2 * n)
    truth = replace(
        pair.truth,
        size=size,
        labels=np.zeros(n, np.int64),
        boxes=boxes,
        areas=np.full(n, 64.0),
        crowd=np.zeros(n, bool),
        masks=true,
        ids=tuple(range(n)),
    )
    side_found = replace(
        pair.found,
        labels=np.zeros(2 * n, np.int64),
        boxes=np.concatenate([boxes + 2, boxes + 1]),
        scores=scores,
        quality=scores,
        mask_scores=scores,
        masks=first + second,
    )
    return comparison_of(Pair(0, truth, side_found))


POLICIES = [accuracy, best_overlap, coverage, dice, panoptic]
MANY = 48  # squared


@pytest.fixture(scope="module")
def many():
    return nuclei(MANY)


FEW = Settings(max_dets=(10,))
"""COCO's rules compare these with all objects, and no others."""


def boundary_ap(comparison):
    return coco(comparison, "boundary", FEW)


def kinds_of_errors(comparison):
    return errors(comparison, max_dets=10)


def report(comparison):
    """And what its page shows."""
    found = find(comparison, FEW)
    choose(found)
    return found.masks


@pytest.mark.parametrize("policy", [*POLICIES, boundary_ap, kinds_of_errors, report])
def test_no_policy_holds_a_table_of_all_pairs(policy, many):
    """Not even of one byte a pair: 10 MB."""
    policy(nuclei(2))  # what is imported and cached once
    tracemalloc.start()
    try:
        found = policy(many)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found.ground_truths == MANY**2
    assert peak < 2 * MANY**4


@pytest.mark.parametrize("policy", [*POLICIES, coco])
def test_four_times_the_objects_take_about_four_times_as_long(policy, many):
    """Far from sixteen times, as where all pairs are looked at."""
    quick, slow = (min(seconds(policy, of) for _ in range(3)) for of in (nuclei(MANY // 2), many))
    assert slow < 10 * quick


def seconds(policy, comparison):
    start = time.perf_counter()
    policy(comparison)
    return time.perf_counter() - start

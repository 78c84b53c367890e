import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import binary_dilation

from maskwise.evaluate.video import (
    Video,
    contour_accuracy,
    region_similarity,
    semi_supervised,
    statistics,
    unsupervised,
)

SIZE = (20, 30)


def box(y, x, height=6, width=6, size=SIZE):
    bits = np.zeros(size, bool)
    bits[y : y + height, x : x + width] = True
    return bits


def frame(**boxes):
    ids = np.zeros(SIZE, np.uint8)
    for i, bits in boxes.items():
        ids[bits] = int(i[1:])
    return ids


def test_region_similarity():
    assert region_similarity(box(2, 2), box(2, 4)) == pytest.approx(24 / 48)
    assert region_similarity(box(0, 0, 0), box(0, 0, 0)) == 1
    assert region_similarity(box(0, 0, 0), box(2, 2)) == 0


def test_contour_accuracy_by_hand():
    """A pixel counts if its right, lower or diagonal neighbour differs: a 1 x 1 box at (5, 5) has the contour (4, 4),
    (4, 5), (5, 4), (5, 5). Two columns on, tolerance 1: found columns 6, 7 and true 4, 5, so column 6 and column 5
    are near: precision and recall 1/2."""
    a, b = box(5, 7, 1, 1), box(5, 5, 1, 1)
    assert contour_accuracy(a, b, tolerance=1) == pytest.approx(1 / 2)
    assert contour_accuracy(a, b, tolerance=2) == 1
    assert contour_accuracy(a, box(5, 15, 1, 1), tolerance=2) == 0
    # ceil(.008 * sqrt(20^2 + 30^2)) = ceil(.29) = 1
    assert contour_accuracy(a, b) == contour_accuracy(a, b, tolerance=1)


def test_contours_of_nothing_and_of_everything():
    nothing, everything = np.zeros(SIZE, bool), np.ones(SIZE, bool)
    assert contour_accuracy(nothing, nothing) == 1
    assert contour_accuracy(nothing, box(3, 3)) == contour_accuracy(box(3, 3), nothing) == 0
    assert contour_accuracy(everything, nothing) == 1  # no contour inside the picture either


def test_statistics_by_hand():
    """Nine frames: quarters are frames 1-3, 3-5, 5-7, 7-9. Mean 5/9 of those above, last three are 0."""
    values = np.array([1, 1, 1, 0.5, 1, 0, 0, 0, 0])
    found = statistics(values)
    assert found.mean == pytest.approx(4.5 / 9)
    assert found.recall == pytest.approx(4 / 9)
    assert found.decay == 1
    assert statistics(np.array([0.7])) == (0.7, 1, 0)
    assert all(math.isnan(v) for v in statistics(np.zeros(0)))


def test_decay_of_a_long_video():
    """The script's 8-bit index would wrap at frame 256."""
    assert statistics(np.linspace(1, 0, 401)).decay == pytest.approx(0.75)


def test_semi_supervised_by_hand():
    """Object 1 is exact; object 2 is lost in the second of the two frames that count."""
    one, two = box(2, 2), box(10, 15)
    truth = [frame(_1=one, _2=two)] * 4
    found = [np.zeros(SIZE, np.uint8), truth[0], frame(_1=one), np.zeros(SIZE, np.uint8)]
    report = semi_supervised([Video(name="cows", truth=truth, found=found)])
    assert report.policy == "davis-semi-supervised"
    assert (report.images, report.ground_truths) == (2, 2)
    assert report.numbers == {
        "J&F": 0.75, "J": 0.75, "Jrecall": 0.75, "Jdecay": 0.5, "F": 0.75, "Frecall": 0.75, "Fdecay": 0.5
    }  # fmt: skip
    assert [row.name for row in report.classes] == ["cows 1", "cows 2"]
    assert report.classes[1].numbers["J"] == 0.5


def test_only_objects_of_the_first_frame_are_given():
    first, later = frame(_1=box(2, 2)), frame(_1=box(2, 2), _2=box(10, 15))
    video = Video(name="cows", truth=[first, later, later, later], found=[first] * 4)
    report = semi_supervised([video])
    assert (report.ground_truths, report.numbers["J&F"]) == (1, 1.0)


def test_means_are_over_objects_and_not_over_frames():
    """A long video with one lost object and a short one with one exact object: (0 + 1) / 2."""
    truth, nothing = frame(_1=box(2, 2)), np.zeros(SIZE, np.uint8)
    videos = [
        Video(name="a", truth=[truth] * 9, found=[nothing] * 9),
        Video(name="b", truth=[truth] * 3, found=[truth] * 3),
    ]
    assert semi_supervised(videos).numbers["J"] == 0.5


def test_unsupervised_pairs_whole_sequences():
    """Proposal 7 covers object 1 in all frames but one, proposal 3 only in that one: the pair is settled once."""
    one, two = box(2, 2), box(10, 15)
    truth = [frame(_1=one, _2=two)] * 4
    found = [frame(_7=one, _9=two)] * 3 + [frame(_3=one, _9=two)]
    report = unsupervised([Video(name="x", truth=truth, found=found)])
    assert report.policy == "davis-unsupervised"
    assert report.numbers["J"] == pytest.approx((3 / 4 + 1) / 2)
    assert report.images == 4
    fewer = unsupervised([Video(name="x", truth=truth, found=[frame(_9=two)] * 4)])
    assert fewer.numbers["J&F"] == 0.5
    assert unsupervised([Video(name="x", truth=truth, found=[np.zeros(SIZE, np.uint8)] * 4)]).numbers["J&F"] == 0


def test_void_belongs_to_nobody_without_supervision():
    one, unknown = box(2, 2), box(2, 8, 6, 3)
    truth, found = frame(_1=one, _255=unknown), frame(_1=one | unknown)
    video = Video(name="x", truth=[truth] * 3, found=[found] * 3)
    assert unsupervised([video]).numbers["J&F"] == 1
    assert semi_supervised([video]).numbers["J"] == pytest.approx(36 / 54)


def test_masks_and_maps_give_the_same(rle):
    one, two, moved = box(2, 2), box(10, 15), box(3, 4)
    maps = Video(name="x", truth=[frame(_1=one, _2=two)] * 4, found=[frame(_1=moved)] * 4)
    coded = Video(name="x", truth=[{1: rle(one), 2: rle(two)}] * 4, found=[{1: rle(moved)}] * 4)
    assert semi_supervised([maps]).numbers == semi_supervised([coded]).numbers
    assert unsupervised([maps]).numbers == unsupervised([coded]).numbers
    lost = Video(name="x", truth=[{1: rle(one)}, {}, {}, {}], found=[{}] * 4)
    assert semi_supervised([lost]).numbers["J&F"] == 1  # gone, and not claimed to be there


def test_extremes():
    assert all(math.isnan(v) for v in semi_supervised([]).numbers.values())
    nothing = Video(name="x", truth=[np.zeros(SIZE, int)] * 3, found=[frame(_1=box(2, 2))] * 3)
    assert all(math.isnan(v) for v in unsupervised([nothing]).numbers.values())


def test_complaints():
    truth = frame(_1=box(2, 2))
    with pytest.raises(ValueError, match=r"x: found ids \[4\] are no objects of the truth, which are \[1\]"):
        semi_supervised([Video(name="x", truth=[truth] * 3, found=[frame(_4=box(2, 2))] * 3)])
    with pytest.raises(ValueError, match="x: 2 true frames and 2 found ones; expected as many, and 3 or more"):
        semi_supervised([Video(name="x", truth=[truth] * 2, found=[truth] * 2)])
    with pytest.raises(ValueError, match="x: 3 true frames and 2 found ones"):
        unsupervised([Video(name="x", truth=[truth] * 3, found=[truth] * 2)])
    with pytest.raises(ValueError, match="x: 2 proposals, at most 1 are allowed"):
        unsupervised([Video(name="x", truth=[truth], found=[frame(_1=box(2, 2), _2=box(9, 9))])], most=1)
    with pytest.raises(ValueError, match=r"different sizes: \(20, 30\) and \(5, 5\)"):
        unsupervised([Video(name="x", truth=[truth], found=[np.ones((5, 5), int)])])
    with pytest.raises(ValueError, match="ids of objects are 1 or more, got -1"):
        unsupervised([Video(name="x", truth=[-truth.astype(int)], found=[truth])])


def _plain_contour(mask):
    height, width = mask.shape
    line = np.zeros_like(mask)
    for y in range(height):
        for x in range(width):
            right, lower = min(x + 1, width - 1), min(y + 1, height - 1)
            line[y, x] = len({mask[y, x], mask[y, right], mask[lower, x], mask[lower, right]}) > 1
    return line


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10**6), radius=st.integers(1, 4))
def test_contours_equal_dilation_by_a_disk(seed, radius):
    rng = np.random.default_rng(seed)
    a, b = (box(*rng.integers(0, 15, 2), *rng.integers(1, 12, 2)) ^ (rng.random(SIZE) < 0.01) for _ in range(2))
    span = np.arange(-radius, radius + 1)
    disk = span[:, None] ** 2 + span**2 <= radius**2
    found, truth = _plain_contour(a), _plain_contour(b)
    precision = (found & binary_dilation(truth, disk)).sum() / found.sum()
    recall = (truth & binary_dilation(found, disk)).sum() / truth.sum()
    expected = 2 * precision * recall / (precision + recall) if precision + recall else 0
    assert contour_accuracy(a, b, tolerance=radius) == pytest.approx(expected)


@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 10**6))
def test_found_exactly_is_one_and_proposals_may_have_any_ids(seed):
    rng = np.random.default_rng(seed)
    truth = [frame(**{f"_{i}": box(*rng.integers(0, 15, 2)) for i in (1, 2, 3)}) for _ in range(4)]
    numbers = semi_supervised([Video(name="x", truth=truth, found=truth)]).numbers
    assert {numbers[name] for name in ("J&F", "J", "Jrecall", "F", "Frecall")} == {1}
    assert numbers["Jdecay"] == numbers["Fdecay"] == 0
    renamed = [np.array([0, 30, 10, 20], np.uint8)[ids] for ids in truth]
    assert unsupervised([Video(name="x", truth=truth, found=renamed)]).numbers["J&F"] == 1

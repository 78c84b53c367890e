import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskwise.evaluate.parsing import People, compare_people, parsing

PARTS = ("head", "body", "shoes")


def people(parts, ids, scores=None):
    return People(
        parts=np.array([parts]), people=np.array([ids]), scores=None if scores is None else np.array(scores, float)
    )


# One row of ten pixels. Person 1: head, head, body, body. Person 2: head, shoes.
TRUTH = people([1, 1, 2, 2, 0, 0, 1, 3, 0, 0], [1, 1, 1, 1, 0, 0, 2, 2, 0, 0])


def test_by_hand():
    """Detection 4 has head 1/2, body 2/3 of person 1 and background 6/6: mean (1/2 + 2/3 + 1) / 3 = 13/18.

    Detection 9 is person 2 with the shoes missed and one pixel of body instead: head 1, shoes 0, body 0, background
    8/8: mean 2/4."""
    found = people([1, 2, 2, 2, 0, 0, 1, 2, 0, 0], [4, 4, 4, 4, 0, 0, 9, 9, 0, 0], [0.6, 0.9])
    overlaps = compare_people(TRUTH, found, 3)
    assert overlaps.mean[0, 0] == pytest.approx((1 / 2 + 2 / 3 + 1) / 3)
    assert overlaps.mean[1, 1] == pytest.approx(2 / 4)
    assert overlaps.mean[0, 1] == pytest.approx((0 + 0 + 0 + 4 / 10) / 4)
    assert overlaps.true_parts.tolist() == [2, 2]
    report = parsing([(TRUTH, found)], PARTS)
    assert report.policy == "parsing"
    numbers = report.numbers
    assert (numbers["APp40"], numbers["PCP40"]) == (1, pytest.approx((2 / 2 + 1 / 2) / 2))
    # at .5 the second overlap, exactly .5, is not enough: wrong, right: half the people at precision 1/2
    assert (numbers["APp50"], numbers["PCP50"]) == (1 / 4, pytest.approx((1 / 2 + 0) / 2))
    assert (numbers["APp60"], numbers["PCP60"]) == (1 / 4, pytest.approx((1 / 2) / 2))
    assert numbers["APp80"] == numbers["PCP80"] == 0
    assert numbers["APpvol"] == pytest.approx((4 * 1 + 3 * 1 / 4 + 0) / 9)
    assert list(numbers)[:2] == ["APpvol", "APp50"]


def test_a_person_is_taken_once():
    """Two halves of person 1: the better score takes it, the other is wrong although it overlaps too."""
    found = people([1, 1, 2, 2, 0, 0, 0, 0, 0, 0], [1, 1, 2, 2, 0, 0, 0, 0, 0, 0], [0.5, 0.9])
    one = people([1, 1, 2, 2, 0, 0, 0, 0, 0, 0], [1, 1, 1, 1, 0, 0, 0, 0, 0, 0])
    numbers = parsing([(one, found)], PARTS).numbers
    assert (numbers["APp50"], numbers["PCP50"]) == (1, 1 / 2)  # (1 + 0 + 6/8) / 3 = 7/12
    numbers = parsing([(TRUTH, found)], PARTS).numbers
    assert numbers["APp50"] == 1 / 2


def test_extremes():
    nobody = people([0, 0], [0, 0])
    found = people([1, 2], [1, 1], [0.5])
    assert all(math.isnan(v) for v in parsing([], PARTS).numbers.values())
    assert all(math.isnan(v) for v in parsing([(nobody, found), (nobody, nobody)], PARTS).numbers.values())
    truth = people([1, 2], [5, 5])
    assert set(parsing([(truth, nobody)], PARTS).numbers.values()) == {0.0}
    assert set(parsing([(truth, found)], PARTS).numbers.values()) == {1.0}
    filled = parsing([(truth, found), (nobody, found)], PARTS)
    assert (filled.images, filled.ground_truths) == (2, 1)
    bare = people([0, 0], [1, 1])  # a person without a part cannot have correct ones
    assert parsing([(bare, people([0, 0], [1, 1], [1.0]))], PARTS).numbers["PCP50"] == 0


def test_complaints():
    with pytest.raises(ValueError, match="2 people found, but 1 scores"):
        parsing([(people([0, 0], [0, 0]), people([1, 2], [1, 2], [0.5]))], PARTS)
    with pytest.raises(ValueError, match="prediction: parts must be 0 to 3, got 0 to 255"):
        compare_people(TRUTH, people([0] * 9 + [255], [0] * 10), 3)
    with pytest.raises(ValueError, match="label maps of different sizes"):
        compare_people(TRUTH, people([0], [0]), 3)
    with pytest.raises(ValueError, match=r"truth: parts of size \(1, 1\), people of size \(1, 2\)"):
        compare_people(people([0], [0, 0]), people([0], [0]), 3)


def random_people(rng):
    ids = np.kron(rng.integers(0, 4, (3, 3)), np.ones((4, 4), np.int64))
    return People(parts=np.kron(rng.integers(0, 4, (6, 6)), np.ones((2, 2), np.int64)), people=ids)


def scored(of, rng):
    count = len(np.unique(of.people[of.people > 0]))
    return People(parts=of.parts, people=of.people, scores=np.round(rng.random(count), 1))


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 10**6))
def test_overlaps_equal_counting_pixels(seed):
    rng = np.random.default_rng(seed)
    truth, found = random_people(rng), random_people(rng)
    overlaps = compare_people(truth, found, 3)
    for d, p in enumerate(np.unique(found.people[found.people > 0])):
        for n, g in enumerate(np.unique(truth.people[truth.people > 0])):
            a, b = found.parts * (found.people == p), truth.parts * (truth.people == g)
            iou = [((a == c) & (b == c)).sum() / max(((a == c) | (b == c)).sum(), 1) for c in range(4)]
            there = [((a == c) | (b == c)).any() for c in range(4)]
            assert overlaps.mean[d, n] == pytest.approx(np.mean([v for v, ok in zip(iou, there, strict=True) if ok]))
            np.testing.assert_allclose(np.nan_to_num(overlaps.parts[d, n]), iou[1:])


@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 10**6))
def test_found_exactly_is_one_and_only_the_order_of_ids_has_a_meaning(seed):
    rng = np.random.default_rng(seed)
    truth, other = random_people(rng), scored(random_people(rng), rng)
    truth = People(parts=np.maximum(truth.parts, 1), people=truth.people)  # everyone has a part
    if truth.people.any():
        assert set(parsing([(truth, scored(truth, rng))], PARTS).numbers.values()) == {1.0}
    # people that a detection overlaps equally are asked in the order of their ids
    renamed = People(parts=truth.parts, people=np.array([0, 7, 90, 300])[truth.people])
    before, after = (parsing([(t, other)], PARTS).numbers for t in (truth, renamed))
    assert before == pytest.approx(after, nan_ok=True)

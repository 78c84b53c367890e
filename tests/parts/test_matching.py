"""Which object each anchor or proposal stands for, and which of them are drawn."""

import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torchvision.models.detection._utils import Matcher

from maskwise import boxes
from maskwise.masks import Masks
from maskwise.parts import matching
from maskwise.parts.matching import BACKGROUND, BETWEEN, match, objects, sample
from maskwise.structures import Targets

seeds = st.integers(0, 10_000)


def random_boxes(generator, count):
    corner, side = (torch.rand(count, 2, generator=generator) * s for s in (40, 30))
    return torch.cat([corner, corner + side + 1], 1)


def test_thresholds_by_hand():
    """Of a box 10 wide: the same, .7 of it, half of it, a quarter of it, nothing of it."""
    shares = torch.tensor([10.0, 7, 5, 2.5, 0])
    references = torch.stack([shares * 0, shares * 0, shares, shares * 0 + 10], 1)
    found = match(references, torch.tensor([[0.0, 0, 10, 10]]), positive=0.7, negative=0.3)
    assert found.tolist() == [0, 0, BETWEEN, BACKGROUND, BACKGROUND]


@given(seeds, st.integers(1, 6), st.booleans())
def test_matches_are_torchvisions(seed, count, rescue):
    generator = torch.Generator().manual_seed(seed)
    references, found = random_boxes(generator, 30), random_boxes(generator, count)
    overlap = boxes.iou(found, references)
    assume(bool((overlap.amax(1) > 0).all()))
    expected = Matcher(0.7, 0.3, allow_low_quality_matches=rescue)(overlap)
    assert torch.equal(match(references, found, positive=0.7, negative=0.3, rescue=rescue), expected)


@given(seeds, st.integers(1, 6))
def test_the_best_references_of_every_object_are_rescued(seed, count):
    generator = torch.Generator().manual_seed(seed)
    references, found = random_boxes(generator, 30), random_boxes(generator, count)
    matches = match(references, found, positive=0.7, negative=0.3, rescue=True)
    overlap = boxes.iou(references, found)
    for of_object in overlap.T[overlap.amax(0) > 0]:
        assert (matches[of_object == of_object.max()] >= 0).all()
    without = match(references, found, positive=0.7, negative=0.3)
    positive = torch.where(without >= 0)[0]
    assert (overlap[positive, without[positive]] >= 0.7).all()
    assert (overlap[without == BACKGROUND] < 0.3).all()


@given(seeds)
def test_many_objects_are_looked_at_some_at_a_time(seed):
    generator = torch.Generator().manual_seed(seed)
    references, found = random_boxes(generator, 20), random_boxes(generator, 9)
    one = match(references, found, positive=0.5, negative=0.5, rescue=True)
    try:
        most, matching.PAIRS_AT_ONCE = matching.PAIRS_AT_ONCE, 40
        assert torch.equal(match(references, found, positive=0.5, negative=0.5, rescue=True), one)
    finally:
        matching.PAIRS_AT_ONCE = most


def test_nothing_to_match():
    none, some = torch.zeros(0, 4), torch.tensor([[0.0, 0, 5, 5]])
    assert match(none, some, positive=0.7, negative=0.3, rescue=True).shape == (0,)
    assert match(some, none, positive=0.7, negative=0.3, rescue=True).tolist() == [BACKGROUND]
    far = torch.tensor([[50.0, 50, 60, 60]])
    assert match(some, far, positive=0.7, negative=0.3, rescue=True).tolist() == [BACKGROUND]


@given(st.lists(st.sampled_from([BETWEEN, BACKGROUND, 0, 3]), max_size=40), st.integers(0, 30), st.floats(0, 1), seeds)
def test_as_many_are_drawn_as_there_are_and_as_may_be(matches, total, share, seed):
    torch.manual_seed(seed)
    matches = torch.tensor(matches, dtype=torch.int64)
    first, rest = sample(matches, total=total, positives=share)
    assert len(first) == min(int(total * share), int((matches >= 0).sum()))
    assert len(rest) == min(total - len(first), int((matches == BACKGROUND).sum()))
    assert (matches[first] >= 0).all()
    assert (matches[rest] == BACKGROUND).all()
    assert len(torch.cat([first, rest]).unique()) == len(first) + len(rest)


def test_objects_are_neither_crowds_nor_empty():
    dense = torch.zeros(3, 8, 8, dtype=torch.bool)
    dense[0, 2:4, 2:4] = dense[1] = True
    targets = Targets.from_masks(
        Masks.from_dense(dense), torch.tensor([4, 5, 6]), crowd=torch.tensor([False, True, False])
    )
    assert objects(targets).labels.tolist() == [4]
    assert objects(targets[:1]) is not None
    assert len(objects(targets[1:])) == 0

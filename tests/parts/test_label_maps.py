"""Maps in which each pixel belongs to one object: from ground truth, and drawn in the original picture."""

import numpy as np
import pytest
import torch

from maskwise.masks import Masks
from maskwise.parts.label_maps import (
    IGNORED,
    NOBODY,
    classes,
    drawn,
    instances,
    mean_of_each,
    mean_probability,
    owners,
    pixels_of,
)
from maskwise.structures import Targets


def targets(*rows, size=(4, 6), labels=None, **rest):
    """One object of the pixels y0:y1, x0:x1 for each row."""
    masks = torch.zeros(len(rows), *size, dtype=torch.bool)
    for mask, (y0, y1, x0, x1) in zip(masks, rows, strict=True):
        mask[y0:y1, x0:x1] = True
    return Targets.from_masks(Masks.from_dense(masks), torch.tensor(labels or [0] * len(rows)), **rest)


BACK, FRONT = (0, 4, 0, 4), (1, 3, 2, 6)


@pytest.mark.parametrize(("depth", "contested"), [(None, 1), ([1, 0], 1), ([0, 1], 0)])
def test_where_objects_overlap_the_nearest_is_seen_else_the_smaller(depth, contested):
    owner = owners(targets(BACK, FRONT, depth=None if depth is None else torch.tensor(depth)))
    assert owner[1, 2] == contested
    assert owner[1, 4] == 1
    assert owner[0, 2] == 0
    assert owner[0, 5] == NOBODY


def test_crowds_are_ignored_but_for_objects_before_them():
    several = targets(BACK, FRONT, crowd=torch.tensor([True, False]), labels=[3, 5])
    owner = owners(several)
    assert owner[0, 0] == IGNORED
    assert owner[1, 2] == 1
    named = classes(owner, several.labels, background=8)
    assert named[0].tolist() == [IGNORED] * 4 + [8, 8]
    assert named[1].tolist() == [IGNORED] * 2 + [5] * 4
    pixels = pixels_of(owner, several.labels)
    assert len(pixels.learned) == 24 - 12
    assert pixels.labels.tolist() == [5]
    assert pixels.owner.unique().tolist() == [NOBODY, 0]


def test_objects_that_are_not_seen_have_no_number():
    several = targets((0, 1, 0, 1), (0, 1, 0, 1), (0, 0, 0, 0), (2, 4, 0, 6), labels=[0, 1, 2, 3])
    pixels = pixels_of(owners(several), several.labels)
    assert pixels.labels.tolist() == [0, 3]
    assert torch.bincount(pixels.owner[pixels.owner >= 0]).tolist() == [1, 12]
    none = Targets.none((4, 6))
    assert (owners(none) == NOBODY).all()
    assert len(pixels_of(owners(none), none.labels).labels) == 0


def test_means_by_hand():
    found = mean_of_each(torch.tensor([[1.0, 2, 6], [0, 0, 3]]), torch.tensor([0, 0, 2]), 3)
    torch.testing.assert_close(found, torch.tensor([[1.5, 0, 6], [0, 0, 3]]))


def test_means_of_objects_of_millions_of_pixels_are_exact():
    values = torch.tensor([[0.9, 0.35]]).T.expand(2, 2_000_000)
    found = mean_of_each(values, torch.zeros(2_000_000, dtype=torch.int64), 1)
    torch.testing.assert_close(found, torch.tensor([[0.9], [0.35]]))


def test_an_object_scores_the_mean_probability_of_its_class_over_its_mask():
    probabilities = torch.tensor([[[0.9, 0.7, 0.2]], [[0.1, 0.3, 0.8]]])
    found = mean_probability(torch.tensor([[0, 0, 1]]), torch.tensor([0, 1]), probabilities)
    torch.testing.assert_close(found, torch.tensor([0.8, 0.8]))


# --- drawing


def test_at_its_own_size_a_map_is_drawn_as_it_is():
    owner = torch.tensor([[0, NOBODY, 1], [0, 1, 1]])
    assert drawn(owner, torch.zeros(2, 3), (2, 3)).tolist() == [[1, 0, 2], [1, 2, 2]]


def test_twice_as_large_and_sure_each_pixel_is_four():
    torch.manual_seed(0)
    owner = torch.randint(-1, 3, (7, 9))
    sure = (owner >= 0).float()
    expected = (owner + 1).repeat_interleave(2, 0).repeat_interleave(2, 1).numpy()
    assert np.array_equal(drawn(owner, torch.ones(7, 9), (14, 18))[expected > 0], expected[expected > 0])
    whole = drawn(owner.clamp(min=0), torch.ones(7, 9), (14, 18))
    assert np.array_equal(whole, (owner.clamp(min=0) + 1).repeat_interleave(2, 0).repeat_interleave(2, 1).numpy())
    assert set(np.unique(drawn(owner, sure, (14, 18))[expected == 0])) == {0}


def test_the_edge_is_where_the_network_has_it():
    """Between .9 and .4 a half is passed at .8 of the way: of four points a pixel, five are in."""
    owner, sure = torch.tensor([[0, NOBODY]]), torch.tensor([[0.9, 0.4]])
    assert drawn(owner, sure, (1, 8)).tolist() == [[1, 1, 1, 1, 1, 0, 0, 0]]


def test_neighbours_leave_no_gap_however_unsure_they_are():
    owner, sure = torch.tensor([[0, 1]]), torch.tensor([[0.51, 0.52]])
    assert drawn(owner, sure, (3, 12)).tolist() == [[1] * 6 + [2] * 6] * 3


def test_smaller_pictures_are_read_at_the_centres_of_their_pixels():
    owner = torch.zeros(6, 6, dtype=torch.int64)
    owner[:, 3:] = 1
    assert drawn(owner, torch.ones(6, 6), (2, 2)).tolist() == [[1, 2], [1, 2]]


def test_instances_are_ranked_and_objects_without_pixels_left_out():
    owner = torch.tensor([[0, 0, NOBODY, 2]])
    scores = torch.tensor([0.3, 0.9, 0.6])
    sure, labels = torch.tensor([[1.0, 1, 0, 1]]), torch.tensor([4, 5, 6])
    found = instances(owner, labels, scores, sure=sure, original=(2, 8))
    assert found.labels.tolist() == [6, 4]
    torch.testing.assert_close(found.mask_scores, torch.tensor([0.6, 0.3]))
    assert found.quality.tolist() == [1, 1]
    assert found.boxes.tolist() == [[6, 0, 8, 2], [0, 0, 4, 2]]
    assert found.masks.size == (2, 8)
    assert instances(owner, labels, scores, sure=sure, original=(2, 8), min_score=0.5).labels.tolist() == [6]
    nothing = torch.full((3, 3), NOBODY)
    none = instances(nothing, nothing[0, :0], torch.zeros(0), sure=torch.zeros(3, 3), original=(5, 5))
    assert len(none) == 0
    assert none.masks.size == (5, 5)
